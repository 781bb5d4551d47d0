"""Nodes without an input that they must have, scalars where an axis is asked for, sparse tensors of nothing."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

import onnxviz
from onnxviz.core.errors import ModelFileError


def save(folder: Path, node: onnx.NodeProto, opset: int, shape: list[int] | None = None) -> Path:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8] if shape is None else shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [image], [result])
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.mark.parametrize(
    ("operator", "inputs", "said", "opset"),
    [
        ("Add", ["x", ""], "lacks its input 'B'", 17),
        ("BitwiseAnd", ["x"], "has 1 inputs, which its operator does not take", 18),
        ("Where", ["", "x", "x"], "lacks its input 'condition'", 17),
        ("RMSNormalization", ["x"], "has 1 inputs, which its operator does not take", 23),
        ("GatherElements", ["x"], "has 1 inputs, which its operator does not take", 17),
    ],
)
def test_a_missing_input_is_named(tmp_path: Path, operator: str, inputs: list[str], said: str, opset: int) -> None:
    path = save(tmp_path, helper.make_node(operator, inputs, ["y"]), opset)
    with pytest.raises(ModelFileError) as raised:
        onnxviz.to_torch(path)
    assert raised.value.what == f"{operator} 'y' {said}"
    assert raised.value.remedy == "the file is damaged or its opset is not the declared one: export it again"


def test_inputs_that_an_operator_may_do_without(tmp_path: Path) -> None:
    network = onnxviz.to_torch(save(tmp_path, helper.make_node("Clip", ["x", "", ""], ["y"]), 17))
    assert torch.equal(network(torch.ones(1, 3, 8, 8))[0], torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize(("operator", "value"), [("Softmax", 1.0), ("ReduceSum", 2.0)])
def test_an_axis_of_a_scalar_divides_by_nothing(tmp_path: Path, operator: str, value: float) -> None:
    path = save(tmp_path, helper.make_node(operator, ["x"], ["y"]), 17, [])
    assert torch.equal(onnxviz.to_torch(path)(torch.tensor(2.0))[0], torch.tensor(value))


def test_a_scalar_that_is_to_be_normalised_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, helper.make_node("LayerNormalization", ["x", "x"], ["y"]), 17, [])
    with pytest.raises(RuntimeError, match="at least 1-dimensional"):
        onnxviz.to_torch(path)(torch.tensor(2.0))


def test_a_sparse_tensor_of_nothing(tmp_path: Path) -> None:
    path = save(tmp_path, helper.make_node("Add", ["x", "w"], ["y"]), 17)
    model = onnx.load(path)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.name = "w"
    sparse.dims.append(3)
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="has no numbers"):
        onnxviz.open_model(path)
