"""Activation maximization end to end: hand-made ONNX networks with a known answer, and the real SqueezeNet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

import onnxviz.model.model
from onnxviz.analyses import registry
from onnxviz.analyses.activation_maximization import making as picture_making
from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
from onnxviz.analyses.activation_maximization.findings import figure
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.core import findings as f
from onnxviz.core.errors import DataError, SelectionError
from onnxviz.core.values import Unit
from onnxviz.optimize.ascent import maximize
from onnxviz.optimize.parameterizations import Fourier
from onnxviz.optimize.settings import (
    CLASS_OPTIMIZER,
    CLASS_REGULARIZERS,
    CLASS_TRANSFORMS,
    DEFAULT_OPTIMIZER,
    DEFAULT_TRANSFORMS,
    AscentSettings,
)

Found = TypeVar("Found")

SIDE = 32
FAST = {"kind": "adam", "learning_rate": 0.3}


def detectors(path: Path, *, channels: int = 3, softmax: bool = False, threshold: float = 0.0) -> Path:
    """Save a network whose unit 0 detects red, 1 vertical edges, 2 horizontal edges and 3 nothing; then logits."""
    weight = np.zeros((4, channels, 3, 3), dtype=np.float32)
    if channels == 3:
        weight[0, :, 1, 1] = [1, -0.5, -0.5]
    weight[1] = np.array([[-1, 2, -1]] * 3) / channels
    weight[2] = np.array([[-1, 2, -1]] * 3).T / channels
    nodes = [
        helper.make_node("Conv", ["image", "weight", "bias"], ["edges"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["edges"], ["active"], name="relu"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["logits"], name="flat"),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=1))
    output = nodes[-1].output[0]
    graph = helper.make_graph(
        nodes,
        "detectors",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", channels, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.full(4, -threshold, dtype=np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def context(path: Path, preprocess: str = "unit", labels: Iterable[str] | None = None, seed: int = 0) -> JobContext:
    model = onnxviz.model.model.load(path, preprocess=preprocess, labels=labels)
    subject = Subject("model", model.view, model.preprocessing, model.labels, {}, seed)
    return JobContext(subject, model, lambda done, total, note="": None)


def analyse(place: JobContext, **settings: Any) -> list[f.Finding]:
    analysis = ActivationMaximization.model_validate(settings)
    return analysis.combine(list(made(analysis, place).values()), place.subject)


def made(analysis: ActivationMaximization, place: JobContext) -> dict[str, list[f.Finding]]:
    """Do all jobs in their order, each with what it needs; return what those found that make pictures."""
    found: dict[str, list[f.Finding]] = {}
    jobs = list(analysis.jobs(place.subject))
    for job in jobs:
        found[job.name] = analysis.run(job, replace(place, found={name: found[name] for name in job.needs}))
    return {job.name: found[job.name] for job in jobs if not job.intermediate}


def picture_jobs(analysis: ActivationMaximization, subject: Subject) -> list[Job]:
    """Return the jobs that make pictures."""
    return [job for job in analysis.jobs(subject) if not job.intermediate]


def only(found: Iterable[f.Finding], kind: type[Found]) -> Found:
    (finding,) = (finding for finding in found if isinstance(finding, kind))
    return finding


def images(found: Iterable[f.Finding]) -> np.ndarray:
    return np.concatenate([finding.arrays["images"] for finding in found if isinstance(finding, f.Array)])


def metric(found: Iterable[f.Finding], name: str) -> float:
    (value,) = (finding.value for finding in found if isinstance(finding, f.Metric) and finding.name == name)
    return value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    return context(
        detectors(tmp_path_factory.mktemp("detectors") / "d.onnx"), labels=["red", "upright", "level", "none"]
    )


def roughness(image: np.ndarray) -> tuple[float, float]:
    """Return the mean absolute step to the right and downwards."""
    return float(np.abs(np.diff(image, axis=2)).mean()), float(np.abs(np.diff(image, axis=1)).mean())


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
def test_a_red_detector_gives_a_red_picture(place: JobContext, kind: str) -> None:
    found = analyse(
        place,
        targets=[{"layer": "conv", "units": 0}],
        steps=80,
        parameterization={"kind": kind},
        optimizer=FAST,
    )
    red, green, blue = images(found)[0].mean(axis=(1, 2))
    assert red > 0.75
    assert green < 0.2
    assert blue < 0.2
    assert metric(found, "rise_fraction") == 1.0
    row = only(found, f.Table).rows[0]
    # Without preprocessing other than 0..1, the activation is the mean of red - (green + blue) / 2 without the border.
    picture = images(found)[0][:, 1:-1, 1:-1]
    assert row[6] == pytest.approx(float((picture[0] - (picture[1] + picture[2]) / 2).mean()), abs=1e-4)


@pytest.mark.parametrize("kind", ["fourier", "pixel"])
def test_an_edge_detector_gives_stripes_in_its_direction(place: JobContext, kind: str) -> None:
    found = analyse(
        place,
        targets=[{"layer": "relu", "units": [1, 2]}],
        steps=60,
        parameterization={"kind": kind},
        transforms=[],
        optimizer=FAST,
    )
    upright, level = images(found)
    right, down = roughness(upright)
    assert right > 2 * down
    right, down = roughness(level)
    assert down > 2 * right


def test_driven_down_a_red_detector_gives_cyan(place: JobContext) -> None:
    found = analyse(place, targets=[{"layer": "conv", "units": 0, "sign": "both"}], steps=60, optimizer=FAST)
    up, down = images(found)
    assert up[0].mean() > 0.7 > 0.3 > down[0].mean()
    assert down[1:].mean() > 0.7
    (tile,) = only(found, f.TileGrid).tiles
    assert len(tile.pictures) == len(tile.captions) == 2
    assert "driven down" in tile.captions[1]


def test_a_neuron_changes_what_its_receptive_field_sees(place: JobContext) -> None:
    kw: dict[str, Any] = {"steps": 60, "parameterization": {"kind": "pixel", "decorrelate": False}, "transforms": []}
    found = analyse(place, targets=[{"layer": "conv", "units": 0, "position": [2, 5]}], **kw)
    change = np.abs(images(found)[0] - 0.5).max(axis=0)
    assert np.unravel_index(change.argmax(), change.shape) == (3, 6)  # the kernel's middle lies one further in
    assert float(np.median(change)) < 0.05
    assert only(found, f.TileGrid).tiles[0].title == "conv:0 at [2, 5]"


@pytest.mark.parametrize(
    ("layer", "settings", "blur"),
    [
        ("logits", {}, 32 / 224),
        ("logits", {"size": [300, 448]}, 1.0),
        ("logits", {"parameterization": {"kind": "fourier", "blur": 2}}, 2.0),
        ("logits", {"parameterization": {"kind": "fourier", "blur": 0}}, 0.0),
        ("first_conv", {}, 0.0),
        ("first_conv", {"parameterization": {"kind": "fourier", "blur": 0.5}}, 0.5),
    ],
)
def test_pictures_of_classes_are_blurred_unless_the_recipe_says_how_much(
    place: JobContext, monkeypatch: pytest.MonkeyPatch, layer: str, settings: dict[str, Any], blur: float
) -> None:
    used = []

    def spy(model: Any, wanted: Any, seeds: Any, chosen: AscentSettings, **others: Any) -> Any:
        used.append(chosen)
        return maximize(model, wanted, seeds, chosen, **others)

    monkeypatch.setattr(picture_making, "maximize", spy)
    entry: dict[str, Any] = {"steps": 1, "redirect": 0, "transforms": [], "begin_again": False, **settings}
    found = analyse(place, targets=[{"layer": layer, "units": 0}], **entry)
    (chosen,) = used
    assert isinstance(chosen.parameterization, Fourier)
    assert chosen.parameterization.blur == pytest.approx(blur)
    grid = only(found, f.TileGrid)
    words = f"blurred by {blur:.2g} pixels" if blur else "not blurred"
    moved = (
        ""
        if layer == "logits"
        else ", mean colour moved 8 times as far where a plain colour excites the unit more than any grating"
    )
    assert f"decorrelated colours, {words}{moved}, begun" in grid.description


def test_classes_are_seen_in_wider_views_than_other_units(place: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, AscentSettings] = {}

    def spy(model: Any, wanted: Any, seeds: Any, chosen: AscentSettings, **others: Any) -> Any:
        used[wanted[0].layer] = chosen
        return maximize(model, wanted, seeds, chosen, **others)

    monkeypatch.setattr(picture_making, "maximize", spy)
    view = place.subject.view
    targets = [{"layer": "logits", "units": 0}, {"layer": "first_conv", "units": 0}]
    found = analyse(place, targets=targets, steps=256)
    classes, units = used[view.logits.name], used["conv"]
    # This model's only weights read the image: there are no features to keep usual.
    assert (classes.transforms, classes.regularizers) == (CLASS_TRANSFORMS, CLASS_REGULARIZERS[:1])
    assert (units.transforms, units.regularizers) == (DEFAULT_TRANSFORMS, ())
    assert (classes.optimizer, units.optimizer) == (CLASS_OPTIMIZER, DEFAULT_OPTIMIZER)
    text = only(found, f.TileGrid).description
    assert "turned ±25°, scenes mixed in, 0% to 30% for classes" in text
    assert "turned ±10° for other units" in text
    assert "total variation^2 x 0.5 for classes, none for other units" in text
    assert "Adam at rate 0.05, averaged over the last 50% of the steps for classes" in text
    assert "Adam at rate 0.05 falling to 0 for other units" in text
    for steps, rate in ((300, 0.05), (128, 0.1), (1, 0.12)):
        analyse(place, targets=targets, steps=steps)
        optimizers = [used[name].optimizer for name in (view.logits.name, "conv")]
        assert [each.learning_rate for each in optimizers] == pytest.approx([rate, rate])
        assert [(each.average, each.schedule) for each in optimizers] == [(0.5, "constant"), (0.0, "linear")]
    given: dict[str, Any] = {"transforms": [], "regularizers": [], "optimizer": {"kind": "rmsprop"}}
    analyse(place, targets=targets, steps=1, **given)
    assert {(chosen.transforms, chosen.regularizers) for chosen in used.values()} == {((), ())}
    assert {chosen.optimizer.kind for chosen in used.values()} == {"rmsprop"}


def test_pixels_that_matter_little_fade(place: JobContext) -> None:
    """A neuron of the centre cares about its receptive field: the rest is a chequerboard, in every picture."""
    target = {"layer": "first_conv", "units": 0, "position": "center"}
    settings: dict[str, Any] = {"targets": [target], "steps": 8, "transforms": []}
    found = analyse(place, opacity=100, **settings)
    (whole,) = only(analyse(place, **settings), f.TileGrid).tiles
    (faded,) = only(found, f.TileGrid).tiles
    differs = (faded.pictures[0].pixels != whole.pictures[0].pixels).any(axis=-1)
    middle = np.zeros((SIDE, SIDE), dtype=bool)
    middle[SIDE // 2 - 1 : SIDE // 2 + 2, SIDE // 2 - 1 : SIDE // 2 + 2] = True
    assert not differs[SIDE // 2, SIDE // 2]
    assert differs[~middle].mean() > 0.95
    (stored,) = (finding.arrays for finding in found if isinstance(finding, f.Array))
    assert stored["importance"].shape == (1, SIDE, SIDE)
    assert stored["images"].shape == (1, 3, SIDE, SIDE)
    assert "faded" in only(found, f.TileGrid).description


def test_opacity_is_refused_where_pictures_have_their_own() -> None:
    with pytest.raises(ValidationError, match="which `alpha` has"):
        ActivationMaximization.model_validate(
            {"targets": [{"layer": "logits"}], "opacity": 80, "parameterization": {"kind": "alpha"}}
        )


def test_grey_models_get_grey_pictures(tmp_path: Path) -> None:
    place = context(detectors(tmp_path / "grey.onnx", channels=1), preprocess="gray_unit")
    found = analyse(place, targets=[{"layer": "conv", "units": 1}], steps=20)
    image = images(found)[0]
    assert np.array_equal(image[0], image[1])
    assert metric(found, "rise_fraction") == 1.0


def test_findings_say_what_was_made(place: JobContext) -> None:
    found = analyse(
        place,
        targets=[{"layer": "logits", "units": ["red", "upright"]}, {"layer": "conv"}],
        steps=4,
        seeds=2,
        regularizers=[{"kind": "lp_norm", "p": 6, "weight": 0.2}],
    )
    grid = only(found, f.TileGrid)
    assert [tile.title for tile in grid.tiles] == ["red", "upright", "conv (whole layer)"]
    assert grid.tiles[1].unit == Unit(place.subject.view.logits.name, 1)
    assert all(len(tile.pictures) == len(tile.captions) == 2 for tile in grid.tiles)
    facts = dict(grid.tiles[0].facts)
    assert facts["seeds"] == "0, 1"
    assert facts["direction"] == "up"
    assert "start gain" not in facts
    assert all("e+" not in caption and "start" not in caption for tile in grid.tiles for caption in tile.captions)
    assert grid.tile_size == 6 * SIDE
    assert all(picture.pixelated for tile in grid.tiles for picture in tile.pictures)
    assert facts["regularizers"] == "L6 norm x 0.2"
    assert 0 <= float(facts["class probability"] or 0) <= 1
    assert len(grid.tiles[0].curve) == 4
    assert "4 steps of Adam" in grid.description
    assert "L6 norm x 0.2" in grid.description
    table = only(found, f.Table)
    assert len(table.rows) == 6
    assert len({row[0] for row in table.rows}) == 6
    assert all(len(row) == len(table.columns) for row in table.rows)
    coverage = only(found, f.Coverage)
    assert (coverage.done, coverage.total) == (2, 4)
    assert 0 <= metric(found, "mean_class_probability") <= 1
    assert metric(found, "top1_rate") in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert "6 pictures of 3 targets" in only(found, f.Note).text
    assert all(array.arrays["images"].dtype == np.float32 for array in found if isinstance(array, f.Array))
    identities = [(type(finding), finding.id) for finding in found]
    assert len(set(identities)) == len(identities)


def test_a_silent_unit_is_woken_by_redirected_gradients(tmp_path: Path) -> None:
    """With this threshold, the ReLU lets nothing through of the edges in the usual start."""
    place = context(detectors(tmp_path / "d.onnx", threshold=0.3))
    entry: dict[str, Any] = {"targets": [{"layer": "relu", "units": [1, 3]}], "steps": 24, "optimizer": FAST}
    awake, dead = only(analyse(place, **entry), f.Table).rows
    assert awake[5] == 0.0
    assert awake[6] > 0.1  # type: ignore[operator]
    assert awake[10] == 1.0
    assert dead[6] == 0.0


def test_a_louder_start_is_told(tmp_path: Path) -> None:
    """Without redirected gradients, the same unit needs a start that it is not silent on."""
    found = analyse(
        context(detectors(tmp_path / "d.onnx", threshold=0.3)),
        targets=[{"layer": "relu", "units": [1, 3]}],
        steps=2,
        redirect=0,
        begin_again=False,
    )
    loud, dead = only(found, f.TileGrid).tiles
    times = only(found, f.Table).rows[0][10]
    assert times in (4.0, 16.0, 64.0, 256.0)
    assert dict(loud.facts)["start gain"] == f"x {times:g}, silent on the usual one"
    assert f"; start x {times:g}" in loud.captions[0]
    # What no start can wake has the usual one.
    assert "start gain" not in dict(dead.facts)
    assert only(found, f.Table).rows[1][10] == 1.0


@pytest.mark.parametrize(
    ("value", "words"), [(1416.2, "1416"), (-250.4, "-250"), (1.4e8, "1.4e+08"), (2.3456, "2.35"), (0.0, "0")]
)
def test_figures_are_readable(value: float, words: str) -> None:
    assert figure(value) == words


def test_what_does_not_rise_is_shown_and_said(place: JobContext) -> None:
    found = analyse(place, targets=[{"layer": "logits", "units": ["none", "red"]}], steps=3)
    assert metric(found, "rise_fraction") == 0.5
    (caveat,) = (finding for finding in found if isinstance(finding, f.Caveat) and finding.id == "did_not_rise")
    assert "1 of 2 pictures: none, seed 0" in caveat.text
    assert "did not rise" in dict(only(found, f.TileGrid).tiles[0].facts)


def test_a_softmax_is_optimized_only_when_named(tmp_path: Path) -> None:
    place = context(detectors(tmp_path / "s.onnx", softmax=True), labels=["red", "upright", "level", "none"])
    assert place.subject.view.logits.operator != "Softmax"
    by_role = analyse(place, targets=[{"layer": "logits", "units": "red"}], steps=20, optimizer=FAST)
    assert not any(isinstance(finding, f.Caveat) and finding.id == "softmax_target" for finding in by_role)
    assert metric(by_role, "mean_class_probability") > 0.25
    by_name = analyse(place, targets=[{"layer": "softmax", "units": "red"}], steps=2)
    assert any(isinstance(finding, f.Caveat) and finding.id == "softmax_target" for finding in by_name)
    assert only(by_name, f.Table).rows[0][6] == pytest.approx(metric(by_name, "mean_class_probability"), abs=1e-3)


def test_jobs_are_small_and_say_what_they_cost(place: JobContext) -> None:
    entry = {"targets": [{"layer": ["conv", "logits"], "units": "all"}], "steps": 10, "seeds": 5}
    jobs = picture_jobs(ActivationMaximization.model_validate(entry), place.subject)
    assert sum(job.images for job in jobs) == 2 * 4 * 5
    view = place.subject.view
    for job in jobs:
        share = view.share_of_work([view.layer(job.layers[0])])
        assert job.cost == pytest.approx(job.images * 32 * (0.2 + 0.8 * share))
    assert all(len(job.layers) == 1 and job.images <= 16 for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)
    large = ActivationMaximization.model_validate(entry | {"size": 224})
    assert {job.images for job in picture_jobs(large, place.subject)} == {1}
    chosen = ActivationMaximization.model_validate(entry | {"size": [64, 96], "batch": 7})
    assert {job.images for job in picture_jobs(chosen, place.subject)} == {7, 6}


@pytest.mark.parametrize(("side", "most"), [(8, 64), (224, 64), (448, 16), (4096, 1)])
def test_jobs_fill_a_gpu(place: JobContext, side: int, most: int) -> None:
    analysis = ActivationMaximization.model_validate(
        {"targets": [{"layer": "conv", "units": "all"}], "steps": 10, "seeds": 50, "size": side}
    )
    jobs = picture_jobs(analysis, replace(place.subject, device="cuda"))
    assert max(job.images for job in jobs) == most
    assert sum(job.images for job in jobs) == 4 * 50


def _travelled(job: Job) -> Job:
    parameters: Mapping[str, Any] = json.loads(json.dumps(job.parameters))
    return replace(job, parameters=parameters)


def test_a_job_may_travel_as_json(place: JobContext) -> None:
    analysis = ActivationMaximization.model_validate(
        {"targets": [{"layer": "conv", "units": 1, "position": "center"}], "steps": 2}
    )
    measuring, job = analysis.jobs(place.subject)
    place = replace(place, found={measuring.name: analysis.run(_travelled(measuring), place)})
    again = analysis.run(_travelled(job), place)
    assert np.array_equal(images(again), images(analysis.run(job, place)))


def test_the_split_into_jobs_changes_no_picture(place: JobContext) -> None:
    entry: dict[str, Any] = {"targets": [{"layer": "conv", "units": "0-2"}], "steps": 5, "seeds": 2}
    assert np.array_equal(images(analyse(place, batch=1, **entry)), images(analyse(place, batch=6, **entry)))


def test_the_runs_seed_counts(tmp_path: Path) -> None:
    path = detectors(tmp_path / "d.onnx")
    entry: dict[str, Any] = {"targets": [{"layer": "conv", "units": 1}], "steps": 2}
    first, again, other = (images(analyse(context(path, seed=seed), **entry)) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_failed_job_leaves_the_rest(place: JobContext) -> None:
    analysis = ActivationMaximization.model_validate(
        {"targets": [{"layer": "conv", "units": "0-2"}], "steps": 2, "batch": 1}
    )
    parts = list(made(analysis, place).values())
    found = analysis.combine(parts[:2], place.subject)
    assert len(only(found, f.TileGrid).tiles) == 2
    coverage = only(found, f.Coverage)
    assert (coverage.done, coverage.total) == (2, 4)
    assert "a job failed" in coverage.reason
    assert analysis.combine([], place.subject) == []


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ([{"layer": "logits", "units": "rde"}], "did you mean 'red'"),
        ([{"layer": "conv", "units": 4}], "4 units, 0 to 3"),
        ([{"layer": "cnov", "units": 0}], "conv"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(place: JobContext, targets: Any, words: str) -> None:
    with pytest.raises(SelectionError, match=words):
        list(ActivationMaximization.model_validate({"targets": targets}).jobs(place.subject))


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((3 * 8 * 8, 2), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"], name="dense")],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(DataError, match="16×16"):
        analyse(context(tmp_path / "m.onnx"), targets=[{"layer": "dense", "units": 0}], steps=1, size=16)


def test_the_example_validates_and_settings_are_strict() -> None:
    assert registry()["activation_maximization"] is ActivationMaximization
    ActivationMaximization.model_validate(yaml.safe_load(ActivationMaximization.example))
    for wrong in ({"targets": []}, {"targets": [{"layer": "a"}], "step": 3}, {"targets": [{"layer": "a"}], "steps": 0}):
        with pytest.raises(ValidationError):
            ActivationMaximization.model_validate(wrong)
    schema = ActivationMaximization.model_json_schema()
    assert all("description" in entry for name, entry in schema["properties"].items() if name != "kind")


@pytest.mark.zoo
def test_few_steps_raise_what_squeezenet_looks_for(zoo: Path) -> None:
    labels = (zoo / "labels" / "imagenet_1000.txt").read_text(encoding="utf-8").splitlines()
    place = context(zoo / "onnx" / "squeezenet_fp16.onnx", preprocess="caffe", labels=labels)
    found = analyse(place, targets=[{"layer": "logits", "units": ["ostrich"]}], steps=48)
    row = only(found, f.Table).rows[0]
    assert row[6] > 5 * row[5] > 0  # type: ignore[operator]
    assert metric(found, "mean_class_probability") > 0.9
    assert metric(found, "top1_rate") == 1.0
    small = analyse(place, targets=[{"layer": "last_conv", "units": [9, 145]}, {"layer": "first_conv", "units": 3}],
                    steps=6, size=96)  # fmt: skip
    assert metric(small, "rise_fraction") == 1.0
