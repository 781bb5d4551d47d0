"""Spurious evidence of a network whose weights are set by hand: one class rests on a corner of the image alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import onnxviz
from onnxviz.analyses.attribution.objects import Objects, by_title
from onnxviz.core.errors import AnalysisError, DataError, OnnxvizError, RecipeError, SelectionError
from onnxviz.core.findings import Caveat, Finding, Metric, Note, Table, TileGrid
from onnxviz.data import builtin
from onnxviz.data.concepts import Concept, MaskFolder
from onnxviz.execution.execute import run_file
from onnxviz.graph.targets import resolve_head
from tests import planted_network

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "spurious_evidence.yaml"
OBJECTS = {"edges": "stripes", "corner": "red"}
EACH = 12
Found = tuple[Finding, ...]


def scene(rng: np.random.Generator, things: tuple[str, ...]) -> tuple[planted_network.Picture, planted_network.Labels]:
    """A thing of 9 x 9 pixels somewhere about the middle of a grey image, and "corner" in its cell at the top right."""
    side, cell = planted_network.SIDE, planted_network.CELL
    image, labels = np.full((3, side, side), planted_network.GREY), np.zeros((side, side), np.uint8)
    top, left = rng.integers(8, 20), rng.integers(4, 20)  # off the edge
    box = np.s_[top : top + 9, left : left + 9]
    rows, columns = np.mgrid[:side, :side]
    for name in things:
        if name == "corner":
            where, colour = (rows < cell) & (columns >= side - cell), planted_network.BLUE
        elif name == "disc":
            where, colour = np.hypot(rows - top - 4, columns - left - 4) <= 3.2, planted_network.WHITE
        else:
            where, colour = np.zeros((side, side), bool), planted_network.RED
            where[box] = True
        label = {"corner": "blue", "edges": "stripes"}.get(name, name)
        labels[where] = planted_network.CONCEPTS.index(label)
        if name == "edges":
            where, colour = where & ((columns - left) % 4 < 2), planted_network.WHITE
        image[:, where] = np.array(colour)[:, None]
    noise = rng.uniform(-planted_network.NOISE, planted_network.NOISE, (1, side, side))
    return (image + noise).clip(0, 1).astype(np.float32), labels


def write(folder: Path, classes: dict[str, tuple[str, ...]]) -> Path:
    """Write scenes of things by class as a concept folder, the classes in the images' names."""
    rng = np.random.default_rng(3)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(planted_network.CONCEPTS) + "\n")
    for name, things in classes.items():
        for number in range(EACH):
            image, labels = scene(rng, things)
            pixels = np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}_{number}.png")
            Image.fromarray(labels).save(folder / "labels" / f"{name}_{number}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network; scenes in which a blue corner goes with one class; and scenes without that class."""
    made = tmp_path_factory.mktemp("planted")
    planted_network.save(made / "model.onnx")
    (made / "labels.txt").write_text("\n".join(planted_network.CLASSES) + "\n")
    sound: dict[str, tuple[str, ...]] = {"red": ("red",), "edges": ("edges",), "disc": ("disc",)}
    write(made / "sound", sound)
    write(made / "marked", {**sound, "corner": ("corner", "red")})
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> onnxviz.Model:
    """The network."""
    labels = str(folder / "labels.txt")
    return onnxviz.load(folder / "model.onnx", preprocess="unit", labels=labels, output={"scores": "classes"})


@pytest.fixture(scope="module")
def marked(folder: Path, model: onnxviz.Model) -> Found:
    """What is found in scenes with a corner that stands for a class, with masks."""
    data = {"images": images(folder / "marked"), "masks": MaskFolder.find("masks", ".", folder / "marked")}
    settings: dict[str, Any] = {"layers": "detected", "objects": OBJECTS}
    return model.analyze("spurious_evidence", data, data="images", masks="masks", **settings).findings


def images(folder: Path) -> Any:
    """The images of a folder with their classes."""
    from onnxviz.data.images import ImageFolder

    return ImageFolder.find("images", ["images"], folder, classes="{class}_*.png")


def metrics(found: Found) -> dict[str, float]:
    """All metrics."""
    return {one.name: one.value for one in found if isinstance(one, Metric)}


def table(found: Found, name: str) -> dict[str, dict[str, Any]]:
    """A table's rows by their first cells, and their cells by column."""
    one = next(one for one in found if isinstance(one, Table) and one.id == name)
    return {str(row[0]): dict(zip((column.name for column in one.columns), row, strict=True)) for row in one.rows}


def test_the_evidence_of_the_planted_class_lies_outside_of_its_object(marked: Found) -> None:
    """Blue makes the class, and all that is blue is the corner; red things are recognised by themselves."""
    rows = table(marked, "classes")
    assert rows["corner"]["evidence outside of the object"] == pytest.approx(1, abs=0.01)
    assert rows["corner"]["area outside of the object"] == pytest.approx(1 - 81 / 1024, abs=0.01)
    assert rows["red"]["evidence outside of the object"] < 0.1
    concepts = table(marked, "concepts")
    assert concepts["corner: blue (object)"]["evidence"] > 0.95
    assert concepts["corner: blue (object)"]["area"] == pytest.approx(64 / 1024)
    assert concepts["corner: blue (object)"]["part of it on the object"] == 0
    assert concepts["all classes: red (object)"]["part of it on the object"] == 1


def test_the_planted_class_survives_without_its_object_and_goes_with_its_background(marked: Found) -> None:
    rows = table(marked, "survival")
    assert rows["corner"]["object replaced by another image's background"].startswith("100.0 %")
    assert rows["corner"]["background replaced by another image's"].startswith("0.0 %")
    assert rows["corner"]["edge replaced by another image's"].startswith("0.0 %")
    kept = float(rows["red"]["background replaced by another image's"].split(" %")[0])
    assert 50 < kept < 100  # some of the other backgrounds have the corner
    classes = table(marked, "classes")
    assert classes["corner"]["given without the object"] == "100% of 12"
    assert classes["corner"]["given to its edge alone"] == "100% of 12"
    found = metrics(marked)
    assert found["classes_by_background"] == 1
    assert found["classes_by_edge"] == 1
    assert found["classes_at_place"] == 1
    assert found["top1_accuracy"] == 1


def test_it_says_so_in_sentences_with_their_numbers(marked: Found) -> None:
    said = [one.text for one in marked if isinstance(one, Note)]
    assert any(
        text.startswith("corner follows what lies outside of its object") and "(12 of 12" in text for text in said
    )
    assert any(text.startswith("Evidence for corner lies at a fixed place, the top right") for text in said)
    assert not any(text.startswith(("red follows", "disc follows", "edges follows")) for text in said)
    assert not any("cheat" in text for text in said)


def test_the_worst_images_come_first_with_their_pictures(marked: Found) -> None:
    grid = next(one for one in marked if isinstance(one, TileGrid) and one.id == "images")
    first = grid.tiles[0]
    assert dict(first.facts)["class"] == "corner"
    assert len(first.pictures) == len(first.captions) == 6
    assert first.captions[2] == "object replaced by another image's background: still corner"
    photograph, _, without_object, without_background, *_ = (picture.pixels for picture in first.pictures)
    assert photograph is not None
    assert without_object is not None
    assert without_background is not None
    assert (photograph != without_object).any()
    assert (photograph[:8, 24:] != without_background[:8, 24:]).any()  # the corner is gone
    maps = next(one for one in marked if isinstance(one, TileGrid) and one.id == "mean_maps")
    assert maps.tiles[0].title == "corner"


def recipe(folder: Path, scenes: str, *, masks: bool) -> dict[str, Any]:
    """The recipe that comes with the package, on scenes of this folder."""
    made: dict[str, Any] = yaml.safe_load(RECIPE.read_text("utf-8"))
    made["model"] = {"path": str(folder / "model.onnx"), "labels": str(folder / "labels.txt"), "preprocess": "unit",
                     "output": {"scores": "classes"}}  # fmt: skip
    made["data"] = {"images": {"images": str(folder / scenes / "images"), "classes": "{class}_*.png"}}
    made["analyses"]["shortcuts"]["layers"] = "detected"
    if masks:
        made["data"]["masks"] = {"concepts": str(folder / scenes)}
        made["analyses"]["shortcuts"] |= {"masks": "masks", "objects": OBJECTS}
    else:
        made["expect"] = [one for one in made["expect"] if "background" not in one["metric"]]
    return made


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(("scenes", "verdict"), [("marked", "failed"), ("sound", "passed")])
def test_the_recipe_finds_the_shortcut_and_lets_the_sound_classes_go(
    folder: Path, tmp_path: Path, scenes: str, verdict: str, masks: bool
) -> None:
    """Of sound classes nothing is found by the same network: what it rests on is their objects."""
    result = run_file(recipe(folder, scenes, masks=masks), tmp_path / "run", workers=0).result
    assert result.verdict == verdict
    broken = [one.metric.split(".")[-1] for one in result.expectations if one.broken]
    expected = [*(["classes_by_background"] if masks else []), "classes_by_edge", "classes_at_place"]
    assert broken == (expected if verdict == "failed" else [])


def test_what_needs_masks_is_refused_without_them(folder: Path, tmp_path: Path) -> None:
    made = recipe(folder, "sound", masks=False)
    made["expect"] = [{"metric": "shortcuts.background_effect", "max": 0.5}]
    with pytest.raises(RecipeError, match="the images have no labels of pixels"):
        run_file(made, tmp_path / "run", workers=0)


@pytest.mark.parametrize("settings", [{"method": "gradient"}, {"method": {"method": "grad_cam"}}, {"classes": "top:1"}])
def test_any_method_and_predicted_classes(folder: Path, model: onnxviz.Model, settings: dict[str, Any]) -> None:
    data = {"images": images(folder / "marked")}
    found = model.analyze("spurious_evidence", data, data="images", **{"layers": "detected", **settings}).findings
    assert metrics(found)["classes_at_place"] == 1
    assert metrics(found)["classes_by_edge"] == 1
    predicted = [one for one in found if isinstance(one, Caveat) and one.id == "predicted"]
    assert bool(predicted) == (settings.get("classes") == "top:1")


def test_the_built_in_model_on_a_few_scenes_of_its_own_masks() -> None:
    known = builtin.model("scenes")
    sources = {"scenes": builtin.scenes(count=30)}
    found = onnxviz.load(known.path).analyze("spurious_evidence", sources, data="scenes").findings
    numbers = metrics(found)
    assert numbers["background_evidence"] < 0.6
    assert numbers["survives_background_replaced"] > 0.8 > numbers["survives_object_replaced"]
    few = [one.text for one in found if isinstance(one, Caveat) and one.id == "few"]
    assert few == ["15 of 15 classes have fewer than 5 images: nothing is tested of "
                   "striped circle, dotted circle, checkered circle, striped square and 11 more."]  # fmt: skip


# --- which concept is the object ------------------------------------------------------------------------------------


class Labelled:
    """Labels of images, as far as names go."""

    def __init__(self, names: tuple[str, ...], *concepts: str) -> None:
        self.name, self.names = "labelled", names
        self.concepts = tuple(Concept(number, name) for number, name in enumerate(concepts, 1))

    def __len__(self) -> int:
        return len(self.names)

    def read_labels(self, index: int) -> Any:
        raise NotImplementedError


def objects(*concepts: str, **chosen: list[str]) -> Objects:
    """Labels of one image."""
    return Objects(
        Labelled(("a.png",), *concepts), (0,), {name.replace("any", "*"): names for name, names in chosen.items()}
    )  # type: ignore[arg-type]


def test_the_object_is_the_concept_that_the_class_is_called_like() -> None:
    known = objects("penguin", "red", "panda", "ice")
    assert known.numbers("Penguin") == (1,)
    assert known.numbers("king_penguin, Aptenodytes patagonica") == (1,)
    assert known.numbers("red panda") == (3,)
    assert known.numbers("icebreaker") == ()
    assert objects("thing").numbers("whatever") == (1,)
    chosen = objects("penguin", "ice", "snow", cold=["ice", "snow"], any=["penguin"])
    assert chosen.numbers("cold") == (2, 3)
    assert chosen.numbers("ice") == (1,)


def test_labels_are_matched_by_the_names_of_the_files() -> None:
    source = Labelled(("x/one.jpg", "two.jpg", "none.jpg"))
    masks = Labelled(("one.png", "b/two.png"), "thing")
    found = Objects.of(source, "masks", {"masks": masks}, {})  # type: ignore[arg-type]
    assert found is not None
    assert found.places == (0, 1, -1)
    with pytest.raises(DataError, match="none of the 1 images is among those with labels"):
        Objects.of(Labelled(("other.jpg",)), "masks", {"masks": masks}, {})  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="no concept is called 'thin'"):
        Objects.of(source, "masks", {"masks": masks}, {"*": "thin"})  # type: ignore[arg-type]


def test_objects_are_given_to_classes_by_any_of_their_names(model: onnxviz.Model) -> None:
    """A misspelt class is refused: its images would be left out in silence."""
    head = resolve_head(model.view, None, None)
    names = ["ostrich, Struthio camelus", "tiger cat", *(f"class {number}" for number in range(2, head.choices))]
    found = by_title({"Ostrich": "bird", "*": "cat"}, head, names)
    assert found == {"ostrich, Struthio camelus": "bird", "*": "cat"}
    with pytest.raises(SelectionError, match="ostritch") as refused:
        by_title({"ostritch": "bird"}, head, names)
    assert "ostrich" in refused.value.remedy


def test_mistakes_are_said(folder: Path, model: onnxviz.Model) -> None:
    data = {"images": images(folder / "sound")}
    with pytest.raises(RecipeError, match="no method of attribution is called 'grad_cm'"):
        model.analyze("spurious_evidence", data, data="images", method="grad_cm")
    with pytest.raises(AnalysisError, match="nothing says where objects are"):
        model.analyze("spurious_evidence", data, data="images", objects={"*": "red"})
    with pytest.raises(OnnxvizError, match="no labels of pixels"):
        model.analyze("spurious_evidence", data, data="images", masks="images")


def test_findings_are_typed(marked: Found) -> None:
    assert all(isinstance(one, Finding) for one in marked)
