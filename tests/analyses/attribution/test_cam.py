"""Class activation maps against pytorch-grad-cam on the PyTorch module, and against loops that follow the papers."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import onnxviz
from onnxviz.analyses.attribution.fusion import fused, upsample
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.methods.cam import EigenCam, ElementWiseGradCam, GradCamMethod, HiResCam, LayerCam
from onnxviz.analyses.attribution.methods.cam_by_scores import AblationCam, CamByScores, ScoreCam
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.data import builtin
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.graph.targets import resolve_head
from onnxviz.model.continuation import Continuation
from tests.analyses.attribution.networks import SIZE, Residual, Tokens, exported
from tests.analyses.test_attribution import Tapped

Both = tuple[nn.Module, onnxviz.Model]
CLASSES = (3, 0, 3)
"""What is explained of each of three images."""
PEERS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_element_wise": "GradCAMElementWise",
    "eigen_cam": "EigenCAM",
    "score_cam": "ScoreCAM",
}


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A convolutional network, and its export."""
    return exported(Residual, tmp_path_factory.mktemp("residual"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """A transformer, and its export."""
    return exported(Tokens, tmp_path_factory.mktemp("tokens"))


def images_of(count: int = len(CLASSES)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).random((count, 3, *SIZE), np.float32))


def ask(model: onnxviz.Model, layers: tuple[str, ...], images: torch.Tensor | None = None) -> Question:
    """What speaks for a class of each image, at some layers."""
    images = images_of() if images is None else images
    head = resolve_head(model.view, None, model.labels)
    targets = [ClassTarget(head, CLASSES[place % len(CLASSES)]) for place in range(len(images))]
    chosen = [model.view.layer(name) for name in layers]
    return ForwardPass(model, images, chosen, targets[0].layers, to_input=False).ask(targets)


def peer_maps(
    package: types.ModuleType, name: str, module: nn.Module, inputs: torch.Tensor, **given: Any
) -> list[np.ndarray]:
    """The peer's maps of each layer, one layer at a time, before it cuts off, scales and enlarges them."""
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps = []
    targets = [ClassifierOutputTarget(number) for number in CLASSES[: len(inputs)]]
    for tap in module.taps:  # type: ignore[union-attr]
        with getattr(package, name)(model=module, target_layers=[tap], **given) as explain:
            make = explain.get_cam_image
            explain.get_cam_image = lambda *given, make=make: maps.append(make(*given)) or maps[-1]
            explain(input_tensor=inputs, targets=targets)
    return maps


def as_map(values: torch.Tensor) -> torch.Tensor:
    """Tokens as the peer wants them: [N, width, rows, columns], without the class token."""
    return values[:, 1:].transpose(1, 2).reshape(len(values), -1, *Tokens.grid)


def apart(found: torch.Tensor, wanted: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(found.numpy() - wanted).max() / np.abs(wanted).max())


def turned(components: np.ndarray, maps: torch.Tensor) -> np.ndarray:
    """Components of the activations as the maps are turned: they have no sign of their own."""
    return components * np.sign((components * maps.numpy()).sum(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize("name", PEERS)
def test_equal_to_pytorch_grad_cam_on_the_export(peer: types.ModuleType, residual: Both, name: str) -> None:
    module, model = residual
    question = ask(model, Residual.layers)
    found = methods()[name]().attribute(question)  # type: ignore[call-arg]
    wanted = peer_maps(peer, PEERS[name], module, model.encode(question.images).contiguous())
    assert len(found.maps) == len(wanted) == 3
    for ours, theirs in zip(found.maps, wanted, strict=True):
        theirs = turned(theirs, ours) if name == "eigen_cam" else theirs
        assert apart(ours, np.maximum(theirs, 0)) < 1e-5


@pytest.mark.parametrize("name", PEERS)
def test_equal_to_pytorch_grad_cam_on_tokens(peer: types.ModuleType, tokens: Both, name: str) -> None:
    module, model = tokens
    question = ask(model, Tokens.layers)
    found = methods()[name]().attribute(question)  # type: ignore[call-arg]
    inputs = model.encode(question.images).contiguous()
    wanted = peer_maps(peer, PEERS[name], module, inputs, reshape_transform=as_map)
    # XGrad-CAM divides by sums of activations, which of tokens lie around 0 and have fewer digits.
    tolerance = 1e-4 if name == "xgrad_cam" else 1e-5
    for layer, ours, theirs in zip(Tokens.layers, found.maps, wanted, strict=True):
        assert tuple(ours.shape) == (3, *Tokens.grid)
        theirs = turned(theirs, ours) if name == "eigen_cam" else theirs
        if layer == "blocks.1" and methods()[name].needs_gradients:
            assert float(ours.abs().max()) == 0  # the head reads the class token alone: no patch has a gradient
            assert np.abs(theirs).max() == 0
        elif layer == "blocks.0" and name == "hires_cam":
            assert float(ours.abs().max()) == 0  # the normalisation behind takes the scale out of each token
            assert np.abs(theirs).max() < 1e-4 * np.abs(wanted[1]).max()
        else:
            assert apart(ours, np.maximum(theirs, 0)) < tolerance


def test_ablation_is_pytorch_grad_cam_s_times_the_score(peer: types.ModuleType, residual: Both) -> None:
    """The peer divides by the score; where a channel is never negative it sets it to zero, as the paper does."""
    module, model = residual
    question = ask(model, Residual.layers)
    found = AblationCam().attribute(question)
    wanted = peer_maps(peer, "AblationCAM", module, model.encode(question.images).contiguous())
    for ours, theirs in zip(found.maps, wanted, strict=True):
        assert apart(ours, np.maximum(theirs * question.scores.numpy()[:, None, None], 0)) < 1e-5


def test_methods_on_the_module_itself_by_hand(residual: Both) -> None:
    """The maps of the export are those that the PyTorch module's own gradients give, in a loop in double precision."""
    module, model = residual
    question = ask(model, Residual.layers)
    double = Residual().double()
    double.load_state_dict(module.state_dict())
    kept: list[torch.Tensor] = []
    for tap in double.taps:
        tap.register_forward_hook(lambda _module, _given, result: kept.append(result))
    scores = double(model.encode(question.images).double())
    total = sum(scores[place, number] for place, number in enumerate(CLASSES))
    slopes = torch.autograd.grad(total, kept)  # type: ignore[arg-type]
    grad_cam, hires = (method.attribute(question).maps for method in (GradCamMethod(), HiResCam()))
    for place, (values, gradients) in enumerate(zip(kept, slopes, strict=True)):
        for image in range(3):
            wanted = sum(slope.mean() * value for slope, value in zip(gradients[image], values[image], strict=True))
            assert apart(grad_cam[place][image], wanted.relu().detach().numpy()) < 1e-5  # type: ignore[union-attr]
            wanted = (gradients[image] * values[image]).sum(dim=0).relu()
            assert apart(hires[place][image], wanted.detach().numpy()) < 1e-5


def test_ablation_of_tokens_by_hand(tokens: Both) -> None:
    """Each channel set to zero in all tokens, the class token included, one pass after the other."""
    module, model = tokens
    question = ask(model, Tokens.layers)
    found = AblationCam().attribute(question)
    inputs = model.encode(question.images)
    for place, tap in enumerate(module.taps):  # type: ignore[union-attr]
        kept: list[torch.Tensor] = []
        with tap.register_forward_hook(lambda _module, _given, result, kept=kept: kept.append(result)):
            scores = module(inputs).detach()
        wanted = torch.zeros(3, *Tokens.grid)
        for channel in range(16):

            def ablated(_module: nn.Module, _given: Any, result: torch.Tensor, channel: int = channel) -> torch.Tensor:
                return result * (torch.arange(16) != channel)

            with tap.register_forward_hook(ablated):
                drops = scores - module(inputs).detach()
            for image, number in enumerate(CLASSES):
                wanted[image] += drops[image, number] * as_map(kept[0].detach())[image, channel]
        assert apart(found.maps[place], wanted.relu().numpy()) < 1e-5
        assert float(wanted.max()) > 0


@pytest.mark.parametrize("name", [*PEERS, "ablation_cam"])
def test_an_image_does_not_depend_on_the_others_nor_on_a_batch_of_one(residual: Both, name: str) -> None:
    _, model = residual
    method: Method = methods()[name]()  # type: ignore[call-arg]
    together = method.attribute(ask(model, Residual.layers)).maps
    fixed = onnxviz.Model(dataclasses.replace(model.view, batch=1), model.preprocessing, device="cpu")
    head = resolve_head(fixed.view, None, None)
    for place, number in enumerate(CLASSES):
        chosen = [fixed.view.layer(layer) for layer in Residual.layers]
        target = ClassTarget(head, number)
        forward = ForwardPass(fixed, images_of()[place : place + 1], chosen, target.layers, to_input=False)
        for one, all_of in zip(method.attribute(forward.ask([target])).maps, together, strict=True):
            assert apart(one[0], all_of[place].numpy()) < 1e-5


def test_behind_a_relu_element_wise_grad_cam_is_layer_cam(residual: Both) -> None:
    question = ask(residual[1], Residual.layers)
    for one, other in zip(
        ElementWiseGradCam().attribute(question).maps, LayerCam().attribute(question).maps, strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [*PEERS, "ablation_cam"])
def test_a_layer_that_the_score_does_not_depend_on(residual: Both, name: str) -> None:
    """What asks the score finds nothing there; EigenCAM does not ask, and Score-CAM asks about images."""
    _, model = residual
    early, late = (model.view.layer(layer) for layer in (Residual.layers[0], Residual.layers[2]))
    head = dataclasses.replace(resolve_head(model.view, None, None), scores=early)
    target = ClassTarget(head, 2)
    question = ForwardPass(model, images_of(), [late], [early], to_input=False).ask([target] * 3)
    (found,) = methods()[name]().attribute(question).maps  # type: ignore[call-arg]
    assert bool(found.isfinite().all())
    assert bool(found.any()) == (name in ("eigen_cam", "score_cam"))


def test_only_some_channels_are_measured_and_that_is_said(residual: Both) -> None:
    _, model = residual
    question = ask(model, Residual.layers)
    for method in (ScoreCam, AblationCam):
        every, some = method().attribute(question), method(channels=9).attribute(question)
        assert not every.said
        assert some.said == (
            f"{method.heading} measured only 9 of 12 channels of {question.layers[2].name}, those of the highest mean "
            "square activation; the others have no part in the map"
        )
        for one, other in zip(every.maps[:2], some.maps[:2], strict=True):
            torch.testing.assert_close(one, other)
        assert apart(some.maps[2], every.maps[2].numpy()) > 1e-3
        assert method(channels=9).cost(3) == 27


def test_what_lies_beside_a_layer_is_computed_once(residual: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer inside a residual block: the other side of the sum is handed on, and the stem runs for no ablation."""
    module, model = residual
    layer, inputs = model.view.layer("Relu[1]"), model.encode(images_of())
    following = Continuation(model, images_of(), layer, [model.view.logits])
    assert following.reaches
    first = module.relu(module.stem(inputs))  # type: ignore[operator]
    inner = module.relu(module.one(first))  # type: ignore[operator]
    torch.testing.assert_close(following.values, inner.detach(), rtol=1e-5, atol=1e-6)
    changed = inner.detach()[[2, 0]]
    changed[0, 3], changed[1, 5] = 0, 0
    second = module.relu(module.two(changed) + first[[2, 0]])  # type: ignore[operator]
    wanted = module.head(module.relu(module.last(second)).mean((2, 3)))  # type: ignore[operator]
    torch.testing.assert_close(following(changed, [2, 0])[0], wanted.detach(), rtol=1e-5, atol=1e-6)
    convolved: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", lambda conv, values: convolved.append(0) or conv._conv_forward(
            values, conv.weight, conv.bias))  # fmt: skip
        following(changed, [2, 0])
    assert len(convolved) == 2
    assert not Continuation(model, images_of(), model.view.layer("Relu[3]"), [layer]).reaches


@pytest.mark.parametrize("method", [ScoreCam(), AblationCam()], ids=["score_cam", "ablation_cam"])
def test_targets_share_the_passes_unless_these_are_large(
    residual: Both, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = residual
    head, chosen = resolve_head(model.view, None, None), [model.view.layer(name) for name in Residual.layers]
    passes: list[int] = []
    make = type(method).outputs  # type: ignore[attr-defined]
    monkeypatch.setattr(type(method), "outputs", lambda *given: passes.append(0) or make(*given))

    def maps_of(number: int, forward: ForwardPass) -> tuple[torch.Tensor, ...]:
        return method.attribute(forward.ask([ClassTarget(head, number)] * 3)).maps

    def forward() -> ForwardPass:
        return ForwardPass(model, images_of(), chosen, [head.scores], to_input=False)

    shared = forward()
    together = [maps_of(number, shared) for number in (1, 2)]
    assert len(passes) == 3
    for number, maps in zip((1, 2), together, strict=True):
        for one, other in zip(maps, maps_of(number, forward()), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(together[0][2], together[1][2])
    passes.clear()
    monkeypatch.setattr("onnxviz.analyses.attribution.methods.cam_by_scores._KEPT_BYTES", 700)
    shared = forward()
    for number, maps in zip((1, 2), together, strict=True):
        for one, other in zip(maps, maps_of(number, shared), strict=True):
            assert torch.equal(one, other)
    assert 3 < len(passes) <= 6
    (of_targets,) = shared.kept.values()
    parts = [values for parts in of_targets[CamByScores].values() for values in parts]
    assert sum(each.nbytes for values in parts for each in values) <= 700


def test_score_cam_by_hand_with_silent_channels() -> None:
    """On the built-in network: softmax over all channels of scores of masked images, those of silent ones blank."""
    known = builtin.model("scenes")
    model = onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing, known.labels, "cpu")
    images = torch.from_numpy(load_batch(builtin.scenes(count=2), range(2), model.preprocessing, model.input_size))
    question = ask(model, ("conv6:act",), images)
    (found,) = ScoreCam().attribute(question).maps
    (activations,) = question.activations
    silent = int((activations.flatten(2).amax(dim=2) == 0).sum())
    assert silent > 2
    for place in range(2):
        scores = []
        for channel in activations[place]:
            mask = functional_mask(channel, images.shape[2:])
            masked = question.zero + (images[place] - question.zero) * mask
            (values,) = model.differentiable(model.view.logits)(masked)
            scores.append(float(values.flatten(1)[0, CLASSES[place]]))
        weights = torch.tensor(scores, dtype=torch.float64).softmax(dim=0)
        wanted = (weights[:, None, None] * activations[place].double()).sum(dim=0)
        assert apart(found[place].double(), wanted.numpy()) < 1e-4


def functional_mask(channel: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """A channel scaled to 0..1 and enlarged, corners on corners."""
    large = nn.UpsamplingBilinear2d(size=tuple(size))(channel[None, None])[0, 0]
    return (large - large.min()) / (large.max() - large.min() + 1e-8)


def test_methods_without_gradients_work_on_what_does_not_convert(
    residual: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = residual
    for method in (EigenCam(), ScoreCam()):
        assert not method.needs_gradients
        wanted = method.attribute(ask(model, Residual.layers)).maps
        with monkeypatch.context() as patch:
            patch.setattr(onnxviz.Model, "converts", lambda *_: False)
            patch.setattr(onnxviz.Model, "differentiable", None)
            found = method.attribute(ask(model, Residual.layers)).maps
        for one, other in zip(found, wanted, strict=True):
            assert apart(one, other.numpy()) < 1e-4


def test_the_first_component_goes_up_with_the_activations(residual: Both) -> None:
    _, model = residual
    question = ask(model, Residual.layers)
    for found, activations in zip(EigenCam().attribute(question).maps, question.activations, strict=True):
        for one, values in zip(found, activations, strict=True):
            assert np.corrcoef(one.numpy().ravel(), values.sum(dim=0).numpy().ravel())[0, 1] > 0.3
    flat = EigenCam().attribute(ask(model, (Residual.layers[0],), torch.full((1, 3, *SIZE), 0.5)))
    assert bool(flat.maps[0].isfinite().all())


# --- several layers as one ------------------------------------------------------------------------------------------


def test_fused_maps_are_those_of_pytorch_grad_cam(peer: types.ModuleType, residual: Both) -> None:
    """The peer's scores are a thousand times ours, so that the 1e-7 that it adds to maxima is nothing beside them."""
    module, model = residual
    question = ask(model, Residual.layers)
    found = fused(GradCamMethod().attribute(question).maps, SIZE)
    with peer.GradCAM(model=module, target_layers=list(module.taps)) as explain:  # type: ignore[call-overload]
        wanted = explain(
            input_tensor=model.encode(question.images).contiguous(),
            targets=[lambda scores, number=number: 1000 * scores[number] for number in CLASSES],
        )
    assert tuple(found.shape) == (3, *SIZE)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-5)
    by_recipe = methods()["fused"]()
    assert (by_recipe.reads_layers, by_recipe.fine, by_recipe.label) == (True, False, "Grad-CAM fused")
    torch.testing.assert_close(by_recipe.attribute(question).maps[0], found, rtol=0, atol=0)


def test_only_maps_of_layers_that_are_never_negative_are_fused() -> None:
    kind = methods()["fused"]
    assert kind(of="layer_cam").label == "LayerCAM fused"  # type: ignore[call-arg]
    for name in ("gradient", "guided_grad_cam", "lrp_layers", "fused", "layercam"):
        with pytest.raises(ValidationError, match="makes no maps of layers"):
            kind(of=name)  # type: ignore[call-arg]


def test_blank_maps_add_nothing_where_maps_are_fused() -> None:
    ramp = torch.arange(6.0).reshape(1, 2, 3)
    same = torch.full((1, 4, 4), 7.0)
    torch.testing.assert_close(fused([ramp, same], (4, 6)), fused([100 * ramp], (4, 6)))
    assert float(fused([same, torch.zeros(1, 2, 2)], (4, 6)).abs().max()) == 0
    torch.testing.assert_close(fused([ramp], (2, 3)), ramp / 5)
    assert upsample(ramp, (4, 6)).shape == (1, 4, 6)


# --- a real model ---------------------------------------------------------------------------------------------------


@pytest.mark.zoo
@pytest.mark.parametrize("name", PEERS)
def test_equal_to_pytorch_grad_cam_on_resnet20(peer: types.ModuleType, zoo: Path, shared_data: Path, name: str) -> None:
    """Scaled to 0..1 alone, so that the colour that the network sees as zeros is the peer's, black."""
    file = zoo / "onnx" / "cifar10_resnet20_dynamo20.onnx"
    model = onnxviz.load(file, preprocess={"mean": 0, "scale": 255}, device="cpu")
    source = ImageFolder.find("photos", ["*/*.jpg"], shared_data / "cifar10_test", limit=3)
    images = torch.from_numpy(load_batch(source, range(3), model.preprocessing, model.input_size))
    names = ("Conv[0]:act", "Conv[9]:act", "Conv[-1]:act")
    question = ask(model, names, images)
    found = methods()[name]().attribute(question)  # type: ignore[call-arg]
    network = Tapped(model.differentiable([*question.layers, model.view.logits]), len(names))
    for ours, theirs in zip(found.maps, peer_maps(peer, PEERS[name], network, images), strict=True):
        theirs = turned(theirs, ours) if name == "eigen_cam" else theirs
        assert apart(ours, np.maximum(theirs, 0)) < 1e-5
