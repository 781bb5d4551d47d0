"""Gather and scatter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from onnxviz.convert.operators.operation import Conversion, Converter, Function, Operation, by_function

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


def gather(values: torch.Tensor, indices: Any, *, axis: int, negative: bool = True) -> torch.Tensor:
    """ONNX Gather; `negative` says whether some of the indices may count from the end."""
    if isinstance(indices, int):
        return values.select(axis, indices)
    if isinstance(indices, tuple):
        return torch.stack([values.select(axis, int(index)) for index in indices], axis)
    axis = axis % max(values.dim(), 1)
    places = _within(indices, values.shape[axis]) if negative else indices
    taken = values.index_select(axis, places.reshape(-1))
    if places.dim() == 1:
        return taken
    return taken.reshape((*values.shape[:axis], *places.shape, *values.shape[axis + 1 :]))


def gather_elements(values: torch.Tensor, indices: torch.Tensor, axis: int) -> torch.Tensor:
    """ONNX GatherElements."""
    return values.gather(axis, _within(indices, values.shape[axis]))


def gather_nd(values: torch.Tensor, indices: torch.Tensor, batch_dims: int) -> torch.Tensor:
    """ONNX GatherND: the last axis of the indices holds places in the data, behind the batch axes."""
    places = indices.long()
    if not batch_dims:
        return values[places.unbind(-1)]
    batch = values.shape[:batch_dims]
    flat = values.reshape(math.prod(batch), *values.shape[batch_dims:])
    inner = places.reshape(math.prod(batch), -1, places.shape[-1])
    sample = torch.arange(flat.shape[0], device=values.device)[:, None]
    taken = flat[(sample, *inner.unbind(-1))]
    return taken.reshape((*places.shape[:-1], *taken.shape[2:]))


def scatter_elements(
    values: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, axis: int, reduction: str
) -> torch.Tensor:
    """ONNX ScatterElements."""
    values, updates = _alike(values, updates)
    return _scatter(values, axis, _within(indices, values.shape[axis]), updates, _REDUCTIONS[reduction])


def _scatter(
    values: torch.Tensor, axis: int, places: torch.Tensor, updates: torch.Tensor, reduction: str
) -> torch.Tensor:
    if not reduction:
        return values.scatter(axis, places, updates)
    if values.dtype == torch.bool:
        return _scatter(values.to(torch.uint8), axis, places, updates.to(torch.uint8), reduction).bool()
    if reduction == "sum":
        return values.scatter_add(axis, places, updates)
    return values.scatter_reduce(axis, places, updates, reduction)


def scatter_nd(values: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, reduction: str) -> torch.Tensor:
    """ONNX ScatterND: the last axis of the indices holds places in the data."""
    values, updates = _alike(values, updates)
    places, kind = indices.long(), _REDUCTIONS[reduction]
    if kind in ("", "sum") and places.shape[-1]:
        return values.index_put(places.unbind(-1), updates, accumulate=kind == "sum")
    depth = places.shape[-1]
    rest = math.prod(values.shape[depth:])
    flat = torch.zeros(places.shape[:-1], dtype=torch.int64, device=values.device)
    for axis in range(depth):
        flat = flat * values.shape[axis] + _within(places[..., axis], values.shape[axis])
    rows = flat.reshape(-1, 1).expand(-1, rest)
    return _scatter(values.reshape(-1, rest), 0, rows, updates.reshape(-1, rest), kind).reshape(values.shape)


def scatter_sequence(
    cache: torch.Tensor, update: torch.Tensor, start: torch.Tensor | None = None, *, axis: int, mode: str
) -> torch.Tensor:
    """ONNX TensorScatter: write a part of a sequence into a cache, for each sample from a place of its own."""
    cache, update = _alike(cache, update)
    axis = axis % max(cache.dim(), 1)
    place = torch.arange(update.shape[axis], device=cache.device)
    place = place.reshape([-1 if index == axis else 1 for index in range(cache.dim())])
    if start is not None:
        place = place + start.long().reshape([-1] + [1] * (cache.dim() - 1))
    if mode == "circular":
        place = place % cache.shape[axis]
    return cache.scatter(axis, place.expand(update.shape), update)


def convert_gather(operation: Operation) -> Conversion:
    """Convert `Gather`; what is taken by one constant index, or by some that follow each other, is not copied."""
    axis = operation.setting("axis", 0)
    indices = operation.known(1)
    if indices is None:
        return Conversion(Function(gather, axis=axis), (0, 1), numbers=(1,))
    if indices.ndim == 0:
        return Conversion(Function(torch.select, dim=axis, index=int(indices)))
    if indices.ndim == 1 and indices.size and indices[0] >= 0 and (np.diff(indices.astype(np.int64)) == 1).all():
        return Conversion(Function(torch.narrow, dim=axis, start=int(indices[0]), length=indices.size))
    places = torch.from_numpy(indices.astype(np.int64))
    return Conversion(Function(gather, indices=places, axis=axis, negative=bool((indices < 0).any())))


CONVERTERS: Mapping[str, Converter] = {
    "Gather": convert_gather,
    "GatherElements": by_function(gather_elements, 2, axis=0),
    "GatherND": by_function(gather_nd, 2, batch_dims=0),
    "ScatterElements": by_function(scatter_elements, 3, axis=0, reduction=tuple(_REDUCTIONS)),
    "ScatterND": by_function(scatter_nd, 3, reduction=tuple(_REDUCTIONS)),
    "TensorScatter": by_function(scatter_sequence, 3, axis=-2, mode=("linear", "circular")),
}
