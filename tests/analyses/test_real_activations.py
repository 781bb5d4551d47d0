"""What made pictures reach, beside real images: a second, slow way to measure both, and what is said of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import onnxviz.model.model
from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
from onnxviz.analyses.activation_maximization.made_pictures import standing
from onnxviz.analyses.activation_maximization.measurements import SIMPLE, STAGE
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.analyses.sharding import SHARD_IMAGES
from onnxviz.core import findings as f
from onnxviz.core.errors import DataError, OnnxvizError
from onnxviz.data.images import ImageFolder, load_batch
from tests.analyses.test_activation_maximization import FAST, SIDE, detectors, only

COUNT = 9


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> JobContext:
    """The detectors of red, of upright and of level edges, with images of random colours and stripes."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(3)
    for index in range(COUNT):
        pixels = np.full((SIDE, SIDE, 3), rng.integers(0, 256, 3), np.uint8)
        pixels[:, index % 5 :: 5] = rng.integers(0, 256, 3)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    photos = ImageFolder.find("photos", ["*.png"], folder)
    model = onnxviz.model.model.load(
        detectors(folder / "d.onnx"), preprocess="unit", labels=["red", "up", "level", "none"]
    )
    subject = Subject("model", model.view, model.preprocessing, model.labels, {"photos": photos}, 0)
    return JobContext(subject, model, lambda done, total, note="": None)


def all_found(place: JobContext, **settings: Any) -> tuple[dict[str, list[f.Finding]], list[f.Finding]]:
    """Do all jobs in their order, each with what it needs."""
    analysis = ActivationMaximization.model_validate(settings)
    found: dict[str, list[f.Finding]] = {}
    parts = []
    for job in analysis.jobs(place.subject):
        context = dataclasses.replace(place, found={name: found[name] for name in job.needs})
        found[job.name] = analysis.run(job, context)
        if not job.intermediate:
            parts.append(found[job.name])
    return found, analysis.combine(parts, place.subject)


def analyse(place: JobContext, **settings: Any) -> list[f.Finding]:
    return all_found(place, data="photos", **settings)[1]


def images(place: JobContext) -> np.ndarray:
    source = place.subject.data["photos"]
    return load_batch(source, range(len(source)), place.model.preprocessing, (SIDE, SIDE))  # type: ignore[arg-type]


def slow_edges(image: np.ndarray) -> np.ndarray:
    """The layer `conv` of one image [3, h, w], by the definition of a convolution."""
    made = np.zeros((4, SIDE - 2, SIDE - 2))
    grey = image.mean(axis=0)
    for y in range(SIDE - 2):
        for x in range(SIDE - 2):
            red, green, blue = image[:, y + 1, x + 1]
            patch = grey[y : y + 3, x : x + 3]
            made[0, y, x] = red - (green + blue) / 2
            made[1, y, x] = (patch * [[-1, 2, -1]]).sum()
            made[2, y, x] = (patch.T * [[-1, 2, -1]]).sum()
    return made


def table(found: list[f.Finding]) -> list[Mapping[str, Any]]:
    rows = only(found, f.Table)
    return [dict(zip((column.name for column in rows.columns), row, strict=True)) for row in rows.rows]


def test_activations_on_real_images_are_measured_as_they_are_optimized(place: JobContext) -> None:
    targets = [
        {"layer": "conv", "units": [0, 2]},
        {"layer": "conv", "units": 1, "position": [4, 6]},
        {"layer": "conv", "units": 1, "position": "center"},
        {"layer": "conv"},
        {"layer": "logits", "units": "up"},
    ]
    combination = {"kind": "sum", "terms": [{"kind": "channel", "layer": "conv", "unit": 0, "weight": -2.0},
                                            {"kind": "layer", "layer": "relu"}]}  # fmt: skip
    found, _ = all_found(place, data="photos", targets=targets, objectives=[combination], steps=1)
    measured = [entry for name, entries in found.items() for entry in entries if name.startswith("real images")]
    values = np.concatenate([entry.values for entry in measured], axis=1)  # type: ignore[attr-defined]
    edges = np.array([slow_edges(image) for image in images(place)])
    middle = (SIDE - 2) // 2
    expected = [
        edges[:, 0].mean(axis=(1, 2)),
        edges[:, 2].mean(axis=(1, 2)),
        edges[:, 1, 4, 6],
        edges[:, 1, middle, middle],
        (edges**2).mean(axis=(1, 2, 3)),
        np.maximum(edges[:, 1], 0).mean(axis=(1, 2)),
        -2 * edges[:, 0].mean(axis=(1, 2)) + (np.maximum(edges, 0) ** 2).mean(axis=(1, 2, 3)),
    ]
    assert values.shape == (COUNT, len(expected))
    for wanted in expected:
        assert np.abs(values - wanted[:, None]).max(axis=0).min() < 1e-5
    # Each column is one of them, so none was measured twice.
    assert len({int(np.abs(values - wanted[:, None]).max(axis=0).argmin()) for wanted in expected}) == len(expected)


def test_each_picture_has_its_place_among_the_real_images(place: JobContext) -> None:
    found = analyse(place, targets=[{"layer": "conv", "units": 0, "sign": "both"}], steps=60, optimizer=FAST)
    real = np.array([slow_edges(image)[0].mean() for image in images(place)])
    for row, sign in zip(table(found), (1, -1), strict=True):
        assert row["activation"] == pytest.approx(row["after"], abs=1e-4)
        quantile = float(np.mean(sign * real < sign * row["after"]))
        assert row["quantile among real images"] == pytest.approx(quantile)
    (tile,) = only(found, f.TileGrid).tiles
    assert len(tile.pictures) == 2 + 2 * 4
    best, least = np.argsort(-real), np.argsort(real)
    for shown, order in ((tile.pictures[2:6], best), (tile.pictures[6:10], least)):
        for picture, index in zip(shown, order, strict=False):
            own = np.rint(images(place)[index].transpose(1, 2, 0) * 255).astype(np.uint8)
            assert np.array_equal(picture.pixels, own)
    assert tile.captions[2].startswith(f"real, most: {real[best[0]]:.3g}, {best[0]}.png")
    assert tile.captions[6].startswith(f"real, least: {real[least[0]]:.3g}, {least[0]}.png")


def test_the_real_images_are_shown_once_for_all_seeds(place: JobContext) -> None:
    found = analyse(place, targets=[{"layer": "conv", "units": [1, 2]}], steps=2, seeds=3, examples=2, batch=1)
    assert [len(tile.pictures) for tile in only(found, f.TileGrid).tiles] == [3 + 2, 3 + 2]
    assert "real image" not in only(found, f.TileGrid).tiles[0].pictures[2].alt
    assert "real image" in only(found, f.TileGrid).tiles[0].pictures[3].alt


def test_a_limit_is_said(place: JobContext) -> None:
    found = analyse(place, targets=[{"layer": "conv", "units": 0}], steps=2, limit=4, begin_again=False)
    (coverage,) = (entry for entry in found if isinstance(entry, f.Coverage) and entry.id == "coverage.real_images")
    assert (coverage.done, coverage.total) == (4, COUNT)
    assert "limit: 4" in coverage.reason
    assert "of 4" in only(found, f.TileGrid).tiles[0].pictures[0].alt


def test_what_rises_but_stays_below_real_images_is_said(place: JobContext) -> None:
    weak = analyse(
        place, targets=[{"layer": "relu", "units": 1}], steps=2, transforms=[],
        optimizer={"kind": "ascent", "learning_rate": 1e-4}, begin_again=False,
    )  # fmt: skip
    assert table(weak)[0]["rise"] > 0
    assert any(isinstance(entry, f.Caveat) and entry.id == "weak" for entry in weak)
    assert "weak" in dict(only(weak, f.TileGrid).tiles[0].facts)
    strong = analyse(place, targets=[{"layer": "relu", "units": 1}], steps=60, transforms=[], optimizer=FAST)
    assert not any(isinstance(entry, f.Caveat) and entry.id == "weak" for entry in strong)
    (metric,) = (entry for entry in strong if isinstance(entry, f.Metric) and entry.name == "beyond_real_fraction")
    assert metric.value == 1.0


def test_many_images_are_measured_in_shards_with_the_same_result(
    place: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry: dict[str, Any] = {"targets": [{"layer": "conv", "units": [0, 1]}], "steps": 2}
    whole = table(analyse(place, **entry))
    assert COUNT < SHARD_IMAGES
    monkeypatch.setattr("onnxviz.analyses.sharding.SHARD_IMAGES", 2)
    jobs = list(ActivationMaximization.model_validate({**entry, "data": "photos"}).jobs(place.subject))
    assert sum(job.intermediate and job.parameters["stage"] == STAGE for job in jobs) == 5
    assert all(sum(name.startswith(STAGE) for name in job.needs) == 5 for job in jobs if not job.intermediate)
    assert table(analyse(place, **entry)) == whole


def test_layers_share_a_pass_and_directions_a_measurement(place: JobContext) -> None:
    targets = [{"layer": ["conv", "relu", "logits"], "units": "all", "sign": "both"}]
    analysis = ActivationMaximization.model_validate({"targets": targets, "data": "photos", "steps": 1})
    (first, *others) = analysis.jobs(place.subject)
    assert set(first.layers) == {"conv", "relu", place.subject.view.logits.name}
    assert len(first.parameters["goals"]) == 3 * 4
    assert first.intermediate
    assert not any(job.parameters.get("stage") == STAGE for job in others)
    assert first.data == ("photos",)


def test_other_sizes_are_compared_with_images_of_the_models_own_size(place: JobContext) -> None:
    found, _ = all_found(place, data="photos", targets=[{"layer": "conv", "units": 0}], steps=1, size=48)
    (real,) = (entry for name, entries in found.items() for entry in entries if name.startswith("real images"))
    expected = [slow_edges(image)[0].mean() for image in images(place)]
    np.testing.assert_allclose(real.values[:, 0], expected, atol=1e-5)  # type: ignore[attr-defined]


def test_a_groups_pictures_are_kept_different(place: JobContext) -> None:
    kw: dict[str, Any] = {"targets": [{"layer": "relu", "units": 1}], "steps": 40, "transforms": [], "optimizer": FAST}
    alike, different = (
        np.concatenate([entry.arrays["images"] for entry in analyse(place, **kw, **more) if isinstance(entry, f.Array)])
        for more in ({"group": 3}, {"group": 3, "diversity": {"weight": 5.0}})
    )
    assert alike.shape == different.shape == (3, 3, SIDE, SIDE)

    def likeness(made: np.ndarray) -> float:
        """Mean cosine of the Gram matrices of `relu` (Olah et al. 2017, diversity term)."""
        layers = [np.maximum(slow_edges(image), 0).reshape(4, -1) for image in made]
        grams = [(layer @ layer.T) / np.linalg.norm(layer @ layer.T) for layer in layers]
        return float(np.mean([(grams[i] * grams[j]).sum() for i in range(3) for j in range(i)]))

    assert likeness(different) < likeness(alike) - 0.02
    found = analyse(place, **kw, diversity={"weight": 5.0})
    rows = table(found)
    assert [row["picture"][-14:] for row in rows] == [f"picture {n} of 4" for n in (1, 2, 3, 4)]
    # What is said is the unit's activation, not what keeps the pictures different.
    assert all(row["after"] == pytest.approx(row["activation"], rel=1e-4) for row in rows)


def test_driven_down_and_kept_different_the_signs_are_right(place: JobContext) -> None:
    found = analyse(place, targets=[{"layer": "conv", "units": 0, "sign": "negative"}], steps=20, group=2, diversity={})
    for row in table(found):
        assert row["rise"] > 0
        assert row["after"] < row["before"]
        assert row["after"] == pytest.approx(row["activation"], abs=1e-4)
    curve = only(found, f.TileGrid).tiles[0].curve
    assert curve[-1] < curve[0]


def test_objectives_with_a_reference_picture_take_it_from_the_data(place: JobContext) -> None:
    entry: dict[str, Any] = {
        "objectives": [
            {
                "title": "like the third",
                "objective": {"kind": "feature_inversion", "layer": "conv", "picture": "photos/2"},
            }
        ],
        "steps": 60, "transforms": [], "optimizer": FAST,
    }  # fmt: skip
    found, combined = all_found(place, data="photos", **entry)
    (row,) = table(combined)
    assert row["target"] == "like the third"
    assert row["rise"] > 0
    (real,) = (part for name, parts in found.items() for part in parts if name.startswith("real images"))
    # Nothing is more like the picture than the picture itself.
    assert int(real.values[:, 0].argmax()) == 2  # type: ignore[attr-defined]
    analysis = ActivationMaximization.model_validate(entry)
    assert all(job.data == ("photos",) for job in analysis.jobs(place.subject))  # also those of simple pictures


def test_objectives_that_need_a_group_have_no_value_on_one_image(place: JobContext) -> None:
    both = {"kind": "sum", "terms": [{"kind": "channel", "layer": "conv", "unit": 0},
                                     {"kind": "alignment", "layer": "conv"}]}  # fmt: skip
    found = analyse(place, objectives=[both], group=2, steps=2)
    assert any(isinstance(entry, f.Caveat) and entry.id == "unmeasured" for entry in found)
    assert all(row["quantile among real images"] is None for row in table(found))


def test_pictures_begin_with_an_image_of_the_data(place: JobContext) -> None:
    _, combined = all_found(
        place, targets=[{"layer": "conv", "units": 0}], begin={"data": "photos", "image": 3}, steps=1, transforms=[],
        optimizer={"kind": "ascent", "learning_rate": 1e-6},
    )  # fmt: skip
    (array,) = (entry for entry in combined if isinstance(entry, f.Array))
    wanted = np.clip(images(place)[3], 0.01, 0.99)
    assert np.abs(array.arrays["images"][0] - wanted).max() < 0.02
    assert "begun with photos/3" in only(combined, f.TileGrid).description


def test_colours_are_measured_on_photographs(place: JobContext) -> None:
    entry: dict[str, Any] = {"targets": [{"layer": "conv", "units": 0}], "steps": 2}
    analysis = ActivationMaximization.model_validate({**entry, "colors": {"data": "photos", "limit": 5}})
    first, second = (job for job in analysis.jobs(place.subject) if job.parameters.get("stage") != SIMPLE)
    assert first.intermediate
    assert first.data == ("photos",)
    assert first.name in second.needs
    assert len(first.parameters["images"]["colors"]) == 5
    found, measured = all_found(place, **entry, colors={"data": "photos", "limit": 5})
    matrix = found[first.name][0].arrays["colors"]  # type: ignore[union-attr]
    assert matrix.shape == (3, 3)
    _, published = all_found(place, **entry)
    arrays = [next(part for part in parts if isinstance(part, f.Array)) for parts in (measured, published)]
    assert not np.array_equal(arrays[0].arrays["images"], arrays[1].arrays["images"])
    assert "colours as in photos" in only(measured, f.TileGrid).description


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data": "photoss"}, "did you mean 'photos'"),
        ({"begin": {"data": "photos", "image": 99}}, "no image 99"),
        ({"objectives": [{"kind": "style", "layer": "conv", "picture": "photos"}]}, "names no picture"),
        ({"objectives": [{"kind": "style", "layer": "conv", "picture": "photos/*"}]}, "several pictures"),
        ({"objectives": [{"kind": "diversity", "layer": "conv"}]}, "give `group: 2`"),
        ({"objectives": [{"kind": "input_difference", "picture": "photos/0"}]}, "reads no layer"),
        ({"objectives": [{"kind": "channel", "layer": "conv", "unit": 7}]}, "4 units, 0 to 3"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_runs(place: JobContext, settings: Any, words: str) -> None:
    entry = {"targets": [{"layer": "conv", "units": 0}], "steps": 1, **settings}
    with pytest.raises(OnnxvizError) as raised:
        list(ActivationMaximization.model_validate(entry).jobs(place.subject))
    assert words in f"{raised.value.what}; {raised.value.remedy}"


def test_a_job_that_found_nothing_is_no_measurement(place: JobContext) -> None:
    analysis = ActivationMaximization.model_validate(
        {"targets": [{"layer": "conv", "units": 0}], "steps": 1, "data": "photos"}
    )
    *_, job = analysis.jobs(place.subject)
    with pytest.raises(ValueError, match="0 of 1"):
        analysis.run(job, dataclasses.replace(place, found={name: [] for name in job.needs}))


@pytest.mark.parametrize(
    ("value", "sign", "quantile", "words"),
    [
        (6.8, 1, 1.0, "above all 4 images, 3.4 × the largest"),
        (2.0, 1, 0.875, "above 75 % of 4 images, as large as the largest"),
        (0.5, 1, 0.5, "above 50 % of 4 images"),
        (-1.0, 1, 0.125, "above none of 4 images"),
        (-3.0, -1, 1.0, "below all 4 images, 3 × the lowest"),
        (-1.0, -1, 0.875, "below 75 % of 4 images, as low as the lowest"),
    ],
)
def test_places_among_real_images_in_words(value: float, sign: int, quantile: float, words: str) -> None:
    found = standing(value, np.array([-1.0, 0.0, 1.0, 2.0], np.float32), sign)
    assert (found.quantile, found.words) == (quantile, words)
    assert len(found.brief) <= 24


def test_no_ratio_without_an_extreme_of_the_same_sign() -> None:
    real = np.array([-3.0, -2.0], np.float32)
    assert standing(1.0, real, 1).times is None
    assert standing(-1.0, real, 1).times is None
    assert standing(0.5, np.array([1.0, 2.0], np.float32), -1).times is None


def test_a_model_that_takes_so_many_images_at_a_time(tmp_path: Path, place: JobContext) -> None:
    import onnx

    model = onnx.load(detectors(tmp_path / "d.onnx"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    # A number for each place in the batch keeps the batch from being freed.
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 1, 1, 1), np.float32), "places"))
    model.graph.node[0].input[0] = "moved"
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["image", "places"], ["moved"], name="move"))
    onnx.save(model, tmp_path / "fixed.onnx")
    fixed = onnxviz.model.model.load(tmp_path / "fixed.onnx", preprocess="unit")
    assert fixed.view.batch == 4
    subject = dataclasses.replace(place.subject, view=fixed.view, labels=None)
    context = JobContext(subject, fixed, lambda done, total, note="": None)
    targets = [{"layer": "conv", "units": [0, 1]}, {"layer": "logits", "units": 0}]
    rows = table(analyse(context, targets=targets, steps=2))
    assert all(row["activation"] == pytest.approx(row["after"], abs=1e-4) for row in rows)


def test_a_missing_image_is_said_with_its_name(place: JobContext, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(tmp_path / "gone.png")
    source = ImageFolder.find("photos", ["*.png"], tmp_path)
    subject = dataclasses.replace(place.subject, data={"photos": source})
    analysis = ActivationMaximization.model_validate(
        {"targets": [{"layer": "conv", "units": 0}], "steps": 1, "data": "photos"}
    )
    job: Job = next(iter(analysis.jobs(subject)))
    (tmp_path / "gone.png").unlink()
    with pytest.raises(DataError, match="gone"):
        analysis.run(job, dataclasses.replace(place, subject=subject))
