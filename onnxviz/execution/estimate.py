"""What a run will take, before it begins: time from a measured second of the model or from the last run, and space."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from onnxviz.core.devices import Device, describe_device, gpu_names
from onnxviz.core.errors import OutputError, shorten
from onnxviz.core.results import ModelCard, RunResult
from onnxviz.execution.folder import read_run
from onnxviz.execution.pace import Pace, measure_pace
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import Choice, ParityCheck, PlannedJob, Schedule
from onnxviz.execution.store import Store
from onnxviz.recipe.recipe import Recipe

EFFICIENCY = 0.42
"""Share of a matrix product's speed that networks reach on a CPU; by SqueezeNet on one core, random views and the
optimizer's steps included."""
LAYER_SECONDS = 6e-5
"""What each layer of a pass costs beside its multiply-adds, on a CPU; by MobileNet, a small ResNet, mini-XCEPTION."""
CUDA_EFFICIENCY = 0.15
"""Share of a GPU's nominal speed, where images go through in small batches."""
CUDA_LAYER_SECONDS = 2e-5
BYTE_SECONDS = 5e-8
"""What each stored byte takes to be drawn, packed and written."""
JOB_SECONDS = 5e-3
"""What each job takes beside its passes and pictures."""
IMAGE_SECONDS = 2e-4
"""What each picture takes beside its bytes."""
START_SECONDS = 4.0
"""To load torch and the model."""
PARITY_BYTES = 20_000
_GPU_SPEEDS = (
    ("H200", 30e12), ("H100", 30e12), ("A100", 9.7e12), ("L40", 40e12), ("L4", 15e12), ("V100", 7.8e12), ("T4", 4e12),
    ("4090", 40e12), ("4080", 24e12), ("3090", 17e12), ("3080", 15e12), ("A10", 15e12),
)  # fmt: skip
"""Nominal multiply-adds a second in 32 bits, half the operations of the makers' data sheets."""
_GPU_SPEED = 5e12
_SPREAD = 1.3
"""How far a job may be from its passes at the measured pace: views, batches, pictures; by the audit of SqueezeNet."""
_DEARER = 2.2
"""What a pass of a job may take in bare ones: views, the optimizer's steps, caches that other programs use, too."""
_AS_BEFORE = 1.25
"""How far a run may be from the last one."""
_CROWDED = 1.5
"""Programs that share a core, from which on it is said."""
_GUESSED = 3.0
"""How far a model may be from its multiply-adds."""
_SIDE = 384
_MEASURED_SECONDS = 0.04


@dataclass(frozen=True)
class Work:
    """A schedule with what is done of it and what the rest will take.

    Attributes:
        cached: keys of what is done already and not done again.
        job_seconds: by key, of those whose time can be estimated; with all workers at it.
        seconds: of all that is to do, from at least to at most; None if that of a part cannot be told.
        bytes: what will be stored.
        basis: what the time is derived from, one sentence each.
        crowded: whether other programs work at present, which the time leaves out.
    """

    schedule: Schedule
    cached: frozenset[str]
    workers: int
    job_seconds: Mapping[str, float] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None
    bytes: int = 0
    basis: tuple[str, ...] = ()
    crowded: bool = False


def planned_work(
    schedule: Schedule,
    folder: Path,
    again: set[str],
    workers: int = 1,
    measure: Callable[[str], Pace | None] | None = None,
) -> Work:
    """Return what a run into a folder will do and take.

    Args:
        schedule: what there is to do.
        folder: the run folder; need not exist.
        again: ids of analyses that are done again although they are done.
        workers: processes that share the work.
        measure: measures the pace of the model of an alias; asked only where no earlier run tells.
    """
    forced = {job.key for job in schedule.jobs if job.analysis in again}
    cached = schedule.cached(Store(folder)) - forced
    # What others needed is not kept, and not done again while they are there.
    wanted = schedule.wanted(cached)
    cached |= {job.key for job in schedule.jobs if job.job.intermediate and job.key not in wanted}
    try:
        before = read_run(folder)
    except OutputError:
        before = None
    return estimated(schedule, frozenset(cached), workers, before, measure=measure)


def work_of(recipe: Recipe, device: Device, folder: Path, again: set[str], workers: int, *, measured: bool) -> Work:
    """Plan a recipe and return what a run will do and take; `measured` if models may be measured, which loads torch.

    Raises:
        RecipeError: if the recipe, its models or its data are refused.
    """
    made = make_plan(recipe, device)

    def measure(alias: str) -> Pace | None:
        return measure_pace(made.subjects[alias], device) if measured else None

    return planned_work(made, folder, again, workers, measure)


def estimated(
    schedule: Schedule,
    cached: frozenset[str],
    workers: int,
    before: RunResult | None,
    speed: Callable[[], float] | None = None,
    measure: Callable[[str], Pace | None] | None = None,
) -> Work:
    """Return the estimates for what is not done.

    A job takes its forward passes times the seconds of one, and what its pictures take to be drawn and written. A
    pass takes what it took, pictures included, in the last run of the same analysis on the same model and device.
    Where there was none it takes what it is measured to take; where it cannot be measured, for want of better::

        multiply-adds / (speed of a matrix product x efficiency) + layers x a constant

    Args:
        schedule: what there is to do.
        cached: keys of what is done.
        workers: processes that share the work.
        before: the last run into the same folder, if there was one.
        speed: multiply-adds a second of this machine; measured if None, where it is needed.
        measure: measures the pace of the model of an alias, if anything does.
    """
    rates = _Rates(schedule, workers, before, speed or cpu_speed, measure)
    bounds: list[tuple[float, float]] = []
    seconds: dict[str, float] = {}
    to_do = [work for work in schedule.works if work.key not in cached]
    for work in to_do:
        rate, beside = rates.of(work)
        if rate is not None:
            seconds[work.key] = work.cost * rate.middle + beside
            bounds.append((work.cost * rate.least + beside / _SPREAD, work.cost * rate.most + beside * _SPREAD))
    return Work(
        schedule=schedule,
        cached=cached,
        workers=workers,
        job_seconds=seconds,
        seconds=_total(bounds, START_SECONDS if to_do else 0.0) if len(bounds) == len(to_do) else None,
        bytes=sum(map(_bytes, to_do)),
        basis=tuple(rates.basis),
        crowded=rates.crowded,
    )


@dataclass(frozen=True)
class _Rate:
    """Seconds of a forward pass with all workers at it, from at least to at most."""

    least: float
    most: float

    @property
    def middle(self) -> float:
        """What is most likely."""
        return math.sqrt(self.least * self.most)

    @classmethod
    def about(cls, seconds: float, factor: float) -> _Rate:
        """Return a rate that is known within a factor."""
        return cls(seconds / factor, seconds * factor)


def _measured_rate(seconds: float) -> _Rate:
    return _Rate(seconds / _SPREAD, seconds * _DEARER)


def _total(parts: Sequence[tuple[float, float]], start: float) -> tuple[float, float]:
    least, most = (sum((part[side] for part in parts), 0.0) for side in (0, 1))
    return least + start / _SPREAD, most + start * _SPREAD


def _bytes(work: PlannedJob | ParityCheck | Choice) -> int:
    if isinstance(work, PlannedJob):
        return work.job.bytes
    return PARITY_BYTES if isinstance(work, ParityCheck) else 0


def _beside(job: PlannedJob) -> float:
    """Return the seconds that a job takes beside its forward passes."""
    return JOB_SECONDS + job.job.bytes * BYTE_SECONDS + job.job.images * IMAGE_SECONDS


@dataclass(eq=False)
class _Rates:
    """What a forward pass takes, for each analysis and model."""

    schedule: Schedule
    workers: int
    before: RunResult | None
    speed: Callable[[], float]
    measure: Callable[[str], Pace | None] | None
    basis: dict[str, None] = field(default_factory=dict)
    crowded: bool = False
    _known: dict[str, _Rate | None] = field(default_factory=dict)
    _paces: dict[str, Pace] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cards = {card.alias: card for card in self.schedule.models}
        self._measured = _measured_rates(self.schedule, self.before, self.workers) if self.before is not None else {}

    def of(self, work: PlannedJob | ParityCheck | Choice) -> tuple[_Rate | None, float]:
        """Return the rate for some work, None if nothing is known, and the seconds that it takes beside its passes."""
        if isinstance(work, Choice):
            return self.trial(work.alias), 0.0
        if isinstance(work, ParityCheck):
            return self.derived(work.alias), 0.0
        found = self._measured.get((work.alias, work.analysis))
        if found is None:
            return self.derived(work.alias), _beside(work) / self.workers
        self.basis[f"{shorten(work.analysis, 40)}: as in the last run in this folder"] = None
        return _Rate.about(found, _AS_BEFORE), 0.0

    def derived(self, alias: str) -> _Rate | None:
        """Return the rate that is measured or that the multiply-adds suggest, None if nothing is known of a model."""
        if alias not in self._known:
            self._known[alias] = self._derive(self._cards[alias])
        return self._known[alias]

    def trial(self, alias: str) -> _Rate | None:
        """Return the rate of trials of preprocessings, which take images in batches, as far as that is measured."""
        derived, pace = self.derived(alias), self._paces.get(alias)
        return derived if pace is None or pace.trial is None else _measured_rate(pace.trial)

    def _derive(self, card: ModelCard) -> _Rate | None:
        name = shorten(card.file, 60)
        if self.measure is not None and (pace := self.measure(card.alias)) is not None:
            self._paces[card.alias] = pace
            trial = f", {in_units(pace.trial)} for an image in a trial of preprocessings" if pace.trial else ""
            self.crowded |= pace.crowd > _CROWDED
            self.basis[
                f"{name}: {in_units(pace.seconds)} of this machine's time a forward pass{trial}, measured"
                + (
                    f"; now {pace.crowd:.1f} programs share a core, which makes it as many times as long while they do"
                    if pace.crowd > _CROWDED
                    else ""
                )
            ] = None
            return _measured_rate(pace.seconds)
        if card.multiply_adds is None:
            self.basis[f"{name}: multiply-adds unknown, so its time cannot be estimated"] = None
            return None
        layers = len(card.layers)
        if self.schedule.device == "cuda":
            speed, where = gpu_speed() * CUDA_EFFICIENCY, f"for {(gpu_names() or ('a GPU',))[0]}"
            rate = (card.multiply_adds / speed + layers * CUDA_LAYER_SECONDS) / self.workers
        else:
            speed, where = self.speed() * EFFICIENCY, "by this machine's speed"
            rate = card.multiply_adds / speed + layers * LAYER_SECONDS
        self.basis[
            f"{name}: {in_units(rate)} a forward pass, with {_millions(card.multiply_adds)} multiply-adds at "
            f"{speed / 1e9:.3g} billion a second ({where}): a guess, nothing was measured"
        ] = None
        return _Rate.about(rate, _GUESSED)


def _measured_rates(schedule: Schedule, before: RunResult, workers: int) -> dict[tuple[str, str], float]:
    """Return seconds of a pass by alias and analysis, from a run of the same models on the same device."""
    if before.provenance.device != describe_device(schedule.device):
        return {}
    digests = {card.alias: card.digest for card in before.models}
    same = {card.alias for card in schedule.models if digests.get(card.alias) == card.digest}
    # On a CPU the workers share its threads, so that twice as many need twice as long for a pass; GPUs are not shared.
    match = re.match(r"(\d+) worker", before.provenance.engine)
    shared = workers if schedule.device == "cuda" else max(1, int(match[1])) if match else 1
    return {
        (part.model, analysis.id): part.seconds / part.cost / shared
        for analysis in before.analyses
        for part in analysis.parts
        if part.model in same and part.cost > 0 and part.seconds > 0
    }


@cache
def cpu_speed() -> float:
    """Return the multiply-adds a second of a matrix product on this machine, measured in about 40 milliseconds.

    The fastest product counts: on a busy machine most wait for others, and how busy it will be nobody knows.
    """
    values = np.linspace(-1.0, 1.0, _SIDE * _SIDE, dtype=np.float32).reshape(_SIDE, _SIDE)
    values @ values  # the first one starts threads
    fastest, begun = math.inf, time.perf_counter()
    while (now := time.perf_counter()) - begun < _MEASURED_SECONDS:
        values @ values
        fastest = min(fastest, time.perf_counter() - now)
    return float(_SIDE**3 / fastest)


def gpu_speed() -> float:
    """Return the nominal multiply-adds a second of the GPU, by its name; a modest one's if the name says nothing."""
    name = (gpu_names() or ("",))[0]
    return next((speed for part, speed in _GPU_SPEEDS if part in name), _GPU_SPEED)


def in_units(seconds: float) -> str:
    """Return a short time: 3.2 ms, 0.41 s."""
    return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{seconds:.2g} s"


def _millions(count: int) -> str:
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"
