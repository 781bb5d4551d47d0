"""Small PyTorch networks with all that gradients have rules for, their ONNX exports, and questions about them."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

import onnxviz
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.values import PRESETS, Preprocessing
from onnxviz.graph.targets import resolve_head

SIDE, CLASSES = 16, 5
TARGETS = (1, 3)
IMAGENET = dataclasses.replace(PRESETS["imagenet"], fit="none")
GREY = dataclasses.replace(PRESETS["gray_tf"], fit="none")


class Plain(nn.Module):
    """Convolutions, a pooling, dense layers; where one ReLU may serve everywhere, in place or not."""

    def __init__(
        self, relu: type[nn.Module] = nn.ReLU, *, once: bool = False, inplace: bool = False, grey: bool = False
    ):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1 if grey else 3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.dense, self.scores = nn.Linear(8 * 9, 12), nn.Linear(12, CLASSES)
        single = relu(inplace=inplace)
        self.relus = nn.ModuleList([single] * 4 if once else [relu(inplace=inplace) for _ in range(4)])
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relus[0](self.first(x)))
        x = self.pool(self.relus[1](self.second(x)))
        x = self.relus[2](self.third(x))
        return self.scores(self.relus[3](self.dense(x.flatten(1))))


class Residual(nn.Module):
    """Two blocks with batch normalisation, one of them with a projection; statistics that hide nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.stem_norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.first, self.first_norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.second_norm = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.short, self.scores = nn.Conv2d(6, 8, 1, stride=2), nn.Linear(8, CLASSES)
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.bias.data):
                    values.normal_(std=0.3)
                for values in (module.running_var, module.weight.data):
                    values.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relus[0](self.stem_norm(self.stem(x)))
        x = self.relus[1](self.first_norm(self.first(x)) + x)
        x = self.relus[2](self.second_norm(self.second(x)) + self.short(x))
        return self.scores(x.mean(dim=(2, 3)))


class Tokens(nn.Module):
    """A transformer of one block on 16 patches and a class token, with a ReLU or another activation in its middle."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 17, 8))
        self.before, self.between, self.behind = nn.LayerNorm(8), nn.LayerNorm(8), nn.LayerNorm(8)
        self.threefold, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.activation, self.scores = activation(), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        parts = self.threefold(self.before(x)).reshape(-1, 17, 3, 2, 4).permute(2, 0, 3, 1, 4)
        chances = (parts[0] @ parts[1].transpose(2, 3) / 2).softmax(-1)
        x = x + self.out((chances @ parts[2]).transpose(1, 2).reshape(-1, 17, 8))
        x = x + self.narrow(self.activation(self.wide(self.between(x))))
        return self.scores(self.behind(x)[:, 0])


class Quantised(nn.Module):
    """Convolutions whose inputs are rounded to eight bits; sums are exact, so that every kernel rounds alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, CLASSES, 3)
        self.relus = nn.ModuleList([nn.ReLU()])
        for values in self.parameters():
            values.data = (values.data * 32).round() / 32

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, 1 / 256, -128, -128, 127)
        x = self.relus[0](self.first(x))
        x = torch.fake_quantize_per_tensor_affine(x, 1 / 64, -128, -128, 127)
        return torch.tanh(self.second(x)).sum(dim=(2, 3))


class ChannelsLast(nn.Module):
    """A network that takes [N, h, w, channels]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.permute(0, 3, 1, 2))


class OfImages(nn.Module):
    """A network behind its preprocessing: a function of images in 0..1, as captum is asked about it."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.grey = network, preprocessing.channel_order == "GRAY"
        self.mean, self.scale = (
            torch.tensor(numbers)[:, None, None] for numbers in (preprocessing.mean, preprocessing.scale)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.grey:
            images = (images * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
        return self.network((255.0 * images - self.mean) / self.scale)


def exported(network: nn.Module, preprocessing: Preprocessing, folder: Path, *, folded: bool = True) -> onnxviz.Model:
    """A network by way of its ONNX file."""
    channels = 1 if preprocessing.channel_order == "GRAY" else 3
    last = isinstance(network, ChannelsLast)
    example = torch.rand(2, SIDE, SIDE, channels) if last else torch.rand(2, channels, SIDE, SIDE)
    how = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that writes these forms is an old one
        torch.onnx.export(
            network.eval(), (example,), buffer, dynamo=False, opset_version=17, training=how,
            do_constant_folding=folded, input_names=["image"], output_names=["scores"],
            dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
        )  # fmt: skip
    path = folder / "network.onnx"
    proto = onnx.load_from_string(buffer.getvalue())
    norms = sum(node.op_type == "BatchNormalization" for node in proto.graph.node)
    assert norms == (0 if folded else sum(isinstance(each, nn.BatchNorm2d) for each in network.modules()))
    onnx.save(proto, path)
    return onnxviz.Model(onnxviz.open_model(path), preprocessing, None, "cpu")


def images(count: int = 2) -> torch.Tensor:
    """Images of few values: with any place on the way between two of them, none is nearly half of a rounding's step."""
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 32, (count, 3, SIDE, SIDE), generator=generator) * 8.0 / 255.0


def ask(
    model: onnxviz.Model,
    given: torch.Tensor,
    targets: Sequence[int] = TARGETS,
    layers: Sequence[str] = (),
    references: torch.Tensor | None = None,
) -> Question:
    """The question for a class of each image."""
    head = resolve_head(model.view, None, None)
    chosen = [model.view.layer(name) for name in layers]
    forward = ForwardPass(model, given, chosen, [model.view.logits], to_input=True)
    return forward.ask([ClassTarget(head, number) for number in targets], references=references)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert found.shape == wanted.shape
    assert float(wanted.abs().max()) > 0
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())
