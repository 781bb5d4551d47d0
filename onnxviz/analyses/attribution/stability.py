"""Whether a map stays what it is when the image changes too little to matter to the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.map_similarity import rank_correlation, relative_change
from onnxviz.analyses.attribution.randomisation import MakeMaps, Maps
from onnxviz.analyses.attribution.target_probability import choice_of

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question
    from onnxviz.analyses.attribution.target_probability import Choice


@dataclass(frozen=True)
class Stability:
    """How a map changes under noise.

    Attributes:
        sensitivity: the largest relative change over the samples that count; NaN where there is none.
        rank: the mean rank correlation with the map without noise.
        samples: how many noisy images count: those for which the model says the same.
    """

    sensitivity: float
    rank: float
    samples: int


def stability(
    question: Question, maps: Maps, make: MakeMaps, *, noise: float, samples: int
) -> list[dict[str, Stability]]:
    """Make the maps again of images with noise that changes no prediction.

    Max-Sensitivity (Yeh et al. 2019, definition 3; sampled, as in Quantus, with the change relative to the map), and
    the mean rank correlation of absolute values. Where the target is no class or label of the whole image, nothing says
    what is predicted, and all samples count.

    Args:
        question: images and targets.
        maps: of the images without noise.
        make: makes maps of these names for a question of other images.
        noise: each channel of each pixel is moved by as much at most, evenly distributed, and stays within 0..1.
        samples: noisy images for each image.

    Returns:
        For each image, by name, how stable its map is.
    """
    choices = [choice_of(target) for target in question.targets]
    before = _chosen(question, choices, question.images)
    drawn = [question.generator(place, "stability") for place in range(len(choices))]
    changes: list[dict[str, list[tuple[float, float]]]] = [{name: [] for name in maps} for _ in choices]
    for _ in range(samples):
        noisy = _with_noise(question.images, noise, drawn)
        said = _chosen(question, choices, noisy)
        again = make(question.again(images=noisy))
        for name, old in maps.items():
            for place, rows in enumerate(changes):
                if said[place] == before[place]:
                    new = again[name][place]
                    rows[name].append((relative_change(old[place], new), rank_correlation(old[place], new)))
    return [{name: _summary(values) for name, values in rows.items()} for rows in changes]


def _with_noise(images: torch.Tensor, noise: float, drawn: list[np.random.Generator]) -> torch.Tensor:
    import torch

    shape = tuple(images.shape[1:])
    added = np.stack([generator.uniform(-noise, noise, shape) for generator in drawn]).astype(np.float32)
    return (images + torch.from_numpy(added).to(images.device)).clamp(0, 1)


def _chosen(question: Question, choices: list[Choice | None], images: torch.Tensor) -> list[float]:
    """Return what the model says of each image; 0 where that is not known."""
    said = [0.0] * len(choices)
    places = [place for place, choice in enumerate(choices) if choice is not None]
    if places:
        targets = [choice or target for choice, target in zip(choices, question.targets, strict=True)]
        found = question.again(targets=targets).measure(images[places], places)
        for place, value in zip(places, found.tolist(), strict=True):
            said[place] = value
    return said


def _summary(values: list[tuple[float, float]]) -> Stability:
    changes: npt.NDArray[np.float64] = np.array([change for change, _ in values if not math.isnan(change)])
    ranks = np.array([rank for _, rank in values if not math.isnan(rank)])
    return Stability(
        float(changes.max()) if changes.size else math.nan,
        float(ranks.mean()) if ranks.size else math.nan,
        len(values),
    )
