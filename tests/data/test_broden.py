"""Broden's format: every label pixel by pixel, and what is refused where."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from broden_sets import COLUMNS, code, published_counts, write_random_set, write_table, write_tables
from PIL import Image

from onnxviz.core import limits
from onnxviz.core.errors import DataError
from onnxviz.data.concepts import Concept, ConceptSet
from onnxviz.data.labelled.broden import BrodenSet, _entries
from onnxviz.data.labelled.settings import Choice, open_set
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import left_out
from onnxviz.recipe.recipe import parse_recipe

LABELS = {1: "red-c", 2: "sky", 3: "fabric", 7: "striped", 300: "lamp"}
CATEGORIES = {
    "object": {2: 0.9, 3: 0.1, 300: 0.4},
    "color": {1: 1.0},
    "material": {3: 0.2},
    "texture": {7: 0.3},
}
HEAD = (*COLUMNS, *CATEGORIES)
SKY = np.array([[2, 2, 2], [0, 300, 3]])
"""Numbers at 2 x 3 places."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two images of 4 x 6 pixels, with masks of 2 x 3."""
    root = tmp_path / "broden"
    write_tables(root, LABELS, CATEGORIES)
    (root / "images/ade").mkdir()
    for name in "ab":
        Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(root / f"images/ade/{name}.jpg")
    Image.fromarray(code(SKY)).save(root / "images/ade/a_object_1.png")
    Image.fromarray(code(np.where(SKY == 2, 0, 2))).save(root / "images/ade/a_object_2.png")
    Image.fromarray(code(np.full((2, 3), 1))).save(root / "images/ade/a_color.png")
    index(root)
    return root


def index(root: Path, *more: tuple[object, ...]) -> None:
    """Write index.csv: the two images, and more."""
    first = ("ade/a.jpg", "train", 4, 6, 2, 3, "ade/a_object_1.png;ade/a_object_2.png", "ade/a_color.png", "", "")
    write_table(root / "index.csv", HEAD, [first, ("ade/b.jpg", "val", 4, 6, 2, 3, "", "", "", "7;2"), *more])


def found(root: Path) -> BrodenSet:
    return BrodenSet.find("x", root)


def test_every_label_is_read_pixel_by_pixel(folder: Path) -> None:
    data: ConceptSet = open_set("broden", "broden", folder.parent)
    assert data.concepts == (
        Concept(1, "red-c", "color"),
        Concept(2, "sky", "object"),
        Concept(3, "fabric", "material"),
        Concept(4, "striped", "texture"),
        Concept(5, "lamp", "object"),
    )
    assert data.categories == ("color", "object", "material", "texture")
    assert data.names == ("ade/a.jpg", "ade/b.jpg")
    first, second, colour = data.read_labels(0).tolist()
    assert first == [[2, 2, 2, 2, 2, 2]] * 2 + [[0, 0, 5, 5, 3, 3]] * 2
    assert second == [[0] * 6] * 2 + [[2] * 6] * 2
    assert colour == [[1] * 6] * 4
    assert data.read_labels(1).tolist() == [[[4] * 6] * 4, [[2] * 6] * 4]  # true of the whole image
    assert data.read(0).shape == (4, 6, 3)
    assert found(folder).sizes == ((4, 6), (4, 6))


def test_pixels_and_images_of_each_label_are_those_of_the_published_code(tmp_path: Path) -> None:
    root = write_random_set(tmp_path / "set", count=17)
    data = found(root)
    assert not data.skipped
    category_of, pixels, images = published_counts(root)
    assert {concept.name: concept.category for concept in data.concepts} == category_of
    seen = {concept.index: [0, 0] for concept in data.concepts}
    for place in range(len(data)):
        labels = data.read_labels(place)[:, ::2, ::2]  # images are twice as large as masks
        for number in set(np.unique(labels).tolist()) - {0}:
            seen[number][0] += int((labels == number).any(axis=0).sum())
            seen[number][1] += 1
    named = {concept.name: seen[concept.index] for concept in data.concepts}
    assert {name: count for name, (count, _) in named.items()} == pixels
    assert {name: count for name, (_, count) in named.items()} == images
    assert sum(pixels.values()) > 1000


def test_splits(folder: Path) -> None:
    assert open_set("x", folder, folder, Choice(split="val")).names == ("ade/b.jpg",)
    with pytest.raises(DataError, match="no image is of the split 'test'") as refused:
        open_set("x", folder, folder, Choice(split="test"))
    assert "'train', 'val'" in str(refused.value)
    (folder / "index.csv").unlink()
    with pytest.raises(DataError, match="has no splits"):
        open_set("x", folder, folder, Choice(split="val"))


def test_a_limit_is_spread_over_the_index(tmp_path: Path) -> None:
    data = BrodenSet.find("x", write_random_set(tmp_path / "set", 12), 3)
    assert data.names == ("part0/000.jpg", "part0/004.jpg", "part0/008.jpg")
    assert data.found == 12


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("ade/c.jpg", "train", 4, 6, 2, 3, "", "", "", ""), "has no label in any category"),
        (("ade/c.jpg", "train", 4, 6, 2, 3, "0", "00", ";", ""), "has no label in any category"),
        (("ade/c.jpg", "train", 4, 6, 2, 3, "", "", "", "7"), "c.jpg: cannot be read: No such file"),
        (("ade/a.jpg", "train", 4, 6, 2, 3, "", "", "", "7"), "is listed twice"),
        (("../a.jpg", "train", 4, 6, 2, 3, "", "", "", "7"), "'../a.jpg' is not the name of a file below the folder"),
        (("/a.jpg", "train", 4, 6, 2, 3, "", "", "", "7"), "'/a.jpg' is not the name"),
        (("..\\a.jpg", "train", 4, 6, 2, 3, "", "", "", "7"), "is not the name"),
        (("C:/a.jpg", "train", 4, 6, 2, 3, "", "", "", "7"), "is not the name"),
        (("", "train", 4, 6, 2, 3, "", "", "", "7"), "'' is not the name"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "../../secret.png", "", "", ""), "'../../secret.png' is not the name"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "", "", "", "8"), "the label 8 is not in label.csv"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "", "", "", "99999"), "99999: cannot be read"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "", "", "", "-1"), "-1: cannot be read"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "ade/none.png", "", "", ""), "none.png: cannot be read"),
        (("ade/d.jpg", "train", 4, 6, 2, 4, "ade/a_color.png", "", "", ""), "is 3 x 2 pixels, index.csv says 4 x 2"),
        (("ade/d.jpg", "train", 4, "x", 2, 3, "", "", "", "7"), "must be numbers of pixels"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "ade/d.jpg", "", "", ""), "in a format that may change values"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "ade/grey.png", "", "", ""), "without red and green"),
        (("ade/d.jpg", "train", 4, 6, 2, 3, "", "", "", ";".join(["7"] * 300)), "has 300 labels, more than 256"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out_and_its_line_is_told(
    folder: Path, line: tuple[object, ...], said: str
) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "images/ade/d.jpg")
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(folder / "images/ade/grey.png")
    index(folder, line)
    data = found(folder)
    assert len(data) == 2
    ((name, why),) = data.skipped
    assert name == line[0]
    assert why.startswith("index.csv, line 4: ")
    assert said in why


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("label.csv", "number,name\n0,a\n1,b\n1,c\nx,d\n", "label.csv, line 2: '0' is not a number from 1"),
        ("label.csv", "number,name\n1,red-c\n1,c\n", "line 3: the number 1 is listed twice"),
        ("label.csv", "number,name\n1,red-c\n2,sky\n3,fabric\n7,striped\n300,lamp\n9,cat\n", "9 'cat' is in no c_"),
        ("label.csv", "number,name\n1,red-c\n2,sky\n3,Sky\n7,striped\n300,lamp\n", "c_object.csv, line 3: the label 3"),
        ("label.csv", "name\nred-c\n", "label.csv: has no column 'number'"),
        ("label.csv", "number,name\n1,\xe9\n", "save it as UTF-8"),
        ("c_color.csv", "code,number,name,frequency,coverage\n1,5,x,1,1\n", "c_color.csv, line 2: the label 5 is not"),
        ("c_color.csv", "code,number,name,frequency,coverage\n1,1,red-c,1,nan\n", "line 2: the label 1 has a coverage"),
        ("c_color.csv", "code,number,name,frequency,coverage\n1,1,red-c,1,1,1\n", "c_color.csv, line 2: 6 fields"),
        ("c_color.csv", None, "c_color.csv: cannot be read: No such file"),
        ("category.csv", "name\n../x\n", "category.csv: '../x' is not the name of a category"),
        ("category.csv", "name\nscene\n", "c_scene.csv: cannot be read"),
        ("index.csv", "image,split,ih,iw,sh,sw,object,color,material\n", "index.csv: has no column 'texture'"),
        ("index.csv", ",".join(HEAD) + "\n", "lists no image"),
        ("index.csv", ",".join(HEAD) + '\n"' + "a" * 200_000, "behind line 1: cannot be read: field larger than"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_line(
    folder: Path, file: str, text: str | None, said: str
) -> None:
    (folder / file).write_bytes((text or "").encode("latin-1"))
    if text is None:
        (folder / file).unlink()
    with pytest.raises(DataError) as refused:
        found(folder)
    assert said in str(refused.value)


def test_all_faults_of_tables_are_told_at_once(folder: Path) -> None:
    (folder / "label.csv").write_text("number,name\n0,a\n1,red-c\n1,b\n2,sky\n3,fabric\n7,striped\n300,light\n")
    with pytest.raises(DataError, match=r"line 2: '0' is.*line 4: the number 1.*c_object\.csv, line 4: the label 300"):
        found(folder)


def test_a_size_that_the_index_has_wrong_is_noted(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(folder / "images/ade/d.jpg")
    index(folder, ("ade/d.jpg", "train", 4, 6, 2, 3, "", "", "", "7"))
    data = found(folder)
    assert data.notes == (("ade/d.jpg", "the image is 8 x 4 pixels, index.csv says 6 x 4"),)
    assert data.read_labels(2).shape == (1, 4, 8)


def test_values_in_masks(folder: Path) -> None:
    Image.fromarray(code(np.full((2, 3), 8))).save(folder / "images/ade/a_color.png")
    with pytest.raises(DataError, match=r"a_color\.png: the mask holds the value 8, which") as refused:
        found(folder)
    assert "add it to label.csv" in str(refused.value)
    picture = code(np.full((2, 3), 1))
    picture[0, 0, 2] = 5
    Image.fromarray(picture).save(folder / "images/ade/a_color.png")
    with pytest.raises(DataError, match=r"a_color\.png: a picture with blue in it"):
        found(folder)


def test_the_digest_follows_images_masks_and_tables(folder: Path) -> None:
    digests = {found(folder).digest, BrodenSet.find("y", folder).digest}
    assert len(digests) == 1
    Image.fromarray(code(np.full((2, 3), 2))).save(folder / "images/ade/a_color.png")
    digests.add((data := found(folder)).digest)
    index(folder, ("ade/b.jpg", "train", 4, 6, 2, 3, "", "", "", "7"))
    Image.fromarray(code(np.full((2, 3), 3))).save(folder / "images/ade/a_color.png")
    digests.add(found(folder).digest)
    assert len(digests) == 3
    with pytest.raises(DataError, match="was changed since the run was planned"):
        data.read_labels(0)


def test_whole_image_labels_alone_differ_in_the_digest(folder: Path) -> None:
    first = found(folder).digest
    text = (folder / "index.csv").read_text()
    (folder / "index.csv").write_text(text.replace("7;2", "7"))
    assert found(folder).digest != first


def test_an_index_of_many_images_is_small_in_memory(tmp_path: Path) -> None:
    cell = "opensurfaces/00123456_{}_{}.png"
    rows = [
        (f"opensurfaces/{place:06}.jpg", "train", 224, 224, 112, 112, cell.format(place, "object"),
         cell.format(place, "color"), cell.format(place, "material"), place % 40 + 1)
        for place in range(6_300)
    ]  # fmt: skip
    write_table(tmp_path / "index.csv", HEAD, rows)
    del rows
    tracemalloc.start()
    entries = _entries(tmp_path / "index.csv", list(CATEGORIES), None)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(entries) == 6_300
    assert now < 500 * len(entries)  # of Broden's 63,000 images 32 MB
    assert peak < now + (1 << 20)


def test_an_index_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LABEL_INDEX_BYTES", 3)
    with pytest.raises(DataError, match=r"index\.csv: larger than 0 MiB"):
        found(folder)


def test_a_recipe_says_what_is_left_out(folder: Path) -> None:
    index(folder, ("ade/c.jpg", "train", 4, 6, 2, 3, "", "", "", "7"))
    text = """\
version: 1
model: {builtin: scenes}
data: {d: {concepts: broden, split: train}}
analyses: {a: {kind: dissection}}
"""
    plan = make_plan(parse_recipe(text, "r.yaml", folder.parent))
    assert plan.data[0].used == 1
    assert "c.jpg: index.csv, line 4: c.jpg: cannot be read" in " ".join(left_out(plan.data))
