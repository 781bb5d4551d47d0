"""The command line.

Exit codes: 0 everything holds; 1 an expectation does not hold (the report exists), or `concepts check` finds something
broken; 2 recipe, model, data or folder refused, nothing ran; 3 some jobs failed (the report exists and says so first);
70 a fault in onnxviz itself; 130 interrupted, to be continued by the same command. `inspect` and `import
--keep-different`: 3 if what was made of the model gives other values than the model.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a user's mistake is one message, never a traceback."""
    try:
        code = _main()
    except KeyboardInterrupt:  # also while modules are loaded, which takes a second on a busy machine
        sys.stderr.write("\ninterrupted\n")
        code = _INTERRUPTED
    sys.exit(code)


def _main() -> int:
    from onnxviz.cli.commands import app
    from onnxviz.cli.ending import exit_code
    from onnxviz.cli.importing import EPILOG, import_command

    if not any(command.callback is import_command for command in app.registered_commands):
        app.command("import", epilog=EPILOG)(import_command)
    # Patterns such as photos/*.jpg belong to the recipe, on Windows too.
    return exit_code(lambda: app(windows_expand_args=False))
