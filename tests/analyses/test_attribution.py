"""Grad-CAM's maps against their formula and against pytorch-grad-cam."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch

import onnxviz.model.model
from onnxviz.analyses.attribution.fusion import to_own_maximum, upsample
from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import gradients_of
from onnxviz.core.values import PRESETS
from onnxviz.data.images import ImageFolder, load_batch

Found = TypeVar("Found")
SIDE = 32
UNIT = dataclasses.replace(PRESETS["unit"], fit="none")


class Tapped(torch.nn.Module):
    """A network whose activations pass through modules, where pytorch-grad-cam can take them: the same tensors."""

    def __init__(self, forward: Callable[[torch.Tensor], Sequence[torch.Tensor]], count: int) -> None:
        super().__init__()
        self.taps = torch.nn.ModuleList(torch.nn.Identity() for _ in range(count))
        self.unused = torch.nn.Parameter(torch.zeros(1))  # the peer asks the parameters for their device
        self._forward = forward

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        *activations, logits = self._forward(image.detach().requires_grad_())
        for tap, activation in zip(self.taps, activations, strict=True):
            assert tap(activation) is activation
        return logits.reshape(len(logits), -1)


def peer_maps(
    peer: types.ModuleType, forward: Callable[[torch.Tensor], Sequence[torch.Tensor]], image: torch.Tensor, count: int,
    target: int,
) -> list[np.ndarray]:  # fmt: skip
    """Maps by pytorch-grad-cam, one layer at a time: given several, it orders them by execution."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps = []
    for place in range(count):
        network = Tapped(forward, count)
        with peer.GradCAM(model=network, target_layers=[network.taps[place]]) as explain:
            maps.append(explain(input_tensor=image, targets=[ClassifierOutputTarget(target)] * len(image)))
    return maps


def as_peer_scales(values: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The pipeline of pytorch-grad-cam 1.5 (base_cam.py, utils/image.py): min-max, cv2.resize, min-max again."""
    import cv2

    scaled = []
    for plane in values.numpy():
        for resize in (True, False):
            plane = plane - plane.min()
            plane = plane / (1e-7 + plane.max())
            plane = cv2.resize(plane.astype(np.float32), size[::-1]) if resize else plane
        scaled.append(plane)
    return np.stack(scaled)


def small_network(seed: int = 0) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...]]:
    """Random convolutions of different sizes, a branch, and a logit for each of seven classes."""
    torch.manual_seed(seed)
    first = torch.nn.Conv2d(3, 6, 5, stride=2, padding=1)
    second = torch.nn.Conv2d(6, 9, 3)
    third = torch.nn.Conv2d(9, 9, 3, padding=1)
    dense = torch.nn.Linear(9, 7)

    def forward(image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = first(image).relu()
        b = torch.nn.functional.max_pool2d(second(a), 2)
        c = third(b.relu()) + b
        return a, b, c, dense(c.relu().mean(dim=(2, 3)))

    return forward


def formula(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Equations 1 and 2 of the paper for one image, unit by unit and position by position."""
    units, height, width = activation.shape
    found = np.zeros((height, width))
    for unit in range(units):
        weight = sum(float(gradient[unit, y, x]) for y in range(height) for x in range(width)) / (height * width)
        for y in range(height):
            for x in range(width):
                found[y, x] += weight * float(activation[unit, y, x])
    return np.maximum(found, 0)


def grad_cam(score: torch.Tensor, activations: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Maps of several layers, of one backward pass."""
    gradients = gradients_of(score, activations)
    return [GradCamMethod().weighted(*pair).detach().relu() for pair in zip(activations, gradients, strict=True)]


def test_maps_follow_the_paper_s_formula() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 20, 26, requires_grad=True)
    *activations, logits = small_network()(image)
    gradients = torch.autograd.grad(logits[:, 4].sum(), activations, retain_graph=True)
    found = grad_cam(logits[:, 4], activations)
    for evidence, activation, gradient in zip(found, activations, gradients, strict=True):
        for index in range(2):
            expected = formula(activation[index].detach().numpy(), gradient[index].numpy())
            np.testing.assert_allclose(evidence[index].numpy(), expected, rtol=1e-5, atol=1e-7 * expected.max())


def test_gradients_are_those_of_finite_differences() -> None:
    """The weight of a unit is how the logit changes when the whole unit is raised, per position."""
    torch.manual_seed(0)
    dense = torch.nn.Linear(4, 3).double()
    activation = torch.rand(1, 4, 5, 6, dtype=torch.float64, requires_grad=True)

    def logit(values: torch.Tensor) -> torch.Tensor:
        return dense((values**2).mean(dim=(2, 3)))[:, 1]

    (found,) = grad_cam(logit(activation), [activation])
    step, expected = 1e-6, torch.zeros(5, 6, dtype=torch.float64)
    for unit in range(4):
        raised = activation.detach().clone()
        raised[:, unit] += step
        weight = (logit(raised) - logit(activation)).item() / step / 30
        expected += weight * activation[0, unit].detach()
    np.testing.assert_allclose(found[0].numpy(), expected.relu().numpy(), rtol=1e-4)


@pytest.mark.parametrize("target", [0, 4])
def test_equal_to_pytorch_grad_cam(peer: types.ModuleType, target: int) -> None:
    forward = small_network()
    image = torch.rand(2, 3, 20, 26)
    *activations, logits = forward(image.clone().requires_grad_())
    ours = grad_cam(logits[:, target], activations)
    theirs = peer_maps(peer, forward, image, len(activations), target)
    for evidence, expected in zip(ours, theirs, strict=True):
        assert expected.max() > 0.9
        np.testing.assert_allclose(as_peer_scales(evidence, (20, 26)), expected, rtol=0, atol=1e-5)


def test_all_layers_in_one_object_of_the_peer_come_in_order_of_execution(peer: types.ModuleType) -> None:
    """The trap that `peer_maps` avoids: layers asked for from last to first come back from first to last."""
    forward, image = small_network(), torch.rand(1, 3, 20, 26)
    network = Tapped(forward, 3)
    with peer.GradCAM(model=network, target_layers=[network.taps[2], network.taps[0]]) as explain:
        explain(input_tensor=image, targets=None)
        assert [tensor.shape[1] for tensor in explain.activations_and_grads.activations] == [6, 9]


def test_upsampling_is_opencv_s() -> None:
    import cv2

    values = torch.rand(1, 7, 13)
    np.testing.assert_allclose(
        upsample(values, (224, 160))[0].numpy(), cv2.resize(values[0].numpy(), (160, 224)), atol=1e-5
    )


def test_a_map_of_zeros_stays_zero() -> None:
    maps = torch.stack([torch.zeros(3, 4), torch.full((3, 4), 1e-30), torch.rand(3, 4)])
    scaled = to_own_maximum(maps)
    assert torch.isfinite(scaled).all()
    assert scaled.amax(dim=(1, 2)).tolist() == [0.0, 1.0, 1.0]


def test_what_the_score_does_not_depend_on_has_no_evidence() -> None:
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    used, unused = image * 2, image * 3
    constant = torch.rand(1, 3, 4, 4)
    found = grad_cam(used.mean(dim=(1, 2, 3)), [unused, used, constant])
    assert [float(evidence.max()) > 0 for evidence in found] == [False, True, False]
    (cut,) = grad_cam(used.mean(dim=(1, 2, 3)).detach(), [used])
    assert cut.shape == (1, 8, 8)
    assert float(cut.max()) == 0


# --- real models ----------------------------------------------------------------------------------------------------


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "preprocess", "layers", "target"),
    [
        ("squeezenet_fp16.onnx", "caffe", ["Conv[0]:act", "Conv[9]", "Conv[18]:act", "Conv[-1]:act"], 9),
        ("cifar10_resnet20_dynamo20.onnx", "imagenet", ["Conv[0]", "Conv[7]:act", "Conv[-1]"], 2),
    ],
)
def test_equal_to_pytorch_grad_cam_on_real_models(
    peer: types.ModuleType, zoo: Path, shared_data: Path, file: str, preprocess: str, layers: list[str], target: int
) -> None:
    model = onnxviz.model.model.load(zoo / "onnx" / file, preprocess=preprocess, device="cpu")
    source = ImageFolder.find("photos", ["n01518878_ostrich.JPEG"], shared_data / "imagenet_sample")
    image = torch.from_numpy(load_batch(source, [0], model.preprocessing, model.input_size))
    chosen = [model.view.layer(name) for name in layers]
    forward = model.differentiable([*chosen, model.view.logits])
    *activations, logits = forward(image.clone().requires_grad_())
    ours = grad_cam(logits.flatten(1)[:, target], activations)
    theirs = peer_maps(peer, forward, image, len(chosen), target)
    compared = 0
    for evidence, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(as_peer_scales(evidence, model.input_size), expected, rtol=0, atol=1e-5)
        compared += expected.max() > 0.9
    assert compared >= 2, "blank maps say nothing"
