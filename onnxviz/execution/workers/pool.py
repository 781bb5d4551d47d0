"""Several workers behind one interface, wherever they are; and the one that is this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from onnxviz.core.devices import Device
from onnxviz.core.results import Defence
from onnxviz.execution.plan import Plan, make_plan
from onnxviz.execution.schedule import Schedule, schedule_of
from onnxviz.execution.store import Store
from onnxviz.execution.workers.local import LocalWorker
from onnxviz.execution.workers.tasks import Outcome, Task
from onnxviz.recipe.recipe import Recipe

DeathKind = Literal["memory", "time", "crash"]


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
class Died:
    """A worker is gone, and with it the task that it was at; those behind were not begun.

    Attributes:
        worker: which one.
        kind: what it was, as far as can be said.
        cause: the same in words.
        details: the last that it said, for the log.
        by_limit: whether a limit ended it, so that it would end the same way again.
    """

    worker: int
    kind: DeathKind
    cause: str
    details: str = ""
    by_limit: bool = False


Message = Progressed | Finished | Died


class Pool(Protocol):
    """Workers that take tasks, each one after the other."""

    @property
    def size(self) -> int:
        """Number of workers."""

    @property
    def description(self) -> str:
        """Who they are, for the report."""

    @property
    def limits(self) -> tuple[tuple[str, str], ...]:
        """What they are limited to, by name."""

    @property
    def defences(self) -> tuple[Defence, ...]:
        """What keeps them from the rest of the machine."""

    @property
    def events(self) -> tuple[str, ...]:
        """What a reader must know of how the recipe was planned."""

    def accepts(self, worker: int, task: Task) -> bool:
        """Whether a worker can do a task of this kind."""

    def send(self, worker: int, task: Task) -> None:
        """Give a worker a task, behind those that it has."""

    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        """Wait until something has happened, at most so long, and tell of it.

        Raises:
            OutputError: if a worker cannot write its results.
        """

    def replace(self, worker: int) -> None:
        """Put a new worker in the place of one that died."""

    def close(self) -> None:
        """End all workers, at once."""


class InProcessPool:
    """One worker, which is this process.

    Args:
        plan: what is to be done, with everything opened.
        store: where results go.
    """

    size = 1
    description = "in this process"
    limits: tuple[tuple[str, str], ...] = ()
    events: tuple[str, ...] = ()
    defences: tuple[Defence, ...] = (
        Defence("confinement", False, reason="everything ran in the process of the caller (workers: 0)"),
    )

    def __init__(self, plan: Plan, store: Store) -> None:
        self._worker = LocalWorker(plan.subjects.__getitem__, plan.recipe.analyses, store, plan.device)
        self._tasks: deque[Task] = deque()

    @classmethod
    def planned(cls, recipe: Recipe, store: Store, device: Device) -> tuple[Schedule, InProcessPool]:
        """Plan a recipe in this process.

        Raises:
            RecipeError: if the recipe, its models or its data are refused.
        """
        plan = make_plan(recipe, device)
        return schedule_of(plan), cls(plan, store)

    def accepts(self, worker: int, task: Task) -> bool:
        """Whether a worker can do a task of this kind."""
        return True

    def send(self, worker: int, task: Task) -> None:
        """Give a worker a task, behind those that it has."""
        self._tasks.append(task)

    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        """Do the next task, however long it takes."""
        if not self._tasks:
            return

        def progress(done: int, total: int, note: str = "") -> None:
            tell(Progressed(0, done, total, note))

        tell(Finished(0, self._worker.do(self._tasks.popleft(), progress)))

    def replace(self, worker: int) -> None:
        """Put a new worker in the place of one that died."""
        raise AssertionError("this process is alive")

    def close(self) -> None:
        """Forget the tasks."""
        self._tasks.clear()
