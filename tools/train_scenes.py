"""Train a built-in model: a small convolutional network that names the main object of a scene.

    python -m tools.train_scenes --seed 0 --name scenes
    python -m tools.train_scenes --seed 1 --name scenes_second

write `scenes.onnx` and `scenes.json`, and a second training of the same network to compare with. The first layer has
7 x 7 kernels, behind it the picture is reduced by averaging, and the last part of the training is done on perturbed
scenes: such kernels and such gradients are easy to look at. The accuracy in the JSON file is measured by ONNX Runtime
on the finished file and on scenes that took no part in the training.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onnxviz.data.builtin.scenes import CLASSES, PREPROCESSING, SIZE, VERSION, SceneSet, Split

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

WIDTHS = (32, 48, 64, 96, 128, 128)
"""Channels of the six convolutions."""
POOLED = (2, 4)
"""Convolutions, counted from 1, after which two by two positions are averaged."""


def network() -> nn.Sequential:
    """Return the untrained network; its output is the logits."""
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for number, width in enumerate(WIDTHS, start=1):
        kernel, stride = (7, 2) if number == 1 else (3, 1)
        layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU()
        if number in POOLED:
            layers[f"pool{number}"] = nn.AvgPool2d(2)
        channels = width
    _smooth(layers["conv1"])
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["logits"] = nn.Linear(channels, len(CLASSES))
    return nn.Sequential(layers)


def _smooth(layer: nn.Module) -> None:
    """Blur the random first kernels, whose noise would otherwise stay: nothing in the scenes pulls at it."""
    import torch
    from torch.nn import functional

    weight = layer.get_parameter("weight")
    tap = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    with torch.no_grad():
        blurred = functional.conv2d(weight.flatten(0, 1)[:, None], torch.outer(tap, tap)[None, None], padding=2)
        blurred = blurred.reshape(weight.shape)
        weight.copy_(blurred * (weight.std() / blurred.std()))


def load_scenes(count: int, seed: int, split: Split) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw scenes into memory: pictures uint8 [N, 3, 64, 64] and class indices [N]."""
    scenes = SceneSet(count, seed, SIZE, split)
    pictures = np.empty((count, 3, SIZE, SIZE), np.uint8)
    for index in range(count):
        pictures[index] = scenes.read(index).transpose(2, 0, 1)
    return pictures, np.arange(count) % len(CLASSES)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Move, turn, scale and mirror pictures, change their light and colours, blur some and add noise.

    Args:
        images: RGB 0..1, [N, 3, H, W].

    Returns:
        Pictures of the same shape, 0..1.
    """
    import torch
    from torch.nn import functional

    count = len(images)

    def spread(width: float, *shape: int) -> torch.Tensor:
        return (torch.rand(count, *shape) * 2 - 1) * width

    angle, scale, mirror = spread(0.25), torch.exp(spread(0.16)), torch.where(torch.rand(count) < 0.5, 1.0, -1.0)
    cosine, sine, shift = angle.cos() * scale, angle.sin() * scale, spread(0.12, 2)
    rows = (torch.stack((cosine * mirror, -sine, shift[:, 0]), 1), torch.stack((sine * mirror, cosine, shift[:, 1]), 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.where(torch.rand(count, 1, 1, 1) < 0.25, blurred, images)
    mixing = torch.eye(3) + spread(0.1, 3, 3)
    images = torch.einsum("nij,njhw->nihw", mixing, images)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * torch.exp(spread(0.35, 1, 1, 1)) + mean + spread(0.12, 1, 1, 1)
    images = images + torch.randn_like(images) * torch.rand(count, 1, 1, 1) * 0.06
    return images.clamp(0, 1)


def hardest(model: nn.Sequential, images: torch.Tensor, classes: torch.Tensor, distance: float) -> torch.Tensor:
    """Move each picture a little in the direction that raises its loss most (Madry et al. 2018, one step, L2 ball).

    A network that withstands this answers to outlines and patterns, not to pixel noise, which is what makes pictures
    optimized for its units look like something (Engstrom et al. 2019, arXiv:1906.00945).

    Args:
        model: the network.
        images: RGB 0..1, [N, 3, H, W].
        classes: class indices, [N].
        distance: Euclidean length of the perturbation, over all pixels of a picture with values 0..1.

    Returns:
        Pictures of the same shape, 0..1.
    """
    import torch
    from torch.nn import functional

    start = torch.randn_like(images)
    start *= 0.5 * distance * torch.rand(len(images), 1, 1, 1) / start.flatten(1).norm(dim=1)[:, None, None, None]
    moved = (images + start).requires_grad_(True)
    loss = functional.cross_entropy(_logits(model, moved), classes, reduction="sum")
    (slope,) = torch.autograd.grad(loss, moved)
    length = slope.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
    harder: torch.Tensor = images + start + distance * slope / length
    return harder.clamp(0, 1).detach()


def _logits(model: nn.Sequential, images: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.autocast("cpu", torch.bfloat16):  # twice as fast where the processor has it; weights stay float32
        logits: torch.Tensor = model(encode(images).contiguous(memory_format=torch.channels_last))
    return logits.float()


def fit(
    model: nn.Sequential,
    pictures: NDArray[np.uint8],
    classes: NDArray[np.int64],
    *,
    steps: int,
    batch: int,
    rate: float,
    distance: float,
) -> None:
    """Train by stochastic gradient descent with momentum and one cycle of the learning rate.

    Args:
        model: the network, changed in place.
        pictures: training scenes, [N, 3, 64, 64].
        classes: their class indices, [N].
        steps: number of optimizer steps.
        batch: scenes per step.
        rate: largest learning rate.
        distance: how far the perturbations go that the network must withstand; see `hardest`.
    """
    import torch
    from torch.nn import functional

    source, answers = torch.from_numpy(pictures), torch.from_numpy(classes)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim > 1], "weight_decay": 1e-3},
        {"params": [weight for weight in model.parameters() if weight.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    order, place, started = torch.randperm(len(source)), 0, time.perf_counter()
    model.train()
    for step in range(1, steps + 1):
        if place + batch > len(order):
            order, place = torch.randperm(len(source)), 0
        chosen = order[place : place + batch]
        place += batch
        images = augment(source[chosen].float() / 255)
        # First what the classes are; in the last part also to know them under perturbations, which grow at first.
        allowed = distance * min(1.0, max(0.0, 5 * step / steps - 2.75))
        if allowed:
            images = hardest(model, images, answers[chosen], allowed)
        logits = _logits(model, images)
        loss = functional.cross_entropy(logits, answers[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps:
            right = (logits.argmax(1) == answers[chosen]).float().mean()
            _say(f"step {step}/{steps}  loss {loss:.3f}  batch accuracy {right:.2f}  {_seconds(started)}")
    model.eval()


def encode(images: torch.Tensor) -> torch.Tensor:
    """Turn pictures, RGB 0..1, into the network's input."""
    return (images * 255 - PREPROCESSING.mean[0]) / PREPROCESSING.scale[0]


def export(model: nn.Sequential, path: Path, name: str) -> None:
    """Write the trained network as ONNX: normalisations folded into the convolutions, Softmax at the end.

    Args:
        model: the network, in evaluation mode.
        path: the file to write.
        name: the graph's name.
    """
    import onnx
    import torch
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    modules = OrderedDict(model.named_children())
    for number in range(1, len(WIDTHS) + 1):
        convolution, norm = modules[f"conv{number}"], modules.pop(f"norm{number}")
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        modules[f"conv{number}"] = fuse_conv_bn_eval(convolution, norm)
    modules["softmax"] = nn.Softmax(dim=1)
    whole = nn.Sequential(modules).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    free = {0: "batch", 2: "height", 3: "width"}
    torch.onnx.export(
        whole,
        (torch.zeros(1, 3, SIZE, SIZE),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_axes={"image": free, "probabilities": {0: "batch"}},
    )
    proto = onnx.load(path)
    proto.graph.name = name
    _rename(proto)
    preprocessing = asdict(PREPROCESSING)
    del preprocessing["origin"]  # that the file has it is the declaration
    for key, value in (("onnxviz.preprocessing", preprocessing), ("onnxviz.labels", list(CLASSES))):
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def _rename(proto: onnx.ModelProto) -> None:
    """Give nodes and values the names of the modules: `/conv1/Conv_output_0` becomes `conv1`."""
    graph = proto.graph
    names: dict[str, str] = {}
    kept = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        module = node.name.strip("/").split("/")[0]
        node.name = module
        for value in node.output:
            names[value] = value if value in kept else module
    for node in graph.node:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    del graph.value_info[:]


def accuracy(path: Path, count: int, seed: int, split: Split = "test") -> float:
    """Measure with ONNX Runtime how many of `count` scenes a model file names rightly, 0 to 1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    pictures, classes = load_scenes(count, seed, split)
    right = 0
    for start in range(0, count, 250):
        images = pictures[start : start + 250].astype(np.float32)
        inputs = (images - np.float32(PREPROCESSING.mean[0])) / np.float32(PREPROCESSING.scale[0])
        (probabilities,) = session.run(["probabilities"], {"image": inputs})
        right += int((np.argmax(probabilities, 1) == classes[start : start + 250]).sum())
    return right / count


def main() -> None:
    """Train, export and measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_scenes", description="Train a built-in model.")
    parser.add_argument("--name", default="scenes", help="file name without ending (default: scenes)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write to (default: here)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the order and the augmentation")
    parser.add_argument("--scenes", type=int, default=20_000, help="number of training scenes (default: 20000)")
    parser.add_argument("--steps", type=int, default=1_500, help="optimizer steps (default: 1500)")
    parser.add_argument("--batch", type=int, default=64, help="scenes per step (default: 64)")
    parser.add_argument("--rate", type=float, default=0.08, help="largest learning rate (default: 0.08)")
    parser.add_argument("--distance", type=float, default=0.4, help="of perturbations to withstand (default: 0.4)")
    parser.add_argument("--test-scenes", type=int, default=3_000, help="held-out scenes (default: 3000)")
    parser.add_argument("--threads", type=int, default=1, help="threads torch may use (default: 1)")
    chosen = parser.parse_args()

    import torch

    torch.set_num_threads(chosen.threads)
    torch.manual_seed(chosen.seed)
    started = time.perf_counter()
    pictures, classes = load_scenes(chosen.scenes, 0, "train")
    _say(f"drew {chosen.scenes} scenes  {_seconds(started)}")
    model = network()
    fit(model, pictures, classes, steps=chosen.steps, batch=chosen.batch, rate=chosen.rate, distance=chosen.distance)
    chosen.out.mkdir(parents=True, exist_ok=True)
    path = chosen.out / f"{chosen.name}.onnx"
    export(model, path, chosen.name)
    report = {
        "accuracy": accuracy(path, chosen.test_scenes, 0),
        "test_scenes": chosen.test_scenes,
        "generator_version": VERSION,
        "seed": chosen.seed,
        "training_scenes": chosen.scenes,
        "steps": chosen.steps,
        "batch": chosen.batch,
        "rate": chosen.rate,
        "distance": chosen.distance,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": path.stat().st_size,
    }
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    _say(f"{path}: {report['accuracy']:.4f} of {chosen.test_scenes} test scenes  {_seconds(started)}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _seconds(since: float) -> str:
    return f"{time.perf_counter() - since:.0f} s"


if __name__ == "__main__":
    main()
