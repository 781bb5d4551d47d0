"""Types and shapes of every value, by ONNX shape inference on a copy without the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, beginning
from onnxviz.graph.operators import custom_operators
from onnxviz.graph.structure import constant_input, consumers, initializers, producers, reads, refill
from onnxviz.graph.tensors import damaged, subgraphs

Dimension = int | str | None

_SMALL = 4096
"""Initializers of up to this many bytes stay in the copy: they may be shapes, axes, pads or scales."""


_AS_INPUT = ("GroupNormalization", "LayerNormalization", "MeanVarianceNormalization")
"""Operators whose result is like their input: the onnx package infers nothing of it, or crashes at an axis too low."""
_RANGES = {
    "axis": (-(1 << 31), (1 << 31) - 1),
    "batch_dims": (0, limits.RANK),
    "blocksize": (1, (1 << 15) - 1),
    "kv_num_heads": (1, 1 << 20),
    "num_outputs": (1, 1 << 20),
    "q_num_heads": (1, 1 << 20),
}
"""Attributes by which compiled shape inference divides or indexes, without asking, and what they may be."""


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


class UnknownShapeError(LookupError):
    """What is asked for depends on a shape that is not known."""


class TypedGraph:
    """A graph with the types of its values, and who makes and reads them."""

    def __init__(self, graph: GraphProto, types: Mapping[str, TensorType]) -> None:
        self.graph = graph
        self.types = types
        self.constants = initializers(graph)

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The node that makes each value."""
        return producers(self.graph)

    @cached_property
    def readers(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each value."""
        return consumers(self.graph)

    def only_reader(self, value: str) -> NodeProto | None:
        """Return the node that alone reads a value, if it is one of the standard's."""
        found = self.readers.get(value, [])
        return found[0] if len(found) == 1 and not found[0].domain else None

    def shape(self, value: str) -> tuple[Dimension, ...] | None:
        """Return a value's dimensions, or None if even their number is not known."""
        return self.types.get(value, UNKNOWN).shape

    def known_shape(self, value: str) -> tuple[Dimension, ...]:
        """Return a value's dimensions.

        Raises:
            UnknownShapeError: if even their number is not known.
        """
        shape = self.shape(value)
        if shape is None:
            raise UnknownShapeError("has a shape that is not known")
        return shape

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        """Return the numbers of a constant input, or None."""
        return constant_input(node, index, self.constants)


def product(sizes: Iterable[Dimension]) -> int | None:
    """Return the product of dimensions, or None if one is not known."""
    result = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        result *= size
    return result


def total(sizes: Sequence[object]) -> int | None:
    """Return the sum of sizes, None if one is not known."""
    return sum(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else None


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
    _shield(bones.graph, max((entry.version for entry in model.opset_import if entry.domain == ""), default=0))
    try:
        # Without data propagation: it takes hours for a Tile to a terabyte, and `resolve_shapes` does its work.
        inferred = onnx.shape_inference.infer_shapes(bones, strict_mode=False, data_prop=False).graph
    except Exception as fault:  # the C++ code raises RuntimeError and its kin where it follows faulty shapes
        raise damaged(f"the shapes of the model cannot be inferred: {beginning(str(fault))}") from fault
    types = {tensor.name: TensorType(tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        if value.name not in types:
            types[value.name] = type_of(value)
    return types


def _shield(graph: GraphProto, opset: int) -> None:
    """Keep from compiled shape inference what it would crash at, or fill the memory for; changes the graph.

    Raises:
        ModelFileError: if an attribute is what no operator can mean.
    """
    constant = {tensor.name for tensor in graph.initializer}
    constant.update(name for node in graph.node if node.op_type == "Constant" for name in node.output)
    nodes: list[NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            _shield(body, opset)
        for entry in node.attribute:
            least, most = _RANGES.get(entry.name, (entry.i, entry.i))
            if entry.type == AttributeProto.INT and not entry.ref_attr_name and not least <= entry.i <= most:
                raise damaged(f"{node.op_type} has {entry.name} {entry.i}, which it cannot")
        custom = custom_operators().get(f"{node.domain}:{node.op_type}") if node.domain else None
        if custom is not None and custom.shaped_like:
            node.op_type, node.domain = custom.shaped_like, ""
        elif node.op_type in _AS_INPUT and not node.domain:
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
        elif node.op_type == "Expand" and not node.domain and node.input[1] not in constant:
            # Its result gets a dimension for every element of its shape, and a tensor may declare 2^40 of them.
            nodes.append(_shortened(graph, node, opset))
        nodes.append(node)
    if len(nodes) > len(graph.node):
        refill(graph.node, nodes)


def _shortened(graph: GraphProto, node: NodeProto, opset: int) -> NodeProto:
    """Let a node read no more of its shape than a tensor has dimensions; return what cuts it."""
    source, short = node.input[1], f"{node.output[0]}.shape"
    node.input[1] = short
    if opset < 10:
        return onnx.helper.make_node("Slice", [source], [short], starts=[0], ends=[limits.RANK + 1])
    bounds = [f"{short}.start", f"{short}.end"]
    for name, number in zip(bounds, (0, limits.RANK + 1), strict=True):
        graph.initializer.append(onnx.helper.make_tensor(name, TensorProto.INT64, (1,), [number]))
    return onnx.helper.make_node("Slice", [source, *bounds], [short])


def infer_body(
    body: GraphProto, opsets: Iterable[OperatorSetIdProto], around: Mapping[str, TensorType]
) -> dict[str, TensorType]:
    """Return what is known of the types of the values in a graph inside a node, from those of the graphs around it."""
    model = ModelProto(ir_version=8, opset_import=opsets, graph=body)
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own.update(name for node in body.node for name in node.output)
    read = {name for node in body.node for name in reads(node)}
    model.graph.input.extend(
        value_info(name, around[name]) for name in sorted(read - own) if name in around and around[name].element
    )
    try:
        return infer(model)
    except ModelFileError:
        return {}


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
