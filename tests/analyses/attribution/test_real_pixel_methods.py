"""Pixels by gradients on real networks: equal to captum on another conversion, alike in float32 and eight bits."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from captum import attr
from small_networks import ask, difference
from torch import nn

import onnxviz
from benchmarks.stock_onnx2torch import load_torchvision
from onnxviz.analyses.attribution.methods.gradients import Gradient
from onnxviz.analyses.attribution.methods.integrated import IntegratedGradients
from onnxviz.analyses.attribution.methods.rectifiers import Deconvnet, GuidedBackpropagation
from onnxviz.convert.extract import extract
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import ImageFolder, load_batch

pytestmark = pytest.mark.zoo


def opened(
    zoo: Path, data: Path, name: str, preset: str | Preprocessing, pattern: str
) -> tuple[onnxviz.Model, torch.Tensor]:
    """A model and two images for it."""
    model = onnxviz.load(zoo / "onnx" / f"{name}.onnx", preset, device="cpu")
    found = load_batch(
        ImageFolder.find("images", [pattern], data, limit=2), range(2), model.preprocessing, model.input_size
    )
    return model, torch.from_numpy(found)


class Behind(nn.Module):
    """A network behind a model's preprocessing."""

    def __init__(self, model: onnxviz.Model, network: nn.Module) -> None:
        super().__init__()
        self.model, self.network = model, network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.model.encode(images).contiguous()).flatten(1)


@pytest.mark.parametrize(
    ("name", "preset", "pattern", "relus"),
    [
        ("squeezenet_fp16", "caffe", "imagenet_sample/*.JPEG", 26),
        ("cifar10_resnet20_ts17", "imagenet", "cifar10_test/*/*.jpg", 19),
        ("vnn_vit_cifar10_pgd_2_3_16", "unit", "cifar10_test/*/*.jpg", 2),
    ],
)
def test_equal_to_captum_on_another_conversion(
    zoo: Path, shared_data: Path, name: str, preset: str, pattern: str, relus: int
) -> None:
    load_torchvision()
    import onnx2torch

    model, given = opened(zoo, shared_data, name, preset, pattern)
    other = Behind(model, onnx2torch.convert(extract(model.view.proto, [model.view.logits.value]))).eval()
    targets = other(given).argmax(dim=1).tolist()
    question = ask(model, given, targets)
    peers = {Gradient: attr.Saliency, GuidedBackpropagation: attr.GuidedBackprop, Deconvnet: attr.Deconvolution}
    for ours, theirs in peers.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it sets hooks
            wanted = theirs(other).attribute(given, target=targets).detach()
        result = ours().attribute(question)
        assert difference(result.maps[0], wanted.abs().amax(dim=1)) <= 1e-5
        assert not result.said or f"{relus} × ReLU" in result.said


def ranks(values: torch.Tensor) -> np.ndarray:
    """Ranks of the values of each map, [N, positions]."""
    return values.flatten(1).argsort(dim=1).argsort(dim=1).numpy()


def test_an_int8_network_has_the_maps_of_the_one_it_was_made_from(zoo: Path, shared_data: Path) -> None:
    """Through 13 roundings gradients pass straight; without that there would be none."""
    pattern, whole = "cifar10_test/*/*.jpg", Preprocessing("RGB", (128.0,), (1.0,))
    exact, given = opened(zoo, shared_data, "mlperf_tiny_resnet8_cifar10", "raw", pattern)
    rounded, _ = opened(zoo, shared_data, "mlperf_tiny_resnet8_cifar10_int8_qdq", whole, pattern)
    targets = exact.scores(given).argmax(axis=1).tolist()
    for method in (GuidedBackpropagation(), IntegratedGradients(baselines=("black",))):
        first, second = (method.attribute(ask(model, given, targets)) for model in (exact, rounded))
        for one, other in zip(ranks(first.maps[0]), ranks(second.maps[0]), strict=True):
            assert np.corrcoef(one, other)[0, 1] > 0.9
    assert float(first.facts["completeness error"].max()) < 0.1
