"""What limits what a picture says of its unit: simple pictures that beat it, a ceiling, silence, death."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.activation_maximization.real_activations import RealActivations
from onnxviz.analyses.activation_maximization.simple_pictures import SimpleActivations
from onnxviz.core.shares import percent
from onnxviz.graph.value_range import range_of

if TYPE_CHECKING:
    from onnxviz.analyses.activation_maximization.goals import Goal
    from onnxviz.analyses.base import Subject
    from onnxviz.optimize.ascent import Maximized

Values = npt.NDArray[np.float32]

BEATEN = 0.01
"""By what share of its activation a picture has to be exceeded to be called beaten: a sigmoid ends a bit before 1."""
_AGAIN = 0.02
"""By what share of the other's activation it has to fall short for another ascent to be worth its time."""
_AT = 0.99
"""Share of the way from 0 to a bound at which a unit is there."""
_SILENT = 0.01
"""A unit that no real image brings to this share of what its picture reaches is almost silent on them."""


@dataclass(frozen=True)
class Start:
    """A picture that a second ascent could begin with.

    Attributes:
        value: the unit's activation on it.
        words: what it is.
        load: gives it as RGB [3, h, w] in 0..1.
    """

    value: float
    words: str
    load: Callable[[], Values]


def exceeds(value: float, after: float, sign: int) -> bool:
    """Return whether an activation beats that of a made picture, in the direction asked for, by more than a trifle."""
    return sign * (value - after) > BEATEN * abs(after)


def made_again(
    made: Maximized,
    signs: Sequence[int],
    starts: Sequence[Sequence[Start]],
    optimize_batch: Callable[[Sequence[int], Sequence[Values]], Maximized],
) -> tuple[Maximized, list[str]]:
    """Begin pictures that fall far short of something simpler again, with that; keep the better of both.

    Args:
        made: one picture for each target.
        signs: of the targets.
        starts: what each could begin with.
        optimize_batch: makes the pictures of some targets from given ones.

    Returns:
        The pictures, and what each of them was begun with if that was another one, else "".
    """
    best = [
        max(found, key=lambda start, sign=sign: sign * start.value, default=None)  # type: ignore[misc]
        for found, sign in zip(starts, signs, strict=True)
    ]
    chosen = {
        place: start
        for place, (start, sign) in enumerate(zip(best, signs, strict=True))
        if start is not None and sign * (start.value - float(made.after[place])) > _AGAIN * abs(start.value)
    }
    begun = [""] * len(signs)
    if not chosen:
        return made, begun
    again = optimize_batch(list(chosen), [start.load() for start in chosen.values()])
    arrays = {
        name: getattr(made, name).copy() for name in ("images", "curves", "after", "start_gain", "taken", "importance")
    }
    for row, (place, start) in enumerate(chosen.items()):
        if signs[place] * (float(again.after[row]) - float(made.after[place])) <= 0:
            continue
        begun[place] = start.words
        for name, array in arrays.items():
            array[place] = getattr(again, name)[row]
    return replace(made, **arrays), begun


# --- what is said ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What limits a picture, for its row of the table.

    Attributes:
        simple: activation of the simple picture that excites the unit most; None where none was measured.
        which: that picture.
        times: its activation divided by that of the made one; None where the quotient says nothing.
        beaten: whether it beats the made one.
        begun: what the picture was begun with, where that was not noise or what the recipe says.
        state: where the unit is: at a bound, silent, dead; "" if there is nothing to say.
        dead: whether nothing that was tried changes the unit.
    """

    simple: float | None = None
    which: str = ""
    times: float | None = None
    beaten: bool = False
    begun: str = ""
    state: str = ""
    dead: bool = False


def limits_of(
    goal: Goal,
    before: float,
    after: float,
    tried: SimpleActivations | None,
    real: RealActivations | None,
    begun: str,
    subject: Subject,
) -> Limits:
    """Return what limits a picture.

    Args:
        goal: what it was made for.
        before: activation of the start.
        after: activation of the picture.
        tried: activations on simple pictures; None if they were not measured.
        real: activations on real images; None if they were not measured.
        begun: what it was begun with, if not as usual.
        subject: the model.
    """
    if tried is None:
        return Limits(begun=begun, state=_state(goal, after, real, subject))
    everything = np.concatenate([tried.values, [before, after], [] if real is None else real.values])
    if _constant(everything):
        also = "" if real is None else f" and {len(real.values):,} real images"
        state = (
            f"dead: its activation is {after:.3g} on everything that was tried, the start, the picture, "
            f"{len(tried.values)} plain colours and gratings{also}"
        )
        return Limits(float(after), "", None, False, begun, state, True)
    simple, value = tried.best(goal.sign)
    times = value / after if after * value > 0 and goal.sign * after > 0 else None
    beaten = exceeds(value, after, goal.sign)
    return Limits(value, simple.words, times, beaten, begun, _state(goal, after, real, subject))


def _state(goal: Goal, after: float, real: RealActivations | None, subject: Subject) -> str:
    return _bound(goal, after, subject) or _silence(after, real, goal.sign)


def _bound(goal: Goal, after: float, subject: Subject) -> str:
    """Say if a unit is where its operator holds it."""
    if goal.target is None or goal.target.unit is None:
        return ""
    bounds = range_of(subject.view.layer(goal.target.layer).value, subject.view.proto.graph)
    low, high = bounds.low, bounds.high
    seen = "cannot be seen; the picture is one of many"
    if goal.sign > 0 and math.isfinite(high) and after >= high - (1 - _AT) * abs(high):
        return f"at the unit's ceiling of {high:g}: more {seen}"
    if goal.sign < 0 and math.isfinite(low) and after <= low + (1 - _AT) * abs(low):
        return f"at the unit's floor of {low:g}: less {seen}"
    return ""


def _silence(after: float, real: RealActivations | None, sign: int) -> str:
    """Say if a unit does next to nothing on real images."""
    if real is None or not len(real.values):
        return ""
    count, most = len(real.values), float((sign * real.values).max())
    if _constant(real.values) and count > 1:
        value = float(real.values[0])
        alike = f"the same on all {count:,} real images: {value:.3g}"
        return alike if value else f"silent on real images: 0 on all {count:,}"
    if sign > 0 and float(real.values.min()) >= 0 and most < _SILENT * after:
        return f"almost silent on real images: at most {percent(most / after, 2)} of this on any of {count:,}"
    return ""


def _constant(values: npt.NDArray[np.floating]) -> bool:
    """Return whether values are one, but for rounding."""
    spread = float(values.max()) - float(values.min())
    return spread <= 1e-6 * max(1e-6, float(np.abs(values).max()))
