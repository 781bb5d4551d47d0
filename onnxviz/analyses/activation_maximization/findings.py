"""What is said and shown of made pictures: rows, tiles, words and caveats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.activation_maximization.limits import Limits
from onnxviz.analyses.activation_maximization.real_activations import Standing
from onnxviz.core.findings import Array, Caveat, Cell, Column, Coverage, Metric, Picture, Tile
from onnxviz.core.shares import Share, percent
from onnxviz.core.values import Unit
from onnxviz.data.domains import Domain, domain_of
from onnxviz.data.images import load_batch
from onnxviz.graph.targets import has_class_units
from onnxviz.optimize.color import to_pixels

if TYPE_CHECKING:
    from onnxviz.analyses.activation_maximization.goals import Goal
    from onnxviz.analyses.activation_maximization.real_activations import RealActivations
    from onnxviz.analyses.base import Subject
    from onnxviz.data.images import ImageSource
    from onnxviz.optimize.ascent import Maximized

COLUMNS = (
    Column("picture", description="Target, direction and seed."),
    Column("unit", "unit"),
    Column("target", description="What was optimized."),
    Column("direction", description="Whether the activation was driven up or down."),
    Column("seed", "integer"),
    Column("before", "number", "Activation of the start image, seen without transforms."),
    Column("after", "number", "Activation of the final image, seen without transforms."),
    Column("rise", "number", "Difference in the direction asked for; below or at 0 the optimization failed."),
    Column("class probability", "percent", "What the model itself gives the final image; only for classes."),
    Column("top class", description="Whether that is the model's first choice; only for classes."),
    Column("start gain", "number", "What the start was multiplied by, because its unit was silent on it; 1: nothing."),
    Column("steps", "integer", "Steps that the picture took; fewer than asked for where it was stopped early."),
    Column(
        "activation",
        "number",
        "Of the final image, by ONNX Runtime, as it was measured on real images; transparent ones before grey.",
    ),
    Column(
        "quantile among real images",
        "percent",
        "Share of real images that excite the unit less, or more where it was driven down; equal ones count half.",
    ),
    Column("times the extreme", "number", "Activation divided by the largest (or lowest) on a real image."),
    Column("best simple picture", "number", "The largest (or lowest) activation on plain colours and gratings."),
    Column("simple picture", description="Which one that is."),
    Column("times by simple picture", "number", "That activation divided by the final image's; above 1 it beats it."),
    Column("beaten", description="Whether it exceeds the final image's by more than a hundredth."),
    Column("begun with", description="What the picture was begun with where what came of the usual start fell short."),
    Column("state", description="Whether the unit is at a bound, silent on real images, or dead."),
)
_NAME, _UNIT, _TARGET, _DIRECTION, _SEED, _BEFORE, _AFTER, _RISE, _PROBABILITY, _TOP, _LOUDER = range(11)
_QUANTILE = 13
_SIMPLE, _WHICH, _TIMES, _BEATEN, _BEGUN, _STATE = range(15, 21)
METRICS = {
    "rise_fraction": "Share of pictures whose activation moved in the direction asked for.",
    "beaten_fraction": "Share of pictures that a plain colour or a grating exceeds by more than a hundredth.",
    "mean_class_probability": "Mean of what the model gives its class pictures.",
    "top1_rate": "Share of class pictures whose class is the model's first choice.",
    "beyond_real_fraction": "Share of pictures whose activation exceeds that of every real image.",
    "median_quantile": "Median over the pictures of the share of real images that excite the unit less.",
}
"""Those that `expect:` can test."""
TABLE_DESCRIPTION = "One line for each picture; activations are of the picture as it is, without random views."
SMALL = 128
"""Pictures with shorter sides are stored exactly and enlarged in whole steps."""
_MOST_NAMED = 20
_CHECKER = (0.92, 0.78)
"""The two greys behind transparent pictures."""

Row = tuple[Cell, ...]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Made:
    """One picture's numbers.

    Attributes:
        goal: what it was made for.
        seed: of its start.
        member: (its number from 1, how many) in its group, or None if it was made alone.
        before: activation of the start image, without the goal's sign.
        after: the same of the final image.
        start_gain: what the start was multiplied by.
        steps: steps that it took.
        certainty: the model's probability for its class, and whether that is the first choice; None where it has none.
        activation: of the final image as it was measured on real images; None if it was not.
        standing: where that stands among real images; None if none were measured.
        limits: what limits what it says.
    """

    goal: Goal
    seed: int
    member: tuple[int, int] | None
    before: float
    after: float
    start_gain: float
    steps: int
    certainty: tuple[float | None, bool | None]
    activation: float | None
    standing: Standing | None
    limits: Limits = field(default_factory=Limits)

    def row(self) -> Row:
        """Return its line of the table."""
        goal, limits, (probability, top) = self.goal, self.limits, self.certainty
        number = f", picture {self.member[0]} of {self.member[1]}" if self.member else ""
        return (
            f"{goal.title}, {'' if goal.sign > 0 else 'negative, '}seed {self.seed}{number}",
            goal.unit,
            goal.title,
            "up" if goal.sign > 0 else "down",
            self.seed,
            self.before,
            self.after,
            goal.sign * (self.after - self.before),
            probability,
            None if top is None else ("yes" if top else "no"),
            self.start_gain,
            self.steps,
            self.activation,
            None if self.standing is None else self.standing.quantile,
            None if self.standing is None else self.standing.times,
            limits.simple,
            limits.which,
            limits.times,
            None if limits.simple is None else ("yes" if limits.beaten else "no"),
            limits.begun,
            limits.state,
        )

    @property
    def caption(self) -> str:
        """What stands below it; the report has room for some 60 characters."""
        probability = self.certainty[0]
        number = f", {self.member[0]} of {self.member[1]}" if self.member else ""
        return "".join((
            "" if self.goal.sign > 0 else "driven down, ",
            f"seed {self.seed}{number}: {figure(self.before)} to {figure(self.after)}",
            "" if probability is None else f", {percent(probability, 1)}",
            "" if self.start_gain == 1 else f"; start x {self.start_gain:g}",
            "" if self.standing is None else f"; {self.standing.brief}",
            f"; beaten by {self.limits.which}" if self.limits.beaten else "",
            "; dead" if self.limits.dead else "",
        ))  # fmt: skip


# --- pictures -------------------------------------------------------------------------------------------------------


def opaque(
    images: npt.NDArray[np.float32], domain: Domain, background: float | npt.NDArray[np.float64] = 0.5
) -> npt.NDArray[np.float32]:
    """Put images with opacity, one channel more than `domain` has, on a grey; others are returned as they are."""
    own, opacity = images[:, : domain.channels], images[:, domain.channels :]
    if not opacity.shape[1]:
        return images
    return np.asarray(own * opacity + background * (1.0 - opacity), np.float32)


def shown_pixels(images: npt.NDArray[np.float32], domain: Domain) -> Pixels:
    """Return images as they are shown, uint8 [N, h, w, 3]; transparent ones before a chequerboard."""
    if images.shape[1] == domain.channels:
        return to_pixels(images if domain.photographic else domain.show(images))
    height, width = images.shape[2:]
    square = max(2, min(height, width) // 16)
    odd = (np.arange(height)[:, None] // square + np.arange(width)[None] // square) % 2
    behind = np.where(odd == 1, *_CHECKER)
    return to_pixels(opaque(images, domain, behind))


def picture(pixels: Pixels, alt: str) -> Picture:
    """Return a made or a real picture: a small one without loss."""
    small = max(pixels.shape[:2]) < SMALL
    return Picture(pixels, alt=alt, format="png" if small else "jpeg", pixelated=small)


def tile(made: Made, pixels: Pixels, curve: npt.NDArray[np.float32], real: Sequence[tuple[Picture, str]]) -> Tile:
    """Return the tile of one picture; `joined` joins those of one target.

    Args:
        made: its numbers.
        pixels: uint8 [h, w, 3].
        curve: [steps], the activation at each step.
        real: real images to show beside it, with captions.
    """
    taken = curve[: made.steps]
    # A line a few hundred pixels wide needs no more points.
    thin = taken[:: max(1, math.ceil(len(taken) / 256))]
    place = "" if made.standing is None else f"; {made.standing.words}"
    alt = f"optimized picture: {made.row()[_NAME]}{place}"
    if made.limits.dead:
        pixels, alt = np.full_like(pixels, 128), f"no picture of {made.goal.title}, which is dead"
    own = picture(pixels, alt)
    return Tile(
        made.goal.title,
        made.goal.unit,
        (own, *(shown for shown, _ in real)),
        curve=tuple(float(value) for value in thin),
        captions=(made.caption, *(caption for _, caption in real)),
    )


def real_pictures(
    goal: Goal, real: RealActivations, source: ImageSource, subject: Subject, count: int
) -> list[tuple[Picture, str]]:
    """Return the real images that excite a unit most, or least where it is driven down, with captions."""
    found = []
    for index, value in real.best(count, goal.sign):
        image = load_batch(source, [index], subject.preprocessing, real.size)
        image = domain_of(subject.preprocessing).show(image)
        name = source.names[index]
        caption = f"real, {'most' if goal.sign > 0 else 'least'}: {figure(value)}, {PurePosixPath(name).name}"
        found.append((picture(to_pixels(image)[0], f"real image {name}"), caption))
    return found


def joined(rows: Sequence[Row], tiles: Sequence[Tile], more: tuple[tuple[str, Cell], ...]) -> Iterator[Tile]:
    """Join the tiles of one target: its seeds and directions side by side, curves averaged over seeds.

    Args:
        rows: one for each picture.
        tiles: the same; the first picture of each is the made one, others are real.
        more: facts that every tile says.
    """
    groups: dict[tuple[Cell, Cell], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row[_UNIT], row[_TARGET]), []).append(index)
    for members in groups.values():
        # The curve and the figures are those of the direction asked for first.
        lead = [i for i in members if rows[i][_DIRECTION] == rows[members[0]][_DIRECTION]]
        shortest = min(len(tiles[i].curve) for i in lead)
        curve = np.mean([tiles[i].curve[:shortest] for i in lead], axis=0)
        made = [(tiles[i].pictures[0], tiles[i].captions[0]) for i in members]
        real = [pair for i in members for pair in zip(tiles[i].pictures[1:], tiles[i].captions[1:], strict=True)]
        yield Tile(
            title=tiles[members[0]].title,
            unit=tiles[members[0]].unit,
            pictures=tuple(shown for shown, _ in (*made, *real)),
            captions=tuple(caption for _, caption in (*made, *real)),
            facts=(*_facts([rows[i] for i in lead]), *more),
            curve=tuple(float(value) for value in curve),
            curve_title=f"activation at each step{', mean over pictures' if len(lead) > 1 else ''}",
        )


def array(name: str, made: Maximized, results: Sequence[Made]) -> Array:
    """Return a job's pictures and figures as numbers, for other programs."""
    units = [result.goal.unit for result in results]
    arrays = {
        "images": made.images,
        "curves": made.curves,
        "before": made.before,
        "after": made.after,
        "start_gain": made.start_gain,
        "taken": made.taken,
        "unit": np.asarray([-1 if unit is None else unit.index for unit in units], dtype=np.int64),
        "sign": np.asarray([result.goal.sign for result in results], dtype=np.int64),
        "seed": np.asarray([result.seed for result in results], dtype=np.int64),
    }
    if made.importance.size:
        arrays["importance"] = made.importance
    return Array(f"images.{name}", f"Pictures of {name} as floats", arrays)


def tile_size(tiles: Sequence[Tile]) -> int:
    """Return the width at which small pictures are shown, a whole multiple of theirs; 0 leaves it to the report."""
    width = max((shown.width for entry in tiles for shown in entry.pictures), default=0)
    return width * max(1, round(192 / width)) if 0 < width < SMALL else 0


def _facts(rows: Sequence[Row]) -> tuple[tuple[str, Cell], ...]:
    """Return the figures of one target and direction, over its pictures."""

    def mean(column: int) -> float:
        return math.fsum(number(row[column]) for row in rows) / len(rows)

    facts: list[tuple[str, Cell]] = [
        ("direction", rows[0][_DIRECTION]),
        ("before", mean(_BEFORE)),
        ("after", mean(_AFTER)),
    ]
    if rows[0][_PROBABILITY] is not None:
        facts.append(("class probability", mean(_PROBABILITY)))
    if rows[0][_QUANTILE] is not None:
        facts.append(("quantile among real images", percent(mean(_QUANTILE), 1)))
    seeds = list(dict.fromkeys(row[_SEED] for row in rows))
    facts.append(("seed", seeds[0]) if len(seeds) == 1 else ("seeds", ", ".join(map(str, seeds))))
    loud = [number(row[_LOUDER]) for row in rows if row[_LOUDER] != 1]
    if loud:
        facts.append(("start gain", f"x {max(loud):g}, silent on the usual one"))
    facts += _limits(rows)
    if any(not rose(row) for row in rows):
        facts.append(("did not rise", "the picture shows nothing about this unit"))
    elif any(_weak(row) for row in rows):
        facts.append(("weak", "most real images excite it more"))
    return tuple(facts)


def _limits(rows: Sequence[Row]) -> Iterator[tuple[str, Cell]]:
    """Yield what limits what the pictures of one target and direction say of it."""
    beaten = [row for row in rows if row[_BEATEN] == "yes"]
    if beaten:
        yield "beaten", _beaten_by(max(beaten, key=lambda row: abs(number(row[_SIMPLE]) - number(row[_AFTER]))))
    begun = list(dict.fromkeys(str(row[_BEGUN]) for row in rows if row[_BEGUN]))
    if begun:
        yield "begun with", f"{', '.join(begun)}: what came of the usual start excited the unit less"
    states = list(dict.fromkeys(str(row[_STATE]) for row in rows if row[_STATE]))
    if states:
        yield "state", "; ".join(states)


def _beaten_by(row: Row) -> str:
    """Say which simple picture beats a made one, and by how much: "plain yellow reaches 2.1 times as much"."""
    if row[_TIMES] is None:
        return f"{row[_WHICH]} reaches {figure(row[_SIMPLE])}, the picture {figure(row[_AFTER])}"
    times = number(row[_TIMES])
    if row[_DIRECTION] == "down" and number(row[_AFTER]) > 0:
        return f"{row[_WHICH]} gets it down to {figure(row[_SIMPLE])}, the picture to {figure(row[_AFTER])}"
    return f"{row[_WHICH]} reaches {times:.3g} times as much"


# --- numbers and words ----------------------------------------------------------------------------------------------


def unproduced(*, classes: bool, real: bool) -> dict[str, str]:
    """Return the metrics that there are not without classes or without real images, with the reason."""
    found = {} if classes else dict.fromkeys(("mean_class_probability", "top1_rate"), "no target is a class")
    if not real:
        why = "no real images are measured: name a data set with `data:`"
        found |= dict.fromkeys(("beyond_real_fraction", "median_quantile"), why)
    return found


def metrics(rows: Sequence[Row]) -> Iterator[Metric]:
    """Yield what `expect:` can test."""
    yield _share(
        "rise_fraction", [rose(row) for row in rows], "pictures that rose",
        "Share of pictures whose activation moved in the direction asked for.",
    )  # fmt: skip
    classes = [row for row in rows if row[_PROBABILITY] is not None and row[_DIRECTION] == "up"]
    if classes:
        mean = math.fsum(number(row[_PROBABILITY]) for row in classes) / len(classes)
        yield Metric(
            "mean_class_probability", mean, "class probability",
            "Mean of what the model gives its class pictures.", "percent", "higher", "mean_class_probability",
            total=len(classes),
        )  # fmt: skip
    chosen = [row for row in classes if row[_TOP] is not None]
    if chosen:
        yield _share(
            "top1_rate", [row[_TOP] == "yes" for row in chosen], "recognised by the model",
            "Share of class pictures whose class is the model's first choice.",
        )  # fmt: skip
    measured = [row for row in rows if row[_BEATEN] is not None]
    if measured:
        share = Share(sum(row[_BEATEN] == "yes" for row in measured), len(measured))
        yield Metric(
            "beaten_fraction", share.value, "beaten by a simple picture",
            "Share of pictures that a plain colour or a grating exceeds by more than a hundredth.",
            "percent", "lower", "beaten_fraction", share.total, share.interval,
        )  # fmt: skip
    quantiles = [number(row[_QUANTILE]) for row in rows if row[_QUANTILE] is not None]
    if quantiles:
        yield _share(
            "beyond_real_fraction", [quantile == 1 for quantile in quantiles], "beyond all real images",
            "Share of pictures whose activation exceeds that of every real image, in the direction asked for.",
        )  # fmt: skip
        yield Metric(
            "median_quantile", float(np.median(quantiles)), "quantile among real images",
            "Median over the pictures: the share of real images that excite the unit less.",
            "percent", "higher", "median_quantile", total=len(quantiles),
        )  # fmt: skip


def _share(name: str, holds: Sequence[bool], title: str, description: str) -> Metric:
    share = Share(sum(holds), len(holds))
    return Metric(
        name, share.value, title, description, "percent", "higher", name, total=share.total, interval=share.interval
    )


def summary(rows: Sequence[Row]) -> str:
    """Say in words what was made and whether it worked."""
    count, targets = len(rows), len({(row[_UNIT], row[_TARGET]) for row in rows})
    risen = sum(rose(row) for row in rows)
    made = f"{count} picture{'s' * (count != 1)} of {targets} target{'s' * (targets != 1)}"
    if risen == count:
        outcome = "the activation moved in the direction asked for" + (" in every one" if count > 1 else "")
    else:
        outcome = f"the activation moved in the direction asked for in {risen}, not in {count - risen}"
    text = f"{made}; {outcome}."
    if count <= 6:
        each = [f"{row[_NAME]}: {figure(row[_BEFORE])} to {figure(row[_AFTER])}" for row in rows]
        text += f" Activation before and after: {'; '.join(each)}."
    classes = [row for row in rows if row[_TOP] is not None and row[_DIRECTION] == "up"]
    if classes:
        known = sum(row[_TOP] == "yes" for row in classes)
        text += f" The model itself names the class first for {known} of {len(classes)} class pictures."
    measured = [row for row in rows if row[_BEATEN] is not None]
    if measured:
        beaten = sum(row[_BEATEN] == "yes" for row in measured)
        text += f" A plain colour or a grating beats {beaten} of {len(measured)} pictures."
    quantiles = [number(row[_QUANTILE]) for row in rows if row[_QUANTILE] is not None]
    if quantiles:
        beyond = sum(quantile == 1 for quantile in quantiles)
        text += f" {beyond} of {len(quantiles)} pictures go beyond every real image that was measured."
    return text


def coverage(rows: Sequence[Row], asked: Sequence[Goal], subject: Subject) -> Iterator[Coverage]:
    """Say for every layer how many of its units have a picture."""
    units = [goal.unit for goal in asked if goal.target is not None and goal.unit is not None]
    for name in dict.fromkeys(unit.layer for unit in units):
        done = {cell for cell in (row[_UNIT] for row in rows) if isinstance(cell, Unit) and cell.layer == name}
        total = subject.view.layer(name).unit_count or len(done)
        wanted = len({unit for unit in units if unit.layer == name})
        reason = "" if wanted == total else "the recipe names these units"
        if len(done) < wanted:
            reason = f"{wanted - len(done)} of the {wanted} units asked for have no picture, because a job failed"
        yield Coverage(f"units of {name}", len(done), total, reason, f"coverage.{name}")


def caveats(rows: Sequence[Row], asked: Sequence[Goal], subject: Subject) -> Iterator[Caveat]:
    """Yield what the reader must know before believing the pictures."""
    layers = tuple(dict.fromkeys(layer for goal in asked for layer in goal.wanted.layers()))
    flat = [str(row[_NAME]) for row in rows if not rose(row)]
    if flat:
        yield Caveat(
            f"The activation did not rise for {len(flat)} of {len(rows)} pictures: {_listed(flat)}. Such a picture "
            f"shows nothing about its unit: {_why_flat(layers, subject)}",
            "did_not_rise",
            "wrong",
        )
    weak = [str(row[_NAME]) for row in rows if rose(row) and _weak(row)]
    if weak:
        yield Caveat(
            f"{len(weak)} of {len(rows)} pictures rose, but excite their unit less than half of the real images do: "
            f"{_listed(weak)}. What such a picture shows is not what the unit looks for; more steps, a higher learning "
            "rate or weaker regularizers may help.",
            "weak",
        )
    yield from _limiting(rows)
    for name in layers:
        layer = subject.view.layer(name)
        if layer.operator == "Softmax" and has_class_units(layer, subject.view):
            yield Caveat(
                f"{name} is a softmax: its output also rises when other classes fall, and its gradient vanishes "
                "where it is near 0 or 1. The layer `logits` usually gives clearer pictures.",
                "softmax_target",
            )
    if doubt := subject.preprocessing.doubt:
        yield Caveat(
            f"{doubt} With the wrong preprocessing, colours and contrast of these pictures are wrong too.",
            "preprocessing",
            "wrong",
        )


def _limiting(rows: Sequence[Row]) -> Iterator[Caveat]:
    """Yield which pictures something simpler beats, and which units have nothing more, or nothing at all, to show."""
    beaten = [row for row in rows if row[_BEATEN] == "yes"]
    if beaten:
        each = [f"{row[_NAME]} ({_beaten_by(row)})" for row in beaten]
        yield Caveat(
            f"{len(beaten)} of {sum(row[_BEATEN] is not None for row in rows)} pictures are beaten by a plain colour "
            f"or a grating: {_listed(each)}. Such a picture does not show the most that its unit can do.",
            "beaten",
        )
    stated = [f"{row[_NAME]} ({row[_STATE]})" for row in rows if row[_STATE]]
    if stated:
        yield Caveat(
            f"{len(stated)} of {len(rows)} pictures are of units at the end of their range, silent or dead: "
            f"{_listed(stated)}.",
            "state",
        )


def _why_flat(layers: Sequence[str], subject: Subject) -> str:
    """Say what may keep activations from rising: operators without a slope, where there are any."""
    stops = dict.fromkeys(stop for name in layers for stop in subject.view.gradient_stops(subject.view.layer(name)))
    if stops:
        more = f" and {len(stops) - 2} more" if len(stops) > 2 else ""
        return (
            f"every path to the image ends in an operator without a slope ({', '.join(list(stops)[:2])}{more}), "
            "so that gradients do not say how to change it. Layers before that can be driven."
        )
    return (
        "it may be dead, or silent on the start image so that it has no gradient. More steps, another seed or the "
        "layer before the activation function may help."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more (see the table)" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def rose(row: Row) -> bool:
    """Return whether a picture's activation moved in the direction asked for."""
    return number(row[_RISE]) > 0


def _weak(row: Row) -> bool:
    return row[_QUANTILE] is not None and number(row[_QUANTILE]) < 0.5


def number(cell: Cell) -> float:
    """Return a cell that is known to be a number."""
    assert isinstance(cell, int | float)
    return float(cell)


def figure(cell: Cell) -> str:
    """Write an activation with three digits, and without an exponent unless it is very large or small."""
    value = number(cell)
    return f"{value:.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"
