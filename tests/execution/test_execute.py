"""Runs: resume, damage, failing jobs, disagreement, expectations, what lies in the folder."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import Field
from tiny_models import fill, save_model
from worker_runs import PATIENCE

from onnxviz.analyses.base import Analysis, Job, JobContext, LayerSelector, Subject
from onnxviz.core import devices, results
from onnxviz.core.errors import AnalysisError, OnnxvizError, OutputError
from onnxviz.core.findings import Array, Column, Finding, Metric, Note, Picture, Table, Tile, TileGrid
from onnxviz.core.results import AnalysisResult, Part
from onnxviz.core.values import Agreement, Unit
from onnxviz.execution import execute
from onnxviz.execution.execute import Run, run, run_file
from onnxviz.execution.folder import read_run
from onnxviz.execution.observer import Observer
from onnxviz.execution.parity_job import synthetic_photographs
from onnxviz.model import parity as agreement
from onnxviz.recipe import faults as recipe_faults
from onnxviz.recipe import recipe as recipe_module
from onnxviz.recipe.expectations import decide, describe, holds
from onnxviz.recipe.recipe import parse_recipe, read_recipe
from onnxviz.recipe.schema import ExpectationSettings

RAN: list[str] = []
Checked = tuple[tuple[Agreement, ...], tuple[str, ...]]


class Probe(Analysis):
    """Draws random numbers and asks the network, to see what a run does with an analysis."""

    kind: Literal["probe"] = "probe"
    layers: LayerSelector = Field("all_convs", description="Where.")
    trouble: Literal["none", "mistake", "refusal", "interrupt", "combine"] = Field("none", description="What fails.")

    def jobs(self, subject: Subject) -> Iterable[Job]:
        for layer in subject.view.select(self.layers):
            yield Job(layer.name, {"layer": layer.name}, (layer.name,), tuple(subject.data), cost=2.0, images=1)

    def run(self, job: Job, context: JobContext) -> list[Finding]:
        import torch

        RAN.append(job.name)
        if job.name == "second" and self.trouble != "none":
            if self.trouble == "interrupt":
                raise KeyboardInterrupt
            if self.trouble == "refusal":
                raise AnalysisError("nothing to see", remedy="look elsewhere")
            if self.trouble == "mistake":
                raise ZeroDivisionError("by\x1b[31m zero")
        context.progress(1, 1, "asked")
        mean = float(context.model.activations(torch.full((1, 3, 16, 16), 0.5), [job.name])[job.name].mean())
        pixels = (torch.rand(8, 8, 3) * 255).byte().numpy()
        tile = Tile(job.name, Unit(job.name, 0), (Picture(pixels),), (("mean", mean),))
        rows = (("=cmd()", Unit(job.name, 0), np.random.default_rng(context.subject.seed).random()),)  # type: ignore[var-annotated]
        return [
            Metric(f"mean_{job.name}", mean),
            TileGrid("grid", "Grid", (tile,)),
            Table("cells", "Cells", (Column("@text"), Column("unit", "unit"), Column("number", "number")), rows),
            Array("numbers", "Numbers", {"a": np.arange(3.0) + mean}),
        ]

    def combine(self, parts: Sequence[list[Finding]], subject: Subject) -> list[Finding]:
        if self.trouble == "combine":
            raise ValueError("cannot be put together")
        arrays = [item.arrays["a"] for part in parts for item in part if isinstance(item, Array)]
        picture = Picture(np.full((2, 2, 3), len(parts), np.uint8))
        total = Array("total", "Total", {"sum": np.sum(arrays, axis=0)})
        return [*super().combine(parts, subject), total, TileGrid("sum", "Sum", (Tile("all", pictures=(picture,)),))]


@pytest.fixture(autouse=True)
def one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "registry", lambda: {"probe": Probe})
    monkeypatch.setattr(recipe_faults, "registry", lambda: {"probe": Probe})
    RAN.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


TEXT = """\
version: 1
title: Tiny
model: {path: m.onnx, preprocess: unit, labels: labels.txt}
data: {photos: {images: photos}}
analyses: {a: {kind: probe}}
expect:
  - {metric: a.mean_first, min: -1e9}
"""


class Recorder(Observer):
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def finished(self, name: str, cost: float, seconds: float, status: Any, error: str = "") -> None:
        self.said.append((status, name))

    def message(self, text: str) -> None:
        self.said.append(("message", text))


def start(folder: Path, *overrides: str, text: str = TEXT, out: str = "run", observer: Recorder | None = None) -> Run:
    recipe = parse_recipe(text, "tiny.yaml", folder, overrides)
    return run(recipe, folder / out, device="cpu", observer=observer)


def results_of(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on when and how often a run was started."""
    kept = [path for part in ("jobs", "tables", "arrays") for path in (folder / part).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def test_a_run_and_what_it_leaves(folder: Path) -> None:
    made = start(folder)
    result = made.result
    assert result.verdict == "passed"
    assert RAN == ["first", "second"]
    (analysis,) = result.analyses
    assert (analysis.id, analysis.kind, analysis.title) == ("a", "probe", "Probe")
    assert analysis.summary.startswith("Draws random numbers")
    (part,) = analysis.parts
    assert (part.jobs, part.cached, part.failed) == (2, 0, ())
    assert set(part.metrics) == {"mean_first", "mean_second"}
    assert made.report.is_file()
    assert {item.name for item in (folder / "run").iterdir()} == {
        "run.lock", ".checked.json", "run.json", "recipe.lock.yaml", "log.txt", "jobs", "tables", "arrays", "report",
    }  # fmt: skip
    assert results.write(read_run(folder / "run")) == results.write(result)
    assert {item.layer for item in result.models[0].agreement} == {"first", "second"}
    assert all(item.holds for item in result.models[0].agreement)
    assert [picture.size for picture in made.pictures("a")] == [(8, 8), (8, 8), (2, 2)]
    assert made.metrics("a")["model"] == part.metrics
    assert result.data[0].used == 3
    with pytest.raises(OutputError, match="no analysis 'b'"):
        made.pictures("b")


def test_tables_are_safe_to_open_and_arrays_complete(folder: Path) -> None:
    start(folder)
    with (folder / "run/tables/a-cells.csv").open(encoding="utf-8-sig", newline="") as stream:
        head, first, second = csv.reader(stream)
    assert head == ["'@text", "unit", "number"]
    assert first[:2] == ["'=cmd()", "first:0"]
    assert float(first[2]) == float(second[2])
    with np.load(folder / "run/arrays/a-total.npz") as archive:
        total = archive["sum"]
    parts = [np.load(folder / "run/arrays" / name)["a"] for name in ("a-numbers.npz", "a-numbers-2.npz")]
    assert np.array_equal(total, parts[0] + parts[1])


def test_what_is_done_is_kept_and_nothing_changes(folder: Path) -> None:
    first = start(folder)
    before = results_of(folder / "run")
    RAN.clear()
    watcher = Recorder()
    second = start(folder, observer=watcher)
    assert not RAN
    assert {status for status, _ in watcher.said} == {"cached"}
    assert results_of(folder / "run") == before
    findings = [results.write(made.result)["analyses"][0]["parts"][0]["findings"] for made in (first, second)]
    assert findings[0] == findings[1]
    assert second.result.provenance.cached == 2
    # A heading is no reason to compute again; a seed is.
    assert start(folder, "a.title=Other").result.analyses[0].title == "Other"
    assert not RAN
    start(folder, "seed=1")
    assert RAN == ["first", "second"]


def test_two_runs_of_the_same_recipe_are_the_same_bytes(folder: Path) -> None:
    start(folder, out="one")
    start(folder, out="two")
    assert results_of(folder / "one") == results_of(folder / "two")


def test_a_damaged_result_is_made_again(folder: Path) -> None:
    start(folder)
    before = results_of(folder / "run")
    victim = next(path for path in (folder / "run/jobs").rglob("*.png") if path.stat().st_size > 100)
    victim.write_bytes(b"")
    RAN.clear()
    watcher = Recorder()
    start(folder, observer=watcher)
    assert len(RAN) == 1
    assert any("damaged" in text for kind, text in watcher.said if kind == "message")
    assert results_of(folder / "run") == before


@pytest.mark.parametrize("trouble", ["mistake", "refusal"])
def test_a_failing_job_takes_no_other_down(folder: Path, trouble: str) -> None:
    made = start(folder, f"a.trouble={trouble}")
    assert made.result.verdict == "incomplete"
    (failed,) = made.result.analyses[0].parts[0].failed
    assert failed.job == "second"
    assert "\x1b" not in failed.error
    assert set(made.result.analyses[0].parts[0].metrics) == {"mean_first"}
    assert made.report.is_file()
    log = (folder / "run/log.txt").read_text()
    assert "Traceback" in log
    assert "Traceback" not in failed.error
    RAN.clear()
    start(folder, f"a.trouble={trouble}")
    assert RAN == ["second"]


def test_results_that_cannot_be_put_together(folder: Path) -> None:
    text = TEXT.replace("{a: {kind: probe}}", "{a: {kind: probe}, b: {kind: probe, trouble: combine}}")
    result = start(folder, text=text).result
    assert not result.analyses[0].parts[0].failed
    assert "cannot be put together" in result.analyses[1].parts[0].failed[0].error
    assert result.verdict == "incomplete"


def test_an_interrupted_run_goes_on(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(folder, "a.trouble=interrupt")
    assert not (folder / "run/run.json").exists()
    watcher = Recorder()
    RAN.clear()
    with pytest.raises(KeyboardInterrupt):
        start(folder, "a.trouble=interrupt", observer=watcher)
    assert RAN == ["second"]


def test_layers_that_disagree_are_not_analysed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_parity(model: object, layers: Sequence[str], images: object) -> Checked:
        return tuple(Agreement(name, 0.5 if name == "second" else 0.0, 1.0, 1e-4) for name in layers), ()

    monkeypatch.setattr(agreement, "check_comparable_layers", check_parity)
    made = start(folder)
    assert RAN == ["first"]
    (failed,) = made.result.analyses[0].parts[0].failed
    assert "'second'" in failed.error
    assert "in ONNX Runtime by 0.5" in failed.error
    assert made.result.verdict == "incomplete"


def test_one_layer_that_does_not_convert_costs_only_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_parity(model: object, layers: Sequence[str], images: object) -> Checked:
        if "second" in layers:
            raise RuntimeError("no such operator")
        return tuple(Agreement(name, 0.0, 0.0, 1e-4) for name in layers), ()

    monkeypatch.setattr(agreement, "check_comparable_layers", check_parity)
    made = start(folder)
    assert RAN == ["first"]
    assert "no such operator" in made.result.analyses[0].parts[0].failed[0].error
    monkeypatch.undo()
    monkeypatch.setattr(recipe_module, "registry", lambda: {"probe": Probe})
    monkeypatch.setattr(recipe_faults, "registry", lambda: {"probe": Probe})
    assert start(folder).result.verdict == "passed"


def test_without_data_the_parity_check_says_so(folder: Path) -> None:
    made = start(folder, text=TEXT.replace("data: {photos: {images: photos}}\n", ""))
    assert made.result.models[0].agreement
    assert all("made-up images" in item.note for item in made.result.models[0].agreement)


def test_made_up_photographs() -> None:
    images = synthetic_photographs(2, (48, 64))
    assert images.shape == (2, 3, 48, 64)
    assert images.dtype == np.float32
    assert np.array_equal(images, synthetic_photographs(2, (48, 64)))
    assert 0.1 < images.std() < 0.35
    assert not np.array_equal(images[0], images[1])
    # Neighbours are alike, as in photographs and unlike in white noise.
    neighbours = np.corrcoef(images[:, :, :, 1:].ravel(), images[:, :, :, :-1].ravel())[0, 1]
    assert neighbours > 0.7


def test_several_models(folder: Path) -> None:
    save_model(folder / "n.onnx", seed=1)
    text = TEXT.replace(
        "model: {path: m.onnx, preprocess: unit, labels: labels.txt}",
        "models: {x: {path: m.onnx, preprocess: unit, labels: labels.txt}, y: {path: n.onnx, preprocess: unit}}",
    )
    result = start(folder, text=text).result
    assert [part.model for part in result.analyses[0].parts] == ["x", "y"]
    assert [item.model for item in result.expectations] == ["x", "y"]
    assert not result.not_comparable
    assert (folder / "run/tables/a-x-cells.csv").is_file()
    save_model(folder / "n.onnx", seed=1, classes=7)
    assert "4 and 7 outputs" in start(folder, text=text).result.not_comparable[0]


ONE = "{path: m.onnx, preprocess: unit, labels: labels.txt}"
TWO_NAMES = TEXT.replace(f"model: {ONE}", f"models: {{x: {ONE}, y: {ONE}}}")


def test_two_names_of_one_model_do_the_same_work_once(folder: Path) -> None:
    start(folder, text=TWO_NAMES)
    assert RAN == ["first", "second"]
    before = results_of(folder / "run")
    RAN.clear()
    again = run(parse_recipe(TWO_NAMES, "tiny.yaml", folder), folder / "run", device="cpu", force=("all",))
    assert RAN == ["first", "second"]
    assert results_of(folder / "run") == before
    x, y = again.result.analyses[0].parts
    assert x.metrics == y.metrics
    assert (y.jobs, y.failed) == (2, ())


def test_what_fails_under_one_name_is_tried_under_the_other(folder: Path) -> None:
    result = start(folder, "a.trouble=mistake", text=TWO_NAMES).result
    assert RAN == ["first", "second", "second"]
    assert [[job.job for job in part.failed] for part in result.analyses[0].parts] == [["second"], ["second"]]


def test_stale_tables_go_and_other_files_stay(folder: Path) -> None:
    start(folder)
    (folder / "run/tables/mine.csv").write_text("x")
    (folder / "run/notes.txt").write_text("x")
    start(folder, text=TEXT.replace("a: {kind", "b: {kind").replace("a.mean", "b.mean"))
    assert {path.name for path in (folder / "run/tables").glob("*.csv")} == {"b-cells.csv", "mine.csv"}
    assert (folder / "run/notes.txt").read_text() == "x"


def test_the_lock_repeats_the_run(folder: Path) -> None:
    start(folder)
    before = results_of(folder / "run")
    again = run(read_recipe(folder / "run/recipe.lock.yaml"), folder / "again", device="cpu")
    assert results_of(folder / "again") == before
    assert again.result.title == "Tiny"


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"wrokers": 1}, "no option 'wrokers'"),
        ({"workers": -1}, "-1 workers cannot be"),
        ({"engine": "x"}, "no engine"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder: Path, option: dict[str, Any], said: str) -> None:
    with pytest.raises(OnnxvizError, match=said):
        run(parse_recipe(TEXT, "tiny.yaml", folder), folder / "run", **option)


def test_folders_that_a_run_must_not_touch(folder: Path) -> None:
    with pytest.raises(OutputError, match="no run folder"):
        start(folder, out="photos")
    with pytest.raises(OutputError, match="is a file"):
        start(folder, out="labels.txt")
    with pytest.raises(OutputError, match="no finished run"):
        read_run(folder)
    (folder / "run.json").write_text('{"format": 1')
    with pytest.raises(OutputError, match="cannot be read"):
        read_run(folder)


def test_the_notebook_view_is_escaped(folder: Path) -> None:
    made = start(folder, "title=<script>alert(1)</script>")
    shown = made._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "a.mean_first" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_and_started_again_it_ends_bit_identical(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the child has the real analyses
    text = (
        "version: 1\nmodel: {path: m.onnx, preprocess: unit}\ndata: {photos: {images: photos}}\nanalyses:\n"
        "  filters: {kind: weights, layers: all_convs}\n  evidence: {kind: grad_cam, data: photos, classes: top:1}\n"
        "  classes: {kind: activation_maximization, targets: [{layer: second, units: all}], steps: 30, batch: 1}\n"
    )
    (folder / "r.yaml").write_text(text)
    command = [sys.executable, "-m", "onnxviz", "run", str(folder / "r.yaml"), "--no-open", "--device", "cpu"]
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    child = subprocess.Popen([*command, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while len(list(killed.glob("jobs/[0-9a-f]*"))) < 4 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (killed / "run.json").exists()
    done = subprocess.run([*command, "--out", str(killed)], check=True, capture_output=True, text=True)
    assert "done before" in done.stdout
    assert results_of(killed) == results_of(whole)
    findings = [
        [
            part["findings"]
            for analysis in json.loads((out / "run.json").read_text())["analyses"]
            for part in analysis["parts"]
        ]
        for out in (killed, whole)
    ]
    assert findings[0] == findings[1]


def test_run_file_and_its_default_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "tiny.yaml").write_text(TEXT)
    made = run_file("tiny.yaml", overrides=["seed=3"], device="cpu")
    assert made.folder == Path("runs/tiny")
    assert made.result.provenance.seed == 3
    assert execute.default_folder(parse_recipe(TEXT, "a/..b c.yaml", folder)) == Path("runs/b-c")


def test_jobs_do_not_depend_on_what_ran_before(folder: Path) -> None:
    start(folder, out="both")
    start(folder, "a.layers=second", out="one")
    both = {path.name: path.read_bytes() for path in (folder / "both/jobs").rglob("0000.png")}
    assert both
    values = [path.read_bytes() for path in (folder / "both/jobs").rglob("0000.png")]
    (alone,) = [path.read_bytes() for path in (folder / "one/jobs").rglob("0000.png") if path.stat().st_size > 150]
    assert alone in values


@pytest.mark.parametrize(
    ("bounds", "value", "outcome"),
    [
        ({"min": 1.0}, 1.0, True), ({"min": 1.0}, 0.999, False), ({"max": 1.0}, 1.0, True), ({"max": 1.0}, 1.1, False),
        ({"equals": 0.3}, 0.1 + 0.2, True), ({"equals": 0.0}, 1e-12, False), ({"min": 0.0, "max": 1.0}, 2.0, False),
        ({"min": 0.0}, None, False), ({"min": 0.0}, float("nan"), False), ({"min": 0.0}, float("inf"), True),
    ],
)  # fmt: skip
def test_when_an_expectation_holds(bounds: dict[str, float], value: float | None, outcome: bool) -> None:
    assert holds(ExpectationSettings(metric="a.x", **bounds), value) is outcome  # type: ignore[arg-type]


def test_expectations_name_what_was_not_produced() -> None:
    parts = (Part("x", (Note("n"),), {"dead_fraction": 0.1}), Part("y", (), {}))
    result = AnalysisResult("a", "k", "A", "", "", (), {}, parts)
    items = [
        ExpectationSettings(metric="a.dead_fractoin", max=1),
        ExpectationSettings(metric="y:a.dead_fraction", min=0, max=1, level="warn", because="x"),
    ]
    first, second, third = decide(items, [result])
    assert "did you mean 'dead_fraction'" in first.condition
    assert (second.model, second.value, second.holds) == ("y", None, False)
    assert (third.model, third.level, third.because) == ("y", "warn", "x")
    assert describe(items[1]) == "≥ 0 and ≤ 1"
    assert devices.thread_count() >= 1


def test_what_was_used_but_not_as_it_is_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real analyses
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "r.yaml").write_text(
        "version: 1\nmodel: {builtin: scenes}\ndata: {photos: {images: moving.gif}}\n"
        "analyses: {evidence: {kind: grad_cam, data: photos, layers: last_conv, classes: top:1}}\n"
    )
    made = run(read_recipe(tmp_path / "r.yaml"), tmp_path / "out", device="cpu")
    (card,) = made.result.data
    assert card.used == 1
    assert [name for name, _ in card.notes] == ["moving.gif"]


@pytest.mark.parametrize(("name", "said"), [("device", "is no device"), ("engine", "is no engine")])
def test_a_device_or_engine_that_is_none_is_refused(folder: Path, name: str, said: str) -> None:
    options: dict[str, Any] = {name: "gpu"}
    with pytest.raises(OnnxvizError, match=f"'gpu' {said}\n  write one of"):
        run(parse_recipe(TEXT, "r.yaml", folder), folder / "run", **options)
    assert not (folder / "run").exists()
