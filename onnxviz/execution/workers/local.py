"""Does tasks in the process that it lives in: a worker's own, or the user's."""

from __future__ import annotations

import errno
import time
import traceback
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from onnxviz.analyses.base import Analysis, JobContext, Progress, Subject
from onnxviz.core.devices import Device
from onnxviz.core.errors import AnalysisError, OnnxvizError, OutputError, one_line
from onnxviz.core.memory import describe_shortage, is_device_failure, is_out_of_memory
from onnxviz.execution.choice import choose, read_chosen
from onnxviz.execution.parity_job import measure_agreement
from onnxviz.execution.plan import analysis_kind
from onnxviz.execution.schedule import Choice, ParityCheck, PlannedJob
from onnxviz.execution.store import Store
from onnxviz.execution.workers.tasks import Combination, Outcome, OutcomeKind, Task
from onnxviz.execution.workers.torch_setup import make_model, prepare_torch, seed_everything

if TYPE_CHECKING:
    from onnxviz.model.model import Model


@dataclass(eq=False)
class LocalWorker:
    """Does one task at a time; `open_subject` opens a model of the recipe, by alias."""

    open_subject: Callable[[str], Subject]
    analyses: Mapping[str, Analysis]
    store: Store
    device: Device
    _chosen: Subject | None = None
    _models: dict[str, Model] = field(default_factory=dict)
    _prepared: bool = False

    def prepare(self) -> None:
        """Load what tasks need, which takes seconds: once, with the first that needs it."""
        if not self._prepared:
            prepare_torch(self.device)
            self._prepared = True

    def do(self, task: Task, progress: Progress) -> Outcome:
        """Do a task; whatever it raises is told, not raised.

        Raises:
            OutputError: if there is no room for the result, which concerns the whole run.
        """
        clock = time.monotonic()
        try:
            remarks = self._do(task, progress)
        except Exception as error:  # any exporter's oddity: one failing job never takes the others down
            too_large = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EFBIG
            if isinstance(error, OutputError) and not too_large:  # that is the limit of this process, not the disk
                raise
            return _failure(error, time.monotonic() - clock)
        return Outcome(seconds=time.monotonic() - clock, remarks=remarks)

    def _do(self, task: Task, progress: Progress) -> tuple[str, ...]:
        work = task.work
        if isinstance(work, Combination):
            self._combine(work)
            return ()
        self.prepare()
        if isinstance(work, PlannedJob):
            return self._run(work, task, progress)
        if isinstance(work, Choice):
            self._choose(work, progress)
        elif isinstance(work, ParityCheck):
            self._check_parity(work)
        return ()

    def _subject(self, alias: str) -> Subject:
        """Open a model, with the preprocessing that was chosen by trial where it waits for one."""
        subject = self.open_subject(alias)
        if not subject.choice:
            return subject
        kept = self._chosen
        if kept is None or kept.alias != alias or kept.choice != subject.choice or kept.view is not subject.view:
            chosen = read_chosen(self.store, subject.choice)
            if chosen is None:
                raise AnalysisError(
                    "the preprocessing that was chosen by trial is gone",
                    remedy="run the recipe again: what is missing is made again",
                )
            kept = self._chosen = replace(subject, preprocessing=chosen.preprocessing)
        return kept

    def _choose(self, choice: Choice, progress: Progress) -> None:
        chosen = choose(self.open_subject(choice.alias), choice, self.device, progress)
        self.store.save_value(choice.key, chosen, {"choice": choice.alias, "images": choice.data})

    def _check_parity(self, check: ParityCheck) -> None:
        comparison = measure_agreement(self._model(check.alias), self._subject(check.alias), check)
        about = {"parity": check.alias, "images": check.data or "synthetic"}
        self.store.save_value(check.key, comparison, about)

    def _run(self, planned: PlannedJob, task: Task, progress: Progress) -> tuple[str, ...]:
        analysis, subject, job = self.analyses[planned.analysis], self._subject(planned.alias), planned.job
        keys, types = dict(zip(job.needs, planned.needs, strict=True)), analysis.result_types()
        found = _Found(keys, lambda name: self._needed(name, keys[name], types))
        model = self._model(planned.alias)
        model.halvings, model.reduced = task.halvings, []
        model.distrust(task.distrusted)
        try:
            seed_everything(subject.seed, analysis_kind(analysis), job.name)
            findings = analysis.run(job, JobContext(subject, model, progress, found))
            remarks = tuple(dict.fromkeys(model.reduced))
        finally:
            model.halvings, model.reduced = 0, []
        about = {"model": planned.alias, "analysis": planned.analysis, "job": job.name}
        self.store.save(planned.key, findings, about, types=types)
        return remarks

    def _needed(self, name: str, key: str, types: Mapping[str, type]) -> list[Any]:
        found = self.store.load(key, arrays=True, types=types)
        if found is None:
            raise AnalysisError(
                f"what the job {name!r} found is gone", remedy="run the recipe again: what is missing is made again"
            )
        return found

    def _combine(self, work: Combination) -> None:
        analysis, subject = self.analyses[work.analysis], self._subject(work.alias)
        # Read back even what was just made, so that a resumed run cannot differ from an uninterrupted one.
        types = analysis.result_types()
        loaded = [self.store.load(key, arrays=True, types=types) for key in work.parts]
        findings = analysis.combine([found for found in loaded if found is not None], subject)
        metrics = {name: float(value) for name, value in analysis.metrics(findings).items()}
        self.store.save(work.key, findings, {"model": work.alias, "combined": work.analysis}, metrics)

    def _model(self, alias: str) -> Model:
        if alias not in self._models:
            self._models.clear()  # one at a time: tasks come model by model
            self._models[alias] = make_model(self._subject(alias), self.device)
        return self._models[alias]


class _Found(UserDict[str, Any]):
    """What the jobs that another needs have found, read whenever it is asked for: many shards may be large together."""

    def __init__(self, keys: Mapping[str, str], read: Callable[[str], list[Any]]) -> None:
        super().__init__(keys)
        self._read = read

    def __getitem__(self, name: str) -> list[Any]:
        return self._read(name)


def _failure(error: Exception, seconds: float) -> Outcome:
    kind: OutcomeKind = "memory" if is_out_of_memory(error) else "device" if is_device_failure(error) else "error"
    text = one_line(error)
    if kind == "memory" and not isinstance(error, OnnxvizError):
        text = f"{describe_shortage(error)}; the full traceback is in log.txt"
    elif not isinstance(error, OnnxvizError):
        text += "; the full traceback is in log.txt"
    if isinstance(error, PermissionError):
        text += "; worker processes are confined, which the report describes under how to repeat the run"
    return Outcome(kind, text, "".join(traceback.format_exception(error)), seconds)
