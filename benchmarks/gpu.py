"""What needs a GPU, checked and measured in one run; needs this repository and no other file.

    python -m benchmarks.gpu --out FOLDER
    python -m benchmarks.gpu --out FOLDER --device cpu --quick

Feature visualization has a script of its own, `benchmarks.gpu_feature_visualization`.

Runs on the built-in model and the built-in scenes; with --zoo FOLDER also on SqueezeNet. Each check stands alone: one
that fails is reported and the others go on. Writes FOLDER/gpu.json and FOLDER/gpu.md. The exit code is 1 if a check
failed. What only CUDA can do is skipped elsewhere, with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import ForwardPass
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.analyses.dissection.counting import Grid, Overlap, count_overlap
from onnxviz.analyses.dissection.thresholds import LargestValues
from onnxviz.analyses.explained_score import layer_of
from onnxviz.core.errors import shorten
from onnxviz.core.values import Layer, Preprocessing
from onnxviz.data import builtin
from onnxviz.data.images import ImageFolder, fit_labels, load_batch
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model, load
from onnxviz.model.ort_session import Session
from onnxviz.model.parity import check_parity

Figures = dict[str, float | int | str]

MAPS_TOLERANCE = 1e-3
"""Largest difference of a Grad-CAM map between CPU and GPU, relative to the map's largest value, without TF32."""


class CannotCheckError(Exception):
    """A check that cannot be made here; says why."""


@dataclass
class Outcome:
    """What a check found: `verdict` is passed, failed or skipped."""

    check: str
    subject: str
    verdict: str
    remark: str
    figures: Figures
    seconds: float


@dataclass
class Context:
    """What the checks work on."""

    name: str
    model: Model
    reference: Model
    images: np.ndarray
    quick: bool
    faults: list[str] = field(default_factory=list)
    """What a check found wrong; it goes on and gives its figures all the same."""

    @property
    def device(self) -> torch.device:
        """Where the checks run."""
        return self.model.device

    @property
    def layers(self) -> list[Layer]:
        """What leaves the activation behind each convolution that has a map."""
        view = self.model.view
        found = [view.layer(f"{layer.name}:act") for layer in view.select("all_convs")]
        return [layer for layer in dict.fromkeys(found) if layer.spatial_shape not in ((), (1, 1))]

    def require_cuda(self) -> None:
        """Skip what only CUDA can do."""
        if self.device.type != "cuda":
            raise CannotCheckError(f"needs CUDA, runs on {self.device}")

    def pictures(self, count: int) -> torch.Tensor:
        """Return so many images on the device."""
        chosen = np.resize(np.arange(len(self.images)), count)
        return torch.from_numpy(self.images[chosen]).to(self.device)


Check = Callable[[Context], Figures]
CHECKS: dict[str, Check] = {}


def check(title: str, among: dict[str, Check] = CHECKS) -> Callable[[Check], Check]:
    """Add a function to checks."""

    def add(function: Check) -> Check:
        among[title] = function
        return function

    return add


# --- timing -----------------------------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], on: Context, rounds: int = 7) -> float:
    """Return the median time of some work on the wall, device included, after a warm-up."""
    rounds = 2 if on.quick else rounds
    times = []
    for number in range(rounds + 2):
        wait(on.device)
        before = time.perf_counter()
        work()
        wait(on.device)
        if number > 1:
            times.append(time.perf_counter() - before)
    return statistics.median(times)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and matrix products."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def no_synchronisation() -> Iterator[None]:
    """Let every operation raise that makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference relative to the largest reference value; not a number counts as such."""
    return float(np.abs(ours.astype(np.float64) - theirs).max() / max(float(np.abs(theirs).max()), 1e-12))


# --- the checks -------------------------------------------------------------------------------------------------------


@check("device and versions")
def device_facts(on: Context) -> Figures:
    facts: Figures = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "providers": ", ".join(onnxruntime.get_available_providers()),
        "device": str(on.device),
        "TF32 in convolutions by default": str(torch.backends.cudnn.allow_tf32),
        "TF32 in matrix products by default": str(torch.backends.cuda.matmul.allow_tf32),
    }
    if on.device.type == "cuda":
        properties = torch.cuda.get_device_properties(on.device)
        facts |= {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory GiB": round(properties.total_memory / 2**30, 1),
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    return facts


@check("agreement with ONNX Runtime, every layer")
def agreement(on: Context) -> Figures:
    """TF32 off must agree; TF32 on is reported."""
    figures: Figures = {}
    for allowed in (False, True) if on.device.type == "cuda" else (False,):
        label = "TF32 on" if allowed else "TF32 off"
        with tf32(allowed):
            found = check_parity(on.model, on.model.layers, on.images[:4])
        for reference in ("file", "float32"):
            against = [item for item in found if item.reference == reference]
            if not against:
                continue
            outside = [item for item in against if not item.holds]
            figures[f"{label}, largest against {reference}"] = float(np.max([item.relative for item in against]))
            figures[f"{label}, layers outside against {reference}"] = f"{len(outside)} of {len(against)}"
            if outside and not allowed:
                on.faults.append(f"{len(outside)} layers differ from ONNX Runtime ({reference}) with TF32 off")
    return figures


def grad_cam(
    model: Model, images: torch.Tensor, layers: Sequence[Layer], classes: Iterable[int]
) -> list[tuple[torch.Tensor, ...]]:
    """Return the maps of some layers for some classes."""
    head = resolve_head(model.view, None, model.labels)
    forward = ForwardPass(model, images, layers, [layer_of(head)], to_input=False)
    targets = (ClassTarget(head, number) for number in classes)
    return [GradCamMethod().attribute(forward.ask([target] * len(images))).maps for target in targets]


@check("Grad-CAM maps on the CPU and on the device")
def maps_agree(on: Context) -> Figures:
    def maps(model: Model) -> list[np.ndarray]:
        (found,) = grad_cam(model, torch.from_numpy(on.images[:4]), on.layers, [0])
        return [each.cpu().numpy() for each in found]

    theirs = maps(on.reference)
    figures: Figures = {"layers": len(on.layers), "images": min(4, len(on.images))}
    for allowed in (False, True) if on.device.type == "cuda" else (False,):
        with tf32(allowed):
            ours = maps(on.model)
        worst = float(np.max([relative(mine, other) for mine, other in zip(ours, theirs, strict=True)]))
        figures[f"TF32 {'on' if allowed else 'off'}, largest relative difference"] = worst
        if not allowed and not worst <= MAPS_TOLERANCE:
            on.faults.append(f"maps differ by {worst:.2g} with TF32 off")
    return figures


@check("no host synchronisation in the network, forward and backward")
def network_does_not_wait(on: Context) -> Figures:
    on.require_cuda()
    images = on.pictures(4).requires_grad_()
    forward = on.model.differentiable((*on.layers, on.model.view.logits))
    forward(images)
    wait(on.device)
    with no_synchronisation():
        *_, logits = forward(images)
        torch.autograd.grad(logits.flatten(1)[:, 0].sum(), images)
    return {"layers": len(on.layers) + 1, "batch": 4}


@check("torch.compile of the converted network")
def compiles(on: Context) -> Figures:
    backend = "aot_eager" if on.quick and on.device.type == "cpu" else "inductor"
    forward = on.model.differentiable(on.model.view.logits)
    compiled = torch.compile(lambda images: forward(images)[0], backend=backend, fullgraph=True)
    images = on.pictures(4).requires_grad_()
    before = time.perf_counter()
    with tf32(False):
        theirs = forward(images)[0]
        ours = compiled(images)
        figures: Figures = {"backend": backend, "first call s": round(time.perf_counter() - before, 2)}
        differences = [relative(ours.detach().cpu().numpy(), theirs.detach().cpu().numpy())]
        gradients = [torch.autograd.grad(values.square().sum(), images)[0].cpu().numpy() for values in (ours, theirs)]
        differences.append(relative(*gradients))
        eager = seconds_of(lambda: torch.autograd.grad(forward(images)[0].sum(), images), on)
        fast = seconds_of(lambda: torch.autograd.grad(compiled(images).sum(), images), on)
    figures |= {"forward difference": differences[0], "gradient difference": differences[1]}
    figures["eager / compiled"] = round(eager / fast, 2)
    if not max(differences) <= 1e-3:
        on.faults.append("the compiled network gives other numbers")
    return figures


@check("Grad-CAM maps/s, all layers")
def maps_per_second(on: Context) -> Figures:
    figures: Figures = {"layers": len(on.layers)}
    for count in (1, 4) if on.quick else (1, 8, 32):
        images = on.pictures(count)

        def maps(images: torch.Tensor = images) -> None:
            grad_cam(on.model, images, on.layers, range(3))

        taken = seconds_of(maps, on)
        figures[f"batch {count}"] = round(3 * count * len(on.layers) / taken)
        figures[f"batch {count}, ms for 3 classes"] = round(1000 * taken, 3)
    return figures


@check("dissection, images/s")
def dissection(on: Context) -> Figures:
    """Forward passes by ONNX Runtime on the device, thresholds and counting on the processor."""
    count = 16 if on.quick else 200
    side = on.model.input_size[0]
    data = builtin.scenes(count, size=min(side, 128))
    stretch = Preprocessing(fit="stretch")
    before = time.perf_counter()
    pictures = load_batch(data, range(count), stretch, on.model.input_size)
    size = (min(side, 112), min(side, 112))
    labels = np.stack([fit_labels(data.read_labels(index), stretch, size) for index in range(count)])
    read = time.perf_counter()
    layer = on.layers[-1]
    on.model.measure(pictures[:8], layer)
    warm = time.perf_counter()
    values = np.concatenate([on.model.measure(pictures[at : at + 8], layer)[layer.name] for at in range(0, count, 8)])
    measured = time.perf_counter()
    cuts = LargestValues.of(values, values[:, 0].size, 0.005).thresholds().values
    cut = time.perf_counter()
    concepts = max(concept.index for concept in data.concepts)
    overlap = Overlap.empty(values.shape[1], np.zeros(concepts, np.intp))
    grid = Grid.between(values.shape[2:], size)
    for index in range(count):
        count_overlap(overlap, values[index : index + 1], cuts, labels[index : index + 1], grid)
    counted = time.perf_counter()
    if not overlap.both.any():
        on.faults.append("no pixel was counted")
    return {
        "layer": shorten(layer.name),
        "units": values.shape[1],
        "drawing and labels": round(count / (read - before)),
        "forward passes": round(count / (measured - warm)),
        "thresholds": round(count / (cut - measured)),
        "counting": round(count / (counted - cut)),
    }


@check("ONNX Runtime on the device against the converted forward pass")
def runtime(on: Context) -> Figures:
    wanted = "CUDAExecutionProvider"
    if on.device.type == "cuda" and wanted not in onnxruntime.get_available_providers():
        raise CannotCheckError(f"this ONNX Runtime has no {wanted}: {', '.join(onnxruntime.get_available_providers())}")
    view = on.model.view
    session = Session(view.proto, [view.logits.value], device=str(on.device))
    used = session._session.get_providers()
    figures: Figures = {"providers": ", ".join(used)}
    if on.device.type == "cuda" and wanted not in used:
        on.faults.append(f"ONNX Runtime fell back to {used[0]}")
    forward = on.model.differentiable(view.logits)
    for count in (1, 4) if on.quick else (1, 16, 64):
        images = on.pictures(count)
        with torch.no_grad(), tf32(False):
            encoded = on.model.encode(images).cpu().numpy()
            ours = forward(images)[0].cpu().numpy()
            theirs = session.run({view.input_name: encoded})[0]
            fast = seconds_of(lambda images=images: forward(images), on)
            other = seconds_of(lambda encoded=encoded: session.run({view.input_name: encoded}), on)
        difference = relative(ours.reshape(theirs.shape), theirs)
        figures |= {
            f"batch {count}, converted images/s": round(count / fast),
            f"batch {count}, ONNX Runtime images/s (copies included)": round(count / other),
            f"batch {count}, difference": difference,
        }
        if not difference <= 1e-3:
            on.faults.append(f"batch {count}: logits differ by {difference:.2g}")
    return figures


# --- running them -----------------------------------------------------------------------------------------------------


def subjects(device: torch.device, zoo: Path | None, quick: bool) -> Iterator[Context]:
    """Yield what to check: the built-in model, and SqueezeNet where there is a zoo."""
    own = builtin.model("scenes")
    model, reference = (load(own.path, own.preprocessing, own.labels, device=place) for place in (device, "cpu"))
    count = 8 if quick else 32
    scenes = load_batch(builtin.scenes(count), range(count), model.preprocessing, model.input_size)
    yield Context("built-in model", model, reference, scenes, quick)
    if zoo is None:
        return
    path = zoo / "zoo" / "onnx" / "squeezenet_fp16.onnx"
    model, reference = (load(path, "caffe", device=place) for place in (device, "cpu"))
    folder = ImageFolder.find("photographs", ["imagenet_sample/*.JPEG"], zoo / "data", limit=count)
    photographs = load_batch(folder, range(len(folder)), model.preprocessing, model.input_size)
    yield Context("SqueezeNet", model, reference, photographs, quick)


def run_check(title: str, on: Context, work: Check | None = None) -> Outcome:
    """Run one check, one of `CHECKS` if no other is given; whatever it raises is its outcome."""
    before = time.perf_counter()
    on.faults = []
    figures: Figures = {}
    try:
        figures = (work or CHECKS[title])(on)
        verdict, remark = ("failed", "; ".join(on.faults)) if on.faults else ("passed", "")
    except CannotCheckError as reason:
        verdict, remark = "skipped", str(reason)
    except Exception as fault:
        place = traceback.extract_tb(fault.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        verdict, remark = "failed", f"{type(fault).__name__} at {where}: {first_line(fault)}"
    return Outcome(title, on.name, verdict, remark, figures, round(time.perf_counter() - before, 2))


def first_line(fault: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(fault).strip().splitlines() or [""])[0][:300]


def summary(outcomes: list[Outcome], when: str) -> str:
    """Return the outcomes as markdown."""
    failed = sum(outcome.verdict == "failed" for outcome in outcomes)
    lines = [f"# Checks on {outcomes[0].figures.get('name', outcomes[0].figures.get('device', '?'))}", ""]
    lines += [f"{when}; {len(outcomes)} checks, {failed} failed", ""]
    for outcome in outcomes:
        lines += [f"## {outcome.check}, {outcome.subject}: {outcome.verdict}", ""]
        lines += [outcome.remark, ""] if outcome.remark else []
        if outcome.figures:
            lines += ["| what | value |", "| --- | --- |"]
            for name, value in outcome.figures.items():
                shown = f"{value:.4g}" if isinstance(value, float) else str(value)
                lines.append(f"| {name} | {shown.replace('|', '/')} |")
            lines.append("")
    return "\n".join(lines)


def arguments(description: str | None, name: str) -> argparse.ArgumentParser:
    """Return a parser with the options that scripts of checks have; results go to NAME.json and NAME.md."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help=f"where {name}.json and {name}.md go")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    parser.add_argument("--quick", action="store_true", help="small batches and few steps: tries the checks themselves")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="checks whose title has one of the words")
    return parser


def device_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> torch.device:
    """Return the device that was asked for, or end."""
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "PyTorch sees no CUDA device; use --device cpu --quick to try the checks themselves\n")
    return device


def run_checks(
    name: str, contexts: Iterable[tuple[Context, dict[str, Check]]], given: argparse.Namespace, known: Iterable[str]
) -> int:
    """Run checks, print and write what each finds, and return the exit code.

    Args:
        name: of the files.
        contexts: what is checked, each with its checks.
        given: the options of `arguments`.
        known: titles of all checks.
    """
    if not any(_is_chosen(title, given.only) for title in known):
        raise SystemExit(f"no check has any of those words in its title: {', '.join(known)}")
    given.out.mkdir(parents=True, exist_ok=True)
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    outcomes: list[Outcome] = []
    for on, checks in contexts:
        for title, work in checks.items():
            if not _is_chosen(title, given.only):
                continue
            outcome = run_check(title, on, work)
            outcomes.append(outcome)
            print(f"{outcome.verdict:8} {outcome.seconds:7.1f} s  {title}, {on.name}  {outcome.remark}", flush=True)
            # After every check: what was found is kept, whatever happens to the machine.
            found = {"date": when, "quick": given.quick, "outcomes": [asdict(each) for each in outcomes]}
            (given.out / f"{name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
            (given.out / f"{name}.md").write_text(summary(outcomes, when), encoding="utf-8")
    return int(any(outcome.verdict == "failed" for outcome in outcomes))


def _is_chosen(title: str, words: Sequence[str]) -> bool:
    return not words or any(word in title for word in words)


def main() -> int:
    parser = arguments(__doc__, "gpu")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER", help="folder with zoo/ and data/: also SqueezeNet")
    given = parser.parse_args()
    device = device_of(parser, given)
    contexts = ((on, CHECKS) for on in subjects(device, given.zoo, given.quick))
    return run_checks("gpu", contexts, given, list(CHECKS))


if __name__ == "__main__":
    sys.exit(main())
