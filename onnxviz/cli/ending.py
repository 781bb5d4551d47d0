"""How a command ends: its exit code, and one message for whatever went wrong."""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import typer

from onnxviz.core.errors import OnnxvizError, one_line, without_room

REFUSED = 2
INTERNAL = 70
INTERRUPTED = 130


def exit_code(call: Callable[[], object]) -> int:
    """Do a command's work and return its exit code; a user's mistake is one message, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # signs that its encoding lacks
    try:
        call()
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        raise
    except OnnxvizError as error:
        return _refused(error)
    except Exception as error:
        refusal = without_room(error)
        return _fault(error) if refusal is None else _refused(refusal)
    return 0


def interrupted() -> typer.Exit:
    """Say that the user interrupted a command, and return what ends it."""
    from onnxviz.cli.show import consoles, show_lines

    show_lines(consoles()[1], ["\ninterrupted"])
    return typer.Exit(INTERRUPTED)


def _refused(error: OnnxvizError) -> int:
    from onnxviz.cli.show import consoles, show_error

    show_error(consoles()[1], error)
    return REFUSED


def _fault(error: Exception) -> int:
    from onnxviz.cli.show import consoles, show_lines

    _, errors = consoles()
    log = _write_traceback(error)
    show_lines(errors, [f"onnxviz has a fault: {one_line(error)}"], "bold red")
    if log is not None:
        show_lines(errors, [f"  the details are in {log}; please report them"])
    return INTERNAL


def _write_traceback(error: BaseException) -> Path | None:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="onnxviz-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write("".join(traceback.format_exception(error)))
    except OSError:
        return None
    return Path(stream.name)
