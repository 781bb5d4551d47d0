"""The report's scripts: their types, their style, and that they know what Python writes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.report_types import declarations

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "report_scripts"


def npm() -> str | None:
    """Return npm: what `make scripts` has put beside Python, or the machine's own."""
    beside = Path(sys.executable).parent / "npm"
    return str(beside) if beside.is_file() else shutil.which("npm")


def test_the_types_are_those_that_python_writes() -> None:
    assert (FOLDER / "island.d.ts").read_text("utf-8") == declarations(), "run `make scripts`"


def test_every_type_that_is_used_is_declared() -> None:
    text = re.sub(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"', "", declarations(), flags=re.DOTALL)
    declared = set(re.findall(r"(?:interface|type) (\w+)", text))
    assert set(re.findall(r"\b[A-Z]\w*", text)) - declared <= {"Array", "Record"}


@pytest.mark.skipif(
    npm() is None or not (FOLDER / "node_modules").is_dir(),
    reason="node or the packages that check the report's scripts are missing: `make scripts` installs them",
)
@pytest.mark.parametrize("check", ["types", "lint", "style"])
def test_the_scripts_pass(check: str) -> None:
    program = npm()
    assert program
    done = subprocess.run(
        [program, "--prefix", str(FOLDER), "run", "--silent", check], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
