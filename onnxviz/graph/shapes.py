"""Types and shapes of every value, by ONNX shape inference on a copy without the weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from onnxviz.errors import ModelFileError, shorten

Dimension = int | str | None

_SMALL = 4096
"""Initializers of up to this many bytes stay in the copy: they may be shapes, axes, pads or scales."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of a value; a dimension is a number, the name of a free dimension, or None.

    Attributes:
        element: ONNX element type; 0 if the value is no tensor or its type is unknown.
        shape: the dimensions, or None if even their number is unknown.
    """

    element: int
    shape: tuple[Dimension, ...] | None

    @property
    def fixed(self) -> tuple[int, ...] | None:
        """The shape if every dimension is a number."""
        if self.shape is None or not all(isinstance(size, int) for size in self.shape):
            return None
        return tuple(size for size in self.shape if isinstance(size, int))


UNKNOWN = TensorType(0, None)


def type_of(value: ValueInfoProto) -> TensorType:
    """Read a value's declared type."""
    if not value.type.HasField("tensor_type"):
        return UNKNOWN
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type, None)
    shape: list[Dimension] = []
    for dimension in tensor.shape.dim:
        if dimension.HasField("dim_value"):
            shape.append(int(dimension.dim_value))
        else:
            shape.append(dimension.dim_param or None)
    return TensorType(tensor.elem_type, tuple(shape))


def value_info(name: str, kind: TensorType) -> ValueInfoProto:
    """Write a type down, the reverse of `type_of`."""
    return onnx.helper.make_tensor_value_info(name, kind.element, kind.shape)


def infer(model: ModelProto) -> dict[str, TensorType]:
    """Return the type of every value of the main graph that can be known without running it.

    Nodes whose shapes cannot be inferred are left out; nothing is raised for them.
    """
    bones = skeleton(model)
    try:
        # Without data propagation: it takes hours for a Tile to a terabyte, and `resolve_shapes` does its work.
        inferred = onnx.shape_inference.infer_shapes(bones, strict_mode=False, data_prop=False).graph
    except Exception as fault:  # the C++ code raises RuntimeError and its kin where it follows faulty shapes
        raise ModelFileError(
            f"the shapes of the model cannot be inferred: {shorten(str(fault))}", remedy="export the model again"
        ) from fault
    types = {tensor.name: TensorType(tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        if value.name not in types:
            types[value.name] = type_of(value)
    return types


def skeleton(model: ModelProto) -> ModelProto:
    """Copy a model without its large weights, which become inputs of the same type; output shapes are forgotten."""
    copy = ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions)
    graph = GraphProto(name="graph", node=model.graph.node, input=model.graph.input)
    given = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tuple(tensor.dims)))
    for value in model.graph.output:
        # A declared output shape may be wrong, or still have the batch that a pass has freed.
        element = type_of(value).element
        if element:
            graph.output.append(onnx.helper.make_tensor_value_info(value.name, element, None))
        else:
            graph.output.append(value)
    copy.graph.CopyFrom(graph)
    return copy


FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Element types that the normalised graph holds as float32."""
