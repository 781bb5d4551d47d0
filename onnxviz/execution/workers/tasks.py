"""What a worker is asked to do and what it answers, as plain data that passes between processes and machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from onnxviz.confinement import Defence
from onnxviz.core.errors import Fault, OnnxvizError, OutputError, RecipeError
from onnxviz.execution.schedule import Schedule, Work

OutcomeKind = Literal["done", "error", "memory", "device"]
T = TypeVar("T")


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
class Refusal:
    """An error that ends the run, as data."""

    what: str
    where: str = ""
    remedy: str = ""
    output: bool = False
    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, error: OnnxvizError) -> Refusal:
        """Return an error as data."""
        faults = error.faults if isinstance(error, RecipeError) else ()
        return cls(error.what, error.where, error.remedy, isinstance(error, OutputError), faults)

    def error(self, machine: str = "") -> OnnxvizError:
        """Return the error again, with the machine on which it happened."""
        if self.faults:
            return RecipeError(self.faults)
        where = f"{self.where} on {machine}".strip() if machine else self.where
        return (OutputError if self.output else OnnxvizError)(self.what, where=where, remedy=self.remedy)


@dataclass(frozen=True)
class Said:
    """A line of a worker process, which says one of these things.

    Attributes:
        ready: what keeps it from the rest of the machine.
        loaded: it has loaded its libraries, and begins its first task.
        progress: steps that are done, all steps, and what it is at.
        schedule: the plan of the recipe.
        digests: with it those of all files that results depend on, by what they are called in an error.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    ready: tuple[Defence, ...] = ()
    loaded: bool = False
    progress: tuple[int, int, str] | None = None
    schedule: Schedule | None = None
    digests: Mapping[str, str] | None = None
    finished: Outcome | None = None
    refused: Refusal | None = None


def to_line(message: Task | Said) -> bytes:
    """Return a message as a line of JSON."""
    # Not in the mode "json", which makes None of parameters that are infinite or no number.
    data = _adapters()[type(message)].dump_python(message, exclude_defaults=True)
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"  # names of files may not be Unicode


def from_line(kind: type[T], line: bytes) -> T:
    """Undo `to_line`; the worker may have read a stranger's file, so that all types are checked.

    Raises:
        ValueError: if it is no message of this kind.
    """
    try:
        made: T = _adapters()[kind].validate_python(json.loads(line))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return made


@cache
def _adapters() -> dict[type, TypeAdapter[Any]]:
    return {kind: TypeAdapter(kind) for kind in (Task, Said)}
