"""Pad and CenterCropPad: add samples around a tensor, or take some away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, NotConvertible, Operation, as_numbers
from onnxviz.convert.operators.windows import as_torch_padding

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "wrap"}
"""PyTorch's name of a mode, by ONNX's."""


class Pad(nn.Module):
    """ONNX Pad: negative amounts cut; what is cut is gone before edges are repeated or reflected.

    Args:
        mode: "constant", "reflect", "replicate" or "wrap".
        value: what is added by "constant", unless it is an input.
    """

    def __init__(self, mode: str, value: float = 0) -> None:
        super().__init__()
        self.mode = mode
        self.value = value

    def forward(
        self, values: torch.Tensor, pads: Any, value: torch.Tensor | None = None, axes: Any = None
    ) -> torch.Tensor:
        """Pad."""
        amounts = [int(amount) for amount in as_numbers(pads)]
        places = (
            range(values.dim()) if axes is None else [int(axis) % max(values.dim(), 1) for axis in as_numbers(axes)]
        )
        pairs = [(0, 0)] * values.dim()
        for index, axis in enumerate(places):
            pairs[axis] = (amounts[index], amounts[index + len(places)])
        sizes = [size + sum(pair) for size, pair in zip(values.shape, pairs, strict=True)]
        if self.mode == "constant":
            bounded([max(size, 0) for size in sizes], "Pad")
            return self._fill(values, pairs, value)
        bounded(sizes, "Pad")
        cut = [(min(before, 0), min(after, 0)) for before, after in pairs]
        if any(pair != (0, 0) for pair in cut):
            values = functional.pad(values, as_torch_padding(cut))
            pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
        return self._repeat(values, pairs)

    def _fill(self, values: torch.Tensor, pairs: list[tuple[int, int]], value: torch.Tensor | None) -> torch.Tensor:
        """Add a constant around the values; an axis may lose all that it has, and more."""
        emptied = [
            axis for axis, size in enumerate(values.shape) if size + min(pairs[axis][0], 0) + min(pairs[axis][1], 0) < 0
        ]
        if emptied:
            for axis in emptied:
                length = max(values.shape[axis] + sum(pairs[axis]), 0)
                values, pairs[axis] = values.narrow(axis, 0, 0), (length, 0)
        while len(pairs) > 1 and pairs[0] == (0, 0):
            pairs = pairs[1:]  # PyTorch names the last axes only
        amounts = as_torch_padding(pairs)
        if not any(amounts):
            return values
        if value is None:
            return functional.pad(values, amounts, value=self.value)
        inside = functional.pad(torch.ones_like(values, dtype=torch.bool), amounts)
        kind = torch.promote_types(values.dtype, value.dtype)
        return torch.where(inside, functional.pad(values, amounts).to(kind), value.reshape(()).to(kind))

    def _repeat(self, values: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
        """Continue the values beyond their edges."""
        if self._native(values, pairs):
            return functional.pad(values, as_torch_padding(pairs[2:]), mode=self.mode)
        for axis, (before, after) in enumerate(pairs):
            if (before, after) == (0, 0):
                continue
            size = values.shape[axis]
            place = torch.arange(-before, size + after, device=values.device)
            if self.mode == "wrap":
                place = place % size
            elif self.mode == "reflect" and size > 1:
                place = place % (2 * size - 2)
                place = torch.minimum(place, 2 * size - 2 - place)
            else:
                place = place.clamp(0, size - 1)
            values = values.index_select(axis, place)
        return values

    def _native(self, values: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> bool:
        """Whether PyTorch has this padding itself: behind batch and channels, floating, no more than there is."""
        if self.mode == "wrap" or not 3 <= values.dim() <= 5 or not values.is_floating_point():
            return False
        if any(pair != (0, 0) for pair in pairs[:2]):
            return False
        return self.mode != "reflect" or all(
            max(pair) < size for pair, size in zip(pairs[2:], values.shape[2:], strict=True)
        )


class CenterCropPad(nn.Module):
    """ONNX CenterCropPad: cut or fill with zeros to a size, the middle stays the middle."""

    def __init__(self, axes: Sequence[int] | None) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, values: torch.Tensor, shape: Any) -> torch.Tensor:
        """Cut and pad."""
        wanted = [int(size) for size in as_numbers(shape)]
        places = range(values.dim()) if self.axes is None else self.axes
        pairs = [(0, 0)] * values.dim()
        for axis, size in zip(places, wanted, strict=True):
            there = values.shape[axis]
            if size < there:
                values = values.narrow(axis, (there - size) // 2, size)
            else:
                pairs[axis] = ((size - there) // 2, size - there - (size - there) // 2)
        bounded([size + sum(pair) for size, pair in zip(values.shape, pairs, strict=True)], "CenterCropPad")
        amounts = as_torch_padding(pairs)
        return functional.pad(values, amounts) if any(amounts) else values


def convert_pad(operation: Operation) -> Conversion:
    """Convert `Pad`."""
    mode = str(operation.attributes.get("mode", "constant"))
    if mode not in _MODES:
        raise NotConvertible(f"padding mode {mode!r}")
    value = operation.known(2)
    number = np.asarray(value).reshape(-1)[0].item() if value is not None and np.size(value) else 0
    pad = Pad(_MODES[mode], number)
    inputs = (0, 1, 2, 3) if operation.computed(2) else (0, 1, 3)
    if not operation.computed(2):
        return Conversion(_WithoutValue(pad), inputs[: 3 if operation.has(3) else 2], numbers=(1, 3))
    return Conversion(pad, inputs[: 4 if operation.has(3) else 3], numbers=(1, 3))


class _WithoutValue(nn.Module):
    """A Pad that adds a constant."""

    def __init__(self, pad: Pad) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, values: torch.Tensor, pads: Any, axes: Any = None) -> torch.Tensor:
        """Pad."""
        result: torch.Tensor = self.pad(values, pads, None, axes)
        return result


def convert_center_crop_pad(operation: Operation) -> Conversion:
    """Convert `CenterCropPad`."""
    axes = operation.attributes.get("axes")
    module = CenterCropPad(None if axes is None else tuple(int(axis) for axis in axes))
    return Conversion(module, (0, 1), numbers=(1,))
