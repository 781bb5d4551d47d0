"""Findings survive a round trip, and parts of jobs join without losing anything."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz.core import findings
from onnxviz.core.findings import (
    Array,
    Bars,
    Caveat,
    Column,
    Coverage,
    Curve,
    Histogram,
    MatrixRow,
    Metric,
    Note,
    Outcomes,
    Picture,
    PictureMatrix,
    Series,
    Table,
    Tile,
    TileGrid,
)  # fmt: skip
from onnxviz.core.values import Unit

STORED = Picture(path="jobs/a/1.png", alt="a kernel", width=3, height=2)
text = st.text(max_size=20)
number = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
cell = st.none() | st.booleans() | text | number | st.builds(Unit, text, st.integers(0, 9))
numbers = st.lists(st.floats(allow_nan=False), max_size=4).map(tuple)
facts = st.lists(st.tuples(text, cell), max_size=3).map(tuple)
tile = st.builds(Tile, text, st.none() | st.builds(Unit, text, st.integers(0, 9)), st.just((STORED,)), facts, numbers)
finding = st.one_of(
    st.builds(Metric, text, st.floats(allow_nan=False)),
    st.builds(Table, text, text, st.just((Column("a"),)), st.lists(st.tuples(cell), max_size=3).map(tuple)),
    st.builds(TileGrid, text, text, st.lists(tile, max_size=3).map(tuple)),
    st.builds(Histogram, text, text, numbers, numbers),
    st.builds(Bars, text, text, st.lists(text, max_size=3).map(tuple), numbers),
    st.builds(Curve, text, text, st.lists(st.builds(Series, text, numbers, numbers), max_size=2).map(tuple)),
    st.builds(Outcomes, text, st.lists(text, max_size=3).map(tuple), st.lists(st.booleans(), max_size=3).map(tuple)),
    st.builds(Note, text),
    st.builds(Caveat, text),
    st.builds(Coverage, text, st.integers(0, 9), st.integers(0, 9)),
    st.just(PictureMatrix("m", "M", ("c",), (MatrixRow("r", ((STORED, STORED), None), STORED),))),
)


@given(finding)
def test_round_trip_through_json(value: findings.Finding) -> None:
    assert findings.to_data(
        findings.from_data(json.loads(json.dumps(findings.to_data(value), allow_nan=False)))
    ) == findings.to_data(value)


@given(st.lists(finding, max_size=6))
def test_merging_one_part_loses_no_tile_or_row(values: list[findings.Finding]) -> None:
    def tiles(items: list[findings.Finding]) -> int:
        return sum(len(item.tiles) for item in items if isinstance(item, TileGrid))

    assert tiles(findings.merge([values])) == tiles(values)
    assert tiles(findings.merge([values, values])) == 2 * tiles(values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_survive(value: float) -> None:
    data = json.loads(json.dumps(findings.to_data(Metric("m", value)), allow_nan=False))
    back = findings.from_data(data)
    assert back.value == value or (math.isnan(value) and math.isnan(back.value))


def test_numpy_numbers_become_plain_ones() -> None:
    assert json.dumps(findings.to_data(Metric("m", np.float32(0.5))))  # type: ignore[arg-type]


def test_a_picture_must_be_stored_before_it_is_written() -> None:
    picture = Picture(np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(TypeError, match="stored"):
        findings.to_data(TileGrid("g", "G", (Tile("t", pictures=(picture,)),)))


@pytest.mark.parametrize("pixels", [np.zeros((2, 3), np.uint8), np.zeros((2, 3, 3)), np.zeros((2, 3, 4), np.uint8)])
def test_a_picture_refuses_other_pixels(pixels: np.ndarray) -> None:
    with pytest.raises(TypeError, match="uint8"):
        Picture(pixels)


def test_pictures_and_arrays_are_found_and_replaced_everywhere() -> None:
    raw = Picture(np.zeros((2, 3, 3), np.uint8), alt="x")
    values: list[findings.Finding] = [
        TileGrid("g", "G", (Tile("t", pictures=(raw, raw)),)),
        PictureMatrix("m", "M", ("c",), (MatrixRow("r", ((raw,), None), raw),)),
        Array("a", "A", {"x": np.zeros(3)}),
    ]
    assert len(list(findings.pictures(values))) == 4
    stored = findings.replace_leaves(
        values, lambda leaf: Array(leaf.id, leaf.title, path="a.npz") if isinstance(leaf, Array) else STORED
    )
    assert all(picture.path for picture in findings.pictures(stored))
    assert json.dumps([findings.to_data(item) for item in stored])


def test_merge_adds_coverage_and_says_a_sentence_once() -> None:
    part: list[findings.Finding] = [Coverage("units", 3, 10), Note("same"), Caveat("same")]
    merged = findings.merge([part, part])
    assert merged == [Coverage("units", 6, 20), Note("same"), Caveat("same")]


def test_merge_keeps_the_order_of_jobs() -> None:
    parts = [[TileGrid("g", "G", (Tile(str(index)),))] for index in range(3)]
    (grid,) = findings.merge(parts)
    assert isinstance(grid, TileGrid)
    assert [tile.title for tile in grid.tiles] == ["0", "1", "2"]


@pytest.mark.parametrize("data", [{"type": "os.system"}, {"type": "Note", "text": "x", "evil": 1}, {"no": "type"}])
def test_unknown_data_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"finding|field"):
        findings.from_data(data)
