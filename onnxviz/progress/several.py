"""Tells several observers of one run."""

from __future__ import annotations

from collections.abc import Sequence

from onnxviz.execution.dispatch import Observer
from onnxviz.execution.schedule import Schedule


class Several:
    """An observer that tells others, one after the other."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        """The work is known."""
        for observer in self._observers:
            observer.planned(schedule, cached)

    def started(self, name: str, cost: float) -> None:
        """A job begins."""
        for observer in self._observers:
            observer.started(name, cost)

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        """A job has done so many steps."""
        for observer in self._observers:
            observer.progressed(name, done, total, note)

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        """A job has ended."""
        for observer in self._observers:
            observer.finished(name, cost, seconds, status, error)

    def message(self, text: str) -> None:
        """Something that the user should know."""
        for observer in self._observers:
            observer.message(text)
