"""What a worker is asked to do and what it answers, as plain data that passes between processes and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from onnxviz.execution.plan import Choice, ParityCheck, PlannedJob
from onnxviz.execution.schedule import (
    choice_data,
    choice_from,
    job_data,
    job_from,
    parity_check_data,
    parity_check_from,
)

OutcomeKind = Literal["done", "error", "memory", "device"]


@dataclass(frozen=True)
class ChoiceTask:
    """Choose a model's preprocessing by trial, and store it under the choice's key."""

    choice: Choice

    @property
    def alias(self) -> str:
        """The model."""
        return self.choice.alias


@dataclass(frozen=True)
class ParityTask:
    """Compare a model's layers with ONNX Runtime, and store the agreement under the parity check's key.

    Attributes:
        parity_check: what to compare.
        choice: key of the model's preprocessing, where it was chosen by trial.
    """

    parity_check: ParityCheck
    choice: str = ""

    @property
    def alias(self) -> str:
        """The model."""
        return self.parity_check.alias


@dataclass(frozen=True)
class JobTask:
    """Do a job, and store its findings under its key.

    Attributes:
        planned: the job.
        halvings: how often its batches are halved, after it ran out of memory.
        distrusted: names of layers and nodes that ONNX Runtime computes wrongly.
        choice: key of the model's preprocessing, where it was chosen by trial.
    """

    planned: PlannedJob
    halvings: int = 0
    distrusted: tuple[str, ...] = ()
    choice: str = ""

    @property
    def alias(self) -> str:
        """The model."""
        return self.planned.alias


@dataclass(frozen=True)
class CombineTask:
    """Put the findings of an analysis' jobs on one model together, and store them with their metrics.

    Attributes:
        key: what they are stored under.
        alias: the model.
        analysis: the analysis' id.
        parts: keys of the jobs' results, in the order of the jobs.
    """

    key: str
    alias: str
    analysis: str
    parts: tuple[str, ...]


Task: TypeAlias = ChoiceTask | ParityTask | JobTask | CombineTask


@dataclass(frozen=True)
class Outcome:
    """How a task ended; what was found is in the store.

    Attributes:
        kind: "memory" if it ran out of memory, "device" if the accelerator is unusable for this process from now on.
        error: what went wrong in a few words, or "".
        details: the traceback, for the log.
        seconds: what it took.
        remarks: what a reader must know of how it was done, such as batches made smaller.
    """

    kind: OutcomeKind = "done"
    error: str = ""
    details: str = ""
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()


def task_data(task: Task) -> dict[str, Any]:
    """Return a task as JSON data."""
    if isinstance(task, ChoiceTask):
        return {"do": "choose", "choice": choice_data(task.choice)}
    if isinstance(task, ParityTask):
        return {"do": "check_parity", "parity_check": parity_check_data(task.parity_check), "choice": task.choice}
    if isinstance(task, JobTask):
        return {
            "do": "job",
            "job": job_data(task.planned),
            "halvings": task.halvings,
            "distrusted": list(task.distrusted),
            "choice": task.choice,
        }
    parts = list(task.parts)
    return {"do": "combine", "key": task.key, "alias": task.alias, "analysis": task.analysis, "parts": parts}


def task_from(data: Mapping[str, Any]) -> Task:
    """Undo `task_data`."""
    if data["do"] == "choose":
        return ChoiceTask(choice_from(data["choice"]))
    if data["do"] == "check_parity":
        return ParityTask(parity_check_from(data["parity_check"]), str(data["choice"]))
    if data["do"] == "job":
        distrusted = tuple(map(str, data["distrusted"]))
        return JobTask(job_from(data["job"]), int(data["halvings"]), distrusted, str(data["choice"]))
    return CombineTask(data["key"], data["alias"], data["analysis"], tuple(data["parts"]))


def outcome_data(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON data."""
    return {
        "kind": outcome.kind,
        "error": outcome.error,
        "details": outcome.details,
        "seconds": outcome.seconds,
        "remarks": list(outcome.remarks),
    }


def outcome_from(data: Mapping[str, Any]) -> Outcome:
    """Undo `outcome_data`; the worker may have read a stranger's file, so what it says is taken as text and numbers.

    Raises:
        KeyError, TypeError, ValueError: if it is no outcome.
    """
    kinds: dict[str, OutcomeKind] = {"done": "done", "error": "error", "memory": "memory", "device": "device"}
    return Outcome(
        kinds[str(data["kind"])],
        str(data["error"]),
        str(data["details"]),
        float(data["seconds"]),
        tuple(str(item) for item in data["remarks"]),
    )
