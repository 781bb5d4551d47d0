"""Images given in Python take the same way as a recipe's, and what is not in 0..1 is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from onnxviz.core.errors import DataError
from onnxviz.core.values import PRESETS, Preprocessing
from onnxviz.data.given_images import as_images
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.model.model import Model, load
from tests.tiny_models import save_model

SIZE = (16, 16)
SHAPES = ((16, 16), (40, 30), (9, 50), (300, 200), (18, 18))


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    rng = np.random.default_rng(3)
    for place, shape in enumerate(SHAPES):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(tmp_path / f"{place}.png")
    Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)).save(tmp_path / "5.png")
    turned = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "6.png", exif=turned.getexif())
    pale = np.dstack([rng.integers(0, 256, (20, 20, 3), np.uint8), np.full((20, 20, 1), 77, np.uint8)])
    Image.fromarray(pale).save(tmp_path / "7.png")
    return ImageFolder.find("x", [str(tmp_path)], tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    save_model(tmp_path / "m.onnx")
    return load(tmp_path / "m.onnx", "caffe", device="cpu", output="classes")


@pytest.mark.parametrize(
    "preprocessing",
    [PRESETS["imagenet"], Preprocessing(fit="stretch"), Preprocessing(crop_fraction=0.875)],
    ids=["crop", "stretch", "explicit"],
)
def test_every_kind_is_prepared_as_in_a_run(folder: ImageFolder, preprocessing: Preprocessing) -> None:
    expected = load_batch(folder, range(len(folder)), preprocessing, SIZE)
    opened = [Image.open(path) for path in folder.paths]
    arrays = [folder.read(index) for index in range(len(folder))]
    for given in (
        folder.paths,
        [str(path) for path in folder.paths],
        opened,
        arrays,
        [torch.tensor(a) for a in arrays],
    ):
        assert (as_images(given, preprocessing, SIZE).numpy() == expected).all()
    for single in (folder.paths[1], opened[1], arrays[1]):
        assert (as_images(single, preprocessing, SIZE).numpy() == expected[1:2]).all()
    assert (as_images(np.stack([arrays[0]] * 2), preprocessing, SIZE).numpy() == expected[[0, 0]]).all()


def test_calls_give_the_same_for_a_path_and_for_what_is_prepared(folder: ImageFolder, model: Model) -> None:
    prepared = model.prepare(folder.paths)
    assert prepared.shape == (len(folder), 3, *model.input_size)
    assert (model.probabilities(folder.paths) == model.probabilities(prepared)).all()
    logits = model.view.logits
    assert torch.equal(
        model.activations(folder.paths, logits)[logits.name], model.activations(prepared, logits)[logits.name]
    )
    assert (model.measure(folder.paths, logits)[logits.name] == model.measure(prepared, logits)[logits.name]).all()


def test_prepared_images_are_left_alone(model: Model) -> None:
    images = torch.rand(2, 3, *model.input_size)
    assert model.prepare(images) is images
    assert (model.prepare(images.numpy()).numpy() == images.numpy()).all()


def test_prepared_images_of_another_size_are_refused_where_the_model_has_its_own(model: Model, tmp_path: Path) -> None:
    assert model.view.input_size == SIZE
    for given in (torch.rand(2, 3, 20, 24), np.zeros((2, 3, 20, 24), np.float32)):
        with pytest.raises(DataError, match="these are 20×24 pixels where the model takes 16×16"):
            model.prepare(given)
        assert len(model.activations(given, "logits").popitem()[1]) == 2, "this network goes on with it"
    assert model.prepare(np.zeros((20, 24, 3), np.uint8)).shape == (1, 3, *SIZE), "brought to size"
    free = onnx.load(tmp_path / "m.onnx")
    for axis in free.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = f"free{axis.dim_value}{id(axis)}"
    onnx.save(free, tmp_path / "free.onnx")
    images = torch.rand(2, 3, 20, 24)
    opened = load(tmp_path / "free.onnx", "caffe", device="cpu", output="classes")
    assert opened.prepare(images) is images


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.full((1, 3, 16, 16), 255.0), r"reach from 255 to 255.*divide by 255"),
        (torch.full((1, 3, 16, 16), 1.01), r"reach from 1\.01"),
        (torch.full((1, 3, 16, 16), -2.1), r"-2\.1.*do not normalise"),
        (torch.full((1, 3, 16, 16), float("nan")), "NaN"),
        (torch.tensor([[[[0.5, float("inf")]] * 2] * 3]), "inf"),
    ],
    ids=["bytes", "above", "normalised", "nan", "infinite"],
)
def test_what_is_not_in_0_to_1_is_refused(model: Model, wrong: torch.Tensor, said: str) -> None:
    for call in (model.prepare, model.encode, model.probabilities, lambda images: model.activations(images, "logits")):
        with pytest.raises(DataError, match=f"(?s){said}"):
            call(wrong)
    with pytest.raises(DataError, match=f"(?s){said}"):
        model.measure(wrong.numpy(), "logits")


def test_rounding_is_not_refused(model: Model) -> None:
    model.prepare(torch.full((1, 3, 16, 16), 1 + 1e-6))
    model.prepare(torch.full((1, 3, 16, 16), -1e-6))


def test_a_function_with_gradients_refuses_bytes_and_lets_an_optimisation_stray(model: Model) -> None:
    forward = model.differentiable("logits")
    forward(torch.full((1, 3, *model.input_size), 1.5))
    with pytest.raises(DataError, match="divide by 255"):
        forward(torch.full((1, 3, *model.input_size), 255.0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "no images"),
        (np.zeros((1, 6, 5, 3), np.int64), "int64"),
        (np.zeros((6, 5, 4), np.uint8), r"uint8 \[6, 5, 4\]"),
        ([np.zeros((6, 5, 3), np.uint8), np.zeros((0, 5, 3), np.uint8)], r"image 1: an image must be"),
        (["missing.png"], r"missing\.png: cannot be read"),
        (7, "int is no image"),
    ],
)
def test_what_is_no_image_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        as_images(wrong, PRESETS["unit"], SIZE)


def test_another_size_is_refused_where_images_are_not_resized() -> None:
    with pytest.raises(DataError, match="image 0: the image is 5 x 6 pixels, the model takes 16 x 16"):
        as_images(np.zeros((6, 5, 3), np.uint8), Preprocessing(fit="none"), SIZE)


@pytest.mark.parametrize("shape", [(16, 16, 3), (3, 16, 16), (1, 16, 16, 3), (1, 1, 16, 16)])
def test_floating_images_of_another_form_are_refused(model: Model, shape: tuple[int, ...]) -> None:
    for given in (torch.zeros(shape), np.zeros(shape, np.float32)):
        for call in (model.prepare, model.scores):
            with pytest.raises(DataError, match=r"floating images must be \[N, 3, height, width\]") as fault:
                call(given)
            assert ("images[None]" in str(fault.value)) == (shape == (3, 16, 16))
    for function in (model.encode, model.differentiable("logits")):
        with pytest.raises(DataError, match=r"floating images must be \[N, 3, height, width\]"):
            function(torch.zeros(shape))
        for other, said in ((np.zeros(shape, np.float32), "ndarray"), (torch.zeros((1, 3, 16, 16)).byte(), "uint8")):
            with pytest.raises(DataError, match=f"must be a floating tensor.*{said}"):
                function(other)


def test_activations_have_all_names_of_their_layers(model: Model) -> None:
    own = model.view.logits.name
    found = model.activations(torch.rand(1, 3, *model.input_size), "logits")
    assert list(found) == [own] != ["logits"]
    assert "logits" in found
    assert own in found
    assert found.get("logits") is found["logits"] is found[own]
    others = [layer.name for layer in model.view.layers if layer.name != own] + ["nothing"]
    assert not any(name in found for name in others)
    assert found.get(others[0]) is None
    assert found.get("nothing", 3) == 3


def test_a_refusal_does_not_advise_what_was_called(model: Model, folder: ImageFolder) -> None:
    for wrong, words in (
        (np.zeros((16, 16, 3), np.float32), "transpose(2, 0, 1); or give paths of files"),
        (np.zeros((1, 16, 16, 3), np.float32), "transpose(0, 3, 1, 2); or give paths of files"),
        (torch.full((1, 3, 16, 16), 255.0), "or give paths of files"),
        (np.zeros((3, 16, 16), np.uint8), "uint8 [height, width] if it is grey"),
        (str(folder.paths[0].parent), "is a folder; give its files"),
    ):
        with pytest.raises(DataError) as refused:
            model.prepare(wrong)
        assert words in str(refused.value).replace("\n  ", "; ")
        assert "model.prepare" not in str(refused.value)
    with pytest.raises(DataError, match=r"`model\.prepare\(images\)` make"):
        model.encode(torch.zeros(16, 16, 3))
