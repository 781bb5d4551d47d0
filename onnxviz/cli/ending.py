"""How a command ends: its exit code, and one message for whatever went wrong."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import typer
from rich.text import Text

from onnxviz.cli.show import consoles, safe, show_error
from onnxviz.errors import OnnxvizError

REFUSED = 2
INTERNAL = 70
INTERRUPTED = 130


def exit_code(call: Callable[[], object]) -> int:
    """Do a command's work and return its exit code; a user's mistake is one message, never a traceback."""
    _, errors = consoles()
    try:
        call()
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BrokenPipeError:
        raise
    except OnnxvizError as error:
        show_error(errors, error)
        return REFUSED
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        log = _write_traceback(error)
        text = f"onnxviz has a fault: {type(error).__name__}: {first}"
        errors.print(Text(safe(text), style="bold red"), soft_wrap=True)
        if log is not None:
            errors.print(Text(f"  the details are in {log}; please report them"), soft_wrap=True)
        return INTERNAL
    return 0


def _write_traceback(error: BaseException) -> Path | None:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="onnxviz-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write("".join(traceback.format_exception(error)))
    except OSError:
        return None
    return Path(stream.name)
