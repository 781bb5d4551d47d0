"""Formulas of concepts: counts by sets of labels, beam search against all formulas, gains by chance."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import onnxviz.model.model
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.counting import Grid, PixelLabels
from onnxviz.analyses.dissection.formulas import AND, AND_NOT, OR, Formula, LabelSets, Search, SetCounts, gains
from onnxviz.core.findings import Note, Table, TileGrid
from onnxviz.core.values import Unit
from onnxviz.data import builtin
from tests.analyses.test_dissection import slow_upsample
from tests.analyses.test_dissection_shards import content, dissect, subject_of

CONCEPTS, UNITS, IMAGES, SIDE = 6, 3, 8, 12
CATEGORIES = np.array([0, 0, 0, 1, 1, 1], np.intp)
ALL = np.ones(CONCEPTS, bool)
NAMES = [Unit("a", unit) for unit in range(UNITS)]
OPERATORS = {AND: lambda a, b: a & b, OR: lambda a, b: a | b, AND_NOT: lambda a, b: a & ~b}


class Made:
    """Images with two layers of labels, and units of which the first follows (0 or 1) and not 3."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 4, (IMAGES, 2, 4, 4))
        coarse[:, 1] += 3 * (coarse[:, 1] > 0)
        self.labels = coarse.repeat(3, axis=2).repeat(3, axis=3).astype(np.int32)
        self.labels[0, 1, :4] = self.labels[0, 0, :4]  # a pixel carries a concept in both layers
        self.activations = rng.normal(size=(IMAGES, UNITS, 4, 4)).astype(np.float32)
        wanted = ((coarse[:, 0] == 1) | (coarse[:, 0] == 2)) & (coarse[:, 1] != 4)
        self.activations[:, 0] = np.where(wanted, 2, -2) + 0.1 * self.activations[:, 0]
        self.thresholds = np.full(UNITS, 0.7)
        self.sets = [LabelSets.of(PixelLabels.of(image, CATEGORIES)) for image in self.labels]

    def owners(self, image: int) -> list[int]:
        return [image, (image + 1) % IMAGES, (image + 3) % IMAGES]

    def counts(self, images: list[int]) -> SetCounts:
        grid = Grid.between((4, 4), (SIDE, SIDE))
        return SetCounts.joined([
            SetCounts.of_image(
                self.activations[image], self.thresholds, [self.sets[owner] for owner in self.owners(image)], grid
            )
            for image in images
        ])  # fmt: skip

    def pixels(self, labelling: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks bool [units, all pixels] and concepts bool [concepts, all pixels], as slow as can be."""
        masks, concepts = [], []
        for image in range(IMAGES):
            maps = [slow_upsample(self.activations[image, unit], (SIDE, SIDE)) for unit in range(UNITS)]
            masks.append([(one > self.thresholds[unit]).ravel() for unit, one in enumerate(maps)])
            labels = self.labels[self.owners(image)[labelling]]
            concepts.append([(labels == concept + 1).any(axis=0).ravel() for concept in range(CONCEPTS)])
        return tuple(np.concatenate(np.array(each), axis=1) for each in (masks, concepts))

    def value(self, formula: Formula, labelling: int) -> np.ndarray:
        """Which pixels a formula means."""
        _, concepts = self.pixels(labelling)
        found = concepts[formula.concepts[0]]
        for operator, concept in zip(formula.operators, formula.concepts[1:], strict=True):
            found = OPERATORS[operator](found, concepts[concept])
        return found


def slow_iou(mask: np.ndarray, where: np.ndarray) -> float:
    return (mask & where).sum() / max(1, (mask | where).sum())


def best_of_all(masks: np.ndarray, concepts: np.ndarray, unit: int, length: int) -> float:
    """The highest IoU of any formula from left to right."""
    best = 0.0
    level = list(concepts)
    for number in range(length):
        best = max(best, max(slow_iou(masks[unit], where) for where in level))
        if number + 1 < length:
            level = [
                join(where, concept) for where, concept, join in itertools.product(level, concepts, OPERATORS.values())
            ]
    return best


class TestCounts:
    def test_any_split_gives_the_same_bytes(self) -> None:
        made = Made(0)
        whole = made.counts(list(range(IMAGES)))
        split = SetCounts.joined([made.counts([5, 2]), made.counts([7, 0, 1, 3, 4, 6])])
        for name in ("sets", "pixels", "inside"):
            assert getattr(whole, name).tobytes() == getattr(split, name).tobytes()
            assert getattr(whole, name).dtype == getattr(split, name).dtype

    def test_they_are_those_of_pixels_one_at_a_time(self) -> None:
        made = Made(1)
        counts = made.counts(list(range(IMAGES)))
        assert counts.pixels.sum() == IMAGES * SIDE * SIDE
        for labelling in range(3):
            masks, concepts = made.pixels(labelling)
            for place, row in enumerate(counts.sets.tolist()):
                has = np.array([concept + 1 in row for concept in range(CONCEPTS)])
                where = (concepts == has[:, None]).all(axis=0)
                assert counts.pixels[place] == where.sum(), "in every shuffle each image's labels are used once"
                for unit in range(UNITS):
                    assert counts.inside[labelling, unit, place] == (masks[unit] & where).sum()


class TestSearch:
    @pytest.mark.parametrize("seed", range(3))
    def test_a_wide_beam_finds_the_best_of_all_formulas(self, seed: int) -> None:
        made = Made(seed)
        search = Search(made.counts(list(range(IMAGES))), ALL)
        for labelling, unit, length in itertools.product((0, 1), range(UNITS), (1, 2, 3)):
            masks, concepts = made.pixels(labelling)
            single, found = search.best(labelling, unit, length, width=1000)
            assert found.iou == pytest.approx(best_of_all(masks, concepts, unit, length), abs=1e-12)
            assert found.iou == pytest.approx(slow_iou(masks[unit], made.value(found, labelling)), abs=1e-12)
            assert single.iou == pytest.approx(best_of_all(masks, concepts, unit, 1), abs=1e-12)
            assert len(found.concepts) <= length

    def test_a_narrow_beam_is_hardly_worse(self) -> None:
        equal = []
        for seed in range(4):
            made = Made(seed)
            search = Search(made.counts(list(range(IMAGES))), ALL)
            for labelling, unit in itertools.product(range(3), range(UNITS)):
                _, narrow = search.best(labelling, unit, 3)
                _, wide = search.best(labelling, unit, 3, width=1000)
                assert narrow.iou <= wide.iou
                assert narrow.iou > 0.9 * wide.iou
                equal.append(narrow.iou == wide.iou)
        assert np.mean(equal) > 0.7

    def test_what_a_unit_follows_is_found(self) -> None:
        made = Made(0)
        _, found = Search(made.counts(list(range(IMAGES))), ALL).best(0, 0, 3)
        meant = made.value(Formula((0, 1, 3), (OR, AND_NOT), 0), 0)
        assert (made.value(found, 0) == meant).all()
        assert set(found.concepts) == {0, 1, 3}

    def test_concepts_that_do_not_count_are_not_used(self) -> None:
        made = Made(0)
        counted = np.array([False, True, True, False, True, True])
        for unit in range(UNITS):
            single, found = Search(made.counts(list(range(IMAGES))), counted).best(0, unit, 3)
            assert not {0, 3} & {*single.concepts, *found.concepts}

    def test_a_unit_without_a_mask_has_no_formula(self) -> None:
        made = Made(0)
        made.thresholds[1] = 100
        assert Search(made.counts([0, 1, 2]), ALL).best(0, 1, 3) is None
        assert [gain.unit.index for gain in gains(NAMES, [made.counts([0, 1]), made.counts([2])], ALL, 3, str)] == [
            0,
            2,
        ]

    def test_an_equally_good_concept_is_preferred(self) -> None:
        made = Made(0)
        made.activations[:, 0] = np.where(made.labels[:, 0, ::3, ::3] == 1, 2, -2)
        counts = made.counts(list(range(1, IMAGES)))
        coarse = SetCounts(counts.sets, counts.pixels, counts.inside.copy())
        coarse.inside[0, 0] = np.where((coarse.sets == 1).any(axis=1), coarse.pixels, 0)
        single, found = Search(coarse, ALL).best(0, 0, 3)
        assert single == found == Formula((0,), (), 1.0)


class TestGains:
    def test_they_stand_beside_those_by_chance(self) -> None:
        made = Made(0)
        counts = made.counts(list(range(IMAGES)))
        halves = [made.counts(list(range(4))), made.counts(list(range(4, IMAGES)))]
        follows, *noise = gains(NAMES, halves, ALL, 3, "abcdef".__getitem__)
        assert follows.formula == "(b or a) and not d"
        assert follows.gain == follows.formula_iou - follows.iou > 0.2
        search = Search(counts, ALL)
        for unit, each in enumerate((follows, *noise)):
            expected = [search.best(labelling, unit, 3) for labelling in (1, 2)]
            assert each.by_chance == tuple(found.iou - single.iou for single, found in expected)
            assert min(each.by_chance) >= 0

    def test_what_one_half_gives_is_tried_on_the_other(self) -> None:
        above = []
        for seed in range(6):
            made = Made(seed)
            halves = [made.counts(list(range(4))), made.counts(list(range(4, IMAGES)))]
            searches = [Search(half, ALL) for half in halves]
            for unit, gain in enumerate(gains(NAMES, halves, ALL, 3, str)):
                expected = []
                for labelling in range(3):
                    pairs = [(*searches[half].best(labelling, unit, 3), searches[1 - half]) for half in range(2)]
                    alone = sum(other.iou(single, labelling, unit) for single, _, other in pairs)
                    together = sum(other.iou(formula, labelling, unit) for _, formula, other in pairs)
                    expected.append((together - alone) / 2)
                assert [gain.on_other_half, *gain.other_by_chance] == pytest.approx(expected, abs=1e-12)
                assert gain.above_chance == (expected[0] > max(0, *expected[1:]))
                above.append(gain.above_chance)
        assert all(above[::UNITS])
        assert np.mean([each for place, each in enumerate(above) if place % UNITS]) < 0.6, "by chance 1 in 3"

    def test_the_iou_of_any_formula(self) -> None:
        made = Made(2)
        search = Search(made.counts(list(range(IMAGES))), ALL)
        rng = np.random.default_rng(0)
        for _ in range(20):
            concepts = tuple(int(each) for each in rng.integers(0, CONCEPTS, 3))
            formula = Formula(concepts, tuple(rng.choice([AND, OR, AND_NOT], 2).tolist()), 0)
            for labelling in range(2):
                expected = slow_iou(made.pixels(labelling)[0][1], made.value(formula, labelling))
                assert search.iou(formula, labelling, 1) == pytest.approx(expected, abs=1e-12)

    def test_words(self) -> None:
        assert Formula((1,), (), 0).words("abc".__getitem__) == "b"
        assert Formula((1, 0), (AND_NOT,), 0).words("abc".__getitem__) == "b and not a"
        assert Formula((1, 0, 2), (AND, OR), 0).words("abc".__getitem__) == "(b and a) or c"


def test_in_shards_and_in_a_report(tmp_path: Path) -> None:
    known = builtin.MODELS["scenes"]
    model = onnxviz.model.model.load(known.path, preprocess=known.preprocessing)
    subject = subject_of(model, 24)
    settings = {"layers": ["conv2", "conv6"], "quantile": 0.01, "label_size": 32, "best_units": 3, "best_images": 1}
    analyses = [Dissection(**settings, least_images=3, formula_length=3, shard=size) for size in (None, 7)]
    first, second = (dissect(each, subject, model, tmp_path / str(each.shard)) for each in analyses)
    assert content(first, tmp_path / "None") == content(second, tmp_path / "7")
    names = [job.name for job in analyses[1].jobs(subject)]
    assert len(set(names)) == len(names)
    assert names[-1] == "layers 1/1 formulas"
    (table,) = [item for item in first if isinstance(item, Table) and item.id == "formulas"]
    assert len(table.rows) == 6
    told = {
        row[0]: "none fits better"
        if row[1] == row[3]
        else f"{row[3]}: {row[4]:.3f}{'' if row[9] == 'yes' else ', not above chance'}"
        for row in table.rows
    }
    for row in table.rows:
        assert row[4] >= row[2] > 0
        assert row[5] == row[4] - row[2]
    for tile in (tile for grid in first if isinstance(grid, TileGrid) for tile in grid.tiles):
        assert dict(tile.facts)["formula"] == told[tile.unit]
    (note,) = [item.text for item in first if isinstance(item, Note) and item.id == "formulas"]
    assert re.match(r"Formulas of up to 3 concepts add 0\.\d{3} to the IoU of the 6 units that are shown", note)
    without = dissect(Dissection(**settings, least_images=3), subject, model, tmp_path / "without")
    kept = [item for item in first if getattr(item, "id", "") not in ("formulas", "best_units")]
    same = [item for item in without if getattr(item, "id", "") != "best_units"]
    assert content(kept, tmp_path / "None") == content(same, tmp_path / "without")
