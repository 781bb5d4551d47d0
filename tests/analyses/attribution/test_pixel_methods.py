"""Pixels by gradients: equal to captum on the PyTorch module through the ONNX file, and to rules written by hand."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from captum import attr
from small_networks import (
    CLASSES,
    GREY,
    IMAGENET,
    SIDE,
    TARGETS,
    ChannelsLast,
    OfImages,
    Plain,
    Quantised,
    Residual,
    Tokens,
    ask,
    difference,
    exported,
    images,
)
from torch import nn
from torch.nn import functional

import onnxviz
from onnxviz.analyses.attribution.methods.gradients import Gradient, GradientTimesInput
from onnxviz.analyses.attribution.methods.integrated import ExpectedGradients, IntegratedGradients, quadrature
from onnxviz.analyses.attribution.methods.rectifiers import Deconvnet, GuidedBackpropagation, GuidedGradCam
from onnxviz.analyses.attribution.methods.smoothing import SmoothGrad, VarGrad
from onnxviz.analyses.attribution.question import Question
from onnxviz.core.errors import AnalysisError
from onnxviz.core.values import PRESETS, Preprocessing

EXACT = 1e-5
UNIT = dataclasses.replace(PRESETS["unit"], fit="none")
# What the quantised network rounds are whole numbers of its steps.
BYTES = dataclasses.replace(UNIT, scale=(256.0,))


@dataclasses.dataclass(frozen=True)
class Case:
    """A network to export, and the same as captum can take it.

    Attributes:
        path: relative difference that is allowed where gradients are taken on the way from one image to another.
        rounds: whether the network rounds what it is given.
    """

    network: Callable[[], nn.Module]
    oracle: Callable[[], nn.Module] | None = None
    preprocessing: Preprocessing = IMAGENET
    folded: bool = True
    path: float = EXACT
    rounds: bool = False


CASES = {
    "plain": Case(Plain),
    "one ReLU serves four times": Case(lambda: Plain(once=True), Plain),
    "in place": Case(lambda: Plain(inplace=True), Plain),
    "grey": Case(lambda: Plain(grey=True), preprocessing=GREY),
    "channels last": Case(lambda: ChannelsLast(Plain()), Plain),
    "residual": Case(Residual, folded=False),
    "residual, folded": Case(Residual, path=2e-3),
    "tokens": Case(Tokens),
    "int8": Case(Quantised, preprocessing=BYTES, rounds=True),
}


@pytest.fixture(params=CASES, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def question(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Question:
    """What our methods are asked, about the ONNX file."""
    model = exported(case.network(), case.preprocessing, tmp_path_factory.mktemp("export"), folded=case.folded)
    return ask(model, images())


@pytest.fixture(scope="module")
def oracle(case: Case) -> nn.Module:
    """What captum is asked about: the PyTorch module, behind its preprocessing."""
    network = (case.oracle or case.network)()
    return OfImages(network, case.preprocessing).eval()


def captum(make: Callable[[nn.Module], object], oracle: nn.Module, **arguments: object) -> torch.Tensor:
    """Ask captum about both images, each for its class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        return make(oracle).attribute(images(), target=list(TARGETS), **arguments).detach()  # type: ignore[attr-defined]


def largest(values: torch.Tensor) -> torch.Tensor:
    return values.abs().amax(dim=1)


# --- equality ---------------------------------------------------------------------------------------------------------


def test_gradient(question: Question, oracle: nn.Module) -> None:
    (found,) = Gradient().attribute(question).maps
    assert difference(found, largest(captum(attr.Saliency, oracle))) <= EXACT


def test_gradient_times_input(case: Case, question: Question, oracle: nn.Module) -> None:
    """Of what the network is given, which captum takes where ours takes the image."""
    (found,) = GradientTimesInput().attribute(question).maps
    given = OfImages(nn.Identity(), case.preprocessing)(images()).requires_grad_()
    wanted = attr.InputXGradient(oracle.network).attribute(given, target=list(TARGETS))
    assert difference(found, wanted.detach().sum(dim=1)) <= EXACT


def test_guided_backpropagation(question: Question, oracle: nn.Module) -> None:
    result = GuidedBackpropagation().attribute(question)
    assert difference(result.maps[0], largest(captum(attr.GuidedBackprop, oracle))) <= EXACT
    assert f"at {sum(isinstance(each, nn.ReLU) for each in oracle.modules())} × ReLU" in result.said


def test_deconvnet(question: Question, oracle: nn.Module) -> None:
    (found,) = Deconvnet().attribute(question).maps
    assert difference(found, largest(captum(attr.Deconvolution, oracle))) <= EXACT
    (guided,) = GuidedBackpropagation().attribute(question).maps
    assert difference(found, guided) > 0.01


@pytest.mark.parametrize("rule", ["gauss_legendre", "midpoint", "left", "right"])
def test_integrated_gradients(case: Case, question: Question, oracle: nn.Module, rule: str) -> None:
    name = {"gauss_legendre": "gausslegendre", "midpoint": "riemann_middle"}.get(rule, f"riemann_{rule}")
    result = IntegratedGradients(steps=20, rule=rule).attribute(question)  # type: ignore[arg-type]
    zero = question.zero.expand_as(images())
    wanted = captum(attr.IntegratedGradients, oracle, baselines=zero, n_steps=20, method=name)
    assert difference(result.maps[0], wanted.sum(dim=1)) <= case.path
    check_completeness(result.facts["completeness error"], wanted, oracle, [zero])


def check_completeness(
    error: torch.Tensor, wanted: torch.Tensor, oracle: nn.Module, starts: Sequence[torch.Tensor]
) -> None:
    """The error that is told is that of captum's attributions."""
    with torch.no_grad():
        gaps = torch.stack([(oracle(images()) - oracle(start)).double() for start in starts]).mean(dim=0)
    gap = gaps[range(len(TARGETS)), list(TARGETS)]
    expected = (wanted.double().flatten(1).sum(dim=1) - gap).abs() / gap.abs()
    torch.testing.assert_close(error, expected, rtol=1e-2, atol=1e-4)


def test_integrated_gradients_from_several_baselines(case: Case, question: Question, oracle: nn.Module) -> None:
    from scipy.ndimage import gaussian_filter

    blurred = torch.from_numpy(gaussian_filter(images().numpy(), (0, 0, 0.1 * SIDE, 0.1 * SIDE)))
    starts = {"black": torch.zeros_like(images()), "white": torch.ones_like(images()), "blur": blurred}
    if case.rounds:
        starts.pop("blur")  # of two blurs that differ in the last bit some pixels round to different steps
    result = IntegratedGradients(steps=10, baselines=tuple(starts), blur=0.1).attribute(question)  # type: ignore[arg-type]
    each = [captum(attr.IntegratedGradients, oracle, baselines=start, n_steps=10) for start in starts.values()]
    wanted = torch.stack(each).mean(dim=0)
    assert difference(result.maps[0], wanted.sum(dim=1)) <= case.path
    check_completeness(result.facts["completeness error"], wanted, oracle, list(starts.values()))


@pytest.mark.parametrize(("method", "kind"), [(SmoothGrad, "smoothgrad"), (VarGrad, "vargrad")])
def test_gradients_with_noise(
    case: Case, question: Question, oracle: nn.Module, monkeypatch: pytest.MonkeyPatch,
    method: type[SmoothGrad] | type[VarGrad], kind: str,
) -> None:  # fmt: skip
    samples, level = 12, 0.2
    draws = [question.generator(place, "noise") for place in range(len(TARGETS))]
    given = images()
    noise = torch.stack([
        torch.from_numpy(draw.standard_normal(image.shape, np.float32)) * (level * (image.max() - image.min()))
        for image, draw in zip(given, draws, strict=True) for _ in range(samples)
    ])  # fmt: skip
    monkeypatch.setattr("captum.attr._core.noise_tunnel.torch.normal", lambda _mean, _deviation: noise)
    wanted = captum(
        lambda network: attr.NoiseTunnel(attr.Saliency(network)), oracle, nt_type=kind, nt_samples=samples, abs=False
    )
    (found,) = method(samples=samples, noise=level).attribute(question).maps
    assert difference(found, largest(wanted)) <= case.path


def test_expected_gradients(case: Case, question: Question, oracle: nn.Module) -> None:
    """A loop by hand over the same references and places, which are drawn as they should be."""
    references = torch.cat([images(5)[2:], images()[:1]])
    method = ExpectedGradients(samples=8, count=4)
    asked = question._forward.ask(question.targets, references=references)
    result = method.attribute(asked)
    wanted, gaps = torch.zeros_like(images()), []
    for owner, target in enumerate(TARGETS):
        used, places = method._ways(asked, owner, references)
        assert np.ptp(np.bincount(used, minlength=4)[: 3 if owner == 0 else 4]) <= 1
        assert owner != 0 or 3 not in used  # the image itself is no reference
        assert sorted(int(place * 8) for place in places) == list(range(8))
        for reference, place in zip(used, places, strict=True):
            away = images()[owner] - references[reference]
            point = (references[reference] + place * away)[None].requires_grad_()
            (slope,) = torch.autograd.grad(oracle(point)[0, target], point)
            wanted[owner] += slope[0] * away / 8
        gaps.append((oracle(images())[owner, target] - oracle(references[used])[:, target].mean()).item())
    assert difference(result.maps[0], wanted.sum(dim=1)) <= case.path
    sums = wanted.flatten(1).sum(dim=1)
    expected = [abs(float(total) - gap) / abs(gap) for total, gap in zip(sums, gaps, strict=True)]
    np.testing.assert_allclose(result.facts["completeness error"].numpy(), expected, rtol=1e-2, atol=1e-4)


def test_guided_grad_cam(tmp_path: Path) -> None:
    """Of two layers at once, each as captum makes it alone."""
    network = Plain()
    model = exported(network, IMAGENET, tmp_path)
    convolutions = [layer.name for layer in model.view.layers if layer.operator == "Conv"]
    result = GuidedGradCam().attribute(ask(model, images(), layers=convolutions[1:]))
    oracle = OfImages(network, IMAGENET)
    assert len(result.maps) == 2
    for found, layer in zip(result.maps, (network.second, network.third), strict=True):
        wanted = captum(lambda of, at=layer: attr.GuidedGradCam(of, at), oracle, interpolate_mode="bilinear")
        assert difference(found, largest(wanted)) <= EXACT


# --- what captum has no rule for --------------------------------------------------------------------------------------


class Ruled(nn.Module):
    """A ReLU with an upper limit whose rule is written by hand, as a hook on a tensor."""

    def __init__(self, guided: bool, high: float) -> None:
        super().__init__()
        self.guided, self.high = guided, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clipped = x.clamp(0, self.high)
        if self.guided:
            result = torch.where((x > 0) & (x < self.high), x, clipped.detach())
        else:
            result = x + (clipped - x).detach()
        result.register_hook(lambda gradient: gradient.clamp(min=0))
        return result


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize("high", [6.0, 0.25])
def test_relus_with_an_upper_limit(tmp_path: Path, guided: bool, high: float) -> None:
    """ReLU6 and other clipping from 0: silent above the limit too, which only deconvnet ignores."""
    model = exported(Plain(lambda inplace: nn.Hardtanh(0.0, high)), IMAGENET, tmp_path)  # type: ignore[arg-type]
    result = (GuidedBackpropagation() if guided else Deconvnet()).attribute(ask(model, images()))
    given = images().requires_grad_()
    scores = OfImages(Plain(lambda inplace: Ruled(guided, high)), IMAGENET)(given)  # type: ignore[arg-type]
    (wanted,) = torch.autograd.grad(scores[range(2), list(TARGETS)].sum(), given)
    assert difference(result.maps[0], largest(wanted)) <= EXACT
    assert result.said == f"Gradients were rectified at 4 × clipping to 0..{high:g}."


class Written(nn.Module):
    """ReLUs in other words: a maximum with 0, a lower limit alone."""

    def __init__(self, relu: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second, self.relu = nn.Conv2d(3, 6, 3), nn.Conv2d(6, CLASSES, 3), relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.relu(self.first(x))).square().mean(dim=(2, 3))


@pytest.mark.parametrize(
    "relu", [functional.relu, lambda x: x.clamp(min=0), lambda x: torch.maximum(x, torch.tensor(0.0)), functional.relu6]
)
def test_relus_by_other_names(tmp_path: Path, relu: Callable[[torch.Tensor], torch.Tensor]) -> None:
    found = GuidedBackpropagation().attribute(ask(exported(Written(relu), IMAGENET, tmp_path), images())).maps[0]
    wanted = captum(attr.GuidedBackprop, OfImages(Written(nn.ReLU()), IMAGENET))
    assert difference(found, largest(wanted)) <= EXACT


def test_other_activations_keep_their_gradients_and_are_named(tmp_path: Path) -> None:
    def activation(x: torch.Tensor) -> torch.Tensor:
        return functional.silu(functional.leaky_relu(functional.gelu(x.relu()))).clamp(-0.5, 0.5)

    given = images().requires_grad_()
    result = GuidedBackpropagation().attribute(ask(exported(Written(activation), IMAGENET, tmp_path), given))
    rectified = lambda x: activation(Ruled(True, 1e9)(x))  # noqa: E731
    scores = OfImages(Written(rectified), IMAGENET)(given)
    (wanted,) = torch.autograd.grad(scores[range(2), list(TARGETS)].sum(), given)
    assert difference(result.maps[0], largest(wanted)) <= EXACT
    assert "rectified at 1 × ReLU; other activations have their usual gradients: " in result.said
    for name in ("1 × GELU", "1 × leaky ReLU", "1 × sigmoid", "1 × clipping to a range"):
        assert name in result.said


def test_a_network_without_relus_is_refused(tmp_path: Path) -> None:
    question = ask(exported(Tokens(nn.GELU), IMAGENET, tmp_path), images())
    for method in (GuidedBackpropagation(), Deconvnet()):
        with pytest.raises(AnalysisError, match=r"no ReLU before the score.*1 × GELU"):
            method.attribute(question)


def test_nothing_is_left_on_the_network(tmp_path: Path) -> None:
    model = exported(Plain(), IMAGENET, tmp_path)
    (before,) = Gradient().attribute(ask(model, images())).maps
    question = ask(model, images())
    GuidedBackpropagation().attribute(question)
    assert torch.equal(Gradient().attribute(question).maps[0], before)
    assert torch.equal(Gradient().attribute(ask(model, images())).maps[0], before)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [GuidedBackpropagation(), SmoothGrad(samples=7), IntegratedGradients(steps=5), ExpectedGradients(samples=5)],
)
def test_an_image_is_what_it_is_in_whatever_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: SmoothGrad
) -> None:
    model, given = exported(Plain(), IMAGENET, tmp_path), images(5)
    together = ask(model, given, (0, 1, 2, 1, 0), references=images(8)[5:])
    whole = method.attribute(together)
    monkeypatch.setattr(Question, "together", 3)
    for place in range(5):
        forward = ask(model, given[place : place + 1], (0,))._forward
        alone = forward.ask([together.targets[place]], indices=[place], references=images(8)[5:])
        result = method.attribute(alone)
        assert difference(result.maps[0][0], whole.maps[0][place]) <= EXACT
        for name, values in result.facts.items():
            torch.testing.assert_close(values[0], whole.facts[name][place], rtol=1e-3, atol=1e-5)


def test_models_that_take_so_many_images(tmp_path: Path) -> None:
    """A file for exactly two images at a time: copies fill what is missing."""
    import onnx

    free = exported(Plain(), IMAGENET, tmp_path)
    proto = onnx.load(tmp_path / "network.onnx")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, tmp_path / "two.onnx")
    fixed = onnxviz.Model(onnxviz.open_model(tmp_path / "two.onnx"), IMAGENET, None, "cpu")
    for method in (SmoothGrad(samples=3), IntegratedGradients(steps=3), GuidedBackpropagation()):
        found, wanted = (method.attribute(ask(model, images())).maps[0] for model in (fixed, free))
        assert difference(found, wanted) <= EXACT


def test_little_memory_makes_passes_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, method = exported(Plain(), IMAGENET, tmp_path), IntegratedGradients(steps=6)
    wanted = method.attribute(ask(model, images())).maps[0]
    assert model.reduced == []
    question = ask(model, images())
    monkeypatch.setattr("onnxviz.model.batches.free_memory", lambda device: int(4.5 * question._slope_bytes))
    assert difference(method.attribute(question).maps[0], wanted) <= EXACT
    (said,) = model.reduced
    assert said.startswith("Attribution by changed images took 3 images at a time instead of 12, because 12 need about")


def test_methods_share_noisy_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = ask(exported(Plain(), IMAGENET, tmp_path), images())
    passed: list[int] = []
    slopes = Question.slopes
    monkeypatch.setattr(Question, "slopes", lambda self, *given: passed.append(len(given[0])) or slopes(self, *given))
    for method in (SmoothGrad(samples=5), VarGrad(samples=5), GuidedBackpropagation()):
        method.attribute(question)
    assert sum(passed) == 2 * 5 + 2
    VarGrad(samples=6).attribute(question)
    assert sum(passed) == 2 * 5 + 2 + 2 * 6


# --- edges ------------------------------------------------------------------------------------------------------------


def test_gauss_and_legendre_integrate_polynomials() -> None:
    places, weights = quadrature("gauss_legendre", 4)
    for power in range(8):
        assert float((weights * places**power).sum()) == pytest.approx(1 / (power + 1), rel=1e-12)


def test_an_image_that_is_its_baseline_has_no_shares_and_no_error(tmp_path: Path) -> None:
    question = ask(exported(Plain(), IMAGENET, tmp_path), torch.zeros(2, 3, SIDE, SIDE))
    result = IntegratedGradients(baselines=("black",), steps=3).attribute(question)
    assert float(result.maps[0].abs().max()) == 0
    assert result.facts["completeness error"].isnan().all()


def test_what_is_said_of_baselines(tmp_path: Path) -> None:
    question = ask(exported(Plain(), IMAGENET, tmp_path), images())
    said = IntegratedGradients(steps=2).attribute(question).said
    assert said == (
        "From the image that the network sees as zeros (123.7/116.3/103.5) in 2 steps, by Gauss-Legendre quadrature. "
        "Where the image is like that it has no share, whatever it shows."
    )
    said = IntegratedGradients(steps=2, baselines=("black", "blur"), rule="midpoint").attribute(question).said
    assert said == (
        "From a black image, the image blurred by 0.8 pixels in 2 steps each, averaged, by a midpoint Riemann sum."
    )


def test_baselines_are_named_once() -> None:
    with pytest.raises(ValueError, match="named once"):
        IntegratedGradients(baselines=("black", "black"))


def test_expected_gradients_need_references(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="other images of the data"):
        ExpectedGradients().attribute(ask(exported(Plain(), IMAGENET, tmp_path), images()))
    assert ExpectedGradients(count=7).references() == 7
    assert SmoothGrad().references() == 0
