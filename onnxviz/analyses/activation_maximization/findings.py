"""What is said and shown of made pictures: tiles, words, numbers and caveats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.analyses import presentation
from onnxviz.analyses.activation_maximization.made_pictures import MadePicture
from onnxviz.core.findings import Caveat, Cell, Column, Coverage, Metric, Picture, Tile
from onnxviz.core.shares import percent
from onnxviz.core.values import Unit
from onnxviz.core.wording import listed
from onnxviz.graph.targets import has_class_units

if TYPE_CHECKING:
    from onnxviz.analyses.activation_maximization.goals import Goal
    from onnxviz.analyses.base import Subject

COLUMNS = {
    "name": Column("picture", description="Target, direction and seed."),
    "unit": Column("unit", "unit"),
    "title": Column("target", description="What was optimized."),
    "direction": Column("direction", description="Whether the activation was driven up or down."),
    "seed": Column("seed", "integer"),
    "before": Column("before", "number", "Activation of the start image, seen without transforms."),
    "after": Column("after", "number", "Activation of the final image, seen without transforms."),
    "rise": Column("rise", "number", "Difference in the direction asked for; below or at 0 the optimization failed."),
    "probability": Column("class probability", "percent",
                          "What the model itself gives the final image; only for classes."),
    "recognised": Column("top class", description="Whether that is the model's first choice; only for classes."),
    "start_gain": Column("start gain", "number",
                         "What the start was multiplied by, because its unit was silent on it; 1: nothing."),
    "steps": Column("steps", "integer",
                    "Steps that the picture took; fewer than asked for where it was stopped early."),
    "activation": Column("activation", "number", "Of the final image, by ONNX Runtime, as it was measured on real "
                         "images; transparent ones before grey."),
    "standing.quantile": Column("quantile among real images", "percent", "Share of real images that excite the unit "
                                "less, or more where it was driven down; equal ones count half."),
    "standing.times": Column("times the extreme", "number",
                             "Activation divided by the largest (or lowest) on a real image."),
    "limits.simple": Column("best simple picture", "number",
                            "The largest (or lowest) activation on plain colours and gratings."),
    "limits.which": Column("simple picture", description="Which one that is."),
    "limits.times": Column("times by simple picture", "number",
                           "That activation divided by the final image's; above 1 it beats it."),
    "limits.beaten": Column("beaten", description="Whether it exceeds the final image's by more than a hundredth."),
    "limits.begun": Column("begun with", description="What the picture was begun with where what came of the usual "
                           "start fell short."),
    "limits.state": Column("state", description="Whether the unit is at a bound, silent on real images, or dead."),
}  # fmt: skip
TABLE_DESCRIPTION = "One line for each picture; activations are of the picture as it is, without random views."
METRICS = presentation.by_name(
    Metric("rise_fraction", math.nan, "pictures that rose",
           "Share of pictures whose activation moved in the direction asked for.",
           "percent", "higher", "rise_fraction"),
    Metric("mean_class_probability", math.nan, "class probability",
           "Mean of what the model gives its class pictures.",
           "percent", "higher", "mean_class_probability"),
    Metric("top1_rate", math.nan, "recognised by the model",
           "Share of class pictures whose class is the model's first choice.",
           "percent", "higher", "top1_rate"),
    Metric("beaten_fraction", math.nan, "beaten by a simple picture",
           "Share of pictures that a plain colour or a grating exceeds by more than a hundredth.",
           "percent", "lower", "beaten_fraction"),
    Metric("beyond_real_fraction", math.nan, "beyond all real images",
           "Share of pictures whose activation exceeds that of every real image, in the direction asked for.",
           "percent", "higher", "beyond_real_fraction"),
    Metric("median_quantile", math.nan, "quantile among real images",
           "Median over the pictures: the share of real images that excite the unit less.",
           "percent", "higher", "median_quantile"),
)  # fmt: skip
_MOST_NAMED = 20


def tiles(made: Sequence[MadePicture], more: tuple[tuple[str, Cell], ...]) -> Iterator[Tile]:
    """Yield a tile for each target: seeds and directions side by side, curves averaged over seeds, `more` facts."""
    groups: dict[tuple[Unit | None, str], list[MadePicture]] = {}
    for one in made:
        groups.setdefault((one.unit, one.title), []).append(one)
    for members in groups.values():
        # The curve and the figures are those of the direction asked for first.
        lead = [one for one in members if one.sign == members[0].sign]
        shortest = min(len(one.curve) for one in lead)
        curve = np.mean([one.curve[:shortest] for one in lead], axis=0)
        shown = [(one.picture, _caption(one)) for one in members]
        shown += [pair for one in members for pair in _examples(one)]
        yield Tile(
            title=members[0].title,
            unit=members[0].unit,
            pictures=tuple(picture for picture, _ in shown),
            captions=tuple(caption for _, caption in shown),
            facts=(*_facts(lead), *more),
            curve=tuple(float(value) for value in curve),
            curve_title=f"activation at each step{', mean over pictures' if len(lead) > 1 else ''}",
        )


def _caption(made: MadePicture) -> str:
    """Return what stands below a picture; the report has room for some 60 characters."""
    number = f", {made.numbered}" if made.member else ""
    return "".join((
        "" if made.sign > 0 else "driven down, ",
        f"seed {made.seed}{number}: {figure(made.before)} to {figure(made.after)}",
        "" if made.probability is None else f", {percent(made.probability, 1)}",
        "" if made.start_gain == 1 else f"; start x {made.start_gain:g}",
        "" if made.standing is None else f"; {made.standing.brief}",
        f"; beaten by {made.limits.which}" if made.limits.beaten else "",
        "; dead" if made.limits.dead else "",
    ))  # fmt: skip


def _examples(made: MadePicture) -> Iterator[tuple[Picture, str]]:
    most = "most" if made.sign > 0 else "least"
    for example in made.examples:
        name = PurePosixPath(example.name).name
        yield example.picture, f"real, {most}: {figure(example.activation)}, {name}"


def _facts(made: Sequence[MadePicture]) -> tuple[tuple[str, Cell], ...]:
    """Return the figures of one target and direction, over its pictures."""
    facts: list[tuple[str, Cell]] = [
        ("direction", made[0].direction),
        ("before", _mean([one.before for one in made])),
        ("after", _mean([one.after for one in made])),
    ]
    if made[0].probability is not None:
        facts.append(("class probability", _mean([one.probability or 0.0 for one in made])))
    if made[0].standing is not None:
        quantile = _mean([one.standing.quantile for one in made if one.standing is not None])
        facts.append(("quantile among real images", percent(quantile, 1)))
    seeds = list(dict.fromkeys(one.seed for one in made))
    facts.append(("seed", seeds[0]) if len(seeds) == 1 else ("seeds", ", ".join(map(str, seeds))))
    loud = [one.start_gain for one in made if one.start_gain != 1]
    if loud:
        facts.append(("start gain", f"x {max(loud):g}, silent on the usual one"))
    facts += _limits(made)
    if any(not one.rose for one in made):
        facts.append(("did not rise", "the picture shows nothing about this unit"))
    elif any(one.weak for one in made):
        facts.append(("weak", "most real images excite it more"))
    return tuple(facts)


def _limits(made: Sequence[MadePicture]) -> Iterator[tuple[str, Cell]]:
    """Yield what limits what the pictures of one target and direction say of it."""
    beaten = [one for one in made if one.limits.beaten]
    if beaten:
        yield "beaten", _beaten_by(max(beaten, key=lambda one: abs((one.limits.simple or 0.0) - one.after)))
    begun = list(dict.fromkeys(one.limits.begun for one in made if one.limits.begun))
    if begun:
        yield "begun with", f"{', '.join(begun)}: what came of the usual start excited the unit less"
    states = list(dict.fromkeys(one.limits.state for one in made if one.limits.state))
    if states:
        yield "state", "; ".join(states)


def _beaten_by(made: MadePicture) -> str:
    """Say which simple picture beats a made one, and by how much: "plain yellow reaches 2.1 times as much"."""
    which, simple, after = made.limits.which, figure(made.limits.simple or 0.0), figure(made.after)
    if made.limits.times is None:
        return f"{which} reaches {simple}, the picture {after}"
    if made.sign < 0 and made.after > 0:
        return f"{which} gets it down to {simple}, the picture to {after}"
    return f"{which} reaches {made.limits.times:.3g} times as much"


def unproduced(*, classes: bool, real: bool) -> dict[str, str]:
    """Return the metrics that there are not without classes or without real images, with the reason."""
    found = {} if classes else dict.fromkeys(("mean_class_probability", "top1_rate"), "no target is a class")
    if not real:
        why = "no real images are measured: name a data set with `data:`"
        found |= dict.fromkeys(("beyond_real_fraction", "median_quantile"), why)
    return found


def metrics(made: Sequence[MadePicture]) -> Iterator[Metric]:
    """Yield what `expect:` can test."""

    def share(name: str, holds: Sequence[bool | None]) -> Iterator[Metric]:
        known = [one for one in holds if one is not None]
        if known:
            yield presentation.of_share(METRICS[name], known)

    def average(name: str, value: float, total: int) -> Metric:
        return replace(METRICS[name], value=value, total=total)

    yield from share("rise_fraction", [one.rose for one in made])
    upward = [one for one in made if one.probability is not None and one.sign > 0]
    if upward:
        yield average("mean_class_probability", _mean([one.probability or 0.0 for one in upward]), len(upward))
    yield from share("top1_rate", [one.recognised for one in upward])
    yield from share("beaten_fraction", [one.limits.beaten for one in made])
    quantiles = [one.standing.quantile for one in made if one.standing is not None]
    yield from share("beyond_real_fraction", [quantile == 1 for quantile in quantiles])
    if quantiles:
        yield average("median_quantile", float(np.median(quantiles)), len(quantiles))


def summary(made: Sequence[MadePicture]) -> str:
    """Say in words what was made and whether it worked."""
    count, targets = len(made), len({(one.unit, one.title) for one in made})
    risen = sum(one.rose for one in made)
    pictures = f"{count} picture{'s' * (count != 1)} of {targets} target{'s' * (targets != 1)}"
    if risen == count:
        outcome = "the activation moved in the direction asked for" + (" in every one" if count > 1 else "")
    else:
        outcome = f"the activation moved in the direction asked for in {risen}, not in {count - risen}"
    text = f"{pictures}; {outcome}."
    if count <= 6:
        each = [f"{one.name}: {figure(one.before)} to {figure(one.after)}" for one in made]
        text += f" Activation before and after: {'; '.join(each)}."
    choices = [one.recognised for one in made if one.recognised is not None and one.sign > 0]
    if choices:
        text += f" The model itself names the class first for {sum(choices)} of {len(choices)} class pictures."
    measured = [one.limits.beaten for one in made if one.limits.beaten is not None]
    if measured:
        text += f" A plain colour or a grating beats {sum(measured)} of {len(measured)} pictures."
    quantiles = [one.standing.quantile for one in made if one.standing is not None]
    if quantiles:
        beyond = sum(quantile == 1 for quantile in quantiles)
        text += f" {beyond} of {len(quantiles)} pictures go beyond every real image that was measured."
    return text


def coverage(made: Sequence[MadePicture], asked: Sequence[Goal], subject: Subject) -> Iterator[Coverage]:
    """Say for every layer how many of its units have a picture."""
    units = [goal.unit for goal in asked if goal.target is not None and goal.unit is not None]
    for name in dict.fromkeys(unit.layer for unit in units):
        done = {one.unit for one in made if one.unit is not None and one.unit.layer == name}
        total = subject.view.layer(name).unit_count or len(done)
        wanted = len({unit for unit in units if unit.layer == name})
        reason = "" if wanted == total else "the recipe names these units"
        if len(done) < wanted:
            reason = f"{wanted - len(done)} of the {wanted} units asked for have no picture, because a job failed"
        yield Coverage(f"units of {name}", len(done), total, reason, f"coverage.{name}")


def caveats(made: Sequence[MadePicture], asked: Sequence[Goal], subject: Subject) -> Iterator[Caveat]:
    """Yield what the reader must know before believing the pictures."""
    layers = tuple(dict.fromkeys(layer for goal in asked for layer in goal.wanted.layers()))
    flat = [one.name for one in made if not one.rose]
    if flat:
        yield Caveat(
            f"The activation did not rise for {len(flat)} of {len(made)} pictures: {_listed(flat)}. Such a picture "
            f"shows nothing about its unit: {_why_flat(layers, subject)}",
            "did_not_rise",
            "wrong",
        )
    weak = [one.name for one in made if one.rose and one.weak]
    if weak:
        yield Caveat(
            f"{len(weak)} of {len(made)} pictures rose, but excite their unit less than half of the real images do: "
            f"{_listed(weak)}. What such a picture shows is not what the unit looks for; more steps, a higher learning "
            "rate or weaker regularizers may help.",
            "weak",
        )
    yield from _limiting(made)
    for name in layers:
        layer = subject.view.layer(name)
        if layer.operator == "Softmax" and has_class_units(layer, subject.view):
            yield Caveat(
                f"{name} is a softmax: its output also rises when other classes fall, and its gradient vanishes "
                "where it is near 0 or 1. The layer `logits` usually gives clearer pictures.",
                "softmax_target",
            )
    yield from presentation.doubtful_preprocessing(subject, "colours and contrast of these pictures are wrong too.")


def _limiting(made: Sequence[MadePicture]) -> Iterator[Caveat]:
    """Yield which pictures something simpler beats, and which units have nothing more, or nothing at all, to show."""
    beaten = [f"{one.name} ({_beaten_by(one)})" for one in made if one.limits.beaten]
    if beaten:
        yield Caveat(
            f"{len(beaten)} of {sum(one.limits.beaten is not None for one in made)} pictures "
            f"{'is' if len(beaten) == 1 else 'are'} beaten by a plain colour or a grating: {_listed(beaten)}. "
            "Such a picture does not show the most that its unit can do.",
            "beaten",
        )
    stated = [f"{one.name} ({one.limits.state})" for one in made if one.limits.state]
    if stated:
        yield Caveat(
            f"{len(stated)} of {len(made)} pictures are of units at the end of their range, silent or dead: "
            f"{_listed(stated)}.",
            "state",
        )


def _why_flat(layers: Sequence[str], subject: Subject) -> str:
    """Say what may keep activations from rising: operators without a slope, where there are any."""
    stops = dict.fromkeys(stop for name in layers for stop in subject.view.gradient_stops(subject.view.layer(name)))
    if stops:
        return (
            f"every path to the image ends in an operator without a slope ({listed(list(stops), 2)}), "
            "so that gradients do not say how to change it. Layers before that can be driven."
        )
    return (
        "it may be dead, or silent on the start image so that it has no gradient. More steps, another seed or the "
        "layer before the activation function may help."
    )


def _listed(names: Sequence[str]) -> str:
    return listed(names, _MOST_NAMED) + (" (see the table)" if len(names) > _MOST_NAMED else "")


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def figure(value: float) -> str:
    """Write an activation with three digits, and without an exponent unless it is very large or small."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"
