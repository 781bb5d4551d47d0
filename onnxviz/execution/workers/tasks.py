"""What a worker is asked to do and what it answers, as plain data that passes between processes and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict

from onnxviz.execution.schedule import Schedule, Work
from onnxviz.execution.workers.messages import Message

OutcomeKind = Literal["done", "error", "memory", "device"]


@dataclass(frozen=True)
class Combination:
    """The findings of an analysis' jobs on one model, put together and stored with their metrics under a key.

    Attributes:
        parts: keys of the jobs' results, in the order of the jobs.
    """

    key: str
    alias: str
    analysis: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do.

    Attributes:
        work: what is made and stored under its key; None to plan the recipe.
        halvings: how often a job's batches are halved, after it ran out of memory.
        distrusted: names of layers and nodes that ONNX Runtime computes wrongly.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    work: Work | Combination | None
    halvings: int = 0
    distrusted: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Said(Message):
    """A line of a worker process that does tasks.

    Attributes:
        loaded: it has loaded its libraries, and begins its first task.
        schedule: the plan of the recipe.
        digests: with it those of all files that results depend on, by what they are called in an error.
    """

    loaded: bool = False
    schedule: Schedule | None = None
    digests: Mapping[str, str] | None = None
    finished: Outcome | None = None
