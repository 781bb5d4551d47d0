"""What units do on real images: the measure of what a made picture reaches.

A unit's activation on an image is measured as it is optimized: a channel's mean over all positions, a neuron's at its
position, a layer's mean of squares, an objective's value. The images pass through ONNX Runtime, which is the fast way
without gradients.
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
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.analyses.stream import Values, measured, shard_bounds, stream
from onnxviz.core.findings import Array, Finding
from onnxviz.core.values import Target
from onnxviz.data.images import load_batch

if TYPE_CHECKING:
    from onnxviz.model.model import Model

STAGE = "real images"
"""What the jobs that measure are called."""
SHARD = 1000
"""Most images in one job."""
BATCH = 16
"""Most images that are read at a time."""
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


def real_jobs(found: Sequence[Goal], images: RealImages, subject: Subject) -> Iterator[tuple[Job, tuple[str, ...]]]:
    """Yield the jobs that measure, each with the keys of the goals that it measures.

    Args:
        found: what pictures are made for.
        images: what to measure on.
        subject: the model and its data.
    """
    groups = together([goal for goal in found if measurable(goal)], images.size, subject)
    shards = math.ceil(len(images.chosen) / SHARD)
    for number, (size, group) in enumerate(groups):
        layers = tuple(dict.fromkeys(layer for goal in group for layer in goal.wanted.layers()))
        sources = dict.fromkeys(
            (images.data, *(picture_of(name, subject.data)[0] for g in group for name in g.pictures))
        )
        larger = size[0] * size[1] / (images.own[0] * images.own[1])
        for shard, (start, stop) in enumerate(shard_bounds(len(images.chosen), shards)):
            part = images.chosen[start:stop]
            job = Job(
                name=f"{STAGE} {number + 1}/{len(groups)}" + (f" {shard + 1}/{shards}" if shards > 1 else ""),
                parameters={
                    "stage": STAGE,
                    "data": images.data,
                    "size": list(size),
                    "images": list(part),
                    "goals": [goal.to_data() for goal in group],
                },
                layers=layers,
                data=tuple(sources),
                cost=len(part) * larger,
                images=len(part),
                intermediate=True,
                bytes=storage.RECORD + storage.dense(len(part) * len(group)),
            )
            yield job, tuple(key_of_goal(goal) for goal in group)


def together(
    found: Sequence[Goal], size_of: Callable[[Goal], tuple[int, int]], subject: Subject
) -> list[tuple[tuple[int, int], list[Goal]]]:
    """Put goals together whose layers are computed in one pass, each activation once.

    Args:
        found: what is measured.
        size_of: at which height and width a goal is.
        subject: the model.
    """
    different = {key_of_goal(goal): goal for goal in found}
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


def _depth(goal: Goal, subject: Subject) -> int:
    return max(subject.view.layer(name).position for name in goal.wanted.layers())


def _elements(layer: str, subject: Subject) -> int:
    return math.prod(size or 1 for size in subject.view.layer(layer).shape[1:])


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_job(job: Job, context: JobContext) -> list[Finding]:
    """Measure the goals of a job on its images."""
    found = [Goal.of(entry) for entry in job.parameters["goals"]]
    images, size = list(job.parameters["images"]), tuple(job.parameters["size"])
    source = context.subject.data[job.parameters["data"]]
    measure = Measurer(context, found, (size[0], size[1]))
    batches = stream(context, source, images, measure.layers, size=measure.size, together=BATCH, note=STAGE)
    values = np.concatenate([measure.of(batch.pixels, batch.activations) for batch in batches])
    return [Array("real", "Activations on real images", {"values": values, "images": np.asarray(images)})]


class Measurer:
    """Measures goals on images of one size.

    Args:
        context: the model and the data that reference pictures are from.
        found: what to measure.
        size: height and width of the images in pixels.
        converted: by the converted network, on its device and as pictures are optimized, instead of by ONNX Runtime.
    """

    def __init__(
        self, context: JobContext, found: Sequence[Goal], size: tuple[int, int], *, converted: bool = False
    ) -> None:
        self.size, self._converted = size, converted
        self._model: Model = context.model
        self._goals = tuple(found)
        self.layers = tuple(dict.fromkeys(layer for goal in found for layer in goal.wanted.layers()))
        self._references = self._known(context)

    def __call__(self, images: Values) -> Values:
        """Return the activations.

        Args:
            images: RGB [N, 3, h, w] in 0..1.

        Returns:
            float32 [N, goals], without the goals' signs.
        """
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


def real_activations(context: JobContext, places: Mapping[str, Sequence[Any]]) -> dict[str, RealActivations]:
    """Return what the jobs that this one needs have measured.

    Args:
        context: holds what they found.
        places: goal's key -> [names of the jobs, column in their arrays, size].
    """
    found = {}
    for key, (names, column, size) in places.items():
        arrays = [finding.arrays for name in names for finding in context.found[name] if isinstance(finding, Array)]
        if len(arrays) != len(names):
            raise ValueError(f"{len(arrays)} of {len(names)} jobs found activations on real images")
        values = np.concatenate([part["values"][:, column] for part in arrays])
        found[key] = RealActivations(values, np.concatenate([part["images"] for part in arrays]), (size[0], size[1]))
    return found


@dataclass(frozen=True)
class Standing:
    """Where an activation stands among those on real images.

    Attributes:
        quantile: the share of real images that it exceeds in the direction asked for; equal ones count half.
        times: how many times the most extreme real one it is; None where that is 0 or has another sign.
        words: the same in words: "above all 206 images, 3.4 × the largest".
        brief: in fewer words: "above all 206, 3.4 ×".
    """

    quantile: float
    times: float | None
    words: str
    brief: str


def standing(value: float, real: Values, sign: int) -> Standing:
    """Say where an activation stands among those on real images.

    Args:
        value: of the made picture.
        real: [images], of real ones.
        sign: 1 where more is wanted, -1 where less.
    """
    wanted, others = sign * value, sign * real.astype(np.float64)
    below, same = float((others < wanted).mean()), float((others == wanted).mean())
    most, count = float(others.max()), len(others)
    side, extreme = ("above", "largest") if sign > 0 else ("below", "lowest")
    times = wanted / most if most > 0 and wanted > 0 else None
    if wanted > most:
        far = times is not None and times >= 1
        words = f"{side} all {count:,} images" + (f", {times:.3g} × the {extreme}" if far else "")
        return Standing(1.0, times, words, f"{side} all {count:,}" + (f", {times:.3g} ×" if far else ""))
    tie = f", as {'large as the largest' if sign > 0 else 'low as the lowest'}" if wanted == most else ""
    share = f"{math.floor(100 * below)} %" if below else "none"
    return Standing(below + same / 2, times, f"{side} {share} of {count:,} images{tie}", f"{side} {share} of {count:,}")
