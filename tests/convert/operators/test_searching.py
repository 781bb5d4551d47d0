"""Operators whose result is chosen by values, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz

GENERATOR = np.random.default_rng(0)
RANDOM = GENERATOR.normal(0, 1, (3, 4, 6)).astype(np.float32)
TIES = GENERATOR.integers(0, 3, (3, 4, 6))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(axis: int, largest: int) -> None:
    for data in (RANDOM, TIES.astype(np.float32), TIES):
        check("TopK", [data, np.asarray([2])], 2, axis=axis, largest=largest, constants=[1], compiled=True)
        check("TopK", [data, np.asarray([3])], 2, axis=axis, largest=largest, sorted=1)
    check("TopK", [RANDOM, np.asarray([2])], ["y0", ""], axis=axis, largest=largest, constants=[1], gradient=True)
    check("TopK", [TIES.astype(np.float32), np.asarray([2])], ["", "y1"], axis=axis, largest=largest, constants=[1])


def test_top_k_of_large_unsigned_numbers() -> None:
    data = np.asarray([3, 2**63 + 5, 7, 2**64 - 1, 2**63], np.uint64)
    model = one_node("TopK", [data, np.asarray([3])], 2, constants=[1])
    values, places = onnxviz.to_torch(model)(torch.from_numpy(data.view(np.int64)))
    assert places.tolist() == [3, 1, 4]
    assert values.numpy().view(np.uint64).tolist() == [2**64 - 1, 2**63 + 5, 2**63]


@pytest.mark.parametrize("data", [RANDOM * (TIES > 0), TIES, TIES > 1, np.float32(3), np.float32(0)])
def test_non_zero(data: np.ndarray) -> None:
    check("NonZero", [np.asarray(data)])


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_compress(axis: int | None) -> None:
    attributes = {} if axis is None else {"axis": axis}
    condition = np.asarray([False, True, True])
    check("Compress", [RANDOM, condition], opset=11, constants=[1], compiled=True, gradient=True, **attributes)
    check("Compress", [RANDOM, condition], opset=11, gradient=True, **attributes)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_unique(ordered: int, axis: int | None) -> None:
    attributes = {"sorted": ordered} if axis is None else {"sorted": ordered, "axis": axis}
    for data in (GENERATOR.integers(0, 2, (5, 4, 3)).astype(np.float32), TIES, TIES.astype(np.int8)):
        check("Unique", [data], 4, opset=11, **attributes)
        check("Unique", [data], 1, opset=11, **attributes)


def test_unique_gives_its_gradient_to_the_first() -> None:
    network = onnxviz.to_torch(one_node("Unique", [np.zeros(4, np.float32)], 1, opset=11))
    data = torch.tensor([2.0, 1.0, 2.0, 1.0], requires_grad=True)
    (network(data)[0] * torch.tensor([10.0, 1.0])).sum().backward()
    assert data.grad is not None
    assert data.grad.tolist() == [1, 10, 0, 0]


def boxes(count: int, whole: bool) -> np.ndarray:
    """Boxes [2, count, 4] with corners in any order; on a coarse grid if `whole`, so that overlaps tie."""
    made = GENERATOR.random((2, count, 4)).astype(np.float32) * 8
    return np.round(made) if whole else made


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("limits", [(3, 0.3, 0.4), (50, 0.5, None), (2, 0.0, 0.9), (50, 1.0, 0.1)])
def test_non_max_suppression(center: int, whole: bool, limits: tuple[int, float, float | None]) -> None:
    most, overlap, least = limits
    places = boxes(40, whole)
    scores = GENERATOR.random((2, 3, 40)).astype(np.float32)
    if whole:
        scores = np.round(scores * 4) / 4
    inputs: list[Any] = [places, scores, np.asarray([most]), np.asarray([overlap], np.float32)]
    if least is not None:
        inputs.append(np.asarray([least], np.float32))
    for constants in (range(2, len(inputs)), ()):
        check("NonMaxSuppression", inputs, opset=11, constants=constants, center_point_box=center)


def test_non_max_suppression_without_limits() -> None:
    check("NonMaxSuppression", [boxes(5, True), GENERATOR.random((2, 1, 5)).astype(np.float32)], opset=11)
    check("NonMaxSuppression", [boxes(5, True), GENERATOR.random((2, 1, 5)).astype(np.float32), np.asarray([3])],
          opset=11)  # fmt: skip
