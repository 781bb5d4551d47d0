"""Noise for each image by itself, without waiting for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
