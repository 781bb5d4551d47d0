"""Small questions about an ONNX graph: who makes a value, who reads it, what an attribute says."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from onnxviz.core import limits
from onnxviz.graph.operators import traits_of
from onnxviz.graph.tensors import nodes_within, subgraphs

M = TypeVar("M", bound=Message)


def copy_of(message: M) -> M:
    """Return a copy that belongs to no other message."""
    copy: M = type(message)()
    copy.CopyFrom(message)
    return copy


def refill(field: Any, entries: Iterable[Message]) -> None:
    """Make these the entries of a repeated field, of which they may be entries already."""
    copies = [copy_of(entry) for entry in entries]
    del field[:]
    field.extend(copies)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return an attribute's value (tensors as protos, strings as bytes), or the default."""
    for entry in node.attribute:
        if entry.name == name and entry.type != AttributeProto.UNDEFINED:
            return onnx.helper.get_attribute_value(entry)
    return default


def integers(node: NodeProto, name: str, default: Iterable[int] = ()) -> tuple[int, ...]:
    """Return an attribute that is a list of integers."""
    value = attribute(node, name)
    return tuple(int(item) for item in (default if value is None else value))


def text(node: NodeProto, name: str, default: str = "") -> str:
    """Return an attribute that is a string."""
    value = attribute(node, name)
    return default if value is None else bytes(value).decode("utf-8", "replace")


def remove_attribute(node: NodeProto, *names: str) -> None:
    """Remove attributes, where the node has them."""
    kept = [entry for entry in node.attribute if entry.name not in names]
    if len(kept) < len(node.attribute):
        refill(node.attribute, kept)


def set_integer(node: NodeProto, name: str, value: int) -> None:
    """Set an integer attribute."""
    remove_attribute(node, name)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def input_of(node: NodeProto, index: int) -> str:
    """Return the identifier of an input, "" if it is left out."""
    return node.input[index] if index < len(node.input) else ""


def constant_input(node: NodeProto, index: int, constants: Mapping[str, TensorProto]) -> np.ndarray | None:
    """Return the numbers of a constant input, or None."""
    tensor = constants.get(input_of(node, index))
    return None if tensor is None else to_array(tensor)


def reads(node: NodeProto) -> Iterator[str]:
    """Yield every value a node reads, those that its sub-graphs take from outside included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        # Identifiers are unique in the whole model, so a sub-graph's own values are harmless here.
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from reads(inner)


def image_dependent(graph: GraphProto, image: str | None = None) -> set[str]:
    """Return values that depend on the content, not only on the shape, of an input; without one, of any."""
    constant = {tensor.name for tensor in graph.initializer}
    found = {value.name for value in graph.input} - constant if image is None else {image}
    ranges = measured_ranges(graph)
    for node in graph.node:
        if traits_of(node).form != "shape" and any(name in found for name in reads(node)):
            found.update(name for name in node.output if name and name not in ranges)
    return found


def measured_ranges(graph: GraphProto) -> set[str]:
    """Return the scales and zero points of dynamic quantisation that only say what its integers stand for.

    They are measured on the whole value, and are no content of it.
    """
    found = {
        name
        for node in graph.node
        if node.op_type == "DynamicQuantizeLinear" and not node.domain
        for name in node.output[1:]
    }
    if found:
        found -= {value.name for value in graph.output}
        for node in graph.node:
            found.difference_update(node.input[:1] if node.op_type == "DequantizeLinear" else reads(node))
    return found


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """Map each value to the node that makes it."""
    return {name: node for node in graph.node for name in node.output if name}


def consumers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Map each value to the nodes that read it, in order."""
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(reads(node)):
            found.setdefault(name, []).append(node)
    return found


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """Map each initializer's identifier to its tensor."""
    return {tensor.name: tensor for tensor in graph.initializer}


def constant_value(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node holds, or None for strings and types that are no tensor."""
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        value = attribute(node, name)
        if value is not None:
            kind = np.int64 if "int" in name else np.float32
            return onnx.numpy_helper.from_array(np.asarray(value, dtype=kind))
    tensor = attribute(node, "value")
    return tensor if isinstance(tensor, TensorProto) and tensor.data_type != TensorProto.STRING else None


def constants_within(graph: GraphProto) -> dict[str, TensorProto]:
    """Map the identifiers of a graph's initializers, and of its Constant nodes that hold numbers, to tensors."""
    found = initializers(graph)
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain and (value := constant_value(node)) is not None:
            found[node.output[0]] = value
    return found


def repeated_number(node: NodeProto | None, constants: Mapping[str, TensorProto]) -> np.ndarray | None:
    """Return what a ConstantOfShape of constant shape makes, as a view of its one number; None for other nodes."""
    if node is None or node.op_type != "ConstantOfShape" or node.domain or node.input[0] not in constants:
        return None
    value = attribute(node, "value")
    number = to_array(value).reshape(-1)[0] if isinstance(value, TensorProto) else np.float32(0)
    shape = tuple(int(size) for size in to_array(constants[node.input[0]]).reshape(-1))
    if min(shape, default=0) < 0 or math.prod(shape) * number.itemsize > limits.TENSOR_BYTES:
        return None
    return np.broadcast_to(number, shape)


def set_domain(opsets: Any, domain: str, version: int) -> None:
    """Make the opset imports of a model or function name this version of an operator domain."""
    for entry in opsets:
        if entry.domain == domain:
            entry.version = version
            return
    opsets.add(domain=domain, version=version)


def to_array(tensor: TensorProto) -> np.ndarray:
    """Return a tensor's numbers."""
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def keep_initializers(graph: GraphProto, names: Container[str]) -> None:
    """Remove all initializers but some, without a copy, which would stay beside what was there as long as the graph."""
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in names:
            del graph.initializer[index]


def rename_reads(nodes: Iterable[NodeProto], renamed: dict[str, str]) -> None:
    """Let nodes, and their sub-graphs, read other values."""
    for node in nodes_within(nodes) if renamed else ():
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
        for graph in subgraphs(node):
            for value in graph.output:
                value.name = renamed.get(value.name, value.name)


def ancestors(graph: GraphProto, values: Iterable[str]) -> set[str]:
    """Return the given values and all that they are made from."""
    makers = producers(graph)
    found: set[str] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found.add(value)
        if value in makers:
            stack.extend(reads(makers[value]))
    return found


def origin(value: str, makers: Mapping[str, NodeProto], through: Callable[[NodeProto], bool]) -> str:
    """Follow a value up the first inputs of the nodes that are gone through; return where that ends."""
    while (node := makers.get(value)) is not None and through(node):
        value = node.input[0]
    return value
