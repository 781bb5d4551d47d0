"""Base of analyses that explain scores of images: which images, classes and layers, and how they share passes."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field, StrictInt, field_validator

from onnxviz.analyses import explained_score, storage
from onnxviz.analyses.base import ImageAnalysis, Job, JobContext, LayerSelector, Subject
from onnxviz.core.errors import AnalysisError, SelectionError, nearest, shorten
from onnxviz.core.findings import Coverage, Finding
from onnxviz.core.values import Layer
from onnxviz.core.wording import listed
from onnxviz.data.image_choice import find_source
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.graph.targets import UnitChoice, class_indices, resolve_head
from onnxviz.model.batches import choose_batch, gradient_bytes, named_memory_limit, run_batches

if TYPE_CHECKING:
    import numpy as np

    from onnxviz.graph.model_output import Head
    from onnxviz.graph.view import GraphView

TOP = re.compile(r"top:([1-9]\d{0,3})")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LIMIT = 24
_TOGETHER = 8
"""Images that share a pass where there are as many: small networks take half the time, and large ones no more."""
_JOBS, _MOST_PASSES = 16, 8
"""Jobs into which many images are split at least, for workers to share; and most passes of a job, which keeps all its
pictures until it ends."""
_PARAMETERS = ("images", "classes", "own_classes", "shown", "judged")
_FEWER_LAYERS = "choose fewer layers: the maps of all come from one pass; or raise the memory limit"


@dataclass(frozen=True)
class Wanted:
    """An image to explain: classes by number, or how many of the highest scores; `own` is what it is known to show.

    `shown`: its maps are drawn; else only what is counted is wanted. `judged`: it is measured whether to believe them.
    """

    index: int
    name: str
    classes: Sequence[int] | int
    own: int | None
    shown: bool = True
    judged: bool = False


Explainer: TypeAlias = "Callable[[np.ndarray, Sequence[Wanted]], list[Any]]"
"""Finds one result for each of some images, of RGB in 0..1, float32 [N, 3, h, w]; images behind them fill the pass."""


class ImageExplanation(ImageAnalysis):
    """Base of analyses of the scores of chosen images: a subclass says what finds out about a batch (`explainer`)."""

    layers: LayerSelector = Field(
        "block_outputs",
        description="Layers with a map of positions; others are left out. `block_outputs` are those behind the sums or "
        "concatenations of blocks, the last of them `last_map`, before the head; tokens of patches are a map.",
    )
    value: Literal["activation", "convolution"] = Field(
        "activation",
        description="What a convolution stands for: what leaves the normalisation and activation behind it (the "
        "rectified feature maps of the paper), or its own output. Other layers are taken as they are.",
    )
    limit: int = Field(_LIMIT, ge=1, description="Most images to use, spread evenly over those chosen.")
    classes: StrictInt | str | list[StrictInt | str] = Field(
        "top:3",
        description="`top:N` for the N classes of highest logit in each image (of a map of classes those predicted at "
        "most positions), `label` for the image's own class, or class names and indices.",
    )
    score: str | None = Field(
        None,
        description="What is explained: an output by its name, or any layer, whose units are then the scores; the "
        "model's own classes if not given. `classes` counts its classes or units.",
    )
    positions: explained_score.Positions = Field(
        "mean", description="Where a score has positions: their mean (a segmentation), or the highest (a detector)."
    )

    @property
    def method_name(self) -> str:
        """What the method is called in sentences."""
        return self.heading or type(self).__name__

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the data sets that a job reads."""
        return (self.data,)

    @property
    def shows_layers(self) -> bool:
        """Whether maps of layers are made."""
        return True

    @property
    def needs_gradients(self) -> bool:
        """Whether the network has to convert."""
        return True

    @abstractmethod
    def explainer(self, context: JobContext, layers: Sequence[tuple[str, Layer]], job: Job) -> Explainer:
        """Return what finds out about a batch of images: made once for each job.

        Args:
            context: the model.
            layers: the layers with their headings.
            job: it.
        """

    def shown_images(self, chosen: Sequence[int]) -> frozenset[int]:
        """Return the images whose maps are drawn."""
        return frozenset(chosen)

    def judged_images(self, chosen: Sequence[int]) -> frozenset[int]:  # noqa: ARG002 - for subclasses
        """Return the images of which it is measured whether their maps are to be believed."""
        return frozenset()

    def cost_of(self, classes: int, layers: int) -> float:  # noqa: ARG002 - for subclasses
        """Estimate what one image takes, in forward passes."""
        return 1.0 + 2.0 * classes

    def judging_cost(self, layers: int) -> float:  # noqa: ARG002 - for subclasses
        """Estimate what it takes to measure whether to believe the maps of an image, in forward passes."""
        return 0.0

    def pictures_of(self, classes: int, layers: int) -> int:
        """Say how many pictures are made of one image."""
        return 2 * classes * layers

    @abstractmethod
    def bytes_of(self, subject: Subject, layers: Sequence[Layer], classes: int) -> int:
        """Estimate what is stored of one image."""

    @field_validator("classes")
    @classmethod
    def _require_a_class(cls, value: object) -> object:
        if isinstance(value, list) and not value:
            raise ValueError("an empty list names no class")
        if isinstance(value, str) and value.startswith("top:") and not TOP.fullmatch(value):
            raise ValueError("write top:3 for the three classes of highest logit")
        return value

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan a job for every few images; few images are computed one by one, many share their passes."""
        _, chosen = self.chosen_images(subject)
        yield from self.jobs_of(chosen, subject, self.shown_images(chosen), self.judged_images(chosen))

    def jobs_of(
        self, chosen: Sequence[int], subject: Subject, shown: Collection[int], judged: Collection[int]
    ) -> Iterator[Job]:
        """Plan the jobs of some images: of `shown` the maps are drawn, of `judged` it is measured how good they are."""
        source = find_source(self.data, subject.data)
        used, _ = self.chosen_layers(subject.view)
        head = self.head(subject)
        own = explained_score.OwnClasses.of(source, subject, head)
        computed = [layer.name for layer in self.score_layers(subject)] if self.needs_gradients else []
        together = _TOGETHER if len(chosen) >= _TOGETHER else 1
        per_job = together * max(1, min(_MOST_PASSES, len(chosen) // (_JOBS * together)))
        parts = [chosen[start : start + per_job] for start in range(0, len(chosen), per_job)]
        for number, part in enumerate(parts):
            classes = [self._classes(own, index, subject, head) for index in part]
            counts = [wanted if isinstance(wanted, int) else len(wanted) for wanted in classes]
            drawn = [count for count, index in zip(counts, part, strict=True) if index in shown]
            named = f" {shorten(source.names[part[0]], 40)}" if per_job == 1 else ""
            yield Job(
                name=f"{number + 1}/{len(parts)}{named}",
                parameters={
                    "images": part,
                    "together": together,
                    "classes": classes,
                    "own_classes": [own.get(index) for index in part],
                    "shown": [index in shown for index in part],
                    "judged": [index in judged for index in part],
                },
                layers=tuple(dict.fromkeys((*(layer.name for _, layer in used), *computed))),
                data=self.data_sets,
                cost=sum(self.cost_of(count, len(used)) for count in counts)
                + self.judging_cost(len(used)) * sum(index in judged for index in part),
                images=len(part) + sum(self.pictures_of(count, len(used)) for count in drawn),
                bytes=max(
                    storage.RECORD, sum(self.bytes_of(subject, [layer for _, layer in used], count) for count in drawn)
                ),
            )

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:
        """Say that there is no accuracy or confidence where the output is no choice, or no image's class is known."""
        known = any(own is not None for job in jobs for own in job.parameters["own_classes"])
        return explained_score.without_metrics(self.head(subject), self.data, known=known)

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Explain the classes of some images at every layer."""
        source, model = find_source(self.data, context.subject.data), context.model
        used, _ = self.chosen_layers(context.subject.view)
        deepest = max(self.score_layers(context.subject), key=lambda layer: layer.position)
        given = (job.parameters[name] for name in _PARAMETERS)
        wanted = [Wanted(index, source.names[index], *rest) for index, *rest in zip(*given, strict=True)]
        what = f"{self.method_name} at {len(used)} layers" if used else self.method_name
        size, fixed = model.input_size, model.view.batch
        usual = int(job.parameters["together"])
        together = fixed or choose_batch(model, usual, lambda: gradient_bytes(model.view, size, size, deepest), what)
        # The last pass is as large as the others, so that an image has the same bits in whichever it is.
        filled = [*wanted, *wanted[-1:] * (-len(wanted) % together)]

        def explained(start: int, stop: int) -> list[Any]:
            if not (real := wanted[start:stop]):
                return []
            found = explain(read([entry.index for entry in filled[start:stop]]), real)
            context.progress(min(stop, len(wanted)), len(wanted), real[-1].name)
            return found

        order, explain = [entry.index for entry in wanted], self.explainer(context, used, job)
        with (
            named_memory_limit(what, remedy=_FEWER_LAYERS),
            ReadAhead(source, order, model.preprocessing, size) as read,
        ):
            passes = run_batches(model, len(filled), together, explained, what, fixed=bool(fixed))
            return [found for *_, part in passes for found in part]

    def coverage(self, subject: Subject, images: int) -> list[Finding]:
        """Say how many of the outputs, layers, images and classes were looked at."""
        used, skipped = self.chosen_layers(subject.view)
        reason = "; ".join(f"{why}: {layers_listed(names)}" for why, names in skipped.items())
        total_layers = len(used) + sum(map(len, skipped.values()))
        classes = self.classes if isinstance(self.classes, list) else [self.classes]
        per_image = int(match[1]) if (match := TOP.fullmatch(str(classes[0]))) else len(classes)
        head, heads = self.head(subject), subject.view.heads
        total = head.choices or per_image
        most = explained_score.by_frequency(head, self.positions)
        highest = "those predicted at most positions" if most else "the highest scores"
        why_classes = f"{highest} of each image" if match else "chosen by `classes`"
        what = "classes" if head.has_classes else "units of the score"
        explained = f"explained: {shorten(head.name, 60)!r}; another one by `score:`"
        others = [Coverage("outputs of the model", 1, len(heads), explained, id="coverage.outputs")]
        return [
            *(others if len(heads) > 1 and head in heads else []),
            *([Coverage("layers", len(used), total_layers, reason, id="coverage.layers")] if self.shows_layers else []),
            self.image_coverage(images, "failed", subject),
            Coverage(what, min(per_image, total), total, why_classes, id="coverage.classes"),
        ]

    def chosen_layers(self, view: GraphView) -> tuple[list[tuple[str, Layer]], dict[str, list[str]]]:
        """Return what is asked for: (heading, layer) of those with positions, and by reason the names of the rest."""
        used: dict[str, tuple[str, Layer]] = {}
        skipped: dict[str, list[str]] = {}
        if not self.shows_layers:
            return [], {}
        for layer in view.select(self.layers):
            own = layer.operator in _CONVOLUTIONS and self.value == "activation"
            shown = view.layer(f"{layer.name}:act") if own else layer
            if shown.has_map:
                used.setdefault(shown.value, (layer.name, shown))
            else:
                why = shown.unplaced or "its units are single numbers: there are no positions"
                skipped.setdefault(why, []).append(layer.name)
        if not used:
            reasons = "; ".join(f"{layers_listed(names, 3)}: {why}" for why, names in skipped.items())
            raise AnalysisError(
                f"none of the selected layers has a map of positions: {reasons}",
                where="layers",
                remedy="select layers before the global pooling, for example `layers: block_outputs`",
            )
        return list(used.values()), skipped

    def head(self, subject: Subject) -> Head:
        """Return the output or layer whose scores are explained."""
        return resolve_head(subject.view, self.score, subject.labels)

    def score_layers(self, subject: Subject) -> tuple[Layer, ...]:
        """Return the layers that scores are computed from."""
        return (explained_score.layer_of(self.head(subject)),)

    def _classes(self, own: explained_score.OwnClasses, index: int, subject: Subject, head: Head) -> list[int] | int:
        """Return indices of classes or units, or how many of the highest scores to take."""
        if isinstance(self.classes, str) and (match := TOP.fullmatch(self.classes)):
            return min(int(match[1]), head.choices or int(match[1]))
        if self.classes == "label":
            return class_indices(own.require(index), head, subject.labels)
        digits = re.sub(r"\D", "", str(self.classes)) or "3"
        return named_classes(self.classes, head, subject.labels, ("label", f"top:{digits}"))


def named_classes(
    choice: UnitChoice | Sequence[UnitChoice], head: Head, names: Sequence[str] | None, words: Sequence[str]
) -> list[int]:
    """Return the indices of classes as `class_indices` does; of an unknown name say which of a field's `words` is near.

    Raises:
        SelectionError: if a class does not exist, or a name is unknown or ambiguous.
    """
    try:
        return class_indices(choice, head, names)
    except SelectionError as fault:
        if isinstance(choice, str) and (hint := nearest(choice, words)):
            others = fault.remedy.removeprefix("did you mean ")
            fault.remedy = hint if others == fault.remedy else f"{hint.removesuffix('?')} or {others}"
        raise


def layers_listed(names: Sequence[str], most: int = 8) -> str:
    """Return names in a row, the first of many, each cut to 40 characters."""
    return listed(names, most, length=40)
