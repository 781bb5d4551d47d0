"""What memory onnxviz takes itself, before it reads any model: a limit below that suffices for none."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping

from onnxviz.confinement import clean_environment
from onnxviz.core.errors import MemoryLimitError
from onnxviz.core.memory import more_memory, show_bytes

DOUBTFUL = 1 << 29
"""Smaller limits are held against what onnxviz takes; to load torch takes about half of this."""
_SECONDS = 120.0
_SCRIPT = """\
import sys
sys.path[:] = {path!r}
import {module}
from onnxviz.core.memory import data_memory, resident_memory
print(data_memory() or resident_memory() or 0)
"""


def require_enough(
    limit: int | None, *, compute: bool, place: str = "", environment: Mapping[str, str] | None = None
) -> None:
    """Refuse a limit on a process' memory that is too small for any model.

    Args:
        limit: bytes, or None for no limit.
        compute: whether the process loads torch and ONNX Runtime.
        place: what is read, for the message.
        environment: of the process; this one's if None.

    Raises:
        MemoryLimitError: naming the least that is needed, and a size to try.
    """
    if limit is None or limit >= DOUBTFUL:
        return
    own = own_memory(compute=compute, environment=environment)
    if own is not None and own > limit:
        raise MemoryLimitError(
            f"the memory limit of {show_bytes(limit)} is too small for any model: at least about {show_bytes(own)} are "
            "needed, which onnxviz takes itself",
            where=place,
            remedy=more_memory(limit, needed=2 * own),
        )


def own_memory(*, compute: bool, environment: Mapping[str, str] | None = None) -> int | None:
    """Return the bytes that a process of onnxviz takes before it reads a model, None if they cannot be measured."""
    script = _SCRIPT.format(path=sys.path, module="onnxviz.model.model" if compute else "onnxviz.graph")
    made = clean_environment(os.environ) if environment is None else environment
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(
            [sys.executable, "-P", "-c", script], env=made, capture_output=True, timeout=_SECONDS, check=True
        )
        return int(done.stdout.split()[-1])
    return None
