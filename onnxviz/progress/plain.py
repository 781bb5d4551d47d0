"""A run as plain lines, for logs and pipes."""

from __future__ import annotations

import contextlib

from rich.console import Console
from rich.text import Text

from onnxviz.core.errors import beginning, shorten
from onnxviz.core.wording import counted
from onnxviz.execution.schedule import Schedule
from onnxviz.progress.counting import CountingObserver, Running, span

_SAY_EVERY = 20.0
"""Seconds between lines of a job that is still running."""
_NOTE_EVERY = 2.0
"""The same where the user wants to hear more."""


class PlainProgress(CountingObserver):
    """One line for each job, or for many short ones together; long jobs say every so often how far they are.

    Args:
        console: where to.
        verbose: a line for each job whatever its length, when it begins and when it ends.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        super().__init__(every_job=verbose)
        self._console = console
        self._verbose = verbose

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if isinstance(value, BrokenPipeError):
            return
        with contextlib.suppress(BrokenPipeError):
            self.close()
            if kind is None and (line := self.never_begun()):
                self._write(line.plain)

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        super().planned(schedule, cached)
        checks = f" and {counted(len(schedule.parity_checks), 'comparison')} with ONNX Runtime"
        self._write(f"{counted(len(schedule.jobs), 'job')}{checks * bool(schedule.parity_checks)} on {schedule.device}")

    def started(self, name: str, cost: float) -> None:
        super().started(name, cost)
        if self._verbose:
            self._write(f"       {shorten(name, 100)} begins")

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        job = self._progression.step(name, done, total, note)
        if job is None:
            return
        now = self._progression.clock()
        if now - job.said >= (_NOTE_EVERY if self._verbose else _SAY_EVERY):
            job.said = now
            self._write(self._far(job, now))

    def message(self, text: str) -> None:
        self._write(beginning(text, 2000))

    def _far(self, job: Running, now: float) -> str:
        steps = f"{job.done}/{job.total} steps" if job.total else f"{job.done} steps"
        left = self._progression.left()
        rest = "" if left is None else f", {span(*left)} left"
        note = f" ({shorten(job.note, 80)})" if job.note else ""
        return f"       {shorten(job.name, 80)}: {steps}, {job.rate(now):.1f}/s{note}{rest}"

    def say(self, line: Text) -> None:
        self._write(f"[{self._progression.ended}/{self._progression.jobs}] {line.plain}")

    def _write(self, text: str) -> None:
        # Not by `print`, which would look for markup and widths in every line.
        self._console.file.write(f"{text}\n")
        self._console.file.flush()
