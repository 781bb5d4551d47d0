"""A model's layers as a sequence that shows itself as a table."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import overload

from onnxviz.errors import shorten
from onnxviz.values import Layer


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


def _shape_text(layer: Layer) -> str:
    return " × ".join("N" if axis == 0 and size is None else "?" if size is None else str(size)
                      for axis, size in enumerate(layer.shape))  # fmt: skip
