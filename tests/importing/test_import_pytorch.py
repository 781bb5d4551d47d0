"""PyTorch modules and programs become the same network in ONNX, and a program that holds code is refused."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxviz import open_model
from onnxviz.core.errors import DataError, ModelError, ModelFileError, OutputError
from onnxviz.importing import from_torch, import_model
from onnxviz.importing.program_archive import write_safe_program
from tests.importing_support import logs_go_away, run_onnx  # noqa: F401 - a fixture

# --- PyTorch --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch_net() -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs onnxscript")
    torch.manual_seed(0)

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.bn1 = torch.nn.BatchNorm2d(8)

        def forward(self, x: Any) -> Any:
            return x + torch.relu(self.bn1(self.conv1(x)))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3)
            self.layer1 = torch.nn.Sequential(Block(), Block())
            self.head = torch.nn.Linear(8, 4)

        def forward(self, image: Any) -> Any:
            return self.head(self.layer1(torch.relu(self.stem(image))).mean((2, 3)))

    net = Net()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture(scope="module")
def program(torch_net: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    batch = torch.export.Dim("batch")
    made = torch.export.export(torch_net, (torch.zeros(2, 3, 12, 12),), dynamic_shapes=({0: batch},))
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    torch.export.save(made, path)
    return path


IMAGES = np.random.default_rng(0).normal(size=(5, 3, 12, 12)).astype(np.float32)


def test_a_module_from_python(torch_net: Any, tmp_path: Path) -> None:
    import torch

    torch_net.train()
    torch_net.layer1[0].eval()
    try:
        view = from_torch(torch_net, (torch.zeros(1, 3, 12, 12),), tmp_path / "net.onnx")
        assert torch_net.training
        assert not torch_net.layer1[0].training
    finally:
        torch_net.eval()
    assert view.batch is None
    assert view.file == "net.onnx"
    assert [view.layer(f"layer1.{index}.conv1").operator for index in (0, 1)] == ["Conv", "Conv"]
    assert view.layer("stem").operator == "Conv"
    assert view.layer("head").operator == "Gemm"
    assert view.metadata["onnxviz.source.kind"] == "PyTorch module"
    with torch.no_grad():
        expected = torch_net(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(run_onnx(tmp_path / "net.onnx", IMAGES), expected, atol=1e-5)
    with pytest.raises(OutputError, match="--force"):
        from_torch(torch_net, (torch.zeros(1, 3, 12, 12),), tmp_path / "net.onnx")


def test_modules_that_cannot_be_exported(torch_net: Any, tmp_path: Path) -> None:
    import torch

    with pytest.raises(DataError, match="tensors, the batch first"):
        from_torch(torch_net, (), tmp_path / "a.onnx")
    with pytest.raises(DataError, match=r"no torch\.nn\.Module"):
        from_torch("net.pt", (torch.zeros(1),), tmp_path / "a.onnx")  # type: ignore[arg-type]

    class Branches(torch.nn.Module):
        def forward(self, image: Any) -> Any:
            return image if image.sum() > 0 else -image

    with pytest.raises(ModelError, match=r"torch\.export cannot trace it"):
        from_torch(Branches(), (torch.zeros(1, 3),), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_module_with_a_fixed_batch_says_so(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, image: Any) -> Any:
            assert image.shape[0] == 1
            return self.conv(image)

    with pytest.warns(UserWarning, match="fixed batch of 1"):
        view = from_torch(Fixed(), torch.zeros(1, 3, 8, 8), tmp_path / "a.onnx")
    assert view.layer("conv").unit_count == 4


def test_a_program(program: Path, torch_net: Any, tmp_path: Path) -> None:
    import torch

    made = import_model(program, tmp_path / "net.onnx")
    assert made.kind == "program"
    assert made.view.batch is None
    assert made.view.layer("layer1.1.conv1").operator == "Conv"
    written = open_model(made.path).metadata
    assert written["onnxviz.source.kind"] == "PyTorch program"
    assert written["onnxviz.source.file"] == "net.pt2"
    assert len(written["onnxviz.source.sha256"]) == 64
    assert f"torch {torch.__version__}" in written["onnxviz.source.frameworks"]
    with torch.no_grad():
        expected = torch_net(torch.from_numpy(IMAGES)).numpy()
    np.testing.assert_allclose(run_onnx(made.path, IMAGES), expected, atol=1e-5)


def altered(program: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """Copy a program with its entries changed; names are without the archive's own folder."""
    with zipfile.ZipFile(program) as archive:
        entries = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"net/{name}", content)
    return target


def in_json(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def alter(entries: dict[str, bytes]) -> None:
        parsed = json.loads(entries[name])
        change(parsed)
        entries[name] = json.dumps(parsed).encode()

    return alter


GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"


def set_target(target: str) -> Callable[[dict[str, bytes]], None]:
    return in_json(GRAPH, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(target=target))


def set_size(expression: str) -> Callable[[dict[str, bytes]], None]:
    size = {"as_expr": {"expr_str": expression, "hint": {"as_int": 2}}}
    return in_json(
        GRAPH, lambda graph: graph["graph_module"]["graph"]["tensor_values"]["image"]["sizes"].__setitem__(0, size)
    )


def set_tree(node: dict[str, Any]) -> Callable[[dict[str, bytes]], None]:
    spec = json.dumps([1, node])
    return in_json(GRAPH, lambda graph: graph["graph_module"]["module_call_graph"][0]["signature"].update(in_spec=spec))


def first_weight(**changes: Any) -> Callable[[dict[str, bytes]], None]:
    return in_json(WEIGHTS, lambda listed: next(iter(listed["config"].values())).update(changes))


def bomb(listed: dict[str, Any]) -> None:
    entry = next(iter(listed["config"].values()))
    entry["tensor_meta"]["sizes"] = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]
    entry["tensor_meta"]["strides"] = [{"as_int": 0}, {"as_int": 0}]


UNSAFE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "target-hub": (set_target("torch.hub.load"), "torch.hub.load"),
    "target-os": (set_target("torch.serialization.os.system"), "os.system"),
    "target-operator": (set_target("_operator.attrgetter"), "attrgetter"),
    "target-library": (set_target("torch.ops.load_library"), "load_library"),
    "target-file": (set_target("torch.ops.aten.from_file.default"), "from_file"),
    "target-extension": (set_target("#evil:x"), "#evil"),
    "size-code": (set_size("__import__('os').system('true')"), "no arithmetic"),
    "size-attribute": (set_size("Symbol('s0').__class__"), "no arithmetic"),
    "size-function": (set_size("exec(s0)"), "no arithmetic"),
    "size-long": (set_size("s0+" * 5000 + "s0"), "no arithmetic"),
    "tree-factory": (
        set_tree(
            {
                "type": "collections.defaultdict",
                "context": '{"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}',
                "children_spec": [],
            }
        ),
        "collections.defaultdict",
    ),
    "tree-enumeration": (
        set_tree(
            {
                "type": "builtins.dict",
                "context": '[{"__enum__": true, "fqn": "antigravity:x", "name": "y"}]',
                "children_spec": [],
            }
        ),
        "builtins.dict",
    ),
    "pickled-weight": (first_weight(use_pickle=True), "pickled"),
    "foreign-path": (first_weight(path_name="../../secret"), "pickled"),
    "legacy-weights": (lambda entries: entries.__setitem__("data/weights/model.pt", b""), "Python pickle"),
    "custom-object": (
        in_json(CONSTANTS, lambda listed: listed["config"].update(x={"path_name": "custom_obj_0", "use_pickle": True})),
        "pickled",
    ),
    "opaque-object": (
        in_json(
            CONSTANTS, lambda listed: listed["config"].update(x={"path_name": "opaque_obj_0", "use_pickle": False})
        ),
        "pickled",
    ),
    "memory-bomb": (in_json(WEIGHTS, bomb), "larger than its data"),
    "two-programs": (lambda entries: entries.__setitem__("models/second.json", b"{}"), "holds 2 programs"),
    "no-graph": (lambda entries: entries.__setitem__(GRAPH, b"[]"), "no object"),
    "cut-graph": (lambda entries: entries.__setitem__(GRAPH, b'{"a": '), "damaged program"),
    "missing": (lambda entries: entries.__delitem__(WEIGHTS), "damaged program"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_programs_that_would_run_code(case: str, program: Path, tmp_path: Path) -> None:
    change, expected = UNSAFE[case]
    hostile = altered(program, tmp_path / "net.pt2", change)
    with pytest.raises(ModelFileError) as refusal:
        import_model(hostile, tmp_path / "net.onnx")
    assert expected in str(refusal.value)
    assert refusal.value.where.endswith("net.pt2")
    assert not (tmp_path / "net.onnx").exists()


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_pickles_and_guards_that_are_left_out(program: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def change(entries: dict[str, bytes]) -> None:
        entries["data/sample_inputs/model.pt"] = pickle.dumps(Payload(marker))
        entries["data/aotinductor/model/model.so"] = b"\x7fELF"
        graph = json.loads(entries[GRAPH])
        graph["guards_code"] = [f"__import__('os').mkdir({str(marker)!r})"]
        entries[GRAPH] = json.dumps(graph).encode()

    hostile = altered(program, tmp_path / "net.pt2", change)
    safe = tmp_path / "safe.pt2"
    assert write_safe_program(hostile, safe).startswith("2.")
    with zipfile.ZipFile(safe) as copy:
        assert copy.read("model/data/sample_inputs/model.pt") == b""
        assert not any("aotinductor" in name for name in copy.namelist())
        assert b"mkdir" not in copy.read("model/models/model.json")
    made = import_model(hostile, tmp_path / "net.onnx")
    assert made.view.layer("head").operator == "Gemm"
    assert not marker.exists()
    import torch

    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        torch.export.load(hostile)
    assert marker.exists(), "the payload does not work, so this test proves nothing"


def test_unpickling_is_off_in_the_exporter(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    torch_file = tmp_path / "x.pt"
    import torch

    torch.save({"a": torch.zeros(1)}, torch_file)
    script = (
        "import sys, torch, pickle\n"
        "from onnxviz.importing.exporters.torch_program import RefusedError, switch_pickle_off\n"
        "switch_pickle_off(torch)\n"
        "for call in (lambda: torch.load(sys.argv[1]), lambda: pickle.loads(b'N.'),\n"
        "             lambda: torch._C._pickle_load_obj(b'')):\n"
        "    try: call()\n"
        "    except RefusedError: continue\n"
        "    sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(torch_file)], check=False).returncode == 0
