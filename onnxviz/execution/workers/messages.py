"""What a worker process says, as lines of JSON; loaded by whoever only waits for one, so that little else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from onnxviz.confinement import Defence
from onnxviz.core.errors import Fault, OnnxvizError, OutputError, RecipeError

T = TypeVar("T")
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


@dataclass(frozen=True)
class Refusal:
    """A deliberate error, as data."""

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
class Message:
    """A line of a worker process, which says one of these things.

    Attributes:
        ready: what keeps it from the rest of the machine.
        memory: with it, the bytes that it may take.
        progress: steps that are done, all steps, and what it is at.
        answer: to the one request that it was started for; the data of what `plain` was given.
        refused: why it does not do what it was asked.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    ready: tuple[Defence, ...] = ()
    memory: int | None = None
    progress: tuple[int, int, str] | None = None
    answer: Any = None
    refused: Refusal | None = None


def plain(value: Any) -> Any:
    """Return a dataclass, text or number as data that `typed` undoes."""
    # Not in the mode "json", which makes None of parameters that are infinite or no number.
    return _adapter(type(value)).dump_python(value, exclude_defaults=True)


def typed(kind: type[T], data: Any) -> T:
    """Undo `plain`; who sent it may have read a stranger's file, so that all types are checked.

    Raises:
        ValueError: if it is nothing of this kind.
    """
    try:
        made: T = _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return made


def to_line(message: object) -> bytes:
    """Return a message as a line of JSON."""
    # Names of files may not be Unicode.
    return json.dumps(plain(message), separators=(",", ":"), default=list).encode() + b"\n"


def from_line(kind: type[T], line: bytes) -> T:
    """Undo `to_line`.

    Raises:
        ValueError: if it is no message of this kind.
    """
    try:
        data = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return typed(kind, data)
