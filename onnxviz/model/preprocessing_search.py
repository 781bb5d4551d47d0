"""Which preprocessing does a model expect? Every plausible one is tried on real photographs, and the results ranked.

Wrong preprocessing is silent: the network runs, and sees something else. Confidence does not find the right one,
because inputs that are too large make most networks certain of anything. What tells is a class that stays, and surely,
when the picture is mirrored or loses some contrast, while different pictures get different classes. Where the
pictures' classes are known, accuracy ranks instead. Colours are tried first. Then, with the best of them and where
classes are known, other crops, and with the best of these other interpolations: all that is a few pictures apart, so
the usual way is left only for one that is right no less often, and surer of the right class by more than chance among
as many as were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import ModelError, SelectionError, shorten
from onnxviz.core.shares import mcnemar, paired
from onnxviz.core.values import DEFAULT_SIZE, Preprocessing
from onnxviz.data.ground_truth import HOW
from onnxviz.data.image_choice import folders_missed
from onnxviz.data.images import ImageSource, fit_box, load_batch
from onnxviz.graph import GraphView
from onnxviz.graph.model_output import Head
from onnxviz.model.batches import filled
from onnxviz.model.model import Model
from onnxviz.model.preprocessing_candidates import (
    SIZES,
    candidates,
    crops,
    interpolations,
    known_classes,
    require_classifier,
)
from onnxviz.model.preprocessing_outcome import beyond_chance, chance_of, no_better_than_chance
from onnxviz.model.preprocessing_trials import CHANCE, Probe, Trial
from onnxviz.model.probabilities import softmax

_CONTRAST = 0.8
"""What is left of the contrast in the picture's paler variant."""
_RESAMPLES = 500
_LEAST = 1e-3
"""Probability of the right class below which a picture counts as lost: one that is lost for certain decides nothing."""


def probe(
    view: GraphView,
    images: ImageSource,
    *,
    labels: Sequence[str] | None = None,
    declared: Preprocessing | None = None,
    geometry: Preprocessing | None = None,
    keep: bool = False,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    indices: Sequence[int] | None = None,
) -> Probe:
    """Try every plausible preprocessing on pictures and rank them, the best first, by accuracy where classes are known.

    What is `declared` is tried too, and its way to bring pictures to size is kept. `geometry` is the way and the size
    where those are said and nothing else; with `keep` no other way is tried. `progress` is called with the number of
    trials done and of all.

    Raises:
        SelectionError: if the model is no classifier of images.
        ModelError: if it runs with no preprocessing.
        DataError: if a picture cannot be read.
    """
    head = require_classifier(view)
    chosen = range(len(images)) if indices is None else indices
    known = known_classes(head, images, chosen, labels)
    truth = np.array([-1 if own is None else own for own in known], dtype=np.int64)
    trier = _Trier(view, head, images, chosen, truth, labels, device, progress)
    keep = keep or declared is not None
    colours = list(candidates(view, declared, geometry))
    trier.total = len(colours) + (0 if keep or not (truth >= 0).any() else SIZES)
    outcomes = [outcome for name, preprocessing in colours if (outcome := trier.run(name, preprocessing))]
    if not outcomes:
        raise ModelError(f"the model runs with no preprocessing: {trier.failed[0][1]}", where=shorten(view.file))
    meaningful = _better_than_chance(outcomes, truth, head)
    best = max(outcomes, key=lambda outcome: outcome.rank(meaningful))
    notes = []
    for ways in () if keep or not (truth >= 0).any() else (crops, interpolations):
        different = trier.differing(best.trial.preprocessing, ways(best.trial.preprocessing))
        others = [outcome for way in different if (outcome := trier.run(best.trial.range, way))]
        outcomes += others
        meaningful = _better_than_chance(outcomes, truth, head)
        best, said = _best_size(best, others) if meaningful else (best, [])
        notes += said
    if not keep and not meaningful and trier.differing(usual := best.trial.preprocessing, crops(usual)):
        why = "where no preprocessing beats chance" if (truth >= 0).any() else "without known classes"
        notes.append(f"{why} crops cannot be told apart: the usual one is kept")
    note = "; ".join(notes + _notes(view, images, trier, truth, declared or geometry))
    return _result(best, outcomes, images, trier, meaningful, declared, note)


@dataclass
class _Trier:
    """Runs a model with one preprocessing after another on the same pictures."""

    view: GraphView
    head: Head
    images: ImageSource
    indices: Sequence[int]
    truth: npt.NDArray[np.int64]
    labels: Sequence[str] | None
    device: str
    progress: Callable[[int, int], None] | None
    size: tuple[int, int] = DEFAULT_SIZE
    failed: list[tuple[str, str]] = field(default_factory=list)
    total: int = 0
    done: int = 0
    batch: tuple[object, npt.NDArray[np.float32]] | None = None

    def run(self, name: str, preprocessing: Preprocessing) -> _Outcome | None:
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done + 1))
        self.done += 1
        model = Model(self.view, preprocessing, self.labels, self.device)
        self.size = model.input_size
        try:
            variants = [_probabilities(model, self.head, variant) for variant in _variants(self._pictures(model))]
        except SelectionError as fault:
            raise ModelError(
                f"the probe needs a model that gives one class to an image: {fault.what}",
                where=shorten(self.view.file),
                remedy="say how to preprocess with --preprocess, or `preprocess:` in a recipe",
            ) from fault
        except ModelError as fault:
            self.failed.append((name, fault.what))
            return None
        return _outcome(name, preprocessing, variants, self.truth)

    def differing(self, usual: Preprocessing, others: Sequence[Preprocessing]) -> list[Preprocessing]:
        """Return the ways to bring pictures to size that do to some of them what no earlier one does."""
        found = [usual]
        for other in others:
            if all(self._differs(other, before) for before in found):
                found.append(other)
        return found[1:]

    def _differs(self, first: Preprocessing, second: Preprocessing) -> bool:
        sizes = getattr(self.images, "sizes", None)
        if sizes is None:
            return True
        for size in (sizes[index] for index in self.indices):
            box = fit_box(size, first, self.size)
            resized = (box[2] - box[0], box[3] - box[1]) != self.size
            if box != fit_box(size, second, self.size) or (resized and first.interpolation != second.interpolation):
                return True
        return False

    def _pictures(self, model: Model) -> npt.NDArray[np.float32]:
        preprocessing = model.preprocessing
        key = (preprocessing.fit, preprocessing.crop_fraction, preprocessing.interpolation, model.input_size)
        if self.batch is None or self.batch[0] != key:
            self.batch = key, load_batch(self.images, self.indices, preprocessing, model.input_size)
        return self.batch[1]


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A trial with what was found picture by picture.

    Attributes:
        trial: the sums.
        given: the most probable class of each picture.
        confidence: the largest probability that all variants give one class.
        steady: whether it stays.
        right: whether it is the picture's own; of those with a known class.
        sureness: logarithm of the probability of the picture's own class; of the same.
    """

    trial: Trial
    given: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    steady: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    sureness: npt.NDArray[np.float64]

    def rank(self, by_accuracy: bool) -> tuple[float, ...]:
        trial = self.trial
        return (trial.top1 or 0.0, trial.top5 or 0.0, trial.score) if by_accuracy else (trial.score,)

    def resampled(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the score of each resample of the pictures, given how often it has each."""
        classes, places = np.unique(self.given, return_inverse=True)
        shares = weights @ np.eye(len(classes))[places] / len(self.given)
        variety = _entropy(shares)
        sure = np.sqrt((weights @ self.confidence) * (weights @ self.steady)) / len(self.given)
        score: npt.NDArray[np.float64] = sure * variety
        return score


def _entropy(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the entropy of shares in nats along the last axis; 0, and not -0, where one has all."""
    entropy: npt.NDArray[np.float64] = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=-1) + 0.0
    return entropy


def _behind_by_chance(best: _Outcome, other: _Outcome, by_accuracy: bool) -> float:
    """Return how probable it is that a trial is behind another by chance only.

    By accuracy the exact test of McNemar (`shares.mcnemar`); else the part of bootstrap resamples of the pictures
    (Efron 1979, Ann. Stat. 7, 1) in which it is not behind.
    """
    if by_accuracy:
        first, second = int((best.right & ~other.right).sum()), int((other.right & ~best.right).sum())
        return mcnemar(first, second) if first > second else 1.0
    count = len(best.given)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(np.float64)
    return float((other.resampled(weights) >= best.resampled(weights)).mean())


def _best_size(usual: _Outcome, others: Sequence[_Outcome]) -> tuple[_Outcome, list[str]]:
    """Leave a way to bring pictures to size only for one that is better by more than chance, among so many tried.

    Counts of right pictures differ by a few of them; how sure the right class is tells more on as many.
    """
    chance = {id(other): len(others) * paired(list(other.sureness - usual.sureness)) for other in others}
    better = [
        other
        for other in others
        if chance[id(other)] < CHANCE
        and other.sureness.mean() > usual.sureness.mean()
        and other.right.sum() >= usual.right.sum()
    ]
    if better:
        return max(better, key=lambda outcome: (outcome.right.sum(), outcome.sureness.mean())), []
    kept = usual.trial.geometry
    tied = [
        f"{other.trial.geometry.removeprefix(kept + ', ')} ({_more(int(other.right.sum()) - int(usual.right.sum()))})"
        for other in others
        if chance[id(other)] >= CHANCE
    ]
    if not tied:
        return usual, []
    return usual, [
        f"pictures are brought to size as usual, {kept}; no other way is better for certain: {', '.join(tied)}"
    ]


def _more(count: int) -> str:
    if not count:
        return "right on as many"
    return f"right on {abs(count)} {'more' if count > 0 else 'fewer'}, which may be chance"


def _better_than_chance(outcomes: Sequence[_Outcome], truth: npt.NDArray[np.int64], head: Head) -> bool:
    """Whether the best accuracy is far above what needs no look at the pictures."""
    known = truth[truth >= 0]
    if not len(known):
        return False
    return _most(outcomes) > beyond_chance(chance_of(known, head.choices), len(known))


def _most(outcomes: Sequence[_Outcome]) -> int:
    return max(int(outcome.right.sum()) for outcome in outcomes)


def _notes(
    view: GraphView, images: ImageSource, trier: _Trier, truth: npt.NDArray[np.int64], kept: Preprocessing | None
) -> list[str]:
    notes = []
    if trier.head.kind == "unknown":
        notes.append(f"nothing says that {shorten(trier.head.name, 60)!r} holds scores of classes: taken for them here")
    if trier.labels is not None and not (truth >= 0).any():
        why = folders_missed(images, trier.labels)
        notes.append(
            "the model's class names do not help where nothing says which of them a picture shows"
            + (f" ({why})" if why else "")
            + f": {HOW}"
        )
    if view.input_size is None and (kept is None or kept.size is None):
        height, width = trier.size
        notes.append(f"the model leaves its input size open: tried at {height} × {width} pixels")
    return notes


def _result(
    best: _Outcome,
    outcomes: Sequence[_Outcome],
    images: ImageSource,
    trier: _Trier,
    meaningful: bool,
    declared: Preprocessing | None,
    note: str,
) -> Probe:
    ranked = sorted((one for one in outcomes if one is not best), key=lambda one: one.rank(meaningful), reverse=True)
    trials = [best.trial]
    for other in ranked:
        alike = float((other.given == best.given).mean())
        trials.append(replace(other.trial, chance=_behind_by_chance(best, other, meaningful), alike=alike))
    used = len(trier.indices)
    skipped = tuple((str(name), str(why)) for name, why in getattr(images, "skipped", ()))
    found = max(int(getattr(images, "found", 0)), len(images))
    known = trier.truth >= 0
    no_better = ""
    if known.any() and not meaningful:
        given = [outcome.given[known] for outcome in outcomes]
        no_better = no_better_than_chance(_most(outcomes), given, trier.truth[known], trier.head.choices)
    failed = tuple(trier.failed)
    return Probe(tuple(trials), used, found, int(known.sum()), declared, meaningful, note, no_better, failed, skipped)


def _variants(batch: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the pictures, their mirror images, and paler ones; all show the same things."""
    yield batch
    yield np.ascontiguousarray(batch[..., ::-1])
    yield ((batch - 0.5) * _CONTRAST + 0.5).astype(np.float32)


def _probabilities(model: Model, head: Head, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the head's probabilities; where nothing makes any the softmax of its scores, which only ranks."""
    whole = filled(batch, model.view.batch)
    given = model.probabilities(whole, head) if head.probability else softmax(model.scores(whole, head))
    values = np.nan_to_num(given[: len(batch)].astype(np.float64), posinf=0.0)
    # Outputs of a Sigmoid, or quantised ones, need not add up to one.
    shares: npt.NDArray[np.float64] = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    return shares


def _outcome(
    name: str, preprocessing: Preprocessing, variants: Sequence[npt.NDArray[np.float64]], truth: npt.NDArray[np.int64]
) -> _Outcome:
    plain = variants[0]
    given = plain.argmax(axis=1)
    # Where all classes are equally probable, nothing was recognised.
    decided = plain.max(axis=1) > plain.min(axis=1)
    steady = np.logical_and.reduce([variant.argmax(axis=1) == given for variant in variants]) & decided
    confidence = np.minimum.reduce(list(variants)).max(axis=1)
    variety = float(_entropy(np.bincount(given) / len(given)))
    known = truth >= 0
    right = np.zeros(int(known.sum()), np.bool_)
    own = np.zeros(len(right))
    top1 = top5 = None
    if known.any():
        inside = truth[known] < plain.shape[1]
        own = np.where(inside, plain[known, np.where(inside, truth[known], 0)], -1.0)
        rank = (plain[known] > own[:, None]).sum(axis=1)
        right = (rank < 1) & decided[known] & inside
        top1, top5 = float(right.mean()), float(((rank < 5) & decided[known] & inside).mean())
    trial = Trial(preprocessing, name, float(confidence.mean()), float(steady.mean()), variety, top1, top5)
    return _Outcome(trial, given, confidence, steady, right, np.log(np.maximum(own, _LEAST)))
