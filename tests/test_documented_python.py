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
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxviz
from onnxviz.analysis import TileGrid
from onnxviz.execution.finished_run import Run

ROOT = Path(onnxviz.__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"(?<![.\w])(model|run)\.([a-z_]+)(?=[(.`,\s]|$)")
FILES = frozenset(["onnx", "yaml", "json", "h5", "keras", "lock", "path", "preprocess"])
"""What follows `model.` or `run.` in the names of files and of recipes' keys."""
OTHERS = {("importing.md", "export"): "Keras' own method", ("README.md", "h"): "model.h5"}


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def test_every_page_with_python_is_tried() -> None:
    """Those of analyses, onnx2torch, operators: `test_plugins`, `test_onnx2torch_faults`, `test_custom_operator`."""
    shown = {str(page.relative_to(ROOT)) for page in PAGES if BLOCK.search(page.read_text("utf-8"))}
    others = ("analyses", "clusters", "importing", "onnx2torch", "operators", "python")
    assert shown == {"README.md", *(f"docs/{name}.md" for name in others)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with the model, the photographs and the recipe that README speaks of."""
    monkeypatch.chdir(tmp_path)
    save_named_model(tmp_path / "squeezenet.onnx")
    (tmp_path / "imagenet.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    rng = np.random.default_rng(0)
    for folder in ("photos", "camvid/images", "camvid/labels", "dtd/dotted"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save("photos/ostrich.jpg")
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(f"camvid/images/{index}.png")
        Image.fromarray(rng.integers(1, 3, (16, 16), np.uint8)).save(f"camvid/labels/{index}.png")
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(f"dtd/dotted/{index}.png")
    (tmp_path / "camvid" / "classes.txt").write_text("void\nroad\nsky\n")
    target = {"layer": "logits", "units": 0}
    recipe: dict[str, Any] = {
        "version": 1,
        "model": {"path": "squeezenet.onnx", "preprocess": "caffe", "output": "classes"},
        "data": {"photos": {"images": "photos/*.jpg"}},
        "analyses": {
            "classes": {"kind": "activation_maximization", "targets": [target], "steps": 2, "size": 16},
            "evidence": {"kind": "grad_cam", "data": "photos", "layers": "conv10", "classes": "top:1"},
        },
    }
    (tmp_path / "audit.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


CLASSES = (*(f"animal {index}" for index in range(9)), "ostrich")


def save_named_model(path: Path) -> None:
    """Write a small network whose layers are called as SqueezeNet's are."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (8, 8, 1, 1), "w4": (len(CLASSES), 16, 1, 1)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["e3"], "fire5/expand3x3", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["r1", "w3"], ["e1"], "fire5/expand1x1"),
        helper.make_node("Concat", ["e1", "e3"], ["f5"], "fire5/concat", axis=1),
        helper.make_node("Conv", ["f5", "w4"], ["c10"], "conv10"),
        helper.make_node("GlobalAveragePool", ["c10"], ["pool10"], "pool10"),
        helper.make_node("Softmax", ["pool10"], ["prob"], "prob", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "named",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("prob", TensorProto.FLOAT, ["n", len(CLASSES), 1, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_the_python_of_readme_runs(here: Path) -> None:
    names: dict[str, Any] = {"images": torch.rand(2, 3, 16, 16)}
    for block in blocks("README.md"):
        exec(block, names)
    assert list(names["model"].activations(names["images"], ["conv10"])) == ["conv10"]
    assert isinstance(names["network"], torch.fx.GraphModule)
    run = names["run"]
    assert run.metrics("evidence")["model"]["blank_fraction"] in (0.0, 1.0)
    assert run.pictures("classes")
    assert run.report.is_file()
    assert here in run.folder.resolve().parents
    kernels = names["kernels"]
    assert kernels.pictures
    assert kernels.findings
    assert kernels.values == {}


def test_the_python_of_the_api_s_page_runs(here: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("docs/python.md"):
        exec(block, names)
    assert (here / "heat.png").is_file()
    assert list(names["found"].values) == ["arrays.0"]
    assert "class9_layer000" in names["found"].values["arrays.0"]
    assert names["images"].grad is not None
    assert names["features"].shape[:2] == (1, 16)


@pytest.mark.zoo
def test_the_notebook_lines_of_readme_are_true_of_squeezenet(zoo: Path, shared_data: Path) -> None:
    model = onnxviz.load(zoo / "onnx" / "squeezenet_fp16.onnx", "caffe", zoo / "labels" / "imagenet_1000.txt", "cpu")
    found = model.grad_cam(shared_data / "imagenet_sample" / "n01518878_ostrich.JPEG", "ostrich", "fire5/concat_1")
    assert len(found.pictures) == 3
    assert [cell for item in found.findings if hasattr(item, "rows") for cell in item.rows]
    units = model.visualize("fire5/concat_1:12", steps=1)
    assert [tile.title for item in units.findings if isinstance(item, TileGrid) for tile in item.tiles] == [
        "fire5/concat_1:12"
    ]
    assert "64 kernels" in model.kernels("first_conv")._repr_html_()


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
    assert [head.name for head in model.view.heads] == ["prob"]
