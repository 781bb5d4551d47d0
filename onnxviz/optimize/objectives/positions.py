"""Which positions of a layer are meant: one neuron's, the central patch, those inside a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, StrictInt

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import Layer, Tokens
from onnxviz.graph.view import GraphView
from onnxviz.optimize.objectives.base import ObjectiveContext, OfLayer

Index = Annotated[StrictInt, Field(ge=0)]
Position = Annotated[
    Literal["center"] | Annotated[tuple[Index, ...], Field(max_length=8)],
    Field(description="Place of the neuron: `center`, or [y, x], counted from 0; of tokens one number."),
]


def _with_an_area(box: tuple[float, ...]) -> tuple[float, ...]:
    top, left, bottom, right = box
    if not (top < bottom and left < right):
        raise ValueError("a box is [top, left, bottom, right], with top < bottom and left < right")
    return box


_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Box = Annotated[tuple[_Share, ...], Field(min_length=4, max_length=4), AfterValidator(_with_an_area)]
_BOX = "Only the positions inside a box [top, left, bottom, right], in shares of the picture from 0 to 1."
MaybeBox = Annotated[Box | None, Field(description=_BOX)]


def centre(spatial: Sequence[int]) -> tuple[int, ...]:
    """Return the middle position; of an even number the one after the middle, as lucid `objectives_util.py` has it."""
    return tuple(size // 2 for size in spatial)


def positions_in(layer: str, positions: Sequence[Position], context: ObjectiveContext) -> list[torch.Tensor]:
    """Return where neurons are in a layer at the size that is optimized, an index [N] for each of its dimensions."""
    chosen = [_position_in(layer, position, context) for position in positions]
    return [torch.tensor(axis, device=context.device) for axis in zip(*chosen, strict=True)]


def _position_in(layer: str, position: Position, context: ObjectiveContext) -> tuple[int, ...]:
    spatial = context.shapes[layer][1:]
    chosen = _centre(layer, spatial, context) if position == "center" else tuple(position)
    if len(chosen) != len(spatial) or any(not 0 <= at < size for at, size in zip(chosen, spatial, strict=True)):
        raise SelectionError(
            f"layer {shorten(layer)!r} has positions of shape {list(spatial)} at this image size; "
            f"there is no position {list(chosen)}",
            remedy="give `position: center`, or one index for each dimension, counted from 0",
        )
    return chosen


class AtPosition(OfLayer):
    """An objective at one position of its layer."""

    position: Position = "center"

    def fitted(self, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> dict[str, object]:
        spatial = layer.spatial_shape
        if self.position != "center" and len(self.position) != len(spatial):
            raise SelectionError(
                f"a position here has {len(spatial)} numbers, not {len(self.position)}",
                where=f"layer {shorten(layer.name)!r}",
                remedy=f"the positions have the shape {[size or '?' for size in spatial]}",
            )
        return super().fitted(layer, view, labels)


def in_words(position: Position) -> str:
    """Return "the centre", or the numbers."""
    return "the centre" if position == "center" else str(list(position))


def box_in_words(box: Box | None) -> str:
    """Return " in [top, left, bottom, right]", or nothing."""
    return f" in [{', '.join(f'{share:g}' for share in box)}]" if box else ""


def mean_over(
    layer: str, boxes: Sequence[Box | None], context: ObjectiveContext
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from values at a layer's positions [N, *spatial] to their mean [N], each in its own box."""
    if all(box is None for box in boxes):
        return lambda values: values.reshape(len(values), -1).mean(dim=1)
    shares = {box: _shares(layer, box, context) for box in set(boxes)}
    weights = torch.from_numpy(np.stack([shares[box].ravel() for box in boxes])).to(context.device)
    return lambda values: (values.reshape(len(values), -1) * weights).sum(dim=1)


def _shares(layer: str, box: Box | None, context: ObjectiveContext) -> np.ndarray:
    """Return float32 [*spatial], what each position counts; the sum is 1.

    A position lies where its centre does: (y + 1/2) / rows. Tokens that are no patches count nothing.
    """
    spatial = context.shapes[layer][1:]
    if box is None:
        return np.full(spatial, 1.0 / np.prod(spatial), np.float32)
    grids = _grids(layer, spatial, context)
    if len(grids) == 1:
        ((axis, grid),) = grids.items()
        patches = _inside(box, grid.height, grid.width).ravel()
        along = np.concatenate([np.zeros(grid.before, bool), patches, np.zeros(grid.behind, bool)])
        inside = np.broadcast_to(along.reshape([-1 if i == axis else 1 for i in range(len(spatial))]), spatial)
    elif len(spatial) == 2 and not grids:
        inside = _inside(box, *spatial)
    else:
        raise SelectionError(
            f"layer {shorten(layer)!r} has positions of shape {list(spatial)}, which are no rows and columns of the "
            "picture",
            remedy="leave `box` out, or take a layer that is a map",
        )
    if not inside.any():
        raise SelectionError(
            f"no position of layer {shorten(layer)!r} has its centre{box_in_words(box)}",
            remedy=f"make the box larger: the positions have the shape {list(spatial)}",
        )
    shares: np.ndarray = inside / inside.sum()
    return shares.astype(np.float32)


def _inside(box: Box, height: int, width: int) -> np.ndarray:
    top, left, bottom, right = box
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside: np.ndarray = np.outer((y >= top) & (y <= bottom), (x >= left) & (x <= right))
    return inside


def _centre(layer: str, spatial: Sequence[int], context: ObjectiveContext) -> tuple[int, ...]:
    middle = list(centre(spatial))
    for index, grid in _grids(layer, spatial, context).items():
        row, column = centre((grid.height, grid.width))
        middle[index] = grid.before + row * grid.width + column
    return tuple(middle)


def _grids(layer: str, spatial: Sequence[int], context: ObjectiveContext) -> dict[int, Tokens]:
    """Return which of the spatial dimensions run over tokens."""
    known = context.layers.get(layer)
    if known is None or not known.tokens:
        return {}
    axes = [axis for axis in range(len(known.shape)) if axis not in (0, known.channel_axis)]
    grids = {axes.index(tokens.axis): tokens for tokens in known.tokens if tokens.axis in axes}
    for index, grid in grids.items():
        count = grid.before + grid.height * grid.width + grid.behind
        if spatial[index] != count:
            raise SelectionError(
                f"layer {shorten(layer)!r} has {spatial[index]} tokens at this image size, and which of them are "
                f"patches is known only of {count}",
                remedy="give the position as a number, or the model its own image size",
            )
    return grids
