"""Gather and scatter against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz

GENERATOR = np.random.default_rng(0)
RANDOM = GENERATOR.normal(0, 1, (4, 3, 5)).astype(np.float32)
INDICES = np.asarray([[0, -1, 2], [1, 1, -3]])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "indices", [np.asarray(1), np.asarray(-1), np.asarray([1, 2]), np.asarray([2, 0, -1]), INDICES]
)
def test_gather(axis: int, indices: np.ndarray) -> None:
    check("Gather", [RANDOM, indices], axis=axis, constants=[1], compiled=True, gradient=True)
    check("Gather", [RANDOM, indices.astype(np.int32)], axis=axis, compiled=True, gradient=True)
    check("Gather", [RANDOM > 0, indices], axis=axis, constants=[0], shapes=False)


def test_gather_elements() -> None:
    for axis in (0, 2, -2):
        indices = GENERATOR.integers(-3, 3, (2, 3, 4))
        check("GatherElements", [RANDOM, indices], axis=axis, compiled=True, gradient=True)
        check("GatherElements", [RANDOM, indices], axis=axis, constants=[1], shapes=False)


@pytest.mark.parametrize("batch_axes", [0, 1, 2])
def test_gather_nd(batch_axes: int) -> None:
    data = GENERATOR.normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
    for depth in (1, 2):
        indices = GENERATOR.integers(-2, 2, (*data.shape[:batch_axes], 3, 2, depth))
        check("GatherND", [data, indices], batch_dims=batch_axes, compiled=True, gradient=True)
        check("GatherND", [data.astype(np.int64), indices], batch_dims=batch_axes, constants=[1])


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(reduction: str, axis: int) -> None:
    indices = np.stack([GENERATOR.permutation(3) for _ in range(6)]).reshape(2, 3, 3)
    indices = np.moveaxis(indices, 2, axis)
    indices = np.where(GENERATOR.random(indices.shape) < 0.5, indices, indices - RANDOM.shape[axis])
    indices = np.where(RANDOM.shape[axis] + indices < 0, 0, indices)
    updates = GENERATOR.normal(0, 1, indices.shape).astype(np.float32)
    data = RANDOM[: max(4, indices.shape[0])]
    if any(a > b for k, (a, b) in enumerate(zip(indices.shape, data.shape, strict=True)) if k != axis % 3):
        pytest.skip("indices beyond the data")
    check("ScatterElements", [data, indices, updates], opset=18, axis=axis, reduction=reduction,
          compiled=True, gradient=True)  # fmt: skip
    numbers = (data * 5).astype(np.int64), (updates * 5).astype(np.int64)
    check("ScatterElements", [numbers[0], indices, numbers[1]], opset=18, axis=axis, reduction=reduction, constants=[1])


def test_the_first_scatter() -> None:
    indices = np.asarray([[[1, 0, 2, -1, 3]]])
    check("Scatter", [RANDOM, indices, np.ones((1, 1, 5), np.float32)], opset=9, axis=0)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(reduction: str, depth: int) -> None:
    indices = np.asarray([[1, -1, 2], [0, 2, -2], [-1, 1, 0]])[:, :depth]
    updates = GENERATOR.normal(0, 1, (3, *RANDOM.shape[depth:])).astype(np.float32)
    inputs = [RANDOM, indices, updates]
    check("ScatterND", inputs, opset=18, reduction=reduction, compiled=True, gradient=True)
    check("ScatterND", inputs, opset=18, reduction=reduction, constants=[1], shapes=False)
    if reduction != "none":
        twice = [RANDOM, np.concatenate([indices, indices]), np.concatenate([updates, updates + 1])]
        check("ScatterND", twice, opset=18, reduction=reduction)


def test_truth_values_are_scattered() -> None:
    truths = RANDOM > 0
    indices = np.asarray([[0], [-1]])
    for reduction in ("none", "max", "min"):
        check("ScatterND", [truths, indices, truths[1:3]], opset=18, reduction=reduction, reference="onnx")


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("axis", [-2, 1])
def test_tensor_scatter(mode: str, axis: int) -> None:
    cache, update = RANDOM.reshape(4, 3, 5), GENERATOR.normal(0, 1, (4, 2, 5)).astype(np.float32)
    starts = np.asarray([0, 1, 0, 1]) if mode == "linear" else np.asarray([2, 1, 0, 2])
    check("TensorScatter", [cache, update, starts], opset=24, mode=mode, axis=axis, reference="onnx", gradient=True,
          compiled=True)  # fmt: skip
    check("TensorScatter", [cache, update], opset=24, mode=mode, axis=axis, reference="onnx")


def test_quantised_data_carried_as_floats_keep_their_gradient() -> None:
    model = one_node("Gather", [np.zeros((3, 4), np.int8), np.asarray([2, 0])], axis=1, constants=[1])
    data = torch.arange(12.0).reshape(3, 4).requires_grad_()
    onnxviz.to_torch(model)(data)[0].sum().backward()
    assert data.grad is not None
    assert data.grad.tolist() == [[1, 0, 1, 0]] * 3
