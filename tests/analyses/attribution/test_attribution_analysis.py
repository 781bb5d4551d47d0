"""Attribution as an analysis, on networks with a known answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from onnx import helper

import onnxviz
from onnxviz.analyses.attribution.analysis import AttributionMaps
from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import Question
from onnxviz.analyses.attribution.scores import DetectionScores, RegionScores, cell_of, in_box, position_in_words
from onnxviz.analyses.attribution.targets import SimilarityTarget
from onnxviz.core import findings as f
from onnxviz.core.errors import AnalysisError, RecipeError, SelectionError
from onnxviz.core.values import Layer
from onnxviz.data import builtin
from onnxviz.data.images import load_batch
from onnxviz.graph.model_output import Head
from tests.analyses.test_grad_cam import CLASSES, detectors, save, squares


@pytest.fixture
def model(tmp_path: Path) -> onnxviz.Model:
    """Detectors of red and blue; class 2 is evidence against red."""
    return onnxviz.load(detectors(tmp_path / "m.onnx"), "unit", labels=list(CLASSES), device="cpu")


@pytest.fixture(scope="module")
def scenes() -> onnxviz.Model:
    known = builtin.model("scenes")
    return onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing, known.labels, "cpu")


def notes(found: onnxviz.execution.findings_view.Findings) -> list[str]:
    return [item.text for item in found.findings if isinstance(item, f.Note)]


def test_methods_say_where_the_evidence_lies(tmp_path: Path, model: onnxviz.Model) -> None:
    found = model.attribute(squares(tmp_path), ["red", "blue"], ["grad_cam", "gradient"], "relu")
    (sentence,) = (text for text in notes(found) if "the evidence for" in text)
    assert "by Grad-CAM it lies at the upper right" in sentence
    assert "by Gradient it lies at the upper right" in sentence
    matrix = next(item for item in found.findings if isinstance(item, f.PictureMatrix))
    assert matrix.columns == ("Grad-CAM, relu", "Gradient")
    assert {row.title for row in matrix.rows} == {"red", "blue"}
    arrays = next(iter(found.values.values()))
    titles = arrays["targets"].tolist()
    for title, rows, columns in (("red", slice(0, 16), slice(16, 32)), ("blue", slice(16, 32), slice(0, 16))):
        for method in range(2):
            values = arrays[f"target{titles.index(title)}_method{method}_layer000"]
            assert values[rows, columns].sum() == pytest.approx(values.sum())
            assert values.sum() > 0


def test_grad_cam_is_the_same_as_by_its_own_analysis(scenes: onnxviz.Model) -> None:
    source, layers = builtin.scenes(count=3), ["conv4:act", "conv6:act"]
    one = scenes.grad_cam(source, "top:2", layers=layers).values
    other = scenes.attribute(source, "top:2", "grad_cam", layers).values
    for name, arrays in one.items():
        for turn, number in enumerate(arrays["classes"]):
            for layer in range(2):
                found = other[name][f"target{turn}_method0_layer{layer:03d}"]
                np.testing.assert_array_equal(found, arrays[f"class{number}_layer{layer:03d}"])


def test_why_one_class_and_not_another(tmp_path: Path, model: onnxviz.Model) -> None:
    found = model.attribute(squares(tmp_path), "red", "grad_cam", "relu", against="blue")
    arrays = next(iter(found.values.values()))
    assert arrays["targets"].tolist() == ["red and not blue"]
    values = arrays["target0_method0_layer000"]
    assert values.sum() > 0
    assert values[:16, 16:].sum() == pytest.approx(values.sum())
    following = model.attribute(squares(tmp_path), "red", "grad_cam", "relu", against="next")
    assert next(iter(following.values.values()))["targets"].tolist() == ["red and not blue"]
    with pytest.raises(SelectionError, match="purple"):
        model.attribute(squares(tmp_path), "red", "grad_cam", "relu", against="purple")


def test_a_map_that_holds_nothing_is_called_blank(tmp_path: Path, model: onnxviz.Model) -> None:
    found = model.attribute(squares(tmp_path), "not red", "grad_cam", "relu")
    assert found.metrics["blank_fraction"] == 1
    assert any("by Grad-CAM it is nowhere" in text for text in notes(found))
    assert any(isinstance(item, f.Caveat) and item.id == "blank" for item in found.findings)


def test_a_score_without_a_gradient_says_so(tmp_path: Path) -> None:
    model = onnxviz.load(detectors(tmp_path / "m.onnx", sign=True), "unit", labels=list(CLASSES), device="cpu")
    found = model.attribute(squares(tmp_path), "red", ["grad_cam", "gradient"], "relu")
    assert any("nothing can be said of red" in text for text in notes(found))
    (caveat,) = (item for item in found.findings if isinstance(item, f.Caveat) and item.id == "no_gradient")
    assert "floor" in caveat.text.lower()


def test_images_that_share_passes_are_as_if_alone(scenes: onnxviz.Model) -> None:
    source = builtin.scenes(count=9)
    together = scenes.attribute(source, "label", ["grad_cam", "gradient"], limit=9).values
    for place in (0, 8):
        alone = scenes.analyze(
            "attribution", {"x": source}, data="x", classes="label", methods=["grad_cam", "gradient"], images=place
        ).values
        (name,) = alone
        for key, values in alone[name].items():
            if values.dtype.kind == "f":
                most = np.abs(values).max()
                np.testing.assert_allclose(together[name][key], values, atol=1e-4 * most)


def test_a_recipe_runs_and_its_metrics_can_be_expected(tmp_path: Path) -> None:
    recipe = {
        "version": 1,
        "model": {"builtin": "scenes"},
        "data": {"scenes": {"builtin": "scenes", "count": 4}},
        "analyses": {
            "where": {"kind": "attribution", "data": "scenes", "methods": ["grad_cam", {"method": "gradient"}]}
        },
        "expect": [
            {"metric": "where.top1_accuracy", "min": 0, "level": "warn"},
            {"metric": "where.blank_fraction", "max": 1},
        ],
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    run = onnxviz.run(tmp_path / "r.yaml", tmp_path / "out")
    assert run.result.verdict == "passed"
    analysis = json.loads((tmp_path / "out" / "run.json").read_text())["analyses"][0]
    kinds = {item["type"] for part in analysis["parts"] for item in part["findings"]}
    assert {"PictureMatrix", "Table", "Array", "Note"} <= kinds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["grad_camm"]}, "no method is called 'grad_camm'; did you mean 'grad_cam'"),
        ({"methods": []}, "an empty list names no method"),
        ({"methods": ["gradient", {"method": "gradient"}]}, "the same method is asked for twice"),
        ({"methods": [{"method": "gradient", "steps": 3}]}, "unknown key 'steps'"),
        ({"target": {"kind": "region", "box": [0.5, 0, 0.2, 1]}}, "top < bottom"),
        ({"target": {"kind": "detection", "classes": ["a", "b"], "objectness": "c"}}, "names 2 and `objectness` 1"),
    ],
)  # fmt: skip
def test_faults_of_settings_are_told(model: onnxviz.Model, settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        model.analyze("attribution", data="x", **settings)


def test_two_of_a_method_have_different_names() -> None:
    settings = AttributionMaps.model_validate({"data": "x", "methods": ["grad_cam", "gradient"]})
    assert list(settings.named_methods) == ["Grad-CAM", "Gradient"]
    assert all(cls().label == cls.heading for name, cls in methods().items() if name != "fused")
    assert methods()["fused"]().label == "Grad-CAM fused"


# --- what is explained ----------------------------------------------------------------------------------------------


def layer(name: str, units: int) -> Layer:
    return Layer(name, name, "Conv", 0, (None, units, 2, 3), 1)


def test_a_detection_is_scored_as_the_detector_decodes_it() -> None:
    generator = torch.Generator().manual_seed(0)
    classes, objects = torch.rand(2, 5, 2, 3, generator=generator), torch.rand(2, 1, 2, 3, generator=generator)
    head, presence = layer("classes", 5), layer("objects", 1)
    scores = DetectionScores((head,), (2, 3, 4), (presence,), 0, (0.6, 0.4), ("cat", "dog", "bird"))
    every = objects.double() ** 0.6 * classes[:, 2:].double() ** 0.4
    torch.testing.assert_close(scores.of([classes, objects]).double(), every.flatten(2).amax(dim=2), rtol=1e-5, atol=0)
    for image in range(2):
        target = scores.target(1, [classes[image : image + 1], objects[image : image + 1]])
        best = int(every[image, 1].argmax())
        assert target.title == f"dog at row {best // 3 + 1}, column {best % 3 + 1} of 2 × 3"
        given = [each.clone().requires_grad_() for each in (classes, objects)]
        found = target.score(*given)
        torch.testing.assert_close(found.double(), every[:, 1].flatten(1)[:, best], rtol=1e-5, atol=0)
        found.sum().backward()
        touched = given[0].grad.abs().sum(dim=0).flatten(1)
        assert touched.nonzero().tolist() == [[3, best]], "no other class, and no other position"


def test_several_scales_are_counted_through() -> None:
    assert position_in_words([(2, 3), (1, 2)], 5) == "row 2, column 3 of 2 × 3 of grid 1"
    assert position_in_words([(2, 3), (1, 2)], 7) == "row 1, column 2 of 1 × 2 of grid 2"
    assert position_in_words([(8,)], 2) == "position 3 of 8"
    assert position_in_words([(2, 3), (8,)], 8) == "position 3 of 8 of list 2"
    assert cell_of([(2, 3), (2, 4)], 11) == (0.5, 0.25, 1.0, 0.5)
    assert cell_of([(2, 3), (8,)], 8) is None


def test_a_region_is_where_the_image_has_the_class() -> None:
    values = torch.zeros(1, 3, 2, 3)
    values[0, 1, 0, 2] = values[0, 1, 1, 0] = 2.0
    values[0, 0, 0, 0] = 1.0
    scores = layer("map", 3)
    head = Head(("map",), "map_of_classes", scores, 3)
    names = ("sky", "road", "car")
    target = RegionScores(head, "mean", names).target(1, [values])
    assert target.title == "road where it is predicted"
    assert float(target.score(values + 1)) == 3.0
    missing = RegionScores(head, "mean", names).target(2, [values])
    assert missing.title == "car (predicted nowhere; at its highest score, row 1 and column 1)"
    boxed = RegionScores(head, "mean", names, (0.0, 0.5, 0.5, 1.0))
    assert in_box((0.0, 0.5, 0.5, 1.0), 2, 3) == (1, 2)
    assert boxed.of([values]).tolist() == [[0.0, 1.0, 0.0]]
    assert float(boxed.target(1, [values]).score(values)) == 1.0


def test_a_similarity_is_the_cosine() -> None:
    target = SimilarityTarget(layer("embedding", 2), (3.0, 4.0), "similarity to a.png")
    found = target.score(torch.tensor([[3.0, 4.0], [4.0, -3.0], [-6.0, -8.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, -1.0]), atol=1e-6, rtol=0)


def test_similarities_are_those_of_embeddings(scenes: onnxviz.Model) -> None:
    source = builtin.scenes(count=3)
    found = scenes.attribute(source, score="conv6:act", target={"kind": "similarity", "to": 1}, method="grad_cam")
    table = next(item for item in found.findings if isinstance(item, f.Table) and item.id == "evidence")
    values = [row[2] for row in table.rows]
    vectors = scenes.measure(load_batch(source, range(3), scenes.preprocessing, scenes.input_size), "conv6:act")
    flat = next(iter(vectors.values())).reshape(3, -1).astype(np.float64)
    wanted = [flat[place] @ flat[1] / np.linalg.norm(flat[place]) / np.linalg.norm(flat[1]) for place in (0, 2)]
    assert values == pytest.approx(wanted, abs=1e-5)


def test_targets_that_a_model_does_not_have_are_refused(tmp_path: Path, model: onnxviz.Model) -> None:
    with pytest.raises(AnalysisError, match="rows and columns"):
        model.attribute(squares(tmp_path), {"kind": "region"})
    with pytest.raises(SelectionError, match="nothing"):
        model.attribute(squares(tmp_path), {"kind": "detection", "classes": "nothing"})


def test_a_method_without_an_answer_is_left_out_and_says_why(scenes: onnxviz.Model) -> None:
    found = scenes.attribute(builtin.scenes(count=2), "top:1", ["grad_cam", "attention_rollout"], faithfulness=None)
    (caveat,) = (item for item in found.findings if isinstance(item, f.Caveat) and item.id.startswith("refused"))
    assert caveat.text.startswith("Attention rollout has no maps here: ")
    matrix = next(item for item in found.findings if isinstance(item, f.PictureMatrix))
    assert [column.split(",")[0] for column in matrix.columns] == ["Grad-CAM"]
    with pytest.raises(AnalysisError, match="attention"):
        scenes.attribute(builtin.scenes(count=1), "top:1", "attention_rollout", faithfulness=None)


def test_a_trial_chooses_the_method_and_says_by_what(scenes: onnxviz.Model) -> None:
    settings = {"faithfulness": {"images": 4, "steps": 5, "stages": 1, "samples": 1}, "classes": "label", "limit": 6}
    found = scenes.analyze("attribution", {"x": builtin.scenes(count=6)}, data="x", **settings)
    (said,) = (text for text in notes(found) if "by trial" in text or "Nothing says" in text)
    assert "Tried were Grad-CAM, Grad-CAM++, HiResCAM, LayerCAM, Gradient, Gradient × input" in said
    arrays = next(iter(found.values.values()))
    taken = arrays["methods"].tolist()
    assert 1 <= len(taken) <= 2
    assert f"{taken[0]} was taken" in said
    table = next(item for item in found.findings if isinstance(item, f.Table) and item.id == "belief")
    assert {"Grad-CAM", "LayerCAM", "edge filter", "centre"} <= {row[0] for row in table.rows}
    assert len([item for item in found.findings if isinstance(item, f.PictureMatrix)]) == 6


def test_of_many_images_some_are_drawn_and_all_count(scenes: onnxviz.Model) -> None:
    found = scenes.attribute(builtin.scenes(count=9), "top:1", "grad_cam", shown=2, limit=9, faithfulness=None)
    assert len([item for item in found.findings if isinstance(item, f.PictureMatrix)]) == 2
    assert len([item for item in found.findings if isinstance(item, f.Array)]) == 2
    assert len([item for item in found.findings if isinstance(item, f.Note) and item.about == "each image"]) == 2
    table = next(item for item in found.findings if isinstance(item, f.Table) and item.id == "evidence")
    assert len(table.rows) == 9
    (metric,) = (item for item in found.findings if isinstance(item, f.Metric) and item.name == "blank_fraction")
    assert metric.total == 9


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "said"), [("mlperf_tiny_resnet8_cifar10_int8_qdq", 1), ("mlperf_tiny_resnet8_cifar10", 0)]
)
def test_roundings_that_gradients_pass_are_told(zoo: Path, tmp_path: Path, file: str, said: int) -> None:
    model = onnxviz.load(zoo / "onnx" / f"{file}.onnx", {"mean": 128, "scale": 1}, device="cpu", output="classes")
    images = squares(tmp_path)
    for method, wanted in (("grad_cam", said), ("occlusion", 0)):
        found = model.attribute(images, 3, method, faithfulness=None)
        assert sum(isinstance(item, f.Caveat) and item.id == "rounding" for item in found.findings) == wanted


def test_a_detection_is_what_the_output_gives_not_the_logits_before_it(tmp_path: Path) -> None:
    """With a sigmoid at the end: the logits before it are negative, and their product is highest elsewhere."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], name="cells", kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Conv", ["cells", "w", "b"], ["raw"], name="raw"),
        helper.make_node("Sigmoid", ["raw"], ["found"], name="found"),
    ]
    weights = {"w": np.array([[[[4.0]], [[0]], [[0]]], [[[0]], [[0]], [[4.0]]]]), "b": np.array([-6.0, -6.0])}
    model = onnxviz.load(save(tmp_path / "d.onnx", nodes, weights, ["n", 3, 32, 32], "found"), "unit", device="cpu")
    source, target = squares(tmp_path), {"kind": "detection", "classes": "found", "units": 0, "objectness": "found"}
    target["object_unit"] = 1
    found = model.attribute(source, target, "gradient", faithfulness=None)
    table = next(item for item in found.findings if isinstance(item, f.Table) and item.id == "evidence")
    images = load_batch(source, [0], model.preprocessing, model.input_size)
    given = model.measure(images, "found")["found"][0].astype(np.float64)
    product = (given[0] * given[1]).ravel()
    best = int(product.argmax())
    assert f"row {best // 2 + 1}, column {best % 2 + 1} of 2 × 2" in str(table.rows[0][0])
    assert table.rows[0][2] == pytest.approx(float(product[best]), rel=1e-5)
    with pytest.raises(AnalysisError, match="numbers from 0 to 1, and these are from"):
        model.attribute(source, {"kind": "detection", "classes": "raw"}, "gradient", faithfulness=None)


def test_a_layer_without_a_part_in_the_score_leaves_the_image_its_gradient(
    tmp_path: Path, model: onnxviz.Model
) -> None:
    source = squares(tmp_path)
    found = model.attribute(source, 0, ["grad_cam", "gradient"], "half", score="relu", faithfulness=None)
    (sentence,) = (text for text in notes(found) if "the evidence for" in text)
    assert "by Grad-CAM it is nowhere" in sentence
    assert "by Gradient it lies" in sentence
    assert not any(isinstance(item, f.Caveat) and item.id == "no_gradient" for item in found.findings)


def test_methods_without_gradients_are_heard_where_a_score_has_none(tmp_path: Path) -> None:
    model = onnxviz.load(detectors(tmp_path / "m.onnx", sign=True), "unit", labels=list(CLASSES), device="cpu")
    found = model.attribute(squares(tmp_path), "red", ["grad_cam", "occlusion"], "relu", faithfulness=None)
    assert not any("nothing can be said" in text for text in notes(found))
    assert any(isinstance(item, f.Caveat) and item.id == "no_gradient" for item in found.findings)


def test_a_difference_is_not_called_a_logit(tmp_path: Path, model: onnxviz.Model) -> None:
    found = model.attribute(squares(tmp_path), "red", "grad_cam", "relu", against="blue", faithfulness=None)
    table = next(item for item in found.findings if isinstance(item, f.Table) and item.id == "evidence")
    assert table.columns[2].name == "difference of logits"
    with pytest.raises(SelectionError, match="a single score"):
        model.attribute(squares(tmp_path), {"kind": "similarity", "to": 0}, score="relu", against="next")
    with pytest.raises(AnalysisError, match="no image is left to explain"):
        model.attribute(squares(tmp_path), {"kind": "similarity", "to": 0}, score="relu")


def test_a_method_without_an_answer_for_shuffled_weights_is_judged_by_the_rest(
    scenes: onnxviz.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = methods()["gradient"]
    usual = gradient.attribute

    def attribute(self: Method, question: Question) -> Attribution:
        if question.model is not scenes:
            raise AnalysisError("no finite relevance")
        return usual(self, question)

    monkeypatch.setattr(gradient, "attribute", attribute)
    settings = {"images": 4, "steps": 2, "stages": 1, "stability": False}
    found = scenes.attribute(builtin.scenes(count=4), "label", ["grad_cam", "gradient"], faithfulness=settings)
    assert "insertion_minus_deletion.gradient" in found.metrics
    assert "randomised_rank.grad_cam" in found.metrics
    assert "randomised_rank.gradient" not in found.metrics


def test_a_single_layer_is_not_called_fused_in_silence(tmp_path: Path, model: onnxviz.Model) -> None:
    settings = {"classes": "red", "methods": ["fused"], "faithfulness": None}
    data = {"photos": squares(tmp_path)}
    found = model.analyze("attribution", data, data="photos", layers="relu", **settings)
    (said,) = (one for one in found.findings if isinstance(one, f.Caveat) and one.id == "not_fused")
    assert said.text.startswith("Grad-CAM fused: the map of relu alone")


@pytest.mark.parametrize(("setting", "word"), [({"classes": "top3"}, "top:3"), ({"classes": "lable"}, "label"),
                                               ({"against": "nxt"}, "next")])  # fmt: skip
def test_misspelt_words_of_a_setting_are_not_taken_for_classes_alone(
    tmp_path: Path, model: onnxviz.Model, setting: dict[str, str], word: str
) -> None:
    with pytest.raises(SelectionError, match=f"did you mean '{word}'"):
        model.analyze("attribution", {"photos": squares(tmp_path)}, data="photos", methods=["grad_cam"],
                      **{"classes": "red", "layers": "relu", **setting})  # fmt: skip
