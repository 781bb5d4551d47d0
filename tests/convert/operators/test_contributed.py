"""ONNX Runtime's own operators against ONNX Runtime."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from one_node import check, one_node, witness
from onnx import TensorProto
from onnxruntime import quantization

import onnxviz
from onnxviz.model.model import load
from onnxviz.model.ort_session import saturates
from onnxviz.model.parity import check_tensors

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (2, 3, 4, 4)).astype(np.float32)
TOKENS = RNG.normal(0, 2, (2, 5, 8)).astype(np.float32)
MICROSOFT: dict[str, Any] = {"domain": "com.microsoft", "opset": 1, "reference": "ort"}


def number(value: float, kind: str = "float32") -> np.ndarray:
    return np.array(value, kind)


def quantised(*shape: int, kind: str = "uint8") -> np.ndarray:
    info = np.iinfo(kind)
    return RNG.integers(info.min, info.max, shape, dtype=kind, endpoint=True)


def check_quanta(
    operator: str,
    given: list[np.ndarray | None],
    constants: tuple[int, ...],
    *,
    result: int = TensorProto.UINT8,
    expected: np.ndarray | None = None,
    **attributes: Any,
) -> None:
    """Compare quantised results, whose last digit ONNX Runtime's vectorised kernels round in float32 of their own.

    With `expected` that is what is right, and ONNX Runtime confirms it where its products do not saturate.
    """
    model = one_node(operator, given, constants=constants, domain="com.microsoft", opset=1, result=result, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [value for index, value in enumerate(given) if value is not None and index not in constants]
    (wanted,) = session.run(None, {info.name: value for info, value in zip(model.graph.input, inputs, strict=True)})
    network = onnxviz.to_torch(model)
    (found,) = network(*map(torch.from_numpy, inputs))
    for target in [wanted] if expected is None else [expected] if saturates() else [expected, wanted]:
        difference = np.abs(found.numpy() - target.astype(np.float32))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.02
    real = [torch.from_numpy(value).float().requires_grad_(True) for value in inputs]
    network(*real)[0].sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in real)


@pytest.mark.parametrize("operator", ["Gelu", "QuickGelu", "FastGelu"])
def test_gelus(operator: str) -> None:
    check(operator, [TOKENS], result=TensorProto.FLOAT, compiled=True, gradient=True, tolerance=2e-5, **MICROSOFT)


@pytest.mark.parametrize("operator", ["BiasGelu", "FastGelu"])
def test_gelus_with_bias(operator: str) -> None:
    bias = RNG.normal(0, 1, 8).astype(np.float32)
    check(
        operator, [TOKENS, bias], result=TensorProto.FLOAT, constants=(1,), gradient=True, tolerance=2e-5, **MICROSOFT
    )


@pytest.mark.parametrize(
    ("activation", "numbers"),
    [
        ("Relu", []),
        ("LeakyRelu", [0.2]),
        ("Clip", [-0.5, 0.5]),
        ("Tanh", []),
        ("Sigmoid", []),
        ("HardSigmoid", [0.3, 0.4]),
    ],
)
@pytest.mark.parametrize("added", [False, True])
def test_fused_convolutions(activation: str, numbers: list[float], added: bool) -> None:
    weight, bias = RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32), RNG.normal(0, 1, 4).astype(np.float32)
    given = [IMAGES, weight, bias, *([RNG.normal(0, 1, (2, 4, 4, 4)).astype(np.float32)] if added else [])]
    options: dict[str, Any] = {"activation_params": numbers} if numbers else {}
    check(
        "FusedConv", given, result=TensorProto.FLOAT, constants=(1, 2), pads=[1, 1, 1, 1], activation=activation,
        gradient=activation == "LeakyRelu",
        **options, **MICROSOFT,
    )  # fmt: skip


def test_fused_matrix_products() -> None:
    first, second = RNG.normal(0, 1, (2, 4, 5)).astype(np.float32), RNG.normal(0, 1, (2, 6, 4)).astype(np.float32)
    check(
        "FusedMatMul",
        [first, second],
        result=TensorProto.FLOAT,
        alpha=0.3,
        transA=1,
        transB=1,
        gradient=True,
        **MICROSOFT,
    )
    batched = RNG.normal(0, 1, (4, 2, 5)).astype(np.float32)
    other = RNG.normal(0, 1, (2, 5, 3)).astype(np.float32)
    check("FusedMatMul", [batched, other], result=TensorProto.FLOAT, transBatchA=1, **MICROSOFT)
    check("TransposeMatMul", [first, second], result=TensorProto.FLOAT, transA=1, transB=1, **MICROSOFT)
    check(
        "FusedGemm", [first[0], second[0], number(0.5).reshape(1)], result=TensorProto.FLOAT, transA=1, transB=1,
        alpha=0.5, beta=2.0, activation="LeakyRelu", activation_alpha=0.1, constants=(1, 2), **MICROSOFT,
    )  # fmt: skip


@pytest.mark.parametrize("outputs", [1, 4, ("y", "", "", "s")])
def test_normalisation_with_a_skip_connection(outputs: Any) -> None:
    scale, shift, bias = (RNG.normal(1, 0.3, 8).astype(np.float32) for _ in range(3))
    skip = RNG.normal(0, 1, TOKENS.shape).astype(np.float32)
    if outputs == 4:  # the CPU kernel does not fill the statistics
        network = onnxviz.to_torch(
            one_node("SkipLayerNormalization", [TOKENS, skip, scale, shift, bias], 4, domain="com.microsoft", opset=1,
                     result=TensorProto.FLOAT, constants=(2, 3, 4), epsilon=1e-5)
        )  # fmt: skip
        total = TOKENS + skip + bias
        found = network(torch.from_numpy(TOKENS), torch.from_numpy(skip))
        np.testing.assert_allclose(found[1], total.mean(-1, keepdims=True), atol=1e-6)
        np.testing.assert_allclose(found[2], 1 / np.sqrt(total.var(-1, keepdims=True) + 1e-5), rtol=1e-5)
        return
    options: dict[str, Any] = {"result": 1, "gradient": outputs == 1, "epsilon": 1e-5, **MICROSOFT}
    check("SkipLayerNormalization", [TOKENS, skip, scale, shift, bias], outputs, constants=(2, 3, 4), **options)
    check("SkipLayerNormalization", [TOKENS, skip, scale], outputs, constants=(2,), **options)
    check("SkipSimplifiedLayerNormalization", [TOKENS, skip, scale, bias], outputs, constants=(2, 3), **options)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
def test_quantised_sums_and_products(operator: str, kind: str) -> None:
    zero = number(5, kind)
    given = [
        quantised(2, 3, 40, kind=kind), number(0.02), zero, quantised(3, 1, kind=kind), number(0.03), zero,
        number(0.07), zero,
    ]  # fmt: skip
    element = TensorProto.INT8 if kind == "int8" else TensorProto.UINT8
    check_quanta(operator, given, (1, 2, 4, 5, 6, 7), result=element)


@pytest.mark.parametrize("operator", ["QLinearLeakyRelu", "QLinearSigmoid"])
def test_quantised_activations(operator: str) -> None:
    given = [quantised(2, 3, 40), number(0.05), number(128, "uint8"), number(0.03), number(100, "uint8")]
    check_quanta(operator, given, (1, 2, 3, 4), **({"alpha": 0.2} if operator == "QLinearLeakyRelu" else {}))


@pytest.mark.parametrize("opset", [11, 13])
def test_quantised_softmax(opset: int) -> None:
    given = [quantised(2, 3, 10), number(0.05), number(128, "uint8"), number(1 / 256), number(0, "uint8")]
    model = one_node(
        "QLinearSoftmax",
        given,
        constants=(1, 2, 3, 4),
        domain="com.microsoft",
        opset=1,
        result=TensorProto.UINT8,
        axis=1,
    )
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("opset", opset))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x0": given[0]})
    (found,) = onnxviz.to_torch(model)(torch.from_numpy(given[0]))
    assert np.abs(found.numpy() - wanted.astype(np.float32)).max() <= 1


@pytest.mark.parametrize("last", [0, 1])
def test_quantised_pooling(last: int) -> None:
    shape = (2, 8, 8, 16) if last else (2, 16, 8, 8)
    given = [quantised(*shape), number(0.05), number(128, "uint8"), number(0.04), number(100, "uint8")]
    check_quanta("QLinearGlobalAveragePool", given, (1, 2, 3, 4), channels_last=last)
    check_quanta(
        "QLinearAveragePool", given, (1, 2, 3, 4), channels_last=last, kernel_shape=[3, 3], strides=[2, 2],
        pads=[1, 1, 1, 1],
    )  # fmt: skip


def test_quantised_concatenation() -> None:
    given = [
        number(0.05), number(100, "uint8"), quantised(2, 3, 5), number(0.05), number(100, "uint8"), quantised(2, 4, 5),
        number(0.08), number(30, "uint8"),
    ]  # fmt: skip
    check_quanta("QLinearConcat", given, (0, 1, 3, 4, 6, 7), axis=1)


@pytest.mark.parametrize("floating", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
def test_quantised_gemm(transposed: int, floating: bool) -> None:
    weight = quantised(5, 30, kind="int8") if transposed else quantised(30, 5, kind="int8")
    given: list[Any] = [
        quantised(4, 30), number(0.02), number(110, "uint8"), weight, RNG.uniform(0.01, 0.02, 5).astype(np.float32),
        np.zeros(5, np.int8), RNG.integers(-5000, 5000, 5).astype(np.int32),
    ]  # fmt: skip
    columns = weight.T if transposed else weight
    sums = (given[0].astype(np.int64) - 110) @ columns.astype(np.int64) + given[6]
    real = sums * np.float64(given[1]) * given[4]
    named = {"transB": transposed, "alpha": 1.0}
    if floating:
        constants = (1, 2, 3, 4, 5, 6)
        check("QGemm", given, result=TensorProto.FLOAT, constants=constants, expected=[real], **named, **MICROSOFT)
        witness("QGemm", given, constants, real, result=TensorProto.FLOAT, domain="com.microsoft", opset=1, **named)
    else:
        given += [number(0.7), number(120, "uint8")]
        wanted = np.clip(np.rint(real / 0.7) + 120, 0, 255)
        check_quanta("QGemm", given, (1, 2, 3, 4, 5, 6, 7, 8), expected=wanted, **named)


@pytest.mark.parametrize("columns", [False, True])
def test_dynamically_quantised_products(columns: bool) -> None:
    weight = quantised(8, 6, kind="int8")
    scale = np.asarray(RNG.uniform(0.01, 0.02, 6 if columns else ()), np.float32)
    zero = quantised(6, kind="int8") // 8 if columns else number(3, "int8")
    bias = RNG.normal(0, 1, 6).astype(np.float32)
    plain: dict[str, Any] = {"result": TensorProto.FLOAT, "domain": "com.microsoft", "opset": 1}
    low, high = np.minimum(TOKENS.min(), np.float32(0)), np.maximum(TOKENS.max(), np.float32(0))
    step = np.float32((high - low) / np.float32(255))
    offset = np.clip(np.rint(-low / step), 0, 255)
    rounded = np.clip(np.rint(TOKENS / step) + offset, 0, 255)
    shifted = weight.astype(np.int64) - zero
    wanted = (rounded - offset).astype(np.int64) @ shifted * np.float64(step) * scale + bias
    dynamic: list[Any] = [TOKENS, weight, scale, zero, bias]
    check("DynamicQuantizeMatMul", dynamic, constants=(1, 2, 3, 4), expected=[wanted], **plain)
    witness("DynamicQuantizeMatMul", dynamic, (1, 2, 3, 4), wanted, **plain)
    given: list[Any] = [quantised(2, 5, 8), weight, number(0.03), scale, number(9, "uint8"), zero, bias]
    wanted = (given[0].astype(np.int64) - 9) @ shifted * np.float64(given[2]) * scale + bias
    for constants in ((1, 3, 5, 6), (1, 2, 3, 4, 5, 6)):
        check("MatMulIntegerToFloat", given, constants=constants, expected=[wanted], **plain)
        witness("MatMulIntegerToFloat", given, constants, wanted, **plain)


def test_unknown_activations_are_refused() -> None:
    given = [IMAGES, np.ones((2, 3, 1, 1), np.float32)]
    with pytest.raises(onnxviz.OnnxvizError, match="FusedConv"):
        onnxviz.to_torch(
            one_node(
                "FusedConv",
                given,
                domain="com.microsoft",
                opset=1,
                result=TensorProto.FLOAT,
                constants=(1,),
                activation="Cos",
            )
        )


class _Calibration(quantization.CalibrationDataReader):
    """Random images to choose scales by."""

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.images = iter(
            [{name: np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)} for seed in (1, 2)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


@pytest.mark.zoo
@pytest.mark.parametrize("way", ["QUInt8", "QInt8", "dynamic", "optimised"])
@pytest.mark.parametrize("file", ["mlperf_tiny_resnet8_cifar10.onnx", "vnn_vit_cifar10_pgd_2_3_16.onnx"])
def test_models_that_onnx_runtime_has_rewritten(zoo: Path, tmp_path: Path, file: str, way: str) -> None:
    # Of a copy: while it quantises, ONNX Runtime writes beside its source, where another test may do the same.
    source, made = Path(shutil.copy(zoo / "onnx" / file, tmp_path)), tmp_path / "made.onnx"
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    shape = tuple(size if isinstance(size, int) else 2 for size in given.shape)
    if way == "dynamic":
        quantization.quantize_dynamic(source, made)
    elif way == "optimised":
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(made)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    else:
        kind = getattr(quantization.QuantType, way)
        quantization.quantize_static(
            source, made, _Calibration(given.name, shape), quant_format=quantization.QuantFormat.QOperator,
            activation_type=kind, weight_type=quantization.QuantType.QInt8, per_channel=way == "QInt8",
        )  # fmt: skip
    domains = {f"{node.domain}:{node.op_type}" for node in onnx.load(made).graph.node}
    assert domains & {
        "com.microsoft:QLinearAdd",
        "com.microsoft:FusedConv",
        "com.microsoft:FusedMatMul",
        ":ConvInteger",
    }
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    images = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {given.name: images})[0]
    values = torch.from_numpy(images).requires_grad_(True)
    (found,) = onnxviz.to_torch(made)(values)
    model = load(made)
    agreements = check_tensors(model, model.layers, [images])
    assert all(item.holds for item in agreements), agreements
    wrong = {item.layer for item in agreements if item.off == "runtime"}
    if not saturates():
        assert not wrong
        np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-5 * np.abs(wanted).max())
    found.square().sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad.abs().max() > 0
