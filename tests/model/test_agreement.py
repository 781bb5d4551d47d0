"""The parity check of conversion: it holds on real models, and it can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxviz.convert.operators
from onnxviz.convert.operators import Conversion
from onnxviz.core.errors import DataError
from onnxviz.core.values import Agreement
from onnxviz.model.differences import HALF_TOLERANCE, TOLERANCE, Difference
from onnxviz.model.model import Model, load
from onnxviz.model.parity import check_parity, is_half


def make(path: Path, element: int = TensorProto.FLOAT, bias: float = 0.0, domain: str = "", opset: int = 17) -> Path:
    """conv -> relu -> clip -> mean, batch fixed to one, in any float type."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    weight = np.random.default_rng(2).normal(size=(4, 3, 3, 3)).astype(kind)
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], "conv"),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("Softmax", ["relu"], ["soft"], "soft", axis=1),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"], "mean"),
        helper.make_node("Strange" if domain else "Neg", ["mean"], ["tail"], "tail", domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", element, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("mean", element, None), helper.make_tensor_value_info("tail", element, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.full(4, bias, kind), "b")],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


IMAGES = np.random.default_rng(3).uniform(size=(3, 3, 8, 8)).astype(np.float32)


def test_a_converted_model_agrees_with_the_file_and_with_the_float32_graph(tmp_path: Path) -> None:
    model = load(make(tmp_path / "m.onnx"), "unit")
    found = check_parity(model, model.layers, IMAGES)
    assert [(item.layer, item.reference) for item in found] == [
        (layer.name, reference) for layer in model.layers for reference in ("file", "float32")
    ]
    assert all(item.holds and item.relative < 1e-5 and item.tolerance == TOLERANCE for item in found)
    assert any(item.absolute > 0 for item in found), "different engines, so not the same bits everywhere"
    assert all(item.holds for item in found), found


def test_half_precision_is_compared_with_the_files_own_rounding(tmp_path: Path) -> None:
    model = load(make(tmp_path / "m.onnx", TensorProto.FLOAT16), "unit")
    assert is_half(model.view.original)
    assert not is_half(model.view.proto)
    found = check_parity(model, ["conv", "mean"], IMAGES)
    by_reference = {item.reference: item for item in found if item.layer == "conv"}
    assert by_reference["file"].tolerance == HALF_TOLERANCE
    assert by_reference["float32"].tolerance == TOLERANCE
    assert by_reference["float32"].relative < 1e-5 < by_reference["file"].relative < HALF_TOLERANCE


def test_a_wrong_weight_does_not_hold(tmp_path: Path) -> None:
    model = load(make(tmp_path / "m.onnx"), "unit")
    model.activations(IMAGES, ["conv"])
    network = onnxviz.to_torch(model)
    weight = next(p for p in network.parameters() if p.dim() == 4)
    with torch.no_grad():
        weight[1, 0, 0, 0] += 0.5
    found = check_parity(model, ["conv", "relu"], IMAGES)
    assert [item.holds for item in found] == [False] * 4


def test_a_wrong_converter_does_not_hold_from_its_layer_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        onnxviz.convert.operators.CONVERTERS,  # type: ignore[arg-type]
        "Softmax",
        lambda operation: Conversion(torch.nn.Softmax(int(operation.attributes["axis"]) + 1)),
    )
    model = load(make(tmp_path / "m.onnx"), "unit")
    found = {item.layer: item.holds for item in check_parity(model, ["relu", "soft", "mean"], IMAGES)}
    assert found == {"relu": True, "soft": False, "mean": True}


def test_a_silent_layer_is_judged_by_its_difference_as_it_is(tmp_path: Path) -> None:
    model = load(make(tmp_path / "m.onnx", bias=-1000.0), "unit")
    for item in check_parity(model, ["relu", "mean"], IMAGES):
        assert item.absolute == item.relative == 0.0
        assert item.holds
    difference = Difference()
    difference.add(np.full((1, 2), 0.5), np.zeros((1, 2)))
    assert not difference.relative <= TOLERANCE


@pytest.mark.parametrize(
    ("ours", "theirs", "holds"),
    [
        ([1.0, np.nan], [1.0, 2.0], False),
        ([1.0, 2.0], [1.0, np.nan], False),
        ([1.0, np.nan], [1.0, np.nan], True),
        ([1.0, np.inf], [1.0, np.inf], True),
        ([1.0, -np.inf], [1.0, np.inf], False),
        ([1.0, 2.0], [1.0, np.inf], False),
        ([1.0, 2.0, 3.0], [1.0, 2.0], False),
        ([1.0005, 1.0], [1.0, 1.0], True),
        ([1.0015, 1.0], [1.0, 1.0], False),
    ],
)
def test_what_is_no_number_never_holds_by_accident(ours: list[float], theirs: list[float], holds: bool) -> None:
    for order in (0, 1):
        difference = Difference()
        if order:
            difference.add(np.ones(2), np.ones(2))
        difference.add(np.array(ours), np.array(theirs))
        if not order:
            difference.add(np.ones(2), np.ones(2))
        assert (difference.relative <= TOLERANCE) is holds


def test_where_the_file_does_not_run_the_reason_is_noted(tmp_path: Path) -> None:
    """A tail that nobody asks about does not matter; an input type that ONNX Runtime refuses does."""
    model = load(make(tmp_path / "m.onnx", domain="custom"), "unit")
    assert {item.reference for item in check_parity(model, ["mean"], IMAGES)} == {"file", "float32"}
    model.view.original.graph.node[0].op_type = "Unheard"
    (only,) = check_parity(model, ["mean"], IMAGES)
    assert only.reference == "float32"
    assert "does not run in ONNX Runtime" in only.note


def test_images_need_not_lie_where_numpy_can_read_them(tmp_path: Path) -> None:
    """Like images on a GPU, these cannot be turned into an array as they are."""
    model = load(make(tmp_path / "m.onnx"), "unit")
    pixels = torch.as_tensor(IMAGES).clone().requires_grad_()
    with pytest.raises(RuntimeError):
        pixels.numpy()
    assert all(item.holds for item in check_parity(model, ["conv", "mean"], pixels))


def test_no_images_prove_nothing(tmp_path: Path) -> None:
    model = load(make(tmp_path / "m.onnx"), "unit")
    with pytest.raises(DataError):
        check_parity(model, ["mean"], IMAGES[:0])


# --- real models --------------------------------------------------------------------------------------------------

CIFAR = ("airplane", "cat", "ship", "truck")
FACES = ("angry", "happy", "sad", "surprise")
REAL: list[tuple[str, Any, str]] = [
    ("squeezenet_fp16.onnx", "caffe", "imagenet"),
    ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "tf", "imagenet"),
    ("coral_mobilenet_v1_0.25_128_float.onnx", {"mean": 128, "scale": 128}, "imagenet"),
    ("cifar10_resnet20_dynamo20.onnx", "imagenet", "cifar"),
    ("cifar10_resnet20_ts17.onnx", "imagenet", "cifar"),
    ("mlperf_tiny_resnet8_cifar10.onnx", "raw", "cifar"),
    ("vnn_cifar10_resnet_4b.onnx", {"mean": [125.3, 122.95, 113.87], "scale": [63, 62.09, 66.7]}, "cifar"),
    ("fer2013_mini_XCEPTION.102-0.66.onnx", "gray_tf", "faces"),
    ("mnist.onnx", "gray_raw", "digits"),
    ("caffe_lenet.onnx", {"channel_order": "GRAY", "scale": 256}, "digits"),
]


def photographs(data: Path, kind: str, size: tuple[int, int]) -> np.ndarray:
    """Four real images for a model, in its size."""
    if kind == "digits":
        import gzip

        with gzip.open(data / "mnist" / "t10k-images-idx3-ubyte.gz") as stream:
            digits = np.frombuffer(stream.read(16 + 4 * 784)[16:], np.uint8).reshape(4, 28, 28)
        pictures = [Image.fromarray(digit) for digit in digits]
    else:
        folders = {
            "cifar": [data / "cifar10_test" / name for name in CIFAR],
            "imagenet": [data / "imagenet_sample"] * 4,
        }
        places = folders.get(kind, [data / "fer2013_filtered_copy" / name for name in FACES])
        files = [sorted(p for p in place.iterdir() if p.suffix != ".csv")[index] for index, place in enumerate(places)]
        pictures = [Image.open(file) for file in files]
    arrays = [np.asarray(picture.convert("RGB").resize(size[::-1]), np.float32) / 255 for picture in pictures]
    return np.stack(arrays).transpose(0, 3, 1, 2)


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "preprocess", "kind"), REAL, ids=[name for name, _, _ in REAL])
def test_real_models_agree_at_every_layer_one_by_one_and_in_a_batch(
    zoo: Path, shared_data: Path, name: str, preprocess: Any, kind: str
) -> None:
    model: Model = load(zoo / "onnx" / name, preprocess)
    images = photographs(shared_data, kind, model.input_size)
    found: list[Agreement] = []
    for count in (1, 4):
        found += check_parity(model, model.layers, images[:count])
    assert all(item.holds for item in found), found
    assert {item.layer for item in found if item.reference == "file"} == {layer.name for layer in model.layers}
    # The float32 graph is the same arithmetic in another order; half precision rounds at every operation.
    assert max(item.relative for item in found if item.reference == "float32") < 1e-4
    assert max(item.relative for item in found) < (5e-3 if "fp16" in name else 1e-4)


def quantised(path: Path) -> Path:
    """Two convolutions whose results are rounded to eight bits."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w1", (8, 3, 3, 3)), ("w2", (8, 8, 3, 3)))
    ]
    tensors += [numpy_helper.from_array(np.float32(0.05), "s"), numpy_helper.from_array(np.uint8(100), "z")]
    nodes = []
    value = "image"
    for index in (1, 2):
        nodes += [
            helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], f"conv{index}"),
            helper.make_node("QuantizeLinear", [f"c{index}", "s", "z"], [f"q{index}"], f"quantise{index}"),
            helper.make_node("DequantizeLinear", [f"q{index}", "s", "z"], [f"d{index}"], f"dequantise{index}"),
        ]
        value = f"d{index}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_quantised_layer_is_computed_from_onnx_runtimes_rounded_values(tmp_path: Path) -> None:
    model = load(quantised(tmp_path / "m.onnx"), "unit")
    found = check_parity(model, list(model.layers), torch.rand(2, 3, 16, 16))
    assert {item.layer for item in found} == {"conv1", "dequantise1", "conv2", "dequantise2"}
    assert all(item.holds for item in found), found
    assert "rounded values" in next(item.note for item in found if item.layer == "conv2")
    assert not next(item.note for item in found if item.layer == "conv1")


def test_a_wrong_rounding_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer behind it, which is computed from the right values, does."""

    class Down(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return (values / 0.05).floor() + 100

    monkeypatch.setitem(
        onnxviz.convert.operators.CONVERTERS,  # type: ignore[arg-type]
        "QuantizeLinear",
        lambda operation: Conversion(Down()),
    )
    model = load(quantised(tmp_path / "m.onnx"), "unit")
    found = check_parity(model, ["conv1", "dequantise1", "conv2"], torch.rand(2, 3, 16, 16))
    holds = {item.layer: item.holds for item in found}
    assert holds == {"conv1": True, "dequantise1": False, "conv2": True}
