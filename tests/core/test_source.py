"""YAML with positions: YAML 1.2 scalars, nothing but data, every fault at its place."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz.core import limits
from onnxviz.core.yaml_source import (
    MappingNode,
    copy,
    dump,
    find,
    parse_source,
    place_of,
    plain,
    read_source,
    scalar,
    words,
)


def parse(text: str) -> tuple[Any, list[str]]:
    node, faults = parse_source(text, "r.yaml", Path())
    return (None if node is None else plain(node)), [str(fault) for fault in faults]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.5e3", 1500.0), (".5", 0.5), ("1.", 1.0), ("-7", -7), ("0o17", 15), ("0x1F", 31),
        ("010", 10), ("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("true", True), ("False", False),
        ("12:30", "12:30"), ("1_000", "1_000"), ("~", None), ("", None), ("null", None), (".inf", math.inf),
        ("-.inf", -math.inf), ("0b11", "0b11"), ("2026-01-01", "2026-01-01"), ("top:3", "top:3"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_of_yaml_1_2(text: str, value: object) -> None:
    found = scalar(text)
    assert found == value
    assert type(found) is type(value)


def test_nan_and_numbers_beyond_64_bits() -> None:
    assert math.isnan(scalar(".nan"))  # type: ignore[arg-type]
    for text in ("9223372036854775808", "9" * 5000, "0x" + "f" * 100):
        with pytest.raises(ValueError, match="too large"):
            scalar(text)


def test_quotes_make_text() -> None:
    assert parse("a: '1'\nb: \"true\"\nc: |\n  2\n")[0] == {"a": "1", "b": "true", "c": "2\n"}


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("a: &x 1", "r.yaml:1:4", "anchors"),
        ("a: 1\nb: *a", "r.yaml:2:4", "aliases"),
        ("a: !!python/object:os.system x", "r.yaml:1:4", "tags"),
        ("a: !x {b: 1}", "r.yaml:1:4", "tags"),
        ("a: 1\nb: 2\na: 3", "r.yaml:3:1", "was given before in line 1"),
        ("a: 1\n---\nb: 2", "r.yaml:2:1", "second document"),
        ("? [a]\n: b", "r.yaml:1:3", "key"),
        ("a: [1,", "r.yaml:1:7", "not valid YAML"),
        ("a:\n\t- b", "r.yaml:2:1", "indent with spaces"),
        ("a: b: c", "r.yaml:1:5", "mapping values are not allowed"),
        ("a: \x07", "r.yaml:1:4", "U+0007"),
        ("[" * 40 + "]" * 40, f"r.yaml:1:{limits.RECIPE_DEPTH + 1}", "levels deep"),
        ("a: 99999999999999999999", "r.yaml:1:4", "too large"),
    ],
)
def test_what_is_refused_and_where(text: str, place: str, said: str) -> None:
    _, faults = parse(text)
    assert len(faults) == 1
    assert faults[0].startswith(f"{place}: ")
    assert said in faults[0]


def test_several_faults_at_once() -> None:
    _, faults = parse("a: &x 1\nb: *x\na: 2\nc: !t 3\n")
    assert [fault.split(": ")[0] for fault in faults] == ["r.yaml:1:4", "r.yaml:2:4", "r.yaml:3:1", "r.yaml:4:4"]


def test_the_caret_stands_under_the_fault() -> None:
    _, faults = parse("title: x\nsteps: {a: 1, a: 2}\n")
    _, line, caret = faults[0].split("\n")
    assert line[caret.index("^") :].startswith("a: 2")


def test_control_characters_and_long_lines_do_not_reach_the_terminal() -> None:
    _, faults = parse("a: 1\na: \u202e2\n")
    assert "\u202e" not in faults[0]
    _, faults = parse("a: '" + "x" * 5000 + "'\nb: [" + " " * 3000 + "*q]")
    assert len(faults[0]) < 400


def test_places_of_values_and_keys() -> None:
    node, _ = parse_source("a:\n  b: [1, {c: 2}]\n", "r", Path("folder"))
    assert isinstance(node, MappingNode)
    place = place_of(node, ("a", "b", 1, "c"))
    assert (place.line, place.column, place.folder) == (2, 14, Path("folder"))
    assert place_of(node, ("a", "b", 1, "c"), key=True).column == 11
    assert place_of(node, ("a", "nothing", "here")).line == 1
    assert find(node, ("a", "b", 7)) is None
    assert [address for address, _ in words(node)] == [("a", "b", 0), ("a", "b", 1, "c")]


def test_a_copy_can_be_changed() -> None:
    node, _ = parse_source("a: {b: 1}", "r", Path())
    assert isinstance(node, MappingNode)
    other = copy(node)
    assert isinstance(other, MappingNode)
    other.drop("a")
    assert plain(node) == {"a": {"b": 1}}


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * (limits.RECIPE_BYTES + 1))
    (tmp_path / "latin.yaml").write_bytes("a: 1\nb: \xe9\n".encode("latin-1"))
    (tmp_path / "bom.yaml").write_bytes("\ufeffa: 1\n".encode())
    for name, said in (
        ("none.yaml", "no such file"),
        (".", "is a folder"),
        ("big.yaml", "larger"),
        ("latin.yaml", "UTF-8"),
    ):
        node, faults = read_source(tmp_path / name, name)
        assert node is None
        assert said in str(faults[0])
    assert ":2:" in str(read_source(tmp_path / "latin.yaml", "latin.yaml")[1][0])
    node, faults = read_source(tmp_path / "bom.yaml")
    assert node is not None
    assert not faults


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=12)
    | st.sampled_from(["1e-3", "no", "0o17", "12:30", "~", "null", "1_000", ".5", "*a", "- b", "a: b", "0x1f", "="]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), values, max_size=4))
def test_what_is_dumped_reads_back_the_same(data: dict[str, Any]) -> None:
    found, faults = parse(dump(data))
    assert not faults
    assert found == data
    assert repr(found) == repr(data)


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    node, faults = parse_source(text, "r", Path())
    assert node is None or isinstance(faults, list)
