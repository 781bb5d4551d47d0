"""`onnxviz import`: what is refused and how, and exporters in a process of their own."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxviz import cli, open_model
from onnxviz.core import limits
from onnxviz.core.errors import ModelError, ModelFileError, OutputError
from onnxviz.importing import import_model, importer
from onnxviz.importing.child import run_exporter
from onnxviz.importing.exporters.keras_model import check_config
from onnxviz.importing.exporters.process import RefusedError
from onnxviz.importing.source_kind import source_kind
from tests.importing_support import logs_go_away, run_onnx  # noqa: F401 - a fixture

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
    assert f'{sys.executable} -m pip install "tensorflow' in str(failure.value)
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
    for word in ("SavedModel", ".pt2", ".prototxt", "--python", "--force", "tf-keras tf2onnx", "pickles"):
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
