"""Keras files and SavedModels become the same network in ONNX.

These tests need a Python with TensorFlow: this one, or the one that ONNXVIZ_KERAS_PYTHON names.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from onnxviz import open_model
from onnxviz.core.errors import AgreementError, ModelFileError
from onnxviz.importing import import_model
from tests.importing_support import logs_go_away, run_onnx  # noqa: F401 - a fixture

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

for k, ending in ((keras, "new"), (tf_keras, "old")):
    norm = k.layers.Normalization(axis=-1, name="norm")
    norm.adapt(np.random.default_rng(1).random((50, 16, 16, 3)).astype("f") * 255)
    image = k.Input((16, 16, 3))
    x = k.layers.RandomFlip()(norm(image))
    x = k.layers.Conv2D(4, 3, name="stem")(x)
    shift = k.layers.Normalization(mean=np.arange(14 * 14 * 4).reshape(14, 14, 4) / 99., variance=np.ones((14, 14, 4)),
                                   axis=(1, 2, 3))
    x = k.layers.GlobalAveragePooling2D()(shift(x))
    k.Model(image, k.layers.Dense(3, name="scores")(x)).save(f"normalised_{ending}.keras")
flipped = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.RandomFlip(), keras.layers.Conv2D(2, 3)])
flipped.export("augmenting", verbose=False)

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


@pytest.mark.parametrize("ending", ["new", "old"])
def test_constants_stay_constants(ending: str, keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    source = keras_models / f"normalised_{ending}.keras"
    made = import_model(source, tmp_path / "m.onnx", python=keras_python)
    assert len(onnx.load(made.path).graph.input) == 1
    assert made.compared.agrees, made.compared.said


def test_a_model_that_draws_random_numbers_is_told(keras_models: Path, keras_python: Path, tmp_path: Path) -> None:
    """Keras exports its augmentation as if for training, with operators that ONNX has not."""
    with pytest.raises(AgreementError, match="StatelessRandomUniformV2"):
        import_model(keras_models / "augmenting", tmp_path / "m.onnx", python=keras_python)
    made = import_model(keras_models / "augmenting", tmp_path / "m.onnx", python=keras_python, keep_different=True)
    assert made.compared.agrees is not True
    assert "StatelessRandomUniformV2" in {operator for operator, _ in made.view.refused_operators}


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
