"""The life of a worker process: it reads tasks, does them, and says how they ended, as lines of JSON."""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from onnxviz.analyses.base import Subject
from onnxviz.confinement import Defence, Limits, confine_calls
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError, OutputError, one_line
from onnxviz.core.memory import is_out_of_memory
from onnxviz.execution.plan import digests_of, make_plan, open_subject
from onnxviz.execution.store import Store
from onnxviz.execution.workers.local import LocalWorker
from onnxviz.execution.workers.tasks import Combination, Outcome, Refusal, Said, Task, from_line, to_line
from onnxviz.execution.workers.torch_setup import load_torch
from onnxviz.recipe.recipe import Recipe

_EVERY = 0.1
"""Seconds between two reports of how far a task is."""


def serve(setup: dict[str, Any], limits: Limits, defences: Sequence[Defence], reading: BinaryIO, writing: int) -> None:
    """Do tasks until the parent, whose first line was the setup, closes the pipe that is read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    device: Device = "cuda" if setup["device"] == "cuda" else "cpu"
    if device == "cuda":
        load_torch()  # the driver starts helpers of its own
    defences = (*defences, *confine_calls(limits, device=device))
    # The parent wrote this; what comes from a stranger is in files that only this process opens.
    recipe: Recipe = pickle.loads(base64.b64decode(setup["recipe"]))  # noqa: S301
    child = _Child(recipe, Path(setup["folder"]), device, writing, setup["planned"])
    child.say(Said(ready=tuple(defences)))
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(reading, orders), daemon=True).start()
    while True:
        child.obey(from_line(Task, orders.get()))


def _listen(reading: BinaryIO, orders: queue.SimpleQueue[bytes]) -> None:
    """Take orders; when the parent is gone, so is this process, whatever it is at."""
    for line in reading:
        orders.put(line)
    os._exit(0)


@dataclass(eq=False)
class _Child:
    """What a worker process keeps between tasks."""

    recipe: Recipe
    folder: Path
    device: Device
    writing: int
    planned: Mapping[str, str] | None
    subjects: dict[str, Subject] = field(default_factory=dict)
    data: Mapping[str, object] | None = None
    said: float = 0.0
    loaded: bool = False

    def __post_init__(self) -> None:
        self.worker = LocalWorker(self.subject, self.recipe.analyses, Store(self.folder), self.device)

    def subject(self, alias: str) -> Subject:
        if alias not in self.subjects:
            self.subjects.clear()  # tasks come model by model, and a model may be large
            opened = open_subject(self.recipe, alias, self.device, self.planned, self.data)
            self.subjects[alias], self.data = opened, opened.data
        return self.subjects[alias]

    def obey(self, task: Task) -> None:
        if task.work is None:
            self.say(Said(loaded=True))
            self.say(self.plan())
            return
        self.said = time.monotonic()
        try:
            if not self.loaded and not isinstance(task.work, Combination):
                with contextlib.suppress(Exception):  # what is wrong is told when the task fails for it
                    self.worker.prepare()
                self.loaded = True
                self.say(Said(loaded=True))
            self.say(Said(finished=self.worker.do(task, self.progress)))
        except OutputError as error:
            self.say(Said(refused=Refusal.of(error)))

    def plan(self) -> Said:
        try:
            plan = make_plan(self.recipe, self.device)
        except OnnxvizError as error:
            return Said(refused=Refusal.of(error))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return Said(finished=Outcome("memory", one_line(error)))
        self.subjects.update(plan.subjects)
        self.data = next((subject.data for subject in plan.subjects.values()), None)
        return Said(schedule=plan, digests=digests_of(plan.subjects.values()))

    def progress(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.said >= _EVERY:
            self.said = now
            self.say(Said(progress=(int(done), int(total), str(note))))

    def say(self, message: Said) -> None:
        view = memoryview(to_line(message))
        while view:
            view = view[os.write(self.writing, view) :]
