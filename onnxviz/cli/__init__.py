"""The command line.

Exit codes: 0 everything holds; 1 an expectation does not hold (the report exists); 2 recipe, model, data or folder
refused, nothing ran; 3 some jobs failed (the report exists and says so first); 70 a fault in onnxviz itself;
130 interrupted, to be continued by the same command.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from pathlib import Path

from rich.text import Text

from onnxviz.cli.commands import app
from onnxviz.cli.importing import EPILOG, import_command
from onnxviz.cli.show import consoles, safe, show_error
from onnxviz.errors import OnnxvizError

app.command("import", epilog=EPILOG)(import_command)

REFUSED = 2
INTERNAL = 70


def main() -> None:
    """Run the command line; a user's mistake is one message, never a traceback."""
    _, errors = consoles()
    try:
        # Patterns such as photos/*.jpg belong to the recipe, on Windows too.
        app(windows_expand_args=False)
    except OnnxvizError as error:
        show_error(errors, error)
        sys.exit(REFUSED)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        log = _write_traceback(error)
        text = f"onnxviz has a fault: {type(error).__name__}: {first}"
        errors.print(Text(safe(text), style="bold red"), soft_wrap=True)
        if log is not None:
            errors.print(Text(f"  the details are in {log}; please report them"), soft_wrap=True)
        sys.exit(INTERNAL)


def _write_traceback(error: BaseException) -> Path | None:
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="onnxviz-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as stream:
            stream.write("".join(traceback.format_exception(error)))
    except OSError:
        return None
    return Path(stream.name)
