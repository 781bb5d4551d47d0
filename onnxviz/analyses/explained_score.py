"""The score that an analysis explains or changes: how it is computed, and what may be said of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxviz.core.errors import DataError, SelectionError, shorten
from onnxviz.core.findings import Caveat, Column, Finding, Metric, Note
from onnxviz.core.shares import Share, percent
from onnxviz.data.ground_truth import HOW
from onnxviz.data.image_choice import class_count, known_class, own_class, why_unknown
from onnxviz.graph.model_output import UNSAID

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.base import Subject
    from onnxviz.core.values import Layer
    from onnxviz.data.images import ImageSource
    from onnxviz.graph.model_output import Head
    from onnxviz.graph.view import GraphView
    from onnxviz.model.model import Model

Positions = Literal["mean", "highest"]


def layer_of(head: Head) -> Layer:
    """Return the layer of the scores of a head that `resolve_head` gave."""
    assert head.scores is not None, "resolve_head refuses what has no scores"
    return head.scores


def score_at_positions(raw: torch.Tensor, head: Head) -> torch.Tensor:
    """Return the scores of each class or unit as [N, choices, positions], of a layer's [N, units, *spatial] or [N].

    A head that stands for two classes speaks for the second, its negative or what lacks of 1 for the first.
    """
    import torch

    placed = raw.reshape(raw.shape[0], raw.shape[1] if raw.ndim > 1 else 1, -1)
    return torch.cat([2 * head.threshold - placed, placed], dim=1) if head.is_two_from_one else placed


def by_frequency(head: Head, positions: Positions) -> bool:
    """Whether classes are ordered by how often they are predicted: one of them holds at each position of a map.

    Of a layer that is named as the score that is not known: at most positions of a detector's grid there is nothing.
    """
    return head.kind == "map_of_classes" and head.has_positions and not head.is_layer and positions == "mean"


def predicted_shares(placed: torch.Tensor, head: Head, positions: Positions) -> tuple[float, ...] | None:
    """Return for each class of a map the share of the positions where it has the highest score; None of others.

    A mean over the image would put first a class that is second everywhere, and last one that is sure of a small part.
    """
    if not by_frequency(head, positions):
        return None
    counts = placed.argmax(dim=0).bincount(minlength=len(placed))
    return tuple((counts.double() / placed.shape[1]).tolist())


def in_order(scores: Sequence[float], predicted: Sequence[float] | None) -> list[int]:
    """Return all classes or units, that which the model believes in most first."""
    shares = predicted or [0.0] * len(scores)
    return sorted(range(len(scores)), key=lambda number: (-shares[number], -scores[number]))


def probabilities(model: Model, batch: np.ndarray, head: Head, count: int) -> list[np.ndarray | None]:
    """Return a head's probabilities of each image; None where nothing makes one in 0..1 for each class."""
    if not head.probability:
        return [None] * len(batch)
    try:
        made = np.asarray(model.probabilities(batch, head), np.float64)
    except SelectionError:
        return [None] * len(batch)
    return [
        np.clip(one, 0.0, 1.0)
        if one.shape == (count,) and np.isfinite(one).all() and one.min() >= -1e-6 and one.max() <= 1 + 1e-6
        else None
        for one in made
    ]


_NO_CLASSES_THERE = (
    "data of this kind does not tell the classes of images: name classes, or give the same images as `images:`, whose "
    "classes can be told (and their labels of pixels, where an analysis uses them, as its `masks`)"
)


@dataclasses.dataclass(frozen=True)
class OwnClasses:
    """Which classes of a head the images of a data set are known to show; `fits`: these may be the model's."""

    source: ImageSource
    names: Sequence[str] | None
    head: Head
    fits: bool

    @classmethod
    def of(cls, source: ImageSource, subject: Subject, head: Head) -> OwnClasses:
        """Look at a data set: where its images count more classes than the model, their numbers are not the model's."""
        count = class_count([source])
        names = subject.labels if subject.labels and head.fits(subject.labels) else None
        fits = names is not None or not head.choices or count is None or count <= head.choices
        return cls(source, names, head, fits)

    def require(self, index: int) -> int:
        """Return the class that an image shows.

        Raises:
            DataError: if nothing says it, or the numbers of the images' classes are not the model's.
            SelectionError: if the model has no class of that name.
        """
        where = shorten(self.source.names[index])
        if not self.head.has_classes and self.head.kind != "unknown":
            raise DataError(f"{shorten(self.head.name)!r} has no classes: {self.head.in_words}", where=where,
                            remedy="leave `classes` out, or name units by their numbers")  # fmt: skip
        if not self.fits:
            raise DataError(
                f"the images' class numbers count more classes than the {self.head.choices} of the model",
                where=where,
                remedy="give the model `labels:`, so that classes are found by their names",
            )
        own = own_class(self.source, index, self.names)
        if own is None:
            why = why_unknown(self.source, index, self.names)
            tells = hasattr(self.source, "class_origin_of")  # as a concept folder does not
            raise DataError(
                "nothing says which class the image shows" + (f": {why}" if why else ""),
                where=where,
                remedy=f"{HOW}; or name classes" if tells else _NO_CLASSES_THERE,
            )
        return own

    def get(self, index: int) -> int | None:
        """Return the class that an image shows, or None; here a class that the model lacks is no fault.

        Labels that do not exclude each other, numbers that are no classes, and maps have no class for the image.
        """
        head = self.head
        if not may_choose(head) or not self.fits:
            return None
        own = known_class(self.source, index, self.names)
        return own if own is not None and (not self.head.choices or own < self.head.choices) else None


def may_choose(head: Head) -> bool:
    """Whether a head gives one class to an image, or may do so for all that is known."""
    return head.has_choice or (head.kind == "unknown" and not head.has_positions and head.choices != 1)


def choice_metrics(head: Head, best: int, sure: float | None, own: int | None) -> Iterator[Metric]:
    """Yield one image's share of what is said of the model's choices; `sure` is the probability of the best."""
    if own is not None:
        unsaid = "" if head.has_choice else " Nothing says that the model's outputs are classes."
        yield Metric(
            "top1_accuracy", float(own == best), "images named right",
            "Share of the images whose own class has the highest score, where their class is known; far below what is "
            f"known of the model, it points to wrong preprocessing.{unsaid}", "percent", "higher", total=1,
        )  # fmt: skip
    if sure is not None and head.has_choice:
        yield Metric(
            "top1_confidence", sure, "confidence", "Mean probability of the class of highest score.",
            "percent", total=1,
        )  # fmt: skip


def without_metrics(head: Head, data: str, *, known: bool) -> dict[str, str]:
    """Return why `choice_metrics` yields none of a name for any image, by the name; `known`: whether any class is."""
    no_choice = f"{shorten(head.name, 60)!r} gives no class to an image: {head.in_words}"
    found = {}
    if not known:
        found["top1_accuracy"] = f"the class of no image of {data!r} is known" if may_choose(head) else no_choice
    if not head.has_choice:
        found["top1_confidence"] = no_choice
    elif not head.probability:
        found["top1_confidence"] = f"nothing makes probabilities of the scores of {shorten(head.name, 60)!r}"
    return found


def joined(parts: Sequence[Metric]) -> Metric:
    """Return the mean over the images, with how many things it rests on; a share of images has its interval too."""
    total = sum(part.total for part in parts)
    value = sum(part.value * part.total for part in parts) / total
    share = Share(round(value * total), total) if parts[0].name == "top1_accuracy" else None
    return dataclasses.replace(parts[0], value=value, total=total, interval=share.interval if share else ())


# --- words ----------------------------------------------------------------------------------------------------------

_TOO_SURE = 0.25
"""How far the mean confidence may lie above the accuracy's interval; networks are often sure of too much by a tenth."""

_MAY_BE_GOOD = 0.5
"""Accuracy that is not excluded where a model that was never right saw too few images."""


def too_sure(metrics: Sequence[Metric]) -> Iterator[Caveat]:
    """Warn of a model that is far more often sure than right, or never, as wrong preprocessing and labels make it."""
    found = {metric.name: metric for metric in metrics}
    accuracy, confidence = found.get("top1_accuracy"), found.get("top1_confidence")
    if accuracy is None or not accuracy.interval:
        return
    if confidence is not None and confidence.value > accuracy.interval[1] + _TOO_SURE:
        yield Caveat(
            f"The model is sure ({percent(confidence.value)} on average) and seldom right ("
            f"{percent(accuracy.value)} of {accuracy.total} images, at most {percent(accuracy.interval[1])} within 95 "
            "%): wrong preprocessing, class names in another order, or images unlike those that it was made for.",
            "too_sure",
            "wrong",
        )
    elif not accuracy.value:
        few = accuracy.interval[1] > _MAY_BE_GOOD
        yield Caveat(
            f"Of {accuracy.total} image{'' if accuracy.total == 1 else 's'} whose class is known the model names none "
            f"right, so at most {percent(accuracy.interval[1])} of all (within 95 %): an untrained model, wrong "
            "preprocessing, class names in another order, or images unlike those that it was made for"
            + (", or just too few images." if few else "."),
            "never_right",
            "doubt" if few else "wrong",
        )


def in_words(head: Head, view: GraphView) -> Iterator[Finding]:
    """Yield which output is looked at where there are several, and a caveat where its meaning is not known."""
    name = shorten(head.name, 60)
    if len(view.heads) > 1 or head not in view.heads:
        words = head.in_words.removeprefix("unknown: ") if head.is_layer and not head.has_classes else head.in_words
        yield Note(f"The scores are those of {name!r}: {words} ({head.reason}).", "score")
    if head.source in ("labels", "images") and not head.is_layer:
        made = ", and its probabilities are by a softmax or sigmoid that it does not have"
        made = made if head.probability and head.final is None else ""
        yield Caveat(
            f"The file does not say that {name!r} holds scores of classes{made}: it is {head.reason}. "
            "If that is right, declare it with `output:` in the recipe's model.",
            "output_guessed",
        )
    elif head.kind == "unknown" and not head.is_layer:
        why = f" ({head.reason})" if head.reason != UNSAID else ""
        yield Caveat(
            f"Nothing says what {name!r} is{why}: its numbers are not called classes here, and have no "
            "probabilities. `output:` in the recipe's model says what they are.",
            "output_unknown",
        )
    if head.probability and head.final is None and head.source == "declared":
        yield Caveat(
            f"Probabilities are by a {head.probability} that the file does not have, as {name!r} is declared to hold "
            "scores of classes.",
            "probabilities_declared",
            "limit",
        )


def columns(head: Head) -> tuple[Column, ...]:
    """Return the columns that name what is explained, its score and its probability."""
    what, score = head.unit, "logit" if head.has_classes and head.holds == "scores" else "value"
    return (
        Column(f"image and {what}"),
        Column(what, "integer"),
        Column(score, "number"),
        Column("probability", "percent", "" if head.probability else "Nothing in the file or the recipe makes any."),
    )


def certainty(head: Head, probability: float | None, score: float, predicted: float | None = None) -> str:
    """Return in brackets how sure the model is of what is explained, or the number where it is no class."""
    if predicted is not None:
        return f" (predicted at {percent(predicted)} of positions)"
    if probability is not None:
        return f" (probability {percent(probability)})"
    return "" if head.has_classes else f" (value {score:.4g})"


def first_choice(
    head: Head, best: int, explained: Sequence[int], sure: float | None, names: Sequence[str] | None
) -> str:
    """Say what the model takes an image for where none of the classes looked at is its first choice."""
    if best in explained or head.kind not in ("classes", "binary", "unknown"):
        return ""
    name = head.title(best, names)
    if not head.has_choice:
        return f" The highest is another one, {name}."
    return f" The model's first choice is another class, {name}{'' if sure is None else f' ({percent(sure)})'}."


def about_positions(head: Head, count: int, positions: Positions) -> Iterator[Caveat]:
    """Yield how the scores at several positions become one."""
    if count > 1:
        each = "class and position" if head.has_classes else "position"
        kind = "the highest of" if positions == "highest" else "their mean over"
        order = (
            " `top:N` takes the classes that are predicted at most positions." if by_frequency(head, positions) else ""
        )
        yield Caveat(
            f"The model gives one score for each {each}; the one explained is {kind} {count} positions.{order}",
            "positions",
            "limit",
        )
