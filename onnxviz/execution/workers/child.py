"""The life of a worker process: it reads tasks, does them, and says how they ended, as lines of JSON."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from onnxviz.confinement import Defence, Limits, confine_calls
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError, OutputError, RecipeError, one_line
from onnxviz.core.memory import is_out_of_memory
from onnxviz.execution.plan import digests_of, make_plan, open_subject
from onnxviz.execution.schedule import schedule_of, to_data
from onnxviz.execution.store import Store
from onnxviz.execution.workers.local import LocalWorker
from onnxviz.execution.workers.tasks import CombineTask, outcome_data, task_from
from onnxviz.execution.workers.torch_setup import load_torch

if TYPE_CHECKING:
    from onnxviz.analyses.base import Subject
    from onnxviz.recipe.recipe import Recipe

_EVERY = 0.1
"""Seconds between two reports of how far a task is."""


def serve(setup: dict[str, Any], limits: Limits, defences: Sequence[Defence], reading: BinaryIO, writing: int) -> None:
    """Do tasks until the parent closes the pipe.

    Args:
        setup: what the parent said first.
        limits: what this process is limited to.
        defences: what keeps it from the rest of the machine already.
        reading: the pipe from the parent.
        writing: the pipe to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    device: Device = "cuda" if setup["device"] == "cuda" else "cpu"
    if device == "cuda":
        load_torch()  # the driver starts helpers of its own
    defences = (*defences, *confine_calls(limits, device=device))
    # The parent wrote this; what comes from a stranger is in files that only this process opens.
    recipe: Recipe = pickle.loads(base64.b64decode(setup["recipe"]))  # noqa: S301
    child = _Child(recipe, Path(setup["folder"]), device, writing, setup["planned"])
    child.say({"ready": [dataclasses.asdict(defence) for defence in defences]})
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(reading, orders), daemon=True).start()
    while True:
        child.obey(orders.get())


def _listen(reading: BinaryIO, orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Take orders; when the parent is gone, so is this process, whatever it is at."""
    for line in reading:
        orders.put(json.loads(line))
    os._exit(0)


class _Child:
    """What a worker process keeps between tasks."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: Device,
        writing: int,
        planned: dict[str, str] | None,
    ) -> None:
        self.recipe = recipe
        self.planned = planned
        self.device = device
        self.writing = writing
        self.subjects: dict[str, Subject] = {}
        self.data: Mapping[str, object] | None = None
        self.worker = LocalWorker(self.subject, recipe.analyses, Store(folder), device)
        self.said = 0.0
        self.loaded = False

    def subject(self, alias: str) -> Subject:
        if alias not in self.subjects:
            self.subjects.clear()  # tasks come model by model, and a model may be large
            opened = open_subject(self.recipe, alias, self.device, self.planned, self.data)
            self.subjects[alias], self.data = opened, opened.data
        return self.subjects[alias]

    def obey(self, order: dict[str, Any]) -> None:
        if order["do"] == "plan":
            self.say(self.plan())
            return
        task = task_from(order)
        self.said = time.monotonic()
        try:
            if not self.loaded and not isinstance(task, CombineTask):
                with contextlib.suppress(Exception):  # what is wrong is told when the task fails for it
                    self.worker.prepare()
                self.loaded = True
                self.say({"loaded": True})
            outcome = self.worker.do(task, self.progress)
        except OutputError as error:
            self.say({"stopped": {"what": error.what, "where": error.where, "remedy": error.remedy}})
            return
        self.say({"finished": outcome_data(outcome)})

    def plan(self) -> dict[str, Any]:
        try:
            plan = make_plan(self.recipe, self.device)
            self.subjects.update(plan.subjects)
            self.data = next((subject.data for subject in plan.subjects.values()), None)
            return {"schedule": to_data(schedule_of(plan)), "digests": digests_of(plan.subjects.values())}
        except RecipeError as error:
            return {"faults": [dataclasses.asdict(fault) for fault in error.faults]}
        except OnnxvizError as error:
            return {"refused": {"what": error.what, "where": error.where, "remedy": error.remedy}}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return {"memory": one_line(error)}

    def progress(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.said >= _EVERY:
            self.said = now
            self.say({"progress": [done, total, note]})

    def say(self, message: dict[str, Any]) -> None:
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        view = memoryview(data)
        while view:
            view = view[os.write(self.writing, view) :]
