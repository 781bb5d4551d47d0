"""A read-only view of a network: layers, shapes, receptive fields, weights. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxviz.graph.fixed_inputs import InputValue, fix_inputs
from onnxviz.graph.make_view import make_view, normal_form
from onnxviz.graph.model_file import read_model
from onnxviz.graph.view import GraphView

__all__ = ["GraphView", "make_view", "normal_form", "open_model"]


def open_model(
    path: Path | str, sizes: Mapping[str, int] | None = None, inputs: Mapping[str, InputValue] | None = None
) -> GraphView:
    """Read an ONNX file, bring it into normal form, and look at it.

    Args:
        path: the file.
        sizes: sizes for dimensions that the model leaves free, by their names in the file, or by input and place where
            they have none ("input:2" is the third dimension of the input `input`).
        inputs: values for inputs beside the image, by their names: "ones", "zeros", a number for all entries, all
            numbers as a list or an array, or the path of a .npy file of them.

    Returns:
        The view of the network.

    Raises:
        ModelFileError: if the file cannot be read or is refused, or has no such free dimension; names file and remedy.
        SelectionError: if it has no such input, or that cannot take the value.
        DataError: if a .npy file cannot be read.
    """
    loaded = read_model(Path(path))
    fix_inputs(loaded, inputs or {})
    return make_view(loaded, sizes)
