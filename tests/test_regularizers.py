"""Regularizers against loops in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxviz.optimize.regularizers import LpNorm, TotalVariation


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_variation(image: np.ndarray, exponent: float) -> float:
    total, count = 0.0, 0
    for channel in range(image.shape[0]):
        for y in range(image.shape[1] - 1):
            for x in range(image.shape[2] - 1):
                right = 2 * (image[channel, y, x + 1] - image[channel, y, x])
                down = 2 * (image[channel, y + 1, x] - image[channel, y, x])
                total += (right**2 + down**2) ** (exponent / 2)
                count += 1
    return total / count


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0])
def test_total_variation(exponent: float) -> None:
    term = TotalVariation(exponent=exponent).term(pictures()).numpy()
    expected = [slow_variation(image, exponent) for image in pictures().numpy()]
    np.testing.assert_allclose(term, expected, rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 6.0])
def test_lp_norm(p: float) -> None:
    term = LpNorm(p=p).term(pictures()).numpy()
    expected = [np.mean([abs(2 * value - 1) ** p for value in image.ravel()]) for image in pictures().numpy()]
    np.testing.assert_allclose(term, expected, rtol=1e-12)


@pytest.mark.parametrize("regularizer", [TotalVariation(exponent=1.0), TotalVariation(), LpNorm(p=6), LpNorm(p=1)])
def test_gradients_are_finite_where_the_picture_is_flat(regularizer: TotalVariation | LpNorm) -> None:
    flat = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(regularizer.term(flat).sum(), flat)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) < 1e-3


def test_what_is_held_back() -> None:
    rough = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
    assert float(TotalVariation().term(rough)) == pytest.approx(8.0)
    assert float(TotalVariation().term(torch.full((1, 3, 2, 2), 1.0))) == 0.0
    assert float(LpNorm().term(rough)) == pytest.approx(1.0)
    assert float(LpNorm().term(torch.full((1, 3, 2, 2), 0.5))) == 0.0
