"""The differentiable model on hand-made networks with known answers, and on real ones."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxviz.model.model
from onnxviz.core.errors import DataError, ModelError, SelectionError
from onnxviz.core.values import Preprocessing
from onnxviz.model.model import Model, load
from onnxviz.model.to_torch import to_torch
from tests.tiny_models import save_model

Write = Callable[..., Path]


def tensor(name: str, values: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a model; its image input is called "image"."""

    def make(
        nodes: list[onnx.NodeProto],
        outputs: list[str],
        shape: tuple[int | str, ...] = ("n", 3, 8, 8),
        initializers: list[TensorProto] | None = None,
        metadata: dict[str, str] | None = None,
        more_inputs: tuple[str, ...] = (),
    ) -> Path:
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 4)) for name in more_inputs]
        graph = helper.make_graph(
            nodes,
            "g",
            inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            initializers or [],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, metadata or {})
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return make


RNG = np.random.default_rng(5)
CONV = RNG.normal(size=(4, 3, 3, 3)) * 0.3
DENSE = RNG.normal(size=(4, 5)) * 0.5


@pytest.fixture
def classifier(write: Write) -> Path:
    """conv -> relu -> mean -> gemm -> softmax."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], "relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "d"], ["logits_"], "dense"),
        helper.make_node("Softmax", ["logits_"], ["prob"], "prob"),
    ]
    return write(nodes, ["prob"], initializers=[tensor("w", CONV), tensor("d", DENSE)])


@pytest.fixture
def channels_last_net(write: Write) -> Path:
    """A network whose values are NHWC throughout, as some TensorFlow exports have them."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], "t", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["conv"], ["back"], "back", perm=[0, 2, 3, 1]),
        helper.make_node("Tanh", ["back"], ["tanh"], "tanh"),
        helper.make_node("ReduceMean", ["tanh"], ["mean"], "mean", axes=[1, 2], keepdims=0),
    ]
    return write(nodes, ["mean"], ("n", 8, 8, 3), [tensor("w", CONV)])


def photos(count: int = 2, size: tuple[int, int] = (8, 8)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).uniform(size=(count, 3, *size)).astype(np.float32))


# --- images to input ----------------------------------------------------------------------------------------------


def test_encode_is_the_definition(classifier: Path) -> None:
    images = photos()
    rgb = images.numpy()
    model = load(classifier, {"channel_order": "BGR", "mean": [104, 117, 123], "scale": [1, 2, 4]})
    expected = (255 * rgb[:, ::-1] - np.reshape([104, 117, 123], (1, 3, 1, 1))) / np.reshape([1, 2, 4], (1, 3, 1, 1))
    np.testing.assert_allclose(model.encode(images).numpy(), expected, rtol=1e-5, atol=1e-4)


def test_encode_grey_and_channels_last(write: Write, channels_last_net: Path) -> None:
    images = photos()
    luma = (images * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    assert load(channels_last_net, "unit").encode(images).shape == (2, 8, 8, 3)
    node = helper.make_node("Conv", ["image", "w"], ["conv"], "conv")
    grey = load(write([node], ["conv"], ("n", 1, 8, 8), [tensor("w", CONV[:, :1])]), "gray_tf")
    torch.testing.assert_close(grey.encode(images), luma * 2 - 1)


def test_encode_is_differentiable_and_refuses_what_is_no_image(classifier: Path) -> None:
    model = load(classifier, "raw")
    images = photos().requires_grad_(True)
    model.encode(images).sum().backward()
    assert torch.equal(images.grad, torch.full_like(images, 255.0))
    for wrong in (torch.zeros(2, 1, 8, 8), torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(DataError):
            model.encode(wrong)


# --- gradients ----------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_same_network_in_pytorch(classifier: Path) -> None:
    model = load(classifier, "raw")
    images = (photos() / 255).requires_grad_(True)
    relu, logits = model.differentiable(["relu", "logits"])(images)
    ours = torch.autograd.grad(logits[:, 2].sum(), (images, relu))

    own = images.detach().clone().requires_grad_(True)
    convolved = torch.nn.functional.conv2d(own * 255, torch.tensor(CONV, dtype=torch.float32), padding=1).relu()
    score = convolved.mean((2, 3)) @ torch.tensor(DENSE, dtype=torch.float32)
    theirs = torch.autograd.grad(score[:, 2].sum(), (own, convolved))
    torch.testing.assert_close(relu, convolved)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)


def test_a_convolution_is_not_overwritten_by_its_relu(classifier: Path) -> None:
    conv, relu = load(classifier, "unit").differentiable(["conv", "relu"])(photos())
    assert (conv < 0).any()
    torch.testing.assert_close(relu, conv.relu())


def test_units_first_tensors_are_part_of_the_network(channels_last_net: Path) -> None:
    """What follows has a gradient with respect to the moved tensor, not only to the one in the file's layout."""
    model = load(channels_last_net, "unit")
    layer = model.view.layer("tanh")
    assert layer.channel_axis == 3
    tanh, mean = model.differentiable(["tanh", "mean"])(photos())
    assert tanh.shape == (2, 4, 8, 8)
    (gradient,) = torch.autograd.grad(mean[:, 1].sum(), tanh)
    assert torch.allclose(gradient[:, 1], torch.full((2, 8, 8), 1 / 64))
    assert not gradient[:, [0, 2, 3]].any()


def test_gradients_between_layers_exist_although_no_image_requires_them(classifier: Path) -> None:
    images = photos()
    relu, logits = load(classifier, "unit").differentiable(["relu", "logits"])(images)
    assert torch.autograd.grad(logits.sum(), relu)[0].shape == relu.shape
    assert not images.requires_grad
    with torch.no_grad():
        assert not load(classifier, "unit").differentiable(["relu", "logits"])(images)[1].requires_grad


def test_weights_get_no_gradients_and_nothing_is_left_after_a_call_that_raises(classifier: Path) -> None:
    model = load(classifier, "unit")
    forward = model.differentiable(["logits"])
    forward(photos().requires_grad_(True))[0].sum().backward()
    before = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    for wrong in (torch.zeros(2, 1, 8, 8), "no images"):
        with pytest.raises((DataError, AttributeError)):
            forward(wrong)  # type: ignore[arg-type]
    network = to_torch(model)
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    assert before == {key: value for key, value in vars(model).items() if not key.startswith("_")}


def test_functions_are_kept_for_the_same_layers_and_forgotten_in_the_end(classifier: Path) -> None:
    model = load(classifier, "unit")
    assert model.differentiable(["relu", "conv"]) is model.differentiable(["relu", "conv"])
    assert model.differentiable(["relu", "conv"]) is not model.differentiable(["conv", "relu"])
    for first in model.layers:
        for second in model.layers:
            model.differentiable([first, second])
    assert len(model._forwards) == onnxviz.model.model._NETWORKS
    weights = {p.data_ptr() for f in model._forwards.values() for p in f.network.parameters() if p.numel() == CONV.size}  # type: ignore[attr-defined]
    assert len(weights) == 1, "all networks share their weights"


def test_tapes_are_not_kept(classifier: Path) -> None:
    import weakref

    model = load(classifier, "unit")
    result = model.differentiable(["relu", "logits"])(photos())
    watch = weakref.ref(result[0])
    del result
    gc.collect()
    assert watch() is None


# --- without gradients --------------------------------------------------------------------------------------------


def test_both_engines_give_the_same(classifier: Path, channels_last_net: Path) -> None:
    for path in (classifier, channels_last_net):
        model = load(path, "unit")
        for count in (1, 5):
            ours = model.activations(photos(count), model.layers)
            theirs = model.measure(photos(count).numpy(), model.layers)
            assert list(ours) == list(theirs) == [layer.name for layer in model.layers]
            for name, values in ours.items():
                assert not values.requires_grad
                np.testing.assert_allclose(values.numpy(), theirs[name], rtol=1e-4, atol=1e-5)


def test_results_answer_to_the_name_that_was_asked_for(classifier: Path) -> None:
    model = load(classifier, "unit")
    for result in (model.activations(photos(), ["logits"]), model.measure(photos().numpy(), ["logits"])):
        assert list(result) == [model.view.logits.name]
        assert result["logits"] is result[model.view.logits.name]
        for wrong in ("logit", "conv"):
            with pytest.raises(KeyError):
                result[wrong]


def test_the_same_images_give_the_same_bits(classifier: Path) -> None:
    def once() -> list[torch.Tensor]:
        images = photos().requires_grad_(True)
        (logits,) = load(classifier, "unit").differentiable(["logits"])(images)
        return [logits, *torch.autograd.grad(logits[:, 0].sum(), images)]

    assert all(torch.equal(first, second) for first, second in zip(once(), once(), strict=True))


def test_micro_batches_change_nothing(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(classifier, "unit")
    whole = model.measure(photos(7).numpy(), ["relu"])["relu"]
    converted = model.activations(photos(7), ["relu"])["relu"]
    monkeypatch.setattr(onnxviz.model.batches, "LARGEST_BATCH", 3)
    np.testing.assert_allclose(model.measure(photos(7).numpy(), ["relu"])["relu"], whole, atol=1e-6)
    torch.testing.assert_close(model.activations(photos(7), ["relu"])["relu"], converted)


def test_probabilities_are_the_models_own_or_the_softmax_of_its_logits(write: Write, classifier: Path) -> None:
    model = load(classifier, "unit")
    logits = model.measure(photos().numpy(), ["logits"])["logits"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(model.probabilities(photos()), expected, rtol=1e-5)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
    ]
    with pytest.raises(SelectionError, match="output: classes"):
        load(write(nodes, ["flat"]), "unit").probabilities(photos())
    bare = load(write(nodes, ["flat"]), "unit", output="classes")
    means = photos().numpy().mean((2, 3))
    np.testing.assert_allclose(
        bare.probabilities(photos()), np.exp(means) / np.exp(means).sum(1, keepdims=True), rtol=1e-5
    )
    sigmoid = load(write([*nodes, helper.make_node("Sigmoid", ["flat"], ["p"], "p")], ["p"]), "unit")
    np.testing.assert_allclose(sigmoid.probabilities(photos()), 1 / (1 + np.exp(-means)), rtol=1e-5)


def test_a_map_of_classes_has_no_class_for_the_image(write: Write) -> None:
    node = helper.make_node("Conv", ["image", "w"], ["conv"], "conv")
    with pytest.raises(SelectionError, match="at each position"):
        load(write([node], ["conv"], initializers=[tensor("w", CONV)]), "unit").probabilities(photos())


def test_convolutional_parts_take_images_of_other_sizes_and_the_rest_refuses(write: Write) -> None:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["conv"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "d"], ["out"], "dense"),
    ]
    dense = tensor("d", RNG.normal(size=(4 * 64, 3)))
    model = load(write(nodes, ["out"], initializers=[tensor("w", CONV), dense]), "unit")
    large = photos(2, (12, 16))
    assert model.activations(large, ["conv"])["conv"].shape == (2, 4, 12, 16)
    assert model.measure(large.numpy(), ["conv"])["conv"].shape == (2, 4, 12, 16)
    with pytest.raises(DataError, match=r"12.16 pixels"):
        model.differentiable(["out"])(large)
    with pytest.raises(ModelError):
        model.measure(large.numpy(), ["out"])


def test_an_image_never_runs_over_into_the_batch(write: Write) -> None:
    """Reshape(-1, 192) of an image four times as large would make four images of it."""
    nodes = [helper.make_node("Reshape", ["image", "s"], ["flat"], "flat")]
    shape = numpy_helper.from_array(np.array([-1, 192], np.int64), "s")
    model = load(write(nodes, ["flat"], initializers=[shape]), "unit")
    assert model.activations(photos(3), ["flat"])["flat"].shape == (3, 192)
    with pytest.raises(DataError, match=r"has shape .* images? of 16×16 pixels"):
        model.activations(photos(1, (16, 16)), ["flat"])
    with pytest.raises(DataError, match=r"has shape .* images? of 16×16 pixels"):
        model.measure(photos(1, (16, 16)).numpy(), ["flat"])


def test_a_second_input_is_named(write: Write) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pool"], "pool"),
        helper.make_node("Add", ["pool", "style"], ["sum"], "sum"),
    ]
    model = load(write(nodes, ["sum"], more_inputs=("style",)), "unit")
    assert model.activations(photos(), ["pool"])["pool"].shape == (2, 3, 1, 1)
    with pytest.raises(ModelError, match="style"):
        model.differentiable(["sum"])


# --- opening ------------------------------------------------------------------------------------------------------


def test_preprocessing_and_labels_are_checked(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="imagenet"):
        load(classifier, "imagnet")
    labels = tmp_path / "names.txt"
    labels.write_text("a\nb\nc\nd\ne\n", "utf-8")
    assert load(classifier, "unit", labels).labels == ("a", "b", "c", "d", "e")
    assert load(classifier, "unit", list("abcde")).labels == tuple("abcde")
    with pytest.raises(SelectionError, match="4 class names for a model of 5 classes"):
        load(classifier, "unit", list("abcd"))


def test_a_model_can_bring_its_own_preprocessing(write: Write) -> None:
    node = helper.make_node("Relu", ["image"], ["relu"], "relu")
    own = {"onnxviz.preprocessing": json.dumps({"channel_order": "BGR", "mean": [1, 2, 3], "scale": 4, "name": "own"})}
    path = write([node], ["relu"], metadata=own)
    assert load(path).preprocessing == Preprocessing("BGR", (1, 2, 3), (4,), name="own")
    assert load(path, "caffe").preprocessing.name == "caffe"
    assert load(path).preprocessing.declared
    guess = load(write([node], ["relu"])).preprocessing
    assert (guess.name, guess.origin) == ("unit", "guess")


def test_to_torch_keeps_the_files_order_and_layout(channels_last_net: Path, write: Write) -> None:
    network = to_torch(channels_last_net, ["mean", "tanh"])
    assert isinstance(network, torch.fx.GraphModule)
    assert not network.training
    mean, tanh = network(torch.ones(2, 8, 8, 3))
    assert (mean.shape, tanh.shape) == ((2, 4), (2, 8, 8, 4))
    nodes = [
        helper.make_node("Sub", ["style", "more"], ["sub"], "sub"),
        helper.make_node("Relu", ["image"], ["r"], "r"),
    ]
    path = write(nodes, ["r", "sub"], more_inputs=("style", "more"))
    relu, difference = to_torch(path)(-torch.ones(1, 3, 8, 8), torch.full((1, 4), 5.0), torch.full((1, 4), 3.0))
    assert not relu.any()
    assert difference.eq(2).all()


def test_notebook_tables_escape_names_from_the_file(write: Write) -> None:
    path = write(
        [helper.make_node("Relu", ["image"], ["<script>alert(1)</script>"], "<b>x")], ["<script>alert(1)</script>"]
    )
    hostile = path.with_name("<i>.onnx")
    path.rename(hostile)
    model = load(hostile, "unit")
    for page in (model._repr_html_(), model.layers._repr_html_(), model.layers[:1]._repr_html_()):  # type: ignore[attr-defined]
        assert "<table>" in page
        assert not any(word in page for word in ("<script", "<b>", "<i>"))
    assert "pixels" in repr(model)
    assert "Relu" in repr(model.layers)


# --- real models --------------------------------------------------------------------------------------------------

REAL = [
    ("cifar10_resnet20_dynamo20.onnx", "imagenet"),
    ("cifar10_resnet20_ts17.onnx", "imagenet"),
    ("mnist.onnx", "gray_raw"),
    ("caffe_lenet.onnx", {"channel_order": "GRAY", "scale": 256}),
    ("mlperf_tiny_resnet8_cifar10.onnx", "raw"),
    ("vnn_cifar10_resnet_4b.onnx", "unit"),
]


def test_arguments_of_another_kind_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_model(path)
    with pytest.raises(SelectionError, match="from the path of its file, not from 3"):
        onnxviz.load(3)  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match=r"(?s)no preprocessing can be made of 3.*fields as a mapping"):
        onnxviz.load(path, preprocess=3)  # type: ignore[arg-type]
    with pytest.raises(SelectionError, match=r"(?s)called 'zzz'.*or write auto"):
        onnxviz.load(path, preprocess="zzz")
    model = onnxviz.load(path, "unit")
    for asked in (model.activations, model.measure):
        with pytest.raises(SelectionError, match="no layer is named"):
            asked(np.zeros((1, 16, 16, 3), np.uint8), [])


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "preprocess"), REAL, ids=[name for name, _ in REAL])
def test_real_models_have_gradients_everywhere(zoo: Path, name: str, preprocess: Any) -> None:
    model = load(zoo / "onnx" / name, preprocess)
    images = photos(2, model.input_size).requires_grad_(True)
    logits = model.view.logits
    outputs = model.differentiable([*model.view.select("all_convs"), logits])(images)
    gradients = torch.autograd.grad(outputs[-1][:, 0].sum(), (images, *outputs[:-1]))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert all(len(output) == 2 for output in outputs)


@pytest.mark.zoo
def test_squeezenet_recognises_a_shark_only_with_its_own_preprocessing(zoo: Path, shared_data: Path) -> None:
    photo = Image.open(shared_data / "imagenet_sample" / "n01484850_great_white_shark.JPEG").convert("RGB")
    labels = zoo / "labels" / "imagenet_1000.txt"
    model: Model = load(zoo / "onnx" / "squeezenet_fp16.onnx", "caffe", labels)
    assert model.labels is not None
    probabilities = model.probabilities(photo.resize((224, 224)))
    assert probabilities.shape == (1, 1000)
    assert "shark" in model.labels[int(probabilities[0].argmax())]
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-4)


@pytest.mark.zoo
def test_a_layer_that_mixes_the_batch_is_refused_with_the_right_advice(zoo: Path) -> None:
    """The channel shuffle of this network reshapes [1, 48, 44, 44] to [24, 2, 1936]."""
    model = onnxviz.load(zoo / "onnx" / "fastestdet_coco.onnx", preprocess="unit", device="cpu")
    with pytest.raises(DataError, match="mixes the batch"):
        model.activations(torch.rand(1, 3, 352, 352), ["Reshape_13"])
