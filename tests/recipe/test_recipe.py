"""Recipes: every fault at once at its place, `--set`, extends, defaults, matrix, and a lock that says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import Field, StrictInt

from onnxviz.analyses.base import Analysis, LayerSelector
from onnxviz.core.errors import RecipeError
from onnxviz.recipe import faults as recipe_faults
from onnxviz.recipe import recipe as recipe_module
from onnxviz.recipe import schema as recipe_schema
from onnxviz.recipe.recipe import Recipe, parse_recipe, read_recipe
from onnxviz.recipe.schema import PreprocessSettings, Settings, json_schema


class Smooth(Settings):
    """A regularizer."""

    kind: Literal["smooth"] = Field("smooth", description="Which.")
    weight: float = Field(0.1, gt=0, description="How much.")


class Sparse(Settings):
    """Another regularizer."""

    kind: Literal["sparse"] = Field("sparse", description="Which.")
    power: int = Field(2, ge=1, description="Exponent.")


class Probe(Analysis):
    """Ask the network something."""

    kind: Literal["probe"] = "probe"
    layers: LayerSelector = Field("all_convs", description="Where.")
    steps: int = Field(16, ge=1, description="How long.")
    size: tuple[int, int] | None = Field(None, description="Height and width.")
    optimizer: Literal["adam", "rmsprop"] = Field("adam", description="How.")
    classes: StrictInt | str | list[StrictInt | str] = Field("top:1", description="Which.")
    terms: tuple[Annotated[Smooth | Sparse, Field(discriminator="kind")], ...] = Field((), description="With what.")
    example: ClassVar[str] = "{kind: probe}"


class Other(Analysis):
    """Ask something else."""

    kind: Literal["other"] = "other"
    depth: float = Field(1.0, description="How deep.")


@pytest.fixture(autouse=True)
def two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"other": Other, "probe": Probe}
    monkeypatch.setattr(recipe_module, "registry", lambda: kinds)
    monkeypatch.setattr(recipe_faults, "registry", lambda: kinds)
    monkeypatch.setattr(recipe_schema, "registry", lambda: kinds)


HEAD = "version: 1\nmodel: {path: m.onnx}\n"


def parse(text: str, *overrides: str) -> Recipe:
    return parse_recipe(text, "r.yaml", Path("folder"), overrides)


def faults(text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    return [str(fault).split("\n")[0] for fault in caught.value.faults]


def test_a_small_recipe_gets_its_defaults() -> None:
    found = parse(HEAD + "analyses: {a: {kind: probe, steps: 3, size: [4, 5], classes: [1, cat]}}")
    assert found.analyses["a"] == Probe(steps=3, size=(4, 5), classes=[1, "cat"])
    assert (found.title, found.seed, found.compares) == ("r", 0, False)
    assert found.resolve(("model", "path")) == Path("folder/m.onnx")


def test_all_faults_at_once_each_at_its_place() -> None:
    text = """\
version: 1
titel: x
model: {path: m.onnx, preprocess: caffee}
data:
  photos: {images: "*.jpg", limmit: 3}
  Bad Name: {images: x}
analyses:
  a: {kind: probe, stepz: 64}
  b: {kind: prob}
  c: {layers: x}
  d: {kind: probe, steps: "64"}
  e: {kind: probe, terms: [{kind: smoth}, {kind: sparse, weight: 1}]}
expect:
  - {metric: aa.x, max: 1}
  - {metric: a.x, min: 2, max: 1}
"""
    found = faults(text)
    expected = [
        ("r.yaml:2:1", "unknown key 'titel'; did you mean 'title'?"),
        ("r.yaml:3:35", "no preprocessing is called 'caffee'; did you mean 'caffe'?"),
        ("r.yaml:5:29", "unknown key 'limmit'; did you mean 'limit'?"),
        ("r.yaml:6:3", "the name 'Bad Name'"),
        ("r.yaml:8:20", "unknown key 'stepz'; did you mean 'steps'?"),
        ("r.yaml:9:13", "no analysis is of kind 'prob'; did you mean 'probe'?"),
        ("r.yaml:10:6", "'kind' is missing"),
        ("r.yaml:11:27", "expected a whole number, not '64'"),
        ("r.yaml:12:35", "no kind is called 'smoth'; did you mean 'smooth'?"),
        ("r.yaml:12:58", "unknown key 'weight'"),
        ("r.yaml:14:14", "no analysis is called 'aa'; did you mean 'a'?"),
        ("r.yaml:15:5", "no number is at least 2 and at most 1"),
    ]
    assert len(found) == len(expected)
    for line, (place, said) in zip(found, expected, strict=True):
        assert line.startswith(f"{place}: ")
        assert said in line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps: 0", "greater than or equal to 1, not 0"),
        ("steps: 1.5", "expected a whole number, not 1.5"),
        ("steps: yes", "expected a whole number, not 'yes'"),
        ("steps: true", "expected a whole number, not true"),
        ("layers: 3", "expected text or a list, not 3"),
        ("layers: [a, 3]", "expected text, not 3"),
        ("classes: {a: 1}", "expected a whole number, text or a list, not a mapping"),
        ("size: 3", "expected a list, not 3"),
        ("size: [1, 2, 3]", "expected at most 2 entries, not 3"),
        ("optimizer: adamm", "did you mean 'adam'?"),
        ("terms: [{weight: 1}]", "'kind' is missing; write {kind: NAME}, and settings beside it"),
        ("terms: [{kind: smooth, weight: -1}]", "greater than 0, not -1"),
    ],
)
def test_what_was_expected_is_said_once(setting: str, said: str) -> None:
    found = faults(HEAD + f"analyses: {{a: {{kind: probe, {setting}}}}}")
    assert len(found) == 1
    assert said in found[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the recipe is empty"),
        ("- a", "a recipe is a mapping"),
        ("version: 2\nmodel: {path: m}\nanalyses: {a: {kind: probe}}", "expected 1, not 2"),
        ("version: 1\nanalyses: {a: {kind: probe}}", "'model' is missing"),
        (HEAD, "'analyses' is missing"),
        (HEAD + "analyses: {}", "no analysis is given"),
        (HEAD + "models: {x: {path: m}}\nanalyses: {a: {kind: probe}}", "either 'model' or 'models'"),
        ("version: 1\nmodel: {path: m, builtin: s}\nanalyses: {a: {kind: probe}}", "either 'path'"),
        ("version: 1\nmodel: {path: 'https://x/m.onnx'}\nanalyses: {a: {kind: probe}}", "is a URL"),
        (HEAD + "analyses: {model: {kind: probe}}", "cannot be called 'model'"),
        (HEAD + "analyses: {../x: {kind: probe}}", "the name '../x'"),
        (HEAD + "analyses: {a: {kind: probe}}\nexpect: [{metric: a, max: 1}]", "not of the form"),
        (HEAD + "analyses: {a: {kind: probe}}\nexpect: [{metric: a.x}]", "needs 'min', 'max' or 'equals'"),
        (HEAD + "analyses: {a: {kind: probe}}\nexpect: [{metric: 'q:a.x', min: 1}]", "no model is called 'q'"),
        (HEAD + "data: {d: {images: a, concepts: b}}\nanalyses: {a: {kind: probe}}", "one of 'images'"),
        (HEAD + "data: {d: {image: a}}\nanalyses: {a: {kind: probe}}", "did you mean 'images'"),
        (HEAD + "data: {d: {builtin: scenes, count: 0}}\nanalyses: {a: {kind: probe}}", "greater than or equal to 1"),
    ],
)
def test_single_faults(text: str, said: str) -> None:
    found = faults(text)
    assert len(found) == 1
    assert said in found[0]


def test_set_addresses_an_analysis_by_its_id() -> None:
    text = HEAD + "data: {p: {images: x}}\nanalyses: {a: {kind: probe, terms: [{kind: smooth}]}}"
    found = parse(text, "a.steps=64", "a.terms.0.weight=1e-3", "model.path=other.onnx", "seed=7", "title=Foo: bar")
    assert found.analyses["a"] == Probe(steps=64, terms=(Smooth(weight=0.001),))
    assert (found.seed, found.title) == (7, "Foo: bar")
    # A path given on the command line starts where the user stands, not where the recipe lies.
    assert found.resolve(("model", "path")) == Path("other.onnx")
    assert parse(text, "a.classes=[1, dog]").analyses["a"] == Probe(classes=[1, "dog"], terms=(Smooth(),))
    pattern = parse(text, "data.p.images=*.jpg")
    assert pattern.data["p"].model_dump()["images"] == "*.jpg"
    assert pattern.base("p") == Path()
    assert parse(text).base("p") == Path("folder")


def test_set_replaces_a_builtin_model_by_a_file_and_one_source_of_data_by_another() -> None:
    text = "version: 1\nmodel: {builtin: s}\ndata: {d: {builtin: scenes, count: 3}}\nanalyses: {a: {kind: probe}}"
    found = parse(text, "model.path=m.onnx", "data.d.images=[a, b]")
    assert found.models["model"].builtin is None
    assert found.data["d"].model_dump()["images"] == ["a", "b"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a.stepz=3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("aa.steps=3", "no analysis or top-level key is called 'aa'; did you mean"),
        ("a.steps=x", "expected a whole number, not 'x'"),
        ("a.steps", "expected NAME=VALUE"),
        ("=3", "expected NAME=VALUE"),
        ("data.q.images=x", "there is no 'q' in data"),
        ("a.steps.x=3", "expected a whole number, not a mapping"),
        ("version.x=3", "it is a single value"),
        ("a.layers=[a", "not valid YAML"),
        ("a.size=[1, *x]", "aliases"),
        ("a.steps=99999999999999999999", "too large"),
    ],
)
def test_a_wrong_set_is_named(override: str, said: str) -> None:
    found = faults(HEAD + "data: {p: {images: x}}\nanalyses: {a: {kind: probe}}", override)
    assert len(found) == 1
    assert found[0].startswith(f"--set {override}: ")
    assert said in found[0]


def test_several_models() -> None:
    text = "version: 1\nmodels: {x: {path: a.onnx}, y: {path: b.onnx}}\nanalyses: {a: {kind: probe}}\n"
    found = parse(text + "expect: [{metric: 'x:a.m', min: 1}]", "models.y.path=c.onnx")
    assert found.compares
    assert found.resolve(("models", "y", "path")) == Path("c.onnx")
    assert "models.ALIAS.path" in faults(text, "model.path=z")[0]


def test_extends_lays_one_recipe_over_another(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/base.yaml").write_text(
        "version: 1\nmodel: {builtin: s}\ndata: {p: {images: x.jpg}}\n"
        "analyses: {a: {kind: probe, steps: 3, size: [1, 2]}, b: {kind: probe}, c: {kind: probe, steps: 9}}\n"
    )
    (tmp_path / "r.yaml").write_text(
        "version: 1\nextends: base/base.yaml\nmodel: {path: m.onnx}\n"
        "analyses: {a: {steps: 5}, b: null, c: {kind: other}}\n"
    )
    found = read_recipe(tmp_path / "r.yaml")
    assert found.analyses == {"a": Probe(steps=5, size=(1, 2)), "c": Other()}
    assert found.resolve(("model", "path")) == tmp_path / "m.onnx"
    assert found.base("p") == tmp_path / "base"


def test_extends_lays_several_recipes_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(HEAD + "analyses: {a: {kind: probe, steps: 3}, b: {kind: probe, steps: 4}}\n")
    (tmp_path / "two.yaml").write_text(HEAD + "analyses: {b: {kind: probe, steps: 5}, c: {kind: probe, steps: 6}}\n")
    path = tmp_path / "r.yaml"
    path.write_text("version: 1\nextends: [one.yaml, two.yaml]\nanalyses: {c: {steps: 7}}\n")
    found = read_recipe(path)
    assert found.analyses == {"a": Probe(steps=3), "b": Probe(steps=5), "c": Probe(steps=7)}
    path.write_text("version: 1\nextends: [one.yaml, r.yaml]\nanalyses: {c: {steps: 7}}\n")
    with pytest.raises(RecipeError, match="circle"):
        read_recipe(path)
    path.write_text("version: 1\nextends: [one.yaml, 3]\nanalyses: {c: {steps: 7}}\n")
    with pytest.raises(RecipeError, match="extends"):
        read_recipe(path)
    path.write_text(f"version: 1\nextends: [{', '.join(['one.yaml'] * 33)}]\nanalyses: {{a: {{steps: 7}}}}\n")
    with pytest.raises(RecipeError, match="more than 32"):
        read_recipe(path)


def test_faults_of_a_base_are_at_their_place_there(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(HEAD + "analyses:\n  a: {kind: probe, stepz: 1}\n")
    (tmp_path / "r.yaml").write_text("version: 1\nextends: b.yaml\ntitel: x\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe(tmp_path / "r.yaml")
    assert {(Path(fault.file).name, fault.line) for fault in caught.value.faults} == {("b.yaml", 4), ("r.yaml", 3)}


def test_recipes_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 1\nextends: b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"extends: a.yaml\n{HEAD}analyses: {{a: {{kind: probe}}}}\n")
    with pytest.raises(RecipeError, match="circle"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("version: 1\nextends: none.yaml\n")
    with pytest.raises(RecipeError, match="no such file"):
        read_recipe(tmp_path / "c.yaml")


def test_defaults_fill_in_what_an_analysis_leaves_out() -> None:
    text = (
        HEAD + "defaults: {probe: {steps: 7, optimizer: rmsprop}}\n"
        "analyses:\n  a: {kind: probe, steps: 9}\n  b: {kind: other}\n"
    )
    found = parse(text)
    assert found.analyses == {"a": Probe(steps=9, optimizer="rmsprop"), "b": Other()}
    wrong = faults(HEAD + "defaults: {probe: {stepz: 7}, prob: {}}\nanalyses: {a: {kind: probe}, b: {kind: probe}}")
    assert len(wrong) == 2
    assert "did you mean 'steps'" in wrong[0]
    assert "did you mean 'probe'" in wrong[1]


def test_a_matrix_makes_one_analysis_of_each_combination() -> None:
    text = (
        HEAD + "analyses: {a: {kind: probe}, b: {kind: other}}\nmatrix:\n"
        "  a: {optimizer: [adam, rmsprop], terms: {none: [], some: [{kind: smooth}]}}\n"
    )
    found = parse(text, "a.steps=5")
    assert list(found.analyses) == ["a-adam-none", "a-adam-some", "a-rmsprop-none", "a-rmsprop-some", "b"]
    assert found.analyses["a-rmsprop-some"] == Probe(steps=5, optimizer="rmsprop", terms=(Smooth(),))
    assert "did you mean 'steps'" in faults(HEAD + "analyses: {a: {kind: probe}}\nmatrix: {a: {stepz: [1, 2]}}")[0]
    assert "no analysis is called 'x'" in faults(HEAD + "analyses: {a: {kind: probe}}\nmatrix: {x: {steps: [1]}}")[0]
    numbers = parse(HEAD + "analyses: {b: {kind: other}}\nmatrix: {b: {depth: [0.1, -1, 1e-3]}}")
    assert len(numbers.analyses) == 3


def test_the_lock_says_the_same_and_is_complete(tmp_path: Path) -> None:
    text = (
        "version: 1\nseed: 3\n"
        "model: {path: ../m.onnx, labels: l.txt, preprocess: {preset: caffe, fit: stretch}, size: 32}\n"
        "data: {p: {images: [a/*.jpg, b]}, c: {concepts: cam}}\n"
        "defaults: {probe: {steps: 7}}\nmatrix: {a: {optimizer: [adam, rmsprop]}}\n"
        "analyses: {a: {kind: probe, terms: [{kind: sparse, power: 3}], classes: ['1e-3', 2]}}\n"
        "expect: [{metric: a-adam.x, max: 1e-9, level: off, because: 'no'}]\n"
    )
    folder = tmp_path / "runs" / "r"
    found = parse_recipe(text, "r.yaml", tmp_path / "recipes")
    (tmp_path / "again").mkdir()
    again = parse_recipe(found.lock(folder), "r.yaml", folder)
    assert again.analyses == found.analyses
    assert (again.models, again.seed, again.expect) == (
        {"model": again.models["model"]}, 3, found.expect
    )  # fmt: skip
    for address in (("model", "path"), ("model", "labels")):
        assert again.resolve(address).resolve() == found.resolve(address).resolve()
    assert [str((again.base("p") / item).resolve()) for item in again.data["p"].model_dump()["images"]] == [
        str(tmp_path / "recipes" / item) for item in ("a/*.jpg", "b")
    ]
    assert again.lock(folder) == found.lock(folder)
    assert "power: 3" in found.lock(folder)
    assert str(tmp_path) not in found.lock(folder)


def test_preprocessing_settings() -> None:
    found = PreprocessSettings(preset="caffe", mean=[1.0, 2.0, 3.0]).resolve()
    assert (found.channel_order, found.mean, found.scale) == ("BGR", (1.0, 2.0, 3.0), (1.0,))
    for wrong in (
        "{channel_order: RGB, mean: [1, 2]}", "{scale: 0}", "{preset: x}", "{channel_order: GRAY, mean: [1, 2, 3]}",
        "{meen: 1}", "{preset: unit, range: [1, 0]}", "{channel_order: BGR, show: [0]}",
    ):  # fmt: skip
        head = f"version: 1\nmodel: {{path: m, preprocess: {wrong}}}\n"
        assert len(faults(head + "analyses: {a: {kind: probe}}")) == 1


@pytest.mark.parametrize(
    ("field", "said"), [("scale: [1, 0, 1]", "a scale of 0 would divide by zero"), ("preset: imagenett", "imagenet")]
)
def test_a_fault_of_a_preprocessing_stands_beside_its_field(field: str, said: str) -> None:
    head = f"version: 1\nmodel:\n  path: m\n  preprocess:\n    fit: crop\n    {field}\n"
    (fault,) = faults(head + "analyses: {a: {kind: probe}}\n")
    assert ":6:" in fault
    assert said in fault


def test_the_schema_for_editors() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == {
        "version", "title", "seed", "extends", "model", "models", "data", "defaults", "matrix", "analyses", "expect",
        "limits",
    }  # fmt: skip
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Probe"]["required"] == ["kind"]
    assert "How long." in json.dumps(schema["$defs"]["Probe"])
