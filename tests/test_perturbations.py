"""Blur and noise of views, against slow versions and statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from onnxviz.optimize.perturbations import gaussian_blur, normal_noise


def photographs(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_blur(image: np.ndarray, deviation: float, reach: int) -> np.ndarray:
    """Weighted means of all pixels that are near enough, one pixel after the other."""
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width]
    blurred = np.empty_like(image)
    for i in range(height):
        for j in range(width):
            weights = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * deviation**2))
            weights[(abs(rows - i) > reach) | (abs(columns - j) > reach)] = 0
            blurred[i, j] = (weights * image).sum() / weights.sum()
    return blurred


@pytest.mark.parametrize("reach", [0, 3, 100])
def test_blur_is_the_gaussian_mean_of_each_images_own_deviation(reach: int) -> None:
    images, deviations = photographs(4, 9, 14), torch.tensor([0.4, 1.0, 3.0, 40.0])
    blurred = gaussian_blur(images, deviations, reach)
    for index, deviation in enumerate(deviations.double().tolist()):
        for color in range(3):
            expected = slow_blur(images[index, color].numpy(), deviation, reach)
            np.testing.assert_allclose(blurred[index, color], expected, rtol=1e-9)


def test_no_blur_changes_nothing_and_no_blur_darkens() -> None:
    images = photographs(1, 9, 14).float()
    assert torch.equal(gaussian_blur(images, torch.zeros(1), 5), images)
    flat = torch.full((3, 3, 20, 31), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([0.3, 2.0, 90.0]), 8), flat, atol=1e-6, rtol=0)


def test_gradient_of_blur_is_its_transpose() -> None:
    x, y = photographs(2, 7, 8).requires_grad_(True), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    seen = gaussian_blur(x, torch.tensor([0.8, 2.5]), 4)
    (gradient,) = torch.autograd.grad((seen * y).sum(), x)
    assert float((gradient * x).sum().detach()) == pytest.approx(float((seen * y).sum().detach()), rel=1e-9)


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
