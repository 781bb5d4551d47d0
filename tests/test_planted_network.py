"""Every analysis on a network whose weights are set by hand: what a report says of it has to be so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import onnxviz.model.model
from onnxviz.core import findings as f
from onnxviz.core.results import Part
from onnxviz.execution.execute import run_file
from tests import planted_network as planted

Found = TypeVar("Found")

RECIPE = """\
version: 1
model:
  path: planted.onnx
  labels: labels.txt
  preprocess: {scale: [255], fit: stretch}
data:
  photos: {images: "photos/*/*.png"}
  mixed: {images: "mixed/*.png"}
  scenes: {concepts: scenes}
analyses:
  weights: {kind: weights, layers: detectors}
  units:
    kind: activation_maximization
    targets: [{layer: detected, units: 0-4}, {layer: held, units: 5}, {layer: detected, units: 0, sign: negative}]
    data: photos
  unaided: {kind: activation_maximization, targets: [{layer: detected, units: 0-3}], begin_again: false}
  evidence: {kind: grad_cam, data: photos, layers: detected, limit: 24, classes: "top:1"}
  both: {kind: grad_cam, data: mixed, layers: detected, classes: [corner, red]}
  concepts: {kind: dissection, layers: detected, data: scenes, quantile: 0.03}
  nearly: {kind: adversarial, data: photos, radius: 1, limit: 24, target: untargeted}
  changed: {kind: adversarial, data: photos, radius: 200, limit: 24, target: untargeted}
"""


class Told:
    """What a run told, by the analyses' names."""

    def __init__(self, folder: Path) -> None:
        (folder / "planted.yaml").write_text(RECIPE)
        (folder / "labels.txt").write_text("\n".join(planted.CLASSES) + "\n")
        planted.save(folder / "planted.onnx")
        planted.write_photographs(folder / "photos")
        planted.write_mixed(folder / "mixed")
        planted.write_concepts(folder / "scenes")
        made = run_file(folder / "planted.yaml", folder / "run", device="cpu")
        self.folder, self.run = folder, folder / "run"
        self._parts = {analysis.id: analysis.parts[0] for analysis in made.result.analyses}

    def part(self, name: str) -> Part:
        assert not self._parts[name].failed
        return self._parts[name]

    def all(self, name: str, kind: type[Found]) -> list[Found]:
        return [finding for finding in self.part(name).findings if isinstance(finding, kind)]

    def rows(self, name: str, table: str) -> list[Mapping[str, Any]]:
        (found,) = (entry for entry in self.all(name, f.Table) if entry.id == table)
        return [dict(zip((column.name for column in found.columns), row, strict=True)) for row in found.rows]

    def tiles(self, name: str, grid: str) -> Mapping[str, f.Tile]:
        (found,) = (entry for entry in self.all(name, f.TileGrid) if entry.id == grid)
        return {tile.title: tile for tile in found.tiles}

    def numbers(self, array: f.Array) -> Mapping[str, npt.NDArray[Any]]:
        with np.load(self.run / array.path) as stored:
            return dict(stored)

    def pixels(self, picture: f.Picture) -> npt.NDArray[np.float64]:
        return np.asarray(Image.open(self.run / picture.path).convert("RGB"), np.float64) / 255


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("planted"))


def test_the_network_is_what_it_is_said_to_be(told: Told) -> None:
    model = onnxviz.model.model.load(told.folder / "planted.onnx", preprocess="unit")
    rng = np.random.default_rng(0)
    for thing, name in zip(("red", "stripes", "disc", "corner"), planted.CLASSES, strict=True):
        image, labels = planted.scene(rng, (thing,))
        found = model.measure(image[None], ["detectors", "classes"])
        np.testing.assert_allclose(found["detectors"][0], planted.values(image), atol=1e-5)
        assert int(found["classes"][0].argmax()) == planted.CLASSES.index(name)
        assert labels.any()


# --- weights --------------------------------------------------------------------------------------------------------


def test_weights_shows_the_kernels(told: Told) -> None:
    tiles = told.tiles("weights", "kernels.0")
    red, edge, disc = (told.pixels(tiles[f"kernel {unit}"].pictures[0]) for unit in range(3))

    def at(picture: npt.NDArray[np.float64], row: int, column: int) -> npt.NDArray[np.float64]:
        cell = picture.shape[0] // 9
        return np.asarray(picture[row * cell + cell // 2, column * cell + cell // 2])

    nothing = at(red, 0, 0)
    assert at(red, 4, 4)[0] > nothing[0]
    assert np.all(at(red, 4, 4)[1:] < nothing[1:])
    assert np.all(at(edge, 4, 3) < at(edge, 0, 0))
    assert np.all(at(edge, 4, 5) > at(edge, 0, 0))
    assert np.all(at(disc, 4, 4) > at(disc, 0, 0))
    assert np.all(at(disc, 4, 0) < at(disc, 0, 0))


def test_weights_names_what_is_dead_and_what_has_a_direction(told: Told) -> None:
    looks = {row["kernel"].index: row["looks"] for row in told.rows("weights", "kernels")}
    assert looks[4] == "dead"
    assert looks[1] == "oriented"
    assert "dead" not in {looks[unit] for unit in (0, 1, 2, 3, 5)}
    assert told.part("weights").metrics["dead_fraction"] == pytest.approx(1 / 6)


# --- activation maximization ----------------------------------------------------------------------------------------


def pictures(told: Told, name: str) -> Mapping[tuple[int, int], npt.NDArray[np.float32]]:
    """Return (unit, direction) -> picture."""
    found = {}
    for array in told.all(name, f.Array):
        numbers = told.numbers(array)
        keys = zip(numbers["unit"].tolist(), numbers["sign"].tolist(), strict=True)
        found |= dict(zip(keys, numbers["images"], strict=True))
    return found


def rows_of(told: Told, name: str = "units") -> Mapping[tuple[int, str], Mapping[str, Any]]:
    """Return (unit, direction) -> line."""
    return {(row["unit"].index, row["direction"]): row for row in told.rows(name, "activations")}


@pytest.mark.parametrize("name", ["units", "unaided"])
def test_the_figures_are_those_of_the_pictures(told: Told, name: str) -> None:
    rows, made = rows_of(told, name), pictures(told, name)
    for unit in range(4):
        truly = np.maximum(planted.values(made[unit, 1])[unit], 0).mean()
        assert rows[unit, "up"]["after"] == pytest.approx(truly, rel=1e-3)


@pytest.mark.parametrize(("unit", "color", "words"), [(0, 0, "plain red"), (3, 2, "plain blue")])
def test_a_unit_of_plain_colour_gets_its_colour(told: Told, unit: int, color: int, words: str) -> None:
    """The best plain colour excites it by 1; the ascent comes near by itself."""
    row, picture = rows_of(told, "unaided")[unit, "up"], pictures(told, "unaided")[unit, 1]
    assert row["after"] >= 0.95
    assert (row["best simple picture"], row["simple picture"]) == (pytest.approx(1), words)
    assert row["beaten"] == ("yes" if row["after"] < 1 / 1.01 else "no")
    others = [plane for plane in range(3) if plane != color]
    assert picture[color].mean() > 0.95
    assert picture[others].mean(axis=(1, 2)).max() < 0.05


def test_a_unit_of_upright_edges_gets_upright_edges(told: Told) -> None:
    """In both: with what it is begun again with, and without."""
    for name in ("units", "unaided"):
        brightness = pictures(told, name)[1, 1].mean(axis=0)
        right, down = (np.square(np.diff(brightness, axis=axis)).sum() for axis in (1, 0))
        assert right > 2 * down


def test_what_beats_a_picture_is_what_it_is_begun_again_with(told: Told) -> None:
    aided, alone = rows_of(told), rows_of(told, "unaided")
    for unit in range(4):
        assert aided[unit, "up"]["after"] >= alone[unit, "up"]["after"]
        begun, row = aided[unit, "up"]["begun with"], alone[unit, "up"]
        short = row["after"] < 0.98 * row["best simple picture"]
        assert begun.startswith("the real image") or begun in (("", row["simple picture"]) if short else ("",))
    assert told.part("units").metrics["beaten_fraction"] <= told.part("unaided").metrics["beaten_fraction"]


def test_a_dead_unit_and_one_at_its_ceiling_are_said_to_be(told: Told) -> None:
    rows, tiles = rows_of(told), told.tiles("units", "pictures")
    assert rows[4, "up"]["state"].startswith("dead: its activation is 0 on everything that was tried")
    assert np.ptp(told.pixels(tiles["detected:4"].pictures[0])) == 0
    assert rows[5, "up"]["after"] == pytest.approx(planted.CEILING)
    assert rows[5, "up"]["state"].startswith("at the unit's ceiling of 0.25: more cannot be seen")
    assert rows[0, "down"]["state"].startswith("at the unit's floor of 0: less cannot be seen")
    for unit in range(4):
        assert not rows[unit, "up"]["state"]
    (caveat,) = (entry for entry in told.all("units", f.Caveat) if entry.id == "state")
    assert caveat.text.startswith("3 of 7 pictures")


def test_real_images_of_a_units_thing_excite_it_most(told: Told) -> None:
    tiles = told.tiles("units", "pictures")
    for unit, name in enumerate(planted.CLASSES):
        captions = [caption for caption in tiles[f"detected:{unit}"].captions if caption.startswith("real, most")]
        assert len(captions) == 4
        assert all(f", {name}_" in caption for caption in captions)


# --- Grad-CAM -------------------------------------------------------------------------------------------------------

CORNER = np.s_[: planted.CELL, planted.SIDE - planted.CELL :]


def heat(told: Told, name: str) -> list[tuple[str, Mapping[str, npt.NDArray[Any]]]]:
    return [(array.title, told.numbers(array)) for array in told.all(name, f.Array)]


def test_the_evidence_of_a_corner_is_in_the_corner(told: Told) -> None:
    notes = [note.text for note in told.all("evidence", f.Note) if "evidence for corner" in note.text]
    assert len(notes) == 6
    assert all("at the upper right" in text for text in notes)
    found = [maps for title, maps in heat(told, "evidence") if title.startswith("corner/")]
    assert len(found) == 6
    for maps in found:
        one = maps[f"class{planted.CLASSES.index('corner')}_layer000"].reshape(planted.SIDE, planted.SIDE)
        assert one[CORNER].sum() > 0.95 * one.sum() > 0
    assert told.part("evidence").metrics["top1_accuracy"] == 1


def test_two_classes_of_one_image_have_their_own_evidence(told: Told) -> None:
    for title, maps in heat(told, "both"):
        number = title.split(".png")[0]
        labels = np.asarray(Image.open(told.folder / "mixed" / "masks" / f"{number}.png"))
        for name, concept in (("corner", "blue"), ("red", "red")):
            one = maps[f"class{planted.CLASSES.index(name)}_layer000"]
            inside = labels == planted.CONCEPTS.index(concept)
            assert one.reshape(labels.shape)[inside].sum() > 0.95 * one.sum() > 0


# --- dissection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "concept", "least"), [(0, "red", 0.4), (2, "disc", 0.2), (3, "blue", 0.4)])
def test_units_are_labelled_by_what_they_detect(told: Told, unit: int, concept: str, least: float) -> None:
    rows = {row["unit"].index: row for row in told.rows("concepts", "units")}
    assert (rows[unit]["concept"], rows[unit]["detector"]) == (concept, "yes")
    assert rows[unit]["IoU"] > least
    # Masks that know nothing of each other meet as often as their shares say: at the most 3 % of pixels above the
    # threshold, and a concept on less than 8 % of them.
    assert rows[unit]["IoU"] > 5 * 0.03 * 0.08 / (0.03 + 0.08 - 0.03 * 0.08)


def test_a_dead_unit_detects_nothing(told: Told) -> None:
    rows = {row["unit"].index: row for row in told.rows("concepts", "units")}
    assert (rows[4]["detector"], rows[4]["remark"]) == ("no", "dead")


# --- adversarial ----------------------------------------------------------------------------------------------------


def test_what_changes_an_answer_is_found_and_what_cannot_is_not(told: Told) -> None:
    """A level of 255 moves no class past another one here; 200 levels turn every scene into any other."""
    assert told.part("nearly").metrics["success_rate"] == 0
    assert told.part("nearly").metrics["accuracy"] == 1
    assert told.part("changed").metrics["success_rate"] == 1
    for row in told.rows("changed", "attacks"):
        assert row["class before"] == row["true class"] != row["class after"]
        assert 1 < row["Linf"] <= 200
