"""Tests of spurious evidence: values by hand and by enumeration, and how often they raise a false alarm."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from onnxviz.analyses.attribution.coarse_maps import GRID
from onnxviz.analyses.spurious_evidence import statistics
from onnxviz.analyses.spurious_evidence.conclusions import Lies, contrasts, corrected, survival
from onnxviz.analyses.spurious_evidence.looked import REPLACED, Looked
from onnxviz.analyses.spurious_evidence.statistics import Contrast, fisher, fixed_places, holm, mean_interval
from onnxviz.core.shares import Share


def looked(classes: list[int], **given: object) -> Looked:
    """Images of these classes, all named right, of which nothing else is known."""
    count, numbers = len(classes), np.array(classes)
    unknown, none = np.full(count, np.nan), np.zeros((count, 0))
    parts: dict[str, object] = {
        "images": np.arange(count), "classes": numbers, "known": np.ones(count, np.int64), "predicted": numbers,
        "sure": unknown, "coarse": np.full((count, GRID, GRID), 1 / GRID**2), "object_evidence": unknown,
        "object_area": unknown, "evidence": none, "area": none, "inside": none, "donors": np.full(count, -1),
        "replaced": np.full((count, len(REPLACED)), -1),
    }  # fmt: skip
    return Looked(**{**parts, **given})  # type: ignore[arg-type]


def test_fisher_is_the_lady_tasting_tea() -> None:
    assert fisher(Share(3, 4), Share(1, 4)) == pytest.approx(17 / 70)
    assert fisher(Share(4, 4), Share(0, 4)) == pytest.approx(1 / 70)
    assert fisher(Share(0, 4), Share(4, 4)) == pytest.approx(1)


def test_fisher_counts_all_ways_to_deal() -> None:
    """Of all ways to give 4 hits to 9 images, those that give at least 2 to the first 3."""
    ways = [sum(place < 3 for place in hits) for hits in combinations(range(9), 4)]
    assert fisher(Share(2, 3), Share(2, 6)) == pytest.approx(sum(way >= 2 for way in ways) / math.comb(9, 4))


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution_for_many() -> None:
    values = np.random.default_rng(3).normal(0.4, 0.1, 400)
    half = 1.96 * values.std() / 20
    assert mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert mean_interval([0.1, 0.2]) == ()


def test_evidence_beside_area() -> None:
    evidence = np.array([0.9, 0.8, 0.9, 0.8, 0.9, 0.8, np.nan])
    lies = Lies.of(evidence, np.full(7, 0.4))
    assert lies is not None
    assert (lies.evidence, lies.area, lies.images) == pytest.approx((0.85, 0.4, 6))
    assert lies.probability == pytest.approx(2 / 2**6, rel=0.2)  # all six with the same sign, either way
    first, second = corrected([lies, lies])
    assert first is not None
    assert second is not None
    assert first.probability == pytest.approx(2 * lies.probability)
    assert Lies.of(np.full(3, np.nan), np.ones(3)) is None
    few = Lies.of(np.ones(4), np.zeros(4))
    assert few is not None
    assert not few.beyond


def test_survival_counts_what_was_named_right_before() -> None:
    replaced = np.full((4, len(REPLACED)), -1)
    replaced[:, 0] = [1, 0, 1, -1]
    found = survival(looked([1, 1, 1, 1], replaced=replaced, predicted=np.array([1, 1, 0, 1])), np.ones(4, bool))
    assert found == {REPLACED[0]: Share(1, 2)}


def test_a_contrast_is_between_own_images_and_others() -> None:
    """Without their objects 8 of 10 images of class 0 are still called so, and 1 of 20 others."""
    classes = [0] * 10 + [1] * 20
    replaced = np.full((30, len(REPLACED)), -1)
    replaced[:, REPLACED.index("object by image")] = [0] * 8 + [1] * 2 + [0] + [1] * 19
    one = contrasts(looked(classes, replaced=replaced), [0, 1], "gone")["gone", 0]
    assert one is not None
    assert (one.own, one.others) == (Share(8, 10), Share(1, 20))
    assert one.probability == pytest.approx(2 * fisher(Share(8, 10), Share(1, 20)))
    assert one.effect == pytest.approx(0.75)
    assert one.holds(0.7)
    assert not one.holds(0.8)


def test_a_background_is_carried_by_its_donor() -> None:
    """Of objects of class 1, the 6 before a background of class 0 are called so, the 8 before others are not."""
    classes = [0] * 6 + [1] * 6 + [2] * 8
    donors = np.array([-1] * 6 + [0, 1, 2, 3, 4, 5] + [6, 7, 8, 9, 10, 11, 6, 7])
    replaced = np.full((20, len(REPLACED)), -1)
    replaced[6:, REPLACED.index("background by image")] = [0] * 6 + [2] * 8
    one = contrasts(looked(classes, replaced=replaced, donors=donors), [0], "carried")["carried", 0]
    assert one == Contrast(0, Share(6, 6), Share(0, 8), one.probability)  # type: ignore[union-attr]


def test_contrasts_seldom_hold_by_chance() -> None:
    """Of 200 folders in which what is given has nothing to do with classes, one in twenty may hold any."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(200):
        classes = rng.integers(0, 4, 60)
        replaced = np.full((60, len(REPLACED)), -1)
        replaced[:, REPLACED.index("object by image")] = rng.choice(4, 60, p=(0.7, 0.1, 0.1, 0.1))
        found = contrasts(looked(classes.tolist(), replaced=replaced), range(4), "gone")
        alarms += any(one is not None and one.probability < 0.05 for one in found.values())
    assert alarms <= 18  # more than that by chance in less than 1 of 100


def test_a_fixed_place_is_found_where_it_is() -> None:
    maps = np.full((30, GRID, GRID), 0.4 / (GRID**2 - 4))
    maps[:, :2, 6:] = 0.6 / 4
    maps[10:] = 1 / GRID**2
    first, second, third = fixed_places(maps, [0] * 10 + [1] * 10 + [2] * 10)
    assert (first.number, first.top, first.left, first.images) == (0, 0, 6, 10)
    assert (first.own, first.others) == pytest.approx((0.6, 4 / GRID**2))
    assert first.holds(0.5)
    assert not first.holds(0.6)
    assert not second.holds(0.01) or second.effect < 0.05
    assert third.number == 2
    assert fixed_places(maps[:12], [0] * 9 + [1] * 3) == []  # too few of one


def test_fixed_places_seldom_stand_out_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_PERMUTATIONS", 99)
    rng, alarms = np.random.default_rng(1), 0
    for draw in range(200):
        maps = rng.gamma(0.5, size=(24, GRID, GRID))
        maps /= maps.sum(axis=(1, 2), keepdims=True)
        found = fixed_places(maps, np.arange(24) % 3, draw)
        alarms += any(one.probability < 0.05 for one in found)
    assert alarms <= 18
