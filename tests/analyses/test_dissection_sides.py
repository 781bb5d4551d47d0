"""Dissection of the lower side: a unit's least activations, as the greatest ones of the negated network would be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.pictures import OUTLINE
from onnxviz.core.findings import Array, Caveat, Finding, Metric, Note, Table, TileGrid
from onnxviz.graph.features import before_bound
from tests.analyses.test_dissection import Squares, colour_network

SETTINGS = {"quantile": 0.032, "label_size": (32, 64), "iou": 0.5}


def dissect(path: Path, **settings: object) -> list[Finding]:
    model = onnxviz.model.model.load(path, preprocess="unit")
    subject = Subject("m", model.view, model.preprocessing, None, {"squares": Squares()}, 0)
    analysis = Dissection(**{**SETTINGS, **settings})
    context = JobContext(subject, model, lambda done, total, note="": None)
    return analysis.combine([analysis.run(job, context) for job in analysis.jobs(subject)], subject)


def units(findings: list[Finding]) -> list[dict[str, object]]:
    table = next(item for item in findings if isinstance(item, Table) and item.id == "units")
    return [dict(zip((column.name for column in table.columns), row, strict=True)) for row in table.rows]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return colour_network(tmp_path / "colours.onnx")


def test_a_red_detector_is_lowest_on_green(network: Path) -> None:
    findings = dissect(network, layers="colours", side="lower")
    red, green, dead, _ = units(findings)
    assert (red["concept"], red["IoU"], red["detector"], red["halves"]) == ("green", 1.0, "yes", "confirmed")
    assert (green["concept"], green["IoU"], green["detector"]) == ("red", 1.0, "yes")
    assert red["least"] == pytest.approx(-0.5, abs=0.01)
    assert red["least"] < red["threshold"] <= 0
    assert dead["remark"] == "dead"
    assert any("by their lowest activations" in item.text for item in findings if isinstance(item, Note))
    (grid,) = [item for item in findings if isinstance(item, TileGrid)]
    tile = next(tile for tile in grid.tiles if tile.unit and tile.unit.index == 0)
    assert dict(tile.facts)["least activation"] == red["least"]
    pixels = tile.pictures[0].pixels
    assert (np.abs(pixels.astype(int) - (0, 255, 0)).max(axis=2) < 30).sum() > 100, "the green square is not dimmed"
    assert (pixels == OUTLINE).all(axis=2).any()


def test_it_is_the_upper_side_of_the_negated_network(network: Path, tmp_path: Path) -> None:
    negated = onnx.load(network)
    (weight,) = negated.graph.initializer
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    onnx.save(negated, tmp_path / "negated.onnx")
    lower, upper = (
        dissect(network, layers="colours", side="lower"),
        dissect(tmp_path / "negated.onnx", layers="colours"),
    )
    for one, other in zip(units(lower), units(upper), strict=True):
        assert one.pop("threshold") == -other.pop("threshold")
        assert one.pop("least") == -other.pop("largest")
        assert one == other
    for one, other in zip(
        *([item for item in found if isinstance(item, Metric)] for found in (lower, upper)), strict=True
    ):
        assert one == other
    first, second = (next(item for item in found if isinstance(item, Array)).arrays for found in (lower, upper))
    assert (first["intersection"] == second["intersection"]).all()
    assert (first["thresholds"] == -second["thresholds"]).all()


def test_behind_a_floor_there_is_no_lower_side(network: Path) -> None:
    findings = dissect(network, layers="active", side="lower")
    metric = next(item for item in findings if isinstance(item, Metric) and item.name == "saturated_units")
    assert metric.value == 3
    texts = {item.id: item.text for item in findings if isinstance(item, Caveat)}
    assert "3 units lie nowhere below their threshold, because it is their least activation" in texts["saturated"]
    assert "An activation with a floor hides" in texts["ceiling"]
    assert "name 'colours' in place of 'active'" in texts["ceiling"]


def test_what_bounds_a_layer_from_below(network: Path) -> None:
    view = onnxviz.model.model.load(network, preprocess="unit").view
    active = view.layer("active")
    assert before_bound(view, active, "lower") == view.layer("colours")
    assert before_bound(view, active, "upper") is None
    assert before_bound(view, view.layer("colours"), "lower") is None
