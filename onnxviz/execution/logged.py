"""An observer that writes what it is told into the run's log, too."""

from __future__ import annotations

from onnxviz.execution.dispatch import Observer
from onnxviz.execution.folder import Log


class Logged(Observer):
    """Passes everything on to an observer, and writes it into the run's log."""

    def __init__(self, observer: Observer, log: Log) -> None:
        super().__init__(observer)
        self.log = log

    def started(self, name: str, cost: float) -> None:
        """A job begins."""
        self.log.write(f"{name} begins")
        super().started(name, cost)

    def message(self, text: str) -> None:
        """Something that the user should know."""
        self.log.write(text)
        super().message(text)
