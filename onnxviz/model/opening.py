"""What a model is made of, before it is one: its network, its preprocessing and its class names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.values import Preprocessing
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.fixed_inputs import InputValue
from onnxviz.graph.labels import read_labels, with_labels
from onnxviz.model.preprocessing import preprocessing_for


def opened(
    path: Path | str,
    preprocess: Any,
    labels: Path | str | Sequence[str] | None,
    output: Any,
    inputs: Mapping[str, InputValue] | None = None,
) -> tuple[GraphView, Preprocessing, tuple[str, ...] | None]:
    """Return what `load` makes a model of: its network, its preprocessing and its class names."""
    if not isinstance(path, str | os.PathLike):
        raise SelectionError(f"a model is loaded from the path of its file, not from {shorten(repr(path), 40)}")
    view = open_model(path, inputs=inputs)
    preprocessing = preprocessing_for(view, preprocess)
    given = read_labels(labels) if isinstance(labels, str | Path) else labels
    view, names = with_labels(view, given, output)
    return view, preprocessing, names
