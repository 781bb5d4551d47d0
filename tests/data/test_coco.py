"""COCO's annotations: regions pixel by pixel as its own code makes them, and what is refused where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxviz.core import limits
from onnxviz.core.errors import DataError
from onnxviz.data.concepts import Concept
from onnxviz.data.labelled.coco import CocoSet
from onnxviz.data.labelled.outlines import decode_runs, polygon_mask, runs_mask
from onnxviz.data.labelled.settings import Choice, open_set


@pytest.mark.parametrize(
    ("size", "polygon", "runs"),
    [
        ((10, 12), [1.5, 2.5, 9.25, 1, 7, 8.75], "f0281O1O1O1N01LQ1"),
        ((9, 9), [0, 0, 9, 0, 9, 9, 0, 9], "0a2"),
        ((10, 14), [2, 2, 12, 2, 2, 8, 12, 8], "P114000O110N024000LN02OO11O00l0"),
        ((20, 16), [3, 3, 3, 3, 14.6, 5.2, 9.1, 18.4, 4.4, 11.9], "o13a06J101N1O1O1OM4M2M3NU1"),
        ((6, 7), [-1, -1, 3.2, 2.2, 8, 7], "d01600000"),
        ((8, 8), [2, 2, 2.1, 2, 2, 2.1], "P2"),
        ((16, 11), [5, 3, 9, 16, 2, 9, 5, 16, -1, 12, 7, -1, 8, -1], ":3;3MMI161KN250I16OJ347N2Na0"),
        ((2, 7), [6.09, 0.97, 7.61, 0.24, 7.39, 1.72, 3.34, 1.75], "911000"),
    ],
)
def test_polygons_are_filled_as_pycocotools_does(size: tuple[int, int], polygon: list[float], runs: str) -> None:
    """The runs are those of pycocotools 2.0.11: `frPyObjects`."""
    found = polygon_mask(np.array(polygon, np.float64).reshape(-1, 2), size)
    assert (found == runs_mask(decode_runs(runs), size)).all()


def test_runs_go_down_the_columns_and_begin_outside() -> None:
    assert runs_mask([1, 2, 3], (2, 3)).astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert runs_mask([0, 6], (2, 3)).all()
    assert decode_runs("0a2") == [0, 81]
    assert decode_runs("f0281") == [22, 2, 8, 3]  # the fourth is the difference to the second


@pytest.mark.parametrize("text", ["\x00", "é", "P", "oooooooooooo", "!"])
def test_a_text_that_is_no_runs(text: str) -> None:
    with pytest.raises(DataError, match="a text"):
        decode_runs(text)


@pytest.mark.parametrize("runs", [[1, 2], [-1, 7], [7], []])
def test_runs_that_do_not_fill_the_image(runs: list[int]) -> None:
    with pytest.raises(DataError, match="do not fill"):
        runs_mask(runs, (2, 3))


CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "background"}]


def square(left: float, top: float, side: float) -> list[list[float]]:
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def annotations() -> list[dict[str, Any]]:
    runs = {"size": [4, 6], "counts": [20, 4]}
    return [
        {"image_id": 7, "category_id": 18, "segmentation": square(0, 0, 2), "iscrowd": 0},
        {"image_id": 7, "category_id": 18, "segmentation": runs, "iscrowd": 1},
        {"image_id": 7, "category_id": 3, "segmentation": square(1, 1, 3)},
        {"image_id": 7, "category_id": 90, "segmentation": square(0, 0, 4)},
        {"image_id": 9, "category_id": 3, "segmentation": {"size": [4, 6], "counts": "0h0"}},
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(root / "val2017" / name)
    write(root)
    return root


def write(root: Path, **changed: Any) -> None:
    images = [
        {"id": number, "file_name": name, "height": 4, "width": 6} for number, name in ((7, "a.jpg"), (9, "b.jpg"))
    ]
    parts = {"images": images, "categories": CATEGORIES, "annotations": annotations()} | changed
    (root / "annotations/instances_val2017.json").write_text(json.dumps(parts))


def test_every_region_is_read_pixel_by_pixel(folder: Path) -> None:
    data = open_set("coco", "coco", folder.parent)
    assert data.concepts == (Concept(1, "dog"), Concept(2, "car"))
    assert data.names == ("a.jpg", "b.jpg")
    dogs, cars = data.read_labels(0).tolist()  # they overlap
    assert dogs == [[1, 1, 0, 0, 0, 1], [1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]]
    assert cars == [[0] * 6, *[[0, 2, 2, 2, 0, 0]] * 3]
    assert data.read_labels(1).tolist() == [[[2] * 6] * 4]
    assert data.read_labels(0).dtype == np.int32
    assert data.read(0).shape == (4, 6, 3)


def test_the_file_can_be_named_itself(folder: Path) -> None:
    name = "coco/annotations/instances_val2017.json"
    assert open_set("c", name, folder.parent).digest == open_set("d", "coco", folder.parent).digest
    (folder / "val2017").rename(folder / "images")
    assert len(open_set("c", name, folder.parent)) == 2
    with pytest.raises(DataError, match="has no splits"):
        open_set("c", name, folder.parent, Choice(split="val2017"))


def test_a_folder_with_masks_of_its_own_is_one_of_masks(folder: Path) -> None:
    (folder / "labels").mkdir()
    (folder / "val2017").rename(folder / "images")
    for name in "ab":
        Image.fromarray(np.ones((4, 6), np.uint8)).save(folder / f"labels/{name}.png")
    (folder / "classes.txt").write_text("void\nsky\n")
    assert [concept.name for concept in open_set("c", folder, folder).concepts] == ["sky"]


def test_splits_are_files(folder: Path) -> None:
    assert len(open_set("c", folder, folder, Choice(split="val2017"))) == 2
    (folder / "annotations/instances_train2017.json").write_text("{}")
    with pytest.raises(DataError, match="2 files of instances") as refused:
        open_set("c", folder, folder)
    assert "train2017, val2017" in str(refused.value)
    with pytest.raises(DataError, match="no split 'test'"):
        open_set("c", folder, folder, Choice(split="test"))


def test_an_image_without_regions_has_no_labels(folder: Path) -> None:
    write(folder, annotations=annotations()[:1])
    assert open_set("c", folder, folder).read_labels(1).tolist() == [[[0] * 6] * 4]


def test_the_digest_follows_the_regions(folder: Path) -> None:
    first = open_set("c", folder, folder).digest
    write(folder, annotations=annotations()[:2])
    assert open_set("c", folder, folder).digest != first


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"id": 8, "file_name": "none.jpg", "height": 4, "width": 6}, "No such file"),
        ({"id": 8, "file_name": "../b.jpg", "height": 4, "width": 6}, "is not the name of a file below"),
        (
            {"id": 8, "file_name": "c.jpg", "height": 4, "width": 7},
            "is 6 x 4 pixels, instances_val2017.json says 7 x 4",
        ),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out(folder: Path, image: dict[str, Any], said: str) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "val2017/c.jpg")
    write(folder, images=[{"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}, image], annotations=[])
    data = open_set("c", folder, folder)
    assert isinstance(data, CocoSet)
    ((name, why),) = data.skipped
    assert name == image["file_name"]
    assert said in why


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"images": [{"id": 7}]}, "images[0]: needs a text as 'file_name'"),
        ({"images": [{"id": 7, "file_name": "a", "height": True, "width": 6}]}, "images[0]: needs a text"),
        ({"images": [{"id": 7, "file_name": "a", "height": 1 << 20, "width": 1 << 20}]}, "1048576 x 1048576"),
        ({"images": [[]]}, "images[0]: has no whole number as 'id'"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "A"}]}, "[1]: the id 2 or the name 'A' is"),
        ({"categories": [{"id": 1, "name": 5}]}, "categories[0]: has no text as 'name'"),
        ({"categories": [], "annotations": []}, "categories: no concept"),
        ({"annotations": [{"image_id": 8, "category_id": 3}]}, "annotations[0]: there is no image 8"),
        ({"annotations": [{"image_id": 7, "category_id": 4}]}, "annotations[0]: there is no category 4"),
        ({"annotations": [{"image_id": 7, "category_id": [3]}]}, "annotations[0]: there is no category [3]"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "annotations[0]: 'segmentation' is neither"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "segmentation": [[1, 2, 3, 4]]}]}, "three points"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "segmentation": [[1, 2, 3, 4, 5, "6"]]}]}, "of three"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "segmentation": [[1, 2, 3, 4, 5, 9e400]]}]}, "of three"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "segmentation": {"size": [6, 4], "counts": [24]}}]},
         "annotations[0]: runs of size [6, 4], where the image has [4, 6]"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "segmentation": {"size": [4, 6], "counts": [-1]}}]},
         "runs that are neither"),
        ({"annotations": {}}, "has no lists of images, categories and annotations"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_the_entry(folder: Path, changed: dict[str, Any], said: str) -> None:
    write(folder, **changed)
    with pytest.raises(DataError) as refused:
        open_set("c", folder, folder)
    assert said in str(refused.value)
    assert "instances_val2017.json" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is no JSON"), ("[" * 200_000, "is no JSON"), ("1" * 5000, "is no JSON"), ("\udcff", "is no JSON"),
     ("[]", "has no lists")],
)  # fmt: skip
def test_hostile_json(folder: Path, text: str, said: str) -> None:
    (folder / "annotations/instances_val2017.json").write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=said):
        open_set("c", folder, folder)


def test_a_large_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LABEL_INDEX_BYTES", 3)
    with pytest.raises(DataError, match="larger than"):
        open_set("c", folder, folder)


@pytest.mark.parametrize(
    "outline",
    [
        [[1e8, 0, 0, 1e8, 3, 3]],
        {"size": [4, 6], "counts": [1]},
        {"size": [4, 6], "counts": "\x7f"},
        [[-90, 0, 1, 1, 2, 2]],
    ],
)
def test_a_region_that_is_none_is_named_when_it_is_read(folder: Path, outline: Any) -> None:
    write(folder, annotations=[{"image_id": 7, "category_id": 3, "segmentation": outline}])
    data = open_set("c", folder, folder)
    with pytest.raises(DataError, match=r"c: a\.jpg: a region"):
        data.read_labels(0)


def test_all_faults_are_told_at_once(folder: Path) -> None:
    write(folder, annotations=[{"image_id": 1, "category_id": 3}, {"image_id": 7, "category_id": 99}, 5])
    with pytest.raises(DataError) as refused:
        open_set("c", folder, folder)
    for said in ("annotations[0]: there is no image 1", "[1]: there is no category 99", "[2]: has no whole number"):
        assert said in str(refused.value)
