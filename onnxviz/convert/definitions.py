"""The bodies that the standard gives to operators that it defines by others.

The inliner of the onnx package is not used for them: it leaves out the defaults of attributes, and it fails where an
input is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TypeProto

from onnxviz.graph.shapes import UNKNOWN, TensorType, value_info
from onnxviz.graph.tensors import subgraphs


@dataclass(frozen=True)
class Definition:
    """A node written out in other operators.

    Attributes:
        model: a graph of the body's own names; its outputs are those that the node has, in order.
        inputs: name within the body -> the value that the node passes.
    """

    model: ModelProto
    inputs: Mapping[str, str]


def has_definition(schema: Any) -> bool:  # the package's type hints lack what is asked here
    """Whether the standard defines an operator by others."""
    return bool(schema.has_function or schema.has_context_dependent_function)


def definition(
    node: NodeProto, schema: Any, opset: int, types: Mapping[str, TensorType], ir_version: int
) -> Definition:
    """Write a node out in the operators by which the standard defines it.

    Args:
        node: the node; its domain is the schema's.
        schema: its operator in the form that the model uses.
        opset: the version of the domain that the model uses.
        types: types of the node's inputs, as far as they are known.
        ir_version: of the result.

    Raises:
        ValueError: if the standard has no definition for a node like this.
    """
    function = _function(node, schema, opset, types)
    passed = dict(zip(function.input, node.input, strict=False))
    inputs = {formal: value for formal, value in passed.items() if value}
    left_out = set(function.input) - set(inputs)
    given = {entry.name: entry for entry in node.attribute}
    defaults = {entry.name: entry for entry in function.attribute_proto}
    for name, declared in schema.attributes.items():
        if declared.default_value.name:
            defaults.setdefault(name, declared.default_value)
    nodes = [NodeProto.FromString(inner.SerializeToString()) for inner in function.node]
    _bind(nodes, {**defaults, **given}, left_out)
    if any(inner.op_type == node.op_type and inner.domain in (node.domain, "ai.onnx") for inner in nodes):
        raise ValueError(f"{node.op_type} is defined by itself")
    for index, inner in enumerate(nodes):
        inner.name = f"n{index}"
    graph = GraphProto(name="graph", node=nodes)
    graph.input.extend(value_info(formal, types.get(value, UNKNOWN)) for formal, value in inputs.items())
    made = dict(zip(function.output, node.output, strict=False))
    graph.output.extend(value_info(formal, types.get(value, UNKNOWN)) for formal, value in made.items() if value)
    model = ModelProto(ir_version=max(ir_version, 8), opset_import=function.opset_import, graph=graph)
    return Definition(model, inputs)


def _function(node: NodeProto, schema: Any, opset: int, types: Mapping[str, TensorType]) -> FunctionProto:
    """Return the operator's body for an opset: the newest that is not newer, else the oldest."""
    fixed = _nearest(schema.function_opset_versions, opset)
    if fixed is not None:
        return _parsed(schema.get_function_with_opset_version(fixed))
    chosen = _nearest(schema.context_dependent_function_opset_versions, opset)
    if chosen is None:
        raise ValueError(f"{node.op_type} has no definition")
    kinds = [_type(types.get(name, UNKNOWN)) if name else TypeProto() for name in node.input]
    serialized = schema.get_context_dependent_function_with_opset_version(
        chosen, node.SerializeToString(), [kind.SerializeToString() for kind in kinds]
    )
    return _parsed(serialized)


def _parsed(function: Any) -> FunctionProto:
    """Take a body as the package gives it, parsed or as bytes."""
    if isinstance(function, FunctionProto):
        return function
    parsed = FunctionProto()
    parsed.ParseFromString(function)
    return parsed


def _nearest(versions: Sequence[int], opset: int) -> int | None:
    if not versions:
        return None
    return max((version for version in versions if version <= opset), default=min(versions))


def _type(kind: TensorType) -> TypeProto:
    return value_info("value", kind).type


def _bind(nodes: Iterable[NodeProto], attributes: Mapping[str, AttributeProto], left_out: set[str]) -> None:
    """Put in what the node says where the body refers to its attributes and inputs."""
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in left_out:
                node.input[index] = ""
        bound = []
        for entry in node.attribute:
            if not entry.ref_attr_name:
                bound.append(entry)
            elif entry.ref_attr_name in attributes:
                copy = AttributeProto.FromString(attributes[entry.ref_attr_name].SerializeToString())
                copy.name = entry.name
                bound.append(copy)
        copies = [AttributeProto.FromString(entry.SerializeToString()) for entry in bound]
        del node.attribute[:]
        node.attribute.extend(copies)
        for graph in subgraphs(node):
            _bind(graph.node, attributes, left_out)
