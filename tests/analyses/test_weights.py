"""Kernels: statistics against their definitions, pictures with known colours, and the analysis end to end."""

from __future__ import annotations

import cmath
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydantic import ValidationError
from worker_runs import PATIENCE

import onnxviz.model.model
from onnxviz.analyses import registry
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.weights import kernels
from onnxviz.analyses.weights.analysis import Weights, reads_image
from onnxviz.core import findings as f
from onnxviz.core.errors import AnalysisError, DataError, SelectionError
from onnxviz.core.values import PRESETS, Unit
from onnxviz.data.images import ImageFolder

Found = TypeVar("Found")
SOBEL = np.outer([1.0, 2, 1], [-1, 0, 1])
LAPLACIAN = np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
SIDE = 24


# --- statistics -----------------------------------------------------------------------------------------------------


def slow_spectrum(kernel: np.ndarray, size: int) -> tuple[float, float]:
    """Share and orientation of one kernel [in, h, w], frequency by frequency from the definition."""
    total = high = 0.0
    turned = 0j
    for row in range(size):
        for column in range(size):
            fy, fx = ((index if index < size // 2 else index - size) / size for index in (row, column))
            energy = 0.0
            for plane in kernel:
                coefficient = sum(
                    plane[y, x] * cmath.exp(-2j * math.pi * (fy * y + fx * x)) for y, x in np.ndindex(plane.shape)
                )
                energy += abs(coefficient) ** 2
            total += energy
            high += energy * (math.hypot(fy, fx) > 0.25)
            if fy or fx:
                angle = cmath.exp(2j * math.atan2(fy, fx))
                turned += energy * (angle.real if -0.5 in (fy, fx) else angle)
    return high / total, abs(turned) / total


def test_spectrum_follows_its_definition() -> None:
    kernel = np.random.default_rng(3).standard_normal((1, 2, 3, 4))
    found = kernels.spectrum(kernel)
    assert found is not None
    share, orientation = slow_spectrum(kernel[0], 64)
    assert found.high_frequency_share[0] == pytest.approx(share, rel=1e-9)
    assert found.orientation[0] == pytest.approx(orientation, rel=1e-9)


def test_both_ways_to_sum_energies_agree() -> None:
    some = np.random.default_rng(0).standard_normal((4, 3, 5, 7))
    weightings = kernels._weightings(5, 7)
    near = kernels._sums_by_position(some, *weightings)
    far = kernels._sums_by_frequency(some, *weightings)
    for one, other in zip(near, far, strict=True):
        np.testing.assert_allclose(one * weightings[0].size, other, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 3, 3), (3, 7, 7), (64, 3, 3), (3, 11, 11)])
def test_white_noise_is_seen_as_noise(shape: tuple[int, int, int]) -> None:
    found = kernels.spectrum(np.random.default_rng(7).standard_normal((600, *shape)))
    assert found is not None
    assert found.high_frequency_share.mean() == pytest.approx(kernels.NOISE_HIGH_FREQUENCY_SHARE, abs=0.01)
    like_noise = np.mean([found.character(index) == "like noise" for index in range(600)])
    assert 0.80 < like_noise < 0.92
    assert np.mean(found.high_frequency_share < found.smooth_below) == pytest.approx(0.05, abs=0.03)


def patterns(kind: str, channels: int, side: int, generator: np.random.Generator) -> np.ndarray:
    """300 edges, bars or blobs, the same in every channel up to its colour, with as much energy of noise on top."""
    found = np.empty((300, channels, side, side))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    radius = side / 2
    for kernel in found:
        angle, shift = generator.uniform(0, np.pi), generator.uniform(-0.5, 0.5)
        across = np.cos(angle) * x + np.sin(angle) * y
        if kind == "edges":
            across -= shift * radius / 3
            plane = -across * np.exp(-(x**2 + y**2) / (2 * (radius / 1.5) ** 2))
        elif kind == "bars":
            width = ((across - shift) / (radius / 2.5)) ** 2
            plane = (1 - width) * np.exp(-width / 2 - (x**2 + y**2) / (2 * (radius / 1.2) ** 2))
        else:
            top, left = generator.uniform(-0.3, 0.3, 2) * radius
            plane = np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * (radius / 1.6) ** 2))
        kernel[:] = generator.standard_normal(channels)[:, None, None] * plane
        kernel /= np.sqrt((kernel**2).mean())
    return found + generator.standard_normal(found.shape)


@pytest.mark.parametrize(
    ("channels", "side", "enough"),
    [(1, 3, False), (3, 3, False), (4, 3, False), (3, 4, True), (1, 7, True), (6, 3, True)],
)
def test_like_noise_is_said_only_where_patterns_would_be_told_from_it(channels: int, side: int, enough: bool) -> None:
    told = []
    for kind in ("edges", "bars", "blobs"):
        found = kernels.spectrum(patterns(kind, channels, side, np.random.default_rng(0)))
        assert found is not None
        assert found.tells_noise == enough == kernels.tells_noise((300, channels, side, side))
        untold = "like noise" if enough else "cannot be told"
        said = [found.character(index) for index in range(300)]
        assert set(said) <= {"oriented", "smooth", "sharp", untold}
        told.append(1 - said.count(untold) / 300)
    # The power at the limit is 80 % but for the chance in 300 draws.
    assert min(told) > 0.76 if enough else min(told) < 0.72


def test_edges_blobs_and_spots_are_told_apart() -> None:
    blob = np.outer([1.0, 2, 1], [1, 2, 1])
    planes = np.stack([SOBEL, SOBEL.T, blob, LAPLACIAN, np.zeros((3, 3))])
    found = kernels.spectrum(np.repeat(planes[:, None], 3, axis=1))
    assert found is not None
    assert [found.character(index) for index in range(5)] == ["oriented", "oriented", "smooth", "sharp", "dead"]
    assert found.high_frequency_share[2] < 0.25 < 0.95 < found.high_frequency_share[3]


def test_orientation_does_not_depend_on_the_direction() -> None:
    y, x = np.mgrid[-5:6, -5:6]
    turned = [np.cos(a) * x + np.sin(a) * y for a in np.linspace(0, np.pi, 7)]
    gabors = np.stack([np.exp(-(x**2 + y**2) / 8) * np.sin(2 * np.pi * line / 5) for line in turned])
    found = kernels.spectrum(gabors[:, None])
    assert found is not None
    assert np.ptp(found.orientation) < 0.02
    assert {found.character(index) for index in range(7)} == {"oriented"}


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (4, 3, 1, 7), (4, 3, 2, 2), (4, 9), (4, 3, 5)])
def test_small_kernels_have_no_spectrum(shape: tuple[int, ...]) -> None:
    assert kernels.spectrum(np.ones(shape)) is None


def test_norms_and_dead_kernels() -> None:
    array = np.zeros((6, 2, 3, 3))
    for index, norm in enumerate([3.0, 1.0, 2.0, 0.0, 1.4e-3, 1.6e-3]):
        array[index, 1, 2, 0] = -norm
    np.testing.assert_allclose(kernels.norms(array), [3, 1, 2, 0, 1.4e-3, 1.6e-3])
    # The median of those that count (3, 2, 1, 1.6e-3, 1.4e-3) is 1, so the limit is 1e-3.
    assert kernels.dead(kernels.norms(array)).tolist() == [False, False, False, True, False, False]
    assert kernels.dead(np.array([1.0, 1.0, 1.0, 0.9e-3])).tolist() == [False, False, False, True]


def test_a_layer_with_mostly_dead_kernels_is_seen_as_such() -> None:
    assert kernels.dead(np.array([1.0, 2.0, 1e-9, 1e-10, 0.0, 1e-12])).tolist() == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
    assert kernels.dead(np.zeros(3)).all()


def test_a_kernel_and_its_negative_are_no_duplicates() -> None:
    generator = np.random.default_rng(0)
    array = generator.standard_normal((6, 2, 3, 3))
    array[3] = 5 * array[0]
    array[4] = -array[1] + 1e-4 * generator.standard_normal((2, 3, 3))
    array[5] = 0
    found = kernels.duplicates(array)
    assert found is not None
    assert [twin.index if twin else None for twin in found] == [3, None, None, 0, None, None]
    assert found[0] is not None
    assert found[0].cosine == pytest.approx(1)
    opposite = kernels.duplicates(array, negative=True)
    assert opposite is not None
    assert [other.index if other else None for other in opposite] == [None, 4, None, None, 1, None]
    assert opposite[1] is not None
    assert opposite[1].cosine == pytest.approx(-1, abs=1e-6)


def test_kernels_of_other_groups_read_other_channels() -> None:
    array = np.random.default_rng(0).standard_normal((4, 1, 3, 3))
    array[2] = array[0]
    array[1] = array[0]
    grouped = kernels.duplicates(array, groups=2)
    assert grouped is not None
    assert [twin.index if twin else None for twin in grouped] == [1, 0, None, None]
    assert kernels.duplicates(array, groups=4) is None
    assert kernels.duplicates(np.ones((5, 3, 1, 1))) is None


# --- pictures -------------------------------------------------------------------------------------------------------


def test_zero_is_grey_and_the_scale_symmetric() -> None:
    values = np.array([[-1.0, 0.0, 0.5, 2.0]])
    drawn = kernels.kernel_pixels(values, True, (-1.0, 2.0))
    assert drawn[0, :, 0].tolist() == [64, 128, 160, 255]
    free = kernels.kernel_pixels(values, False, (-1.0, 2.0))
    assert free[0, :, 0].tolist() == [0, 85, 128, 255]
    assert (kernels.kernel_pixels(np.zeros((2, 2)), True, (0.0, 0.0)) == 128).all()
    assert (kernels.kernel_pixels(np.ones((2, 2)), False, (1.0, 1.0)) == 128).all()


def test_grid_separates_enlarged_tiles() -> None:
    tiles = [np.full((2, 3, 3), shade, np.uint8) for shade in (10, 20, 30)]
    sheet = kernels.grid(tiles, columns=2, enlarge=4, separator=2, shade=255)
    assert sheet.shape == (2 * (8 + 2) + 2, 2 * (12 + 2) + 2, 3)
    assert (sheet[2:10, 2:14] == 10).all()
    assert (sheet[2:10, 16:28] == 20).all()
    assert (sheet[12:20, 2:14] == 30).all()
    assert (sheet[12:20, 16:28] == 255).all()
    assert (sheet[:2] == 255).all()
    assert (sheet[10:12] == 255).all()
    assert (sheet[:, 14:16] == 255).all()


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (7, 7 // 2), (16, 4), (32, 8), (64, 8), (96, 12)])
def test_grids_are_nearly_square(count: int, columns: int) -> None:
    assert kernels.columns_for(count) == (3 if count == 7 else columns)


# --- the analysis ---------------------------------------------------------------------------------------------------


def save(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], shape: list[Any], output: str) -> Path:
    graph = helper.make_graph(
        nodes,
        "kernels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def network(path: Path, weight: np.ndarray, *, nhwc: bool = False, second: np.ndarray | None = None) -> Path:
    """Save image -> conv1 -> relu -> (conv2) -> pooling -> dense."""
    nodes = [helper.make_node("Transpose", ["image"], ["turned"], name="turn", perm=[0, 3, 1, 2])] if nhwc else []
    source = "turned" if nhwc else "image"
    padding = [weight.shape[2] // 2, weight.shape[3] // 2] * 2
    nodes += [
        helper.make_node("Conv", [source, "w1", "b1"], ["c1"], name="conv1", pads=padding),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
    ]
    weights = {"w1": weight, "b1": np.linspace(-0.1, 0.1, len(weight))}
    last, channels = "r1", len(weight)
    if second is not None:
        nodes.append(helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2"))
        weights["w2"], last, channels = second, "c2", len(second)
    weights["w3"] = np.random.default_rng(0).standard_normal((5, channels))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3"], ["logits"], name="dense", transB=1),
    ]
    shape = ["n", SIDE, SIDE, weight.shape[1]] if nhwc else ["n", weight.shape[1], SIDE, SIDE]
    return save(path, nodes, weights, shape, "logits")


def photographs(folder: Path, count: int = 2) -> ImageFolder:
    generator = np.random.default_rng(0)
    for index in range(count):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{index}.png")
    return ImageFolder.find("photos", ["*.png"], folder)


def context(path: Path, preprocess: str = "unit", data: dict[str, Any] | None = None) -> JobContext:
    model = onnxviz.model.model.load(
        path, preprocess=dataclasses.replace(PRESETS[preprocess], fit="none"), device="cpu"
    )
    return JobContext(Subject("model", model.view, model.preprocessing, None, data or {}, 0), model, lambda *_: None)


def findings(analysis: Weights, on: JobContext) -> list[f.Finding]:
    return analysis.combine([analysis.run(job, on) for job in analysis.jobs(on.subject)], on.subject)


def find(found: list[f.Finding], kind: type[Found], key: str) -> Found:
    (only,) = (one for one in found if isinstance(one, kind) and getattr(one, "id", "") == key)
    return only


def metrics(found: list[f.Finding]) -> dict[str, float]:
    return {one.name: one.value for one in found if isinstance(one, f.Metric)}


def pixels(picture: f.Picture) -> np.ndarray:
    assert picture.pixels is not None
    return picture.pixels


def colours(order: str = "RGB") -> np.ndarray:
    """Kernels that look for red, green and blue, for a network whose channels stand in this order; one is dead."""
    weight = np.zeros((4, 3, 3, 3), np.float32)
    for index, name in enumerate("RGB"):
        weight[index, order.index(name)] = 1
    weight[3, 0, 0, 0] = 1e-7
    return weight


@pytest.mark.parametrize(("order", "preprocess"), [("RGB", "unit"), ("BGR", "caffe")])
@pytest.mark.parametrize("nhwc", [False, True])
def test_kernels_that_read_the_image_have_its_colours(tmp_path: Path, order: str, preprocess: str, nhwc: bool) -> None:
    on = context(network(tmp_path / "m.onnx", colours(order), nhwc=nhwc), preprocess)
    grid = find(findings(Weights(), on), f.TileGrid, "kernels.0")
    for index, expected in enumerate([(255, 128, 128), (128, 255, 128), (128, 128, 255)]):
        assert (pixels(grid.tiles[index].pictures[0]) == expected).all()
        assert grid.tiles[index].unit == Unit("conv1", index)
        assert grid.tiles[index].pictures[0].pixelated
    assert (pixels(grid.tiles[3].pictures[0]) == 128).all(), "a dead kernel must not look alive"
    assert "in colour" in grid.description


def test_three_channels_that_are_no_colours_are_drawn_one_by_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = network(tmp_path / "m.onnx", generator.standard_normal((3, 3, 3, 3)), second=colours())
    on = context(path)
    assert reads_image(on.subject.view, on.subject.view.layer("conv1"))
    assert not reads_image(on.subject.view, on.subject.view.layer("conv2"))
    grid = find(findings(Weights(layers="conv2"), on), f.TileGrid, "kernels.0")
    drawn = pixels(grid.tiles[0].pictures[0])
    assert drawn.shape == (1 * 4 + 1, 3 * 4 + 1, 3)
    assert (drawn[1:4, 1:4] == 255).all()
    assert (drawn[1:4, 5:8] == 128).all()
    assert "input channels 0-2" in grid.tiles[0].captions[0]


def test_input_channels_left_out_are_said(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    second = generator.standard_normal((5, 10, 3, 3))
    second[:, [2, 7]] *= 10
    on = context(network(tmp_path / "m.onnx", generator.standard_normal((10, 3, 3, 3)), second=second))
    found = findings(Weights(layers="conv2", input_channels=2, limit=4), on)
    assert "input channels 2, 7" in find(found, f.TileGrid, "kernels.0").tiles[0].captions[0]
    inputs = find(found, f.Coverage, "coverage.inputs.0")
    assert (inputs.done, inputs.total) == (2, 10)
    assert inputs.reason
    drawn = find(found, f.Coverage, "coverage.kernels")
    assert (drawn.done, drawn.total) == (4, 5)
    assert "limit" in drawn.reason
    assert len(find(found, f.Table, "kernels").rows) == 5, "statistics cover all kernels"


def test_one_scale_for_the_layer_or_one_for_each_kernel(tmp_path: Path) -> None:
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, 1, 1], weight[1, 0, 1, 1] = 1.0, -0.5
    on = context(network(tmp_path / "m.onnx", weight), "gray_unit")

    def centres(**settings: Any) -> list[int]:
        grid = find(findings(Weights(**settings), on), f.TileGrid, "kernels.0")
        return [int(pixels(tile.pictures[0])[1, 1, 0]) for tile in grid.tiles]

    assert centres() == [255, 1]
    assert centres(normalization="layer") == [255, 64]
    assert centres(zero="free") == [255, 0]


def test_sheet_shows_every_kernel_with_separators(tmp_path: Path) -> None:
    on = context(network(tmp_path / "m.onnx", np.random.default_rng(0).standard_normal((16, 3, 3, 3))))
    (tile,) = find(findings(Weights(), on), f.TileGrid, "sheet.0").tiles
    sheet = pixels(tile.pictures[0])
    assert sheet.shape[0] == sheet.shape[1]
    lines = (sheet == 255).all(axis=(1, 2))
    starts = np.flatnonzero(lines & ~np.concatenate([[False], lines[:-1]]))
    assert len(starts) == 5, "four rows of tiles between five lines"


def test_statistics_and_metrics(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    weight[1] = -2 * weight[0]
    weight[2] = 0
    weight[3] = SOBEL
    weight[5] = 3 * weight[4]
    on = context(network(tmp_path / "m.onnx", weight))
    analysis = Weights()
    found = findings(analysis, on)
    rows = find(found, f.Table, "kernels").rows
    assert [row[0] for row in rows] == [Unit("conv1", index) for index in range(8)]
    assert rows[1][1] == pytest.approx(float(np.sqrt((weight[1].astype(float) ** 2).sum())))
    assert [row[2] for row in rows] == ["", "", "dead", "", "", "", "", ""]
    assert rows[0][3:5] == ("", Unit("conv1", 1))
    assert rows[0][5] == pytest.approx(-1)
    assert rows[4][3:6] == (Unit("conv1", 5), "", pytest.approx(1))
    assert rows[3][8] == "oriented"
    assert "cannot be told" in {row[8] for row in rows}
    assert "like noise" not in {row[8] for row in rows}
    numbers = analysis.metrics(found)
    assert numbers == metrics(found)
    assert numbers["dead_fraction"] == pytest.approx(1 / 8)
    assert numbers["duplicate_fraction"] == numbers["negative_fraction"] == pytest.approx(2 / 8)
    assert "like_noise_fraction" not in numbers
    assert "48 weights" in analysis.unproduced([], on.subject)["like_noise_fraction"]
    alive = [row[6] for row in rows if row[6] is not None]
    assert len(alive) == 7
    assert numbers["high_frequency_share"] == pytest.approx(np.mean(alive))
    (note,) = (one.text for one in found if isinstance(one, f.Note))
    assert note.startswith("conv1: of 8 kernels ")
    assert "1 dead; 2 repeating another one; 2 the negative of another one" in note
    assert "too small to be told from noise" in note
    assert "like noise" not in note
    histogram = find(found, f.Histogram, "weights.0")
    assert sum(histogram.counts) == weight.size
    assert sum(find(found, f.Histogram, "norms.0").counts) == 8


def test_a_layer_of_noise_is_called_so_and_edges_are_not(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    noise = context(network(tmp_path / "noise.onnx", generator.standard_normal((32, 3, 7, 7))))
    y, x = np.mgrid[-3:4, -3:4]
    angles = np.linspace(0, np.pi, 16, endpoint=False)
    edges = np.stack([np.exp(-(x**2 + y**2) / 6) * np.sin(np.cos(a) * x + np.sin(a) * y) for a in angles])
    trained = context(network(tmp_path / "edges.onnx", np.repeat(edges[:, None], 3, axis=1)))
    texts = {}
    for name, on in (("noise", noise), ("edges", trained)):
        found = findings(Weights(), on)
        texts[name] = (
            next(one.text for one in found if isinstance(one, f.Note)),
            metrics(found)["like_noise_fraction"],
        )
    assert "too little training" in texts["noise"][0]
    assert texts["noise"][1] > 0.7
    assert "too little training" not in texts["edges"][0]
    assert texts["edges"][1] == 0


def test_dense_layers_and_pointwise_convolutions_have_numbers_only(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = network(tmp_path / "m.onnx", generator.standard_normal((9, 3, 3, 3)), second=np.ones((6, 9, 1, 1)))
    found = findings(Weights(layers=["conv2", "dense"]), context(path))
    assert not [one for one in found if isinstance(one, f.TileGrid)]
    drawn = find(found, f.Coverage, "coverage.kernels")
    assert (drawn.done, drawn.total) == (0, 11)
    assert "conv2, dense" in drawn.reason
    rows = find(found, f.Table, "kernels").rows
    assert len(rows) == 6 + 5
    assert {row[6] for row in rows} == {None}
    assert {row[3] for row in rows[6:]} == {None}, "no duplicates among dense units"
    assert metrics(found)["duplicate_fraction"] == 1.0, "all pointwise kernels are the same"
    assert "high_frequency_share" not in metrics(found)
    layers = find(found, f.Coverage, "coverage.layers")
    assert (layers.done, layers.total) == (2, 2)


def test_layers_without_weights_are_said_or_refused(tmp_path: Path) -> None:
    on = context(network(tmp_path / "m.onnx", colours()))
    found = findings(Weights(layers=["conv1", "relu1"]), on)
    layers = find(found, f.Coverage, "coverage.layers")
    assert (layers.done, layers.total) == (1, 2)
    assert "relu1" in layers.reason
    with pytest.raises(AnalysisError, match="constant weights") as caught:
        list(Weights(layers="relu1").jobs(on.subject))
    assert "first_conv" in str(caught.value)


def test_response_is_the_convolution_s_own_output(tmp_path: Path) -> None:
    weight = np.zeros((3, 3, 3, 3), np.float32)
    weight[0, :] = SOBEL
    weight[2, 0, 1, 1] = 0.1
    source = photographs(tmp_path)
    on = context(network(tmp_path / "m.onnx", weight), data={"photos": source})
    analysis = Weights(response_to={"data": "photos", "images": None, "kernels": [2, 0]})  # type: ignore[arg-type]
    found = findings(analysis, on)
    matrix = find(found, f.PictureMatrix, "response.0")
    assert matrix.columns == ("kernel 2", "kernel 0")
    assert [row.title for row in matrix.rows] == ["the kernel", "photo0.png", "photo1.png"]
    image = source.read(0) / 255
    lead = matrix.rows[1].lead
    assert lead is not None
    assert (pixels(lead) == source.read(0)).all()
    padded = np.pad(image.sum(axis=2), 1)
    expected = -0.1 + sum(SOBEL[y, x] * padded[y : y + SIDE, x : x + SIDE] for y, x in np.ndindex(3, 3))
    cells = matrix.rows[1].cells
    assert cells[1] is not None
    shown = pixels(cells[1][0]).astype(int)
    strong = np.abs(expected) > 0.3 * np.abs(expected).max()
    assert ((shown[..., 0] > shown[..., 2]) == (expected > 0))[strong].all(), "red is positive, blue negative"
    ranges = find(found, f.Table, "ranges.0").rows
    assert [row[1] for row in ranges] == [Unit("conv1", 2), Unit("conv1", 0)] * 2
    assert ranges[1][0] == "photo0.png, kernel 0"
    assert ranges[1][2:] == pytest.approx((expected.min(), expected.max()), rel=1e-4)
    coverage = find(found, f.Coverage, "coverage.response_kernels")
    assert (coverage.done, coverage.total) == (2, 3)


def test_kernels_are_chosen_by_norm(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 3))
    weight[[1, 4]] *= 10
    on = context(network(tmp_path / "m.onnx", weight), data={"photos": photographs(tmp_path)})
    found = findings(Weights(response_to={"data": "photos", "kernels": 2}), on)  # type: ignore[arg-type]
    matrix = find(found, f.PictureMatrix, "response.0")
    assert matrix.columns == ("kernel 1", "kernel 4")
    assert len(matrix.rows) == 2
    photos = find(found, f.Coverage, "coverage.photographs.0")
    assert (photos.done, photos.total) == (1, 2)


@pytest.mark.parametrize(
    ("response", "error", "words"),
    [
        ({"data": "photo"}, DataError, "did you mean 'photos'"),
        ({"data": "photos", "images": 9}, DataError, "no image 9"),
        ({"data": "photos", "images": "photo7"}, DataError, "photo"),
        ({"data": "photos", "kernels": [4]}, SelectionError, "no kernel 4"),
        ({"data": "photos", "kernels": 0}, SelectionError, "at least one"),
    ],
)
def test_mistakes_are_named_when_planning(
    tmp_path: Path, response: dict[str, Any], error: type[Exception], words: str
) -> None:
    on = context(network(tmp_path / "m.onnx", colours()), data={"photos": photographs(tmp_path)})
    with pytest.raises(error, match=words):
        list(Weights(response_to=response).jobs(on.subject))  # type: ignore[arg-type]


def test_findings_survive_a_round_trip(tmp_path: Path) -> None:
    on = context(network(tmp_path / "m.onnx", colours()), data={"photos": photographs(tmp_path)})
    found = findings(Weights(response_to={"data": "photos"}), on)  # type: ignore[arg-type]
    stored = [f.replace_leaves(one, lambda leaf: dataclasses.replace(leaf, path="x.png", pixels=None)) for one in found]
    again = f.from_data(f.to_data(stored))
    assert f.to_data(list(again)) == f.to_data(stored)


def test_example_validates_and_settings_are_strict() -> None:
    assert registry()["weights"] is Weights
    Weights.model_validate(yaml.safe_load(Weights.example))
    with pytest.raises(ValidationError):
        Weights.model_validate({"kind": "weights", "layer": "conv1"})
    for name, entry in Weights.model_fields.items():
        assert name == "kind" or entry.description or entry.metadata, name


def test_planning_does_not_load_torch(tmp_path: Path) -> None:
    path = network(tmp_path / "m.onnx", colours())
    photographs(tmp_path)
    code = f"""
import sys
from pathlib import Path
from onnxviz.analyses.base import Subject
from onnxviz.analyses.grad_cam.analysis import GradCam
from onnxviz.analyses.weights.analysis import Weights
from onnxviz.graph import open_model
from onnxviz.data.images import ImageFolder
from onnxviz.core.values import PRESETS
data = {{"photos": ImageFolder.find("photos", ["*.png"], Path({str(tmp_path)!r}))}}
subject = Subject("m", open_model({str(path)!r}), PRESETS["unit"], None, data, 0)
assert len(list(Weights(response_to={{"data": "photos"}}).jobs(subject))) == 2
assert len(list(GradCam(data="photos").jobs(subject))) == 2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


@pytest.mark.zoo
def test_first_layers_of_real_models(zoo: Path) -> None:
    seen = {}
    for file, preprocess in (
        ("squeezenet_fp16.onnx", "caffe"),
        ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "tf"),
        ("mnist.onnx", "gray_raw"),
    ):
        found = findings(Weights(), context(zoo / "onnx" / file, preprocess))
        seen[file[:5]] = (find(found, f.TileGrid, "kernels.0"), metrics(found), find(found, f.Table, "layers").rows[0])
    assert len(seen["squee"][0].tiles) == 64
    assert "in colour" in seen["squee"][0].description
    assert "like_noise_fraction" not in seen["squee"][1], "27 weights"
    assert seen["stm_m"][1]["dead_fraction"] == 0.25
    assert "in colour" in seen["stm_m"][0].description
    assert "in grey" in seen["mnist"][0].description
