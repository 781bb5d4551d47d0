"""Which maps are to be believed on this model: what the judgements of single images come to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from onnxviz.analyses.attribution.faithfulness import area
from onnxviz.analyses.attribution.judgement import ImageJudgement, MapJudgement, margin
from onnxviz.core.means import Mean
from onnxviz.core.shares import LEVEL, paired
from onnxviz.core.wording import counted, listed

IGNORES_IMAGE = 1e-3
"""A map ignores the image if its largest relative change under noise is below this: the deconvnet of a network without
poolings is the same for every image."""
IGNORES_WEIGHTS = 0.7
"""A map ignores the weights if its mean rank correlation with that of all weights shuffled is surely above this. Of an
edge filter it is 1, of gradients 0.35 at most (figures: benchmarks/RESULTS.md)."""
IGNORES_TARGET = 0.85
"""A map ignores what is explained if its mean rank correlation with that of the last layer's weights shuffled, which
make the score, is surely above this. Of guided backpropagation, which is known for it, it is 0.96 and 0.98 on two
networks, of gradients 0.42 and 0.65."""


FEW = 4
"""Images below which no method is flagged."""
_SAME = 1e-3
"""Areas that are nearer than this are those of the same order of the pixels, but for rounding."""


@dataclass(frozen=True)
class Verdict:
    """What the judgements of one kind of map come to.

    Attributes:
        method: its name.
        simple: whether it knows nothing of the network.
        deletion: mean area under the deletion curves; lower is better.
        insertion: that under the insertion curves; higher is better.
        margin: insertion less deletion, image by image.
        ahead: how far that is above the best simple map's on the same images.
        probability: of so large a mean difference if there were none (paired signs, corrected by Holm's method for the
            number of methods); 1 for simple maps.
        first: rank correlation with the map of shuffled weights of the last layer alone.
        rank: that with all weights shuffled.
        structure: structural similarity with the latter map.
        sensitivity: largest relative change under noise.
        steady: rank correlation with the map under noise.
        blank: how many of the maps are the same everywhere.
        facts: by name what the method says of its maps itself.
    """

    method: str
    simple: bool
    deletion: Mean
    insertion: Mean
    margin: Mean
    ahead: Mean
    probability: float
    first: Mean
    rank: Mean
    structure: Mean
    sensitivity: Mean
    steady: Mean
    blank: int
    facts: tuple[tuple[str, Mean], ...]

    @property
    def ignores_weights(self) -> bool:
        """Whether its maps stay much the same when all weights are shuffled."""
        return _surely_above(self.rank, IGNORES_WEIGHTS)

    @property
    def ignores_target(self) -> bool:
        """Whether its maps stay the same when the last layer, which makes the score, is shuffled."""
        return _surely_above(self.first, IGNORES_TARGET)

    @property
    def ignores_image(self) -> bool:
        """Whether its maps stay the same when the image changes a little."""
        return self.sensitivity.total > 0 and self.sensitivity.value < IGNORES_IMAGE

    @property
    def is_blind(self) -> bool:
        """Whether it ignores the weights, what is explained, or the image."""
        return self.ignores_weights or self.ignores_target or self.ignores_image

    @property
    def may_be_blind(self) -> bool:
        """Whether it may ignore the weights or what is explained, and the images do not tell for sure."""
        above = self.rank.value > IGNORES_WEIGHTS or self.first.value > IGNORES_TARGET
        return above and not (self.ignores_weights or self.ignores_target)

    @property
    def is_better(self) -> bool:
        """Whether it is better than every simple map beyond chance."""
        return self.probability < 1 - LEVEL and self.ahead.value > 0

    @property
    def is_worse(self) -> bool:
        """Whether it is worse than the best simple map beyond chance."""
        return self.probability < 1 - LEVEL and self.ahead.value < 0


@dataclass(frozen=True)
class Belief:
    """What all judgements come to.

    Attributes:
        verdicts: of the methods, the best first: those that ignore the weights or what is explained behind the others,
            each by its margin; then of the simple maps.
        rival: the simple map of the highest margin; "" if there are no curves.
        images: how many images were judged.
        counted: of how many of them the curves are counted; others have another scale, or none.
        scale: what the curves show.
    """

    verdicts: tuple[Verdict, ...]
    rival: str
    images: int
    counted: int
    scale: str

    @property
    def methods(self) -> list[Verdict]:
        """The verdicts that are not of simple maps, the best first."""
        return [verdict for verdict in self.verdicts if not verdict.simple]


@dataclass(frozen=True)
class Choice:
    """The method that `auto` takes.

    Attributes:
        method: its name.
        runner_up: the next; "" if there is none.
        is_better: whether it beats the maps that know nothing of the network beyond chance.
        words: why, in a sentence or two.
    """

    method: str
    runner_up: str
    is_better: bool
    words: str


def weigh(images: Sequence[ImageJudgement]) -> Belief:
    """Sum up the judgements of images, with one target each: several of an image would not be independent."""
    names = list(dict.fromkeys(judged.method for image in images for judged in image.maps))
    by_name = {name: [_of(image, name) for image in images] for name in names}
    scale = _usual_scale(images)
    margins = {name: [_margin(judged, scale) for judged in found] for name, found in by_name.items()}
    simple = [name for name, found in by_name.items() if any(judged is not None and judged.simple for judged in found)]
    means = {name: Mean.of(values) for name, values in margins.items()}
    known = [name for name in simple if means[name].total]
    rival = max(known, key=lambda name: means[name].value, default="")
    ahead = {
        name: [one - other for one, other in zip(margins[name], margins[rival], strict=True)] if rival else []
        for name in names
    }
    methods = [name for name in names if name not in simple]
    # Methods that make the same maps, as some do at the last layer of some networks, are one test and not several.
    tests = {name: tuple(map(repr, ahead[name])) for name in methods}
    firsts = {key: name for name, key in reversed(tests.items())}
    corrected = dict(zip(firsts, holm([_chance(ahead[name]) for name in firsts.values()]), strict=True))
    chances = {name: corrected[key] for name, key in tests.items()}
    verdicts = [
        _verdict(name, name in simple, by_name[name], scale, Mean.of(ahead[name]), chances.get(name, 1.0))
        for name in names
    ]
    ordered = sorted(verdicts, key=lambda one: (one.simple, one.is_blind, -_or_least(one.margin.value)))
    counted_images = max((mean.total for mean in means.values()), default=0)
    return Belief(tuple(ordered), rival, len(images), counted_images, scale)


def choose(images: Sequence[ImageJudgement]) -> Choice | None:
    """Choose a method for `methods: auto` by trial on some images; None if nothing says which is better.

    Methods whose maps ignore the weights or what is explained are left out; of the others that with the largest mean
    area of insertion less deletion is taken. The runner-up is the next whose maps are not the same.
    """
    found = [verdict for verdict in weigh(images).methods if verdict.margin.total and not verdict.is_blind]
    if not found:
        return None
    first, *others = found
    same = [one.method for one in others if _same(images, first.method, one.method)]
    others = [one for one in others if one.method not in same]
    words = (
        f"{first.method} was taken, by trial on {counted(first.margin.total, 'image')}: of the methods that are not "
        "flagged for ignoring the weights, what is explained or the image it has the largest area of insertion less "
        f"deletion, {first.margin.value:.3f}"
    )
    words += f" (and the same curves as {listed(same)})" if same else ""
    if not others:
        return Choice(first.method, "", first.is_better, f"{words}.")
    second = others[0]
    gaps = [_margin(_of(image, first.method)) - _margin(_of(image, second.method)) for image in images]
    sure = "" if _chance(gaps) < 1 - LEVEL else ", which is no difference beyond chance"
    words += f"; the runner-up is {second.method} with {second.margin.value:.3f}{sure}."
    return Choice(first.method, second.method, first.is_better, words)


def _same(images: Sequence[ImageJudgement], one: str, other: str) -> bool:
    """Whether two methods make the same maps, by their curves: some do at the last layer of some networks."""
    gaps = [abs(_margin(_of(image, one)) - _margin(_of(image, other))) for image in images]
    return all(math.isnan(gap) or gap < _SAME for gap in gaps)


def holm(chances: Sequence[float]) -> list[float]:
    """Correct probabilities for their number.

    Holm 1979, Scand. J. Stat. 6, 65: the smallest of m is multiplied by m, the next by m - 1, and none is below one
    before it.
    """
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    corrected, least = [1.0] * len(chances), 0.0
    for turn, place in enumerate(order):
        least = max(least, min(1.0, (len(chances) - turn) * chances[place]))
        corrected[place] = least
    return corrected


def _of(image: ImageJudgement, name: str) -> MapJudgement | None:
    return next((judged for judged in image.maps if judged.method == name), None)


def _usual_scale(images: Sequence[ImageJudgement]) -> str:
    scales = Counter(
        judged.curves.scale for image in images for judged in image.maps if judged.curves and judged.curves.deletion
    )
    return max(sorted(scales), key=lambda scale: scales[scale], default="")


def _margin(judged: MapJudgement | None, scale: str = "") -> float:
    if judged is None or judged.curves is None or (scale and judged.curves.scale != scale):
        return math.nan
    return margin(judged)


def _chance(differences: Sequence[float]) -> float:
    known = [value for value in differences if not math.isnan(value)]
    return paired(known) if known else 1.0


def least_images(methods: int) -> int:
    """Return how many images it takes at least for one of so many methods to be better than chance.

    If it is better in all of n images, the probability of that by chance is 2 / 2^n (both signs), times the number of
    methods.
    """
    return math.floor(math.log2(2 * methods / (1 - LEVEL))) + 1


def _surely_above(mean: Mean, least: float) -> bool:
    return mean.total >= FEW and bool(mean.interval and mean.interval[0] > least)


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _verdict(
    name: str, simple: bool, found: Sequence[MapJudgement | None], scale: str, ahead: Mean, probability: float
) -> Verdict:
    judged = [one for one in found if one is not None]
    lines = [one.curves for one in judged if one.curves is not None and one.curves.scale == scale]
    last = [one.randomised[-1] for one in judged if one.randomised]
    first = [one.randomised[0] for one in judged if len(one.randomised) > 1]
    stable = [one.stable for one in judged if one.stable is not None]
    return Verdict(
        name,
        simple,
        Mean.of([area(one.deletion) for one in lines]),
        Mean.of([area(one.insertion) for one in lines]),
        Mean.of([one.margin for one in lines]),
        ahead,
        probability,
        Mean.of([one.rank for one in first]),
        Mean.of([one.rank for one in last]),
        Mean.of([one.structure for one in last]),
        Mean.of([one.sensitivity for one in stable]),
        Mean.of([one.rank for one in stable]),
        sum(one.blank for one in judged),
        _facts(judged),
    )


def _facts(judged: Sequence[MapJudgement]) -> tuple[tuple[str, Mean], ...]:
    values: dict[str, list[float]] = {}
    for name, value in (fact for one in judged for fact in one.facts):
        values.setdefault(name, []).append(value)
    return tuple((name, Mean.of(each)) for name, each in values.items())
