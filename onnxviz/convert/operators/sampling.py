"""Sampling at computed places: grids, affine maps, deformed kernels. Regions are in `regions`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from onnxviz.convert.operators import regions
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    as_integers,
    bounded,
    by_function,
)
from onnxviz.convert.operators.windows import make_window
from onnxviz.core.errors import ModelError

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}
_TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


def sample(values: torch.Tensor, grid: torch.Tensor, mode: str, padding: str, align_corners: bool) -> torch.Tensor:
    """Sample a tensor at the points of a grid, along any number of axes.

    Args:
        values: [N, C, *spatial] of r spatial axes.
        grid: [N, *out, r], from -1 to 1, the last spatial axis first.
        mode: "nearest" (half to even), "linear" or "cubic" (Keys 1981, with -0.75).
        padding: "zeros", "border" or "reflection": what lies outside.
        align_corners: whether -1 and 1 are the centres of the outermost samples, and not their outer edges.

    Returns:
        [N, C, *out]. Source: ONNX GridSample.
    """
    sizes = values.shape[2:]
    taps: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for axis, size in enumerate(sizes):
        place = grid[..., len(sizes) - 1 - axis].flatten(1)
        place = (place + 1) / 2 * (size - 1) if align_corners else ((place + 1) * size - 1) / 2
        if mode == "nearest":
            place = place.round()
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        if padding == "border":
            place = torch.where((place < low) | (place > high), place.clamp(0, size - 1), place)
        elif padding == "reflection":
            place = _reflect(place, low, high)
        taps.append(_taps(place, size, mode, padding, (low, high)))
    flat = values.flatten(2)
    made: torch.Tensor | None = None
    for combination in itertools.product(*taps):
        index, weight = combination[0]
        for (next_index, next_weight), size in zip(combination[1:], sizes[1:], strict=True):
            index, weight = index * size + next_index, weight * next_weight
        part = flat.gather(2, index.unsqueeze(1).expand(-1, flat.shape[1], -1)) * weight.unsqueeze(1)
        made = part if made is None else made + part
    assert made is not None
    return made.reshape(*values.shape[:2], *grid.shape[1:-1])


def _taps(
    place: torch.Tensor, size: int, mode: str, padding: str, borders: tuple[float, float]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the samples along one axis that each place is made of: indices and weights."""
    base = place.floor()
    rest = place - base
    found = []
    for offset, weight in zip(_TAPS[mode], _weights(rest, mode), strict=True):
        tap = base.detach() + offset
        if padding == "zeros":
            weight = torch.where((tap >= 0) & (tap <= size - 1), weight, 0.0)
        elif padding == "reflection":
            tap = _reflect(tap, *borders)
        # Not a number becomes some sample: an index must be one.
        found.append((tap.nan_to_num(0.0).clamp(0, size - 1).long(), weight))
    return found


def _weights(rest: torch.Tensor, mode: str) -> list[torch.Tensor]:
    if mode == "nearest":
        return [torch.ones_like(rest)]
    if mode == "linear":
        return [1 - rest, rest]
    a = -0.75

    def near(x: torch.Tensor) -> torch.Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: torch.Tensor) -> torch.Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(rest + 1), near(rest), near(1 - rest), far(2 - rest)]


def _reflect(place: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Fold places back at the borders until they lie within."""
    span = high - low
    if span <= 0:
        return torch.full_like(place, low)
    folded = (place - low).abs() % (2 * span)
    return torch.where(folded > span, 2 * span - folded, folded) + low


def grid_sample(
    values: torch.Tensor, grid: torch.Tensor, mode: str, padding_mode: str, align_corners: bool
) -> torch.Tensor:
    """Sample [N, C, *spatial] at the points of a grid [N, *out, r]. Source: ONNX GridSample; arguments of `sample`."""
    if not values.is_floating_point():
        made = grid_sample(values.double(), grid.double(), mode, padding_mode, align_corners)
        return made.to(values.dtype)
    mode = _MODES[mode]
    if not _native(values.dim() - 2, mode, padding_mode):
        return sample(values, grid, mode, padding_mode, align_corners)
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return functional.grid_sample(values, grid, mode, padding_mode, align_corners)


def _native(rank: int, mode: str, padding: str) -> bool:
    """Whether PyTorch's own does the same.

    Its cubic mode looks beyond the border before it comes back, and it reflects before it rounds.
    """
    if mode == "cubic":
        return rank == 2 and padding == "zeros"
    return rank in (2, 3) and (mode != "nearest" or padding != "reflection")


def affine_grid(theta: torch.Tensor, size: Any, align_corners: bool) -> torch.Tensor:
    """Make the grid [N, *spatial, r] of maps [N, r, r + 1] for images of size (N, C, *spatial). ONNX AffineGrid."""
    wanted = as_integers(size)
    bounded((*theta.shape[:1], *wanted[2:], len(wanted) - 1), "AffineGrid")
    return functional.affine_grid(theta, [theta.shape[0], *wanted[1:]], align_corners)


def convolve_deformed(
    images: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    attributes: Mapping[str, Any],
) -> torch.Tensor:
    """Convolve with a kernel whose samples are moved, each at each place. Source: ONNX DeformConv.

    Args:
        images: [N, C, *spatial] of r spatial axes.
        weight: [M, C / groups, *kernel] of K samples.
        offset: [N, offset groups x K x r, *out], how far each sample is moved, in samples of the image.
        bias: [M].
        mask: [N, offset groups x K, *out], by what each sample is multiplied.
        attributes: strides, dilations, pads, group and offset_group of the node.
    """
    groups, offset_groups = int(attributes.get("group", 1)), int(attributes.get("offset_group", 1))
    sizes, out = images.shape[2:], offset.shape[2:]
    rank, samples = len(sizes), math.prod(weight.shape[2:])
    batch = images.shape[0] * offset_groups
    moved = offset.reshape(batch, samples, rank, *out)
    grid = _kernel_places(attributes, weight.shape[2:], out, moved)
    # A point lies in [-1, 1] from the outer edge of the first sample to that of the last.
    extent = torch.tensor(sizes, dtype=moved.dtype, device=moved.device).reshape(rank, *(1,) * rank)
    grid = ((2 * grid + 1) / extent - 1).flip(2).movedim(2, -1)
    bounded((images.shape[0], images.shape[1], samples, *out), "DeformConv")
    planes = images.reshape(batch, -1, *sizes)
    if rank in (2, 3):
        # One row for each sample of the kernel: grid_sample takes as many output axes as input axes.
        rows = grid.flatten(1, 2)
        taken = functional.grid_sample(planes, rows, "bilinear", "zeros", align_corners=False)
    else:
        taken = sample(planes, grid, "linear", "zeros", False)
    taken = taken.reshape(batch, planes.shape[1], samples, -1)
    if mask is not None:
        taken = taken * mask.reshape(batch, 1, samples, -1)
    columns = taken.reshape(images.shape[0], groups, -1, taken.shape[-1])
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1)
    made = (kernels @ columns).reshape(images.shape[0], weight.shape[0], *out)
    return made if bias is None else made + bias.reshape(-1, *(1,) * rank)


def _kernel_places(
    attributes: Mapping[str, Any], kernel: Sequence[int], out: Sequence[int], moved: torch.Tensor
) -> torch.Tensor:
    """Return where each sample of the kernel lies in the image, [batch, K, r, *out]."""
    try:
        window = make_window("DeformConv", attributes, kernel)
    except NotConvertible as fault:  # the kernel's size is known only now
        raise ModelError(str(fault)) from fault
    axes = []
    for axis, (size, length) in enumerate(zip(kernel, out, strict=True)):
        rank = len(out)
        within = torch.arange(size, device=moved.device, dtype=moved.dtype) * window.dilation[axis]
        start = torch.arange(length, device=moved.device, dtype=moved.dtype) * window.stride[axis]
        shape = [*kernel, *out]
        within = within.reshape([-1 if index == axis else 1 for index in range(2 * rank)])
        start = start.reshape([-1 if index == axis + rank else 1 for index in range(2 * rank)])
        axes.append((within + start - window.begin[axis]).expand(shape).reshape(-1, *out))
    return torch.stack(axes, 1) + moved


CONVERTERS: Mapping[str, Converter] = {
    "AffineGrid": by_function(affine_grid, 2, numbers=(1,), align_corners=False),
    "DeformConv": lambda operation: Conversion(
        Function(convolve_deformed, attributes=dict(operation.attributes)), range(5)
    ),
    "GridSample": by_function(
        grid_sample,
        2,
        mode=("linear", *_MODES),
        padding_mode=("zeros", "border", "reflection"),
        align_corners=False,
    ),
    "MaxRoiPool": regions.convert_maximum_regions,
    "RoiAlign": regions.convert_aligned_regions,
}
