"""What is said where no preprocessing beats chance follows from what the model gives, also with names exchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import onnxviz
from onnxviz.graph import open_model
from onnxviz.model.preprocessing_outcome import beyond_chance, chance_of, exchange, no_better_than_chance
from onnxviz.model.preprocessing_search import probe
from tests.coloured_places import coloured_places, pixel_colour

Classes = npt.NDArray[np.int64]
UNTRAINED, NAMES, UNSEEN = "the model is untrained or bad", "are of another list or order", "none of those tried"
TEN = np.repeat(np.arange(10), 20)


def told(given: Classes, truth: Classes = TEN, choices: int = 10) -> str:
    right = int((given == truth).sum())
    assert right <= beyond_chance(chance_of(truth, choices), len(truth)), "a case that beats chance"
    return no_better_than_chance(right, [np.zeros_like(truth), given], truth, choices)


def mostly(classes: Classes, part: float) -> Classes:
    """Return classes of which a part stays and the others are drawn by lot."""
    rng = np.random.default_rng(1)
    return np.where(rng.random(len(classes)) < part, classes, rng.integers(0, 10, len(classes)))


def test_exchanged_names_are_said_for_certain() -> None:
    said = told(9 - mostly(TEN, 0.9))
    assert said.startswith("No preprocessing that was tried names more of the images right than chance does")
    assert "of 200, less than chance would give, and with its class names exchanged one for one on 18" in said
    assert "So it is neither untrained nor blind: the class names or numbers" in said
    assert UNTRAINED not in said
    assert UNSEEN not in said


def test_what_depends_weakly_on_the_images_leaves_all_reasons() -> None:
    said = told((mostly(TEN, 0.3) + 1) % 10)
    assert "does depend on what the images show" in said
    assert all(part in said for part in (NAMES, "or it is untrained or bad", UNSEEN))
    assert "neither untrained" not in said


@pytest.mark.parametrize("given", [mostly(TEN, 0.0), np.full(200, 3)], ids=["by lot", "always one"])
def test_names_alone_are_excluded_where_nothing_depends_on_the_images(given: Classes) -> None:
    said = told(given)
    assert "So wrong names are not all that is wrong" in said
    assert UNTRAINED in said
    assert UNSEEN in said
    assert NAMES not in said
    assert "less than chance" not in said


def test_a_class_that_no_image_shows_contradicts_nothing() -> None:
    said = told(np.full(200, 700), choices=1000)
    assert "0 of 200" in said
    assert "less than chance" not in said


def test_many_classes_on_few_images_exclude_nothing() -> None:
    truth = np.arange(40)
    said = told((truth + 1) % 1000, truth, 1000)
    assert all(part in said for part in (UNTRAINED, UNSEEN, NAMES))
    assert "there are too few images to tell" in said


def test_too_few_images_are_said_to_be() -> None:
    said = told(np.array([1, 0]), np.array([0, 1]), 2)
    assert "not even all of them right would be more than chance" in said


def test_exchanging_names_matches_one_for_one() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1])
    assert exchange(np.array([5, 5, 5, 2, 2, 2]), truth).right == 6
    assert exchange(np.array([5, 5, 5, 5, 5, 5]), truth).right == 3, "one name stands for one class only"
    assert exchange(truth, truth).right == 6


def test_a_trial_with_exchanged_names_says_so_first_and_python_warns(tmp_path: Path) -> None:
    pixel_colour(tmp_path / "m.onnx", 8, 8)
    pictures = coloured_places(tmp_path / "p", (40, 40), (slice(18, 25), slice(18, 25)))
    labels = ["2", "0", "1"]
    found = probe(open_model(tmp_path / "m.onnx"), pictures, labels=labels)
    assert not found.by_accuracy
    assert found.doubts[0] == found.no_better
    assert "neither untrained nor blind" in found.no_better
    assert "exchanged one for one on 30 (" in found.no_better
    assert "where no preprocessing beats chance crops cannot be told apart" in found.note
    assert "without known classes" not in found.note
    with pytest.warns(UserWarning, match="neither untrained nor blind"):
        onnxviz.load(tmp_path / "m.onnx", "auto", labels, "cpu", images=pictures)
    right = probe(open_model(tmp_path / "m.onnx"), pictures)
    assert not right.no_better
    assert right.doubts == ()
