"""What every registered analysis must keep to; a new one is tested without editing this file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from onnxviz.analyses import kind_of, registry
from onnxviz.analyses.base import Analysis, Job, JobContext, Subject
from onnxviz.core.findings import Array, Metric, from_data, to_data
from onnxviz.data import builtin
from onnxviz.execution.store import Store, canonical
from onnxviz.graph import open_model
from onnxviz.recipe.recipe import declared_as, parse_recipe
from onnxviz.recipe.schema import json_schema

KINDS = sorted(registry().items())
SHORT: dict[str, dict[str, Any]] = {
    "activation_maximization": {"targets": [{"layer": "logits", "units": [0]}], "steps": 2, "size": 32},
    "weights": {"layers": "first_conv", "limit": 4},
}
"""Settings that make the four first analyses quick; others run with their example."""

each_kind = pytest.mark.parametrize(("kind", "cls"), KINDS, ids=[kind for kind, _ in KINDS])


@pytest.fixture(scope="module")
def subject() -> Subject:
    model = builtin.model("scenes")
    data = {name: builtin.scenes(count=3) for name in ("scenes", "photos")}
    return Subject("model", open_model(model.path), model.preprocessing, model.labels, data, 0)


def settings(kind: str, cls: type[Analysis]) -> Analysis:
    given = SHORT.get(kind)
    if given is None:
        given = {key: value for key, value in yaml.safe_load(cls.example).items() if key != "kind"}
        given |= {"layers": "last_conv"} if "layers" in cls.model_fields else {}
        given |= {"data": "scenes"} if "data" in cls.model_fields else {}
        given |= {"classes": "top:1"} if "classes" in cls.model_fields else {}
    return cls.model_validate_json(json.dumps(given))


def models_in(cls: type[BaseModel]) -> Iterator[dict[str, Any]]:
    schema = cls.model_json_schema()
    yield schema
    yield from (part for part in schema.get("$defs", {}).values() if part.get("type") == "object")


def test_there_are_analyses_and_their_kinds_are_unique() -> None:
    assert {"weights", "activation_maximization", "grad_cam", "dissection"} <= set(registry())
    assert all(kind_of(cls) == kind for kind, cls in KINDS)


@each_kind
def test_every_field_is_described(kind: str, cls: type[Analysis]) -> None:
    for schema in models_in(cls):
        for name, field in schema.get("properties", {}).items():
            if name not in ("kind", "method"):  # what chooses among several
                assert field.get("description"), f"{schema.get('title')}.{name} has no description"


@each_kind
def test_the_description_begins_with_one_sentence(kind: str, cls: type[Analysis]) -> None:
    assert cls.__doc__ is not Analysis.__doc__
    first = inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]
    assert 10 < len(first) <= 120
    assert first.endswith(".")


@each_kind
def test_the_example_is_a_valid_part_of_a_recipe(kind: str, cls: type[Analysis]) -> None:
    text = yaml.safe_load(cls.example)
    assert text["kind"] == kind
    lines = "\n".join(f"    {line}" for line in cls.example.strip().splitlines())
    head = "version: 1\nmodel: {path: m.onnx}\ndata: {photos: {images: x}, scenes: {concepts: y}}\n"
    recipe = parse_recipe(f"{head}analyses:\n  a:\n{lines}\n", "r.yaml", Path())
    assert isinstance(recipe.analyses["a"], cls)


@each_kind
def test_the_recipe_schema_knows_it(kind: str, cls: type[Analysis]) -> None:
    assert f'"const": "{kind}"' in json.dumps(json_schema())


@each_kind
def test_settings_survive_the_lock(kind: str, cls: type[Analysis]) -> None:
    made = settings(kind, cls)
    assert cls.model_validate_json(json.dumps(made.model_dump(mode="json")), strict=True) == made


@each_kind
def test_jobs_are_plain_data_and_always_the_same(kind: str, cls: type[Analysis], subject: Subject) -> None:
    made = settings(kind, cls)
    first, second = list(made.jobs(subject)), list(made.jobs(subject))
    assert first
    assert first == second
    assert len({job.name for job in first}) == len(first)
    layers = {layer.name for layer in subject.view.layers}
    for job in first:
        assert json.loads(canonical(dict(job.parameters))) == json.loads(json.dumps(dict(job.parameters)))
        assert set(job.layers) <= layers
        assert set(job.data) <= set(subject.data)
        assert job.cost >= 0


@each_kind
def test_findings_survive_a_round_trip_and_the_seed_decides(
    kind: str, cls: type[Analysis], subject: Subject, tmp_path: Path
) -> None:
    from onnxviz.model.model import Model

    made, store = settings(kind, cls), Store(tmp_path)
    job: Job = next(iter(made.jobs(subject)))
    stored = []
    for key in ("0" * 32, "1" * 32):
        model = Model(subject.view, subject.preprocessing, subject.labels, "cpu")
        told: list[tuple[int, int]] = []

        def progress(done: int, total: int, note: str = "", told: list[tuple[int, int]] = told) -> None:
            told.append((done, total))

        store.save(key, made.run(job, JobContext(subject, model, progress)), {}, types=made.result_types())
        assert all(0 <= done <= total for done, total in told)
        found = store.load(key, arrays=True, types=made.result_types())
        assert found
        stored.append(found)
    first, second = ({p.name: p.read_bytes() for p in (store.jobs / key).iterdir()} for key in ("0" * 32, "1" * 32))
    assert {name: data for name, data in first.items() if name != "findings.jsonl"} == {
        name: data for name, data in second.items() if name != "findings.jsonl"
    }
    combined = made.combine([stored[0]], subject)
    data = [to_data(item) for item in combined if not (isinstance(item, Array) and not item.path)]
    assert [to_data(from_data(item)) for item in data] == data
    metrics = made.metrics(combined)
    assert all(isinstance(value, float) for value in metrics.values())
    assert {item.name for item in combined if isinstance(item, Metric)} <= set(metrics)
    assert cls.metric_names, "declare the metrics, so that a misspelt expectation is refused"
    undeclared = [name for name in metrics if declared_as(name, cls.metric_names) is None]
    assert not undeclared, f"{cls.__name__}.metric_names lacks {undeclared}"
    assert not set(made.unproduced([job], subject)) - set(cls.metric_names)
    assert not set(made.unproduced([job], subject)) & set(metrics), "it is produced"


@each_kind
def test_metrics_are_described_in_sentences(kind: str, cls: type[Analysis]) -> None:
    assert all(text.strip().endswith(".") and len(text) > 10 for text in cls.metric_names.values())
