"""The eleven colour names: right values against another library, and as labels beside others."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from onnxviz.core.errors import DataError
from onnxviz.data.builtin import scenes
from onnxviz.data.concepts import Concept, ConceptSet
from onnxviz.data.labelled.annotated import AnnotatedImages
from onnxviz.data.labelled.colour_names import NAMES, ColourNames, prototypes, table, to_lab
from onnxviz.data.labelled.settings import ConceptsSettings
from onnxviz.execution.plan import make_plan
from onnxviz.recipe.recipe import parse_recipe


def name_of(colour: tuple[int, int, int]) -> str:
    (((number,),),) = [ColourNames().label(np.array([[colour]], np.uint8)).tolist()]
    return NAMES[number - 1]


@pytest.mark.parametrize(
    ("colour", "name"),
    [((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "grey"), ((220, 20, 20), "red"),
     ((20, 160, 40), "green"), ((30, 60, 20), "green"), ((30, 60, 220), "blue"), ((130, 190, 240), "blue"),
     ((250, 240, 40), "yellow"), ((250, 130, 20), "orange"), ((100, 60, 20), "brown"), ((250, 150, 200), "pink"),
     ((120, 30, 150), "purple")],
)  # fmt: skip
def test_colours_have_the_names_that_people_give_them(colour: tuple[int, int, int], name: str) -> None:
    assert name_of(colour) == name


def test_greys_have_no_hue() -> None:
    assert {name_of((value, value, value)) for value in range(256)} == {"black", "grey", "white"}


def test_cielab_is_that_of_another_library() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (1, 500, 3))
    expected = cv2.cvtColor((colours / 255).astype(np.float32), cv2.COLOR_RGB2LAB)
    np.testing.assert_allclose(to_lab(colours), expected, atol=0.4)  # that one interpolates tables


def test_each_name_is_that_of_the_nearest_prototype_one_by_one() -> None:
    known = [(np.array(list(bytes.fromhex(one))), name) for name, colours in prototypes().items() for one in colours]
    for cell in np.random.default_rng(1).integers(0, 32, (40, 3)):
        lab = to_lab(cell * 8 + 4.0)
        nearest = min(known, key=lambda item: float(np.linalg.norm(to_lab(item[0]) - lab)))
        assert NAMES[table()[tuple(cell)] - 1] == nearest[1]


def test_the_prototypes_are_the_survey_s() -> None:
    survey = pytest.importorskip("matplotlib.colors").XKCD_COLORS
    basic = re.compile("black|blu|brown|gr[ea]y|green|orang|pink|purpl|red|white|yellow")
    ends = to_lab(np.array([[0, 0, 0], [255, 255, 255]]))
    found: dict[str, list[str]] = {name: [] for name in NAMES}
    for title, colour in survey.items():
        *front, last = title.removeprefix("xkcd:").replace("gray", "grey").split(" ")
        lab = to_lab(np.array(list(bytes.fromhex(colour[1:]))))
        far = last in ("black", "white") or np.linalg.norm(lab - ends, axis=1).min() >= 10
        if last in NAMES and "/" not in title and not basic.search(" ".join(front)) and far:
            found[last].append(colour[1:])
    assert {name: tuple(sorted(colours)) for name, colours in found.items()} == prototypes()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2] = (220, 20, 20)
    pixels[1, 3] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def test_images_without_labels_get_colours(photos: Path) -> None:
    data: ConceptSet = ConceptsSettings(concepts="photos", colours=True).open("c", photos.parent)
    assert data.concepts == tuple(Concept(number, name, "colour") for number, name in enumerate(NAMES, 1))
    assert data.categories == ("colour",)
    named = np.array(["", *NAMES])[data.read_labels(0)]
    assert named.tolist() == [[["red", "red", "black", "black"], ["red", "red", "black", "white"]]]
    assert data.read_labels(0).dtype == np.int32
    plain = ConceptsSettings(concepts="photos").open
    with pytest.raises(DataError, match="no folder"):
        plain("c", photos.parent)


def test_colours_stand_beside_other_labels(photos: Path) -> None:
    (photos.parent / "set/dotted").mkdir(parents=True)
    (photos / "a.png").rename(photos.parent / "set/dotted/a.png")
    with_colours = ConceptsSettings(concepts="set", category="texture", colours=True)
    data = with_colours.open("c", photos.parent)
    numbers = {concept.name: concept.index for concept in data.concepts}
    assert list(numbers.items())[:3] == [("dotted", 1), ("black", 2), ("blue", 3)]
    texture, colour = data.read_labels(0).tolist()
    assert texture == [[1] * 4] * 2
    assert colour[0] == [numbers["red"]] * 2 + [numbers["black"]] * 2
    own = with_colours.model_copy(update={"colours": False}).open("c", photos.parent)
    assert own.digest != data.digest == with_colours.open("d", photos.parent).digest
    assert pickle.loads(pickle.dumps(data)).read_labels(0).shape == (2, 2, 4)


def test_a_set_with_colours_of_its_own_is_refused() -> None:
    with pytest.raises(DataError, match="labels of the category 'colour' already"):
        AnnotatedImages(scenes(2), [ColourNames()])


def test_what_the_images_know_else_is_asked_of_them(photos: Path) -> None:
    data = ConceptsSettings(concepts="photos", colours=True).open("c", photos.parent)
    assert data.sizes == ((2, 4),)  # type: ignore[attr-defined]
    assert not hasattr(data, "nothing")


def test_the_report_says_that_colours_are_computed(photos: Path) -> None:
    text = "version: 1\nmodel: {builtin: scenes}\ndata: {d: {concepts: photos, colours: true}}\n"
    plan = make_plan(parse_recipe(text + "analyses: {a: {kind: dissection}}\n", "r.yaml", photos.parent))
    assert "colours are computed from the pixels" in plan.data[0].remarks[0]
