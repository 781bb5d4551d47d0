"""The command line in this process, watched: what it says, writes, starts, and how long and how much it takes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile_child import memory

SECONDS = 10.0
"""Processor time that a command may take which only plans."""
RUN_SECONDS = 60.0
"""The same for a run with small settings."""
PATIENCE = 12.0
"""By the clock a command may take so many times as long: machines of a test suite are shared."""
GROWTH = 600_000_000
"""Bytes of resident memory that a command may add."""
_ADDRESS_SPACE = 4 << 30
"""Bytes of address space that it may add: what asks for more fails there, and is seen."""
CODES = frozenset({0, 1, 2, 3})
"""What a user's mistake may end with; 70 is a fault of ours."""


@dataclass
class Said:
    """What became of one command.

    Attributes:
        code: the exit code, or the exception that came out.
        text: what it printed, errors last.
        faults: what must not happen, each beginning with what tells it from others.
        seconds: of processor time.
        growth: bytes of resident memory above those at the start.
    """

    code: Any = 0
    text: str = ""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    growth: int = 0


class TooLongError(BaseException):
    """Raised into a command that does not end; no `except Exception` stops it."""


@dataclass
class _Watch:
    """What the audit hook looks for; a hook cannot be taken away again, so there is one."""

    allowed: tuple[str, ...] = ()
    on: bool = False
    seen: list[str] = field(default_factory=list)


_watch = _Watch()
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": ((0, 2),), "os.rmdir": ((0, 1),), "os.remove": ((0, 1),), "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),), "os.symlink": ((1, 2),), "os.truncate": ((0, None),), "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),), "os.utime": ((0, 3),), "shutil.rmtree": ((0, 1),),
}  # fmt: skip
"""Events of changes: where in their arguments a path is, and the folder's descriptor that it may be relative to."""
_STARTS = frozenset({"os.system", "os.exec", "os.posix_spawn", "os.startfile", "webbrowser.open"})
_OTHERS = str(Path(tempfile.gettempdir(), "torchinductor_"))
"""Written by PyTorch itself when it is loaded, whatever the recipe says."""
_hooked: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watch.on:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = (flags or 0) & _WRITING or (isinstance(mode, str) and set(mode) & set("wax+"))
        # What `os.open` opens relative to a descriptor cannot be told from what lies here, so that is looked at after.
        if writes and (mode is not None or isinstance(path, int) or Path(os.fsdecode(path)).is_absolute()):
            _wrote(path)
    elif event in _CHANGES:
        for path, folder in _CHANGES[event]:
            _wrote(arguments[path], arguments[folder] if folder is not None and folder < len(arguments) else None)
    elif event in _STARTS or event in ("socket.connect", "socket.bind", "socket.sendto"):
        _watch.seen.append(f"{event} {arguments!r}"[:300])
    elif event == "subprocess.Popen" and str(arguments[0]) != sys.executable:
        _watch.seen.append(f"{event} {arguments[0]!r}"[:300])


def _wrote(path: Any, folder: Any = None) -> None:
    if isinstance(path, int) or path is None:
        return
    start = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else None
    place = str(Path(Path(start).readlink() if start else Path.cwd(), os.fsdecode(path)))
    place = os.path.normpath(place)  # not resolved: links are what they are
    if "__pycache__" in place or place == os.devnull or place.startswith(_OTHERS):
        return
    if not any(place == folder or place.startswith(folder + os.sep) for folder in _watch.allowed):
        _watch.seen.append(f"writes {place}"[:300])


@contextlib.contextmanager
def _watched(allowed: Sequence[Path]) -> Iterator[list[str]]:
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _watch.allowed = tuple(str(path.absolute()) for path in allowed)
    _watch.seen = []
    here = Path.cwd()
    before = set(here.iterdir())
    _watch.on = True
    try:
        yield _watch.seen
    finally:
        _watch.on = False
        _watch.seen += [f"writes {path}" for path in sorted(set(here.iterdir()) - before)]


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Bound the processor time, the time by the clock and the address space; what goes beyond raises."""

    def stop(number: int, frame: Any) -> None:
        raise TooLongError("".join(traceback.format_stack(frame)[-8:]))

    kept = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    limit = resource.getrlimit(resource.RLIMIT_AS)
    most = memory("VmSize") + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (most if limit[1] < 0 else min(most, limit[1]), limit[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limit)
        for number, handler in kept.items():
            signal.signal(number, handler)


def call(arguments: Sequence[str], out: Path | None = None, seconds: float = SECONDS) -> Said:
    """Call `onnxviz` with arguments as a user does, in this process.

    The folder where one stands must be one's own: what others write there would be taken for the command's doing.

    Args:
        arguments: behind the program's name.
        out: the only folder that may be written; None for no folder at all.
        seconds: of processor time.
    """
    from onnxviz.cli import main

    return watch(main, ["onnxviz", *arguments], out, seconds)


def watch(main: Callable[[], None], arguments: Sequence[str], out: Path | None, seconds: float) -> Said:
    """Call a command's main function and judge what it does; see `call`."""
    said = Said()
    streams = io.StringIO(), io.StringIO()
    kept, start, base = sys.argv, time.process_time(), memory("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    sys.argv = list(arguments)
    seen: list[str] = []
    try:
        with (
            contextlib.redirect_stdout(streams[0]),
            contextlib.redirect_stderr(streams[1]),
            _watched(() if out is None else (out,)) as seen,
            bounded(seconds),
        ):
            main()
    except SystemExit as end:
        said.code = end.code or 0
    except TooLongError as error:
        said.code = "too long"
        said.faults.append(f"more than {seconds:g} s {_frames(str(error))}\n{error}")
    except BaseException as error:
        said.code = repr(error)[:300]
        trace = "".join(traceback.format_exception(error))
        said.faults.append(f"{type(error).__name__} came out {_frames(trace)}\n{trace[-2500:]}")
    finally:
        sys.argv = kept
    said.seconds, said.growth = time.process_time() - start, memory("VmHWM") - base
    said.text = streams[0].getvalue() + streams[1].getvalue()
    _judge(said, seen)
    return said


def _judge(said: Said, seen: Sequence[str]) -> None:
    log = ""
    if said.code not in CODES and not said.faults:
        log = log_of(said.text)
        said.faults.append(f"exit {said.code} {_frames(log)}: {said.text[-300:]}\n{log[-2500:]}")
    said.faults += sorted({f"{item}" for item in seen if not (log and "onnxviz-" in item)})
    if "Traceback" in said.text:
        said.faults.append(f"a traceback is printed: {said.text[-1500:]}")
    if bad := {c for c in said.text if not (c.isprintable() or c == "\n")}:
        at = min(said.text.index(c) for c in bad)
        said.faults.append(
            f"control characters are printed: {sorted(bad)!r} in {said.text[max(0, at - 80) : at + 40]!r}"
        )
    if said.growth > GROWTH:
        said.faults.append(f"memory: {said.growth >> 20} MiB")


def log_of(printed: str) -> str:
    """Return the traceback that the command line put aside, and remove the file."""
    for word in printed.split():
        if word.rstrip(";").endswith(".log"):
            path = Path(word.rstrip(";"))
            with contextlib.suppress(OSError):
                text = path.read_text(encoding="utf-8", errors="replace")
                path.unlink()
                return text
    return ""


def _frames(trace: str) -> str:
    """Return the innermost place of the package in a traceback: what tells one fault from another."""
    last = re.findall(r'File "[^"]*?(onnxviz/[^"]+)", line (\d+), in (\S+)', trace)
    error = re.findall(r"^([A-Za-z_.]+(?:Error|Exception|Warning))\b", trace, re.MULTILINE)
    place = "{}:{} {}".format(*last[-1]) if last else "nowhere in the package"
    return f"[{error[-1] + ' ' if error else ''}{place}]"


def kind_of(fault: str) -> str:
    """Return what two findings of one fault share: what happened, and the innermost place of the package."""
    first, _, trace = fault.partition("\n")
    if "[" in first and "]" in first:
        return first[: first.index("]") + 1]
    place = f" {_frames(trace)}" if trace else ""
    return re.sub(r"\d+", "N", first)[:60] + place
