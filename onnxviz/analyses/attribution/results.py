"""What attribution finds: for each image, class and method the maps, where they lie, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.evidence_places import Places
from onnxviz.analyses.attribution.judgement import ImageJudgement
from onnxviz.analyses.attribution.localisation import ObjectEvidence
from onnxviz.core.findings import Array, Picture


@dataclass(frozen=True, eq=False)
class MethodEvidence:
    """What one method found for one target in one image.

    Attributes:
        method: what it is called here.
        columns: headings of the layers of its maps; one that is empty where they are of the pixels.
        cells: for each of these the map in colours, and over the image; empty where the image is not shown.
        blank: for each whether it holds no evidence for the target.
        places: where the last of them lies; None if it is blank.
        facts: numbers of the method's own on how good the maps are.
    """

    method: str
    columns: tuple[str, ...]
    cells: tuple[tuple[Picture, Picture], ...]
    blank: tuple[bool, ...]
    places: Places | None
    facts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class TargetEvidence:
    """What was found for one target in one image.

    Attributes:
        number: the class or unit that the target is about.
        title: what the target is called.
        score: of a class the logit, of a difference the difference.
        probability: the class's; None if nothing makes any.
        predicted: of a map of classes the share of the positions where this one is the highest; else None.
        against: whether the score is a difference to another class's.
        reached: whether the score has a gradient, where one is asked for; else true.
        methods: what each method found, in the order asked for.
        located: how the maps meet the object of the class; None where nothing says where that is.
        outlined: the image with an outline of what the target is about; None where the image is not shown, or the
            target is about no part of it that is known.
        outline: what is outlined, in words.
    """

    number: int
    title: str
    score: float
    probability: float | None
    predicted: float | None
    against: bool
    reached: bool
    methods: tuple[MethodEvidence, ...]
    located: ObjectEvidence | None = None
    outlined: Picture | None = None
    outline: str = ""


@dataclass(frozen=True, eq=False)
class ImageAttribution:
    """What was found in one image.

    Attributes:
        index: the image's in its data set.
        own: the class that it is known to show, or None.
        best: index of the highest score.
        sure: the probability of that one; None if nothing makes any.
        placed: positions that the first layer of the scores has.
        photograph: the image as the network sees it; None where it is not shown, but counted.
        targets: what is explained, that which the model believes in most first.
        said: for each method that has something to say of how its maps were made: (its name, the sentence).
        kept: which of the layers asked for have a map of several positions at this size of the image.
        maps: the maps at their own resolution; None where the image is not shown.
        judgement: how far the maps of the first target are to be believed; None where that was not measured.
        tried: whether it belongs to a trial of methods, and is not shown.
        refused: methods that have no answer for this network: (its name, why).
        coarse: of each target and method the last map in few cells, [targets, methods, GRID, GRID]; None once it is
            summed up over the images of a job (`ClassMaps`).
    """

    index: int
    own: int | None
    best: int
    sure: float | None
    placed: int
    photograph: Picture | None
    targets: tuple[TargetEvidence, ...]
    said: tuple[tuple[str, str], ...]
    kept: tuple[int, ...]
    maps: Array | None
    judgement: ImageJudgement | None = None
    tried: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    coarse: npt.NDArray[np.float64] | None = None
