"""Analyses of all images of a data set, in one pass or in several, each of which knows what those before it found.

The images are split into shards. Of a pass, a job for each shard says what is kept of its images, and one job joins
what the shards keep and concludes; the next pass' jobs are given that. Each job is stored, resumed and distributed like
any other. Where there is only one shard, one job does everything, and computes activations once if they are few.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from onnxviz.analyses.base import Analysis, ImageAnalysis, Job, JobContext, Subject
from onnxviz.analyses.stream import Activations, Batch, Rounds, rounds, told
from onnxviz.core import limits
from onnxviz.core.errors import AnalysisError
from onnxviz.core.findings import Finding
from onnxviz.core.values import Layer, Preprocessing
from onnxviz.data.images import ImageSource
from onnxviz.graph.view import GraphView

Partial = TypeVar("Partial")

SHARD_IMAGES = 1_000
"""Images in one shard: some minutes of work for a network of average size on a CPU."""


def shard_bounds(images: int, count: int) -> list[tuple[int, int]]:
    """Split images evenly: the first of each shard, and the first after it."""
    return [(shard * images // count, (shard + 1) * images // count) for shard in range(count)]


def shard_count(images: int, size: int | None, kept: int = 0) -> int:
    """Return the number of shards of at most `size` images, or a default: fewer where each keeps many bytes."""
    if size is not None:
        return math.ceil(images / size)
    return max(1, min(math.ceil(images / SHARD_IMAGES), limits.SHARDED_BYTES // max(1, kept)))


def map_size(view: GraphView, layer: Layer, size: tuple[int, int]) -> int:
    """Return the number of positions of a layer's maps; where the network does not say, at most the image's own."""
    height, width = layer.map_shape or (None, None)
    if height and width:
        return height * width
    rows, columns = size
    if (field := view.receptive_field(layer, size)) is not None:
        return len(field.rows) * len(field.columns)
    return (height or rows) * (width or columns)


class Pass(Generic[Partial]):
    """One look at every image: what is kept of a batch, how two of these are joined, what is concluded from all.

    A subclass gives `map` and `join`. What it keeps are dataclasses that the analysis' `results` names, and tuples of
    them, of counts, extremes and `ExactSum`s, so that the result is the same, bit by bit, whatever the batches and
    shards. `join` changes neither of the two. A pass is made anew for each job, and may remember things in it.
    """

    name: ClassVar[str] = "images"
    conclusion: ClassVar[str] = ""
    """Name of the job that concludes. A last pass without one leaves it to the analysis' `merge` to join its shards."""

    def map(self, batch: Batch, before: Sequence[Any]) -> Partial:
        """Return what is kept of some images; `before` has what each pass before this one has concluded."""
        raise NotImplementedError(type(self).__name__)

    def join(self, one: Partial, other: Partial) -> Partial:
        """Join what is kept of different images; in any order with the same result."""
        raise NotImplementedError(type(self).__name__)

    def fold(self, batches: Iterable[Batch], before: Sequence[Any]) -> Partial:
        """Return what is kept of all images of a shard, where adding to it is cheaper than to `map` and `join`."""
        return reduce(self.join, (self.map(batch, before) for batch in batches))

    def conclude(self, whole: Partial, before: Sequence[Any], last: LastLook) -> Any:  # noqa: ARG002 - for subclasses
        """Return what later passes are given of what is kept of all images; from the last pass a list of results."""
        return whole

    def order(self, images: Sequence[int]) -> Sequence[int]:
        """Return the images in the order in which they are looked at; an analysis' first pass says it for all."""
        return images

    def stored_bytes(self, images: int | None) -> int:  # noqa: ARG002 - for subclasses
        """Estimate, for the plan, what is stored of a shard of so many images; of the conclusion if that is None."""
        return 0

    def images_again(self) -> int:
        """Return, for the plan, of how many images the conclusion computes activations."""
        return 0


@dataclass(frozen=True)
class LastLook:
    """What a conclusion may go back to: `activations` of single images, by their indices, and the model."""

    activations: Callable[[int], Activations]
    context: JobContext


@dataclass(frozen=True, eq=False)
class ExactSum:
    """A sum of floats that is the same in whatever order and however many parts it is made.

    Each number is cut into whole multiples of powers of two, and these are added as integers: a reproducible summation
    (Demmel and Nguyen 2015) without a rounding before the end. What is below 2**-256 is left out of each number.

    Attributes:
        bins: int64 [bins, ...].
    """

    bins: npt.NDArray[np.int64]

    @classmethod
    def over_first_axis(cls, values: npt.NDArray[np.floating[Any]]) -> ExactSum:
        """Return the sums over the first axis.

        Raises:
            AnalysisError: if a number is not finite, or 2**384 or larger.
        """
        rest = np.asarray(values, np.float64)
        most = float(np.abs(rest).max(initial=0.0))
        if not most < 2.0**384:  # also where it is no number
            raise AnalysisError("the activations are not finite", remedy="check the model's preprocessing")
        bins = np.zeros((_BINS, *rest.shape[1:]), np.int64)
        for place in reversed(range(_BINS)):
            step = math.ldexp(1.0, _LOWEST + _BITS * place)
            if step <= most:
                whole = np.trunc(rest / step)
                bins[place] = whole.astype(np.int64).sum(axis=0)
                rest = rest - whole * step
        return cls(bins)

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.bins + other.bins)

    def values(self) -> npt.NDArray[np.float64]:
        """Return the sums, each rounded once."""
        columns = self.bins.reshape(_BINS, -1).T.tolist()
        whole = [sum(part << (_BITS * place) for place, part in enumerate(column)) for column in columns]
        return np.array([float(Fraction(one, 2**-_LOWEST)) for one in whole]).reshape(self.bins.shape[1:])


_LOWEST, _BITS, _BINS = -256, 32, 20


@dataclass(frozen=True, eq=False)
class Shard:
    """What a pass keeps of so many images, as a job returns it."""

    images: int
    kept: Any


class PassesOverImages(Analysis):
    """Base of analyses that look at each image of a data set in one or several passes; layers may be split into groups.

    A subclass gives `images_of`, `layer_groups` and `passes`, of which the last one concludes.
    """

    shard: int | None = Field(
        None,
        ge=1,
        description="Most images in one job: more are split into shards, which several workers can take at once, with "
        "the same result; if not given about 1,000, or more where shards keep very much.",
    )
    without_effect: ClassVar[frozenset[str]] = Analysis.without_effect | {"shard"}
    results: ClassVar[tuple[type, ...]] = (Shard, ExactSum)
    converted: ClassVar[bool] = False
    """Whether activations are those of the converted network instead of ONNX Runtime's."""

    @abstractmethod
    def images_of(self, subject: Subject) -> tuple[str, ImageSource, Sequence[int]]:
        """Return the data set's name, the data set, and which of its images are used."""

    @abstractmethod
    def layer_groups(self, subject: Subject) -> Sequence[Sequence[Layer]]:
        """Return the layers that are computed together, without torch: the same ones in all passes.

        ONNX Runtime fuses operators whose values nobody asks for, so that a layer's last bits may depend on which
        others are asked for with it.
        """

    @abstractmethod
    def passes(self, layers: Sequence[Layer], subject: Subject) -> Sequence[Pass[Any]]:
        """Return the passes over a group of layers, without torch and without reading an image."""

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """Return how images are brought to the model's size; `own` is the model's way."""
        return own

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan the passes over each group of layers."""
        data, _, images = self.images_of(subject)
        groups, count = self.layer_groups(subject), len(images)
        for number, layers in enumerate(groups):
            names = [layer.name for layer in layers]
            group = Job(f"layers {number + 1}/{len(groups)}", {"layers": names}, tuple(names), (data,))
            passes = self.passes(layers, subject)
            shards = shard_count(count, self.shard, max(each.stored_bytes(count) for each in passes))
            if shards == 1:
                sizes = [layer.unit_count * map_size(subject.view, layer, subject.input_size) for layer in layers]
                times = 1 if 4 * count * sum(sizes) <= limits.KEPT_ACTIVATION_BYTES else len(passes)
                size = passes[-1].stored_bytes(None if passes[-1].conclusion else count)
                yield replace(group, cost=float(times * count), images=count, bytes=size)
            else:
                yield from _jobs_of_shards(group, passes, shard_bounds(count, shards))

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Do all passes where there is one shard; else go over one shard's images, or conclude from all shards."""
        subject, number = context.subject, job.parameters.get("pass")
        passes = self.passes([subject.view.layer(name) for name in job.layers], subject)
        _, source, images = self.images_of(subject)
        bounds = job.parameters.get("images", [0, len(images)])
        order = passes[0].order(images)[slice(*bounds)] if bounds else ()
        keep, how = number is None and len(passes) > 1, self.preprocessing(context.model.preprocessing)
        with rounds(
            context, source, order, job.layers, preprocessing=how, converted=self.converted, keep=keep
        ) as batches:
            if number is None:
                return _all_passes(passes, batches, context)
            each, before = passes[number], [_found(name, context) for name in job.needs[:number]]
            if bounds:
                seen = told(batches, context.progress, 0, len(order), each.name)
                return [Shard(len(order), each.fold(seen, before))]
            # One shard after the other is read, and none is changed: another job may be given the same arrays.
            whole = reduce(each.join, (_found(name, context).kept for name in job.needs[number:]))
            concluded = each.conclude(whole, before, LastLook(batches.of, context))
            return list(concluded) if each is passes[-1] else [concluded]


def _jobs_of_shards(group: Job, passes: Sequence[Pass[Any]], bounds: Sequence[tuple[int, int]]) -> Iterator[Job]:
    """Yield the jobs that do the passes over a group of layers in shards."""
    layers, data = group.layers, group.data
    concluded: tuple[str, ...] = ()
    for number, each in enumerate(passes):
        place, last = {**group.parameters, "pass": number}, each is passes[-1]
        concludes = bool(each.conclusion) or not last
        names = [f"{group.name} {each.name} {shard + 1}/{len(bounds)}" for shard in range(len(bounds))]
        for name, (start, stop) in zip(names, bounds, strict=True):
            count, parameters = stop - start, {**place, "images": [start, stop]}
            size = each.stored_bytes(count)
            yield Job(name, parameters, layers, data, float(count), count, concluded, concludes, size)
        if concludes:
            name, parameters = f"{group.name} {each.conclusion or each.name + ' joined'}", {**place, "images": []}
            again, needs, size = each.images_again(), (*concluded, *names), each.stored_bytes(None)
            # No pass over images, but not quite nothing.
            yield Job(name, parameters, layers, data, float(max(1, again)), again, needs, not last, size)
            concluded = (*concluded, name)


def _all_passes(passes: Sequence[Pass[Any]], batches: Rounds, context: JobContext) -> list[Any]:
    """Do all passes over all images."""
    before: list[Any] = []
    count, quiet = len(batches.images), replace(context, progress=lambda *_: None)
    for number, each in enumerate(passes):
        seen = told(batches, context.progress, number * count, len(passes) * count, each.name)
        whole = each.fold(seen, before)
        if each is passes[-1] and not each.conclusion:
            return [Shard(count, whole)]
        before.append(each.conclude(whole, before, LastLook(batches.of, quiet)))
    return list(before[-1])


def _found(name: str, context: JobContext) -> Any:
    """Return the one result of a job that is needed."""
    found = context.found[name]
    if len(found) != 1:
        raise ValueError(f"{name}: {len(found)} results were found of 1")
    return found[0]


class ShardedAnalysis(ImageAnalysis, PassesOverImages, Generic[Partial]):
    """Base of analyses of chosen images, one pass over which is usually enough: an author says what is kept of a batch.

    A subclass gives `layers_of`, `map`, `join` (see `Pass`) and `finish`. One that needs several passes gives
    `layers_of` and `passes`, of which the last concludes with findings.
    """

    @abstractmethod
    def layers_of(self, subject: Subject) -> Sequence[Layer]:
        """Return the layers whose activations `map` is given, without torch."""

    def map(self, batch: Batch, subject: Subject) -> Partial:
        """Return what is kept of some images."""
        raise NotImplementedError(type(self).__name__)

    def join(self, one: Partial, other: Partial) -> Partial:
        """Join what is kept of different images; in any order with the same result."""
        raise NotImplementedError(type(self).__name__)

    def finish(self, whole: Partial, images: int, subject: Subject) -> list[Finding]:
        """Say what was found on so many images. No torch."""
        raise NotImplementedError(type(self).__name__)

    def images_of(self, subject: Subject) -> tuple[str, ImageSource, Sequence[int]]:
        """Return the chosen images."""
        return self.data, *self.chosen_images(subject)

    def layer_groups(self, subject: Subject) -> Sequence[Sequence[Layer]]:
        """Return all layers as one group."""
        return [self.layers_of(subject)]

    def passes(self, layers: Sequence[Layer], subject: Subject) -> Sequence[Pass[Any]]:  # noqa: ARG002 - for subclasses
        """Return the one pass that `map` and `join` are."""
        return [_OnlyPass(self, subject)]

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Say what was found, and on how many of the images."""
        shards = [one for one in found if isinstance(one, Shard)]
        said = [one for one in found if not isinstance(one, Shard)]
        used = len(self.chosen_images(subject)[1]) if said else sum(shard.images for shard in shards)
        if shards:
            join = self.passes(self.layers_of(subject), subject)[-1].join
            said = self.finish(reduce(join, (shard.kept for shard in shards)), used, subject)
        return [*said, self.image_coverage(used, "in jobs that failed", subject)]


@dataclass(frozen=True)
class _OnlyPass(Pass[Partial]):
    """The pass of an analysis that has one."""

    analysis: ShardedAnalysis[Partial]
    subject: Subject

    def map(self, batch: Batch, before: Sequence[Any]) -> Partial:  # noqa: ARG002 - nothing was before
        return self.analysis.map(batch, self.subject)

    def join(self, one: Partial, other: Partial) -> Partial:
        return self.analysis.join(one, other)
