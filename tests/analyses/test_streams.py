"""Streams over a data set: a sharded analysis as a plug-in would write it, its exactness, and reading ahead."""

from __future__ import annotations

import dataclasses
import importlib
import re
import threading
import warnings
from collections import UserDict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import Field

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.sharding import ExactSum, ShardedAnalysis
from onnxviz.analyses.stream import Batch, Rounds
from onnxviz.core import limits
from onnxviz.core.errors import AnalysisError, DataError, OnnxvizError
from onnxviz.core.findings import Column, Coverage, Finding, Table
from onnxviz.core.values import Layer, Unit
from onnxviz.data.decode import warnings_ignored
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.execution.store import Store
from tests.analyses.test_grad_cam import SIDE, UNIT, detectors

COUNT = 23
PAGE = (Path(onnxviz.__file__).parents[1] / "docs" / "analyses.md").read_text("utf-8")


# --- the worked example ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a layer: for each unit the sum of its means, and the positions at which it is not above zero."""

    sums: ExactSum
    dead: np.ndarray
    positions: int


class Activity(ShardedAnalysis[tuple[Kept, ...]]):
    """How active the units are: the mean activation of each, and at which share of positions it is not above zero."""

    kind: Literal["activity"] = "activity"
    layers: list[str] = Field(description="Layers to look at.")
    results: ClassVar[tuple[type, ...]] = (Kept,)

    def layers_of(self, subject: Subject) -> Sequence[Layer]:
        return subject.view.select(self.layers)

    def map(self, batch: Batch, subject: Subject) -> tuple[Kept, ...]:
        flat = [values.reshape(*values.shape[:2], -1) for values in batch.activations.values()]
        sums = [ExactSum.over_first_axis(values.mean(axis=2, dtype=np.float64)) for values in flat]
        return tuple(
            Kept(total, (values <= 0).sum(axis=(0, 2)), values[:, 0].size)
            for total, values in zip(sums, flat, strict=True)
        )

    def join(self, one: tuple[Kept, ...], other: tuple[Kept, ...]) -> tuple[Kept, ...]:
        return tuple(
            Kept(a.sums + b.sums, a.dead + b.dead, a.positions + b.positions) for a, b in zip(one, other, strict=True)
        )

    def finish(self, whole: tuple[Kept, ...], images: int, subject: Subject) -> list[Finding]:
        columns = (Column("unit", "unit"), Column("mean", "number"), Column("not above zero", "percent"))
        rows = []
        for layer, kept in zip(self.layers_of(subject), whole, strict=True):
            means, dead = kept.sums.values() / images, kept.dead / kept.positions
            rows += [(Unit(layer.name, index), means[index], dead[index]) for index in range(len(means))]
        return [Table("activity", "Activity of the units", columns, tuple(rows))]


# --- what the base gives it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    """A network of colours and a folder of noise."""
    folder = tmp_path_factory.mktemp("stream")
    rng = np.random.default_rng(0)
    for index in range(COUNT):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    model = onnxviz.model.model.load(detectors(folder / "m.onnx"), preprocess=UNIT, device="cpu")
    photos = ImageFolder.find("photos", ["*.png"], folder)
    subject = Subject("model", model.view, model.preprocessing, None, {"photos": photos}, 0)
    return JobContext(subject, model, lambda *_: None)


def stored_parts(analysis: ShardedAnalysis[Any], on: JobContext, store: Store) -> list[list[Any]]:
    """Do the jobs, each with what those before it have stored, and read back what they found."""
    parts, keys, types = [], dict[str, str](), analysis.result_types()
    for number, job in enumerate(analysis.jobs(on.subject)):
        found = {name: store.load(keys[name], arrays=True, types=types) or [] for name in job.needs}
        keys[job.name] = f"{number:032x}"
        store.save(keys[job.name], analysis.run(job, dataclasses.replace(on, found=found)), {}, types=types)
        if not job.intermediate:
            parts.append(store.load(keys[job.name], arrays=True, types=types))
    return [part for part in parts if part is not None]


def test_a_sharded_analysis_is_right_and_the_same_in_any_number_of_shards(on: JobContext, tmp_path: Path) -> None:
    found = []
    for shard in (COUNT, 7, 2, 1):
        analysis = Activity(data="photos", layers=["relu", "half"], shard=shard)
        parts = stored_parts(analysis, on, Store(tmp_path / str(shard)))
        assert len(parts) == -(-COUNT // shard)
        found.append(analysis.combine(parts, on.subject))
        assert found[-1] == analysis.combine(parts[::-1], on.subject)
    assert all(others == found[0] for others in found)
    table, coverage = found[0]
    assert isinstance(table, Table)
    assert coverage == Coverage("images", COUNT, COUNT, "", "coverage.images")
    source = on.subject.data["photos"]
    images = load_batch(source, range(COUNT), on.model.preprocessing, (SIDE, SIDE))  # type: ignore[arg-type]
    layers = on.model.measure(images, ["relu", "half"])
    units = [values[:, unit] for values in layers.values() for unit in range(values.shape[1])]
    for (_, mean, dead), values in zip(table.rows, units, strict=True):
        assert mean == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
        assert dead == np.mean(values <= 0)


def test_images_whose_job_failed_are_not_counted(on: JobContext, tmp_path: Path) -> None:
    analysis = Activity(data="photos", layers=["relu"], shard=8, limit=20)
    parts = stored_parts(analysis, on, Store(tmp_path))
    *_, coverage = analysis.combine(parts[1:], on.subject)
    why = "`limit: 20`, spread evenly; 6 in jobs that failed"
    assert coverage == Coverage("images", 14, COUNT, why, "coverage.images")
    (nothing,) = analysis.combine([], on.subject)
    assert isinstance(nothing, Coverage)
    assert nothing.done == 0


def test_a_stream_by_the_converted_network_sees_the_same(on: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = Activity(data="photos", layers=["half"])
    (expected,) = [finding for finding in _findings(analysis, on) if isinstance(finding, Table)]
    monkeypatch.setattr(Activity, "converted", True)
    (found,) = [finding for finding in _findings(analysis, on) if isinstance(finding, Table)]
    for own, other in zip(found.rows, expected.rows, strict=True):
        np.testing.assert_allclose(own[1:], other[1:], rtol=1e-5)  # type: ignore[arg-type]


def _findings(analysis: Activity, on: JobContext) -> list[Finding]:
    return analysis.combine([analysis.run(job, on) for job in analysis.jobs(on.subject)], on.subject)


# --- several passes -------------------------------------------------------------------------------------------------


@pytest.fixture
def outliers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that docs/analyses.md shows."""
    (code,) = (
        code for code in re.findall(r"```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if "Outliers" in code
    )
    (tmp_path / "documented_outliers.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("documented_outliers").Outliers


def test_a_second_pass_knows_what_the_first_found_of_all_shards(on: JobContext, tmp_path: Path, outliers: Any) -> None:
    found = []
    for shard in (None, 10, 1):
        analysis = outliers(data="photos", layers=["relu", "half"], beyond=1.2, shard=shard)
        parts = stored_parts(analysis, on, Store(tmp_path / str(shard)))
        assert len(parts) == 1
        found.append(analysis.combine(parts, on.subject))
    assert found[0] == found[1] == found[2]
    table, coverage = found[0]
    assert coverage == Coverage("images", COUNT, COUNT, "", "coverage.images")
    images = load_batch(on.subject.data["photos"], range(COUNT), on.model.preprocessing, (SIDE, SIDE))
    layers = on.model.measure(images, ["relu", "half"])
    means = np.concatenate([values.mean(axis=(2, 3), dtype=np.float64) for values in layers.values()], axis=1)
    far = [sum(abs(column - column.mean()) > 1.2 * column.std()) for column in means.T]
    units = [Unit(name, index) for name, values in layers.items() for index in range(values.shape[1])]
    assert table.rows == tuple(zip(units, far, strict=True))
    assert any(far)


def test_the_jobs_of_two_passes_wait_for_the_first_ones_conclusion(on: JobContext, outliers: Any) -> None:
    jobs = list(outliers(data="photos", layers=["relu"], shard=12).jobs(on.subject))
    names = [job.name.removeprefix("layers 1/1 ") for job in jobs]
    assert names == ["images 1/2", "images 2/2", "images joined", "outliers 1/2", "outliers 2/2", "table"]
    needs = [[name.removeprefix("layers 1/1 ") for name in job.needs] for job in jobs]
    assert needs == [[], [], names[:2], [names[2]], [names[2]], names[2:5]]
    assert [job.intermediate for job in jobs] == [True] * 5 + [False]
    assert [job.images for job in jobs] == [11, 12, 0, 11, 12, 0]


def test_a_job_that_concludes_asks_for_one_shard_after_the_other(on: JobContext, outliers: Any) -> None:
    analysis, results = outliers(data="photos", layers=["relu"], shard=8), dict[str, list[Any]]()
    asked: list[str] = []

    class Found(UserDict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            asked.append(name)
            return results[name]

    for job in analysis.jobs(on.subject):
        asked.clear()
        results[job.name] = analysis.run(job, dataclasses.replace(on, found=Found(dict.fromkeys(job.needs))))
        assert asked == list(job.needs)


@pytest.mark.parametrize("kept", [True, False])
def test_all_rounds_give_the_same(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEPT_ACTIVATION_BYTES", 1 << 20 if kept else 0)
    calls: list[tuple[int, ...]] = []

    def measure(pixels: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(tuple(pixels))
        return {"a": pixels[:, None, None, None] * np.ones((1, 2, 3, 3), np.float32)}

    batches = Rounds(lambda images: np.array(images, np.float32), measure, range(100, 120), keep=True)
    rounds = [[(b.images, b.pixels.tolist(), b.activations["a"].tolist()) for b in batches] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert [image for images, pixels, _ in rounds[1] for image in pixels] == list(range(100, 120))
    assert len(calls) == (4 if kept else 7)
    assert batches.of(113)["a"][0, 0, 0, 0] == 113


def test_batches_get_smaller_where_activations_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_ACTIVATION_BYTES", 3 * 4 * 18)
    batches = Rounds(
        np.asarray, lambda pixels: {"a": np.zeros((len(pixels), 2, 3, 3), np.float32)}, range(7), keep=False
    )
    assert [len(batch.images) for batch in batches] == [3, 3, 1]


# --- what is stored -------------------------------------------------------------------------------------------------


def test_what_a_stored_result_must_not_hold_is_refused(on: JobContext, tmp_path: Path) -> None:
    store, analysis = Store(tmp_path), Activity(data="photos", layers=["relu"])
    (job,) = analysis.jobs(on.subject)
    store.save("0" * 32, analysis.run(job, on), {}, types=analysis.result_types())
    with pytest.raises(OnnxvizError, match="no finding is called"):
        store.load("0" * 32)
    store.require("0" * 32)
    with pytest.raises(TypeError, match="Python objects"):
        store.save(
            "1" * 32,
            [dataclasses.replace(analysis.run(job, on)[0], kept=np.array([object()]))],
            {},
            types=analysis.result_types(),
        )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.integers(0, 99))
def test_sums_are_exact_in_any_parts(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)[:, None]
    whole = ExactSum.over_first_axis(array)
    part = cut % len(values)
    joined = ExactSum.over_first_axis(array[part:]) + ExactSum.over_first_axis(array[:part])
    assert np.array_equal(whole.bins, joined.bins)
    assert whole.values().tolist() == [float(sum(map(Fraction, values)))]


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**384])
def test_sums_of_what_is_no_number_are_refused(value: float) -> None:
    with pytest.raises(AnalysisError, match="not finite"):
        ExactSum.over_first_axis(np.array([[1.0], [value]]))


# --- reading ahead --------------------------------------------------------------------------------------------------


class Slow:
    """Images that say which threads have read them, of which one is damaged."""

    name, digest = "slow", ""
    names = tuple(f"{index}.png" for index in range(20))

    def __init__(self, damaged: int = -1) -> None:
        self.damaged = damaged
        self.read_by: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> np.ndarray:
        self.read_by.append((index, threading.current_thread().name))
        if index == self.damaged:
            raise DataError("damaged")
        return np.full((4, 4, 3), index, np.uint8)


def reader(source: Slow, order: Sequence[int]) -> ReadAhead:
    return ReadAhead(source, order, UNIT, (4, 4))


def test_images_are_read_once_in_order_and_never_far_ahead() -> None:
    source, order = Slow(), [*range(10, 20), *range(10)]
    with reader(source, order) as read:
        for start in range(0, 20, 3):
            batch = read(order[start : start + 3])
            assert (batch[:, 0, 0, 0] * 255).round().tolist() == order[start : start + 3]
            assert len(source.read_by) <= min(20, start + 9)
    assert sorted(index for index, _ in source.read_by) == list(range(20))
    assert {name for _, name in source.read_by[3:]} != {threading.main_thread().name}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_images_out_of_turn_again_and_fewer_at_a_time() -> None:
    source = Slow()
    with reader(source, range(20)) as read:
        for images in ([0], [0, 1, 2, 3], [17], [4, 5, 6, 7], [4, 5], [6, 7], [8, 9], [19, 3], [10], [0, 1]):
            assert (read(images)[:, 0, 0, 0] * 255).round().tolist() == images


def test_an_image_that_cannot_be_read_is_told_when_its_turn_comes() -> None:
    with reader(Slow(damaged=5), range(20)) as read:
        read([0, 1, 2])
        with pytest.raises(DataError, match=r"5\.png: damaged"):
            read([3, 4, 5])


def test_warnings_are_back_when_all_threads_are_out() -> None:
    before = list(warnings.filters)
    first, second = warnings_ignored(), warnings_ignored()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert warnings.filters != before
    second.__exit__(None, None, None)
    assert warnings.filters == before
