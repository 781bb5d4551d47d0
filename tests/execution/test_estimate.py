"""What a plan says of time and space, against what runs take."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny_models import fill, save_unknown

from onnxviz.analyses.base import Job
from onnxviz.cli import show_plan as shown
from onnxviz.execution import estimate
from onnxviz.execution.estimate import Work, estimated, planned_work
from onnxviz.execution.execute import run
from onnxviz.execution.pace import Clocks, Pace, measure_pace, time_passes
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import PARITY_COST, PlannedJob, Schedule
from onnxviz.recipe.recipe import Recipe, parse_recipe
from tests.tiny_models import save_model

TEXT = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 4}}
analyses:
  filters: {kind: weights, layers: all_convs, response_to: {data: scenes, kernels: 4, images: null, limit: 2}}
  classes: {kind: activation_maximization, targets: [{layer: logits, units: 0-1}], steps: 40, size: 96}
  bare: {kind: activation_maximization, targets: [{layer: logits, units: 0}], steps: 2, keep_arrays: false}
  large: {kind: activation_maximization, targets: [{layer: first_conv, units: 0}], steps: 2, size: 160}
  evidence: {kind: grad_cam, data: scenes, limit: 2, classes: "top:2"}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("estimate")
    recipe = parse_recipe(TEXT, "r.yaml", folder)
    assert run(recipe, folder / "run", workers=0, device="cpu").result.verdict == "finished"
    return recipe, folder / "run"


def test_the_estimated_bytes_are_right_within_a_factor_of_two(finished: tuple[Recipe, Path]) -> None:
    recipe, folder = finished
    jobs = [job for job in make_plan(recipe).jobs if not job.job.intermediate]  # what others needed is not kept
    assert len(jobs) >= 4
    for job in jobs:
        stored = sum(file.stat().st_size for file in (folder / "jobs" / job.key).iterdir())
        assert 0.5 < job.job.bytes / stored < 2, (job.name, job.job.bytes, stored)


def test_time_comes_from_the_last_run_of_the_same_model_and_device(finished: tuple[Recipe, Path]) -> None:
    recipe, folder = finished
    work = planned_work(make_plan(recipe), folder, set())
    assert len(work.cached) == len(work.schedule.jobs) + 1
    assert (work.seconds, work.bytes, work.basis) == ((0.0, 0.0), 0, ())
    forced = planned_work(work.schedule, folder, {"classes"})
    before = estimate.read_run(folder)
    part = next(analysis for analysis in before.analyses if analysis.id == "classes").parts[0]
    larger = (96 / 64) ** 2  # than the model's images
    (simple,) = (job.job.cost for job in work.schedule.jobs if job.analysis == "classes" and job.job.intermediate)
    assert 280 * larger < simple < 300 * larger
    assert part.cost == pytest.approx(2 * (3 * 40 + 2) * larger + simple)
    assert sum(forced.job_seconds.values()) == pytest.approx(part.seconds, rel=1e-3)
    assert forced.seconds is not None
    assert forced.seconds[0] < part.seconds + estimate.START_SECONDS < forced.seconds[1]
    assert forced.basis == ("classes: as in the last run in this folder",)
    twice = parse_recipe(TEXT.replace("steps: 40", "steps: 80"), "r.yaml", folder)
    more = planned_work(make_plan(twice), folder, set())
    assert sum(more.job_seconds.values()) / part.seconds == pytest.approx(
        (2 * 242 * larger + simple) / part.cost, rel=1e-3
    )
    # Two processes share the machine: each pass took them twice as long as it takes a run that has it to itself.
    shared = dataclasses.replace(before.provenance, engine="2 worker processes")
    half = estimated(work.schedule, forced.cached, 1, dataclasses.replace(before, provenance=shared))
    assert sum(half.job_seconds.values()) == pytest.approx(part.seconds / 2, rel=1e-3)


def test_a_run_elsewhere_or_of_another_model_says_nothing(finished: tuple[Recipe, Path]) -> None:
    recipe, folder = finished
    schedule, before = make_plan(recipe), estimate.read_run(folder)
    elsewhere = dataclasses.replace(before, provenance=dataclasses.replace(before.provenance, device="cpu (other)"))
    other = dataclasses.replace(before, models=(dataclasses.replace(before.models[0], digest="0"),))
    for run_before in (elsewhere, other, None):
        basis = estimated(schedule, frozenset(), 1, run_before, lambda: 1e9).basis
        assert len(basis) == 1
        assert "multiply-adds at 0.42 billion a second" in basis[0]


def test_time_by_multiply_adds() -> None:
    schedule = make_plan(parse_recipe(TEXT, "r.yaml", Path()))
    card = schedule.models[0]
    assert card.multiply_adds is not None
    work = estimated(schedule, frozenset(), 1, None, lambda: 2e9)
    a_pass = card.multiply_adds / (2e9 * estimate.EFFICIENCY) + len(card.layers) * estimate.LAYER_SECONDS
    job = next(job for job in schedule.jobs if job.analysis == "classes")
    pictures = job.job.bytes * estimate.BYTE_SECONDS + job.job.images * estimate.IMAGE_SECONDS + estimate.JOB_SECONDS
    assert work.job_seconds[job.key] == pytest.approx(job.job.cost * a_pass + pictures)
    assert work.job_seconds[schedule.parity_checks["model"].key] == pytest.approx(PARITY_COST * a_pass)
    assert work.seconds is not None
    whole = sum(work.job_seconds.values()) + estimate.START_SECONDS
    assert work.seconds[0] < whole / 2 < 2 * whole < work.seconds[1]  # a guess
    assert "a guess, nothing was measured" in work.basis[0]
    assert work.bytes == sum(job.job.bytes for job in schedule.jobs) + estimate.PARITY_BYTES
    unknown = dataclasses.replace(schedule, models=(dataclasses.replace(card, multiply_adds=None),))
    work = estimated(unknown, frozenset(), 1, None)
    assert work.seconds is None
    assert work.basis == (f"{card.file}: multiply-adds unknown, so its time cannot be estimated",)


def test_gpus_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = dataclasses.replace(make_plan(parse_recipe(TEXT, "r.yaml", Path())), device="cuda")
    seconds = []
    for names in (("NVIDIA H100 80GB HBM3",), ("Tesla T4",), ("some card",)):
        monkeypatch.setattr(estimate, "gpu_names", lambda names=names: names)
        one, two = (estimated(schedule, frozenset(), workers, None) for workers in (1, 2))
        assert one.seconds is not None
        assert two.seconds is not None
        assert names[0] in one.basis[0]
        assert sum(two.job_seconds.values()) == pytest.approx(sum(one.job_seconds.values()) / 2)
        seconds.append(one.seconds[1])
    assert seconds[0] < seconds[2] < seconds[1]


def test_the_speed_of_this_machine_is_plausible_and_measured_once() -> None:
    estimate.cpu_speed.cache_clear()
    assert 1e8 < estimate.cpu_speed() < 1e13
    assert estimate.cpu_speed() == estimate.cpu_speed()


class Ticks:
    """A clock that passes set forward by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def after(self, *seconds: float) -> Callable[[], None]:
        """Return a pass that takes these seconds in turn, the last for ever."""
        left = list(seconds)

        def do() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return do


def test_a_pace_is_measured_for_a_second_and_without_the_first_pass() -> None:
    clock = Ticks()
    found = time_passes(clock.after(30.0, 0.02, 0.04, 0.03), clock.after(60.0, 0.06, 0.12), Clocks(clock, clock))
    assert found.seconds == pytest.approx(0.04)  # a third of a pass forward and backward
    assert 91 < clock.now < 91.2
    slow = Ticks()
    assert time_passes(slow.after(20.0), slow.after(60.0), Clocks(slow, slow), 4.0) == Pace(20.0, 4.0)
    assert slow.now == 3 * 80  # two of each after the first, however long they take


def test_other_programs_do_not_change_the_pace() -> None:
    def measured(*waiting: float, cores: int = 1, working: float = 0.02) -> float:
        wall, processor = Ticks(), Ticks()
        waits, works = wall.after(*waiting), processor.after(working)

        def work() -> None:
            waits()
            works()

        return time_passes(work, lambda: [work() for _ in range(3)] and None, Clocks(wall, processor, cores)).seconds

    alone = measured(0.02)
    assert alone == pytest.approx(0.02)
    assert measured(0.5, 0.1, 0.02, 0.3, 0.04) == pytest.approx(alone)
    assert measured(0.2) == pytest.approx(alone), "even if it never had a core to itself"
    # Two cores work 0.02 s each; sometimes one of them is with others.
    assert measured(0.02, 0.05, 0.03, 0.02, cores=2, working=0.04) == pytest.approx(0.02)


def test_time_comes_from_a_measured_second_of_the_model() -> None:
    schedule = make_plan(parse_recipe(TEXT, "r.yaml", Path()))
    asked: list[str] = []

    def measure(alias: str) -> Pace:
        asked.append(alias)
        return Pace(0.01)

    work = estimated(schedule, frozenset(), 1, None, lambda: 1e99, measure)
    assert asked == ["model"]
    passes = sum(job.job.cost for job in schedule.jobs) + PARITY_COST
    assert work.seconds is not None
    assert work.seconds[0] < 0.01 * passes + estimate.START_SECONDS
    assert work.seconds[1] > 0.02 * passes + estimate.START_SECONDS
    assert work.seconds[1] < 3 * work.seconds[0]
    assert "10 ms of this machine's time a forward pass, measured" in work.basis[0]
    assert "share a core" not in work.basis[0]
    busy = estimated(schedule, frozenset(), 1, None, lambda: 1e99, lambda _: Pace(0.01, 5.0))
    assert (work.crowded, busy.crowded) == (False, True)
    assert busy.seconds == work.seconds, "what others do is said, and widens nothing"
    assert "now 5.0 programs share a core, which makes it as many times as long" in busy.basis[0]
    done = frozenset(work.key for work in schedule.works)
    assert estimated(schedule, done, 1, None, measure=lambda _: pytest.fail("nothing is to be done")).seconds == (0, 0)
    guessed = estimated(schedule, frozenset(), 1, None, lambda: 1e9, lambda _: None)
    assert "a guess" in guessed.basis[0]


def test_a_trial_takes_what_an_image_of_a_batch_takes(tmp_path: Path) -> None:
    """A small network spends most of a pass on what a batch shares."""
    save_model(tmp_path / "m.onnx")
    text = """\
version: 1
model: {path: m.onnx, preprocess: auto}
data: {scenes: {builtin: scenes, count: 40}}
analyses: {w: {kind: weights}}
"""
    schedule = make_plan(parse_recipe(text, "r.yaml", tmp_path))
    pace = measure_pace(schedule.subjects["model"], "cpu")
    assert pace is not None
    assert pace.trial is not None
    assert pace.trial < pace.seconds, "of one image by itself"
    choice = schedule.choices["model"]

    def seconds(pace: Pace) -> float:
        return estimated(schedule, frozenset(), 1, None, lambda: 1e99, lambda _: pace).job_seconds[choice.key]

    work = estimated(schedule, frozenset(), 1, None, lambda: 1e99, lambda _: Pace(0.01, trial=0.001))
    assert "a forward pass, 1 ms for an image in a trial of preprocessings, measured" in work.basis[0]
    assert seconds(Pace(0.01, trial=0.001)) == pytest.approx(0.1 * seconds(Pace(0.01)))


def test_the_pace_of_a_real_model_and_of_one_that_does_not_convert(tmp_path: Path) -> None:
    made = make_plan(parse_recipe(TEXT, "r.yaml", tmp_path)).subjects["model"]
    ticks = iter(range(1_000_000))
    count = lambda: float(next(ticks))  # noqa: E731 - both clocks go on with every look
    found = measure_pace(made, "cpu", Clocks(count, count))
    assert found is not None
    assert found.seconds > 0
    save_unknown(tmp_path / "u.onnx")
    text = "version: 1\nmodel: {path: u.onnx, preprocess: unit}\nanalyses: {a: {kind: weights, layers: conv1}}\n"
    unknown = make_plan(parse_recipe(text, "r.yaml", tmp_path)).subjects["model"]
    assert measure_pace(unknown, "cpu") is None


# --- how it is shown ------------------------------------------------------------------------------------------------


def show(tmp_path: Path, work: Work) -> str:
    if not (tmp_path / "m.onnx").exists():
        fill(tmp_path)
    analyses = "  a: {kind: weights}\n  b: {kind: weights}\n"
    text = f"version: 1\nmodel: {{path: m.onnx, preprocess: unit}}\nanalyses:\n{analyses}"
    stream = io.StringIO()
    shown.show_plan(Console(file=stream, width=160), work, parse_recipe(text, "r.yaml", tmp_path), tmp_path / "run")
    return stream.getvalue()


def many(count: int) -> Schedule:
    jobs = tuple(
        PlannedJob(f"{n:032x}", "model", "b" if n == 0 else "a", Job(f"unit {n}", cost=2.0, images=3, bytes=1 << 20))
        for n in range(count)
    )
    (card,) = make_plan(parse_recipe(TEXT, "r.yaml", Path())).models
    return Schedule((card,), (), jobs, {}, "cpu", {})


def test_ten_thousand_jobs_are_a_few_lines(tmp_path: Path) -> None:
    schedule = many(10_001)
    cached = frozenset(job.key for job in schedule.jobs[1:4])
    said = show(tmp_path, estimated(schedule, cached, 2, None, lambda: 1e9))
    assert len(said.splitlines()) < 20
    assert "a/unit 3 " in said
    assert "a/unit 4 " not in said
    assert "b/unit 0 " in said
    row = next(line for line in said.splitlines() if "a: and 9,997 more" in line).split()
    assert row[4:6] == ["29,991", "19,994"]
    assert row[-2:] == ["9.8", "GiB"]
    assert "10,001 jobs, 3 done before; about 19,996 forward passes to do on cpu" in said
    assert " with 2 workers; about 9.8 GiB to store, 29,994 images to read or make" in said


def test_too_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(shown.shutil, "disk_usage", lambda _: usage)
    work = estimated(many(3), frozenset(), 1, None, lambda: 1e9)
    assert "NOT ENOUGH ROOM: 1.0 MiB are free" in show(tmp_path, work)
    assert "NOT ENOUGH ROOM" not in show(tmp_path, dataclasses.replace(work, bytes=1000))
