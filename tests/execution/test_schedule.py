"""A schedule passes between processes unchanged, and one that a worker made up is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from onnxviz.analyses.base import Job
from onnxviz.core.errors import Fault, OnnxvizError, OutputError, RecipeError
from onnxviz.execution.plan import digests_of, make_plan
from onnxviz.execution.schedule import Choice, PlannedJob, Schedule
from onnxviz.execution.workers.messages import Refusal, from_line, to_line
from onnxviz.execution.workers.processes import ProcessPool
from onnxviz.execution.workers.tasks import Combination, Outcome, Said, Task
from onnxviz.recipe.recipe import Recipe, parse_recipe

TEXT = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 9}}
analyses:
  filters: {kind: weights}
  evidence: {kind: grad_cam, data: scenes}
  classes: {kind: activation_maximization, targets: [{layer: conv1, units: [0], position: center}], seeds: 2}
  concepts: {kind: dissection, data: scenes, shard: 4, layers: conv1}
"""


PARENT: Any = None


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(TEXT, "r.yaml", Path())


def sent(schedule: Schedule) -> dict[str, Any]:
    """A schedule as a worker sends it."""
    data: dict[str, Any] = json.loads(to_line(Said(schedule=Schedule(**fields_of(schedule)))))
    return data


def fields_of(schedule: Schedule) -> dict[str, Any]:
    return {entry.name: getattr(schedule, entry.name) for entry in dataclasses.fields(Schedule)}


def received(data: dict[str, Any], recipe: Recipe) -> Schedule:
    """A schedule as the parent accepts it."""
    schedule = from_line(Said, json.dumps(data).encode()).schedule
    assert schedule is not None
    schedule.require(recipe)
    return schedule


def test_a_schedule_survives_the_way(recipe: Recipe) -> None:
    plan = make_plan(recipe)
    assert fields_of(received(sent(plan), recipe)) == fields_of(plan)
    assert any(job.needs for job in plan.jobs)
    assert any(job.job.intermediate for job in plan.jobs)


def test_names_that_are_not_unicode_survive_the_way(recipe: Recipe) -> None:
    plan = dataclasses.replace(make_plan(recipe), remarks=("a file \udcff",))
    assert received(sent(plan), recipe).remarks == ("a file \udcff",)


def test_tasks_and_outcomes_survive_the_way(recipe: Recipe) -> None:
    plan = make_plan(recipe)
    works = [*plan.jobs, *plan.parity_checks.values(), Choice("0" * 32, "model", "scenes", 9, 1.5), None]
    for work in [*works, Combination("0" * 32, "model", "filters", ("1" * 32,))]:
        task = Task(work, 2, ("norm",))
        assert from_line(Task, to_line(task)) == task
    said = Said(finished=Outcome("memory", "x", "y", 1.5, ("z",)), progress=(1, 2, "now"))
    assert from_line(Said, to_line(said)) == said


def test_parameters_that_are_not_finite_survive_the_way() -> None:
    job = Job("a", {"most": math.inf, "nested": [{"least": -math.inf}], "none": None}, cost=math.inf)
    task = Task(PlannedJob("0" * 32, "model", "filters", job))
    assert from_line(Task, to_line(task)) == task
    work = from_line(Task, to_line(Task(PlannedJob("0" * 32, "model", "filters", Job("a", {"x": math.nan}))))).work
    assert isinstance(work, PlannedJob)
    assert math.isnan(work.job.parameters["x"])


@pytest.mark.parametrize(
    "error", [OutputError("full", where="disk", remedy="x"), RecipeError([Fault("wrong", "r", 3)])]
)
def test_an_error_survives_the_way(error: OnnxvizError) -> None:
    told = from_line(Said, to_line(Said(refused=Refusal.of(error)))).refused
    assert told is not None
    assert type(told.error()) is type(error)
    assert str(told.error()) == str(error)


def other_needs(data: dict[str, Any]) -> None:
    data["jobs"][0]["needs"] = [data["jobs"][-1]["key"]]


def other_keys(data: dict[str, Any]) -> None:
    data["parity_checks"]["model"]["key"] = "x" * 32


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "key": (lambda data: data["jobs"][0].update(key="../../../../etc/cron.d/x"), "a key that is none"),
    "short key": (lambda data: data["jobs"][0].update(key="ab"), "a key that is none"),
    "no text": (lambda data: data["jobs"][0].update(key=1), "key: Input should be a valid string"),
    "analysis": (lambda data: data["jobs"][0].update(analysis="other"), "something that the recipe does not have"),
    "alias": (lambda data: data["jobs"][0].update(alias="other"), "something that the recipe does not have"),
    "needs": (other_needs, "needs one that is not before it"),
    "model": (lambda data: data["models"][0].update(alias="other"), "the models are not those of the recipe"),
    "data": (lambda data: data.update(data=[]), "the data sets are not those of the recipe"),
    "parity check": (other_keys, "a key that is none"),
    "its model": (
        lambda data: data["parity_checks"]["model"].update(alias="b"),
        "a parity check or a choice of another",
    ),
    "no jobs": (lambda data: data.pop("jobs"), "jobs: Field required"),
    "job": (lambda data: data.update(jobs=[1]), r"jobs\.0: Input should be a dictionary"),
    "cost": (lambda data: data["jobs"][0]["job"].update(cost="much"), "cost: Input should be a valid number"),
    "images": (lambda data: data["jobs"][0]["job"].update(images=[]), "images: Input should be a valid integer"),
    "more": (lambda data: data["jobs"][0].update(more=1), "more: Unexpected keyword argument"),
    "device": (lambda data: data.update(device="tpu"), "device: Input should be 'cpu' or 'cuda'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_schedule_that_is_none_of_the_recipe_is_refused(recipe: Recipe, change: str) -> None:
    data = sent(make_plan(recipe))
    changed, said = CHANGES[change]
    changed(data["schedule"])
    with pytest.raises(ValueError, match=said):
        received(data, recipe)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"finished": {"kind": "fine"}}', "finished.kind: Input should be 'done'"),
        (b'{"finished": {"kind": "done", "error": "", "details": "", "seconds": "x"}}', "finished.seconds: .* number"),
        (b'{"finished": {"kind": ["done"]}}', "finished.kind: Input should be 'done'"),
        (b'{"progress": [1, 2]}', "progress.2: Field required"),
        (b'{"other": 1}', "other: Unexpected keyword argument"),
        (b"[]", "Input should be a dictionary"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_what_a_worker_cannot_mean_is_refused(line: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_line(Said, line)


def test_a_worker_opens_and_hashes_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxviz.data.images import ImageFolder
    from onnxviz.execution.workers import child

    for index in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    text = """\
version: 1
models: {a: {builtin: scenes}, b: {builtin: scenes}}
data: {photos: {images: "*.png"}}
analyses: {cam: {kind: grad_cam, data: photos}}
"""
    recipe = parse_recipe(text, "r.yaml", tmp_path)
    digests = digests_of(make_plan(recipe).subjects.values())
    found, hashed, find, digest = [], [], ImageFolder.find, hashlib.file_digest
    monkeypatch.setattr(ImageFolder, "find", lambda *given: found.append(given) or find(*given))
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: hashed.append(given) or digest(*given))
    made = child._Child(recipe, tmp_path, "cpu", PARENT, digests)
    sources = [made.worker._subject(alias).data["photos"] for alias in "abab"]
    assert all(source is sources[0] for source in sources)
    assert len(found) == 1
    assert len([given for given in hashed if given[0].name.endswith(".png")]) == 3


def test_a_worker_keeps_one_model_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxviz.execution.workers import child

    two = parse_recipe(TEXT.replace("model: {builtin", "models: {a: {builtin: scenes}, b: {builtin").replace(
        "b: {builtin: scenes}", "b: {builtin: scenes}}"), "r.yaml", Path())  # fmt: skip
    opened: list[str] = []

    def opens(recipe: Recipe, alias: str, *_: object) -> SimpleNamespace:
        opened.append(alias)
        return SimpleNamespace(alias=alias, choice="", data={})

    monkeypatch.setattr(child, "open_subject", opens)
    made = child._Child(two, tmp_path, "cpu", PARENT, None)
    for alias in "aabba":
        assert made.worker._subject(alias).alias == alias
        assert list(made.subjects) == [alias]
    assert opened == ["a", "b", "a"]


def test_an_answer_that_nobody_has_asked_for_ends_its_worker(recipe: Recipe, tmp_path: Path) -> None:
    pool = ProcessPool(recipe, tmp_path, "cpu", None, 1)
    causes: list[str] = []
    process: Any = SimpleNamespace(index=0, tasks=[], end=lambda _, cause: causes.append(cause))
    assert pool._understood(process, to_line(Said(finished=Outcome()))) is None
    process.tasks, pool.planned = [0.0], {}
    schedule = Schedule(**fields_of(make_plan(recipe)))
    assert pool._understood(process, to_line(Said(schedule=schedule, digests={}))) is None
    assert len(causes) == 2
    assert all("an answer that nobody has asked for" in cause for cause in causes)
    pool.close()


def plan_of(answers: list[Said], recipe: Recipe, folder: Path) -> ProcessPool:
    """A pool that plans with a worker that gives these answers."""
    pool = ProcessPool(recipe, folder, "cpu", None, 1)
    process: Any = SimpleNamespace(index=0, tasks=deque([0.0]), ended_for=None, busy_for=lambda _: 0.0, grace=0.0)
    process.tell = lambda line: [pool._heard.put((process, to_line(said))) for said in answers]
    process.end_task = process.tasks.clear
    process.end = lambda kind, cause: pool._heard.put((process, None)) or setattr(process, "ended_for", (kind, cause))
    process.reap, process.kill, process.rss = lambda: (0, ""), lambda: None, lambda: 0
    pool._processes[0] = process
    return pool


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([Said(finished=Outcome())], "sent what makes no sense: 'done', no plan"),
        ([Said(progress=(1, 2, "")), Said(finished=Outcome("memory", "x"))], "makes no sense: 'memory', no plan"),
    ],
)
def test_who_answers_something_else_than_a_plan_is_told_of(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Said], said: str
) -> None:
    pool = plan_of(answers, recipe, tmp_path)
    monkeypatch.setattr(pool, "_look", lambda: None)
    with pytest.raises(OnnxvizError, match=said):
        pool.plan()
    pool.close()


def test_a_plan_without_digests_ends_its_worker(recipe: Recipe, tmp_path: Path) -> None:
    pool = ProcessPool(recipe, tmp_path, "cpu", None, 1)
    causes: list[str] = []
    process: Any = SimpleNamespace(index=0, tasks=[0.0], end=lambda _, cause: causes.append(cause))
    schedule = Schedule(**fields_of(make_plan(recipe)))
    assert pool._understood(process, to_line(Said(schedule=schedule))) is None
    assert "a plan without digests" in causes[0]
    pool.close()
