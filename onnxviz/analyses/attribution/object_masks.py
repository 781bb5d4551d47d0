"""How the maps of a batch meet the labelled objects of what they explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.faithfulness import enlarged
from onnxviz.analyses.attribution.localisation import ObjectEvidence, chance, localise
from onnxviz.analyses.attribution.simple_maps import SIMPLE
from onnxviz.core.values import Preprocessing

if TYPE_CHECKING:
    from onnxviz.analyses.attribution.objects import Objects

Maps = Mapping[str, npt.NDArray[np.floating]]
"""By the name of a method its maps [N, h, w], at their own resolution."""


@dataclass(frozen=True)
class ObjectMasks:
    """The objects of classes in an analysis' images, as the network sees them.

    Attributes:
        objects: labels of pixels, and which of them is the object of a class.
        title: the name of a class by its number.
        preprocessing: how the images are brought to size.
        size: height and width of what the network sees.
        tolerance: pixels of that by which a map's highest place may miss an object.
    """

    objects: Objects
    title: Callable[[int], str]
    preprocessing: Preprocessing
    size: tuple[int, int]
    tolerance: float

    def meet(self, images: Sequence[int], numbers: Sequence[Sequence[int]], maps: Sequence[Maps], simple: Maps
             ) -> list[list[ObjectEvidence | None]]:  # fmt: skip
        """Compare the maps of every target with its object.

        Args:
            images: which images of the data set they are.
            numbers: for each turn the class that is explained of each image.
            maps: for each turn the maps.
            simple: maps that know nothing of the network.

        Returns:
            For each turn and image how its maps meet the object of the class; None where it has none.
        """
        found: list[list[ObjectEvidence | None]] = [[] for _ in numbers]
        for place, image in enumerate(images):
            labels = self.objects.read(image, self.preprocessing, self.size)
            for turn, classes in enumerate(numbers):
                mask = None if labels is None else self.objects.mask(labels, self.title(classes[place]))
                every = {**maps[turn], **simple}
                found[turn].append(
                    None
                    if mask is None or not mask.any()
                    else ObjectEvidence(
                        chance(mask, self.tolerance),
                        tuple((name, name in SIMPLE, localise(enlarged(heats[place], self.size), mask, self.tolerance))
                              for name, heats in every.items()),
                    )
                )  # fmt: skip
        return found
