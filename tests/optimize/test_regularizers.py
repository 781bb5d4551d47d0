"""Regularizers against loops in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter

from onnxviz.optimize.gaussian import gaussian_blur
from onnxviz.optimize.regularizers import HighFrequency, LpNorm, Regularizer, TotalVariation

ALL: list[Any] = [
    LpNorm(p=6), LpNorm(p=1), LpNorm(p=1.5, of="colors"), LpNorm(p=1, of="colors"), LpNorm(of="colors"),
    TotalVariation(), TotalVariation(exponent=1.0), TotalVariation(exponent=1.3), TotalVariation(exponent=3.0),
    TotalVariation(exponent=1.0, form="anisotropic"), TotalVariation(exponent=1.3, form="anisotropic"),
    HighFrequency(), HighFrequency(sigma=3.0),
]  # fmt: skip


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


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_anisotropic_variation(exponent: float) -> None:
    term = TotalVariation(exponent=exponent, form="anisotropic").term(pictures()).numpy()
    for value, image in zip(term, pictures().numpy(), strict=True):
        level = [
            abs(2 * (image[c, y, x + 1] - image[c, y, x])) ** exponent
            for c in range(3) for y in range(5) for x in range(6)
        ]  # fmt: skip
        upright = [
            abs(2 * (image[c, y + 1, x] - image[c, y, x])) ** exponent
            for c in range(3) for y in range(4) for x in range(7)
        ]  # fmt: skip
        assert value == pytest.approx(np.mean(level) + np.mean(upright), rel=1e-12)


def test_forms_differ_in_slanted_edges_only() -> None:
    """An upright edge counts the same in both."""
    plain = TotalVariation(exponent=1.0)
    square = TotalVariation(exponent=1.0, form="anisotropic")
    step = torch.zeros(1, 3, 9, 9, dtype=torch.float64)
    step[..., 4:] = 1.0
    assert float(plain.term(step)) == pytest.approx(float(square.term(step)), rel=1e-3)
    # Along a slanted edge both neighbours differ: |1| + |1| against √(1 + 1).
    slanted = torch.triu(torch.ones(9, 9, dtype=torch.float64)).flip(1).expand(1, 3, 9, 9)
    assert float(square.term(slanted)) / float(plain.term(slanted)) == pytest.approx(np.sqrt(2), rel=0.03)


@pytest.mark.parametrize("p", [1.0, 2.0, 6.0])
def test_lp_norm(p: float) -> None:
    term = LpNorm(p=p).term(pictures()).numpy()
    expected = [np.mean([abs(2 * value - 1) ** p for value in image.ravel()]) for image in pictures().numpy()]
    np.testing.assert_allclose(term, expected, rtol=1e-12)


@pytest.mark.parametrize("p", [1.0, 2.0, 6.0])
def test_lp_norm_of_colors(p: float) -> None:
    """Mahendran and Vedaldi 2016: 1 / (H W) Σ (Σ_k x_k²)^(p / 2)."""
    term = LpNorm(p=p, of="colors").term(pictures()).numpy()
    for value, image in zip(term, pictures().numpy(), strict=True):
        lengths = [np.linalg.norm(2 * image[:, y, x] - 1) ** p for y in range(5) for x in range(7)]
        assert value == pytest.approx(np.mean(lengths), rel=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_high_frequency(sigma: float) -> None:
    """The blur is scipy's, also where the kernel is wider than the image."""
    term = HighFrequency(sigma=sigma).term(pictures()).numpy()
    for value, image in zip(term, pictures().numpy(), strict=True):
        scaled = 2 * image - 1
        blurred = np.stack([gaussian_filter(channel, sigma) for channel in scaled])
        assert value == pytest.approx(np.mean((scaled - blurred) ** 2), rel=1e-10)


def test_high_frequency_counts_waves_by_their_frequency() -> None:
    columns = torch.arange(64, dtype=torch.float64) + 0.5  # a cosine about the border: mirroring goes on with it
    for turns in (2, 8, 16, 28):
        f = np.pi * turns / 64
        wave = (0.5 + 0.25 * torch.cos(f * columns)).expand(1, 3, 64, 64)
        expected = 0.5**2 / 2 * (1 - np.exp(-(f**2) / 2)) ** 2
        assert float(HighFrequency(sigma=1.0).term(wave)) == pytest.approx(expected, rel=2e-3)


def test_blur_keeps_other_shapes_and_types() -> None:
    flat = torch.full((2, 4, 3, 2), 0.25)
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)
    assert gaussian_blur(flat.double(), 2.0).dtype == torch.float64


@pytest.mark.parametrize("regularizer", ALL, ids=repr)
def test_gradients_are_finite_where_the_picture_is_flat(regularizer: Any) -> None:
    flat = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(regularizer.term(flat).sum(), flat)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) < 1e-3


@pytest.mark.parametrize("regularizer", ALL, ids=repr)
def test_gradients_are_those_of_the_term(regularizer: Any) -> None:
    images = pictures().requires_grad_(True)
    assert torch.autograd.gradcheck(regularizer.term, images, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("regularizer", ALL, ids=repr)
def test_terms_are_of_single_images(regularizer: Any) -> None:
    both = regularizer.term(pictures())
    assert both.shape == (2,)
    for index, picture in enumerate(pictures()):
        assert float(regularizer.term(picture[None])) == pytest.approx(float(both[index]), rel=1e-12)


@pytest.mark.parametrize("regularizer", ALL, ids=repr)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1)])
def test_images_of_one_row_or_column_have_a_term(regularizer: Any, size: tuple[int, int]) -> None:
    images = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(1), requires_grad=True)
    term = regularizer.term(images)
    assert bool(torch.isfinite(term).all())
    (gradient,) = torch.autograd.grad(term.sum(), images, allow_unused=True)
    assert gradient is None or bool(torch.isfinite(gradient).all())


def test_what_is_held_back() -> None:
    rough = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
    assert float(TotalVariation().term(rough)) == pytest.approx(8.0)
    assert float(TotalVariation().term(torch.full((1, 3, 2, 2), 1.0))) == 0.0
    assert float(TotalVariation(form="anisotropic").term(rough)) == pytest.approx(8.0)
    assert float(TotalVariation(exponent=1.0, form="anisotropic").term(rough)) == pytest.approx(4.0)
    assert float(LpNorm().term(rough)) == pytest.approx(1.0)
    assert float(LpNorm().term(torch.full((1, 3, 2, 2), 0.5))) == 0.0
    assert float(LpNorm(of="colors", p=2).term(rough)) == pytest.approx(3.0)
    assert float(HighFrequency().term(torch.full((1, 3, 9, 9), 0.9))) == pytest.approx(0.0, abs=1e-12)


def test_the_union_is_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Regularizer)
    assert adapter.validate_python({"kind": "high_frequency", "sigma": 2.0}) == HighFrequency(sigma=2.0)
    for regularizer in ALL:
        assert adapter.validate_python(regularizer.model_dump()) == regularizer
    with pytest.raises(ValidationError, match="exponent"):
        adapter.validate_python({"kind": "total_variation", "exponent": 0.5})
