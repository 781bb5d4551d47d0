"""The worked example for SLURM, for real, with submitit's executor for one machine."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from worker_runs import PATIENCE

from onnxviz.data import builtin

pytest.importorskip("submitit")
pytestmark = pytest.mark.ray

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "examples" / "slurm_audit.py"
RECIPE = """\
version: 1
title: Audit
model: {path: nothing.onnx, preprocess: unit}
analyses:
  filters: {kind: weights, layers: first_conv}
expect:
  - {metric: filters.dead_fraction, max: 0.5}
"""


def start(folder: Path, *models: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "audit.yaml", *map(str, models), "--out", "runs", "--cluster", "local"]
    environment = {**os.environ, "ONNXVIZ_WORKERS": "0"}
    return subprocess.run(
        [*command, "--option=--device=cpu"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


def test_two_models_and_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text(RECIPE)
    models = []
    for name in ("scenes", "scenes_second"):
        models.append(tmp_path / f"{name}.onnx")
        models[-1].write_bytes(Path(builtin.model(name).path).read_bytes())
    done = start(tmp_path, *models)
    assert done.returncode == 0, done.stdout + done.stderr
    for model in models:
        assert f"{model.name}: exit code 0" in done.stdout
        run = json.loads((tmp_path / "runs" / model.stem / "run.json").read_text())
        assert run["provenance"]["cached"] == 0
    compared = json.loads((tmp_path / "runs" / "comparison" / "run.json").read_text())
    assert [card["alias"] for card in compared["models"]] == ["scenes", "scenes_second"]
    assert (tmp_path / "runs" / "comparison" / "report" / "index.html").is_file()

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    again = start(tmp_path, models[0], broken)
    assert again.returncode == 2, again.stdout + again.stderr
    assert "scenes.onnx: exit code 0" in again.stdout
    assert "broken.onnx: exit code 2" in again.stdout
    run = json.loads((tmp_path / "runs" / "scenes" / "run.json").read_text())
    assert run["provenance"]["cached"] == run["provenance"]["jobs"]


def test_folders_differ() -> None:
    folders = runpy.run_path(str(SCRIPT))["folders"]
    models = [Path("a/m.onnx"), Path("b/m.onnx"), Path("b/n.onnx")]
    assert folders(models, Path("runs")) == [Path("runs/a-m"), Path("runs/b-m"), Path("runs/n")]
