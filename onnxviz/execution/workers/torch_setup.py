"""How torch is loaded and set so that results can be repeated."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.analyses.base import Subject
from onnxviz.core.devices import Device, DeviceChoice, thread_count
from onnxviz.core.errors import OnnxvizError

if TYPE_CHECKING:
    from onnxviz.model.model import Model


def load_torch() -> Any:
    """Import torch so that its idle threads sleep.

    By default they spin while they wait for each other; on a machine that does other things too, a step that should
    take 20 ms then takes 80 to 400 ms, because the thread that all wait for is not the one that runs.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    return torch


def prepare_torch(device: Device) -> None:
    """Make torch deterministic and let it use every core that this process may use.

    Raises:
        OnnxvizError: if CUDA was asked for and torch has none.
    """
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch = load_torch()
    find_device(device)
    torch.set_num_threads(thread_count())
    torch.use_deterministic_algorithms(True, warn_only=True)
    # TensorFloat-32 keeps ten bits: too few for an agreement of 1e-3 and for maps that equal the CPU's.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def as_in_a_worker(device: Device) -> Iterator[None]:
    """Set torch as a worker does, and afterwards it and all random generators as they were: they are the caller's.

    Raises:
        OnnxvizError: as `prepare_torch`.
    """
    torch = load_torch()
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warning = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    switches = [(cudnn, "allow_tf32"), (products, "allow_tf32"), (cudnn, "benchmark"), (cudnn, "deterministic")]
    values = [getattr(*switch) for switch in switches]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        prepare_torch(device)
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warning)
        for switch, value in zip(switches, values, strict=True):
            setattr(*switch, value)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)


def find_device(wanted: DeviceChoice) -> Device:
    """Return the device to compute on.

    Raises:
        OnnxvizError: if CUDA was asked for and torch has none.
    """
    if wanted == "cpu":
        return "cpu"
    torch = load_torch()
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise OnnxvizError("torch finds no CUDA device", remedy="leave --device out, or install a CUDA build of torch")
    return "cpu"


def seed_everything(seed: int, kind: str, job: str) -> None:
    """Seed all generators from the run's seed and the job: what ran before makes no difference."""
    torch = load_torch()
    text = f"{seed}:{kind}:{job}".encode()
    number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
    random.seed(number)
    np.random.seed(number % (1 << 32))  # for analyses of other packages that use the global generator
    # Not `torch.manual_seed`: without a GPU it formats the stack for each kind of device, which takes a millisecond.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)


def make_model(subject: Subject, device: Device) -> Model:
    """Return the differentiable model of a subject."""
    from onnxviz.model.model import Model

    return Model(subject.view, subject.preprocessing, subject.labels, device)
