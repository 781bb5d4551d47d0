"""How well a unit's peak tells whether a concept is in an image: AUC, its interval, and the sample it is of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.dissection import sharding
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.presence import FEWEST_IMAGES, PeakSample, area_under_curve, auc_intervals
from onnxviz.core.findings import Array, Finding, Table, TileGrid
from tests.analyses.test_dissection_chance import Discs, channels


def slow_area(positive: np.ndarray, negative: np.ndarray) -> float:
    """Over all pairs, one at a time."""
    won = sum(1.0 if one > other else 0.5 if one == other else 0.0 for one in positive for other in negative)
    return won / (len(positive) * len(negative))


class TestArea:
    @pytest.mark.parametrize("kind", ["normal", "ties", "relu", "constant"])
    def test_it_is_the_share_of_pairs(self, kind: str) -> None:
        rng = np.random.default_rng(0)
        positive, negative = rng.normal(0.7, 1, 23).astype(np.float32), rng.normal(0, 1, 41).astype(np.float32)
        if kind == "ties":
            positive, negative = np.round(positive), np.round(negative)
        if kind == "relu":
            positive, negative = np.maximum(positive - 0.5, 0), np.maximum(negative - 0.5, 0)
        if kind == "constant":
            positive, negative = 0 * positive, 0 * negative
        found = area_under_curve(positive, negative)
        assert found == pytest.approx(slow_area(positive, negative), abs=1e-12)
        assert found == (0.5 if kind == "constant" else pytest.approx(1 - area_under_curve(negative, positive)))

    def test_the_interval_is_where_the_area_is_z_errors_off(self) -> None:
        values, positive, negative = (
            np.array([0.5, 0.8, 0.97, 0.1]),
            np.array([10.0, 40, 200, 7]),
            np.array([90.0, 40, 5, 7]),
        )
        found = auc_intervals(values, positive, negative)
        for value, m, n, ends in zip(values, positive, negative, found, strict=True):
            for end in ends:
                # Hanley and McNeil's variance with (m + n) / 2 - 1 in place of both m - 1 and n - 1.
                rest = (m + n) / 2 - 1
                variance = end * (1 - end) + rest * (end / (2 - end) + 2 * end**2 / (1 + end) - 2 * end**2)
                variance /= m * n
                assert abs(end - value) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
            assert ends[0] < value < ends[1]

    def test_at_the_ends_it_says_what_so_few_can_say(self) -> None:
        few, many = np.array([5.0, 500]), np.array([5.0, 500])
        low, high = auc_intervals(np.ones(2), few, many).T
        assert high.tolist() == [1, 1]
        assert 0.4 < low[0] < 0.7
        assert 0.98 < low[1] < 1
        assert auc_intervals(np.zeros(2), few, many)[:, 1] == pytest.approx(1 - low)

    def test_nineteen_of_twenty_hold_the_true_area(self) -> None:
        rng = np.random.default_rng(0)
        for shift, m, n in ((0.0, 12, 60), (1.0, 12, 60), (2.0, 30, 30)):
            true = 0.5 * (1 + math.erf(shift / 2))
            found = np.array([
                area_under_curve(rng.normal(shift, 1, m), rng.normal(0, 1, n)) for _ in range(800)
            ])  # fmt: skip
            low, high = auc_intervals(found, np.full(800, float(m)), np.full(800, float(n))).T
            assert 0.93 < ((low <= true) & (true <= high)).mean() < 0.98, shift

    def test_in_a_film_half_the_distance_is_one_image(self) -> None:
        """Of concept and activation that are alike by a quarter 15 images apart, as CamVid's frames are."""
        rng, trials, images, shift = np.random.default_rng(0), 600, 117, 1.0
        near = 0.25 ** (1 / 15)
        series = rng.normal(size=(2, trials, images))
        for place in range(1, images):
            series[..., place] = near * series[..., place - 1] + math.sqrt(1 - near**2) * series[..., place]
        has = series[0] > 0.5
        usable = np.minimum(has.sum(axis=1), (~has).sum(axis=1)) >= FEWEST_IMAGES
        has, peaks = has[usable], series[1][usable] + shift * has[usable]
        found = np.array([area_under_curve(row[there], row[~there]) for row, there in zip(peaks, has, strict=True)])
        true, counts = 0.5 * (1 + math.erf(shift / 2)), (has.sum(axis=1), (~has).sum(axis=1))
        missed = []
        for likeness in (1, 15 / 2):
            low, high = auc_intervals(found, *(np.maximum(1, count / likeness) for count in counts)).T
            missed.append(((true < low) | (high < true)).mean())
        assert missed[0] > 0.3
        assert 0.02 < missed[1] < 0.07


def made(images: int = 40, units: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    has = rng.random((images, 4)) < np.array([0.5, 0.3, 0.05, 1.0])
    maps = rng.normal(size=(images, units, 3, 4)).astype(np.float32)
    maps[:, 0, 1, 1] += 4 * has[:, 0]
    return maps, has


class TestSample:
    def test_any_split_gives_the_same_bytes(self) -> None:
        maps, has = made()
        maps[3, 1] = -0.0
        whole = PeakSample.joined([PeakSample.of(range(40), maps, has)])
        parts = [
            PeakSample.of(part, maps[part], has[part]) for part in ([7, 3], list(range(8, 40)), [], [0, 1, 2, 4, 5, 6])
        ]
        split = PeakSample.joined([PeakSample.joined(parts[2:]), PeakSample.joined(parts[:2])])
        for name in ("images", "peaks", "has"):
            assert getattr(whole, name).tobytes() == getattr(split, name).tobytes()
            assert getattr(whole, name).dtype == getattr(split, name).dtype
        assert (whole.peaks == maps.max(axis=(2, 3))).all()

    def test_each_unit_is_judged_by_its_concept(self) -> None:
        maps, has = made()
        sample = PeakSample.of(range(40), maps, has)
        choices = np.array([0, 1, 3])
        values, intervals = sample.aucs(choices)
        for unit in (0, 1):
            there = has[:, choices[unit]]
            peaks = maps[:, unit].reshape(40, -1).max(axis=1)
            assert values[unit] == pytest.approx(slow_area(peaks[there], peaks[~there]), abs=1e-12)
            assert intervals[unit, 0] < values[unit] < intervals[unit, 1]
        assert values[0] > 0.9
        assert np.isnan(values[2]), "a concept that is in every image cannot be told from its absence"
        assert np.isnan(intervals[2]).all()
        assert has[:, 2].sum() < FEWEST_IMAGES
        assert np.isnan(sample.aucs(np.array([2, 2, 2]))[0]).all()
        alike = sample.aucs(choices, 4.0)[1]
        assert (alike[:2, 1] - alike[:2, 0] > intervals[:2, 1] - intervals[:2, 0]).all()
        quarter = auc_intervals(values[:1], np.array([has[:, 0].sum() / 4]), np.array([(~has[:, 0]).sum() / 4]))
        assert alike[0].tolist() == quarter[0].tolist()


class Lamps(Discs):
    """A lamp in two images of three."""

    def read(self, index: int) -> np.ndarray:
        pixels = super().read(index)
        if index % 3 == 0:
            pixels[:, :, 0] = 0
        return pixels

    def read_labels(self, index: int) -> np.ndarray:
        labels = super().read_labels(index)
        if index % 3 == 0:
            labels[labels == 1] = 5
        return labels


def dissect(folder: Path, data: Discs, **settings: object) -> list[Finding]:
    model = onnxviz.model.model.load(channels(folder / "channels.onnx"), preprocess="unit")
    subject = Subject("m", model.view, model.preprocessing, None, {"discs": data}, 0)
    analysis = Dissection(layers="active", quantile=0.01, iou=0.1, shuffles=12, **settings)
    context = JobContext(subject, model, lambda done, total, note="": None)
    return analysis.combine([analysis.run(job, context) for job in analysis.jobs(subject)], subject)


def units(findings: list[Finding]) -> list[dict[str, object]]:
    table = next(item for item in findings if isinstance(item, Table) and item.id == "units")
    return [dict(zip((column.name for column in table.columns), row, strict=True)) for row in table.rows]


def test_in_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = dissect(tmp_path, Lamps(count=60))
    lamp, corner, _ = units(findings)
    assert (lamp["concept"], lamp["detector"], lamp["AUC"]) == ("lamp", "yes", 1.0)
    assert str(lamp["AUC interval"]).endswith("to 1.000")
    assert (corner["concept"], corner["AUC"], corner["AUC interval"]) == ("corner", None, "")
    (grid,) = [item for item in findings if isinstance(item, TileGrid)]
    facts = {tile.unit.index: dict(tile.facts) for tile in grid.tiles if tile.unit}
    assert facts[0]["AUC"] == f"1.000 ({lamp['AUC interval']})"
    assert "AUC" not in facts[1]
    arrays = next(item for item in findings if isinstance(item, Array)).arrays
    assert arrays["auc"][0] == 1
    assert arrays["auc_interval"].shape == (3, 2)
    monkeypatch.setattr(sharding, "MOST_IMAGES", 6)
    assert units(dissect(tmp_path, Lamps(count=60)))[0]["AUC"] is None, "of six images four have a lamp"
