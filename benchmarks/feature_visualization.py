"""Feature visualization: an image-step of ours beside Lucent's and beside the bare network.

    OMP_NUM_THREADS=1 python -m benchmarks.feature_visualization
    OMP_NUM_THREADS=1 python -m benchmarks.feature_visualization --ladder --layers fire5/concat_1 logits

Eight channels of a middle layer of torchvision's ResNet-18 and VGG-16 (random weights, which take the same time), at
128 pixels, everything in turns in one run:

- bare: the network cut behind the layer, frozen, forward and backward to the image, no parameterization, no views, no
  optimizer; torchvision's module, plain and channels last, and ours from the exported ONNX file, one image and eight at
  a time. The fastest of them is what ours is compared with;
- ours: `optimize.maximize` with default settings, the time between two of its progress calls. In the first steps
  gradients are redirected past ReLUs, so these stand apart; what is compared is their mean over 512 steps. By default
  so many images share a pass as give each the same bits as alone, up to four; `batch: 8` is only shown;
- Lucent: `render_vis` with its defaults, between two steps of its optimizer: eight images in one call, one image a
  call, and the same with the network's weights frozen, which its users have to think of themselves. The fastest with
  the weights as they are is what ours is compared with.

`--ladder` adds the loop's parts one after the other instead: the loop on pixels with plain gradient ascent, the Fourier
parameterization with decorrelated colours, the random views, and Adam with total variation, which is the default.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.architectures import Architecture, make
from benchmarks.lucent_peer import render_channels
from benchmarks.measure import arguments, markdown, medians, open_subject, prepare, spread
from onnxviz.core.values import Target
from onnxviz.model.model import Forward, Model, load
from onnxviz.optimize.ascent import maximize
from onnxviz.optimize.optimizers import GradientAscent
from onnxviz.optimize.parameterizations import Pixel
from onnxviz.optimize.settings import AscentSettings

NETWORKS = {"resnet18": ("ResNet-18 layer3", "layer3"), "vgg16": ("VGG-16 conv4_1", "features.18")}
"""torchvision's name -> heading, module behind which the network is cut. Lucent's `features_17` is the same tensor as
`features_18`: the ReLU behind the convolution works in place."""
PEERS = {
    "Lucent, 8 in one call": (True, True),
    "Lucent, one a call": (False, True),
    "Lucent, one a call, frozen": (False, False),
}
"""What `render_vis` is timed on -> whether all images are made in one call, whether weights require gradients."""
UNITS = tuple(range(8))
STEPS = 512
"""Of a usual picture; the first ones, with redirected gradients, count as their share of it."""
FIRST, LATER, TOGETHER = "ours, first steps", "ours, later steps", "ours, later steps, batch 8"


# --- samples ----------------------------------------------------------------------------------------------------------


@dataclass
class Samples:
    """Seconds for each image-step, on the wall and of the processor."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, marks: Sequence[Mark], images: int) -> None:
        """Add the times between marks, between which so many image-steps are done."""
        for before, after in itertools.pairwise(marks):
            self.wall.append((after.wall - before.wall) / images)
            self.processor.append((after.processor - before.processor) / images)


@dataclass(frozen=True)
class Mark:
    """A moment."""

    wall: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)


# --- the three kinds of work ------------------------------------------------------------------------------------------


Bare = tuple[Callable[[], None], int]
"""A pass forward and backward, and its number of images."""


def cut(module: nn.Module, path: str) -> nn.Sequential:
    """Return a network that runs its children in order up to the one at a dotted path, with a copy of the weights."""
    first, _, rest = path.partition(".")
    kept: list[nn.Module] = []
    for name, child in module.named_children():
        kept.append(cut(child, rest) if name == first and rest else copy.deepcopy(child))
        if name == first:
            return nn.Sequential(*kept).eval().requires_grad_(False)
    raise ValueError(f"there is no {path}")


def bare_pass(forward: Callable[[torch.Tensor], torch.Tensor], count: int, side: int, last: bool) -> Callable[[], None]:
    """Return a forward pass of so many images, and the backward pass from a channel of each."""
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    rows, units = torch.arange(count), torch.tensor(UNITS[:count])

    def once() -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(forward(leaf)[rows, units].mean(dim=(1, 2)).sum(), leaf)

    return once


def passes(once: Callable[[], None], count: int) -> list[Mark]:
    """Do so many passes and return the moments at which each was done."""
    marks = []
    for _ in range(count):
        once()
        marks.append(Mark())
    return marks


def bare_works(network: nn.Module, path: str, converted: Forward, side: int) -> dict[str, Bare]:
    """Return the bare passes by name, each with its number of images."""
    plain = cut(network, path)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    works: dict[str, Bare] = {}
    for count in (1, len(UNITS)):
        works[f"bare, torchvision, batch {count}"] = bare_pass(plain, count, side, False), count
        works[f"bare, torchvision, batch {count}, channels last"] = bare_pass(last, count, side, True), count
        works[f"bare, converted, batch {count}"] = bare_pass(lambda leaf: converted(leaf)[0], count, side, True), count
    return works


def ours(model: Model, layer: str, turn: int, side: int, later: int, samples: dict[str, Samples]) -> None:
    """Time the steps of as many images as are made side by side: other channels in every turn."""
    threads = torch.get_num_threads() if model.device.type == "cpu" else 1
    marks: list[Mark] = []
    settings = AscentSettings(steps=AscentSettings.redirect + later, size=(side, side))
    together = most_together(model, layer, settings) * threads
    targets = [Target(layer, UNITS[(turn * together + index) % len(UNITS)]) for index in range(together)]
    maximize(model, targets, list(range(together)), settings, told=lambda *_: marks.append(Mark()))
    each = len(marks) // settings.steps  # progress calls in a step of all images
    begin = each * settings.redirect
    samples[FIRST].add(marks[each - 1 : begin : each], together)
    samples[LATER].add(marks[begin + each - 1 :: each], together)  # the first of them comes behind a change of networks


def most_together(model: Model, layer: str, settings: AscentSettings) -> int:
    """Return how many images a thread makes in one pass; it is tried in this call, and known in later ones."""
    if model.device.type != "cpu":
        return len(UNITS)
    done: list[int] = []
    targets = [Target(layer, unit) for unit in UNITS] * torch.get_num_threads()
    maximize(model, targets, [0] * len(targets), replace(settings, steps=1), told=lambda now, _: done.append(now))
    return done[0]


def ours_together(model: Model, layer: str, side: int, samples: Samples) -> None:
    """Time steps of eight images in one batch, as `batch: 8` asks for, without the redirected gradients."""
    marks: list[Mark] = []
    settings = AscentSettings(steps=4, size=(side, side), redirect=0)
    targets, seeds = [Target(layer, unit) for unit in UNITS], list(UNITS)
    maximize(model, targets, seeds, settings, batch=len(UNITS), told=lambda *_: marks.append(Mark()))
    samples.add(marks, len(UNITS))


def lucent(network: nn.Module, layer: str, units: Sequence[int], steps: int, samples: Samples, together: bool) -> None:
    """Time the steps of `render_vis`, but the first."""
    marks: list[Mark] = []
    render_channels(network, layer, list(units), steps, lambda: marks.append(Mark()), together=together)
    samples.add(marks, len(units))


# --- comparison -------------------------------------------------------------------------------------------------------


def export(network: nn.Module, folder: Path) -> Path:
    """Write a network as ONNX at its usual input size, as its user has it."""
    path = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the old one
        torch.onnx.export(
            network, (torch.rand(1, 3, 224, 224),), path, opset_version=17, dynamo=False,
            input_names=["image"], output_names=["logits"], dynamic_axes={"image": {0: "n"}},
        )  # fmt: skip
    return path


def measure(name: str, given: argparse.Namespace) -> dict[str, Samples]:
    """Time everything on one network, in turns."""
    _, path = NETWORKS[name]
    network, _ = make(Architecture("torchvision", name, 224))
    with tempfile.TemporaryDirectory(prefix="onnxviz-visualization-") as folder:
        model = load(export(network, Path(folder)), "imagenet", device="cpu")
        layer = model.view.layer(path).name
        works = bare_works(network, path, model.differentiable(layer), given.side)
    peers = {} if given.without_lucent else PEERS
    samples = {key: Samples() for key in (*works, FIRST, LATER, TOGETHER, *peers)}
    for turn in range(given.rounds):
        for key, (once, count) in works.items():
            samples[key].add(passes(once, 2 + given.steps // count), count)
        ours(model, layer, turn, given.side, given.steps, samples)
        if turn < given.batched_rounds:
            ours_together(model, layer, given.side, samples[TOGETHER])
        for key, (together, weights) in peers.items():
            if together and turn >= given.batched_rounds:
                continue
            network.requires_grad_(weights)
            units = UNITS if together else (UNITS[turn % len(UNITS)],)
            lucent(network, path.replace(".", "_"), units, 3, samples[key], together)
    return samples


def mean_step(samples: dict[str, Samples], clock: str) -> float:
    """Return the mean step of a usual picture of ours."""
    first, later = (statistics.median(getattr(samples[key], clock)) for key in (FIRST, LATER))
    share = AscentSettings.redirect / STEPS
    return share * first + (1 - share) * later


def outcome(name: str, samples: dict[str, Samples], clock: str) -> list[object]:
    """Return what is claimed of one network, by one clock."""

    def fastest(kind: str) -> tuple[float, str]:
        keys = [key for key in samples if key.startswith(kind) and "frozen" not in key]
        return min((statistics.median(getattr(samples[key], clock)), key) for key in keys)

    bare, which = fastest("bare")
    mine = mean_step(samples, clock)
    row = [NETWORKS[name][0], {"wall": "wall", "processor": "CPU"}[clock], f"{1000 * bare:.3g}", which[6:],
           f"{1000 * mine:.3g}", f"{mine / bare:.2f}"]  # fmt: skip
    if not any(key.startswith("Lucent") for key in samples):
        return [*row, "-", "-", "-"]
    peer, which = fastest("Lucent")
    return [*row, f"{1000 * peer:.3g}", which[8:], f"{peer / mine:.2f}"]


def compare(given: argparse.Namespace) -> None:
    """Print the tables of the comparison."""
    found = {}
    for name in given.networks:
        found[name] = measure(name, given)
        print(f"{NETWORKS[name][0]}, {given.side} pixels, ms an image-step\n")
        rows = [
            [key, f"{1000 * statistics.median(some.wall):.3g}", spread(some.wall),
             f"{1000 * statistics.median(some.processor):.3g}", spread(some.processor), len(some.wall)]
            for key, some in found[name].items()
        ]  # fmt: skip
        head = ["what", "wall, median", "smallest-largest", "CPU, median", "smallest-largest", "samples"]
        print(markdown(head, rows) + "\n")
    print(f"Medians; ours is the mean step of a picture of {STEPS} steps\n")
    head = ["layer", "clock", "bare", "which", "ours", "ours / bare", "Lucent", "which", "Lucent / ours"]
    print(markdown(head, [outcome(name, found[name], clock) for name in found for clock in ("wall", "processor")]))


# --- ladder -----------------------------------------------------------------------------------------------------------


def rungs(steps: int, size: tuple[int, int]) -> dict[str, AscentSettings]:
    """Return the settings that add one part after the other, all without the redirected gradients of first steps."""
    ascent, pixels = GradientAscent(), Pixel(decorrelate=False)
    bare = AscentSettings(steps, size, regularizers=(), redirect=0)
    return {
        "loop": replace(bare, parameterization=pixels, transforms=(), optimizer=ascent),
        "parameterization": replace(bare, transforms=(), optimizer=ascent),
        "transforms": replace(bare, optimizer=ascent),
        "optimizer": AscentSettings(steps, size, redirect=0),
    }


def steps_of(model: Model, target: Target, settings: AscentSettings) -> list[float]:
    """Return the CPU time of every step of one image but the first."""
    times: list[float] = []
    maximize(model, [target], [0], settings, batch=1, told=lambda *_: times.append(time.process_time()))
    return [after - before for before, after in itertools.pairwise(times)]


def bare_steps(model: Model, target: Target, size: tuple[int, int], steps: int) -> list[float]:
    """Return the CPU time of forward and backward passes without anything else."""
    forward = model.differentiable(target.layer)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    times = []
    for _ in range(steps):
        before = time.process_time()
        torch.autograd.grad(forward(image)[0][:, target.unit].mean(), image)
        times.append(time.process_time() - before)
    return times[1:]


def ladder(given: argparse.Namespace) -> None:
    """Print what each part of the loop costs."""
    model, _ = open_subject(given.model, given.zoo)
    size = model.input_size
    print(f"{given.model}, {size[0]}x{size[1]} pixels, batch 1, ms of CPU time an image-step (median)\n")
    head = ["layer", "bare", "ours", "ours / bare", "loop", "parameterization", "transforms", "optimizer"]
    print(markdown([*head, "bare, smallest-largest", "ours, smallest-largest"], list(_rows(model, size, given))))


def _rows(model: Model, size: tuple[int, int], given: argparse.Namespace) -> Iterator[list[object]]:
    for name in given.layers:
        target = Target(model.view.layer(name).name, unit=0)
        works = rungs(given.steps, size)
        seconds: dict[str, list[float]] = {key: [] for key in ("bare", *works)}
        for _ in range(given.rounds):
            seconds["bare"] += bare_steps(model, target, size, given.steps)
            for key, settings in works.items():
                seconds[key] += steps_of(model, target, settings)
        middle = medians(seconds)
        parts = [f"{1000 * (middle[key] - middle[before]):+.2f}" for before, key in itertools.pairwise(middle)]
        bare, full = middle["bare"], middle["optimizer"]
        yield [
            name, f"{1000 * bare:.3g}", f"{1000 * full:.3g}", f"{full / bare:.2f}", *parts,
            spread(seconds["bare"]), spread(seconds["optimizer"]),
        ]  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--side", type=int, default=128, help="pixels asked for, of ours and of the bare network")
    parser.add_argument("--steps", type=int, default=8, help="steps in a row that are timed")
    parser.add_argument("--rounds", type=int, default=8, help="turns")
    parser.add_argument("--batched-rounds", type=int, default=3, help="turns with 8 images in one call")
    parser.add_argument("--without-lucent", action="store_true", help="leave Lucent out")
    parser.add_argument("--ladder", action="store_true", help="add the loop's parts one after the other")
    parser.add_argument("--model", default="squeezenet", help="for the ladder: squeezenet, resnet20 or builtin")
    parser.add_argument("--layers", nargs="+", default=["fire5/concat_1", "fire9/concat_1", "logits"])
    given = parser.parse_args()
    prepare(given)
    (ladder if given.ladder else compare)(given)


if __name__ == "__main__":
    main()
