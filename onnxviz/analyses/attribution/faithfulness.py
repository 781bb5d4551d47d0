"""Deletion and insertion: what happens to the score when pixels go, or come, in the order of a map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.target_probability import probability_of

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

Baseline = Literal["zero", "blur"]
Scale = Literal["probability", "score"]

_BLUR = 20
"""The standard deviation of the blur is the image's longer side divided by this: 11 pixels of 224."""
_LEAST_GAIN = 0.25
"""By which part of the larger of the two an image has to score more than its baseline, for its curve to count."""
_REACH = 3
"""Standard deviations after which the blur's kernel ends."""
_ROUNDING = 1e-6
"""By what part of their largest value maps may differ that are taken for the same."""
_TOGETHER = 16
"""Changed images that are made at a time, whatever the number of steps, so that memory stays flat."""


@dataclass(frozen=True)
class Curves:
    """How the score of an image goes, from the first step to the last, with steps of the same share of pixels.

    Attributes:
        deletion: from the whole image to the baseline, the highest places of the map replaced first; empty where it
            means nothing: see `curves`.
        insertion: from the baseline to the whole image, the highest places restored first; empty likewise.
        scale: "probability", or "score" where nothing makes any: then 1 is the score of the whole image and 0 that of
            the baseline.
    """

    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    scale: Scale

    @property
    def margin(self) -> float:
        """The area under the insertion curve minus that under the deletion curve; NaN where one of them is empty."""
        return area(self.insertion) - area(self.deletion)


def area(curve: Sequence[float]) -> float:
    """Return the area under a curve over the share of pixels, 0 to 1, by the trapezoid rule; NaN of none."""
    if len(curve) < 2:
        return math.nan
    return (math.fsum(curve) - (curve[0] + curve[-1]) / 2) / (len(curve) - 1)


def curves(
    question: Question,
    maps: Mapping[str, npt.NDArray[np.floating]],
    *,
    steps: int,
    deleted: Baseline = "zero",
    inserted: Baseline = "blur",
) -> list[dict[str, Curves]]:
    """Delete and insert the pixels of each image in the order of each map.

    Petsiuk, Das and Saenko 2018 (RISE), section 3.3: by the probability of the target's class, with areas by the
    trapezoid rule. Where nothing makes a probability of the score, it is counted from that of the baseline (0) to that
    of the whole image (1), and a curve is empty where the image scores hardly more than the baseline: divided by next
    to nothing, it would outweigh all others.

    Args:
        question: images and targets.
        maps: by name [N, h, w], each at its own resolution; the highest values come first, negative ones last, what is
            not finite at the very end. Places of the same value come in a random order, the same for all maps.
        steps: into how many equal shares the pixels are cut.
        deleted: what deleted pixels become: `zero`, the image that the network sees as zeros, or the image's own blur.
        inserted: what pixels are inserted into.

    Returns:
        For each image the curves by the map's name, of steps + 1 points.
    """
    measured = question.again(targets=[probability_of(target) or target for target in question.targets])
    found: list[dict[str, Curves]] = []
    for place, target in enumerate(question.targets):
        scale: Scale = "probability" if probability_of(target) else "score"
        walk, lines = _Walk(measured, place, steps, scale), dict[str, Curves]()
        for name, values in maps.items():
            # Grad-CAM and HiResCAM are one map at the last layer of networks that end with a mean of positions.
            same = next((other for other in lines if _same(maps[other][place], values[place])), "")
            lines[name] = lines[same] if same else walk.curves(values[place], deleted, inserted)
        found.append(lines)
    return found


def _same(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> bool:
    """Whether two maps are the same but for their scale and rounding, so that pixels go in the same order."""
    if one.shape != other.shape:
        return False
    with np.errstate(invalid="ignore"):  # of what is not finite
        first, second = (each / (np.abs(each).max() or 1) for each in (one, other))
        return bool(np.abs(first - second).max() < _ROUNDING)


def baseline_image(question: Question, place: int, kind: Baseline) -> torch.Tensor:
    """Return what pixels of an image are replaced by, [channels, h, w]."""
    image = question.images[place]
    return question.zero[0].expand_as(image) if kind == "zero" else blurred(image)


def blurred(image: torch.Tensor) -> torch.Tensor:
    """Return an image [channels, h, w] blurred by a Gaussian with a twentieth of its longer side, borders continued."""
    import torch
    from torch.nn import functional

    deviation = max(image.shape[1:]) / _BLUR
    reach = math.ceil(_REACH * deviation)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-((offsets / deviation) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(image)
    padded = functional.pad(image[:, None], (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel.reshape(1, 1, -1, 1))
    return functional.conv2d(rows, kernel.reshape(1, 1, 1, -1))[:, 0]


def enlarged(heat: npt.NDArray[np.floating], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return a map [h, w] at an image's size: bilinear, with half-pixel centres, averaged where it has to shrink."""
    import torch
    from torch.nn import functional

    values = torch.from_numpy(np.ascontiguousarray(heat, np.float64))
    if tuple(values.shape) == tuple(size):
        return values.numpy()
    shrinks = values.shape[0] > size[0] or values.shape[1] > size[1]
    made = functional.interpolate(
        values[None, None], size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )
    return made[0, 0].numpy()


def pixel_order(
    heat: npt.NDArray[np.floating], size: tuple[int, int], generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the pixels' numbers, row by row, the highest of the map first; ties in random order.

    Args:
        heat: the map, [h, w], at any resolution.
        size: the image's.
        generator: draws one number for each pixel.
    """
    values = enlarged(heat, size).ravel()
    values = np.where(np.isfinite(values), values, -np.inf)
    return np.lexsort((generator.random(values.size), -values))


class _Walk:
    """The way from an image to its baseline and back; scores of both ends are measured once for all maps."""

    def __init__(self, question: Question, place: int, steps: int, scale: Scale) -> None:
        self.question, self.place, self.steps, self.scale = question, place, steps, scale
        self.image = question.images[place]
        self.size = (int(self.image.shape[1]), int(self.image.shape[2]))
        self.whole = self._measure(self.image[None])[0]
        self.baselines: dict[Baseline, tuple[torch.Tensor, float]] = {}

    def _measure(self, images: torch.Tensor) -> list[float]:
        return [float(value) for value in self.question.measure(images, [self.place] * len(images))]

    def curves(self, heat: npt.NDArray[np.floating], deleted: Baseline, inserted: Baseline) -> Curves:
        """Return both curves of a map."""
        generator = self.question.generator(self.place, "ties")
        rank = np.empty(self.size[0] * self.size[1], np.int64)
        rank[pixel_order(heat, self.size, generator)] = np.arange(rank.size)
        deletion = self._curve(rank, deleted)
        # Insertion is deletion the other way round: after so many steps as many pixels are restored.
        insertion = self._curve(rank.size - 1 - rank, inserted)[::-1]
        return Curves(deletion, insertion, self.scale)

    def _curve(self, rank: npt.NDArray[np.int64], kind: Baseline) -> tuple[float, ...]:
        """Return the scores while the pixels of lowest rank are replaced."""
        if kind not in self.baselines:
            image = baseline_image(self.question, self.place, kind)
            self.baselines[kind] = image, self._measure(image[None])[0]
        baseline, end = self.baselines[kind]
        scores = [self.whole, *self._between(rank, baseline), end]
        if self.scale == "probability":
            return tuple(scores)
        if not self.whole - end >= _LEAST_GAIN * max(abs(self.whole), abs(end)):
            return ()
        return tuple((score - end) / (self.whole - end) for score in scores)

    def _between(self, rank: npt.NDArray[np.int64], baseline: torch.Tensor) -> list[float]:
        import torch

        places = torch.from_numpy(rank).to(self.image.device).reshape(self.size)
        counts = [round(step * rank.size / self.steps) for step in range(1, self.steps)]
        found: list[float] = []
        for start in range(0, len(counts), _TOGETHER):
            gone = torch.tensor(counts[start : start + _TOGETHER], device=places.device)[:, None, None] > places
            found += self._measure(torch.where(gone[:, None], baseline, self.image))
        return found
