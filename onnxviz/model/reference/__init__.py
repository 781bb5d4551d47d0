"""What some nodes of a model give by the standard, in double precision: a computation that is nobody's under test.

By the onnx package's reference evaluator, node by node, with every floating value widened to float64; convolutions,
poolings and products of integers by definitions of their own, because the evaluator takes minutes for them or does not
know them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnx.reference import ReferenceEvaluator

from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import initializers, reads
from onnxviz.graph.tensors import subgraphs
from onnxviz.model.reference.integers import DEFINITIONS, PRODUCTS
from onnxviz.model.reference.windows import convolve, convolve_transposed, pool

WORK = 40_000_000_000
"""Most multiplications and additions of one computation: some 10 s on one core."""
_BYTES = 1 << 30
"""Largest result of a node, in double precision."""
_LOOPS = frozenset(
    ["AffineGrid", "AveragePool", "Col2Im", "DeformConv", "GRU", "GridSample", "LRN", "LSTM", "Loop", "LpPool",
     "MaxPool", "MaxRoiPool", "MaxUnpool", "NonMaxSuppression", "RNN", "Resize", "RoiAlign", "STFT", "Scan", "Upsample"]
)  # fmt: skip
"""Operators that the evaluator computes position by position in Python."""
_LOOP_WORK = 20_000
"""What one position of those costs, in multiplications."""
_FLOATS = frozenset([TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])


class Allowance:
    """What all third computations of one judgement may cost together: no clock, so that the outcome stays the same."""

    def __init__(self, work: float = WORK) -> None:
        self._left = work

    def spend(self, work: float, operator: str) -> None:
        """Take some multiplications and additions; raises `Undecidable` if that many are not left."""
        if work > self._left:
            raise Undecidable(f"{operator} takes too long in double precision")
        self._left -= work


class Undecidable(Exception):  # noqa: N818 - an outcome, not a fault
    """There is no third computation of a value; its text says why."""


def compute(model: ModelProto, value: str, given: Mapping[str, np.ndarray], allowance: Allowance) -> np.ndarray:
    """Return a value of a model, computed in double precision from other values.

    What is `given`, with the initializers, must be enough for it; a given `value` itself is computed all the same. In
    all graphs of the model values have names of their own.

    Raises:
        Undecidable: if the standard has no such operator, or it would take too long or too much memory.
    """
    known = {name: _wide(array) for name, array in given.items() if name != value}
    constant = initializers(model.graph)
    for node in _stretch(model, value, known):
        for name in reads(node):
            if name not in known:
                if name not in constant:
                    raise Undecidable(f"the value {name} that it is computed from is not known")
                known[name] = _wide(onnx.numpy_helper.to_array(constant[name]))
        inputs = [known[name] if name else None for name in node.input]
        allowance.spend(_work(node, inputs), node.op_type)
        try:
            with np.errstate(all="ignore"):
                results = _node(model, node, inputs, known)
        except Undecidable:
            raise
        except Exception as fault:  # the evaluator raises whatever numpy does
            raise Undecidable(f"the standard's {node.op_type} fails here: {fault}"[:200]) from fault
        for name, array in zip(node.output, results, strict=False):
            if name:
                if np.asarray(array).size * 8 > _BYTES:
                    raise Undecidable("it is too large in double precision")
                known[name] = _wide(np.asarray(array))
    return known[value]


def _stretch(model: ModelProto, value: str, known: Mapping[str, np.ndarray]) -> list[NodeProto]:
    """Return the nodes between the known values and another, in order."""
    needed = {value}
    found: list[NodeProto] = []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            found.append(node)
            needed.update(name for name in reads(node) if name not in known)
    return found[::-1]


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" or array.dtype.name == "bfloat16" else array


def _attributes(node: NodeProto) -> dict[str, Any]:
    found = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: each.decode("utf-8", "replace") if isinstance(each, bytes) else each for name, each in found.items()}


def operator_name(node: NodeProto) -> str:
    """Return a node's operator as this package lists it: with its domain, if that is not the standard's."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"


def _work(node: NodeProto, inputs: Sequence[np.ndarray | None]) -> float:
    """Return a bound on the multiplications of a node, which is no more than a guess for what is not listed."""
    sizes = [array.size for array in inputs if array is not None]
    first = inputs[0] if inputs else None
    traits = traits_of(node)
    if traits.form in ("convolution", "transposed_convolution") and first is not None:
        weight = inputs[traits.weight]
        if weight is None:
            return 0.0
        strides = math.prod(_attributes(node).get("strides") or [1]) if traits.form == "convolution" else 1
        return float(first.size // max(first.shape[1], 1) * weight.size / max(strides, 1))
    if "MatMul" in node.op_type or node.op_type in ("Gemm", "QGemm", "Einsum"):
        return sizes[0] * math.sqrt(max(sizes[1:])) if len(sizes) > 1 else 0.0
    if node.op_type in _LOOPS and not _pools(node):
        return _positions(node, inputs) * _LOOP_WORK
    return 10.0 * sum(sizes)


def _positions(node: NodeProto, inputs: Sequence[np.ndarray | None]) -> float:
    """Return how many numbers an operator that goes position by position makes, as far as its inputs tell."""
    size = float(max((array.size for array in inputs if array is not None), default=0))
    if node.op_type in ("Resize", "Upsample") and inputs[0] is not None:
        scales = inputs[1 if node.op_type == "Upsample" or len(inputs) == 2 else 2]
        if scales is not None and scales.size:
            return float(inputs[0].size * np.prod(scales.astype(np.float64)))
        if len(inputs) > 3 and inputs[3] is not None:
            return float(np.prod(inputs[3].astype(np.float64)))
    return size


def _pools(node: NodeProto) -> bool:
    """Whether a pooling is one that has a definition here."""
    attributes = _attributes(node)
    plain = not attributes.get("ceil_mode", 0) and not any(node.output[1:])
    return not node.domain and node.op_type in ("MaxPool", "AveragePool") and plain


def _node(
    model: ModelProto, node: NodeProto, inputs: Sequence[np.ndarray | None], known: Mapping[str, np.ndarray]
) -> Sequence[np.ndarray]:
    if traits_of(node).random:
        raise Undecidable(f"{node.op_type} is random")
    attributes = _attributes(node)
    if operator_name(node) in DEFINITIONS:
        return [DEFINITIONS[operator_name(node)](inputs, attributes)]
    if not node.domain or node.domain == "ai.onnx":
        if node.op_type in ("Conv", "ConvTranspose"):
            values, weight, *bias = inputs
            assert values is not None
            assert weight is not None
            result = (convolve if node.op_type == "Conv" else convolve_transposed)(values, weight, attributes)
            if bias and bias[0] is not None:
                result = result + bias[0].reshape(-1, *(1,) * (result.ndim - 2))
            return [result]
        if _pools(node):
            assert inputs[0] is not None
            return [pool(inputs[0], attributes, node.op_type == "MaxPool")]
        if node.op_type == "Cast" and attributes["to"] in _FLOATS and inputs[0] is not None:
            return [inputs[0].astype(np.float64)]
    return _by_evaluator(model, node, known)


def _by_evaluator(model: ModelProto, node: NodeProto, known: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    names = list(dict.fromkeys(reads(node)))
    inner = {value for body in subgraphs(node) for each in body.node for value in each.output}
    names = [name for name in names if name in known and name not in inner]
    graph = onnx.helper.make_graph(
        [node],
        "graph",
        [onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(known[name].dtype), None)
         for name in names],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )  # fmt: skip
    single = ModelProto(ir_version=10, opset_import=model.opset_import, functions=model.functions, graph=graph)
    try:
        evaluator = ReferenceEvaluator(single)
    except Exception as fault:
        raise Undecidable(f"the standard's reference does not know {operator_name(node)}") from fault
    results = iter(evaluator.run(None, {name: known[name] for name in names}))
    return [np.asarray(next(results)) if name else np.zeros(0) for name in node.output]


def is_exact(node: NodeProto) -> bool:
    """Whether a node is a product of integers, which is computed exactly."""
    return operator_name(node) in PRODUCTS
