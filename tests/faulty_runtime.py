"""Stand-ins for ONNX Runtime that are wrong at some nodes, as real ones are on some processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto

from onnxviz.graph.structure import initializers
from onnxviz.model import judge, model
from onnxviz.model import parity as agreement
from onnxviz.model.ort_session import Session

Fault = Callable[[NodeProto, Mapping[str, np.ndarray], np.ndarray], np.ndarray]
"""From a node, its inputs by name and its right result to a wrong one."""


def saturated(node: NodeProto, inputs: Mapping[str, np.ndarray], _right: np.ndarray) -> np.ndarray:
    """MatMulInteger of uint8 and int8 whose pairs of products are added in 16 bits: x86's VPMADDUBSW."""
    left, right = (inputs[name].astype(np.int64) for name in node.input[:2])
    products = left[..., :, :, None] * right[..., None, :, :]
    if products.shape[-2] % 2:
        products = np.concatenate([products, np.zeros_like(products[..., :1, :])], axis=-2)
    pairs = products.reshape(*products.shape[:-2], -1, 2, products.shape[-1]).sum(-2)
    sums = np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(-2)
    if len(node.input) > 2 and node.input[2]:
        sums = sums - inputs[node.input[2]].astype(np.int64) * inputs[node.input[1]].astype(np.int64).sum(-2)
    return sums.astype(np.int32)


def install(monkeypatch: pytest.MonkeyPatch, faults: Mapping[str, Fault]) -> None:
    """Let the first node of each operator type, or the node of a name, be computed wrongly wherever it is computed."""

    class Faulty(Session):
        def __init__(self, graph: ModelProto, values: Any, **options: Any) -> None:
            self._wanted = list(values)
            self._graph = graph
            self._options = options
            nodes = [node for node in graph.graph.node if node.op_type in faults or node.output[0] in faults]
            self._wrong = [(node, faults.get(node.op_type) or faults[node.output[0]]) for node in nodes]
            super().__init__(graph, values, **options)

        def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            """Run in pieces: up to each wrong node, then on from its wrong value."""
            known = dict(inputs)
            constant = {
                name: onnx.numpy_helper.to_array(value) for name, value in initializers(self._graph.graph).items()
            }
            for node, fault in self._wrong:
                names = [name for name in node.input if name and name not in constant]
                made = {**known, **dict(zip(names, self._some(names, known), strict=True))}
                (right,) = self._some([node.output[0]], made)
                known[node.output[0]] = fault(node, {**constant, **made}, right)
            return self._some(self._wanted, known)

        def _some(self, names: list[str], known: dict[str, np.ndarray]) -> list[np.ndarray]:
            asked = {name for name in names if name not in known}
            nodes = [node for node in self._graph.graph.node if asked & set(node.output)]
            # With all outputs of a node, or those that nobody reads in this piece would be cut off.
            wanted = [name for node in nodes for name in node.output if name]
            found = dict(known)
            if wanted:
                session = Session(given(self._graph, known), wanted, **self._options)
                found.update(zip(wanted, session.run(known), strict=True))
            return [found[name] for name in names]

    for module in (agreement, judge, model):
        monkeypatch.setattr(module, "Session", Faulty)


def given(graph: ModelProto, known: Mapping[str, np.ndarray]) -> ModelProto:
    """A model whose known values are inputs."""
    copy = ModelProto()
    copy.CopyFrom(graph)
    declared = {value.name for value in copy.graph.input}
    kept = [node for node in graph.graph.node if not any(name in known for name in node.output)]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    for name, array in known.items():
        if name not in declared:
            element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            copy.graph.input.append(onnx.helper.make_tensor_value_info(name, element, list(array.shape)))
    return copy
