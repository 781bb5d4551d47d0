"""Casts against the number formats of ml_dtypes, NumPy and ONNX Runtime."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node
from onnx import TensorProto

import onnxviz
from onnxviz.convert.operators.rounding import round_to_format

NARROW = {
    TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: ml_dtypes.float8_e4m3fnuz,
    TensorProto.FLOAT8E5M2: ml_dtypes.float8_e5m2,
    TensorProto.FLOAT8E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
    TensorProto.FLOAT4E2M1: ml_dtypes.float4_e2m1fn,
}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def every_magnitude() -> np.ndarray:
    """Numbers on, between and halfway between those of the narrow types, and special ones."""
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-22, 18, 20_000)
    values = rng.choice([-1.0, 1.0], 20_000) * 2.0**exponents
    halves = [mantissa / 16 * 2.0**exponent for mantissa in range(16, 32) for exponent in range(-20, 18)]
    return np.array([*values, *halves, *(-np.array(halves)), 0.0, -0.0], np.float32)


@pytest.mark.parametrize("element", NARROW, ids=lambda element: TensorProto.DataType.Name(element))
@pytest.mark.parametrize("saturate", [True, False])
def test_narrow_floats_round_as_their_formats(element: int, saturate: bool) -> None:
    values = every_magnitude()
    kind = NARROW[element]
    limit = float(ml_dtypes.finfo(kind).max)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = (np.clip(values, -limit, limit) if saturate else values).astype(kind).astype(np.float32)
    found = round_to_format(torch.from_numpy(values), element, saturate).numpy()
    np.testing.assert_array_equal(found, wanted)


def test_special_values_of_narrow_floats() -> None:
    values = torch.tensor([float("inf"), float("-inf"), float("nan")])
    for element, largest in ((TensorProto.FLOAT8E4M3FN, 448.0), (TensorProto.FLOAT8E5M2, 57344.0)):
        saturated = round_to_format(values, element)
        assert saturated[:2].tolist() == [largest, -largest]
        assert saturated[2].isnan()
    assert round_to_format(values, TensorProto.FLOAT8E4M3FN, saturate=False).isnan().all()
    assert round_to_format(values, TensorProto.FLOAT8E5M2, saturate=False)[:2].isinf().all()


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [True, False])
def test_powers_of_two(mode: str, saturate: bool) -> None:
    values = np.abs(every_magnitude())[:-2] * np.float32(2.0**-3)
    values = np.concatenate([values, np.array([3e38, 2.0**127, 1e-40, 2.0**-127, 2.0**-126], np.float32)])
    wanted = onnx.numpy_helper.to_float8e8m0(values, saturate, mode).astype(np.float32)
    found = round_to_format(torch.from_numpy(values), TensorProto.FLOAT8E8M0, saturate, mode).numpy()
    np.testing.assert_array_equal(found, wanted)


def test_gradients_pass_straight_through_narrow_floats() -> None:
    values = torch.tensor([0.3, 500.0, -17.3], requires_grad=True)
    round_to_format(values, TensorProto.FLOAT8E4M3FN).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(("source", "target"), itertools.permutations(INTEGERS, 2))
def test_integers_keep_their_lower_bits(source: str, target: str) -> None:
    info = np.iinfo(source)
    rng = np.random.default_rng(0)
    values = np.append(rng.integers(info.min, info.max, 20, dtype=source, endpoint=True), [info.min, info.max])
    values = values.astype(source)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    (found,) = onnxviz.to_torch(one_node("Cast", [values], to=element))(torch.from_numpy(values))
    assert np.array_equal(found.numpy().astype(np.int64), values.astype(target).astype(np.int64))


def test_floats_beyond_the_range_keep_their_lower_bits() -> None:
    values = np.array([-1.0, 70_000.0, 65_536.0 + 5.9], np.float32)
    network = onnxviz.to_torch(one_node("Cast", [values], to=TensorProto.UINT16))
    assert network(torch.from_numpy(values))[0].tolist() == [65_535, 4464, 5]


@pytest.mark.parametrize("kind", [*INTEGERS, "bool"])
def test_casts_between_integers_and_floats(kind: str) -> None:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    values = np.array([0.0, 0.9, 1.5, 5.2, 100.7], np.float32)
    check("Cast", [values], to=element, compiled=True)
    integers = values.astype(kind)
    (found,) = check("Cast", [integers], to=TensorProto.FLOAT)
    assert found.dtype == torch.float32


def test_uint64_to_float_and_back() -> None:
    values = np.array([0, 2**63, 2**64 - 2**40, 12345], np.uint64)
    (found,) = onnxviz.to_torch(one_node("Cast", [values], to=TensorProto.FLOAT))(torch.from_numpy(values))
    assert np.array_equal(found.numpy(), values.astype(np.float32))
    floats = values.astype(np.float32)
    (back,) = onnxviz.to_torch(one_node("Cast", [floats], to=TensorProto.UINT64))(torch.from_numpy(floats))
    assert np.array_equal(back.numpy().view(np.uint64), floats.astype(np.uint64))


def test_the_type_of_the_first_opsets_is_a_name() -> None:
    values = np.array([1.7, -2.3], np.float32)
    check("Cast", [values], opset=1, to="INT32", expected=[np.array([1, -2])])


def test_a_cast_to_a_byte_passes_gradients_and_one_to_an_index_does_not() -> None:
    values = torch.tensor([1.7, 3.2], requires_grad=True)
    network = onnxviz.to_torch(one_node("Cast", [np.zeros(2, np.float32)], to=TensorProto.UINT8))
    (found,) = network(values)
    assert found.tolist() == [1.0, 3.0]
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 1.0]
    network = onnxviz.to_torch(one_node("Cast", [np.zeros(2, np.float32)], to=TensorProto.INT64))
    assert network(values)[0].dtype == torch.int64


def test_quantised_values_stay_differentiable_through_casts() -> None:
    model = one_node("Cast", [np.zeros(2, np.uint8)], to=TensorProto.INT32)
    values = torch.tensor([1.0, 255.0], requires_grad=True)
    (found,) = onnxviz.to_torch(model)(values)
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 1.0]
    narrowed = onnxviz.to_torch(one_node("Cast", [np.zeros(2, np.uint8)], to=TensorProto.INT8))(values)[0]
    assert narrowed.tolist() == [1.0, -1.0]
    assert narrowed.requires_grad


@pytest.mark.parametrize(
    ("source", "target"), [("float32", "uint32"), ("uint16", "int16"), ("int64", "uint64"), ("bool", "int8")]
)
def test_bit_casts(source: str, target: str) -> None:
    if onnx.defs.onnx_opset_version() < 26:
        pytest.skip("BitCast came with opset 26")
    values = np.array([1, 0, 1, 1]).astype(source) if source == "bool" else np.array([1, 40000, 3, 7]).astype(source)
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    network = onnxviz.to_torch(one_node("BitCast", [values], opset=26, to=element))
    assert np.array_equal(network(torch.from_numpy(values))[0].numpy().astype(target), values.view(target))


def test_strings_are_refused() -> None:
    with pytest.raises(onnxviz.OnnxvizError, match="Cast"):
        onnxviz.to_torch(one_node("Cast", [np.zeros(2, np.float32)], to=TensorProto.STRING))
