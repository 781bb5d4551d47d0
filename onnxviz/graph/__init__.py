"""A read-only view of a network: layers, shapes, receptive fields, weights. No torch."""

from __future__ import annotations

from pathlib import Path

from onnxviz.graph.view import GraphView, make_view, normal_form
from onnxviz.model_file import read_model

__all__ = ["GraphView", "make_view", "normal_form", "open_model"]


def open_model(path: Path | str) -> GraphView:
    """Read an ONNX file, bring it into normal form, and look at it.

    Args:
        path: the file.

    Returns:
        The view of the network.

    Raises:
        ModelFileError: if the file cannot be read or is refused; names the file and the remedy.
    """
    return make_view(read_model(Path(path)))
