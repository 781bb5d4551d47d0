"""A model's layers, and what was computed of them, as callers see them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.values import Layer
from onnxviz.graph import GraphView

_Values = TypeVar("_Values")


class Layers(Sequence[Layer]):
    """A model's layers in topological order; shows itself as a table in a notebook."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        return Layers(self._layers[index]) if isinstance(index, slice) else self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        rows = [f"{shorten(layer.name):40} {layer.operator:20} {_shape_text(layer)}" for layer in self._layers]
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        head = "<tr><th>layer</th><th>operator</th><th>shape</th><th>units</th></tr>"
        rows = "".join(
            f"<tr><td>{html.escape(shorten(layer.name))}</td><td>{html.escape(shorten(layer.operator))}</td>"
            f"<td>{html.escape(_shape_text(layer))}</td><td>{layer.unit_count or ''}</td></tr>"
            for layer in self._layers
        )
        return f"<table>{head}{rows}</table>"


class Activations(dict[str, _Values]):
    """Layer name -> activations; `[...]`, `in` and `get` take a layer's other names too: an alias, a role, `Conv[3]`.

    The keys are the layers' own names.
    """

    def __init__(self, view: GraphView, values: Mapping[str, _Values]) -> None:
        super().__init__(values)
        self._view = view

    def __missing__(self, name: str) -> _Values:
        own = self._own_name(name)
        if own is None:
            raise KeyError(name)
        return self[own]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and self._own_name(name) is not None)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a layer's activations by any of its names, or a default."""
        try:
            return self[name]
        except KeyError:
            return default

    def _own_name(self, name: str) -> str | None:
        """Return the key of the layer that has another name, if it is one of these layers."""
        try:
            own = self._view.layer(name).name
        except SelectionError:
            return None
        return own if super().__contains__(own) else None


def units_first(array: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """Move the axis of the units to place 1."""
    if channel_axis in (None, 1):
        return array
    return np.ascontiguousarray(np.moveaxis(array, channel_axis, 1))


def units_last(array: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """Undo `units_first`."""
    return array if channel_axis in (None, 1) else np.ascontiguousarray(np.moveaxis(array, 1, channel_axis))


def _shape_text(layer: Layer) -> str:
    return " × ".join("N" if axis == 0 and size is None else "?" if size is None else str(size)
                      for axis, size in enumerate(layer.shape))  # fmt: skip
