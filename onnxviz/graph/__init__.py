"""A read-only view of a network: layers, shapes, receptive fields, weights. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxviz.graph.model_file import read_model
from onnxviz.graph.view import GraphView, make_view, normal_form

__all__ = ["GraphView", "make_view", "normal_form", "open_model"]


def open_model(path: Path | str, sizes: Mapping[str, int] | None = None) -> GraphView:
    """Read an ONNX file, bring it into normal form, and look at it.

    Args:
        path: the file.
        sizes: sizes for dimensions that the model leaves free, by their names in the file, or by input and place where
            they have none ("input:2" is the third dimension of the input `input`).

    Returns:
        The view of the network.

    Raises:
        ModelFileError: if the file cannot be read or is refused, or has no such free dimension; names file and remedy.
    """
    return make_view(read_model(Path(path)), sizes)
