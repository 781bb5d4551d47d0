"""The Python that README and docs show runs, and what they name of models and runs is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml

import onnxviz
from onnxviz.execution.finished_run import Run
from tests.tiny_models import save_model

ROOT = Path(onnxviz.__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"\b(model|run)\.([a-z_]+)(?=[(.`,\s]|$)")
FILES = frozenset(["onnx", "yaml", "json", "h5", "keras", "lock", "path", "preprocess"])
"""What follows `model.` or `run.` in the names of files and of recipes' keys."""
OTHERS = {("importing.md", "export"): "Keras' own method", ("README.md", "h"): "model.h5"}


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def test_every_page_with_python_is_tried() -> None:
    """That of docs/analyses.md in `test_plugins`, of docs/onnx2torch.md in `test_onnx2torch_faults`, the rest here."""
    shown = {str(page.relative_to(ROOT)) for page in PAGES if BLOCK.search(page.read_text("utf-8"))}
    others = ("analyses", "clusters", "importing", "onnx2torch")
    assert shown == {"README.md", *(f"docs/{name}.md" for name in others)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with the model, the photographs and the recipe that README speaks of."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "squeezenet.onnx")
    model = onnx.load(tmp_path / "squeezenet.onnx")
    model.graph.node[2].name = "conv10"
    onnx.save(model, tmp_path / "squeezenet.onnx")
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save("photos/a.png")
    target = {"layer": "logits", "units": 0}
    recipe: dict[str, Any] = {
        "version": 1,
        "model": {"path": "squeezenet.onnx", "preprocess": "caffe", "output": "classes"},
        "data": {"photos": {"images": "photos/*.png"}},
        "analyses": {
            "classes": {"kind": "activation_maximization", "targets": [target], "steps": 2, "size": 16},
            "evidence": {"kind": "grad_cam", "data": "photos", "layers": "conv10", "classes": "top:1"},
        },
    }
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def test_the_python_of_readme_runs(here: Path) -> None:
    (block,) = blocks("README.md")
    names: dict[str, Any] = {"images": torch.rand(2, 3, 16, 16)}
    exec(block, names)
    assert list(names["model"].activations(names["images"], ["conv10"])) == ["conv10"]
    assert isinstance(names["network"], torch.fx.GraphModule)
    run = names["run"]
    assert run.metrics("evidence")["model"]["blank_fraction"] in (0.0, 1.0)
    assert run.pictures("classes")
    assert run.report.is_file()
    assert here in run.folder.resolve().parents


def test_the_python_for_many_runs_reads_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxviz.run("audit.yaml", here / "shared" / "runs" / "a")
    (block,) = blocks("docs/clusters.md")
    exec(block.replace("/shared/runs", str(here / "shared" / "runs")), {})
    assert "a evidence {" in capsys.readouterr().out


def test_the_python_of_importing_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("docs/importing.md")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    asked: list[tuple[Any, ...]] = []
    # Keras is not among what tests need; that its importer takes these arguments is `test_import_keras`.
    monkeypatch.setattr("onnxviz.importing.import_model", lambda *given, **more: asked.append((*given, *more)))
    names: dict[str, Any] = {"module": module, "torch": torch}
    exec(block, names)
    assert names["view"].layers
    assert asked == [("model.keras", "model.onnx", "python")]
    assert (here / "model.onnx").is_file()


def test_what_pages_name_of_models_and_runs_is_there(here: Path) -> None:
    """Attributes that stand in text between backticks, and in blocks."""
    model = onnxviz.load("squeezenet.onnx", "caffe", device="cpu", output="classes")
    run_names = {*dir(Run), *Run.__dataclass_fields__}
    missing = []
    for page in PAGES:
        text = page.read_text("utf-8")
        code = [*re.findall(r"`([^`\n]+)`", text), *BLOCK.findall(text)]
        for owner, name in {found for part in code for found in NAMED.findall(part)}:
            if name in FILES or (page.name, name) in OTHERS:
                continue
            if not (hasattr(model, name) if owner == "model" else name in run_names):
                missing.append(f"{page.name}: {owner}.{name}")
    assert missing == []
    assert [head.name for head in model.view.heads] == ["scores"]
