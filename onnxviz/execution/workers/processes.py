"""Workers that are processes of this machine, each confined, watched, and replaced when it dies."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from onnxviz.confinement import Limits
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError, beginning, shorten
from onnxviz.core.memory import more_memory, show_bytes
from onnxviz.execution.schedule import Schedule
from onnxviz.execution.workers.limits import default_limits, in_words, tightened
from onnxviz.execution.workers.messages import from_line, to_line
from onnxviz.execution.workers.pool import Died, Finished, Message, Planned, Pool, Progressed
from onnxviz.execution.workers.process import (
    DOUBTFUL,
    LOOK_EVERY,
    START_SECONDS,
    DeathKind,
    Heard,
    Process,
    Request,
    environment_of,
    last_line,
    ran_out_of_memory,
    require_enough,
    signal_in_words,
)
from onnxviz.execution.workers.tasks import Said, Task
from onnxviz.recipe.recipe import Recipe


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
        self._heard: Heard = queue.SimpleQueue()
        self._processes: list[Process | None] = [None] * size
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
        require_enough(self._limits.memory, compute=True, place=self._recipe.name)
        for last in (False, True):
            heard: list[Message] = []
            self.send(0, Task(None))
            while not heard or isinstance(heard[-1], Progressed):
                self.wait(LOOK_EVERY, heard.append)
            answer = heard[-1]
            if isinstance(answer, Planned):
                self.planned = answer.digests
                return answer.schedule
            if isinstance(answer, Finished):
                what = f"the process that reads the models sent what makes no sense: {answer.outcome.kind!r}, no plan"
                raise OnnxvizError(what, remedy=self._remedy("crash"))
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
            left = min(LOOK_EVERY, end - time.monotonic())
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

    def _understood(self, process: Process, line: bytes) -> Message | None:
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
        process.grace = START_SECONDS  # for what its first task loads
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

    def _start(self, worker: int) -> Process:
        request = Request(
            "onnxviz.execution.workers.child:serve",
            {"recipe": self._recipe, "folder": self._folder, "device": self._device, "planned": self.planned},
            self._limits,
            self._device,
            write=[self._folder],
            read=paths_of(self._recipe),
            given="parent",
        )
        process = self._processes[worker] = Process(request, self._environment(worker), self._heard, worker, self._lock)
        return process

    def _environment(self, worker: int) -> dict[str, str]:
        made = environment_of(self._device, self._temporary, worker, self.size)
        return made | {"PYTHONDONTWRITEBYTECODE": "1"}

    def _look(self) -> None:
        """End workers that take more memory or time than they may."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        for process in self._processes:
            if process is not None:
                process.watch(now)

    def _autopsy(self, process: Process) -> Died:
        status, said = process.reap()
        index = process.index
        if process.ended_for is not None:
            return Died(index, *process.ended_for, said, by_limit=True)
        if ran_out_of_memory(status, said):
            limit = f" of {show_bytes(self._limits.memory)}" if self._limits.memory else ""
            return Died(index, "memory", f"needed more than the memory limit{limit}", said, by_limit=True)
        if status == -getattr(signal, "SIGKILL", 9):
            return Died(index, "memory", "was killed (signal 9), most likely because memory ran out", said)
        if status < 0:
            return Died(index, "crash", f"crashed ({signal_in_words(-status)})", said)
        return Died(index, "crash", f"ended by itself (exit code {status}): {last_line(said)}", said)


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
