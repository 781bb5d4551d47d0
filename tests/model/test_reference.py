"""The third computation: the standard's definition in double precision, exact integers, and where it ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxviz.model.reference import Allowance, Undecidable, compute, is_exact

RNG = np.random.default_rng(0)


def single(
    operator: str, inputs: list[np.ndarray | None], *, domain: str = "", opset: int = 19, **attributes: Any
) -> ModelProto:
    """A model of one node whose inputs are given, named x0, x1, ..."""
    names = ["" if value is None else f"x{index}" for index, value in enumerate(inputs)]
    node = helper.make_node(operator, names, ["y"], "node", domain=domain, **attributes)
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, inputs, strict=True)
        if value is not None
    ]
    graph = helper.make_graph([node], "g", given, [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def third(model: ModelProto, inputs: list[np.ndarray | None], work: float = 1e9) -> np.ndarray:
    given = {f"x{index}": value for index, value in enumerate(inputs) if value is not None}
    return compute(model, "y", given, Allowance(work))


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((2, 3, 7, 8), (4, 3, 3, 3), {"pads": [1, 0, 2, 1]}),
        ((1, 4, 9, 6), (6, 2, 3, 2), {"group": 2, "strides": [2, 1], "dilations": [1, 2]}),
        ((1, 4, 9, 9), (4, 1, 3, 3), {"group": 4, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ((1, 2, 8, 8), (3, 2, 4, 4), {"auto_pad": "SAME_LOWER"}),
        ((2, 3, 11), (2, 3, 4), {"strides": [3], "auto_pad": "VALID"}),
        ((1, 2, 4, 5, 6), (2, 2, 2, 3, 2), {"pads": [0, 1, 0, 1, 1, 0]}),
    ],
)
def test_convolutions_are_those_of_the_evaluator(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Any
) -> None:
    inputs: list[np.ndarray | None] = [
        RNG.standard_normal(shape), RNG.standard_normal(kernel), RNG.standard_normal(kernel[0]),
    ]  # fmt: skip
    model = single("Conv", inputs, **attributes)
    (wanted,) = ReferenceEvaluator(model).run(None, {f"x{i}": value for i, value in enumerate(inputs)})
    np.testing.assert_allclose(third(model, inputs), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "kernel", "attributes"),
    [
        ((2, 3, 4, 5), (3, 2, 3, 3), {"strides": [2, 2], "pads": [1, 1, 0, 1], "output_padding": [1, 0]}),
        ((1, 2, 5, 4), (2, 3, 2, 3), {"dilations": [2, 1]}),
    ],
)
def test_transposed_convolutions_are_those_of_the_evaluator(
    shape: tuple[int, ...], kernel: tuple[int, ...], attributes: Any
) -> None:
    inputs: list[np.ndarray | None] = [RNG.standard_normal(shape), RNG.standard_normal(kernel)]
    model = single("ConvTranspose", inputs, **attributes)
    (wanted,) = ReferenceEvaluator(model).run(None, {f"x{i}": value for i, value in enumerate(inputs)})
    np.testing.assert_allclose(third(model, inputs), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("auto", "cut"), [("NOTSET", slice(1, None)), ("SAME_UPPER", slice(None, -1))])
def test_a_transposed_convolution_is_cut_to_the_shape_that_is_asked_for(auto: str, cut: slice) -> None:
    """The odd row lies in front, but for SAME_UPPER."""
    inputs: list[np.ndarray | None] = [RNG.standard_normal((1, 2, 4, 4)), RNG.standard_normal((2, 2, 3, 3))]
    whole = third(single("ConvTranspose", inputs, strides=[2, 2]), inputs)
    assert whole.shape == (1, 2, 9, 9)
    found = third(single("ConvTranspose", inputs, strides=[2, 2], output_shape=[8, 8], auto_pad=auto), inputs)
    np.testing.assert_array_equal(found, whole[:, :, cut, cut])


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
    ],
)
def test_pooling_is_that_of_the_evaluator(operator: str, attributes: Any) -> None:
    inputs: list[np.ndarray | None] = [RNG.standard_normal((2, 3, 7, 7))]
    model = single(operator, inputs, **attributes)
    (wanted, *_) = ReferenceEvaluator(model).run(None, {"x0": inputs[0]})
    np.testing.assert_allclose(third(model, inputs), wanted, rtol=1e-12)


def test_padding_counts_in_an_average_only_where_it_is_told_to() -> None:
    ones: list[np.ndarray | None] = [np.ones((1, 1, 3, 3))]
    for count, corner in ((0, 1.0), (1, 4 / 9)):
        model = single("AveragePool", ones, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=count)
        assert third(model, ones)[0, 0, 0, 0] == pytest.approx(corner)


def test_sums_of_integers_do_not_saturate() -> None:
    left, right = np.full((2, 300), 255, np.uint8), np.full((300, 3), 127, np.int8)
    right[:, 1] = -127
    inputs: list[np.ndarray | None] = [left, right, np.array(3, np.uint8), np.array([0, 1, -2], np.int8)]
    model = single("MatMulInteger", inputs)
    assert third(model, inputs).tolist() == [[252 * 127 * 300, 252 * -128 * 300, 252 * 129 * 300]] * 2
    assert is_exact(model.graph.node[0])
    assert not is_exact(helper.make_node("MatMul", ["a", "b"], ["c"]))


def test_integer_convolution() -> None:
    values = RNG.integers(0, 255, (1, 2, 4, 4), dtype=np.uint8, endpoint=True)
    weight = RNG.integers(-128, 127, (3, 2, 3, 3), dtype=np.int8, endpoint=True)
    inputs: list[np.ndarray | None] = [values, weight, np.array(7, np.uint8), np.array([1, 0, -4], np.int8)]
    wanted = np.zeros((1, 3, 2, 2), np.int64)
    for m, y, x in np.ndindex(3, 2, 2):
        window = values[0, :, y : y + 3, x : x + 3].astype(np.int64) - 7
        wanted[0, m, y, x] = (window * (weight[m].astype(np.int64) - int(inputs[3][m]))).sum()  # type: ignore[index]
    np.testing.assert_array_equal(third(single("ConvInteger", inputs), inputs), wanted)


def test_quantised_results_are_rounded_to_even_and_clipped() -> None:
    inputs: list[np.ndarray | None] = [
        np.array([[1, 3, 5, 255]], np.uint8), np.array(1, np.float32), np.array(0, np.uint8),
        np.eye(4, dtype=np.int8), np.array(1, np.float32), np.array(0, np.int8),
        np.array(2, np.float32), np.array(200, np.uint8),
    ]  # fmt: skip
    assert third(single("QLinearMatMul", inputs), inputs).tolist() == [[200, 202, 202, 255]]


def test_sums_and_products_of_quantised_values() -> None:
    def number(value: float, kind: str = "float32") -> np.ndarray:
        return np.array(value, kind)

    left, right = np.array([[10, 0, 255]], np.uint8), np.array([[20, 0, 255]], np.uint8)
    given: list[np.ndarray | None] = [
        left, number(0.5), number(10, "uint8"), right, number(0.25), number(0, "uint8"), number(2), number(7, "uint8"),
    ]  # fmt: skip
    # Sums 5, -5, 186.25 and products 0, 0, 7809.375 by 2, halves to even, and 7.
    assert third(single("QLinearAdd", given, domain="com.microsoft"), given).tolist() == [[9, 5, 100]]
    assert third(single("QLinearMul", given, domain="com.microsoft"), given).tolist() == [[7, 7, 255]]


def test_a_chain_is_computed_from_what_is_given_and_the_weights() -> None:
    """Double precision keeps what a float32 sum of 1 and 2^-30 loses."""
    nodes = [
        helper.make_node("Add", ["a", "tiny"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["cast", "one"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.float32(2**-30), "tiny"), numpy_helper.from_array(np.float32(1), "one")]
    entry = helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [entry], [onnx.ValueInfoProto(name="y")], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert compute(model, "y", {"a": np.ones(1, np.float32)}, Allowance()).tolist() == [2**-30]
    assert compute(model, "y", {"cast": np.full(1, 3, np.float32)}, Allowance()).tolist() == [2.0]
    with pytest.raises(Undecidable, match="is not known"):
        compute(model, "y", {}, Allowance())


def test_what_is_random_unknown_or_too_large_is_not_decided() -> None:
    values: list[np.ndarray | None] = [np.zeros((1, 3, 64, 64), np.float32)]
    with pytest.raises(Undecidable, match="random"):
        third(single("RandomNormalLike", values), values)
    with pytest.raises(Undecidable, match="does not know"):
        third(single("Strange", values, domain="com.microsoft"), values)
    weight: list[np.ndarray | None] = [*values, np.zeros((8, 3, 3, 3), np.float32)]
    with pytest.raises(Undecidable, match="takes too long"):
        third(single("Conv", weight), weight, work=1e5)
    allowance = Allowance(1e6)
    allowance.spend(9e5, "Conv")
    with pytest.raises(Undecidable, match="Gemm takes too long"):
        allowance.spend(2e5, "Gemm")
