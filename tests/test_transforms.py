"""Random views: known maps, borders, and independence of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from onnxviz.optimize.transforms import Jitter, Pad, Rotate, Scale, cut, draw, margins, resample

STILL = (Jitter(share=0), Scale(minimum=1, maximum=1), Rotate(degrees=0))
LIVELY = (Jitter(share=0.1), Scale(minimum=0.8, maximum=1.2), Rotate(degrees=15))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def photograph(height: int = 12, width: int = 16) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fill", ["reflect", "grey", "edge"])
@pytest.mark.parametrize("size", [(12, 16), (7, 5)])
def test_no_amount_is_the_identity(fill: str, size: tuple[int, int]) -> None:
    images = photograph(*size)
    maps = draw(STILL, size, 3, generators(0))
    assert maps is not None
    for step in range(3):
        torch.testing.assert_close(resample(images, maps[step], images.shape[2:], fill), images, atol=2e-6, rtol=0)  # type: ignore[arg-type]
    assert draw((), size, 3, generators(0)) is None


def test_jitter_shifts_by_whole_pixels() -> None:
    images = photograph()
    maps = draw((Jitter(share=0.25),), (12, 16), 20, generators(3))
    assert maps is not None
    seen = set()
    for step in range(20):
        x, y = float(maps[step, 0, 0, 2]) * 8, float(maps[step, 0, 1, 2]) * 6
        assert x == pytest.approx(round(x), abs=1e-5)
        assert y == pytest.approx(round(y), abs=1e-5)
        dx, dy = round(x), round(y)
        assert abs(dx) <= 4
        assert abs(dy) <= 3
        seen.add((dx, dy))
        moved = resample(images, maps[step], (12, 16))
        # Output (y, x) shows input (y + dy, x + dx) wherever that exists.
        rows, columns = slice(max(0, -dy), 12 - max(0, dy)), slice(max(0, -dx), 16 - max(0, dx))
        from_rows, from_columns = slice(rows.start + dy, rows.stop + dy), slice(columns.start + dx, columns.stop + dx)
        torch.testing.assert_close(moved[..., rows, columns], images[..., from_rows, from_columns], atol=1e-5, rtol=0)
    assert len(seen) > 10


def test_scale_enlarges_about_the_centre() -> None:
    images = torch.zeros(1, 3, 9, 9)
    images[..., 3:6, 3:6] = 1
    maps = draw((Scale(minimum=2, maximum=2),), (9, 9), 1, generators(0))
    assert maps is not None
    enlarged = resample(images, maps[0], (9, 9))
    assert float(enlarged.sum() / images.sum()) == pytest.approx(4, rel=0.05)
    torch.testing.assert_close(enlarged, enlarged.flip(2, 3), atol=1e-6, rtol=0)


def test_rotation_by_a_right_angle_and_on_other_sides() -> None:
    quarter = Rotate(degrees=90).matrices(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    np.testing.assert_allclose(quarter[0], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(quarter[1], np.eye(3), atol=1e-6)
    # In an image that is not square, a rotation keeps lengths in pixels.
    maps = draw((Rotate(degrees=40),), (20, 40), 5, generators(1))
    assert maps is not None
    for matrix in maps[:, 0, :, :2]:
        pixels = np.diag([20.0, 10.0]) @ matrix.numpy() @ np.diag([1 / 20.0, 1 / 10.0])
        np.testing.assert_allclose(pixels @ pixels.T, np.eye(2), atol=1e-5)
        assert abs(math.degrees(math.atan2(pixels[1, 0], pixels[0, 0]))) <= 40


def test_pad_lets_views_look_past_the_edge() -> None:
    """The picture is the middle of the canvas, and a shifted view shows the canvas and no mirror image."""
    transforms = (Pad(share=0.25), Jitter(share=0.25))
    assert margins(transforms, (12, 16)) == (3, 4)
    assert margins((Jitter(share=0.25),), (12, 16)) == (0, 0)
    canvas = photograph(18, 24)
    assert torch.equal(cut(canvas, (3, 4)), canvas[:, :, 3:15, 4:20])
    assert torch.equal(cut(canvas, (0, 0)), canvas)
    maps = draw(transforms, (12, 16), 10, generators(5))
    assert maps is not None
    for step in range(10):
        dx, dy = round(float(maps[step, 0, 0, 2]) * 12), round(float(maps[step, 0, 1, 2]) * 9)
        expected = canvas[:, :, 3 + dy : 15 + dy, 4 + dx : 20 + dx]
        torch.testing.assert_close(resample(canvas, maps[step], (12, 16)), expected, atol=1e-5, rtol=0)
    assert draw((Pad(share=0.1),), (12, 16), 2, generators(0)) is None


def test_several_transforms_are_the_product_of_their_maps() -> None:
    """The fused map equals resampling coordinates one transform after the other."""
    size = (24, 32)
    maps = draw(LIVELY, size, 1, generators(9))
    assert maps is not None
    generator = generators(9)[0]
    draws = torch.rand((1, 3, 2), generator=generator)
    point = np.array([5.0, -3.0, 1.0])  # an output pixel, from the centre
    place = point
    for index in (2, 1, 0):  # the last transform's output is looked up first
        matrix = LIVELY[index].matrices(draws[0, index][None])[0].numpy().astype(np.float64)
        matrix[0, 2], matrix[1, 2] = round(matrix[0, 2] * 32), round(matrix[1, 2] * 24)
        place = matrix @ place
    fused = maps[0, 0].numpy() @ np.array([5.0 / 16, -3.0 / 12, 1.0])
    np.testing.assert_allclose(fused, [place[0] / 16, place[1] / 12], atol=1e-5)


@pytest.mark.parametrize("fill", ["reflect", "edge", "grey"])
def test_borders_do_not_darken(fill: str) -> None:
    level = 0.5 if fill == "grey" else 0.9
    images = torch.full((1, 3, 32, 32), level)
    maps = draw(LIVELY, (32, 32), 30, generators(4))
    assert maps is not None
    for step in range(30):
        torch.testing.assert_close(resample(images, maps[step], images.shape[2:], fill), images, atol=1e-6, rtol=0)  # type: ignore[arg-type]


def test_resampling_is_bilinear() -> None:
    images = photograph(6, 6)
    map_ = torch.tensor(
        [[[1.0, 0.0, 2 * 0.25 / 6], [0.0, 1.0, 2 * 0.5 / 6]]]
    )  # a quarter pixel right, half a pixel down
    seen = resample(images, map_, (6, 6))
    x = images[0, 1].numpy()
    expected = 0.5 * (0.75 * x[2, 3] + 0.25 * x[2, 4]) + 0.5 * (0.75 * x[3, 3] + 0.25 * x[3, 4])
    assert float(seen[0, 1, 2, 3]) == pytest.approx(expected, abs=1e-6)


def test_draws_are_each_images_own() -> None:
    batch = draw(LIVELY, (32, 32), 7, generators(1, 2, 3))
    alone = draw(LIVELY, (32, 32), 7, generators(2))
    assert batch is not None
    assert alone is not None
    assert batch.shape == (7, 3, 2, 3)
    assert torch.equal(batch[:, 1:2], alone)
    assert not torch.allclose(batch[:, 0], batch[:, 1])
    assert not torch.allclose(batch[0], batch[1])


def test_the_gradient_of_a_view_is_its_transpose() -> None:
    """⟨resample(x), y⟩ = ⟨x, gradient⟩ for a linear map; grey is added, so it cancels in the difference."""
    x = photograph(9, 9).double().requires_grad_(True)
    y = torch.rand(1, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    maps = draw(LIVELY, (9, 9), 1, generators(0))
    assert maps is not None
    product = (resample(x, maps[0].double(), (9, 9)) * y).sum()
    (gradient,) = torch.autograd.grad(product, x)
    assert float((gradient * x).sum().detach()) == pytest.approx(float(product.detach()), rel=1e-9)


def test_refused_settings() -> None:
    with pytest.raises(ValidationError, match="larger than maximum"):
        Scale(minimum=1.2, maximum=0.9)
    with pytest.raises(ValidationError):
        Jitter(share=-0.1)
    with pytest.raises(ValidationError):
        Rotate(angle=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("length", [28, 32, 64, 96, 128, 224, 320])
def test_a_margin_makes_a_canvas_that_transforms_fast(length: int) -> None:
    top, left = margins((Pad(share=0.1),), (length, length))
    assert top == left >= round(0.1 * length)
    assert top < 0.1 * length + 12
    rest = length + 2 * top
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert margins((Pad(share=0.0),), (length, length)) == (0, 0)


def test_where_no_good_size_is_near_the_margin_is_what_was_asked_for() -> None:
    assert margins((Pad(share=0.1),), (227, 227)) == (23, 23)
