"""Pad and CenterCropPad: add samples around a tensor, or take some away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Operation, as_integers, bounded
from onnxviz.convert.operators.windows import as_torch_padding, pad

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
        amounts = as_integers(pads)
        places = range(values.dim()) if axes is None else [axis % max(values.dim(), 1) for axis in as_integers(axes)]
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


def center_crop_pad(values: torch.Tensor, shape: Any, axes: Sequence[int] | None) -> torch.Tensor:
    """ONNX CenterCropPad: cut or fill with zeros to a size, the middle stays the middle."""
    pairs = [(0, 0)] * values.dim()
    for axis, size in zip(range(values.dim()) if axes is None else axes, as_integers(shape), strict=True):
        there = values.shape[axis]
        if size < there:
            values = values.narrow(axis, (there - size) // 2, size)
        else:
            pairs[axis] = ((size - there) // 2, size - there - (size - there) // 2)
    return pad(values, pairs, "CenterCropPad")


def convert_pad(operation: Operation) -> Conversion:
    """Convert `Pad`; what is added is an argument only where it is computed."""
    mode = operation.setting("mode", tuple(_MODES))
    value = operation.known(2)
    number = value.reshape(-1)[0].item() if value is not None and value.size else 0
    inputs = (0, 1, 2 if operation.computed(2) else None, 3)
    return Conversion(Pad(_MODES[mode], number), inputs, numbers=(1, 3))
