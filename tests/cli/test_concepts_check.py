"""`onnxviz concepts check`: counts, what is broken where, and its exit code."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from broden_sets import code, published_counts, write_random_set
from PIL import Image
from typer.testing import CliRunner

from onnxviz.cli.commands import app
from onnxviz.core.errors import DataError
from onnxviz.data.labelled.check import ConceptCount, check
from onnxviz.data.labelled.settings import open_set


def masks(root: Path, values: dict[str, np.ndarray], classes: str = "void\nsky\nroad\n") -> Path:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for name, mask in values.items():
        Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(root / f"images/{name}.png")
        Image.fromarray(mask.astype(np.uint8)).save(root / f"labels/{name}.png")
    (root / "classes.txt").write_text(classes)
    return root


def test_images_and_pixels_of_each_concept_and_category(tmp_path: Path) -> None:
    root = masks(tmp_path / "street", {"a": np.array([[0, 1, 1]] * 2), "b": np.array([[2, 1]]), "c": np.zeros((5, 5))})
    found = check(root)
    assert found.faults == ()
    assert (found.images, found.found) == (3, 3)
    assert found.categories == (ConceptCount("object", "", 2, 2, 6, 8),)  # c has no label and does not count
    assert found.concepts == (ConceptCount("object", "sky", 1, 2, 5, 8), ConceptCount("object", "road", 1, 1, 1, 8))


def test_a_set_of_broden_s_format_is_counted_as_published(tmp_path: Path) -> None:
    root = write_random_set(tmp_path / "set", 9)
    found = check(root)
    category_of, pixels, images = published_counts(root)
    assert found.form == "Broden"
    for one in found.concepts:
        assert (category_of[one.name], images[one.name], 4 * pixels[one.name]) == (one.category, one.images, one.pixels)
    assert any("concepts are in no image" in remark for remark in found.remarks)


def test_everything_broken_is_told_not_the_first_alone(tmp_path: Path) -> None:
    good = np.array([[0, 1, 2]] * 2)
    root = masks(tmp_path / "street", dict.fromkeys("abcdef", good))
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(root / "labels/a.png")
    Image.fromarray(np.full((2, 3), 8, np.uint8)).save(root / "labels/b.png")
    (root / "labels/c.png").unlink()
    (root / "images/d.png").write_bytes(b"none")
    Image.fromarray(np.zeros((9, 3), np.uint8)).save(root / "labels/e.png")
    found = check(root)
    assert found.images == 1
    assert found.fault_count == 5
    told = "\n".join(found.faults)
    for said in (
        "a.png: the mask holds the value 9",
        "b.png: the mask holds the value 8",
        "c.png: has no mask in labels/",
        "d.png: not an image in one of the formats",
        "e.png: its mask e.png of 3 x 9 pixels has another",
    ):
        assert said in told


def test_the_values_of_all_masks_are_read_not_of_some(tmp_path: Path) -> None:
    values = {f"{place:03}": np.array([[0, 1, 2]]) for place in range(40)}
    root = masks(tmp_path / "street", values)
    Image.fromarray(np.full((1, 3), 9, np.uint8)).save(root / "labels/001.png")
    assert check(root).fault_count == 1


def test_the_lines_of_an_index_are_told(tmp_path: Path) -> None:
    root = write_random_set(tmp_path / "set", 5)
    (root / "images/part0/000.jpg").unlink()
    Image.fromarray(code(np.full((8, 6), 999))).save(root / "images/part1/001_color_1.png")
    found = check(root)
    first, second = found.faults
    assert first.startswith("part0/000.jpg: index.csv, line 2: 000.jpg: cannot be read")
    assert "001_color_1.png: the mask holds the value 999" in second


def invoke(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["concepts", "check", *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_the_command_ends_with_1_if_anything_is_broken(tmp_path: Path) -> None:
    root = masks(tmp_path / "street", {"a": np.array([[0, 1, 2]]), "b": np.array([[1, 1, 1]])})
    ended, said, _ = invoke(str(root))
    assert ended == 0
    assert "nothing is broken" in said
    assert "labels of 2 of 2 were read" in said
    (root / "labels/b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    ended, said, errors = invoke(str(root))
    assert ended == 1
    assert "1 fault" in said
    assert "b.png: its mask b.png cannot be used" in errors


def test_a_folder_that_is_no_set(tmp_path: Path) -> None:
    ended, said, errors = invoke(str(tmp_path / "nothing"))
    assert ended == 1
    assert "format: none that is known" in said
    assert "no folder" in errors


@pytest.mark.parametrize("name", ["a" * 300, "~nobody-here/x", "street/classes.txt", "\n"])
def test_what_is_no_folder(tmp_path: Path, name: str) -> None:
    masks(tmp_path / "street", {"a": np.array([[0, 1, 2]])})
    ended, _, errors = invoke(f"{tmp_path}/{name}")
    assert ended == 1
    assert "no folder" in errors or "too long" in errors
    with pytest.raises(DataError):
        open_set("x", name, tmp_path)


def test_splits_and_categories(tmp_path: Path) -> None:
    write_random_set(tmp_path / "set", 8)
    ended, said, _ = invoke(str(tmp_path / "set"), "--split", "val")
    assert (ended, "labels of 2 of 2 were read" in said) == (0, True)
    assert "and 2" in said  # 290 concepts are not all shown
    assert "concepts more" in said
    assert "label 150" in invoke(str(tmp_path / "set"), "--all")[1]
    (tmp_path / "dtd/dotted").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "dtd/dotted/a.png")
    assert invoke(str(tmp_path / "dtd"), "--category", "texture")[0] == 0
    assert invoke(str(tmp_path / "dtd"))[0] == 1


def test_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    root = masks(tmp_path / "street", {"a": np.array([[0, 1, 2]])}, "void\nsky\x1b[2J\nroad\u202e\n")
    ended, said, _ = invoke(str(root))
    assert ended == 0
    assert "\x1b[2J" not in said
    assert "\u202e" not in said


@pytest.mark.parametrize("seed", range(6))
def test_damaged_sets_never_end_in_a_traceback(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    broden = write_random_set(tmp_path / "broden", 4, seed=seed)
    street = masks(tmp_path / "street", {name: np.array([[0, 1, 2]]) for name in "ab"})
    coco = tmp_path / "coco"
    (coco / "annotations").mkdir(parents=True)
    square = {"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 2, 0, 2, 2]]}
    parts = {"images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}], "annotations": [square],
             "categories": [{"id": 1, "name": "x"}]}  # fmt: skip
    (coco / "annotations/instances_x.json").write_text(json.dumps(parts))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(coco / "a.png")
    for root in (broden, street, coco):
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for _ in range(25):
            path = rng.choice(files)
            kept = path.read_bytes()
            content = bytearray(kept)
            for _ in range(rng.randint(1, 8)):
                if content:
                    content[rng.randrange(len(content))] = rng.choice([0, 10, 34, 44, 45, 46, 47, 59, 57, 92, 255, 123])
            path.write_bytes(bytes(content[: rng.randint(0, len(content))] if rng.random() < 0.3 else content))
            found = check(root)
            assert found.fault_count == len(found.faults)
            path.write_bytes(kept)
        assert check(root).fault_count == 0
