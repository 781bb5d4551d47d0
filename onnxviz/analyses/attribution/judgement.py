"""Judging the maps of some images: everything that says whether they are to be believed, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.analyses.attribution.faithfulness import Baseline, Curves, curves
from onnxviz.analyses.attribution.randomisation import ShuffledWeights, Similarity, Stage, similarities
from onnxviz.analyses.attribution.simple_maps import SIMPLE, simple_maps
from onnxviz.analyses.attribution.stability import Stability, stability

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

Make = Callable[["Question"], Mapping[str, "torch.Tensor"]]


class Faithfulness(BaseModel):
    """Whether maps are to be believed: what is measured of how many images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(
        10,
        ge=1,
        description="Most images whose maps are judged, spread evenly over those analysed. Of n images a method can be "
        "better than chance among 2^n / 40: 10 do for 25 methods.",
    )
    curves: bool = Field(
        True,
        description="Whether pixels are deleted and inserted in the order of each map, beside maps that know nothing "
        "of the network: random ones, the centre, an edge filter.",
    )
    steps: int = Field(20, ge=2, le=1000, description="Into how many equal shares the pixels are cut for that.")
    deleted: Baseline = Field(
        "zero",
        description="What deleted pixels become: `zero`, the image that the network sees as zeros (of photographs "
        "mostly the mean colour), or `blur`, the image blurred.",
    )
    inserted: Baseline = Field("blur", description="What pixels are inserted into: `blur` or `zero`.")
    randomisation: bool = Field(
        True, description="Whether maps are made again with the weights shuffled, layer after layer from the output."
    )
    stages: int = Field(4, ge=1, le=1000, description="In how many stages, from the last layer alone to all layers.")
    stability: bool = Field(True, description="Whether maps are made again of images with a little noise.")
    noise: float = Field(
        0.02, gt=0, le=1, description="The most that the noise moves a channel of a pixel, where 1 is from black to "
        "white; images for which the model then says something else do not count."
    )  # fmt: skip
    samples: int = Field(4, ge=1, le=1000, description="How many noisy images are made of each.")

    def cost(self, methods: Mapping[str, float], simple: int = len(SIMPLE)) -> float:
        """Estimate what one target of one image takes, in forward passes.

        Args:
            methods: by name what a map takes beside the pass that all methods share: `Method.cost`.
            simple: how many maps that know nothing of the network are judged too.
        """
        again = 3.0 + sum(methods.values())  # a pass forward and backward that they share
        found = 3.0 + 2 * (self.steps - 1) * (len(methods) + simple) if self.curves else 0.0
        found += self.stages * again if self.randomisation else 0.0
        return found + (self.samples * (again + 1) + 1 if self.stability else 0.0)


@dataclass(frozen=True)
class MapJudgement:
    """What is known of one method's map of one image; None where it was not asked for, or cannot be.

    Attributes:
        method: the name of the method, or of a map that knows nothing of the network.
        simple: whether it is such a map.
        blank: whether the map is the same everywhere.
        curves: deletion and insertion.
        randomised: at each stage how alike the map is to that with other weights.
        stable: how it changes under noise.
        facts: what the method itself says of the map, such as its completeness error.
    """

    method: str
    simple: bool
    blank: bool
    curves: Curves | None
    randomised: tuple[Similarity, ...]
    stable: Stability | None
    facts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ImageJudgement:
    """What is known of the maps of one image for one target.

    Attributes:
        target: its title.
        maps: of each method, and of the maps that know nothing of the network.
        stages: how far the randomisation went.
    """

    target: str
    maps: tuple[MapJudgement, ...]
    stages: tuple[Stage, ...]


RESULTS = (ImageJudgement, MapJudgement, Curves, Similarity, Stability, Stage)
"""The dataclasses that a judgement consists of, for `Analysis.results`."""


def judge(
    question: Question,
    maps: Mapping[str, torch.Tensor],
    settings: Faithfulness,
    *,
    make: Make | None = None,
    shuffled: ShuffledWeights | None = None,
    facts: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> tuple[ImageJudgement, ...]:
    """Judge the maps that methods made of some images; each image as it would be in any other batch.

    Args:
        question: the images, with a target each.
        maps: by a method's name its maps [N, h, w], at their own resolution.
        settings: what is measured.
        make: makes maps of the same names for another question, of other images or another network; without it there
            is neither randomisation nor stability.
        shuffled: the network with other weights, kept from batch to batch; made here if None.
        facts: by a method's name its `Attribution.facts`.

    Returns:
        For each image what is known of its maps, and of the maps that know nothing of the network.
    """
    own = _arrays(maps)
    simple = simple_maps(question)
    every = {**own, **simple}
    count = len(question.targets)

    def again(other: Question) -> Mapping[str, npt.NDArray[np.float64]]:
        assert make is not None
        return _arrays(make(other))

    lines: list[dict[str, Curves]] = [{}] * count
    alike: list[dict[str, tuple[Similarity, ...]]] = [{}] * count
    steady: list[dict[str, Stability]] = [{}] * count
    stages: tuple[Stage, ...] = ()
    if settings.curves:
        lines = curves(question, every, steps=settings.steps, deleted=settings.deleted, inserted=settings.inserted)
    if settings.randomisation and make is not None:
        layers, seed = question.targets[0].layers, question.seed
        shuffled = shuffled or ShuffledWeights(question.model, layers, settings.stages, seed)
        alike, stages = similarities(question, own, again, shuffled), shuffled.stages
    if settings.stability and make is not None:
        steady = stability(question, own, again, noise=settings.noise, samples=settings.samples)

    def judged(name: str, place: int) -> MapJudgement:
        return MapJudgement(
            name,
            name in simple,
            not np.ptp(every[name][place]) > 0,
            lines[place].get(name),
            alike[place].get(name, ()),
            steady[place].get(name),
            tuple((fact, float(values[place])) for fact, values in (facts or {}).get(name, {}).items()),
        )

    return tuple(
        ImageJudgement(
            target.title,
            tuple(judged(name, place) for name in every),
            stages,
        )
        for place, target in enumerate(question.targets)
    )


def _arrays(maps: Mapping[str, torch.Tensor]) -> dict[str, npt.NDArray[np.float64]]:
    return {name: values.detach().cpu().numpy().astype(np.float64) for name, values in maps.items()}


def margin(judged: MapJudgement) -> float:
    """Return the area of insertion less that of deletion; NaN where that is unknown."""
    return math.nan if judged.curves is None else judged.curves.margin
