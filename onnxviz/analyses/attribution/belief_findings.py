"""The tables, curves and sentences that say which map to believe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnxviz.analyses.attribution.belief import (
    FEW,
    IGNORES_TARGET,
    IGNORES_WEIGHTS,
    Belief,
    Verdict,
    least_images,
    weigh,
)
from onnxviz.analyses.attribution.judgement import Faithfulness, ImageJudgement
from onnxviz.analyses.attribution.randomisation import in_words
from onnxviz.core.findings import Caveat, Cell, Column, Curve, Finding, Metric, Note, Series, Table
from onnxviz.core.means import Mean
from onnxviz.core.wording import counted, listed

_SHOWN_CHANCE = 0.001
_UNKNOWN = Mean(math.nan, 0, ())

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "maps_better_than_simple", math.nan, "methods better than simple maps",
            "Number of methods whose maps have a larger area of insertion less deletion than every map that knows "
            "nothing of the network, beyond chance.",
            "integer", "higher",
        ),
        Metric(
            "maps_ignoring_weights", math.nan, "methods that ignore the weights",
            "Number of methods whose maps stay much the same when all weights are shuffled: rank correlation surely "
            f"above {IGNORES_WEIGHTS:g}.",
            "integer", "lower",
        ),
        Metric(
            "maps_ignoring_target", math.nan, "methods that ignore what is explained",
            "Number of methods whose maps stay the same when the weights of the last layer are shuffled: rank "
            f"correlation surely above {IGNORES_TARGET:g}.",
            "integer", "lower",
        ),
        Metric(
            "insertion_minus_deletion.*", math.nan, "insertion less deletion",
            "Mean area under the insertion curves less that under the deletion curves of a method's maps.",
            "number", "higher", tabled=True,
        ),
        Metric(
            "ahead_of_simple.*", math.nan, "ahead of simple maps",
            "How far a method's area of insertion less deletion is above that of the best map that knows nothing of "
            "the network, on the same images.",
            "number", "higher", tabled=True,
        ),
        Metric(
            "randomised_rank.*", math.nan, "similarity with shuffled weights",
            "Mean rank correlation of a method's maps with those of the network with all weights shuffled.",
            "number", "lower", tabled=True,
        ),
        Metric(
            "noise_rank.*", math.nan, "similarity under noise",
            "Mean rank correlation of a method's maps with those of images with noise that changes no prediction.",
            "number", "higher", tabled=True,
        ),
    )
}  # fmt: skip
"""What recipes can expect, without values; `*` stands for the method's name."""


def findings(
    images: Sequence[ImageJudgement], settings: Faithfulness, names: Mapping[str, str] | None = None
) -> list[Finding]:
    """Say which maps to believe: metrics, sentences, tables and curves.

    Args:
        images: the judgements, of one target for each image.
        settings: with which they were made.
        names: what methods are called in the names of metrics; made of their own names if None.
    """
    if not images:
        return []
    belief = weigh(images)
    return [
        *_metrics(belief, names or {}),
        *_which_to_believe(belief),
        *_ignoring(belief, images),
        _table(belief, images),
        *_details(belief, settings),
        *_curves(images, belief, settings),
        *_cascade(images, belief),
        *_caveats(belief, images, settings),
    ]


def metric_name(kind: str, method: str) -> str:
    """Return the name of a method's metric: "pointing_game.grad_cam" of "pointing_game.*" and "Grad-CAM"."""
    return kind.replace("*", re.sub(r"\W+", "_", method.lower()).strip("_"))


# --- numbers --------------------------------------------------------------------------------------------------------


def _metrics(belief: Belief, names: Mapping[str, str]) -> Iterator[Metric]:
    methods = belief.methods
    if belief.counted:
        yield replace(METRICS["maps_better_than_simple"], value=float(sum(one.is_better for one in methods)))
    # Of fewer images than it takes to flag a method the number would be 0 whatever the maps.
    if any(one.rank.total >= FEW for one in methods):
        yield replace(METRICS["maps_ignoring_weights"], value=float(sum(one.ignores_weights for one in methods)))
    if any(one.first.total >= FEW for one in methods):
        yield replace(METRICS["maps_ignoring_target"], value=float(sum(one.ignores_target for one in methods)))
    for one in methods:
        for kind, mean in (
            ("insertion_minus_deletion.*", one.margin),
            ("ahead_of_simple.*", one.ahead),
            ("randomised_rank.*", one.rank),
            ("noise_rank.*", one.steady),
        ):
            if mean.total:
                usual = METRICS[kind]
                yield replace(
                    usual,
                    name=kind.replace("*", names[one.method]) if one.method in names else metric_name(kind, one.method),
                    value=mean.value,
                    title=f"{usual.title}: {one.method}",
                    total=mean.total,
                    interval=mean.interval,
                )


# --- sentences ------------------------------------------------------------------------------------------------------


def _which_to_believe(belief: Belief) -> Iterator[Finding]:
    methods = [one for one in belief.methods if one.margin.total]
    if not methods or not belief.rival:
        return
    images, rival = counted(belief.counted, "image"), f"the best map that knows nothing of the network ({belief.rival})"
    better = [one for one in methods if one.is_better and not one.is_blind]
    if better:
        first = better[0]
        text = (
            f"On this model believe {first.method} first: over {images} the area of insertion less deletion is "
            f"{_with_interval(first.margin)}, {_with_interval(first.ahead)} above that of {rival}."
        )
        if others := better[1:]:
            each = ", ".join(f"{one.method} ({_with_interval(one.ahead)})" for one in others)
            text += f" Above it beyond chance are also: {each}."
    else:
        blind = [one.method for one in methods if one.is_better]
        of = f"maps beside those of {listed(blind, 6)}, which are flagged," if blind else "maps"
        text = f"Over {images} it is not shown, beyond chance, that any of the {of} is better than {rival}."
        if belief.counted < (least := least_images(len(methods))):
            are = "is" if belief.counted == 1 else "are"
            every = belief.counted == belief.images
            that_count = "" if every else f" whose curves count, as {belief.counted} of {belief.images} do here"
            of = f"any of {len(methods)} maps" if len(methods) > 1 else methods[0].method
            text = (
                f"{images} {are} too few to tell whether {of} is better than {rival}: it takes at least "
                f"{least}{that_count} (`faithfulness.images`)."
            )
    yield Note(text, "belief")
    worse = [one for one in methods if one.is_worse]
    unclear = [one for one in methods if not (one.is_better or one.is_worse)] if better else []
    if worse:
        each = ", ".join(f"{one.method} ({_with_interval(one.ahead)})" for one in worse)
        yield Note(f"Worse than {rival}, beyond chance: {each}.", "belief.worse")
    if unclear:
        each = ", ".join(f"{one.method} ({_with_interval(one.ahead)})" for one in unclear)
        yield Note(
            f"Not shown to be better than {rival}, allowing for {counted(len(methods), 'method')}, as these intervals "
            f"do not: {each}.", "belief.unclear",
        )  # fmt: skip


def _with_interval(mean: Mean) -> str:
    value = f"{mean.value:.3f}".replace("-", "−")
    return value + (f" ({mean.span()})" if mean.interval else "")


def _ignoring(belief: Belief, images: Sequence[ImageJudgement]) -> Iterator[Finding]:
    for one in belief.methods:
        if one.ignores_weights:
            yield Caveat(
                f"{one.method} hardly depends on what the network has learned: with the weights of all layers shuffled "
                f"its maps keep a rank correlation of {_with_interval(one.rank)} over "
                f"{counted(one.rank.total, 'image')} (1 is the same order, 0 nothing of it; surely above "
                f"{IGNORES_WEIGHTS:g} is flagged).",
                f"ignores.{one.method}",
                "wrong",
            )
        elif one.ignores_target:
            yield Caveat(
                f"{one.method} hardly depends on what is explained: with the weights of the last layer shuffled, which "
                f"make the score, its maps keep a rank correlation of {_with_interval(one.first)} over "
                f"{counted(one.first.total, 'image')} (surely above {IGNORES_TARGET:g} is flagged). They show what is "
                "to be seen, not what speaks for what is named.",
                f"ignores_target.{one.method}",
                "wrong",
            )
        if one.ignores_image:
            yield Caveat(
                f"{one.method} does not depend on the image: with noise that changes no prediction its maps stay the "
                f"same but for rounding, over {counted(one.sensitivity.total, 'image')}. They say nothing of where in "
                "an image the evidence lies.",
                f"ignores_image.{one.method}",
                "wrong",
            )
    known = [one for one in belief.methods if one.rank.total]
    for one in (one for one in known if one.may_be_blind):
        unsure = "with all weights shuffled" if one.rank.value > IGNORES_WEIGHTS else "with the last layer shuffled"
        mean = one.rank if one.rank.value > IGNORES_WEIGHTS else one.first
        do = "does" if mean.total == 1 else "do"
        yield Caveat(
            f"{one.method} may hardly depend on what the network has learned: {unsure} its maps keep a rank "
            f"correlation of {_with_interval(mean)}, and {counted(mean.total, 'image')} {do} not tell for sure "
            "(`faithfulness.images`).", f"may_ignore.{one.method}", "doubt",
        )  # fmt: skip
    if known and not any(one.is_blind or one.may_be_blind for one in known):
        most = max(known, key=lambda one: one.rank.value)
        none = "No map ignores what the network has learned"
        if most.rank.total < FEW:
            none = f"No map is seen to ignore what the network has learned, on {counted(most.rank.total, 'image')} only"
        yield Note(
            f"{none}: weights were shuffled from the output down, in {in_words(images[0].stages)}, and with all of "
            f"them shuffled the highest rank correlation with the maps before is that of {most.method}, "
            f"{_with_interval(most.rank)}, over {counted(most.rank.total, 'image')}.",
            "randomised",
        )


def _caveats(belief: Belief, images: Sequence[ImageJudgement], settings: Faithfulness) -> Iterator[Finding]:
    if belief.counted:
        yield Caveat(
            f"How deletion and insertion are measured: in {settings.steps} steps of the pixels, the highest of the map "
            f"first, deleted ones become {_REPLACED[settings.deleted]}, and pixels are inserted into "
            f"{_REPLACED[settings.inserted]}. Such images are unlike photographs, and part of what the score does is "
            "due to that; the maps that know nothing of the network meet it as well.",
            "curves",
            "limit",
        )
    if belief.scale == "score":
        yield Caveat(
            "Nothing makes a probability of the score: curves are between the score of the baseline (0) and that of "
            "the whole image (1).",
            "scale",
            "limit",
        )
    if settings.curves and belief.counted < len(images):
        yield Caveat(
            f"Curves count for {belief.counted} of {counted(len(images), 'image')}: the others score "
            "hardly more than their baseline, or by another kind of score.",
            "curves_left_out",
            "doubt",
        )
    blank = [one for one in belief.methods if one.blank]
    if blank:
        each = listed(f"{one.method} {one.blank} of {len(images)}" for one in blank)
        yield Caveat(f"Maps that are the same everywhere count as a random order of the pixels: {each}.", "blank")


_REPLACED = {
    "zero": "what the network sees as zeros",
    "blur": "the image blurred by a Gaussian of a twentieth of its longer side",
}


# --- tables and curves ----------------------------------------------------------------------------------------------


def _table(belief: Belief, images: Sequence[ImageJudgement]) -> Table:
    """Return what says whether to believe a map, in few columns: the rest stands in `_details`."""
    every = belief.verdicts
    table = _Columns([[one.method, _word(one)] for one in every])
    table.add("insertion less deletion", [one.margin for one in every], "Higher is better.", interval=True)
    table.add(
        f"above {belief.rival}",
        [_UNKNOWN if one.simple else one.ahead for one in every],
        "Image by image, with the 95 % interval of the mean.",
        interval=True,
    )
    table.add("weights shuffled", [one.rank for one in every], "Rank correlation with all weights shuffled; 0 is best.")
    about = [f"Means over {counted(len(images), 'image')}"]
    about += [f"curves over {belief.counted}"] if 0 < belief.counted < len(images) else []
    said = (
        f"{', '.join(about)}; intervals of 95 %, each for itself, where p allows for how many methods there are. The "
        f"last {sum(one.simple for one in every)} maps know nothing of the network: they are measured by their curves "
        "only. Recipes expect these numbers by their names: `insertion_minus_deletion.METHOD`, "
        "`ahead_of_simple.METHOD`, `randomised_rank.METHOD`, `noise_rank.METHOD`."
    )
    columns = (Column("map"), Column("believe it", description="By what is measured here."), *table.columns)
    return Table("belief", "Which map to believe", columns, table.rows, said, leading=True)


def _details(belief: Belief, settings: Faithfulness) -> Iterator[Table]:
    """Yield what else was measured of the maps."""
    every = belief.verdicts
    table = _Columns([[one.method] for one in every])
    table.add("deletion", [one.deletion for one in every], "Area under the curve; lower is better.")
    table.add("insertion", [one.insertion for one in every], "Area under the curve; higher is better.")
    table.add("last layer shuffled", [one.first for one in every], "Rank correlation with the map of other weights "
              "there.")  # fmt: skip
    table.add("structure", [one.structure for one in every], "Structural similarity with all weights shuffled.")
    table.add("under noise", [one.steady for one in every], "Rank correlation under noise; 1 is best.")
    table.add("largest change", [one.sensitivity for one in every], "Largest relative change under noise; 0 is best.")
    for fact in dict.fromkeys(name for one in every for name, _ in one.facts):
        table.add(fact, [dict(one.facts).get(fact, _UNKNOWN) for one in every], "As the method itself says.")
    said = ""
    if settings.stability and any(one.steady.total for one in every):
        said = (
            f"Noise moves a channel of a pixel by at most {settings.noise:g} of its range, {settings.samples} times; "
            "images for which the model then says something else do not count."
        )
    if table.columns:
        yield Table("belief_details", "What else was measured of the maps", (Column("map"), *table.columns), table.rows,
                    said)  # fmt: skip


class _Columns:
    """Columns of means, those that are known of no map left out; `cells` begin each row."""

    def __init__(self, cells: list[list[Cell]]) -> None:
        self.columns: list[Column] = []
        self._cells = cells

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """What stands in them."""
        return tuple(map(tuple, self._cells))

    def add(self, name: str, means: Sequence[Mean], description: str = "", *, interval: bool = False) -> None:
        """Add a column, with one behind it for the interval if asked for."""
        if not any(mean.total for mean in means):
            return
        self.columns.append(Column(name, "number", description))
        self.columns.extend([Column("interval")] if interval else [])
        for row, mean in zip(self._cells, means, strict=True):
            row.append(mean.value if mean.total else None)
            if interval:
                row.append(mean.span())


def _word(one: Verdict) -> str:
    if one.simple:
        return "knows nothing of the network"
    if one.ignores_weights:
        return "no: hardly depends on the weights"
    if one.ignores_target:
        return "no: hardly depends on what is explained"
    if one.ignores_image:
        return "no: does not depend on the image"
    if not one.margin.total:
        return "not measured"
    chance = f"p < {_SHOWN_CHANCE:g}" if one.probability < _SHOWN_CHANCE else f"p = {one.probability:.2g}"
    chance = chance.replace(" ", "\N{NO-BREAK SPACE}")  # the column is narrow
    if one.is_better:
        return f"yes: better than simple maps ({chance})"
    return "no: worse than a simple map" if one.is_worse else f"not shown ({chance})"


def _curves(images: Sequence[ImageJudgement], belief: Belief, settings: Faithfulness) -> Iterator[Finding]:
    if not belief.counted:
        return
    what = "mean probability of the class" if belief.scale == "probability" else "mean score: 0 baseline, 1 whole image"
    for kind, verb in (("deletion", "deleted"), ("insertion", "inserted")):
        lines = []
        for one in belief.verdicts:
            found = [
                getattr(judged.curves, kind)
                for image in images
                for judged in image.maps
                if judged.method == one.method and judged.curves and judged.curves.scale == belief.scale
            ]
            found = [curve for curve in found if curve]
            means = tuple(math.fsum(values) / len(found) for values in zip(*found, strict=True))
            lines.append(Series(one.method, tuple(step / settings.steps for step in range(len(means))), means))
        yield Curve(
            f"curves.{kind}",
            f"{kind.capitalize()}: the score while the map's highest places are {verb}",
            tuple(lines),
            f"share of the pixels {verb}",
            what,
            f"Over {counted(belief.counted, 'image')}. The faster it {'falls' if kind == 'deletion' else 'rises'}, the "
            "better the map.",
        )


def _cascade(images: Sequence[ImageJudgement], belief: Belief) -> Iterator[Finding]:
    stages = images[0].stages
    lines = []
    for one in belief.methods:
        ranks = [
            Mean.of([judged.randomised[number].rank for image in images for judged in image.maps
                     if judged.method == one.method and judged.randomised]).value
            for number in range(len(stages))
        ]  # fmt: skip
        if ranks and not all(math.isnan(rank) for rank in ranks):
            lines.append(Series(one.method, tuple(float(stage.layers) for stage in stages), tuple(ranks)))
    if lines and len(stages) > 1:
        yield Curve(
            "randomisation",
            "How much of the maps is left when weights are shuffled, from the output down",
            tuple(lines),
            f"layers with shuffled weights, of {stages[-1].of}",
            "mean rank correlation",
            f"Absolute values, over {counted(len(images), 'image')}. A map that stays high does not show what the "
            "network has learned.",
        )
