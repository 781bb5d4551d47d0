"""Network dissection against a slow version straight from the paper, and end to end on networks with known answers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.counting import Grid, Overlap, count_overlap, round_down, upsample
from onnxviz.analyses.dissection.pictures import OUTLINE, show_mask
from onnxviz.analyses.dissection.thresholds import LargestValues, Thresholds
from onnxviz.analyses.stream import Batch
from onnxviz.core import limits
from onnxviz.core.errors import AnalysisError, DataError
from onnxviz.core.findings import Array, Caveat, Coverage, Finding, Metric, Note, Table, TileGrid, from_data, to_data
from onnxviz.core.values import Preprocessing, Unit
from onnxviz.data.concepts import Concept, MaskFolder
from onnxviz.data.images import ImageFolder, fit_image, fit_labels

STRETCH = Preprocessing(fit="stretch")


# The slow version: one unit, one image, one pixel at a time where it can be said so. Bau et al. 2017, section 2.


def slow_upsample(one_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres in float32, each axis as start + (end - start) * weight."""

    def along(values: np.ndarray, count: int) -> np.ndarray:
        rows = []
        for pixel in range(count):
            place = max((2 * pixel + 1) * len(values) - count, 0)
            low = min(place // (2 * count), len(values) - 1)
            high = min(low + 1, len(values) - 1)
            weight = np.float32((place - low * 2 * count) / (2 * count)) if high > low else np.float32(0)
            rows.append(values[low] + (values[high] - values[low]) * weight)
        return np.stack(rows)

    return along(along(one_map, size[0]).T.copy(), size[1]).T


def slow_dissection(
    activations: np.ndarray, labels: np.ndarray, categories: Sequence[int], quantile: float, thresholds=None
):
    """Return thresholds, intersections and unions over the data set: labels [images, layers, H, W], 0 is none."""
    images, units = activations.shape[:2]
    if thresholds is None:
        thresholds = np.array([
            np.quantile(activations[:, unit].astype(np.float64).ravel(), 1 - quantile, method="hazen")
            for unit in range(units)
        ])  # fmt: skip
    intersections = np.zeros((units, len(categories)), np.int64)
    unions = np.zeros((units, len(categories)), np.int64)
    for image in range(images):
        pixels = [(labels[image] == concept + 1).any(axis=0) for concept in range(len(categories))]
        present = {categories[concept] for concept, where in enumerate(pixels) if where.any()}
        for unit in range(units):
            mask = slow_upsample(activations[image, unit], labels.shape[-2:]).astype(np.float64) > thresholds[unit]
            for concept, where in enumerate(pixels):
                if categories[concept] in present:
                    intersections[unit, concept] += (mask & where).sum()
                    unions[unit, concept] += (mask | where).sum()
    return thresholds, intersections, unions


def thresholds_of(activations: np.ndarray, quantile: float, batch: int = 1000) -> Thresholds:
    """Thresholds of activations [images, units, h, w] in batches."""
    parts = [
        LargestValues.of(activations[start : start + batch], activations[:, 0].size, quantile)
        for start in range(0, len(activations), batch)
    ]
    return LargestValues.joined(parts).thresholds()


def fast_dissection(activations, labels, categories, quantile, thresholds=None, batch=3):
    images, units, height, width = activations.shape
    if thresholds is None:
        thresholds = thresholds_of(activations, quantile, batch).values
    overlap = Overlap.empty(units, np.asarray(categories, np.intp))
    grid = Grid.between((height, width), labels.shape[-2:])
    for start in range(0, images, batch):
        count_overlap(overlap, activations[start : start + batch], thresholds, labels[start : start + batch], grid)
    return thresholds, overlap


def some_data(seed: int, shape: tuple[int, int, int, int], size: tuple[int, int], kind: str = "normal"):
    rng = np.random.default_rng(seed)
    activations = rng.normal(size=shape).astype(np.float32)
    if kind == "relu":
        activations = np.maximum(activations - 1, 0)
    if kind == "ties":
        activations = np.minimum(np.round(activations), 2).astype(np.float32)
    coarse = rng.integers(0, 6, (shape[0], 2, 4, 4))
    coarse[0] = 0
    labels = fit_labels(coarse, STRETCH, size).astype(np.int32)
    # Layer 0 holds concepts 1 to 3 of category 0, layer 1 concepts 4 and 5 of category 1, now and then one of layer 0.
    labels[:, 0][labels[:, 0] > 3] = 0
    labels[1::2, 1][labels[1::2, 1] < 4] = 0
    return activations, labels, [0, 0, 0, 1, 1]


class TestAgainstThePaper:
    @pytest.mark.parametrize("kind", ["normal", "relu", "ties"])
    @pytest.mark.parametrize(
        ("maps", "size"),
        [((7, 7), (28, 28)), ((5, 8), (17, 30)), ((13, 13), (12, 9)), ((9, 9), (9, 9)), ((1, 3), (6, 7))],
    )
    def test_counts_are_equal(self, kind: str, maps: tuple[int, int], size: tuple[int, int]) -> None:
        activations, labels, categories = some_data(0, (7, 6, *maps), size, kind)
        slow, intersections, unions = slow_dissection(activations, labels, categories, 0.05)
        thresholds, overlap = fast_dissection(activations, labels, categories, 0.05)
        assert (thresholds == slow).all()
        assert (overlap.both == intersections).all()
        assert (overlap.unit[:, categories] + overlap.concept - overlap.both == unions).all()
        assert (overlap.iou() == intersections / np.maximum(unions, 1)).all()
        if kind == "normal" and maps != (1, 3):
            assert intersections.sum() > 0

    def test_counts_are_equal_for_given_thresholds(self) -> None:
        activations, labels, categories = some_data(1, (5, 8, 7, 7), (56, 56))
        given = np.random.default_rng(2).normal(1, 1, 8)
        _, intersections, unions = slow_dissection(activations, labels, categories, 0.1, given)
        _, overlap = fast_dissection(activations, labels, categories, 0.1, given)
        assert (overlap.both == intersections).all()
        assert (overlap.unit[:, categories] + overlap.concept - overlap.both == unions).all()

    def test_a_batch_of_any_size_gives_the_same(self) -> None:
        activations, labels, categories = some_data(3, (11, 4, 6, 6), (24, 24), "relu")
        results = [fast_dissection(activations, labels, categories, 0.03, batch=batch) for batch in (1, 2, 5, 11)]
        for thresholds, overlap in results[1:]:
            assert (thresholds == results[0][0]).all()
            for name in ("both", "unit", "concept", "images", "pixels"):
                assert (getattr(overlap, name) == getattr(results[0][1], name)).all()

    def test_small_steps_give_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        activations, labels, categories = some_data(4, (3, 4, 6, 6), (24, 24))
        whole = fast_dissection(activations, labels, categories, 0.1)[1]
        monkeypatch.setattr("onnxviz.analyses.dissection.counting._PIXELS_AT_ONCE", 1)
        assert (fast_dissection(activations, labels, categories, 0.1)[1].both == whole.both).all()

    def test_areas_count_only_in_images_with_the_category(self) -> None:
        activations = np.ones((2, 1, 2, 2), np.float32)
        labels = np.zeros((2, 1, 4, 4), np.int32)
        labels[0, 0, :2] = 1
        labels[1, 0, :1] = 2
        _, overlap = fast_dissection(activations, labels, [0, 1], 0.5, np.array([0.0]))
        assert overlap.unit.tolist() == [[16, 16]]
        assert overlap.iou().tolist() == [[8 / 16, 4 / 16]]
        assert overlap.images.tolist() == [1, 1]
        assert overlap.pixels.tolist() == [16, 16]

    def test_a_label_that_two_layers_repeat_counts_once(self) -> None:
        labels = np.ones((1, 2, 4, 4), np.int32)
        _, overlap = fast_dissection(np.ones((1, 1, 2, 2), np.float32), labels, [0], 0.5, np.array([0.0]))
        assert overlap.both.tolist() == [[16]]
        assert overlap.concept.tolist() == [16]


class TestThresholds:
    @pytest.mark.parametrize("positions", [1, 2, 7, 199, 200, 1000, 1961])
    @pytest.mark.parametrize("quantile", [0.005, 0.01, 0.3, 0.5, 0.999])
    def test_it_is_the_hazen_quantile(self, positions: int, quantile: float) -> None:
        rng = np.random.default_rng(positions)
        values = rng.normal(size=(3, positions)).astype(np.float32)
        values[1] = np.maximum(values[1], 0)
        values[2] = np.round(values[2])
        expected = np.quantile(values.astype(np.float64), 1 - quantile, axis=1, method="hazen")
        assert (thresholds_of(values.T.reshape(-1, 3, 1, 1), quantile, 97).values == expected).all()

    def test_the_share_above_is_the_quantile(self) -> None:
        values = np.random.default_rng(0).permutation(10_000).astype(np.float32).reshape(100, 1, 10, 10)
        assert (values > thresholds_of(values, 0.005).values[0]).mean() == 0.005

    def test_dead_and_saturated_units(self) -> None:
        values = np.zeros((4, 3, 5, 5), np.float32)
        values[:, 1, :2] = 6
        values[0, 2, 0, 0] = 1
        thresholds = thresholds_of(values, 0.05)
        assert thresholds.constant.tolist() == [True, False, False]
        assert thresholds.saturated.tolist() == [False, True, False]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_no_numbers_are_refused(self, value: float) -> None:
        values = np.zeros((1, 2, 2, 2), np.float32)
        values[0, 1, 1, 1] = value
        with pytest.raises(AnalysisError, match="unit 1"):
            LargestValues.of(values, 4, 0.1)

    def test_a_part_of_the_data_is_refused(self) -> None:
        with pytest.raises(ValueError, match="4 values were added of 8"):
            LargestValues.of(np.zeros((1, 1, 2, 2), np.float32), 8, 0.1).thresholds()

    def test_rounding_down_keeps_every_comparison(self) -> None:
        rng = np.random.default_rng(0)
        thresholds = rng.normal(size=1000)
        cut = round_down(thresholds)
        for values in (cut, np.nextafter(cut, np.float32(np.inf)), np.nextafter(cut, np.float32(-np.inf))):
            assert ((values > cut) == (values.astype(np.float64) > thresholds)).all()


class TestUpsampling:
    @pytest.mark.parametrize("maps", [(7, 7), (13, 13), (14, 14), (28, 28), (55, 55), (3, 111), (1, 1), (150, 130)])
    def test_it_is_torchs_bilinear(self, maps: tuple[int, int]) -> None:
        torch = pytest.importorskip("torch")
        values = np.random.default_rng(0).normal(size=(2, *maps)).astype(np.float32)
        ours = upsample(values, Grid.between(maps, (112, 112)))
        # In double precision: in single precision torch computes even the pixels' places with an error of 1e-5.
        theirs = torch.nn.functional.interpolate(
            torch.from_numpy(values)[None].double(), size=(112, 112), mode="bilinear", align_corners=False
        )[0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-6)

    def test_it_is_torchs_bit_for_bit_where_nothing_is_rounded(self) -> None:
        torch = pytest.importorskip("torch")
        values = np.random.default_rng(0).integers(-500, 500, (4, 7, 14)).astype(np.float32)
        ours = upsample(values, Grid.between((7, 14), (56, 112)))
        theirs = torch.nn.functional.interpolate(torch.from_numpy(values)[None], size=(56, 112), mode="bilinear")
        assert (ours == theirs[0].numpy()).all()

    def test_a_plateau_is_never_lifted(self) -> None:
        values = np.full((1, 13, 13), 0.1, np.float32)
        assert (upsample(values, Grid.between((13, 13), (112, 112))) == np.float32(0.1)).all()

    def test_no_pixel_exceeds_its_cells_corners(self) -> None:
        rng = np.random.default_rng(0)
        for positions, pixels in ((13, 112), (7, 97), (55, 111), (3, 1000)):
            values = rng.normal(size=(8, positions, positions)).astype(np.float32)
            grid = Grid.between((positions, positions), (pixels, pixels))
            low, high = grid.rows.low, grid.rows.high
            corners = [values[:, rows][:, :, columns] for rows in (low, high) for columns in (low, high)]
            assert (upsample(values, grid) <= np.max(corners, axis=0)).all()


@dataclass
class Squares:
    """Pictures of red and green squares on grey, labelled with object and colour: an answer key for the analysis."""

    count: int = 12
    name: str = "squares"
    digest: str = "squares"
    concepts: tuple[Concept, ...] = (
        Concept(3, "square", "object"), Concept(5, "red", "colour"), Concept(6, "green", "colour"),
    )  # fmt: skip
    categories: tuple[str, ...] = ("object", "colour")
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.names = tuple(f"{index}<b>.png" for index in range(self.count))

    def __len__(self) -> int:
        return self.count

    def _corners(self, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
        rng = np.random.default_rng(index)
        left, right = rng.integers(0, 24, 2), rng.integers(0, 24, 2)
        return (int(left[0]) // 2 * 2, int(left[1]) // 2 * 2 % 24), (
            int(right[0]) // 2 * 2,
            32 + int(right[1]) // 2 * 2,
        )

    def read(self, index: int) -> np.ndarray:
        pixels = np.full((32, 64, 3), 128, np.uint8)
        for (top, left), colour in zip(self._corners(index), ((255, 0, 0), (0, 255, 0)), strict=True):
            pixels[top : top + 8, left : left + 8] = colour
        return pixels

    def read_labels(self, index: int) -> np.ndarray:
        labels = np.zeros((2, 32, 64), np.int32)
        for (top, left), colour in zip(self._corners(index), (5, 6), strict=True):
            labels[0, top : top + 8, left : left + 8] = 3
            labels[1, top : top + 8, left : left + 8] = colour
        return labels


def colour_network(path: Path) -> Path:
    """Units of "colours": red, green, nothing, brightness; a dense layer behind them."""
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[0, :, 0, 0] = (1, -0.5, -0.5)
    weight[1, :, 0, 0] = (-0.5, 1, -0.5)
    weight[3, :, 0, 0] = (1, 1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["colours"], name="colours"),
        helper.make_node("Relu", ["colours"], ["active"], name="active"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], name="pooled"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info("flat", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def dissect(analysis: Dissection, subject: Subject, model: onnxviz.model.model.Model) -> list[Finding]:
    context = JobContext(subject, model, lambda done, total, note="": None)
    return analysis.combine([analysis.run(job, context) for job in analysis.jobs(subject)], subject)


def only(findings: list[Finding], kind: type, identity: str = "") -> Finding:
    (found,) = [item for item in findings if isinstance(item, kind) and identity in ("", item.id)]
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> onnxviz.model.model.Model:
    return onnxviz.model.model.load(colour_network(tmp_path_factory.mktemp("net") / "colours.onnx"), preprocess="unit")


@pytest.fixture
def subject(model: onnxviz.model.model.Model) -> Subject:
    return Subject("m", model.view, model.preprocessing, None, {"squares": Squares()}, 0)


class TestEndToEnd:
    # A square covers 64 of 2048 pixels: just under the share of activations above the threshold.
    SETTINGS: ClassVar = {"layers": "active", "quantile": 0.032, "label_size": (32, 64), "iou": 0.5}

    def test_a_red_detector_detects_red(self, model: onnxviz.model.model.Model, subject: Subject) -> None:
        findings = dissect(Dissection(**self.SETTINGS), subject, model)
        rows = only(findings, Table, "units").rows
        assert [row[0] for row in rows] == [Unit("active", index) for index in range(4)]
        assert rows[0][1:7] == ("red", "colour", 1.0, "0.999 to 1.000", "yes", "confirmed")
        assert rows[1][1:7] == ("green", "colour", 1.0, "0.999 to 1.000", "yes", "confirmed")
        assert (rows[2][1], rows[2][3:7], rows[2][-1]) == ("none", (0.0, "", "no", ""), "dead")
        assert rows[3][5:7] == ("no", "")
        metrics = Dissection(**self.SETTINGS).metrics(findings)
        assert metrics == {
            "detectors": 2.0, "unique_detectors": 2.0, "confirmed_detectors": 2.0,
            "detector_fraction": 0.5, "best_iou": 1.0, "dead_units": 1.0,
            "detectors_by_iou": 2.0, "unique_detectors_by_iou": 2.0, "saturated_units": 1.0,
        }  # fmt: skip
        assert set(metrics) == set(Dissection.metric_names)
        wanted = "2 of 4 units detect 2 of the 3 concepts that are in at least 10 images, by chance 0: green 1, red 1."
        assert wanted in only(findings, Note).text
        by_category = {item.id: item for item in findings if getattr(item, "id", "").endswith("by_category")}
        assert by_category["detectors_by_category"].values == (0.0, 2.0)
        assert by_category["unique_by_category"].values == (0.0, 2.0)
        assert any("1 unit has the same activation" in item.text for item in findings if isinstance(item, Caveat))

    def test_the_masks_lie_on_the_squares(self, model: onnxviz.model.model.Model, subject: Subject) -> None:
        findings = dissect(Dissection(**self.SETTINGS, best_units=2, best_images=3), subject, model)
        tiles = only(findings, TileGrid).tiles
        assert [tile.unit for tile in tiles] == [Unit("active", 0), Unit("active", 1)]
        for tile, colour in zip(tiles, ((255, 0, 0), (0, 255, 0)), strict=True):
            assert len(tile.pictures) == len(tile.captions) == 3
            pixels = tile.pictures[0].pixels
            assert pixels.shape == (120, 240, 3)
            bright = (np.abs(pixels.astype(int) - colour).max(axis=2) < 30).sum()
            assert bright > 100
            assert (pixels == OUTLINE).all(axis=2).any()
            assert not (pixels == 128).all(axis=2).any()

    def test_the_arrays_hold_the_numbers(self, model: onnxviz.model.model.Model, subject: Subject) -> None:
        arrays = only(dissect(Dissection(**self.SETTINGS), subject, model), Array).arrays
        assert arrays["thresholds"].dtype == np.float64
        assert arrays["intersection"].dtype == np.int64
        assert arrays["iou"].shape == (4, 3)
        assert arrays["concepts"].tolist() == ["square", "red", "green"]
        assert arrays["intersection"][0].tolist() == [12 * 64, 12 * 64, 0]

    def test_stored_parts_are_joined_as_fresh_ones(self, model: onnxviz.model.model.Model, subject: Subject) -> None:
        analysis = Dissection(**{**self.SETTINGS, "layers": ["colours", "active"], "best_units": 0})
        context = JobContext(subject, model, lambda done, total, note="": None)
        parts = [
            [item for item in analysis.run(job, context) if not isinstance(item, Array)]
            for job in analysis.jobs(subject)
        ]
        types = Dissection.result_types()
        stored = [[from_data(json.loads(json.dumps(to_data(item, types))), types) for item in part] for part in parts]
        assert analysis.combine(stored, subject) == analysis.combine(parts, subject)

    def test_layers_without_maps_are_left_out_and_said(
        self, model: onnxviz.model.model.Model, subject: Subject
    ) -> None:
        analysis = Dissection(**{**self.SETTINGS, "layers": ["colours", "active", "pooled", "flat"]})
        findings = dissect(analysis, subject, model)
        assert [row[0] for row in only(findings, Table, "layers").rows] == ["colours", "active"]
        assert only(findings, Coverage, "layers").done == 2
        assert "pooled, flat" in only(findings, Caveat, "left_out").text
        with pytest.raises(AnalysisError, match="none of the layers"):
            list(Dissection(layers="pooled").jobs(subject))

    def test_activations_that_are_no_maps_after_all_are_refused(self, subject: Subject) -> None:
        first, _ = Dissection(layers="active").passes([subject.view.layer("active")], subject)
        batch = Batch((0, 1), {"active": np.zeros((2, 4), np.float32)}, lambda: np.zeros((2, 3, 32, 64), np.float32))
        with pytest.raises(AnalysisError, match="'active' are no maps"):
            first.fold([batch], ())

    def test_a_limit_on_images_is_said(self, model: onnxviz.model.model.Model, subject: Subject) -> None:
        findings = dissect(Dissection(**self.SETTINGS, images=5), subject, model)
        coverage = only(findings, Coverage, "images")
        assert (coverage.done, coverage.total, coverage.reason) == (5, 12, "images: 5")
        assert "5 images, fewer than 100" in only(findings, Caveat, "small").text

    def test_jobs_are_split_by_memory_and_the_result_is_the_same(
        self, model: onnxviz.model.model.Model, subject: Subject, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        analysis = Dissection(**{**self.SETTINGS, "layers": ["colours", "active"]})
        whole = dissect(analysis, subject, model)
        assert len(list(analysis.jobs(subject))) == 1
        monkeypatch.setattr(limits, "KEPT_ACTIVATION_BYTES", 1)
        jobs = list(analysis.jobs(subject))
        assert [job.layers for job in jobs] == [("colours",), ("active",)]
        assert jobs[0].cost == 24
        split = dissect(analysis, subject, model)
        assert only(split, Table, "units") == only(whole, Table, "units")
        assert only(split, Table, "layers") == only(whole, Table, "layers")

    def test_what_a_mask_cannot_reach_is_said(self, model: onnxviz.model.model.Model, subject: Subject) -> None:
        findings = dissect(Dissection(**{**self.SETTINGS, "quantile": 0.005}), subject, model)
        text = only(findings, Caveat, "large").text
        assert "square (6%), red (3%), green (3%)" in text
        findings = dissect(Dissection(**{**self.SETTINGS, "quantile": 0.5, "iou": 0.03}), subject, model)
        assert "square (6%)" in only(findings, Caveat, "chance").text

    def test_data_without_labels_is_refused(
        self, model: onnxviz.model.model.Model, subject: Subject, tmp_path: Path
    ) -> None:
        photos = ImageFolder("photos", ("a.png",), (tmp_path / "a.png",))
        for data, wanted in (({}, "no data set with labelled concepts"), ({"photos": photos}, "no data set with")):
            with pytest.raises(AnalysisError, match=wanted):
                list(Dissection().jobs(replace(subject, data=data)))
        with pytest.raises(AnalysisError, match="have no labels"):
            list(Dissection(data="photos").jobs(replace(subject, data={"photos": photos})))
        with pytest.raises(DataError, match="no data set is called 'nowhere'"):
            list(Dissection(data="nowhere").jobs(subject))

    def test_the_label_size(self) -> None:
        assert Dissection().label_sides((224, 224)) == (112, 112)
        assert Dissection().label_sides((64, 96)) == (64, 96)
        assert Dissection().label_sides((240, 320)) == (84, 112)
        assert Dissection(label_size=50).label_sides((224, 224)) == (50, 50)


def test_a_mask_in_a_picture() -> None:
    pixels = np.full((20, 20, 3), 200, np.uint8)
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    shown = show_mask(pixels, mask)
    assert (shown[7:13, 7:13] == 200).all()
    assert (shown[5, 5:15] == OUTLINE).all()
    assert (shown[4, 5:15] == 0).all()
    assert (shown[0, 0] > 100).all(), "the scene can still be recognised"
    assert (shown[0, 0] < 140).all()


@pytest.mark.zoo
def test_squeezenet_on_street_scenes_equals_the_slow_version(zoo: Path, shared_data: Path) -> None:
    model = onnxviz.model.model.load(zoo / "onnx/squeezenet_fp16.onnx", preprocess="caffe")
    data = MaskFolder.find("street", "camvid", shared_data, limit=12)
    subject = Subject("m", model.view, model.preprocessing, None, {"street": data}, 0)
    layer = model.view.select("fire9/concat*")[0].name
    findings = dissect(Dissection(layers=layer, label_size=56, best_units=2), subject, model)
    arrays = only(findings, Array).arrays

    stretched = [fit_image(data.read(index), STRETCH, model.input_size).transpose(2, 0, 1) for index in range(12)]
    activations = np.concatenate([
        model.measure(np.stack(stretched[start : start + 8]), [layer])[layer] for start in (0, 8)
    ])  # fmt: skip
    labels = np.stack([fit_labels(data.read_labels(index), STRETCH, (56, 56)) for index in range(12)])
    units = [0, 1, 16, 53, 151, 213, 368, 399]
    thresholds, intersections, unions = slow_dissection(activations[:, units], labels, [0] * 11, 0.005)
    assert (arrays["thresholds"][units] == thresholds).all()
    assert (arrays["intersection"][units] == intersections).all()
    assert (arrays["iou"][units] == intersections / np.maximum(unions, 1)).all()
    assert math.isclose(max(row[3] for row in only(findings, Table, "units").rows), arrays["iou"].max())


@pytest.mark.zoo
def test_only_the_right_masks_make_detectors(zoo: Path, shared_data: Path, tmp_path: Path) -> None:
    model = onnxviz.model.model.load(zoo / "onnx/squeezenet_fp16.onnx", preprocess="caffe")
    images = sorted((shared_data / "camvid/images").iterdir())
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    shutil.copy(shared_data / "camvid/classes.txt", tmp_path)
    others = [images[place] for place in np.random.default_rng(5).permutation(len(images))]
    for image, other in zip(others, [*others[1:], others[0]], strict=True):
        shutil.copy(image, tmp_path / "images")
        shutil.copy(shared_data / f"camvid/labels/{other.stem}.png", tmp_path / f"labels/{image.stem}.png")
    found = {}
    for folder in (shared_data / "camvid", tmp_path):
        data = MaskFolder.find("street", folder, shared_data)
        subject = Subject("m", model.view, model.preprocessing, None, {"street": data}, 0)
        analysis = Dissection(layers=["fire8/concat*", "fire9/concat*"], label_size=56, best_units=0)
        findings = dissect(analysis, subject, model)
        found[folder] = analysis.metrics(findings)
        chance = next(item.chance for item in findings if isinstance(item, Metric) and item.name == "detectors")
        assert chance[1] <= 5
    right, wrong = found.values()
    assert right["detectors"] >= 100
    assert right["unique_detectors"] >= 4
    assert wrong["detectors"] <= 5
    assert wrong["unique_detectors"] <= 2


def test_what_differs_by_rounding_only_is_dead() -> None:
    """A dead kernel's units are its bias, summed in another order here and there."""
    smallest = np.array([-3.6908083, 0.0, -3.6908083, 0.0], np.float32)
    largest = np.array([-3.6908052, 0.0, -3.69, 1e-9], np.float32)
    found = Thresholds(largest.astype(np.float64) - 1e-12, smallest, largest, 100)
    assert found.constant.tolist() == [True, True, False, False]
