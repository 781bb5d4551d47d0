"""What a worker process is limited to: what the machine suggests, what a recipe tightens, what the user decides."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from onnxviz.confinement import Limits
from onnxviz.core.memory import show_bytes, total_memory

if TYPE_CHECKING:
    from onnxviz.recipe.schema import LimitsSettings

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
    """Return limits as a recipe tightens them; it can loosen none, since it may be a stranger's too."""
    if recipe is None:
        return limits
    wanted = {"memory": recipe.memory_bytes, "seconds": recipe.job_seconds, "file_bytes": recipe.file_bytes}
    given = dataclasses.asdict(limits)
    tighter = {name: size for name, size in wanted.items() if size and (given[name] is None or size < given[name])}
    return dataclasses.replace(limits, **tighter)  # type: ignore[arg-type]


def in_words(limits: Limits) -> tuple[tuple[str, str], ...]:
    """Return the limits by name, for the report."""
    return (
        ("memory", NO_LIMIT if limits.memory is None else show_bytes(limits.memory)),
        ("time for a job", NO_LIMIT if limits.seconds is None else f"{limits.seconds:g} s"),
        ("size of a file", NO_LIMIT if limits.file_bytes is None else show_bytes(limits.file_bytes)),
    )
