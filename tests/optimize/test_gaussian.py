"""Gaussian blur against scipy, for all images alike and for each by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from onnxviz.optimize.gaussian import gaussian_blur


def photographs(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("reach", [1, 3, 40])
def test_each_image_has_its_own_deviation(reach: int) -> None:
    """Also where the kernel is wider than the image, which is then mirrored more than once."""
    images, deviations = photographs(4, 9, 14), torch.tensor([0.4, 1.0, 3.0, 40.0])
    blurred = gaussian_blur(images, deviations, reach)
    for index, deviation in enumerate(deviations.double().tolist()):
        expected = gaussian_filter(images[index].numpy(), deviation, axes=(1, 2), radius=reach)
        np.testing.assert_allclose(blurred[index], expected, rtol=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_a_number_is_the_deviation_of_all(sigma: float) -> None:
    images = photographs(2, 9, 14)
    expected = gaussian_filter(images.numpy(), sigma, axes=(2, 3))
    np.testing.assert_allclose(gaussian_blur(images, sigma), expected, rtol=1e-9)
    own = gaussian_blur(images, torch.full((2,), sigma, dtype=torch.float64), int(4 * sigma + 0.5))
    np.testing.assert_allclose(own, expected, rtol=1e-9)


def test_no_blur_changes_nothing_and_no_blur_darkens() -> None:
    images = photographs(1, 9, 14).float()
    assert torch.equal(gaussian_blur(images, torch.zeros(1), 5), images)
    assert torch.equal(gaussian_blur(images, torch.ones(1), 0), images)
    flat = torch.full((3, 3, 20, 31), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([0.3, 2.0, 90.0]), 8), flat, atol=1e-6, rtol=0)


def test_the_gradient_is_the_transpose() -> None:
    x, y = photographs(2, 7, 8).requires_grad_(True), torch.randn(2, 3, 7, 8, dtype=torch.float64)
    seen = gaussian_blur(x, torch.tensor([0.8, 2.5]), 4)
    (gradient,) = torch.autograd.grad((seen * y).sum(), x)
    assert float((gradient * x).sum().detach()) == pytest.approx(float((seen * y).sum().detach()), rel=1e-9)


def test_deviations_that_nobody_reads_need_a_reach() -> None:
    with pytest.raises(TypeError, match="give `reach`"):
        gaussian_blur(photographs(2, 7, 8), torch.ones(2))
