"""One opset for all models: nodes of other opsets are rewritten one by one.

The target is the newest opset whose operators onnx2torch 1.5.15 knows: from 18 on its Pad, Split, Resize and
reductions are missing, from 19 on Reshape, Cast and AveragePool. Node by node, because the converter of the onnx
package refuses a whole model for one operator that it does not know, and forgets node names and weights' places.
What that converter gets wrong or lacks is written out in `rewrites`.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import onnx
import onnx.inliner
import onnx.version_converter
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxviz.graph import rewrites
from onnxviz.graph.passes import Draft
from onnxviz.graph.shapes import TensorType, value_info
from onnxviz.graph.structure import initializers, replace_nodes
from onnxviz.tensors import subgraphs

TARGET = 17
"""The opset of every normalised graph."""

_MEANING_CHANGED = frozenset({"Softmax", "LogSoftmax", "Hardmax", "PRelu", "Upsample", "Resize", "BatchNormalization"})
"""Operators whose meaning changed at some opset although their attributes may look the same."""


def run(draft: Draft) -> str:
    """Rewrite every node whose operator differs between the model's opset and the target."""
    source = draft.opset
    if source == TARGET or source == 0:
        return ""
    graph = draft.graph
    constants = initializers(graph)
    types = draft.types()
    done: list[NodeProto] = []
    stuck: Counter[str] = Counter()
    for node in graph.node:
        if node.domain or _unchanged(node.op_type, source):
            done.append(node)
            continue
        rewritten = _rewrite(draft, node, source, types, constants)
        if rewritten is None:
            stuck[node.op_type] += 1
            # In a domain of its own nobody can take it for the operator of the same name in the target opset.
            node.domain = f"opset{source}"
            done.append(node)
        else:
            done.extend(rewritten)
    replace_nodes(graph, done)
    for entry in draft.model.opset_import:
        if entry.domain == "":
            entry.version = TARGET
    if stuck:
        draft.model.opset_import.add(domain=f"opset{source}", version=1)
    draft.model.ir_version = 8
    for operator, count in stuck.items():
        draft.refused.append((operator, f"{count} of opset {source} could not be brought to opset {TARGET}"))
    said = f"{'lifted' if source < TARGET else 'lowered'} opset {source} to {TARGET}"
    return said + (f" ({', '.join(sorted(stuck))} could not be)" if stuck else "")


@lru_cache(maxsize=4096)
def _unchanged(operator: str, source: int) -> bool:
    """Whether an operator of one opset means the same in the target opset, as its two schemas say."""
    try:
        old = onnx.defs.get_schema(operator, source, "")
    except onnx.defs.SchemaError:
        return True  # unknown in its own opset: listed as unknown elsewhere
    try:
        new = onnx.defs.get_schema(operator, TARGET, "")
    except onnx.defs.SchemaError:
        return False
    if old.since_version == new.since_version:
        return True
    if operator in _MEANING_CHANGED or new.deprecated:
        return False

    def signature(schema: onnx.defs.OpSchema) -> object:
        attributes = {
            name: (str(entry.type), entry.required, entry.default_value.SerializeToString())
            for name, entry in schema.attributes.items()
        }
        inputs = [(entry.name, str(entry.option)) for entry in schema.inputs]
        return attributes, inputs, len(schema.outputs)

    return signature(old) == signature(new)


def _rewrite(
    draft: Draft, node: NodeProto, source: int, types: dict[str, TensorType], constants: dict[str, TensorProto]
) -> list[NodeProto] | None:
    scene = rewrites.Scene(draft, source, types, constants)
    if source < TARGET:
        by_hand = rewrites.LIFT.get(node.op_type)
    else:
        by_hand = rewrites.LOWER.get(node.op_type)
        if by_hand is None and rewrites.uses_nothing_new(node, source, TARGET):
            return [node]
    if by_hand is not None and (nodes := by_hand(scene, node)) is not rewrites.NOT_MINE:
        return nodes
    if next(subgraphs(node), None) is not None:
        return None
    return _convert(draft, node, source, types, constants)


def _convert(
    draft: Draft, node: NodeProto, source: int, types: dict[str, TensorType], constants: dict[str, TensorProto]
) -> list[NodeProto] | None:
    """Rewrite one node with the onnx package's converter, as a model of its own."""
    model = _alone(node, source, types, constants)
    try:
        if not onnx.defs.has(node.op_type, "") or _newer(node.op_type, source):
            model = onnx.inliner.inline_selected_functions(model, [("", node.op_type)], inline_schema_functions=True)
            if any(inner.op_type == node.op_type for inner in model.graph.node):
                return None
        converted = onnx.version_converter.convert_version(model, TARGET).graph
    except Exception:  # the converter raises RuntimeError and its kin for all that it does not know
        return None
    return _adopt(draft, node, converted)


def _newer(operator: str, source: int) -> bool:
    """Whether an operator of this opset does not exist yet in the target opset."""
    try:
        onnx.defs.get_schema(operator, TARGET, "")
    except onnx.defs.SchemaError:
        return source > TARGET
    return False


def _alone(node: NodeProto, source: int, types: dict[str, TensorType], constants: dict[str, TensorProto]) -> ModelProto:
    graph = GraphProto(name="graph", node=[node])
    for name in dict.fromkeys(node.input):
        if not name:
            continue
        if name in constants and constants[name].ByteSize() <= 4096:
            graph.initializer.append(constants[name])
            # The inliner wants a type for everything, and does not look at initializers.
            graph.input.append(value_info(name, TensorType(constants[name].data_type, tuple(constants[name].dims))))
        else:
            kind = types.get(name, TensorType(TensorProto.FLOAT, None))
            graph.input.append(onnx.helper.make_tensor_value_info(name, kind.element or TensorProto.FLOAT, kind.shape))
    for name in node.output:
        if name:
            kind = types.get(name, TensorType(TensorProto.FLOAT, None))
            graph.output.append(onnx.helper.make_tensor_value_info(name, kind.element or TensorProto.FLOAT, kind.shape))
    return ModelProto(ir_version=10, opset_import=[onnx.helper.make_opsetid("", source)], graph=graph)


def _adopt(draft: Draft, node: NodeProto, converted: GraphProto) -> list[NodeProto]:
    """Give what the converter made identifiers of this graph."""
    own = {name: name for name in (*node.input, *node.output)}
    for tensor in converted.initializer:
        if tensor.name not in own:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            own[tensor.name] = draft.add_constant(copy, node.output[0])
    nodes = []
    for index, made in enumerate(converted.node):
        copy_node = NodeProto.FromString(made.SerializeToString())
        for name in made.output:
            if name and name not in own:
                own[name] = draft.new_value(node.output[0])
        inputs = [own.get(name, name) for name in made.input]
        outputs = [own.get(name, name) for name in made.output]
        del copy_node.input[:], copy_node.output[:]
        copy_node.input.extend(inputs)
        copy_node.output.extend(outputs)
        last = index == len(converted.node) - 1
        copy_node.name = node.name if last else draft.new_node(node.name)
        nodes.append(copy_node)
    return nodes
