"""Whether maps lie on the objects of what they explain, over all images: numbers, a sentence and a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from onnxviz.analyses.attribution.belief_findings import metric_name
from onnxviz.analyses.attribution.localisation import ObjectEvidence
from onnxviz.analyses.attribution.results import ImageAttribution
from onnxviz.core.findings import Caveat, Cell, Column, Coverage, Finding, Metric, Note, Table
from onnxviz.core.means import Mean
from onnxviz.core.shares import Share, percent
from onnxviz.core.wording import counted, listed

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "pointing_game.*", math.nan, "pointing game",
            "Share of the images where the highest place of a method's map is on the object of the explained class, "
            "within the tolerance; of an image with several such classes their mean.",
            "percent", "higher", tabled=True,
        ),
        Metric(
            "energy_on_object.*", math.nan, "energy on the object",
            "Mean share of what is positive in a method's maps that lies on the object of the explained class.",
            "percent", "higher", tabled=True,
        ),
    )
}  # fmt: skip
"""What recipes can expect, without values; `*` stands for the method's name."""


@dataclass(frozen=True)
class _Row:
    """What one kind of map comes to: by image how often it hits, and its energy on the object; NaN where unknown."""

    name: str
    simple: bool
    hits: tuple[float, ...]
    energies: tuple[float, ...]

    @property
    def pointing(self) -> Mean:
        """The share of hits; its interval is that of a share, which is right also where all or none are hits.

        Of images with several classes it is too wide: their means vary less than single hits do.
        """
        mean = Mean.of(self.hits)
        share = Share(round(mean.value * mean.total), mean.total) if mean.total else None
        return mean if share is None else replace(mean, interval=share.interval)

    @property
    def energy(self) -> Mean:
        """The mean energy on the object."""
        return _within(Mean.of(self.energies), 0, 1)

    def above(self, other: _Row) -> Mean:
        """How much more often it hits than another kind of map, image by image."""
        gaps = [mine - its for mine, its in zip(self.hits, other.hits, strict=True)]
        return _within(Mean.of(gaps), -1, 1)


def findings(
    images: Sequence[ImageAttribution], tolerance: float, names: Mapping[str, str], unnamed: Sequence[str] = ()
) -> Iterator[Finding]:
    """Say how maps meet the objects of what they explain.

    Args:
        images: what was found in each image.
        tolerance: in pixels of the image as the network sees it.
        names: what methods are called in the names of metrics.
        unnamed: the explained classes of which nothing says which concept is their object.
    """
    located = [found for image in images if (found := [one.located for one in image.targets if one.located])]
    if not located:
        yield Caveat(
            "Nothing says where the objects of the explained classes are in these images: no labelled concept has the "
            "name of one, or it is in none of the images. `objects` names them.", "no_object", "limit",
        )  # fmt: skip
        return
    if unnamed:
        yield Caveat(
            f"No labelled concept has the name of {listed(unnamed, 8, length=60)}: maps of such a class are not "
            "compared with an object. `objects` says which concept is its object.", "no_object_of_classes", "limit",
        )  # fmt: skip
    rows = [_row(name, simple, located) for name, simple in _kinds(located)]
    hit = fmean(fmean(one.chance[0] for one in found) for found in located)
    area = fmean(fmean(one.chance[1] for one in found) for found in located)
    rival = max((row for row in rows if row.simple), key=lambda row: _or_least(row.pointing.value))
    for row in (row for row in rows if not row.simple):
        for kind, mean in (("pointing_game.*", row.pointing), ("energy_on_object.*", row.energy)):
            if mean.total:
                usual = METRICS[kind]
                name = kind.replace("*", names[row.name]) if row.name in names else metric_name(kind, row.name)
                yield replace(usual, name=name, value=mean.value, title=f"{usual.title}: {row.name}",
                              total=mean.total, interval=mean.interval)  # fmt: skip
    best = max((row for row in rows if not row.simple), key=lambda row: _or_least(row.pointing.value))
    if best.pointing.total:
        ahead = best.above(rival)
        pairs = sum(map(len, located))
        of = counted(len(located), "image") + (f" with {pairs} classes" if pairs > len(located) else "")
        yield Note(
            f"The highest place of {best.name}'s maps is on the object in {percent(best.pointing.value)} "
            f"({best.pointing.span(percent)}) of {of}, {_points(ahead)} the best map that knows nothing of the network "
            f"({rival.name}, {percent(rival.pointing.value)}); a random place hits {percent(hit)}.", "localisation",
        )  # fmt: skip
    yield _table(rows, rival, (hit, area, len(located)), len(images), tolerance)
    reason = "the others have no labelled object of an explained class" if len(located) < len(images) else ""
    yield Coverage("images with a labelled object", len(located), len(images), reason, "coverage.located")


def _kinds(located: Sequence[Sequence[ObjectEvidence]]) -> list[tuple[str, bool]]:
    return list(dict.fromkeys((name, simple) for found in located for one in found for name, simple, _ in one.maps))


def _row(name: str, simple: bool, located: Sequence[Sequence[ObjectEvidence]]) -> _Row:
    hits, energies = [], []
    for found in located:
        places = [place for one in found for other, _, place in one.maps if other == name]
        hits.append(_mean([place.pointing for place in places]))
        energies.append(_mean([place.energy for place in places]))
    return _Row(name, simple, tuple(hits), tuple(energies))


def _table(
    rows: Sequence[_Row], rival: _Row, chances: tuple[float, float, int], images: int, tolerance: float
) -> Table:
    columns = (
        Column("map"),
        Column("pointing game", "percent", "Share of images whose highest place is on the object."),
        Column("interval"),
        Column(f"above {rival.name}", "percent", "Image by image, in points, with the interval of the mean."),
        Column("interval of the difference"),
        Column("energy on the object", "percent", "Mean share of what is positive."),
        Column("interval of the energy"),
        Column("images", "integer"),
    )
    hit, area, count = chances
    cells: list[tuple[Cell, ...]] = [
        (
            row.name,
            *_with_interval(row.pointing),
            *((None, "") if row.simple else _with_interval(row.above(rival))),
            *_with_interval(row.energy),
            row.pointing.total,
        )
        for row in sorted(rows, key=lambda row: (row.simple, -_or_least(row.pointing.value)))
    ]
    cells.append(("by chance", hit, "", None, "", area, "", count))
    left = f" {images - count} of {images} images have no labelled object of an explained class." * (images > count)
    return Table(
        "localisation",
        "Whether maps lie on the object",
        columns,
        tuple(cells),
        f"Pointing game with a tolerance of {tolerance:.3g} pixels of the image as the network sees it; intervals of "
        "95 %, over images. By chance: a random place, and an even map. Evidence off the object need not be wrong: it "
        f"may be what the network goes by.{left}",
    )


def _within(mean: Mean, least: float, most: float) -> Mean:
    """Return a mean whose interval ends where the numbers do: that of few numbers is widened beyond."""
    if not mean.interval:
        return mean
    low, high = mean.interval
    return replace(mean, interval=(max(low, least), min(high, most)))


def _with_interval(mean: Mean) -> tuple[Cell, Cell]:
    return (mean.value, mean.span(percent)) if mean.total else (None, "")


def _points(mean: Mean) -> str:
    """Return a difference of shares in words: "12 points (3 to 20) above"."""
    below = mean.value < 0
    ends = sorted(-end if below else end for end in mean.interval)
    span = f" ({' to '.join(f'{100 * end:.0f}'.replace('-', '−') for end in ends)})" if ends else ""
    return f"{100 * abs(mean.value):.0f} points{span} {'below' if below else 'above'}"


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
