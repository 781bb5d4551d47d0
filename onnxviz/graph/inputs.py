"""Which input is the image, and how it is laid out."""

from __future__ import annotations

from typing import Literal

from onnx import GraphProto, TensorProto, ValueInfoProto

from onnxviz.errors import ModelFileError
from onnxviz.graph.shapes import TensorType, type_of
from onnxviz.graph.structure import consumers, initializers, integers

InputLayout = Literal["NCHW", "NHWC", "other"]

_NUMBERS = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UINT8,
    TensorProto.INT8, TensorProto.UINT16,
)  # fmt: skip


def find_input(graph: GraphProto) -> ValueInfoProto:
    """Return the image input: the first tensor input of rank 4, else the first tensor input of numbers.

    Raises:
        ModelFileError: if the model has no such input.
    """
    constant = set(initializers(graph))
    candidates = [value for value in graph.input if value.name not in constant and type_of(value).element in _NUMBERS]
    if not candidates:
        raise ModelFileError(
            "the model has no image input (none of its inputs is a tensor of numbers)", remedy="give a vision model"
        )
    images = [value for value in candidates if len(type_of(value).shape or ()) == 4]
    chosen: ValueInfoProto = (images or candidates)[0]
    return chosen


def input_layout(graph: GraphProto, kind: TensorType, name: str) -> tuple[InputLayout, int, tuple[int, int] | None]:
    """Tell layout, channels and size of the input from its shape, and from its readers where the shape is no help."""
    shape = kind.shape
    if shape is None or len(shape) != 4:
        size = shape[1] if shape is not None and len(shape) > 1 else 0
        return "other", size if isinstance(size, int) else 0, None
    plausible = (1, 3, 4)
    first, last = shape[1] in plausible, shape[3] in plausible
    if first == last:
        readers = consumers(graph).get(name, [])
        last = not any(node.op_type == "Conv" for node in readers) and any(
            node.op_type == "Transpose" and integers(node, "perm") == (0, 3, 1, 2) for node in readers
        )
    layout: InputLayout = "NHWC" if last else "NCHW"
    channels, height, width = (shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3])
    known = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return layout, channels if isinstance(channels, int) else 0, known
