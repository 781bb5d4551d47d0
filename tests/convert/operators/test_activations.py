"""Activations, softmax, clipping and dropout against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.convert.operators.activations import CONVERTERS
from onnxviz.convert.operators.operation import Operation

RANDOM = np.random.default_rng(0).normal(0, 2, (2, 3, 4, 5)).astype(np.float32)

CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("Celu", 12, {}),
    ("Celu", 12, {"alpha": 2.5}),
    ("Elu", 6, {}),
    ("Elu", 6, {"alpha": 0.3}),
    ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}),
    ("HardSigmoid", 6, {}),
    ("HardSigmoid", 6, {"alpha": 0.16666667, "beta": 0.5}),
    ("HardSigmoid", 6, {"alpha": 0.3, "beta": 0.1}),
    ("HardSwish", 14, {}),
    ("LeakyRelu", 16, {}),
    ("LeakyRelu", 16, {"alpha": 0.3}),
    ("LogSoftmax", 13, {"axis": 1}),
    ("LogSoftmax", 11, {"axis": 2}),
    ("Mish", 18, {}),
    ("Relu", 14, {}),
    ("Selu", 6, {}),
    ("Selu", 6, {"alpha": 1.1, "gamma": 0.7}),
    ("Shrink", 9, {"lambd": 0.7, "bias": 0.2}),
    ("Sigmoid", 13, {}),
    ("Softmax", 13, {}),
    ("Softmax", 13, {"axis": 0}),
    ("Softmax", 11, {}),
    ("Softmax", 11, {"axis": 3}),
    ("Softmax", 11, {"axis": -2}),
    ("Softplus", 1, {}),
    ("Softsign", 1, {}),
    ("Swish", 24, {"alpha": 1.7}),
    ("Tanh", 13, {}),
    ("ThresholdedRelu", 10, {}),
    ("ThresholdedRelu", 10, {"alpha": 0.4}),
]


@pytest.mark.parametrize(("operator", "opset", "attributes"), CASES)
def test_activations(operator: str, opset: int, attributes: dict[str, Any]) -> None:
    check(operator, [RANDOM], opset=opset, compiled=bool(attributes), gradient=True, **attributes)
    check(operator, [RANDOM], opset=opset, shapes=False, **attributes)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, 4])
@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
def test_axes_were_normalised_together_before_opset_13(operator: str, axis: int) -> None:
    module = CONVERTERS[operator](Operation(operator, 11, {"axis": axis}, (None,), (True,), (RANDOM.shape,))).module
    flat = RANDOM.reshape((int(np.prod(RANDOM.shape[: axis % 4 if axis < 0 else axis])), -1)).astype(np.float64)
    shares = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
    wanted = {"Softmax": shares, "LogSoftmax": np.log(shares)}
    found = module(torch.from_numpy(RANDOM)).numpy()
    np.testing.assert_allclose(found, wanted[operator].reshape(RANDOM.shape), atol=1e-5)


@pytest.mark.parametrize("opset", [1, 11, 13])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_hardmax_marks_the_first_largest(opset: int, axis: int | None) -> None:
    values = np.array([[[1.0, 3.0, 3.0], [3.0, 0.0, 2.0]], [[-1.0, -2.0, -1.0], [5.0, 5.0, 5.0]]], np.float32)
    place = {} if axis is None else {"axis": axis}
    if opset == 1 and axis == -1:
        pytest.skip("negative axes came later")
    check("Hardmax", [values], opset=opset, compiled=True, **place)


def test_the_first_selu_has_fewer_digits() -> None:
    wanted = np.array([2 * 1.0507, -1.6732 * 1.0507], np.float32)
    check("Selu", [np.array([2.0, -30.0], np.float32)], opset=1, expected=[wanted])


@pytest.mark.parametrize(
    ("low", "high"), [(-0.5, 0.7), (0.0, None), (None, 0.3), (None, None), (0.0, 6.0), (1.0, -1.0)]
)
@pytest.mark.parametrize("constants", [(1, 2), ()])
def test_clipping(low: float | None, high: float | None, constants: tuple[int, ...]) -> None:
    limits = [None if limit is None else np.float32(limit).reshape(()) for limit in (low, high)]
    check("Clip", [RANDOM, *limits], constants=constants, opset=13, compiled=True)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "int64", "uint64"])
@pytest.mark.parametrize("constants", [(1, 2), ()])
def test_clipping_of_integers(kind: str, constants: tuple[int, ...]) -> None:
    values = np.array([0, 1, 5, 90, 127], kind)
    found = check("Clip", [values, np.array(1, kind), np.array(90, kind)], constants=constants, opset=13)
    assert not found[0].is_floating_point()


def test_clipping_of_large_unsigned_numbers() -> None:
    values = np.array([0, 5, 2**63 + 5, 2**64 - 1], np.uint64)
    limits = [np.array(2, np.uint64), np.array(2**63 + 1, np.uint64)]
    (found,) = onnxviz.to_torch(one_node("Clip", [values, *limits], constants=(1, 2), opset=13))(
        torch.from_numpy(values)
    )
    assert found.numpy().view(np.uint64).tolist() == [2, 5, 2**63 + 1, 2**63 + 1]


def test_clipping_by_attributes() -> None:
    check("Clip", [RANDOM], opset=6, min=-1.0, max=1.5)
    check("Clip", [RANDOM], opset=6, max=1.5)
    check("Clip", [RANDOM], opset=6)


@pytest.mark.parametrize("shape", [(3, 1, 1), (1,), (5,), (1, 3, 1, 1), (2, 3, 4, 5), ()])
@pytest.mark.parametrize("constants", [(1,), ()])
def test_slopes(shape: tuple[int, ...], constants: tuple[int, ...]) -> None:
    slope = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    check("PRelu", [RANDOM, slope], opset=16, constants=constants, compiled=True, gradient=True)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("constant", [True, False])
def test_slopes_of_the_first_opsets_belong_to_channels(size: int, constant: bool) -> None:
    slope = np.random.default_rng(1).uniform(-1, 1, size).astype(np.float32)
    wanted = np.where(RANDOM < 0, RANDOM * slope.reshape(-1, 1, 1), RANDOM)
    check("PRelu", [RANDOM, slope], opset=6, constants=(1,) if constant else (), expected=[wanted])
    operation = Operation(
        "PRelu", 6, {}, (None, slope if constant else None), (True, True), (RANDOM.shape, slope.shape)
    )
    conversion = CONVERTERS["PRelu"](operation)
    given = (torch.from_numpy(RANDOM), torch.from_numpy(slope))[: len(conversion.inputs)]
    np.testing.assert_allclose(conversion.module(*given), wanted, rtol=1e-6)


def test_integers_are_shrunk_and_sloped() -> None:
    values = np.array([-5, -1, 0, 2, 6], np.int32)
    check("PRelu", [values, np.array([3], np.int32)], opset=9)
    check("Relu", [values], opset=14)
    check("Shrink", [values.astype(np.int8)], opset=9, lambd=1.5, bias=1.0)


def test_dropout_gives_its_input_and_a_full_mask() -> None:
    for opset, mask in (
        (7, np.ones_like(RANDOM)),
        (10, np.ones(RANDOM.shape, bool)),
        (13, np.ones(RANDOM.shape, bool)),
    ):
        check("Dropout", [RANDOM], 2, opset=opset, expected=[RANDOM, mask])
    check("Dropout", [RANDOM, np.float32(0.3).reshape(()), np.array(False)], 2, opset=13, constants=(1, 2))
    check("Dropout", [RANDOM, np.float32(0.0).reshape(()), np.array(True)], 2, opset=13, constants=(1, 2))
    check("Dropout", [RANDOM, np.float32(0.0).reshape(()), np.array(True)], 2, opset=13)


def test_dropout_in_training_is_refused() -> None:
    given = [RANDOM, np.float32(0.5).reshape(()), np.array(True)]
    with pytest.raises(onnxviz.OnnxvizError, match="Dropout"):
        onnxviz.to_torch(one_node("Dropout", given, 2, opset=13, constants=(1, 2)))
    network = onnxviz.to_torch(one_node("Dropout", given, 2, opset=13))
    with pytest.raises(onnxviz.OnnxvizError, match="training mode"):
        network(*(torch.from_numpy(np.array(value)) for value in given))


def test_swish_gates() -> None:
    if onnx.defs.onnx_opset_version() < 28:
        pytest.skip("SwiGLU came with opset 28")
    gate, values = RANDOM, RANDOM[::-1].copy()
    swish = gate / (1 + np.exp(-1.5 * gate))
    check("SwiGLU", [gate, values], opset=28, alpha=1.5, expected=[swish * values], compiled=True, gradient=True)
