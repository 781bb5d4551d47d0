"""`onnxviz import`: what is refused and how, exporters in a process of their own, and the same network afterwards.

The Keras and TensorFlow tests need a Python with TensorFlow: this one, or the one that ONNXVIZ_KERAS_PYTHON names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from onnxviz import cli, limits, open_model
from onnxviz.errors import DataError, ModelError, ModelFileError, OutputError
from onnxviz.importing import from_torch, import_model, importer
from onnxviz.importing.child import run_exporter
from onnxviz.importing.keras_exporter import RefusedError, check_config
from onnxviz.importing.program_archive import write_safe_program
from onnxviz.importing.source_kind import source_kind


@pytest.fixture(autouse=True)
def logs_go_away(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the logs of failed exporters out of the system's folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("logs")))


# --- what is refused, without any framework -------------------------------------------------------------------------


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name in names:
            made.writestr(name, b"{}")
    return buffer.getvalue()


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.keras": (b"", "the file is empty"),
    "page.h5": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
    "pointer.h5": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "packed.h5": (b"\x1f\x8b\x08\x00rest", "a gzip file"),
    "lite.h5": (b"\x1c\x00\x00\x00TFL3rest", "--tflite"),
    "noise.h5": (b"noise", "no .h5 file, or a damaged one"),
    "noise.pt2": (b"noise", "no .pt2 file, or a damaged one"),
    "cut.keras": (archive("config.json", "model.weights.h5")[:60], "a damaged zip archive"),
    "other.zip": (archive("readme.txt"), "holds no model known here"),
    "checkpoint.pt": (archive("a/data.pkl", "a/version"), "torch.export.save"),
    "renamed.keras": (archive("a/data.pkl", "a/version"), "so it never is"),
    "script.pt": (archive("a/data.pkl", "a/constants.pkl", "a/code/m.py"), "TorchScript"),
    "old.pth": (pickle.dumps({"weight": 1}, protocol=2), "so it never is"),
    "renamed.h5": (pickle.dumps({"weight": 1}, protocol=4), "so it never is"),
    "weights.ckpt": (b"unknown", "so it never is"),
    "weights.pkl": (b"cos\nsystem\n(S'true'\ntR.", "so it never is"),
    "net.caffemodel": (b"\x0a\x05", "--weights net.caffemodel"),
    "net.onnx": (b"\x08\x07", "onnxviz inspect net.onnx"),
    "frozen.pb": (b"\x0a\x05", "--graphdef"),
    "saved_model.pb": (b"\x0a\x05", "give its folder"),
    "notes.txt": (b"hello", "imported are Keras"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(name: str, tmp_path: Path) -> None:
    content, expected = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError) as refusal:
        import_model(tmp_path / name, tmp_path / "out.onnx")
    assert expected in str(refusal.value)
    assert name in refusal.value.where
    assert refusal.value.remedy
    assert not (tmp_path / "out.onnx").exists()


def test_folders_that_are_refused(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(ModelFileError) as refusal:
            source_kind(path)
        return str(refusal.value)

    assert "no such file or folder" in said(tmp_path / "missing.keras")
    assert "no SavedModel" in said(tmp_path)
    (tmp_path / "7" / "variables").mkdir(parents=True)
    (tmp_path / "7" / "saved_model.pb").write_bytes(b"")
    assert str(tmp_path / "7") in said(tmp_path)
    assert source_kind(tmp_path / "7") == "saved_model"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "checkpoint").write_text("model_checkpoint_path: x")
    assert "weights without a graph" in said(tmp_path / "c")


def test_kinds_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "anything.bin"
    path.write_bytes(archive("config.json", "metadata.json", "model.weights.h5"))
    assert source_kind(path) == "keras"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert source_kind(path) == "hdf5"
    path.write_bytes(bytes(512) + b"\x89HDF\r\n\x1a\n")  # behind a user block
    assert source_kind(path) == "hdf5"
    path.write_bytes(archive("m/archive_format", "m/models/model.json"))
    assert source_kind(path) == "program"
    (tmp_path / "net.prototxt").write_text("layer { }")
    assert source_kind(tmp_path / "net.prototxt") == "caffe"
    with pytest.raises(ModelFileError, match="belong to a Caffe network only"):
        source_kind(path, tmp_path / "w.caffemodel")


def test_a_file_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(5000))
    monkeypatch.setattr(limits, "MODEL_BYTES", 4096)
    with pytest.raises(ModelFileError, match="more than the limit of 4,096"):
        source_kind(path)


# --- Keras configurations -------------------------------------------------------------------------------------------


def keras_layer(class_name: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    made = {"class_name": class_name, "config": {"name": "suspect", **config}, "registered_name": None}
    return made if module is None else {**made, "module": module}


def network(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "net", "layers": list(layers)}}


HOSTILE: list[tuple[dict[str, Any], str]] = [
    (keras_layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "..."}}), "Python code"),
    (keras_layer("Lambda", None, function=["4wEAAAA=", None, None], function_type="lambda"), "Python code"),
    (keras_layer("Activation", activation={"class_name": "__lambda__", "config": {}}), "Python code"),
    (keras_layer("TFSMLayer", filepath="/tmp/x"), "loads another model"),
    (keras_layer("TorchModuleWrapper", module="gAJ9"), "pickle"),
    (keras_layer("TextVectorization", vocabulary="/etc/passwd"), "vocabulary file"),
    (keras_layer("MyLayer", "my_package.layers"), "my_package.layers.MyLayer"),
    ({**keras_layer("MyLayer", "my_package"), "registered_name": "mine>MyLayer"}, "mine>MyLayer"),
    (keras_layer("Mine>Layer", None), "Mine>Layer"),
    (keras_layer("Popen", "subprocess"), "subprocess.Popen"),
    (keras_layer("get_file", "keras.utils"), "keras.utils.get_file"),
    (keras_layer("enable_unsafe_deserialization", "keras.config"), "keras.config"),
    (keras_layer("x", "kerasevil.layers"), "kerasevil"),
    (keras_layer("Activation", activation={"class_name": "function", "config": "system", "module": "os"}), "os.system"),
    (
        keras_layer("Activation", activation={"class_name": "function", "config": "eval", "module": "builtins"}),
        "'eval'",
    ),
    (keras_layer("TFOpLambda", None, function="io.write_file"), "io.write_file"),
    (keras_layer("TFOpLambda", None, function="load_library"), "load_library"),
    (keras_layer("TFOpLambda", None, function="py_function"), "py_function"),
    (keras_layer("TensorFlowOpLayer", None, node_def="..."), "TensorFlowOpLayer"),
]


@pytest.mark.parametrize(("hostile", "expected"), HOSTILE, ids=lambda item: item if isinstance(item, str) else "")
def test_configurations_that_name_code(hostile: dict[str, Any], expected: str) -> None:
    inner = network(keras_layer("Conv2D", filters=2), network(hostile))
    for config in (network(hostile), inner):
        with pytest.raises(RefusedError) as refusal:
            check_config(config)
        assert expected in refusal.value.what
        assert "suspect" in refusal.value.what
        assert refusal.value.remedy


def test_configurations_of_the_framework_itself() -> None:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    zeros = {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": None}
    check_config(
        network(
            keras_layer("InputLayer", batch_shape=[None, 8, 8, 3]),
            keras_layer("Conv2D", filters=2, dtype=policy, kernel_initializer=zeros),
            keras_layer("Conv2D", None, filters=2, kernel_initializer={"class_name": "VarianceScaling", "config": {}}),
            keras_layer("Activation", activation={"module": "builtins", "class_name": "function", "config": "silu"}),
            keras_layer("Functional", "keras.src.models.functional"),
            keras_layer("Add", "keras.src.ops.numpy"),
            keras_layer("TFOpLambda", None, function="math.multiply"),
            keras_layer("TFOpLambda", None, function="__operators__.add"),
            {"class_name": "__keras_tensor__", "config": {"shape": [None, 8]}},
        )
    )


# --- the process of its own -----------------------------------------------------------------------------------------


def serve(tmp_path: Path, body: str, timeout: float = 30.0, python: Path | None = None) -> dict[str, Any]:
    script = tmp_path / "script.py"
    script.write_text(f"import json, os, sys, time\nrequest = json.load(open(sys.argv[1]))\n{body}\n")
    folder = tmp_path / "work"
    folder.mkdir(exist_ok=True)
    return run_exporter(script, {"number": 3}, folder, python=python, timeout=timeout, place="m.keras")


def test_an_exporter_answers(tmp_path: Path) -> None:
    body = "json.dump({'done': request['number'] + 1}, open(request['answer'], 'w')); print('chatter')"
    assert serve(tmp_path, body)["done"] == 4


def test_an_exporter_that_fails_shows_its_cause_and_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as failure:
        serve(tmp_path, "raise ValueError('the layer \\x1b[31m is wrong')")
    assert "ValueError: the layer" in str(failure.value)
    assert "\x1b" not in str(failure.value)
    assert "Traceback" not in str(failure.value)
    log = Path(failure.value.remedy.rsplit(" ", 1)[1])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_an_exporter_that_crashes_or_hangs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="ended by signal"):
        serve(tmp_path, "os.kill(os.getpid(), 9)")
    marker = tmp_path / "marker"
    # What the exporter itself started ends with it.
    body = f"import subprocess; subprocess.Popen(['sh', '-c', 'sleep 2; touch {marker}']); time.sleep(60)"
    with pytest.raises(ModelError, match=r"longer than 0\.5 seconds.*\n.*--timeout"):
        serve(tmp_path, body, timeout=0.5)
    import time

    time.sleep(2.5)
    assert not marker.exists()


def test_a_missing_framework_says_how_to_install_it(tmp_path: Path) -> None:
    body = "json.dump({'refused': 'tf2onnx is not installed', 'missing': 'tf2onnx'}, open(request['answer'], 'w'))"
    with pytest.raises(ModelError) as failure:
        serve(tmp_path, body)
    assert f'{sys.executable} -m pip install "onnxviz[keras]"' in str(failure.value)
    assert "--python PATH" in str(failure.value)
    with pytest.raises(ModelError, match="no such interpreter"):
        import_model(keras_file(tmp_path), tmp_path / "o.onnx", python=tmp_path / "nowhere")
    with pytest.raises(ModelError, match="cannot be started"):
        serve(tmp_path, body, python=tmp_path / "script.py")


def keras_file(folder: Path) -> Path:
    path = folder / "m.keras"
    path.write_bytes(archive("config.json", "metadata.json", "model.weights.h5"))
    return path


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    source = keras_file(tmp_path)
    taken = tmp_path / "taken.onnx"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        import_model(source, taken)
    assert taken.read_text() == "mine"
    with pytest.raises(OutputError, match="a folder"):
        import_model(source, tmp_path)
    with pytest.raises(OutputError, match="folder does not exist"):
        import_model(source, tmp_path / "none" / "m.onnx")


def test_an_export_that_is_no_model_leaves_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made.onnx"
    made.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    target = tmp_path / "out" / "m.onnx"
    target.parent.mkdir()
    with pytest.raises(ModelError, match="what was exported cannot be used"):
        importer.write_checked(made, target, {}, "m.keras")
    assert list(target.parent.iterdir()) == []


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("page.h5").write_text("<html>")

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["onnxviz", "import", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(ended.value.code or 0), captured.out + captured.err

    assert call("page.h5") == (2, "error: page.h5: a web page, not a model\n  download the file itself\n")
    assert call("missing.keras")[0] == 2
    assert call("page.h5", "--input-shape", "1,a")[0] == 2
    code, text = call("--help")
    assert code == 0
    for word in ("SavedModel", ".pt2", ".prototxt", "--python", "--force", 'pip install "onnxviz[keras]"', "pickles"):
        assert word in " ".join(text.split())


# --- Caffe ----------------------------------------------------------------------------------------------------------


def test_caffe_weights_are_found_beside_the_network(tmp_path: Path) -> None:
    network = tmp_path / "net.prototxt"
    network.write_text("name: 'net'")
    with pytest.raises(ModelFileError, match="--weights FILE"):
        import_model(network, tmp_path / "o.onnx")
    (tmp_path / "other.caffemodel").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"other\.caffemodel"):
        import_model(network, tmp_path / "o.onnx")
    with pytest.raises(ModelFileError, match="no such file"):
        import_model(network, tmp_path / "o.onnx", weights=tmp_path / "none.caffemodel")


@pytest.mark.zoo
def test_caffe_networks_are_converted(zoo: Path, tmp_path: Path) -> None:
    original = zoo / "original"
    made = import_model(
        original / "caffe_lenet.prototxt", tmp_path / "o.onnx", weights=original / "caffe_lenet_iter_10000.caffemodel"
    )
    assert made.kind == "caffe"
    assert made.view.layer("conv1").operator == "Conv"
    assert open_model(made.path).metadata["onnxviz.source.weights"] == "caffe_lenet_iter_10000.caffemodel"


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


def run_onnx(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


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
        "from onnxviz.importing.program_exporter import RefusedError, switch_pickle_off\n"
        "switch_pickle_off(torch)\n"
        "for call in (lambda: torch.load(sys.argv[1]), lambda: pickle.loads(b'N.'),\n"
        "             lambda: torch._C._pickle_load_obj(b'')):\n"
        "    try: call()\n"
        "    except RefusedError: continue\n"
        "    sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(torch_file)], check=False).returncode == 0


# --- Keras and TensorFlow -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def keras_python() -> Path:
    """Return a Python that has TensorFlow, Keras, tf_keras and tf2onnx."""
    named = os.environ.get("ONNXVIZ_KERAS_PYTHON")
    if named:
        return Path(named)
    missing = [name for name in ("tensorflow", "keras", "tf_keras", "tf2onnx") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; install onnxviz[keras] or set ONNXVIZ_KERAS_PYTHON")
    return Path(sys.executable)


FIXTURES = """
import json, os, sys, zipfile
os.environ["KERAS_BACKEND"] = "tensorflow"
import h5py, keras, numpy as np, tensorflow as tf, tf_keras
keras.utils.set_random_seed(0)

def tiny(k, size=16):
    image = k.Input((size, size, 3), name="image")
    x = k.layers.Conv2D(4, 3, padding="same", name="stem")(image)
    x = k.layers.BatchNormalization(name="stem_bn")(x)
    x = k.layers.ReLU(name="stem_relu")(x)
    block = k.Sequential([k.layers.SeparableConv2D(6, 3, activation="relu", name="sep"),
                          k.layers.Conv2D(6, 1, name="point")], name="block")
    x = k.layers.GlobalAveragePooling2D(name="pool")(block(x))
    model = k.Model(image, k.layers.Dense(5, activation="softmax", name="scores")(x), name="tiny")
    rng = np.random.default_rng(1)
    for layer in (model.get_layer("stem_bn"),):
        layer.set_weights([rng.uniform(0.5, 1.5, 4), rng.normal(size=4), rng.normal(size=4), rng.uniform(0.5, 2, 4)])
    return model

images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
new, old = tiny(keras), tiny(tf_keras)
new.save("new.keras"); new.save("new.h5"); old.save("old.h5"); old.save("old.keras")
new.export("saved", verbose=False)
free = tiny(keras, None); free.save("free.keras")
new.save_weights("only.weights.h5")
np.savez("expected.npz", images=images, new=new(images, training=False), old=old(images, training=False))

a, b = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
both = keras.layers.Concatenate()([keras.layers.Conv2D(2, 1, name="one")(a), keras.layers.Conv2D(2, 3,
    padding="same", name="two")(b)])
pooled = keras.layers.GlobalAveragePooling2D()(both)
keras.Model([a, b], [keras.layers.Dense(2, name="first")(pooled), keras.layers.Dense(3, name="second")(pooled)]
    ).save("two.keras")

code = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x * 2, name="twice")])
code.save("lambda.keras"); code.save("lambda.h5")

class Mine(keras.layers.Layer):
    def call(self, x):
        return x * 2
keras.Sequential([keras.Input((4, 4, 1)), Mine(name="own")]).save("custom.keras")
class Old(tf_keras.layers.Layer):
    def call(self, x):
        return x * 2
tf_keras.Sequential([tf_keras.Input((4, 4, 1)), Old(name="own")]).save("custom.h5")

class Module(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1], tf.float32, name="image")])
    def __call__(self, image):
        tf.io.write_file("written.txt", "x")
        return image * 2
module = Module()
tf.saved_model.save(module, "writes", signatures=module.__call__)

import shutil
shutil.copy("old.h5", "linked.h5")
with h5py.File("linked.h5", "a") as file:
    file["elsewhere"] = h5py.ExternalLink("/etc/other.h5", "/x")
shutil.copy("old.h5", "external.h5")
with h5py.File("external.h5", "a") as file:
    file.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])
shutil.copy("old.h5", "bomb.h5")
with h5py.File("bomb.h5", "a") as file:
    file.create_dataset("x", (1 << 40,), "u1", chunks=(1 << 20,))
"""


@pytest.fixture(scope="session")
def keras_models(keras_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of models made by the frameworks just now."""
    folder = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [str(keras_python), "-c", FIXTURES], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "written.txt").unlink(missing_ok=True)
    return folder


LAYERS = {"stem": "Conv", "stem_bn": "Conv", "stem_relu": "Relu", "block/point": "Conv", "point": "Conv"}


@pytest.mark.parametrize(
    ("name", "reference"), [("new.keras", "new"), ("new.h5", "new"), ("old.h5", "old"), ("old.keras", "old")]
)
def test_keras_files(name: str, reference: str, keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    made = import_model(keras_models / name, tmp_path / "m.onnx", python=keras_python)
    values = np.load(keras_models / "expected.npz")
    np.testing.assert_allclose(run_onnx(made.path, values["images"]), values[reference], atol=1e-5)
    assert (made.view.batch, made.view.input_layout, made.view.input_size) == (None, "NHWC", (16, 16))
    assert {layer: made.view.layer(layer).operator for layer in LAYERS} == LAYERS
    assert made.view.layer("scores").operator == "Softmax"
    assert made.view.logits.unit_count == 5
    written = open_model(made.path).metadata
    assert written["onnxviz.source.file"] == name
    assert "tf2onnx" in written["onnxviz.source.frameworks"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_saved_model(keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    made = import_model(keras_models / "saved", tmp_path / "m.onnx", python=keras_python)
    values = np.load(keras_models / "expected.npz")
    np.testing.assert_allclose(run_onnx(made.path, values["images"]), values["new"], atol=1e-5)
    assert made.view.batch is None
    assert any(layer.operator == "Conv" and "stem" in layer.name for layer in made.view.layers)
    with pytest.raises(ModelFileError, match="'serving_default'"):
        import_model(keras_models / "saved", tmp_path / "n.onnx", python=keras_python, signature="other")


def test_a_size_that_the_model_leaves_free(keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    source = keras_models / "free.keras"
    made = import_model(source, tmp_path / "m.onnx", python=keras_python)
    assert made.view.input_size is None
    made = import_model(source, tmp_path / "n.onnx", python=keras_python, input_shape=(1, 24, 20, 3))
    assert made.view.input_size == (24, 20)
    assert made.view.batch is None
    with pytest.raises(ModelFileError, match="does not fit"):
        import_model(source, tmp_path / "o.onnx", python=keras_python, input_shape=(1, 24, 20, 4))


def test_several_inputs_and_outputs(keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    made = import_model(keras_models / "two.keras", tmp_path / "m.onnx", python=keras_python)
    proto = onnx.load(made.path)
    assert [value.name for value in proto.graph.input] == ["left", "right"]
    sizes = {value.name: value.type.tensor_type.shape.dim[1].dim_value for value in proto.graph.output}
    assert sizes == {"first": 2, "second": 3}


KERAS_REFUSED = {
    "lambda.keras": "'twice' is a Lambda",
    "lambda.h5": "'twice' is a Lambda",
    "custom.keras": "'own'",
    "custom.h5": "Old",
    "only.weights.h5": "weights only",
    "linked.h5": "points elsewhere",
    "external.h5": "lie in another file",
    "bomb.h5": "take more than",
    "writes": "WriteFile",
}


@pytest.mark.parametrize("name", KERAS_REFUSED)
def test_keras_files_that_are_refused(name: str, keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as refusal:
        import_model(keras_models / name, tmp_path / "m.onnx", python=keras_python)
    assert KERAS_REFUSED[name] in str(refusal.value)
    assert refusal.value.remedy
    assert list(tmp_path.iterdir()) == []
    assert not (keras_models / "written.txt").exists()


def test_a_file_cut_off(keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    for name in ("old.h5", "new.keras"):
        content = (keras_models / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ModelFileError, match="damaged"):
            import_model(tmp_path / name, tmp_path / "m.onnx", python=keras_python)


ORIGINALS = {
    "fer2013_mini_XCEPTION.102-0.66": (".hdf5", "fer2013_filtered_copy/*/*.jpg", 64, "L", "conv2d_7"),
    "mlperf_tiny_resnet8_cifar10": (".h5", "cifar10_test/*/*", 32, "RGB", "conv2d_8"),
    "stm_mobilenet_v1_0.25_224_imagenet": (".h5", "imagenet_sample/*", 224, "RGB", "conv_pw_13"),
}


@pytest.mark.zoo
@pytest.mark.parametrize("name", ORIGINALS)
def test_real_keras_models_give_the_same_logits_as_the_zoo(
    name: str, zoo: Path, shared_data: Path, keras_python: Path, tmp_path: Path
) -> None:
    suffix, photographs, size, mode, layer = ORIGINALS[name]
    made = import_model(zoo / "original" / f"{name}{suffix}", tmp_path / "m.onnx", python=keras_python)
    assert made.view.layer(layer).operator == "Conv"
    files = sorted(path for path in shared_data.glob(photographs) if path.suffix.lower() in (".jpg", ".jpeg"))[::40]
    assert len(files) >= 5
    images = np.stack(
        [np.asarray(Image.open(path).convert(mode).resize((size, size)), np.float32) for path in files]
    ).reshape(len(files), size, size, -1)
    if name != "mlperf_tiny_resnet8_cifar10":
        images = images / 127.5 - 1
    logits = [run_to_logits(path, images) for path in (made.path, zoo / "onnx" / f"{name}.onnx")]
    assert np.abs(logits[1]).max() > 5
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)


def run_to_logits(path: Path, images: np.ndarray) -> np.ndarray:
    """Return what enters the last Softmax."""
    proto = onnx.load(path)
    name = [node for node in proto.graph.node if node.op_type == "Softmax"][-1].input[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([name], {session.get_inputs()[0].name: images})[0])
