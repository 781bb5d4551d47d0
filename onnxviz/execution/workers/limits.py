"""What a worker process is limited to: what the machine suggests, what a recipe tightens, what the user decides."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from onnxviz.confinement import Limits
from onnxviz.core.memory import show_bytes, total_memory
from onnxviz.recipe.schema import LimitsSettings

Number = TypeVar("Number", int, float)

MEMORY_SHARE = 0.8
"""Share of the machine's memory that all workers together may take."""
JOB_SECONDS = 2 * 3600.0
"""A job that takes longer hangs, or was meant to be several."""
FILE_BYTES = 4 << 30
NO_LIMIT = "no limit"
"""How a limit that there is not is called."""


def default_limits(workers: int = 1) -> Limits:
    """Return the limits of one of so many worker processes of this machine."""
    memory = int(MEMORY_SHARE * total_memory()) // max(1, workers)
    return Limits(memory=memory, seconds=JOB_SECONDS, file_bytes=FILE_BYTES)


def tightened(limits: Limits, recipe: LimitsSettings | None) -> Limits:
    """Return limits as a recipe tightens them; it can loosen none, since it may be a stranger's too.

    Args:
        limits: those of the machine or of the user.
        recipe: what the recipe says, if it says something.
    """
    if recipe is None:
        return limits
    return dataclasses.replace(
        limits,
        memory=_smaller(limits.memory, recipe.memory_bytes),
        seconds=_smaller(limits.seconds, recipe.job_seconds),
        file_bytes=_smaller(limits.file_bytes, recipe.file_bytes),
    )


def _smaller(given: Number | None, wanted: Number | None) -> Number | None:
    if given is None or wanted is None:
        return wanted if given is None else given
    return min(given, wanted)


def in_words(limits: Limits) -> tuple[tuple[str, str], ...]:
    """Return the limits by name, for the report."""
    return (
        ("memory", NO_LIMIT if limits.memory is None else show_bytes(limits.memory)),
        ("time for a job", NO_LIMIT if limits.seconds is None else f"{limits.seconds:g} s"),
        ("size of a file", NO_LIMIT if limits.file_bytes is None else show_bytes(limits.file_bytes)),
    )
