"""What a recipe says is explained: classes of an output, in a region, a detection, or a similarity to another image."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator, model_validator

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.scores import ClassScores, DetectionScores, RegionScores, Scores, SimilarityScores
from onnxviz.core.errors import AnalysisError, SelectionError, shorten
from onnxviz.core.findings import Caveat, Finding, Note
from onnxviz.core.values import Layer
from onnxviz.data.image_choice import choose_images
from onnxviz.graph.detection_positions import Piece, last_common_map, pieces, with_units
from onnxviz.graph.model_output import Head
from onnxviz.graph.targets import resolve_head, unit_indices

if TYPE_CHECKING:
    from onnxviz.analyses.base import JobContext, Subject
    from onnxviz.data.images import ImageSource
    from onnxviz.graph.view import GraphView

Share = Annotated[float, Field(ge=0, le=1)]
Power = Annotated[float, Field(gt=0, le=4)]


@dataclass(frozen=True)
class Given:
    """What scores are made of: the classes, how positions are joined, the images, and the model."""

    head: Head
    positions: explained_score.Positions
    source: ImageSource
    context: JobContext

    @property
    def subject(self) -> Subject:
        """What is known of the model and its data."""
        return self.context.subject


class TargetSettings(BaseModel, ABC):
    """What is explained of an image, beside the choice of a class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def head(self, subject: Subject, score: str | None) -> Head:
        """Return the classes or units that there are to choose from. No torch.

        Raises:
            SelectionError: if a layer or unit does not exist.
            AnalysisError: if the model has no such target.
        """
        return resolve_head(subject.view, score, subject.labels)

    def layers(self, head: Head, subject: Subject) -> tuple[Layer, ...]:  # noqa: ARG002 - for subclasses
        """Return the layers that are read."""
        return (explained_score.layer_of(head),)

    def in_words(self, head: Head, subject: Subject) -> Iterator[Finding]:
        """Yield what the scores are, and what is not known of them."""
        yield from explained_score.in_words(head, subject.view)

    def about_positions(self, head: Head, count: int, positions: explained_score.Positions) -> Iterator[Caveat]:
        """Yield how the scores at several positions become one."""
        yield from explained_score.about_positions(head, count, positions)

    def left_out(self, source: ImageSource) -> frozenset[int]:  # noqa: ARG002 - for subclasses
        """Return images that are not explained themselves.

        Raises:
            SelectionError: if an image that is named does not exist, or could be several.
        """
        return frozenset()

    def last_map(self, view: GraphView) -> Layer | None:  # noqa: ARG002 - for subclasses
        """Return the layer that stands for `last_map`, where that is another one for these scores."""
        return None

    @abstractmethod
    def scores(self, given: Given) -> Scores:
        """Return the scores that are explained."""


class ClassSettings(TargetSettings):
    """The score of a class or unit, of the whole image."""

    kind: Literal["class"] = "class"

    def scores(self, given: Given) -> Scores:
        """Return the classes of the head."""
        return ClassScores(given.head, given.positions, given.subject.labels)


class RegionSettings(TargetSettings):
    """A class in a part of a segmentation: where it is predicted, or in a box."""

    kind: Literal["region"] = "region"
    box: tuple[Share, Share, Share, Share] | None = Field(
        None,
        description="[top, left, bottom, right] as shares of the image; where the class is predicted if not given.",
    )

    @field_validator("box")
    @classmethod
    def _require_a_box(cls, box: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError("write [top, left, bottom, right] with top < bottom and left < right, as shares in 0..1")
        return box

    def head(self, subject: Subject, score: str | None) -> Head:
        """Return the head, which is a map."""
        head = super().head(subject, score)
        layer = explained_score.layer_of(head)
        if len(layer.shape) != 4 or layer.grid is not None or head.is_two_from_one or not head.has_positions:
            raise AnalysisError(
                "has no scores of several classes at rows and columns, of which a region could be explained",
                where=shorten(layer.name),
                remedy="leave `target` out, or name a map of classes with `score:`",
            )
        return head

    def about_positions(self, head: Head, count: int, positions: explained_score.Positions) -> Iterator[Caveat]:  # noqa: ARG002
        """Say which positions a score is the mean of."""
        where = "in the box" if self.box else "where this image has the class, as the model sees it"
        yield Caveat(f"A class's score is its mean over the positions {where}.", "positions", "limit")

    def scores(self, given: Given) -> Scores:
        """Return the classes of the head in the region."""
        return RegionScores(given.head, given.positions, given.subject.labels, self.box)


class DetectionSettings(TargetSettings):
    """The class score of a detector's best detection, at one position and decoded as the detector does it."""

    kind: Literal["detection"] = "detection"
    classes: str | list[str] = Field(
        description="The output or layer with scores of classes at each position, in 0..1; a list for several scales."
    )
    units: StrictInt | str | None = Field(
        None, description="Which of its units are classes, such as 5-84; all if not given. Boxes are no classes."
    )
    objectness: str | list[str] | None = Field(
        None, description="The output or layer with the scores of there being an object, in 0..1; as many as `classes`."
    )
    object_unit: int = Field(0, ge=0, description="Which unit of `objectness` it is.")
    powers: tuple[Power, Power] = Field(
        (1.0, 1.0),
        description="A detection's score is objectness ** the first * class score ** the second: [1, 1] for YOLO, "
        "[0.5, 0.5] for a geometric mean.",
    )

    @model_validator(mode="after")
    def _require_pairs(self) -> DetectionSettings:
        count = len(self.classes) if isinstance(self.classes, list) else 1
        others = len(self.objectness) if isinstance(self.objectness, list) else 1
        if self.objectness is not None and others != count:
            raise ValueError(f"`classes` names {count} and `objectness` {others}: give one for each")
        return self

    def head(self, subject: Subject, score: str | None) -> Head:
        """Return the classes of the detections as labels that do not exclude each other."""
        if score is not None:
            raise SelectionError("a detection's scores are those of `classes`", remedy="leave `score` out")
        units, (first, *_) = self.class_units(subject.view), self._named(self.classes, subject.view)
        reason = "scores of detections, as `target` says"
        scores = replace(first, shape=(None, len(units)), channel_axis=1)
        return Head(
            (first.name,), "multilabel", scores, len(units), "declared", reason, named=True, is_layer=True,
            holds="activated",
        )  # fmt: skip

    def layers(self, head: Head, subject: Subject) -> tuple[Layer, ...]:  # noqa: ARG002 - as the base
        """Return the layers of class scores, then those of objectness."""
        return (*self._named(self.classes, subject.view), *self._named(self.objectness or [], subject.view))

    def about_positions(self, head: Head, count: int, positions: explained_score.Positions) -> Iterator[Caveat]:  # noqa: ARG002
        """There is one position."""
        yield from ()

    def in_words(self, head: Head, subject: Subject) -> Iterator[Finding]:  # noqa: ARG002 - as the base
        """Say what is explained of a detector."""
        made = "its class score"
        if self.objectness:
            first, second = (f"{power:g}" for power in self.powers)
            made = f"its objectness to the power of {first} times its class score to the power of {second}"
        joined = self._pieces(subject.view)[: len(self._named(self.classes, subject.view))]
        known = all(piece.grid is not None for each in joined for piece in each)
        outlined = " What is outlined is the cell of the grid that makes the detection, not its box." if known else ""
        yield Note(
            "Explained is the best detection of a class in each image: the position with the highest score, and there "
            f"{made}. Boxes are not explained.{outlined}", "score",
        )  # fmt: skip
        if (common := self.last_map(subject.view)) is not None:
            yield Note(
                f"Here `last_map` is {shorten(common.name, 60)}: the last layer with rows and columns of the image "
                "from which the scores of all detections are computed.", "last_map",
            )  # fmt: skip

    def last_map(self, view: GraphView) -> Layer | None:
        """Return the last map that all scores are computed from: a detector has an end of its own for each scale."""
        found = last_common_map(view, [piece for each in self._pieces(view) for piece in each])
        with contextlib.suppress(SelectionError):
            return None if found in view.select("last_map") else found
        return found

    def _pieces(self, view: GraphView) -> list[tuple[Piece, ...]]:
        """Return what the positions of the layers are joined of: of `classes`, then of `objectness`."""
        units = self.class_units(view)
        classes = [pieces(view, layer, units) for layer in self._named(self.classes, view)]
        objects = [pieces(view, layer, (self.object_unit,)) for layer in self._named(self.objectness or [], view)]
        return [*classes, *objects]

    def _named(self, names: str | list[str], view: GraphView) -> tuple[Layer, ...]:
        listed = [names] if isinstance(names, str) else names
        # What the output gives: of classes the layer of a head would be the logits before it.
        return tuple(view.layer(name) for name in listed)

    def class_units(self, view: GraphView) -> tuple[int, ...]:
        """Return which units of the layers are classes."""
        first, *others = self._named(self.classes, view)
        for layer in (first, *others, *self._named(self.objectness or [], view)):
            if layer.channel_axis is None:
                before = with_units(view, layer)
                raise SelectionError(
                    f"no axis of units is known there, so there are no scores of classes: {layer.unplaced}",
                    where=shorten(layer.name),
                    remedy="name a layer before or behind it"
                    if before is None
                    else f"name {shorten(before.name)!r}, of which it is another form",
                )
        units = unit_indices("all" if self.units is None else self.units, first)
        for other in others:
            if other.unit_count != first.unit_count:
                raise SelectionError(
                    f"{shorten(first.name)} and {shorten(other.name)} have different numbers of units",
                    where="target.classes",
                )
        for layer in self._named(self.objectness or [], view):
            unit_indices(self.object_unit, layer)
        return tuple(units)

    def scores(self, given: Given) -> Scores:
        """Return the classes of the best detections."""
        subject, units = given.subject, self.class_units(given.subject.view)
        labels = subject.labels if subject.labels and len(subject.labels) == len(units) else None
        classes, objectness = self._named(self.classes, subject.view), self._named(self.objectness or [], subject.view)
        joined = tuple(self._pieces(subject.view)[: len(classes)])
        size = given.context.model.input_size
        return DetectionScores(
            classes, units, objectness, self.object_unit, self.powers, labels, pieces=joined, image=size
        )


class SimilaritySettings(TargetSettings):
    """How near an embedding is to that of another image, as in face recognition: the cosine of the angle between."""

    kind: Literal["similarity"] = "similarity"
    to: StrictInt | str = Field(description="The other image of the data set: its name, a glob or its number.")

    def head(self, subject: Subject, score: str | None) -> Head:
        """Return the similarity as one number."""
        head = super().head(subject, score)
        layer = explained_score.layer_of(head)
        scores = replace(layer, shape=(None, 1), channel_axis=1)
        return Head((layer.name,), "regression", scores, 0, "declared", "an embedding, as `target` says", is_layer=True)

    def layers(self, head: Head, subject: Subject) -> tuple[Layer, ...]:
        """Return the layer of the embedding."""
        return (subject.view.layer(explained_score.layer_of(head).name),)

    def about_positions(self, head: Head, count: int, positions: explained_score.Positions) -> Iterator[Caveat]:  # noqa: ARG002
        """All positions belong to the embedding."""
        yield from ()

    def in_words(self, head: Head, subject: Subject) -> Iterator[Finding]:  # noqa: ARG002 - as the base
        """Say what is explained of an embedding."""
        yield Note(
            f"Explained is how near {shorten(head.name, 60)!r} of each image is to that of "
            f"{shorten(str(self.to), 40)!r}: the cosine of the angle between the two, from -1 to 1.", "score",
        )  # fmt: skip

    def left_out(self, source: ImageSource) -> frozenset[int]:
        """Return the other image: to itself its similarity is the highest that there is, and no change raises it."""
        chosen = choose_images(source, self.to, len(source))
        if len(chosen) != 1:
            raise SelectionError(
                f"{shorten(str(self.to))!r} names {len(chosen)} images", where="target.to", remedy="name one"
            )
        return frozenset(chosen)

    def scores(self, given: Given) -> Scores:
        """Return the similarity to the other image, whose embedding is computed by ONNX Runtime."""
        from onnxviz.analyses.stream import measured
        from onnxviz.data.images import load_batch

        (layer,), model, source = self.layers(given.head, given.subject), given.context.model, given.source
        chosen = sorted(self.left_out(source))
        batch = load_batch(source, chosen, model.preprocessing, model.input_size)
        vector = measured(model, batch, [layer.name])[layer.name].reshape(-1)
        return SimilarityScores(layer, tuple(vector.tolist()), shorten(source.names[chosen[0]], 40))


TargetChoice = Annotated[
    ClassSettings | RegionSettings | DetectionSettings | SimilaritySettings, Field(discriminator="kind")
]
