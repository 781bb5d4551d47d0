"""A preprocessing that is chosen by trial, and a guess, stay what they are from the recipe to the report."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import onnxviz
from onnxviz.cli.start import starting_recipe
from onnxviz.core import results
from onnxviz.core.errors import RecipeError, SelectionError
from onnxviz.core.results import ModelCard
from onnxviz.core.shares import wilson
from onnxviz.data.images import load_batch
from onnxviz.execution.execute import run_file
from onnxviz.execution.folder import read_run
from onnxviz.execution.plan import make_plan
from onnxviz.execution.workers.messages import from_line, to_line
from onnxviz.execution.workers.tasks import Said
from onnxviz.graph import open_model
from onnxviz.recipe.recipe import parse_recipe, read_recipe
from tests.coloured_places import coloured_places, pixel_colour

MIDDLE = (slice(18, 25), slice(18, 25))
RECIPE = """\
version: 1
model: {path: m.onnx, preprocess: PREPROCESS}
data: {photos: {images: photos}}
analyses: {evidence: {kind: weights}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    pixel_colour(tmp_path / "m.onnx", 8, 8)
    coloured_places(tmp_path / "photos", (40, 40), MIDDLE)
    return tmp_path


def write(place: Path, preprocess: str, text: str = RECIPE) -> Path:
    (place / "r.yaml").write_text(text.replace("PREPROCESS", preprocess))
    return place / "r.yaml"


def card_of(place: Path, preprocess: str, **options: int) -> ModelCard:
    return run_file(write(place, preprocess), place / "out", **options).result.models[0]  # type: ignore[arg-type]


def test_what_is_chosen_by_trial_is_said_to_be(place: Path) -> None:
    card = card_of(place, "auto")
    assert card.preprocessing_origin == "trial"
    assert card.preprocessing.startswith(("unit: RGB", "raw: RGB", "tf: RGB", "imagenet: RGB", "custom: RGB"))
    assert card.tried is not None
    assert (card.tried.data, card.tried.images, card.tried.labelled) == ("photos", 30, 30)
    assert card.tried.by_accuracy
    assert card.tried.trials[0].top1 == 1.0
    assert card.tried.interval == wilson(30, 30)
    assert card.seen == (("photos", "of 30 images only the centre is seen, on average 79% of the area"),)
    assert read_run(place / "out").models[0] == card
    page = (place / "out/report/index.html").read_text()
    assert "chosen by trial" in page


def test_the_choice_is_kept_and_follows_the_images(place: Path) -> None:
    first = card_of(place, "auto")
    again = run_file(place / "r.yaml", place / "out").result
    assert again.models[0].tried == first.tried
    assert again.provenance.cached == again.provenance.jobs > 0

    def keys() -> tuple[str, str]:
        plan = make_plan(read_recipe(place / "r.yaml"))
        return plan.choices["model"].key, plan.jobs[0].key

    before = keys()
    (place / "photos/labels.csv").write_text("file,class_index\n")
    assert keys() == before
    (place / "photos/0/labels.csv").write_text("file,class_index\n00.png,2\n")  # another truth, the same pictures
    told = keys()
    assert told[0] != before[0]
    assert told[1] != before[1]
    (place / "photos/1/01.png").unlink()
    assert keys()[0] != told[0]


def test_a_confined_worker_chooses_as_this_process_does(place: Path) -> None:
    here = card_of(place, "auto")
    there = run_file(place / "r.yaml", place / "there", workers=1).result
    assert there.verdict == "finished"
    assert there.models[0].tried == here.tried
    assert there.models[0].preprocessing == here.preprocessing


def test_a_schedule_with_a_choice_survives_json(place: Path) -> None:
    recipe = read_recipe(write(place, "auto"))
    schedule = make_plan(recipe)
    assert schedule.choices["model"].key in [work.key for work in schedule.works]
    told = from_line(Said, to_line(Said(schedule=schedule))).schedule
    assert told is not None
    told.require(recipe)
    assert told.choices == schedule.choices


def test_a_way_to_size_that_is_said_is_kept(place: Path) -> None:
    card = card_of(place, "{preset: auto, fit: stretch}")
    assert card.tried is not None
    assert {row.size_by for row in card.tried.trials} == {"stretched"}
    assert "stretched to size" in card.preprocessing


def test_an_interpolation_that_is_said_is_kept_and_told(place: Path) -> None:
    card = card_of(place, "{preset: auto, interpolation: bicubic}")
    assert card.tried is not None
    assert {row.size_by for row in card.tried.trials} == {"crop 0.875 of large ones, bicubic"}
    assert card.preprocessing.endswith("kept of images that are large enough, bicubic")
    assert "bicubic" in card.geometry, "models are compared on the same pixels only"
    usual = card_of(place, "{preset: auto, interpolation: bilinear}")
    assert usual.tried is not None
    assert {row.size_by for row in usual.tried.trials} == {"crop 0.875 of large ones"}, "said, though usual"


@pytest.mark.parametrize(
    ("preprocess", "origin", "text"),
    [
        ("imagenet", "declared", "imagenet: RGB"),
        ("{preset: imagenet}", "declared", "imagenet: RGB"),
        ("{preset: imagenet, confirmed: false}", "guess", "imagenet: RGB"),
        ("{scale: 255, confirmed: false}", "guess", "custom: RGB"),
        ("null", "guess", "unit: RGB"),
    ],
)
def test_a_guess_stays_a_guess(place: Path, preprocess: str, origin: str, text: str) -> None:
    card = card_of(place, preprocess)
    assert card.preprocessing_origin == origin
    assert card.preprocessing.startswith(text)
    assert card.tried is None


def test_a_guess_warns_until_it_is_confirmed(place: Path) -> None:
    """The pictures are the same, what is said of them is not: nothing old may come out of the store."""
    text = RECIPE.replace("{kind: weights}", "{kind: adversarial, data: photos, limit: 1, steps: 1}")

    def caveats(preprocess: str) -> list[str]:
        run = run_file(write(place, preprocess, text), place / "out").result
        part = results.encode(run.analyses[0].parts[0])
        assert not part["failed"]
        return [item["text"] for item in part["findings"] if item["type"] == "Caveat" and "input" in item["text"]]

    assert "Nobody said" in caveats("{preset: unit, confirmed: false}")[0]
    assert not caveats("{preset: unit, confirmed: true}")
    assert "Nobody said" in caveats("{preset: unit, confirmed: false}")[0]
    assert "chosen by trial" in caveats("auto")[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("data: {photos: {images: photos}}\n", ""), "the recipe has none; add `data:` with photographs"),
        (("PREPROCESS", "{preset: auto, mean: 3}"), "`auto` finds channel_order, mean and scale itself"),
        (("PREPROCESS", "{preset: auto, confirmed: false}"), "`auto` is no guess"),
        (("PREPROCESS", "atuo"), "did you mean 'auto'"),
    ],
)
def test_mistakes_are_told_when_planning(place: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_plan(parse_recipe(RECIPE.replace(*change).replace("PREPROCESS", "auto"), "r.yaml", place))
    assert said in str(caught.value)


def test_a_model_without_classes_is_refused_when_planning(place: Path) -> None:
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place / "m.onnx")
    with pytest.raises(RecipeError, match="can be chosen by trial only for a model that gives one class to an image"):
        make_plan(read_recipe(write(place, "auto")))


def test_a_choice_that_fails_stops_the_jobs_that_wait_for_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxviz.core.errors import ModelError

    def refuse(*_: object, **__: object) -> None:
        raise ModelError("nothing works")

    monkeypatch.setattr("onnxviz.model.preprocessing_search.probe", refuse)
    run = run_file(write(place, "auto"), place / "out").result
    assert run.verdict == "incomplete"
    assert "no preprocessing was chosen by trial: nothing works" in run.analyses[0].parts[0].failed[0].error
    (card,) = run.models
    assert card.preprocessing == "auto: nothing was chosen, because the trial failed"
    assert card.preprocessing_origin == "undecided"
    assert "chosen by trial, not declared" not in json.dumps(results.write(run))


def test_the_first_recipe_marks_its_guess_or_tries(place: Path) -> None:
    guessed = starting_recipe(place / "m.onnx", place / "a.yaml")
    assert "preprocess: {preset: unit, confirmed: false}" in guessed
    tried = starting_recipe(place / "m.onnx", place / "b.yaml", place / "photos")
    assert "preprocess: auto" in tried
    assert "  # evidence: {kind: grad_cam," in guessed
    assert "  # evidence: {kind: grad_cam," in tried, "this model has no maps to explain photographs by"
    for text, origin in ((guessed, "guess"), (tried, "undecided")):
        subject = make_plan(parse_recipe(text, "r.yaml", place)).subjects["model"]
        assert subject.preprocessing.origin == origin
    assert onnxviz.load(place / "m.onnx").preprocessing.name in guessed


def test_python_warns_of_a_guess_and_of_nothing_else(place: Path) -> None:
    with pytest.warns(UserWarning, match=r"m\.onnx: nothing says how images become its input") as told:
        onnxviz.load(place / "m.onnx")
    assert told[0].filename == __file__
    assert "preprocess='auto', images=" in str(told[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        onnxviz.load(place / "m.onnx", "unit")
        onnxviz.load(place / "m.onnx", "auto", images=place / "photos")
        with pytest.raises(SelectionError, match="'gpu' is no device"):
            onnxviz.load(place / "m.onnx", "unit", device="gpu")


def test_python_finds_it_on_images_too(place: Path) -> None:
    model = onnxviz.load(place / "m.onnx", "auto", device="cpu", images=place / "photos")
    assert model.preprocessing.origin == "trial"
    tried = card_of(place, "auto").tried
    assert tried is not None
    assert model.preprocessing.channel_order == tried.trials[0].channel_order
    with pytest.raises(SelectionError, match="give them: images="):
        onnxviz.load(place / "m.onnx", "auto")
    with pytest.raises(SelectionError, match="for preprocess='auto' only"):
        onnxviz.load(place / "m.onnx", "unit", images=place / "photos")


def test_python_gives_the_figures_of_a_run(place: Path) -> None:
    """`prepare` makes the images of a run bit by bit, so that what is computed from them is the same."""
    plan = make_plan(read_recipe(write(place, "{preset: imagenet, crop_fraction: 0.9}")))
    subject = plan.subjects["model"]
    photos = subject.data["photos"]
    assert hasattr(photos, "paths")
    model = onnxviz.load(place / "m.onnx", subject.preprocessing, device="cpu", output="classes")
    expected = load_batch(photos, range(len(photos)), subject.preprocessing, model.input_size)
    assert (model.prepare(photos.paths).numpy() == expected).all()
    assert (model.probabilities(photos.paths) == model.probabilities(expected)).all()
    assert open_model(place / "m.onnx").input_size == (16, 16)
