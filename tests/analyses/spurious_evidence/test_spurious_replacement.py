"""What replaces a part of an image, beside the definitions, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxviz.analyses.attribution.coarse_maps import GRID, coarse
from onnxviz.analyses.spurious_evidence import replacement
from onnxviz.analyses.spurious_evidence.analysis import exchange


def test_smoothing_is_a_weighted_mean_of_what_is_known() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((3, 10, 16)).astype(np.float32)
    known = rng.random((10, 16)) < 0.5
    found = replacement.smoothed(image, known)
    for row, column in ((0, 0), (4, 9), (9, 15)):
        weight, total = 0.0, np.zeros(3)
        for other, place in zip(*np.nonzero(known), strict=True):
            each = math.exp(-(((row - other) / (10 / 8)) ** 2) / 2 - (((column - place) / (16 / 8)) ** 2) / 2)
            weight, total = weight + each, total + each * image[:, other, place]
        assert found[:, row, column] == pytest.approx(total / weight, rel=1e-5)
    assert np.isfinite(replacement.smoothed(image, np.zeros_like(known))).all()


def test_boxes_hide_the_outline_of_each_region() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5, 10:20] = mask[5:15, 10] = True  # an angle of 10 x 10
    mask[30, 30] = True
    found = replacement.boxes(mask)
    wanted = np.zeros_like(mask)
    wanted[4:16, 9:21] = wanted[29:32, 29:32] = True
    assert (found == wanted).all()
    assert not replacement.boxes(np.zeros_like(mask)).any()


def test_tiles_cover_the_area_and_the_edge_an_eighth() -> None:
    rng = np.random.default_rng(1)
    for area in (0.0, 0.25, 0.5, 1.0):
        assert replacement.tiles((64, 32), area, rng).mean() == pytest.approx(area)
    edge = replacement.edge((64, 32))
    assert edge[:8].all()
    assert edge[:, :4].all()
    assert not edge[8:56, 4:28].any()


def test_an_image_that_is_all_edge() -> None:
    """The edge stays as it is; a pixel inside is that as far from the nearest side as folding it brings it."""
    image = np.random.default_rng(4).random((3, 16, 32)).astype(np.float32)  # edges of 2 rows and 4 columns
    found = replacement.mirrored(image)
    edge = replacement.edge((16, 32))
    assert (found[:, edge] == image[:, edge]).all()
    assert (found[:, 2, 16] == image[:, 1, 16]).all()
    assert (found[:, 3, 16] == image[:, 0, 16]).all()
    assert (found[:, 4, 16] == image[:, 0, 16]).all()
    assert (found[:, 12, 16] == image[:, 15, 16]).all()  # the fourth row from below
    assert (found[:, 8, 5] == image[:, 8, 2]).all()  # the sixth column: 0, 1, 2, 3, 3, 2
    assert (found[:, 8, 26] == image[:, 8, 29]).all()


def test_noise_has_mean_and_spread_of_what_is_known() -> None:
    image = np.random.default_rng(2).normal(0.5, 0.05, (3, 64, 64)).astype(np.float32)
    known = np.zeros((64, 64), bool)
    known[:32] = True
    image[:, 32:] = 0
    found = replacement.noise(image, known, np.random.default_rng(3))
    assert found.mean() == pytest.approx(0.5, abs=0.005)
    assert found.std() == pytest.approx(0.05, rel=0.05)


def test_coarse_maps_keep_the_sum_and_split_pixels_between_cells() -> None:
    heat = np.zeros((12, 16))
    heat[1, 0] = 1.0  # row 1 lies half in the first cell of 1.5 rows, half in the second
    found = coarse(heat)
    assert (found[0, 0], found[1, 0], found.sum()) == pytest.approx((0.5, 0.5, 1.0))
    assert found.shape == (GRID, GRID)


@pytest.mark.parametrize("classes", [[0, 0, 0, 1, 1, 1], [0, 1, 2] * 7, [None] * 5, [0, 0, 0, 0, 0, 1, 1]])
def test_parts_come_from_images_of_other_classes(classes: list[int | None]) -> None:
    donors = exchange(classes, 3)
    assert donors == exchange(classes, 3)
    given = [donor for donor in donors if donor >= 0]
    assert len(given) == len(set(given))
    for place, donor in enumerate(donors):
        assert donor != place
        assert donor < 0 or classes[place] is None or classes[place] != classes[donor]
    most = max((classes.count(one) for one in set(classes) - {None}), default=0)
    assert len(given) >= 2 * (len(classes) - most) if 2 * most > len(classes) else len(given) == len(classes)
