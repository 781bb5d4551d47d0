"""Which preprocessing does a model expect? Every plausible one is tried on real photographs, and the results ranked.

Wrong preprocessing is silent: the network runs, and sees something else. Confidence alone does not find the right one,
because inputs that are too large make most networks certain of anything. What tells is confidence that stays when the
picture is mirrored or loses some contrast, and that is spread over different classes for different pictures. Where the
pictures' classes are known, accuracy ranks instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxviz.errors import ModelError, SelectionError, shorten
from onnxviz.graph import GraphView
from onnxviz.image_choice import own_class
from onnxviz.images import ImageFolder, load_batch
from onnxviz.model import Model
from onnxviz.values import PRESETS, ChannelOrder, Preprocessing

_BATCH = 16
_CONTRAST = 0.8
"""What is left of the contrast in the picture's paler variant."""
_CLEAR = 1.05
"""A leader whose score is not this many times the next one's is no clear winner."""

_Values = tuple[float, float, float]
_IMAGENET: tuple[_Values, _Values] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

RANGES: dict[str, tuple[_Values, _Values]] = {
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "-127.5..127.5": ((127.5, 127.5, 127.5), (1.0, 1.0, 1.0)),
    "0..255 less the mean of photographs": ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean and deviation": _IMAGENET,
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


@dataclass(frozen=True)
class Trial:
    """One preprocessing, tried.

    Attributes:
        preprocessing: what was tried.
        range: what becomes of pixel values, in words.
        confidence: mean of the largest class probability.
        steady: the same, of what the least certain of a picture, its mirror image and its paler variant gives a class.
        variety: entropy in nats of the mean prediction: 0 if every picture gets the same class.
        top1: part of the labelled pictures whose class is the most probable one; None without labels.
        top5: part whose class is among the five most probable; None without labels.
    """

    preprocessing: Preprocessing
    range: str
    confidence: float
    steady: float
    variety: float
    top1: float | None = None
    top5: float | None = None

    @property
    def score(self) -> float:
        """What ranks where there are no labels: steady confidence times variety."""
        return self.steady * self.variety


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
    def clear(self) -> bool:
        """Whether the first is clearly ahead of the second."""
        if len(self.trials) < 2:
            return True
        first, second = self.trials[:2]
        if self.by_accuracy and first.top1 is not None and second.top1 is not None:
            # Two standard deviations of the difference of two rates from that many pictures.
            spread = np.sqrt(max(first.top1 * (1 - first.top1), 1e-9) / max(self.labelled, 1))
            return bool(first.top1 - second.top1 > 2 * spread)
        return first.score > _CLEAR * second.score

    @property
    def contradicted(self) -> bool:
        """Whether what was declared is clearly worse than the best."""
        if self.declared is None or not self.trials or same_values(self.declared, self.trials[0].preprocessing):
            return False
        own = next((trial for trial in self.trials if same_values(trial.preprocessing, self.declared)), None)
        if own is None:
            return False
        return replace(self, trials=(self.trials[0], own)).clear


def candidates(view: GraphView, declared: Preprocessing | None = None) -> Iterator[tuple[str, Preprocessing]]:
    """Yield every preprocessing that is tried, with what becomes of pixel values; the declared one too.

    Args:
        view: the model; those with one channel get grey candidates.
        declared: what the user or the file said.
    """
    geometry = declared or Preprocessing()
    made: list[Preprocessing] = []
    pairs: list[tuple[str, ChannelOrder, tuple[float, ...], tuple[float, ...]]] = []
    if view.input_channels == 1:
        pairs += [(name, "GRAY", (mean,), (scale,)) for name, (mean, scale) in GRAY_RANGES.items()]
    else:
        for name, (means, scales) in RANGES.items():
            pairs += [(name, "RGB", means, scales), (name, "BGR", means[::-1], scales[::-1])]
    for name, order, shift, factor in pairs:
        tried = replace(geometry, channel_order=order, mean=shift, scale=factor, origin="declared")
        preset = next((key for key, preset in PRESETS.items() if same_values(preset, tried)), "custom")
        made.append(replace(tried, name=preset))
        yield name, made[-1]
    if declared is not None and not any(same_values(declared, other) for other in made):
        yield f"as declared ({shorten(declared.name, 30)})", declared


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
    images: ImageFolder,
    *,
    labels: Sequence[str] | None = None,
    declared: Preprocessing | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Probe:
    """Try every plausible preprocessing on pictures and rank them, by accuracy where classes are known.

    Args:
        view: a model that gives one class to an image.
        images: photographs of the kind that the model is made for.
        labels: class names in the order of the logits, to match the pictures' classes with.
        declared: what the user or the model file said, tried too.
        device: where to compute.
        progress: called with the number of trials done and of all.

    Returns:
        The trials, best first.

    Raises:
        ModelError: if the model is no classifier of images.
        DataError: if a picture cannot be read.
    """
    if view.input_layout == "other":
        raise ModelError("the model takes no image, so there is no preprocessing to find", where=shorten(view.file))
    choices = list(candidates(view, declared))
    first = Model(view, choices[0][1], labels, device)
    batch = load_batch(images, range(len(images)), first.preprocessing, first.input_size)
    truth = np.array([-1 if found is None else found for found in _truth(view, images, labels)])
    trials: list[Trial] = []
    failed: list[tuple[str, str]] = []
    for place, (name, preprocessing) in enumerate(choices):
        if progress is not None:
            progress(place, len(choices))
        model = Model(view, preprocessing, labels, device)
        try:
            variants = [_probabilities(model, variant) for variant in _variants(batch)]
        except SelectionError as fault:
            raise ModelError(
                f"the probe needs a model that gives one class to an image: {fault.what}",
                where=shorten(view.file),
                remedy="say how to preprocess with --preprocess",
            ) from fault
        except ModelError as fault:
            failed.append((name, fault.what))
            continue
        trials.append(_trial(name, preprocessing, variants, truth))
    if not trials:
        raise ModelError(f"the model runs with no preprocessing: {failed[0][1]}", where=shorten(view.file))
    labelled = int((truth >= 0).sum())
    best = max((trial.top5 or 0.0 for trial in trials), default=0.0)
    # Five guesses out of `count` are right by chance in five of `count` pictures.
    meaningful = labelled > 0 and best > min(0.95, 2 * 5 / max(view.logits.unit_count or 1, 1))
    note = ""
    if labelled and not meaningful:
        note = (
            "no preprocessing is better than chance on the pictures' classes, so these are not used: "
            "the class names or numbers of the pictures are not those of the model"
        )
    if view.input_size is None and (declared is None or declared.size is None):
        height, width = first.input_size
        size = f"the model leaves its input size open: tried at {height} × {width} pixels"
        note = f"{note}; {size}" if note else size
    trials.sort(key=_by_accuracy if meaningful else _by_score, reverse=True)
    return Probe(
        tuple(trials),
        len(images),
        max(images.found, len(images)),
        labelled,
        declared,
        meaningful,
        note,
        tuple(failed),
        images.skipped,
    )


def _by_accuracy(trial: Trial) -> tuple[float, float, float]:
    return trial.top1 or 0.0, trial.top5 or 0.0, trial.score


def _by_score(trial: Trial) -> float:
    return trial.score


def _truth(view: GraphView, images: ImageFolder, labels: Sequence[str] | None) -> list[int | None]:
    try:
        count = view.logits.unit_count or 0
    except SelectionError as fault:
        raise ModelError(f"the probe needs a classifier: {fault.what}", where=shorten(view.file)) from fault
    found: list[int | None] = []
    for index in range(len(images)):
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


def _probabilities(model: Model, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    parts = [model.probabilities(batch[start : start + _BATCH]) for start in range(0, len(batch), _BATCH)]
    values = np.nan_to_num(np.concatenate(parts).astype(np.float64), posinf=0.0)
    # Outputs of a Sigmoid, or quantised ones, need not add up to one.
    shares: npt.NDArray[np.float64] = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    return shares


def _trial(
    name: str,
    preprocessing: Preprocessing,
    variants: Sequence[npt.NDArray[np.float64]],
    truth: npt.NDArray[np.int_],
) -> Trial:
    plain = variants[0]
    mean = plain.mean(axis=0)
    top1 = top5 = None
    known = truth >= 0
    if known.any():
        own = plain[known, truth[known]]
        rank = (plain[known] > own[:, None]).sum(axis=1)
        # Where all classes are equally probable, nothing was recognised.
        decided = plain[known].max(axis=1) > plain[known].min(axis=1)
        top1, top5 = float(((rank < 1) & decided).mean()), float(((rank < 5) & decided).mean())
    return Trial(
        preprocessing,
        name,
        confidence=float(plain.max(axis=1).mean()),
        steady=float(np.minimum.reduce(variants).max(axis=1).mean()),
        variety=float(-(mean * np.log(np.maximum(mean, 1e-12))).sum()),
        top1=top1,
        top5=top5,
    )
