"""Attention rollout and LeGrad against loops in double precision, and the networks that have no such maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import onnxviz
from onnxviz.analyses.attribution.attention_maps import attention_maps
from onnxviz.analyses.attribution.methods.attention import AttentionRollout, LeGrad
from onnxviz.core.errors import AnalysisError
from tests.analyses.attribution.transformers import GRID, TARGET, Block, Transformer, ask, exported, images


def rollout_by_hand(module: Transformer, given: torch.Tensor) -> torch.Tensor:
    """The rollout to each patch: an entry at a time."""
    _, attentions, _ = module.double().steps(given.double())
    length = attentions[0].shape[-1]
    maps = torch.zeros(len(given), length, dtype=torch.float64)
    for image in range(len(given)):
        rolled = torch.eye(length, dtype=torch.float64)
        for attention in attentions:
            mixed = torch.zeros(length, length, dtype=torch.float64)
            for head in attention[image]:
                mixed += head / len(attention[image])
            mixed = 0.5 * mixed + 0.5 * torch.eye(length)
            rolled = mixed @ (rolled / rolled.sum(1, keepdim=True))
        maps[image] = rolled[0] if module.class_token is not None else rolled.mean(0)
    return maps[:, length - GRID[0] * GRID[1] :].reshape(-1, *GRID)


def legrad_by_hand(module: Transformer, given: torch.Tensor, number: int) -> torch.Tensor:
    """Positive gradients of each block's own score by its attention, through the block written out again."""
    module = module.double()
    maps = torch.zeros(len(given), *GRID, dtype=torch.float64)
    _, _, results = module.steps(given.double())
    tokens = module.embed(given.double()).flatten(2).transpose(1, 2)
    if module.class_token is not None:
        tokens = torch.cat((module.class_token.expand(len(tokens), -1, -1), tokens), 1)
    inputs = [tokens + module.places, *results[:-1]]
    for block, before in zip(module.blocks, inputs, strict=True):
        assert isinstance(block, Block)
        count, length, width = before.shape
        parts = block.project(block.before_attention(before)).reshape(count, length, 3, 3, width // 3)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-2, -1) / (width // 3) ** 0.5).softmax(-1).requires_grad_()
        behind = before + block.join((attention @ value).transpose(1, 2).reshape(count, length, width))
        behind = behind + block.narrow(nn.functional.gelu(block.widen(block.before_perceptron(behind))))
        (slope,) = torch.autograd.grad(module.decide(behind)[:, number].sum(), attention)
        raised = slope.relu().sum(dim=(1, 2)) / (3 * length) / len(module.blocks)
        maps += raised[:, length - GRID[0] * GRID[1] :].reshape(-1, *GRID)
    return maps


@pytest.mark.parametrize("with_class_token", [True, False])
def test_rollout_is_the_product_of_the_blocks_attention(with_class_token: bool, tmp_path: Path) -> None:
    module = Transformer(with_class_token=with_class_token)
    model = exported(module, tmp_path / "network.onnx")
    found = AttentionRollout().attribute(ask(model, images()))
    wanted = rollout_by_hand(module, images())
    assert found.maps[0].shape == (2, *GRID)
    torch.testing.assert_close(found.maps[0].double(), wanted, rtol=1e-5, atol=1e-7)
    assert ("to the class token" in found.said) == with_class_token
    assert ("all 12 tokens" in found.said) != with_class_token
    other = AttentionRollout().attribute(ask(model, images(), number=0))
    assert torch.equal(found.maps[0], other.maps[0])  # it knows no classes, and says so


@pytest.mark.parametrize("with_class_token", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
def test_legrad_is_the_positive_gradient_of_each_blocks_own_score(
    with_class_token: bool, opset: int, tmp_path: Path
) -> None:
    """Also with normalisation in parts, as opsets before 17 write it."""
    module = Transformer(with_class_token=with_class_token)
    model = exported(module, tmp_path / "network.onnx", opset_version=opset)
    for number in (TARGET, 0):
        found = LeGrad().attribute(ask(model, images(), number)).maps[0].double()
        wanted = legrad_by_hand(module, images(), number)
        assert float((found - wanted).abs().max() / wanted.max()) <= 1e-5


def test_an_images_map_does_not_depend_on_the_others(tmp_path: Path) -> None:
    model = exported(Transformer(with_class_token=True), tmp_path / "network.onnx")
    for method in (AttentionRollout(), LeGrad()):
        (together,) = method.attribute(ask(model, images(3))).maps
        for place in range(3):
            (alone,) = method.attribute(ask(model, images(3)[place : place + 1])).maps
            torch.testing.assert_close(alone[0], together[place], rtol=1e-5, atol=1e-7)


def test_a_network_that_takes_so_many_images(tmp_path: Path) -> None:
    module = Transformer(with_class_token=True)
    path = tmp_path / "network.onnx"
    torch.onnx.export(module, (images(2),), path, dynamo=False, input_names=["x"])
    free = exported(module, tmp_path / "free.onnx")
    fixed = onnxviz.Model(onnxviz.open_model(path), free.preprocessing, device="cpu")
    for method in (AttentionRollout(), LeGrad()):
        pair = [method.attribute(ask(model, images(2))).maps[0] for model in (fixed, free)]
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-7)


class Convolutional(nn.Module):
    """A network without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.decide = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return scores."""
        result: torch.Tensor = self.decide(self.convolve(given).relu().mean((2, 3)))
        return result


class Windowed(nn.Module):
    """A network that attends within windows of the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.decide = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 3)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return scores of patches in windows of 2 by 2."""
        found = self.embed(given)
        count, width, rows, columns = found.shape
        cut = found.reshape(count, width, rows // 2, 2, columns // 2, 2).permute(0, 2, 4, 3, 5, 1)
        tokens = cut.reshape(-1, 1, 4, width)
        tokens = (tokens @ tokens.transpose(-2, -1)).softmax(-1) @ tokens
        result: torch.Tensor = self.decide(tokens.reshape(count, -1, width).mean(1))
        return result


class Halved(nn.Module):
    """A network that attends over one grid, and then over a coarser one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.reduce, self.decide = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 2, 2), nn.Linear(8, 3)

    def attend(self, found: torch.Tensor) -> torch.Tensor:
        """Return a map of which each place attends to all."""
        tokens = found.flatten(2).transpose(1, 2).unsqueeze(1)
        tokens = tokens + (tokens @ tokens.transpose(-2, -1)).softmax(-1) @ tokens
        return tokens.squeeze(1).transpose(1, 2).reshape(found.shape)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return scores."""
        result: torch.Tensor = self.decide(self.attend(self.reduce(self.attend(self.embed(given)))).mean((2, 3)))
        return result


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Convolutional, "no attention"),
        (Windowed, "not known to go from all tokens of the image to the same"),
        (Halved, "no one grid|not known to go from all tokens"),
    ],
)
def test_what_has_no_maps_over_one_grid_is_refused_with_the_reason(
    make: Callable[[], nn.Module], why: str, tmp_path: Path
) -> None:
    model = exported(make().eval().requires_grad_(False), tmp_path / "network.onnx")
    for method in (AttentionRollout(), LeGrad()):
        with pytest.raises(AnalysisError, match=why):
            method.attribute(ask(model, images(1)))


def test_a_softmax_of_classes_is_no_attention(tmp_path: Path) -> None:
    module = nn.Sequential(Transformer(with_class_token=True), nn.Softmax(-1)).eval().requires_grad_(False)
    model = exported(module, tmp_path / "network.onnx")
    maps = attention_maps(model.view, model.view.layers[-1])
    assert [layer.operator for layer in maps.layers] == ["Softmax"] * 2
    assert all(layer.shape[1:] == (3, 13, 13) for layer in maps.layers)


@pytest.mark.zoo
def test_the_patches_of_a_trained_transformer(zoo: Path, shared_data: Path) -> None:
    """Two by two patches, a class token that is pooled with the rest."""
    known = {"preset": "imagenet", "fit": "stretch"}
    model = onnxviz.load(zoo / "onnx" / "vnn_vit_cifar10_pgd_2_3_16.onnx", preprocess=known, device="cpu")
    files = sorted((shared_data / "cifar10_test").glob("*/*"))[:4]
    question = ask(model, model.prepare(files))
    rolled, sensitive = AttentionRollout().attribute(question), LeGrad().attribute(question)
    assert rolled.maps[0].shape == sensitive.maps[0].shape == (4, 2, 2)
    assert "all 5 tokens" in rolled.said
    # What the class token is attended to is missing from the whole.
    assert bool((rolled.maps[0].sum((1, 2)) < 1).all())
    assert bool((rolled.maps[0].sum((1, 2)) > 0.5).all())
    assert bool((sensitive.maps[0] >= 0).all())
    assert float(sensitive.maps[0].amax()) > 0
