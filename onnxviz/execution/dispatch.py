"""Brings the tasks of a schedule to workers, in an order that their needs allow, and tries again what was lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from onnxviz.core.errors import OnnxvizError
from onnxviz.core.memory import more_memory, parse_bytes
from onnxviz.execution.observer import Observer
from onnxviz.execution.workers.limits import NO_LIMIT
from onnxviz.execution.workers.pool import Died, Finished, Message, Pool, Progressed
from onnxviz.execution.workers.tasks import Outcome, Task

TRIES = 2
"""How often a task is begun that loses its worker or runs out of memory."""
_SHORT = 0.05
"""Seconds; a worker whose tasks are shorter gets the next ones before it has ended, so that it does not wait."""
_AHEAD = 4
_PATIENCE = 0.5


@dataclass(eq=False)
class Item:
    """A task with what becomes of it.

    Attributes:
        cost: estimated forward passes.
        task: what a worker is asked to do; made when it is sent, as it may depend on how others ended.
        ended: called with its outcome; what waits for it is released afterwards.
        shown: whether the observer is told of it.
    """

    name: str
    alias: str
    cost: float
    task: Callable[[Item], Task | None]
    ended: Callable[[Item, Outcome], None]
    shown: bool = True
    waits: int = 0
    release: list[Item] = field(default_factory=list)
    tries: int = 0
    halvings: int = 0
    over: bool = False
    begun: bool = False


class Dispatcher:
    """Keeps workers busy until all items have ended; can begin nothing new after a failure."""

    def __init__(self, pool: Pool, observer: Observer, *, stop_on_failure: bool = False) -> None:
        self.events: list[str] = []
        self.stopped = False
        self._pool = pool
        self._observer = observer
        self._stop_on_failure = stop_on_failure
        self._ready: dict[str, deque[Item]] = {}
        self._sent: list[deque[Item]] = [deque() for _ in range(pool.size)]
        self._last = [""] * pool.size
        self._average = [1.0] * pool.size
        self._starved = [0] * pool.size
        self._readied = 0
        self._refused: list[tuple[int, bool] | None] = [None] * pool.size
        self._left = 0

    def add(self, item: Item, after: Iterable[Item] = ()) -> None:
        """Add an item that may begin when others have ended."""
        self._left += 1
        for other in after:
            if not other.over:
                other.release.append(item)
                item.waits += 1
        if not item.waits:
            self._make_ready(item)

    def run(self) -> None:
        """Work until all items have ended.

        Raises:
            OutputError: if results cannot be written.
            OnnxvizError: if workers die before they can do anything.
        """
        while self._left:
            self._assign()
            if any(self._sent) or any(self._ready.values()):
                self._pool.wait(_PATIENCE, self._hear)
            else:
                assert not self._left, "items wait for each other"

    def end(self, item: Item, error: str = "") -> None:
        """End an item without any work: because it is done already, or because of an error."""
        self._end(item, Outcome("error" if error else "done", error))

    def note(self, text: str) -> None:
        """Say something that readers of the report must know too."""
        self.events.append(text)
        self._observer.message(text)

    # --- giving out -------------------------------------------------------------------------------------------------

    def _make_ready(self, item: Item, *, first: bool = False) -> None:
        self._readied += 1
        queue = self._ready.setdefault(item.alias, deque())
        queue.appendleft(item) if first else queue.append(item)

    def _assign(self) -> None:
        progress = True
        while progress:
            progress = False
            for worker in range(self._pool.size):
                depth = _AHEAD if self._average[worker] < _SHORT else 1
                if len(self._sent[worker]) < depth:
                    progress |= self._give(worker)

    def _give(self, worker: int) -> bool:
        """Give a worker the next item, of the model that it has open if there is one; False if there is none for it."""
        if self._refused[worker] == (self._readied, self.stopped):
            return False  # a worker that does only some kinds of tasks does not look through all others each time
        for alias in self._order(worker):
            queue = self._ready[alias]
            for place, item in enumerate(queue):
                # What is done is put together even then: only jobs and parity checks are shown.
                task = None if self.stopped and item.shown else item.task(item)
                if task is None:  # it ended without any work, or shall not begin any more
                    del queue[place]
                    if not item.over:
                        self._end(item, Outcome("error", "not begun, because another job failed"), quiet=True)
                    return True
                if self._pool.accepts(worker, task):
                    del queue[place]
                    self._send(worker, item, task)
                    return True
        self._refused[worker] = (self._readied, self.stopped)
        return False

    def _order(self, worker: int) -> list[str]:
        """Return the models with ready items: first the worker's own, then those that no other worker is at."""
        busy = {items[0].alias for items in self._sent if items}
        with_work = [alias for alias, queue in self._ready.items() if queue]
        return sorted(with_work, key=lambda alias: (alias != self._last[worker], alias in busy))

    def _send(self, worker: int, item: Item, task: Task) -> None:
        self._last[worker] = item.alias
        self._sent[worker].append(item)
        if len(self._sent[worker]) == 1:
            self._begin(item)
        self._pool.send(worker, task)

    def _begin(self, item: Item) -> None:
        if item.shown and not item.begun:
            self._observer.started(item.name, item.cost)
        item.begun = True

    # --- hearing of it ----------------------------------------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        items = self._sent[message.worker]
        if isinstance(message, Progressed):
            if items and items[0].shown:
                self._observer.progressed(items[0].name, message.done, message.total, message.note)
        elif isinstance(message, Finished):
            self._finished(message, items.popleft())
        elif isinstance(message, Died):
            self._died(message)

    def _finished(self, message: Finished, item: Item) -> None:
        worker, outcome = message.worker, message.outcome
        self._starved[worker] = 0
        self._average[worker] += 0.2 * (outcome.seconds - self._average[worker])
        if self._sent[worker]:
            self._begin(self._sent[worker][0])
        if outcome.kind == "device":
            # Whatever the process does next on this device fails too.
            self._take_back(worker)
            self._pool.replace(worker)
        if outcome.kind in ("memory", "device"):
            if self._again(item, outcome.kind == "memory", outcome.error):
                return
            limit = self._limit_named(outcome.error) if outcome.kind == "memory" else ""
            outcome = replace(outcome, error=outcome.error + limit + _tried(item))
        self._end(item, outcome)

    def _limit_named(self, error: str) -> str:
        """Return the limit on a process' memory, and what to do about it, if there is one."""
        limit = dict(self._pool.limits).get("memory", NO_LIMIT)
        if limit == NO_LIMIT or "GPU" in error:
            return ""
        named = "" if "the memory limit of " in error else f"; the memory limit of its process is {limit}"
        return f"{named}: {more_memory(parse_bytes(limit), error)}"

    def _died(self, message: Died) -> None:
        items = self._sent[message.worker]
        item = items.popleft() if items else None
        self._take_back(message.worker)
        self._starved[message.worker] = 0 if item else self._starved[message.worker] + 1
        if self._starved[message.worker] > TRIES:
            raise OnnxvizError(
                f"worker {message.worker} dies before it can do anything: {message.cause}",
                remedy="run with --workers 0 to see why, or raise the limit that is named",
            )
        if item is None:
            self.note(f"worker {message.worker} {message.cause}; another took its place")
        elif message.kind == "time" or not self._again(item, message.kind == "memory", message.cause):
            cause = message.cause + (self._limit_named("") if message.kind == "memory" else "")
            self._end(item, Outcome("error", f"its process {cause}{_tried(item)}", message.details))
        self._pool.replace(message.worker)

    def _take_back(self, worker: int) -> None:
        """Make ready again what a worker had not begun."""
        items = self._sent[worker]
        while items:
            self._make_ready(items.pop(), first=True)

    def _again(self, item: Item, memory: bool, cause: str) -> bool:
        if item.tries + 1 >= TRIES:
            return False
        item.tries += 1
        item.halvings += memory
        how = "with half the batch" if memory else "once more"
        self.note(f"{item.name}: {cause}; done {how}")
        self._make_ready(item, first=True)
        return True

    def _end(self, item: Item, outcome: Outcome, *, quiet: bool = False) -> None:
        item.over = True
        self._left -= 1
        self.events += [f"{item.name}: {remark}" for remark in outcome.remarks]
        item.ended(item, outcome)
        if item.shown and not quiet:
            if not item.begun:
                self._observer.started(item.name, item.cost)
            status = "failed" if outcome.error else "done"
            self._observer.finished(item.name, item.cost, outcome.seconds, status, outcome.error)
        if outcome.error and self._stop_on_failure:
            self.stopped = True
        for other in item.release:
            other.waits -= 1
            if not other.waits:
                self._make_ready(other)


def _tried(item: Item) -> str:
    return f"; tried {item.tries + 1} times" if item.tries else ""
