"""Intervals of input pixels along one axis, and how windows, resizing and joining change them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

NOWHERE = 1 << 40
"""Low end of an interval that holds no pixel; its high end is -NOWHERE."""
_LONGEST = 1 << 16
"""Axes beyond this length are not followed."""


class Unknown(Exception):  # noqa: N818 - not an error of the program
    """A shape or parameter that the receptive field depends on is not known."""


@dataclass(frozen=True, eq=False)
class Reach:
    """For each index along one axis of a tensor, the interval of input rows (or columns) that it depends on.

    Attributes:
        low: first pixel, int64, nominal: as if the image went on beyond its border.
        high: last pixel, inclusive, nominal.
        seen_low: first pixel that really enters.
        seen_high: last pixel that really enters.
        stride: distance in pixels between neighbouring indices.
        axis: the tensor's axis; None if the tensor has none, and the arrays hold one entry.
    """

    low: np.ndarray
    high: np.ndarray
    seen_low: np.ndarray
    seen_high: np.ndarray
    stride: Fraction
    axis: int | None

    @staticmethod
    def of_input(length: int, axis: int) -> Reach:
        """Each pixel sees itself."""
        if length > _LONGEST:
            raise Unknown
        pixels = np.arange(length)
        return Reach(pixels, pixels, pixels, pixels, Fraction(1), axis)

    @staticmethod
    def nothing(length: int, axis: int) -> Reach:
        """A constant sees no pixel."""
        low, high = np.full(length, NOWHERE), np.full(length, -NOWHERE)
        return Reach(low, high, low, high, Fraction(0), axis)

    def moved(self, axis: int | None) -> Reach:
        """The same along another axis of the tensor."""
        return replace(self, axis=axis)

    def with_stride(self, stride: Fraction) -> Reach:
        """The same with another distance between neighbours."""
        return replace(self, stride=stride)

    def collapsed(self, axis: int | None) -> Reach:
        """All intervals as one, where an axis is summed over."""
        ends = (self.low.min(), self.high.max(), self.seen_low.min(), self.seen_high.max())
        low, high, seen_low, seen_high = (np.asarray([end]) for end in ends)
        return Reach(low, high, seen_low, seen_high, Fraction(0), axis)

    def spread(self) -> Reach:
        """Every index sees what any index sees."""
        zeros = np.zeros(len(self.low), np.int64)
        one = self.collapsed(self.axis)
        return Reach(one.low[zeros], one.high[zeros], one.seen_low[zeros], one.seen_high[zeros], Fraction(0), self.axis)

    def taken(self, indices: np.ndarray, axis: int | None, seen: np.ndarray | None = None) -> Reach:
        """New index i sees what old index `indices[i]` sees; outside the tensor, nominally only.

        Where other indices are really read, as by reflecting pads, `seen` has these.
        """
        low, high = self.extended(indices)
        seen_low, seen_high = self.inside(indices if seen is None else seen)
        step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        return Reach(low, high, seen_low, seen_high, self.stride * abs(step), axis)

    def inside(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the seen intervals of these indices; outside the tensor there is nothing."""
        valid = (indices >= 0) & (indices < len(self.low))
        clipped = np.clip(indices, 0, len(self.low) - 1)
        return np.where(valid, self.seen_low[clipped], NOWHERE), np.where(valid, self.seen_high[clipped], -NOWHERE)

    def extended(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the nominal intervals of these indices, continued beyond the tensor in steps of the stride.

        A stride of p / q pixels repeats after q indices, p pixels further.
        """
        period, shift = self.stride.denominator, self.stride.numerator
        length = len(self.low)
        if period > length:  # too short to show a whole period
            clipped = np.clip(indices, 0, length - 1)
            further = np.floor((indices - clipped) * float(self.stride)).astype(np.int64)
            return self.low[clipped] + further, self.high[clipped] + further
        below = np.where(indices < 0, -(indices // period), 0)
        above = np.where(indices >= length, (indices - length) // period + 1, 0)
        folded = indices + period * (below - above)
        return self.low[folded] + shift * (above - below), self.high[folded] + shift * (above - below)


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
    low, high = np.full(length, NOWHERE), np.full(length, -NOWHERE)
    seen_low, seen_high = low, high
    for tap in range(window.kernel):
        index = starts + tap * window.dilation
        tap_low, tap_high = reach.extended(index)
        low, high = np.minimum(low, tap_low), np.maximum(high, tap_high)
        tap_low, tap_high = reach.inside(index)
        seen_low, seen_high = np.minimum(seen_low, tap_low), np.maximum(seen_high, tap_high)
    return Reach(low, high, seen_low, seen_high, reach.stride * window.stride, reach.axis)


def transposed(reach: Reach, window: Window, length: int, pad: int) -> Reach:
    """Return what a transposed convolution sees: tap t of input i writes output i * stride - pad + t * dilation."""
    _check(window, length)
    outputs = np.arange(length)
    low, high = np.full(length, NOWHERE), np.full(length, -NOWHERE)
    seen_low, seen_high = low, high
    for tap in range(window.kernel):
        numerator = outputs + pad - tap * window.dilation
        hit = numerator % window.stride == 0
        index = numerator // window.stride
        tap_low, tap_high = reach.extended(index)
        low = np.where(hit, np.minimum(low, tap_low), low)
        high = np.where(hit, np.maximum(high, tap_high), high)
        tap_low, tap_high = reach.inside(index)
        seen_low = np.where(hit, np.minimum(seen_low, tap_low), seen_low)
        seen_high = np.where(hit, np.maximum(seen_high, tap_high), seen_high)
    return Reach(low, high, seen_low, seen_high, reach.stride / window.stride, reach.axis)


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
    before = len(reach.low)
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
    nominal = [reach.extended(tap) for tap in taps]
    seen = [reach.inside(np.clip(tap, 0, before - 1)) for tap in taps]
    return Reach(
        np.minimum.reduce([entry[0] for entry in nominal]),
        np.maximum.reduce([entry[1] for entry in nominal]),
        np.minimum.reduce([entry[0] for entry in seen]),
        np.maximum.reduce([entry[1] for entry in seen]),
        reach.stride / Fraction(scale).limit_denominator(1 << 12),
        reach.axis,
    )


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
    length = max(len(reach.low) for reach in reaches)
    if any(len(reach.low) not in (1, length) for reach in reaches):
        raise Unknown
    wide = [np.broadcast_to(np.stack([r.low, r.high, r.seen_low, r.seen_high]), (4, length)) for r in reaches]
    stack = np.stack(wide)
    stride = max((reach.stride for reach in reaches), default=Fraction(0))
    low, high, seen_low, seen_high = stack[:, 0].min(0), stack[:, 1].max(0), stack[:, 2].min(0), stack[:, 3].max(0)
    return Reach(low, high, seen_low, seen_high, stride, axes.pop() if axes else None)


def chained(parts: Sequence[Reach]) -> Reach:
    """Put tensors one behind the other along this axis."""
    if sum(len(part.low) for part in parts) > _LONGEST:
        raise Unknown
    return Reach(
        np.concatenate([part.low for part in parts]),
        np.concatenate([part.high for part in parts]),
        np.concatenate([part.seen_low for part in parts]),
        np.concatenate([part.seen_high for part in parts]),
        max(part.stride for part in parts),
        parts[0].axis,
    )
