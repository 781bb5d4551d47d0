"""The ascent of a job's pictures: from noise, and once more from what beats what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.activation_maximization.goals import Goal, are_classes, picture_of
from onnxviz.analyses.activation_maximization.measurements import Beside, key_of_goal, reference_pictures
from onnxviz.analyses.base import JobContext
from onnxviz.core.errors import DataError, shorten
from onnxviz.data.generator_file import generator_file
from onnxviz.data.image_choice import find_source
from onnxviz.data.images import load_batch
from onnxviz.optimize.ascent import Maximized, maximize

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
    from onnxviz.optimize.generators import GeneratorNetwork
    from onnxviz.optimize.settings import AscentSettings

_AGAIN = 0.02
"""By what share of the other's activation it has to fall short for another ascent to be worth its time."""
_OF_EACH = ("images", "curves", "after", "start_gain", "taken", "importance")
"""What differs where a picture is made again."""

Values = npt.NDArray[np.float32]


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


def make(
    analysis: ActivationMaximization,
    settings: AscentSettings,
    found: Sequence[Goal],
    seeds: Sequence[int],
    beside: Beside,
    context: JobContext,
) -> tuple[Maximized, list[str]]:
    """Run the loop; return the pictures, and for each what it was begun with if not as the recipe says, else ""."""
    begin = analysis.begin
    starts = None
    if not isinstance(begin, str):
        _, source, index = picture_of(begin.name, context.subject.data)
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
    """Whether pictures can begin with other ones, alone, and what they begin with is not the recipe's choice."""
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


def made_again(
    made: Maximized,
    signs: Sequence[int],
    starts: Sequence[Sequence[Start]],
    optimize_batch: Callable[[Sequence[int], Sequence[Values]], Maximized],
) -> tuple[Maximized, list[str]]:
    """Begin pictures that fall far short of something simpler again, with that; keep the better of both.

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
    arrays = {name: getattr(made, name).copy() for name in _OF_EACH}
    for row, (place, start) in enumerate(chosen.items()):
        if signs[place] * (float(again.after[row]) - float(made.after[place])) <= 0:
            continue
        begun[place] = start.words
        for name, array in arrays.items():
            array[place] = getattr(again, name)[row]
    return replace(made, **arrays), begun


def opened_generator(name: str, data: Mapping[str, Any], device: torch.device) -> GeneratorNetwork:
    """Open a generator of the recipe's data on a device.

    Raises:
        DataError: if there is none, or it is no longer the one that the results are stored under.
    """
    from onnxviz.model.model import load
    from onnxviz.optimize.generators import open_generator

    file = generator_file(name, data)
    model = load(file.path, device=device)
    if model.view.digest != file.digest:
        raise DataError(
            "was changed since the run was planned",
            where=f"data {shorten(name)!r}",
            remedy="run the same command again: what is done is kept",
        )
    return open_generator(model)
