"""A worker process that does the tasks of a run, one after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onnxviz.analyses.base import Subject
from onnxviz.core.devices import Device
from onnxviz.execution.plan import digests_of, make_plan, open_subject
from onnxviz.execution.store import Store
from onnxviz.execution.workers.begin import Parent
from onnxviz.execution.workers.local import LocalWorker
from onnxviz.execution.workers.messages import from_line
from onnxviz.execution.workers.tasks import Combination, Said, Task
from onnxviz.recipe.recipe import Recipe


def serve(parent: Parent, recipe: Recipe, folder: Path, device: Device, planned: Mapping[str, str] | None) -> None:
    """Do tasks until the parent closes the pipe by which it orders them."""
    child = _Child(recipe, folder, device, parent, planned)
    while True:
        child.obey(from_line(Task, parent.orders.get()))


@dataclass(eq=False)
class _Child:
    """What a worker process keeps between tasks."""

    recipe: Recipe
    folder: Path
    device: Device
    parent: Parent
    planned: Mapping[str, str] | None
    subjects: dict[str, Subject] = field(default_factory=dict)
    data: Mapping[str, object] | None = None
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
            self.parent.say(Said(loaded=True))
            plan = make_plan(self.recipe, self.device)
            self.subjects.update(plan.subjects)
            self.data = next((subject.data for subject in plan.subjects.values()), None)
            self.parent.say(Said(schedule=plan, digests=digests_of(plan.subjects.values())))
            return
        self.parent.said = time.monotonic()
        if not self.loaded and not isinstance(task.work, Combination):
            with contextlib.suppress(Exception):  # what is wrong is told when the task fails for it
                self.worker.prepare()
            self.loaded = True
            self.parent.say(Said(loaded=True))
        self.parent.say(Said(finished=self.worker.do(task, self.parent.progress)))
