"""Relevance of pixels against zennit, on PyTorch modules and on their ONNX exports, and the parts that add up."""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import onnxviz
from onnxviz.analyses.attribution.methods.relevance import (
    LayerRelevance,
    LrpComposite,
    LrpEpsilon,
    LrpGamma,
    RelevancePropagation,
)
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.relevance import rules
from onnxviz.analyses.attribution.relevance.propagation import Propagation, Rules
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.errors import AnalysisError
from onnxviz.core.values import PRESETS
from onnxviz.graph.targets import resolve_head

SIDE = 16
MEAN, SCALE = (120.0, 110.0, 100.0), (60.0, 50.0, 70.0)
SCALED = dataclasses.replace(PRESETS["unit"], fit="none", mean=MEAN, scale=SCALE)
CLASS = 1


@pytest.fixture(scope="module", autouse=True)
def zennit() -> types.ModuleType:
    """The peer, imported without torchvision, of which it wants two names that nothing here uses.

    A torchvision wheel built for another torch, as on a machine with the CPU build, cannot be imported.
    """
    names = ("torchvision", "torchvision.models", "torchvision.models.resnet")
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    for name in hidden:
        del sys.modules[name]
    stand_ins = {name: types.ModuleType(name) for name in names}
    for attribute in ("Bottleneck", "BasicBlock"):
        setattr(stand_ins[names[2]], attribute, type(attribute, (), {}))
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("zennit")
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


class Residual(nn.Module):
    """A residual block whose one ReLU module serves twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        layer = importlib.import_module("zennit.layer")
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.normalise = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.sum = layer.Sum()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        changed = self.second(self.relu(self.normalise(self.first(values))))
        # Exported, the sum is an Add; the peer has a rule for the module alone.
        both = values + changed if torch.onnx.is_in_onnx_export() else self.sum(torch.stack([values, changed], -1))
        result: torch.Tensor = self.relu(both)
        return result


def network(*, averaged: bool = False, smooth: bool = False) -> nn.Sequential:
    """A small network: strides, groups, batch normalisation, both poolings, a residual block, dense layers."""
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=1 if averaged else 2),
        nn.BatchNorm2d(8),
        nn.SiLU() if smooth else nn.ReLU(),
        nn.AvgPool2d(4) if averaged else nn.MaxPool2d(2),
        Residual(8),
        nn.Conv2d(8, 12, 3, groups=2),
        nn.GELU() if smooth else nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 10),
        nn.ReLU(),
        nn.Linear(10, 5),
    )
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return made.eval().requires_grad_(False)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


def encoded(given: torch.Tensor) -> torch.Tensor:
    """Images as the network sees them."""
    mean, scale = (torch.tensor(values, dtype=given.dtype).reshape(1, 3, 1, 1) for values in (MEAN, SCALE))
    return (255 * given - mean) / scale


def limits(kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    black, white = (encoded(torch.full((1, 3, 1, 1), colour, dtype=kind)) for colour in (0.0, 1.0))
    return black, white


def peer_of(name: str, kind: torch.dtype) -> Any:
    """The peer's composite of a name, with batch normalisation merged."""
    composites, peer, kinds = (importlib.import_module(f"zennit.{part}") for part in ("composites", "rules", "types"))
    canonizers = [importlib.import_module("zennit.canonizers").SequentialMergeBatchNorm()]
    if name == "box":
        return composites.EpsilonGammaBox(*limits(kind), canonizers=canonizers)
    if name in ("plus", "flat"):
        made = composites.EpsilonPlus if name == "plus" else composites.EpsilonPlusFlat
        return made(canonizers=canonizers)
    rule = {"epsilon": peer.Epsilon(1e-6), "strong": peer.Epsilon(0.1), "gamma": peer.Gamma(0.25)}[name]
    layers = [*composites.layer_map_base(), (kinds.Linear, rule)]
    return composites.LayerMapComposite(layers, canonizers=canonizers)


def ours(name: str, kind: torch.dtype) -> Rules:
    epsilon = rules.Epsilon()
    return {
        "epsilon": Rules(epsilon, epsilon),
        "strong": Rules(rules.Epsilon(0.1), rules.Epsilon(0.1)),
        "gamma": Rules(rules.Gamma(), rules.Gamma()),
        "plus": Rules(rules.Plus(), epsilon),
        "flat": Rules(rules.Plus(), epsilon, rules.flat),
        "box": Rules(rules.Gamma(), epsilon, rules.Box((limits(kind),))),
    }[name]


METHODS: dict[str, RelevancePropagation] = {
    "epsilon": LrpEpsilon(),
    "strong": LrpEpsilon(epsilon=0.1),
    "gamma": LrpGamma(),
    "plus": LrpComposite(convolutions="plus", first="same"),
    "flat": LrpComposite(convolutions="plus", first="flat"),
    "box": LrpComposite(),
}


def by_peer(module: nn.Module, name: str, given: torch.Tensor) -> torch.Tensor:
    """Relevance at the network's input by zennit, [N, 3, h, w]."""
    given = encoded(given).requires_grad_()
    with peer_of(name, given.dtype).context(module) as changed:
        scores = changed(given)
        chosen = torch.zeros_like(scores).index_fill_(1, torch.tensor(CLASS), 1.0)
        return torch.autograd.grad(scores, given, chosen * scores.detach())[0]


def by_rules(module: nn.Module, chosen: Rules, given: torch.Tensor) -> torch.Tensor:
    """Relevance at the network's input by ours."""
    given = encoded(given).requires_grad_()
    with Propagation(chosen):
        return torch.autograd.grad(module(given)[:, CLASS].sum(), given)[0]


def exported(module: nn.Module, path: Path, **settings: Any) -> onnxviz.Model:
    torch.onnx.export(module, (encoded(images()),), path, dynamo=False, dynamic_axes={"x": {0: "n"}},
                      input_names=["x"], **settings)  # fmt: skip
    return onnxviz.Model(onnxviz.open_model(path), SCALED, device="cpu")


def ask(model: onnxviz.Model, given: torch.Tensor, layers: tuple[str, ...] = (), number: int = CLASS) -> Question:
    head = resolve_head(model.view, None, None)
    target = ClassTarget(head, number)
    named = [model.view.layer(name) for name in layers]
    return ForwardPass(model, given, named, target.layers, to_input=False).ask([target] * len(given))


def assert_near(found: torch.Tensor, wanted: torch.Tensor, most: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    top = float(wanted.abs().max())
    assert top > 0
    assert float((found - wanted).abs().max()) / top <= most


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("averaged", [False, True])
def test_relevance_is_the_peers_on_a_module(name: str, averaged: bool) -> None:
    module, given = network(averaged=averaged).double(), images().double()
    wanted = by_peer(module, name, given)
    assert_near(by_rules(module, ours(name, torch.float64), given), wanted)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("folded", [True, False])
def test_relevance_is_the_peers_on_the_onnx_export(name: str, folded: bool, tmp_path: Path) -> None:
    module = network()
    settings = {} if folded else {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    model = exported(module, tmp_path / "network.onnx", **settings)
    assert folded != any(layer.operator == "BatchNormalization" for layer in model.layers)
    found = METHODS[name].attribute(ask(model, images()))
    wanted = by_peer(module.double(), name, images().double()).sum(dim=1)
    assert_near(found.maps[0].double(), wanted)
    scores = module(encoded(images().double()))[:, CLASS]
    error = (wanted.sum(dim=(1, 2)) - scores).abs() / scores.abs()
    assert found.facts["completeness error"].tolist() == pytest.approx(error.tolist(), abs=1e-4)


def test_without_biases_relevance_adds_up_to_the_score() -> None:
    module = network(smooth=True).double()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.zero_()  # type: ignore[union-attr]
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()  # type: ignore[operator, union-attr]
    scores = module(encoded(images().double()))[:, CLASS]
    for name in METHODS:
        if name != "strong":  # which leaves out what contributes little
            found = by_rules(module, ours(name, torch.float64), images().double())
            assert found.sum(dim=(1, 2, 3)).tolist() == pytest.approx(scores.tolist(), rel=1e-3), name


def test_smooth_activations_pass_relevance_whole() -> None:
    module, given = network(smooth=True).double(), images().double()
    assert_near(by_rules(module, ours("epsilon", torch.float64), given), by_peer(module, "epsilon", given))


def test_it_is_said_where_little_reaches_the_pixels(tmp_path: Path) -> None:
    module = network()
    usual = LrpComposite().attribute(ask(exported(module, tmp_path / "network.onnx"), images()))
    assert "less than a tenth" not in usual.said
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias.fill_(1)
            layer.weight.mul_(0.01)
    large = LrpComposite().attribute(ask(exported(module, tmp_path / "large.onnx"), images()))
    assert float(large.facts["completeness error"].min()) > 0.9
    assert "less than a tenth" in large.said


def test_nothing_is_left_on_the_model(tmp_path: Path) -> None:
    model = exported(network(), tmp_path / "network.onnx")
    question = ask(model, images())
    before = question.slopes(question.images, range(2))[1]
    LrpComposite().attribute(question)
    assert torch.equal(question.slopes(question.images, range(2))[1], before)


def test_an_images_relevance_does_not_depend_on_the_others(tmp_path: Path) -> None:
    model = exported(network(), tmp_path / "network.onnx")
    (together,) = LrpComposite().attribute(ask(model, images(3))).maps
    for place in range(3):
        (alone,) = LrpComposite().attribute(ask(model, images(3)[place : place + 1])).maps
        assert_near(alone[0], together[place])


def test_images_that_do_not_share_a_pass_have_the_same_relevance(tmp_path: Path) -> None:
    """The box rule knows the layers that the image reaches first by their order, in each pass anew."""
    model = exported(network(), tmp_path / "network.onnx")
    (together,) = LrpComposite().attribute(ask(model, images(20))).maps
    model.halvings = 2
    (apart,) = LrpComposite().attribute(ask(model, images(20))).maps
    assert_near(apart, together)


def test_relevance_at_layers_adds_up_to_what_the_pixels_have(tmp_path: Path) -> None:
    """Also where batch normalisation is merged with the layer that is asked about."""
    settings = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    model = exported(network(), tmp_path / "network.onnx", **settings)
    named = [layer for layer in model.layers if layer.operator in ("Conv", "BatchNormalization", "MaxPool")]
    question = ask(model, images(), tuple(layer.name for layer in named))
    found = dict(zip((layer.name for layer in named), LayerRelevance().attribute(question).maps, strict=True))
    pairs = [(named[0].name, named[1].name), (named[3].name, named[4].name)]
    assert [model.view.layer(name).operator for pair in pairs for name in pair] == ["Conv", "BatchNormalization"] * 2
    for layer, behind in pairs:
        torch.testing.assert_close(found[layer], found[behind])
    # Between the max pooling and the first layer no constant takes a share.
    torch.testing.assert_close(found[named[0].name].sum((1, 2)), found[named[2].name].sum((1, 2)))
    assert found[named[0].name].shape == (2, 8, 8)


class Inside(nn.Module):
    """A network that subtracts the mean itself, and makes grey of colours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolve, self.decide = nn.Conv2d(1, 4, 3, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        grey = ((given - 0.4) / 0.3 * torch.tensor([0.3, 0.6, 0.1]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
        result: torch.Tensor = self.decide(self.convolve(grey).relu().mean((2, 3)))
        return result


@pytest.mark.parametrize("name", METHODS)
def test_preprocessing_inside_the_network_keeps_nothing(name: str) -> None:
    """The relevance of grey goes to its colours whole, whatever was subtracted."""
    module = Inside().double().requires_grad_(False)
    given = images().double().requires_grad_()
    black, white = -4 / 3, 2.0
    chosen = ours(name, torch.float64)
    if name == "box":
        low, high = (torch.full((1, 1, 1, 1), limit).double() for limit in (black, white))
        chosen = dataclasses.replace(chosen, first=rules.Box(((low, high),)))
    with Propagation(chosen):
        score = module(given)[:, CLASS]
        (found,) = torch.autograd.grad(score.sum(), given)
    if name != "strong":
        assert found.sum((1, 2, 3)).tolist() == pytest.approx(score.tolist(), rel=1e-3)
    grey = ((given.detach() - 0.4) / 0.3 * torch.tensor([0.3, 0.6, 0.1]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    grey.requires_grad_()
    with Propagation(chosen):
        rest = module.decide(module.convolve(grey).relu().mean((2, 3)))[:, CLASS]
        (wanted,) = torch.autograd.grad(rest.sum(), grey)
    assert_near(found.sum(1, keepdim=True), wanted)


def test_the_box_knows_what_black_and_white_become(tmp_path: Path) -> None:
    """Through preprocessing inside the network too."""
    from onnxviz.analyses.attribution.methods.relevance import _limits

    path = tmp_path / "network.onnx"
    torch.onnx.export(Inside(), (images(),), path, dynamo=False, input_names=["x"])
    unit = dataclasses.replace(PRESETS["unit"], fit="none")
    model = onnxviz.Model(onnxviz.open_model(path), unit, device="cpu")
    ((low, high),) = _limits(ask(model, images()))
    assert low.unique().tolist() == pytest.approx([-4 / 3], rel=1e-5)
    assert high.unique().tolist() == pytest.approx([2.0], rel=1e-5)


# --- functions of other kinds -----------------------------------------------------------------------------------------


def relevance_of(function: Callable[..., torch.Tensor], *given: torch.Tensor) -> tuple[list[torch.Tensor], set[str]]:
    """Relevance of operands of the sum of a function, behind a first layer that is the identity."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    leaves = [values.double().requires_grad_() for values in given]
    with Propagation(Rules(rules.Epsilon(), rules.Epsilon())) as mode:
        inside = [nn.functional.conv1d(leaf.reshape(1, 1, -1), one).reshape(leaf.shape) for leaf in leaves]
        found = torch.autograd.grad(function(*inside).sum(), leaves, allow_unused=True)
    zero = torch.zeros(1, dtype=torch.float64)
    return [zero if each is None else each for each in found], mode.unruled


FIRST, SECOND = torch.tensor([[0.75, -2.0, 3.0]]), torch.tensor([[4.0, 0.25, -1.0]])


def test_a_product_divides_its_relevance_equally() -> None:
    (first, second), unruled = relevance_of(torch.mul, FIRST, SECOND)
    for found in (first, second):
        torch.testing.assert_close(found, (FIRST * SECOND / 2).double(), rtol=1e-5, atol=1e-8)
    assert not unruled


@pytest.mark.parametrize(
    "gate",
    [
        torch.sigmoid,
        nn.functional.hardsigmoid,
        lambda values: nn.functional.relu6(values + 3) / 6,
        lambda values: (values * 0.2 + 0.5).clamp(0, 1),
        lambda values: values.square().rsqrt(),
        lambda values: (values.square() + 1).pow(-0.5),
    ],
)
def test_a_gate_leaves_all_relevance_to_what_it_gates(gate: Callable[[torch.Tensor], torch.Tensor]) -> None:
    for function in (lambda a, b: a * gate(b), lambda a, b: gate(b) * a):
        (first, second), unruled = relevance_of(function, FIRST, SECOND)
        torch.testing.assert_close(first, (FIRST * gate(SECOND)).double(), rtol=1e-5, atol=1e-7)
        assert float(second.abs().max()) == 0
        assert not unruled


def test_silu_is_the_same_in_one_and_in_two() -> None:
    (whole,), _ = relevance_of(nn.functional.silu, FIRST)
    (parts,), _ = relevance_of(lambda values: values * torch.sigmoid(values), FIRST)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(whole, nn.functional.silu(FIRST).double(), rtol=1e-5, atol=1e-7)


def test_a_quotient_leaves_all_relevance_to_its_numerator() -> None:
    (first, second), unruled = relevance_of(torch.div, FIRST, SECOND)
    torch.testing.assert_close(first, (FIRST / SECOND).double(), rtol=1e-5, atol=1e-8)
    assert float(second.abs().max()) == 0
    assert not unruled


def _decomposed(values: torch.Tensor) -> torch.Tensor:
    centred = values - values.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(
    "normalise",
    [
        lambda values: nn.functional.layer_norm(values, (3,)),
        _decomposed,
        lambda values: torch.group_norm(values.unsqueeze(1), 1).squeeze(1),
    ],
)
def test_normalisation_divides_by_a_constant(normalise: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weight = torch.tensor([1.0, -2.0, 0.5]).double()
    (found,), unruled = relevance_of(lambda values: normalise(values) * weight, FIRST)
    centred = FIRST.double()
    deviation = (centred.var(-1, correction=0) + 1e-5).sqrt()
    wanted = centred * (weight - weight.mean()) / deviation
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert not unruled


def test_what_has_no_rule_is_named_where_relevance_passes_through_it() -> None:
    _, unruled = relevance_of(torch.cos, FIRST)
    assert unruled == {"cos"}
    _, unruled = relevance_of(lambda values: torch.reciprocal(values) + 1, FIRST)
    assert unruled == {"reciprocal"}
    _, unruled = relevance_of(lambda values: values + 0 * torch.cos(values).detach(), FIRST)
    assert not unruled


def test_relevance_that_is_not_finite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exported(network(), tmp_path / "network.onnx")
    question = ask(model, images())
    endless = torch.full_like(question.images, float("inf"))
    monkeypatch.setattr(question, "in_parts", lambda *_: [(question.scores, endless)])
    with pytest.raises(AnalysisError, match="no finite relevance"):
        LrpEpsilon().attribute(question)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("squeezenet_fp16", "caffe"),
        ("cifar10_resnet20_ts17", "imagenet"),
        ("coral_mobilenet_v1_0.25_128_qdq", "tf"),
        ("fer2013_mini_XCEPTION.102-0.66", "gray_tf"),
        ("caffe_lenet", "gray_unit"),
        ("vnn_vit_cifar10_pgd_2_3_16", "imagenet"),
    ],
)
def test_real_networks_need_no_other_rules(zoo: Path, shared_data: Path, file: str, preset: str) -> None:
    model = onnxviz.load(zoo / "onnx" / f"{file}.onnx", preprocess=preset, device="cpu")
    question = ask(model, model.prepare([shared_data / "imagenet_sample" / "n01518878_ostrich.JPEG"]))
    found = LrpComposite().attribute(question)
    assert "want of a rule" not in found.said
    assert float(found.maps[0].abs().max()) > 0
    assert found.maps[0].shape == question.images[:, 0].shape


@pytest.mark.zoo
def test_the_evidence_for_an_ostrich_is_the_ostrich(zoo: Path, shared_data: Path) -> None:
    """It fills a tenth of the photograph: from column 80 to 140, from row 45 to 170 of 224."""
    model = onnxviz.load(zoo / "onnx" / "squeezenet_fp16.onnx", preprocess="caffe", device="cpu")
    question = ask(model, model.prepare([shared_data / "imagenet_sample" / "n01518878_ostrich.JPEG"]), (), 9)
    (found,) = LrpComposite().attribute(question).maps
    assert float(found[0, 45:170, 80:140].sum() / found.sum()) > 0.5
    (whole,) = LrpEpsilon().attribute(question).facts.values()
    assert float(whole) < 0.5
