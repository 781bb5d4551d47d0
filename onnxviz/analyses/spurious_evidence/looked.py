"""What is known of images: where their evidence lies, and what they are taken for with parts of them replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from onnxviz.core.findings import Picture

FILLS = ("image", "blur", "noise")
"""With what a part is replaced: the same part of another image, what surrounds it smoothed, or noise."""
OBJECT, BACKGROUND = ("object", "background")
EDGE, CENTRE = ("edge by image", "centre by edge")
REPLACED = (
    *(f"{part} by {fill}" for part in (OBJECT, BACKGROUND) for fill in FILLS),
    f"as much as the {OBJECT}",
    f"as much as the {BACKGROUND}",
    EDGE,
    CENTRE,
)
"""Every way in which an image is changed."""

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Looked:
    """What was found in some images; numbers are classes or images of the data set.

    Attributes:
        images: [N].
        classes: [N], the class that each image stands for: its own, or else what it is taken for.
        known: [N], 1 where that is its own class.
        predicted: [N], what it is taken for.
        sure: [N], the probability of that; NaN where nothing makes any.
        coarse: [N, GRID, GRID], the evidence for the image's class, adding up to 1; zeros where there is none.
        object_evidence: [N], its share on the object; NaN without evidence or where the object is not known.
        object_area: [N], the object's share of the area; NaN where it is not known.
        evidence: [N, concepts], the share on each labelled concept; NaN without evidence or labels.
        area: [N, concepts], the concept's share of the area; NaN without labels.
        inside: [N, concepts], which part of the concept's area lies on the object; NaN where one of them is not there.
        donors: [N], the image that parts come from; -1 for none.
        replaced: [N, len(REPLACED)], what the image is taken for with a part replaced; -1 where it was not done.
    """

    images: Integers
    classes: Integers
    known: Integers
    predicted: Integers
    sure: Reals
    coarse: Reals
    object_evidence: Reals
    object_area: Reals
    evidence: Reals
    area: Reals
    inside: Reals
    donors: Integers
    replaced: Integers

    @classmethod
    def join(cls, parts: Sequence[Looked]) -> Looked:
        """Put together what was found in different images."""
        joined = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls))
        return cls(*joined)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def donor_classes(self) -> Integers:
        """[N], the classes of the images that parts come from; -1 for none, and where that image was not looked at."""
        of_image = dict(zip(self.images.tolist(), self.classes.tolist(), strict=True))
        return np.array([of_image.get(donor, -1) for donor in self.donors.tolist()], np.int64)

    def numbers(self) -> list[int]:
        """Return all classes that anything was taken for."""
        every = np.concatenate([self.classes, self.predicted, self.replaced.ravel()])
        return sorted(set(every.tolist()) - {-1})

    def after(self, change: str) -> Integers:
        """Return what the images are taken for after one of the changes, [N]; -1 where it was not done."""
        found: Integers = self.replaced[:, REPLACED.index(change)]
        return found


@dataclass(frozen=True, eq=False)
class Shown:
    """The pictures of one image.

    Attributes:
        image: the image.
        photograph: as the network sees it.
        overlay: with its evidence.
        changed: after a change, by its name.
    """

    image: int
    photograph: Picture
    overlay: Picture
    changed: tuple[tuple[str, Picture], ...]


@dataclass(frozen=True, eq=False)
class DrawnMap:
    """The mean map of a class.

    Attributes:
        number: the class.
        mean: the map, from 0 to `highest`.
        beyond: the map less the mean map of other classes, from -`bound` to `bound`.
        highest: the largest share of the evidence in a cell of any class.
        bound: the largest difference of any class.
    """

    number: int
    mean: Picture
    beyond: Picture
    highest: float
    bound: float
