"""What one image takes a model on this machine: a second of forward and backward passes, measured.

What counts is the time of the processor, not of the clock: other programs lengthen only the second.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.analyses.base import Subject
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError

if TYPE_CHECKING:
    from onnxviz.model.model import Model

BUDGET = 1.0
"""Seconds that measuring takes, the first pass left out, which prepares what later ones find."""
_LEAST = 2
"""Passes of each kind, however long they take."""
_BATCH = 16
"""Images that a trial takes at a time."""
_GRADIENT = 3.0
"""What a pass forward and backward counts in forward passes."""


@dataclass(frozen=True)
class Clocks:
    """What passes are timed with: seconds that go by, and seconds that all threads of this process have worked."""

    wall: Callable[[], float] = time.perf_counter
    processor: Callable[[], float] = time.process_time
    cores: int = 1


@dataclass(frozen=True)
class Pace:
    """Seconds of a forward pass of one image.

    Attributes:
        seconds: of a machine that does nothing else: the processor's, over the cores that share a pass.
        crowd: how many programs share a core, this one included; 1 if they do not.
        trial: the same for an image of a batch that ONNX Runtime computes, as trials of preprocessings do; None if
            there is none to do, or it could not be measured.
    """

    seconds: float
    crowd: float = 1.0
    trial: float | None = None


def measure_pace(subject: Subject, device: Device, clocks: Clocks | None = None) -> Pace | None:
    """Measure how long images take a model, by the converted network that analyses with gradients use.

    Returns:
        The pace, or None if the model's class scores cannot be computed: it does not convert, or needs too much memory.
    """
    from onnxviz.execution.workers.torch_setup import load_torch, make_model, prepare_torch

    torch = load_torch()
    try:
        prepare_torch(device)
        model = make_model(subject, device)
        compute = model.differentiable([subject.view.logits])
        images = torch.full((1, model.domain.channels, *model.input_size), 0.5, device=device)

        def forward() -> None:
            with torch.no_grad():
                compute(images)

        def gradient() -> None:
            watched = images.clone().requires_grad_(True)
            (scores,) = compute(watched)
            torch.autograd.grad(scores.sum(), watched, allow_unused=True)

        clocks = clocks or Clocks(cores=torch.get_num_threads())
        found = time_passes(forward, gradient, clocks, crowd())
        return replace(found, trial=_trial_seconds(model, clocks)) if subject.choice else found
    except Exception:  # whatever a strange model does here, its analysis will say; the estimate does without
        return None


def _trial_seconds(model: Model, clocks: Clocks) -> float | None:
    """Return what an image takes in a trial: small networks spend most of a pass on what a batch shares."""
    count = model.view.batch or _BATCH
    images = np.full((count, 3, *model.input_size), 0.5, np.float32)
    try:
        model.scores(images)
        (seconds,), shared = _timed([(lambda: model.scores(images), float(count))], clocks)
    except OnnxvizError:
        return None
    return seconds / shared


def crowd() -> float:
    """Return how many programs share a core of this machine, this one included, by the load of the last minute."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return max(1.0, (os.getloadavg()[0] + 1.0) / (os.cpu_count() or 1))


def time_passes(
    forward: Callable[[], None], gradient: Callable[[], None], clocks: Clocks, crowded: float = 1.0
) -> Pace:
    """Time passes of one image, forward alone and with a backward one, in turn until the budget is used up."""
    forward()
    gradient()
    seconds, shared = _timed([(forward, 1.0), (gradient, _GRADIENT)], clocks)
    return Pace(max(seconds) / shared, crowded)


def _timed(works: Sequence[tuple[Callable[[], object], float]], clocks: Clocks) -> tuple[list[float], float]:
    """Do works, each with the passes that it counts, in turn until the budget is used up.

    Returns:
        The processor's seconds of a pass of each, and how many cores share one.
    """
    begun = clocks.wall()
    found: list[list[float]] = [[] for _ in works]
    shared = 1.0
    while clocks.wall() - begun < BUDGET or len(found[-1]) < _LEAST:
        for seconds, (do, passes) in zip(found, works, strict=True):
            before, worked = clocks.wall(), clocks.processor()
            do()
            used, took = clocks.processor() - worked, clocks.wall() - before
            seconds.append(used / passes)
            # At its best moment a pass had all the cores that it can use.
            shared = max(shared, min(used / took if took > 0 else 1.0, clocks.cores))
    return list(map(statistics.median, found)), shared
