"""The choice of a preprocessing by trial as a job: what is tried, and what was chosen and why."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxviz.analyses.base import Progress, Subject
from onnxviz.core.devices import Device
from onnxviz.core.errors import SelectionError
from onnxviz.core.results import ModelCard, Tried, TriedPreprocessing
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import AUTO, Preprocessing
from onnxviz.execution.cards import seen_of
from onnxviz.execution.schedule import Choice
from onnxviz.execution.store import DamagedError, Store
from onnxviz.model.preprocessing import read_preprocessing

if TYPE_CHECKING:
    from onnxviz.model.preprocessing_trials import Probe


@dataclass(frozen=True)
class Chosen:
    """The preprocessing that was chosen, whose origin is "trial", and what the report says of it.

    Attributes:
        geometry: how images are brought to size, for comparisons.
        seen: for each data set, which part of its images the model sees.
    """

    preprocessing: Preprocessing
    tried: Tried
    geometry: str
    seen: tuple[tuple[str, str], ...]


def choose(subject: Subject, choice: Choice, device: Device, progress: Progress) -> Chosen:
    """Try preprocessings on a recipe's images and take the best.

    Raises:
        ModelError: if the model is no classifier of images, or runs with no preprocessing.
        DataError: if an image cannot be read.
    """
    from onnxviz.model.preprocessing_search import probe

    source = subject.data[choice.data]
    found = probe(
        subject.view,
        source,
        labels=subject.labels,
        geometry=subject.preprocessing,
        keep=subject.preprocessing.keeps_geometry,
        device=device,
        progress=lambda done, total: progress(done, total, "trying preprocessings"),
        indices=tuple(spread_evenly(range(len(source)), choice.images)),
    )
    best = replace(found.trials[0].preprocessing, origin="trial", size=subject.preprocessing.size)
    geometry = subject.view.card(subject.alias, best).geometry
    return Chosen(best, tried_of(found, choice.data), geometry, seen_of(replace(subject, preprocessing=best)))


def tried_of(found: Probe, data: str) -> Tried:
    """Return what a report shows of the trials on a data set."""
    rows = tuple(
        TriedPreprocessing(
            trial.preprocessing.channel_order,
            trial.range,
            trial.geometry,
            trial.top1,
            trial.top5,
            trial.steady,
            trial.variety,
            trial.score,
            trial.chance,
            trial.alike,
        )
        for trial in found.trials
    )
    right = found.right
    return Tried(
        data,
        found.images,
        found.found,
        found.labelled,
        found.by_accuracy,
        found.clear,
        found.verdict,
        found.note,
        rows,
        right.interval if right is not None else (),
        found.doubts,
    )


def read_chosen(store: Store, key: str) -> Chosen | None:
    """Return what was chosen and stored under a key; checked, because who wrote it has opened a stranger's model.

    Raises:
        DamagedError: if it is something else.
    """
    chosen = store.load_value(key, Chosen)
    try:
        return chosen and replace(chosen, preprocessing=read_preprocessing(chosen.preprocessing))
    except SelectionError as error:
        raise DamagedError(key, error.what) from error


def without_choice(card: ModelCard) -> ModelCard:
    """Return a model's card where the trial that was to choose its preprocessing failed."""
    return replace(card, preprocessing=f"{AUTO}: nothing was chosen, because the trial failed")


def with_choice(card: ModelCard, chosen: Chosen) -> ModelCard:
    """Return a model's card with the preprocessing that was chosen for it."""
    return replace(
        card,
        preprocessing=chosen.preprocessing.in_words,
        preprocessing_origin="trial",
        geometry=chosen.geometry,
        seen=chosen.seen,
        tried=chosen.tried,
    )
