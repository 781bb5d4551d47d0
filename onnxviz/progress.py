"""How a run is shown while it goes on: bars in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from onnxviz.errors import shorten
from onnxviz.execute import Status
from onnxviz.plan import PROOF_COST, Plan

_MARKS: dict[Status, tuple[str, str]] = {
    "done": ("done", "green"),
    "cached": ("kept", "cyan"),
    "failed": ("FAILED", "red"),
}


class Progression:
    """Counts the work: what is done in estimated forward passes, and the time that is left at the rate so far."""

    def __init__(self) -> None:
        self.jobs = 0
        self.ended = 0
        self.cost_total = 0.0
        self.cost_done = 0.0
        self.seconds = 0.0

    def plan(self, plan: Plan, cached: set[str]) -> None:
        """Take note of all the work."""
        self.jobs = len(plan.jobs) + len(plan.proofs)
        self.cost_total = sum(job.job.cost for job in plan.jobs if job.key not in cached)
        self.cost_total += sum(PROOF_COST for proof in plan.proofs.values() if proof.key not in cached)

    def end(self, cost: float, seconds: float, status: Status) -> None:
        """Take note of a job that has ended."""
        self.ended += 1
        if status == "done":
            self.cost_done += cost
            self.seconds += seconds
        elif status == "failed":
            self.cost_total -= cost

    def left(self, cost: float, part: float, running: float) -> float | None:
        """Return the seconds left, or None while nothing is known; `part` of the running job's cost is done."""
        done = self.cost_done + cost * part
        spent = self.seconds + running
        if done <= 0 or spent <= 0:
            return None
        return max(0.0, (self.cost_total - done) * spent / done)


class _LeftColumn(ProgressColumn):
    """The time left of the whole run."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("" if left is None else f"{duration(left)} left", style="cyan")


class _RateColumn(ProgressColumn):
    """Steps of the running job per second."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed or task.fields.get("whole") else f"{speed:.1f}/s", style="dim")


class TerminalProgress:
    """Two bars: all jobs, and the steps of the one that is running. A context manager: no bar is left."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._progression = Progression()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeElapsedColumn(),
            _LeftColumn(),
            console=console,
            transient=True,
        )
        self._whole: TaskID | None = None
        self._job: TaskID | None = None
        self._cost = 0.0
        self._clock = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def planned(self, plan: Plan, cached: set[str]) -> None:
        """Begin the bar of all jobs."""
        self._progression.plan(plan, cached)
        self._whole = self._bars.add_task("jobs", total=self._progression.jobs, left=None, whole=True)

    def started(self, name: str, cost: float) -> None:
        """Begin the bar of a job."""
        self._cost, self._clock = cost, time.monotonic()
        self._job = self._bars.add_task(f"  {shorten(name, 48)}", total=None, left=None)

    def progressed(self, done: int, total: int, note: str = "") -> None:
        """Move the job's bar."""
        if self._job is None or self._whole is None:
            return
        self._bars.update(self._job, completed=done, total=total or None)
        part = done / total if total else 0.0
        left = self._progression.left(self._cost, part, time.monotonic() - self._clock)
        self._bars.update(self._whole, left=left)
        if note and self._verbose:
            self._console.print(Text(f"    {shorten(note, 120)}", style="dim"))

    def finished(self, name: str, cost: float, seconds: float, status: Status, error: str = "") -> None:
        """Say how a job ended, above the bars."""
        self._progression.end(cost, seconds, status)
        if self._job is not None:
            self._bars.remove_task(self._job)
            self._job = None
        if self._whole is not None:
            self._bars.update(self._whole, completed=self._progression.ended)
            self._bars.update(self._whole, left=self._progression.left(0.0, 0.0, 0.0))
        self._console.print(outcome_line(name, seconds, status, error))

    def message(self, text: str) -> None:
        """Say something above the bars."""
        self._console.print(Text(shorten(text, 300), style="yellow"))


class PlainProgress:
    """One line for each job, for logs and pipes; long jobs say every so often how far they are."""

    EVERY = 20.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progression = Progression()
        self._name = ""
        self._cost = 0.0
        self._clock = self._said = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def planned(self, plan: Plan, cached: set[str]) -> None:
        """Say how much there is to do."""
        self._progression.plan(plan, cached)
        kept = sum(job.key in cached for job in plan.jobs)
        self._say(
            f"{len(plan.jobs)} job{'s' * (len(plan.jobs) != 1)} on {plan.device}"
            + (f", {kept} done before" if kept else "")
        )

    def started(self, name: str, cost: float) -> None:
        """Remember when the job began."""
        self._name, self._cost = name, cost
        self._clock = self._said = time.monotonic()

    def progressed(self, done: int, total: int, note: str = "") -> None:
        """Say how far a long job is."""
        now = time.monotonic()
        if now - self._said < self.EVERY:
            return
        self._said = now
        rate = done / max(now - self._clock, 1e-9)
        left = self._progression.left(self._cost, done / total if total else 0.0, now - self._clock)
        rest = "" if left is None else f", {duration(left)} left"
        self._say(f"      {self._name}: {done}/{total} steps, {rate:.1f}/s{rest}" + (f" ({note})" if note else ""))

    def finished(self, name: str, cost: float, seconds: float, status: Status, error: str = "") -> None:
        """Say how a job ended."""
        self._progression.end(cost, seconds, status)
        count = f"[{self._progression.ended}/{self._progression.jobs}] "
        self._console.print(Text(count) + outcome_line(name, seconds, status, error), soft_wrap=True)

    def message(self, text: str) -> None:
        """Say something."""
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(Text(shorten(text, 300)), soft_wrap=True)


def outcome_line(name: str, seconds: float, status: Status, error: str) -> Text:
    """Return the line that says how a job ended."""
    mark, style = _MARKS[status]
    line = Text.assemble((f"{mark:<6}", style), f" {shorten(name, 100)}")
    if status != "cached":
        line.append(f"  {duration(seconds)}", style="dim")
    if error:
        line.append(f"\n         {shorten(error, 600)}", style="red")
    return line


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
