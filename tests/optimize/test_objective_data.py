"""Objectives as data: their algebra, titles, recipes, names, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from objective_cases import CASES, CHOICE, VECTOR, inputs, measured, place
from onnx import parser
from pydantic import BaseModel, ValidationError

from onnxviz.core.errors import SelectionError
from onnxviz.core.values import PRESETS, Target
from onnxviz.core.yaml_source import read_source
from onnxviz.graph import GraphView, open_model
from onnxviz.optimize.objectives import (
    Alignment,
    Caricature,
    Channel,
    ChannelInterpolation,
    Direction,
    Diversity,
    InputDifference,
    Neuron,
    NeuronDirection,
    Objective,
    ObjectiveChoice,
    ObjectiveContext,
    Product,
    Seen,
    Style,
    Sum,
    WholeLayer,
    bind,
    centre,
    objective_of,
)
from onnxviz.recipe.faults import check


def test_the_algebra() -> None:
    a, b, c = (Channel(layer="map", unit=unit) for unit in range(3))
    arrays = inputs(1)

    def value(objective: Objective) -> float:
        return float(measured([objective], arrays, place())[0][0])

    x, y, z = value(a), value(b), value(c)
    assert value(-a) == -x
    assert value(a / 4) == x / 4
    assert value(3 * a) == value(a * 3) == pytest.approx(3 * x)
    assert value(a + 0.5 * b - c) == pytest.approx(x + 0.5 * y - z, rel=1e-5)
    assert value(-(a - 2 * (b - c))) == pytest.approx(-(x - 2 * (y - z)), rel=1e-5)
    assert value(a * b * (2 * c)) == pytest.approx(2 * x * y * z, rel=1e-5)
    assert value(a * (b + c) - a) == pytest.approx(x * (y + z) - x, rel=1e-5)
    assert value(sum([a, b, c])) == pytest.approx(x + y + z, rel=1e-5)
    assert a - b == a + (-1) * b
    with pytest.raises(TypeError):
        a + 1  # type: ignore[operator]
    with pytest.raises(ValueError, match="weight"):
        a * math.nan
    with pytest.raises(ValueError, match="weight"):
        a * 1e300


def test_sums_and_products_are_flattened() -> None:
    a, b, c = (Channel(layer="map", unit=unit) for unit in range(3))
    nested = a - 2 * (b - 3 * (c + a))
    assert isinstance(nested, Sum)
    assert [term.weight for term in nested.terms] == [1, -2, 6, 6]
    product = (2 * (a * b)) * (3 * c)
    assert isinstance(product, Product)
    assert (product.weight, len(product.factors)) == (2, 3)
    assert nested.layers() == ("map",)
    assert (a * Style(layer="line", picture="cat") + InputDifference(picture="cat")).references() == (
        ("cat", "line"),
        ("cat", None),
    )


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (Channel(layer="fire5", unit=3) - 0.5 * Channel(layer="fire5", unit=7), "fire5:3 - 0.5 x fire5:7"),
        (-Channel(layer="fire5", unit=3), "- fire5:3"),
        (Neuron(layer="a", unit=3) * (2 * Channel(layer="a", unit=4)), "2 x a:3 at the centre x a:4"),
        (Neuron(layer="a", unit=3, position=(1, 2)), "a:3 at [1, 2]"),
        (Channel(layer="a", unit=1) * (Channel(layer="a", unit=2) - Channel(layer="a", unit=3)), "a:1 x (a:2 - a:3)"),
        (Direction(layer="fire5", random=3), "random direction 3 of fire5"),
        (NeuronDirection(layer="fire5", units={3: 1, 7: -0.5}), "direction {3: 1, 7: -0.5} of fire5 at the centre"),
        (Direction(layer="a", vector=VECTOR), "direction of 5 units of a, mostly 2, 1, 0"),
        (Diversity(layer="a", weight=-1), "- diversity in a"),
        (Alignment(), "alignment of the images"),
        (ChannelInterpolation(layer="a", unit=1, to_unit=2), "a:1 to a:2"),
        (Caricature(layer="a", picture="cat"), "caricature of cat in a"),
        (InputDifference(picture="cat"), "difference from cat"),
        (Channel(layer="a", unit="ostrich", box=(0, 0, 0.5, 1)), "a:ostrich in [0, 0, 0.5, 1]"),
        (Sum(terms=[Channel(layer="a", unit=unit) for unit in range(9)]), "a:0 + a:1 + a:2 + a:3 and 5 more"),
    ],
)  # fmt: skip
def test_titles(objective: Objective, words: str) -> None:
    title = objective.title()
    assert title in (words, f"({words})")
    if objective.weight == 1:
        assert objective.words() == words


def test_names_cannot_break_titles() -> None:
    hostile = Channel(layer="a\n\u202e" + "b" * 500, unit="\x1b[31m" + "c" * 500)
    words = (hostile + Style(layer="x\n", picture="\u202e" * 200)).words()
    assert words.isprintable()
    assert len(words) < 400


@pytest.mark.parametrize("case", CASES)
def test_objectives_survive_yaml_and_json(case: str, tmp_path: Path) -> None:
    objective, _, _ = CASES[case]
    assert CHOICE.validate_python(objective.model_dump()) == objective
    text = objective.model_dump_json()
    assert CHOICE.validate_json(text, strict=True) == objective
    assert hash(CHOICE.validate_json(text)) == hash(objective)
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({"objective": objective.model_dump(mode="json", exclude_defaults=False)}))
    node, faults = read_source(path, "r.yaml")
    assert node is not None
    assert not faults
    found, faults = check(Recipe, node)
    assert not faults
    assert found is not None
    assert found.objective == objective


class Recipe(BaseModel):
    objective: ObjectiveChoice  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{kind: layer, layer: conv1, foo: 1}", "1:40: unknown key 'foo'"),
        ("{kind: layer, layer: 3}", "expected text, not 3"),
        ("{kind: chanel, layer: conv1, unit: 1}", "did you mean 'channel'"),
        ("{kind: sum, terms: [{kind: channel, layer: a, unit: 1, weight: .nan}]}", "must be a finite number"),
        ("{kind: sum, terms: [{kind: channel, layer: a, unit: 1, weight: 1.0e+300}]}", "less than or equal to"),
        ("{kind: sum, terms: []}", "at least one objective"),
        ("{kind: direction, layer: a}", "one of vector, units and random"),
        ("{kind: direction, layer: a, random: 1, units: {1: 1}}", "one of vector, units and random"),
        ("{kind: direction, layer: a, units: {1: x}}", "unit 1 needs a number"),
        ("{kind: direction, layer: a, units: {}}", "points nowhere"),
        ("{kind: direction, layer: a, vector: [0, 0]}", "points nowhere"),
        ("{kind: direction, layer: a, vector: [1, .inf]}", "finite"),
        ("{kind: direction, layer: a, random: -1}", "greater than or equal to 0"),
        ("{kind: channel, layer: a, unit: 0, box: [0.5, 0, 0.2, 1]}", "top < bottom"),
        ("{kind: channel, layer: a, unit: 0, box: [0.5, 0, 1]}", "at least 4"),
        ("{kind: caricature, layer: a, picture: ''}", "at least 1"),
    ],
)
def test_mistakes_in_recipes_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"objective: {text}")
    node, _ = read_source(path, "r.yaml")
    assert node is not None
    found, faults = check(Recipe, node)
    assert found is None
    assert len(faults) == 1
    assert message in str(faults[0])


def nested(depth: int, width: int = 1) -> dict[str, object]:
    inner: dict[str, object] = {"kind": "channel", "layer": "a", "unit": 0}
    for level in range(depth):
        name, parts = ("sum", "terms") if level % 2 else ("product", "factors")
        inner = {"kind": name, parts: [inner] * width}
    return inner


def test_bombs_are_refused() -> None:
    CHOICE.validate_python(nested(8))
    CHOICE.validate_python(nested(6, 2))
    for bomb, message in [
        (nested(9), "nested 8 deep"),
        (nested(90), "nested 8 deep"),
        (nested(2, 9), "64 terms"),
        (nested(1, 200_000), "at most 64"),
        (nested(5_000), "."),
        ({"kind": "direction", "layer": "a", "vector": [1.0] * 300_000}, "at most 262144"),
        ({"kind": "neuron", "layer": "a", "unit": 0, "position": [0] * 100_000}, "at most 8"),
    ]:
        with pytest.raises(ValidationError, match=message):
            CHOICE.validate_python(bomb)
    a = Channel(layer="a", unit=0)
    with pytest.raises(ValidationError, match="64"):
        sum([a] * 65)  # type: ignore[call-overload]
    deep: Objective = a
    for _ in range(4):
        deep = (deep + a) * a
    with pytest.raises(ValidationError, match="deep"):
        deep + a


def test_targets_become_objectives() -> None:
    assert objective_of(Target("a")) == WholeLayer(layer="a")
    assert objective_of(Target("a", 3)) == Channel(layer="a", unit=3)
    assert objective_of(Target("a", 3, ())) == Neuron(layer="a", unit=3)
    assert objective_of(Target("a", 3, (1, 2))) == Neuron(layer="a", unit=3, position=(1, 2))
    assert centre((4, 5)) == (2, 2)


# Names of a model


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> GraphView:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 1, 6, 6] x) => (float[N, 4] scores) <float[4, 1, 3, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}>
        { first = Conv (x, w) pooled = GlobalAveragePool (first) logits = Flatten (pooled)
        scores = Softmax (logits) }"""
    )
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return open_model(path)


LABELS = ("ostrich", "lion, king of beasts", "tabby cat", "bus")


def test_names_are_resolved_everywhere(view: GraphView) -> None:
    logits, first = view.logits.name, view.layer("first_conv").name
    objective = (
        Channel(layer="logits", unit="ostrich")
        - 0.5 * Channel(layer="logits", unit="lion") * Neuron(layer="first_conv", unit=2)
        + Direction(layer="logits", units={"tabby cat": 1, 3: -1})
        + ChannelInterpolation(layer="first_conv", unit=0, to_layer="logits", to_unit="bus")
        + Alignment(layer="first_conv")
        + Style(layer="first_conv", picture="cat")
        + Alignment()
        + InputDifference(picture="cat")
    )
    found = objective.resolved(view, LABELS)
    assert found == (
        Channel(layer=logits, unit=0)
        - 0.5 * Channel(layer=logits, unit=1) * Neuron(layer=first, unit=2)
        + Direction(layer=logits, units={2: 1, 3: -1})
        + ChannelInterpolation(layer=first, unit=0, to_layer=logits, to_unit=3)
        + Alignment(layer=first)
        + Style(layer=first, picture="cat")
        + Alignment()
        + InputDifference(picture="cat")
    )
    assert found.resolved(view, None) == found
    assert set(found.layers()) == {first, logits}


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Channel(layer="nothing", unit=0), "nothing"),
        (Channel(layer="first_conv", unit=4), "no unit 4"),
        (Channel(layer="first_conv", unit="ostrich"), "no unit"),
        (Channel(layer="logits", unit="osterich"), "did you mean"),
        (Channel(layer="first_conv", unit="0-2"), "names 3 units"),
        (Channel(layer="first_conv", unit="all"), "names 4 units"),
        (Neuron(layer="first_conv", unit=0, position=(1,)), "2 numbers"),
        (NeuronDirection(layer="logits", units={0: 1}, position=(1, 1)), "0 numbers"),
        (Direction(layer="first_conv", vector=(1, 2, 3)), "3 numbers"),
        (Direction(layer="logits", units={"ostrich": 1, 0: 2}), "twice"),
        (Channel(layer="first_conv", unit=0) + Style(layer="second", picture="cat"), "second"),
    ],
)
def test_names_that_do_not_exist_are_refused(view: GraphView, objective: Objective, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        objective.resolved(view, LABELS)


@pytest.mark.zoo
def test_tokens_of_a_real_transformer(zoo: Path) -> None:
    from onnxviz.model.model import Model

    model = Model(open_model(zoo / "onnx" / "vnn_vit_cifar10_pgd_2_3_16.onnx"), PRESETS["imagenet"])
    layer = next(layer for layer in model.view.layers if len(layer.tokens) == 1 and layer.unit_count > 1)
    assert model.input_size is not None
    images = torch.rand(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    (values,) = model.differentiable((layer,))(images)
    where = ObjectiveContext(torch.device("cpu"), 1, {layer.name: tuple(values.shape[1:])}, {layer.name: layer})
    grid = layer.tokens[0]
    middle = grid.before + grid.height // 2 * grid.width + grid.width // 2
    look = Seen(images, {layer.name: values})
    assert values.dim() == 3
    assert bind([Neuron(layer=layer.name, unit=1)], where)(look) == values[0, 1, middle]
    whole = bind([Channel(layer=layer.name, unit=1, box=(0, 0, 1, 1))], where)(look)
    patches = values[0, 1, grid.before : grid.before + grid.height * grid.width]
    assert float(whole) == pytest.approx(float(patches.mean()), rel=1e-4)
