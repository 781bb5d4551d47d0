"""The built-in data set is deterministic, completely and rightly labelled; the built-in models are what they claim."""

from __future__ import annotations

import colorsys
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from onnxviz.core.errors import DataError, SelectionError
from onnxviz.data import builtin
from onnxviz.data.builtin.outlines import SHAPES
from onnxviz.data.builtin.scenes import CATEGORIES, CLASSES
from onnxviz.data.builtin.surfaces import PALETTE
from onnxviz.model.preprocessing import read_preprocessing

SIZES = (16, 32, 64, 96, 256)


@pytest.fixture(scope="module")
def scenes() -> builtin.SceneSet:
    return builtin.scenes(150, seed=3)


@pytest.fixture(scope="module")
def drawn(scenes: builtin.SceneSet) -> tuple[np.ndarray, np.ndarray]:
    """Pictures [N, H, W, 3] and labels [N, category, H, W] of all scenes."""
    pictures, labels = zip(*((scenes.read(i), scenes.read_labels(i)) for i in range(len(scenes))), strict=True)
    return np.stack(pictures), np.stack(labels)


def concept(scenes: builtin.SceneSet, category: str, name: str) -> int:
    return next(c.index for c in scenes.concepts if (c.category, c.name) == (category, name))


def where(scenes: builtin.SceneSet, labels: np.ndarray, category: str, name: str) -> np.ndarray:
    return labels[:, CATEGORIES.index(category)] == concept(scenes, category, name)


def luminance(pictures: np.ndarray) -> np.ndarray:
    return pictures @ np.array([0.299, 0.587, 0.114])


# --- the same again, and not the same ---------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_scenes_in_any_order() -> None:
    first, second = builtin.scenes(8, seed=5), builtin.scenes(8, seed=5)
    assert first.digest == second.digest
    forwards = [(first.read(i), first.read_labels(i)) for i in range(8)]
    backwards = [(second.read(i), second.read_labels(i)) for i in reversed(range(8))][::-1]
    for (picture, labels), (other_picture, other_labels) in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(picture, other_picture)
        np.testing.assert_array_equal(labels, other_labels)


def test_the_same_scenes_in_another_process() -> None:
    code = "import hashlib; from onnxviz.data import builtin; s = builtin.scenes(3, seed=9); "
    code += "print(hashlib.sha256(s.read(2).tobytes() + s.read_labels(2).tobytes()).hexdigest(), s.digest)"
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_index_seed_and_split_each_give_another_scene() -> None:
    one = builtin.scenes(40, seed=0)
    others = [(builtin.scenes(40, seed=1), 0), (builtin.scenes(40, split="train"), 0), (one, 15), (one, 1)]
    for other, index in others:
        assert (one.read(0) != other.read(index)).mean() > 0.5
    digests = [s.digest for s in (one, *(other for other, _ in others[:2]))]
    digests += [builtin.scenes(41, seed=0).digest, builtin.scenes(40, seed=0, size=65).digest]
    assert len(set(digests)) == 5


def test_the_generator_still_draws_what_the_models_learned_from() -> None:
    # Who changes the scenes on purpose raises VERSION, trains the models again and writes the new means here.
    means = [(120.11, 109.77, 88.58), (193.5, 174.14, 64.25), (157.78, 166.46, 153.22)]
    drawn = builtin.scenes(3)
    for index, mean in enumerate(means):
        np.testing.assert_allclose(drawn.read(index).mean((0, 1)), mean, atol=0.3)


def test_what_a_reader_does_to_labels_does_not_come_back(scenes: builtin.SceneSet) -> None:
    scenes.read_labels(0)[:] = 0
    assert scenes.read_labels(0).min() > 0


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_every_size_shows_the_same_scene_completely_labelled(size: int) -> None:
    small, large = builtin.scenes(6, seed=2, size=size), builtin.scenes(6, seed=2, size=256)
    known = {category: {c.index for c in small.concepts if c.category == category} for category in CATEGORIES}
    for index in range(len(small)):
        picture, labels = small.read(index), small.read_labels(index)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert labels.shape == (5, size, size)
        assert labels.dtype == np.int32
        for layer, category in enumerate(CATEGORIES):
            assert set(np.unique(labels[layer])) <= known[category]
        # The mean colour and the area of each shape hardly change with the resolution.
        other, other_labels = large.read(index), large.read_labels(index)
        assert np.abs(picture.mean((0, 1)) - other.mean((0, 1))).max() < 9
        main = concept(small, "shape", small.class_of(index).split()[1])
        assert abs((labels[0] == main).mean() - (other_labels[0] == main).mean()) < 0.04


# --- labels say what the pixels show ----------------------------------------------------------------------------------


def test_concepts_are_numbered_from_one_and_all_occur(scenes: builtin.SceneSet, drawn: tuple) -> None:
    assert [c.index for c in scenes.concepts] == list(range(1, len(scenes.concepts) + 1))
    assert scenes.categories == tuple(dict.fromkeys(c.category for c in scenes.concepts)) == CATEGORIES
    found = set(np.unique(drawn[1]))
    assert found == {c.index for c in scenes.concepts}


def test_the_main_object_has_the_shape_and_the_texture_of_its_class(scenes: builtin.SceneSet, drawn: tuple) -> None:
    texture_of = {"striped": "stripes", "dotted": "dots", "checkered": "checker"}
    names = {c.index: c.name for c in scenes.concepts}
    for index in range(len(scenes)):
        texture, shape = scenes.class_of(index).split()
        labels = drawn[1][index]
        patterned = np.isin(labels[2], [i for i, n in names.items() if n.endswith(("stripes", "dots", "checker"))])
        assert patterned.any()
        assert {names[i].split()[-1] for i in labels[2][patterned]} == {texture_of[texture]}
        assert {names[i] for i in labels[0][patterned]} == {shape}


@pytest.mark.parametrize("colour", ["red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"])
def test_pixels_labelled_with_a_colour_have_its_hue(scenes: builtin.SceneSet, drawn: tuple, colour: str) -> None:
    mean = drawn[0][where(scenes, drawn[1], "colour", colour)].mean(0) / 255
    hue, saturation, _ = colorsys.rgb_to_hsv(*mean)
    expected, _, _ = colorsys.rgb_to_hsv(*PALETTE[colour])
    assert min(abs(hue - expected), 1 - abs(hue - expected)) < 0.05
    assert saturation > 0.15


def test_white_grey_and_black_are_in_order_of_lightness(scenes: builtin.SceneSet, drawn: tuple) -> None:
    light, middle, dark = (
        luminance(drawn[0])[where(scenes, drawn[1], "colour", name)].mean() for name in ("white", "grey", "black")
    )
    assert light > middle + 30 > dark + 60


def test_highlights_are_bright_and_shadows_are_dark(scenes: builtin.SceneSet, drawn: tuple) -> None:
    grey = luminance(drawn[0])
    wall = grey[where(scenes, drawn[1], "part", "wall")].mean()
    assert grey[where(scenes, drawn[1], "part", "highlight")].mean() > wall + 40
    assert grey[where(scenes, drawn[1], "part", "shadow")].mean() < wall - 15


@pytest.mark.parametrize(
    ("direction", "along"),
    [
        ("horizontal stripes", (0, 1)),
        ("vertical stripes", (1, 0)),
        ("rising stripes", (-1, 1)),
        ("falling stripes", (1, 1)),
    ],
)
def test_stripes_change_least_along_their_direction(
    scenes: builtin.SceneSet, drawn: tuple, direction: str, along: tuple[int, int]
) -> None:
    grey, mask = luminance(drawn[0]), where(scenes, drawn[1], "texture", direction)

    def change(step: tuple[int, int]) -> float:
        moved = np.roll(grey, step, (1, 2)), np.roll(mask, step, (1, 2))
        return float(np.abs(grey - moved[0])[mask & moved[1]].mean())

    across = (-along[1], along[0])
    assert change(along) < 0.75 * change(across)


def test_the_hole_of_a_ring_shows_the_backdrop(scenes: builtin.SceneSet, drawn: tuple) -> None:
    hole = where(scenes, drawn[1], "part", "hole")
    on_things = hole & ~where(scenes, drawn[1], "shape", "backdrop")
    assert hole.any()
    assert on_things.sum() < 0.2 * hole.sum()
    assert not (on_things & where(scenes, drawn[1], "shape", "ring")).any()


@pytest.mark.parametrize("name", ["circle", "square", "triangle", "star", "ring", "hexagon", "cross"])
def test_edges_are_thin_and_bodies_lie_within(scenes: builtin.SceneSet, drawn: tuple, name: str) -> None:
    shape = where(scenes, drawn[1], "shape", name)
    edge, body = (shape & where(scenes, drawn[1], "part", part) for part in ("edge", "body"))
    assert edge.any()
    assert body.any()
    outside = ~where(scenes, drawn[1], "shape", name)
    beside = np.zeros_like(outside)
    for axis in (1, 2):
        for step in (-1, 1):
            beside |= np.roll(outside, step, axis)
    assert (edge & beside).sum() / edge.sum() > 3 * (body & beside).sum() / body.sum()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_outlines_are_signed_distances_of_bodies_of_about_radius_one(shape) -> None:
    y, x = np.meshgrid(*[np.linspace(-1.5, 1.5, 301, dtype=np.float32)] * 2, indexing="ij")
    distance = shape.distance(x, y)
    assert distance.dtype == np.float32
    inside = np.hypot(x, y)[distance < 0]
    assert 0.8 < inside.max() < 1.2
    slope = np.hypot(*np.gradient(distance, 0.01))
    np.testing.assert_allclose(np.median(slope), 1, atol=0.02)
    for across, down in shape.corners:  # each stands on the outline
        assert np.abs(distance[np.hypot(x - across, y - down) < 0.03]).min() < 0.05


# --- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"count": 0}, "count"),
        ({"seed": -1}, "seed"),
        ({"size": 8}, "size"),
        ({"size": 100_000}, "size"),
        ({"split": "tset"}, "'tset'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(DataError, match=named) as caught:
        builtin.scenes(**arguments)
    assert caught.value.remedy


def test_a_scene_that_is_not_there_is_a_data_error(scenes: builtin.SceneSet) -> None:
    for read in (scenes.read, scenes.read_labels, scenes.class_of):
        for index in (-1, len(scenes)):
            with pytest.raises(DataError, match=str(index)):
                read(index)


def test_a_misspelt_model_gets_the_nearest_name() -> None:
    with pytest.raises(SelectionError, match="scenes_second"):
        builtin.model("scenes_secnd")


# --- the models -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=sorted(builtin.MODELS))
def model(request) -> builtin.BuiltinModel:
    return builtin.model(request.param)


def test_the_file_is_small_valid_and_says_how_to_use_it(model: builtin.BuiltinModel) -> None:
    assert model.path.stat().st_size <= 3_000_000
    proto = onnx.load(model.path)
    onnx.checker.check_model(proto, full_check=True)
    metadata = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert tuple(metadata["onnxviz.labels"]) == model.labels == CLASSES
    assert read_preprocessing(metadata["onnxviz.preprocessing"]) == model.preprocessing
    assert [node.name for node in proto.graph.node if node.op_type == "Conv"] == [f"conv{n}" for n in range(1, 7)]
    assert proto.graph.node[-1].op_type == "Softmax"


def test_the_models_are_two_trainings_of_one_network() -> None:
    first, second = (onnx.load(builtin.model(name).path) for name in ("scenes", "scenes_second"))
    assert [n.op_type for n in first.graph.node] == [n.op_type for n in second.graph.node]
    for one, other in zip(first.graph.initializer, second.graph.initializer, strict=True):
        assert one.dims == other.dims
        assert one.raw_data != other.raw_data


def test_held_out_accuracy_is_what_the_model_claims(model: builtin.BuiltinModel) -> None:
    facts = json.loads(model.path.with_suffix(".json").read_text())
    assert facts["accuracy"] >= 0.95
    assert facts["test_scenes"] >= 2000
    assert facts["bytes"] == model.path.stat().st_size
    held_out = builtin.scenes(400, seed=0)
    pictures = np.stack([held_out.read(i) for i in range(len(held_out))]).transpose(0, 3, 1, 2).astype(np.float32)
    mean, scale = (np.float32(values[0]) for values in (model.preprocessing.mean, model.preprocessing.scale))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(None, {session.get_inputs()[0].name: (pictures - mean) / scale})
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    right = [model.labels[best] == held_out.class_of(i) for i, best in enumerate(probabilities.argmax(1))]
    assert np.mean(right) >= 0.95


# --- the training script ----------------------------------------------------------------------------------------------


def test_training_makes_the_files_it_promises(tmp_path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "tools.train_scenes", "--out", str(tmp_path), "--name", "tiny", "--steps", "2"]
    command += ["--scenes", "64", "--test-scenes", "30", "--batch", "16", "--threads", "1"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    facts = json.loads((tmp_path / "tiny.json").read_text())
    assert facts["steps"] == 2
    assert 0 <= facts["accuracy"] <= 1
    tiny, shipped = onnx.load(tmp_path / "tiny.onnx"), onnx.load(builtin.model("scenes").path)
    assert [n.name for n in tiny.graph.node] == [n.name for n in shipped.graph.node]


def test_importing_the_builtin_package_does_not_import_torch() -> None:
    code = "import sys, onnxviz.data.builtin as b; b.scenes(1).read(0); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
