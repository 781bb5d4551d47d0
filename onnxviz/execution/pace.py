"""What one image takes a model on this machine: a second of forward and backward passes, measured.

What counts is the time of the processor, not of the clock: other programs lengthen only the second.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from onnxviz.analyses.base import Subject
from onnxviz.core.devices import Device

BUDGET = 1.0
"""Seconds that measuring takes, the first pass left out, which prepares what later ones find."""
_LEAST = 2
"""Passes of each kind, however long they take."""
_GRADIENT = 3.0
"""What a pass forward and backward counts in forward passes."""


@dataclass(frozen=True)
class Clocks:
    """What passes are timed with.

    Attributes:
        wall: seconds that go by.
        processor: seconds that all threads of this process have worked.
        cores: how many may work at once.
    """

    wall: Callable[[], float] = time.perf_counter
    processor: Callable[[], float] = time.process_time
    cores: int = 1


@dataclass(frozen=True)
class Pace:
    """Seconds of a forward pass of one image.

    Attributes:
        seconds: of a machine that does nothing else: the processor's, over the cores that share a pass.
        crowd: how many programs share a core, this one included; 1 if they do not.
    """

    seconds: float
    crowd: float = 1.0


def measure_pace(subject: Subject, device: Device, clocks: Clocks | None = None) -> Pace | None:
    """Measure how long images take a model, by the converted network that analyses with gradients use.

    Args:
        subject: the model.
        device: where to compute.
        clocks: what is measured with; this process's own if None.

    Returns:
        The pace, or None if the model's class scores cannot be computed: it does not convert, or needs too much memory.
    """
    from onnxviz.execution.workers.torch_setup import load_torch, make_model, prepare_torch

    torch = load_torch()
    try:
        prepare_torch(device)
        model = make_model(subject, device)
        compute = model.differentiable([subject.view.logits])
        images = torch.full((1, 3, *model.input_size), 0.5, device=device)

        def forward() -> None:
            with torch.no_grad():
                compute(images)

        def gradient() -> None:
            watched = images.clone().requires_grad_(True)
            (scores,) = compute(watched)
            torch.autograd.grad(scores.sum(), watched, allow_unused=True)

        return time_passes(forward, gradient, clocks or Clocks(cores=torch.get_num_threads()), crowd())
    except Exception:  # whatever a strange model does here, its analysis will say; the estimate does without
        return None


def crowd() -> float:
    """Return how many programs share a core of this machine, this one included, by the load of the last minute."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return max(1.0, (os.getloadavg()[0] + 1.0) / (os.cpu_count() or 1))


def time_passes(
    forward: Callable[[], None], gradient: Callable[[], None], clocks: Clocks, crowded: float = 1.0
) -> Pace:
    """Time passes in turn until the budget is used up.

    Args:
        forward: does a forward pass of one image.
        gradient: does one forward and backward.
        clocks: what is measured with.
        crowded: how many programs share a core.
    """
    forward()
    gradient()
    begun = clocks.wall()
    found: tuple[list[float], list[float]] = ([], [])
    shared = 1.0
    while clocks.wall() - begun < BUDGET or len(found[1]) < _LEAST:
        for seconds, do, passes in zip(found, (forward, gradient), (1.0, _GRADIENT), strict=True):
            before, worked = clocks.wall(), clocks.processor()
            do()
            used, took = clocks.processor() - worked, clocks.wall() - before
            seconds.append(used / passes)
            # At its best moment a pass had all the cores that it can use.
            shared = max(shared, min(used / took if took > 0 else 1.0, clocks.cores))
    return Pace(max(map(statistics.median, found)) / shared, crowded)
