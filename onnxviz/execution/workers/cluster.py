"""Workers on a Ray cluster: the same tasks, limits and confinement as on this machine."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from onnxviz.confinement import Defence, Limits, clean_environment
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError, OutputError, beginning, one_line, shorten
from onnxviz.execution.schedule import Choice, ParityCheck, PlannedJob
from onnxviz.execution.store import Store, cannot_write
from onnxviz.execution.workers.limits import default_limits
from onnxviz.execution.workers.node import SUGGESTED, Answer, Node, file_digests, files_of
from onnxviz.execution.workers.pool import Died, Message, Pool, Progressed
from onnxviz.execution.workers.process import DeathKind, last_line
from onnxviz.execution.workers.processes import ProcessPool, paths_of
from onnxviz.execution.workers.ray_session import connect, import_ray, room_for_workers
from onnxviz.execution.workers.tasks import Combination, Outcome, Task
from onnxviz.recipe.recipe import Recipe

RESULTS = "ONNXVIZ_RAY_RESULTS"
"""Environment variable that says how results come back: "folder" (shared by all nodes) or "store" (Ray's)."""
ResultsWay = Literal["folder", "store"]

_PLACE_SECONDS = 60.0
"""How long the cluster has to find room for workers; a node may have to load Python from a slow disk."""
_REPLACE_SECONDS = 30.0
_POLL_EVERY = 0.5
_CLOSE_SECONDS = 0.7
_ARRIVE_SECONDS = 10.0
"""How long a result may take to be seen through a network folder."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")


@dataclass(eq=False)
class _Sent:
    """A task that an actor has, and what it answered if that came before its turn."""

    task: Task
    answer: Any = None


@dataclass(eq=False)
class _Slot:
    """A worker: an actor of the cluster, which is replaced when it dies, and the process that it keeps."""

    actor: Any = None
    about: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[tuple[str, str], ...] = ()
    turn: int = 0
    sent: deque[_Sent] = field(default_factory=deque)
    lives: bool = False
    renewed: bool = False
    asked: float = 0.0
    asking: bool = False


class RayPool(Pool):
    """One worker for each actor, and one more in this process' own pool, which has planned and puts results together.

    Args:
        recipe: what they work on.
        folder: the run folder.
        device: what they compute on.
        limits: what each worker process is limited to; as its machine suggests if None.
        workers: how many; as many as the cluster has GPUs, or CPUs for, if None.
        local: this machine's own pool.
        choices: of preprocessings that jobs wait for, by alias.

    Raises:
        OnnxvizError: if Ray is missing, the cluster has no room, or a node lacks what the run needs.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: Device,
        limits: Limits | None,
        workers: int | None,
        local: ProcessPool,
        choices: Mapping[str, Choice] | None = None,
    ) -> None:
        self._ray = import_ray()
        if workers is not None and workers < 1:
            raise OnnxvizError("a cluster needs a worker at least", remedy="leave out --engine ray, or --workers 0")
        self._recipe = recipe
        self._folder = folder.absolute()
        self._device = device
        # What this machine suggests says nothing of another one.
        if limits is not None and limits.memory == default_limits(workers or 1).memory:
            limits = replace(limits, memory=SUGGESTED)
        self._limits = limits
        self._wanted = workers
        self._local = local
        self._way = _way()
        self._store = Store(self._folder)
        self._choices = choices or {}
        self._heard: queue.SimpleQueue[tuple[_Slot, Any, _Sent | None, Any]] = queue.SimpleQueue()
        self._defences: dict[tuple[str, str], Defence] = {}
        self._combining = 0
        self._slots: list[_Slot] = []
        self._losses: list[str] = []
        self._own = False
        try:
            self._own = connect(self._ray, workers)
            said = (limits.memory if limits else None, recipe.limits.memory_bytes if recipe.limits else None)
            memory = min((item for item in said if item), default=None)
            self._options, count = room_for_workers(self._ray, device, memory, workers)
            self._slots = self._place([_Slot() for _ in range(count)], _PLACE_SECONDS)
            if not self._slots:
                raise OnnxvizError(
                    f"the Ray cluster has found no room for a worker in {_PLACE_SECONDS:g} s",
                    remedy="`ray status` shows what other work it has",
                )
            self._begin(self._slots)
            self.events = local.events
            self.size = len(self._slots) + 1  # with the one in this machine's own pool, which is the last
        except self._ray.exceptions.RayError as error:
            self.close()
            raise OnnxvizError(f"the Ray cluster does not answer: {beginning(one_line(error))}") from error
        except BaseException:
            self.close()
            raise

    @property
    def description(self) -> str:  # type: ignore[override]
        count, nodes = len(self._slots), len({slot.about["node"] for slot in self._slots})
        wanted = f", of {self._wanted} wanted" if self._wanted is not None and self._wanted != count else ""
        lost = "; ".join(dict.fromkeys(self._losses))
        gone = f", of which {len(self._losses)} got lost and could not be replaced ({lost})" if lost else ""
        return f"Ray, {count} worker{'s' * (count != 1)} on {nodes} node{'s' * (nodes != 1)}{wanted}{gone}"

    @property
    def limits(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        """What they are limited to, by name; nodes may differ."""
        found: dict[str, list[str]] = {}
        for slot in self._slots:
            for name, value in slot.limits:
                found.setdefault(name, []).append(value)
        return tuple((name, "; ".join(dict.fromkeys(values))) for name, values in found.items())

    @property
    def defences(self) -> tuple[Defence, ...]:  # type: ignore[override]
        """What keeps them from the rest of their machines: active only where it is active on all."""
        found: dict[str, Defence] = {}
        for (node, name), defence in self._defences.items():
            if not defence.active:
                defence = replace(defence, reason=f"on {node}: {defence.reason}")
            if name not in found or (found[name].active and not defence.active):
                found[name] = defence
        return tuple(found.values())

    # --- giving out -------------------------------------------------------------------------------------------------

    def accepts(self, worker: int, task: Task) -> bool:
        """Whether a worker can do a task of this kind: what puts results together runs where all of them are."""
        if isinstance(task.work, Combination):
            return worker == len(self._slots)
        return worker < len(self._slots) and self._slots[worker].lives

    def send(self, worker: int, task: Task) -> None:
        if worker == len(self._slots):
            self._combining += 1
            self._local.send(0, task)
            return
        slot = self._slots[worker]
        sent = _Sent(task)
        slot.sent.append(sent)
        slot.asked = time.monotonic()
        keys: list[str] = []
        if self._way == "store" and isinstance(task.work, PlannedJob | ParityCheck):
            keys += task.work.needs if isinstance(task.work, PlannedJob) else ()
            keys += [choice.key for alias, choice in self._choices.items() if alias == task.work.alias]
        self._ask(slot, "work", sent, slot.turn, task, {key: files_of(self._store, key) for key in keys})

    def _ask(self, slot: _Slot, method: Literal["work", "progress"], sent: _Sent | None, *arguments: Any) -> None:
        """Call an actor; its answer, or what went wrong, comes into the queue."""
        actor = slot.actor
        try:
            called = getattr(actor, method).options(concurrency_group="work" if method == "work" else "watch")
            future = called.remote(*arguments).future()
            future.add_done_callback(lambda done: self._heard.put((slot, actor, sent, done)))
        except self._ray.exceptions.RayError as error:
            self._heard.put((slot, actor, sent, error))

    # --- hearing of it ----------------------------------------------------------------------------------------------

    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        if not any(slot.lives for slot in self._slots):
            raise OnnxvizError(
                "the cluster has lost all workers, and has no room for new ones",
                remedy="run the same command again when it has: what is done is kept",
            )
        end = time.monotonic() + seconds
        told: list[Message] = []

        def pass_on(message: Message) -> None:
            told.append(message)
            tell(message)

        while not told:
            self._ask_for_progress()
            if self._combining:
                self._local.wait(0.02, lambda message: pass_on(self._of_local(message)))
            left = end - time.monotonic()
            try:
                heard = self._heard.get(timeout=0.001 if self._combining else max(0.0, min(left, _POLL_EVERY)))
            except queue.Empty:
                if left <= 0:
                    return
                continue
            for message in self._understood(*heard):  # one by one: what is told of may replace the worker
                pass_on(message)

    def _of_local(self, message: Message) -> Message:
        if not isinstance(message, Progressed):
            self._combining = 0 if isinstance(message, Died) else self._combining - 1
        return replace(message, worker=len(self._slots))

    def _ask_for_progress(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.sent and not slot.asking and now - slot.asked >= _POLL_EVERY:
                slot.asked, slot.asking = now, True
                self._ask(slot, "progress", None)

    def _understood(self, slot: _Slot, actor: Any, sent: _Sent | None, done: Any) -> Iterator[Message]:
        if actor is not slot.actor:
            return  # the last words of one that was replaced
        if sent is None:
            slot.asking = False
            said = _answer(done)
            if isinstance(said, Exception) or said is None or not slot.sent:
                return  # that it is gone is told by its task
            yield replace(said, worker=self._slots.index(slot))
            return
        sent.answer = _answer(done)
        if isinstance(sent.answer, Exception) and sent in slot.sent:
            yield self._died(slot, sent.answer)
        while slot.sent and slot.sent[0].answer is not None:
            first = slot.sent.popleft()
            yield self._ended(slot, first.task, first.answer)

    def _ended(self, slot: _Slot, task: Task, answer: Answer) -> Message:
        name = slot.about["name"]
        for defence in answer.defences:
            self._defences[name, defence.name] = defence
        if answer.refused is not None:
            raise answer.refused.error(name)
        ended = answer.ended
        assert ended is not None, "what was not begun was taken back"
        ended = replace(ended, worker=self._slots.index(slot))
        if isinstance(ended, Died):
            slot.turn += 1
            slot.renewed = True
            slot.sent.clear()  # the actor does not begin them, and whoever has sent them takes them back
        elif not ended.outcome.error:
            return replace(ended, outcome=self._received(task, answer, name, ended.outcome))
        return ended

    def _received(self, task: Task, answer: Answer, name: str, outcome: Outcome) -> Outcome:
        """Have the result in the run folder, or say why it is not there."""
        assert task.work is not None
        key = task.work.key
        if self._way == "folder":
            end = time.monotonic() + _ARRIVE_SECONDS
            while not self._store.has(key):
                if time.monotonic() > end:
                    raise OutputError(
                        f"a result that {name} has written cannot be seen here after {_ARRIVE_SECONDS:g} s",
                        where=str(self._store.jobs / key),
                        remedy=f"check the folder that is shared, or set {RESULTS}=store",
                    )
                time.sleep(0.05)
            return outcome
        files = answer.files
        if not files or not all(_FILE_NAME.fullmatch(file) for file in files):
            return Outcome("error", f"{name} sent files that are no result", seconds=outcome.seconds)
        self._store.move_in(key, files)
        return outcome

    def _died(self, slot: _Slot, error: Exception) -> Died:
        """Say what an actor died of, as far as Ray knows."""
        text = str(error)
        kind: DeathKind = "memory" if "OutOfMemory" in type(error).__name__ or "memory pressure" in text else "crash"
        slot.lives = False
        slot.sent.clear()
        return Died(
            self._slots.index(slot),
            kind,
            f"on {slot.about['name']} was lost with the actor that kept it ({type(error).__name__})",
            text,
        )

    def replace(self, worker: int) -> None:
        """Put a new worker in the place of one that died; where there is no room for one, the others go on alone."""
        if worker == len(self._slots):
            self._combining = 0
            self._local.replace(0)
            return
        slot = self._slots[worker]
        slot.sent.clear()
        if slot.renewed:  # only its process had died, and the actor starts another
            slot.renewed = False
            return
        self._kill([slot])
        try:
            self._begin(self._place([slot], _REPLACE_SECONDS))
        except (OnnxvizError, self._ray.exceptions.RayError) as error:
            self._kill([slot])
            self._losses.append(beginning(one_line(error)))
        else:
            if not slot.lives:
                self._losses.append(f"no room in {_REPLACE_SECONDS:g} s")

    def close(self) -> None:
        """End all workers, at once, and with them a Ray that was started here."""
        with contextlib.suppress(Exception):  # a cluster that is gone has nothing left to end
            living = [slot.actor.close.options(concurrency_group="watch") for slot in self._slots if slot.lives]
            if asked := [close.remote() for close in living]:
                self._ray.wait(asked, num_returns=len(asked), timeout=_CLOSE_SECONDS)
        self._kill(self._slots)
        if self._own:
            self._own = False
            with contextlib.suppress(Exception):
                self._ray.shutdown()
        if self._way == "folder":
            for leftover in self._folder.glob(".tmp-*"):  # of actors that were killed
                shutil.rmtree(leftover, ignore_errors=True)

    def _kill(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            if slot.actor is not None:
                with contextlib.suppress(Exception):
                    self._ray.kill(slot.actor, no_restart=True)
            slot.actor, slot.lives = None, False

    # --- starting ---------------------------------------------------------------------------------------------------

    def _place(self, slots: Sequence[_Slot], seconds: float) -> list[_Slot]:
        """Start actors and return those for which the cluster has room.

        Raises:
            OnnxvizError: if a node lacks what the run needs.
        """
        environment = clean_environment(os.environ)
        passed = {name: value for name, value in environment.items() if name.startswith("ONNXVIZ_")}
        if self._device == "cpu":
            passed["OMP_NUM_THREADS"] = str(self._options["num_cpus"])
        made = self._ray.remote(
            max_restarts=0,
            max_concurrency=1,
            concurrency_groups={"work": 1, "watch": 1},
            scheduling_strategy="SPREAD",
            **self._options,
        )(Node)
        token, text = _write_token(self._folder)
        try:
            for slot in slots:
                slot.actor = made.remote(str(Path.cwd()), passed)
            self._greet(slots, str(token), seconds)
            found = [slot for slot in slots if slot.lives]
            for slot in found:
                _check_node(slot.about, text if self._way == "folder" else None, self._folder)
            self._check_models({str(slot.about["node"]): slot for slot in found}.values())
        except BaseException:
            self._kill(slots)
            raise
        finally:
            token.unlink(missing_ok=True)
        self._kill([slot for slot in slots if not slot.lives])
        return found

    def _greet(self, slots: Sequence[_Slot], token: str, seconds: float) -> None:
        """Have actors say where they are; those that have answered in time live."""
        paths = [*_model_paths(self._recipe), *(str(path.absolute()) for path in paths_of(self._recipe))]
        asked = {slot.actor.hello.remote(list(dict.fromkeys(paths)), token): slot for slot in slots}
        ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        for reference in ready:
            slot = asked[reference]
            try:
                slot.about = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                raise OnnxvizError(
                    f"a node of the Ray cluster cannot start a worker: {last_line(str(error))}",
                    remedy=f"install onnxviz {version('onnxviz')} in the Python of every node",
                ) from error
            slot.turn, slot.asking, slot.renewed, slot.lives = 0, False, False, True

    def _check_models(self, slots: Iterable[_Slot]) -> None:
        """Refuse nodes that have other models at the same paths: their results would be stored as those of ours."""
        here = self._ray.get_runtime_context().get_node_id()
        others = [slot for slot in slots if slot.about["node"] != here]
        if not others:
            return
        models = _model_paths(self._recipe)
        wanted = file_digests(models)
        for slot, found in zip(others, self._ray.get([s.actor.digests.remote(models) for s in others]), strict=True):
            for path, ours, theirs in zip(models, wanted, found, strict=True):
                if ours != theirs:
                    raise OnnxvizError(
                        f"the file on the node {slot.about['name']} is another than the one here",
                        where=path,
                        remedy="copy it to all nodes, or keep it in a folder that they share",
                    )

    def _begin(self, slots: Sequence[_Slot]) -> None:
        neighbours = Counter(slot.about["node"] for slot in {*self._slots, *slots} if slot.lives)
        folder = str(self._folder) if self._way == "folder" else None
        what = (self._recipe, folder, self._device, self._limits)
        asked = [slot.actor.begin.remote(*what, neighbours[slot.about["node"]], self._local.planned) for slot in slots]
        for slot, said in zip(slots, self._ray.get(asked), strict=True):
            slot.limits = said


def _way() -> ResultsWay:
    given = os.environ.get(RESULTS, "folder")
    ways: dict[str, ResultsWay] = {"folder": "folder", "store": "store"}
    if given not in ways:
        raise OnnxvizError(f"{RESULTS} is {shorten(given)!r}", remedy="set it to folder or store, or unset it")
    return ways[given]


def _model_paths(recipe: Recipe) -> list[str]:
    addresses = [recipe.address(alias) for alias, model in recipe.models.items() if model.path is not None]
    return [str(recipe.resolve((*address, "path")).absolute()) for address in addresses]


def _write_token(folder: Path) -> tuple[Path, str]:
    """Write a file into the run folder by which nodes show that theirs is the same folder."""
    token, text = folder / f".tmp-token-{secrets.token_hex(8)}", secrets.token_hex(16)
    try:
        token.write_text(text, encoding="ascii")
    except OSError as error:
        raise cannot_write(token, error) from error
    return token, text


def _check_node(about: Mapping[str, Any], token: str | None, folder: Path) -> None:
    name = about["name"]
    if about["version"] != version("onnxviz"):
        raise OnnxvizError(
            f"the node {name} has onnxviz {about['version']}, and this is {version('onnxviz')}",
            remedy="install the same version everywhere",
        )
    if token is not None and about["token"] != token:
        raise OnnxvizError(
            f"the node {name} does not see the run folder",
            where=str(folder),
            remedy=f"name a folder with --out that all nodes share at the same path, or set {RESULTS}=store",
        )
    if missing := about["missing"]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise OnnxvizError(
            f"the node {name} cannot read what the recipe names{more}",
            where=str(missing[0]),
            remedy="models and images must lie at the same paths on all nodes",
        )


def _answer(done: Any) -> Any:
    """Return what a call gave, or the exception that it ended with."""
    if isinstance(done, Exception):
        return done
    try:
        return done.result()
    except Exception as error:
        return error
