"""Operators whose result is chosen by values: TopK, NonZero, Unique, Compress, NonMaxSuppression.

The size of most of these results is known only when the values are: they wait for the device, as ONNX defines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from onnxviz.convert.element_types import sortable
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    as_integers,
    as_numbers,
    by_function,
)


def top_k(
    values: torch.Tensor, count: Any, axis: int, largest: bool, element: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest or smallest along an axis, in order, and their places; of equals the first. ONNX TopK."""
    if values.dim() == 0:
        order = torch.zeros_like(values, dtype=torch.int64)
    else:
        # PyTorch's topk takes any of equal values; a stable sort takes the first.
        keys = sortable(values, element).detach()
        order = keys.sort(dim=axis, descending=largest, stable=True).indices
        order = order.narrow(axis, 0, as_integers(count)[0])
    return values.gather(axis, order), order


def nonzero(values: torch.Tensor) -> torch.Tensor:
    """Return a row of the places of what is not zero for each axis. ONNX NonZero."""
    return (values.reshape(1) if values.dim() == 0 else values).nonzero().T


def compress(values: torch.Tensor, condition: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Keep where a condition holds; what is behind its end is dropped. ONNX Compress."""
    return take(values, condition.reshape(-1).nonzero().reshape(-1), axis)


def take(values: torch.Tensor, places: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Keep some places of an axis, or of all that there is."""
    return values.reshape(-1).index_select(0, places) if axis is None else values.index_select(axis, places)


def unique(values: torch.Tensor, axis: int | None, ordered: bool, element: int) -> tuple[torch.Tensor, ...]:
    """Return what differs, of all values or of the slices along an axis, with first places, inverse and counts.

    ONNX Unique; `ordered` says whether the result is sorted, instead of in the order of first occurrence. Gradients go
    to the first occurrence.
    """
    data = values.reshape(-1) if axis is None else values
    along = 0 if axis is None else axis
    keys = data.detach()
    keys = keys.to(torch.uint8) if keys.dtype == torch.bool else sortable(keys, element)
    _, inverse, counts = torch.unique(keys, sorted=True, return_inverse=True, return_counts=True, dim=along)
    inverse = inverse.reshape(-1)
    place = torch.arange(inverse.numel(), device=values.device)
    first = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, place, "amin")
    if not ordered:
        order = first.argsort()
        rank = torch.empty_like(order).scatter(0, order, torch.arange(order.numel(), device=values.device))
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return data.index_select(along, first), first, inverse, counts


def suppress_boxes(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    most: Any = None,
    overlap: Any = None,
    least: Any = None,
    *,
    center_point_box: bool,
) -> torch.Tensor:
    """Return [number, 3]: image, class and box of each that is kept. ONNX NonMaxSuppression.

    Of boxes that overlap that of the highest score is kept; of equal scores, the first. The search is sequential and
    its result a list of whole numbers: it runs on the host, in single precision as ONNX Runtime does.
    `center_point_box` says whether boxes are [x, y, width, height] of their centre, instead of two corners
    [y, x, y, x].
    """
    count = int(_first(most, 0))
    limit = float(_first(overlap, 0.0))
    threshold = _first(least, None)
    rows: list[np.ndarray] = []
    if count > 0:
        corners = _corners(boxes.detach().cpu().numpy(), center_point_box)
        ranked = scores.detach().cpu().numpy()
        for image in range(ranked.shape[0]):
            for kind in range(ranked.shape[1]):
                kept = _suppress(corners[image], ranked[image, kind], count, limit, threshold)
                rows.append(np.array([(image, kind, box) for box in kept], np.int64).reshape(-1, 3))
    found = np.concatenate(rows) if rows else np.empty((0, 3), np.int64)
    return torch.from_numpy(found).to(boxes.device)


def _corners(boxes: np.ndarray, center: bool) -> np.ndarray:
    """Return [..., 4]: left, top, right, bottom."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center:
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


def convert_compress(operation: Operation) -> Conversion:
    axis, condition = operation.setting("axis", None), operation.known(1)
    if condition is not None:
        return Conversion(Function(take, places=torch.from_numpy(np.flatnonzero(condition)), axis=axis))
    return Conversion(Function(compress, axis=axis), (0, 1))


def convert_unique(operation: Operation) -> Conversion:
    element = operation.element(0)
    if element == TensorProto.STRING:
        raise NotConvertible("strings are no tensors")
    ordered = operation.setting("sorted", True)
    function = Function(unique, axis=operation.setting("axis", None), ordered=ordered, element=element)
    return Conversion(function, several=True)


CONVERTERS: Mapping[str, Converter] = {
    "Compress": convert_compress,
    "NonMaxSuppression": by_function(suppress_boxes, 5, numbers=(2, 3, 4), center_point_box=False),
    "NonZero": by_function(nonzero),
    "TopK": by_function(top_k, 2, numbers=(1,), element=True, several=True, axis=-1, largest=True),
    "Unique": convert_unique,
}
