"""Exemplars: peaks beside a loop over everything, patches with known pixels, a network whose units are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxviz
from onnxviz.analyses.exemplars import patches
from onnxviz.analyses.exemplars.analysis import Exemplars
from onnxviz.analyses.exemplars.findings import about_refused, class_words
from onnxviz.analyses.exemplars.peaks import LayerPeaks, Peaks
from onnxviz.analyses.exemplars.rectified import coloured, rectified
from onnxviz.analyses.exemplars.tiles import _beside
from onnxviz.core.errors import AnalysisError, RecipeError, SelectionError
from onnxviz.core.findings import Array, Caveat, Coverage, Note, Table, TileGrid
from onnxviz.core.values import Grid
from onnxviz.data.images import ImageFolder

UNITS, IMAGES = 7, 23


def activations(seed: int = 0) -> npt.NDArray[np.float32]:
    """Maps of many equal values, of which one unit is dead."""
    values = np.random.default_rng(seed).integers(-3, 5, (IMAGES, UNITS, 3, 4)).astype(np.float32)
    values[:, 2] = 0
    return values


def kept(maps: npt.NDArray[np.float32], images: list[int], step: int, most: int = 5, least: int = 3) -> LayerPeaks:
    found = LayerPeaks.empty(UNITS, most, least)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        found = found.with_images(maps[part], part, frozenset(range(0, IMAGES, 2)))
    return found


def by_loop(maps: npt.NDArray[np.float32], unit: int, count: int, sign: int) -> list[tuple[float, int, int]]:
    """The images of highest peak, or of lowest, by sorting all; of equal ones the lowest number first."""
    peaks = [(float(image[unit].max()), number, int(image[unit].argmax())) for number, image in enumerate(maps)]
    return sorted(peaks, key=lambda entry: (-sign * entry[0], entry[1]))[:count]


def same(one: LayerPeaks, other: LayerPeaks) -> None:
    for name in ("active", "sample", "sampled"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("highest", "lowest"):
        for part in ("values", "images"):
            np.testing.assert_array_equal(getattr(getattr(one, name), part), getattr(getattr(other, name), part))
    np.testing.assert_array_equal(one.highest.places, other.highest.places)
    assert (one.images, one.shape) == (other.images, other.shape)


@pytest.mark.parametrize("step", [1, 4, 23])
def test_peaks_are_those_of_a_loop(step: int) -> None:
    maps = activations()
    found = kept(maps, list(range(IMAGES)), step)
    for unit in range(UNITS):
        wanted = by_loop(maps, unit, 5, 1)
        assert found.highest.values[unit].tolist() == [value for value, *_ in wanted]
        assert found.highest.images[unit].tolist() == [image for _, image, _ in wanted]
        assert found.highest.places[unit].tolist() == [place for *_, place in wanted]
        wanted = by_loop(maps, unit, 3, -1)
        assert (-found.lowest.values[unit]).tolist() == [value for value, *_ in wanted]
        assert found.lowest.images[unit].tolist() == [image for _, image, _ in wanted]
    assert found.active.tolist() == (maps.max(axis=(2, 3)) > 0).sum(axis=0).tolist()
    assert found.never_active.tolist() == [unit == 2 for unit in range(UNITS)]
    np.testing.assert_array_equal(found.sampled, maps[::2].max(axis=(2, 3)))


def test_shards_join_in_any_order_to_what_one_pass_gives() -> None:
    maps, every = activations(1), list(range(IMAGES))
    whole = kept(maps, every, 4)
    parts = [kept(maps, every[start:stop], 3) for start, stop in ((0, 9), (9, 11), (11, 23))]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        first, second, third = (parts[place] for place in order)
        same(first.join(second).join(third), whole)
        same(first.join(second.join(third)), whole)


def test_quantiles_are_those_of_the_sampled_peaks() -> None:
    found = kept(activations(2), list(range(IMAGES)), 5)
    for share in (0.01, 0.5, 0.75, 0.99):
        values, images = found.nearest_to_quantile(share)
        for unit in range(UNITS):
            ordered = sorted(found.sampled[:, unit].tolist())
            assert values[unit] == ordered[round((len(ordered) - 1) * share)]
            assert found.sampled[found.sample.tolist().index(images[unit]), unit] == values[unit]


def test_what_is_not_finite_is_refused() -> None:
    maps = activations()
    maps[3, 4, 0, 0] = np.nan
    with pytest.raises(AnalysisError, match="unit 4 has activations that are infinite or not a number"):
        kept(maps, list(range(IMAGES)), 4)


def test_fewer_images_than_are_kept() -> None:
    found = Peaks.empty(1, 9).with_images(np.array([[[1.0, 4.0]], [[3.0, 2.0]]], np.float32),
                                          np.array([[4.0], [3.0]], np.float32), [5, 8])  # fmt: skip
    assert (found.values.tolist(), found.images.tolist(), found.places.tolist()) == ([[4, 3]], [[5, 8]], [[1, 0]])


def test_none_need_be_kept() -> None:
    found = kept(activations(), list(range(IMAGES)), 4, least=0)
    assert found.lowest.values.shape == (UNITS, 0)
    assert kept(activations(), list(range(9)), 4, least=0).join(found).lowest.images.shape == (UNITS, 0)


# --- patches --------------------------------------------------------------------------------------------------------


def test_a_patch_is_what_lies_in_the_box_and_grey_beyond_the_image() -> None:
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    np.testing.assert_array_equal(patches.patch(image, (1, 2, 4, 7)), image[1:4, 2:7])
    found = patches.patch(image, (-1, 6, 2, 10))
    np.testing.assert_array_equal(found[1:, :2], image[:2, 6:])
    assert (found[0] == 128).all()
    assert (found[:, 2:] == 128).all()
    assert patches.shown_box((-9, 2, 9, 5), (6, 8)) == (0, 2, 6, 5)  # larger than the image: nothing to be centred on
    assert patches.shown_box((-1, 2, 2, 5), (6, 8)) == (-1, 2, 2, 5)


@pytest.mark.parametrize("box", [(-9, 0, -4, 3), (0, 9, 3, 14), (9, 9, 12, 12), (0, 0, 0, 0)])
def test_a_place_that_sees_padding_only_or_nothing_has_a_grey_patch(box: patches.Box) -> None:
    found = patches.patch(np.zeros((6, 8, 3), np.uint8), box)
    assert (found == patches.NOTHING).all()
    assert patches.centred(patches.scaled(found)).shape == (patches.CELL, patches.CELL, 3)


def test_the_frame_is_where_the_box_is() -> None:
    image = np.zeros((88, 88, 3), np.uint8)
    found = patches.whole(image, None, 1.0, (10, 20, 30, 60))
    framed = np.argwhere((found == patches.FRAME).all(axis=2))
    assert (framed.min(axis=0).tolist(), framed.max(axis=0).tolist()) == ([10, 20], [29, 59])
    assert not (patches.whole(image, None, 1.0, (0, 0, 88, 88)) == patches.FRAME).all(axis=2).any()


def test_what_is_less_than_half_as_active_is_dimmed() -> None:
    image = np.full((88, 88, 3), 200, np.uint8)
    heat = np.zeros((8, 8), np.float32)
    heat[2, 5] = 1.0
    found = patches.whole(image, heat, 1.0, None)
    bright = np.argwhere((found == 200).all(axis=2))
    middle = bright.mean(axis=0)
    assert middle.tolist() == pytest.approx([11 * 2.5, 11 * 5.5], abs=1)
    assert (patches.whole(image, heat, 4.0, None) < 200).all()  # elsewhere it is four times as active
    assert (patches.whole(image, heat, 0.0, None) == 200).all()


def test_small_patches_keep_their_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 255, (3, 3, 3)).astype(np.uint8)
    scaled = patches.scaled(image)
    times = patches.CELL // 3
    np.testing.assert_array_equal(scaled[times // 2 :: times, times // 2 :: times], image)
    one = patches.together([patches.centred(scaled)] * 5)
    assert one.shape[0] < one.shape[1]  # two rows of three


def test_classes_in_words() -> None:
    assert class_words(["dog", "cat", "dog", ""]) == "dog 2, cat 1 of 4"
    assert class_words(["a", "b", "c", "d", "e"]) == "a 1, b 1, c 1 of 5; 2 more classes"
    assert class_words(["", ""]) == ""


# --- a network whose units are known --------------------------------------------------------------------------------


def network(path: Path) -> Path:
    """Units for red, for an edge that gets brighter to the right, and one that is never active; their means behind."""
    kernels = np.zeros((3, 3, 3, 3), np.float32)
    kernels[0, :, 1, 1] = (1, -1, -1)
    kernels[1, :, :, 0], kernels[1, :, :, 2] = -1, 1
    weights = [numpy_helper.from_array(kernels, "w"), numpy_helper.from_array(np.array([0, 0, -1], np.float32), "b")]
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["active"], name="active"),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"], name="pooled"),
        helper.make_node("Flatten", ["pooled"], ["logits"], name="logits"),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 24, 24])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "known", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def pictures(folder: Path) -> ImageFolder:
    """Grey pictures: image i has a red square whose brightness grows with i, and 11 an edge, at its own place each."""
    for number in range(12):
        (folder / f"class{number % 2}").mkdir(exist_ok=True)
        pixels = np.full((24, 24, 3), 40, np.uint8)
        if number == 11:
            pixels[:, 15:] = 240
        else:
            row, column = 2 + number, 20 - number
            pixels[row : row + 2, column : column + 2] = (100 + 10 * number, 0, 0)
        Image.fromarray(pixels).save(folder / f"class{number % 2}" / f"{number:02d}.png")
    return ImageFolder.find("pictures", ["*/*.png"], folder)


@pytest.fixture
def model(tmp_path: Path) -> onnxviz.Model:
    return onnxviz.load(network(tmp_path / "m.onnx"), "unit", device="cpu")


def exemplars(model: onnxviz.Model, source: ImageFolder, **settings: Any) -> Any:
    return model.analyze("exemplars", {"pictures": source}, data="pictures", **{"layers": ["active"], **settings})


def test_units_are_excited_by_what_they_detect(model: onnxviz.Model, tmp_path: Path) -> None:
    source = pictures(tmp_path)
    found = exemplars(model, source, patches=3, least=2)
    numbers = next(one for one in found.findings if isinstance(one, Array)).arrays
    names = [source.names[image] for image in numbers["images"][0]]
    assert names == ["class0/10.png", "class1/09.png", "class0/08.png"]
    row, column = divmod(int(numbers["places"][0, 0]), int(numbers["map"][1]))
    assert (row, column) == (12, 10)
    assert source.names[numbers["images"][1, 0]] == "class1/11.png"
    assert int(numbers["places"][1, 0]) % 24 in (14, 15)
    assert found.metrics["never_active"] == pytest.approx(1 / 3)
    grid = next(one for one in found.findings if isinstance(one, TileGrid))
    assert [tile.unit.index for tile in grid.tiles if tile.unit] == [0, 1]  # the dead unit has no exemplars
    facts = dict(grid.tiles[0].facts)
    assert facts["classes"] == "class0 2, class1 1 of 3"
    assert grid.tiles[0].captions == ("patches", "in their images", "at quantiles 0.99, 0.95, 0.75, 0.5", "least")
    patch = grid.tiles[0].pictures[0].pixels
    assert patch is not None
    side = patches.CELL // 3  # the field of a position is three pixels wide
    assert patch[side + side // 2, side + side // 2].tolist() == pytest.approx([200, 0, 0], abs=24)  # JPEG comes later
    table = next(one for one in found.findings if isinstance(one, Table) and one.id == "units")
    assert [row[4] for row in table.rows] == [pytest.approx(11 / 12), 1.0, 0.0]
    assert dict(grid.tiles[0].facts)["3rd highest"] == numbers["values"][0, 2]
    (shown,) = (one for one in found.findings if isinstance(one, Coverage) and one.id == "coverage.shown")
    assert (shown.done, shown.total, shown.reason) == (2, 3, "those that are never active have none")


@pytest.mark.parametrize("rule", ["deconvnet", "guided_backpropagation"])
def test_what_excites_a_unit_is_carried_back_to_the_pixels_that_it_sees(
    model: onnxviz.Model, tmp_path: Path, rule: Any
) -> None:
    """Of one convolution with its ReLU both are the kernel, at the place of the peak."""
    source, layer = pictures(tmp_path), model.view.layer("active")
    (found,) = rectified(rule, model, source, layer, 0, [(source.names.index("class0/10.png"), 12 * 24 + 10)])
    wanted = np.zeros((24, 24, 3), np.float32)
    wanted[12, 10] = (1, -1, -1)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    colours = coloured(found[11:14, 9:12])
    assert colours[1, 1].tolist() == [255, 1, 1]
    assert (colours[0] == patches.NOTHING).all()
    shown = exemplars(model, source, beside=rule)
    tile = next(one for one in shown.findings if isinstance(one, TileGrid)).tiles[0]
    assert tile.captions[1] == rule.replace("_", " ")


def test_where_the_unit_is_silent_only_the_deconvnet_carries_anything_back(
    model: onnxviz.Model, tmp_path: Path
) -> None:
    source, layer = pictures(tmp_path), model.view.layer("active")
    silent = [(source.names.index("class0/10.png"), 5 * 24 + 5)]
    (by_deconvnet,) = rectified("deconvnet", model, source, layer, 0, silent)
    assert by_deconvnet[5, 5].tolist() == [1, -1, -1]
    (guided,) = rectified("guided_backpropagation", model, source, layer, 0, silent)
    assert not guided.any()


def test_without_a_rectifier_there_is_nothing_to_carry_back(model: onnxviz.Model, tmp_path: Path) -> None:
    found = exemplars(model, pictures(tmp_path), layers=["conv"], value="convolution", beside="deconvnet")
    (caveat,) = (one for one in found.findings if isinstance(one, Caveat) and one.id.startswith("refused"))
    assert "There is no deconvnet of units of conv: there is no ReLU before the score" in caveat.text
    tile = next(one for one in found.findings if isinstance(one, TileGrid)).tiles[0]
    assert "deconvnet" not in tile.captions


def test_that_nothing_is_carried_back_from_tokens_is_said(model: onnxviz.Model) -> None:
    layer = replace(model.view.layer("active"), grid=Grid(((24, 24),), (0, 1), 1))
    refused: dict[str, str] = {}
    settings, unused = Exemplars(data="pictures", beside="deconvnet"), cast("Any", None)
    assert _beside(settings, layer, unused, unused, unused, refused) == []
    (caveat,) = about_refused("deconvnet", refused)
    assert "There is no deconvnet of units of active: their positions are tokens" in cast("Caveat", caveat).text


def test_one_image(model: onnxviz.Model, tmp_path: Path) -> None:
    found = exemplars(model, pictures(tmp_path), limit=1)
    (note,) = (one.text for one in found.findings if isinstance(one, Note) and one.id == "never_active")
    assert note == "Units that are above zero nowhere in the one image: active: 1 of 3."
    facts = dict(next(one for one in found.findings if isinstance(one, TileGrid)).tiles[0].facts)
    assert facts["above 0 in"] == "100% of 1 image"
    assert not any(name.endswith(" highest") for name in facts)


def test_images_that_excite_a_unit_alike_are_said_to(tmp_path: Path) -> None:
    """Behind a bound that all reach, which images and places come first is by their order."""
    proto = onnx.load(network(tmp_path / "m.onnx"))
    relu = next(node for node in proto.graph.node if node.op_type == "Relu")
    relu.output[0] = "unbound"
    bounds = [numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0.0), ("high", 0.01))]
    proto.graph.initializer.extend(bounds)
    proto.graph.node.insert(2, helper.make_node("Clip", ["unbound", "low", "high"], ["active"], name="bounded"))
    onnx.save(proto, tmp_path / "m.onnx")
    bounded = onnxviz.load(tmp_path / "m.onnx", "unit", device="cpu")
    found = exemplars(bounded, pictures(tmp_path), layers=["bounded"], patches=4)
    (caveat,) = (one for one in found.findings if isinstance(one, Caveat) and one.id == "ties")
    assert "bounded: 2 of 3" in caveat.text
    facts = [dict(tile.facts) for one in found.findings if isinstance(one, TileGrid) for tile in one.tiles]
    assert [each["highest reached in"] for each in facts] == ["11 of 12 images", "12 of 12 images"]
    assert not any(isinstance(one, Caveat) and one.id == "ties" for one in exemplars(
        bounded, pictures(tmp_path), layers=["bounded"], patches=12).findings)  # fmt: skip


def test_what_excites_a_unit_of_grey_images_is_grey(tmp_path: Path) -> None:
    proto = onnx.load(network(tmp_path / "m.onnx"))
    kernels = numpy_helper.to_array(proto.graph.initializer[0]).sum(axis=1, keepdims=True)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(kernels, "w"))
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(proto, tmp_path / "m.onnx")
    grey = onnxviz.load(tmp_path / "m.onnx", "gray_unit", device="cpu")
    source = pictures(tmp_path)
    (found,) = rectified("deconvnet", grey, source, grey.view.layer("active"), 1, [(0, 12 * 24 + 10)])
    np.testing.assert_allclose(found[11:14, 9:12, 0], kernels[1, 0], atol=1e-5)
    assert found.shape == (24, 24, 1)
    assert (np.ptp(coloured(found), axis=2) == 0).all()


def test_nothing_but_the_best(model: onnxviz.Model, tmp_path: Path) -> None:
    found = exemplars(model, pictures(tmp_path), least=0, quantiles=[])
    tile = next(one for one in found.findings if isinstance(one, TileGrid)).tiles[0]
    assert tile.captions == ("patches", "in their images")
    table = next(one for one in found.findings if isinstance(one, Table) and one.id == "units")
    assert table.rows[0][3] < table.rows[0][2] < table.rows[0][1]  # the lowest is that of the sample then


def test_units_of_single_numbers_have_no_patches(model: onnxviz.Model, tmp_path: Path) -> None:
    found = exemplars(model, pictures(tmp_path), layers=["logits", "active"], shown="all")
    grids = {one.id: one for one in found.findings if isinstance(one, TileGrid)}
    captions = [grid.tiles[0].captions[0] for grid in grids.values()]
    assert sorted(captions) == ["in their images", "patches"]
    assert not any(isinstance(one, Caveat) and one.id == "left_out" for one in found.findings)


@pytest.mark.parametrize(("kept_best", "few"), [(1, False), (2, True)])
def test_few_images_are_said_to_be_few(model: onnxviz.Model, tmp_path: Path, kept_best: int, few: bool) -> None:
    source = pictures(tmp_path)
    assert 10 <= len(source) < 20
    found = exemplars(model, source, patches=kept_best)
    said = [one.text for one in found.findings if isinstance(one, Caveat) and one.id == "few_images"]
    assert [
        text.startswith(f"The 2 images that excite a unit most are {2 / len(source):.0%} of the") for text in said
    ] == [True] * few


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_same_bytes(tmp_path: Path, workers: int) -> None:
    pictures(tmp_path)
    network(tmp_path / "m.onnx")
    runs = []
    for shard in (None, 5):
        recipe = {
            "version": 1,
            "model": {"path": "m.onnx", "preprocess": "unit"},
            "data": {"pictures": {"images": "*/*.png"}},
            "analyses": {"x": {"kind": "exemplars", "data": "pictures", "layers": ["active", "logits"],
                               **({"shard": shard} if shard else {})}},
        }  # fmt: skip
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        out = tmp_path / f"out{shard}"
        onnxviz.run(tmp_path / "r.yaml", out, workers=workers)
        analysis = json.loads((out / "run.json").read_text())["analyses"][0]
        files = [part["findings"] for part in analysis["parts"]]
        runs.append((_without_paths(files), _contents(files, out)))
    assert runs[0] == runs[1]


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(item) for key, item in value.items() if key != "path"}
    return [_without_paths(item) for item in value] if isinstance(value, list) else value


def _contents(value: Any, folder: Path) -> list[bytes]:
    if isinstance(value, dict):
        own = [(folder / value["path"]).read_bytes()] if value.get("type") == "Picture" else []
        return own + [each for item in value.values() for each in _contents(item, folder)]
    return [each for item in value for each in _contents(item, folder)] if isinstance(value, list) else []


def test_mistakes_are_said(model: onnxviz.Model, tmp_path: Path) -> None:
    source = pictures(tmp_path)
    with pytest.raises(SelectionError, match="7"):
        exemplars(model, source, units=7)
    with pytest.raises(RecipeError, match="a number of units from 0 on, or all"):
        exemplars(model, source, shown=-1)
    with pytest.raises(RecipeError, match="expected a whole number or 'all', not 'al'; did you mean 'all'"):
        exemplars(model, pictures(tmp_path), shown="al")
    with pytest.raises(RecipeError, match="must be less than 1"):
        exemplars(model, source, quantiles=[1.5])
