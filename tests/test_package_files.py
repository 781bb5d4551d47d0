"""What is installed: a package has all files that it reads, not only its modules."""

from __future__ import annotations

import tomllib
from pathlib import Path

import onnxviz

PACKAGE = Path(onnxviz.__file__).parent


def test_every_file_that_is_no_module_is_installed() -> None:
    settings = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["onnxviz"]
    there = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    installed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    assert there - installed == set()
    assert all(any(PACKAGE.glob(pattern)) for pattern in patterns), "a pattern that fits no file"
