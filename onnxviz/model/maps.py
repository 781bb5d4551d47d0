"""Activations as maps: whatever grid a layer's positions lie on becomes rows and columns of the image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.values import Grid, Layer

if TYPE_CHECKING:
    import torch

_Values = TypeVar("_Values", np.ndarray, "torch.Tensor")


def to_map(layer: Layer, values: _Values) -> _Values:
    """Return a layer's activations [N, units, *spatial] as maps [N, units, rows, columns], those of patches only.

    Only the form changes, so that gradients pass, and the map of a gradient is the gradient with respect to the map.

    Raises:
        AnalysisError: if the layer has no map, or another number of positions than its grid.
    """
    if layer.map_shape is None:
        raise AnalysisError(f"no map of positions: {layer.unplaced}", where=shorten(layer.name))
    if layer.grid is None:
        return values
    grid: Grid = layer.grid
    shape: tuple[int, ...] = tuple(values.shape)
    flat: tuple[int, ...] = _factors(layer, grid, shape)
    patches = [slice(None)] * len(shape)
    patches[2 + grid.tokens] = slice(grid.before, shape[2 + grid.tokens] - grid.behind)
    whole = values[tuple(patches)].reshape((*shape[:2], *flat))
    order = (0, 1, *(2 + place for place in grid.order))
    ordered = whole.transpose(order) if isinstance(whole, np.ndarray) else whole.permute(order)
    rows, columns = grid.order[: grid.rows], grid.order[grid.rows :]
    height, width = (math.prod(flat[place] for place in part) for part in (rows, columns))
    return ordered.reshape((*shape[:2], height, width))


def _factors(layer: Layer, grid: Grid, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths that the positions of activations are made of, tokens that are no patches left out."""
    extra = [0] * len(grid.sizes)
    extra[grid.tokens] = grid.before + grid.behind
    flat: list[int] = []
    for part, found, around in zip(grid.sizes, shape[2:], extra, strict=True):
        factors = [found - around if size is None else size for size in part]
        if math.prod(factors) + around != found:
            raise AnalysisError(
                f"{list(shape[2:])} positions at this image size, and the grid is known only of another number",
                where=shorten(layer.name),
                remedy="give images of the model's own size",
            )
        flat += factors
    return tuple(flat)


def in_words(layers: Sequence[Layer]) -> str:
    """Say how the maps of layers of tokens were made, or nothing where all layers are maps by themselves."""
    sizes: dict[str, Counter[str]] = {}
    for layer in layers:
        if layer.grid is None or layer.map_shape is None:
            continue
        height, width = (size or "?" for size in layer.map_shape)
        sizes.setdefault(_made_from(layer.grid), Counter())[f"{height} × {width}"] += 1
    said = []
    for made, counts in sizes.items():
        listed = ", ".join(f"{size} at {count} layer{'s' * (count > 1)}" for size, count in counts.items())
        said.append(f"{made}: {listed}")
    return "; ".join(said)


def _made_from(grid: Grid) -> str:
    if len(grid.sizes) != 1:
        return "Maps whose axes were brought into the order of rows and columns"
    left = [f"{count} {where}" for count, where in ((grid.before, "in front"), (grid.behind, "behind")) if count]
    out = f", without {' and '.join(left)} (class, distillation or register tokens)" if left else ""
    return f"Maps of tokens, followed from the patches of the image{out}; their units are the tokens' channels"
