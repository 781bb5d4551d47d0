"""Which input is the image, and how it is laid out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from onnx import GraphProto, TensorProto, TensorShapeProto, ValueInfoProto

from onnxviz.core.errors import shorten
from onnxviz.graph.shapes import TensorType, type_of
from onnxviz.graph.structure import ancestors, consumers, initializers, integers

InputLayout = Literal["NCHW", "NHWC", "other"]

_PIXELS = (
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.UINT8,
    TensorProto.INT8, TensorProto.UINT16,
)  # fmt: skip
_NO_NUMBERS = (TensorProto.UNDEFINED, TensorProto.STRING)


def image_input(graph: GraphProto) -> ValueInfoProto | None:
    """Return the input that is looked at as the image, or None if no input is a tensor of numbers.

    The first tensor of rank 4 whose numbers may be pixels; else the first that may be pixels; else the first of any
    numbers (token identifiers, masks).
    """
    candidates = [value for value in graph_inputs(graph) if type_of(value).element not in _NO_NUMBERS]
    pixels = [value for value in candidates if type_of(value).element in _PIXELS]
    images = [value for value in pixels if len(type_of(value).shape or ()) == 4]
    return next(iter((*images, *pixels, *candidates)), None)


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


def graph_inputs(graph: GraphProto) -> list[ValueInfoProto]:
    """Return the inputs that are not weights as well."""
    constant = set(initializers(graph))
    return [value for value in graph.input if value.name not in constant]


def further_inputs(graph: GraphProto, image: str, values: Iterable[str]) -> list[ValueInfoProto]:
    """Return the inputs beside the image that some values are made from."""
    needed = ancestors(graph, values)
    return [value for value in graph_inputs(graph) if value.name in needed and value.name != image]


def free_dimensions(
    graph: GraphProto, names: Mapping[str, str], dimensions: Mapping[str, str]
) -> Iterator[tuple[TensorShapeProto.Dimension, str, str, int]]:
    """Yield the free dimensions of the inputs: the message, its name in the file or "", the input's name, the axis."""
    for value in graph_inputs(graph):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                name = dimensions.get(dimension.dim_param, dimension.dim_param)
                yield dimension, name, names.get(value.name, value.name), axis


def describe_value(value: ValueInfoProto, names: Mapping[str, str], dimensions: Mapping[str, str]) -> str:
    """Write an input or output as "data_0: float16 [batch, 3, 224, 224]"; free dimensions by their names."""
    name = shorten(names.get(value.name, value.name))
    kind = type_of(value)
    if not kind.element:
        return f"{name}: {value.type.WhichOneof('value') or 'unknown'}"
    element = TensorProto.DataType.Name(kind.element).lower()
    if kind.shape is None:
        return f"{name}: {element}"
    sizes = (
        str(size) if isinstance(size, int) else shorten(dimensions.get(size or "", "?"), 30) for size in kind.shape
    )
    return f"{name}: {element} [{', '.join(sizes)}]"
