"""Quantised operators against ONNX Runtime, and real quantised models layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node, witness
from onnx import TensorProto, helper
from PIL import Image

import onnxviz

RNG = np.random.default_rng(0)
VALUES = RNG.normal(0, 3, (2, 4, 3, 6)).astype(np.float32)


def number(value: float, kind: str = "float32") -> np.ndarray:
    return np.array(value, kind)


@pytest.mark.parametrize("constants", [(1, 2), ()])
@pytest.mark.parametrize(
    ("kind", "zero", "opset"), [("uint8", 120, 13), ("int8", -7, 13), ("int16", 5, 21), ("uint16", 30000, 21)]
)
def test_one_scale_for_all(kind: str, zero: int, opset: int, constants: tuple[int, ...]) -> None:
    given = [number(0.037), number(zero, kind)]
    check("QuantizeLinear", [VALUES, *given], opset=opset, constants=constants, compiled=opset == 13)
    quantised = RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max, (2, 4, 5), dtype=kind, endpoint=True)
    check("DequantizeLinear", [quantised, *given], opset=opset, constants=constants, compiled=opset == 13)
    check("DequantizeLinear", [quantised, given[0]], opset=opset, constants=(1,) if constants else ())


@pytest.mark.parametrize("constants", [(1, 2), ()])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_scale_for_each_channel(axis: int, constants: tuple[int, ...]) -> None:
    size = VALUES.shape[axis]
    given = [RNG.uniform(0.01, 0.2, size).astype(np.float32), RNG.integers(-9, 9, size).astype(np.int8)]
    check("QuantizeLinear", [VALUES, *given], constants=constants, axis=axis)
    check(
        "DequantizeLinear",
        [RNG.integers(-128, 127, VALUES.shape).astype(np.int8), *given],
        constants=constants,
        axis=axis,
    )


@pytest.mark.parametrize("constants", [(1, 2), ()])
@pytest.mark.parametrize("block", [2, 4])
def test_a_scale_for_each_block(block: int, constants: tuple[int, ...]) -> None:
    shape = (2, 4, 3, -(-6 // block))
    given = [RNG.uniform(0.01, 0.2, shape).astype(np.float32), RNG.integers(100, 140, shape).astype(np.uint8)]
    options: dict[str, Any] = {"opset": 21, "axis": 3, "block_size": block, "constants": constants, "reference": "onnx"}
    if 6 % block == 0:
        check("QuantizeLinear", [VALUES, *given], **options)
        check("DequantizeLinear", [RNG.integers(0, 255, VALUES.shape).astype(np.uint8), *given], **options)
    scale, zero = (np.repeat(value, block, 3)[..., :6] for value in given)
    wanted = np.clip(np.rint(VALUES / scale) + zero, 0, 255)
    check("QuantizeLinear", [VALUES, *given], **{**options, "expected": [wanted]})


def test_ties_go_to_the_even_number() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9], np.float32)
    check("QuantizeLinear", [values, number(1.0), number(0, "int8")], constants=(1, 2))


@pytest.mark.parametrize("name", ["FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1", "INT4", "UINT4"])
def test_types_of_a_byte_or_less(name: str) -> None:
    element = getattr(TensorProto, name)
    kind = helper.tensor_dtype_to_np_dtype(element)
    model = one_node(
        "QuantizeLinear", [VALUES, number(0.7)], opset=23, constants=(1,), output_dtype=element, result=element
    )
    (found,) = onnxviz.to_torch(model)(torch.from_numpy(VALUES))
    scaled = VALUES / np.float32(0.7)
    low, high = {"INT4": (-8, 7), "UINT4": (0, 15)}.get(name, (-np.inf, np.inf))
    wanted = np.clip(np.rint(scaled), low, high) if "INT" in name else scaled.astype(kind)
    np.testing.assert_array_equal(found.numpy(), wanted.astype(np.float32))
    assert kind in (
        ml_dtypes.float8_e4m3fn,
        ml_dtypes.float8_e5m2,
        ml_dtypes.float4_e2m1fn,
        ml_dtypes.int4,
        ml_dtypes.uint4,
    )


def test_large_int32_is_dequantised_exactly() -> None:
    values = np.array([2**30 + 1, -(2**31), 16_777_217], np.int32)
    check("DequantizeLinear", [values, number(2.0**-20)], constants=(1,), tolerance=0.0)


def test_gradients_are_one_within_the_range_and_zero_outside() -> None:
    scale, zero = number(0.5), number(10, "uint8")
    network = onnxviz.to_torch(one_node("QuantizeLinear", [VALUES[0, 0, 0, :4], scale, zero], constants=(1, 2)))
    values = torch.tensor([0.3, -4.9, -80.0, 500.0], requires_grad=True)
    network(values)[0].sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [2.0, 2.0, 0.0, 0.0]


def test_a_floating_argument_of_an_integer_input_keeps_its_gradient() -> None:
    network = onnxviz.to_torch(
        one_node("DequantizeLinear", [np.zeros(2, np.uint8), number(0.5), number(3, "uint8")], constants=(1, 2))
    )
    values = torch.tensor([3.0, 7.0], requires_grad=True)
    (found,) = network(values)
    assert found.tolist() == [0.0, 2.0]
    found.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("values", [VALUES, np.abs(VALUES), -np.abs(VALUES), VALUES * 0])
def test_dynamic_quantisation(values: np.ndarray) -> None:
    check("DynamicQuantizeLinear", [values], 3, opset=11, compiled=True)


@pytest.mark.parametrize("constants", [(1, 2, 3, 4, 5, 6, 7, 8), (3, 5, 8), ()])
@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("channels", [1, 4, 600])
def test_quantised_convolutions(kind: str, channels: int, constants: tuple[int, ...]) -> None:
    if channels == 600 and len(constants) < 8:
        pytest.skip("the split of weights needs constants")
    info = np.iinfo(kind)
    images = RNG.integers(info.min, info.max, (2, channels, 6, 5), dtype=kind, endpoint=True)
    weight = RNG.integers(-127, 127, (8, channels, 3, 3), dtype=np.int8, endpoint=True)
    scales = RNG.uniform(0.001, 0.004, 8).astype(np.float32) / np.float32(channels) ** 0.5
    given = [
        images, number(0.04), number(info.min + 99, kind), weight, scales, np.zeros(8, np.int8), number(0.05),
        number(info.min + 60, kind), RNG.integers(-(2**20), 2**20, 8).astype(np.int32),
    ]  # fmt: skip
    wanted = _exact_convolution(given)
    check("QLinearConv", given, constants=constants, pads=[1, 0, 1, 1], expected=[wanted], tolerance=0.0)
    if channels == 1:
        witness("QLinearConv", given, constants, wanted, pads=[1, 0, 1, 1])


def _exact_convolution(given: list[np.ndarray]) -> np.ndarray:
    images, scale, zero, weight, scales, _, result_scale, result_zero, bias = given
    shifted = torch.from_numpy(images.astype(np.float64) - float(zero))
    padded = torch.nn.functional.pad(shifted, (0, 1, 1, 1))
    sums = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weight.astype(np.float64)), torch.from_numpy(bias).double()
    )
    multiplier = (scale * scales).astype(np.float32) / result_scale
    rounded = np.rint(sums.numpy().astype(np.float32) * multiplier.reshape(-1, 1, 1)) + float(result_zero)
    info = np.iinfo(result_zero.dtype)
    return np.clip(rounded, info.min, info.max)


@pytest.mark.parametrize("constants", [(1, 2, 3, 4, 5, 6, 7), ()])
@pytest.mark.parametrize("columns", [True, False])
def test_quantised_matrix_products(columns: bool, constants: tuple[int, ...]) -> None:
    size = (5,) if columns else ()
    given = [
        RNG.integers(0, 255, (2, 3, 70), dtype=np.uint8), number(0.02), number(110, "uint8"),
        RNG.integers(-127, 127, (70, 5), dtype=np.int8), np.asarray(RNG.uniform(0.01, 0.02, size), np.float32),
        np.zeros(size, np.int8), number(0.7), number(120, "uint8"),
    ]  # fmt: skip
    sums = (given[0].astype(np.int64) - 110) @ given[3].astype(np.int64)
    multiplier = (given[1] * given[4]).astype(np.float32) / given[6]
    wanted = np.clip(np.rint(sums.astype(np.float32) * multiplier) + 120, 0, 255)
    check("QLinearMatMul", given, constants=constants, opset=21, tolerance=0.0, expected=[wanted])
    witness("QLinearMatMul", given, constants, wanted, opset=21)


@pytest.mark.parametrize("constants", [(1, 2, 3), (1, 3), ()])
@pytest.mark.parametrize("kernel", [1, 3])
def test_integer_convolutions_are_exact(kernel: int, constants: tuple[int, ...]) -> None:
    for channels in (3, 500):
        images = RNG.integers(0, 255, (2, channels, 5, 5), dtype=np.uint8, endpoint=True)
        weight = RNG.integers(0, 255, (4, channels, kernel, kernel), dtype=np.uint8, endpoint=True)
        given = [images, weight, number(3, "uint8"), number(7, "uint8")]
        shifted = torch.from_numpy(images.astype(np.int64) - 3), torch.from_numpy(weight.astype(np.int64) - 7)
        wanted = torch.nn.functional.conv2d(*shifted).numpy()
        found = check("ConvInteger", given, constants=constants, opset=10, expected=[wanted], tolerance=0.0)
        assert np.array_equal(found[0].double().numpy(), wanted)


@pytest.mark.parametrize("constants", [(1, 2, 3), (1, 3), (3,), ()])
def test_integer_matrix_products_are_exact(constants: tuple[int, ...]) -> None:
    for size in (8, 3000, 60_000):
        first = RNG.integers(0, 255, (2, 3, size), dtype=np.uint8, endpoint=True)
        second = RNG.integers(-128, 127, (size, 4), dtype=np.int8, endpoint=True)
        rows, columns = number(100, "uint8"), np.array([0, 1, -3, 5], np.int8)
        wanted = (first.astype(np.int64) - 100) @ (second.astype(np.int64) - columns)
        given = [first, second, rows, columns]
        found = check("MatMulInteger", given, constants=constants, opset=10, expected=[wanted], tolerance=0.0)
        assert np.array_equal(found[0].double().numpy(), wanted)


def test_gradients_pass_through_a_compiled_network() -> None:
    given = [
        quantised_images(), number(0.04), number(99, "uint8"), RNG.integers(-127, 127, (4, 3, 3, 3), dtype=np.int8),
        RNG.uniform(0.001, 0.004, 4).astype(np.float32), np.zeros(4, np.int8), number(0.05), number(60, "uint8"),
    ]  # fmt: skip
    network = onnxviz.to_torch(one_node("QLinearConv", given, constants=range(1, 8)))
    plain, compiled = (torch.from_numpy(given[0]).float().requires_grad_(True) for _ in range(2))
    torch._dynamo.reset()
    network(plain)[0].sum().backward()
    torch.compile(network, backend="aot_eager", fullgraph=True)(compiled)[0].sum().backward()
    assert plain.grad is not None
    assert compiled.grad is not None
    assert plain.grad.abs().max() > 0
    torch.testing.assert_close(plain.grad, compiled.grad)


def quantised_images() -> np.ndarray:
    return RNG.integers(0, 255, (2, 3, 6, 5), dtype=np.uint8, endpoint=True)


def test_gradients_reach_the_input_through_quantised_products() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    weight = RNG.integers(-100, 100, (6, 4), dtype=np.int8)
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])], [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    onnxviz.to_torch(model)(values)[0].sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.from_numpy(weight).float().sum(1).expand(3, 6))


# --- real models ------------------------------------------------------------------------------------------------------


def _photographs(folder: Path, size: int, count: int = 3) -> np.ndarray:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[::7][:count]
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files])


def _quantised_parts(model: onnx.ModelProto) -> list[onnx.ModelProto]:
    """Cut a model where its values are quantised: each part computes one quantised value from others."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    kinds = {value.name: value for value in (*onnx.shape_inference.infer_shapes(model).graph.value_info, *graph.input)}
    parts = []
    for last in graph.node:
        if last.op_type != "QuantizeLinear":
            continue
        needed, stack, given = {last.output[0]}, list(last.input), []
        while stack:
            name = stack.pop()
            if name in constants or name in needed:
                continue
            if name not in makers or makers[name].op_type == "QuantizeLinear":
                given.append(name)
                needed.add(name)
                continue
            needed.add(name)
            stack.extend(makers[name].input)
        nodes = [node for node in graph.node if needed.intersection(node.output) and node.output[0] not in given]
        used = {name for node in nodes for name in node.input}
        part = helper.make_graph(
            nodes, "part", [kinds[name] for name in given],
            [onnx.ValueInfoProto(name=last.output[0]), onnx.ValueInfoProto(name=last.input[0])],
            [tensor for name, tensor in constants.items() if name in used],
        )  # fmt: skip
        parts.append(helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version))
    return parts


def _session(model: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "size", "images"),
    [
        ("coral_mobilenet_v1_0.25_128_qdq.onnx", 128, "imagenet_sample"),
        ("mlperf_tiny_resnet8_cifar10_int8_qdq.onnx", 32, "cifar10_test"),
        pytest.param("coral_mobilenet_v2_1.0_224_qdq.onnx", 224, "imagenet_sample", marks=pytest.mark.slow),
    ],
)
def test_every_quantised_layer_of_real_models(zoo: Path, shared_data: Path, file: str, size: int, images: str) -> None:
    """Each layer, given ONNX Runtime's input, gives its output, unless the value lies halfway between two quanta."""
    model = onnx.load(zoo / "onnx" / file)
    photographs = _photographs(shared_data / images, size)
    if model.graph.input[0].type.tensor_type.elem_type == TensorProto.INT8:
        photographs = (photographs.astype(np.int16) - 128).astype(np.int8)
    values = {model.graph.input[0].name: photographs}
    off = total = 0
    for part in _quantised_parts(model):
        session, network = _session(part), onnxviz.to_torch(part)
        given = [values[value.name] for value in part.graph.input]
        pairs = [
            session.run(
                None, {value.name: array[[index]] for value, array in zip(part.graph.input, given, strict=True)}
            )
            for index in range(len(photographs))
        ]
        wanted, exact = (np.concatenate([pair[index] for pair in pairs]) for index in (0, 1))
        with torch.no_grad():
            found = network(*(torch.from_numpy(array) for array in given))[0].numpy()
        values[part.graph.output[0].name] = wanted
        differs = found != wanted
        off, total = off + int(differs.sum()), total + differs.size
        if differs.any():
            last = part.graph.node[-1]
            scale = onnx.numpy_helper.to_array({t.name: t for t in part.graph.initializer}[last.input[1]])
            distance = np.abs(exact[differs] / scale - np.floor(exact[differs] / scale) - 0.5)
            assert np.abs(found - wanted.astype(np.float32)).max() == 1
            assert distance.max() < 1e-4, "a difference that is no tie"
    assert off <= 2e-5 * total, f"{off} of {total} quantised values differ"


@pytest.mark.zoo
def test_gradients_reach_the_input_of_a_real_quantised_model(zoo: Path, shared_data: Path) -> None:
    network = onnxviz.to_torch(zoo / "onnx" / "coral_mobilenet_v1_0.25_128_qdq.onnx")
    photographs = torch.from_numpy(_photographs(shared_data / "imagenet_sample", 128, 2))
    values = photographs.float().requires_grad_(True)
    (scores,) = network(values)
    assert torch.equal(scores, network(photographs)[0])
    scores.amax(1).sum().backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (values.grad != 0).float().mean() > 0.5
