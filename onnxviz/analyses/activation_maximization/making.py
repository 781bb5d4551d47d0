"""The ascent of a job's pictures: from noise, and once more from what beats what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.analyses.activation_maximization.goals import Goal, are_classes, picture_of
from onnxviz.analyses.activation_maximization.limits import Start, made_again
from onnxviz.analyses.activation_maximization.real_activations import (
    RealActivations,
    key_of_goal,
    real_activations,
    reference_pictures,
)
from onnxviz.analyses.activation_maximization.simple_pictures import SimpleActivations, simple_activations
from onnxviz.analyses.base import Job, JobContext
from onnxviz.core.errors import shorten
from onnxviz.data.image_choice import find_source
from onnxviz.data.images import load_batch
from onnxviz.optimize.ascent import Maximized, maximize

if TYPE_CHECKING:
    from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
    from onnxviz.optimize.settings import AscentSettings


@dataclass(frozen=True, eq=False)
class Beside:
    """What the jobs before have measured, by the goals' keys.

    Attributes:
        real: on real images.
        simple: on plain colours and gratings.
    """

    real: Mapping[str, RealActivations]
    simple: Mapping[str, SimpleActivations]

    @classmethod
    def of(cls, job: Job, context: JobContext) -> Beside:
        """Read what a job needs."""
        return cls(
            real_activations(context, job.parameters.get("real", {})),
            simple_activations(context, job.parameters.get("simple", {})),
        )


def make(
    analysis: ActivationMaximization,
    settings: AscentSettings,
    found: Sequence[Goal],
    seeds: Sequence[int],
    beside: Beside,
    context: JobContext,
) -> tuple[Maximized, list[str]]:
    """Run the loop; return the pictures, and for each what it was begun with if not as the recipe says, else "".

    Args:
        analysis: the recipe's choices.
        settings: the loop's.
        found: what pictures are made for.
        seeds: one for each.
        beside: what other pictures reach.
        context: the model and its data.
    """
    begin = analysis.begin
    starts = None
    if not isinstance(begin, str):
        _, source, index = picture_of(f"{begin.data}/{begin.image}", context.subject.data)
        starts = [load_batch(source, [index], context.model.preprocessing, settings.size)[0]] * len(found)
    pictures = reference_pictures(found, context, settings.size)

    of_color = [_of_color(goal, beside) for goal in found]

    def optimize_batch(places: Sequence[int], starts: Sequence[np.ndarray] | None, note: str) -> Maximized:
        steps = len(places) * settings.steps
        before, parts = 0, []
        for colored in (True, False):
            chosen = [row for row, place in enumerate(places) if of_color[place] is colored]
            if not chosen:
                continue

            def told(done: int, _: int, before: int = before) -> None:
                context.progress(before + done, steps, note)

            made = maximize(
                context.model,
                [found[places[row]].optimized for row in chosen],
                [seeds[places[row]] for row in chosen],
                settings if colored else _with_usual_mean(analysis, settings),
                told=told,
                pictures=pictures,
                starts=None if starts is None else [starts[row] for row in chosen],
            )
            before += len(chosen) * settings.steps
            parts.append((chosen, made))
        return _together(parts, settings.group)

    made = optimize_batch(range(len(found)), starts, "steps")
    if not _may_begin_again(analysis) or are_classes(found[0].layers, context.subject):
        return made, [""] * len(made.after)
    others = [_others(goal, analysis.data, beside, settings.size, context) for goal in found]
    signs = [goal.sign for goal in found]
    return made_again(made, signs, others, lambda places, given: optimize_batch(places, given, "steps, begun again"))


def _of_color(goal: Goal, beside: Beside) -> bool:
    """Return whether a unit is one of plain colour, so that its picture's mean colour should be free to move.

    Where it is not, an ascent that moves it as fast gives the picture a cast that the unit does not ask for.
    """
    key = key_of_goal(goal)
    return key in beside.simple and beside.simple[key].is_of_color(goal.sign)


def _with_usual_mean(analysis: ActivationMaximization, settings: AscentSettings) -> AscentSettings:
    """Return settings that scale the mean colour like all else, unless the recipe says how it is."""
    form = analysis.parameterization
    if form.kind != "fourier" or form.mean_color is not None:
        return settings
    usual = settings.parameterization.model_copy(update={"mean_color": 0.0})
    return replace(settings, parameterization=usual)


def _together(parts: Sequence[tuple[Sequence[int], Maximized]], group: int) -> Maximized:
    """Put pictures in their order: parts are the places of targets, and their pictures."""
    order = np.argsort([place * group + member for places, _ in parts for place in places for member in range(group)])
    arrays = [np.concatenate([getattr(made, entry.name) for _, made in parts])[order] for entry in fields(Maximized)]
    return Maximized(*arrays)


def _may_begin_again(analysis: ActivationMaximization) -> bool:
    """Return whether pictures can begin with other ones, alone, and what they begin with is not the recipe's choice."""
    form = analysis.parameterization
    known = form.kind in ("fourier", "laplacian_pyramid") or (form.kind == "pixel" and form.squash == "sigmoid")
    return analysis.begin_again and known and analysis.begin == "noise" and analysis.together == 1


def _others(goal: Goal, data: str | None, beside: Beside, size: tuple[int, int], context: JobContext) -> list[Start]:
    """Return what a picture could begin with: the best simple picture and the best real image."""
    key, found = key_of_goal(goal), []
    if key in beside.simple:
        simple, value = beside.simple[key].best(goal.sign)
        found.append(Start(value, simple.words, lambda: simple.paint(size)))
    if key in beside.real and data is not None:
        source = find_source(data, context.subject.data)
        ((index, value),) = beside.real[key].best(1, goal.sign)

        def load() -> Any:
            return load_batch(source, [index], context.model.preprocessing, size)[0]

        found.append(Start(value, f"the real image {shorten(source.names[index])}", load))
    return found
