"""Sampling at computed places: grids, affine maps, deformed kernels. Regions are in `regions`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators import regions
from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers
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


class GridSample(nn.Module):
    """Sampling at the points of a grid. Source: ONNX GridSample.

    Args:
        mode: "nearest", "linear" or "cubic".
        padding: "zeros", "border" or "reflection".
        align_corners: whether -1 and 1 are the centres of the outermost samples.
    """

    def __init__(self, mode: str, padding: str, align_corners: bool) -> None:
        super().__init__()
        self.mode = mode
        self.padding = padding
        self.align_corners = align_corners

    def forward(self, values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Sample [N, C, *spatial] at [N, *out, r]."""
        if not values.is_floating_point():
            return self.forward(values.double(), grid.double()).to(values.dtype)
        if not self._native(values.dim() - 2):
            return sample(values, grid, self.mode, self.padding, self.align_corners)
        mode = {"linear": "bilinear", "cubic": "bicubic"}.get(self.mode, self.mode)
        return functional.grid_sample(values, grid, mode, self.padding, self.align_corners)

    def _native(self, rank: int) -> bool:
        """Whether PyTorch's own does the same.

        Its cubic mode looks beyond the border before it comes back, and it reflects before it rounds.
        """
        if rank not in (2, 3):
            return False
        match self.mode:
            case "cubic":
                return rank == 2 and self.padding == "zeros"
            case "nearest":
                return self.padding != "reflection"
        return True


class AffineGrid(nn.Module):
    """The grid that an affine map makes of an image's places. Source: ONNX AffineGrid."""

    def __init__(self, align_corners: bool, size: Sequence[int] | None) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.size = size

    def forward(self, theta: torch.Tensor, size: Any = None) -> torch.Tensor:
        """Make [N, *spatial, r] of maps [N, r, r + 1] for images of size (N, C, *spatial)."""
        wanted = [int(number) for number in as_numbers(self.size if size is None else size)]
        bounded((*theta.shape[:1], *wanted[2:], len(wanted) - 1), "AffineGrid")
        return functional.affine_grid(theta, [theta.shape[0], *wanted[1:]], self.align_corners)


class DeformedConvolution(nn.Module):
    """A convolution whose kernel samples are moved, each at each place. Source: ONNX DeformConv.

    Args:
        attributes: strides, dilations, pads, group and offset_group of the node.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self.attributes = dict(attributes)
        self.groups = int(attributes.get("group", 1))
        self.offset_groups = int(attributes.get("offset_group", 1))

    def forward(
        self,
        images: torch.Tensor,
        weight: torch.Tensor,
        offset: torch.Tensor,
        bias: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Convolve.

        Args:
            images: [N, C, *spatial] of r spatial axes.
            weight: [M, C / groups, *kernel] of K samples.
            offset: [N, offset groups x K x r, *out], how far each sample is moved, in samples of the image.
            bias: [M].
            mask: [N, offset groups x K, *out], by what each sample is multiplied.
        """
        sizes, out = images.shape[2:], offset.shape[2:]
        rank, samples = len(sizes), math.prod(weight.shape[2:])
        batch = images.shape[0] * self.offset_groups
        moved = offset.reshape(batch, samples, rank, *out)
        grid = self._places(weight.shape[2:], out, moved)
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
        columns = taken.reshape(images.shape[0], self.groups, -1, taken.shape[-1])
        kernels = weight.reshape(self.groups, weight.shape[0] // self.groups, -1)
        made = (kernels @ columns).reshape(images.shape[0], weight.shape[0], *out)
        return made if bias is None else made + bias.reshape(-1, *(1,) * rank)

    def _places(self, kernel: Sequence[int], out: Sequence[int], moved: torch.Tensor) -> torch.Tensor:
        """Return where each sample of the kernel lies in the image, [batch, K, r, *out]."""
        try:
            window = make_window("DeformConv", self.attributes, kernel)
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


def convert_grid_sample(operation: Operation) -> Conversion:
    """Convert `GridSample`."""
    get = operation.attributes.get
    mode, padding = _MODES.get(str(get("mode", "linear"))), str(get("padding_mode", "zeros"))
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise NotConvertible("GridSample with a mode that ONNX does not define")
    return Conversion(GridSample(mode, padding, bool(get("align_corners", 0))), (0, 1))


def convert_affine_grid(operation: Operation) -> Conversion:
    """Convert `AffineGrid`."""
    size = operation.known(1)
    module = AffineGrid(
        bool(operation.attributes.get("align_corners", 0)), None if size is None else tuple(map(int, size))
    )
    return Conversion(module, (0,)) if size is not None else Conversion(module, (0, 1), numbers=(1,))


def convert_deformed_convolution(operation: Operation) -> Conversion:
    """Convert `DeformConv`."""
    return Conversion(DeformedConvolution(operation.attributes), range(len(operation.given)))


CONVERTERS: Mapping[str, Converter] = {
    "AffineGrid": convert_affine_grid,
    "DeformConv": convert_deformed_convolution,
    "GridSample": convert_grid_sample,
    "MaxRoiPool": regions.convert_maximum_regions,
    "RoiAlign": regions.convert_aligned_regions,
}
