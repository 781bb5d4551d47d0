"""Bounds on memory and file size that the operating system counts for a process (`man 2 setrlimit`)."""

from __future__ import annotations

import contextlib
import signal
import sys

from onnxviz.confinement.values import Defence

if sys.platform != "win32":
    import resource


def limit_memory(limit: int | None, *, cuda: bool) -> Defence:
    """Bound the private writable memory of this process.

    RLIMIT_DATA counts what a process may fill (heap, arrays, stacks), not what it reserves or maps from files, so that
    libraries of gigabytes do not count. Memory shared with other processes is not counted.
    """
    if limit is None:
        return Defence("memory", active=False, reason="no limit was set")
    if cuda:
        return Defence("memory", active=False, reason="CUDA reserves more memory than it uses: a limit would stop it")
    if sys.platform != "linux":
        return Defence("memory", active=False, reason="only Linux bounds the private memory of a process")
    return _limit("memory", "RLIMIT_DATA", limit)


def limit_file_size(limit: int | None) -> Defence:
    """Bound the size in bytes of each file that this process writes."""
    if limit is None:
        return Defence("file size", active=False, reason="no limit was set")
    if sys.platform == "win32":
        return Defence("file size", active=False, reason="Windows does not bound the files of a process")
    # The signal would end the process; ignored, writing fails with an error that can be told.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return _limit("file size", "RLIMIT_FSIZE", limit)


def forbid_core_dumps() -> None:
    """Let a crash leave no copy of the memory behind."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit(name: str, kind: str, limit: int) -> Defence:
    if sys.platform == "win32":
        raise AssertionError("asked for on systems with resource limits only")
    number: int = getattr(resource, kind)
    _, hard = resource.getrlimit(number)
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    try:
        resource.setrlimit(number, (bound, bound))
    except (OSError, ValueError, OverflowError) as error:
        return Defence(name, active=False, reason=f"{kind} of {limit} bytes was refused: {error}")
    return Defence(name, active=True, how=f"{kind} {_size(bound)}")


def _size(count: int) -> str:
    if count < 1 << 20:
        return f"{count} bytes"
    unit, divisor = ("GiB", 1 << 30) if count >= 1 << 30 else ("MiB", 1 << 20)
    return f"{count / divisor:.1f} {unit}"
