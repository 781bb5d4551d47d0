"""The pointing game by TorchRay's rule, and energies, beside loops."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from onnxviz.analyses.attribution.localisation import chance, localise, near, usual_tolerance


def torchray_hit(mask: npt.NDArray[np.bool_], point: tuple[int, int], tolerance: float) -> bool:
    """TorchRay's rule (torchray/benchmark/pointing_game.py), by a loop; the point itself always counts."""
    return any(
        (row - point[0]) ** 2 + (column - point[1]) ** 2 < tolerance**2 or (row, column) == point
        for row, column in zip(*mask.nonzero(), strict=True)
    )


@pytest.mark.parametrize("tolerance", [0, 1, 2.5, 5, 15])
def test_places_near_a_mask_are_those_that_torchray_accepts(tolerance: float) -> None:
    mask = np.random.default_rng(0).random((13, 17)) < 0.01
    assert mask.any()
    wanted = [[torchray_hit(mask, (row, column), tolerance) for column in range(17)] for row in range(13)]
    assert (near(mask, tolerance) == np.array(wanted)).all()
    assert not near(np.zeros((4, 4), bool), tolerance).any()


def test_pointing_and_energy() -> None:
    heat = np.zeros((40, 50))
    mask = np.zeros((40, 50), bool)
    mask[10:14, 20:30] = True
    heat[12, 25], heat[30, 5], heat[0, 0] = 3.0, 1.0, -9.0
    found = localise(heat, mask)
    assert (found.pointing, found.energy) == (1.0, 0.75)
    heat[27, 25] = 4.0  # fourteen rows below the mask
    assert localise(heat, mask).pointing == 1.0
    assert localise(heat, mask, tolerance=14).pointing == 0.0
    assert localise(-np.abs(heat), mask).energy != localise(-np.abs(heat), mask).energy  # nothing is positive


def test_an_even_map_has_what_chance_gives() -> None:
    mask = np.zeros((20, 30), bool)
    mask[3:9, 4:11] = True
    found = localise(np.full((20, 30), 0.5), mask, tolerance=3)
    assert (found.pointing, found.energy) == pytest.approx(chance(mask, tolerance=3))
    assert chance(mask, tolerance=0) == (mask.mean(), mask.mean())


def test_the_usual_tolerance_is_torchray_s_at_every_size() -> None:
    assert usual_tolerance((375, 500)) == 15
    assert usual_tolerance((480, 112)) == pytest.approx(0.04 * 112)


def test_what_is_not_finite_is_not_judged() -> None:
    heat = np.zeros((4, 4))
    heat[1, 1] = np.nan
    found = localise(heat, np.eye(4, dtype=bool))
    assert math.isnan(found.pointing)
    assert math.isnan(found.energy)
