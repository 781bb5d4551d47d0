"""Commands that open a stranger's model do it in a copy of this process, which is confined and may die.

The copy is made before torch and ONNX Runtime are loaded, when this process has no threads that a copy would miss. It
shares the terminal, so that what it says appears as ever; a result comes back as a file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from onnxviz.cli.ending import INTERNAL, INTERRUPTED, exit_code, interrupted
from onnxviz.confinement import Limits, clean_environment, confine_calls, confine_start
from onnxviz.core.devices import DeviceChoice, require_device
from onnxviz.core.errors import MemoryLimitError, ModelError, RecipeError, SelectionError, beginning, shorten
from onnxviz.core.memory import is_out_of_memory, more_memory, parse_bytes, show_bytes, total_memory
from onnxviz.execution.workers.own_memory import DOUBTFUL, require_enough

MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory that reading the model may take: 4GiB, 500MB; 80 % of the machine's if not given.",
    ),
]

_PART = 0.8
"""What a command may take of the machine's memory."""
_NO_MEMORY = 86
"""Exit code by which the copy says that its memory did not suffice: to say it in words may take more than is left."""
_NO_THREAD_MEMORY = 127
"""By which glibc ends a process that has none for a thread's own variables."""
_SCREEN = ("TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
"""What the environment says of the terminal."""
_TEXT = "text"
_TEXT_BYTES = 4 << 20
"""Longest text that is taken from the copy."""
_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of prctl(2)."""
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP"}


@dataclass(frozen=True)
class Confinement:
    """What a command may do while it reads models.

    Attributes:
        place: what is read, for messages.
        read: files and folders that it needs, wherever they lie.
        memory: bytes that it may take.
        device: what it computes on; "auto" is decided in the copy, because CUDA does not survive copying.
        compute: it loads torch and ONNX Runtime.
    """

    place: str
    read: tuple[Path, ...]
    memory: int
    device: DeviceChoice
    compute: bool = False


def confinement(
    place: str,
    read: Sequence[Path],
    memory: str | None,
    device: DeviceChoice = "cpu",
    *,
    compute: bool = False,
    most: int | None = None,
) -> Confinement:
    """Return the confinement of a command.

    The arguments are its fields, `memory` as the option `--memory` says it, and `most`, a smaller limit in bytes that a
    recipe sets for itself.

    Raises:
        SelectionError: if `memory` is no size.
    """
    limit = int(_PART * total_memory()) if memory is None else size_of("--memory", memory, "write --memory 4GiB")
    limit = limit if most is None else min(limit, most)
    return Confinement(shorten(place), tuple(read), limit, device, compute)


def size_of(option: str, text: str, remedy: str) -> int:
    """Return the bytes that an option names.

    Raises:
        SelectionError: if it is no size, or 0.
    """
    try:
        size = parse_bytes(text)
    except ValueError as fault:
        raise SelectionError(f"{option}: {beginning(str(fault))}") from None
    if size < 1:
        raise SelectionError(f"{option}: nothing works with 0 bytes", remedy=remedy)
    return size


def beside(model: Path) -> list[Path]:
    """Return the folders that a model's file and its external data may lie in."""
    return [model.absolute().parent, Path(os.path.realpath(model)).parent]


def confined(call: Callable[[], str | None], bounds: Confinement) -> str:
    """Do the work of a command in a confined copy of this process; in this one, where it cannot be copied.

    The work may print, raise `typer.Exit` and return a text; this is returned, or "".

    Raises:
        typer.Exit: with the copy's exit code, where it is not 0; its errors are shown then.
        MemoryLimitError: if the memory did not suffice, or suffices for no model.
        ModelError: if the copy crashed.
    """
    if not _can_copy():
        require_device(bounds.device)
        return call() or ""
    require_enough(bounds.memory, compute=bounds.compute, place=bounds.place)
    folder = Path(tempfile.mkdtemp(prefix="onnxviz-"))
    kept = False
    try:
        code = _run(call, bounds, folder)
        kept = code == INTERNAL  # the details of a fault of ours
        _judge(code, bounds)
        return _read_text(folder / _TEXT)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _can_copy() -> bool:
    """Whether the work may go to a copy: a plain command, whose output is the process's own and which has no threads.

    Within another program (a notebook, a test) a copy's words would not arrive, and its threads would be missing.
    """
    own = sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
    loaded = any(name in sys.modules for name in ("torch", "onnxruntime"))
    return hasattr(os, "fork") and own and not loaded and threading.active_count() == 1


def _run(call: Callable[[], str | None], bounds: Confinement, folder: Path) -> int:
    """Return the exit code of the copy, or the negative number of the signal that ended it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or the copy would say it again
    with _interrupts_held():
        child = os.fork()
        if child == 0:
            _run_in_child(call, bounds, folder)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException as fault:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
        if isinstance(fault, KeyboardInterrupt):
            return -signal.SIGINT
        raise


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep an interrupt waiting until it is known which process is which."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _judge(code: int, bounds: Confinement) -> None:
    """Say what became of the copy."""
    if code == 0:
        return
    if code in (-signal.SIGINT, INTERRUPTED):
        raise interrupted()
    limit = f"the memory limit of {show_bytes(bounds.memory)}"
    more = f"{more_memory(bounds.memory)}, if you trust the file"
    if code in (_NO_MEMORY, _NO_THREAD_MEMORY):
        raise MemoryLimitError(f"needed more than {limit}", where=bounds.place, remedy=more)
    if code > 0:
        raise typer.Exit(code)
    name = signal.Signals(-code).name if -code in set(signal.Signals) else ""
    if name in ("SIGKILL", "SIGABRT"):
        how = "the system ended it" if name == "SIGKILL" else "the libraries that read the model gave up"
        raise MemoryLimitError(
            f"{how} (signal {-code}), most likely because it needed more than there was, or than {limit}",
            where=bounds.place,
            remedy=more,
        )
    if name in _CRASHES and bounds.memory < DOUBTFUL:  # torch without memory crashes in many ways
        raise MemoryLimitError(
            f"the libraries that read the model crashed (signal {-code}), most likely because {limit} does not suffice",
            where=bounds.place,
            remedy=more,
        )
    what = f"the libraries that read the model crashed on it (signal {-code})"
    if name not in _CRASHES:
        what = f"it was ended from outside (signal {-code})"
    raise ModelError(what, where=bounds.place, remedy="do not use this file unless you know where it comes from")


def _read_text(path: Path) -> str:
    """Return what the copy returned; it may be anything, so only a plain file of a sensible length is read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, encoding="utf-8", errors="replace") as stream:
        return stream.read(_TEXT_BYTES)


# --- the copy ---------------------------------------------------------------------------------------------------------


def _run_in_child(call: Callable[[], str | None], bounds: Confinement, folder: Path) -> NoReturn:
    code = INTERNAL
    try:
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # in the background of a script it stays ignored
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # who waits says that it was interrupted
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        _end_with_parent()
        _change_environment(bounds, folder)
        code = exit_code(lambda: _work(call, bounds, folder))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BrokenPipeError:
        code = 1  # nobody reads on, for example `| head`
    except MemoryError:
        code = _NO_MEMORY
    finally:
        # Not `sys.exit`: what this process left to do at its end is the parent's to do.
        os._exit(code)


def _change_environment(bounds: Confinement, folder: Path) -> None:
    """Leave no secrets in the environment, and files of libraries in a folder that is removed."""
    kept = clean_environment(os.environ, keep=_SCREEN)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    if bounds.compute:  # otherwise nothing is loaded that writes there, and a recipe's ~ means the user's
        os.environ["HOME"] = str(folder)


def _work(call: Callable[[], str | None], bounds: Confinement, folder: Path) -> None:
    limits = Limits(memory=bounds.memory)
    try:
        device = require_device(bounds.device)
        confine_start(limits, write=[folder], read=bounds.read, device=device)
        if bounds.compute:
            _load_libraries()
        confine_calls(limits, device=device)
        text = call()
        if text:
            (folder / _TEXT).write_text(text, encoding="utf-8")
    except RecipeError:
        raise  # with its place; a fault that is a want of memory names the limit
    except Exception as fault:
        if is_out_of_memory(fault):
            os._exit(_NO_MEMORY)
        raise


def _load_libraries() -> None:
    """Load what computes before system calls are taken away that loading may need."""
    from onnxviz.execution.workers.torch_setup import load_torch

    load_torch()
    import onnxruntime  # noqa: F401

    import onnxviz.model.model  # noqa: F401


def _end_with_parent() -> None:
    """Let the system end this process when the one that waits for it is killed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
