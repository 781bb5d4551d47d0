"""Convolution kernels as numbers and pictures: norms, dead and duplicate ones, smooth or like noise, grids of tiles.

Kernels are arrays [out, in, height, width] as ONNX stores them (in = input channels / groups), or [out, in] for dense
layers. Everything here is NumPy and deterministic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Pixels: TypeAlias = npt.NDArray[np.uint8]

DEAD_NORM = 1e-3
"""A kernel below this part of its layer's median norm is dead."""
NEGLIGIBLE_NORM = 1e-6
"""Kernels below this part of the largest norm do not count for the median: most kernels of a layer may be dead."""
DUPLICATE_COSINE = 0.99
"""Two kernels whose cosine is above this are duplicates; where it is below the negative of this, negatives."""
DUPLICATE_WEIGHTS = 8
"""Kernels with fewer weights have no duplicates: in so few dimensions, |cosine| > 0.99 happens by chance."""
NOISE_WEIGHTS = 48
"""Kernels with fewer weights cannot be called like noise: of edges, bars and blobs with as much noise on top of them,
the test tells less than 80 % from white noise (docs/kernels.md)."""
SMALLEST_SPATIAL = 3
"""Smallest height and width of a kernel with a spectrum worth describing."""
HIGH_FREQUENCY = 0.25
"""Half the Nyquist frequency, in cycles per pixel."""
NOISE_HIGH_FREQUENCY_SHARE = 1 - math.pi * HIGH_FREQUENCY**2
"""Expected share of the energy of white noise above half the Nyquist frequency: the area outside the disc, 0.804."""

Character = Literal["oriented", "smooth", "sharp", "like noise", "cannot be told", "dead"]
_NOISE_DRAWS = 999
_NUMBERS_AT_ONCE = 1 << 20
_SMALL = 64
"""Up to this many weights to a slice, products of weights are cheaper than Fourier transforms."""
_GREY = 128


@dataclass(frozen=True)
class Duplicate:
    """The kernel that another one repeats, or is the negative of: its index, and the cosine between the two."""

    index: int
    cosine: float


def norms(kernels: Numbers) -> npt.NDArray[np.float64]:
    """Return the L2 norm of each kernel, [out]."""
    flat = np.asarray(kernels, np.float64).reshape(len(kernels), -1)
    result: npt.NDArray[np.float64] = np.sqrt((flat**2).sum(axis=1))
    return result


def dead(kernel_norms: Numbers) -> npt.NDArray[np.bool_]:
    """Say which kernels, [out], do nothing: all zero, or with a norm below a thousandth of the median.

    The median is over the kernels whose norm is at least a millionth of the largest, so that a layer in which most
    kernels are dead is seen as such.
    """
    largest = kernel_norms.max(initial=0.0)
    if largest == 0:
        return np.ones(len(kernel_norms), bool)
    median = np.median(kernel_norms[kernel_norms >= NEGLIGIBLE_NORM * largest])
    result: npt.NDArray[np.bool_] = kernel_norms < DEAD_NORM * median
    return result


def duplicates(kernels: Numbers, groups: int = 1, *, negative: bool = False) -> tuple[Duplicate | None, ...] | None:
    """Find for each kernel the most similar other one of its group, which reads the same input channels.

    A kernel and its negative are no duplicates: behind a rectification they answer to opposite things.

    Returns:
        For each kernel the partner of largest cosine above 0.99 (with `negative`, of smallest below -0.99), or None, as
        for dead ones. None for all without a meaning: fewer than eight weights to a kernel, or one kernel to a group.
    """
    if not has_duplicates(kernels.shape, groups):
        return None
    count = len(kernels)
    flat = np.asarray(kernels, np.float64).reshape(count, -1)
    per_group = count // groups
    lengths = norms(kernels)
    alive = ~dead(lengths)
    unit = np.where(alive[:, None], flat / np.where(lengths > 0, lengths, 1)[:, None], 0)
    found: list[Duplicate | None] = []
    for start in range(0, count, per_group):
        members = unit[start : start + per_group]
        cosines = members @ members.T
        np.fill_diagonal(cosines, 0)
        sign = -1 if negative else 1
        nearest = (sign * cosines).argmax(axis=1)
        for row, partner in enumerate(nearest):
            cosine = float(cosines[row, partner])
            found.append(Duplicate(start + int(partner), cosine) if sign * cosine > DUPLICATE_COSINE else None)
    return tuple(found)


@dataclass(frozen=True)
class Spectrum:
    """What the 2-D spectra of a layer's kernels say, beside what white noise of the same size has.

    Attributes:
        high_frequency_share: [out], part of the energy above half the Nyquist frequency; NaN for all-zero kernels.
        orientation: [out], 0 if the energy lies in no direction, 1 if it lies in one; NaN for all-zero kernels.
        smooth_below: the 5 % quantile of the share of white noise.
        sharp_above: the 95 % quantile of the share of white noise.
        oriented_above: the 95 % quantile of the orientation of white noise.
        tells_noise: whether the kernels are large enough to be called like noise where they cannot be told from it.
    """

    high_frequency_share: npt.NDArray[np.float64]
    orientation: npt.NDArray[np.float64]
    smooth_below: float
    sharp_above: float
    oriented_above: float
    tells_noise: bool

    def character(self, index: int) -> Character:
        """Return what a kernel looks like.

        "oriented" (edges, bars) where its orientation is above that of noise; else "smooth" (blobs, colours) where its
        share is below, "sharp" (spots, fine lines) where it is above that of noise; else "like noise", as about 85 in
        100 kernels of white noise are, or "cannot be told" for small kernels, of which many others are not told from
        noise either. "dead" if all weights are zero.
        """
        share = self.high_frequency_share[index]
        if np.isnan(share):
            return "dead"
        if self.orientation[index] > self.oriented_above:
            return "oriented"
        if share < self.smooth_below:
            return "smooth"
        if share > self.sharp_above:
            return "sharp"
        return "like noise" if self.tells_noise else "cannot be told"


def has_spectrum(shape: Sequence[int]) -> bool:
    """Whether kernels of a shape [out, in, ...] have a 2-D spectrum that is worth describing."""
    return len(shape) == 4 and min(shape[2:]) >= SMALLEST_SPATIAL


def tells_noise(shape: Sequence[int]) -> bool:
    """Whether kernels of a shape [out, in, ...] are large enough to be called like noise by their spectrum."""
    return has_spectrum(shape) and math.prod(shape[1:]) >= NOISE_WEIGHTS


def has_duplicates(shape: Sequence[int], groups: int) -> bool:
    """Whether kernels of a shape [out, in / groups, ...] may be called duplicates or negatives of each other."""
    return len(shape) > 2 and math.prod(shape[1:]) >= DUPLICATE_WEIGHTS and shape[0] // groups >= 2


def spectrum(kernels: Numbers) -> Spectrum | None:
    """Describe the kernels' 2-D spectra, or return None where kernels are smaller than 3 x 3.

    With K(f) the Fourier transform of one input channel's slice at the frequency f = (fy, fx) in cycles per pixel,
    energies summed over the input channels and integrated over the whole band |fy|, |fx| <= 1/2 (the integral is a sum
    over a grid at least four times finer than the kernel):

        share = (sum of |K(f)|^2 where |f| > 1/4) / (sum of |K(f)|^2)
        orientation = |sum of |K(f)|^2 exp(2i angle(f))| / (sum of |K(f)|^2), the constant f = 0 giving nothing above

    The zero frequency counts as low. White noise, whose expected spectrum is flat, has the expected share 1 - pi/16
    whatever its size; the quantiles for its spread are drawn from 999 kernels of normal numbers with a fixed seed.

    Args:
        kernels: [out, in, height, width].
    """
    if not has_spectrum(kernels.shape):
        return None
    share, orientation = _describe(np.asarray(kernels, np.float64))
    return Spectrum(share, orientation, *_noise_quantiles(*kernels.shape[1:]), tells_noise(kernels.shape))


@functools.lru_cache(maxsize=64)
def _noise_quantiles(channels: int, height: int, width: int) -> tuple[float, float, float]:
    """Return for white-noise kernels the 5 % and 95 % quantiles of the share, and the 95 % quantile of orientation."""
    generator = np.random.default_rng(0)
    step = max(1, _NUMBERS_AT_ONCE // (channels * height * width))
    parts = [
        _describe(generator.standard_normal((min(step, _NOISE_DRAWS - start), channels, height, width)))
        for start in range(0, _NOISE_DRAWS, step)
    ]
    share, orientation = (np.concatenate(values) for values in zip(*parts, strict=True))
    return float(np.quantile(share, 0.05)), float(np.quantile(share, 0.95)), float(np.quantile(orientation, 0.95))


def _describe(kernels: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return share and orientation of kernels [out, in, height, width]."""
    sums = _sums_by_position if kernels.shape[2] * kernels.shape[3] <= _SMALL else _sums_by_frequency
    energy, high, angular = sums(kernels, *_weightings(*kernels.shape[2:]))
    known = np.where(energy > 0, energy, np.nan)
    return high / known, np.abs(angular) / known


def _weightings(height: int, width: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.complex128]]:
    """Return, on the grid of frequencies, 1 where they are high, and exp(2i angle)."""
    size = max(64, 4 * max(height, width))
    frequencies = np.fft.fftfreq(size)
    fy, fx = frequencies[:, None], frequencies[None, :]
    radius = np.hypot(fy, fx)
    angle = np.where(radius > 0, np.exp(2j * np.arctan2(fy, fx)), 0)
    # fftfreq has -1/2 but not +1/2: on that line only the symmetric part of the angle is meant.
    angle[size // 2, :] = angle[size // 2, :].real
    angle[:, size // 2] = angle[:, size // 2].real
    return (radius > HIGH_FREQUENCY).astype(np.float64), angle


_Sums: TypeAlias = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.complex128]]


def _sums_by_frequency(
    kernels: npt.NDArray[np.float64], high: npt.NDArray[np.float64], angular: npt.NDArray[np.complex128]
) -> _Sums:
    """Sum energies over frequencies as the definition says; for large kernels."""
    total, above, turned = np.empty(len(kernels)), np.empty(len(kernels)), np.empty(len(kernels), np.complex128)
    for index, kernel in enumerate(kernels):
        energy = (np.abs(np.fft.fft2(kernel, high.shape)) ** 2).sum(axis=0)
        total[index], above[index], turned[index] = energy.sum(), (energy * high).sum(), (energy * angular).sum()
    return total, above, turned


def _sums_by_position(
    kernels: npt.NDArray[np.float64], high: npt.NDArray[np.float64], angular: npt.NDArray[np.complex128]
) -> _Sums:
    """Compute the same sums, divided by the number of frequencies, from products of weights; for small kernels.

    By Parseval's theorem the mean over f of g(f) |K(f)|^2 is k'Qk, Q(p, q) being the inverse transform of g at p - q.
    """
    height, width = kernels.shape[2:]
    flat = kernels.reshape(*kernels.shape[:2], -1)
    products = flat.transpose(0, 2, 1) @ flat
    rows, columns = np.divmod(np.arange(height * width), width)
    offset = (rows[:, None] - rows[None, :]) % len(high), (columns[:, None] - columns[None, :]) % len(high)
    return (
        np.trace(products, axis1=1, axis2=2),
        np.einsum("kpq,pq->k", products, np.fft.ifft2(high).real[offset]),
        np.einsum("kpq,pq->k", products, np.fft.ifft2(angular)[offset]),
    )


def bound(values: Numbers) -> float:
    """Return the largest absolute value, 0 for nothing."""
    return float(np.abs(values).max(initial=0.0))


def kernel_pixels(slices: Numbers, zero_at_grey: bool, limits: tuple[float, float]) -> Pixels:
    """Draw one kernel, [height, width] in grey or [height, width, 3] in RGB, one pixel to a weight, as uint8 [h, w, 3].

    The scale covers the `limits`, of the kernel or of the layer: from black to white, or with zero at mid-grey and the
    larger of |limits| at black and white. Where it is empty (all weights equal) all is mid-grey.
    """
    values = np.asarray(slices, np.float64)
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    low, high = limits
    if zero_at_grey:
        reach = max(abs(low), abs(high))
        scaled = _GREY + 127 * np.clip(values / reach, -1, 1) if reach else np.full(values.shape, float(_GREY))
    else:
        scaled = 255 * np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(values.shape, _GREY)
    drawn: Pixels = np.round(scaled).astype(np.uint8)
    return drawn


def grid(tiles: list[Pixels], columns: int, enlarge: int = 1, separator: int = 1, shade: int = 255) -> Pixels:
    """Lay tiles, uint8 [h, w, 3] of one size, out in rows, with lines of a shade (0..255) between and around them.

    A pixel of a tile is enlarged to `enlarge` ones, without smoothing; lines are `separator` pixels wide.
    """
    height, width = (size * enlarge for size in tiles[0].shape[:2])
    rows = -(-len(tiles) // columns)
    sheet = np.full(
        (rows * (height + separator) + separator, columns * (width + separator) + separator, 3), shade, np.uint8
    )
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = (separator + row * (height + separator), separator + column * (width + separator))
        sheet[top : top + height, left : left + width] = tile.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    return sheet


def columns_for(count: int) -> int:
    """Return the number of columns of a nearly square grid that fills its rows where it can (64 -> 8, 32 -> 8)."""
    root = math.isqrt(max(count - 1, 0)) + 1
    return next((columns for columns in range(root, 2 * root) if count % columns == 0), root)
