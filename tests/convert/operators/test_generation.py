"""Tensors made of shapes, ranges and constants, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.core.errors import ModelError

RANDOM = np.random.default_rng(0).normal(0, 1, (2, 3, 4, 5)).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    """An int64 vector."""
    return np.asarray(numbers, np.int64)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.int32, np.int8, np.bool_])
def test_constant_of_shape(kind: Any) -> None:
    value = numpy_helper.from_array(np.asarray([1], kind))
    check("ConstantOfShape", [whole(2, 0, 3)], value=value)
    check("ConstantOfShape", [whole()], value=value)
    check("ConstantOfShape", [whole(2, 3)])


@pytest.mark.parametrize("values", [(0, 9, 2), (9, 0, -4), (3, 3, 1), (5, 1, 1)])
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.float32])
def test_range(values: tuple[int, int, int], kind: Any) -> None:
    numbers = [np.asarray(number, kind) for number in values]
    check("Range", numbers)
    check("Range", numbers, constants=[1])


def test_range_of_fractions() -> None:
    check("Range", [np.asarray(number, np.float32) for number in (0, 1, 0.1)])
    check("Range", [np.asarray(number, np.float32) for number in (-0.3, 7.7, 0.7)])


@pytest.mark.parametrize("diagonal", [0, 2, -1, 9])
def test_eye_like(diagonal: int) -> None:
    check("EyeLike", [RANDOM[0, 0]], k=diagonal, compiled=True)
    check("EyeLike", [RANDOM[0, 0]], k=diagonal, dtype=TensorProto.INT64, compiled=True)


@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
def test_one_hot(axis: int) -> None:
    indices = np.asarray([[0, 3, -1], [7, -4, -9]])
    for depth in (np.asarray(4), np.asarray([4])):
        for values in (np.asarray([2, 5], np.float32), np.asarray([2, 5])):
            check("OneHot", [indices, depth, values], axis=axis, constants=[1, 2], compiled=True)
            check("OneHot", [indices, depth, values], axis=axis)
    check("OneHot", [indices, np.asarray(4), np.asarray([2, 5], np.float32)], constants=[1], gradient=True)


@pytest.mark.parametrize("start", [0, 1, -2, -9])
@pytest.mark.parametrize("end", [None, -1, 9])
def test_shape_and_size(start: int, end: int | None) -> None:
    limits = {} if end is None else {"end": end}
    check("Shape", [RANDOM], start=start, compiled=True, **limits)
    check("Shape", [RANDOM], start=start, shapes=False, **limits)
    check("Size", [RANDOM], compiled=True)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("diagonal", [0, 2, -3, 2**40, -(2**40)])
def test_trilu(upper: int, diagonal: int) -> None:
    check("Trilu", [RANDOM, np.asarray(diagonal)], upper=upper, constants=[1], compiled=True, gradient=True)
    check("Trilu", [RANDOM.astype(np.int64), np.asarray(diagonal)], upper=upper)
    check("Trilu", [RANDOM > 0, np.asarray(diagonal)], upper=upper, constants=[1], reference="onnx")
    check("Trilu", [RANDOM], upper=upper)


def sparse(indices: np.ndarray) -> onnx.SparseTensorProto:
    """A sparse constant [2, 5] of two numbers."""
    values = numpy_helper.from_array(np.asarray([1.5, -2], np.float32), "values")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices), [2, 5])


def test_constants() -> None:
    wanted = np.zeros((2, 5), np.float32)
    wanted[0, 3], wanted[1, 2] = 1.5, -2
    check("Constant", [], sparse_value=sparse(whole(3, 7)), expected=[wanted])
    check("Constant", [], sparse_value=sparse(np.asarray([[0, 3], [1, 2]])), expected=[wanted])
    check("Constant", [], value_float=2.5)
    check("Constant", [], value_floats=[2.5, 1])
    check("Constant", [], value_int=3)
    check("Constant", [], value_ints=[3, 4])
    check("Constant", [], value=numpy_helper.from_array(np.asarray([[True, False]])))
    with pytest.raises(ModelError, match="Constant"):
        onnxviz.to_torch(one_node("Constant", [], value_string=b"text"))


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("ConstantOfShape", [whole(2**20, 2**20)]),
        ("ConstantOfShape", [whole(2**62, 4)]),
        ("Range", [np.asarray(0), np.asarray(2**40), np.asarray(1)]),
        ("OneHot", [whole(1, 2), np.asarray(2**40), np.asarray([0, 1], np.float32)]),
    ],
)
@pytest.mark.parametrize("constant", [True, False])
def test_what_would_fill_the_memory_is_refused(operator: str, inputs: list[np.ndarray], constant: bool) -> None:
    model = one_node(operator, inputs, constants=range(len(inputs)) if constant else ())
    with pytest.raises(ModelError, match=operator):  # at conversion where the size is known by then
        onnxviz.to_torch(model)(*([] if constant else [torch.from_numpy(np.array(value)) for value in inputs]))


def test_a_range_without_end_is_refused() -> None:
    network = onnxviz.to_torch(one_node("Range", [np.asarray(0), np.asarray(5), np.asarray(1)]))
    with pytest.raises(ModelError, match="Range"):
        network(torch.tensor(0), torch.tensor(5), torch.tensor(0))
