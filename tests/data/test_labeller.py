"""Labels that a model gives: right values, whose they are, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxviz.core.errors import DataError, ModelFileError, OnnxvizError, RecipeError
from onnxviz.data.concepts import ConceptSet
from onnxviz.data.images import fit_labels
from onnxviz.data.labelled import labeller
from onnxviz.data.labelled.labeller import class_map
from onnxviz.data.labelled.settings import ConceptsSettings, open_set
from onnxviz.execution.plan import make_plan
from onnxviz.execution.workers.processes import paths_of
from onnxviz.recipe.recipe import parse_recipe

CLASSES = ["background", "reddish", "greenish", "bluish"]


def segmenter(path: Path, *, order: str = "NCHW", element: int = TensorProto.FLOAT, index: bool = False) -> None:
    """Write a model of 4 x 4 pixels whose scores are a little, red, green and blue, or the index of the largest."""
    nchw = order == "NCHW"
    shape = [1, 3, 4, 4] if nchw else [1, 4, 4, 3]
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[1:, :, 0, 0] = np.eye(3)
    nodes = [helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT)]
    nodes += [] if nchw else [helper.make_node("Transpose", ["floats"], ["turned"], perm=[0, 3, 1, 2])]
    nodes += [helper.make_node("Conv", ["floats" if nchw else "turned", "w", "b"], ["scores"])]
    out, kind, sizes = "scores", TensorProto.FLOAT, [1, 4, 4, 4]
    if index:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["index"], axis=1, keepdims=0))
        out, kind, sizes = "index", TensorProto.INT64, [1, 4, 4]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", element, shape)],
        [helper.make_tensor_value_info(out, kind, sizes)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([0.1, 0, 0, 0], np.float32), "b")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2, :2, 0], pixels[:2, 2:, 1], pixels[2:, :2, 2] = 200, 210, 220
    Image.fromarray(pixels).save(tmp_path / "photos/a.png")
    segmenter(tmp_path / "m.onnx")
    return tmp_path


QUARTERS = [[1, 1, 2, 2]] * 2 + [[3, 3, 0, 0]] * 2


def opened(folder: Path, **given: Any) -> ConceptSet:
    model = {"model": "m.onnx", "classes": CLASSES, "preprocess": "unit"} | given
    return ConceptsSettings.model_validate({"concepts": "photos", "labeller": model}).open("d", folder)


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_each_pixel_has_the_class_that_the_model_gives(folder: Path, order: str, index: bool) -> None:
    segmenter(folder / "m.onnx", order=order, index=index)
    data = opened(folder)
    assert [(concept.name, concept.category) for concept in data.concepts] == [(name, "object") for name in CLASSES[1:]]
    assert data.read_labels(0).tolist() == [QUARTERS]
    assert data.read_labels(0).dtype == np.int32


def test_inputs_of_bytes_need_no_preprocessing(folder: Path) -> None:
    segmenter(folder / "m.onnx", element=TensorProto.UINT8)
    assert opened(folder, preprocess=None).read_labels(0).tolist() == [QUARTERS]


def test_the_preprocessing_is_applied(folder: Path) -> None:
    swapped = opened(folder, preprocess={"channel_order": "BGR", "mean": [0], "scale": [255]})
    assert swapped.read_labels(0).tolist() == [[[3, 3, 2, 2]] * 2 + [[1, 1, 0, 0]] * 2]
    dark = opened(folder, preprocess={"mean": [0, 0, 0], "scale": [1e9, 255, 255]})
    assert dark.read_labels(0)[0, 0].tolist() == [0, 0, 2, 2]


def test_classes_from_a_file_and_a_category(folder: Path) -> None:
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    data = opened(folder, classes="classes.txt", category="tone")
    assert {concept.category for concept in data.concepts} == {"tone"}


def test_the_report_says_whose_labels_they_are(folder: Path) -> None:
    (remark,) = opened(folder).remarks  # type: ignore[attr-defined]
    digest = __import__("hashlib").sha256((folder / "m.onnx").read_bytes()).hexdigest()
    assert f"m.onnx (SHA-256 {digest[:16]}...), and no ground truth" in remark


def test_maps_are_computed_once_and_memory_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(3):
        Image.fromarray(np.full((6, 10, 3), 10 * place, np.uint8)).save(folder / f"photos/{place}.png")
    data = opened(folder)
    runs: list[int] = []
    (one,) = data.annotators  # type: ignore[attr-defined]
    real = one._run
    monkeypatch.setattr(one, "_run", lambda pixels: runs.append(1) or real(pixels))
    first = [data.read_labels(place).tolist() for place in range(3)]
    assert [np.shape(labels) for labels in first] == [(1, 6, 10)] * 3  # stretched to the input, and back
    assert [data.read_labels(place).tolist() for place in range(3)] == first
    assert len(runs) == 2  # the first image of all was read when the set was opened
    monkeypatch.setattr(labeller, "_KEPT_BYTES", 1)
    assert data.read_labels(3).tolist() == [QUARTERS]
    assert len(runs) == 3
    assert len(one._kept) == 1
    assert one._bytes == len(next(iter(one._kept.values()))[0])


def test_the_digest_follows_model_classes_and_preprocessing(folder: Path) -> None:
    digests = {
        opened(folder).digest,
        opened(folder, preprocess="raw").digest,
        opened(folder, classes=list("abcd")).digest,
    }
    assert opened(folder).digest in digests
    segmenter(folder / "m.onnx", order="NHWC")
    digests.add(opened(folder).digest)
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classes": ["a", "b"]}, r"no output is a map of 2 classes: float32 \[1, 4, 4, 4\]"),
        ({"classes": ["void"] * 4}, "none of its classes is a concept"),
        ({"classes": "none.txt"}, "the class names cannot be read"),
        ({"preprocess": None}, "nothing says how images become its input"),
        ({"preprocess": "imagenett"}, "did you mean 'imagenet'"),
        ({"preprocess": "gray_unit"}, "takes 3 channels, and the preprocessing makes 1"),
        ({"preprocess": {"scale": [0]}}, "scale is not 0"),
        ({"preprocess": {"mean": [1, 2]}}, "one for each channel"),
        ({"model": "none.onnx"}, "no such file"),
        ({"category": "object", "model": "photos/a.png"}, "a.png"),
    ],
)
def test_what_cannot_label_is_refused_before_anything_runs(folder: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(OnnxvizError, match=said):
        opened(folder, **given)


def test_too_few_classes_for_an_index_and_scores_that_are_no_numbers() -> None:
    with pytest.raises(DataError, match="gives the class 7, and 4 are named"):
        class_map([np.array([[[1, 7]]])], 4, "m")
    with pytest.raises(DataError, match="gives the class -1"):
        class_map([np.array([[[1, -1]]])], 4, "m")
    with pytest.raises(DataError, match="no finite numbers"):
        class_map([np.full((1, 4, 2, 2), np.nan)], 4, "m")
    with pytest.raises(DataError, match="no output is a map"):
        class_map([np.zeros((1, 4))], 4, "m")
    aux = np.zeros((1, 2)), np.eye(4).reshape(1, 4, 2, 2)
    assert class_map(aux, 4, "m").tolist() == [[0, 1], [2, 3]]


def test_a_labeller_beside_other_labels_needs_a_category_of_its_own(folder: Path) -> None:
    (folder / "photos/labels").mkdir()
    (folder / "photos/images").mkdir()
    (folder / "photos/a.png").rename(folder / "photos/images/a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "photos/labels/a.png")
    (folder / "photos/classes.txt").write_text("thing\n")
    with pytest.raises(DataError, match="labels of the category 'object' already"):
        opened(folder)
    assert opened(folder, category="tone").read_labels(0).shape == (2, 4, 4)


TEXT = """\
version: 1
model: {builtin: scenes}
data:
  d: {concepts: photos, labeller: {model: m.onnx, classes: %s, preprocess: unit}}
analyses: {a: {kind: dissection}}
"""


@pytest.mark.parametrize("classes", [json.dumps(CLASSES), "classes.txt"])
def test_a_recipe_names_files_that_are_relative_to_it(folder: Path, classes: str) -> None:
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    recipe = parse_recipe(TEXT % classes, "r.yaml", folder)
    (card,) = make_plan(recipe).data
    assert "no ground truth" in card.remarks[0]
    assert {folder / "photos", folder} <= set(paths_of(recipe))
    (folder / "elsewhere").mkdir()
    locked = parse_recipe(recipe.lock(folder / "elsewhere"), "lock.yaml", folder / "elsewhere")
    assert make_plan(locked).data[0].digest == card.digest
    with pytest.raises(RecipeError, match=r"r\.yaml:4:"):
        make_plan(parse_recipe((TEXT % classes).replace("m.onnx", "n.onnx"), "r.yaml", folder))


def test_a_damaged_model_is_refused(folder: Path) -> None:
    (folder / "m.onnx").write_bytes((folder / "m.onnx").read_bytes()[:60])
    with pytest.raises(ModelFileError):
        opened(folder)


@pytest.mark.zoo
def test_deeplab_knows_the_sky_of_camvid(shared_data: Path) -> None:
    """The zoo's own measure on 20 images: sky .86, road .74, building .73."""
    truth = open_set("street", "camvid", shared_data)
    zoo = shared_data.parent / "zoo"
    settings = ConceptsSettings.model_validate({
        "concepts": "camvid/images", "labeller": {"model": str(zoo / "onnx/deeplabv3_mnv2_ade20k_uint8.onnx"),
                                                  "classes": str(zoo / "labels/ade20k_31.txt")},
    })  # fmt: skip
    found = settings.open("found", shared_data)
    numbers = {concept.name: concept.index for concept in found.concepts}
    known = {concept.name: concept.index for concept in truth.concepts}
    for name, least in {"sky": 0.75, "road": 0.6, "building": 0.5}.items():
        both = either = 0
        for place in (0, 30, 60, 90):
            own = truth.read_labels(place)[0] == known[name]
            other = fit_labels(found.read_labels(found.names.index(truth.names[place])), labeller._STRETCH, own.shape)
            told = other[0] == numbers[name]
            both, either = both + int((own & told).sum()), either + int((own | told).sum())
        assert both / either > least, name
