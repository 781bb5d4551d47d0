"""Comparisons, logic and bits against ONNX Runtime and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz

LARGE = np.array([0, 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)


@pytest.mark.parametrize("operator", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons_know_that_uint64_has_no_sign(operator: str) -> None:
    function = {
        "Equal": np.equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Less": np.less,
        "LessOrEqual": np.less_equal,
    }[operator]  # fmt: skip
    first, second = LARGE[:, None], LARGE[None]
    check(operator, [first, second], opset=16, expected=[function(first, second)], compiled=True)
    check(operator, [np.array([1.0, np.nan, 2.0], np.float32), np.float32(1.5).reshape(1)], opset=16)
    if operator in ("Equal", "Greater", "Less"):
        rows = np.arange(6, dtype=np.int32 if operator == "Equal" else np.float32).reshape(2, 3)
        columns = np.array([1, 4], rows.dtype)
        check(
            operator, [rows, columns], opset=6, broadcast=1, axis=0, expected=[function(rows, columns[:, None])],
        )  # fmt: skip


@pytest.mark.parametrize("operator", ["And", "Or", "Xor"])
def test_logic_broadcasts(operator: str) -> None:
    first, second = np.array([[True], [False]]), np.array([True, False])
    check(operator, [first, second], opset=7, compiled=True)
    function = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}[operator]
    rows = np.array([[True, False, True], [False, False, True]])
    wanted = function(rows, second[:, None])
    check(operator, [rows, second], opset=1, broadcast=1, axis=0, expected=[wanted])


def test_not_and_where() -> None:
    condition = np.array([[True], [False]])
    check("Not", [condition], opset=1, compiled=True)
    first, second = np.ones((1, 3), np.float32), np.full((2, 3), -1.5, np.float32)
    check("Where", [condition, first, second], opset=16, compiled=True, gradient=False)
    check("Where", [condition, first.astype(np.int64), np.array(3, np.int64)], opset=16)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32", "uint64"])
def test_shifts_of_unsigned_numbers(kind: str, direction: str) -> None:
    info = np.iinfo(kind)
    values = np.array([0, 1, 5, info.max // 2, info.max // 2 + 1, info.max], kind)
    counts = np.array([0, 1, 3, info.bits - 1], kind)
    wanted = (np.left_shift if direction == "LEFT" else np.right_shift)(values[:, None], counts)
    network = onnxviz.to_torch(one_node("BitShift", [values[:, None], counts], opset=11, direction=direction))
    (found,) = network(torch.from_numpy(values[:, None]), torch.from_numpy(counts))
    assert np.array_equal(found.numpy().astype(np.int64), wanted.astype(np.int64))


@pytest.mark.parametrize("kind", ["int8", "int32", "uint8", "uint16", "uint32", "uint64"])
def test_bits(kind: str) -> None:
    info = np.iinfo(kind)
    values = np.random.default_rng(0).integers(info.min, info.max, (2, 5), dtype=kind, endpoint=True)
    for operator, function in (("BitwiseAnd", np.bitwise_and), ("BitwiseOr", np.bitwise_or),
                               ("BitwiseXor", np.bitwise_xor)):  # fmt: skip
        network = onnxviz.to_torch(one_node(operator, [values, values[:1]], opset=18))
        (found,) = network(torch.from_numpy(values), torch.from_numpy(values[:1]))
        assert np.array_equal(found.numpy().astype(np.int64), function(values, values[:1]).astype(np.int64))
    (found,) = onnxviz.to_torch(one_node("BitwiseNot", [values], opset=18))(torch.from_numpy(values))
    assert np.array_equal(found.numpy().astype(np.int64), np.bitwise_not(values).astype(np.int64))


@pytest.mark.parametrize(("negative", "positive"), [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_infinities(negative: int, positive: int) -> None:
    values = np.array([1.0, np.inf, -np.inf, np.nan], np.float32)
    check("IsInf", [values], opset=10, detect_negative=negative, detect_positive=positive, compiled=True)
    check("IsNaN", [values], opset=13, compiled=True)


def test_strings_are_refused_by_name() -> None:
    model = one_node("Equal", [np.array([1.0], np.float32), np.array([1.0], np.float32)], opset=19)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = 8
    with pytest.raises(onnxviz.OnnxvizError, match="Equal"):
        onnxviz.to_torch(model)
