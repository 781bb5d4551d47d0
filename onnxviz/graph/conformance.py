"""Nodes must have the inputs, outputs and attributes that the standard gives their operator.

Everything behind this reads `node.input[1]` of a Reshape without asking.
"""

from __future__ import annotations

import onnx
from onnx import AttributeProto, NodeProto

from onnxviz.core.errors import ModelFileError, shorten
from onnxviz.graph.model_file import LoadedModel
from onnxviz.graph.tensors import nodes_within


def check_nodes(loaded: LoadedModel) -> None:
    """Compare every node of the standard's operators with its schema.

    Raises:
        ModelFileError: for the first node that does not conform; names it.
    """
    model = loaded.proto
    versions = {entry.domain: entry.version for entry in model.opset_import}
    bodies = [(versions, model.graph.node)]
    bodies += [({e.domain: e.version for e in f.opset_import}, f.node) for f in model.functions]
    for opsets, nodes in bodies:
        for node in nodes_within(nodes):
            try:
                schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
            except onnx.defs.SchemaError:
                continue  # not the standard's: listed later, refused where it is needed
            fault = _fault(node, schema)
            if fault:
                name = loaded.node_names.get(node.name) or loaded.names.get("".join(node.output[:1]), "")
                raise ModelFileError(
                    f"{node.op_type} {shorten(name)!r} {fault}",
                    remedy="the file is damaged or its opset is not the declared one: export it again",
                )


def _fault(node: NodeProto, schema: onnx.defs.OpSchema) -> str:
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"has {len(node.input)} inputs, which its operator does not take"
    if not schema.min_output <= len(node.output) <= schema.max_output:
        return f"has {len(node.output)} outputs, which its operator does not make"
    for index, entry in enumerate(schema.inputs):
        if entry.option == onnx.defs.OpSchema.FormalParameterOption.Single and not node.input[index]:
            return f"lacks its input {entry.name!r}"
    if not any(node.output):
        return "makes nothing"
    seen: set[str] = set()
    for given in node.attribute:
        if given.name in seen:
            return f"has its attribute {shorten(given.name)!r} twice"
        seen.add(given.name)
        declared = schema.attributes.get(given.name)
        known = given.type in AttributeProto.AttributeType.values()
        kind = AttributeProto.AttributeType.Name(given.type) if known else str(given.type)
        if declared is not None and not given.ref_attr_name and str(declared.type).rpartition(".")[2] != kind:
            return f"has an attribute {shorten(given.name)!r} of type {kind}"
    for name, declared in schema.attributes.items():
        if declared.required and name not in seen:
            return f"lacks its attribute {name!r}"
    return ""
