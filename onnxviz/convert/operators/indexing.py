"""Gather and scatter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation

_REDUCTIONS = {"none": "", "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
"""PyTorch's name of a reduction, by ONNX's."""


def _within(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Count negative indices from the end."""
    places = indices.long()
    return torch.where(places < 0, places + size, places)


def _alike(values: torch.Tensor, updates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring two tensors to one type: an integer may be carried as float32."""
    kind = torch.promote_types(values.dtype, updates.dtype)
    return values.to(kind), updates.to(kind)


class Gather(nn.Module):
    """ONNX Gather by indices that are computed."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, values: torch.Tensor, indices: Any) -> torch.Tensor:
        """Take parts along an axis."""
        if isinstance(indices, int):
            return values.select(self.axis, indices)
        if isinstance(indices, tuple):
            return torch.stack([values.select(self.axis, int(index)) for index in indices], self.axis)
        axis = self.axis % max(values.dim(), 1)
        places = _within(indices, values.shape[axis])
        taken = values.index_select(axis, places.reshape(-1))
        return taken.reshape((*values.shape[:axis], *places.shape, *values.shape[axis + 1 :]))


class Take(nn.Module):
    """ONNX Gather by a constant vector or array of indices."""

    indices: torch.Tensor

    def __init__(self, axis: int, indices: np.ndarray) -> None:
        super().__init__()
        self.axis = axis
        self.shape = indices.shape
        self.negative = bool((indices < 0).any())
        self.register_buffer("indices", torch.from_numpy(indices.astype(np.int64).reshape(-1)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take parts along an axis."""
        axis = self.axis % max(values.dim(), 1)
        places = _within(self.indices, values.shape[axis]) if self.negative else self.indices
        taken = values.index_select(axis, places)
        if len(self.shape) == 1:
            return taken
        return taken.reshape((*values.shape[:axis], *self.shape, *values.shape[axis + 1 :]))


class Select(nn.Module):
    """ONNX Gather by a constant scalar index."""

    def __init__(self, axis: int, index: int) -> None:
        super().__init__()
        self.axis = axis
        self.index = index

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take one part, without copying."""
        return values.select(self.axis, self.index)


class Narrow(nn.Module):
    """ONNX Gather by indices that follow each other."""

    def __init__(self, axis: int, start: int, count: int) -> None:
        super().__init__()
        self.axis = axis
        self.start = start
        self.count = count

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Take parts, without copying."""
        return values.narrow(self.axis, self.start, self.count)


class GatherElements(nn.Module):
    """ONNX GatherElements."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Take an element for each index."""
        return values.gather(self.axis, _within(indices, values.shape[self.axis]))


class GatherND(nn.Module):
    """ONNX GatherND: the last axis of the indices holds places in the data, behind the batch axes."""

    def __init__(self, batch_axes: int) -> None:
        super().__init__()
        self.batch_axes = batch_axes

    def forward(self, values: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """Take slices."""
        places = indices.long()
        if not self.batch_axes:
            return values[places.unbind(-1)]
        batch = values.shape[: self.batch_axes]
        flat = values.reshape(math.prod(batch), *values.shape[self.batch_axes :])
        inner = places.reshape(math.prod(batch), -1, places.shape[-1])
        sample = torch.arange(flat.shape[0], device=values.device)[:, None]
        taken = flat[(sample, *inner.unbind(-1))]
        return taken.reshape((*places.shape[:-1], *taken.shape[2:]))


class ScatterElements(nn.Module):
    """ONNX ScatterElements, and the Scatter before it."""

    def __init__(self, axis: int, reduction: str) -> None:
        super().__init__()
        self.axis = axis
        self.reduction = reduction

    def forward(self, values: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        """Write an element for each index."""
        values, updates = _alike(values, updates)
        places = _within(indices, values.shape[self.axis])
        if not self.reduction:
            return values.scatter(self.axis, places, updates)
        return _reduce(values, self.axis, places, updates, self.reduction)


def _reduce(
    values: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor, reduction: str
) -> torch.Tensor:
    if values.dtype == torch.bool:
        return _reduce(values.to(torch.uint8), axis, places, updates.to(torch.uint8), reduction).bool()
    if reduction == "sum":
        return values.scatter_add(axis, places, updates)
    return values.scatter_reduce(axis, places, updates, reduction)


class ScatterND(nn.Module):
    """ONNX ScatterND: the last axis of the indices holds places in the data."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, values: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        """Write slices."""
        values, updates = _alike(values, updates)
        places = indices.long()
        if self.reduction in ("", "sum") and places.shape[-1]:
            return values.index_put(places.unbind(-1), updates, accumulate=self.reduction == "sum")
        depth = places.shape[-1]
        rest = math.prod(values.shape[depth:])
        flat = torch.zeros(places.shape[:-1], dtype=torch.int64, device=values.device)
        for axis in range(depth):
            flat = flat * values.shape[axis] + _within(places[..., axis], values.shape[axis])
        rows = flat.reshape(-1, 1).expand(-1, rest)
        whole, parts = values.reshape(-1, rest), updates.reshape(-1, rest)
        if not self.reduction:
            return whole.scatter(0, rows, parts).reshape(values.shape)
        return _reduce(whole, 0, rows, parts, self.reduction).reshape(values.shape)


class TensorScatter(nn.Module):
    """ONNX TensorScatter: write a part of a sequence into a cache, for each sample from a place of its own."""

    def __init__(self, axis: int, circular: bool) -> None:
        super().__init__()
        self.axis = axis
        self.circular = circular

    def forward(self, cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
        """Write."""
        cache, update = _alike(cache, update)
        axis = self.axis % max(cache.dim(), 1)
        place = torch.arange(update.shape[axis], device=cache.device)
        place = place.reshape([-1 if index == axis else 1 for index in range(cache.dim())])
        if start is not None:
            place = place + start.long().reshape([-1] + [1] * (cache.dim() - 1))
        if self.circular:
            place = place % cache.shape[axis]
        return cache.scatter(axis, place.expand(update.shape), update)


def convert_gather(operation: Operation) -> Conversion:
    """Convert `Gather`."""
    axis = int(operation.attributes.get("axis", 0))
    indices = operation.known(1)
    if indices is None:
        return Conversion(Gather(axis), (0, 1), numbers=(1,))
    if indices.ndim == 0:
        return Conversion(Select(axis, int(indices)))
    if indices.ndim == 1 and indices.size and indices[0] >= 0 and (np.diff(indices.astype(np.int64)) == 1).all():
        return Conversion(Narrow(axis, int(indices[0]), int(indices.size)))
    return Conversion(Take(axis, indices))


def convert_gather_elements(operation: Operation) -> Conversion:
    """Convert `GatherElements`."""
    return Conversion(GatherElements(int(operation.attributes.get("axis", 0))), (0, 1))


def convert_gather_nd(operation: Operation) -> Conversion:
    """Convert `GatherND`."""
    return Conversion(GatherND(int(operation.attributes.get("batch_dims", 0))), (0, 1))


def _reduction(operation: Operation) -> str:
    name = str(operation.attributes.get("reduction", "none"))
    if name not in _REDUCTIONS:
        raise NotConvertible(f"reduction {name!r}")
    return _REDUCTIONS[name]


def convert_scatter_elements(operation: Operation) -> Conversion:
    """Convert `ScatterElements` and `Scatter`."""
    module = ScatterElements(int(operation.attributes.get("axis", 0)), _reduction(operation))
    return Conversion(module, (0, 1, 2))


def convert_scatter_nd(operation: Operation) -> Conversion:
    """Convert `ScatterND`."""
    return Conversion(ScatterND(_reduction(operation)), (0, 1, 2))


def convert_tensor_scatter(operation: Operation) -> Conversion:
    """Convert `TensorScatter`."""
    mode = str(operation.attributes.get("mode", "linear"))
    if mode not in ("linear", "circular"):
        raise NotConvertible(f"mode {mode!r}")
    module = TensorScatter(int(operation.attributes.get("axis", -2)), mode == "circular")
    return Conversion(module, (0, 1, 2) if operation.has(2) else (0, 1))


CONVERTERS: Mapping[str, Converter] = {
    "Gather": convert_gather,
    "GatherElements": convert_gather_elements,
    "GatherND": convert_gather_nd,
    "Scatter": convert_scatter_elements,
    "ScatterElements": convert_scatter_elements,
    "ScatterND": convert_scatter_nd,
    "TensorScatter": convert_tensor_scatter,
}
