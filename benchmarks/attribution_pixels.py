"""Integrated Gradients and SmoothGrad of one image against captum's defaults and against the bare passes.

    python -m benchmarks.attribution_pixels --model squeezenet resnet20 efficientnet

Each takes 50 steps (`--steps`) of the same image for its best class. Compared in turns, in CPU time:

- bare: as many forward and backward passes to the image through the converted network, one image a pass: the floor of
  what does nothing else. `bare, together` takes as many images a pass as ours;
- ours: `attribution.methods`, from the question on (noise, images on the way, scores at both ends, the map);
- captum: its defaults, all images in one pass, on what a user of the ONNX file has, the package onnx2torch's module
  behind the same preprocessing; `captum, one a pass` sets `internal_batch_size` or `nt_samples_batch_size` to 1;
- captum, this network: its defaults on our converted network, so that only the method differs.

Below a table stands how far captum's Integrated Gradients on our network are from ours, relative to the largest.

With `--memory` each of these runs once in a process of its own, and the most memory that the method took beyond what
the process had before it is printed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from captum import attr
from torch import nn

from benchmarks.measure import IMAGENET, ZOO, arguments, in_turns, markdown, medians, open_subject, prepare, spread
from benchmarks.stock_onnx2torch import load_torchvision
from onnxviz.analyses.attribution.methods.integrated import IntegratedGradients
from onnxviz.analyses.attribution.methods.smoothing import SmoothGrad
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.convert.extract import extract
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model

SUBJECTS = {
    **ZOO,
    "resnet20": ("cifar10_resnet20_ts17.onnx", "imagenet", "cifar10_test/*/*.jpg"),
    "efficientnet": ("efficientnet_lite0_imagenet.onnx", "tf", IMAGENET),
}
Work = Callable[[], torch.Tensor]


class Behind(nn.Module):
    """A network as captum is asked about it: images in 0..1 to scores of classes, behind the model's preprocessing."""

    def __init__(self, model: Model, network: Callable[[torch.Tensor], torch.Tensor], own: bool) -> None:
        super().__init__()
        self.model, self.network, self.own = model, network, own

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores, [N, classes]."""
        if self.own:
            return self.model.differentiable(self.model.view.logits)(images)[0].flatten(1)
        return self.network(self.model._encode(images).contiguous()).flatten(1)


def stock(model: Model) -> Behind | None:
    """Return onnx2torch's module of a model; None where it has no converter for an operator."""
    load_torchvision()
    import onnx2torch

    try:
        made = onnx2torch.convert(extract(model.view.proto, [model.view.logits.value])).eval().requires_grad_(False)
    except NotImplementedError:
        return None
    return Behind(model, made, own=False)


def ask(model: Model, image: torch.Tensor, best: int) -> Question:
    """Return the question for one class."""
    head = resolve_head(model.view, None, model.labels)
    return ForwardPass(model, image, [], [model.view.logits], to_input=True).ask([ClassTarget(head, best)])


def bare(model: Model, image: torch.Tensor, best: int, steps: int, together: int) -> torch.Tensor:
    """Run passes there and back; return the sum of gradients."""
    forward, total = model.differentiable(model.view.logits), torch.zeros_like(image)
    for start in range(0, steps, together):
        images = image.repeat(min(together, steps - start), 1, 1, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(forward(images)[0].flatten(1)[:, best].sum(), images)
        total += gradient.sum(dim=0)
    return total


def peer(method: str, network: nn.Module, question: Question, best: int, steps: int, size: int | None) -> Work:
    """Return captum's work; `size` is how many images share a pass, None its default."""
    image = question.images
    if method == "integrated_gradients":
        zero, gradients = question.zero.expand_as(image).contiguous(), attr.IntegratedGradients(network)
        return lambda: gradients.attribute(
            image, baselines=zero, target=best, n_steps=steps, internal_batch_size=size
        ).sum(dim=1)
    tunnel, deviation = attr.NoiseTunnel(attr.Saliency(network)), 0.15 * float(image.max() - image.min())
    return lambda: tunnel.attribute(
        image, target=best, nt_samples=steps, nt_samples_batch_size=size, stdevs=deviation, abs=False
    )


def works(model: Model, image: torch.Tensor, method: str, steps: int) -> dict[str, Work]:
    """Return each kind of work by name."""
    best = int(model.scores(image)[0].argmax())
    question = ask(model, image, best)
    chosen = IntegratedGradients(steps=steps) if method == "integrated_gradients" else SmoothGrad(samples=steps)
    own, other = Behind(model, nn.Identity(), own=True), stock(model)
    made: dict[str, Work] = {
        "bare": lambda: bare(model, image, best, steps, 1),
        f"bare, together ({question.together_with_gradients})": lambda: bare(
            model, image, best, steps, question.together_with_gradients
        ),
        "ours": lambda: chosen.attribute(ask(model, image, best)).maps[0],
        "captum, this network": peer(method, own, question, best, steps, None),
    }
    if other is not None:
        made["captum"] = peer(method, other, question, best, steps, None)
        made["captum, one a pass"] = peer(method, other, question, best, steps, 1)
    return made


def compare(model: Model, image: torch.Tensor, method: str, given: argparse.Namespace) -> list[list[object]]:
    """Return the rows of one model's and method's table."""
    seconds = in_turns(works(model, image, method, given.steps), given.rounds)
    middle = medians(seconds)
    return [
        [method, name, f"{1000 * value:.4g}", spread(seconds[name]), f"{value / middle['bare']:.2f}",
         f"{value / middle['ours']:.2f}"]
        for name, value in middle.items()
    ]  # fmt: skip


def apart(model: Model, image: torch.Tensor, steps: int) -> float:
    """Return the largest difference of captum's Integrated Gradients on our network, relative to the largest value."""
    made = works(model, image, "integrated_gradients", steps)
    wanted = made["captum, this network"]()
    return float((made["ours"]() - wanted).abs().max() / wanted.abs().max())


def most_memory(given: argparse.Namespace, subject: str, method: str, work: str) -> str:
    """Return how many MiB a kind of work takes at most beyond the open model, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.attribution_pixels",
        "--zoo",
        str(given.zoo),
        "--steps",
        str(given.steps),
    ]
    done = subprocess.run([*command, "--only", subject, method, work], capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 else f"failed ({done.returncode})"


def alone(given: argparse.Namespace) -> None:
    """Do one kind of work once, after a pass that does not count, and print its memory in MiB."""
    subject, method, work = given.only
    model, image = open_image(subject, given.zoo)
    chosen = works(model, image, method, given.steps)[work]
    bare(model, image, 0, 1, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chosen()
    print(round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def open_image(subject: str, zoo: Path) -> tuple[Model, torch.Tensor]:
    """Return a model and an image for it."""
    model, images = open_subject(subject, zoo)
    return model, torch.from_numpy(images)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", nargs="+", default=["squeezenet", "resnet20", "efficientnet"], help="or builtin")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--memory", action="store_true", help="measure memory, not time")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="captum")
    ZOO.update(SUBJECTS)  # where `open_subject` looks
    if given.only:
        torch.set_num_threads(given.threads)
        alone(given)
        return
    prepare(given)
    for subject in given.model:
        model, image = open_image(subject, given.zoo)
        rows: list[list[object]] = []
        for method in ("integrated_gradients", "smooth_grad"):
            if given.memory:
                names = works(model, image, method, given.steps)
                rows += [[method, name, most_memory(given, subject, method, name)] for name in names]
            else:
                rows += compare(model, image, method, given)
        head = ["method", "work", *(["MiB"] if given.memory else ["ms", "smallest-largest", "/ bare", "/ ours"])]
        about = "most memory" if given.memory else f"median of {given.rounds} rounds, CPU time"
        size = f"{image.shape[2]}x{image.shape[3]} pixels, {given.steps} steps"
        print(f"{subject}, {size}, {about}\n\n{markdown(head, rows)}\n", flush=True)
        if not given.memory:
            print(f"captum's maps on this network differ from ours by {apart(model, image, given.steps):.2g}\n")


if __name__ == "__main__":
    main()
