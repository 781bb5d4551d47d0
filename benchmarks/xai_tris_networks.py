"""The networks of XAI-TRIS: linear, dense and convolutional ones, trained here and written as ONNX.

Their sizes are those of the paper's repository (training/models.py of braindatalab/xai-tris). Other than there, they
are trained by the cross-entropy of their logits, not of the Softmax behind these.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from benchmarks.xai_tris_scenarios import Samples, Setting
from onnxviz.core.values import Preprocessing
from onnxviz.model.model import Model, load

Kind = Literal["LLR", "MLP", "CNN"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES = ("T", "L")
PREPROCESSING = Preprocessing("STORED", (0.0,), (1.0,), fit="none", range=(-1.0, 1.0), count=1)
"""The network takes the samples as they are, from -1 to 1; our images are these from 0 to 1."""
BATCH = {8: 512, 64: 128}
RATE = 0.005


def network(kind: Kind, side: int) -> nn.Sequential:
    """Return an untrained network, [N, 1, side, side] to logits [N, 2]."""
    pixels = side * side
    if kind == "CNN":
        kernel, widths = (2, (4, 4, 4, 4)) if side == 8 else (4, (4, 8, 16, 32))
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (given, made) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            layers[f"conv{number}"] = nn.Conv2d(given, made, kernel, padding=1)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            side = (side + 3 - kernel) // 2
        layers["flat"] = nn.Flatten()
        layers["logits"] = nn.Linear(widths[-1] * side * side, 2, bias=kernel == 2)
        made_of = nn.Sequential(layers)
    elif kind == "MLP":
        widths = (pixels // 2, pixels // 4, pixels // 8) if side == 8 else (256, 256, 64)
        parts: list[nn.Module] = [nn.Flatten()]
        for given, made in zip((pixels, *widths), widths, strict=False):
            parts += [nn.Linear(given, made, bias=side == 8), nn.ReLU()]
            parts += [nn.Dropout(0.3)] if side > 8 else []
        made_of = nn.Sequential(*parts, nn.Linear(widths[-1], 2, bias=side == 8))
    else:
        made_of = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2, bias=False))
    for module in made_of.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return made_of


def train(kind: Kind, learned: Samples, held_out: Samples, seed: int, epochs: int) -> nn.Sequential:
    """Train a network by Adam from random weights, and return it as it was when the loss on others was lowest."""
    torch.manual_seed(seed)
    model = network(kind, learned.images.shape[1])
    images, answers = _tensors(learned)
    others, their_answers = _tensors(held_out)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    least, kept = float("inf"), {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(epochs):
        model.train()
        for chosen in torch.randperm(len(images)).split(BATCH[images.shape[3]]):
            loss = functional.cross_entropy(model(images[chosen]), answers[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        model.eval()
        with torch.no_grad():
            missed = float(functional.cross_entropy(model(others), their_answers))
        if missed < least:
            least, kept = missed, {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return model.eval()


def _tensors(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(samples.images)[:, None], torch.from_numpy(samples.classes)


def export(model: nn.Sequential, path: Path, side: int) -> None:
    """Write a network as ONNX, with a Softmax."""
    torch.onnx.export(
        nn.Sequential(model, nn.Softmax(dim=1)).eval(),
        (torch.zeros(1, 1, side, side),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}},
    )


def opened(path: Path) -> Model:
    """Return a network as any model is opened."""
    return load(path, PREPROCESSING, CLASSES, device="cpu", output="classes")


def as_images(samples: Samples) -> npt.NDArray[np.float32]:
    """Return samples as images for it, float32 [N, 1, side, side] in 0..1."""
    return ((samples.images + 1) / 2)[:, None]


def file_of(folder: Path, setting: Setting, kind: Kind, seed: int) -> Path:
    """Return where a network is kept."""
    return folder / f"{setting.name}_{kind}_{seed}.onnx".replace(" ", "_")
