"""AttnLRP against its formulas written out in double precision: relevance in, relevance out, no derivatives.

The formulas stabilise in other places than the rules do: so much may differ, and no more.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from onnxviz.analyses.attribution.methods.relevance import AttnLrp
from onnxviz.analyses.attribution.relevance import rules
from onnxviz.analyses.attribution.relevance.propagation import Propagation, Rules
from tests.analyses.attribution.transformers import (
    HEADS,
    PATCH,
    TARGET,
    WIDTH,
    Block,
    Transformer,
    ask,
    exported,
    images,
)

SMALL = 1e-6


def stable(values: torch.Tensor) -> torch.Tensor:
    return values + SMALL * torch.where(values >= 0, 1.0, -1.0)


def of_linear(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, relevance: torch.Tensor, gamma: float
) -> torch.Tensor:
    """The gamma rule of a dense layer for values of either sign, a contribution at a time."""
    result = values @ weight.T + bias
    parts = values.unsqueeze(-2) * weight  # [..., outputs, inputs]
    agree = (parts > 0) == (result > 0).unsqueeze(-1)
    parts = parts * torch.where(agree, 1 + gamma, 1.0)
    bias = bias * torch.where((bias > 0) == (result > 0), 1 + gamma, 1.0)
    return (parts * (relevance / stable(parts.sum(-1) + bias)).unsqueeze(-1)).sum(-2)


def of_normalisation(
    values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, relevance: torch.Tensor
) -> torch.Tensor:
    """Identity for the division and the weight, epsilon for the bias and the mean (section 3.3.4 of the paper)."""
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (values.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * weight
    relevance = relevance * scaled / (scaled + bias)
    shared = relevance / centred
    return values * shared - values / values.shape[-1] * shared.sum(-1, keepdim=True)


def of_product(first: torch.Tensor, second: torch.Tensor, relevance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Proposition 3.3: R_ji = sum_p A_ji V_ip R_jp / 2 O_jp, and likewise of V."""
    shared = relevance / (2 * (first @ second))
    return first * (shared @ second.transpose(-2, -1)), second * (first.transpose(-2, -1) @ shared)


def of_block(block: Block, tokens: torch.Tensor, relevance: torch.Tensor, gamma: float) -> torch.Tensor:
    """Relevance through a block, from behind it to before it."""
    count, length, _ = tokens.shape
    size = WIDTH // HEADS
    normal = block.before_attention(tokens)
    parts = block.project(normal).reshape(count, length, 3, HEADS, size)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / math.sqrt(size)
    attention = scores.softmax(-1)
    joined = (attention @ value).transpose(1, 2).reshape(count, length, WIDTH)
    change = block.join(joined)
    middle = tokens + change
    wide = block.widen(block.before_perceptron(middle))
    narrow = block.narrow(functional.gelu(wide))
    # the perceptron
    shared = relevance / stable(middle + narrow)
    inner = of_linear(functional.gelu(wide), block.narrow.weight, block.narrow.bias, narrow * shared, gamma)
    inner = of_linear(block.before_perceptron(middle), block.widen.weight, block.widen.bias, inner, gamma)
    norm = block.before_perceptron
    relevance = middle * shared + of_normalisation(middle, norm.weight, norm.bias, inner)
    # the attention
    shared = relevance / stable(tokens + change)
    inner = of_linear(joined, block.join.weight, block.join.bias, change * shared, gamma)
    inner = inner.reshape(count, length, HEADS, size).transpose(1, 2)
    of_attention, of_value = of_product(attention, value, inner)
    of_scores = scores * (of_attention - attention * of_attention.sum(-1, keepdim=True))  # proposition 3.1
    of_query, of_key = of_product(query, key.transpose(-2, -1), of_scores)
    packed = (
        torch.stack((of_query, of_key.transpose(-2, -1), of_value)).permute(1, 3, 0, 2, 4).reshape(count, length, -1)
    )
    inner = of_linear(normal, block.project.weight, block.project.bias, packed, gamma)
    norm = block.before_attention
    return tokens * shared + of_normalisation(tokens, norm.weight, norm.bias, inner)


def by_hand(module: Transformer, given: torch.Tensor, gamma_patches: float, gamma: float) -> torch.Tensor:
    """Relevance of each pixel, [N, height, width]."""
    module, given = module.double(), given.double()
    _, _, results = module.steps(given)
    patches = functional.unfold(given, PATCH, stride=PATCH).transpose(1, 2)
    weight = module.embed.weight.reshape(WIDTH, -1)
    embedded = patches @ weight.T + module.embed.bias
    extra = 0 if module.class_token is None else 1
    tokens = embedded
    if module.class_token is not None:
        tokens = torch.cat((module.class_token.expand(len(given), -1, -1), tokens), 1)
    tokens = tokens + module.places
    before = [tokens, *results]
    normal = module.normalise(before[-1])
    read = normal.mean(1) if module.class_token is None else normal[:, 0]
    scores = module.head(read)
    relevance = torch.zeros_like(scores)
    relevance[:, TARGET] = scores[:, TARGET]
    inner = of_linear(read, module.head.weight, module.head.bias, relevance, gamma)
    spread = torch.zeros_like(normal)
    if module.class_token is None:
        spread = normal / normal.shape[1] * (inner / stable(read)).unsqueeze(1)
    else:
        spread[:, 0] = inner
    relevance = of_normalisation(before[-1], module.normalise.weight, module.normalise.bias, spread)
    for block, values in zip(reversed(list(module.blocks)), reversed(before[:-1]), strict=True):
        assert isinstance(block, Block)
        relevance = of_block(block, values, relevance, gamma)
    relevance = (relevance * (tokens - module.places) / tokens)[:, extra:]
    pixels = of_linear(patches, weight, module.embed.bias, relevance, gamma_patches)
    return functional.fold(pixels.transpose(1, 2), given.shape[2:], PATCH, stride=PATCH).sum(1)


def rules_of(gammas: tuple[float, float]) -> Rules:
    return Rules(*(rules.Gamma(gamma) if gamma else rules.Epsilon() for gamma in gammas))


@pytest.mark.parametrize("with_class_token", [True, False])
@pytest.mark.parametrize("gammas", [(0.0, 0.0), (0.25, 0.05)])
def test_relevance_is_the_formulas(with_class_token: bool, gammas: tuple[float, float]) -> None:
    module = Transformer(with_class_token=with_class_token).double()
    wanted = by_hand(module, images(), *gammas)
    given = images().double().requires_grad_()
    with Propagation(rules_of(gammas)):
        (found,) = torch.autograd.grad(module(given)[:, TARGET].sum(), given)
    assert float((found.sum(1) - wanted).abs().max() / wanted.abs().max()) <= 1e-4


@pytest.mark.parametrize("with_class_token", [True, False])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize(("gammas", "most"), [((0.0, 0.0), 1e-5), ((0.25, 0.05), 1e-3)])
def test_relevance_through_an_onnx_export(
    with_class_token: bool, opset: int, gammas: tuple[float, float], most: float, tmp_path: Path
) -> None:
    """Fused attention, and normalisation in parts, as opsets before 17 write it.

    Gamma's denominators are sums of both signs here, some near zero: single precision has fewer digits of them.
    """
    module = Transformer(with_class_token=with_class_token)
    model = exported(module, tmp_path / "network.onnx", opset_version=opset)
    found = AttnLrp(gamma_convolutions=gammas[0], gamma_dense=gammas[1]).attribute(ask(model, images()))
    module, given = module.double(), images().double().requires_grad_()
    with Propagation(rules_of(gammas)):
        wanted = torch.autograd.grad(module(given)[:, TARGET].sum(), given)[0].sum(1)
    assert float((found.maps[0] - wanted).abs().max() / wanted.abs().max()) <= most
    assert "want of a rule" not in found.said
    # What is lacking is what biases, places and the class token keep, and half of what goes to attention.
    scores = module(given)[:, TARGET]
    error = (wanted.sum((1, 2)) - scores).abs() / scores.abs()
    assert found.facts["completeness error"].tolist() == pytest.approx(error.tolist(), rel=10 * most)
