"""Redirected gradients against lucid's definition, image by image, and through whole networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

from onnxviz.convert.redirected_gradients import redirected
from onnxviz.model.model import load

CLIPS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "relu": (functional.relu, 0.0, np.inf),
    "torch.relu": (torch.relu, 0.0, np.inf),
    "Tensor.relu": (Tensor.relu, 0.0, np.inf),
    "relu6": (functional.relu6, 0.0, 6.0),
    "hardtanh": (functional.hardtanh, -1.0, 1.0),
    "hardtanh 0 6": (lambda x: functional.hardtanh(x, 0.0, 6.0), 0.0, 6.0),
    "clamp": (lambda x: torch.clamp(x, 0, 6), 0.0, 6.0),
    "clamp keywords": (lambda x: x.clamp(min=0.0, max=6.0), 0.0, 6.0),
    "clamp low": (lambda x: x.clamp(0.0), 0.0, np.inf),
    "clamp high": (lambda x: x.clamp(None, 6.0), -np.inf, 6.0),
}


def published(values: np.ndarray, gradient: np.ndarray, low: float, high: float) -> np.ndarray:
    """lucid, misc/redirected_relu_grad.py:90-145, of one image; the optimizer descends."""
    usual = np.where((values < low) | (values > high), 0.0, gradient)
    pushes_lower = (values < low) & (gradient > 0)
    pushes_higher = (values > high) & (gradient < 0)
    redirected = np.where(pushes_lower | pushes_higher, 0.0, gradient)
    return usual if np.linalg.norm(usual) > 0 else redirected


def through(clip: Callable[[Tensor], Tensor], values: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with respect to values, redirected."""
    leaf = values.clone().requires_grad_(True)
    (result,) = redirected(lambda images: (clip(images),))(leaf)
    assert torch.equal(result, clip(values))
    return torch.autograd.grad(result, leaf, gradient)[0]


def mixed() -> tuple[Tensor, Tensor]:
    """Four images: alive, below everywhere, above everywhere, and only where no gradient comes alive."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    gradient = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    values[1] = -values[1].abs() - 1.1
    values[2] = values[2].abs() + 6.1
    gradient[3][(values[3] > -1) & (values[3] < 6)] = 0.0
    return values, gradient


@pytest.mark.parametrize("name", CLIPS)
def test_gradients_are_those_that_lucid_defines(name: str) -> None:
    clip, low, high = CLIPS[name]
    values, gradient = mixed()
    made = through(clip, values, gradient)
    expected = [published(x.numpy(), g.numpy(), low, high) for x, g in zip(values, gradient, strict=True)]
    np.testing.assert_array_equal(made, expected)
    if low == 0.0:
        assert bool(made[1].any())
        assert float(made[1].max()) <= 0.0  # only what pushes up


@pytest.mark.parametrize("name", CLIPS)
def test_living_images_have_the_usual_gradients_also_on_the_limits(name: str) -> None:
    """Bit for bit what PyTorch gives, whatever it does with values that lie on a limit."""
    clip = CLIPS[name][0]
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 6.0, 7.0]).expand(2, 3, 8).contiguous()
    gradient = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(2))
    leaf = values.clone().requires_grad_(True)
    (usual,) = torch.autograd.grad(clip(leaf), leaf, gradient)
    assert torch.equal(through(clip, values, gradient), usual)


def test_values_on_the_limit_of_a_dead_relu_are_pushed_up_only() -> None:
    gradient = torch.tensor([[-1.0, 2.0, -3.0]])
    assert through(functional.relu, torch.zeros(1, 3), gradient).tolist() == [[-1.0, 0.0, -3.0]]


def test_an_image_gets_the_same_gradient_alone_or_in_a_batch() -> None:
    values, gradient = mixed()
    for clip, _, _ in CLIPS.values():
        together = through(clip, values, gradient)
        for index in range(4):
            one = slice(index, index + 1)
            assert torch.equal(through(clip, values[one], gradient[one])[0], together[index])


def test_images_that_are_left_out_have_the_usual_gradients() -> None:
    values, gradient = mixed()
    chosen = torch.tensor([True, False, True, False])
    for clip, _, _ in CLIPS.values():
        leaf = values.clone().requires_grad_(True)
        (result,) = redirected(lambda images, clip=clip: (clip(images),))(leaf, chosen)  # type: ignore[misc]
        made = torch.autograd.grad(result, leaf, gradient)[0]
        usual = torch.autograd.grad(clip(leaf), leaf, gradient)[0]
        assert torch.equal(made[chosen], through(clip, values, gradient)[chosen])
        assert torch.equal(made[~chosen], usual[~chosen])


def test_what_is_left_as_it_is() -> None:
    """Tensors whose first axis is not the images, computed limits, numbers that have no gradients."""
    leaf = -torch.ones(2, 3, 4, requires_grad=True)

    def network(images: Tensor) -> tuple[Tensor, ...]:
        assert images.detach().relu().grad_fn is None
        assert (images * 2).long().clamp(0, 1).dtype == torch.int64
        sequence = images.permute(1, 0, 2).relu()  # [3, 2, 4]
        vector = images.sum(dim=(1, 2)).relu()  # [2]
        computed = images.clamp(torch.zeros(4))
        return sequence, vector, computed, images.relu()

    made = redirected(network)(leaf)
    reaches = [bool(torch.autograd.grad(-out.sum(), leaf, retain_graph=True)[0].any()) for out in made]
    assert reaches == [False, False, False, True]


def test_nothing_is_redirected_outside_or_after_a_fault() -> None:
    def broken(_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        redirected(broken)(torch.zeros(1, 1, 1, 1))
    assert _get_current_function_mode_stack() == []
    with torch.no_grad():
        (result,) = redirected(lambda images: (images.relu(),))(torch.ones(1, 2, requires_grad=True))
    assert result.grad_fn is None


def test_nothing_waits_for_the_device() -> None:
    """Tensors without memory have no numbers to look at."""
    leaf = torch.empty((4, 3, 5, 6), device="meta", requires_grad=True)
    for clip, _, _ in CLIPS.values():
        (result,) = redirected(lambda images, clip=clip: (clip(images),))(leaf)  # type: ignore[misc]
        (gradient,) = torch.autograd.grad(result, leaf, torch.empty_like(result))
        assert gradient.shape == leaf.shape


# --- whole networks -----------------------------------------------------------------------------------------------


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(folder: Path, activation: str) -> Path:
    """A convolution, an activation that is dead on grey images, and the mean of each channel."""
    node = helper.make_node
    constants = {"w": weights(4, 3, 3, 3) * 0.2, "b": np.full(4, -1.5, np.float32)}
    convolution, mean = ["image", "w", "b"], node("GlobalAveragePool", ["act"], ["mean"], "mean")
    nodes = [node("Conv", convolution, ["conv"], "conv", pads=[1, 1, 1, 1])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    if activation == "Relu":
        nodes.append(node("Relu", ["conv"], ["act"], "act"))
    elif activation == "Clip":
        constants |= {"low": np.float32(0), "high": np.float32(6)}
        nodes.append(node("Clip", ["conv", "low", "high"], ["act"], "act"))
    elif activation == "fused":
        nodes = [
            node("FusedConv", convolution, ["act"], "act", domain="com.microsoft", activation="Relu", pads=[1, 1, 1, 1])
        ]
    elif activation == "quantised":  # its smallest number is 0: the ReLU was taken away
        constants |= {"scale": np.float32(0.02), "zero": np.uint8(0)}
        nodes.append(node("QuantizeLinear", ["conv", "scale", "zero"], ["q"], "q"))
        nodes.append(node("DequantizeLinear", ["q", "scale", "zero"], ["act"], "act"))
    else:  # within a graph that lies in a node
        constants |= {"never": np.float32(-1)}
        nodes.append(node("ReduceMax", ["image"], ["largest"], "largest", keepdims=0))
        nodes.append(node("Greater", ["largest", "never"], ["yes"], "yes"))
        branches = {
            name: helper.make_graph(
                [node(operator, ["conv"], [name], name)],
                name,
                [],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, 8, 8])],
            )
            for name, operator in (("then", "Relu"), ("else", "Abs"))
        }
        nodes.append(node("If", ["yes"], ["act"], "act", then_branch=branches["then"], else_branch=branches["else"]))
    graph = helper.make_graph(
        [*nodes, mean],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 4, 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path = folder / f"{activation}.onnx"
    onnx.save(model, path)
    return path


def greys(count: int = 2, size: tuple[int, int] = (8, 8)) -> Tensor:
    drawn = torch.randn((count, 3, *size), generator=torch.Generator().manual_seed(0))
    return (0.5 + 0.01 * drawn).requires_grad_(True)


@pytest.mark.parametrize("activation", ["Relu", "Clip", "fused", "quantised", "branch"])
def test_dead_units_of_a_network_rise(tmp_path: Path, activation: str) -> None:
    """Wherever the ReLU hides; the usual network of the same model stays as it is."""
    model = load(network(tmp_path, activation), "unit", device="cpu")
    usual, other = model.differentiable(["mean"]), redirected(model.differentiable(["mean"]))
    images = greys()
    for forward, reaches in ((usual, False), (other, True), (usual, False)):
        (values,) = forward(images)
        assert torch.equal(values, torch.zeros(2, 4, 1, 1))
        (gradient,) = torch.autograd.grad(-values.sum(), images)
        assert bool(gradient.flatten(1).any(dim=1).all()) is reaches
        assert bool(gradient.any()) is reaches
    # To drive a dead unit down there is nothing to do.
    assert not bool(torch.autograd.grad(other(images)[0].sum(), images)[0].any())
    pixels = images.detach()
    for _ in range(16):
        leaf = pixels.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-other(leaf)[0][:, 1].sum(), leaf)
        pixels = (pixels - 0.1 * gradient.sign()).clamp(0, 1)
    assert bool((usual(pixels)[0][:, 1] > 0).all())


def test_weights_and_networks_are_shared(tmp_path: Path) -> None:
    model = load(network(tmp_path, "Relu"), "unit", device="cpu")
    usual = model.differentiable(["mean"])
    redirected(model.differentiable(["mean"]))
    assert model.differentiable(["mean"]) is usual
    assert len(model._forwards) == 1


ZOO = (
    "caffe_lenet", "cifar", "cifar10_resnet20_dynamo20", "cifar10_resnet20_ts17",
    "coral_mobilenet_v1_0.25_128_float", "coral_mobilenet_v1_0.25_128_qdq", "csinva_mnist_lenet32",
    "csinva_mnist_vae_encoder", "espnet_p_2_q_8_camvid", "fer2013_mini_XCEPTION.102-0.66",
    "mlperf_tiny_resnet8_cifar10", "mlperf_tiny_resnet8_cifar10_int8_qdq", "mnist", "squeezenet_fp16",
    "stm_mobilenet_v1_0.25_224_imagenet", "vnn_cifar10_resnet_4b", "vnn_vit_cifar10_pgd_2_3_16",
    "yunet_n_dynamic",
)  # fmt: skip
"""Real models of images that have gradients, but those that take seconds for one."""
SIZES = {"espnet_p_2_q_8_camvid": (64, 64), "squeezenet_fp16": (64, 64), "yunet_n_dynamic": (64, 64)}
"""What is tried where a model's own size takes long."""


@pytest.mark.zoo
@pytest.mark.parametrize("name", ZOO)
def test_where_no_relu_is_dead_nothing_changes(zoo: Path, name: str) -> None:
    """Outputs and gradients of every real model, bit for bit."""
    model = load(zoo / "onnx" / f"{name}.onnx", device="cpu")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((2, 3, *SIZES.get(name, model.input_size)), generator=generator, requires_grad=True)
    found = []
    forward = model.differentiable(model.view.logits)
    for way in (forward, redirected(forward)):
        (logits,) = way(images)
        weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        found.append((logits, torch.autograd.grad((logits * weight).sum(), images)[0]))
    (usual, usual_gradient), (other, gradient) = found
    assert torch.equal(usual, other)
    assert torch.equal(usual_gradient, gradient)
    assert bool(gradient.any())


def scores(forward: Callable[[Tensor], tuple[Tensor, ...]], images: Tensor, units: list[int]) -> Tensor:
    """Return [N], the mean of one channel of each image."""
    return forward(images)[0][torch.arange(len(units)), units].flatten(1).mean(dim=1)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "preprocess", "layer"),
    [
        ("squeezenet_fp16", "caffe", "fire6/expand3x3_2"),
        ("stm_mobilenet_v1_0.25_224_imagenet", "tf", "mobilenet_0.25_224/conv_pw_11_relu/Relu6"),
    ],
)
def test_dead_channels_of_real_models_rise(zoo: Path, name: str, preprocess: str, layer: str) -> None:
    """Channels without a gradient on a grey image have one, and are active after 16 steps along it."""
    model = load(zoo / "onnx" / f"{name}.onnx", preprocess, device="cpu")
    usual, other = model.differentiable(layer), redirected(model.differentiable(layer))
    start = greys(1, (64, 64)).detach()
    silent = [unit for unit, values in enumerate(usual(start)[0][0]) if float(values.max()) <= 0][:4]
    assert len(silent) == 4
    pixels = start.repeat(4, 1, 1, 1)
    for step in range(16):
        leaf = pixels.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(-scores(other, leaf, silent).sum(), leaf)
        if step == 0:
            assert bool(gradient.flatten(1).any(dim=1).all())
            assert not bool(torch.autograd.grad(-scores(usual, leaf, silent).sum(), leaf)[0].any())
        size = gradient.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        pixels = (pixels - 0.05 * gradient / (size + 1e-12)).clamp(0, 1)
    assert bool((scores(usual, pixels, silent) > 0).all())
