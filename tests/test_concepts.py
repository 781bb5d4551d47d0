"""Folders of masks: which value is which concept, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxviz import limits
from onnxviz.concepts import Concept, ConceptSet, MaskFolder, is_void, read_concepts
from onnxviz.errors import DataError


def write(root: Path, name: str, mask: np.ndarray | None, size: tuple[int, int] = (4, 6)) -> None:
    image = root / "images" / f"{name}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    Image.fromarray(np.full((*size, 3), 100, np.uint8)).save(image)
    if mask is not None:
        path = root / "labels" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "street"
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 2:4] = 1
    mask[:, 4:] = 2
    write(root, "a", mask)
    (root / "classes.txt").write_text("sky\nroad\nvoid\n")
    return root


def test_value_i_is_line_i_and_void_is_no_concept(folder: Path) -> None:
    data: ConceptSet = MaskFolder.find("street", "street", folder.parent)
    assert data.concepts == (Concept(1, "sky", "object"), Concept(2, "road", "object"))
    assert data.categories == ("object",)
    assert data.names == ("a.png",)
    labels = data.read_labels(0)
    assert labels.dtype == np.int32
    assert labels.tolist() == [[[1, 1, 2, 2, 0, 0]] * 4]
    assert data.read(0).shape == (4, 6, 3)


def test_a_palette_mask_is_read_by_index_not_by_colour(folder: Path) -> None:
    image = Image.open(folder / "labels/a.png").convert("P")
    image.putpalette([200, 0, 0, 0, 200, 0, 9, 9, 9] + [0] * 759)
    image.save(folder / "labels/a.png")
    assert MaskFolder.find("x", folder, folder).read_labels(0)[0, 0].tolist() == [1, 1, 2, 2, 0, 0]


def test_masks_of_16_bits(folder: Path) -> None:
    (folder / "concepts.csv").write_text("index,name,category\n300,sky,stuff\n0,void,\n")
    Image.fromarray(np.array([[0, 300, 300, 0, 0, 0]] * 4, np.uint16)).save(folder / "labels/a.png")
    assert MaskFolder.find("x", folder, folder).read_labels(0)[0, 0].tolist() == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("concepts.csv", "index,name,category\n0,void,\n1,no,colour\n2,car,\n7, car ,object\n"),
        (
            "concepts.yaml",
            "- {index: 0, name: void}\n- {index: 1, name: no, category: colour}\n- {index: 2, name: car}\n"
            "- {index: 7, name: car, category: object}\n",
        ),
    ],
)
def test_a_table_gives_categories(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    concepts, numbers = read_concepts(folder)
    assert concepts == (Concept(1, "no", "colour"), Concept(2, "car", "object"))
    assert numbers.tolist() == [0, 1, 2, -1, -1, -1, -1, 2]
    assert MaskFolder.find("x", folder, folder).categories == ("colour", "object")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("concepts.csv", "value,name\n1,a\n", "has no columns"),
        ("concepts.csv", "index,name\n-1,a\n", "'-1' is not a mask value"),
        ("concepts.csv", "index,name\n70000,a\n", "'70000' is not a mask value"),
        ("concepts.csv", "index,name\n1,a\n1,b\n", "value 1 is listed twice"),
        ("concepts.csv", "", "has no columns"),
        ("concepts.yaml", "sky", "is not a list of entries"),
        ("concepts.yaml", "- {index: [1], name: a}", "needs a number as index"),
        ("concepts.yaml", "- {index: 1, name: true}", "a text as name"),
        ("concepts.yaml", "- {index: 1.5, name: a}", "needs a number as index"),
        ("concepts.yaml", "- {name: a}", "needs a number as index"),
        ("concepts.yaml", "- {index: 1, name: a", "not valid YAML"),
        ("concepts.yaml", "[" * 5000, "levels deep"),
        ("concepts.yaml", "- &a {index: 1, name: a}\n- *a", "are not allowed"),
        ("classes.txt", "void\n\n", "names no concept"),
    ],
)
def test_an_unusable_table_is_named(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_concepts(folder)
    assert file in str(caught.value)


def test_a_table_has_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LABELS_BYTES", 3)
    with pytest.raises(DataError, match="larger than"):
        read_concepts(folder)


def test_another_size_is_brought_to_the_image_by_the_nearest_value_and_said(folder: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(folder / "labels/a.png")
    data = MaskFolder.find("x", folder, folder)
    assert data.read_labels(0).tolist() == [[[1, 1, 2, 2, 0, 0]] * 4]
    assert data.notes == (("a.png", "mask of 3 x 1 pixels for 6 x 4: the nearest labels are used"),)


def test_a_missing_or_broken_mask_skips_its_image(folder: Path) -> None:
    write(folder, "b", None)
    write(folder, "c", np.zeros((4, 6), np.uint8))
    (folder / "labels/c.png").write_bytes(b"hello")
    data = MaskFolder.find("x", folder, folder)
    assert data.names == ("a.png",)
    assert dict(data.skipped)["b.png"] == "has no mask in labels/"
    assert "its mask c.png cannot be used" in dict(data.skipped)["c.png"]


def test_without_any_mask_the_layout_is_explained(folder: Path) -> None:
    (folder / "labels/a.png").unlink()
    with pytest.raises(DataError, match=r"none of 1 images has a usable mask; a\.png: has no mask") as caught:
        MaskFolder.find("x", folder, folder)
    assert "classes.txt" in str(caught.value)


@pytest.mark.parametrize("missing", ["", "images", "labels", "classes.txt"])
def test_a_missing_part_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder.parent / "elsewhere")
    with pytest.raises(DataError, match=missing or "street"):
        MaskFolder.find("x", "street", folder.parent)


def test_a_value_outside_the_list_names_file_and_value(folder: Path) -> None:
    Image.fromarray(np.full((4, 6), 3, np.uint8)).save(folder / "labels/a.png")
    with pytest.raises(DataError, match=r"a\.png: the mask holds the value 3"):
        MaskFolder.find("x", folder, folder).read_labels(0)


def test_colour_masks_and_lossy_formats_are_refused(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "labels/a.png")
    with pytest.raises(DataError, match="not a mask of indices"):
        MaskFolder.find("x", folder, folder).read_labels(0)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "labels/a.png", "JPEG")
    with pytest.raises(DataError, match="may change values"):
        MaskFolder.find("x", folder, folder).read_labels(0)


def test_further_label_layers_and_sub_folders(folder: Path) -> None:
    write(folder, "town/b", np.zeros((4, 6), np.uint8))
    write(folder, "a", np.zeros((4, 6), np.uint8))
    (folder / "labels/colours").mkdir()
    Image.fromarray(np.ones((4, 6), np.uint8)).save(folder / "labels/colours/a.png")
    data = MaskFolder.find("x", folder, folder)
    assert data.names == ("a.png", "town/b.png")
    assert data.read_labels(0)[:, 0, 0].tolist() == [1, 2]
    assert data.read_labels(1).shape == (1, 4, 6)


def test_the_digest_follows_masks_and_names(folder: Path) -> None:
    digests = {MaskFolder.find("x", folder, folder).digest}
    assert MaskFolder.find("y", folder, folder).digest in digests
    (folder / "classes.txt").write_text("sky\nstreet\nvoid\n")
    digests.add(MaskFolder.find("x", folder, folder).digest)
    Image.fromarray(np.ones((4, 6), np.uint8)).save(folder / "labels/a.png")
    digests.add(MaskFolder.find("x", folder, folder).digest)
    assert len(digests) == 3


def test_a_limit_counts(folder: Path) -> None:
    for name in "bcd":
        write(folder, name, np.zeros((4, 6), np.uint8))
    data = MaskFolder.find("x", folder, folder, limit=2)
    assert data.names == ("a.png", "c.png")
    assert data.found == 4


@pytest.mark.zoo
def test_camvid(shared_data: Path) -> None:
    data = MaskFolder.find("street", "camvid", shared_data)
    assert len(data) == 117
    assert data.skipped == data.notes == ()
    assert [concept.name for concept in data.concepts][:2] == ["sky", "building"]
    assert "void" not in [concept.name for concept in data.concepts]
    labels = data.read_labels(0)
    assert labels.shape == (1, 360, 480)
    # Sky is above the road in a street scene.
    assert np.nonzero(labels[0] == 1)[0].mean() < np.nonzero(labels[0] == 4)[0].mean()


@pytest.mark.parametrize(
    "name",
    ["null", "NULL", "N/A", "n.a.", "_background_", "__Background__", "bg", "nothing", "un-labelled", "Unlabeled",
     "no label", "don't care", "out of ROI", "-", "?", "", "unlabelled or void", "background (void)"],
)  # fmt: skip
def test_a_name_of_nothing_is_no_concept(folder: Path, name: str) -> None:
    assert is_void(name)
    (folder / "concepts.csv").write_text(f'index,name\n0,"{name}"\n1,road\n2,sky\n')
    concepts, numbers = read_concepts(folder)
    assert [concept.name for concept in concepts] == ["road", "sky"]
    assert numbers.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["other", "0", "nullah", "knot", "road or path", "empty", "mask", "N", "背景板"])
def test_what_may_be_a_concept_is_one(name: str) -> None:
    assert not is_void(name)
