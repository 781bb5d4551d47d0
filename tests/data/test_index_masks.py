"""Masks of indices as Pascal VOC and ADE20K publish them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxviz.core.errors import DataError
from onnxviz.data.labelled.settings import Choice, open_set

ADE = "Idx\tRatio\tTrain\tVal\tName\n1\t0.15\t11664\t1172\twall\n2\t0.10\t6046\t612\tbuilding, edifice\n"


def save(path: Path, mask: list[list[int]] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if mask is None:
        Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(path)
        return
    picture = Image.fromarray(np.array(mask, np.uint8))
    if path.parent.name == "SegmentationClass":
        picture.putpalette([value for number in range(256) for value in (number, 9, 255 - number)])
    picture.save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOC2012"
    for name in ("2007_1", "2007_2", "2007_3"):
        save(root / f"JPEGImages/{name}.jpg")
    save(root / "SegmentationClass/2007_1.png", [[0, 12, 12], [255, 12, 255]])
    save(root / "SegmentationClass/2007_3.png", [[0, 20, 15], [0, 20, 15]])
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n\n")
    (lists / "val.txt").write_text("2007_3\n")
    return root


def test_voc_is_read_by_index_and_255_is_void(voc: Path) -> None:
    data = open_set("voc", "VOC2012", voc.parent)
    assert data.names == ("2007_1.jpg", "2007_3.jpg")
    assert len(data.concepts) == 20
    names = np.array(["", *(concept.name for concept in data.concepts)])
    assert names[data.read_labels(0)].tolist() == [[["", "dog", "dog"], ["", "dog", ""]]]
    assert names[data.read_labels(1)].tolist() == [[["", "tvmonitor", "person"]] * 2]
    assert not data.skipped  # type: ignore[attr-defined]


def test_voc_has_splits_and_a_class_list_of_its_own(voc: Path) -> None:
    assert open_set("v", voc, voc, Choice(split="val")).names == ("2007_3.jpg",)
    assert open_set("v", voc, voc, Choice(limit=1)).names == ("2007_1.jpg",)
    with pytest.raises(DataError, match="no list of the split 'test'") as refused:
        open_set("v", voc, voc, Choice(split="test"))
    assert "train, val" in str(refused.value)
    (voc / "classes.txt").write_text("background\n" + "\n".join(f"thing {number}" for number in range(1, 21)))
    data = open_set("v", voc, voc)
    assert data.concepts[11].name == "thing 12"
    assert data.read_labels(0).tolist() == [[[0, 12, 12], [0, 12, 0]]]


def test_a_voc_split_that_leads_out_of_the_folder_is_refused(voc: Path) -> None:
    (voc / "ImageSets/Segmentation/val.txt").write_text("2007_3\n../../secret\n")
    with pytest.raises(DataError, match=r"val\.txt, line 2: '\.\./\.\./secret' is not the name"):
        open_set("v", voc, voc, Choice(split="val"))


def test_a_voc_image_without_its_mask_is_left_out(voc: Path) -> None:
    (voc / "ImageSets/Segmentation/val.txt").write_text("2007_2\n2007_3\n")
    data = open_set("v", voc, voc, Choice(split="val"))
    assert data.skipped == (("2007_2.jpg", "has no mask in SegmentationClass/"),)  # type: ignore[attr-defined]


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for part, mask in {"training": [[0, 1, 2]] * 2, "validation": [[2, 2, 2]] * 2}.items():
        save(root / f"images/{part}/{part}_1.jpg")
        save(root / f"annotations/{part}/{part}_1.png", mask)
    (root / "objectInfo150.txt").write_text(ADE)
    return root


def test_ade20k_is_read_with_the_first_names_of_its_classes(ade: Path) -> None:
    data = open_set("ade", "ADEChallengeData2016", ade.parent)
    assert [concept.name for concept in data.concepts] == ["wall", "building"]
    assert data.names == ("training/training_1.jpg", "validation/validation_1.jpg")
    assert data.read_labels(0).tolist() == [[[0, 1, 2]] * 2]
    assert open_set("a", ade, ade, Choice(split="validation")).read_labels(0).tolist() == [[[2, 2, 2]] * 2]
    with pytest.raises(DataError, match="no split 'test'") as refused:
        open_set("a", ade, ade, Choice(split="test"))
    assert "training, validation" in str(refused.value)


@pytest.mark.parametrize("line", ["x\t1\twall", "0\t1\twall", "1\t1\ta\n1\t2\tb", "1", "1\t2\t , wall"])
def test_a_class_list_that_cannot_be_used(ade: Path, line: str) -> None:
    (ade / "objectInfo150.txt").write_text(f"Idx\tName\n{line}\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt, line [23]: is not a number of its own"):
        open_set("a", ade, ade)


def test_a_value_without_a_name_is_refused(ade: Path) -> None:
    save(ade / "annotations/training/training_1.png", [[0, 1, 3]] * 2)
    with pytest.raises(DataError, match="the mask holds the value 3") as refused:
        open_set("a", ade, ade)
    assert "training_1.png" in str(refused.value)
