"""Operators whose result is chosen by values: TopK, NonZero, Unique, Compress, NonMaxSuppression.

The size of most of these results is known only when the values are: they wait for the device, as ONNX defines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers

_SIGN = -(1 << 63)


class TopK(nn.Module):
    """ONNX TopK: the largest or smallest along an axis, in order; of equals the first.

    Args:
        axis: the axis.
        largest: whether the largest are wanted.
        unsigned: whether an int64 carries the bits of an unsigned number.
        wanted: which of values and indices the node has as outputs.
    """

    def __init__(self, axis: int, largest: bool, unsigned: bool, wanted: tuple[bool, bool]) -> None:
        super().__init__()
        self.axis = axis
        self.largest = largest
        self.unsigned = unsigned
        self.wanted = wanted

    def forward(self, values: torch.Tensor, count: Any) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """Find them. PyTorch's topk takes any of equal values; a stable sort takes the first."""
        number = int(as_numbers(count)[0])
        keys = values ^ _SIGN if self.unsigned and not values.is_floating_point() else values
        if values.dim() == 0:
            order = torch.zeros_like(values, dtype=torch.int64)
        else:
            order = keys.detach().sort(dim=self.axis, descending=self.largest, stable=True).indices
            order = order.narrow(self.axis, 0, number)
        best = values.gather(self.axis, order) if self.wanted[0] else None
        if best is not None and not self.wanted[1]:
            return best
        return best, order


class NonZero(nn.Module):
    """ONNX NonZero: a row of places for each axis."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Find what is not zero."""
        return (values.reshape(1) if values.dim() == 0 else values).nonzero().T


class Compress(nn.Module):
    """ONNX Compress: keep where a condition holds; what is behind its end is dropped."""

    def __init__(self, axis: int | None) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, values: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Select."""
        places = condition.reshape(-1).nonzero().reshape(-1)
        if self.axis is None:
            return values.reshape(-1).index_select(0, places)
        return values.index_select(self.axis, places)


class CompressByConstant(nn.Module):
    """ONNX Compress by a constant condition."""

    places: torch.Tensor

    def __init__(self, axis: int | None, condition: np.ndarray) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("places", torch.from_numpy(np.flatnonzero(condition)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Select."""
        if self.axis is None:
            return values.reshape(-1).index_select(0, self.places)
        return values.index_select(self.axis, self.places)


class Unique(nn.Module):
    """ONNX Unique: what differs, of all values or of the slices along an axis.

    Args:
        axis: the axis; None for all values.
        ordered: whether the result is sorted, instead of in the order of first occurrence.
        unsigned: whether an int64 carries the bits of an unsigned number.
        single: whether only the first output is wanted.
    """

    def __init__(self, axis: int | None, ordered: bool, unsigned: bool, single: bool) -> None:
        super().__init__()
        self.axis = axis
        self.ordered = ordered
        self.unsigned = unsigned
        self.single = single

    def forward(self, values: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Find what differs; gradients go to the first occurrence."""
        data = values.reshape(-1) if self.axis is None else values
        axis = 0 if self.axis is None else self.axis
        keys = data.detach()
        if keys.dtype == torch.bool:
            keys = keys.to(torch.uint8)
        if self.unsigned and not keys.is_floating_point():
            keys = keys ^ _SIGN
        _, inverse, counts = torch.unique(keys, sorted=True, return_inverse=True, return_counts=True, dim=axis)
        inverse = inverse.reshape(-1)
        place = torch.arange(inverse.numel(), device=values.device)
        first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, place, "amin")
        if not self.ordered:
            order = first.argsort()
            rank = torch.empty_like(order).scatter(0, order, torch.arange(order.numel(), device=values.device))
            first, counts, inverse = first[order], counts[order], rank[inverse]
        chosen = data.index_select(axis, first)
        return chosen if self.single else (chosen, first, inverse, counts)


class NonMaxSuppression(nn.Module):
    """ONNX NonMaxSuppression: of boxes that overlap, that of the highest score; of equal scores, the first.

    The search is sequential and its result a list of whole numbers: it runs on the host, in single precision as
    ONNX Runtime does.

    Args:
        center: whether boxes are [x, y, width, height] of their centre, instead of two corners [y, x, y, x].
    """

    def __init__(self, center: bool) -> None:
        super().__init__()
        self.center = center

    def forward(
        self, boxes: torch.Tensor, scores: torch.Tensor, most: Any = None, overlap: Any = None, least: Any = None
    ) -> torch.Tensor:
        """Return [number, 3]: image, class and box of each that is kept."""
        count = int(_first(most, 0))
        limit = float(_first(overlap, 0.0))
        threshold = _first(least, None)
        rows: list[np.ndarray] = []
        if count > 0:
            corners = self._corners(boxes.detach().cpu().numpy())
            ranked = scores.detach().cpu().numpy()
            for image in range(ranked.shape[0]):
                for kind in range(ranked.shape[1]):
                    kept = _suppress(corners[image], ranked[image, kind], count, limit, threshold)
                    row = np.empty((len(kept), 3), np.int64)
                    row[:, 0], row[:, 1], row[:, 2] = image, kind, kept
                    rows.append(row)
        found = np.concatenate(rows) if rows else np.empty((0, 3), np.int64)
        return torch.from_numpy(found).to(boxes.device)

    def _corners(self, boxes: np.ndarray) -> np.ndarray:
        """Return [..., 4]: left, top, right, bottom."""
        first, second = boxes[..., :2], boxes[..., 2:]
        if self.center:
            half = second / np.asarray(2, boxes.dtype)
            return np.concatenate([first - half, first + half], -1)
        low, high = np.minimum(first, second), np.maximum(first, second)
        return np.concatenate([low[..., ::-1], high[..., ::-1]], -1)


def _first(values: Any, default: Any) -> Any:
    numbers = () if values is None else as_numbers(values)
    return numbers[0] if numbers else default


def _suppress(boxes: np.ndarray, scores: np.ndarray, count: int, limit: float, threshold: float | None) -> list[int]:
    """Return the places of the boxes [number, 4] that are kept, best first."""
    candidates = np.arange(len(scores)) if threshold is None else np.flatnonzero(scores > threshold)
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(candidates) and len(kept) < count:
        best, candidates = candidates[0], candidates[1:]
        kept.append(int(best))
        others = boxes[candidates]
        sides = np.minimum(others[:, 2:], boxes[best, 2:]) - np.maximum(others[:, :2], boxes[best, :2])
        common = sides[:, 0] * sides[:, 1]
        union = areas[candidates] + areas[best] - common
        meets = (sides > 0).all(1) & (common > 0) & (areas[candidates] > 0) & (areas[best] > 0) & (union > 0)
        ratio = np.divide(common, union, out=np.zeros_like(common), where=meets)
        candidates = candidates[~(meets & (ratio > np.float32(limit)))]
    return kept


def convert_top_k(operation: Operation) -> Conversion:
    """Convert `TopK`."""
    attributes = operation.attributes
    module = TopK(
        int(attributes.get("axis", -1)),
        bool(attributes.get("largest", 1)),
        operation.element(0) == TensorProto.UINT64,
        (operation.wants(0), operation.wants(1)),
    )
    return Conversion(module, (0, 1), numbers=(1,))


def convert_non_zero(_: Operation) -> Conversion:
    """Convert `NonZero`."""
    return Conversion(NonZero())


def convert_compress(operation: Operation) -> Conversion:
    """Convert `Compress`."""
    axis = operation.attributes.get("axis")
    condition = operation.known(1)
    if condition is not None:
        return Conversion(CompressByConstant(axis, condition))
    return Conversion(Compress(axis), (0, 1))


def convert_unique(operation: Operation) -> Conversion:
    """Convert `Unique`."""
    if operation.element(0) == TensorProto.STRING:
        raise NotConvertible("strings are no tensors")
    attributes = operation.attributes
    module = Unique(
        attributes.get("axis"),
        bool(attributes.get("sorted", 1)),
        operation.element(0) == TensorProto.UINT64,
        operation.single,
    )
    return Conversion(module)


def convert_non_max_suppression(operation: Operation) -> Conversion:
    """Convert `NonMaxSuppression`."""
    module = NonMaxSuppression(bool(operation.attributes.get("center_point_box", 0)))
    return Conversion(module, (0, 1, 2, 3, 4)[: len(operation.given)], numbers=(2, 3, 4))


CONVERTERS: Mapping[str, Converter] = {
    "Compress": convert_compress,
    "NonMaxSuppression": convert_non_max_suppression,
    "NonZero": convert_non_zero,
    "TopK": convert_top_k,
    "Unique": convert_unique,
}
