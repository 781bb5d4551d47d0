"""Grad-CAM as an analysis, on networks with a known answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydantic import ValidationError

import onnxviz.model.model
from onnxviz.analyses import registry
from onnxviz.analyses.attribution.fusion import upsample
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.grad_cam import findings as evidence_findings
from onnxviz.analyses.grad_cam.analysis import GradCam
from onnxviz.analyses.grad_cam.findings import ImageSummary
from onnxviz.core import findings as f
from onnxviz.core.errors import AnalysisError, DataError, SelectionError
from onnxviz.core.values import PRESETS
from onnxviz.data.images import ImageFolder
from onnxviz.execution.store import Store
from onnxviz.model.model import Model

Found = TypeVar("Found")
SIDE = 32
UNIT = dataclasses.replace(PRESETS["unit"], fit="none")


# --- the analysis on hand-made networks -----------------------------------------------------------------------------


def save(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], shape: list[Any], output: str) -> Path:
    graph = helper.make_graph(
        nodes,
        "detectors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


CLASSES = ("red", "blue", "not red")


def detectors(path: Path, *, nhwc: bool = False, sign: bool = False) -> Path:
    """Save conv (red, blue) -> ReLU -> pool1 (half size) -> global pooling -> logits of red, blue and not red."""
    weight = np.zeros((2, 3, 1, 1))
    weight[0, :, 0, 0], weight[1, :, 0, 0] = [1, -1, -1], [-1, -1, 1]
    nodes = [helper.make_node("Transpose", ["image"], ["turned"], name="turn", perm=[0, 3, 1, 2])] if nhwc else []
    nodes += [
        helper.make_node("Conv", ["turned" if nhwc else "image", "w"], ["c"], name="colour"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["h"], name="half", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["h"], ["p"], name="pool"),
    ]
    if sign:
        nodes.append(helper.make_node("Floor", ["p"], ["s"], name="floor"))
    nodes += [
        helper.make_node("Flatten", ["s" if sign else "p"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], name="logits"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax"),
    ]
    weights = {"w": weight, "head": np.array([[4.0, 0, -4], [0, 4, 0]])}
    shape = ["n", SIDE, SIDE, 3] if nhwc else ["n", 3, SIDE, SIDE]
    return save(path, nodes, weights, shape, "probabilities")


def squares(folder: Path, count: int = 1) -> ImageFolder:
    """Save grey pictures with a red square at the upper right and a blue one at the lower left."""
    for index in range(count):
        pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
        pixels[4:12, 20:28] = (255, 0, 0)
        pixels[22:28, 4:8] = (0, 0, 255)
        Image.fromarray(pixels).save(folder / f"square{index}.png")
    return ImageFolder.find("photos", ["*.png"], folder)


def context(model: Model, source: ImageFolder, labels: Sequence[str] | None = None) -> JobContext:
    names = tuple(labels) if labels is not None else model.labels
    subject = Subject("model", model.view, model.preprocessing, names, {"photos": source}, 0)
    return JobContext(subject, model, lambda *_: None)


@pytest.fixture
def on(tmp_path: Path) -> JobContext:
    model = onnxviz.model.model.load(detectors(tmp_path / "m.onnx"), preprocess=UNIT, labels=CLASSES, device="cpu")
    return context(model, squares(tmp_path))


def findings(analysis: GradCam, on: JobContext) -> list[f.Finding]:
    return analysis.combine([analysis.run(job, on) for job in analysis.jobs(on.subject)], on.subject)


def find(found: list[f.Finding], kind: type[Found], key: str) -> Found:
    (only,) = (one for one in found if isinstance(one, kind) and getattr(one, "id", "") == key)
    return only


def metrics(found: list[f.Finding]) -> dict[str, float]:
    return {one.name: one.value for one in found if isinstance(one, f.Metric)}


def pixels(picture: f.Picture) -> np.ndarray:
    assert picture.pixels is not None
    return picture.pixels


def test_the_red_detector_looks_at_the_red_square(on: JobContext) -> None:
    found = findings(GradCam(data="photos", layers=["colour", "half"], classes=["red", "blue"]), on)
    raw = find(found, f.Array, "arrays.0").arrays
    red = np.zeros((SIDE, SIDE))
    red[4:12, 20:28] = 1
    # Max pooling sends the gradient of a window to one of its four equal positions, so its mean is 4 / (16 * 16) / 4.
    np.testing.assert_allclose(raw["class0_layer000"], red * 4 / SIDE**2, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(raw["class0_layer001"], red[::2, ::2] * 4 / (SIDE / 2) ** 2, rtol=1e-5, atol=1e-9)
    assert raw["layers"].tolist() == ["colour", "half"]
    matrix = find(found, f.PictureMatrix, "maps.0")
    assert matrix.columns == ("colour", "half")
    assert [row.title for row in matrix.rows] == ["red", "blue"]
    assert "own maximum" in matrix.scale
    for row, (top, left) in zip(matrix.rows, [(8, 24), (25, 6)], strict=True):
        for cell in row.cells:
            assert cell is not None
            heat, overlay = (pixels(picture).astype(int) for picture in cell)
            times = len(heat) // SIDE
            assert heat.shape == overlay.shape == (times * SIDE, times * SIDE, 3)
            brightest = np.unravel_index(heat.sum(axis=2).argmax(), heat.shape[:2])
            assert abs(brightest[0] / times - top) <= 5
            assert abs(brightest[1] / times - left) <= 5
    assert matrix.rows[0].lead is not None
    lead = pixels(matrix.rows[0].lead)
    assert lead[8 * times, 24 * times].tolist() == [255, 0, 0]


def test_facts_words_and_numbers(on: JobContext) -> None:
    analysis = GradCam(data="photos", layers=["colour", "half"], classes="top:2")
    found = findings(analysis, on)
    rows = find(found, f.Table, "evidence").rows
    assert [row[1] for row in rows] == [0, 1]
    red, blue = 4 * 64 / SIDE**2, 4 * 24 / SIDE**2
    assert rows[0][2] == pytest.approx(red, rel=1e-5)
    assert rows[1][2] == pytest.approx(blue, rel=1e-5)
    total = np.exp(red) + np.exp(blue) + np.exp(-red)
    assert rows[0][3] == pytest.approx(np.exp(red) / total, rel=1e-5)
    assert [row[4] for row in rows] == ["upper right", "lower left"]
    assert rows[0][5] == pytest.approx(64 / SIDE**2, abs=0.02)
    (note,) = (one.text for one in found if isinstance(one, f.Note))
    assert note.startswith("square0.png: the evidence for red (probability ")
    assert "at half lies at the upper right and covers 6% of the image" in note
    assert metrics(found)["blank_fraction"] == 0
    assert metrics(found)["top1_confidence"] == pytest.approx(np.exp(red) / total, rel=1e-5)
    assert "top1_accuracy" not in metrics(found)
    assert analysis.metrics(found) == metrics(found)
    coverage = {one.id: (one.done, one.total) for one in found if isinstance(one, f.Coverage)}
    assert coverage == {
        "coverage.maps": (4, 4),
        "coverage.layers": (2, 2),
        "coverage.images": (1, 1),
        "coverage.classes": (2, 3),
    }


def test_no_positive_evidence_is_said_and_drawn_black(on: JobContext) -> None:
    found = findings(GradCam(data="photos", layers=["colour", "half"], classes=["not red"]), on)
    for one in found:
        if isinstance(one, f.Array):
            assert all(np.isfinite(array).all() for array in one.arrays.values() if array.dtype.kind == "f")
            assert one.arrays["class2_layer000"].max() == 0
    (row,) = find(found, f.PictureMatrix, "maps.0").rows
    assert dict(row.facts)["no positive evidence at"] == "colour, half"
    for cell in row.cells:
        assert cell is not None
        assert (pixels(cell[0]) == (0, 0, 4)).all()
    assert metrics(found)["blank_fraction"] == 1
    assert "last_layer_extent" not in metrics(found)
    caveats = [one.text for one in found if isinstance(one, f.Caveat)]
    assert any(text.startswith("2 of 2 maps hold no positive evidence") for text in caveats)
    assert not any("gradient" in text for text in caveats), "there is a gradient, it is negative"
    (note,) = (one.text for one in found if isinstance(one, f.Note))
    assert "nothing at half speaks for not red" in note
    assert "first choice is another class, red" in note


def test_the_class_that_the_network_believes_in_comes_first(on: JobContext) -> None:
    found = findings(GradCam(data="photos", layers="half", classes=["not red", "red"]), on)
    assert [row.title for row in find(found, f.PictureMatrix, "maps.0").rows] == ["red", "not red"]
    (note,) = (one.text for one in found if isinstance(one, f.Note))
    assert "evidence for red" in note
    assert "another class" not in note


def test_a_network_without_gradient_is_said(tmp_path: Path) -> None:
    model = onnxviz.model.model.load(detectors(tmp_path / "m.onnx", sign=True), preprocess=UNIT, device="cpu")
    found = findings(GradCam(data="photos", classes=0), context(model, squares(tmp_path)))
    assert any("gradient of the score is zero at every layer" in one.text for one in found
               if isinstance(one, f.Caveat))  # fmt: skip
    assert metrics(found)["blank_fraction"] == 1


def test_layers_without_positions_are_left_out_and_said(on: JobContext) -> None:
    found = findings(GradCam(data="photos", layers=["colour", "pool", "logits"], classes=["red"]), on)
    layers = find(found, f.Coverage, "coverage.layers")
    assert (layers.done, layers.total) == (1, 3)
    assert "pool" in layers.reason
    assert "logits" in layers.reason
    with pytest.raises(AnalysisError, match="none of the selected layers"):
        list(GradCam(data="photos", layers=["pool", "logits"]).jobs(on.subject))


def test_activation_or_convolution(on: JobContext) -> None:
    maps = {}
    for value in ("activation", "convolution"):
        analysis = GradCam(data="photos", layers="colour", value=value, classes=["red"])
        (job,) = analysis.jobs(on.subject)
        maps[value] = (job.layers[0], find(findings(analysis, on), f.Array, "arrays.0").arrays["class0_layer000"])
    assert [maps[value][0] for value in ("activation", "convolution")] == ["relu", "colour"]
    # In the convolution's own output, red has negative values outside the square; the map shows none of them.
    assert maps["activation"][1].max() > 0
    assert maps["convolution"][1].max() > 0
    twice = findings(GradCam(data="photos", layers=["colour", "relu"], classes=["red"]), on)
    assert find(twice, f.PictureMatrix, "maps.0").columns == ("colour",), "the same tensor is shown once"


def test_one_forward_pass_and_one_backward_pass_for_each_class(on: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"forward": 0, "backward": 0}
    make, backward = Model.differentiable, torch.autograd.grad

    def counted(self: Model, layers: Any) -> Any:
        forward = make(self, layers)

        def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            calls["forward"] += 1
            return forward(images)

        return run

    def grad(*arguments: Any, **settings: Any) -> Any:
        calls["backward"] += 1
        return backward(*arguments, **settings)

    monkeypatch.setattr(Model, "differentiable", counted)
    monkeypatch.setattr(torch.autograd, "grad", grad)
    findings(GradCam(data="photos", layers=["colour", "half"], classes="top:3"), on)
    assert calls == {"forward": 1, "backward": 3}


def test_layout_does_not_change_the_maps(on: JobContext, tmp_path: Path) -> None:
    (tmp_path / "nhwc").mkdir()
    path = detectors(tmp_path / "nhwc" / "m.onnx", nhwc=True)
    other = context(
        onnxviz.model.model.load(path, preprocess=UNIT, labels=CLASSES, device="cpu"), on.subject.data["photos"]
    )  # type: ignore[arg-type]
    analysis = GradCam(data="photos", layers=["colour", "half"])
    one, two = (find(findings(analysis, some), f.Array, "arrays.0").arrays for some in (on, other))
    assert one.keys() == two.keys()
    for key in one:
        if key.startswith("class"):
            np.testing.assert_allclose(one[key], two[key], rtol=1e-5, atol=1e-9)


def test_the_same_job_gives_the_same_bits(on: JobContext) -> None:
    analysis = GradCam(data="photos", layers=["colour", "half"])
    first, second = findings(analysis, on), findings(analysis, on)
    one, two = (find(found, f.Array, "arrays.0").arrays for found in (first, second))
    assert all((one[key] == two[key]).all() for key in one)
    for left, right in zip(f.pictures(first), f.pictures(second), strict=True):
        assert (pixels(left) == pixels(right)).all()


def test_several_images_are_joined_averaged_and_limited(tmp_path: Path) -> None:
    model = onnxviz.model.model.load(detectors(tmp_path / "m.onnx"), preprocess=UNIT, labels=CLASSES, device="cpu")
    some = context(model, squares(tmp_path, 5))
    analysis = GradCam(data="photos", layers="half", classes=["red", "not red"], limit=2)
    jobs = list(analysis.jobs(some.subject))
    assert [job.parameters["images"] for job in jobs] == [[0], [2]]
    assert len({job.name for job in jobs}) == 2
    found = findings(analysis, some)
    assert len([one for one in found if isinstance(one, f.PictureMatrix)]) == 2
    assert len(find(found, f.Table, "evidence").rows) == 4
    assert metrics(found)["blank_fraction"] == 0.5
    images = find(found, f.Coverage, "coverage.images")
    assert (images.done, images.total) == (2, 5)
    assert "limit" in images.reason
    maps = find(found, f.Coverage, "coverage.maps")
    assert (maps.done, maps.total) == (4, 4)


def test_many_images_share_passes_and_each_is_as_if_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnxviz.model.model.load(detectors(tmp_path / "m.onnx"), preprocess=UNIT, labels=CLASSES, device="cpu")
    rng = np.random.default_rng(0)
    for index in range(19):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:02d}.png")
    some = context(model, ImageFolder.find("photos", ["*.png"], tmp_path))
    sizes: list[int] = []
    make = Model.differentiable

    def counted(self: Model, layers: Any) -> Any:
        forward = make(self, layers)
        return lambda images: sizes.append(len(images)) or forward(images)

    monkeypatch.setattr(Model, "differentiable", counted)
    analysis = GradCam(data="photos", layers=["colour", "half"], classes="top:2")
    jobs = list(analysis.jobs(some.subject))
    assert [len(job.parameters["images"]) for job in jobs] == [8, 8, 3]
    together = findings(analysis, some)
    assert sizes == [8, 8, 8], "the last pass is filled"
    sizes.clear()
    monkeypatch.setattr("onnxviz.analyses.explained_images._TOGETHER", 20)
    alone = findings(analysis, some)
    assert sizes == [1] * 19
    assert len(together) == len(alone)
    for one, two in zip(together, alone, strict=True):
        if isinstance(one, f.Array) and isinstance(two, f.Array):
            assert one.id == two.id
            for name, values in one.arrays.items():
                if values.dtype.kind == "f":
                    np.testing.assert_allclose(values, two.arrays[name], rtol=1e-5, atol=1e-8)
                else:
                    assert (values == two.arrays[name]).all()
        elif isinstance(one, f.Note | f.Coverage | f.Outcomes):
            assert one == two


def test_stored_evidence_is_presented_as_fresh_one(on: JobContext, tmp_path: Path) -> None:
    analysis, store = GradCam(data="photos", layers=["colour", "half"], classes="top:2"), Store(tmp_path)
    (job,) = analysis.jobs(on.subject)
    evidence = analysis.run(job, on)
    store.save("0" * 32, evidence, {}, types=analysis.result_types())
    stored = store.load("0" * 32, arrays=True, types=analysis.result_types())
    assert stored is not None
    assert stored[0].classes[0].places == evidence[0].classes[0].places
    for one, two in zip(analysis.combine([stored], on.subject), analysis.combine([evidence], on.subject), strict=True):
        assert type(one) is type(two)
        if isinstance(one, f.Array):
            assert all(np.array_equal(one.arrays[name], values) for name, values in two.arrays.items())
        elif not isinstance(one, f.PictureMatrix):
            assert one == two
        else:
            assert [picture.alt for picture in f.pictures(one)] == [picture.alt for picture in f.pictures(two)]


def test_one_image_at_a_time_where_memory_does_not_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnxviz.model.model.load(detectors(tmp_path / "m.onnx"), preprocess=UNIT, labels=CLASSES, device="cpu")
    some = context(model, squares(tmp_path, 11))
    analysis = GradCam(data="photos", layers=["half"], classes="top:1")
    expected = findings(analysis, some)
    make = Model.differentiable

    def short(self: Model, layers: Any) -> Any:
        forward = make(self, layers)

        def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if len(images) > 3:
                raise MemoryError
            return forward(images)

        return run

    monkeypatch.setattr(Model, "differentiable", short)
    found = findings(analysis, some)
    assert [len(one.rows) for one in found if isinstance(one, f.Table)] == [11]
    assert [one for one in found if isinstance(one, f.Note)] == [one for one in expected if isinstance(one, f.Note)]
    assert "2 images at a time instead of 8" in " ".join(model.reduced)


def test_activations_that_are_no_numbers_are_told_with_the_image(tmp_path: Path) -> None:
    path = detectors(tmp_path / "m.onnx")
    proto = onnx.load(path)
    for index, weight in enumerate(proto.graph.initializer):
        if weight.name == "head":
            values = np.full((2, 3), np.finfo(np.float32).max, np.float32)
            proto.graph.initializer[index].CopyFrom(numpy_helper.from_array(values, "head"))
    onnx.save(proto, path)
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "black.png")
    Image.new("RGB", (SIDE, SIDE), (255, 0, 0)).save(tmp_path / "red.png")
    model = onnxviz.model.model.load(path, preprocess=dataclasses.replace(UNIT, scale=(1e-3,)), device="cpu")
    some = context(model, ImageFolder.find("photos", ["*.png"], tmp_path))
    analysis = GradCam(data="photos", layers="half", classes="top:1")
    black, red = analysis.jobs(some.subject)
    assert analysis.run(black, some)
    with pytest.raises(AnalysisError, match=r"not finite for the image 'red\.png'"):
        analysis.run(red, some)


def test_own_classes_come_from_labels_beside_the_images(tmp_path: Path) -> None:
    source = squares(tmp_path, 2)
    (tmp_path / "labels.csv").write_text("file,class_index,name\nsquare0.png,7,red\nsquare1.png,8,blue\n")
    model = onnxviz.model.model.load(detectors(tmp_path / "m.onnx"), preprocess=UNIT, labels=CLASSES, device="cpu")
    some = context(model, source)
    found = findings(GradCam(data="photos", layers="half", classes="label"), some)
    assert [row[1] for row in find(found, f.Table, "evidence").rows] == [0, 1], "names decide, not foreign numbers"
    assert metrics(found)["top1_accuracy"] == 0.5
    summary = find(found, f.Note, "summary").text
    assert "1 of 2 images are named right. Wrong, the surest first: square1.png (taken for red, " in summary


def test_the_first_sentence_counts_all_images_and_names_those_that_are_wrong_or_uncertain() -> None:
    def image(index: int, right: bool | None, sure: float | None, extent: float | None) -> ImageSummary:
        return ImageSummary(f"{index}.png", "last", "cat", right, sure, (extent,))

    def said(*images: ImageSummary, choice: bool = True) -> str:
        return " ".join(note.text for note in evidence_findings.in_words(images, choice=choice))

    wrong = [image(index, False, index / 10, 0.25) for index in range(1, 6)]
    assert said(image(0, True, 0.2, 0.5), *wrong, image(8, None, 0.1, None)) == (
        "1 of 6 images are named right; of 1 more the class is not known. Wrong, the surest first: 5.png (taken for "
        "cat, 50%), 4.png (taken for cat, 40%), 3.png (taken for cat, 30%) and 2 more. At last the evidence covers 25% "
        "to 50% of the image, 29% on average (6 maps). 1 of 7 maps hold no evidence there."
    )
    both = image(0, True, 0.9, 0.5), image(7, True, 0.4, 0.5)
    assert said(*both).startswith("2 of 2 images are named right. Least certain: 7.png (taken for cat, 40%). At last")
    assert "Least certain: 7.png (40%)." in said(*both, choice=False)
    unknown = image(0, None, None, 0.5), image(7, None, None, 0.5)
    assert said(*unknown) == "2 images. At last the evidence covers 50% of the image, 50% on average (2 maps)."
    assert said(both[0]) == "", "its own sentence says all"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"data": "photo"}, DataError, "did you mean 'photos'"),
        ({"data": "photos", "classes": "rad"}, SelectionError, "red"),
        ({"data": "photos", "classes": 3}, SelectionError, "no unit 3"),
        ({"data": "photos", "classes": "label"}, DataError, "labels.csv"),
        ({"data": "photos", "layers": "colur"}, SelectionError, "colour"),
    ],
)
def test_mistakes_are_named_when_planning(
    on: JobContext, settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        list(GradCam(**settings).jobs(on.subject))
    assert words in str(caught.value)


@pytest.mark.parametrize("classes", [[], "top:0", "top:x", "top:"])
def test_classes_that_mean_nothing_are_refused_by_the_schema(classes: Any) -> None:
    with pytest.raises(ValidationError):
        GradCam(data="photos", classes=classes)


def test_example_validates_and_every_field_is_described() -> None:
    assert registry()["grad_cam"] is GradCam
    GradCam.model_validate(yaml.safe_load(GradCam.example))
    for name, entry in GradCam.model_fields.items():
        assert name in ("kind", "title") or entry.description or entry.metadata, name


def test_findings_survive_a_round_trip(on: JobContext) -> None:
    found = findings(GradCam(data="photos", layers="half"), on)

    def stored(leaf: f.Picture | f.Array) -> f.Picture | f.Array:
        emptied = {"pixels": None} if isinstance(leaf, f.Picture) else {"arrays": {}}
        return dataclasses.replace(leaf, path="x", **emptied)  # type: ignore[arg-type]

    written = f.to_data([f.replace_leaves(one, stored) for one in found])
    assert f.to_data(list(f.from_data(written))) == written


@pytest.mark.zoo
def test_the_animals_are_where_the_evidence_is(zoo: Path, shared_data: Path) -> None:
    labels = (zoo / "labels" / "imagenet_1000.txt").read_text().splitlines()
    model = onnxviz.model.model.load(
        zoo / "onnx" / "squeezenet_fp16.onnx", preprocess="caffe", labels=labels, device="cpu"
    )
    names = ["n01518878_ostrich.JPEG", "n02056570_king_penguin.JPEG", "n02129165_lion.JPEG"]
    some = context(model, ImageFolder.find("photos", names, shared_data / "imagenet_sample"))
    found = findings(GradCam(data="photos", layers="last_conv", classes="label"), some)
    assert [row[1] for row in find(found, f.Table, "evidence").rows] == [9, 145, 291]
    # Boxes around the animals in the cropped picture, as parts of its height and width: top, bottom, left, right.
    boxes = [(0.20, 0.80, 0.35, 0.65), (0.10, 0.98, 0.10, 0.75), (0.45, 0.98, 0.40, 0.68)]
    for index, (name, (top, bottom, left, right)) in enumerate(zip(names, boxes, strict=True)):
        raw = find(found, f.Array, f"arrays.{index}").arrays
        values = next(array for key, array in raw.items() if key.startswith("class") and array.ndim == 2)
        heat = upsample(torch.from_numpy(values)[None], (100, 100))[0].numpy()
        inside = heat[int(100 * top) : int(100 * bottom), int(100 * left) : int(100 * right)].sum() / heat.sum()
        area = (bottom - top) * (right - left)
        row, column = (place / 100 for place in np.unravel_index(heat.argmax(), heat.shape))
        assert top < row < bottom, f"{name}: the peak is beside the animal"
        assert left < column < right, f"{name}: the peak is beside the animal"
        assert inside > 1.4 * area, name
