"""What is known of a run while it goes on, and which lines are worth saying; nothing here draws."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.text import Text

from onnxviz.core.errors import beginning, shorten
from onnxviz.execution.schedule import CHOICE, Schedule

FEW_JOBS = 30
"""Up to so many jobs, each has its line."""
LONG = 1.0
"""Seconds; a job that took so long has its line in any case."""
SUM_EVERY = 2.0
"""Seconds between lines that sum up short jobs."""
_STEPS, _SECONDS = 3, 2.0
"""Steps, and seconds between the first and the last of them, from which on a running job shows what it takes."""
_JUDGED = 0.5
"""Share of the work whose analyses must have shown what they take."""
_UNKNOWN = 3.0
"""How far an analysis that has shown nothing may be from the others."""
_MARKS: dict[str, tuple[str, str]] = {"done": ("done", "green"), "failed": ("FAILED", "red")}


@dataclass(eq=False)
class Running:
    """A job while it runs.

    Attributes:
        name: of the job.
        cost: its estimated forward passes.
        begun: when it began, by the clock of the progression.
        done: steps that are done.
        total: all its steps; 0 if it does not say.
        note: what it is at.
        said: when something was last said of it.
        analysis: which one it is of; None for a parity check.
        first: when it first told of steps, and how many were done; what lies before prepares the work.
        last: when it last did.
    """

    name: str
    cost: float
    begun: float
    done: int = 0
    total: int = 0
    note: str = ""
    said: float = 0.0
    analysis: str | None = None
    first: tuple[float, int] | None = None
    last: float = 0.0

    @property
    def part(self) -> float:
        """Share that is done."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    def rate(self, now: float) -> float:
        """Return steps per second so far."""
        return self.done / max(now - self.begun, 1e-9)

    def evidence(self) -> tuple[float, float]:
        """Return how many forward passes its steps so far stand for, and the seconds that these took.

        Nothing if it has told of too few steps, or for too short a time, to say anything.
        """
        if self.first is None or self.total <= 0:
            return 0.0, 0.0
        (begun, before), seconds = self.first, self.last - self.first[0]
        if self.done - before < _STEPS or self.last - begun < _SECONDS:
            return 0.0, 0.0
        return self.cost * min(1.0, (self.done - before) / self.total), seconds


@dataclass(eq=False)
class Evidence:
    """What is known of the time that an analysis takes.

    Attributes:
        cost: of all its jobs that are to be done, in estimated forward passes.
        done: passes of the jobs that have ended.
        seconds: what these took, one after the other.
        jobs: how many these are.
    """

    cost: float = 0.0
    done: float = 0.0
    seconds: float = 0.0
    jobs: int = 0


class Progression:
    """Counts the work, several jobs at a time, and says what time is left, once there is evidence for it.

    Work is counted in estimated forward passes, which different analyses do at different rates: each is judged by its
    own jobs. Nothing is said before the analyses that make up half of the work have shown what they take. Parity checks
    are left out, because they load the model and so say nothing of the rest.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.jobs = 0
        self.ended = 0
        self.cached = 0
        self.failed = 0
        self.running: dict[str, Running] = {}
        self.begun = clock()
        self._cost_total = 0.0
        self._cost_done = 0.0
        self._most_at_a_time = 1
        self._analyses: dict[str, str] = {}
        self._choices: set[str] = set()
        self._evidence: dict[str, Evidence] = {}

    def plan(self, schedule: Schedule, cached: set[str]) -> None:
        """Take note of all the work."""
        self.begun = self.clock()
        self.jobs = len(schedule.works)
        self._cost_total = sum(job.job.cost for job in schedule.jobs if job.key not in cached)
        for job in schedule.jobs:
            # Of several models each has its own pace.
            analysis = f"{job.alias}: {job.analysis}"
            self._analyses[job.name] = self._analyses[f"{job.alias}: {job.name}"] = analysis
            if job.key not in cached:
                self._evidence.setdefault(analysis, Evidence()).cost += job.job.cost
        self._choices = {title for alias in schedule.choices for title in (CHOICE, f"{alias}: {CHOICE}")}

    def is_job(self, name: str) -> bool:
        """Whether it is a job or the choice of a preprocessing, not a parity check."""
        return name in self._analyses or name in self._choices

    def start(self, name: str, cost: float) -> Running:
        """Take note of a job that begins."""
        now = self.clock()
        analysis = self._analyses.get(name)
        job = Running(name, cost if analysis else 0.0, now, said=now, analysis=analysis)
        self.running[name] = job
        self._most_at_a_time = max(
            self._most_at_a_time, sum(item.analysis is not None for item in self.running.values())
        )
        return job

    def step(self, name: str, done: int, total: int, note: str) -> Running | None:
        """Take note of steps; returns the job, or None if it has not begun."""
        job = self.running.get(name)
        if job is not None:
            job.done, job.total, job.last = done, total, self.clock()
            if job.first is None and done > 0:
                job.first = job.last, done
            if note:
                job.note = note
        return job

    def end(self, name: str, cost: float, status: str) -> None:
        """Take note of a job that has ended."""
        job = self.running.pop(name, None)
        self.ended += 1
        cost = cost if self.is_job(name) else 0.0
        known = self._evidence.get(self._analyses.get(name, ""))
        if status == "done":
            self._cost_done += cost
            if known is not None and job is not None:
                known.done += cost
                known.seconds += self.clock() - job.begun
                known.jobs += 1
        elif status == "failed":
            self.failed += 1
            self._cost_total -= cost
            if known is not None:
                known.cost -= cost
        else:
            self.cached += 1

    @property
    def part(self) -> float:
        """Share of the work that is done, what is running included."""
        if self._cost_total <= 0:
            return self.ended / self.jobs if self.jobs else 0.0
        return min(1.0, self._passes_done() / self._cost_total)

    def left(self) -> tuple[float, float] | None:
        """Return the seconds left, from at least to at most, or None while there is too little evidence."""
        running = list(self.running.values())
        rates: dict[str, tuple[float, float]] = {}
        for analysis, known in self._evidence.items():
            shown = [item.evidence() for item in running if item.analysis == analysis]
            done = known.done + sum(passes for passes, _ in shown)
            seconds = known.seconds + sum(spent for _, spent in shown)
            count = known.jobs + sum(passes > 0 for passes, _ in shown)
            if done > 0 and seconds > 0:
                rates[analysis] = seconds / done, 1.15 + 0.85 / math.sqrt(count)
        judged = sum(self._evidence[analysis].cost for analysis in rates)
        if judged <= 0 or judged < _JUDGED * self._cost_total:
            return None
        usual = sum(self._evidence[analysis].cost * rate for analysis, (rate, _) in rates.items()) / judged
        least = most = 0.0
        for analysis, known in self._evidence.items():
            rate, spread = rates.get(analysis, (usual, _UNKNOWN))
            at_work = sum(item.cost * item.part for item in running if item.analysis == analysis)
            seconds = max(0.0, known.cost - known.done - at_work) * rate
            least, most = least + seconds / spread, most + seconds * spread
        return least / self._most_at_a_time, most / self._most_at_a_time

    def _passes_done(self) -> float:
        # A copy: the bars are drawn by another thread than the one that counts.
        return self._cost_done + sum(job.cost * job.part for job in list(self.running.values()))


class Lines:
    """Decides what is said of jobs that have ended: short ones are summed up where there are many, none is dropped.

    Args:
        progression: the counts; told of a job before this is.
        every_job: one line for each job, however many.
    """

    def __init__(self, progression: Progression, *, every_job: bool = False) -> None:
        self._progression = progression
        self._every_job = every_job
        self._cached = self._parity_checks = 0
        self._failed_first: dict[str, str] = {}
        self._short = 0
        self._summed = progression.clock()

    def plan(self) -> None:
        """The number of jobs is known."""
        self._every_job |= self._progression.jobs <= FEW_JOBS
        self._summed = self._progression.clock()

    def start(self) -> Iterator[Text]:
        """A job begins: yield what is to be said before."""
        yield from self._done_before()

    def end(self, name: str, seconds: float, status: str, error: str) -> Iterator[Text]:
        """A job has ended: yield what is to be said."""
        if status == "cached":
            self._cached += self._progression.is_job(name)
            self._parity_checks += not self._progression.is_job(name)
            return
        yield from self._done_before()
        told = status == "failed" or seconds >= LONG or self._every_job
        if not told:
            self._short += 1
        now = self._progression.clock()
        if self._short and now - self._summed >= SUM_EVERY:
            yield self._sum(now)
        if told:
            first = self._failed_first.setdefault(error, name) if error else name
            yield outcome_line(name, seconds, status, error if first == name else f"as {shorten(first, 100)}")

    def close(self) -> Iterator[Text]:
        """The run is over: yield what was not said yet."""
        yield from self._done_before()
        if self._short:
            yield self._sum(self._progression.clock())

    def never_begun(self) -> Text | None:
        """Return the line that says how many jobs were left out after a failure, if any were."""
        count = self._progression.jobs - self._progression.ended
        if count <= 0:
            return None
        return Text(f"{jobs(count)} {'was' if count == 1 else 'were'} not begun, because another failed", style="red")

    def _done_before(self) -> Iterator[Text]:
        named = [jobs(self._cached)] * (self._cached > 0) + [parity_checks(self._parity_checks)] * (
            self._parity_checks > 0
        )
        if named:
            plural = self._cached + self._parity_checks > 1
            self._cached = self._parity_checks = 0
            yield Text(f"{' and '.join(named)} {'were' if plural else 'was'} done before", style="cyan")

    def _sum(self, now: float) -> Text:
        line = Text.assemble((f"{'done':<6}", "green"), f" {jobs(self._short)} in {duration(now - self._summed)}")
        self._short, self._summed = 0, now
        return line


def jobs(count: int) -> str:
    """Return a number of jobs in words."""
    return f"{count:,} job{'s' * (count != 1)}"


def parity_checks(count: int) -> str:
    """Return a number of parity checks in words."""
    return f"{count:,} comparison{'s' * (count != 1)} with ONNX Runtime"


def outcome_line(name: str, seconds: float, status: str, error: str) -> Text:
    """Return the line that says how a job ended."""
    mark, style = _MARKS[status]
    line = Text.assemble((f"{mark:<6}", style), f" {shorten(name, 100)}")
    line.append(f"  {duration(seconds)}", style="dim")
    if error:
        line.append(f"\n         {beginning(error, 2000)}", style="red")
    return line


def span(least: float, most: float) -> str:
    """Return a time that is known within bounds: "20 to 45 s", "50 s to 2 min"; "about 3 min" if close."""
    low, high = (_rounded(seconds) for seconds in (least, most))
    if low == high:
        return f"about {high}"
    number, _, unit = low.rpartition(" ")
    return f"{number} to {high}" if unit == high.rpartition(" ")[2] and " " not in number else f"{low} to {high}"


def _rounded(seconds: float) -> str:
    """Return a time as roughly as it is known: 4 s, 45 s, 7 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds)) if seconds < 20 else 5 * round(seconds / 5)} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours = round(seconds / 3600, 1) if seconds < 36_000 else round(seconds / 3600)
    return f"{hours:g} h"


def duration(seconds: float) -> str:
    """Return a time as people say it: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
