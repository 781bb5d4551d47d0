"""A run as plain lines, for logs and pipes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from onnxviz.core.errors import beginning, shorten
from onnxviz.execution.observer import Observer
from onnxviz.execution.schedule import Schedule
from onnxviz.progress.counting import Lines, Progression, Running, jobs, parity_checks, span

_SAY_EVERY = 20.0
"""Seconds between lines of a job that is still running."""
_NOTE_EVERY = 2.0
"""The same where the user wants to hear more."""


class PlainProgress(Observer):
    """One line for each job, or for many short ones together; long jobs say every so often how far they are.

    Args:
        console: where to.
        verbose: a line for each job whatever its length, when it begins and when it ends.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._progression = Progression()
        self._lines = Lines(self._progression, every_job=verbose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, BrokenPipeError):
            return
        with contextlib.suppress(BrokenPipeError):
            self._say(self._lines.close())
            if kind is None and (line := self._lines.never_begun()):
                self._write(line.plain)

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        """Say how much there is to do."""
        self._progression.plan(schedule, cached)
        self._lines.plan()
        agreements = f" and {parity_checks(len(schedule.parity_checks))}" if schedule.parity_checks else ""
        self._write(f"{jobs(len(schedule.jobs))}{agreements} on {schedule.device}")

    def started(self, name: str, cost: float) -> None:
        """Remember when the job began."""
        self._progression.start(name, cost)
        self._say(self._lines.start())
        if self._verbose:
            self._write(f"       {shorten(name, 100)} begins")

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        """Say how far a long job is."""
        job = self._progression.step(name, done, total, note)
        if job is None:
            return
        now = self._progression.clock()
        if now - job.said >= (_NOTE_EVERY if self._verbose else _SAY_EVERY):
            job.said = now
            self._write(self._far(job, now))

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        """Say how a job ended, or count it."""
        self._progression.end(name, cost, status)
        self._say(self._lines.end(name, seconds, status, error))

    def message(self, text: str) -> None:
        """Say something."""
        self._write(beginning(text, 2000))

    def _far(self, job: Running, now: float) -> str:
        steps = f"{job.done}/{job.total} steps" if job.total else f"{job.done} steps"
        left = self._progression.left()
        rest = "" if left is None else f", {span(*left)} left"
        note = f" ({shorten(job.note, 80)})" if job.note else ""
        return f"       {shorten(job.name, 80)}: {steps}, {job.rate(now):.1f}/s{note}{rest}"

    def _say(self, lines: Iterable[Text]) -> None:
        for line in lines:
            self._write(f"[{self._progression.ended}/{self._progression.jobs}] {line.plain}")

    def _write(self, text: str) -> None:
        # Not by `print`, which would look for markup and widths in every line.
        self._console.file.write(f"{text}\n")
        self._console.file.flush()
