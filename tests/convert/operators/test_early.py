"""Operators of the first opsets, against their definitions; CoreML's, against ONNX Runtime where it still runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_node import check
from PIL import Image

import onnxviz

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 3, 6, 7)).astype(np.float32)
BIAS = np.array([0.1, -0.2, 0.3], np.float32)


@pytest.mark.parametrize(
    ("operator", "attributes", "expected"),
    [
        ("ImageScaler", {"scale": 2.0, "bias": BIAS.tolist()}, 2 * IMAGES + BIAS.reshape(3, 1, 1)),
        ("Crop", {"border": [1, 2, 3, 1]}, IMAGES[:, :, 2:-1, 1:-3]),
        ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 4]}, IMAGES[:, :, 2:5, 1:5]),
        ("Affine", {"alpha": 3.0, "beta": -1.0}, 3 * IMAGES - 1),
        ("ParametricSoftplus", {"alpha": 1.5, "beta": 2.0}, 1.5 * np.log1p(np.exp(2 * IMAGES))),
        ("ScaledTanh", {"alpha": 1.5, "beta": 2.0}, 1.5 * np.tanh(2 * IMAGES)),
        ("Scale", {"scale": 0.5}, 0.5 * IMAGES),
    ],
)
def test_operators_on_trial(operator: str, attributes: dict[str, Any], expected: np.ndarray) -> None:
    for opset in (1, 7):
        check(
            operator,
            [IMAGES],
            opset=opset,
            result=1,
            expected=[expected],
            compiled=opset == 7,
            gradient=True,
            **attributes,
        )


def test_fills() -> None:
    values = {"values": [1.0, 2.0, 3.0, 4.0], "shape": [2, 2]}
    check("GivenTensorFill", [], opset=6, result=1, expected=[np.array([[1.0, 2.0], [3.0, 4.0]])], **values)
    check("ConstantFill", [], opset=6, result=1, expected=[np.full((2, 3), 0.5)], value=0.5, shape=[2, 3])
    check("ConstantFill", [IMAGES], opset=6, result=1, expected=[np.full(IMAGES.shape, 2.0)], value=2.0)
    shape = np.array([2, 1], np.int64)
    check("ConstantFill", [shape], opset=6, result=1, expected=[np.ones((2, 1))], value=1.0, input_as_shape=1)
    longer = {"value": 1.0, "input_as_shape": 1, "extra_shape": [3]}
    check("ConstantFill", [shape], opset=6, result=1, expected=[np.ones((2, 1, 3))], **longer)


def test_a_fill_cannot_ask_for_terabytes() -> None:
    node = onnx.helper.make_node("ConstantFill", [], ["y"], shape=[1 << 20, 1 << 20])
    graph = onnx.helper.make_graph([node], "graph", [], [onnx.ValueInfoProto(name="y")])
    graph.input.append(onnx.helper.make_tensor_value_info("x", 1, [1]))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 6)], ir_version=3)
    with pytest.raises(onnxviz.OnnxvizError, match="above the bound"):
        onnxviz.to_torch(model)


@pytest.mark.zoo
def test_candy(zoo: Path, shared_data: Path) -> None:
    import onnxruntime

    file = zoo / "onnx" / "candy.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    photograph = sorted((shared_data / "imagenet_sample").glob("*.JPEG"))[3]
    size = (source.shape[3], source.shape[2])
    image = np.asarray(Image.open(photograph).convert("RGB").resize(size), np.float32).transpose(2, 0, 1)[None]
    (wanted,) = session.run(None, {source.name: image})
    values = torch.from_numpy(image).requires_grad_(True)
    (found,) = onnxviz.to_torch(file)(values)
    assert np.abs(found.detach().numpy() - wanted).max() <= 1e-3 * np.abs(wanted).max()
    found.mean().backward()
    assert values.grad is not None
    assert values.grad.abs().max() > 0
