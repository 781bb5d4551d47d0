"""Edits of pixels against the published loops in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor

from onnxviz.optimize.edits import (
    Blur,
    BoundedColors,
    Bounds,
    ClipSmallContribution,
    ClipSmallNorm,
    Decay,
    Edit,
)

ALL: list[Any] = [
    Decay(share=0.1), Blur(sigma=0.7, every=1), ClipSmallNorm(percentile=30), ClipSmallContribution(percentile=30),
    Bounds(), BoundedColors(radius=0.3),
]  # fmt: skip


def drawn(channels: int = 3, count: int = 2, size: tuple[int, int] = (6, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, *size)
    pixels, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return 0.4 * pixels, gradient


def published(pixels: np.ndarray, gradient: np.ndarray, kind: str, percentile: float) -> np.ndarray:
    """yosinski/deep-visualization-toolbox, optimize/gradient_optimizer.py, for one image [channels, h, w]."""
    sizes = np.linalg.norm(pixels, axis=0) if kind == "clip_small_norm" else np.abs((gradient * -pixels).sum(0))
    small = sizes < np.percentile(sizes, percentile)
    return pixels - pixels * small[None]


@pytest.mark.parametrize("percentile", [0, 1, 20, 50, 90, 97.5, 100])
@pytest.mark.parametrize("kind", ["clip_small_norm", "clip_small_contribution"])
@pytest.mark.parametrize("channels", [1, 3])
def test_clipping_by_percentile(kind: str, percentile: float, channels: int) -> None:
    edit: Any = {"clip_small_norm": ClipSmallNorm, "clip_small_contribution": ClipSmallContribution}[kind]
    pixels, gradient = drawn(channels)
    made = edit(percentile=percentile).apply(pixels, gradient, 1)
    expected = [
        published(image, slope, kind, percentile) for image, slope in zip(pixels.numpy(), gradient.numpy(), strict=True)
    ]
    np.testing.assert_array_equal(made.numpy(), expected)


@given(
    height=st.integers(1, 5),
    percentile=st.floats(0, 100),
    values=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5]), min_size=1, max_size=8),
)
def test_ties_and_small_images_clip_as_numpy(height: int, percentile: float, values: list[float]) -> None:
    pixels = torch.tensor(values, dtype=torch.float64).repeat(height).view(1, 1, height, len(values))
    made = ClipSmallNorm(percentile=percentile).apply(pixels, pixels, 1)
    sizes = pixels.numpy()[0, 0]
    # Between two different neighbours every limit clips the same, so numpy's rounding does not matter.
    limit = np.percentile(sizes, percentile, method="linear")
    near = np.abs(sizes - limit) < 1e-12
    np.testing.assert_array_equal((made.numpy()[0, 0] == 0)[~near], ((sizes < limit) | (sizes == 0))[~near])


def test_clipping_takes_as_many_pixels_as_said() -> None:
    pixels, gradient = drawn(size=(20, 20))
    for edit in (ClipSmallNorm(percentile=30), ClipSmallContribution(percentile=30)):
        grey = (edit.apply(pixels, gradient, 1) == 0).all(dim=1).flatten(1).sum(dim=1)
        assert grey.tolist() == [120, 120]


@pytest.mark.slow
def test_more_pixels_than_quantiles_of_pytorch_take() -> None:
    pixels = torch.zeros(1, 1, 4100, 4100)
    pixels[0, 0, 0, 0] = 1.0
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(pixels.flatten(1), 0.5, dim=1)
    assert float(ClipSmallNorm(percentile=100).apply(pixels, pixels, 1).sum()) == 1.0


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.0])
def test_blur(sigma: float) -> None:
    pixels, gradient = drawn()
    made = Blur(sigma=sigma, every=1).apply(pixels, gradient, 5)
    expected = [[gaussian_filter(channel, sigma) for channel in image] for image in pixels.numpy()]
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-12)


def test_what_is_done_at_every_so_many_steps() -> None:
    """The published loop counts from 0 and blurs where the count is divisible: after the first step, then again."""
    pixels, gradient = drawn()
    edit: Any
    for edit in (Blur(every=4), ClipSmallNorm(every=4), ClipSmallContribution(every=4)):
        done = [step for step in range(1, 11) if not torch.equal(edit.apply(pixels, gradient, step), pixels)]
        assert done == [1, 5, 9]


def test_decay_and_bounds() -> None:
    pixels, gradient = drawn()
    np.testing.assert_allclose(Decay(share=0.25).apply(pixels, gradient, 1), 0.75 * pixels.numpy())
    made = Bounds().apply(pixels, gradient, 1)
    np.testing.assert_array_equal(made, np.clip(pixels.numpy(), -0.5, 0.5))
    made = Bounds(low=0.25, high=0.5).apply(pixels, gradient, 1)
    assert (float(made.min()), float(made.max())) == (-0.25, 0.0)
    with pytest.raises(ValidationError, match="not smaller"):
        Bounds(low=0.5, high=0.5)


def test_bounded_colors() -> None:
    """aravindhm/nnpreimage: x = x .* min(bound ./ sqrt(sum(x.^2, 3)), 1), each pixel by itself."""
    pixels, gradient = drawn()
    pixels[0, :, 2, 3] = 0.0
    made = BoundedColors(radius=0.5).apply(pixels, gradient, 1).numpy()
    for image, before in zip(made, pixels.numpy(), strict=True):
        for y in range(6):
            for x in range(7):
                length = np.linalg.norm(before[:, y, x])
                expected = before[:, y, x] * (1.0 if length == 0 else min(0.5 / length, 1.0))
                np.testing.assert_allclose(image[:, y, x], expected, atol=1e-12)
    # One channel is shown as three equal colours, whose length is √3 of it.
    grey, _ = drawn(1)
    alone = BoundedColors(radius=0.5).apply(grey, grey, 1).expand(-1, 3, -1, -1)
    np.testing.assert_allclose(alone, BoundedColors(radius=0.5).apply(grey.expand(-1, 3, -1, -1), grey, 1), atol=1e-12)


@pytest.mark.parametrize("edit", ALL, ids=repr)
def test_an_image_is_edited_the_same_alone_or_in_a_batch(edit: Any) -> None:
    pixels, gradient = drawn(count=3)
    pixels[1] *= 10.0
    together = edit.apply(pixels.float(), gradient.float(), 1)
    for index in range(3):
        alone = edit.apply(pixels[index : index + 1].float(), gradient[index : index + 1].float(), 1)
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("edit", ALL, ids=repr)
def test_pixels_and_gradients_are_left_alone(edit: Any) -> None:
    pixels, gradient = drawn()
    copies = pixels.clone(), gradient.clone()
    made = edit.apply(pixels, gradient, 1)
    assert torch.equal(pixels, copies[0])
    assert torch.equal(gradient, copies[1])
    assert made.shape == pixels.shape
    assert not torch.equal(made, pixels)


def test_the_union_is_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Edit)
    for edit in ALL:
        assert adapter.validate_python(edit.model_dump()) == edit
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "sharpen"})
