"""Weights that are computed from constants are still weights.

Each node whose inputs are all constant is evaluated with ONNX's reference implementation and becomes an initializer.
The size of the result is known before anything is evaluated: a file of a few hundred bytes may ask for terabytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.reference import ReferenceEvaluator

from onnxviz import limits
from onnxviz.graph.passes import Draft
from onnxviz.graph.shapes import infer
from onnxviz.graph.structure import attribute, initializers, replace_nodes, to_array
from onnxviz.tensors import subgraphs

_FOLDABLE = frozenset(
    [
        "Abs",
        "Acos",
        "Add",
        "And",
        "ArgMax",
        "ArgMin",
        "Asin",
        "Atan",
        "BitShift",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Concat",
        "ConstantOfShape",
        "Cos",
        "CumSum",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Erf",
        "Exp",
        "Expand",
        "EyeLike",
        "Flatten",
        "Floor",
        "Gather",
        "GatherElements",
        "GatherND",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Log",
        "Max",
        "Mean",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "NonZero",
        "Not",
        "OneHot",
        "Or",
        "Pad",
        "Pow",
        "QuantizeLinear",
        "Range",
        "Reciprocal",
        "ReduceL1",
        "ReduceL2",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "ReduceSumSquare",
        "Relu",
        "Reshape",
        "Round",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Sigmoid",
        "Sign",
        "Sin",
        "Size",
        "Slice",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tanh",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Xor",
        "MatMul",
    ]
)
"""Operators that are deterministic and whose work is proportional to the numbers they read and write."""


def run(draft: Draft) -> str:
    """Evaluate what can be evaluated now, and drop what is no longer read."""
    graph = draft.graph
    constants = initializers(graph)
    outputs = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    folded = constant_nodes = 0
    for node in graph.node:
        results = None if outputs.intersection(node.output) else _evaluate(draft, node, constants)
        if results is None:
            kept.append(node)
            continue
        for name, tensor in results.items():
            tensor.name = name
            constants[name] = tensor
            draft.bytes_folded += tensor.ByteSize()
        folded += node.op_type not in ("Constant", "Identity")
        constant_nodes += 1
    if constant_nodes:
        made = [tensor for name, tensor in constants.items() if name not in {t.name for t in graph.initializer}]
        replace_nodes(graph, kept)
        graph.initializer.extend(made)
    draft.changed()
    draft.drop_unused()
    draft.nodes_folded += folded
    count = draft.nodes_folded
    return f"folded {count} nodes that compute constants" if count else ""


def _evaluate(draft: Draft, node: NodeProto, constants: dict[str, TensorProto]) -> dict[str, TensorProto] | None:
    """Return the node's outputs, or None if it cannot or must not be evaluated now.

    Before opset 7 broadcasting was something else, which the reference implementation does not know.
    """
    if node.domain or draft.opset < 7 or any(name and name not in constants for name in node.input):
        return None
    outputs = [name for name in node.output if name]
    if node.op_type == "Constant" and len(outputs) == 1:
        tensor = constant_value(node)
        return None if tensor is None else {outputs[0]: tensor}
    if node.op_type == "Identity" and len(outputs) == 1:
        copy = TensorProto()
        copy.CopyFrom(constants[node.input[0]])
        return {outputs[0]: copy}
    if node.op_type not in _FOLDABLE or next(subgraphs(node), None) is not None:
        return None
    given = {name: constants[name] for name in node.input if name}
    if any(tensor.data_type == TensorProto.STRING for tensor in given.values()):
        return None
    size = _result_bytes(draft, node, given)
    if size is None or size > min(limits.FOLDED_BYTES, limits.FOLDED_TOTAL_BYTES - draft.bytes_folded):
        return None
    return _reference(draft, node, given, outputs)


def constant_value(node: NodeProto) -> TensorProto | None:
    """Return what a Constant node holds, or None for strings and types that are no tensor."""
    for name, element in (("value_int", TensorProto.INT64), ("value_ints", TensorProto.INT64),
                          ("value_float", TensorProto.FLOAT), ("value_floats", TensorProto.FLOAT)):  # fmt: skip
        value = attribute(node, name)
        if value is not None:
            kind = np.int64 if element == TensorProto.INT64 else np.float32
            return onnx.numpy_helper.from_array(np.asarray(value, dtype=kind))
    tensor = attribute(node, "value")
    if not isinstance(tensor, TensorProto) or tensor.data_type == TensorProto.STRING:
        return None
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy


def _result_bytes(draft: Draft, node: NodeProto, given: dict[str, TensorProto]) -> int | None:
    """Return a bound for the bytes of a node's results, from inferred shapes; None if there is no bound."""
    read = sum(int(math.prod(tensor.dims)) for tensor in given.values())
    if node.op_type == "NonZero":
        return 8 * max(1, len(next(iter(given.values())).dims)) * read
    if node.op_type == "MatMul" and read > limits.FOLDED_BYTES // 64:
        return None  # work grows faster than the result
    types = infer(_alone(draft, node, given))
    total = 0
    for name in node.output:
        if not name:
            continue
        kind = types.get(name)
        if kind is None or kind.fixed is None or kind.element in (TensorProto.UNDEFINED, TensorProto.STRING):
            return None
        if any(size < 0 for size in kind.fixed):
            return None
        total += math.prod(kind.fixed) * 8
    return total


def _alone(draft: Draft, node: NodeProto, given: dict[str, TensorProto]) -> ModelProto:
    graph = GraphProto(name="graph", node=[node], initializer=list(given.values()))
    for name in node.output:
        if name:
            graph.output.append(onnx.ValueInfoProto(name=name))
    return ModelProto(ir_version=8, opset_import=draft.model.opset_import, graph=graph)


def _reference(
    draft: Draft, node: NodeProto, given: dict[str, TensorProto], outputs: list[str]
) -> dict[str, TensorProto] | None:
    feeds: dict[str, Any] = {name: to_array(tensor) for name, tensor in given.items()}
    graph = GraphProto(name="graph", node=[node])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in given)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    # The reference implementation knows these two from opset 19 on only; what older opsets have is unchanged there.
    opset = max(draft.opset, 21) if node.op_type in ("QuantizeLinear", "DequantizeLinear") else draft.opset
    model = ModelProto(ir_version=8, opset_import=[onnx.helper.make_opsetid("", opset)], graph=graph)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(outputs, feeds)
        tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(result)) for result in results]
    except Exception:  # the evaluator raises anything; an operator that it cannot do stays in the graph
        return None
    for tensor, result in zip(tensors, results, strict=True):
        del tensor.dims[:]
        tensor.dims.extend(np.shape(result))  # ascontiguousarray makes scalars one-dimensional
    return dict(zip(outputs, tensors, strict=True))
