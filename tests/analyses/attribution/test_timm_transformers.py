"""Vision transformers as timm makes them and PyTorch's exporters write them, against their own PyTorch modules."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import onnxviz
from onnxviz.analyses.attribution.methods.attention import AttentionRollout, LeGrad
from onnxviz.analyses.attribution.methods.cam import HiResCam
from onnxviz.analyses.attribution.methods.relevance import AttnLrp
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.relevance import rules
from onnxviz.analyses.attribution.relevance.propagation import Propagation, Rules
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.errors import AnalysisError
from onnxviz.core.values import PRESETS
from onnxviz.graph.targets import resolve_head

SIDE, GRID, TARGET = 32, (4, 4), 1
UNIT = dataclasses.replace(PRESETS["unit"], fit="none")
SMALL: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 8,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "num_classes": 5,
}
KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 4},
    "all patches": {"class_token": False, "global_pool": "avg"},
    "patches beside registers": {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
}
READ = {
    "class token": "to the class token, which alone",
    "registers": "to the class token, which alone",
    "all patches": "to all 16 tokens",
    "patches beside registers": "to those tokens that the score is read from",
}
ROUNDING = 5e-4
"""What single precision may differ from double, of evidence of both signs."""
BOTH = pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])


def made(model: str, options: dict[str, Any]) -> nn.Module:
    from benchmarks import architectures

    if "timm" not in architectures.libraries():
        pytest.skip("timm cannot be imported: install the extra sweep")
    network, _ = architectures.make(architectures.Architecture("timm", model, SIDE, options))
    for name, parameter in network.named_parameters():
        if name.endswith("qkv.weight"):
            parameter.mul_(4)  # so that attention is not the same everywhere
    return network


def asked(network: nn.Module, exporter: str, path: Path, layers: tuple[str, ...] = ()) -> Question:
    from benchmarks import architectures

    architectures.export(network, images(), exporter, path, dynamic=True)
    model = onnxviz.Model(onnxviz.open_model(path), UNIT, device="cpu")
    target = ClassTarget(resolve_head(model.view, None, None), TARGET)
    chosen = [model.view.layer(name) for name in layers]
    return ForwardPass(model, images(), chosen, target.layers, to_input=False).ask([target] * len(images()))


def images() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def attention_and_slopes(network: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return each block's attention, and the slope there of the score that the head gives the tokens behind the block.

    Attention is written out, not fused, and taken where timm drops it out.
    """
    network = network.double()
    found: list[torch.Tensor] = []
    for block in network.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _module, _given, result: found.append(result))
    tokens = network._pos_embed(network.patch_embed(images().double().requires_grad_()))
    slopes = []
    for block in network.blocks:
        tokens = block(network.norm_pre(tokens))
        score = network.forward_head(network.norm(tokens))[:, TARGET].sum()
        slopes.append(torch.autograd.grad(score, found[-1], retain_graph=True)[0])
    return [each.detach() for each in found], slopes


def on_patches(values: torch.Tensor) -> torch.Tensor:
    return values[:, values.shape[1] - GRID[0] * GRID[1] :].reshape(-1, *GRID)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_rollout_and_legrad_are_those_of_hooked_attention(kind: str, exporter: str, tmp_path: Path) -> None:
    network = made("vit_tiny_patch16_224", {**SMALL, **KINDS[kind]})
    question = asked(network, exporter, tmp_path / "network.onnx")
    rolled, sensitive = AttentionRollout().attribute(question), LeGrad().attribute(question)
    attention, slopes = attention_and_slopes(network)
    length = attention[0].shape[-1]
    product = torch.eye(length, dtype=torch.float64).expand(len(images()), -1, -1)
    for each in attention:
        product = (each.mean(1) + torch.eye(length)) / 2 @ product
    patches = length - GRID[0] * GRID[1]
    rows = product[:, :1] if "class_token" not in KINDS[kind] else product[:, patches:]
    torch.testing.assert_close(rolled.maps[0].double(), on_patches(rows.mean(1)), rtol=1e-4, atol=1e-7)
    assert READ[kind] in rolled.said
    wanted = on_patches(sum(each.clamp(min=0).mean(dim=(1, 2)) for each in slopes) / len(slopes))
    assert float((sensitive.maps[0] - wanted).abs().max() / wanted.max()) <= 1e-5


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_relevance_is_the_modules(kind: str, exporter: str, tmp_path: Path) -> None:
    """Through fused attention and both exporters' forms of it; no operator lacks a rule."""
    network = made("vit_tiny_patch16_224", {**SMALL, **KINDS[kind]})
    question = asked(network, exporter, tmp_path / "network.onnx")
    found = AttnLrp(gamma_convolutions=0, gamma_dense=0).attribute(question)
    given = images().double().requires_grad_()
    with Propagation(Rules(rules.Epsilon(), rules.Epsilon())):
        (wanted,) = torch.autograd.grad(network.double()(given)[:, TARGET].sum(), given)
    assert float((found.maps[0] - wanted.sum(1)).abs().max() / wanted.sum(1).abs().max()) <= ROUNDING
    assert "want of a rule" not in found.said


@BOTH
@pytest.mark.parametrize("kind", ["class token", "registers"])
def test_maps_of_tokens_are_those_of_the_patches(kind: str, exporter: str, tmp_path: Path) -> None:
    """Of the first block, without the class token and the registers in front."""
    network: Any = made("vit_tiny_patch16_224", {**SMALL, **KINDS[kind]})
    (found,) = HiResCam().attribute(asked(network, exporter, tmp_path / "network.onnx", ("blocks.0",))).maps
    kept: list[torch.Tensor] = []
    network.blocks[0].register_forward_hook(lambda _module, _given, result: kept.append(result))
    scores = network.double()(images().double().requires_grad_())
    (slope,) = torch.autograd.grad(scores[:, TARGET].sum(), kept[0])
    wanted = on_patches((slope * kept[0]).sum(2).relu().detach())
    assert float((found - wanted).abs().max() / wanted.max()) <= ROUNDING


@BOTH
def test_windows_have_no_attention_to_follow_and_relevance_of_the_module(exporter: str, tmp_path: Path) -> None:
    options = {"img_size": SIDE, "patch_size": 4, "window_size": 4, "embed_dim": 24, "depths": (2, 2),
               "num_heads": (2, 4), "num_classes": 5}  # fmt: skip
    network = made("swin_tiny_patch4_window7_224", options)
    question = asked(network, exporter, tmp_path / "network.onnx")
    for method in (AttentionRollout(), LeGrad()):
        with pytest.raises(AnalysisError, match="not known to go from all tokens of the image to the same"):
            method.attribute(question)
    found = AttnLrp(gamma_convolutions=0, gamma_dense=0).attribute(question)
    given = images().double().requires_grad_()
    with Propagation(Rules(rules.Epsilon(), rules.Epsilon())):
        (wanted,) = torch.autograd.grad(network.double()(given)[:, TARGET].sum(), given)
    assert float((found.maps[0] - wanted.sum(1)).abs().max() / wanted.sum(1).abs().max()) <= ROUNDING
    assert "want of a rule" not in found.said
