"""A schedule passes between processes unchanged, and one that a worker made up is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from onnxviz.execution.plan import digests_of, make_plan
from onnxviz.execution.schedule import from_data, schedule_of, to_data
from onnxviz.execution.workers.tasks import (
    CombineTask,
    JobTask,
    Outcome,
    ParityTask,
    outcome_data,
    outcome_from,
    task_data,
    task_from,
)
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


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(TEXT, "r.yaml", Path())


def through_json(data: Any) -> Any:
    return json.loads(json.dumps(data))


def test_a_schedule_survives_the_way(recipe: Recipe) -> None:
    schedule = schedule_of(make_plan(recipe))
    assert from_data(through_json(to_data(schedule)), recipe) == schedule
    assert any(job.needs for job in schedule.jobs)
    assert any(job.job.intermediate for job in schedule.jobs)


def test_tasks_and_outcomes_survive_the_way(recipe: Recipe) -> None:
    schedule = schedule_of(make_plan(recipe))
    tasks = [JobTask(job, 2) for job in schedule.jobs] + [
        ParityTask(check) for check in schedule.parity_checks.values()
    ]
    for task in [*tasks, CombineTask("0" * 32, "model", "filters", ("1" * 32,))]:
        assert task_from(through_json(task_data(task))) == task
    outcome = Outcome("memory", "x", "y", 1.5, ("z",))
    assert outcome_from(through_json(outcome_data(outcome))) == outcome


def broken(data: dict[str, Any], change: str) -> None:
    job = data["jobs"][0]
    if change == "key":
        job["key"] = "../../../../etc/cron.d/x"
    elif change == "short key":
        job["key"] = "ab"
    elif change == "analysis":
        job["analysis"] = "other"
    elif change == "alias":
        job["alias"] = "other"
    elif change == "needs":
        job["needs"] = [data["jobs"][-1]["key"]]
    elif change == "model":
        data["models"][0]["alias"] = "other"
    elif change == "data":
        data["data"] = []
    elif change == "parity check":
        data["parity_checks"][0]["key"] = "x" * 32
    elif change == "no jobs":
        del data["jobs"]
    else:
        data["jobs"] = [1]


@pytest.mark.parametrize(
    "change",
    ["key", "short key", "analysis", "alias", "needs", "model", "data", "parity check", "no jobs", "job"],
)
def test_a_schedule_that_is_none_of_the_recipe_is_refused(recipe: Recipe, change: str) -> None:
    data = through_json(to_data(schedule_of(make_plan(recipe))))
    broken(data, change)
    with pytest.raises(ValueError, match=r"."):
        from_data(data, recipe)


@pytest.mark.parametrize("told", [{}, {"kind": "fine"}, {"kind": "done", "error": "", "details": "", "seconds": "x"}])
def test_an_outcome_that_is_none_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError)):
        outcome_from(told)


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
    made = child._Child(recipe, tmp_path, "cpu", 1, digests)
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
    made = child._Child(two, tmp_path, "cpu", 1, None)
    for alias in "aabba":
        assert made.worker._subject(alias).alias == alias
        assert list(made.subjects) == [alias]
    assert opened == ["a", "b", "a"]
