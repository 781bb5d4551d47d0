"""Workers that are processes of this machine, each confined, watched, and replaced when it dies."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from onnxviz.confinement import Limits, clean_environment
from onnxviz.core.devices import Device, thread_count, visible_gpus
from onnxviz.core.errors import OnnxvizError, beginning, shorten
from onnxviz.core.memory import more_memory, resident_memory, show_bytes
from onnxviz.execution.schedule import Schedule
from onnxviz.execution.workers.limits import default_limits, in_words, tightened
from onnxviz.execution.workers.own_memory import DOUBTFUL, require_enough
from onnxviz.execution.workers.pool import DeathKind, Died, Finished, Message, Planned, Pool, Progressed
from onnxviz.execution.workers.tasks import Outcome, Said, Task, from_line, to_line
from onnxviz.recipe.recipe import Recipe

_SCRIPT = Path(__file__).with_name("begin.py")
_LINE_BYTES = 256 << 20
"""Longest message that a worker may send; the schedule of 100,000 jobs has some 50 MB."""
_KEPT_BYTES = 16 << 10
"""How much of what a worker says on standard error is kept, for the cause of its death."""
_LOOK_EVERY = 0.2
_NO_MEMORY = (
    "MemoryError",
    "bad_alloc",
    "bad allocation",
    "Cannot allocate memory",
    "can't allocate memory",
    "Memory allocation still failed",  # OpenBLAS
)
_START_SECONDS = 120.0
"""What a worker may take to load its libraries, on a busy machine."""


class ProcessPool(Pool):
    """Long-lived worker processes, one for each GPU or as many as the user wants.

    They may write in the run folder only, and hold its lock as long as they live. Their limits are those that the
    machine suggests if None; the recipe may tighten them.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, device: Device, limits: Limits | None, size: int, *, lock: int | None = None
    ) -> None:
        self.size = size
        self.description = f"{size} worker process{'es' * (size != 1)}"
        self._recipe = recipe
        self._folder = folder.absolute()
        self._device = device
        self._limits = tightened(limits or default_limits(size), recipe.limits)
        self.limits = in_words(self._limits)
        self._lock = lock
        self._heard: queue.SimpleQueue[tuple[_Process, bytes | None]] = queue.SimpleQueue()
        self._processes: list[_Process | None] = [None] * size
        if lock is not None:  # nobody else is at this folder, so these are of runs that were killed
            for leftover in self._folder.glob(".tmp-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=self._folder))
        self._looked = 0.0
        self.planned: Mapping[str, str] | None = None
        """Digests of the files that the run was planned for: workers refuse what was changed since then."""

    def plan(self) -> Schedule:
        """Have the first worker plan the recipe: no model is opened in this process.

        Raises:
            RecipeError: if the recipe, its models or its data are refused.
            OnnxvizError: if reading them breaks a limit.
        """
        require_enough(self._limits.memory, compute=True, place=self._recipe.name, environment=self._environment(0))
        for last in (False, True):
            heard: list[Message] = []
            self.send(0, Task(None))
            while not heard or isinstance(heard[-1], Progressed):
                self.wait(_LOOK_EVERY, heard.append)
            answer = heard[-1]
            if isinstance(answer, Planned):
                self.planned = answer.digests
                return answer.schedule
            if isinstance(answer, Finished):
                raise self._no_plan(answer.outcome)
            assert isinstance(answer, Died), "there is no other message"
            self.replace(0)
            if last or answer.kind == "time" or answer.by_limit:
                what = f"the process that reads the models {answer.cause}"
                remedy = self._remedy(answer.kind)
                if not self.defences and answer.kind == "crash":
                    remedy = "it had not opened a model yet, so that the installation or the machine is at fault"
                raise OnnxvizError(what, remedy=f"{remedy}; the last that it said: {last_line(answer.details)}")
            self.events += (f"planning: {answer.cause}; done once more",)
        raise AssertionError("the second try returns or raises")

    def _no_plan(self, outcome: Outcome) -> OnnxvizError:
        """Return the error for an outcome where a plan was asked for, which can only be that memory ran out."""
        if outcome.kind != "memory":
            what = f"the process that reads the models sent what makes no sense: {outcome.kind!r} and no plan"
            return OnnxvizError(what, remedy=self._remedy("crash"))
        limit = show_bytes(self._limits.memory or 0)
        what = f"reading the models needs more memory than the limit of {limit}"
        return OnnxvizError(what, remedy=self._remedy("memory"))

    def _remedy(self, kind: DeathKind) -> str:
        limit = self._limits.memory
        if kind == "crash" and limit is not None and limit < DOUBTFUL:  # torch without memory crashes in many ways
            return f"most likely the memory limit of {show_bytes(limit)} does not suffice: {more_memory(limit)}"
        if kind == "memory" and limit is not None:
            return f"{more_memory(limit)}, if you trust the model"
        options = {"memory": "free some of this machine's memory", "time": "raise --job-time if you trust the model"}
        return options.get(kind, "a model that crashes what reads it is not to be trusted")

    def send(self, worker: int, task: Task) -> None:
        """Give a worker a task, behind those that it has; a worker is started with its first."""
        process = self._processes[worker] or self._start(worker)
        process.tasks.append(time.monotonic())
        process.tell(to_line(task))

    def wait(self, seconds: float, tell: Callable[[Message], None]) -> None:
        end = time.monotonic() + seconds
        while True:
            self._look()
            left = min(_LOOK_EVERY, end - time.monotonic())
            try:
                process, line = self._heard.get(timeout=max(0.0, left))
            except queue.Empty:
                if time.monotonic() >= end:
                    return
                continue
            if process is not self._processes[process.index]:
                continue  # the last words of one that was replaced
            if line is not None and process.ended_for is not None:
                continue  # nor is one believed that was ended for what it said or took
            message = self._autopsy(process) if line is None else self._understood(process, line)
            if message is not None:
                tell(message)
                return

    def _understood(self, process: _Process, line: bytes) -> Message | None:
        try:
            said = from_line(Said, line)
            if (said.schedule is None) != (said.digests is None):
                raise ValueError("a plan without digests, or digests without a plan")
            if said.schedule is not None:
                said.schedule.require(self._recipe)
            answers = said.finished or said.schedule
            if answers and (not process.tasks or (said.schedule and self.planned is not None)):
                raise ValueError("an answer that nobody has asked for")
        except ValueError as error:  # it may have been taken over by the model
            told = f"{shorten(repr(line), 80)} ({beginning(str(error), 200)})"
            process.end("crash", f"sent a message that makes no sense: {told}")
            return None
        if said.refused is not None:
            raise said.refused.error()
        self.defences = tuple({defence.name: defence for defence in (*self.defences, *said.ready)}.values())
        if said.loaded:
            process.loaded()
        if said.progress is not None:
            return Progressed(process.index, *said.progress)
        if said.finished is not None:
            process.end_task()
            return Finished(process.index, said.finished)
        if said.schedule is None or said.digests is None:
            return None
        process.end_task()
        process.grace = _START_SECONDS  # for what its first task loads
        return Planned(process.index, said.schedule, said.digests)

    def replace(self, worker: int) -> None:
        """Put a new worker in the place of one that died; it starts with its first task."""
        process = self._processes[worker]
        if process is not None:
            process.kill()
            process.reap()
        self._processes[worker] = None

    def close(self) -> None:
        alive = [process for process in self._processes if process is not None]
        for process in alive:
            process.kill()
        for process in alive:
            process.reap()
        self._processes = [None] * self.size
        shutil.rmtree(self._temporary, ignore_errors=True)

    # --- one process ------------------------------------------------------------------------------------------------

    def _start(self, worker: int) -> _Process:
        setup = {
            "path": sys.path,
            "recipe": base64.b64encode(pickle.dumps(self._recipe)).decode(),
            "folder": str(self._folder),
            "device": self._device,
            "limits": dataclasses.asdict(self._limits),
            "planned": self.planned,
            "write": [str(self._folder)],
            "read": [str(path) for path in paths_of(self._recipe)],
        }
        process = _Process(worker, setup, self._environment(worker), self._heard, self._lock)
        self._processes[worker] = process
        return process

    def _environment(self, worker: int) -> dict[str, str]:
        made = clean_environment(os.environ)
        made |= {"TMPDIR": str(self._temporary), "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
        if self._device == "cuda":
            gpus = visible_gpus()
            made["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)] if gpus else ""
            made["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        else:
            made["OMP_NUM_THREADS"] = str(max(1, thread_count() // self.size))
        return made

    def _look(self) -> None:
        """End workers that take more memory or time than they may."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        for process in self._processes:
            if process is None or process.ended_for is not None:
                continue
            taken = resident_memory(process.pid)
            if self._limits.memory is not None and taken is not None and taken > self._limits.memory:
                process.end("memory", f"needed more than the memory limit of {show_bytes(self._limits.memory)}")
            elif self._limits.seconds is not None and process.busy_for(now) > self._limits.seconds + process.grace:
                process.end("time", f"took longer than the time limit of {self._limits.seconds:g} s")

    def _autopsy(self, process: _Process) -> Died:
        status, said = process.reap()
        index = process.index
        if process.ended_for is not None:
            return Died(index, *process.ended_for, said, by_limit=True)
        if any(sign in said for sign in _NO_MEMORY):
            limit = f" of {show_bytes(self._limits.memory)}" if self._limits.memory else ""
            return Died(index, "memory", f"needed more than the memory limit{limit}", said, by_limit=True)
        if status == -getattr(signal, "SIGKILL", 9):
            return Died(index, "memory", "was killed (signal 9), most likely because memory ran out", said)
        if status < 0:
            return Died(index, "crash", f"crashed ({_signal_name(-status)})", said)
        return Died(index, "crash", f"ended by itself (exit code {status}): {last_line(said)}", said)


class _Process:
    """A child process with its pipes; what it says comes into a queue, line by line, and None at its end."""

    def __init__(
        self,
        index: int,
        setup: dict[str, Any],
        environment: dict[str, str],
        heard: queue.SimpleQueue[tuple[_Process, bytes | None]],
        lock: int | None,
    ) -> None:
        self.index = index
        self.tasks: deque[float] = deque()
        self.ended_for: tuple[DeathKind, str] | None = None
        self.grace = _START_SECONDS
        self._heard = heard
        self._said = b""
        kept = () if lock is None or os.name != "posix" else (lock,)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=os.name == "posix",  # an interruption by the keyboard concerns the parent only
            pass_fds=kept,
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._threads = [
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._overhear, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.tell(json.dumps(setup).encode() + b"\n")

    def tell(self, line: bytes) -> None:
        """Send a line; that nobody listens any more is found out by listening."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.write(line)
            self._stdin.flush()

    def busy_for(self, now: float) -> float:
        """Return the seconds since the first of its tasks began; 0 without one."""
        return now - self.tasks[0] if self.tasks else 0.0

    def loaded(self) -> None:
        """Take note that it has loaded its libraries: the time for its task begins now."""
        self.grace = 0.0
        if self.tasks:
            self.tasks[0] = time.monotonic()

    def end_task(self) -> None:
        """Take note that the first task has ended; the next begins now."""
        if self.tasks:
            self.tasks.popleft()
        if self.tasks:
            self.tasks[0] = time.monotonic()

    def end(self, kind: DeathKind, cause: str) -> None:
        self.ended_for = (kind, cause)
        self._process.kill()

    def kill(self) -> None:
        """Kill it, without waiting until it is gone."""
        self._process.kill()

    def reap(self) -> tuple[int, str]:
        """Wait until it is gone; returns its status and the last that it said."""
        status = self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        with contextlib.suppress(OSError):
            self._stdin.close()
        return status, self._said.decode("utf-8", "replace")

    def _listen(self, stream: BinaryIO) -> None:
        with stream:
            while line := stream.readline(_LINE_BYTES):
                if not line.endswith(b"\n"):
                    break
                self._heard.put((self, line))
        if self._process.poll() is None and self.ended_for is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)  # it has closed its pipe, so it is about to end
            if self._process.poll() is None:
                self.end("crash", "sent a message that is too long")
        self._heard.put((self, None))

    def _overhear(self, stream: BinaryIO) -> None:
        with stream:
            while part := stream.read1(4096):  # type: ignore[attr-defined]
                self._said = (self._said + part)[-_KEPT_BYTES:]


def paths_of(recipe: Recipe) -> list[Path]:
    """Return the files and folders that a recipe names, with the folders of the models' external data."""
    found: list[Path] = []
    for alias, model in recipe.models.items():
        address = recipe.address(alias)
        if model.path is not None:
            file = recipe.resolve((*address, "path"))
            found += [file.absolute().parent, _real(file).parent]
        if isinstance(model.labels, str):
            found.append(_real(recipe.resolve((*address, "labels"))))
        found += [_real(value) for value in recipe.inputs(alias).values() if isinstance(value, Path)]
    for name, settings in recipe.data.items():
        found += [_real(path) for path in settings.files(recipe.base(name))]
    # A pattern's start may end in half a name: then it is the folder above that is looked through.
    existing = [path if os.path.exists(path) else path.parent for path in found]  # noqa: PTH110 - False where too long
    # What lies above the home folders is never opened as a whole for the sake of a pattern.
    return [path for path in dict.fromkeys(existing) if os.path.exists(path) and path != path.parent]  # noqa: PTH110


def _real(path: Path) -> Path:
    """Resolve links; what cannot be resolved is refused later, when it is opened, with its place in the recipe."""
    try:
        return Path(os.path.realpath(path))  # unlike Path.resolve, no exception where links lead in a circle
    except (OSError, ValueError):
        return path


def last_line(said: str) -> str:
    """Return the last line that somebody said, which in a traceback is the cause."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return beginning(lines[-1]) if lines else "nothing"


def _signal_name(number: int) -> str:
    try:
        return f"signal {number}, {signal.Signals(number).name}"
    except ValueError:
        return f"signal {number}"
