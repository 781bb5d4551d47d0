"""Intervals of input pixels along one axis, and how windows, resizing and joining change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

NOWHERE = 1 << 40
"""First pixel of an interval that holds none, and its last pixel negated."""
_LONGEST = 1 << 16
"""Axes beyond this length are not followed."""


class Unknown(Exception):  # noqa: N818 - not an error of the program
    """A shape or parameter that the receptive field depends on is not known."""


@dataclass(frozen=True, eq=False)
class Reach:
    """For each index along one axis of a tensor, the interval of input rows (or columns) that it depends on.

    Attributes:
        ends: [4, indices], int64: first pixel and last pixel, nominal, as if the image went on beyond its border; first
            and last pixel that really enters. Last pixels, inclusive, are negated, so that the smaller end is always
            the one further out.
        stride: distance in pixels between neighbouring indices.
        axis: the tensor's axis; None if the tensor has none, and there is one interval.
    """

    ends: np.ndarray
    stride: Fraction
    axis: int | None

    def __len__(self) -> int:
        return int(self.ends.shape[1])

    @staticmethod
    def of_input(length: int, axis: int) -> Reach:
        """Each pixel sees itself."""
        if length > _LONGEST:
            raise Unknown
        pixels = np.arange(length)
        return Reach(np.stack([pixels, -pixels, pixels, -pixels]), Fraction(1), axis)

    @staticmethod
    def nothing(length: int, axis: int) -> Reach:
        """A constant sees no pixel."""
        return Reach(np.full((4, length), NOWHERE), Fraction(0), axis)

    def moved(self, axis: int | None) -> Reach:
        """The same along another axis of the tensor."""
        return replace(self, axis=axis)

    def collapsed(self, axis: int | None) -> Reach:
        """All intervals as one, where an axis is summed over."""
        return Reach(self.ends.min(axis=1, keepdims=True), Fraction(0), axis)

    def spread(self) -> Reach:
        """Every index sees what any index sees."""
        return Reach(self.collapsed(None).ends.repeat(len(self), axis=1), Fraction(0), self.axis)

    def taken(self, indices: np.ndarray, axis: int | None, seen: np.ndarray | None = None) -> Reach:
        """New index i sees what old index `indices[i]` sees; outside the tensor, nominally only.

        Where other indices are really read, as by reflecting pads, `seen` has these.
        """
        step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        return Reach(self.at(indices, seen), self.stride * abs(step), axis)

    def at(self, indices: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
        """Return the ends for old indices, that may lie outside of the tensor, and for those really read.

        Nominal intervals go on beyond the tensor in steps of the stride. A stride of p / q pixels repeats after q
        indices, p pixels further.
        """
        read = indices if seen is None else seen
        last = len(self) - 1
        real = np.where((read >= 0) & (read <= last), self.ends[2:, np.clip(read, 0, last)], NOWHERE)
        period, shift = self.stride.denominator, self.stride.numerator
        if period > len(self):  # too short to show a whole period
            folded = np.clip(indices, 0, last)
            further = np.floor((indices - folded) * float(self.stride)).astype(np.int64)
        else:
            below = np.where(indices < 0, -(indices // period), 0)
            above = np.where(indices > last, (indices - len(self)) // period + 1, 0)
            folded = indices + period * (below - above)
            further = shift * (above - below)
        return np.concatenate([self.ends[:2, folded] + np.stack([further, -further]), real])


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis: tap t of output i reads input i * stride - pad + t * dilation."""

    kernel: int
    stride: int
    dilation: int
    pad: int

    def same(self, before: int, after: int, *, lower: bool) -> Window:
        """Return the window with the padding of auto_pad SAME_UPPER or SAME_LOWER."""
        total = max((after - 1) * self.stride + (self.kernel - 1) * self.dilation + 1 - before, 0)
        return replace(self, pad=total - total // 2 if lower else total // 2)


def slid(reach: Reach, window: Window, length: int) -> Reach:
    """Return what the outputs of a convolution or pooling see."""
    _check(window, length)
    starts = np.arange(length) * window.stride - window.pad
    ends = np.full((4, length), NOWHERE)
    for tap in range(window.kernel):
        ends = np.minimum(ends, reach.at(starts + tap * window.dilation))
    return Reach(ends, reach.stride * window.stride, reach.axis)


def transposed(reach: Reach, window: Window, length: int, pad: int) -> Reach:
    """Return what a transposed convolution sees: tap t of input i writes output i * stride - pad + t * dilation."""
    _check(window, length)
    ends = np.full((4, length), NOWHERE)
    for tap in range(window.kernel):
        numerator = np.arange(length) + pad - tap * window.dilation
        written = reach.at(numerator // window.stride)
        ends = np.where(numerator % window.stride == 0, np.minimum(ends, written), ends)
    return Reach(ends, reach.stride / window.stride, reach.axis)


def _check(window: Window, length: int) -> None:
    if window.kernel < 1 or window.stride < 1 or window.dilation < 1 or not 0 < length <= _LONGEST:
        raise Unknown
    if window.kernel > 4096:
        raise Unknown


def resized(
    reach: Reach, length: int, scale: float, *, mode: str, coordinates: str, rounding: str, antialias: bool = False
) -> Reach:
    """Return what the outputs of a Resize see; the formulas are those of the ONNX standard's Resize."""
    if not 0 < length <= _LONGEST or not scale > 0:
        raise Unknown
    before = len(reach)
    # In float32, as ONNX Runtime does it: 3 / 0.6 is 5 there, and 4.99 in double precision.
    position = _positions(np.arange(length, dtype=np.float32), before, length, np.float32(scale), coordinates)
    if mode == "nearest":
        taps = [_rounded(position, rounding)]
    elif mode in ("linear", "cubic") and antialias and scale < 1:
        taps = _smoothed(position, (1 if mode == "linear" else 2) / scale)
    elif mode in ("linear", "cubic"):
        floor = np.floor(position).astype(np.int64)
        between = position != floor
        offsets = (0, 1) if mode == "linear" else (-1, 0, 1, 2)
        taps = [np.where(between, floor + offset, floor) for offset in offsets]
    else:
        raise Unknown
    ends = np.minimum.reduce([reach.at(tap, np.clip(tap, 0, before - 1)) for tap in taps])
    return Reach(ends, reach.stride / Fraction(scale).limit_denominator(1 << 12), reach.axis)


def _smoothed(position: np.ndarray, radius: float) -> list[np.ndarray]:
    """Return the taps of a filter that is as much wider as its result is smaller: all nearer than a radius.

    At the radius itself the filter is zero; float32 does not tell a little less from that.
    """
    if radius > _LONGEST:
        raise Unknown
    middle = np.floor(position + 0.5).astype(np.int64)
    reach = math.ceil(radius) + 1
    taps = [middle + offset for offset in range(-reach, reach + 1)]
    return [np.where(np.abs(tap - position) < radius * (1 - 1e-5), tap, middle) for tap in taps]


def nearest(before: int, after: int, scale: np.float32, coordinates: str, rounding: str) -> np.ndarray:
    """Return which of `before` indices each of `after` outputs of a Resize to the nearest reads.

    Raises:
        Unknown: for a mode that the standard does not have, or that depends on more than the scale.
    """
    position = _positions(np.arange(after, dtype=np.float32), before, after, scale, coordinates)
    return np.asarray(np.clip(_rounded(position, rounding), 0, before - 1))


def _rounded(position: np.ndarray, rounding: str) -> np.ndarray:
    rounded = {
        "round_prefer_floor": np.ceil(position - 0.5),
        "round_prefer_ceil": np.floor(position + 0.5),
        "floor": np.floor(position),
        "ceil": np.ceil(position),
    }
    if rounding not in rounded:
        raise Unknown
    return np.asarray(rounded[rounding], np.int64)


def _positions(outputs: np.ndarray, before: int, after: int, scale: np.float32, coordinates: str) -> np.ndarray:
    if coordinates == "asymmetric":
        return outputs / scale
    if coordinates == "align_corners":
        return outputs * (before - 1) / (after - 1) if after > 1 else np.zeros_like(outputs)
    if coordinates == "pytorch_half_pixel" and after <= 1:
        return np.zeros_like(outputs)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (outputs + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        adjustment = np.float32(after) / (scale * np.float32(before))
        return before / 2 * (1 - adjustment) + (outputs + 0.5) / scale - 0.5
    if coordinates == "tf_half_pixel_for_nn":
        return (outputs + 0.5) / scale
    raise Unknown


def united(reaches: Sequence[Reach]) -> Reach:
    """Join several paths: each index sees what it sees along any of them.

    A path without the axis (a value computed from the whole map) is seen by every index.
    """
    axes = {reach.axis for reach in reaches if reach.axis is not None}
    if len(axes) > 1:
        return united([reach.collapsed(None) for reach in reaches])
    length = max(map(len, reaches))
    if any(len(reach) not in (1, length) for reach in reaches):
        raise Unknown
    ends = np.minimum.reduce([np.broadcast_to(reach.ends, (4, length)) for reach in reaches])
    return Reach(ends, max(reach.stride for reach in reaches), axes.pop() if axes else None)


def chained(parts: Sequence[Reach]) -> Reach:
    """Put tensors one behind the other along this axis."""
    if sum(map(len, parts)) > _LONGEST:
        raise Unknown
    ends = np.concatenate([part.ends for part in parts], axis=1)
    return Reach(ends, max(part.stride for part in parts), parts[0].axis)
