"""A run as events for other programs: one JSON object a line; the schema is in docs/events.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, TextIO

from onnxviz.core.results import ExpectationResult, RunResult
from onnxviz.execution.observer import Observer
from onnxviz.execution.schedule import Schedule

FORMAT = 1
"""Version of the events; raised when a reader of the old ones would be wrong."""
_PROGRESS_EVERY = 0.5
"""Seconds between two events of a job's progress."""


class EventStream(Observer):
    """Writes what happens as JSON lines, each at once.

    A reader that goes away ends the events, not the run.

    Args:
        open_stream: opens what is written to; called with the first event. None if nobody reads.
        clock: seconds since 1970.

    Attributes:
        broken: nothing is written any more.
        fault: why, where it is not that the reader has gone.
    """

    def __init__(self, open_stream: Callable[[], TextIO] | None, *, clock: Callable[[], float] = time.time) -> None:
        self.broken = False
        self.fault = ""
        self._open = open_stream
        self._stream: TextIO | None = None
        self._clock = clock
        self._said: dict[str, float] = {}
        self._begun = clock()

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        """The work is known."""
        self.write(
            "planned",
            format=FORMAT,
            device=schedule.device,
            models=list(schedule.aliases),
            jobs=len(schedule.jobs),
            parity_checks=len(schedule.parity_checks),
            cached=sum(job.key in cached for job in schedule.jobs),
            cost=schedule.cost(cached),
        )

    def started(self, name: str, cost: float) -> None:
        self.write("started", name=name, cost=cost)

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        """A job has done so many steps; said at most twice a second."""
        now = self._clock()
        if now - self._said.get(name, 0.0) < _PROGRESS_EVERY:
            return
        self._said[name] = now
        self.write("progress", name=name, done=done, total=total, note=note)

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        self._said.pop(name, None)
        self.write("finished", name=name, cost=cost, seconds=round(seconds, 6), status=status, error=error)

    def message(self, text: str) -> None:
        self.write("message", text=text)

    # --- the last event ---------------------------------------------------------------------------------------------

    def verdict(self, result: RunResult, report: str, exit_code: int) -> None:
        """The run has ended, with a report."""
        failed = [
            {"analysis": analysis.id, "model": part.model, "job": job.job, "error": job.error}
            for analysis in result.analyses
            for part in analysis.parts
            for job in part.failed
        ]
        self._end(
            result.verdict,
            exit_code,
            report=report,
            jobs=result.provenance.jobs,
            cached=result.provenance.cached,
            failed=failed,
            expectations=[_expectation(item) for item in result.expectations],
        )

    def ended(self, verdict: Literal["refused", "interrupted", "fault"], exit_code: int, error: str = "") -> None:
        """There is no report: the run was refused, could not go on, or was interrupted."""
        self._end(verdict, exit_code, error=error)

    def close(self) -> None:
        """Close the stream, unless it is this process's own."""
        if self._stream is not None and self._stream is not sys.stdout:
            with contextlib.suppress(OSError):
                self._stream.close()
        self._stream = None

    def _end(self, verdict: str, exit_code: int, **fields: Any) -> None:
        seconds = round(self._clock() - self._begun, 3)
        self.write("verdict", verdict=verdict, exit_code=exit_code, seconds=seconds, **fields)

    def write(self, event: str, **fields: Any) -> None:
        """Write one event."""
        if self.broken or self._open is None:
            return
        line = json.dumps({"event": event, "time": round(self._clock(), 3), **fields}, allow_nan=False)
        try:
            if self._stream is None:
                self._stream = self._open()
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:  # the reader is gone, or the disk is full: the run is worth more
            self.broken = True
            if not isinstance(error, BrokenPipeError):
                self.fault = getattr(error, "strerror", None) or str(error)


def _expectation(item: ExpectationResult) -> dict[str, Any]:
    known = item.value is not None and math.isfinite(item.value)
    return dataclasses.asdict(item) | {"value": item.value if known else None}
