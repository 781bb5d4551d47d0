"""What attribution found, for readers: methods, classes and layers side by side, sentences, numbers, and doubts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from onnxviz.analyses import explained_score, presentation
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import name_of
from onnxviz.analyses.attribution.pictures import WHERE_PIXELS, scale_of
from onnxviz.analyses.attribution.results import ImageAttribution, MethodEvidence, TargetEvidence
from onnxviz.analyses.base import Subject
from onnxviz.analyses.explained_images import layers_listed
from onnxviz.analyses.grad_cam.findings import ImageSummary
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
from onnxviz.graph.model_output import Head

Named = Mapping[str, Method]
"""The methods by what they are called here."""


def image_findings(
    image: ImageAttribution,
    name: str,
    subject: Subject,
    head: Head,
    methods: Named,
    titles: Sequence[str],
    *,
    located: bool = False,
) -> list[Finding]:
    """Return what is shown and said of one image; `titles` are the headings of the layers asked for.

    `located` says whether anything says of any of the images where the objects are.
    """
    layered = [method for method, kind in methods.items() if kind.shows == "layers"]
    drawn = image.photograph is not None
    findings: list[Finding] = [_side_by_side(image, name, subject, head, methods)] if drawn else []
    if drawn and len(image.kept) > 1:
        findings += [_progression(image, name, subject, head, method, methods[method]) for method in layered]
    gone = [title for place, title in enumerate(titles) if place not in image.kept]
    if layered and gone:
        reason = f"a single position at this image size: {layers_listed(gone)}"
        findings.append(Coverage("layers with a map", len(image.kept), len(titles), reason, id="coverage.maps"))
    return [
        *findings,
        _table(image, name, head, methods, located=located),
        *([] if image.maps is None else [image.maps]),
        *([] if image.own is None else [Outcomes("top1_accuracy", (name,), (image.own == image.best,))]),
        *(_without_gradient(image, subject, head) if any(one.needs_gradients for one in methods.values()) else ()),
        *([Note(_sentence(image, name, subject, head, methods), about="each image")] if drawn else []),
    ]


def image_metrics(image: ImageAttribution, head: Head) -> Iterator[Metric]:
    """Yield one image's share of the metrics; `explained_score.joined` averages them over the images."""
    yield from explained_score.choice_metrics(head, image.best, image.sure, image.own)
    found = [one for target in image.targets for one in target.methods]
    flat = [blank for one in found for blank in one.blank]
    yield Metric(
        "blank_fraction", sum(flat) / len(flat), "maps without positive evidence",
        f"Share of the maps (method, layer, image, {head.unit}) that are nowhere above zero.", "percent", "lower",
        total=len(flat),
    )  # fmt: skip


def short_names(methods: Named) -> dict[str, str]:
    """Return for each method the name that metrics have: a recipe's, with a number where several have the same."""
    names: dict[str, str] = {}
    for label, method in methods.items():
        name = name_of(type(method))
        same = sum(other.partition("-")[0] == name for other in names.values())
        names[label] = f"{name}-{same + 1}" if same else name
    return names


def methods_table(images: Sequence[ImageAttribution], methods: Named) -> Table:
    """Return what is known of each method over all images: how much is blank, and how good it is by its own measure."""
    facts = list(dict.fromkeys(fact for one in _of_all(images) for fact, _ in one.facts))
    made: dict[str, dict[str, None]] = {}
    for name, text in (said for image in images for said in image.said):
        made.setdefault(name, {})[text] = None
    rows = []
    for name, method in methods.items():
        found = [one for one in _of_all(images) if one.method == name]
        flat = [blank for one in found for blank in one.blank]
        extents = [one.places.extent for one in found if one.places is not None]
        numbers = [[value for one in found for key, value in one.facts if key == fact] for fact in facts]
        rows.append(
            (name, "for and against" if method.signed else "for", method.shows, len(flat), sum(flat),
             fmean(extents) if extents else None, *(fmean(values) if values else None for values in numbers),
             " ".join(made.get(name, ())))
        )  # fmt: skip
    columns = (
        Column("method"), Column("evidence"), Column("maps of"), Column("maps", "integer"),
        Column("without positive evidence", "integer"), Column("mean extent", "percent"),
        *(Column(f"mean {fact}", "number") for fact in facts), Column("how made"),
    )  # fmt: skip
    return Table("methods", "Methods", columns, tuple(rows), _METHODS)


def summary(
    images: Sequence[ImageAttribution], names: Sequence[str], head: Head, labels: Sequence[str] | None
) -> list[ImageSummary]:
    """Return what a sentence on all images says of each: what it is taken for, whether rightly, and how surely."""
    return [
        ImageSummary(
            names[image.index],
            "",
            head.title(image.best if head.has_choice else image.targets[0].number, labels),
            None if image.own is None else image.own == image.best,
            image.sure if head.has_choice else None,
            (),
        )
        for image in images
    ]


def about_refused(images: Sequence[ImageAttribution]) -> Iterator[Caveat]:
    """Say which methods have no answer for the network, and why."""
    counts = Counter(refused for image in images for refused in image.refused)
    for (name, why), count in counts.items():
        where = "" if count == len(images) else f" ({count} of {len(images)} images)"
        yield Caveat(f"{name} has no maps here{where}: {why}.", f"refused.{name}")


def about_blank(metrics: Sequence[Metric]) -> Iterator[Caveat]:
    """Say how many maps are blank, if any."""
    for found in metrics:
        if found.name == "blank_fraction" and found.total and (blank := round(found.value * found.total)):
            yield Caveat(
                f"{blank} of {found.total} maps {'is' if blank == 1 else 'are'} nowhere above zero and "
                f"{'speaks' if blank == 1 else 'speak'} for nothing; the tables say which.", "blank", "limit",
            )  # fmt: skip


def _of_all(images: Sequence[ImageAttribution]) -> list[MethodEvidence]:
    return [one for image in images for target in image.targets for one in target.methods]


def _side_by_side(image: ImageAttribution, name: str, subject: Subject, head: Head, methods: Named) -> PictureMatrix:
    """Return the targets of an image by the methods: the last layer's maps, and those of pixels."""
    rows = tuple(
        MatrixRow(
            target.title,
            tuple(one.cells[-1] for one in target.methods),
            target.outlined or image.photograph,
            _facts(image, target, subject, head),
        )
        for target in image.targets
    )
    first = image.targets[0].methods
    columns = tuple(f"{one.method}, {one.columns[-1]}" if one.columns[-1] else one.method for one in first)
    scales: dict[str, list[str]] = {}
    for one in first:
        scales.setdefault(scale_of(methods[one.method]), []).append(one.method)
    scale = "; ".join(f"{listed(names, 8)}: {scale}" for scale, names in scales.items())
    return PictureMatrix(f"maps.{image.index}", f"{name}: methods side by side", columns, rows, scale=scale)


def _progression(
    image: ImageAttribution, name: str, subject: Subject, head: Head, method: str, kind: Method
) -> PictureMatrix:
    """Return the targets of an image by the layers, first to last, as one method sees them."""
    rows: list[MatrixRow] = []
    columns: tuple[str, ...] = ()
    for target in image.targets:
        (found,) = (one for one in target.methods if one.method == method)
        columns = found.columns
        rows.append(
            MatrixRow(
                target.title, found.cells, target.outlined or image.photograph, _facts(image, target, subject, head)
            )
        )
    return PictureMatrix(
        f"maps.{image.index}.{method}",
        f"{name}: {method} from the first layer to the last",
        columns,
        tuple(rows),
        scale=scale_of(kind),
    )


def _facts(
    image: ImageAttribution, target: TargetEvidence, subject: Subject, head: Head
) -> tuple[tuple[str, Cell], ...]:
    logit = "logit" if head.has_classes and head.holds == "scores" else "value"
    logit = f"difference of {logit}s" if target.against else logit
    facts: list[tuple[str, Cell]] = [(head.unit, target.number), (logit, round(target.score, 4))]
    facts += [("probability", percent(target.probability, 1))] if target.probability is not None else []
    facts += [("predicted at", f"{percent(target.predicted, 1)} of positions")] if target.predicted is not None else []
    if head.has_choice:
        verdict = "" if image.own is None else ", right" if image.own == image.best else ", wrong"
        facts.append(("first choice", head.title(image.best, subject.labels) + verdict))
    facts += [("outlined", target.outline)] if target.outline else []
    if image.own is not None:
        facts.append(("the image shows", head.title(image.own, subject.labels)))
    return tuple(facts)


def _table(image: ImageAttribution, name: str, head: Head, methods: Named, *, located: bool) -> Table:
    rows = tuple(
        (f"{name}: {target.title}", target.number, target.score, target.probability, one.method,
         one.columns[-1] or "pixels", *((None, None) if one.places is None else (one.places.words, one.places.extent)),
         sum(one.blank), *(_on_object(target, one.method) if located else ()))
        for target in image.targets
        for one in target.methods
    )  # fmt: skip
    what, number, score, *rest = explained_score.columns(head)
    score = Column(f"difference of {score.name}s", "number") if image.targets[0].against else score
    columns = (
        what, number, score, *rest, Column("method"), Column("map of"), Column("position"),
        Column("extent", "percent"), Column("maps without positive evidence", "integer"),
        *([Column("energy on the object", "percent"), Column("area of the object", "percent")] if located else []),
    )  # fmt: skip
    smoothed = f" {WHERE_PIXELS}" if any(method.fine for method in methods.values()) else ""
    return Table("evidence", "Where the evidence lies", columns, rows, _EVIDENCE + smoothed, key=0)


def _on_object(target: TargetEvidence, method: str) -> tuple[Cell, Cell]:
    """Return which share of a map's positive evidence lies on the object, and of the area; None where unknown."""
    if target.located is None:
        return None, None
    (place,) = (place for name, _, place in target.located.maps if name == method)
    return None if math.isnan(place.energy) else place.energy, target.located.chance[1]


def _sentence(image: ImageAttribution, name: str, subject: Subject, head: Head, methods: Named) -> str:
    """Say where each method sees the evidence for what comes first."""
    target = image.targets[0]
    found = [one for one in target.methods if target.reached or not methods[one.method].needs_gradients]
    if not found:
        return f"{name}: nothing can be said of {target.title}: its score has no gradient."
    certainty = explained_score.certainty(head, target.probability, target.score, target.predicted)
    where = _few(found) if len(found) <= _IN_FULL else _many(found)
    explained = [one.number for one in image.targets]
    choice = explained_score.first_choice(head, image.best, explained, image.sure, subject.labels)
    return f"{name}: the evidence for {target.title}{certainty}: {where}.{choice}"


def _few(found: Sequence[MethodEvidence]) -> str:
    """Say of each method where its map lies."""
    said: dict[str, list[str]] = {}
    for one in found:
        said.setdefault("is nowhere" if one.places is None else one.places.sentence, []).append(one.method)
    return "; ".join(f"by {listed(names, 6)} it {words}" for words, names in said.items())


def _many(found: Sequence[MethodEvidence]) -> str:
    """Say where the maxima of the methods' maps are, the place of most first."""
    said: dict[str, list[str]] = {}
    for one in found:
        said.setdefault("nowhere" if one.places is None else f"at the {one.places.parts[0]}", []).append(one.method)
    order = sorted(said.items(), key=lambda entry: -len(entry[1]))
    (place, first), *others = order
    rest = "".join(f", {where} by {listed(names, 6)}" for where, names in others)
    return f"its maximum is {place} by {len(first)} of {len(found)} methods{rest}"


def _without_gradient(image: ImageAttribution, subject: Subject, head: Head) -> Iterator[Caveat]:
    flat = [target.title for target in image.targets if not target.reached]
    if flat:
        stops = subject.view.gradient_stops(explained_score.layer_of(head))
        cause = presentation.without_slope(stops) if stops else "a saturated output, or an operator without a slope"
        yield Caveat(
            f"The score of {layers_listed(flat)} has a gradient of zero ({cause}): methods that follow gradients "
            "cannot explain it, and their blank maps mean nothing.", "no_gradient", "wrong",
        )  # fmt: skip


_IN_FULL = 3
"""Up to so many methods are described one by one in a sentence."""
_EVIDENCE = (
    "Position: the parts of the image, thirds of its height and width, in which regions of the map reach half of its "
    "maximum, that with the maximum first. Extent: how much of the image these regions cover. For methods that make "
    "maps of layers it is the last layer's."
)
_METHODS = (
    "Whether a method speaks of evidence for a target only, or also against it, and what it is measured by itself: a "
    "completeness error is the difference between the sum of a map and the score that it explains, as a part of that "
    "score. A map that looks plausible need not be faithful: methods that disagree cannot all be right."
)
