"""A run on a processor where ONNX Runtime is wrong goes on and says so; one on which the conversion is wrong stops."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import faulty_runtime
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field

import onnxviz.convert.operators
from onnxviz.analyses.base import Analysis, Job, JobContext, LayerSelector, Subject
from onnxviz.convert.operators import Conversion
from onnxviz.core.findings import Finding, Metric
from onnxviz.execution.execute import run
from onnxviz.execution.finished_run import Run
from onnxviz.execution.observer import Observer
from onnxviz.execution.workers.messages import from_line, to_line
from onnxviz.execution.workers.tasks import Task
from onnxviz.model import ort_session as runtime
from onnxviz.model.model import load
from onnxviz.recipe import faults as recipe_faults
from onnxviz.recipe import recipe as recipe_module
from onnxviz.recipe.recipe import parse_recipe
from tests.model.test_judge import float_network, garbage, integer_network

PIXELS = np.random.default_rng(5).random((2, 3, 8, 8), dtype=np.float32)


class Measuring(Analysis):
    """Measures layers without gradients."""

    kind: Literal["measuring"] = "measuring"
    layers: LayerSelector = Field("*", description="Where.")

    def jobs(self, subject: Subject) -> Iterable[Job]:
        for layer in subject.view.select(self.layers):
            yield Job(layer.name, {"layer": layer.name}, (layer.name,), tuple(subject.data), cost=1.0, images=1)

    def run(self, job: Job, context: JobContext) -> list[Finding]:
        measured = context.model.measure(PIXELS, [job.name])[job.name]
        converted = context.model.activations(PIXELS, [job.name])[job.name].numpy()
        return [Metric(f"apart_{job.name}", float(np.abs(measured - converted).max()))]


@pytest.fixture(autouse=True)
def one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "registry", lambda: {"measuring": Measuring})
    monkeypatch.setattr(recipe_faults, "registry", lambda: {"measuring": Measuring})


class Told(Observer):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def start(folder: Path, told: Told) -> Run:
    (folder / "photos").mkdir()
    for index, pixels in enumerate(np.random.default_rng(6).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "photos" / f"{index}.png")
    text = (
        "version: 1\nmodel: {path: m.onnx, preprocess: unit}\ndata: {photos: {images: photos}}\n"
        "analyses: {a: {kind: measuring}}\n"
    )
    return run(parse_recipe(text, "r.yaml", folder), folder / "run", device="cpu", observer=told)


def test_a_run_goes_on_where_onnx_runtime_saturates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    integer_network(tmp_path / "m.onnx")
    faulty_runtime.install(monkeypatch, {"MatMulInteger": faulty_runtime.saturated})
    told = Told()
    made = start(tmp_path, told)
    (part,) = made.result.analyses[0].parts
    assert not part.failed
    assert made.result.verdict != "incomplete"
    assert all(value < 1e-4 for value in part.metrics.values()), "nothing is measured by what saturates"
    wrong = [item for item in made.result.models[0].agreement if item.off]
    assert {item.layer for item in wrong} == {"cast", "scaled", "scores"}
    assert all(item.off == "runtime" and item.holds for item in wrong)
    (effect,) = {item.effect for item in wrong if item.effect}
    assert "the output scores differs by up to" in effect
    (text,) = [text for text in told.texts if "ONNX Runtime computes" in text]
    assert "on this processor" in text
    assert "exact integers" in text
    assert effect in text
    assert text in made.result.provenance.events
    assert any("measured by the converted network" in event for event in made.result.provenance.events)
    page = (tmp_path / "run/report/index.html").read_text()
    assert "exact integers" in page


def test_the_effect_is_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in doubles the scores' bias in front of one class: another becomes the largest."""
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    images = torch.from_numpy(PIXELS)
    right = model.activations(images, ["scores"])["scores"].numpy()

    def reversed_channels(_node: object, _inputs: object, values: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[:, ::-1])

    faulty_runtime.install(monkeypatch, {model.view.layer("norm").value: reversed_channels})
    from onnxviz.model.parity import output_error

    wrong = right[:, ::-1]
    changed = int((wrong.argmax(1) != right.argmax(1)).sum())
    error = np.abs(wrong - right).max() / np.abs(right).max()
    text = output_error(model, images)
    assert f"differs by up to {error:.2g} of its largest value" in text
    assert f"on {changed} of 2 images another of its 4 numbers is the largest" in text


def test_a_run_stops_where_the_conversion_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    float_network(tmp_path / "m.onnx")
    monkeypatch.setitem(
        onnxviz.convert.operators.CONVERTERS,  # type: ignore[arg-type]
        "Softmax",
        lambda operation: Conversion(torch.nn.Softmax(int(operation.attributes["axis"]) + 1)),
    )
    told = Told()
    made = start(tmp_path, told)
    (part,) = made.result.analyses[0].parts
    (failed,) = part.failed
    assert failed.job == "soft"
    assert "the converted network is off by" in failed.error
    assert "standard's definition" in failed.error
    assert made.result.verdict == "incomplete"
    assert not [text for text in told.texts if "ONNX Runtime computes" in text]


def test_a_distrusted_layer_and_what_hangs_on_it_are_not_measured_by_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(float_network(tmp_path / "m.onnx"), "unit")
    right = model.activations(PIXELS, ["conv", "relu", "scores"])
    faulty_runtime.install(monkeypatch, {model.view.layer("norm").value: garbage})
    assert np.abs(model.measure(PIXELS, "relu")["relu"] - right["relu"].numpy()).max() > 0.1
    model.distrust(["norm"])
    found = model.measure(PIXELS, ["relu", "scores"])
    for name in ("relu", "scores"):
        np.testing.assert_array_equal(found[name], right[name].numpy())
    assert len(model.reduced) == 1
    model.measure(PIXELS, "conv")
    assert len(model.reduced) == 1, "what lies in front of it is measured as ever"
    model.distrust([])
    assert np.abs(model.measure(PIXELS, "relu")["relu"] - right["relu"].numpy()).max() > 0.1


def test_sums_that_saturate_on_this_processor_are_not_measured_by_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(integer_network(tmp_path / "m.onnx"), "unit")
    (product,) = (node.output[0] for node in model.view.proto.graph.node if node.op_type == "MatMulInteger")
    faulty_runtime.install(monkeypatch, {product: garbage})
    for saturates in (False, True):
        monkeypatch.setattr(runtime, "saturates", lambda answer=saturates: answer)
        fresh = load(tmp_path / "m.onnx", "unit")
        found, right = fresh.measure(PIXELS, "scores")["scores"], fresh.activations(PIXELS, "scores")["scores"]
        assert np.allclose(found, right.numpy(), atol=1e-4) == saturates
        assert bool(fresh.reduced) == saturates


def test_what_is_distrusted_reaches_a_worker(tmp_path: Path) -> None:
    from onnxviz.execution.plan import PlannedJob

    planned = PlannedJob("k", "m", "a", Job("n", {}, ("l",), (), cost=1.0, images=1), ())
    task = Task(planned, 1, ("norm", "sums"))
    assert from_line(Task, to_line(task)) == task
