"""How the step size changes from the first step to the last."""

from __future__ import annotations

import math
from typing import Literal

ScheduleKind = Literal["constant", "linear", "cosine"]


def step_sizes(steps: int, learning_rate: float, kind: ScheduleKind, warm_up: int) -> list[float]:
    """Return the size of every step.

    The first `warm_up` steps w rise evenly, (t + 1) / w of the learning rate (Goyal et al. 2017, section 2.2). Over the
    remaining n steps the size then stays, falls as 1 - t / n, or as (1 + cos(π t / n)) / 2 (Loshchilov and Hutter 2017,
    SGDR, equation 5, without restarts). The first step has a size, and the last as well: 0 comes after it.

    Args:
        steps: number of steps.
        learning_rate: the largest size.
        kind: how it falls.
        warm_up: number of steps that rise; as many as there are if there are fewer.
    """
    rising = min(warm_up, steps)
    left = steps - rising
    rise = [learning_rate * (step + 1) / rising for step in range(rising)]
    return rise + [learning_rate * _share(step / left, kind) for step in range(left)]


def _share(done: float, kind: ScheduleKind) -> float:
    if kind == "linear":
        return 1.0 - done
    if kind == "cosine":
        return (1.0 + math.cos(math.pi * done)) / 2.0
    return 1.0
