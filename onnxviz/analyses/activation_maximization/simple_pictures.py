"""Plain colours and gratings: what a made picture has to excite its unit more than."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Color = tuple[float, ...]

_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_PERIODS = (2.0 * math.sqrt(2.0), 4.0, 5.6, 8.0, 16.0)
"""Pixels; from the finest that a sine can have in every direction."""
_ANGLES = 8
_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_OPPOSITE: tuple[tuple[Color, Color], ...] = (
    (_BLACK, _WHITE),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),
    ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0)),
    ((0.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
)
_NAMES: Mapping[Color, str] = {
    _BLACK: "black", _WHITE: "white", (0.5, 0.5, 0.5): "grey",
    (1.0, 0.0, 0.0): "red", (0.0, 1.0, 0.0): "green", (0.0, 0.0, 1.0): "blue",
    (1.0, 1.0, 0.0): "yellow", (1.0, 0.0, 1.0): "magenta", (0.0, 1.0, 1.0): "cyan",
}  # fmt: skip


@dataclass(frozen=True)
class SimplePicture:
    """A plain colour, or a sine between two colours.

    Attributes:
        color: RGB in 0..1, or a number for each channel as stored; of a grating's darkest or first line.
        other: of a grating's other line; None for a plain colour.
        angle: degrees by which a grating's lines are turned from upright, counterclockwise as it is seen.
        period: pixels from line to line.
        photographic: whether the channels are red, green and blue.
    """

    color: Color
    other: Color | None = None
    angle: float = 0.0
    period: float = 0.0
    photographic: bool = True

    @property
    def words(self) -> str:
        """What it is: "plain yellow", "black and white lines, 45° from upright, every 8 pixels"."""
        name = _name if self.photographic else _name_of_channels
        if self.other is None:
            return f"plain {name(self.color)}"
        turned = f"{self.angle:g}° from upright" if self.angle else "upright"
        return f"{name(self.color)} and {name(self.other)} lines, {turned}, every {self.period:.2g} pixels"

    def paint(self, size: tuple[int, int]) -> Values:
        """Return [channels, height, width] in 0..1; a grating's sine passes the picture's centre at its middle."""
        first = np.asarray(self.color, np.float32)[:, None, None]
        if self.other is None:
            return np.broadcast_to(first, (len(first), *size)).copy()
        down, right = (np.arange(length) - (length - 1) / 2 for length in size)
        along = math.cos(math.radians(self.angle)) * right[None] - math.sin(math.radians(self.angle)) * down[:, None]
        share = ((1 + np.sin(2 * np.pi * along / self.period)) / 2).astype(np.float32)
        return np.asarray(first * (1 - share) + np.asarray(self.other, np.float32)[:, None, None] * share, np.float32)


def _name(color: Color) -> str:
    return _NAMES.get(color) or "#" + "".join(f"{round(255 * level):02x}" for level in color)


def _name_of_channels(color: Color) -> str:
    """Name what all channels are, or the one that differs from all others."""
    for channel, level in enumerate(color):
        others = set(color[:channel] + color[channel + 1 :])
        if len(others) == 1 and level not in others and len(color) > 2:
            return f"channel {channel} at {level:g} and the others at {others.pop():g}"
    return "all channels at " + "/".join(f"{level:g}" for level in dict.fromkeys(color))


@cache
def simple_pictures(channels: int, photographic: bool = True) -> tuple[SimplePicture, ...]:
    """Return the pictures that are tried, of colours (3), brightness (1), or any number of channels as stored."""
    colors: list[Color] = [(v,) * (3 if photographic else channels) for v in _LEVELS]
    if photographic and channels == 3:
        colors = list(itertools.product(_LEVELS, _LEVELS, _LEVELS))
    elif channels > 1:
        own = [tuple(float(channel == which) for channel in range(channels)) for which in range(channels)]
        colors += [*own, *(tuple(1.0 - level for level in color) for color in own)]
    pairs = _OPPOSITE if photographic and channels == 3 else ((colors[0], colors[len(_LEVELS) - 1]),)
    turned = [180.0 * step / _ANGLES for step in range(_ANGLES)]
    gratings = itertools.product(turned, _PERIODS, pairs)
    return (
        *(SimplePicture(color, photographic=photographic) for color in colors),
        *(SimplePicture(first, other, angle, period, photographic) for angle, period, (first, other) in gratings),
    )
