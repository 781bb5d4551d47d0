"""Groups of maps within a class: found where there are two kinds of maps, and seldom where there is one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from onnxviz.analyses.attribution.coarse_maps import GRID
from onnxviz.analyses.spurious_evidence.groups import APART, find_groups

ROWS, COLUMNS = np.mgrid[:GRID, :GRID]


def blobs(rng: np.random.Generator, count: int, spread: float, marked: int = 0) -> npt.NDArray[np.float64]:
    """Maps with a blob about the centre of the image, the first ones with one at the upper left instead."""
    places = 3.5 + spread * rng.normal(size=(count, 2))
    places[:marked] = 0.5 + 0.2 * rng.normal(size=(marked, 2))
    made = [np.exp(-((ROWS - row) ** 2 + (COLUMNS - column) ** 2) / 3) for row, column in places]
    maps = np.stack(made) * np.exp(0.3 * rng.normal(size=(count, GRID, GRID)))
    return np.asarray(maps / maps.sum(axis=(1, 2), keepdims=True))


def test_a_group_that_stands_apart_is_found_with_its_members() -> None:
    maps = blobs(np.random.default_rng(0), 40, 0.5, marked=12)
    found = find_groups(maps)
    assert found is not None
    assert found.holds
    assert found.members.tolist() == list(range(12))
    assert found.silhouette >= APART
    assert found.eigenvalues[1] < 0.05  # a second piece hangs loosely
    corrected = find_groups(maps, tests=5)
    assert corrected is not None
    assert corrected.probability == pytest.approx(5 / 101)


def test_a_group_is_found_in_most_draws() -> None:
    rng = np.random.default_rng(4)
    found = [find_groups(blobs(rng, 40, 0.6, marked=12), draw) for draw in range(20)]
    assert sum(one is not None and one.holds for one in found) >= 17


@pytest.mark.parametrize("spread", [0.3, 0.8])
def test_maps_of_one_kind_seldom_have_a_group(spread: float) -> None:
    """The rate of false alarms over 200 draws is within 5 %."""
    rng = np.random.default_rng(5)
    found = [find_groups(blobs(rng, 20, spread), draw) for draw in range(200)]
    assert sum(one is not None and one.holds for one in found) <= 10


def test_evenly_spread_maps_seldom_have_a_group() -> None:
    """Evidence anywhere on a square, without a middle: the hardest of the kinds without groups that are tested."""
    rng, alarms = np.random.default_rng(6), 0
    for draw in range(200):
        maps = blobs(rng, 20, 0.0)
        for place, (row, column) in enumerate(rng.integers(-2, 3, (20, 2))):
            maps[place] = np.roll(maps[place], (row, column), (0, 1))
        found = find_groups(maps, draw)
        alarms += found is not None and found.holds
    assert alarms <= 20


def test_of_few_maps_nothing_is_said() -> None:
    assert find_groups(blobs(np.random.default_rng(0), 15, 0.5)) is None


def test_equal_maps_are_no_groups() -> None:
    found = find_groups(np.full((20, GRID, GRID), 1 / GRID**2))
    assert found is not None
    assert not found.holds
