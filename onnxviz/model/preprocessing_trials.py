"""What was found of preprocessings that were tried on photographs, as plain data; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxviz.core.shares import Share, percent
from onnxviz.core.values import CROP_FRACTION, Preprocessing
from onnxviz.core.wording import listed
from onnxviz.model.preprocessing_candidates import same_values

CHANCE = 0.05
"""A lead that chance gives more often than this is no lead."""
ALIKE = 0.95
"""Part of the pictures on which two preprocessings must give the same class to be the same in effect."""


@dataclass(frozen=True)
class Trial:
    """One preprocessing, tried.

    Attributes:
        preprocessing: what was tried.
        range: what becomes of pixel values, in words.
        confidence: mean of the probability that a picture, its mirror image and its paler variant all give one class.
        steady: part of the pictures whose most probable class is that of the mirror image and of the paler variant too.
        variety: entropy in nats of the most probable classes: 0 if every picture gets the same one.
        top1: part of the labelled pictures whose class is the most probable one; None without labels.
        top5: part whose class is among the five most probable; None without labels.
        chance: how probable it is that this one is as good as the first and behind by chance only; 1 for the first.
        alike: part of the pictures that get the same class as with the first.
    """

    preprocessing: Preprocessing
    range: str
    confidence: float
    steady: float
    variety: float
    top1: float | None = None
    top5: float | None = None
    chance: float = 1.0
    alike: float = 1.0

    @property
    def score(self) -> float:
        """What ranks where there are no labels: the geometric mean of confidence and steadiness, times variety.

        Confidence alone likes too large an input, steadiness alone is a coarse count.
        """
        return float(np.sqrt(self.confidence * self.steady)) * self.variety

    @property
    def geometry(self) -> str:
        """How pictures were brought to size, in words."""
        fraction, resized = self.preprocessing.crop_fraction, self.preprocessing.resized
        if self.preprocessing.fit != "crop":
            return "stretched" + resized if self.preprocessing.fit == "stretch" else "as they are"
        if fraction is None:
            return f"crop {CROP_FRACTION:g} of large ones{resized}"
        return (f"crop {fraction:g} of all" if fraction < 1 else "crop 1") + resized


@dataclass(frozen=True)
class Probe:
    """All trials of a model, the best first; a report shows them as `core.results.Tried`, which says what is what.

    Attributes:
        declared: what the user or the file said, None if nobody did.
        no_better: that none beats chance, and what may be the reason, or "".
        failed: preprocessings that the model could not be run with, and why.
        skipped: files that were no pictures, and why.
    """

    trials: tuple[Trial, ...]
    images: int
    found: int
    labelled: int
    declared: Preprocessing | None
    by_accuracy: bool = False
    note: str = ""
    no_better: str = ""
    failed: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    @property
    def right(self) -> Share | None:
        """How many of the pictures with a known class the first is right on; None where there are none.

        It was chosen on the same pictures, so where accuracy ranks this is more than others would give.
        """
        best = self.trials[0].top1
        return None if best is None else Share(round(best * self.labelled), self.labelled)

    @property
    def undecided(self) -> tuple[Trial, ...]:
        """Trials with other pixel values that are behind the first by no more than chance, and differ in effect.

        Those that give nearly all pictures the same class do not, unless they swap red and blue: pictures without
        colours cannot tell.
        """
        first = self.trials[0].preprocessing
        return tuple(
            trial
            for trial in self.trials[1:]
            if trial.chance >= CHANCE
            and not same_values(first, trial.preprocessing)
            and (trial.alike < ALIKE or trial.preprocessing.channel_order != first.channel_order)
        )

    @property
    def clear(self) -> bool:
        """Whether the first is ahead of all others that differ in effect, by more than chance."""
        return not self.undecided

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a reader must know before believing the choice, in sentences, the gravest first."""
        unclear = () if self.clear else (f"Which preprocessing is right is {self.verdict}.",)
        return (self.no_better, *unclear) if self.no_better else unclear

    @property
    def contradicted(self) -> bool:
        """Whether what was declared is behind the best by more than chance."""
        if self.declared is None or not self.trials or same_values(self.declared, self.trials[0].preprocessing):
            return False
        own = next((trial for trial in self.trials if same_values(trial.preprocessing, self.declared)), None)
        return own is not None and own.chance < CHANCE

    @property
    def verdict(self) -> str:
        """How sure the choice is, in a sentence without its end."""
        if self.clear:
            by = f"by accuracy on {self.labelled} pictures" if self.by_accuracy else "by steadiness and variety only"
            return f"the first is clearly ahead, {by}"
        names = [
            f"{trial.preprocessing.channel_order} {trial.range} "
            f"(the same class for {percent(trial.alike)} of the pictures)"
            for trial in self.undecided
        ]
        return f"not clear: on {self.images} pictures {listed(names, 3)} may be as good as the first"
