"""Images of any number of channels: read, encoded, made, explained and shown; the same numbers as ONNX Runtime's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxviz
from onnxviz.core.errors import DataError, OnnxvizError, RecipeError, SelectionError
from onnxviz.core.findings import Array, Table, TileGrid
from onnxviz.core.values import Preprocessing
from onnxviz.data.decode import check_image, image_size, read_image, read_stored
from onnxviz.data.domains import domain_of
from onnxviz.data.images import ImageFolder, fit_image, load_batch
from onnxviz.execution.execute import run
from onnxviz.execution.plan import make_plan
from onnxviz.recipe.recipe import parse_recipe

RNG = np.random.default_rng(1)
SIZE = (24, 24)


def save(path: Path, channels: int, *, last: bool = False) -> Path:
    """Write a classifier of images of any number of channels, which lie last if asked for."""

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((RNG.standard_normal(shape) / 3).astype(np.float32), name)

    nodes = [
        helper.make_node("Transpose", ["image"], ["first"], "first", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first" if last else "image", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w3"], ["scores"], "dense"),
    ]
    shape = ["n", *SIZE, channels] if last else ["n", channels, *SIZE]
    graph = helper.make_graph(
        nodes[0 if last else 1 :],
        "channels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [weight("w1", 6, channels, 3, 3), weight("w2", 8, 6, 3, 3), weight("w3", 8, 3)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tiles(folder: Path, channels: int, count: int = 4) -> list[np.ndarray]:
    """Write arrays of numbers as satellites have them, of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        shape = (*SIZE, channels) if number else (30, 40, channels)
        made.append(RNG.integers(0, 10_001, shape).astype(np.uint16))
        np.save(folder / f"{number}.npy", made[-1])
    return made


# --- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("L", ".png", 1),
        ("RGB", ".png", 3),
        ("RGBA", ".png", 4),
        ("CMYK", ".tif", 4),
        ("LA", ".png", 2),
        ("F", ".tif", 1),
    ],
)
def test_pillow_images_are_read_as_they_are_stored(tmp_path: Path, mode: str, suffix: str, channels: int) -> None:
    shape = (5, 7) if channels == 1 else (5, 7, channels)
    pixels = RNG.integers(0, 256, shape).astype(np.float32 if mode == "F" else np.uint8)
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels, mode).save(path)
    np.testing.assert_array_equal(read_stored(path), pixels)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    depth = RNG.integers(0, 65_536, (5, 7)).astype(np.uint16)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    np.testing.assert_array_equal(read_stored(tmp_path / "depth.png"), depth)


def test_pages_of_a_tiff_are_channels(tmp_path: Path) -> None:
    bands = RNG.integers(0, 65_536, (13, 5, 7)).astype(np.uint16)
    first, *rest = (Image.fromarray(band) for band in bands)
    first.save(tmp_path / "bands.tif", save_all=True, append_images=rest)
    np.testing.assert_array_equal(read_stored(tmp_path / "bands.tif"), bands.transpose(1, 2, 0))


def test_channels_that_pillow_would_leave_out_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "five.tif"
    path.write_bytes(_tiff(5))
    with pytest.raises(DataError, match=r"holds 5 channels, of which Pillow reads 3|not an image in one"):
        read_stored(path)


def _tiff(samples: int) -> bytes:
    """Return a TIFF of 2 x 2 pixels with so many samples of 8 bits, three of them colours."""
    extra = samples - 3
    entries = [
        (256, 3, 1, 2), (257, 3, 1, 2), (258, 3, samples, 500), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 600),
        (277, 3, 1, samples), (278, 3, 1, 2), (279, 4, 1, 4 * samples), (284, 3, 1, 1),
        (338, 3, extra, 0),
    ]  # fmt: skip
    content = bytearray(700)
    content[:8] = b"II*\0" + (8).to_bytes(4, "little")
    content[8:10] = len(entries).to_bytes(2, "little")
    for place, (tag, kind, count, value) in enumerate(entries):
        start = 10 + 12 * place
        content[start : start + 12] = b"".join(
            number.to_bytes(size, "little") for number, size in ((tag, 2), (kind, 2), (count, 4), (value, 4))
        )
    for sample in range(samples):
        content[500 + 2 * sample : 502 + 2 * sample] = (8).to_bytes(2, "little")
    return bytes(content)


def test_arrays_are_images_where_there_is_nothing_else(tmp_path: Path) -> None:
    tiles(tmp_path, 4)
    found = ImageFolder.find("tiles", [str(tmp_path)], tmp_path)
    assert found.names == ("0.npy", "1.npy", "2.npy", "3.npy")
    assert found.sizes[0] == (30, 40)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    assert ImageFolder.find("tiles", [str(tmp_path)], tmp_path).names == ("photo.png",)
    np.save(tmp_path / "flat.npy", np.zeros(5))
    with pytest.raises(DataError, match=r"is no image, but float64 \[5\]"):
        check_image(tmp_path / "flat.npy")
    rgb = RNG.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    np.save(tmp_path / "rgb.npy", rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.npy"), rgb)
    assert image_size(tmp_path / "rgb.npy") == (5, 6)
    with pytest.raises(DataError, match=r"no RGB image of 8 bits, but uint16 \[30, 40, 4\]\n.*STORED"):
        read_image(tmp_path / "0.npy")
    np.save(tmp_path / "nan.npy", np.full((4, 4, 2), np.nan))
    with pytest.raises(DataError, match="no numbers"):
        read_stored(tmp_path / "nan.npy")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((4, 24, 24), np.uint8), r"has 24 channels \(uint8 \[4, 24, 24\]\), the model takes 4"),
        (np.zeros((24, 24, 3), np.uint8), "has 3 channels"),
        (np.full((24, 24, 4), 300, np.uint16), "holds numbers from 300 to 300, outside 0 to 255"),
        (np.full((24, 24, 4), -1, np.int16), "outside 0 to 255"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(array: np.ndarray, text: str) -> None:
    domain = domain_of(Preprocessing("STORED", (0.0,) * 4, count=4))
    with pytest.raises(DataError, match=text):
        domain.in_range(array)  # type: ignore[attr-defined]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "bilinear_aliased"])
def test_each_channel_is_resized_as_bytes_are(interpolation: Any) -> None:
    pixels = RNG.integers(80, 176, (40, 50, 3)).astype(np.uint8)  # Pillow clips what overshoots between its two passes
    how = Preprocessing(interpolation=interpolation)
    as_bytes = fit_image(pixels, how, SIZE)
    as_floats = fit_image(pixels.astype(np.float32) / np.float32(255), how, SIZE)
    assert np.abs(as_bytes - as_floats).max() <= 1.01 / 255


# --- encoding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "last"), [(1, False), (2, False), (4, False), (4, True), (11, True), (13, False)])
def test_values_are_those_of_the_file(tmp_path: Path, channels: int, last: bool) -> None:
    path = save(tmp_path / "model.onnx", channels, last=last)
    mean, scale = RNG.uniform(500, 2000, channels), RNG.uniform(300, 900, channels)
    fields = {"channel_order": "STORED", "mean": list(mean), "scale": list(scale), "range": [0, 10_000]}
    model = onnxviz.load(path, fields)
    assert model.view.input_channels == channels
    assert model.preprocessing.channels == channels
    numbers = [array for array in tiles(tmp_path / "tiles", channels) if array.shape[:2] == SIZE]
    encoded = ((np.stack(numbers).astype(np.float64) - mean) / scale).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"image": encoded if last else encoded.transpose(0, 3, 1, 2)})
    paths = [tmp_path / "tiles" / f"{number}.npy" for number in (1, 2, 3)]
    for images in (paths, numbers, model.prepare(numbers)):
        np.testing.assert_allclose(model.measure(images, ["scores"])["scores"], wanted, atol=2e-5)
        np.testing.assert_allclose(model.activations(images, ["scores"])["scores"].numpy(), wanted, atol=2e-5)
    leaf = model.prepare(numbers).requires_grad_()
    model.differentiable(["scores"])(leaf)[0].sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad.abs().amax(dim=(0, 2, 3)) > 0).all(), "a gradient for each channel"


@pytest.mark.parametrize(
    ("given", "order", "channels"),
    [
        (None, "STORED", 4),
        ("unit", "STORED", 4),
        ({"mean": [1, 2, 3, 4], "scale": 2}, "STORED", 4),
        ({"range": [0, 1], "scale": 1}, "STORED", 4),
    ],
)
def test_what_says_nothing_of_colours_is_for_any_channels(
    tmp_path: Path, given: Any, order: str, channels: int
) -> None:
    model = onnxviz.load(save(tmp_path / "model.onnx", 4), given)
    assert (model.preprocessing.channel_order, model.preprocessing.channels) == (order, channels)
    assert model.preprocessing.shown_channels == (0, 1, 2)
    assert "4 channels as stored" in model.preprocessing.in_words


@pytest.mark.parametrize(
    ("channels", "given", "text"),
    [
        (4, "imagenet", "makes 3 channel.*the model takes 4.*STORED"),
        (4, "caffe", "the model takes 4"),
        (4, {"channel_order": "BGR"}, "the model takes 4"),
        (4, {"mean": [1, 2]}, "2 numbers for 4|makes 2"),
        (3, {"mean": [1, 2]}, "2 numbers for 3|makes 2"),
        (4, {"show": [0, 1]}, "show cannot be"),
        (4, {"show": [0, 1, 4]}, r"show cannot be \[0, 1, 4\].*0 to 3"),
        (4, {"range": [1, 1]}, "range must be two numbers"),
        (3, {"channel_order": "RGB", "range": [0, 1]}, "STORED"),
        (4, "auto", "photographs"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, channels: int, given: Any, text: str) -> None:
    path = save(tmp_path / "model.onnx", channels)
    Image.new("RGB", SIZE).save(tmp_path / "photo.png")
    with pytest.raises(SelectionError) as fault:
        onnxviz.load(path, given, images=[tmp_path] if given == "auto" else None)
    assert re.search(text, str(fault.value).replace("\n", " "))


# --- showing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "show", "wanted"),
    [(4, (), (0, 1, 2)), (13, (3, 2, 1), (3, 2, 1)), (13, (7,), (7, 7, 7)), (2, (), (0, 0, 0)), (1, (), (0, 0, 0))],
)
def test_pictures_show_the_channels_that_are_chosen(
    channels: int, show: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    images = RNG.random((2, channels, 5, 6)).astype(np.float32)
    shown = domain_of(Preprocessing("STORED", show=show, count=channels)).show(images)
    np.testing.assert_array_equal(shown, images[:, list(wanted)])


# --- runs -----------------------------------------------------------------------------------------------------------

RECIPE = """\
version: 1
model:
  path: model.onnx
  output: classes
  preprocess: {{channel_order: STORED, mean: {mean}, scale: 500, range: [0, 10000], show: {show}}}
data:
  tiles: {{images: tiles}}
  concepts: {{concepts: concepts}}
analyses:
  w: {{kind: weights, layers: first_conv, response_to: {{data: tiles, images: [0]}}}}
  cam: {{kind: grad_cam, data: tiles, layers: all_convs, classes: "top:2"}}
  am: {{kind: activation_maximization, data: tiles, steps: 16, {am}targets: [{{layer: logits, units: [0, 1]}},
       {{layer: conv1, units: [2]}}]}}
  concepts: {{kind: dissection, data: concepts, layers: last_map, least_images: 1}}
"""


def write_recipe(folder: Path, channels: int, show: list[int], am: str = "") -> str:
    """Write a model, images and concepts of so many channels; return a recipe about them."""
    save(folder / "model.onnx", channels)
    tiles(folder / "tiles", channels)
    tiles(folder / "concepts" / "images", channels, 6)
    (folder / "concepts" / "labels").mkdir()
    for number in range(6):
        height, width, _ = np.load(folder / "concepts" / "images" / f"{number}.npy").shape
        mask = np.zeros((height, width), np.uint8)
        mask[: height // 2] = 1
        mask[height // 2 :, : width // 2] = 2
        Image.fromarray(mask).save(folder / "concepts" / "labels" / f"{number}.png")
    (folder / "concepts" / "classes.txt").write_text("0 void\n1 water\n2 field\n", "utf-8")
    return RECIPE.format(mean=[1000 + 10 * channel for channel in range(channels)], show=show, am=am)


@pytest.mark.parametrize(("channels", "show"), [(4, [0, 1, 2]), (13, [3, 2, 1]), (1, [0])])
def test_all_four_analyses_run(tmp_path: Path, channels: int, show: list[int]) -> None:
    recipe = parse_recipe(write_recipe(tmp_path, channels, show), "r.yaml", tmp_path)
    done = run(recipe, tmp_path / "out")
    result = done.result
    assert result.verdict == "finished", [error for part in result.analyses for error in part.parts]
    card = result.models[0]
    assert f"{channels} channel{'s' * (channels > 1)} as stored" in card.preprocessing
    assert all(item.holds for item in card.agreement)
    assert {part.id for part in result.analyses} == {"w", "cam", "am", "concepts"}
    findings = {part.id: part.parts[0].findings for part in result.analyses}
    stored = [finding for finding in findings["am"] if isinstance(finding, Array)]
    assert stored
    assert any(isinstance(finding, TileGrid) for finding in findings["am"])
    assert any(isinstance(finding, Table) for finding in findings["concepts"])
    again = parse_recipe((tmp_path / "out" / "recipe.lock.yaml").read_text("utf-8"), "again.yaml", tmp_path / "out")
    assert {job.key for job in make_plan(again).jobs} == {job.key for job in make_plan(recipe).jobs}


@pytest.mark.parametrize(
    ("am", "text"),
    [
        ("parameterization: {kind: maco}, ", "maco: for photographs only, and the model takes 4 channels"),
        ("transforms: [{kind: color_jitter}], ", "color_jitter: for photographs only"),
        ("transforms: [{kind: admix}], ", "admix: for photographs only"),
        ("regularizers: [{kind: feature_statistics}], ", "feature_statistics: for photographs only"),
        ("colors: {data: tiles}, ", "colors: for photographs only"),
    ],
)
def test_what_is_for_photographs_is_refused_at_validation(tmp_path: Path, am: str, text: str) -> None:
    recipe = parse_recipe(write_recipe(tmp_path, 4, [0], am), "r.yaml", tmp_path)
    with pytest.raises(RecipeError, match=text):
        make_plan(recipe)


@pytest.mark.parametrize("kind", ["fourier", "pixel", "laplacian_pyramid", "cppn"])
def test_every_other_parameterization_writes_any_channels(tmp_path: Path, kind: str) -> None:
    from onnxviz.optimize.ascent import maximize
    from onnxviz.optimize.objectives import Channel
    from onnxviz.optimize.settings import AscentSettings

    pytest.importorskip("torch")
    model = onnxviz.load(save(tmp_path / "model.onnx", 5), "unit", device="cpu")
    form = _parameterization(kind)
    settings = AscentSettings(steps=4, size=SIZE, channels=5, samples=5, parameterization=form)
    made = maximize(model, [Channel(layer="conv2", unit=1)], [0], settings)
    assert made.images.shape == (1, 5, *SIZE)
    assert made.images.min() >= 0
    assert made.images.max() <= 1
    assert len({plane.tobytes() for plane in made.images[0]}) == 5, "planes are independent"


def _parameterization(kind: str) -> Any:
    from pydantic import TypeAdapter

    from onnxviz.optimize.parameterizations import ParameterizationChoice

    return TypeAdapter(ParameterizationChoice).validate_python({"kind": kind})


def test_images_of_other_channels_are_refused_at_validation(tmp_path: Path) -> None:
    text = write_recipe(tmp_path, 4, [0])
    for number in range(4):
        np.save(tmp_path / "tiles" / f"{number}.npy", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(OnnxvizError, match="has 3 channels"):
        make_plan(parse_recipe(text, "r.yaml", tmp_path))


def test_photographs_are_as_before(tmp_path: Path) -> None:
    Image.fromarray(RNG.integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    found = ImageFolder.find("photos", [str(tmp_path / "a.png")], tmp_path)
    batch = load_batch(found, [0], Preprocessing(), SIZE)
    assert batch.shape == (1, 3, *SIZE)
    model = onnxviz.load(save(tmp_path / "model.onnx", 3), "imagenet")
    images = torch.from_numpy(batch)
    mean, scale = (
        torch.tensor(numbers)[:, None, None] for numbers in (model.preprocessing.mean, model.preprocessing.scale)
    )
    assert torch.equal(model.encode(images), (images * 255.0 - mean) / scale)
