"""What a converted network costs beside the PyTorch module that it was exported from, and how long importing takes.

    python -m benchmarks.import_speed [ratios] [load] [compile] [synchronisation] [--folder FOLDER]

Needs the extra `sweep`. Without a name everything is measured.

`ratios`: forward, and forward with the backward pass to the image, weights frozen on both sides, of torchvision's and
timm's own modules in eval mode, in their own memory format and channels last, and of the converted networks, in turns;
the ratio is the median over the rounds of ours / native in that round. Batch normalisation stays what it is in the
module; the TorchScript exporter folds it into the convolutions, the default exporter may do as well, so the files carry
that, not the importer. Goal: the median over the four networks at most 1.05.

`load`: reading and converting a file of 100 MB (ResNet-50) in a fresh process, the imports of the libraries apart.

`compile`: `torch.compile(fullgraph=True)` of the converted architectures of `benchmarks.architectures`, forward and
backward, values compared; the backend traces everything and compiles nothing, and one network takes inductor.

`synchronisation`: the forward passes read no value of a tensor on the host; on a GPU also by
`torch.cuda.set_sync_debug_mode("error")`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import onnxviz
from benchmarks import architectures
from benchmarks.architectures import Architecture
from benchmarks.import_coverage import TOLERANCE, relative_error
from benchmarks.measure import ROOT, arguments, in_turns, markdown, prepare
from onnxviz.core.errors import OnnxvizError

SUBJECTS = (
    Architecture("torchvision", "resnet18", 224),
    Architecture("torchvision", "vgg16", 224),
    Architecture("torchvision", "mobilenet_v2", 224),
    Architecture("timm", "vit_tiny_patch16_224", 224),
)
GOAL = 1.05
LOAD_GOAL = 3.0
READS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal")
"""Operators that cannot answer before the host has seen a value."""


def exported(architecture: Architecture, exporter: str, folder: Path) -> tuple[nn.Module, torch.Tensor, Path]:
    """Make a network and its file, unless the file is there."""
    model, images = architectures.make(architecture)
    path = folder / exporter / f"{architecture.name}-{architecture.side}.onnx"
    if not path.is_file():
        architectures.export(model, images, exporter, path)
    return model, images[:1], path


# Ratios


def passes(network: nn.Module, image: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return a forward pass, and one with the backward pass to the image."""
    given = image.clone().requires_grad_()

    def forward() -> object:
        with torch.no_grad():
            return network(image)

    def both() -> object:
        output = network(given)
        first = output if isinstance(output, torch.Tensor) else output[0]
        return torch.autograd.grad(first.sum(), given)

    return {"forward": forward, "forward+backward": both}


def ratios(folder: Path, only: Sequence[str], rounds: int, exporters: Sequence[str]) -> Iterator[list[object]]:
    """Yield for each network, exporter and pass the ratios to the native module in both memory formats."""
    for architecture in SUBJECTS:
        if only and architecture.model not in only:
            continue
        for exporter in exporters:
            model, image, path = exported(architecture, exporter, folder)
            last, _ = architectures.make(architecture)
            last.to(memory_format=torch.channels_last)
            image_last = image.contiguous(memory_format=torch.channels_last)
            ours = onnxviz.to_torch(path)
            sides = {"native": (model, image), "channels last": (last, image_last), "ours": (ours, image)}
            works = {
                f"{side} {kind}": work
                for side, (network, given) in sides.items()
                for kind, work in passes(network, given).items()
            }
            seconds = in_turns(works, rounds)
            for kind in ("forward", "forward+backward"):
                mine = seconds[f"ours {kind}"]
                found = [
                    statistics.median(own / theirs for own, theirs in zip(mine, seconds[f"{side} {kind}"], strict=True))
                    for side in ("native", "channels last")
                ]
                native = statistics.median(seconds[f"native {kind}"])
                yield [
                    architecture.model,
                    exporter,
                    kind,
                    f"{1000 * native:.1f}",
                    *(round(ratio, 3) for ratio in found),
                ]


# Loading

_LOADER = """
import json, sys, time
start = time.perf_counter()
import torch, onnx, onnxviz.model.model
from onnxviz.convert import Network
torch.set_num_threads(int(sys.argv[2]))
imported = time.perf_counter()
network = onnxviz.to_torch(sys.argv[1])
done = time.perf_counter()
print(json.dumps([imported - start, done - imported]))
"""


def load_times(folder: Path, rounds: int, threads: int) -> Iterator[list[object]]:
    """Yield how long importing the libraries and then the file of ResNet-50 takes in fresh processes."""
    subject = Architecture("torchvision", "resnet50", 224, {"num_classes": 1000})
    for exporter in architectures.EXPORTERS:
        _, _, path = exported(subject, exporter, folder)
        size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
        found = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-c", _LOADER, str(path), str(threads)],
                cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            found.append(json.loads(done.stdout.splitlines()[-1]))
        imports, seconds = (statistics.median(column) for column in zip(*found, strict=True))
        fastest = min(row[1] for row in found)
        yield [f"resnet50, {exporter}", f"{size / 1e6:.0f}", f"{imports:.2f}", f"{seconds:.2f}", f"{fastest:.2f}"]


# Compiling


def compiled(folder: Path, only: Sequence[str], exporters: Sequence[str], keep: bool) -> Iterator[tuple[str, str, str]]:
    """Yield (architecture, exporter, fault) for each; the fault is "" if the whole network compiles and is the same."""
    for architecture in architectures.ARCHITECTURES:
        if only and not {architecture.name, architecture.model} & set(only):
            continue
        for exporter in exporters:
            path = folder / exporter / f"{architecture.name}.onnx"
            try:
                model, images = architectures.make(architecture)
                if not path.is_file():
                    architectures.export(model, images, exporter, path)
                network = onnxviz.to_torch(path)
            except Exception as fault:
                own = isinstance(fault, OnnxvizError)
                yield architecture.name, exporter, f"not {'imported' if own else 'exported'}: {_first_line(fault)}"
                continue
            yield architecture.name, exporter, compile_fault(network, images[:1], "aot_eager")
            if not keep:
                for file in path.parent.glob(f"{path.name}*"):
                    file.unlink()


def compile_fault(network: nn.Module, image: torch.Tensor, backend: str) -> str:
    """Compile a network as one graph, run it forward and backward; return what is wrong, "" if nothing is."""
    torch.compiler.reset()
    try:
        whole = torch.compile(network, fullgraph=True, backend=backend)
        values, gradients = [], []
        for each in (network, whole):
            given = image.clone().requires_grad_()
            outputs = each(given)
            values.append(outputs[0].detach().numpy())
            gradients.append(torch.autograd.grad(outputs[0].sum(), given)[0].numpy())
    except Exception as fault:
        return _first_line(fault)
    finally:
        torch.compiler.reset()
    error = max(relative_error(values[1], values[0]), relative_error(gradients[1], gradients[0]))
    return "" if error <= TOLERANCE else f"differs by {error:.1e}"


def _first_line(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())}"[:200]


# Synchronisation


class HostReads(TorchDispatchMode):
    """Notes every operator whose answer the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.name().partition(".")[0] in READS:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def host_reads(network: nn.Module, image: torch.Tensor) -> list[str]:
    """Return the operators of a forward and backward pass that read a value on the host."""
    with HostReads() as mode:
        given = image.clone().requires_grad_()
        torch.autograd.grad(network(given)[0].sum(), given)
    return mode.found


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Make CUDA raise where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def synchronisation(folder: Path) -> Iterator[list[object]]:
    """Yield for each network what the host reads in a pass, and what CUDA says where there is a GPU."""
    for architecture in SUBJECTS:
        for exporter in architectures.EXPORTERS:
            _, image, path = exported(architecture, exporter, folder)
            network = onnxviz.to_torch(path)
            found = host_reads(network, image)
            yield [architecture.model, exporter, ", ".join(sorted(set(found))) or "nothing", _on_gpu(network, image)]


def _on_gpu(network: nn.Module, image: torch.Tensor) -> str:
    if not torch.cuda.is_available():
        return "not checked: no GPU"
    moved, given = network.cuda(), image.cuda().requires_grad_()
    torch.autograd.grad(moved(given)[0].sum(), given)  # cuDNN and the allocator settle first
    torch.cuda.synchronize()
    try:
        with no_synchronisation():
            torch.autograd.grad(moved(given)[0].sum(), given)
    except RuntimeError as fault:
        return _first_line(fault)
    return "no synchronisation"


# The report


def report_ratios(given: argparse.Namespace, folder: Path) -> bool:
    rows = list(ratios(folder, given.only, given.rounds, given.exporters))
    head = ["network", "exporter", "pass", "native ms", "ours / native", "ours / native channels last"]
    print(markdown(head, rows))
    good = True
    for exporter in given.exporters:
        for kind in ("forward", "forward+backward"):
            own = [row for row in rows if row[1:3] == [exporter, kind]]
            median, last = (statistics.median(float(str(row[column])) for row in own) for column in (4, 5))
            good &= median <= GOAL
            print(f"{exporter}, {kind}: median ratio {median:.3f} (goal {GOAL}), to channels last {last:.3f}")
    return good


def report_load(given: argparse.Namespace, folder: Path) -> bool:
    rows = list(load_times(folder, min(given.rounds, 5), given.threads))
    print(markdown(["file", "MB", "imports s", f"load and convert s (goal {LOAD_GOAL:.0f})", "fastest"], rows))
    return all(float(str(row[3])) <= LOAD_GOAL for row in rows)


def report_compile(given: argparse.Namespace, folder: Path) -> bool:
    faults, count = [], 0
    for name, exporter, fault in compiled(folder, given.only, given.exporters, given.folder is not None):
        count += 1
        if fault:
            faults.append((name, exporter, fault))
            print(f"{exporter} {name}: {fault}", flush=True)
    print(f"{count - len(faults)} of {count} converted networks compile as one graph (aot_eager, forward and backward)")
    if shutil.which("c++") is None or importlib.util.find_spec("torch._inductor") is None:
        print("inductor: not checked, there is no C++ compiler")
    else:
        _, image, path = exported(SUBJECTS[0], "torchscript", folder)
        fault = compile_fault(onnxviz.to_torch(path), image, "inductor")
        print(f"inductor, {SUBJECTS[0].model}: {fault or 'compiles, same values'}")
        faults += [(SUBJECTS[0].model, "inductor", fault)] if fault else []
    return not [fault for *_, fault in faults if not fault.startswith("not exported")]


def report_synchronisation(_: argparse.Namespace, folder: Path) -> bool:
    rows = list(synchronisation(folder))
    print(markdown(["network", "exporter", "values read on the host", "on a GPU"], rows))
    return all(row[2] == "nothing" and row[3] in ("no synchronisation", "not checked: no GPU") for row in rows)


REPORTS: dict[str, Callable[[argparse.Namespace, Path], bool]] = {
    "ratios": report_ratios,
    "load": report_load,
    "synchronisation": report_synchronisation,
    "compile": report_compile,
}


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("part", nargs="*", help=f"{', '.join(REPORTS)}; all without a name")
    parser.add_argument("--folder", type=Path, help="where exported files are kept; nowhere if not given")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="time and compile only these")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the measurements (default 15)")
    parser.add_argument(
        "--exporters", nargs="+", choices=list(architectures.EXPORTERS), default=["torchscript", "dynamo"]
    )
    given = parser.parse_args()
    if unknown := set(given.part) - set(REPORTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(REPORTS)}")
    if missing := {"torchvision", "timm"} - set(architectures.libraries()):
        parser.exit(2, f"{', '.join(sorted(missing))} cannot be imported: install the extra sweep\n")
    prepare(given)
    warnings.simplefilter("ignore")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        for part in given.part or REPORTS:
            started = time.monotonic()
            print(f"## {part}\n")
            good &= REPORTS[part](given, given.folder or Path(temporary))
            print(f"\n{time.monotonic() - started:.0f} s\n", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
