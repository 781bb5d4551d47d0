"""Pointwise arithmetic against ONNX Runtime and NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.convert.operators.operation import Operation
from onnxviz.convert.operators.pointwise import CONVERTERS, UNARY

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DOMAINS = {"Acosh": (1.1, 4.0), "Log": (0.1, 4.0), "Sqrt": (0.1, 4.0), "Reciprocal": (0.5, 4.0)}
STEPS = ("Ceil", "Floor", "Round", "Sign")


def uniform(shape: tuple[int, ...], low: float = -0.9, high: float = 0.9, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).uniform(low, high, shape), np.float32)


@pytest.mark.parametrize("operator", sorted(UNARY))
def test_functions_of_one_operand(operator: str) -> None:
    values = uniform((3, 2, 5), *DOMAINS.get(operator, (-0.9, 0.9)))
    if operator in STEPS:
        values = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.2, -0.2], np.float32)
    check(operator, [values], opset=13 if operator != "Round" else 11, compiled=True, gradient=operator not in STEPS)


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"])
def test_integers_overflow_and_round_as_in_onnx(operator: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    info = np.iinfo(kind)
    first = rng.integers(info.min, info.max, (4, 1, 6), dtype=kind, endpoint=True)
    second = rng.integers(info.min, info.max, (3, 6), dtype=kind, endpoint=True)
    second[second == 0] = 3
    first.flat[0], second.flat[0] = info.max, 1 + info.max // 2
    wide = {"Div": lambda a, b: int(abs(a) // abs(b)) * (1 if (a < 0) == (b < 0) else -1)}
    with np.errstate(over="ignore"):
        if operator in wide:
            wanted = np.vectorize(lambda a, b: wide[operator](int(a), int(b)), otypes=[object])(first, second)
            wanted = (wanted & ((1 << info.bits) - 1)).astype(f"uint{info.bits}").view(kind)
        else:
            function = {
                "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Mod": np.mod, "Max": np.maximum,
                "Min": np.minimum,
            }[operator]  # fmt: skip
            wanted = function(first, second)
    network = onnxviz.to_torch(one_node(operator, [first, second], opset=14))
    (found,) = network(torch.from_numpy(first), torch.from_numpy(second))
    assert np.array_equal(found.numpy().astype(np.int64), wanted.astype(np.int64))


def test_division_by_the_integer_zero_stops_nothing() -> None:
    network = onnxviz.to_torch(one_node("Div", [np.array([1, 7], np.int32), np.array([0, 2], np.int32)], opset=14))
    (found,) = network(torch.tensor([1, 7], dtype=torch.int32), torch.tensor([0, 2], dtype=torch.int32))
    assert found.tolist() == [0, 3]


@pytest.mark.parametrize("truncated", [0, 1])
@pytest.mark.parametrize("kind", ["float32", "int32"])
def test_remainders_have_the_sign_that_fmod_says(kind: str, truncated: int) -> None:
    if kind == "float32" and not truncated:
        pytest.skip("of floats from opset 28 on only, which the node tests cover")
    first = np.array([-7, 7, -7, 7, 6, 0], kind)
    check("Mod", [first, np.array([3, 3, -3, -3, 3, 3], kind)], opset=13, fmod=truncated, compiled=True)


@pytest.mark.parametrize("exponent", [2.0, 0.5, -1.0, 3.0])
def test_powers_of_constant_exponents(exponent: float) -> None:
    constant = np.array([exponent], np.float32)
    check("Pow", [uniform((2, 3), 0.2, 2.0), constant], constants=(1,), opset=15, gradient=True, compiled=True)


def test_powers_keep_the_type_of_the_base() -> None:
    base = np.array([1, 2, 3, -4], np.int64)
    found = check("Pow", [base, np.array([0.5, 2.0, 3.0, 2.0], np.float32)], opset=15)
    assert found[0].dtype == torch.int64
    check("Pow", [base.astype(np.float32), np.array([2, 3, 0, 1], np.int64)], opset=15)
    check("Pow", [base, np.array([62, 2, 39, 3], np.int64)], opset=15, expected=[np.array([1, 4, 3**39, -64])])
    check("Pow", [np.float32(2.0).reshape(()), np.ones((1, 1), np.float32)], constants=(1,), opset=15)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 1), ((2,), 0), ((5,), None), ((4, 5), 2), ((), None)])
def test_operands_lie_where_the_first_opsets_put_them(operator: str, shape: tuple[int, ...], axis: int | None) -> None:
    first, second = uniform((2, 3, 4, 5), 0.5, 2.0), uniform(shape, 0.5, 2.0, 1)
    begin = axis if axis is not None else 4 - len(shape)
    aligned = second.reshape((*shape, *(1,) * (4 - begin - len(shape))))
    function = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Pow": np.power}[operator]
    place = {} if axis is None else {"axis": axis}
    wanted = function(first, aligned)
    check(operator, [first, second], opset=6, broadcast=1, expected=[wanted], **place)
    operation = Operation(operator, 6, {"broadcast": 1, **place}, (None, None), (True, True), (first.shape, shape))
    module = CONVERTERS[operator](operation).module
    np.testing.assert_allclose(module(torch.from_numpy(first), torch.from_numpy(second)), wanted, rtol=1e-6)


@pytest.mark.parametrize("operator", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_functions_of_many_operands(operator: str, count: int) -> None:
    values = [uniform((2, 1, 4), seed=1), *(uniform((3, 1), seed=seed) for seed in range(2, count + 1))]
    check(operator, values[:count], opset=13, compiled=True, gradient=True)


def test_unsigned_numbers_have_no_sign() -> None:
    values = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    network = onnxviz.to_torch(one_node("Sign", [values], opset=13))
    assert network(torch.from_numpy(values))[0].tolist() == [0, 1, 1, 1]
    network = onnxviz.to_torch(one_node("Abs", [values], opset=13))
    assert np.array_equal(network(torch.from_numpy(values))[0].numpy().view(np.uint64), values)


def test_uint64_constants_keep_their_bits() -> None:
    large = np.array(2**64 - 5, np.uint64)
    model = one_node("Max", [np.array([1, 7], np.uint64), large], constants=(1,), opset=13)
    (found,) = onnxviz.to_torch(model)(torch.tensor([1, 7]))
    assert np.array_equal(found.numpy().view(np.uint64), [2**64 - 5] * 2)


def test_quantised_values_pass_through_arithmetic_with_their_gradient() -> None:
    one = onnx.helper.make_tensor("one", onnx.TensorProto.UINT8, (), [1])
    scale = onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, (), [0.5])
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "one"], ["q"]),
        onnx.helper.make_node("Max", ["q", "one"], ["m"]),
        onnx.helper.make_node("DequantizeLinear", ["m", "scale", "one"], ["y"]),
    ]
    image = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    graph = onnx.helper.make_graph(nodes, "graph", [image], [onnx.ValueInfoProto(name="y")], [one, scale])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    values = torch.tensor([1.2, -3.0], requires_grad=True)
    (result,) = onnxviz.to_torch(model)(values)
    assert result.tolist() == [1.0, 0.0]
    result.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0]
