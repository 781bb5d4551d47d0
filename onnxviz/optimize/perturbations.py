"""What views do to pixels: blur and noise, for each image by itself and without waiting for the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def gaussian_blur(images: Tensor, deviations: Tensor, reach: int) -> Tensor:
    """Replace each pixel by the Gaussian-weighted mean of those around it.

    Weights beyond the border are given to the pixels within, so that borders do not darken.

    Args:
        images: [N, C, h, w].
        deviations: [N], in pixels; 0 leaves an image as it is.
        reach: how far the kernel reaches in pixels, in both directions; its cost is in proportion.

    Returns:
        [N, C, h, w].
    """
    # At a deviation of 0.001 neighbours already weigh nothing.
    precisions = -0.5 / deviations.to(images.dtype).clamp_min(1e-3).square()
    squares = torch.arange(reach + 1, dtype=images.dtype, device=images.device).square()
    weights = (precisions[:, None] * squares).exp()
    height, width = images.shape[2:]
    rows = weights.new_ones((len(weights), 1, height, 1))
    columns = weights.new_ones((len(weights), 1, 1, width))
    within = _weighted_sums(rows, weights, 2) * _weighted_sums(columns, weights, 3)
    sums: Tensor = _Smoothing.apply(images, weights)  # type: ignore[no-untyped-call]
    return sums / within


class _Smoothing(torch.autograd.Function):
    """Weighted sums over rows and columns, which are their own transpose: as far to the left as to the right."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return _weighted_sums(_weighted_sums(images, weights, 2), weights, 3)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return _weighted_sums(_weighted_sums(slopes[0], weights, 3), weights, 2), None


def _weighted_sums(images: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Return Σ weights[:, |j - i|] · images[j] for each place i of an axis of images [N, C, h, w]."""
    length = images.shape[axis]
    sums = images * weights[:, 0, None, None, None]
    for distance in range(1, min(weights.shape[1], length)):
        weight, rest = weights[:, distance, None, None, None], length - distance
        sums.narrow(axis, 0, rest).addcmul_(images.narrow(axis, distance, rest), weight)
        sums.narrow(axis, distance, rest).addcmul_(images.narrow(axis, 0, rest), weight)
    return sums


def normal_noise(names: Tensor, size: tuple[int, int]) -> Tensor:
    """Return normal noise that is a function of its names: the same on every device, in any order, in any batch.

    The hash `pcg3d` makes three colours of a pixel's number and two names; the normal distribution's inverse does the
    rest. A generator would give other noise when a step is looked at twice, and cannot be part of a captured step.
    Source: Jarzynski and Olano 2020, "Hash Functions for GPU Rendering", Journal of Computer Graphics Techniques 9(3),
    listing of pcg3d.

    Args:
        names: int32 [N, 2], of each image's noise.
        size: height and width in pixels.

    Returns:
        float32 [N, 3, h, w], of mean 0 and deviation 1, at most 5.2 deviations from 0.
    """
    height, width = size
    pixels = torch.arange(height * width, dtype=torch.int32, device=names.device)[None]
    # Whole numbers of 32 bits wrap around, as the hash expects of them.
    x, y, z = (value * 1664525 + 1013904223 for value in (pixels, names[:, :1], names[:, 1:]))
    x = x + y * z
    y = y + z * x
    z = z + x * y
    x, y, z = (value ^ ((value >> 16) & 0xFFFF) for value in (x, y, z))
    x = x + y * z
    y = y + z * x
    z = z + x * y
    bits = (torch.stack((x, y, z), dim=1) >> 9) & 0x7FFFFF
    even = (bits.to(torch.float32) + 0.5) / 2.0**22 - 1.0  # -1..1, never the ends
    return (torch.erfinv(even) * math.sqrt(2.0)).view(len(names), 3, height, width)
