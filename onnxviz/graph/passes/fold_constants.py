"""Weights that are computed from constants are still weights.

Each node whose inputs are all constant is evaluated with ONNX's reference implementation and becomes an initializer;
so are nodes within the bodies of control flow, and of an If whose condition is constant only the chosen branch is left.
The size of the result is known before anything is evaluated: a file of a few hundred bytes may ask for terabytes. What
is larger than the bounds stays a node (a ConstantOfShape costs nothing as it is), and so do random numbers.
"""

from __future__ import annotations

import math
from collections import ChainMap, deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxviz.core import limits
from onnxviz.graph.draft import Draft
from onnxviz.graph.operators import Form, traits_of
from onnxviz.graph.shapes import UNKNOWN, TensorType, infer
from onnxviz.graph.structure import attribute, constant_value, copy_of, initializers, refill, rename_reads, to_array
from onnxviz.graph.tensors import subgraphs

_FOLDABLE: frozenset[Form] = frozenset([
    "along_axis", "axis_normalisation", "channel_normalisation", "concat", "cumulative", "depth_to_space", "expand",
    "gather", "gather_elements", "gather_nd", "gemm", "generation", "last_normalisation", "map_normalisation",
    "nonzero", "one_hot", "pad", "pointwise", "product", "quantize", "reduction", "reshape", "scatter_elements",
    "scatter_nd", "shape", "slice", "space_to_depth", "split", "tile", "transpose", "trilu",
])  # fmt: skip
"""Forms whose work is proportional to the numbers they read and write."""
_PLAIN = frozenset(
    [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL,
     TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
     TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64]
)  # fmt: skip
"""Element types that are computed with."""


def run(draft: Draft) -> str:
    """Evaluate what can be evaluated now, and drop what is no longer read."""
    _fold(draft, draft.graph, ChainMap())
    draft.changed()
    draft.drop_unused()
    said = []
    if draft.nodes_folded:
        said.append(f"folded {draft.nodes_folded} nodes that compute constants")
    if draft.branches_chosen:
        said.append(f"chose {draft.branches_chosen} branches whose condition is constant")
    return ", ".join(said)


def _fold(draft: Draft, graph: GraphProto, around: ChainMap[str, TensorProto]) -> None:
    """Evaluate the nodes of a graph whose inputs are constants, its own or those of the graphs around it."""
    own = initializers(graph)
    constants = ChainMap(own, *around.maps)
    outputs = {value.name for value in graph.output}
    made: list[TensorProto] = []
    kept: list[NodeProto] = []
    waiting = deque(graph.node)
    changed = False
    while waiting:
        node = waiting.popleft()
        branch = _chosen_branch(node, constants)
        if branch is not None:
            draft.branches_chosen += 1
            changed = True
            spliced, tensors = _written_out(draft, node, branch)
            own.update((tensor.name, tensor) for tensor in tensors)
            made.extend(tensors)
            waiting.extendleft(reversed(spliced))
            continue
        for body in subgraphs(node):
            _fold(draft, body, constants)
        results = None if outputs.intersection(node.output) else _evaluate(draft, node, constants)
        if results is None:
            kept.append(node)
            continue
        changed = True
        draft.nodes_folded += node.op_type not in ("Constant", "Identity")
        for name, tensor in results.items():
            tensor.name = name
            own[name] = tensor
            made.append(tensor)
            draft.bytes_folded += tensor.ByteSize()
    if changed:
        refill(graph.node, kept)
        graph.initializer.extend(made)


def _chosen_branch(node: NodeProto, constants: Mapping[str, TensorProto]) -> GraphProto | None:
    """Return the branch of an If whose condition is constant."""
    if node.op_type != "If" or node.domain or node.input[0] not in constants:
        return None
    condition = to_array(constants[node.input[0]]).reshape(-1)
    branch = attribute(node, "then_branch" if condition.size == 1 and condition[0] else "else_branch")
    fits = condition.size == 1 and isinstance(branch, GraphProto) and not branch.input
    return branch if fits and len(branch.output) >= len(node.output) else None


def _written_out(draft: Draft, node: NodeProto, branch: GraphProto) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return the nodes and constants of a branch, its results called as those of the If."""
    nodes = [copy_of(inner) for inner in branch.node]
    tensors = [copy_of(tensor) for tensor in branch.initializer]
    made = {name for inner in nodes for name in inner.output if name}
    renamed: dict[str, str] = {}
    for value, name in zip(branch.output, node.output, strict=False):
        if not name:
            continue
        if value.name in made and value.name not in renamed:
            renamed[value.name] = name
        else:  # the value comes from outside, is a constant, or is returned twice
            source = renamed.get(value.name, value.name)
            nodes.append(onnx.helper.make_node("Identity", [source], [name], name=draft.new_node(node.name)))
    for inner in nodes:
        for index, name in enumerate(inner.output):
            inner.output[index] = renamed.get(name, name)
    rename_reads(nodes, renamed)
    return nodes, tensors


def _evaluate(draft: Draft, node: NodeProto, constants: Mapping[str, TensorProto]) -> dict[str, TensorProto] | None:
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
        return {outputs[0]: copy_of(constants[node.input[0]])}
    if traits_of(node).form not in _FOLDABLE or traits_of(node).random:
        return None
    given = {name: constants[name] for name in node.input if name}
    # Quantised weights may be of any narrow type; otherwise such types pass through as they are.
    if node.op_type != "DequantizeLinear" and any(tensor.data_type not in _PLAIN for tensor in given.values()):
        return None
    types = infer(_alone(draft, node, given))
    size = _result_bytes(node, given, types)
    if size is None or size > min(limits.FOLDED_BYTES, limits.FOLDED_TOTAL_BYTES - draft.bytes_folded):
        return None
    results = _reference(draft, node, given, outputs)
    if results is None or any(not _as_inferred(tensor, types.get(name)) for name, tensor in results.items()):
        return None
    return results


def _as_inferred(tensor: TensorProto, kind: TensorType | None) -> bool:
    """Whether a result is of the type that the standard gives it; the reference implementation is not always exact."""
    if tensor.data_type not in _PLAIN or kind is None:
        return tensor.data_type in _PLAIN
    fixed = kind.fixed
    return tensor.data_type == kind.element and (fixed is None or tuple(tensor.dims) == fixed)


def _result_bytes(node: NodeProto, given: Mapping[str, TensorProto], types: Mapping[str, TensorType]) -> int | None:
    """Return a bound for the bytes of a node's results, from inferred shapes; None if there is no bound."""
    read = sum(int(math.prod(tensor.dims)) for tensor in given.values())
    if node.op_type == "NonZero":
        return 8 * max(1, len(next(iter(given.values())).dims)) * read
    if traits_of(node).form in ("gemm", "product") and read > limits.FOLDED_BYTES // 64:
        return None  # work grows faster than the result
    total = 0
    for name in filter(None, node.output):
        kind = types.get(name, UNKNOWN)
        if kind.fixed is None or kind.element in (TensorProto.UNDEFINED, TensorProto.STRING):
            return None
        if min(kind.fixed, default=0) < 0:
            return None
        total += math.prod(kind.fixed) * 8
    return total


def _alone(draft: Draft, node: NodeProto, given: dict[str, TensorProto]) -> ModelProto:
    graph = GraphProto(name="graph", node=[node], initializer=list(given.values()))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
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
    from onnx.reference import ReferenceEvaluator  # slow to load, and few models need it

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
