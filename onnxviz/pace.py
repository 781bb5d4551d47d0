"""What one image takes a model on this machine, as busy as it is: a second of forward and backward passes, measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from onnxviz.analyses.base import Subject
from onnxviz.devices import Device

BUDGET = 1.0
"""Seconds that measuring takes, the first pass left out, which prepares what later ones find."""
_LEAST = 2
"""Passes of each kind, however long they take."""
_GRADIENT = 3.0
"""What a pass forward and backward counts in forward passes."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a forward pass of one image.

    Attributes:
        fast: of the fastest pass: what the machine can do when it does nothing else.
        slow: of the mean pass, forward or, in forward passes, backward too: what it does at present; but as many times
            that of the fastest as programs share a core, since a process that has just begun is served first.
        crowd: how many programs share a core, this one included; 1 if they do not.
    """

    fast: float
    slow: float
    crowd: float = 1.0


def measure_pace(subject: Subject, device: Device, clock: Callable[[], float] = time.perf_counter) -> Pace | None:
    """Measure how long images take a model, by the converted network that analyses with gradients use.

    Args:
        subject: the model.
        device: where to compute.
        clock: seconds that only grow.

    Returns:
        The pace, or None if the model's class scores cannot be computed: it does not convert, or needs too much memory.
    """
    from onnxviz.workers.torch_setup import load_torch, make_model, prepare_torch

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

        return time_passes(forward, gradient, clock, crowd())
    except Exception:  # whatever a strange model does here, its analysis will say; the estimate does without
        return None


def crowd() -> float:
    """Return how many programs share a core of this machine, this one included, by the load of the last minute."""
    if not hasattr(os, "getloadavg"):
        return 1.0
    return max(1.0, (os.getloadavg()[0] + 1.0) / (os.cpu_count() or 1))


def time_passes(
    forward: Callable[[], None], gradient: Callable[[], None], clock: Callable[[], float], crowded: float = 1.0
) -> Pace:
    """Time passes in turn until the budget is used up.

    Args:
        forward: does a forward pass of one image.
        gradient: does one forward and backward.
        clock: seconds that only grow.
        crowded: how many programs share a core.
    """
    forward()
    gradient()
    begun = clock()
    found: tuple[list[float], list[float]] = ([], [])
    while clock() - begun < BUDGET or len(found[1]) < _LEAST:
        for seconds, do, passes in zip(found, (forward, gradient), (1.0, _GRADIENT), strict=True):
            before = clock()
            do()
            seconds.append((clock() - before) / passes)
    fast = min(map(min, found))
    slow = max(sum(seconds) / len(seconds) for seconds in found)
    return Pace(fast, max(slow, fast * crowded), crowded)
