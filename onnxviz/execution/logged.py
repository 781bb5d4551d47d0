"""An observer that writes what it is told into the run's log, too."""

from __future__ import annotations

from onnxviz.execution.dispatch import Observer
from onnxviz.execution.folder import Log
from onnxviz.execution.schedule import Schedule


class Logged:
    """Passes everything on to an observer, and writes it into the run's log."""

    def __init__(self, observer: Observer, log: Log) -> None:
        self.observer = observer
        self.log = log

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        """The work is known."""
        self.observer.planned(schedule, cached)

    def started(self, name: str, cost: float) -> None:
        """A job begins."""
        self.log.write(f"{name} begins")
        self.observer.started(name, cost)

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        """A job has done so many steps."""
        self.observer.progressed(name, done, total, note)

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        """A job has ended."""
        self.observer.finished(name, cost, seconds, status, error)

    def message(self, text: str) -> None:
        """Something that the user should know."""
        self.log.write(text)
        self.observer.message(text)
