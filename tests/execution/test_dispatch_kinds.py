"""Workers that do only some kinds of tasks, as in a pool whose results are put together by one of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from onnxviz.analyses.base import Job
from onnxviz.confinement import Defence
from onnxviz.core.errors import OnnxvizError
from onnxviz.execution.dispatch import Dispatcher, Item
from onnxviz.execution.observer import Observer
from onnxviz.execution.plan import PlannedJob
from onnxviz.execution.workers.pool import Finished, Message
from onnxviz.execution.workers.tasks import Combination, Outcome, Task


class Halves:
    """The first worker does jobs, the second puts results together."""

    size = 2
    description = "two halves"
    limits: tuple[tuple[str, str], ...] = ()
    defences: tuple[Defence, ...] = ()

    def __init__(self, *, lost: bool = False) -> None:
        self.sent: deque[tuple[int, Task]] = deque()
        self.done: list[tuple[int, Task]] = []
        self.asked = 0
        self.lost = lost

    def accepts(self, worker: int, task: Task) -> bool:
        self.asked += 1
        return not self.lost and isinstance(task.work, Combination) == (worker == 1)

    def send(self, worker: int, task: Task) -> None:
        self.sent.append((worker, task))

    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        if self.lost:
            raise OnnxvizError("all workers are lost")
        self.done.append(self.sent.popleft())
        tell(Finished(self.done[-1][0], Outcome()))

    def replace(self, worker: int) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def items(count: int) -> list[Item]:
    jobs = [PlannedJob(f"{n:032x}", "m", "a", Job(f"{n}")) for n in range(count)]
    return [Item(job.key, "m", 1.0, lambda _, job=job: Task(job), lambda *_: None) for job in jobs]  # type: ignore[misc]


def test_what_waits_for_one_kind_of_worker_costs_the_other_nothing() -> None:
    count, pool = 500, Halves()
    dispatcher = Dispatcher(pool, Observer())
    jobs = items(count)
    for job in jobs:
        dispatcher.add(job)
    last = Item("all", "m", 0.0, lambda _: Task(Combination("f" * 32, "m", "a", ())), lambda *_: None, shown=False)
    dispatcher.add(last, jobs)
    dispatcher.run()
    assert [worker for worker, _ in pool.done] == [0] * count + [1]
    assert pool.asked < 3 * count + 10  # not each time all that is ready


def test_a_pool_that_takes_nothing_is_asked_why() -> None:
    dispatcher = Dispatcher(Halves(lost=True), Observer())
    for job in items(3):
        dispatcher.add(job)
    with pytest.raises(OnnxvizError, match="all workers are lost"):
        dispatcher.run()


@pytest.mark.parametrize("error", ["needed more than the memory limit of 1.0 GiB", "memory ran out"])
def test_the_limit_is_named_once_with_what_to_do(error: str) -> None:
    class Limited(Halves):
        limits = (("memory", "1.0 GiB"),)

    said = error + Dispatcher(Limited(), Observer())._limit_named(error)
    assert said.count("the memory limit of") == 1
    assert "1.0 GiB: " in said
