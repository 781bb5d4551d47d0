"""Cut out of a model what a set of values needs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnxviz.graph.structure import ancestors


def extract(model: ModelProto, values: Sequence[str]) -> ModelProto:
    """Return a model that computes `values`, in this order, from the inputs that they depend on.

    Initializers are never inputs of the result, whatever they were. Nodes keep their outputs, read or not, but for
    trailing ones that the standard calls optional (the mask of a Dropout, the indices of a pooling).

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
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    cut = GraphProto(
        name="graph",
        node=[_without_optional(node, needed, opsets) for node in nodes],
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


def _without_optional(node: NodeProto, needed: set[str], opsets: Mapping[str, int]) -> NodeProto:
    """Return a node without the last of its outputs, where nobody reads them and the node may do without them.

    A Split divides by the number of its outputs, and a TopK has two or is none: only what the standard calls optional
    can go. A BatchNormalization trains because it has the outputs of training.
    """
    count = len(node.output)
    while count > 1 and node.output[count - 1] not in needed and count - 1 in _optional(node, opsets):
        count -= 1
    if count == len(node.output):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.output[count:]
    return copy


def _optional(node: NodeProto, opsets: Mapping[str, int]) -> set[int]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain in opsets and node.op_type != "BatchNormalization":
        return _optional_outputs(node.op_type, domain, opsets[domain])
    return set()


@lru_cache(maxsize=4096)
def _optional_outputs(operator: str, domain: str, opset: int) -> set[int]:
    try:
        outputs = onnx.defs.get_schema(operator, opset, domain).outputs
    except onnx.defs.SchemaError:
        return set()
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return {index for index, formal in enumerate(outputs) if formal.option == optional}
