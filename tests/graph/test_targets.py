"""Selectors to targets, against a view that is written by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from onnxviz.core.errors import SelectionError
from onnxviz.core.values import Layer, Target
from onnxviz.graph.model_output import Head
from onnxviz.graph.targets import CENTRE, TargetSelector, class_index, resolve, unit_indices

CONV = Layer("conv1", "v1", "Conv", 0, (None, 8, 14, 14), 1)
LOGITS = Layer("fc", "v2", "Gemm", 1, (None, 5), 1)
SOFTMAX = Layer("prob", "v3", "Softmax", 2, (None, 5), 1)
FREE = Layer("free", "v4", "Conv", 3, (None, None, None, None), 1)
SCALAR = Layer("sum", "v5", "ReduceSum", 4, (None,), None)
LABELS = ("ostrich, Struthio camelus", "king penguin", "lion, king of beasts", "crane", "crane, bird")


@dataclass
class View:
    """The part of GraphView that selectors need."""

    layers: tuple[Layer, ...] = (CONV, LOGITS, SOFTMAX, FREE, SCALAR)
    logits: Layer = LOGITS

    @property
    def main_head(self) -> Head:
        return Head(("y",), "classes", self.logits, self.logits.unit_count, "graph")

    def layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    def select(self, selector: str | list[str]) -> tuple[Layer, ...]:
        names = [selector] if isinstance(selector, str) else selector
        if names == ["*"]:
            return self.layers[:2]
        return tuple(self.logits if name == "logits" else self.layer(name) for name in names)


def targets(labels: tuple[str, ...] | None = LABELS, **entry: Any) -> tuple[Target, ...]:
    return resolve([TargetSelector(**entry)], View(), labels)  # type: ignore[arg-type]


def units(choice: Any, layer: str = "fc", labels: tuple[str, ...] | None = LABELS) -> list[int | None]:
    return [target.unit for target in targets(labels, layer=layer, units=choice)]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (3, [3]),
        ("3", [3]),
        ("0-2", [0, 1, 2]),
        ("2-2", [2]),
        ("all", [0, 1, 2, 3, 4]),
        ("ostrich", [0]),
        ("OSTRICH, struthio  camelus", [0]),
        ("king_penguin", [1]),
        ("King of Beasts", [2]),
        (["lion", 0, "1-2", "ostrich"], [2, 0, 1]),
        (None, [None]),
    ],
)
def test_units(choice: Any, expected: list[int | None]) -> None:
    assert units(choice) == expected


def test_a_whole_label_wins_over_a_synonym() -> None:
    assert class_index("crane", LABELS) == 3
    with pytest.raises(SelectionError, match=r"2 classes are called 'crane': 0 \(crane, bird\), 1 \(crane, machine\)"):
        class_index("crane", ("crane, bird", "crane, machine"))
    with pytest.raises(SelectionError, match="give the index"):
        class_index("maillot", ("maillot", "maillot"))


def test_a_class_called_like_a_number_wins_over_the_number() -> None:
    digits = ("4", "3", "2", "1-2", "all")
    assert units("3", labels=digits) == [1]
    assert units("0", labels=digits) == [0]
    assert units("1-2", labels=digits) == [3]
    assert units("all", labels=digits) == [4]
    assert units(3, labels=digits) == [3]


def test_classes_carry_their_name_and_channels_do_not() -> None:
    assert targets(layer="logits", units=[1])[0] == Target("fc", 1, label="king penguin")
    assert targets(layer="prob", units="lion")[0] == Target("prob", 2, label="lion, king of beasts")
    assert targets(layer="conv1", units=1)[0] == Target("conv1", 1)
    assert targets(None, layer="logits", units=1)[0] == Target("fc", 1)


def test_several_layers_signs_and_repeats() -> None:
    found = targets(layer="*", units=[1, 1], sign="both")
    assert [(target.layer, target.unit, target.sign) for target in found] == [
        ("conv1", 1, 1), ("conv1", 1, -1), ("fc", 1, 1), ("fc", 1, -1),
    ]  # fmt: skip
    twice = resolve([TargetSelector(layer="fc", units=1), TargetSelector(layer="fc", units="0-1")], View(), None)  # type: ignore[arg-type]
    assert [target.unit for target in twice] == [1, 0]
    assert targets(layer="conv1", units=0, sign="negative")[0].sign == -1


def test_positions() -> None:
    assert targets(layer="conv1", units=0, position="center")[0].position == CENTRE
    assert targets(layer="conv1", units=0, position=[3, 13])[0].position == (3, 13)
    assert targets(layer="conv1", units=0)[0].position is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"layer": "fc", "units": 5}, ["no unit 5", "5 units, 0 to 4", "fc"]),
        ({"layer": "fc", "units": -1}, ["no unit -1", "0 to 4"]),
        ({"layer": "fc", "units": "3-7"}, ["no unit 7"]),
        ({"layer": "fc", "units": "3-1"}, ["backwards"]),
        ({"layer": "fc", "units": []}, ["empty"]),
        ({"layer": "fc", "units": "ostrch"}, ["none of the 5 classes", "ostrch", "did you mean 'ostrich'"]),
        ({"layer": "fc", "units": "\x1b[31m"}, ["\\x1b[31m"]),
        ({"layer": "conv1", "units": "ostrich"}, ["'ostrich' is no unit", "0 to 7", "conv1"]),
        ({"layer": "free", "units": "all"}, ["not known"]),
        ({"layer": "sum", "units": 0}, ["no units"]),
        ({"layer": "fc", "units": 1, "position": "center"}, ["no positions"]),
        ({"layer": "conv1", "units": 1, "position": [1]}, ["2 numbers, not 1", "[14, 14]"]),
        ({"layer": "conv1", "position": "center"}, ["whole layer has no position"]),
    ],
)
def test_refusals_name_the_place_and_the_remedy(entry: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SelectionError) as caught:
        targets(**entry)
    for word in words:
        assert word in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_class_name_without_labels_says_what_to_give() -> None:
    with pytest.raises(SelectionError, match="labels"):
        targets(None, layer="fc", units="ostrich")
    with pytest.raises(SelectionError, match="give the model `labels:`"):
        class_index("ostrich", None)


@pytest.mark.parametrize(
    "entry",
    [
        {"layer": "fc", "unit": 1},
        {"layer": "fc", "units": 1.5},
        {"layer": "fc", "units": True},
        {"layer": "fc", "sign": "up"},
        {"layer": "fc", "position": [-1, 0]},
        {"units": 1},
    ],
)
def test_the_schema_is_strict(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TargetSelector.model_validate(entry)


@given(st.one_of(st.text(max_size=12), st.integers(), st.lists(st.one_of(st.text(max_size=8), st.integers()))))
def test_every_choice_gives_existing_units_or_a_refusal(choice: Any) -> None:
    try:
        found = unit_indices(choice, CONV)
    except SelectionError:
        return
    assert found
    assert all(0 <= unit < 8 for unit in found)


def test_no_torch() -> None:
    loaded = "onnxviz.graph.targets, onnxviz.analyses.activation_maximization.analysis"
    code = f"import sys, {loaded}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
