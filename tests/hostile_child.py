"""A process of its own for a hostile file: memory and time are measured, and a crash is seen."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

SECONDS = 20.0
"""Processor time that one file may take through an entry point."""
PATIENCE = 120.0
"""Processor time after which a process is ended, or time by the clock in which it takes none."""
GROWTH = 1_500_000_000
"""Bytes of resident memory that a file may add."""
GROWTH_COMPARED = 2_500_000_000
"""The same where layers of `limits.COMPARED_BYTES` are held several times, to compare them with ONNX Runtime."""
_ADDRESS_SPACE = 6 << 30
"""Bytes of address space that a file may add: what asks for more fails there, and is seen."""
_RUN_ELEMENTS = 1 << 20
"""Inputs of up to so many elements are made up, to run a network."""


@dataclass
class Outcome:
    """What became of one file.

    Attributes:
        name: of the attack.
        said: entry point -> "" where it worked, or the message of the error tree.
        faults: what must not happen: other exceptions, tracebacks, control characters, time or memory above the bounds.
        seconds: of processor time, all entry points together.
        growth: bytes of resident memory above those at the start.
    """

    name: str
    said: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    growth: int = 0


def memory(field_name: str) -> int:
    """Return VmRSS, VmHWM or VmSize of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    return 0


def warm() -> None:
    """Load what every entry point loads, once, before processes are forked from this one."""
    import onnxruntime  # noqa: F401
    import torch

    torch.set_num_threads(1)


def judge(outcome: Outcome, entry: str, call: Callable[[], Any], allowed: tuple[type[Exception], ...] = ()) -> Any:
    """Call an entry point and note what it did."""
    from onnxviz.core.errors import OnnxvizError

    try:
        result = call()
    except OnnxvizError as error:
        message = str(error)
        outcome.said[entry] = message or "(no message)"
        if not message or len(message) > 4000 or not all(c.isprintable() or c == "\n" for c in message):
            outcome.faults.append(f"{entry}: a message that is none: {message[:300]!r}")
        return None
    except allowed as error:
        outcome.said[entry] = f"{type(error).__name__}: {error}"[:500]
        return None
    except Exception as error:
        trace = "".join(traceback.format_exception(error)[-6:])[-2500:]
        outcome.faults.append(f"{entry}: {type(error).__name__}: {str(error)[:300]}\n{trace}")
        return None
    outcome.said[entry] = ""
    return result


def attack(name: str, path: Path, entries: Sequence[str]) -> Outcome:
    """Bring one file through entry points."""
    outcome = Outcome(name)
    start, base = time.process_time(), memory("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for entry in entries:
        before = time.process_time()
        _ENTRIES[entry](outcome, path)
        if (spent := time.process_time() - before) > SECONDS:
            outcome.faults.append(f"{entry}: {spent:.0f} s")
    outcome.seconds = time.process_time() - start
    outcome.growth = memory("VmHWM") - base
    if outcome.growth > (GROWTH_COMPARED if "inspect" in entries else GROWTH):
        outcome.faults.append(f"{outcome.growth >> 20} MiB of memory")
    return outcome


def _open(outcome: Outcome, path: Path) -> None:
    import onnxviz

    judge(outcome, "open", lambda: onnxviz.open_model(path))


def _torch(outcome: Outcome, path: Path) -> None:
    import onnxviz

    network = judge(outcome, "torch", lambda: onnxviz.to_torch(path))
    if network is not None:
        _run(outcome, path, network)


def _proto(outcome: Outcome, path: Path) -> None:
    import onnx

    import onnxviz

    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except Exception:  # what does not parse is nobody's ModelProto
        return
    judge(outcome, "proto", lambda: onnxviz.to_torch(proto))


def _run(outcome: Outcome, path: Path, network: Any) -> None:
    """Run a converted network on inputs of the declared shapes; torch may say that shapes do not fit."""
    import torch

    from onnxviz.graph.model_file import read_model
    from onnxviz.graph.shapes import type_of
    from onnxviz.model.parity import made_up_inputs

    proto = read_model(path).proto
    shapes = [type_of(value).shape or () for value in proto.graph.input]
    if sum(math.prod(size if isinstance(size, int) else 1 for size in shape) for shape in shapes) > _RUN_ELEMENTS:
        return

    class _Shell:
        def __init__(self) -> None:
            self.proto, self.file, self.names = proto, path.name, {}

    inputs = judge(outcome, "inputs", lambda: made_up_inputs(_Shell()))  # type: ignore[arg-type]
    if inputs is None:
        return

    def call() -> None:
        with torch.no_grad():
            network(*(torch.from_numpy(array) for array in inputs))

    # A network of to_torch is plain torch: tensors that do not fit may be refused in torch's own words.
    judge(outcome, "run", call, (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError))


def _activations(outcome: Outcome, path: Path) -> None:
    import torch

    import onnxviz

    def call() -> None:
        model = onnxviz.load(path, device="cpu")
        height, width = model.input_size
        if height * width > _RUN_ELEMENTS:
            return
        if model.layers:
            model.activations(torch.zeros(1, 3, height, width), [model.layers[-1]])

    judge(outcome, "activations", call)


def _inspect(outcome: Outcome, path: Path) -> None:
    """The command line, in this process; `test_hostile_files` starts some of it as a user does."""
    from onnxviz.cli import main

    kept = sys.argv
    sys.argv = ["onnxviz", "inspect", str(path)]
    streams = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException as error:
        code = repr(error)
    finally:
        sys.argv = kept
    said, complained = (stream.getvalue() for stream in streams)
    outcome.said["inspect"] = complained if code else ""
    if code not in (0, 2, 3):  # 3: computed, and not what ONNX Runtime computes
        outcome.faults.append(f"inspect: exit {code}: {complained[-600:]}\n{_log(complained)}")
    if "Traceback" in said + complained:
        outcome.faults.append(f"inspect: a traceback: {(said + complained)[-600:]}")
    if not all(c.isprintable() or c == "\n" for c in said + complained):
        outcome.faults.append("inspect: control characters in what it prints")


def _log(complained: str) -> str:
    """Return the end of the traceback that the command line put aside."""
    for word in complained.split():
        if word.rstrip(";").endswith(".log"):
            with contextlib.suppress(OSError):
                return Path(word.rstrip(";")).read_text(encoding="utf-8", errors="replace")[-2500:]
    return ""


_ENTRIES: dict[str, Callable[[Outcome, Path], None]] = {
    "open": _open,
    "torch": _torch,
    "proto": _proto,
    "activations": _activations,
    "inspect": _inspect,
}
ALL = tuple(_ENTRIES)


def _limited(pipe: Connection, files: Sequence[tuple[str, Path]], entries: Sequence[str]) -> None:
    """The process: it reports the file that it begins with, then what became of it."""
    warm()
    size = memory("VmSize") + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, path in files:
        pipe.send(name)
        pipe.send(attack(name, path, entries))
    pipe.send(None)


def bring(
    files: Sequence[tuple[str, Path]],
    entries: Sequence[str] = ALL,
    *,
    together: int = 1,
    seconds: float = PATIENCE,
) -> list[Outcome]:
    """Bring files through entry points, in processes that may die.

    Args:
        files: name and path of each.
        entries: which entry points.
        together: how many files one process does in a row.
        seconds: of processor time, after which a process is ended; so long it may also stand still.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnxruntime", "torch", "onnxviz", "onnxviz.cli.commands",
                                    "onnxviz.execution.inspection", "onnxviz.model.model",
                                    "onnxviz.execution.workers.local"])  # fmt: skip
    waiting = list(files)
    found: list[Outcome] = []
    while waiting:
        part, waiting = waiting[:together], waiting[together:]
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_limited, args=(theirs, part, tuple(entries)), daemon=True)
        process.start()
        theirs.close()
        done, died = _follow(ours, process, seconds)
        found += done
        if died is not None:
            found.append(died)
            names = [name for name, _ in part]
            waiting = part[names.index(died.name) + 1 :] + waiting
        process.join(5)
        if process.is_alive():
            process.kill()
    return found


def _follow(pipe: Connection, process: Any, seconds: float) -> tuple[list[Outcome], Outcome | None]:
    done: list[Outcome] = []
    current = ""
    while True:
        bound = seconds if current else 120.0  # the first process loads torch
        try:
            if not _answers(pipe, process, bound):
                process.kill()
                return done, Outcome(current, faults=[f"more than {bound:g} s"], seconds=bound)
            message = pipe.recv()
        except EOFError:
            process.join(10)
            return done, Outcome(current, faults=[f"the process died: exit code {process.exitcode}"])
        if message is None:
            return done, None
        if isinstance(message, Outcome):
            done.append(message)
        else:
            current = message


def _answers(pipe: Connection, process: Any, seconds: float) -> bool:
    """Wait for a message until the process has used so much processor time, or stood still for as long."""
    used = begun = _processor_time(process.pid)
    still = 0.0
    while not pipe.poll(1.0):
        before, used = used, _processor_time(process.pid)
        still = still + 1.0 if used - before < 0.01 else 0.0
        if used - begun > seconds or still > seconds:
            return False
    return True


def _processor_time(process: int) -> float:
    try:
        times = psutil.Process(process).cpu_times()
    except psutil.Error:
        return 0.0  # it has ended: the pipe says so
    return float(times.user + times.system)
