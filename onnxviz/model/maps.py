"""Activations as maps: whatever grid a layer's positions lie on becomes rows and columns of the image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.values import Grid, Layer

if TYPE_CHECKING:
    import torch

_Values = TypeVar("_Values", np.ndarray, "torch.Tensor")


def to_map(layer: Layer, values: _Values) -> _Values:
    """Return a layer's activations as maps; tokens that are no patches are left out.

    Only the form changes, so that gradients pass, and the map of a gradient is the gradient with respect to the map.

    Args:
        layer: one with a map.
        values: its activations, units first: [N, units, *spatial].

    Returns:
        [N, units, rows, columns], a view where that can be.

    Raises:
        AnalysisError: if the layer has no map, or another number of positions than its grid.
    """
    if layer.map_shape is None:
        raise AnalysisError(f"no map of positions: {layer.unplaced}", where=shorten(layer.name))
    if layer.grid is None:
        return values
    steps = _steps(layer, layer.grid, tuple(values.shape))
    whole = values[steps.patches].reshape(steps.factors)
    ordered = whole.transpose(steps.order) if isinstance(whole, np.ndarray) else whole.permute(steps.order)
    return ordered.reshape(steps.shape)


@dataclass(frozen=True)
class _Steps:
    """What to do: cut out, reshape, transpose, reshape."""

    patches: tuple[slice, ...]
    factors: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]


def _steps(layer: Layer, grid: Grid, shape: tuple[int, ...]) -> _Steps:
    """Return how activations of a shape become maps.

    Raises:
        AnalysisError: if they have another number of positions than the grid.
    """
    extra = [0] * len(grid.sizes)
    extra[grid.tokens] = grid.before + grid.behind
    sizes = []
    for part, found, around in zip(grid.sizes, shape[2:], extra, strict=True):
        factors = tuple(found - around if size is None else size for size in part)
        if math.prod(factors) + around != found:
            raise AnalysisError(
                f"{list(shape[2:])} positions at this image size, and the grid is known only of another number",
                where=shorten(layer.name),
                remedy="give images of the model's own size",
            )
        sizes.append(factors)
    patches = [slice(None)] * len(shape)
    patches[2 + grid.tokens] = slice(grid.before, shape[2 + grid.tokens] - grid.behind)
    flat = tuple(size for part in sizes for size in part)
    height, width = (
        math.prod(flat[place] for place in part) for part in (grid.order[: grid.rows], grid.order[grid.rows :])
    )
    order = (0, 1, *(2 + place for place in grid.order))
    return _Steps(tuple(patches), (*shape[:2], *flat), order, (*shape[:2], height, width))


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
