"""Who is told how a run goes on."""

from __future__ import annotations

from collections.abc import Sequence

from onnxviz.execution.folder import Log
from onnxviz.execution.schedule import Schedule


class Observer:
    """Told how a run goes on; jobs are named, as several may run at a time. This one says nothing."""

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        """The work is known; `cached` are the keys of what is done already."""

    def started(self, name: str, cost: float) -> None:
        """A job begins; `cost` is its estimated number of forward passes."""

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        """The job has done so many steps."""

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        """The job has ended; the status is "done", "cached" or "failed"."""

    def message(self, text: str) -> None:
        """Something that the user should know."""


class Logged(Observer):
    """Writes into the run's log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def started(self, name: str, cost: float) -> None:  # noqa: ARG002 - an observer
        self._log.write(f"{name} begins")

    def message(self, text: str) -> None:
        self._log.write(text)


class Several(Observer):
    """Tells others, one after the other."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        for observer in self._observers:
            observer.planned(schedule, cached)

    def started(self, name: str, cost: float) -> None:
        for observer in self._observers:
            observer.started(name, cost)

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        for observer in self._observers:
            observer.progressed(name, done, total, note)

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        for observer in self._observers:
            observer.finished(name, cost, seconds, status, error)

    def message(self, text: str) -> None:
        for observer in self._observers:
            observer.message(text)
