"""Caffe networks (`.prototxt` and `.caffemodel`) to ONNX, without Caffe.

docs/caffe.md lists the layers that are converted, and what becomes of the others.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from onnxviz.core.errors import ModelFileError, shorten
from onnxviz.importing.caffe.network import to_onnx
from onnxviz.importing.caffe.prototxt import read_prototxt
from onnxviz.importing.caffe.weights import read_caffemodel

__all__ = ["convert"]


def convert(prototxt: Path, caffemodel: Path | None) -> onnx.ModelProto:
    """Convert a Caffe network to ONNX.

    Args:
        prototxt: the network description, best the one for deployment (with an `input` or an Input layer).
        caffemodel: its weights; None if it has none.

    Returns:
        An ONNX model (opset 17, IR 8). Nodes have the names of Caffe's layers, values those of its blobs; a layer that
        works in place makes the value "blob/layer". The batch is free where no layer mixes images. The metadata
        properties "converted_from" and "conversion_notes" (one note a line) say what was converted, and what was left
        out or assumed.

    Raises:
        ModelFileError: if a file is unreadable or unsafe, or a layer cannot be converted; names the file and the line.
    """
    net = read_prototxt(prototxt)
    weights = {} if caffemodel is None else read_caffemodel(caffemodel)
    source = " + ".join(["Caffe", prototxt.name, *([caffemodel.name] if caffemodel else [])])
    try:
        return to_onnx(net, weights, source)
    except (ValueError, OverflowError) as fault:
        # onnx's own checks of names and numbers; nothing else in the conversion raises these.
        raise ModelFileError(f"cannot be converted: {fault}", where=shorten(prototxt.name)) from fault
