"""Maps beside the labelled objects of their classes: in the analysis, and what all images come to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.analyses.attribution.localisation import Localisation, ObjectEvidence, chance
from onnxviz.analyses.attribution.localisation_findings import findings
from onnxviz.analyses.attribution.object_masks import ObjectMasks
from onnxviz.analyses.attribution.objects import Objects
from onnxviz.analyses.attribution.simple_maps import SIMPLE
from onnxviz.core.errors import AnalysisError, DataError, OnnxvizError, SelectionError
from onnxviz.core.findings import Caveat, Coverage, Finding, Metric, Note, Table
from onnxviz.core.shares import wilson
from onnxviz.data.concepts import Concept, MaskFolder
from onnxviz.data.images import ImageFolder, fit_image
from tests.analyses.test_grad_cam import CLASSES, SIDE, UNIT, detectors

RED, BLUE = (slice(4, 12), slice(20, 28)), (slice(22, 28), slice(4, 8))


@pytest.fixture
def model(tmp_path: Path) -> onnxviz.Model:
    """Detectors of red and blue; class 2 is evidence against red."""
    return onnxviz.load(detectors(tmp_path / "m.onnx"), "unit", labels=list(CLASSES), device="cpu")


@pytest.fixture
def labelled(tmp_path: Path) -> MaskFolder:
    """Three grey pictures with a red square, labelled, and a blue one, labelled in the first only."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for index in range(3):
        pixels, labels = np.full((SIDE, SIDE, 3), 90, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        pixels[RED], labels[RED] = (255, 0, 0), 1
        pixels[BLUE] = (0, 0, 255)
        if index == 0:
            labels[BLUE] = 2
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{index}.png")
    (tmp_path / "classes.txt").write_text("background\nred\nblue\n")
    return MaskFolder.find("scenes", ".", tmp_path)


def table(found: Any) -> Table:
    return next(one for one in found.findings if isinstance(one, Table) and one.id == "localisation")


def settings(**others: Any) -> dict[str, Any]:
    return {"data": "scenes", "methods": ["grad_cam", "gradient"], "layers": "relu", "faithfulness": None,
            "tolerance": 0, **others}  # fmt: skip


def test_maps_on_the_object_hit_it(model: onnxviz.Model, labelled: MaskFolder) -> None:
    found = model.analyze("attribution", {"scenes": labelled}, classes=["red", "blue"], **settings())
    assert found.metrics["pointing_game.grad_cam"] == found.metrics["pointing_game.gradient"] == 1
    assert found.metrics["energy_on_object.grad_cam"] == pytest.approx(1)
    places = table(found)
    assert {row[0] for row in places.rows} == {"Grad-CAM", "Gradient", *SIMPLE, "by chance"}
    (grad_cam,) = (row for row in places.rows if row[0] == "Grad-CAM")
    assert (grad_cam[1:3], grad_cam[-1]) == ((1.0, f"{wilson(3, 3)[0]:.0%} to 100%"), 3)
    areas = np.array([[64, 24], [64, 64], [64, 64]]).mean(axis=1).mean() / SIDE**2  # blue is labelled in one image
    assert places.rows[-1][1] == pytest.approx(areas)
    evidence = next(one for one in found.findings if isinstance(one, Table) and one.id == "evidence")
    names = [column.name for column in evidence.columns]
    on_object = {(row[0], row[names.index("method")]): row[-2:] for row in evidence.rows}
    assert on_object["0.png: blue", "Grad-CAM"] == (pytest.approx(1), pytest.approx(24 / SIDE**2))
    assert on_object["1.png: blue", "Grad-CAM"] == (None, None)


def test_the_object_of_a_class_can_be_named(model: onnxviz.Model, labelled: MaskFolder) -> None:
    found = model.analyze("attribution", {"scenes": labelled}, classes=["red"],
                          **settings(objects={"red": "blue"}))  # fmt: skip
    assert found.metrics["pointing_game.grad_cam"] == found.metrics["energy_on_object.grad_cam"] == 0
    assert table(found).rows[0][-1] == 1  # one image has anything blue that is labelled
    assert "2 of 3 images have no labelled object" in table(found).description
    (counted,) = (one for one in found.findings if isinstance(one, Coverage) and one.id == "coverage.located")
    assert (counted.done, counted.total) == (1, 3)
    assert not any(isinstance(one, Caveat) and one.id == "no_object_of_classes" for one in found.findings)


def test_classes_without_an_object_are_named(model: onnxviz.Model, labelled: MaskFolder) -> None:
    found = model.analyze("attribution", {"scenes": labelled}, classes=["red", "blue"],
                          **settings(objects={"blue": []}))  # fmt: skip
    (said,) = (one for one in found.findings if isinstance(one, Caveat) and one.id == "no_object_of_classes")
    assert "No labelled concept has the name of blue: " in said.text
    with pytest.raises(OnnxvizError, match=r"none of the 3 classes is called 'blu'\s+did you mean 'blue'"):
        model.analyze("attribution", {"scenes": labelled}, **settings(objects={"blu": "blue"}))


def test_a_concept_folder_does_not_tell_the_classes_of_its_images(model: onnxviz.Model, labelled: MaskFolder) -> None:
    """The advice is one that helps there: a pattern or a table of classes would not be read."""
    with pytest.raises(DataError, match="nothing says which class the image shows") as refused:
        model.analyze("attribution", {"scenes": labelled}, classes="label", **settings())
    assert "`images:`" in refused.value.remedy
    assert "labels.csv" not in refused.value.remedy


def test_classes_of_objects_are_named_as_everywhere_else(tmp_path: Path, labelled: MaskFolder) -> None:
    names = ["red, ruby", *CLASSES[1:]]
    model = onnxviz.load(detectors(tmp_path / "m.onnx"), "unit", labels=names)
    for name in ("red, ruby", "ruby", "RED", "0"):
        found = model.analyze("attribution", {"scenes": labelled}, classes=["ruby"], **settings(objects={name: "blue"}))
        assert table(found).rows[0][-1] == 1, name
    with pytest.raises(SelectionError, match="none of the 3 classes is called 'rde'"):
        model.analyze("attribution", {"scenes": labelled}, **settings(objects={"rde": "red"}))
    with pytest.raises(SelectionError, match="'red, ruby' is named twice"):
        model.analyze("attribution", {"scenes": labelled}, **settings(objects={"red": "red", "0": "blue"}))


@pytest.mark.parametrize(("category", "found"), [("object", (1,)), ("colour", ()), ("texture", ()), ("scene", ())])
def test_a_class_is_not_what_has_the_colour_of_its_name(
    labelled: MaskFolder, category: str, found: tuple[int, ...]
) -> None:
    data = dataclasses.replace(labelled, concepts=(Concept(1, "orange", category), Concept(2, "car")))
    assert Objects(data, (0,), {}).numbers("blood orange") == found
    assert Objects(data, (0,), {"*": ["orange"]}).numbers("blood orange") == (1,)


def test_labels_of_another_data_set(model: onnxviz.Model, labelled: MaskFolder, tmp_path: Path) -> None:
    images = ImageFolder.find("photos", ["images/*.png"], tmp_path)
    data = {"photos": images, "scenes": labelled}
    found = model.analyze("attribution", data, classes=["red"], **settings(data="photos", masks="scenes"))
    assert found.metrics["pointing_game.grad_cam"] == 1
    without = model.analyze("attribution", {"photos": images}, classes=["red"], **settings(data="photos"))
    assert not any(name.startswith("pointing_game") for name in without.metrics)
    assert not any(isinstance(one, Table) and one.id == "localisation" for one in without.findings)


def test_labels_of_another_size_follow_the_image(tmp_path: Path) -> None:
    """A large photograph is cropped and labels of a quarter of its size would not be: the object stays where it is."""
    model = onnxviz.load(detectors(tmp_path / "m.onnx"), "unit", labels=list(CLASSES), device="cpu")
    large = 4 * SIDE
    pixels, labels = np.full((large, large, 3), 90, np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    pixels[24:48, 80:112], labels[6:12, 20:28] = (255, 0, 0), 1
    for name in ("photos", "small/images", "small/labels", "wide/images", "wide/labels"):
        (tmp_path / name).mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "photos" / "0.png")
    for name, shown in (("small", labels), ("wide", labels[:24])):
        Image.fromarray(shown).save(tmp_path / name / "images" / "0.png")
        Image.fromarray(shown).save(tmp_path / name / "labels" / "0.png")
        (tmp_path / name / "classes.txt").write_text("background\nred\n")
    photos = ImageFolder.find("photos", ["photos/*.png"], tmp_path)
    data = {"photos": photos, **{name: MaskFolder.find(name, name, tmp_path) for name in ("small", "wide")}}
    seen = fit_image(photos.read(0), model.preprocessing, (SIDE, SIDE))
    found = Objects.of(photos, "small", data, {})
    assert found is not None
    mask = found.mask(found.read(0, model.preprocessing, (SIDE, SIDE)), "red")
    np.testing.assert_array_equal(mask, seen[:, :, 0] - seen[:, :, 1] > 0.5)
    wide = Objects.of(photos, "wide", data, {})
    assert wide is not None
    with pytest.raises(DataError, match="another aspect ratio than the image of 128 x 128"):
        wide.read(0, model.preprocessing, (SIDE, SIDE))


def test_nothing_says_where_the_objects_are(model: onnxviz.Model, labelled: MaskFolder, tmp_path: Path) -> None:
    data = {"scenes": labelled}
    found = model.analyze("attribution", data, classes=["not red"], **settings(objects={"*": []}))
    assert any(isinstance(one, Caveat) and one.id == "no_object" for one in found.findings)
    with pytest.raises(AnalysisError, match="no concept is called 'redd'"):
        model.analyze("attribution", data, **settings(objects={"red": "redd"}))
    photos = {"photos": ImageFolder.find("photos", ["images/*.png"], tmp_path)}
    with pytest.raises(AnalysisError, match="nothing says where objects are"):
        model.analyze("attribution", photos, **settings(data="photos", objects={"red": "red"}))
    with pytest.raises(OnnxvizError, match="no labels of pixels"):
        model.analyze("attribution", photos, **settings(data="photos", masks="photos"))


def test_each_image_has_the_object_of_its_own_class(labelled: MaskFolder) -> None:
    """In the first image both squares are labelled; of what is in no image there is nothing to compare."""
    objects = Objects.of(labelled, None, {}, {})
    assert objects is not None
    masks = ObjectMasks(objects, lambda number: CLASSES[number], UNIT, (SIDE, SIDE), 0)
    heats = np.zeros((3, SIDE, SIDE))
    heats[:, RED[0], RED[1]] = 1
    (turn, other) = masks.meet([0, 1, 0], [[1, 0, 0], [0, 1, 1]], [{"map": heats}, {"map": heats}], {})
    areas = [None if one is None else round(one.chance[1] * SIDE**2) for one in turn]
    assert areas == [24, 64, 64]
    assert [one and one.maps[0][2].pointing for one in turn] == [0, 1, 1]
    assert [None if one is None else round(one.chance[1] * SIDE**2) for one in other] == [64, None, 24]


# --- what all images come to ----------------------------------------------------------------------------------------


class FoundImage:
    """As much of an image's results as is read here."""

    def __init__(self, *located: ObjectEvidence | None) -> None:
        self.targets = [Target(one) for one in located]


class Target:
    def __init__(self, located: ObjectEvidence | None) -> None:
        self.located = located


def evidence(**hits: float) -> ObjectEvidence:
    return ObjectEvidence(
        (0.3, 0.1), tuple((name, name == "centre", Localisation(hit, hit / 2)) for name, hit in hits.items())
    )


def made(images: list[FoundImage]) -> list[Finding]:
    return list(findings(cast("Any", images), 15, {"good": "grad_cam"}))


def test_images_count_once_whatever_number_of_classes_they_have() -> None:
    images = [FoundImage(evidence(good=1, bad=0, centre=0), evidence(good=0, bad=0, centre=0))]
    images += [FoundImage(evidence(good=1, bad=0, centre=1), None) for _ in range(3)] + [FoundImage(None)]
    found = made(images)
    metrics = {one.name: one for one in found if isinstance(one, Metric)}
    assert metrics["pointing_game.grad_cam"].value == pytest.approx((0.5 + 3) / 4)
    assert metrics["energy_on_object.grad_cam"].value == pytest.approx((0.5 + 3) / 8)
    assert (metrics["pointing_game.bad"].value, metrics["pointing_game.bad"].total) == (0, 4)
    (note,) = (one.text for one in found if isinstance(one, Note))
    assert "of 4 images with 5 classes" in note
    assert "12 points" in note  # (0.5 + 0 + 0 + 0) / 4 above the centre
    (places,) = (one for one in found if isinstance(one, Table))
    assert [row[0] for row in places.rows] == ["good", "bad", "centre", "by chance"]
    assert places.rows[1][3] == pytest.approx(-0.75)
    assert all(len(row) == len(places.columns) for row in places.rows)


def test_intervals_of_few_images_stay_within_what_shares_can_be() -> None:
    hits = (1.0, 1.0, 0.0)
    images = [FoundImage(evidence(good=hit, centre=1 - hit)) for hit in hits]
    images.append(FoundImage(ObjectEvidence((0.3, 0.1), (("good", False, Localisation(1, 1)),
                                                         ("centre", True, Localisation(0, 0.1))))))  # fmt: skip
    found = made(images[:3])
    (note,) = (one.text for one in found if isinstance(one, Note))
    assert "33 points (−100 to 100) above" in note
    metrics = {one.name: one for one in made(images[2:]) if isinstance(one, Metric)}
    assert metrics["energy_on_object.grad_cam"].interval == (0, 1)


def test_a_map_without_positive_evidence_has_no_energy_and_may_still_hit() -> None:
    image = FoundImage(ObjectEvidence((0.3, 0.1), (("good", False, Localisation(0.1, float("nan"))),
                                                   ("centre", True, Localisation(0.0, 0.2)))))  # fmt: skip
    found = made([image, image])
    assert "energy_on_object.grad_cam" not in {one.name for one in found if isinstance(one, Metric)}
    (places,) = (one for one in found if isinstance(one, Table))
    assert places.rows[0][5:7] == (None, "")


def test_chance_is_what_an_even_map_has() -> None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[RED] = True
    assert chance(mask, 0) == (64 / SIDE**2, 64 / SIDE**2)
