"""What the pictures' known classes say of a trial in which no preprocessing beats chance; nothing here needs torch.

A model that was trained for other names still tells the classes apart: what it gives depends on what a picture shows,
and with the names exchanged it would be right. One that is untrained, or sees something else than it was made for, does
not. So the two are told apart where there are enough pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.core.shares import Share, percent

Classes = npt.NDArray[np.int64]

DEVIATIONS = 4.0
"""Standard deviations above what chance gives from which on something is more; so many preprocessings are tried."""
_USEFUL = 0.5
"""Part of the pictures that a model which is worth explaining is right on."""
_SHUFFLES = 200
_FEWER = 3.0
"""Standard deviations below what chance gives from which on names contradict: there is no room for more below it."""


def beyond_chance(share: float, count: int) -> float:
    """Return how many of so many are more than chance gives, where chance gives a share of them."""
    return count * share + DEVIATIONS * float(np.sqrt(count * share * (1 - share)))


def chance_of(truth: Classes, choices: int) -> float:
    """Return the share of pictures that are named right without a look: by the most frequent class, or by lot."""
    return max(float(np.bincount(truth).max()) / len(truth), 1 / max(choices, 1))


@dataclass(frozen=True)
class Exchange:
    """How often a model would be right if its class names were exchanged one for one, as fits best.

    Attributes:
        right: on how many pictures, at least.
        chance: mean of that where what was given is dealt to the pictures by lot.
        deviation: standard deviation of the same.
        named: on how many the model is right with its names as they are.
        contradicts: whether that is less than by lot, and by more than chance.
    """

    right: int
    chance: float
    deviation: float
    named: int
    contradicts: bool

    @property
    def depends(self) -> bool:
        """Whether what is given depends on what the pictures show, by more than chance."""
        return self.contradicts or self.right > self.chance + DEVIATIONS * self.deviation

    def would_show(self, count: int) -> bool:
        """Whether a useful model with exchanged names would differ from chance on so many pictures."""
        return _USEFUL * count > self.chance + DEVIATIONS * self.deviation


def exchange(given: Classes, truth: Classes) -> Exchange:
    """Return what exchanging the names of the classes given would do."""
    generator = np.random.default_rng(0)
    dealt = [generator.permutation(given) for _ in range(_SHUFFLES)]
    matched, named = [_matched(each, truth) for each in dealt], [int((each == truth).sum()) for each in dealt]
    few = float(np.mean(named)) - _FEWER * float(np.std(named))
    right = int((given == truth).sum())
    return Exchange(_matched(given, truth), float(np.mean(matched)), float(np.std(matched)), right, right < few)


def _matched(given: Classes, truth: Classes) -> int:
    """Match each class given with one true class, the most frequent pair first, and return how many pictures fit."""
    pairs, counts = np.unique(np.stack([given, truth]), axis=1, return_counts=True)
    matched, taken_given, taken_truth = 0, set(), set()
    for place in np.argsort(-counts, kind="stable"):
        one, other = pairs[:, place].tolist()
        if one not in taken_given and other not in taken_truth:
            taken_given.add(one)
            taken_truth.add(other)
            matched += int(counts[place])
    return matched


def no_better_than_chance(right: int, given: Sequence[Classes], truth: Classes, choices: int) -> str:
    """Say that no preprocessing beats chance, what may be the reason, and which reasons the numbers exclude.

    `right` is on how many pictures the best is right, `given` has the classes that each preprocessing gives.
    """
    count, chance = len(truth), chance_of(truth, choices)
    exchanges = [exchange(each, truth) for each in given]
    found = max(exchanges, key=lambda each: (each.depends, each.right - each.chance))
    said = (
        "No preprocessing that was tried names more of the images right than chance does, so classes, evidence and "
        f"probabilities here may mean nothing. The best is right on {Share(right, count)}; {percent(chance, 1)} need "
        "no look at the images."
    )
    names = "the class names or numbers, of the model or of the images, are of another list or order"
    bad = "the model is untrained or bad"
    unseen = "the preprocessing is none of those tried"
    if beyond_chance(chance, count) >= count:
        return f"{said} There are too few images to tell why: not even all of them right would be more than chance."
    if found.depends:
        fewer = ", less than chance would give," if found.contradicts else ""
        would = (
            f"What the model gives does depend on what the images show: with one preprocessing it is right on "
            f"{found.named:,} of {count:,}{fewer} and with its class names exchanged one for one on {found.right:,} "
            f"(on {found.chance:.0f} if it did not look)."
        )
        if found.right > _USEFUL * count:
            return f"{said} {would} So it is neither untrained nor blind: {names}."
        return f"{said} {would} So {names}, or it is untrained or bad, or {unseen}."
    if all(each.would_show(count) for each in exchanges):
        return (
            f"{said} With its class names exchanged as fits best, the model would be right no more often than by "
            f"chance either ({found.right:,} of {count:,}, by chance {found.chance:.0f}). So wrong names are not all "
            f"that is wrong: {bad}, or {unseen}, or the images show nothing that it was made for."
        )
    return f"{said} Either {bad}, or {unseen}, or {names}; for so many classes there are too few images to tell."
