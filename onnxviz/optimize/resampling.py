"""Images seen through affine maps, bilinearly, with a gradient that is the same bits in every run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from onnxviz.optimize.transforms import Fill

_BILINEAR = 0
_BEYOND: dict[Fill, int] = {"grey": 0, "edge": 1, "reflect": 2}
"""Zeros, the border and reflection, as `torch.grid_sampler_2d` numbers them."""
_UNIT = 2.0**38
"""What an image's largest slope is as a whole number: sums of 2^24 of them stay below 2^63."""


class Resampling:
    """Looks at images through affine maps, in views of a size in pixels; nothing waits for the device.

    `fill` is what lies beyond the image's border: its mirror image, middle grey, or the border's own colour.
    """

    def __init__(self, size: tuple[int, int], fill: Fill, device: torch.device | str) -> None:
        # Pixel centres in -1..1, as `torch.nn.functional.affine_grid` has them with align_corners=False.
        centres = [(2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1 for length in size]
        self._ys, self._xs = (centre.to(device, torch.float32) for centre in centres)
        self._fill: Fill = fill

    def __call__(self, images: Tensor, maps: Tensor) -> Tensor:
        """Return the views [N, C, h, w] of images [N, C, H, W]; pixels at the border are as bright as those inside.

        Maps are [N, 2, 3], from the view to the image, in the normalised coordinates of `affine_grid`.
        """
        maps = maps.to(images.dtype)
        xs, ys = self._xs.to(images.dtype), self._ys.to(images.dtype)
        images = images - 0.5 if self._fill == "grey" else images
        seen: Tensor
        if images.device.type != "cpu":
            seen = RepeatableSampling.apply(images, maps, xs, ys, self._fill)  # type: ignore[no-untyped-call]
        else:
            seen = _sample(images, maps, xs, ys, self._fill)
        return seen + 0.5 if self._fill == "grey" else seen


def _sample(images: Tensor, maps: Tensor, xs: Tensor, ys: Tensor, fill: Fill) -> Tensor:
    return torch.grid_sampler_2d(images, places(maps, xs, ys), _BILINEAR, _BEYOND[fill], False)


class RepeatableSampling(torch.autograd.Function):
    """Sampling by torch's kernel with a gradient that is the same bits in every run on a GPU.

    Torch's own adds slopes up in the order in which threads arrive, which changes from run to run. On a CPU torch's is
    repeatable, and faster.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, maps: Tensor, xs: Tensor, ys: Tensor, fill: Fill) -> Tensor:
        ctx.save_for_backward(maps, xs, ys)
        ctx.size, ctx.fill = tuple(images.shape[2:]), fill
        return _sample(images, maps, xs, ys, fill)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        maps, xs, ys = ctx.saved_tensors
        return spread(slopes[0], maps, xs, ys, ctx.size, ctx.fill), None, None, None, None


def places(maps: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Return where the pixels of views come from, x and y in -1..1, [N, h, w, 2].

    Places are one sum of complex numbers x + iy, which is 40 times as fast as `affine_grid` on a CPU. Maps are
    [N, 2, 3]; `xs` [w] and `ys` [h] are, here and below, the middles of the view's columns and rows in -1..1.
    """
    along_x, along_y, shift = torch.view_as_complex(maps.transpose(1, 2).contiguous()).unbind(1)
    rows = along_y[:, None, None] * ys[:, None]
    columns = torch.addcmul(shift[:, None, None], along_x[:, None, None], xs.to(along_x.dtype))
    return torch.view_as_real(rows + columns)


def spread(slopes: Tensor, maps: Tensor, xs: Tensor, ys: Tensor, size: tuple[int, int], fill: Fill) -> Tensor:
    """Give what each view pixel says to the four image pixels that it was made of: the transpose of sampling.

    Slopes of the views' pixels [N, C, h, w] are added as whole numbers, whose sum does not depend on the order. The
    result, [N, C, H, W] of the images' `size`, is exact to 2^-38 of an image's largest slope; not finite where slopes
    are not.
    """
    count, colors = slopes.shape[:2]
    height, width = size[0] + 3, size[1] + 3  # one line before and two after take what falls beside the image
    row, below = _between(maps[:, 1], xs, ys, size[0], fill)
    column, right = _between(maps[:, 0], xs, ys, size[1], fill)
    first = (row.to(torch.int64) * width + column.to(torch.int64) + (width + 1)).flatten(1)[:, None]
    largest = slopes.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(slopes.dtype).tiny)
    slopes = slopes / largest * _UNIT
    sums = torch.zeros((count, colors, height * width), dtype=torch.int64, device=slopes.device)
    low = slopes * below[:, None]
    for line, part in ((0, slopes - low), (width, low)):
        end = part * right[:, None]
        for offset, share in ((line, part - end), (line + 1, end)):
            with _in_any_order():
                sums.scatter_add_(2, (first + offset).expand(-1, colors, -1), share.flatten(2).to(torch.int64))
    inner = sums.view(count, colors, height, width)[:, :, 1:-2, 1:-2]
    return inner.to(slopes.dtype) * (largest / _UNIT)


@contextlib.contextmanager
def _in_any_order() -> Iterator[None]:
    """Let sums be added up in any order, as is sound for whole numbers: the deterministic mode would sort them all."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _between(line: Tensor, xs: Tensor, ys: Tensor, length: int, fill: Fill) -> tuple[Tensor, Tensor]:
    """Return the pixel of a side that each place lies behind, and how far, as a share of a pixel: [N, h, w] twice.

    `line` is one of the maps, [N, 3], and `length` that of the image's side in pixels; -1 and 1 are the outer edges of
    its first and last one. Pixels go from -1 for what lies before the image to `length` for what lies behind.
    """
    along_x, along_y, shift = line[:, :, None, None].unbind(1)
    if fill == "reflect":  # in mirror images and their mirror images: every 2 · length pixels all is the same
        turns = (along_y * ys[:, None] + (shift + 1)) / 4 + along_x * xs / 4
        pixels = (turns - turns.round()).abs_().mul_(2 * length).sub_(0.5)
    else:
        pixels = ((along_y * ys[:, None] + shift) * length + (length - 1)) / 2 + along_x * xs * (length / 2)
    pixels = pixels.clamp_(-1, length) if fill == "grey" else pixels.clamp_(0, length - 1)
    whole = pixels.floor()
    return whole, pixels.sub_(whole)
