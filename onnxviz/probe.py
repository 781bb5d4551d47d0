"""Which preprocessing does a model expect? Every plausible one is tried on real photographs, and the results ranked.

Wrong preprocessing is silent: the network runs, and sees something else. Confidence does not find the right one,
because inputs that are too large make most networks certain of anything. What tells is a class that stays when the
picture is mirrored or loses some contrast, while different pictures get different classes. Where the pictures' classes
are known, accuracy ranks instead. Colours are tried first; then, with the best of them, other ways to bring pictures to
size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxviz.convert.element_types import integer_range
from onnxviz.errors import ModelError, SelectionError, shorten
from onnxviz.graph import GraphView
from onnxviz.graph.model_output import Head
from onnxviz.image_choice import own_class
from onnxviz.images import ImageSource, fit_box, load_batch
from onnxviz.model import Model
from onnxviz.probabilities import softmax
from onnxviz.shares import mcnemar
from onnxviz.values import CROP_FRACTION, PRESETS, ChannelOrder, Preprocessing

VERSION = 1
"""Part of the key of what was chosen: raise it when another choice may come out."""
CHANCE = 0.05
"""A lead that chance gives more often than this is no lead."""
ALIKE = 0.95
"""Part of the pictures on which two preprocessings must give the same class to be the same in effect."""

_BATCH = 16
_CONTRAST = 0.8
"""What is left of the contrast in the picture's paler variant."""
_RESAMPLES = 500
_FEWEST = 40
_MOST = 200
_MULTIPLY_ADDS = 20_000_000_000
"""What one variant of the pictures may take in one trial, where that is more than the fewest."""

_Values = tuple[float, float, float]

RANGES: dict[str, tuple[_Values, _Values]] = {
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "-127.5..127.5": ((127.5, 127.5, 127.5), (1.0, 1.0, 1.0)),
    "0..255 less the mean of photographs": ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean and deviation": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "CIFAR-10's mean and deviation": ((125.307, 122.961, 113.8575), (63.0105, 62.0925, 66.7080)),
}
"""Name -> mean and scale by red, green, blue, in units of 0..255."""

GRAY_RANGES: dict[str, tuple[float, float]] = {
    "0..1": (0.0, 255.0),
    "0..255": (0.0, 1.0),
    "-1..1": (127.5, 127.5),
    "-127.5..127.5": (127.5, 1.0),
    "0..1, dark is 1": (255.0, -255.0),
    "0..255, dark is 255": (255.0, -1.0),
}
"""The same for models of one channel; some see ink as light."""

_WHOLE = {"-128..127": (128.0, 1.0), "0..255": (0.0, 1.0)}
"""The same for models that take whole numbers: in 0..1 only 0 and 1 would be left of a picture."""


@dataclass(frozen=True)
class Trial:
    """One preprocessing, tried.

    Attributes:
        preprocessing: what was tried.
        range: what becomes of pixel values, in words.
        confidence: mean of the largest class probability.
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
        """What ranks where there are no labels: steadiness times variety."""
        return self.steady * self.variety

    @property
    def geometry(self) -> str:
        """How pictures were brought to size, in words."""
        fraction = self.preprocessing.crop_fraction
        if self.preprocessing.fit != "crop":
            return "stretched" if self.preprocessing.fit == "stretch" else "as they are"
        return f"crop {CROP_FRACTION:g} of large ones" if fraction is None else f"crop {fraction:g}"


@dataclass(frozen=True)
class Probe:
    """All trials of a model.

    Attributes:
        trials: the best first.
        images: how many pictures were used.
        found: how many there were.
        labelled: how many of those used have a known class.
        declared: what the user or the file said, None if nobody did.
        by_accuracy: whether accuracy ranks.
        note: what else has to be said, or "".
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
    failed: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

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
            f"{trial.preprocessing.channel_order} {trial.range} (the same class for {trial.alike:.0%} of the pictures)"
            for trial in self.undecided
        ]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"not clear: on {self.images} pictures {', '.join(names[:3])}{more} may be as good as the first"


def candidates(view: GraphView, declared: Preprocessing | None = None) -> Iterator[tuple[str, Preprocessing]]:
    """Yield every way to make pixel values that is tried, with what becomes of them; the declared one too.

    Args:
        view: the model; those with one channel get grey candidates, those for whole numbers such as leave some.
        declared: what the user or the file said.
    """
    geometry = declared or Preprocessing()
    made: list[Preprocessing] = []
    for name, order, shift, factor in _colours(view):
        tried = replace(geometry, channel_order=order, mean=shift, scale=factor, origin="declared")
        preset = next((key for key, preset in PRESETS.items() if same_values(preset, tried)), "custom")
        made.append(replace(tried, name=preset))
        yield name, made[-1]
    if declared is not None and not any(same_values(declared, other) for other in made):
        yield f"as declared ({shorten(declared.name, 30)})", declared


def _colours(view: GraphView) -> Iterator[tuple[str, ChannelOrder, tuple[float, ...], tuple[float, ...]]]:
    whole = integer_range(view.types[view.input_name].element)
    orders: tuple[ChannelOrder, ...] = ("GRAY",) if view.input_channels == 1 else ("RGB", "BGR")
    if whole is not None:
        name = "-128..127" if whole[0] == -128 else "0..255"
        mean, scale = _WHOLE[name]
        for order in orders:
            yield name, order, (mean,), (scale,)
        if orders == ("GRAY",):
            yield f"{name}, dark is light", "GRAY", (255 - mean,), (-scale,)
    elif view.input_channels == 1:
        for name, (mean, scale) in GRAY_RANGES.items():
            yield name, "GRAY", (mean,), (scale,)
    else:
        for name, (means, scales) in RANGES.items():
            yield name, "RGB", means, scales
            yield name, "BGR", means[::-1], scales[::-1]


def same_values(first: Preprocessing, second: Preprocessing) -> bool:
    """Whether two preprocessings make the same numbers of a pixel, to half a grey level and half a per cent."""
    if first.channel_order != second.channel_order:
        return False
    count = first.channels
    first_mean, second_mean = (np.broadcast_to(item.mean, count) for item in (first, second))
    first_scale, second_scale = (np.broadcast_to(item.scale, count) for item in (first, second))
    return bool(np.allclose(first_mean, second_mean, atol=1.0) and np.allclose(first_scale, second_scale, rtol=5e-3))


def probe(
    view: GraphView,
    images: ImageSource,
    *,
    labels: Sequence[str] | None = None,
    declared: Preprocessing | None = None,
    geometry: Preprocessing | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    indices: Sequence[int] | None = None,
) -> Probe:
    """Try every plausible preprocessing on pictures and rank them, by accuracy where classes are known.

    Args:
        view: a model that gives one class to an image.
        images: photographs of the kind that the model is made for.
        labels: class names in the order of the logits, to match the pictures' classes with.
        declared: what the user or the model file said, tried too; its way to bring pictures to size is kept.
        geometry: the way to bring pictures to size, where that is said and nothing else.
        device: where to compute.
        progress: called with the number of trials done and of all.
        indices: which of the images to take; all if None.

    Returns:
        The trials, best first.

    Raises:
        ModelError: if the model is no classifier of images.
        DataError: if a picture cannot be read.
    """
    if view.input_layout == "other":
        raise ModelError("the model takes no image, so there is no preprocessing to find", where=shorten(view.file))
    head = _head(view)
    chosen = range(len(images)) if indices is None else indices
    truth = np.array([-1 if found is None else found for found in _truth(head, images, chosen, labels)], dtype=np.int64)
    trier = _Trier(view, images, chosen, truth, labels, device, progress)
    kept = declared or geometry
    colours = list(candidates(view, declared if declared is not None else geometry))
    if declared is None and geometry is not None and colours[-1][1] is geometry:
        del colours[-1]  # its values are nobody's
    trier.total = len(colours) + (2 if kept is None else 0)
    outcomes = [outcome for name, preprocessing in colours if (outcome := trier.run(name, preprocessing))]
    if not outcomes:
        raise ModelError(f"the model runs with no preprocessing: {trier.failed[0][1]}", where=shorten(view.file))
    meaningful = _better_than_chance(outcomes, truth, head)
    best = max(outcomes, key=lambda outcome: outcome.rank(meaningful))
    note = ""
    if kept is None:
        tried = [usual := best.trial.preprocessing]
        others = []
        for other in (replace(usual, crop_fraction=1.0), replace(usual, fit="stretch")):
            if all(trier.differs(other, before) for before in tried):
                tried.append(other)
                others += [outcome] if (outcome := trier.run(best.trial.range, other)) else []
        outcomes += others
        meaningful = _better_than_chance(outcomes, truth, head)
        best, note = _best_geometry(best, others, meaningful)
    return _result(
        best, outcomes, images, trier, meaningful, declared, _notes(view, trier, truth, meaningful, kept, note)
    )


def pictures_for(view: GraphView) -> int:
    """Return on how many pictures to try preprocessings: more where a pass is cheap, so that it takes a minute."""
    costs = [view.multiply_adds(layer) for layer in view.layers]
    total = sum(cost for cost in costs if cost is not None)
    return _FEWEST if None in costs or not total else int(min(_MOST, max(_FEWEST, _MULTIPLY_ADDS // total)))


class _Trier:
    """Runs a model with one preprocessing after another on the same pictures."""

    def __init__(
        self,
        view: GraphView,
        images: ImageSource,
        indices: Sequence[int],
        truth: npt.NDArray[np.int64],
        labels: Sequence[str] | None,
        device: str,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.view, self.head, self.images, self.indices = view, _head(view), images, indices
        self.truth, self.labels, self.device, self.progress = truth, labels, device, progress
        self.failed: list[tuple[str, str]] = []
        self.total = self.done = 0
        self._batch: tuple[object, npt.NDArray[np.float32]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def run(self, name: str, preprocessing: Preprocessing) -> _Outcome | None:
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done + 1))
        self.done += 1
        model = Model(self.view, preprocessing, self.labels, self.device)
        self._size = model.input_size
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

    def differs(self, first: Preprocessing, second: Preprocessing) -> bool:
        """Whether two ways to bring pictures to size take other parts of any picture."""
        sizes = getattr(self.images, "sizes", None)
        if sizes is None:
            return True
        shown = (sizes[index] for index in self.indices)
        return any(fit_box(size, first, self._size) != fit_box(size, second, self._size) for size in shown)

    def _pictures(self, model: Model) -> npt.NDArray[np.float32]:
        preprocessing = model.preprocessing
        key = (preprocessing.fit, preprocessing.crop_fraction, model.input_size)
        if self._batch is None or self._batch[0] != key:
            self._batch = key, load_batch(self.images, self.indices, preprocessing, model.input_size)
        return self._batch[1]


@dataclass(frozen=True, eq=False)
class _Outcome:
    """A trial with what was found picture by picture.

    Attributes:
        trial: the sums.
        given: the most probable class of each picture.
        steady: whether it stays.
        right: whether it is the picture's own; of those with a known class.
    """

    trial: Trial
    given: npt.NDArray[np.int64]
    steady: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]

    def rank(self, by_accuracy: bool) -> tuple[float, ...]:
        trial = self.trial
        return (trial.top1 or 0.0, trial.top5 or 0.0, trial.score) if by_accuracy else (trial.score,)

    def resampled(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the score of each resample of the pictures, given how often it has each."""
        classes, places = np.unique(self.given, return_inverse=True)
        shares = weights @ np.eye(len(classes))[places] / len(self.given)
        variety = -(shares * np.log(np.maximum(shares, 1e-12))).sum(axis=1)
        score: npt.NDArray[np.float64] = (weights @ self.steady) / len(self.given) * variety
        return score


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


def _best_geometry(best: _Outcome, others: Sequence[_Outcome], by_accuracy: bool) -> tuple[_Outcome, str]:
    """Leave the usual way to bring pictures to size only for one that is right more often, by more than chance."""
    if not others:
        return best, ""
    other = max(others, key=lambda outcome: outcome.rank(by_accuracy))
    if not by_accuracy:
        return best, "without labels crops cannot be told apart: the usual one is kept"
    if other.rank(True) > best.rank(True):
        if _behind_by_chance(other, best, True) < CHANCE:
            return other, ""
        count = int(other.right.sum()) - int(best.right.sum())
        return best, f"{other.trial.geometry} is right {count} times more, which may be chance: the usual crop is kept"
    return best, ""


def _better_than_chance(outcomes: Sequence[_Outcome], truth: npt.NDArray[np.int64], head: Head) -> bool:
    """Whether the best accuracy is more than four standard deviations above what needs no look at the pictures."""
    known = truth[truth >= 0]
    if not len(known):
        return False
    share = max(float(np.bincount(known).max()) / len(known), 1 / max(head.choices, 1))
    most = max(int(outcome.right.sum()) for outcome in outcomes)
    return most > len(known) * share + 4 * float(np.sqrt(len(known) * share * (1 - share)))


def _notes(
    view: GraphView,
    trier: _Trier,
    truth: npt.NDArray[np.int64],
    meaningful: bool,
    kept: Preprocessing | None,
    geometry: str,
) -> str:
    notes = [geometry] if geometry else []
    if trier.head.kind == "unknown":
        notes.append(f"nothing says that {shorten(trier.head.name, 60)!r} holds scores of classes: taken for them here")
    if (truth >= 0).any() and not meaningful:
        notes.append(
            "no preprocessing is better than chance on the pictures' classes, so these are not used: there are too few "
            "pictures, or the class names or numbers of the pictures are not those of the model"
        )
    if view.input_size is None and (kept is None or kept.size is None):
        height, width = trier.size
        notes.append(f"the model leaves its input size open: tried at {height} × {width} pixels")
    return "; ".join(notes)


def _result(
    best: _Outcome,
    outcomes: Sequence[_Outcome],
    images: ImageSource,
    trier: _Trier,
    meaningful: bool,
    declared: Preprocessing | None,
    note: str,
) -> Probe:
    ranked = sorted(
        (item for item in outcomes if item is not best), key=lambda item: item.rank(meaningful), reverse=True
    )
    trials = [best.trial]
    for other in ranked:
        alike = float((other.given == best.given).mean())
        trials.append(replace(other.trial, chance=_behind_by_chance(best, other, meaningful), alike=alike))
    used = len(trier.indices)
    skipped = tuple((str(name), str(why)) for name, why in getattr(images, "skipped", ()))
    found = max(int(getattr(images, "found", 0)), len(images))
    labelled = int((trier.truth >= 0).sum())
    return Probe(tuple(trials), used, found, labelled, declared, meaningful, note, tuple(trier.failed), skipped)


def _head(view: GraphView) -> Head:
    """Return the output whose choices rank the preprocessings."""
    head = view.main_head
    if head is None or head.has_positions or head.choices == 1 or head.kind not in _RANKED:
        found = "no output depends on the image" if head is None else f"{shorten(head.name, 60)!r}: {head.in_words}"
        raise ModelError(
            f"the probe needs a model that gives one class to an image ({found})",
            where=shorten(view.file),
            remedy="say how to preprocess with --preprocess, or `preprocess:` in a recipe",
        )
    return head


_RANKED = ("classes", "binary", "multilabel", "unknown")


def _truth(head: Head, images: ImageSource, indices: Sequence[int], labels: Sequence[str] | None) -> list[int | None]:
    count = head.choices
    found: list[int | None] = []
    for index in indices:
        try:
            number = own_class(images, index, labels)
        except SelectionError:
            number = None  # a folder's name need not be a class
        found.append(number if number is not None and number < count else None)
    return found


def _variants(batch: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the pictures, their mirror images, and paler ones; all show the same things."""
    yield batch
    yield np.ascontiguousarray(batch[..., ::-1])
    yield ((batch - 0.5) * _CONTRAST + 0.5).astype(np.float32)


def _probabilities(model: Model, head: Head, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the head's probabilities; where nothing makes any the softmax of its scores, which only ranks."""

    def some(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return model.probabilities(images, head) if head.probability else softmax(model.scores(images, head))

    step = model.view.batch or _BATCH
    fill = -len(batch) % (model.view.batch or 1)
    filled = np.concatenate([batch, np.repeat(batch[-1:], fill, axis=0)]) if fill else batch
    parts = [some(filled[start : start + step]) for start in range(0, len(filled), step)]
    values = np.nan_to_num(np.concatenate(parts)[: len(batch)].astype(np.float64), posinf=0.0)
    # Outputs of a Sigmoid, or quantised ones, need not add up to one.
    shares: npt.NDArray[np.float64] = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    return shares


def _outcome(
    name: str,
    preprocessing: Preprocessing,
    variants: Sequence[npt.NDArray[np.float64]],
    truth: npt.NDArray[np.int64],
) -> _Outcome:
    plain = variants[0]
    given = plain.argmax(axis=1)
    # Where all classes are equally probable, nothing was recognised.
    decided = plain.max(axis=1) > plain.min(axis=1)
    steady = np.logical_and.reduce([variant.argmax(axis=1) == given for variant in variants]) & decided
    shares = np.bincount(given) / len(given)
    known = truth >= 0
    right = np.zeros(int(known.sum()), np.bool_)
    top1 = top5 = None
    if known.any():
        inside = truth[known] < plain.shape[1]
        own = np.where(inside, plain[known, np.where(inside, truth[known], 0)], -1.0)
        rank = (plain[known] > own[:, None]).sum(axis=1)
        right = (rank < 1) & decided[known] & inside
        top1, top5 = float(right.mean()), float(((rank < 5) & decided[known] & inside).mean())
    trial = Trial(
        preprocessing,
        name,
        confidence=float(plain.max(axis=1).mean()),
        steady=float(steady.mean()),
        variety=float(-(shares * np.log(np.maximum(shares, 1e-12))).sum()),
        top1=top1,
        top5=top5,
    )
    return _Outcome(trial, given, steady, right)
