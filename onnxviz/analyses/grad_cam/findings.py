"""What class activation maps found, for readers: rows of maps, sentences, numbers, and what is no finding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from onnxviz.analyses import explained_score, presentation
from onnxviz.analyses.attribution.evidence_places import Places
from onnxviz.analyses.base import Subject
from onnxviz.analyses.explained_images import layers_listed
from onnxviz.analyses.grad_cam.evidence import ClassEvidence, ImageEvidence
from onnxviz.core.errors import shorten
from onnxviz.core.findings import (
    Caveat,
    Cell,
    Column,
    Coverage,
    Finding,
    MatrixRow,
    Metric,
    Note,
    Outcomes,
    PictureMatrix,
    Table,
)
from onnxviz.core.shares import percent
from onnxviz.core.wording import listed
from onnxviz.data.images import ImageSource
from onnxviz.graph.model_output import Head

_LISTED = 3
"""Images that the summary names."""


def image_findings(
    image: ImageEvidence,
    titles: Sequence[str],
    name: str,
    subject: Subject,
    head: Head,
    positions: explained_score.Positions,
    method: str,
) -> list[Finding]:
    """Return what is shown and said of one image; `titles` are the headings of the layers asked for."""
    columns = tuple(titles[place] for place in image.kept)
    shown = [head.title(one.number, subject.labels) for one in image.classes]
    rows = tuple(_row(image, one, title, columns, head) for one, title in zip(image.classes, shown, strict=True))
    table = tuple(_line(name, one, title) for one, title in zip(image.classes, shown, strict=True))
    first = image.classes[0]
    where = f"evidence at {columns[0]}" if len(columns) == 1 else "from the first layer to the last"
    gone = [title for place, title in enumerate(titles) if place not in image.kept]
    certainty = explained_score.certainty(head, first.probability, first.score, first.predicted)
    findings: list[Finding] = [
        PictureMatrix(f"maps.{image.index}", f"{name}: {where}", columns, rows, scale=_SCALE),
        Table("evidence", "Evidence at the last layer", explained_score.columns(head) + _COLUMNS, table, _TABLE),
        Coverage(f"maps (layer, image, {head.unit})", len(columns) * len(rows), len(titles) * len(rows),
                 f"a single position at this image size: {layers_listed(gone)}" if gone else "", id="coverage.maps"),
        image.maps,
        *([] if image.own is None else [Outcomes("top1_accuracy", (name,), (image.own == image.best,))]),
        *_caveats(image.classes, columns, shown, subject.view.gradient_stops(explained_score.layer_of(head)), method),
        *explained_score.about_positions(head, image.placed, positions),
    ]  # fmt: skip
    said = _sentence(name, shown[0], certainty, columns[-1], first.places, first.reached[-1])
    explained = [one.number for one in image.classes]
    said += explained_score.first_choice(head, image.best, explained, image.sure, subject.labels)
    return [*findings, Note(said, about="each image")]


def image_metrics(image: ImageEvidence, head: Head) -> Iterator[Metric]:
    """Yield one image's share of the metrics; `explained_score.joined` averages them over the images."""
    yield from explained_score.choice_metrics(head, image.best, image.sure, image.own)
    extents = [one.places.extent for one in image.classes if one.places is not None]
    if extents:
        yield Metric(
            "last_layer_extent", sum(extents) / len(extents), "extent of the evidence",
            "Mean share of the image where the last layer's map reaches half of its maximum; blank maps left out.",
            "percent", total=1,
        )  # fmt: skip
    flat = [blank for one in image.classes for blank in one.blank]
    yield Metric(
        "blank_fraction", sum(flat) / len(flat), "maps without positive evidence",
        f"Share of the maps (layer, image, {head.unit}) that are zero everywhere.", "percent", "lower",
        total=len(flat),
    )  # fmt: skip


def about_blank(metrics: Sequence[Metric]) -> Iterator[Caveat]:
    """Say how many maps are blank, if any."""
    for found in metrics:
        if found.name == "blank_fraction" and found.total and (blank := round(found.value * found.total)):
            yield Caveat(
                f"{blank} of {found.total} maps {'holds' if blank == 1 else 'hold'} no positive evidence: the weighted "
                "sum of channels is nowhere above zero. Such a map is black; the rows say where.", "blank", "limit",
            )  # fmt: skip


def _row(image: ImageEvidence, one: ClassEvidence, title: str, columns: Sequence[str], head: Head) -> MatrixRow:
    words = (head.unit, "logit" if head.has_classes and head.holds == "scores" else "value")
    facts: list[tuple[str, Cell]] = [(words[0], one.number), (words[1], round(one.score, 4))]
    facts += [("probability", round(one.probability, 4))] if one.probability is not None else []
    facts += [("predicted at", f"{percent(one.predicted, 1)} of positions")] if one.predicted is not None else []
    where = "none" if one.places is None else f"{one.places.words}, {percent(one.places.extent)} of the image"
    facts += [("evidence at the last layer", where)]
    empty = [column for column, blank in zip(columns, one.blank, strict=True) if blank]
    facts += [("no positive evidence at", layers_listed(empty))] if empty else []
    return MatrixRow(title, one.cells, image.photograph, tuple(facts))


def _line(name: str, one: ClassEvidence, title: str) -> tuple[Cell, ...]:
    where = (None, None) if one.places is None else (one.places.words, one.places.extent)
    return (f"{name}: {title}", one.number, one.score, one.probability, *where, sum(one.blank))


_SCALE = "0 to the map's own maximum; black is no positive evidence"
_TABLE = (
    "Position: the parts of the image, thirds of its height and width, in which regions of the last layer's map reach "
    "half of its maximum, that with the maximum first. Extent: how much of the image these regions cover. Layers "
    "without positive evidence: their map is zero everywhere."
)


_COLUMNS = (
    Column("position"),
    Column("extent", "percent"),
    Column("layers without positive evidence", "integer"),
)


def _sentence(image: str, shown: str, certainty: str, layer: str, place: Places | None, reached: bool) -> str:
    named = shorten(layer, 60)
    if not reached:
        return f"{image}: nothing can be said of {shown}{certainty} at {named}: the score has no gradient there."
    if place is None:
        return f"{image}: nothing at {named} speaks for {shown}{certainty}."
    return f"{image}: the evidence for {shown}{certainty} at {named} {place.sentence}."


def _caveats(
    classes: Sequence[ClassEvidence], columns: Sequence[str], shown: Sequence[str], stops: tuple[str, ...], method: str
) -> Iterator[Caveat]:
    """Say what a reader could take for a finding and is none; `stops` are the nodes that no gradient passes."""
    reached = np.array([one.reached for one in classes])
    if not reached.any():
        saturated = "a saturated output, or an operator whose slope is zero there"
        cause = presentation.without_slope(stops) if stops else saturated
        yield Caveat(
            f"The gradient of the score is zero at every layer ({cause}): {method} cannot explain "
            "this network, and its blank maps mean nothing.", "no_gradient", "wrong",
        )  # fmt: skip
        return
    flat = [name for name, by_layer in zip(shown, reached.tolist(), strict=True) if not any(by_layer)]
    if flat:
        yield Caveat(
            f"The score of {layers_listed(flat)} has a gradient of zero at every layer, as of a score that is cut "
            "off at its largest value; its blank maps mean nothing.", "no_gradient", "wrong",
        )  # fmt: skip
    cut = [column for column, by_class in zip(columns, reached.T.tolist(), strict=True) if not any(by_class)]
    if cut:
        yield Caveat(
            f"The score's gradient is zero at {layers_listed(cut)}: the score does not depend on these "
            "layers, or every path to it is cut; their blank maps mean nothing.", "no_gradient",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ImageSummary:
    """What is known of one image.

    Attributes:
        name: its name.
        layer: the last layer with a map.
        best: the class of highest score; what is explained first where not one class is given to an image.
        right: whether it is named right, None if its class is not known.
        sure: the probability of the class of highest score, None if there is none.
        extents: for each class explained the share of the image that the evidence covers, None of an empty map.
    """

    name: str
    layer: str
    best: str
    right: bool | None
    sure: float | None
    extents: tuple[float | None, ...]

    @classmethod
    def of(
        cls, image: ImageEvidence, source: ImageSource, titles: Sequence[str], head: Head, labels: Sequence[str] | None
    ) -> ImageSummary:
        """Take what is summed up from what was found; `titles` are the headings of the layers asked for."""
        extents = tuple(None if one.places is None else one.places.extent for one in image.classes)
        return cls(
            source.names[image.index],
            titles[image.kept[-1]],
            head.title(image.best if head.has_choice else image.classes[0].number, labels),
            None if image.own is None else image.own == image.best,
            image.sure if head.has_choice else None,
            extents,
        )


def in_words(images: Sequence[ImageSummary], *, choice: bool) -> Iterator[Note]:
    """Yield a sentence on several images; `choice`: the class of highest score is what an image is taken for."""
    if len(images) < 2:
        return
    known = [image for image in images if image.right is not None]
    wrong = sorted((image for image in known if not image.right), key=lambda image: -(image.sure or 0.0))
    said = []
    if known:
        least = "" if len(known) == len(images) else f"; of {len(images) - len(known)} more the class is not known"
        said.append(f"{len(known) - len(wrong)} of {len(known)} images are named right{least}.")
    else:
        said.append(f"{len(images)} images.")
    if wrong:
        order = "Wrong, the surest first" if any(image.sure is not None for image in wrong) else "Wrong"
        said.append(f"{order}: {listed((_shown(image, choice) for image in wrong), _LISTED)}.")
    elif certain := [image for image in images if image.sure is not None]:
        said.append(f"Least certain: {_shown(min(certain, key=lambda image: image.sure or 0.0), choice)}.")
    said += _covered(images)
    yield Note(" ".join(said), "summary")


def _shown(image: ImageSummary, choice: bool) -> str:
    taken = [f"taken for {shorten(image.best, 40)}"] if choice else []
    taken += [percent(image.sure)] if image.sure is not None else []
    return f"{shorten(image.name, 40)} ({', '.join(taken)})" if taken else shorten(image.name, 40)


def _covered(images: Sequence[ImageSummary]) -> Iterator[str]:
    """Say how much of the images the evidence covers at the last layer."""
    every = [extent for image in images for extent in image.extents]
    found = [extent for extent in every if extent is not None]
    layers = {image.layer for image in images}
    where = shorten(layers.pop(), 60) if len(layers) == 1 else "the last layer"
    maps = f"{len(found)} map{'s' if len(found) > 1 else ''}"
    if found:
        ends = dict.fromkeys((percent(min(found)), percent(max(found))))
        mean = percent(sum(found) / len(found))
        yield f"At {where} the evidence covers {' to '.join(ends)} of the image, {mean} on average ({maps})."
    if len(found) < len(every):
        yield f"{len(every) - len(found)} of {len(every)} maps hold no evidence there."
