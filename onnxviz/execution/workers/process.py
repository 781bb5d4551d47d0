"""A worker process as whoever starts it sees it: asked, listened to, watched and ended."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import importlib
import json
import os
import pickle
import pkgutil
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar

from onnxviz.confinement import Limits, clean_environment
from onnxviz.core.devices import Device, thread_count, visible_gpus
from onnxviz.core.errors import MemoryLimitError, ModelError, OnnxvizError, beginning, shorten
from onnxviz.core.memory import data_memory, more_memory, resident_memory, show_bytes
from onnxviz.execution.workers.begin import NO_MEMORY
from onnxviz.execution.workers.messages import Message, from_line, typed

T = TypeVar("T")

DeathKind = Literal["memory", "time", "crash"]
Progress: TypeAlias = Callable[[int, int, str], None]
Heard: TypeAlias = "queue.SimpleQueue[tuple[Process, bytes | None]]"

LOOK_EVERY = 0.2
"""Seconds between two looks at what a worker takes."""
START_SECONDS = 120.0
"""What a worker may take to load its libraries, on a busy machine."""
DOUBTFUL = 1 << 29
"""Smaller limits of memory are held against what onnxviz takes; to load torch takes about half of this."""
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP")
_DISTRUST = "do not use this file unless you know where it comes from"
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""With 1 the library that NumPy multiplies with starts no threads when it is loaded, which Landlock would not bind."""
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(256 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
"""How many freed bytes glibc keeps, and from how many on a tensor is given back at once: see mallopt(3). What was given
back is cleared page by page when it is wanted again, which took up to a fifth of passes with gradients."""
_NO_THREAD_MEMORY = 127
"""By which glibc ends a process that has none for a thread's own variables."""
_SCRIPT = Path(__file__).with_name("begin.py")
_LINE_BYTES = 256 << 20
"""Longest message that a worker may send; the schedule of 100,000 jobs has some 50 MB."""
_KEPT_BYTES = 16 << 10
"""How much of what a worker says on standard error is kept, for the cause of its death."""
_NO_MEMORY_SIGNS = (
    "MemoryError",
    "bad_alloc",
    "bad allocation",
    "Cannot allocate memory",
    "can't allocate memory",
    "Memory allocation still failed",  # OpenBLAS
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a worker process, and what it may do.

    Attributes:
        do: the function that it calls, as "package.module:function".
        arguments: its arguments.
        write: folders that it may write in.
        read: files and folders that it needs, wherever they lie.
        first: a function that is called before the process is confined, and its arguments, which are JSON data. It is
            given the limits too, and returns them tightened, what must be read beside `read`, and more arguments.
        given: what else the function is given: "parent", the `begin.Parent` whose orders it takes, "progress", or "".
    """

    do: str
    arguments: Mapping[str, Any]
    limits: Limits
    device: Device = "cpu"
    write: Sequence[Path] = ()
    read: Sequence[Path] = ()
    first: tuple[str, Mapping[str, Any]] | None = None
    given: Literal["", "parent", "progress"] = ""

    def line(self) -> bytes:
        """Return it as the first line that a worker reads, with the paths of modules."""
        parts = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)} | {
            "path": sys.path,
            "arguments": base64.b64encode(pickle.dumps(dict(self.arguments))).decode(),
            "limits": dataclasses.asdict(self.limits),
        }
        return json.dumps(parts, default=str).encode() + b"\n"


def environment_of(device: Device, temporary: Path, worker: int = 0, size: int = 1) -> dict[str, str]:
    """Return the environment of one of so many workers on this machine."""
    made = _KEPT_MEMORY | clean_environment(os.environ)
    made |= {"TMPDIR": str(temporary), "OMP_WAIT_POLICY": "PASSIVE"}
    if device == "cuda":
        gpus = visible_gpus()
        made["CUDA_VISIBLE_DEVICES"] = gpus[worker % len(gpus)] if gpus else ""
        made["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    else:
        made["OMP_NUM_THREADS"] = str(max(1, thread_count() // size))
    return made


class Process:
    """A child process with its pipes; what it says comes into a queue, line by line, and None at its end."""

    def __init__(
        self, request: Request, environment: Mapping[str, str], heard: Heard, index: int = 0, lock: int | None = None
    ) -> None:
        self.index = index
        self.limits = request.limits
        self.tasks: deque[float] = deque()
        self.ended_for: tuple[DeathKind, str] | None = None
        self.grace = START_SECONDS
        self._heard = heard
        self._said = b""
        kept = () if lock is None or os.name != "posix" else (lock,)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=os.name == "posix",  # an interruption by the keyboard concerns the parent only
            pass_fds=kept,
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._threads = [
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._overhear, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.tell(request.line())

    def tell(self, line: bytes) -> None:
        """Send a line; that nobody listens any more is found out by listening."""
        with contextlib.suppress(OSError, ValueError):
            self._stdin.write(line)
            self._stdin.flush()

    def busy_for(self, now: float) -> float:
        """Return the seconds since the first of its tasks began; 0 without one."""
        return now - self.tasks[0] if self.tasks else 0.0

    def loaded(self) -> None:
        """Take note that it has loaded its libraries: the time for its task begins now."""
        self.grace = 0.0
        if self.tasks:
            self.tasks[0] = time.monotonic()

    def end_task(self) -> None:
        """Take note that the first task has ended; the next begins now."""
        if self.tasks:
            self.tasks.popleft()
        if self.tasks:
            self.tasks[0] = time.monotonic()

    def watch(self, now: float) -> None:
        """End it if it takes more memory or time than it may."""
        if self.ended_for is not None:
            return
        memory, seconds, taken = self.limits.memory, self.limits.seconds, resident_memory(self.pid)
        if memory is not None and taken is not None and taken > memory:
            self.end("memory", f"needed more than the memory limit of {show_bytes(memory)}")
        elif seconds is not None and self.busy_for(now) > seconds + self.grace:
            self.end("time", f"took longer than the time limit of {seconds:g} s")

    def end(self, kind: DeathKind, cause: str) -> None:
        self.ended_for = (kind, cause)
        self._process.kill()

    def kill(self) -> None:
        """Kill it, without waiting until it is gone."""
        self._process.kill()

    def reap(self) -> tuple[int, str]:
        """Wait until it is gone; returns its status and the last that it said."""
        status = self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        with contextlib.suppress(OSError):
            self._stdin.close()
        return status, self._said.decode("utf-8", "replace")

    def _listen(self, stream: BinaryIO) -> None:
        with stream:
            while line := stream.readline(_LINE_BYTES):
                if not line.endswith(b"\n"):
                    break
                self._heard.put((self, line))
        if self._process.poll() is None and self.ended_for is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)  # it has closed its pipe, so it is about to end
            if self._process.poll() is None:
                self.end("crash", "sent a message that is too long")
        self._heard.put((self, None))

    def _overhear(self, stream: BinaryIO) -> None:
        with stream:
            while part := stream.read1(4096):  # type: ignore[attr-defined]
                self._said = (self._said + part)[-_KEPT_BYTES:]


def ran_out_of_memory(status: int, said: str) -> bool:
    """Whether a worker ended because it got no more memory, by its exit status and the last that it said."""
    return status in (NO_MEMORY, _NO_THREAD_MEMORY) or any(sign in said for sign in _NO_MEMORY_SIGNS)


def last_line(said: str) -> str:
    """Return the last line that somebody said, which in a traceback is the cause."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return beginning(lines[-1]) if lines else "nothing"


def signal_in_words(number: int) -> str:
    """Return the number and the name of a signal."""
    with contextlib.suppress(ValueError):
        return f"signal {number}, {signal.Signals(number).name}"
    return f"signal {number}"


# --- one request to a process of its own ------------------------------------------------------------------------------


def ask(request: Request, place: str, kind: type[T], *, compute: bool = False, progress: Progress | None = None) -> T:
    """Return what a worker process answers; within a program that opens models itself, what this one does.

    Args:
        request: what is asked; the process may write in a folder of its own for temporary files.
        place: what is read, for messages.
        kind: the type of the answer, a dataclass or a plain type.
        compute: whether torch and ONNX Runtime are loaded, whatever is read.
        progress: called with steps done, all steps and what it is at; the function is given the like.

    Raises:
        OnnxvizError: as the function raises it; if the process crashed, or its memory did not suffice.
        RuntimeError: if the function raised anything else.
    """
    if _within_another_program():
        arguments = dict(request.arguments) | ({"progress": progress} if progress is not None else {})
        if request.first is not None:
            arguments |= pkgutil.resolve_name(request.first[0])(request.limits, **request.first[1])[2]
        made: T = pkgutil.resolve_name(request.do)(**arguments)
        return made
    if request.first is None:
        require_enough(request.limits.memory, compute=compute, place=place)
    return _ask_a_process(request, place, kind, progress)


def _ask_a_process(request: Request, place: str, kind: type[T], progress: Progress | None = None) -> T:
    folder = Path(tempfile.mkdtemp(prefix="onnxviz-"))
    variables = environment_of(request.device, folder)
    if request.first is not None:
        variables |= dict.fromkeys(_THREADS, "1")
    heard: Heard = queue.SimpleQueue()
    process = None
    try:
        request = dataclasses.replace(request, write=[folder], given="progress" if progress is not None else "")
        process = Process(request, variables, heard)
        return _answer(process, heard, place, kind, progress)
    finally:
        if process is not None:
            process.kill()
            process.reap()
        shutil.rmtree(folder, ignore_errors=True)


def _within_another_program() -> bool:
    """Whether this is no plain command but part of a program that opens models itself: a notebook, a test."""
    own = sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
    return not own or any(name in sys.modules for name in ("torch", "onnxruntime"))


def _answer(process: Process, heard: Heard, place: str, kind: type[T], progress: Progress | None) -> T:
    memory = process.limits.memory
    while True:
        try:
            _, line = heard.get(timeout=LOOK_EVERY)  # or an interruption would wait, on Windows
        except queue.Empty:
            continue
        if line is None:
            raise _death(process, place, memory)
        try:
            said = from_line(Message, line)
            if said.answer is not None:
                return typed(kind, said.answer)
        except ValueError as error:  # it may have been taken over by the model
            told = f"{shorten(repr(line), 80)} ({beginning(str(error), 200)})"
            what = f"the process that reads it sent a message that makes no sense: {told}"
            raise ModelError(what, where=place, remedy=_DISTRUST) from None
        if said.refused is not None:
            raise said.refused.error()
        memory = said.memory or memory
        if said.progress is not None and progress is not None:
            progress(*said.progress)


def _death(process: Process, place: str, memory: int | None) -> Exception:
    """Return what to say of a process that ended without an answer."""
    status, said = process.reap()
    limit, number = f"the memory limit of {show_bytes(memory or 0)}", f"(signal {-status})"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else ""
    short = ""
    if ran_out_of_memory(status, said):
        short = f"needed more than {limit}"
    elif name in ("SIGKILL", "SIGABRT") and process.ended_for is None:
        how = "the system ended it" if name == "SIGKILL" else "the libraries that read the model gave up"
        short = f"{how} {number}, most likely because it needed more than there was, or than {limit}"
    elif name in _CRASHES and memory is not None and memory < DOUBTFUL:  # torch crashes in many ways without memory
        short = f"the libraries that read the model crashed {number}, most likely because {limit} does not suffice"
    if short:
        return MemoryLimitError(short, where=place, remedy=f"{more_memory(memory or 0)}, if you trust the file")
    if status == 1:
        fault = RuntimeError(f"in a worker process: {last_line(said)}")
        fault.add_note(said)
        return fault
    what = f"the libraries that read the model crashed on it {number}"
    if process.ended_for is not None:
        what = f"the process that reads it {process.ended_for[1]}"
    elif status >= 0:
        what = f"the libraries that read the model ended their process (exit code {status})"
    elif name not in _CRASHES:
        what = f"it was ended from outside {number}"
    return ModelError(what, where=place, remedy=_DISTRUST)


# --- what onnxviz takes itself ----------------------------------------------------------------------------------------


def require_enough(limit: int | None, *, compute: bool, place: str = "") -> None:
    """Refuse a limit on a process' memory that is too small for any model.

    Args:
        limit: bytes, or None for no limit.
        compute: whether the process loads torch and ONNX Runtime.
        place: what is read, for the message.

    Raises:
        MemoryLimitError: naming the least that is needed, and a size to try.
    """
    if limit is None or limit >= DOUBTFUL:
        return
    own = own_memory(compute=compute)
    if own is not None and own > limit:
        raise MemoryLimitError(
            f"the memory limit of {show_bytes(limit)} is too small for any model: at least about {show_bytes(own)} are "
            "needed, which onnxviz takes itself",
            where=place,
            remedy=more_memory(limit, needed=2 * own),
        )


def own_memory(*, compute: bool) -> int | None:
    """Return the bytes that a worker process takes before it reads a model, None if they cannot be measured."""
    module = "onnxviz.model.model" if compute else "onnxviz.graph"
    with contextlib.suppress(OnnxvizError, RuntimeError, OSError):
        request = Request(f"{__name__}:taken_with", {"module": module}, Limits())
        return _ask_a_process(request, "", int) or None
    return None


def taken_with(module: str) -> int:
    """Return the bytes that this process takes with a module, 0 if they are not known."""
    importlib.import_module(module)
    return data_memory() or resident_memory() or 0
