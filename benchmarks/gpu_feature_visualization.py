"""Feature visualization on a GPU: that it gives the CPU's pictures, and how fast.

    python -m benchmarks.gpu_feature_visualization --out FOLDER
    python -m benchmarks.gpu_feature_visualization --out FOLDER --device cpu --quick

On the built-in model: every parameterization, transform, regularizer, edit, objective and optimizer by one step on both
devices; no step waits for the device; a captured step is the same step; two runs give the same bits. On torchvision's
ResNet-18 and VGG-16 with random weights, which take the same time: image-steps a second over micro-batches and
precisions, beside the bare network and what arithmetic allows; with and without CUDA graph; beside Lucent's
`render_vis`; and all convolution channels of VGG-16.

Writes FOLDER/gpu_feature_visualization.json and .md; the exit code is 1 if a check failed. It needs this repository,
torchvision, and for the comparison the extra `peers`. On a machine without a network, wheels of what its Python lacks:
pydantic (with pydantic-core, annotated-types, typing-inspection); for Lucent torch-lucent, kornia 0.4.1,
decorator, and ipython with what it needs. `--networks`, `--only` and `--without-lucent` split the run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.architectures import Architecture, make
from benchmarks.feature_visualization import NETWORKS, cut, export
from benchmarks.gpu import (
    CannotCheckError,
    Check,
    Context,
    Figures,
    arguments,
    check,
    device_facts,
    device_of,
    no_synchronisation,
    relative,
    run_checks,
    seconds_of,
    subjects,
    tf32,
    wait,
)
from benchmarks.gpu_choices import gradients_of_a_dead_image, objectives, optimizers, settings_by_name
from benchmarks.lucent_peer import render_channels
from onnxviz.core.values import Target
from onnxviz.model.model import load
from onnxviz.optimize import ascent_batch
from onnxviz.optimize.ascent import Maximized, maximize
from onnxviz.optimize.capture import Step
from onnxviz.optimize.objectives import Objective
from onnxviz.optimize.optimizers import GradientAscent
from onnxviz.optimize.settings import AscentSettings, Precision
from onnxviz.optimize.stopping import EarlyStopping

EXACT: dict[str, Check] = {"device and versions": device_facts}
SPEED: dict[str, Check] = {}

IMAGE_TOLERANCE = 2e-3
"""How far a pixel may differ between CPU and GPU after one step, of 1; edits set a few to grey or not by rounding."""
FEW = 1e-3
"""Largest share of pixels that may differ more."""
VALUE_TOLERANCE = 1e-3
"""Largest difference of an activation, relative to the largest."""
PEAKS = {"H100 80GB HBM3": 989.4, "H200": 989.4, "H100 PCIe": 756.0, "A100": 312.0}
"""Part of a GPU's name -> TFLOP/s of dense bfloat16 matrix products with float32 sums, by its data sheet."""
LAST = {"resnet18": "layer3", "vgg16": "features.29"}
"""What is made pictures for: ResNet-18's layer3, VGG-16's conv5_3 behind its ReLU."""
KINDS: dict[str, tuple[Precision, bool]] = {
    "float32": ("float32", False), "TF32": ("float32", True), "bfloat16": ("bfloat16", False)
}  # fmt: skip
"""Name -> precision in the recipe, and whether TF32 is allowed; workers forbid it."""


@dataclass
class Network(Context):
    """A network whose speed is measured.

    Attributes:
        module: the same in PyTorch, for Lucent and the bare pass; None for the built-in model.
        path: module behind which it is cut.
        sides: what is asked for in pixels -> least ratio to Lucent; empty if it is not compared.
    """

    module: nn.Module | None = None
    path: str = ""
    sides: dict[int, float] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The name of the layer that pictures are made for."""
        return self.model.view.layer(self.path).name if self.path else self.layers[-1].name

    @property
    def kinds(self) -> dict[str, tuple[Precision, bool]]:
        """Precisions that the device has; TF32 is CUDA's."""
        return {name: kind for name, kind in KINDS.items() if self.device.type == "cuda" or name != "TF32"}

    @property
    def batches(self) -> tuple[int, ...]:
        """Micro-batches to try."""
        return (1, 2) if self.quick else (1, 8, 16, 32, 64, 128)

    def targets(self, count: int) -> list[Target]:
        """Return so many channels."""
        units = self.model.view.layer(self.layer).unit_count or 1
        return [Target(self.layer, unit % units) for unit in range(count)]


def pictures_of(
    on: Context, targets: Sequence[Target | Objective], settings: AscentSettings, batch: int | None = None, **more: Any
) -> Maximized:
    """Make pictures with seeds 0, 1, ..."""
    return maximize(on.model, targets, range(len(targets)), settings, batch=batch or len(targets), **more)


@contextlib.contextmanager
def steps_as(wrap: Callable[[Step, int, torch.device], Step]) -> Iterator[None]:
    """Let steps on a GPU be what a function makes of them, instead of captured."""
    before = ascent_batch.captured
    ascent_batch.captured = wrap
    try:
        yield
    finally:
        ascent_batch.captured = before


def by_themselves(step: Step, count: int, device: torch.device) -> Step:  # noqa: ARG001 - as `captured` is called
    """Leave a step as it is."""
    return step


# --- exactness --------------------------------------------------------------------------------------------------------


@check("one step on the device and on the CPU, every choice", EXACT)
def one_step(on: Context) -> Figures:
    found: Figures = {}
    with tf32(False):
        mine, theirs = (settings_by_name(model, steps=1) for model in (on.model, on.reference))
        for name, settings in mine.items():
            _compare_a_step(on, name, (settings, theirs[name]), None, found)
        plain = AscentSettings(1, on.model.input_size, transforms=(), redirect=0, optimizer=GradientAscent(), group=2)
        for name, objective in objectives(on.layers[-1].name, on.layers[-2].name).items():
            _compare_a_step(on, f"objective {name}", (plain, plain), objective, found)
        for name, difference in optimizers(on.device).items():
            found[f"optimizer {name}"] = difference
            if not difference <= VALUE_TOLERANCE:
                on.faults.append(f"optimizer {name}: {difference:.2g}")
    return found


def _compare_a_step(
    on: Context, name: str, pair: tuple[AscentSettings, AscentSettings], goal: Objective | None, found: Figures
) -> None:
    """Compare one step on the device and on the CPU, each with its own settings."""
    layer = on.layers[-1].name
    goals: list[Target | Objective] = [goal] if goal is not None else [Target(layer, 0), Target(layer, 1)]
    mine, theirs = (
        maximize(model, goals, range(len(goals)), settings, batch=len(goals), pictures={"picture": on.images[0]})
        for model, settings in zip((on.model, on.reference), pair, strict=True)
    )
    apart = np.abs(mine.images - theirs.images)
    values = relative(np.stack([mine.before, mine.after]), np.stack([theirs.before, theirs.after]))
    found[name] = f"pixels {apart.max():.1e}, activation {values:.1e}"
    if not (float((apart <= IMAGE_TOLERANCE).mean()) >= 1 - FEW and values <= VALUE_TOLERANCE):
        on.faults.append(f"{name}: {found[name]}")


@check("no host synchronisation in a step, every choice", EXACT)
def no_step_waits(on: Context) -> Figures:
    on.require_cuda()
    layer, figures = on.layers[-1].name, Figures()
    goals: dict[str, list[Target | Objective]] = {
        f"objective {name}": [goal] for name, goal in objectives(layer, on.layers[-2].name).items()
    }
    works: dict[str, tuple[list[Target | Objective], AscentSettings]] = {
        name: ([Target(layer, 0)], settings) for name, settings in settings_by_name(on.model, steps=4).items()
    }
    size = on.model.input_size
    works |= {name: (goal, AscentSettings(4, size, group=2, redirect=2)) for name, goal in goals.items()}
    works["redirected gradients"] = [Target(layer, 0)], AscentSettings(4, size, redirect=4)
    works["bfloat16"] = [Target(layer, 0)], AscentSettings(4, size, redirect=0, precision="bfloat16")
    works["early stopping"] = (
        [Target(layer, 0)],
        AscentSettings(4, size, redirect=0, stopping=EarlyStopping(patience=8)),
    )
    for name, (targets, settings) in works.items():
        try:
            with steps_as(_watched):
                pictures_of(on, targets, settings, pictures={"picture": on.images[0]})
            figures[name] = "does not wait"
        except RuntimeError as fault:
            figures[name] = f"waits: {str(fault).splitlines()[0][:120]}"
            on.faults.append(name)
    return figures


def _watched(step: Step, count: int, device: torch.device) -> Step:  # noqa: ARG001 - as `captured` is called
    """Let every step but the first raise where it waits; in the first, libraries make their plans."""
    done = 0

    def advance() -> None:
        nonlocal done
        with no_synchronisation() if done else contextlib.nullcontext():
            step()
        done += 1

    return advance


@check("captured steps are the same steps", EXACT)
def captured_steps(on: Context) -> Figures:
    on.require_cuda()
    figures: Figures = {}
    target = Target(on.layers[-1].name, 0)
    for name, settings in settings_by_name(on.model, steps=40).items():
        made = pictures_of(on, [target], settings)
        with steps_as(by_themselves):
            plain = pictures_of(on, [target], settings)
        figures[name] = _sameness(made, plain)
        if not relative(made.curves, plain.curves) <= VALUE_TOLERANCE:
            on.faults.append(f"{name}: {figures[name]}")
    return figures


def _sameness(one: Maximized, other: Maximized) -> str:
    same = np.array_equal(one.images, other.images) and np.array_equal(one.curves, other.curves)
    return "the same bits" if same else f"pixels differ by {np.abs(one.images - other.images).max():.1e}"


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Set PyTorch as workers do, for as long as the block lasts."""
    mode = torch.get_deterministic_debug_mode()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        with tf32(False):
            yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        torch.set_deterministic_debug_mode(mode)


@check("the same bits again, beside others, and alone", EXACT)
def same_again(on: Context) -> Figures:
    """Alone a picture shares no pass, for which libraries may choose other kernels: that difference is told."""
    settings = AscentSettings(6 if on.quick else 64, on.model.input_size)
    units = [Target(on.layers[-1].name, unit) for unit in range(8)]
    figures: Figures = {"steps": settings.steps}
    with deterministic():
        for name, made in (("float32", settings), ("bfloat16", replace(settings, precision="bfloat16"))):
            one, two = (pictures_of(on, units, made) for _ in range(2))
            others = maximize(on.model, [units[0], *reversed(units[1:])], [0, *range(91, 98)], made, batch=8)
            alone = pictures_of(on, units[:1], made)
            figures[f"{name}, again"] = _sameness(one, two)
            figures[f"{name}, beside others"] = _bits(one, others)
            figures[f"{name}, alone"] = _bits(one, alone)
            for key in ("again", "beside others"):
                if figures[f"{name}, {key}"] != "the same bits":
                    on.faults.append(f"{name}, {key}: {figures[f'{name}, {key}']}")
    return figures


def _bits(one: Maximized, other: Maximized) -> str:
    """Compare the first pictures."""
    difference = float(np.abs(one.images[0] - other.images[0]).max())
    return "the same bits" if not difference else f"pixels differ by {difference:.1e}"


@check("redirected gradients on the device and on the CPU", EXACT)
def redirected(on: Context) -> Figures:
    with tf32(False):
        mine, theirs = (gradients_of_a_dead_image(model, on.layers[-1].name) for model in (on.model, on.reference))
    if mine is None or theirs is None:
        raise CannotCheckError("no unit of the layer is silent for a grey image")
    difference = relative(mine, theirs)
    if not (difference <= VALUE_TOLERANCE and theirs.any()):
        on.faults.append(f"gradients differ by {difference:.2g}, largest {np.abs(theirs).max():.2g}")
    return {"largest difference, relative": difference, "largest gradient": float(np.abs(theirs).max())}


@check("bfloat16 climbs as float32", EXACT)
def ascent_in_bfloat16(on: Context) -> Figures:
    units = [Target(on.layers[-1].name, unit) for unit in range(2 if on.quick else 16)]
    settings = AscentSettings(16 if on.quick else 128, on.model.input_size)
    full = pictures_of(on, units, settings)
    half = pictures_of(on, units, replace(settings, precision="bfloat16"))
    ratio = float(np.median(half.after / np.where(full.after == 0, 1, full.after)))
    if not (np.isfinite(half.images).all() and ratio >= 0.8):
        on.faults.append("in bfloat16 pictures do not reach 0.8 of the activation")
    return {"steps": settings.steps, "activation in bfloat16 / in float32, median": ratio}


# --- speed ------------------------------------------------------------------------------------------------------------


def step_seconds(on: Network, count: int, side: int, kind: str) -> float:
    """Return the time of a step of so many pictures: the difference of two lengths, so without begin and end."""
    precision, allowed = on.kinds[kind]
    short, long = (2, 5) if on.quick else (40, 168)
    targets = on.targets(count)
    times = []
    for steps in (short, long):
        settings = AscentSettings(steps, (side, side), precision=precision, redirect=0)
        with tf32(allowed):
            times.append(seconds_of(lambda settings=settings: pictures_of(on, targets, settings), on, 3))
    return max(times[1] - times[0], 1e-9) / (long - short)


def bare_pass(on: Network, count: int, side: int, kind: str) -> Callable[[], torch.Tensor]:
    """Return a pass forward and backward through the network without anything else.

    In PyTorch the module itself, channels last, in bfloat16 with its weights; else the converted network.
    """
    precision, _ = on.kinds[kind]
    half = precision == "bfloat16"
    if on.module is None:
        converted = on.model.differentiable(on.layer)
        forward: Callable[[torch.Tensor], torch.Tensor] = lambda images: converted(images)[0]  # noqa: E731
    else:
        module = cut(on.module, on.path).to(on.device, memory_format=torch.channels_last)
        forward = module.to(torch.bfloat16) if half else module
    kept = torch.bfloat16 if half and on.module is not None else torch.float32
    images = torch.rand(count, 3, side, side).to(on.device, kept).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    rows = torch.arange(count, device=on.device)

    def once() -> torch.Tensor:
        score = forward(images)[rows, rows % 8].flatten(1).mean(dim=1).sum()
        return torch.autograd.grad(score, images)[0]

    return once


def replayed(once: Callable[[], torch.Tensor], on: Context) -> Callable[[], object]:
    """Return a pass as a CUDA graph; as it is on a CPU."""
    if on.device.type != "cuda":
        return once
    side = torch.cuda.Stream(on.device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    wait(on.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        once()
    return graph.replay


def operations(on: Network, side: int) -> float:
    """Return the floating-point operations of an image-step: two for each multiplication, forward and backward."""
    once = bare_pass(replace(on, module=None), 1, side, "float32")
    with FlopCounterMode(display=False) as counter:
        once()
    return float(counter.get_total_flops())


def measured_peak(on: Context, kind: str) -> float:
    """Return the TFLOP/s of a large matrix product of random numbers."""
    precision, allowed = KINDS[kind]
    length = 256 if on.quick else 8192
    factor = torch.randn(length, length, device=on.device)
    factor = factor.bfloat16() if precision == "bfloat16" else factor
    with tf32(allowed):
        return 2 * length**3 / seconds_of(lambda: factor @ factor, on) / 1e12


@check("image-steps/s over micro-batches and precisions, 224 pixels", SPEED)
def throughput(on: Network) -> Figures:
    side = 48 if on.quick else 224
    each = operations(on, side)
    figures: Figures = {"layer": on.layer, "GFLOP an image-step": each / 1e9}
    named = [peak for part, peak in PEAKS.items() if part in _name(on)]
    for kind in on.kinds:
        peaks = {"matrix product here": measured_peak(on, kind)}
        if named and kind == "bfloat16":
            peaks["data sheet"] = named[0]
        figures |= {f"{kind}, peak TFLOP/s, {name}": peak for name, peak in peaks.items()}
        best = 0.0
        for count in on.batches:
            step = step_seconds(on, count, side, kind)
            with tf32(on.kinds[kind][1]):
                bare = seconds_of(replayed(bare_pass(on, count, side, kind), on), on)
            figures[f"{kind}, batch {count}, ours"] = count / step
            figures[f"{kind}, batch {count}, bare"] = count / bare
            figures[f"{kind}, batch {count}, ours / bare in time"] = step / bare
            best = max(best, count / step)
        figures |= {f"{kind}, best, share of {name}": each * best / peak / 1e12 for name, peak in peaks.items()}
    return figures


def _name(on: Context) -> str:
    return torch.cuda.get_device_name(on.device) if on.device.type == "cuda" else "a CPU"


@check("with and without CUDA graph, and as workers set PyTorch", SPEED)
def graph_or_not(on: Network) -> Figures:
    side, kind = (48, "float32") if on.quick else (224, "bfloat16")
    figures: Figures = {"precision": kind}
    for count in on.batches:
        figures[f"batch {count}, graph"] = count / step_seconds(on, count, side, kind)
        with steps_as(by_themselves):
            figures[f"batch {count}, no graph"] = count / step_seconds(on, count, side, kind)
        with deterministic():
            figures[f"batch {count}, graph, deterministic"] = count / step_seconds(on, count, side, kind)
    return figures


@check("beside Lucent's render_vis", SPEED)
def beside_lucent(on: Network) -> Figures:
    """Lucent with PyTorch's defaults, in which convolutions take TF32; ours in each precision."""
    if on.module is None or not on.sides:
        raise CannotCheckError("this network is not compared with Lucent")
    figures: Figures = {}
    count = 2 if on.quick else 64
    for side, least in on.sides.items():
        side = side // 4 if on.quick else side
        peers = {
            f"Lucent, {'8 in one call' if together else 'one a call'}": _lucent(on, side, together=together)
            for together in (False, True)
        }
        figures |= {f"{side} pixels, {name}": value for name, value in peers.items()}
        ratios = []
        for kind in on.kinds:
            mine = count / step_seconds(on, count, side, kind)
            ratios.append(mine / max(peers.values()))
            figures[f"{side} pixels, ours, {kind}, batch {count}"] = mine
            figures[f"{side} pixels, ours, {kind} / Lucent"] = ratios[-1]
        if on.device.type == "cuda" and not max(ratios) >= least:
            on.faults.append(f"at {side} pixels {max(ratios):.0f} times Lucent, not {least:g}")
    return figures


def _lucent(on: Network, side: int, *, together: bool) -> float:
    """Return image-steps a second of Lucent, the first steps left out."""
    assert on.module is not None
    module = on.module.to(on.device).requires_grad_(True)
    marks: list[float] = []

    def clock() -> None:
        wait(on.device)
        marks.append(time.perf_counter())

    units = list(range(8)) if together else [0]
    steps = 3 if on.quick else 40
    render_channels(module, on.path.replace(".", "_"), units, steps, clock, together=together, side=side)
    gaps = [after - before for before, after in itertools.pairwise(marks)][len(marks) // 4 :]
    return len(units) / statistics.median(gaps)


@check("all convolution channels, 512 steps", SPEED)
def all_channels(on: Network) -> Figures:
    """One whole call of up to 64 channels for each layer, begin and end included; the other channels are reckoned."""
    if on.path != LAST["vgg16"] and not on.quick:
        raise CannotCheckError("asked for VGG-16")
    steps, side, most = (2, 48, 2) if on.quick else (512, 224, 64)
    precision: Precision = "float32" if on.quick else "bfloat16"
    figures: Figures = {"steps": steps, "precision": precision}
    channels = made = 0
    total = taken = 0.0
    for layer in on.layers:
        units = layer.unit_count or 1
        count = min(most, units)
        wait(on.device)
        before = time.perf_counter()
        settings = AscentSettings(steps, (side, side), precision=precision)
        pictures_of(on, [Target(layer.name, unit) for unit in range(count)], settings, batch=count)
        seconds = time.perf_counter() - before
        figures[f"{layer.name[:60]}, {count} of {units}, s"] = seconds
        channels, made = channels + units, made + count
        taken, total = taken + seconds, total + seconds * units / count
    return figures | {
        "channels": channels, "measured": f"{made} channels in {taken:.1f} s", "reckoned for all, s": total
    }  # fmt: skip


# --- running them -----------------------------------------------------------------------------------------------------


def networks(names: Sequence[str], on: torch.device, *, lucent: bool) -> Iterator[Network]:
    """Yield torchvision's networks, converted from the ONNX files that they are exported to."""
    for name in names:
        module, _ = make(Architecture("torchvision", name, 224))
        with tempfile.TemporaryDirectory(prefix="onnxviz-gpu-") as folder:
            model = load(export(module, Path(folder)), "imagenet", device=on)
            model.differentiable(LAST[name])
        sides = {224: 30.0, 128: 100.0} if name == "resnet18" and lucent else {}
        heading = NETWORKS[name][0].split()[0]
        yield Network(heading, model, model, np.empty(0), False, module=module, path=LAST[name], sides=sides)


def contexts(given: argparse.Namespace, device: torch.device) -> Iterator[tuple[Context, dict[str, Check]]]:
    for on in subjects(device, None, given.quick):
        yield on, EXACT
        if given.quick:
            yield Network(on.name, on.model, on.reference, on.images, True), SPEED
    if not given.quick or given.networks:
        for network in networks(given.networks or list(LAST), device, lucent=not given.without_lucent):
            network.quick = given.quick
            yield network, SPEED


def main() -> int:
    parser = arguments(__doc__, "gpu_feature_visualization")
    parser.add_argument("--networks", nargs="+", choices=LAST, help="default: all; with --quick none")
    parser.add_argument("--without-lucent", action="store_true", help="leave Lucent out")
    given = parser.parse_args()
    device = device_of(parser, given)
    return run_checks("gpu_feature_visualization", contexts(given, device), given, [*EXACT, *SPEED])


if __name__ == "__main__":
    sys.exit(main())
