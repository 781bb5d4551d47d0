"""Reductions, positions of extremes and running sums against ONNX Runtime and NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node

import onnxviz

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
VALUES = np.random.default_rng(0).uniform(0.5, 2.0, (2, 3, 4, 5)).astype(np.float32)


def _of_one(operator: str, values: np.ndarray) -> np.ndarray:
    """Reduce each number alone."""
    each = {"ReduceL1": np.abs, "ReduceL2": np.abs, "ReduceLogSum": np.log, "ReduceSumSquare": np.square}
    return np.asarray(each[operator](values) if operator in each else values)


@pytest.mark.parametrize("operator", REDUCTIONS)
def test_axes_as_attribute(operator: str) -> None:
    opset = 11 if operator == "ReduceSum" else 13
    check(operator, [VALUES], opset=opset, axes=[1, -1], keepdims=0, compiled=True, gradient=True)
    check(operator, [VALUES], opset=opset, axes=[0, 2, 3])
    check(operator, [VALUES], opset=opset, keepdims=0)
    check(operator, [VALUES], opset=1, axes=[2])
    check(operator, [np.array(1.7, np.float32)], opset=18, expected=[_of_one(operator, np.array(1.7, np.float32))])


@pytest.mark.parametrize("operator", REDUCTIONS)
@pytest.mark.parametrize("constants", [(1,), ()])
@pytest.mark.parametrize("keep", [0, 1])
def test_axes_as_input(operator: str, constants: tuple[int, ...], keep: int) -> None:
    for axes in ([1], [-1, 0], [0, 1, 2, 3]):
        given = np.array(axes, np.int64)
        check(operator, [VALUES, given], opset=18, constants=constants, keepdims=keep)
    nothing = np.zeros(0, np.int64)
    check(operator, [VALUES, nothing], opset=18, constants=constants, keepdims=keep)
    check(
        operator, [VALUES, nothing], opset=18, constants=constants, keepdims=keep, noop_with_empty_axes=1,
        expected=[_of_one(operator, VALUES)],
    )  # fmt: skip


@pytest.mark.parametrize("operator", [name for name in REDUCTIONS if "Log" not in name])
@pytest.mark.parametrize("kind", ["int32", "int64", "uint32", "uint64"])
def test_integers(operator: str, kind: str) -> None:
    values = np.random.default_rng(0).integers(1, 6, (2, 3, 4)).astype(kind)
    found = check(operator, [values, np.array([1], np.int64)], opset=18, constants=(1,), reference="onnx")
    assert not found[0].is_floating_point()


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
def test_extremes_of_bytes_bools_and_large_numbers(operator: str) -> None:
    function = np.max if operator == "ReduceMax" else np.min
    for kind in ("uint8", "int8"):
        values = np.random.default_rng(0).integers(0, 100, (3, 4)).astype(kind)
        check(operator, [values, np.array([0], np.int64)], opset=18, constants=(1,))
    truth = np.array([[True, False], [True, True], [False, False]])
    check(
        operator,
        [truth, np.array([1], np.int64)],
        opset=20,
        constants=(1,),
        expected=[function(truth, 1, keepdims=True)],
    )
    large = np.array([[1, 2**63 + 9], [2**64 - 1, 2**63]], np.uint64)
    (found,) = onnxviz.to_torch(one_node(operator, [large], opset=18, keepdims=0))(torch.from_numpy(large))
    assert int(found) % 2**64 == int(function(large))


@pytest.mark.parametrize("operator", REDUCTIONS)
def test_nothing_is_reduced_to_the_neutral_number(operator: str) -> None:
    empty = np.zeros((2, 0, 3), np.float32)
    neutral = {"ReduceProd": 1.0, "ReduceMax": -np.inf, "ReduceMin": np.inf, "ReduceLogSum": -np.inf,
               "ReduceLogSumExp": -np.inf, "ReduceMean": np.nan}.get(operator, 0.0)  # fmt: skip
    for keep, shape in ((1, (2, 1, 3)), (0, (2, 3))):
        wanted = np.full(shape, neutral, np.float32)
        given = [empty, np.array([1], np.int64)]
        check(operator, given, opset=20, constants=(1,), keepdims=keep, expected=[wanted])


@pytest.mark.parametrize("operator", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("axis", "keep"), [(0, 1), (1, 0), (-1, 1)])
def test_positions_of_extremes(operator: str, last: int, axis: int, keep: int) -> None:
    for kind in ("float32", "int32", "uint8"):
        values = np.random.default_rng(0).integers(0, 3, (3, 4, 5)).astype(kind)
        check(
            operator, [values], opset=13, axis=axis, keepdims=keep, select_last_index=last, reference="onnx",
            compiled=kind == "float32" and axis == 0,
        )  # fmt: skip


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("constants", [(1,), ()])
def test_running_sums_and_products(exclusive: int, reverse: int, constants: tuple[int, ...]) -> None:
    for axis in (0, -1):
        given = np.array(axis, np.int64)
        options = {"exclusive": exclusive, "reverse": reverse, "constants": constants}
        check("CumSum", [VALUES, given], opset=14, gradient=not axis, compiled=bool(constants), **options)
        check("CumSum", [(VALUES * 9).astype(np.int32), given], opset=14, **options)
        if onnx.defs.onnx_opset_version() >= 26:
            flat = VALUES[0, 0]
            check("CumProd", [flat, given], opset=26, reference="onnx", gradient=not axis, **options)


def test_running_sums_of_nothing() -> None:
    check("CumSum", [np.zeros((0, 2), np.float32), np.array(0, np.int64)], opset=14, constants=(1,), exclusive=1)
