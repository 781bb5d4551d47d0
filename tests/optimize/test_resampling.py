"""Affine resampling: against a slow version that follows the definition, at borders, and backwards."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from onnxviz.optimize.resampling import RepeatableSampling, Resampling, _in_any_order, places, spread
from onnxviz.optimize.transforms import Fill

FILLS = ("reflect", "grey", "edge")
MODES = {"grey": "zeros", "edge": "border", "reflect": "reflection"}


def photograph(height: int = 12, width: int = 16, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def wild_maps(count: int, seed: int = 1, amount: float = 0.6) -> torch.Tensor:
    """Maps that turn, shear, scale and shift, far beyond the borders."""
    noise = torch.rand(count, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    return torch.eye(2, 3, dtype=torch.float64) + amount * noise


def centres(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the middles of columns and rows."""
    ys, xs = ((2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1 for length in size)
    return xs, ys


def resample(images: torch.Tensor, maps: torch.Tensor, size: tuple[int, int], fill: Fill = "reflect") -> torch.Tensor:
    return Resampling(size, fill, "cpu")(images, maps)


def slow(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: str) -> np.ndarray:
    """Bilinear sampling of one channel, pixel by pixel; pixel i's centre lies at (2i + 1) / length - 1."""
    height, width = image.shape

    def pixel(row: int, column: int) -> float:
        if fill == "grey":
            return image[row, column] if 0 <= row < height and 0 <= column < width else 0.5
        if fill == "edge":
            return image[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
        # A mirror stands on the outer edge of the border's pixels: ... 1 0 | 0 1 2 ...
        row, column = row % (2 * height), column % (2 * width)
        return image[min(row, 2 * height - 1 - row), min(column, 2 * width - 1 - column)]

    view = np.empty(size)
    for i in range(size[0]):
        for j in range(size[1]):
            x, y = matrix @ [(2 * j + 1) / size[1] - 1, (2 * i + 1) / size[0] - 1, 1.0]
            column, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            left, above = math.floor(column), math.floor(row)
            view[i, j] = sum(
                (1 - abs(row - r)) * (1 - abs(column - c)) * pixel(r, c)
                for r in (above, above + 1)
                for c in (left, left + 1)
            )
    return view


@pytest.mark.parametrize("fill", FILLS)
def test_sampling_follows_its_definition(fill: Fill) -> None:
    images, maps, size = photograph(9, 13, count=3), wild_maps(3), (7, 10)
    seen = resample(images, maps, size, fill)
    assert seen.shape == (3, 3, *size)
    for index in range(3):
        for color in range(3):
            # Coordinates are float32 at the start, as the loop has them.
            expected = slow(images[index, color].numpy(), maps[index].numpy(), size, fill)
            np.testing.assert_allclose(seen[index, color], expected, atol=5e-6)


def test_places_are_those_of_affine_grid() -> None:
    maps = wild_maps(4)
    found = places(maps, *centres((17, 31)))
    expected = functional.affine_grid(maps, [4, 3, 17, 31], align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size", [(12, 16), (7, 5), (1, 1)])
def test_the_identity_changes_nothing(fill: Fill, size: tuple[int, int]) -> None:
    images = photograph(*size).float()
    torch.testing.assert_close(resample(images, torch.eye(2, 3)[None], size, fill), images, atol=2e-6, rtol=0)


@pytest.mark.parametrize("fill", FILLS)
def test_borders_do_not_darken(fill: Fill) -> None:
    images = torch.full((30, 3, 32, 32), 0.5 if fill == "grey" else 0.9)
    seen = resample(images, wild_maps(30).float(), (32, 32), fill)
    torch.testing.assert_close(seen, images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fill", FILLS)
def test_the_gradient_of_a_view_is_its_transpose(fill: Fill) -> None:
    """⟨resample(x) - resample(0), y⟩ = ⟨x, gradient⟩: sampling is linear but for grey."""
    x = photograph(9, 9, count=4).requires_grad_(True)
    y = torch.rand(4, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    maps = wild_maps(4)
    seen = resample(x, maps, (9, 9), fill)
    (gradient,) = torch.autograd.grad((seen * y).sum(), x)
    product = ((seen - resample(torch.zeros_like(x), maps, (9, 9), fill)) * y).sum()
    assert float((gradient * x).sum().detach()) == pytest.approx(float(product.detach()), rel=1e-9)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("amount", [0.2, 3.0])
def test_the_repeatable_gradient_is_that_of_torch(fill: Fill, amount: float) -> None:
    """With slopes of all sizes."""
    maps, (xs, ys) = wild_maps(5, amount=amount), centres((19, 23))
    images = photograph(14, 9, count=5).requires_grad_(True)
    seen = functional.grid_sample(images, places(maps, xs, ys), "bilinear", MODES[fill], align_corners=False)
    slopes = torch.randn(seen.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    slopes *= 10.0 ** torch.arange(-30, 20, 10).view(5, 1, 1, 1)
    (expected,) = torch.autograd.grad(seen, images, slopes)
    again: torch.Tensor = RepeatableSampling.apply(images, maps, xs, ys, fill)  # type: ignore[no-untyped-call]
    assert torch.equal(again, seen)
    (found,) = torch.autograd.grad(again, images, slopes)
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).abs().max()) <= 1e-9 * float(theirs.abs().max())


@pytest.mark.parametrize("fill", FILLS)
def test_in_float32_the_repeatable_gradient_is_as_exact_as_torchs(fill: Fill) -> None:
    maps, size = wild_maps(4, amount=0.3), (96, 96)
    images, slopes = torch.rand(4, 3, 120, 120), torch.randn(4, 3, *size)

    def gradients(kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        xs, ys = (each.to(kind) for each in centres(size))
        leaf = images.to(kind).requires_grad_(True)
        grid = places(maps.to(kind), xs, ys)
        seen = functional.grid_sample(leaf, grid, "bilinear", MODES[fill], align_corners=False)
        (theirs,) = torch.autograd.grad(seen, leaf, slopes.to(kind))
        return theirs, spread(slopes.to(kind), maps.to(kind), xs, ys, (120, 120), fill)

    (exact, _), (theirs, mine) = gradients(torch.float64), gradients(torch.float32)
    assert float((mine - exact).abs().max()) < 2 * float((theirs - exact).abs().max())


def test_the_repeatable_gradient_does_not_depend_on_the_order() -> None:
    """A view and its rotation by half a turn visit pixels in opposite orders."""
    xs, ys = (each.float() for each in centres((64, 64)))
    slopes = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    map_ = torch.tensor([[[0.3, 0.1, 0.0], [-0.1, 0.3, 0.0]]])
    turned = map_ * torch.tensor([-1.0, -1.0, 1.0])
    one = spread(slopes, map_, xs, ys, (16, 16), "edge")
    assert torch.equal(one, spread(slopes.flip(2, 3), turned, xs, ys, (16, 16), "edge"))


def test_the_repeatable_gradient_hides_nothing_and_stays_within_its_image() -> None:
    """No slope at all gives none; a slope that is not a number spoils its own image, and only that one."""
    maps, (xs, ys) = torch.eye(2, 3)[None].repeat(4, 1, 1), (each.float() for each in centres((6, 6)))
    slopes = torch.ones(4, 3, 6, 6)
    slopes[0] = 0
    slopes[1, 0, 2, 2] = float("nan")
    slopes[2, 1, 0, 0] = float("inf")
    found = spread(slopes, maps, xs, ys, (6, 6), "edge")
    assert not found[0].any()
    assert not found[1].isfinite().any()
    assert not found[2].isfinite().any()
    torch.testing.assert_close(found[3], slopes[3], atol=1e-5, rtol=0)


def test_many_view_pixels_may_come_from_one_image_pixel() -> None:
    """A million equal slopes on one pixel are added up without overflow."""
    maps, (xs, ys) = torch.tensor([[[0.0, 0, -5], [0, 0, -5]]]), (each.float() for each in centres((1024, 1024)))
    found = spread(torch.full((1, 1, 1024, 1024), 3.0), maps, xs, ys, (4, 4), "edge")
    assert float(found[0, 0, 0, 0]) == 3.0 * 2**20
    assert float(found.sum()) == 3.0 * 2**20


def test_the_deterministic_mode_is_as_it_was() -> None:
    """It is left for sums of whole numbers only, also where they fail."""
    xs, ys = (each.float() for each in centres((6, 6)))
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    try:
        one = spread(torch.ones(1, 3, 6, 6), torch.eye(2, 3)[None], xs, ys, (6, 6), "edge")
        assert torch.get_deterministic_debug_mode() == 1
        with contextlib.suppress(KeyError), _in_any_order():
            assert torch.get_deterministic_debug_mode() == 0
            raise KeyError
        assert torch.get_deterministic_debug_mode() == 1
    finally:
        torch.set_deterministic_debug_mode(before)
    assert torch.equal(one, spread(torch.ones(1, 3, 6, 6), torch.eye(2, 3)[None], xs, ys, (6, 6), "edge"))
