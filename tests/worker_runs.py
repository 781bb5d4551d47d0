"""Runs in processes of their own, with an analysis that goes wrong on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE = 1200.0
"""Seconds by the clock after which something hangs, and for nothing else: machines are shared, and some are slow."""
HELD = "ONNXVIZ_TRIAL_HELD"
"""Environment variable: from this number on, jobs of the trial analysis never end by themselves."""
PLUGINS = Path(__file__).parent / "plugins"
BASE = """\
version: 1
title: Trial
model: {builtin: scenes}
analyses:
"""


def install(folder: Path) -> dict[str, str]:
    """Install the trial analysis for processes that get the environment that is returned."""
    about = folder / "plugin" / "trial-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: trial\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[onnxviz.analyses]\ntrial = trial:Trial\n")
    paths = [str(PLUGINS), str(about.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ONNXVIZ_WORKERS": "1"}


def write_recipe(folder: Path, *analyses: str, base: str = BASE) -> Path:
    """Write a recipe with trial analyses, each given as the inside of a YAML mapping."""
    lines = [f"  t{number}: {{kind: trial, {inside}}}\n" for number, inside in enumerate(analyses)]
    path = folder / "trial.yaml"
    path.write_text(base + "".join(lines))
    return path


def command(recipe: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of a run."""
    return [sys.executable, "-m", "onnxviz", "run", str(recipe), "--out", str(out), "--no-open", *options]


def run(
    folder: Path, recipe: Path, *options: str, out: str = "run", timeout: float = PATIENCE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a recipe to its end."""
    return subprocess.run(
        command(recipe, folder / out, *options),
        env={**install(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def part(folder: Path, analysis: int = 0, out: str = "run") -> dict[str, Any]:
    """Return what an analysis found, as run.json has it."""
    data = json.loads((folder / out / "run.json").read_text())
    found: dict[str, Any] = data["analyses"][analysis]["parts"][0]
    return found


def provenance(folder: Path, out: str = "run") -> dict[str, Any]:
    """Return how a run went, as run.json has it."""
    found: dict[str, Any] = json.loads((folder / out / "run.json").read_text())["provenance"]
    return found


def results_of(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on when, how often and by whom a run was done."""
    kept = [path for name in ("jobs", "tables", "arrays") for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}
