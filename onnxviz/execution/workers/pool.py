"""Several workers behind one interface, wherever they are; and the one that is this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from onnxviz.confinement import Defence
from onnxviz.execution.plan import Plan
from onnxviz.execution.schedule import Schedule
from onnxviz.execution.store import Store
from onnxviz.execution.workers.local import LocalWorker
from onnxviz.execution.workers.process import DeathKind
from onnxviz.execution.workers.tasks import Outcome, Task
from onnxviz.recipe.recipe import Recipe


@dataclass(frozen=True)
class Progressed:
    """The task that a worker is at has done so many steps."""

    worker: int
    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Finished:
    """A worker has ended the first of its tasks."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True)
class Planned:
    """A worker has planned the recipe; `digests` are those of all files that results depend on."""

    worker: int
    schedule: Schedule
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Died:
    """A worker is gone, and with it the task that it was at; those behind were not begun.

    Attributes:
        cause: what it was, in words.
        details: the last that it said, for the log.
        by_limit: whether a limit ended it, so that it would end the same way again.
    """

    worker: int
    kind: DeathKind
    cause: str
    details: str = ""
    by_limit: bool = False


Message: TypeAlias = Progressed | Finished | Planned | Died


class Pool(ABC):
    """Workers that take tasks, each one after the other.

    Attributes:
        size: number of workers.
        description: who they are, for the report.
        limits: what they are limited to, by name.
        defences: what keeps them from the rest of the machine.
        events: what a reader must know of how the recipe was planned.
    """

    size: int
    description: str
    limits: tuple[tuple[str, str], ...] = ()
    defences: tuple[Defence, ...] = ()
    events: tuple[str, ...] = ()

    def accepts(self, worker: int, task: Task) -> bool:
        """Whether a worker can do a task of this kind."""
        return True

    @abstractmethod
    def send(self, worker: int, task: Task) -> None:
        """Give a worker a task, behind those that it has."""

    @abstractmethod
    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        """Wait until something has happened, at most so long, and tell of it.

        Raises:
            OutputError: if a worker cannot write its results.
            OnnxvizError: if no worker is left.
        """

    @abstractmethod
    def replace(self, worker: int) -> None:
        """Put a new worker in the place of one that died."""

    @abstractmethod
    def close(self) -> None:
        """End all workers, at once."""


class InProcessPool(Pool):
    """One worker, which is this process."""

    size = 1
    description = "in this process"
    defences = (Defence("confinement", False, reason="everything ran in the process of the caller (workers: 0)"),)

    def __init__(self, recipe: Recipe, plan: Plan, store: Store) -> None:
        self._worker = LocalWorker(plan.subjects.__getitem__, recipe.analyses, store, plan.device)
        self._tasks: deque[Task] = deque()

    def send(self, worker: int, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        """Do the next task, however long it takes."""
        if not self._tasks:
            return

        def progress(done: int, total: int, note: str = "") -> None:
            tell(Progressed(0, done, total, note))

        tell(Finished(0, self._worker.do(self._tasks.popleft(), progress)))

    def replace(self, worker: int) -> None:
        raise AssertionError("this process is alive")

    def close(self) -> None:
        self._tasks.clear()
