"""Noise of views, against a slow version and statistics."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from onnxviz.optimize.transforms import normal_noise


def pcg3d(x: int, y: int, z: int) -> tuple[int, int, int]:
    """Jarzynski and Olano 2020, in whole numbers of 32 bits."""
    mask = 0xFFFFFFFF
    x, y, z = ((value * 1664525 + 1013904223) & mask for value in (x, y, z))
    x = (x + y * z) & mask
    y = (y + z * x) & mask
    z = (z + x * y) & mask
    x, y, z = (value ^ (value >> 16) for value in (x, y, z))
    x = (x + y * z) & mask
    y = (y + z * x) & mask
    z = (z + x * y) & mask
    return x, y, z


def test_noise_is_the_published_hash_brought_to_a_normal_distribution() -> None:
    names = torch.tensor([[0, 0], [123456, 16777215]], dtype=torch.int32)
    noise = normal_noise(names, (5, 7))
    for index, (one, other) in enumerate(names.tolist()):
        for pixel in range(35):
            hashed = pcg3d(pixel, one, other)
            expected = [stats.norm.ppf(((value >> 9) + 0.5) / 2**23) for value in hashed]
            np.testing.assert_allclose(noise[index, :, pixel // 7, pixel % 7], expected, rtol=2e-4, atol=2e-6)


def test_noise_is_normal_and_independent() -> None:
    """Between pixels, colours, images and steps; names are as the loop draws them, also near ones."""
    names = torch.tensor([[5, 9], [5, 10], [6, 9], [9_000_000, 77]], dtype=torch.int32)
    noise = normal_noise(names, (128, 128)).numpy().astype(np.float64)
    planes = noise.reshape(12, -1)
    for plane in planes:
        assert stats.kstest(plane, "norm").pvalue > 1e-4
    limit = 4.5 / np.sqrt(planes.shape[1])
    assert abs(np.corrcoef(planes) - np.eye(12)).max() < limit
    assert abs(np.corrcoef(planes**2) - np.eye(12)).max() < limit
    neighbours = [
        (noise[..., 1:] * noise[..., :-1]).mean((2, 3)),
        (noise[..., 1:, :] * noise[..., :-1, :]).mean((2, 3)),
    ]
    assert abs(np.array(neighbours)).max() < limit
    spectrum = abs(np.fft.fft2(noise)) ** 2 / 128**2  # exponential with mean 1 where noise is white
    assert spectrum.max() < 20
    assert abs(noise).max() < 5.2


def test_noise_is_the_same_alone_and_in_a_batch() -> None:
    names = torch.randint(2**24, (5, 2), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    together = normal_noise(names, (13, 11))
    for index in range(5):
        assert torch.equal(normal_noise(names[index : index + 1], (13, 11))[0], together[index])
