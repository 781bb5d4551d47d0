"""The words for where evidence lies name parts of the image that hold it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.analyses.attribution.evidence_places import HALF, Places, connected, find_places

NAMES = ("upper left", "upper centre", "upper right", "middle left", "centre", "middle right", "lower left",
         "lower centre", "lower right")  # fmt: skip


def part(name: str, heat: np.ndarray) -> np.ndarray:
    """The pixels of a part of the image."""
    row, column = divmod(NAMES.index(name), 3)
    rows, columns = (np.arange(size) * 3 // size for size in heat.shape)
    chosen: np.ndarray = heat[np.ix_(rows == row, columns == column)]
    return chosen


def blob(heat: np.ndarray, row: float, column: float, height: float, width: float = 0.04) -> None:
    y, x = np.mgrid[: heat.shape[0], : heat.shape[1]]
    y, x = (y + 0.5) / heat.shape[0], (x + 0.5) / heat.shape[1]
    heat += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))


def test_one_region_in_one_part() -> None:
    heat = np.zeros((90, 120))
    blob(heat, 0.15, 0.85, 3.0)
    found = find_places(heat)
    assert found is not None
    assert (found.parts, found.regions) == (("upper right",), 1)
    assert found.sentence == f"lies at the upper right and covers {found.extent:.0%} of the image"


def test_two_places_are_not_their_middle() -> None:
    """The centre of mass of two opposite corners is the centre, where nothing is."""
    heat = np.zeros((120, 120))
    blob(heat, 0.15, 0.15, 1.0)
    blob(heat, 0.85, 0.85, 0.8)
    found = find_places(heat)
    assert found is not None
    assert found.parts == ("upper left", "lower right")
    assert found.words == "several places: upper left (the strongest) and lower right"
    assert "lies in several places" in found.sentence


def test_a_region_that_reaches_into_another_part() -> None:
    heat = np.zeros((90, 90))
    heat[10:20, 10:55] = 1.0
    heat[12, 12] = 2.0
    found = find_places(heat)
    assert found is not None
    assert found.regions == 1
    assert found.parts == ("upper left", "upper centre")
    assert found.words == "one region: upper left (the strongest) and upper centre"


def test_most_of_the_image_and_nothing() -> None:
    found = find_places(np.ones((30, 30)))
    assert found == Places(found.parts, 1, 1.0) if found else False
    assert found is not None
    assert "most of the image" in found.words
    assert "most of the image (100%) and is strongest at the centre" in found.sentence
    assert find_places(np.zeros((30, 30))) is None


def test_a_plateau_at_the_border_is_named_by_its_inner_end() -> None:
    """A map of one row is enlarged to equal rows: nothing speaks for the upper edge."""
    found = find_places(np.repeat([[0.0, 0.1, 1.0]], 9, axis=0).repeat(3, axis=1))
    assert found is not None
    assert found.parts[0] == "middle right"


@pytest.mark.parametrize("seed", range(300))
def test_the_parts_named_hold_the_evidence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heat = rng.random(tuple(rng.integers(1, 60, 2))) ** rng.integers(1, 8)
    if seed % 3:
        heat = np.zeros((int(rng.integers(3, 80)), int(rng.integers(3, 80))))
        for _ in range(int(rng.integers(1, 5))):
            blob(heat, *rng.random(2), float(rng.uniform(0.3, 1)), float(rng.uniform(0.03, 0.3)))
    found = find_places(heat)
    assert found is not None
    highest = heat.max()
    assert part(found.parts[0], heat).max() == highest
    for name in found.parts:
        assert part(name, heat).max() >= HALF * highest
    assert len(set(found.parts)) == len(found.parts)
    labels, count = connected(heat >= HALF * highest)
    assert found.regions == count
    for region in range(1, count + 1):  # no region is left out but those whose maximum another part's words cover
        inside = np.where(labels == region, heat, 0)
        assert any(part(name, inside).max() == inside.max() for name in found.parts)


@pytest.mark.parametrize("seed", range(20))
def test_regions_are_those_of_a_flood(seed: int) -> None:
    rng = np.random.default_rng(seed)
    marked = rng.random((int(rng.integers(1, 25)), int(rng.integers(1, 25)))) < rng.uniform(0.1, 0.7)
    labels, count = connected(marked)
    expected = np.zeros(marked.shape, np.int64)
    number = 0
    for start in zip(*np.nonzero(marked), strict=True):
        if expected[start]:
            continue
        number += 1
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            if not (0 <= row < marked.shape[0] and 0 <= column < marked.shape[1]):
                continue
            if marked[row, column] and not expected[row, column]:
                expected[row, column] = number
                waiting += [(row + y, column + x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    np.testing.assert_array_equal(labels, expected)
    assert count == number
