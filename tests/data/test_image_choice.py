"""Which images are meant, and which class they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxviz.core.errors import DataError, SelectionError
from onnxviz.data.image_choice import choose_images, own_class
from onnxviz.data.images import ImageFolder


def squares(folder: Path, count: int = 1) -> ImageFolder:
    for index in range(count):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / f"square{index}.png")
    return ImageFolder.find("photos", ["*.png"], folder)


def test_a_name_that_two_classes_share_is_decided_by_the_number(tmp_path: Path) -> None:
    source = squares(tmp_path)
    (tmp_path / "labels.csv").write_text("file,class_index,name\nsquare0.png,2,crane\n")
    assert own_class(source, 0, ("crane", "lion", "crane")) == 2
    assert own_class(source, 0, None) == 2
    assert own_class(source, 0, ("crane", "lion")) == 0
    with pytest.raises(SelectionError, match="crane"):
        own_class(source, 0, ("lion", "bird", "stork"))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, [0, 1, 2, 3]),
        (2, [2]),
        ("square1.png", [1]),
        ("square3", [3]),
        ("square[02]*", [0, 2]),
        ([3, "square1", 3], [3, 1]),
    ],
)
def test_images_are_chosen_by_index_name_or_glob(tmp_path: Path, choice: Any, expected: list[int]) -> None:
    assert choose_images(squares(tmp_path, 4), choice, 10) == expected


@pytest.mark.parametrize(
    ("choice", "words"),
    [(4, "no image 4"), (-1, "no image -1"), ("squar1", "square1"), ([], "no image is chosen"), ("*x*", "globs")],
)
def test_images_that_do_not_exist_are_refused(tmp_path: Path, choice: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        choose_images(squares(tmp_path, 4), choice, 10)
    assert words in str(caught.value)


def test_a_name_in_two_folders_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        squares(tmp_path / folder)
    source = ImageFolder.find("photos", ["**/*.png"], tmp_path)
    assert choose_images(source, "b/square0.png", 10) == [1]
    with pytest.raises(DataError, match="fits 2 images") as caught:
        choose_images(source, "square0", 10)
    assert "a/square0.png" in str(caught.value)
