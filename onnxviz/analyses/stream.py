"""Analyses of all images of a data set in one pass: batches, shards, and sums that do not depend on either."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from onnxviz.analyses.base import ImageAnalysis, Job, JobContext, Subject
from onnxviz.core.errors import AnalysisError
from onnxviz.core.findings import Coverage, Finding
from onnxviz.core.values import Layer, Preprocessing
from onnxviz.data.images import ImageSource
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.model.batches import filled, micro_batch

if TYPE_CHECKING:
    from onnxviz.model.model import Model

Values = npt.NDArray[np.float32]
Partial = TypeVar("Partial")

SHARD_IMAGES = 1_000
"""Images in one shard: some minutes of work for a network of average size on a CPU."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images on their way through a model.

    Attributes:
        images: their indices in the data set.
        pixels: RGB in 0..1 as the model sees them, float32 [N, 3, h, w].
        activations: by layer name, float32 [N, units, *spatial].
    """

    images: tuple[int, ...]
    pixels: Values
    activations: Mapping[str, Values]


def shard_bounds(images: int, count: int) -> list[tuple[int, int]]:
    """Split images evenly: the first of each shard, and the first after it."""
    return [(shard * images // count, (shard + 1) * images // count) for shard in range(count)]


def stream(
    context: JobContext,
    source: ImageSource,
    images: Sequence[int],
    layers: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    together: int | None = None,
    converted: bool = False,
    note: str = "",
) -> Iterator[Batch]:
    """Yield images with their activations at some layers, batch by batch; the next ones are decoded meanwhile.

    Memory does not grow with the number of images, and each is what it would be in any other batch: that of ONNX
    Runtime to the last bit, that of the converted network but for rounding.

    Args:
        context: the model; told of each batch that is done, after the caller has come back for the next one.
        source: the data set.
        images: indices, in the order wanted.
        layers: names of the layers, all computed in one pass.
        size: height and width in pixels; the model's own if None.
        preprocessing: how images are brought to that size; the model's own if None.
        together: images in a batch; as many as stay small in memory if None.
        converted: whether to compute by the converted network, on its device, instead of by ONNX Runtime.
        note: what is being done, for progress.

    Raises:
        DataError: if an image cannot be read or does not fit.
        MemoryLimitError: if memory does not suffice, even for one image at a time.
    """
    model, size = context.model, size or context.model.input_size
    if together is None:
        together = micro_batch(model.view, model.input_size, size, model.resolve(layers))
    with ReadAhead(source, images, preprocessing or model.preprocessing, size) as read:
        for start in range(0, len(images), together):
            part = tuple(images[start : start + together])
            pixels = read(part)
            yield Batch(part, pixels, measured(model, pixels, layers, converted=converted, kept=False))
            context.progress(start + len(part), len(images), note)


def measured(
    model: Model, images: Values, layers: Sequence[str], *, converted: bool = False, kept: bool = True
) -> Mapping[str, Values]:
    """Return activations on RGB images [N, 3, h, w] in 0..1, by ONNX Runtime or on its device by the converted network.

    A model that takes so many images at a time gets the last one again. `kept`: the result outlives the next call.
    """
    padded = filled(images, model.view.batch)
    if not converted:
        found = model.measure(padded, layers, kept=kept)
        return {name: values[: len(images)] for name, values in found.items()}
    tensors = model.activations(padded, layers)
    return {name: values[: len(images)].float().cpu().numpy() for name, values in tensors.items()}


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
    """What a job of a `ShardedAnalysis` found.

    Attributes:
        images: number of images that it rests on.
        kept: what the analysis keeps of them.
    """

    images: int
    kept: Any


class ShardedAnalysis(ImageAnalysis, Generic[Partial]):
    """Base of analyses that look at each image of a data set once: an author says what is kept of a batch.

    A subclass gives `layers_of`, `map`, `join` and `finish`. What it keeps is a dataclass that its `results` names, of
    counts, extremes and `ExactSum`s, so that the result is the same, bit by bit, whatever the batches and shards.
    """

    shard: int = Field(
        SHARD_IMAGES, ge=1, description="Most images in one job; several workers can take jobs, with the same result."
    )
    without_effect: ClassVar[frozenset[str]] = ImageAnalysis.without_effect | {"shard"}
    results: ClassVar[tuple[type, ...]] = (Shard, ExactSum)
    converted: ClassVar[bool] = False
    """Whether activations are those of the converted network instead of ONNX Runtime's."""

    @abstractmethod
    def layers_of(self, subject: Subject) -> Sequence[Layer]:
        """Return the layers whose activations `map` is given, without torch."""

    @abstractmethod
    def map(self, batch: Batch, subject: Subject) -> Partial:
        """Return what is kept of some images."""

    @abstractmethod
    def join(self, one: Partial, other: Partial) -> Partial:
        """Join what is kept of different images; in any order with the same result."""

    @abstractmethod
    def finish(self, whole: Partial, images: int, subject: Subject) -> list[Finding]:
        """Say what was found on so many images. No torch."""

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan a job for each shard."""
        _, chosen = self.chosen_images(subject)
        layers = tuple(layer.name for layer in self.layers_of(subject))
        bounds = shard_bounds(len(chosen), math.ceil(len(chosen) / self.shard))
        for number, (start, stop) in enumerate(bounds):
            yield Job(
                f"images {number + 1}/{len(bounds)}",
                {"images": [start, stop]},
                layers,
                (self.data,),
                cost=float(stop - start),
                images=stop - start,
            )

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Go over the images of one shard."""
        source, chosen = self.chosen_images(context.subject)
        images = chosen[slice(*job.parameters["images"])]
        batches = stream(context, source, images, job.layers, converted=self.converted)
        return [Shard(len(images), reduce(self.join, (self.map(batch, context.subject) for batch in batches)))]

    def merge(self, parts: Sequence[list[Any]]) -> list[Any]:
        """Join what was kept of the shards."""
        shards: list[Shard] = [shard for part in parts for shard in part]
        whole = reduce(self.join, (shard.kept for shard in shards)) if shards else None
        return [Shard(sum(shard.images for shard in shards), whole)] if shards else []

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Say what was found, and on how many of the images."""
        source, chosen = self.chosen_images(subject)
        used, wanted = sum(shard.images for shard in found), len(chosen)
        why = ["chosen by `images` and `limit`"] if wanted < len(source) else []
        why += [f"the jobs of {wanted - used} failed"] if used < wanted else []
        said = [finding for shard in found for finding in self.finish(shard.kept, shard.images, subject)]
        return [*said, Coverage("images", used, len(source), "; ".join(why), "coverage.images")]
