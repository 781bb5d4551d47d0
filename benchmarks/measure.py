"""Timing, arguments and tables that the scripts share."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from onnxviz.data import builtin
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.model.model import Model, load

ROOT = Path(__file__).resolve().parent.parent
IMAGENET = "imagenet_sample/*.JPEG"
ZOO: dict[str, tuple[str, str, str]] = {
    "squeezenet": ("squeezenet_fp16.onnx", "caffe", IMAGENET),
    "resnet20": ("cifar10_resnet20_dynamo20.onnx", "imagenet", "cifar10_test/*/*.jpg"),
}
"""Short name -> file, preprocessing and images of the real models that the speed benchmarks run on."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("ONNXVIZ_ZOO", ROOT.parent / "shared"))
    parser.add_argument(
        "--zoo",
        type=Path,
        default=default,
        metavar="FOLDER",
        help="folder with zoo/onnx/*.onnx and data/ (default: ONNXVIZ_ZOO, else ../shared beside the repository)",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch and ONNX Runtime (default 1)")
    return parser


def prepare(given: argparse.Namespace) -> None:
    """Set the threads and print where the figures come from."""
    torch.set_num_threads(given.threads)
    print(f"{machine()}; {given.threads} thread(s)\n")


def machine() -> str:
    """Return the processor and the versions in one line."""
    name = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        named = [line.split(":", 1)[1].strip() for line in facts.read_text().splitlines() if "model name" in line]
        name = named[0] if named else name
    import onnxruntime

    return (
        f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, "
        f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}"
    )


def open_subject(name: str, zoo: Path, count: int = 1) -> tuple[Model, np.ndarray]:
    """Return a model and images for it, float32 [count, 3, h, w] in 0..1: "builtin" or a name of `ZOO`."""
    if name == "builtin":
        own = builtin.model("scenes")
        model = load(own.path, own.preprocessing, own.labels, device="cpu")
        return model, load_batch(builtin.scenes(count), range(count), model.preprocessing, model.input_size)
    file, preset, pattern = ZOO[name]
    model = load(zoo / "zoo" / "onnx" / file, preset, device="cpu")
    photographs = ImageFolder.find("photographs", [pattern], zoo / "data", limit=count)
    return model, load_batch(photographs, range(count), model.preprocessing, model.input_size)


def in_turns(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Time each piece of work once a round, after one round that does not count: seconds by name.

    In turns, so that a slow spell of a shared machine meets all of them. The default clock counts the time that the
    process has the processor, which other processes on the machine disturb less than the time on the wall.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            before = clock()
            work()
            if number:
                seconds[name].append(clock() - before)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each list."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def spread(seconds: Sequence[float]) -> str:
    """Return the smallest and largest of some times, in milliseconds."""
    return f"{1000 * min(seconds):.3g}-{1000 * max(seconds):.3g}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a markdown table; a pipe in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def pytorch_grad_cam() -> types.ModuleType:
    """Import pytorch-grad-cam without torchvision.

    Grad-CAM itself needs nothing of torchvision, and a torchvision wheel that was built for another torch cannot be
    imported. The stand-ins are gone when the import is done.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    for name in hidden:
        del sys.modules[name]
    stand_ins = {name: types.ModuleType(name) for name in names}
    for attribute in ("Compose", "Normalize", "ToTensor"):
        setattr(stand_ins[names[1]], attribute, None)
    stand_ins[names[2]].resize = None  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("pytorch_grad_cam")
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
