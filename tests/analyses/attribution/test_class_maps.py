"""Mean maps of classes: of which images, on which scale, and in the analysis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import onnxviz
from onnxviz.analyses.attribution.class_maps import FEWEST, MOST, ClassMaps
from onnxviz.analyses.attribution.coarse_maps import GRID
from onnxviz.analyses.attribution.pictures import coarse_evidence
from onnxviz.core.findings import TileGrid
from tests.analyses.test_grad_cam import CLASSES, detectors, squares


def delta(row: int, column: int) -> np.ndarray:
    found = np.zeros((GRID, GRID))
    found[row, column] = 1.0
    return found


BLANK = np.zeros((GRID, GRID))


def test_means_are_of_the_maps_that_hold_evidence() -> None:
    one = ClassMaps.of(["a", "b"], [(7, np.stack([delta(0, 0), BLANK])), (7, np.stack([delta(0, 1), delta(5, 5)]))])
    other = ClassMaps.of(["b"], [(7, delta(5, 5)[None]), (2, delta(1, 1)[None])])
    joined = ClassMaps.join([one, other])
    assert (joined.methods, joined.numbers, joined.images) == (("a", "b"), (2, 7), (1, 3))
    assert joined.counts.tolist() == [[0, 1], [2, 2]]
    (matrix,) = joined.findings({2: "two", 7: "seven"}, "class")
    (row,) = matrix.tiles  # a single image of the other class
    assert (row.title, row.facts[0]) == ("seven", ("images", 3))
    assert row.facts[1] == ("left out, without a map or positive evidence", "a 1, b 1")
    assert "1 with fewer than 3 images is left out" in matrix.description
    assert "a: 0 to 50.0%, b: 0 to 100.0%" in matrix.description
    first, second = (picture.pixels for picture in row.pictures)
    assert first is not None
    assert second is not None
    side = first.shape[0] // GRID
    assert (first[0, 0] == first[0, side]).all()
    assert first[0, 0].sum() > first[-1, -1].sum()
    assert second[5 * side, 5 * side].sum() > second[0, 0].sum()


def test_the_classes_of_most_images_are_shown() -> None:
    explained = [(number, delta(0, 0)[None]) for number in range(MOST + 5) for _ in range(FEWEST + number % 3)]
    (matrix,) = ClassMaps.of(["a"], explained).findings({n: f"class {n}" for n in range(99)}, "class")
    counts = [row.facts[0][1] for row in matrix.tiles]
    assert len(counts) == MOST
    assert counts == sorted(counts, reverse=True)
    assert "5 more with fewer images are not shown" in matrix.description
    assert list(ClassMaps.of(["a"], explained[: FEWEST - 1]).findings({0: "0"}, "class")) == []


@pytest.mark.parametrize("side", [2, 7, 64])
def test_coarse_evidence_is_of_what_speaks_for_the_target(side: int) -> None:
    values = torch.full((side, side), -1.0)
    values[: side // 2] = 3.0
    found = coarse_evidence(values, (64, 64))
    assert found.sum() == pytest.approx(1)
    assert found[: GRID // 2 - 1].sum() > 0.7
    assert coarse_evidence(-values.relu(), (64, 64)).sum() == 0


def test_the_analysis_shows_where_a_class_lies(tmp_path: Path) -> None:
    model = onnxviz.load(detectors(tmp_path / "m.onnx"), "unit", labels=list(CLASSES), device="cpu")
    source = squares(tmp_path, count=FEWEST)
    found = model.attribute(source, ["red", "blue", "not red"], "grad_cam", "relu", faithfulness=None)
    (matrix,) = (one for one in found.findings if isinstance(one, TileGrid) and one.id == "class_maps")
    assert "what speaks for it, in" in matrix.description
    other = model.attribute(source, ["red"], "grad_cam", "relu", against="blue", faithfulness=None)
    (gaps,) = (one for one in other.findings if isinstance(one, TileGrid) and one.id == "class_maps")
    assert "what speaks for it and not for the class that it is explained against" in gaps.description
    rows = {row.title: row for row in matrix.tiles}
    assert rows["not red"].facts[1] == ("left out, without a map or positive evidence", f"Grad-CAM {FEWEST}")
    for title, (top, left) in {"red": (1, 5), "blue": (6, 1)}.items():  # cells of 4 pixels within the squares
        (picture,) = rows[title].pictures
        assert picture.pixels is not None
        side = picture.pixels.shape[0] // GRID
        lights = picture.pixels[::side, ::side].sum(axis=2)
        assert np.unravel_index(lights.argmax(), lights.shape) == (top, left)
