"""Parts and halves of the images: intervals of IoUs, and detectors that either half confirms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.chance import Exchange
from onnxviz.analyses.dissection.counting import Grid, Overlap, PixelLabels, count_image, count_type
from onnxviz.analyses.dissection.fit import _STUDENT, MOST_PARTS, Fit, LayerCounts, part_count, ratio_intervals
from onnxviz.analyses.dissection.presence import PeakSample
from onnxviz.core.findings import Caveat, Finding, Metric, Note, Table, TileGrid
from tests.analyses.test_dissection import slow_upsample
from tests.analyses.test_dissection_chance import Discs, Film, channels

IMAGES, UNITS, SHUFFLES, LIMIT, LEAST = 24, 6, 4, 0.15, 5
CATEGORIES = np.array([0, 0, 0, 1], np.intp)
NO_SAMPLE = PeakSample.of([], np.zeros((0, UNITS, 1, 1), np.float32), np.zeros((0, 4), bool))


@dataclass
class Made:
    """Activations and labels in which some units follow a concept, on all images or on half of them."""

    seed: int
    parts: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        coarse = rng.integers(0, 4, (IMAGES, 4, 4))
        other = 4 * (rng.random((IMAGES, 4, 4)) < 0.3)
        self.labels = np.stack([coarse, other], axis=1).repeat(3, axis=2).repeat(3, axis=3).astype(np.int32)
        self.exchange = Exchange.of(range(IMAGES), SHUFFLES, self.seed)
        self.activations = rng.normal(size=(IMAGES, UNITS, 4, 4)).astype(np.float32)
        first = [image for place, image in enumerate(self.exchange.order) if place < IMAGES // 2]
        self.activations[:, 0] += 3 * (coarse == 1)
        self.activations[:, 1] += 3 * (other == 4)
        self.activations[first, 2] += 4 * (coarse[first] == 2)
        rest = sorted(set(range(IMAGES)) - set(first))
        self.activations[rest, 2] += 4 * (coarse[rest] == 3)
        self.thresholds = np.full(UNITS, 1.5)

    def counts(self, images: list[int], kind: type = np.int64) -> LayerCounts:
        """What a pass counts of some images."""
        counts = LayerCounts.empty(self.parts, SHUFFLES, UNITS, CATEGORIES, kind)
        prepared = [PixelLabels.of(image, CATEGORIES) for image in self.labels]
        for place, image in enumerate(self.exchange.order):
            if image in images:
                given = [prepared[owner] for owner in self.exchange.owners(place)]
                grid = Grid.between((4, 4), (12, 12))
                count_image(*counts.at(place, IMAGES), self.activations[image], self.thresholds, given, grid)
        return counts

    def slow_ious(self, places: list[int], shuffle: int = 0) -> np.ndarray:
        """IoU of all units and concepts, [units, concepts], over the images at some places, by loops over pixels."""
        both, either = np.zeros((2, UNITS, len(CATEGORIES)))
        for place in places:
            owners = self.exchange.owners(place)
            labels = self.labels[owners[shuffle]]
            pixels = [(labels == concept + 1).any(axis=0) for concept in range(len(CATEGORIES))]
            has = {CATEGORIES[concept] for concept, where in enumerate(pixels) if where.any()}
            for unit in range(UNITS):
                mask = slow_upsample(self.activations[owners[0], unit], (12, 12)) > self.thresholds[unit]
                for concept, where in enumerate(pixels):
                    if CATEGORIES[concept] in has:
                        both[unit, concept] += (mask & where).sum()
                        either[unit, concept] += (mask | where).sum()
        return both / np.maximum(1, either)

    def slow_names(self, places: list[int], shuffle: int = 0) -> tuple[np.ndarray, np.ndarray]:
        ious = self.slow_ious(places, shuffle)
        return ious.argmax(axis=1), ious.max(axis=1)


HALVES = [list(range(IMAGES // 2)), list(range(IMAGES // 2, IMAGES))]


class TestParts:
    @pytest.mark.parametrize("images", [1, 2, 3, 7, 8, 30, 1000])
    def test_parts_are_even_and_make_two_halves(self, images: int) -> None:
        parts = part_count(images, 1)
        assert parts % 2 == 0
        assert 2 <= parts <= max(2, min(MOST_PARTS, images))
        counts = LayerCounts.empty(parts, 1, 1, np.zeros(1, np.intp), np.int64)
        found = [counts.at(place, images) for place in range(images)]
        numbers = [counts.parts.index(part) for part, _ in found]
        assert numbers == sorted(numbers)
        sizes = np.bincount(numbers, minlength=parts)
        assert sizes.max() - sizes.min() <= 1
        for number, (_, half) in zip(numbers, found, strict=True):
            assert half is counts.halves[number >= parts // 2]

    def test_a_part_of_a_film_is_as_long_as_its_images_are_alike(self) -> None:
        assert part_count(117, 15) == 6
        assert part_count(1000, 15) == MOST_PARTS
        assert part_count(20, 15) == 2
        for images in (100, 160, 400):
            assert images / part_count(images, 9) >= 9

    def test_counts_add_up_and_fit_a_smaller_type(self) -> None:
        made = Made(0, 6)
        whole = made.counts(list(range(IMAGES)))
        split = made.counts([3, 5, 20], np.int32) + made.counts([*range(3), 4, *range(6, 20), 21, 22, 23], np.int32)
        for name in ("both", "unit", "concept"):
            for one, other in ((whole.parts, split.parts), (whole.halves, split.halves)):
                for a, b in zip(one, other, strict=True):
                    assert (getattr(a, name) == getattr(b, name)).all()
        assert Overlap.whole(split.parts).both.dtype == np.int64
        assert Fit.of(whole, NO_SAMPLE, LEAST).ious == pytest.approx(made.slow_ious(HALVES[0] + HALVES[1]), abs=1e-12)
        assert count_type(2**30 - 1) is np.int32
        assert count_type(2**30) is np.int64


class TestHalves:
    @pytest.mark.parametrize("seed", range(4))
    def test_they_are_those_of_a_slow_version(self, seed: int) -> None:
        made = Made(seed, 4)
        fit = Fit.of(made.counts(list(range(IMAGES))), NO_SAMPLE, LEAST)
        names, _ = made.slow_names(HALVES[0] + HALVES[1])
        expected = np.ones(UNITS, bool)
        by_chance = np.ones((SHUFFLES, UNITS), bool)
        whole = np.stack([made.slow_names(HALVES[0] + HALVES[1], shuffle + 1)[0] for shuffle in range(SHUFFLES)])
        for half in HALVES:
            own, best = made.slow_names(half)
            shuffled = [made.slow_names(half, shuffle + 1) for shuffle in range(SHUFFLES)]
            levels = np.stack([ious for _, ious in shuffled])
            expected &= (own == names) & (best >= LIMIT) & (best > levels.max(axis=0))
            for shuffle in range(SHUFFLES):
                others = np.delete(levels, shuffle, axis=0).max(axis=0)
                by_chance[shuffle] &= shuffled[shuffle][0] == whole[shuffle]
                by_chance[shuffle] &= (levels[shuffle] >= LIMIT) & (levels[shuffle] > others)
        assert fit.confirmed(LIMIT).tolist() == expected.tolist()
        assert fit.confirmed_by_chance(LIMIT).tolist() == by_chance.tolist()
        assert fit.confirmed(LIMIT)[:3].tolist() == [True, True, False], (
            "the third follows another concept on each half"
        )
        assert not fit.confirmed(0.999).any()

    def test_without_shuffles_nothing_is_confirmed(self) -> None:
        counts = Made(0, 4).counts(list(range(IMAGES)))
        alone = LayerCounts(counts.parts, LayerCounts.empty(4, 0, UNITS, CATEGORIES, np.int64).halves)
        assert not Fit.of(alone, NO_SAMPLE, LEAST).confirmed(LIMIT).any()


class TestIntervals:
    def test_they_are_those_of_a_loop(self) -> None:
        made = Made(1, 6)
        fit = Fit.of(made.counts(list(range(IMAGES))), NO_SAMPLE, LEAST)
        intervals = fit.intervals()
        places = [list(range(4 * part, 4 * part + 4)) for part in range(6)]
        for unit, choice in enumerate(fit.choices.tolist()):

            def odds(left_out: int | None, unit: int = unit, choice: int = choice) -> float:
                both = either = 0
                for part, inside in enumerate(made.counts(list(range(IMAGES))).parts):
                    if part != left_out:
                        both += int(inside.both[unit, choice])
                        either += int(inside.unit[unit, CATEGORIES[choice]] + inside.concept[choice])
                return math.log((both + 0.5) / (either - 2 * both + 0.5))

            values = [odds(part) for part in range(len(places))]
            mean = sum(values) / 6
            reach = 2.5706 * math.sqrt(5 / 6 * sum((value - mean) ** 2 for value in values))
            expected = [1 / (1 + math.exp(-(odds(None) + sign * reach))) for sign in (-1, 1)]
            assert intervals[unit] == pytest.approx(expected, rel=1e-12)
            assert intervals[unit, 0] <= fit.ious[unit, choice] <= intervals[unit, 1]

    def test_nineteen_of_twenty_hold_the_true_ratio(self) -> None:
        """Of 120 images, of which a tenth has the concept, with areas that differ much and masks that go with them."""
        rng = np.random.default_rng(0)
        trials, images, parts = 2000, 120, 20
        there = rng.random((trials, images)) < 0.1
        concept = np.where(there, np.exp(rng.normal(5, 0.7, there.shape)), 0)
        hit = np.where(there, rng.beta(0.6, 3, there.shape), 0) * concept
        mask = hit + np.exp(rng.normal(3, 1, there.shape))
        area = 0.1 * math.exp(5 + 0.7**2 / 2)
        true = area / 6 / (area + math.exp(3 + 1 / 2))
        both = np.round(hit).astype(int).reshape(trials, parts, -1).sum(axis=2).T
        either = np.round(concept + mask - hit).astype(int).reshape(trials, parts, -1).sum(axis=2).T
        low, high = ratio_intervals(both, either).T
        assert 0.925 < ((low <= true) & (true <= high)).mean() < 0.97
        assert (true < low).mean() < 0.05
        assert (true > high).mean() < 0.06

    def test_at_the_ends_and_of_few_parts(self) -> None:
        ones = np.full((6, 1), 50)
        assert ratio_intervals(ones, ones)[0].tolist() == pytest.approx([0.998, 1], abs=2e-3)
        assert ratio_intervals(ones, ones)[0, 1] == 1
        assert ratio_intervals(0 * ones, ones)[0].tolist() == pytest.approx([0, 0.002], abs=2e-3)
        assert np.isnan(ratio_intervals(ones[:2], ones[:2])).all()
        one_part = ratio_intervals(np.array([[60], [0], [0], [0]]), np.full((4, 1), 100))[0]
        assert one_part[0] < 0.01, "what rests on one part may as well be nothing"
        assert one_part[1] > 0.5

    @pytest.mark.parametrize("degrees", sorted(_STUDENT))
    def test_quantiles_are_students(self, degrees: int) -> None:
        at = np.linspace(-400, _STUDENT[degrees], 2_000_001)
        density = (1 + at * at / degrees) ** (-(degrees + 1) / 2)
        scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
        area = scale * float(((density[1:] + density[:-1]) / 2).sum()) * (at[1] - at[0])
        assert area == pytest.approx(0.975, abs=3e-5)


@dataclass
class Changing(Film):
    """What shines is a lamp in the first half of the film, and in the second one something else."""

    def read_labels(self, index: int) -> np.ndarray:
        labels = super().read_labels(index)
        if index >= self.count // 2:
            labels[labels == 1] = 5
        return labels


class TestInAReport:
    def dissect(self, folder: Path, data: Discs, **settings: object) -> list[Finding]:
        model = onnxviz.model.model.load(channels(folder / "channels.onnx"), preprocess="unit")
        subject = Subject("m", model.view, model.preprocessing, None, {"discs": data}, 0)
        analysis = Dissection(layers="active", quantile=0.0155, iou=0.1, shuffles=12, **settings)
        context = JobContext(subject, model, lambda done, total, note="": None)
        return analysis.combine([analysis.run(job, context) for job in analysis.jobs(subject)], subject)

    def rows(self, findings: list[Finding], table: str) -> list[dict[str, object]]:
        found = next(item for item in findings if isinstance(item, Table) and item.id == table)
        names = [column.name for column in found.columns]
        return [dict(zip(names, row, strict=True)) for row in found.rows]

    def test_a_name_that_one_half_gives_is_not_confirmed(self, tmp_path: Path) -> None:
        for data, confirmed, said, title in (
            (Film(), 1, "It is confirmed: it detects that concept on either half of the images (by chance 0).",
             "lamp (active:0)"),
            (Changing(), 0, "It is not confirmed on the other half of the images (by chance 0).",
             "lamp, not confirmed on the other half (active:0)"),
        ):  # fmt: skip
            findings = self.dissect(tmp_path, data)
            unit = self.rows(findings, "units")[0]
            assert (unit["concept"], unit["detector"]) == ("lamp", "yes")
            assert unit["halves"] == ("confirmed" if confirmed else "not confirmed on the other half")
            low, high = map(float, str(unit["interval"]).split(" to "))
            assert low < unit["IoU"] < high
            assert (high - low > 0.3) == (not confirmed)
            (metric,) = [item for item in findings if isinstance(item, Metric) and item.name == "confirmed_detectors"]
            assert (metric.value, metric.total, metric.chance) == (confirmed, 3, (0, 0))
            (note,) = [item.text for item in findings if isinstance(item, Note)]
            assert said in note
            assert self.rows(findings, "layers")[0]["confirmed"] == confirmed
            (lamp,) = [row for row in self.rows(findings, "concepts") if row["concept"] == "lamp"]
            assert lamp["confirmed"] == confirmed
            (tile,) = [
                item for grid in findings if isinstance(grid, TileGrid) for item in grid.tiles if item.title == title
            ]
            assert dict(tile.facts)["halves"] == unit["halves"]

    def test_of_few_images_there_is_no_interval(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs(count=3), least_images=1)
        assert self.rows(findings, "units")[0]["interval"] == ""
        (caveat,) = [item for item in findings if isinstance(item, Caveat) and item.id == "no_interval"]
        assert "only 2 independent pieces" in caveat.text
        assert not [item for item in self.dissect(tmp_path, Discs()) if getattr(item, "id", "") == "no_interval"]
