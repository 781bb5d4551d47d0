"""A method of attribution of another package: found by its entry point, run from a recipe, judged like the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.test_plugins import command

CODE = '''\
"""Positive gradient times activation."""

from __future__ import annotations

from typing import ClassVar, Literal

from onnxviz.analyses.attribution.methods.cam import GradientCam


class PositiveGradients(GradientCam):
    """Positive gradients alone, added up over channels."""

    method: Literal["positive_gradients"] = "positive_gradients"
    heading: ClassVar[str] = "Positive gradients"

    def weighted(self, activations, gradients):
        return gradients.clamp(min=0).sum(dim=1)
'''
RECIPE = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 2}}
analyses:
  maps: {kind: attribution, data: scenes, methods: [grad_cam, positive_gradients], classes: top:1,
         faithfulness: {steps: 4, randomisation: false, stability: false}}
expect:
  - {metric: maps.insertion_minus_deletion.positive_gradients, min: -1}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installer leaves it."""
    folder = tmp_path_factory.mktemp("package")
    (about := folder / "positive-1.0.dist-info").mkdir()
    (folder / "positive.py").write_text(CODE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: positive\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[onnxviz.attribution]\npositive = positive:PositiveGradients\n")
    return folder


def test_it_stands_beside_the_others(tmp_path: Path, package: Path) -> None:
    assert len(CODE.splitlines()) <= 30
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = command(tmp_path, package, "run", "r.yaml", "--out", "out", "--no-open")
    assert done.returncode == 0, done.stdout + done.stderr
    (part,) = json.loads((tmp_path / "out" / "run.json").read_text())["analyses"][0]["parts"]
    matrices = [item for item in part["findings"] if item["type"] == "PictureMatrix"]
    assert [column.split(",")[0] for column in matrices[0]["columns"]] == ["Grad-CAM", "Positive gradients"]
    assert "positive_gradients" in command(tmp_path, package, "explain", "attribution.methods").stdout
    refused = command(tmp_path, None, "validate", "r.yaml")
    assert refused.returncode == 2
    assert "no method is called 'positive_gradients'" in refused.stderr
