"""What there is to compute on, found out without loading torch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import re
import sys
import typing
from functools import cache
from pathlib import Path
from typing import Any, Literal

from onnxviz.core.errors import OnnxvizError, shorten

Device = Literal["cpu", "cuda"]
DeviceChoice = Literal["auto", "cpu", "cuda"]


def require_device(choice: DeviceChoice) -> Device:
    """Return the device that a choice means on this machine, found out without loading torch.

    Raises:
        OnnxvizError: if CUDA is asked for and torch will not find it, or what is asked for is no device.
    """
    if choice not in typing.get_args(DeviceChoice):
        known = ", ".join(typing.get_args(DeviceChoice))
        raise OnnxvizError(f"{shorten(str(choice))!r} is no device", remedy=f"write one of {known}")
    if choice != "cuda":
        return likely_device() if choice == "auto" else choice
    if not gpu_names():
        raise OnnxvizError(
            "there is no CUDA device here that the driver shows to this process",
            where="--device cuda",
            remedy="leave --device out, or write --device cpu; `nvidia-smi` lists what the driver sees",
        )
    if not _torch_has_cuda():
        raise OnnxvizError(
            "the installed PyTorch is built without CUDA",
            where="--device cuda",
            remedy="install a build with CUDA (https://pytorch.org), or write --device cpu",
        )
    return "cuda"


def likely_device() -> Device:
    """Return what torch will most likely find here: its build and the driver are looked at."""
    return "cuda" if _torch_has_cuda() and gpu_names() else "cpu"


@cache
def gpu_names() -> tuple[str, ...]:
    """Return the names of the CUDA devices that this process may use, by the driver; empty where there are none."""
    if sys.platform == "darwin":
        return ()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0) != 0:
            return ()
        count = ctypes.c_int(0)
        if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return ()
        return tuple(_gpu_name(driver, index) for index in range(count.value))
    except (OSError, AttributeError):
        return ()


def visible_gpus() -> tuple[str, ...]:
    """Return how CUDA_VISIBLE_DEVICES names each device that this process may use."""
    count = len(gpu_names())
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(index) for index in range(count))
    return tuple(name.strip() for name in given.split(",") if name.strip())[:count]


def thread_count() -> int:
    """Return how many threads to compute with: what OMP_NUM_THREADS says, else the cores of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_device(device: Device, threads: int | None = None) -> str:
    """Return the device and, on a CPU, the number of threads, on which the last digits of results may depend."""
    if device == "cuda":
        return f"cuda ({', '.join(dict.fromkeys(gpu_names())) or 'name unknown'})"
    count = threads or thread_count()
    return f"cpu ({platform.machine()}, {count} thread{'s' * (count > 1)})"


def _torch_has_cuda() -> bool:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        build = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=]*=\s*['\"]", build, re.MULTILINE) is not None


def _gpu_name(driver: Any, index: int) -> str:
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(128)
    if driver.cuDeviceGet(ctypes.byref(handle), index) or driver.cuDeviceGetName(name, len(name), handle):
        return "unknown"
    return name.value.decode("utf-8", "replace")
