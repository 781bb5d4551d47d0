"""Does tasks in the process that it lives in: a worker's own, or the user's."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxviz.analyses.base import Analysis, JobContext, Progress, Subject
from onnxviz.core.devices import Device
from onnxviz.core.errors import AnalysisError, OnnxvizError, OutputError, one_line
from onnxviz.core.memory import describe_shortage, is_device_failure, is_out_of_memory
from onnxviz.execution.choice import choose, chosen_table, read_chosen
from onnxviz.execution.parity_job import agreement_table, measure_agreement
from onnxviz.execution.plan import analysis_kind
from onnxviz.execution.store import Store
from onnxviz.execution.workers.tasks import ChoiceTask, CombineTask, JobTask, Outcome, OutcomeKind, ParityTask, Task
from onnxviz.execution.workers.torch_setup import make_model, prepare_torch, seed_everything

if TYPE_CHECKING:
    from onnxviz.model.model import Model

_MODELS = 1
"""Models kept at a time: tasks come model by model."""


class LocalWorker:
    """Does one task at a time.

    Args:
        subject: opens a model of the recipe, by alias.
        analyses: the recipe's analyses by id.
        store: where results go.
        device: what to compute on.
    """

    def __init__(
        self,
        subject: Callable[[str], Subject],
        analyses: Mapping[str, Analysis],
        store: Store,
        device: Device,
    ) -> None:
        self._open = subject
        self._chosen: dict[str, Subject] = {}
        self._analyses = analyses
        self._store = store
        self._device = device
        self._models: dict[str, Model] = {}
        self._prepared = False

    def prepare(self) -> None:
        """Load what tasks need, which takes seconds: once, with the first that needs it."""
        if not self._prepared:
            prepare_torch(self._device)
            self._prepared = True

    def do(self, task: Task, progress: Progress) -> Outcome:
        """Do a task; whatever it raises is told, not raised.

        Raises:
            OutputError: if the result cannot be written, which concerns the whole run.
        """
        clock = time.monotonic()
        try:
            remarks = self._do(task, progress)
        except (OutputError, KeyboardInterrupt):
            raise
        except Exception as error:  # any exporter's oddity: one failing job never takes the others down
            return _failure(error, time.monotonic() - clock)
        return Outcome(seconds=time.monotonic() - clock, remarks=remarks)

    def _do(self, task: Task, progress: Progress) -> tuple[str, ...]:
        if isinstance(task, CombineTask):
            self._combine(task)
            return ()
        self.prepare()
        if isinstance(task, ChoiceTask):
            self._choose(task, progress)
            return ()
        if isinstance(task, ParityTask):
            self._check_parity(task)
            return ()
        return self._run(task, progress)

    def _subject(self, alias: str) -> Subject:
        """Open a model, with the preprocessing that was chosen by trial where it waits for one."""
        subject = self._open(alias)
        if not subject.choice:
            return subject
        kept = self._chosen.get(alias)
        if kept is None or kept.choice != subject.choice or kept.view is not subject.view:
            found = self._store.load(subject.choice)
            if found is None:
                raise AnalysisError(
                    "the preprocessing that was chosen by trial is gone",
                    remedy="run the recipe again: what is missing is made again",
                )
            self._chosen.clear()
            kept = self._chosen[alias] = replace(subject, preprocessing=read_chosen(found).preprocessing)
        return kept

    def _choose(self, task: ChoiceTask, progress: Progress) -> None:
        choice = task.choice
        chosen = choose(self._open(choice.alias), choice, self._device, progress)
        self._store.save(choice.key, [chosen_table(chosen)], {"choice": choice.alias, "images": choice.data})

    def _check_parity(self, task: ParityTask) -> None:
        check = task.parity_check
        agreements, errors = measure_agreement(self._model(check.alias), self._subject(check.alias), check)
        about = {"parity": check.alias, "images": check.data or "synthetic"}
        self._store.save(check.key, [agreement_table(agreements, errors)], about)

    def _run(self, task: JobTask, progress: Progress) -> tuple[str, ...]:
        planned = task.planned
        analysis, subject = self._analyses[planned.analysis], self._subject(planned.alias)
        needed = zip(planned.job.needs, planned.needs, strict=True)
        found = {name: self._needed(name, key, analysis) for name, key in needed}
        model = self._model(planned.alias)
        model.halvings, model.reduced = task.halvings, []
        model.distrust(task.distrusted)
        try:
            seed_everything(subject.seed, analysis_kind(analysis), planned.job.name)
            findings = analysis.run(planned.job, JobContext(subject, model, progress, found))
            remarks = tuple(dict.fromkeys(model.reduced))
        finally:
            model.halvings, model.reduced = 0, []
        about = {"model": planned.alias, "analysis": planned.analysis, "job": planned.job.name}
        self._store.save(planned.key, findings, about, types=analysis.result_types())
        return remarks

    def _needed(self, name: str, key: str, analysis: Analysis) -> list[Any]:
        found = self._store.load(key, arrays=True, types=analysis.result_types())
        if found is None:
            raise AnalysisError(
                f"what the job {name!r} found is gone", remedy="run the recipe again: what is missing is made again"
            )
        return found

    def _combine(self, task: CombineTask) -> None:
        analysis, subject = self._analyses[task.analysis], self._subject(task.alias)
        # Read back even what was just made, so that a resumed run cannot differ from an uninterrupted one.
        types = analysis.result_types()
        loaded = [self._store.load(key, arrays=True, types=types) for key in task.parts]
        findings = analysis.combine([found for found in loaded if found is not None], subject)
        metrics = {name: float(value) for name, value in analysis.metrics(findings).items()}
        self._store.save(task.key, findings, {"model": task.alias, "combined": task.analysis}, metrics)

    def _model(self, alias: str) -> Model:
        if alias not in self._models:
            while len(self._models) >= _MODELS:
                self._models.pop(next(iter(self._models)))
            self._models[alias] = make_model(self._subject(alias), self._device)
        return self._models[alias]


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
