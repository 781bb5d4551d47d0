"""Whether a map lies on what it should show: the pointing game, and the energy inside a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TOLERANCE, SIDE = 15, 375
"""Pixels that TorchRay's pointing game forgives, of VOC's files, most of which have 375 on the shorter side."""


def usual_tolerance(size: tuple[int, int]) -> float:
    """Return the tolerance of the pointing game for images of a size: the same part of the shorter side, 9 of 224."""
    return TOLERANCE * min(size) / SIDE


@dataclass(frozen=True)
class Localisation:
    """How a map of one image meets a mask.

    Attributes:
        pointing: 1 if the map's highest place is on the mask or near it, else 0; of several equally high places the
            share that is.
        energy: the share of what is positive in the map that lies on the mask; NaN where nothing is positive.

    Both are NaN for a map with numbers that are not finite.
    """

    pointing: float
    energy: float


@dataclass(frozen=True)
class ObjectEvidence:
    """How the maps of one target of an image meet its object.

    Attributes:
        chance: how often a random place hits the object, and the object's share of the area.
        maps: (name of a method or of a map that knows nothing of the network, whether it is such a map, how it meets
            the object).
    """

    chance: tuple[float, float]
    maps: tuple[tuple[str, bool, Localisation], ...]


def localise(heat: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_], tolerance: float = TOLERANCE) -> Localisation:
    """Compare a map with where the thing is.

    Pointing game: Zhang et al. 2018 (Top-down neural attention by excitation backprop), as in TorchRay
    (torchray/benchmark/pointing_game.py): a hit where some pixel of the mask is nearer than the tolerance. Energy: Wang
    et al. 2020 (Score-CAM), section 4.3; on a map that is never negative the relevance mass accuracy of Arras et al.
    2022, as in Quantus.

    Args:
        heat: the map, [h, w], at the size of the image that the network sees.
        mask: where the thing is, [h, w].
        tolerance: in pixels; 0 asks for the mask itself.
    """
    if not np.isfinite(heat).all():
        return Localisation(math.nan, math.nan)
    highest = heat == heat.max()
    hits = near(mask, tolerance)
    positive = np.maximum(heat, 0).astype(np.float64)
    whole = float(positive.sum())
    return Localisation(
        float(hits[highest].mean()),
        float(positive[mask].sum()) / whole if whole > 0 else math.nan,
    )


def chance(mask: npt.NDArray[np.bool_], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Return how often a random place hits, and the energy of an even map: the shares of the area that count."""
    return float(near(mask, tolerance).mean()), float(mask.mean())


def near(mask: npt.NDArray[np.bool_], tolerance: float) -> npt.NDArray[np.bool_]:
    """Return where some pixel of a mask is nearer than so many pixels, or is this one."""
    height, width = mask.shape
    found = mask.copy()
    before = np.concatenate([np.zeros((height, 1), np.int64), mask.cumsum(axis=1)], axis=1)
    columns = np.arange(width)
    for rows in range(min(math.ceil(tolerance), height)):
        # The farthest column that is nearer than the tolerance, so many rows away.
        reach = math.ceil(math.sqrt(tolerance**2 - rows**2)) - 1
        left, right = np.maximum(columns - reach, 0), np.minimum(columns + reach + 1, width)
        any_in_row = before[:, right] > before[:, left]
        found[: height - rows] |= any_in_row[rows:]
        found[rows:] |= any_in_row[: height - rows]
    return found
