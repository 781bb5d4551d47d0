"""An analysis of another package, written from docs/analyses.md alone: the page's own example, installed and run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import onnxviz
from onnxviz import analysis
from onnxviz.core.findings import CustomFinding, UnknownFinding, from_data, to_data
from onnxviz.core.values import Unit
from onnxviz.data import builtin
from onnxviz.execution.folder import read_run, run_data

PAGE = (Path(onnxviz.__file__).parents[1] / "docs" / "analyses.md").read_text("utf-8")
RECIPE = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 5}}
analyses:
  whole: {kind: sparsity, data: scenes, layers: all_convs}
  shards: {kind: sparsity, data: scenes, layers: all_convs, shard: 2}
expect:
  - {metric: whole.silent_units, min: 0}
"""


def block(language: str) -> str:
    """The page's first block of a language, which is the package's."""
    found, *_ = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's package, as an installer leaves it."""
    folder = tmp_path_factory.mktemp("package")
    about = folder / "sparsity-1.0.dist-info"
    about.mkdir()
    (folder / "sparsity.py").write_text(block("python"))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sparsity\nVersion: 1.0\n")
    group, entry = re.findall(r'^\[project\.entry-points\."(.*)"\]\nsparsity = "(.*)"', block("toml"))[0]
    (about / "entry_points.txt").write_text(f"[{group}]\nsparsity = {entry}\n")
    return folder


@pytest.fixture(scope="module")
def plugin(package: Path) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("sparsity", package / "sparsity.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["sparsity"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sparsity"]


def command(folder: Path, package: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(package)] if package else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "ONNXVIZ_WORKERS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "onnxviz", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """The folder of a finished run by a worker process."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "r.yaml").write_text(RECIPE)
    done = command(folder, package, "run", "r.yaml", "--out", "out", "--no-open")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_explain_schema_and_plan_know_it(tmp_path: Path, package: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    explained = command(tmp_path, package, "explain", "sparsity").stdout
    assert "How many of a layer's activations are zero" in explained
    assert "Images of one job; makes no difference" in " ".join(explained.split())
    assert '"const": "sparsity"' in command(tmp_path, package, "schema").stdout
    planned = command(tmp_path, package, "plan", "r.yaml")
    assert planned.returncode == 0
    assert "shards" in planned.stdout
    refused = command(tmp_path, package, "validate", "r.yaml", "--set", "whole.shard=0")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_without_the_package_its_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    refused = command(tmp_path, None, "validate", "r.yaml")
    assert refused.returncode == 2
    assert "no analysis is of kind 'sparsity'" in refused.stderr


def test_shards_give_what_the_whole_gives_and_that_is_right(run: Path) -> None:
    whole, shards = (part["parts"][0] for part in json.loads((run / "run.json").read_text())["analyses"])
    assert (whole["jobs"], shards["jobs"]) == (1, 3)
    assert whole["findings"] == shards["findings"]
    model = onnxviz.Model(onnxviz.open_model(builtin.model("scenes").path), builtin.model("scenes").preprocessing)
    source = builtin.scenes(count=5)
    images = analysis.load_batch(source, range(5), model.preprocessing, model.input_size)
    own = [item for item in whole["findings"] if item["type"] == "sparsity.Silence"]
    for item in own:
        layer = item["id"].removeprefix("silence.")
        values = model.measure(images, [layer])[layer]
        assert item["zero_fraction"] == pytest.approx(float((values == 0).mean()), abs=1e-12)
        silent = np.flatnonzero((values == 0).all(axis=(0, *range(2, values.ndim))))
        assert [unit["index"] for unit in item["silent_units"]] == silent.tolist()
    assert len(own) == len(model.view.select("all_convs"))


def test_a_process_without_the_class_keeps_and_shows_what_was_found(run: Path) -> None:
    stored = (run / "run.json").read_bytes()
    assert run_data(read_run(run)) == stored, "read and written without loss"
    kinds = {type(finding) for part in read_run(run).analyses[0].parts for finding in part.findings}
    assert UnknownFinding in kinds
    (run / "report" / "index.html").unlink()
    assert command(run.parent, None, "report", "out").returncode == 0
    assert "sparsity.Silence" in (run / "report" / "index.html").read_text("utf-8")
    assert (run / "run.json").read_bytes() == stored


def test_a_process_with_the_class_reads_the_class(run: Path, plugin: ModuleType) -> None:
    result = read_run(run)
    (first, *_) = [
        item for part in result.analyses[0].parts for item in part.findings if isinstance(item, CustomFinding)
    ]
    assert isinstance(first, plugin.Silence)
    assert run_data(result) == (run / "run.json").read_bytes()


def test_it_can_be_tried_before_there_is_a_package(run: Path, plugin: ModuleType) -> None:
    scenes = builtin.model("scenes")
    model = onnxviz.load(scenes.path, scenes.preprocessing, scenes.labels, device="cpu")
    analysis = plugin.Sparsity(data="photos", layers="all_convs", shard=2)
    found = model.analyze(analysis, {"photos": builtin.scenes(count=5)})
    assert found.findings == read_run(run).analyses[0].parts[0].findings
    assert "zero fraction" in found._repr_html_()
    with pytest.raises(onnxviz.SelectionError, match="has its settings already"):
        model.analyze(analysis, {"photos": builtin.scenes(count=5)}, shard=1)


def test_of_another_form_of_the_class_nothing_is_lost(plugin: ModuleType) -> None:
    """The package has changed since: a field is gone, another has come."""
    data = {
        "type": "sparsity.Silence",
        "id": "a",
        "title": "A",
        "zero_fraction": 0.5,
        "worst": {"type": "float", "value": "nan"},
    }
    found = from_data(data)
    assert isinstance(found, UnknownFinding)
    assert to_data(found) == data


@pytest.mark.parametrize("kind", ["Silence", "sparsity.", "a b.C", "<b>.C", "Tabel", ""])
def test_what_is_no_name_of_a_class_is_damage(kind: str) -> None:
    with pytest.raises(ValueError, match="no finding is called"):
        from_data({"type": kind, "text": "x"})


def test_what_cannot_be_stored_is_refused_by_name(plugin: ModuleType) -> None:
    silence = plugin.Silence("a", "A", 0.5, (Unit("a", 1),))
    assert from_data(to_data(silence)) == silence
    with pytest.raises(TypeError, match="a finding cannot hold a dict"):
        to_data(plugin.Silence("a", "A", 0.5, {"a": 1}))
    stranger = dataclasses.make_dataclass("Stranger", ["id"])
    with pytest.raises(TypeError, match="Stranger is no finding: derive it from `CustomFinding`"):
        to_data(stranger("a"))
