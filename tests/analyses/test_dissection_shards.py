"""Network dissection in shards: every split of the images gives the result of one pass, to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxviz.model.model
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.analyses.dissection import sharding
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.chance import Likeness
from onnxviz.analyses.dissection.counting import Grid, Overlap, count_overlap
from onnxviz.analyses.dissection.results import GroupResult
from onnxviz.analyses.dissection.sharding import Setting
from onnxviz.analyses.dissection.thresholds import BestImages, LargestValues
from onnxviz.analyses.sharding import SHARD_IMAGES, map_size, shard_bounds, shard_count
from onnxviz.core import limits
from onnxviz.core.findings import Finding, TileGrid, replace_leaves
from onnxviz.data import builtin
from onnxviz.data.concepts import MaskFolder
from onnxviz.execution.execute import run_file
from onnxviz.execution.store import Store, key_of
from onnxviz.graph import open_model

# --- the parts, on made-up activations ------------------------------------------------------------------------------

COUNTS = ("both", "unit", "concept", "images", "pixels")


@st.composite
def split_activations(draw: st.DrawFn) -> tuple[np.ndarray, list[list[int]]]:
    """Activations [images, units, h, w] of some kind, and their images' numbers in shards, in any order."""
    images = draw(st.integers(1, 12))
    shape = (images, draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    values = rng.normal(size=shape).astype(np.float32)
    kind = draw(st.sampled_from(["normal", "relu", "ties", "constant", "signed zeros"]))
    if kind == "relu":
        values = np.maximum(values - 1, 0)
    elif kind == "ties":
        values = np.round(values)
    elif kind == "constant":
        values = np.full(shape, 0.1, np.float32)
    elif kind == "signed zeros":
        values = np.where(values > 0, np.float32(0), np.float32(-0.0))
    order = draw(st.permutations(range(images)))
    cuts = sorted(draw(st.lists(st.integers(1, images), max_size=4)))
    shards = [list(order[start:stop]) for start, stop in zip([0, *cuts], [*cuts, images], strict=True) if stop > start]
    return values, shards


def stored(kept: Any, folder: Path) -> Any:
    """What comes back from a file."""
    store, types = Store(folder), Dissection.result_types()
    store.discard("0" * 32)
    store.save("0" * 32, [kept], {}, types=types)
    (found,) = store.load("0" * 32, arrays=True, types=types) or []
    return found


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


class TestMerging:
    @given(split_activations(), st.sampled_from([0.005, 0.05, 0.3, 0.5, 0.95]))
    def test_thresholds_of_any_split_are_those_of_one_pass(
        self, made: tuple[np.ndarray, list[list[int]]], quantile: float
    ) -> None:
        values, shards = made
        units, positions = values.shape[1], values[:, 0].size
        parts = [
            LargestValues.joined([LargestValues.of(values[[image]], positions, quantile) for image in shard])
            for shard in shards
        ]
        one = LargestValues.of(values, positions, quantile).thresholds()
        other = LargestValues.joined(parts).thresholds()
        for name in ("values", "smallest", "largest"):
            assert same_bits(getattr(one, name), getattr(other, name)), name
        assert one.positions == other.positions == positions
        expected = np.quantile(np.moveaxis(values, 1, 0).reshape(units, -1).astype(np.float64), 1 - quantile, axis=1,
                               method="hazen")  # fmt: skip
        assert (other.values == expected).all()

    @given(split_activations(), st.integers(1, 5))
    def test_best_images_of_any_split_are_those_of_one_pass(
        self, made: tuple[np.ndarray, list[list[int]]], count: int
    ) -> None:
        values, shards = made
        merged, *parts = [BestImages.of(values[shard], shard, count) for shard in shards]
        for part in parts:
            merged = merged.join(part)
        expected = np.argsort(-values.max(axis=(2, 3)), axis=0, kind="stable")[:count].T
        assert (merged.images == expected).all()

    @given(split_activations(), st.integers(0, 1 << 32))
    @settings(max_examples=60)
    def test_counts_of_any_split_are_those_of_one_pass(
        self, made: tuple[np.ndarray, list[list[int]]], seed: int
    ) -> None:
        values, shards = made
        images, units = values.shape[:2]
        rng = np.random.default_rng(seed)
        labels = np.asarray(rng.integers(0, 4, (images, 2, 6, 5)) * (rng.random((images, 1, 1, 1)) < 0.7), np.int32)
        categories = np.array([0, 1, 0], np.intp)
        thresholds = rng.normal(size=units)
        grid = Grid.between((values.shape[2], values.shape[3]), (6, 5))
        whole = Overlap.empty(units, categories)
        count_overlap(whole, values, thresholds, labels, grid)
        merged = Overlap.empty(units, categories)
        for shard in shards:
            part = Overlap.empty(units, categories)
            count_overlap(part, values[shard], thresholds, labels[shard], grid)
            merged += part
        for name in COUNTS:
            assert same_bits(getattr(whole, name), getattr(merged, name)), name
        assert same_bits(whole.iou(), merged.iou())

    def test_what_is_stored_comes_back(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).normal(size=(3, 2, 4, 5)).astype(np.float32)
        top, overlap = LargestValues.of(values, 600, 0.1), Overlap.empty(2, np.array([0, 1, 0]))
        (other, images), counts = stored(((top, BestImages.of(values, [4, 7, 1], 2)), overlap), tmp_path)
        assert same_bits(top.top, other.top)
        assert (other.seen, other.positions, other.quantile) == (60, 600, 0.1)
        assert same_bits(LargestValues.joined([top, other]).top, LargestValues.joined([top, top]).top)
        assert images.images.tolist() == BestImages.of(values, [4, 7, 1], 2).images.tolist()
        assert (counts + overlap).both.dtype == np.int64

    def test_a_shard_keeps_no_more_than_the_whole_needs(self) -> None:
        rng = np.random.default_rng(0)
        part = LargestValues.of(rng.normal(size=(5, 2, 20, 20)).astype(np.float32), 10_000, 0.01)
        assert part.top.shape == LargestValues.joined([part, part]).top.shape == (2, 101)
        assert LargestValues.of(np.zeros((5, 2, 20, 20), np.float32), 10_000, 0.3).top.shape == (2, 2_000)

    def test_what_does_not_go_together_is_refused(self) -> None:
        def values(units: int, positions: int, quantile: float = 0.01) -> LargestValues:
            return LargestValues.of(np.zeros((1, units, 2, 2), np.float32), positions, quantile)

        for other in (values(1, 101), values(2, 100), values(1, 100, 0.02)):
            with pytest.raises(ValueError, match="do not go together"):
                LargestValues.joined([values(1, 100), other])
        best = [BestImages.of(np.zeros((1, 1, 2, 2), np.float32), [0], count) for count in (3, 4)]
        with pytest.raises(ValueError, match="4 images of 1 units"):
            best[0].join(best[1])
        for one, other in (([0], [0, 0]), ([0, 0], [0, 1])):
            with pytest.raises(ValueError, match="do not go with"):
                Overlap.empty(1, np.array(one)) + Overlap.empty(1, np.array(other))


# --- the analysis ---------------------------------------------------------------------------------------------------


def dissect(
    analysis: Dissection, subject: Subject, model: onnxviz.model.model.Model, folder: Path, *, last_first: bool = False
) -> list[Finding]:
    """Do the jobs in an order that their needs allow; what one hands to another goes through files."""
    store = Store(folder)
    jobs = list(analysis.jobs(subject))
    keys = {job.name: key_of({"job": job.name}) for job in jobs}
    assert len(keys) == len(jobs)
    waiting = list(reversed(jobs)) if last_first else list(jobs)
    done: set[str] = set()
    while waiting:
        job = next(job for job in waiting if done.issuperset(job.needs))
        found = {name: loaded(store, keys[name]) for name in job.needs}
        given = analysis.run(job, JobContext(subject, model, quiet, found))
        store.save(keys[job.name], given, {}, types=analysis.result_types())
        waiting.remove(job)
        done.add(job.name)
    parts = [store.load(keys[job.name], types=Dissection.result_types()) or [] for job in jobs if not job.intermediate]
    return analysis.combine(parts, subject)


def quiet(done: int, total: int, note: str = "") -> None:
    assert 0 < done <= total


def loaded(store: Store, key: str) -> list[Finding]:
    found = store.load(key, arrays=True, types=Dissection.result_types())
    assert found is not None
    return found


def content(findings: Sequence[Finding], folder: Path) -> list[Any]:
    """The findings with the bytes of their pictures and arrays in place of the files' names."""

    def plain(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("jobs/"):
            return (folder / value).read_bytes()
        if isinstance(value, tuple):
            return tuple(plain(item) for item in value)
        if hasattr(value, "__dataclass_fields__"):
            return type(value).__name__, {
                name: plain(getattr(value, name)) for name in value.__dataclass_fields__ if name not in ("arrays",)
            }
        return repr(value) if isinstance(value, float) else value

    return [plain(finding) for finding in findings]


@pytest.fixture(scope="module")
def model() -> onnxviz.model.model.Model:
    known = builtin.MODELS["scenes"]
    return onnxviz.model.model.load(known.path, preprocess=known.preprocessing)


def subject_of(model: onnxviz.model.model.Model, images: int) -> Subject:
    return Subject("m", model.view, model.preprocessing, None, {"scenes": builtin.scenes(images)}, 0)


class TestTheSameToTheBit:
    SETTINGS: ClassVar = {
        "layers": ["conv2", "relu2", "conv6"],
        "best_units": 2,
        "quantile": 0.01,
        "label_size": 32,
    }

    @pytest.mark.parametrize("layers_apart", [False, True])
    def test_in_shards_of_any_size(
        self,
        model: onnxviz.model.model.Model,
        tmp_path: Path,
        layers_apart: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if layers_apart:
            monkeypatch.setattr(sharding, "_LAYERS_IN_A_JOB", 2)
        subject = subject_of(model, 51)
        analysis = Dissection(**self.SETTINGS)
        assert len(list(analysis.jobs(subject))) == 1 + layers_apart
        results = {}
        for shard in (None, 7, 50):
            folder = tmp_path / str(shard)
            split = analysis.model_copy(update={"shard": shard})
            results[shard] = content(dissect(split, subject, model, folder, last_first=shard == 7), folder)
        assert results[7] == results[None]
        assert results[50] == results[None]
        grids = [fields for kind, fields in results[None] if kind == "TileGrid"]
        assert grids[0]["tiles"], "there are pictures to compare"
        assert any(kind == "Array" for kind, _ in results[None])

    def test_for_some_of_the_images_and_one_in_each_shard(
        self, model: onnxviz.model.model.Model, tmp_path: Path
    ) -> None:
        subject = subject_of(model, 23)
        whole = Dissection(layers="conv6", images=9, best_units=2, best_images=2)
        split = Dissection(layers="conv6", images=9, best_units=2, best_images=2, shard=1)
        assert len(list(split.jobs(subject))) == 9 + 1 + 9 + 1
        expected = content(dissect(whole, subject, model, tmp_path / "a"), tmp_path / "a")
        assert content(dissect(split, subject, model, tmp_path / "b"), tmp_path / "b") == expected

    def test_of_a_film(self, model: onnxviz.model.model.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("onnxviz.analyses.dissection.sharding.likeness", lambda *_: Likeness(0.8, 0.5, 2))
        subject, results = subject_of(model, 13), []
        for shard in (None, 4):
            analysis = Dissection(layers="conv6", best_units=2, best_images=2, shuffles=5, least_images=1, shard=shard)
            findings, folder = dissect(analysis, subject, model, tmp_path / str(shard)), tmp_path / str(shard)
            results.append(content(findings, folder))
        assert results[0] == results[1]
        assert "one that is 2 to 10 places behind it" in str(findings)

    @pytest.mark.zoo
    @pytest.mark.parametrize(
        ("file", "layers"),
        # ONNX Runtime fuses operators of the second: a layer alone has other bits than with those around it.
        [("squeezenet_fp16", ["conv1_1", "fire9/concat*"]), ("ultraface_rfb_320", ["Conv[0]", "Conv[1]", "Relu[1]"])],
    )
    def test_on_a_real_network_and_real_labels(
        self, zoo: Path, shared_data: Path, tmp_path: Path, file: str, layers: list[str]
    ) -> None:
        model = onnxviz.model.model.load(zoo / f"onnx/{file}.onnx")
        data = MaskFolder.find("street", "camvid", shared_data, limit=19)
        subject = Subject("m", model.view, model.preprocessing, None, {"street": data}, 0)
        results = []
        for shard in (None, 7, 18):
            folder = tmp_path / str(shard)
            analysis = Dissection(layers=layers, label_size=56, best_units=2, shard=shard)
            results.append(content(dissect(analysis, subject, model, folder), folder))
            shutil.rmtree(folder)
        assert results[1] == results[0]
        assert results[2] == results[0]


class TestJobs:
    def test_few_images_are_one_job_as_before(self, model: onnxviz.model.model.Model) -> None:
        (job,) = Dissection(layers="conv6").jobs(subject_of(model, SHARD_IMAGES))
        assert (job.name, dict(job.parameters)) == ("layers 1/1", {"layers": ["conv6"]})
        assert (job.needs, job.intermediate, job.cost) == ((), False, SHARD_IMAGES)

    def test_many_images_are_split_unasked(self, model: onnxviz.model.model.Model) -> None:
        subject = subject_of(model, 2 * SHARD_IMAGES + 1)
        jobs = list(Dissection(layers=["conv1", "conv6"]).jobs(subject))
        names = [job.name for job in jobs]
        assert names == [
            *(f"layers 1/1 top values {number}/3" for number in (1, 2, 3)),
            "layers 1/1 thresholds",
            *(f"layers 1/1 counts {number}/3" for number in (1, 2, 3)),
            "layers 1/1 units",
        ]
        assert [job.intermediate for job in jobs] == [True] * 7 + [False]
        assert [job.needs for job in jobs] == [(), (), (), tuple(names[:3]), *[(names[3],)] * 3, tuple(names[3:7])]
        for shards in (jobs[:3], jobs[4:7]):
            bounds = [job.parameters["images"] for job in shards]
            assert bounds == [[0, 667], [667, 1334], [1334, 2001]]
            assert [job.images for job in shards] == [stop - start for start, stop in bounds]
            assert [job.cost for job in shards] == [stop - start for start, stop in bounds]
        assert jobs[3].cost <= 1
        assert all(job.layers == ("conv1", "conv6") and job.data == ("scenes",) for job in jobs)
        assert jobs[-1].images == 2 * 12 * 4

    def test_shards_are_even_and_none_is_larger_than_asked(self) -> None:
        for images in (1, 7, 50, 51, 1001):
            for size in (1, 7, 50, 2000):
                bounds = shard_bounds(images, shard_count(images, size))
                assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
                assert bounds[-1][1] == images
                assert all(0 < stop - start <= size for start, stop in bounds)

    def test_there_are_fewer_shards_where_they_would_keep_too_much(
        self, model: onnxviz.model.model.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = subject_of(model, 20_000)
        layer = model.view.select("conv6")[0]
        first, second = Dissection().passes([replace(layer, shape=(1, 64, 10, 10))], subject)
        each, counts = first.stored_bytes(20_000), second.stored_bytes(20_000)
        assert each == pytest.approx(64 * 20_000 * 100 * 0.005 * 4, rel=0.01)
        concepts, categories = len(subject.data["scenes"].concepts), len(subject.data["scenes"].categories)
        own, shuffled = (
            64 * (concepts + categories) + 2 * concepts + categories,
            64 * (concepts + categories) + concepts,
        )
        sample = 4_000 * (4 * 64 + 8 + concepts)
        assert counts == 4 * (20 * own + 40 * shuffled) + sample, "20 parts, and 20 shuffles of two halves"
        assert shard_count(20_000, None, each) == 20
        monkeypatch.setattr(limits, "SHARDED_BYTES", 7 * each + 1)
        assert shard_count(20_000, None, each) == 7
        assert shard_count(20_000, 1000, each) == 20, "a size that was asked for is kept"
        assert shard_count(20_000, None, 8 * each) == 1
        most = max(one.stored_bytes(20_000) for one in Dissection().passes([layer], subject))
        monkeypatch.setattr(limits, "SHARDED_BYTES", 3 * most)
        jobs = list(Dissection(layers="conv6").jobs(subject))
        assert 1 < sum("top values" in job.name for job in jobs) < 20

    def test_the_sizes_are_about_what_is_stored(self, model: onnxviz.model.model.Model, tmp_path: Path) -> None:
        subject = subject_of(model, 60)
        analysis = Dissection(layers=["conv1", "conv4"], best_units=4, shard=20)
        dissect(analysis, subject, model, tmp_path)
        for job in analysis.jobs(subject):
            folder = tmp_path / "jobs" / key_of({"job": job.name})
            size = sum(path.stat().st_size for path in folder.iterdir())
            most = 20 if "counts" in job.name else 2  # most counts are 0, and take no room
            assert job.bytes / most < size < 1.5 * job.bytes + 3_000, job.name

    def test_groups_do_not_depend_on_shards(
        self, model: onnxviz.model.model.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sharding, "_LAYERS_IN_A_JOB", 2)
        subject = subject_of(model, 40)

        def groups(shard: int | None) -> list[tuple[str, ...]]:
            jobs: list[Job] = list(Dissection(shard=shard).jobs(subject))
            return list(dict.fromkeys(job.layers for job in jobs))

        assert groups(None) == groups(1) == groups(39)
        assert len(groups(None)) == 3

    def test_maps_of_a_free_size_are_measured_for_many_images(
        self, model: onnxviz.model.model.Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layers = model.view.select("all_convs")
        assert not all(layers[0].spatial_shape), "the built-in model takes images of any size"
        sizes = {layer.name: map_size(model.view, layer, model.input_size) for layer in layers}
        measured = model.measure(np.zeros((1, 3, *model.input_size), np.float32), layers)
        assert sizes == {name: values.shape[2] * values.shape[3] for name, values in measured.items()}
        one = 4 * layers[0].unit_count * sizes[layers[0].name]
        monkeypatch.setattr(limits, "KEPT_ACTIVATION_BYTES", 1000 * one)
        monkeypatch.setattr(limits, "SHARDED_BYTES", 0)
        monkeypatch.setattr(Setting, "count_bytes", lambda *_: 0)
        few, many = (
            Dissection(quantile=0.01, layers="all_convs").layer_groups(subject_of(model, count))
            for count in (1000, 1001)
        )
        assert len(few) == 1
        assert many[0] == [layers[0]]

    def test_groups_of_many_images_are_as_large_as_their_shards_allow(self, model: onnxviz.model.model.Model) -> None:
        layers = [replace(layer, shape=(1, 64, 64, 64)) for layer in model.view.select("all_convs")]

        def largest(images: int) -> int:
            first, _ = Dissection(shuffles=3).passes(layers, subject_of(model, images))
            groups = first.setting.groups()
            first, _ = Dissection(shuffles=3).passes(groups[0], subject_of(model, images))
            shards = shard_count(images, None, first.stored_bytes(images))
            assert shards * first.stored_bytes(images) <= limits.SHARDED_BYTES or shards == 1
            return len(groups[0])

        assert [largest(images) for images in (1_000, 2_000, 10_000, 40_000)] == [1, 6, 2, 1]

    def test_a_part_that_is_missing_is_no_result(self, model: onnxviz.model.model.Model) -> None:
        subject = subject_of(model, 12)
        analysis = Dissection(layers="conv6", shard=6)
        jobs = {job.name.removeprefix("layers 1/1 "): job for job in analysis.jobs(subject)}
        first = analysis.run(jobs["top values 1/2"], JobContext(subject, model, quiet))
        found = {jobs["top values 1/2"].name: first}
        with pytest.raises(KeyError, match="top values 2/2"):
            analysis.run(jobs["thresholds"], JobContext(subject, model, quiet, found))
        with pytest.raises(ValueError, match="top values 2/2: 0 results were found of 1"):
            analysis.run(
                jobs["thresholds"], JobContext(subject, model, quiet, {**found, jobs["top values 2/2"].name: []})
            )
        (shard,) = first
        ((top, best),) = shard.kept
        part = replace(shard, kept=((replace(top, seen=1), best),))
        with pytest.raises(ValueError, match="values were added of"):
            analysis.run(
                jobs["thresholds"], JobContext(subject, model, quiet, {**found, jobs["top values 2/2"].name: [part]})
            )

    def test_what_was_found_before_is_not_changed(self, model: onnxviz.model.model.Model) -> None:
        """Jobs in one process may be handed the same arrays more than once."""
        subject = subject_of(model, 12)
        analysis = Dissection(layers="conv6", shard=6, best_units=1)
        found: dict[str, list[Finding]] = {}
        for job in analysis.jobs(subject):
            findings = analysis.run(job, JobContext(subject, model, quiet, found))
            replace_leaves(findings, lambda leaf: leaf.setflags(write=False) if isinstance(leaf, np.ndarray) else leaf)
            found[job.name] = findings
        assert any(isinstance(item, TileGrid) for item in findings)
        assert isinstance(findings[0], GroupResult)


@pytest.mark.zoo
def test_sizes_of_maps_of_a_real_network_of_free_size(zoo: Path) -> None:
    view = open_model(zoo / "onnx/yunet_n_dynamic.onnx")
    network = onnxviz.model.model.load(zoo / "onnx/yunet_n_dynamic.onnx")
    layers = [layer for layer in view.layers if layer.has_map]
    measured = network.measure(np.zeros((1, 3, *network.input_size), np.float32), [layer.name for layer in layers])
    for layer in layers:
        values = measured[layer.name]
        assert map_size(view, layer, network.input_size) == values.shape[2] * values.shape[3], layer.name


@pytest.mark.parametrize("forced", [(), ("all",)])
def test_two_names_of_one_model_share_their_results(tmp_path: Path, forced: tuple[str, ...]) -> None:
    recipe = {
        "version": 1,
        "models": {"a": {"builtin": "scenes"}, "b": {"builtin": "scenes"}},
        "data": {"scenes": {"builtin": "scenes", "count": 9}},
        "analyses": {"concepts": {"kind": "dissection", "data": "scenes", "shard": 4, "layers": "conv1"}},
    }
    for force in ((), forced):
        done = run_file(recipe, tmp_path / "run", workers=0, device="cpu", force=force)
        assert done.result.verdict == "finished"
        first, second = done.metrics("concepts").values()
        assert first == second
