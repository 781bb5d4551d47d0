"""A class activation map of another package, as docs/analyses.md writes it: HiResCAM, run from a recipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import onnxviz
from onnxviz.data import builtin
from onnxviz.data.images import load_batch
from tests.test_plugins import PAGE, command

LAYERS = ("conv4:act", "conv6:act")
RECIPE = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 3}}
analyses:
  maps: {kind: hirescam, data: scenes, layers: ["conv4:act", "conv6:act"], classes: top:2}
expect:
  - {metric: maps.blank_fraction, max: 1}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's module, as an installer leaves it."""
    folder = tmp_path_factory.mktemp("package")
    (about := folder / "hirescam-1.0.dist-info").mkdir()
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (code,) = (block for block in blocks if "HiResCAM" in block)
    assert len(code.splitlines()) <= 30
    (folder / "hirescam.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: hirescam\nVersion: 1.0\n")
    (place,) = re.findall(r'with `hirescam = "(.*?)"`', PAGE)
    (about / "entry_points.txt").write_text(f"[onnxviz.analyses]\nhirescam = {place}\n")
    return folder


def test_its_maps_are_the_sums_of_gradient_times_activation(tmp_path: Path, package: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = command(tmp_path, package, "run", "r.yaml", "--out", "out", "--no-open")
    assert done.returncode == 0, done.stdout + done.stderr
    (part,) = json.loads((tmp_path / "out" / "run.json").read_text())["analyses"][0]["parts"]
    arrays = [item for item in part["findings"] if item["type"] == "Array"]
    assert len(arrays) == 3
    known, source = builtin.model("scenes"), builtin.scenes(count=3)
    model = onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing)
    logits = model.view.logits
    compared = 0
    for place, item in enumerate(arrays):
        found = np.load(tmp_path / "out" / item["path"])
        image = torch.from_numpy(load_batch(source, [place], model.preprocessing, model.input_size)).requires_grad_()
        *activations, scores = model.differentiable([*(model.view.layer(name) for name in LAYERS), logits])(image)
        for number in found["classes"]:
            gradients = torch.autograd.grad(scores.reshape(-1)[int(number)], activations, retain_graph=True)
            for layer, (values, slopes) in enumerate(zip(activations, gradients, strict=True)):
                wanted = np.zeros(tuple(values.shape[2:]))
                for unit in range(values.shape[1]):
                    wanted += (slopes[0, unit] * values[0, unit]).detach().double().numpy()
                shown = found[f"class{number}_layer{layer:03d}"]
                np.testing.assert_allclose(shown, np.maximum(wanted, 0), atol=1e-5 * np.abs(wanted).max())
                compared += bool(shown.any())
    assert compared >= 6, "most maps hold evidence"


def test_it_is_called_by_its_own_name(tmp_path: Path, package: Path) -> None:
    explained = command(tmp_path, package, "explain", "hirescam").stdout
    assert "gradient times activation" in explained
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert command(tmp_path, package, "validate", "r.yaml").returncode == 0
    assert command(tmp_path, None, "validate", "r.yaml").returncode == 2
