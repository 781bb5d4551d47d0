"""The plan: faults of models, data and selections at their place; keys that change with what results depend on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_models import fill, save_model, save_unknown

from onnxviz.core.devices import likely_device
from onnxviz.core.errors import RecipeError
from onnxviz.execution import plan as plan_module
from onnxviz.execution.plan import Plan, make_plan
from onnxviz.execution.store import Store
from onnxviz.recipe.recipe import parse_recipe, read_recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


TEXT = """\
version: 1
model: {path: m.onnx, preprocess: unit, labels: labels.txt}
data:
  photos: {images: photos}
analyses:
  filters: {kind: weights, layers: first_conv}
  evidence: {kind: grad_cam, layers: all_convs, data: photos, classes: cat}
  classes: {kind: activation_maximization, targets: [{layer: logits, units: [lion]}], steps: 2, size: 16}
"""


def plan(folder: Path, text: str = TEXT, *overrides: str) -> Plan:
    return make_plan(parse_recipe(text, "r.yaml", folder, overrides))


def faults(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        plan(folder, text, *overrides)
    return [str(fault).split("\n")[0] for fault in caught.value.faults]


def keys(found: Plan) -> dict[str, str]:
    return {job.name: job.key for job in found.jobs}


def test_jobs_of_all_analyses_and_one_parity_check(folder: Path) -> None:
    found = plan(folder)
    assert [job.analysis for job in found.jobs] == ["filters", *["evidence"] * 3, *["classes"] * 2]
    assert set(found.parity_checks) == {"model"}
    assert found.parity_checks["model"].data == "photos"
    order = [layer.name for layer in found.subjects["model"].view.layers]
    assert list(found.parity_checks["model"].layers) == [
        name for name in order if name in found.parity_checks["model"].layers
    ]
    assert found.cached(Store(folder / "none")) == set()
    assert keys(plan(folder)) == keys(found)


def test_every_wrong_selection_at_its_place(folder: Path) -> None:
    text = """\
version: 1
model: {path: m.onnx, preprocess: unit, labels: labels.txt}
data:
  photos: {images: photos}
  none: {images: nothing/*.jpg}
analyses:
  filters: {kind: weights, layers: frist}
  evidence: {kind: grad_cam, layers: all_convs, data: photo, classes: cat}
  follows: {kind: grad_cam, layers: all_convs, data: none, classes: cat}
  lions:
    kind: grad_cam
    data: photos
    classes: [cat, lyon]
  classes:
    kind: activation_maximization
    targets:
      - {layer: logits, units: [dog]}
      - {layer: second, units: [1, 600]}
"""
    found = faults(folder, text)
    expected = [
        ("r.yaml:5:18", "nothing/*.jpg"),
        ("r.yaml:7:36", "did you mean 'first'?"),
        ("r.yaml:8:55", "did you mean 'photos'?"),
        ("r.yaml:13:20", "did you mean 'lion'?"),
        ("r.yaml:18:36", "no unit 600: the layer has 6 units"),
    ]
    assert len(found) == len(expected), "\n".join(found)
    for line, (place, said) in zip(found, expected, strict=True):
        assert line.startswith(f"{place}: "), line
        assert said in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.path=none.onnx", "no such file"),
        ("model.labels=none.txt", "cannot be read"),
        ("model.labels=[a, b]", "2 class names, and the output 'scores' has 4 numbers"),
        ("model.preprocess=gray_unit", "channel"),
        ("model.size=32", "cannot be changed"),
        ("model.builtin=scene", "did you mean 'scenes'"),
        ("data.photos.images=[a.jpg, b.jpg]", "a.jpg"),
        ("data.photos.concepts=none", "concept folder"),
    ],
)
def test_what_cannot_be_opened(folder: Path, override: str, said: str) -> None:
    text = TEXT
    for entry in ("labels: labels.txt", "preprocess: unit, "):
        if override.startswith("model.builtin"):
            text = text.replace(entry, "")
    found = faults(folder, text.replace("unit, }", "unit}"), override)
    assert len(found) == 1, "\n".join(found)
    assert found[0].startswith(f"--set {override}: ")
    assert said in found[0]


def test_a_file_that_is_no_model(folder: Path) -> None:
    (folder / "m.onnx").write_bytes((folder / "m.onnx").read_bytes()[:200])
    (found,) = faults(folder, TEXT)
    assert found.startswith("r.yaml:2:15: ")
    assert "m.onnx" in found


def test_keys_change_with_what_results_depend_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = keys(plan(folder))
    assert len(set(first.values())) == len(first)

    def changed(*overrides: str) -> set[str]:
        other = keys(plan(folder, TEXT, *overrides))
        return {name.split("/")[0] for name, key in first.items() if other.get(name) != key}

    everything = {"filters", "evidence", "classes"}
    assert changed() == set()
    assert changed("title=other", "filters.title=Other heading") == set()
    assert changed("seed=1") == everything
    assert changed("model.preprocess=tf") == everything
    assert changed("classes.steps=3") == {"classes"}
    assert changed("filters.layers=second") == {"filters"}
    (folder / "labels.txt").write_text("cat\ndog\nlion\nhorse\n")
    assert changed() == everything
    (folder / "labels.txt").write_text("cat\ndog\nlion\nzebra\n")
    Image.new("RGB", (24, 20)).save(folder / "photos" / "0.png")
    assert changed() == {"evidence"}
    now = keys(plan(folder))
    monkeypatch.setattr(plan_module, "versions", lambda: {"torch": "0"})
    assert not set(keys(plan(folder)).values()) & set(now.values())


def test_the_version_of_onnx2torch_is_part_of_the_key_where_it_may_convert(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "version: 1\nmodel: {path: m.onnx, preprocess: unit}\nanalyses: {filters: {kind: weights, layers: [conv1]}}"
    for save, depends in ((save_model, False), (save_unknown, True)):
        save(folder / "m.onnx")
        found = []
        for version in ("1", "2"):
            monkeypatch.setattr(plan_module, "versions", lambda version=version: {"onnx2torch": version})
            found.append(keys(plan(folder, text if depends else text.replace("conv1", "first"))))
        assert (found[0] != found[1]) is depends


def test_the_device_is_part_of_the_key(folder: Path) -> None:
    recipe = parse_recipe(TEXT, "r.yaml", folder)
    assert not set(keys(make_plan(recipe, "cpu")).values()) & set(keys(make_plan(recipe, "cuda")).values())
    assert likely_device() in ("cpu", "cuda")


def test_another_model_of_the_same_name_has_other_keys(folder: Path) -> None:
    before = keys(plan(folder))
    save_model(folder / "m.onnx", seed=1)
    assert not set(keys(plan(folder)).values()) & set(before.values())


def test_several_models_do_the_same_jobs(folder: Path) -> None:
    save_model(folder / "n.onnx", seed=1)
    text = TEXT.replace(
        "model: {path: m.onnx, preprocess: unit, labels: labels.txt}",
        "models:\n  a: {path: m.onnx, preprocess: unit, labels: labels.txt}\n"
        "  b: {path: n.onnx, preprocess: unit, labels: labels.txt}",
    )
    found = plan(folder, text)
    names = {alias: [job.name for job in found.jobs if job.alias == alias] for alias in ("a", "b")}
    assert names["a"] == names["b"]
    assert len({job.key for job in found.jobs}) == len(found.jobs)
    wrong = faults(folder, text, "filters.layers=frist")
    assert len(wrong) == 2
    assert "model a" in wrong[0]


def test_faults_of_the_form_and_of_the_matter_are_told_together(tmp_path: Path) -> None:
    """An unknown key, a metric of no analysis, a misspelt layer, class and data set, and bad data: all at once."""
    (tmp_path / "r.yaml").write_text(
        "version: 1\n"
        "modell: 3\n"
        "model: {builtin: scenes}\n"
        "data: {scenes: {builtin: scenes, count: 4}, other: {builtin: scenes, count: many}}\n"
        "analyses:\n"
        "  a: {kind: grad_cam, layers: con1, data: scenes}\n"
        "  b: {kind: grad_cam, layers: conv1, data: scens, stepz: 3}\n"
        "  c: {kind: activation_maximization, targets: [{layer: logits, units: [striped cirle]}]}\n"
        "  d: {kind: dissection, data: scens}\n"
        "  e: {kind: dissection, data: other}\n"
        "expect: [{metric: zz.detectors, min: 1}]\n"
    )
    with pytest.raises(RecipeError) as caught:
        make_plan(read_recipe(tmp_path / "r.yaml", partly=True))
    assert [(fault.line, fault.message.split(";")[0]) for fault in caught.value.faults] == [
        (2, "unknown key 'modell'"),
        (4, "expected a whole number, not 'many'"),
        (6, "no layer is called 'con1'"),
        (7, "unknown key 'stepz'"),
        (8, "layer 'logits': none of the 15 classes is called 'striped cirle'"),
        (9, "no data set is called 'scens'"),
        (11, "no analysis is called 'zz'"),
    ]
