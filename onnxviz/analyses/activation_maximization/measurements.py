"""What units do on real images and on simple pictures: the measure of what a made picture reaches.

A unit's activation is measured as it is optimized: a channel's mean over all positions, a neuron's at its position, a
layer's mean of squares, an objective's value. Real images pass through ONNX Runtime, which is the fast way without
gradients; simple pictures are measured as the made ones are, by the converted network, at their size, without random
views. One pass gives all units of a layer.

Real images are gone over as `analyses/sharding` does it, by the same shards and rounds, but not by one of its passes: a
pass joins what it keeps into something of one size, while here the activations on every image are kept, of goals that
come with the job, and each job that makes pictures takes those of its own goals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxviz.analyses import storage
from onnxviz.analyses.activation_maximization.goals import Goal, picture_of
from onnxviz.analyses.activation_maximization.simple_pictures import SimplePicture, simple_pictures
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.analyses.sharding import shard_bounds, shard_count
from onnxviz.analyses.stream import Values, measured, rounds, told
from onnxviz.core.errors import SelectionError
from onnxviz.core.values import Target
from onnxviz.data.domains import domain_of
from onnxviz.data.images import load_batch
from onnxviz.graph.targets import class_of
from onnxviz.model.batches import filled

if TYPE_CHECKING:
    from onnxviz.model.model import Model

STAGE = "real images"
SIMPLE = "simple pictures"
"""What the jobs that measure are called."""
BATCH = 16
"""Most simple pictures in a pass."""
_LAYERS = 16
"""Most layers in one job: each keeps its activations of a batch until they are measured."""
_ALIVE_BYTES = 256 << 20
"""Most that the activations of a batch may take, by the shapes that the model declares."""


def measurable(goal: Goal) -> bool:
    """Return whether a single image has a value: differences between images of a set need several."""
    return goal.wanted.least_group() == 1


def key_of_goal(goal: Goal) -> str:
    """Return what two goals have in common that are the same activation, whatever their direction."""
    if goal.target is not None:
        target = goal.target
        return json.dumps([target.layer, target.unit, target.position])
    return json.dumps(goal.to_data()["objective"], sort_keys=True)


@dataclass(frozen=True)
class RealImages:
    """Which images are measured, and at which size.

    Attributes:
        data: the data set's name.
        chosen: the images' indices.
        found: how many images the data set has.
        own: height and width in pixels that the model is made for.
        made: height and width of the made pictures.
    """

    data: str
    chosen: tuple[int, ...]
    found: int
    own: tuple[int, int]
    made: tuple[int, int]

    def size(self, goal: Goal) -> tuple[int, int]:
        """Return the size at which images are measured: the model's own, at which it is used.

        A position that was named, and an objective, which may name one or compare with a picture, mean the size of the
        made pictures.
        """
        return self.made if goal.target is None or goal.target.position else self.own


# --- jobs -----------------------------------------------------------------------------------------------------------


def real_jobs(found: Sequence[Goal], images: RealImages, subject: Subject) -> Iterator[Job]:
    """Yield the jobs that measure real images."""
    groups = _together(found, images.size, subject)
    shards = shard_count(len(images.chosen), None)
    for number, (size, group) in enumerate(groups):
        larger = size[0] * size[1] / (images.own[0] * images.own[1])
        for shard, (start, stop) in enumerate(shard_bounds(len(images.chosen), shards)):
            part = images.chosen[start:stop]
            name = f"{STAGE} {number + 1}/{len(groups)}" + (f" {shard + 1}/{shards}" if shards > 1 else "")
            parameters = {"stage": STAGE, "data": images.data, "size": list(size), "images": list(part)}
            yield _job(name, parameters, group, len(part), len(part) * larger, subject)


def simple_jobs(found: Sequence[Goal], size: tuple[int, int], subject: Subject) -> Iterator[Job]:
    """Yield the jobs that measure simple pictures of the made ones' size."""
    view, own = subject.view, subject.input_size
    count = len(_tried(subject))
    groups = _together(found, lambda _: size, subject)
    for number, (_, group) in enumerate(groups):
        share = view.share_of_work([view.layer(layer) for layer in _layers_of(group)], own)
        cost = count * share * size[0] * size[1] / (own[0] * own[1])
        parameters = {"stage": SIMPLE, "size": list(size)}
        yield _job(f"{SIMPLE} {number + 1}/{len(groups)}", parameters, group, count, cost, subject)


def _job(
    name: str, parameters: Mapping[str, Any], group: Sequence[Goal], images: int, cost: float, subject: Subject
) -> Job:
    """Return the job that measures some goals on so many images."""
    sources = [parameters["data"]] if "data" in parameters else []
    sources += [picture_of(picture, subject.data)[0] for goal in group for picture in goal.pictures]
    return Job(
        name=name,
        parameters={
            **parameters,
            "goals": [goal.to_data() for goal in group],
            "keys": [key_of_goal(goal) for goal in group],
        },
        layers=_layers_of(group),
        data=tuple(dict.fromkeys(sources)),
        cost=cost,
        images=images,
        intermediate=True,
        bytes=storage.RECORD + storage.dense(images * len(group)),
    )


def _together(
    found: Sequence[Goal], size_of: Callable[[Goal], tuple[int, int]], subject: Subject
) -> list[tuple[tuple[int, int], list[Goal]]]:
    """Put measurable goals together whose layers are computed in one pass, each activation once."""
    different = {key_of_goal(goal): goal for goal in found if measurable(goal)}
    order = sorted(different.values(), key=lambda goal: (size_of(goal), _depth(goal, subject)))
    groups: list[tuple[tuple[int, int], list[Goal]]] = []
    layers: set[str] = set()
    for goal in order:
        size, alive = size_of(goal), layers | set(goal.wanted.layers())
        bytes_alive = 4 * BATCH * sum(_elements(name, subject) for name in alive)
        full = len(alive) > _LAYERS or bytes_alive > _ALIVE_BYTES
        if not groups or groups[-1][0] != size or (full and alive != layers):
            groups.append((size, []))
            alive = set(goal.wanted.layers())
        groups[-1][1].append(goal)
        layers = alive
    return groups


def _layers_of(group: Sequence[Goal]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for goal in group for layer in goal.wanted.layers()))


def _depth(goal: Goal, subject: Subject) -> int:
    return max(subject.view.layer(name).position for name in goal.wanted.layers())


def _elements(layer: str, subject: Subject) -> int:
    return math.prod(size or 1 for size in subject.view.layer(layer).shape[1:])


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_real(job: Job, context: JobContext) -> Measured:
    """Measure the goals of a job on its images."""
    images, measure = list(job.parameters["images"]), _measurer(job, context)
    source = context.subject.data[job.parameters["data"]]
    with rounds(context, source, images, measure.layers, size=measure.size) as batches:
        seen = told(batches, context.progress, 0, len(images), STAGE)
        values = np.concatenate([measure.of(batch.pixels, batch.activations) for batch in seen])
    return Measured(STAGE, tuple(job.parameters["keys"]), values, np.asarray(images), measure.size)


def measure_simple(job: Job, context: JobContext) -> Measured:
    """Measure the goals of a job on the simple pictures."""
    measure = _measurer(job, context, converted=True)
    tried, size, own = _tried(context.subject), measure.size, context.subject.input_size
    batch = max(1, min(BATCH, BATCH * own[0] * own[1] // (size[0] * size[1])))  # large pictures take more memory
    parts = []
    for start in range(0, len(tried), batch):
        parts.append(measure(np.stack([simple.paint(size) for simple in tried[start : start + batch]])))
        context.progress(min(start + batch, len(tried)), len(tried), SIMPLE)
    return Measured(SIMPLE, tuple(job.parameters["keys"]), np.concatenate(parts), np.zeros(0, np.int64), size)


def _measurer(job: Job, context: JobContext, *, converted: bool = False) -> Measurer:
    height, width = job.parameters["size"]
    found = [Goal.of(entry) for entry in job.parameters["goals"]]
    return Measurer(context, found, (int(height), int(width)), converted=converted)


def _tried(subject: Subject) -> tuple[SimplePicture, ...]:
    domain = domain_of(subject.preprocessing)
    return simple_pictures(domain.planes, domain.photographic)


class Measurer:
    """Measures goals on images of one size; where `converted`, by the converted network as pictures are optimized."""

    def __init__(
        self, context: JobContext, found: Sequence[Goal], size: tuple[int, int], *, converted: bool = False
    ) -> None:
        self.size, self._converted = size, converted
        self._model: Model = context.model
        self._goals = tuple(found)
        self.layers = _layers_of(found)
        self._references = self._known(context)

    def __call__(self, images: Values) -> Values:
        """Return the activations on RGB images [N, 3, h, w] in 0..1, float32 [N, goals], without the goals' signs."""
        return self.of(images, measured(self._model, images, self.layers, converted=self._converted))

    def of(self, images: Values, activations: Mapping[str, Values]) -> Values:
        """Return the same of images whose activations at `layers` are known."""
        values = np.empty((len(images), len(self._goals)), np.float32)
        means: dict[str, Values] = {}
        for column, goal in enumerate(self._goals):
            if goal.target is not None:
                values[:, column] = _of_target(goal.target, activations[goal.target.layer], means)
            else:
                values[:, column] = self._of_objective(goal, images, activations)
        return values

    def _of_objective(self, goal: Goal, images: Values, activations: Mapping[str, Values]) -> Values:
        import torch

        from onnxviz.optimize.objectives import ObjectiveContext, Seen, bind

        objective = goal.wanted
        chosen = {name: torch.from_numpy(np.ascontiguousarray(activations[name])) for name in objective.layers()}
        view = self._model.view
        place = ObjectiveContext(
            device=torch.device("cpu"),
            group=1,
            shapes={name: tuple(values.shape[1:]) for name, values in chosen.items()},
            layers={name: view.layer(name) for name in chosen},
            references=self._references,
        )
        with torch.no_grad():
            measure = bind([objective] * len(images), place)
            return np.asarray(measure(Seen(torch.from_numpy(images), chosen)).numpy(), np.float32)

    def _known(self, context: JobContext) -> dict[tuple[str, str | None], Any]:
        """Return what the objectives need of their reference pictures."""
        pairs = dict.fromkeys(pair for goal in self._goals for pair in goal.wanted.references())
        if not pairs:
            return {}
        import torch

        pictures = reference_pictures(self._goals, context, self.size)
        layers = tuple(dict.fromkeys(layer for _, layer in pairs if layer is not None))
        known: dict[tuple[str, str | None], Any] = {}
        for name in dict.fromkeys(picture for picture, _ in pairs):
            found = self._reference(pictures[name], layers)
            for layer in (layer for picture, layer in pairs if picture == name):
                known[name, layer] = torch.from_numpy(pictures[name] if layer is None else found[layer])
        return known

    def _reference(self, picture: Values, layers: Sequence[str]) -> Mapping[str, Values]:
        found = measured(self._model, picture[None], layers, converted=self._converted) if layers else {}
        return {name: np.ascontiguousarray(values[0]) for name, values in found.items()}


def reference_pictures(found: Sequence[Goal], context: JobContext, size: tuple[int, int]) -> dict[str, Values]:
    """Return the goals' reference pictures by name, RGB [3, h, w] in 0..1, fitted as the model's images are."""
    pictures = {}
    for name in dict.fromkeys(picture for goal in found for picture in goal.pictures):
        _, source, index = picture_of(name, context.subject.data)
        pictures[name] = load_batch(source, [index], context.model.preprocessing, size)[0]
    return pictures


def _of_target(target: Target, values: Values, means: dict[str, Values]) -> Values:
    """Return [N], the activation of a target, given its layer's [N, units, *spatial]."""
    if target.unit is None:
        squares = np.square(values.reshape(len(values), -1), dtype=np.float64)
        return np.asarray(squares.mean(axis=1), np.float32)
    if target.position is None:
        if target.layer not in means:  # once for all its units
            units = values.reshape(*values.shape[:2], -1)
            means[target.layer] = np.asarray(units.mean(axis=2, dtype=np.float64), np.float32)
        return means[target.layer][:, target.unit]
    position = target.position or tuple(size // 2 for size in values.shape[2:])
    chosen = values[:, target.unit]
    for place in position:
        chosen = chosen[:, place]
    return np.asarray(chosen, np.float32)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RealActivations:
    """One goal's activations on real images.

    Attributes:
        values: float32 [images].
        images: the images' indices in their data set.
        size: height and width in pixels at which they were measured.
    """

    values: Values
    images: npt.NDArray[np.int64]
    size: tuple[int, int]

    def best(self, count: int, sign: int) -> list[tuple[int, float]]:
        """Return the images of highest activation, or lowest for a sign of -1: (index, activation), the first first."""
        order = np.argsort(-sign * self.values.astype(np.float64), kind="stable")[:count]
        return [(int(self.images[place]), float(self.values[place])) for place in order]


@dataclass(frozen=True, eq=False)
class SimpleActivations:
    """One goal's activations, float32 [pictures], on the simple pictures that were tried."""

    values: Values
    tried: tuple[SimplePicture, ...]

    def is_of_color(self, sign: int) -> bool:
        """Return whether a plain colour excites the unit more than every grating does, or less for a sign of -1."""
        plain = np.array([simple.other is None for simple in self.tried])
        wanted = sign * self.values
        return bool(wanted[plain].max() > wanted[~plain].max())

    def best(self, sign: int) -> tuple[SimplePicture, float]:
        """Return the picture of highest activation, or lowest for a sign of -1, and the activation."""
        place = int(np.argmax(sign * self.values))
        return self.tried[place], float(self.values[place])


@dataclass(frozen=True, eq=False)
class Measured:
    """What a job has measured.

    Attributes:
        stage: on which images: `STAGE` or `SIMPLE`.
        keys: of the goals.
        values: float32 [images, goals].
        images: the real images' indices in their data set.
        size: height and width in pixels.
    """

    stage: str
    keys: tuple[str, ...]
    values: Values
    images: npt.NDArray[np.int64]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Beside:
    """What the jobs before have measured, by the goals' keys, on real images and on plain colours and gratings."""

    real: Mapping[str, RealActivations]
    simple: Mapping[str, SimpleActivations]

    @classmethod
    def of(cls, context: JobContext) -> Beside:
        """Read what the jobs that this one needs have found; parts of a data set are joined in their order."""
        parts: dict[str, list[Measured]] = {}
        tried, simple = _tried(context.subject), {}
        for name, found in context.found.items():
            measured = [one for one in found if isinstance(one, Measured)]
            if not measured and name.startswith((STAGE, SIMPLE)):
                raise ValueError(f"{name}: 0 of 1 jobs found activations")
            for one in measured:
                for column, key in enumerate(one.keys):
                    if one.stage == STAGE:
                        parts.setdefault(key, []).append(one)
                    else:
                        simple[key] = SimpleActivations(one.values[:, column], tried)
        real = {}
        for key, shards in parts.items():
            values = np.concatenate([one.values[:, one.keys.index(key)] for one in shards])
            real[key] = RealActivations(values, np.concatenate([one.images for one in shards]), shards[0].size)
        return cls(real, simple)


# --- what the model itself makes of finished pictures ---------------------------------------------------------------


def certainties(images: Values, found: Sequence[Goal], context: JobContext) -> list[tuple[float | None, bool | None]]:
    """Return the probability that the model gives each image's class, and whether it is the first choice."""
    view = context.subject.view
    classes = [
        None if goal.unit is None else class_of(view.layer(goal.unit.layer), goal.unit.index, goal.sign, view)
        for goal in found
    ]
    if all(number is None for number in classes):
        return [(None, None)] * len(found)
    try:
        probabilities = context.model.probabilities(filled(images, view.batch))[: len(images)]
    except SelectionError:  # one class for each position, none for the picture; or scores without probabilities
        return [(None, None)] * len(found)
    chooses = view.main_head is not None and view.main_head.has_choice
    return [
        (float(line[number]), int(line.argmax()) == number if chooses else None)
        if number is not None and number < len(line)
        else (None, None)
        for line, number in zip(probabilities, classes, strict=True)
    ]


def own_activations(
    images: Values, found: Sequence[Goal], real: Mapping[str, RealActivations], context: JobContext
) -> list[float | None]:
    """Return every picture's own activation, measured as on real images; None where those were not measured."""
    wanted = {key: goal for goal in found if (key := key_of_goal(goal)) in real}
    if not wanted:
        return [None] * len(found)
    values = Measurer(context, list(wanted.values()), (images.shape[2], images.shape[3]))(images)
    columns = {key: column for column, key in enumerate(wanted)}
    places = [columns.get(key_of_goal(goal)) for goal in found]
    return [None if column is None else float(values[index, column]) for index, column in enumerate(places)]
