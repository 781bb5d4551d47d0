"""Plain colours and gratings, what they are held against, and what is said of pictures that they beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz.model.model
from onnxviz.analyses.activation_maximization import making as picture_making
from onnxviz.analyses.activation_maximization.goals import Goal
from onnxviz.analyses.activation_maximization.made_pictures import exceeds, limits_of
from onnxviz.analyses.activation_maximization.making import Start, made_again
from onnxviz.analyses.activation_maximization.measurements import RealActivations, SimpleActivations
from onnxviz.analyses.activation_maximization.simple_pictures import SimplePicture, simple_pictures
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.core import findings as f
from onnxviz.core.values import Target
from onnxviz.graph.value_range import range_of
from onnxviz.optimize.ascent import Maximized, maximize
from onnxviz.optimize.settings import AscentSettings
from tests.analyses.test_activation_maximization import analyse, context, detectors, only

# --- the pictures ---------------------------------------------------------------------------------------------------


def test_every_corner_of_the_colours_is_tried_and_no_picture_twice() -> None:
    tried = simple_pictures(3)
    assert len(tried) == len(set(tried)) == 125 + 160
    named = {simple.words for simple in tried if simple.other is None}
    assert {f"plain {name}" for name in ("red", "yellow", "cyan", "black", "white", "grey")} < named
    assert all(simple.color[0] == simple.color[1] == simple.color[2] for simple in simple_pictures(1))


def test_a_plain_colour_is_plain() -> None:
    picture = SimplePicture((1.0, 0.5, 0.0)).paint((5, 7))
    assert picture.dtype == np.float32
    assert np.array_equal(picture, np.broadcast_to(np.array([1, 0.5, 0], np.float32)[:, None, None], (3, 5, 7)))
    assert SimplePicture((1.0, 0.5, 0.0)).words == "plain #ff8000"


@pytest.mark.parametrize(
    ("angle", "down", "right"),
    [(0.0, 0, 8), (90.0, -8, 0), (45.0, -8 / np.sqrt(2), 8 / np.sqrt(2)), (135.0, -8 / np.sqrt(2), -8 / np.sqrt(2))],
)
def test_a_grating_has_its_period_across_its_lines(angle: float, down: float, right: float) -> None:
    """Lines that are turned counterclockwise from upright by 45° run from the lower right to the upper left."""
    side, period = 64, 8.0
    grating = SimplePicture((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), angle, period)
    picture = grating.paint((side, side))
    rows, columns = np.mgrid[:side, :side] - (side - 1) / 2
    wave = (rows * down + columns * right) / (8 * period)
    np.testing.assert_allclose(picture[0], 0.5 + 0.5 * np.sin(2 * np.pi * wave), atol=1e-5)
    assert "every 8 pixels" in grating.words
    assert ("upright" if not angle else f"{angle:g}° from upright") in grating.words


# --- what is said ---------------------------------------------------------------------------------------------------


def goal(sign: int = 1, layer: str = "relu") -> Goal:
    return Goal(Target(layer, 0, None, sign), None, "it", sign)  # type: ignore[arg-type]


def tried(*values: float) -> SimpleActivations:
    return SimpleActivations(np.array(values, np.float32), simple_pictures(3)[: len(values)])


@pytest.mark.parametrize(
    ("value", "after", "sign", "beats"),
    [(1.0, 0.5, 1, True), (1.0, 0.995, 1, False), (0.5, 1.0, 1, False), (0.5, 1.0, -1, True), (-1.0, -2.0, 1, True),
     (-2.0, -1.0, -1, True), (0.0, 0.0, 1, False), (1e-9, 0.0, 1, True)],
)  # fmt: skip
def test_a_trifle_beats_nothing(value: float, after: float, sign: int, beats: bool) -> None:
    assert exceeds(value, after, sign) == beats


def test_what_beats_a_picture_is_said_with_how_much(tmp_path: Path) -> None:
    subject = context(detectors(tmp_path / "d.onnx")).subject
    found = limits_of(goal(), 0.0, 0.5, tried(0.1, 1.0, 0.0), None, "", subject)
    assert (found.simple, found.times, found.beaten, found.dead) == (1.0, 2.0, True, False)
    assert found.which == simple_pictures(3)[1].words
    assert not limits_of(goal(), 0.0, 2.0, tried(0.1, 1.0), None, "", subject).beaten
    down = limits_of(goal(-1), 0.5, 0.2, tried(0.1, 1.0), None, "", subject)
    assert (down.simple, down.times, down.beaten) == (pytest.approx(0.1), None, True)


def test_units_of_colour_are_those_that_a_plain_colour_excites_most() -> None:
    pictures = (*simple_pictures(3)[:2], *simple_pictures(3)[-2:])

    def of_color(sign: int, *values: float) -> bool:
        return SimpleActivations(np.array(values, np.float32), pictures).is_of_color(sign)

    assert of_color(1, 0, 1, 0.5, 0.9)
    assert not of_color(1, 0, 1, 0.5, 1.1)
    assert not of_color(1, 0, 0, 0, 0)
    assert of_color(-1, -2, 1, -1, 0)
    assert not of_color(-1, 0, 1, -1, 0)


def test_the_mean_colour_is_free_for_units_of_colour_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, used = context(detectors(tmp_path / "d.onnx")), {}

    def spy(model: Any, wanted: Any, seeds: Any, chosen: AscentSettings, **others: Any) -> Maximized:
        used.update({target.unit: chosen.parameterization.mean_color for target in wanted})  # type: ignore[union-attr]
        return maximize(model, wanted, seeds, chosen, **others)

    monkeypatch.setattr(picture_making, "maximize", spy)
    targets = [{"layer": "relu", "units": [1, 0, 2]}]
    found = analyse(place, targets=targets, steps=2)
    assert used == {0: 8.0, 1: 0.0, 2: 0.0}
    assert [row[1].index for row in only(found, f.Table).rows] == [1, 0, 2]  # type: ignore[union-attr]
    analyse(place, targets=targets, steps=2, parameterization={"kind": "fourier", "mean_color": 3})
    assert used == {0: 3.0, 1: 3.0, 2: 3.0}


def real(*values: float) -> RealActivations:
    return RealActivations(np.array(values, np.float32), np.arange(len(values)), (8, 8))


@pytest.mark.parametrize(
    ("before", "after", "simple", "seen", "words"),
    [
        (
            0.0,
            0.0,
            (0.0, 0.0),
            None,
            "dead: its activation is 0 on everything that was tried, the start, ",
        ),
        (2.0, 2.0, (2.0, 2.0), (2.0, 2.0), "and 2 real images"),
        (0.0, 3.0, (0.0, 1.0), (0.0, 0.0, 0.0), "silent on real images: 0 on all 3"),
        (0.0, 3.0, (0.0, 1.0), (0.0, 0.003), "almost silent on real images: at most 0.10% of this on any of 2"),
        (0.0, 3.0, (0.0, 1.0), (0.5, 0.5), "the same on all 2 real images: 0.5"),
        (0.0, 3.0, (0.0, 1.0), (0.0, 2.0), ""),
        (0.0, 0.0, (0.0, 0.0), (0.0, 2.0), ""),
    ],
)
def test_dead_and_silent_units_are_said_to_be(
    tmp_path: Path, before: float, after: float, simple: Sequence[float], seen: Sequence[float] | None, words: str
) -> None:
    subject = context(detectors(tmp_path / "d.onnx")).subject
    beside = None if seen is None else real(*seen)
    found = limits_of(goal(), before, after, tried(*simple), beside, "", subject)
    assert words in found.state
    assert bool(words) == bool(found.state)
    assert found.dead == found.state.startswith("dead")


def made(after: Sequence[float]) -> Maximized:
    count = len(after)
    numbers = np.arange(count, dtype=np.float32)
    return Maximized(
        np.broadcast_to(numbers[:, None, None, None], (count, 3, 2, 2)).copy(),
        np.zeros((count, 4), np.float32), np.zeros(count, np.float32), np.array(after, np.float32),
        np.ones(count, np.float32), np.full(count, 4), np.zeros((count, 0, 0), np.float32),
    )  # fmt: skip


def test_only_what_falls_short_is_begun_again_and_the_better_is_kept() -> None:
    first = made([1.0, 1.0, 1.0, -1.0])
    asked: list[tuple[list[int], list[float]]] = []

    def optimize_batch(places: Sequence[int], starts: Sequence[np.ndarray]) -> Maximized:
        asked.append((list(places), [float(start.max()) for start in starts]))
        again = made([2.5, 0.5, -3.5])
        return replace(again, images=again.images + 100)

    def start(value: float, words: str) -> Start:
        return Start(value, words, lambda: np.full((3, 2, 2), value, np.float32))

    starts = [[start(2.0, "two"), start(1.5, "less")], [start(1.01, "no")], [start(3.0, "worse")], [start(-3.0, "low")]]
    found, begun = made_again(first, [1, 1, 1, -1], starts, optimize_batch)
    assert asked == [([0, 2, 3], [2.0, 3.0, -3.0])]
    assert begun == ["two", "", "", "low"]
    assert found.after.tolist() == [2.5, 1.0, 1.0, -3.5]
    assert found.images[:, 0, 0, 0].tolist() == [100, 1, 2, 102]
    assert first.after.tolist() == [1.0, 1.0, 1.0, -1.0]


def test_the_report_names_what_is_beaten(tmp_path: Path) -> None:
    """A single small step leaves both units far below what a plain colour and a grating excite."""
    found = analyse(
        context(detectors(tmp_path / "d.onnx")),
        targets=[{"layer": "relu", "units": [0, 1]}],
        steps=1,
        begin_again=False,
        optimizer={"kind": "ascent", "learning_rate": 1e-3},
    )
    (caveat,) = (entry for entry in found if isinstance(entry, f.Caveat) and entry.id == "beaten")
    assert caveat.text.startswith(
        "2 of 2 pictures are beaten by a plain colour or a grating: relu:0, seed 0 (plain red "
    )
    first, second = only(found, f.TileGrid).tiles
    assert str(dict(first.facts)["beaten"]).startswith("plain red reaches")
    assert first.captions[0].endswith("beaten by plain red")
    assert "upright" in str(dict(second.facts)["beaten"])
    (metric,) = (entry for entry in found if isinstance(entry, f.Metric) and entry.name == "beaten_fraction")
    assert (metric.value, metric.total) == (1.0, 2)


def test_a_picture_is_begun_again_alone_as_among_others(tmp_path: Path) -> None:
    place = context(detectors(tmp_path / "d.onnx"))

    def images(units: Sequence[int]) -> np.ndarray:
        found = analyse(
            place, targets=[{"layer": "relu", "units": list(units)}], steps=3,
            optimizer={"kind": "adam", "learning_rate": 1e-3},
        )  # fmt: skip
        assert only(found, f.Table).rows[0][19] == "plain red"
        return only(found, f.Array).arrays["images"]

    assert np.array_equal(images([0])[0], images([0, 1, 2])[0])


# --- bounds ---------------------------------------------------------------------------------------------------------


Chain = list[tuple[str, dict[str, list[str]]]]


@pytest.mark.parametrize(
    ("nodes", "bounds"),
    [
        ([("Relu", {})], (0, np.inf)),
        ([("Clip", {"extra": ["zero", "six"]})], (0, 6)),
        ([("Clip", {"extra": ["", "six"]})], (-np.inf, 6)),
        ([("Sigmoid", {})], (0, 1)),
        ([("Tanh", {})], (-1, 1)),
        ([("LeakyRelu", {})], (-np.inf, np.inf)),
        ([("Clip", {"extra": ["zero", "six"]}), ("MaxPool", {"kernel_shape": [2, 2]})], (0, 6)),
        ([("Clip", {"extra": ["zero", "six"]}), ("LeakyRelu", {})], (-np.inf, np.inf)),
        ([("Sigmoid", {}), ("Sub", {"extra": ["six"]}), ("Squeeze", {})], (-6, -5)),
    ],
)
def test_the_bounds_of_units(tmp_path: Path, nodes: Chain, bounds: Sequence[float]) -> None:
    made_nodes, value = [], "moved"
    made_nodes.append(helper.make_node("Conv", ["image", "w"], [value], "conv"))
    for number, (kind, options) in enumerate(nodes):
        given = dict(options)
        extra = given.pop("extra", [])
        made_nodes.append(helper.make_node(kind, [value, *extra], [f"v{number}"], f"n{number}", **given))
        value = f"v{number}"
    graph = helper.make_graph(
        made_nodes,
        "bounds",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", 3, None, None])],
        [
            numpy_helper.from_array(np.full((3, 3, 1, 1), -0.5, np.float32), "w"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.float32(6), "six"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "bounds.onnx"
    )
    view = onnxviz.model.model.load(tmp_path / "bounds.onnx", preprocess="unit").view

    def bounds_of(layer: str) -> tuple[float, float]:
        found = range_of(view.layer(layer).value, view.proto.graph)
        return found.low, found.high

    assert bounds_of(f"n{len(nodes) - 1}") == tuple(bounds)
    assert bounds_of("conv") == (-np.inf, np.inf)


@pytest.mark.zoo
@pytest.mark.parametrize(("unit", "color"), [(51, "yellow"), (28, "red"), (6, "green"), (18, "black")])
def test_units_of_plain_colour_of_squeezenet_get_it(zoo: Path, unit: int, color: str) -> None:
    """Measured by ONNX Runtime, and beside the plain colour itself."""
    model = onnxviz.load(zoo / "onnx" / "squeezenet_fp16.onnx", preprocess="caffe", device="cpu")
    subject = Subject("model", model.view, model.preprocessing, model.labels, {}, 0)
    place = JobContext(subject, model, lambda done, total, note="": None)
    found = analyse(place, targets=[{"layer": "conv1_2", "units": unit}], size=96, steps=128)
    picture = only(found, f.Array).arrays["images"][0]
    wanted = next(simple for simple in simple_pictures(3) if simple.words == f"plain {color}")
    both = model.measure(np.stack([picture, wanted.paint((96, 96))]), ["conv1_2"])["conv1_2"][:, unit].mean(axis=(1, 2))
    assert both[0] > 0.95 * both[1]
    np.testing.assert_allclose(np.median(picture, axis=(1, 2)), wanted.color, atol=0.1)
