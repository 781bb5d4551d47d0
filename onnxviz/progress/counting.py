"""What is known of a run while it goes on, and which lines are worth saying; nothing here draws."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.text import Text

from onnxviz.core.errors import beginning, shorten
from onnxviz.core.wording import counted
from onnxviz.execution.observer import Observer
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
        cost: its estimated forward passes.
        done: steps that are done, of `total`; 0 of 0 if it does not say.
        said: when something was last said of it, by the clock of the progression.
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
        self.running: dict[str, Running] = {}
        self.begun = clock()
        self._most_at_a_time = 1
        self._analyses: dict[str, str] = {}
        self._choices: set[str] = set()
        self._evidence: dict[str, Evidence] = {}

    def plan(self, schedule: Schedule, cached: set[str]) -> None:
        """Take note of all the work."""
        self.begun = self.clock()
        self.jobs = len(schedule.works)
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

    def start(self, name: str, cost: float) -> None:
        """Take note of a job that begins."""
        now = self.clock()
        analysis = self._analyses.get(name)
        self.running[name] = Running(name, cost if analysis else 0.0, now, said=now, analysis=analysis)
        at_a_time = sum(item.analysis is not None for item in self.running.values())
        self._most_at_a_time = max(self._most_at_a_time, at_a_time)

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
        self.cached += status == "cached"
        known = self._evidence.get(self._analyses.get(name, ""))
        if known is not None and status == "failed":
            known.cost -= cost
        if known is not None and status == "done" and job is not None:
            known.done += cost
            known.seconds += self.clock() - job.begun
            known.jobs += 1

    @property
    def part(self) -> float:
        """Share of the work that is done, what is running included."""
        total = sum(known.cost for known in self._evidence.values())
        if total <= 0:
            return self.ended / self.jobs if self.jobs else 0.0
        # A copy: the bars are drawn by another thread than the one that counts.
        at_work = sum(job.cost * job.part for job in list(self.running.values()))
        return min(1.0, (sum(known.done for known in self._evidence.values()) + at_work) / total)

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
        if judged <= 0 or judged < _JUDGED * sum(known.cost for known in self._evidence.values()):
            return None
        usual = sum(self._evidence[analysis].cost * rate for analysis, (rate, _) in rates.items()) / judged
        least = most = 0.0
        for analysis, known in self._evidence.items():
            rate, spread = rates.get(analysis, (usual, _UNKNOWN))
            at_work = sum(item.cost * item.part for item in running if item.analysis == analysis)
            seconds = max(0.0, known.cost - known.done - at_work) * rate
            least, most = least + seconds / spread, most + seconds * spread
        return least / self._most_at_a_time, most / self._most_at_a_time


class CountingObserver(Observer, AbstractContextManager["CountingObserver"]):
    """Counts the work, and says how jobs ended: short ones are summed up where there are many, none is dropped.

    Args:
        every_job: one line for each job, however many.
    """

    def __init__(self, *, every_job: bool = False) -> None:
        self._progression = Progression()
        self._every_job = every_job
        self._cached = self._parity_checks = self._short = 0
        self._failed_first: dict[str, str] = {}
        self._summed = self._progression.clock()

    def say(self, line: Text) -> None:
        """Show a line."""
        raise NotImplementedError

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        self._progression.plan(schedule, cached)
        self._every_job |= self._progression.jobs <= FEW_JOBS
        self._summed = self._progression.clock()

    def started(self, name: str, cost: float) -> None:
        self._progression.start(name, cost)
        self._say_done_before()

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        self._progression.step(name, done, total, note)

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        self._progression.end(name, cost, status)
        if status == "cached":
            self._cached += self._progression.is_job(name)
            self._parity_checks += not self._progression.is_job(name)
            return
        self._say_done_before()
        told = status == "failed" or seconds >= LONG or self._every_job
        self._short += not told
        if self._progression.clock() - self._summed >= SUM_EVERY:
            self._say_sum()
        if told:
            first = self._failed_first.setdefault(error, name) if error else name
            self.say(outcome_line(name, seconds, status, error if first == name else f"as {shorten(first, 100)}"))

    def close(self) -> None:
        """Say what was not said yet; the run is over."""
        self._say_done_before()
        self._say_sum()

    def never_begun(self) -> Text | None:
        """Return the line that says how many jobs were left out after a failure, if any were."""
        count = self._progression.jobs - self._progression.ended
        if count <= 0:
            return None
        left = f"{counted(count, 'job')} {'was' if count == 1 else 'were'} not begun, because another failed"
        return Text(left, style="red")

    def _say_done_before(self) -> None:
        named = [counted(self._cached, "job")] if self._cached else []
        if self._parity_checks:
            named.append(f"{counted(self._parity_checks, 'comparison')} with ONNX Runtime")
        if named:
            were = "were" if self._cached + self._parity_checks > 1 else "was"
            self._cached = self._parity_checks = 0
            self.say(Text(f"{' and '.join(named)} {were} done before", style="cyan"))

    def _say_sum(self) -> None:
        if not self._short:
            return
        now = self._progression.clock()
        done = f" {counted(self._short, 'job')} in {duration(now - self._summed)}"
        self._short, self._summed = 0, now
        self.say(Text.assemble((f"{'done':<6}", "green"), done))


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
