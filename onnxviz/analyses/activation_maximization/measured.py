"""What the model itself makes of finished pictures: their classes, and their units' activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxviz.analyses.activation_maximization.goals import Goal
from onnxviz.analyses.activation_maximization.real_activations import Measurer, RealActivations, key_of_goal
from onnxviz.analyses.base import JobContext
from onnxviz.core.errors import SelectionError
from onnxviz.graph.targets import class_of


def certainties(
    images: np.ndarray, found: Sequence[Goal], context: JobContext
) -> list[tuple[float | None, bool | None]]:
    """Return the probability that the model gives each image's class, and whether it is the first choice."""
    view = context.subject.view
    classes = [
        None if goal.unit is None else class_of(view.layer(goal.unit.layer), goal.unit.index, goal.sign, view)
        for goal in found
    ]
    if all(number is None for number in classes):
        return [(None, None)] * len(found)
    try:
        probabilities = context.model.probabilities(_filled(images, context))[: len(images)]
    except SelectionError:  # one class for each position, none for the picture; or scores without probabilities
        return [(None, None)] * len(found)
    chooses = view.main_head is not None and view.main_head.has_choice
    return [
        (float(line[number]), int(line.argmax()) == number if chooses else None)
        if number is not None and number < len(line)
        else (None, None)
        for line, number in zip(probabilities, classes, strict=True)
    ]


def _filled(images: np.ndarray, context: JobContext) -> np.ndarray:
    """Repeat the last image until a model that takes so many at a time has enough."""
    missing = -len(images) % (context.model.view.batch or 1)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def own_activations(
    images: np.ndarray, found: Sequence[Goal], real: Mapping[str, RealActivations], context: JobContext
) -> list[float | None]:
    """Return every picture's own activation, measured as on real images; None where those were not measured."""
    wanted = {key: goal for goal in found if (key := key_of_goal(goal)) in real}
    if not wanted:
        return [None] * len(found)
    values = Measurer(context, list(wanted.values()), (images.shape[2], images.shape[3]))(images)
    columns = {key: column for column, key in enumerate(wanted)}
    places = [columns.get(key_of_goal(goal)) for goal in found]
    return [None if column is None else float(values[index, column]) for index, column in enumerate(places)]
