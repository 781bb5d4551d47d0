"""Cut out of a model what a set of values needs, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnxviz.graph.structure import ancestors


def extract(model: ModelProto, values: Sequence[str]) -> ModelProto:
    """Return a model that computes `values`, in this order, from the inputs that they depend on.

    Initializers are never inputs of the result, whatever they were; trailing outputs of nodes that nobody reads
    (the mask of a Dropout, the indices of a pooling) are gone.

    Raises:
        ValueError: if the model does not compute one of the values.
    """
    graph = model.graph
    needed = ancestors(graph, values)
    nodes = [node for node in graph.node if any(name in needed for name in node.output)]
    made = {name for node in nodes for name in node.output}
    missing = [value for value in values if value not in made]
    if missing:
        raise ValueError(f"the model does not compute {missing}")
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    constant = {tensor.name for tensor in initializers}
    cut = GraphProto(
        name="graph",
        node=[_without_unread(node, needed) for node in nodes],
        input=[value for value in graph.input if value.name in needed and value.name not in constant],
        # A name is enough: ONNX Runtime infers the type, and a declared shape may be too narrow.
        output=[ValueInfoProto(name=value) for value in values],
        value_info=[value for value in graph.value_info if value.name in needed],
    )
    result = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    # Extending copies each weight once, where passing them to the constructor would copy them twice.
    cut.initializer.extend(initializers)
    result.graph.CopyFrom(cut)
    return result


def _without_unread(node: NodeProto, needed: set[str]) -> NodeProto:
    count = max(index for index, name in enumerate(node.output) if name in needed) + 1
    if count == len(node.output):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.output[count:]
    return copy
