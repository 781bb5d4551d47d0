"""A small vision transformer whose parts are written out, so that tests can compute what its methods give by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import onnxviz
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.values import PRESETS
from onnxviz.graph.targets import resolve_head

SIDE, PATCH, WIDTH, HEADS, CLASSES = (12, 16), 4, 12, 3, 5
GRID = (SIDE[0] // PATCH, SIDE[1] // PATCH)
TARGET = 2
UNIT = dataclasses.replace(PRESETS["unit"], fit="none")


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation and beside the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_perceptron = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens behind it, and the attention [N, heads, queries, keys]."""
        count, length, _ = tokens.shape
        parts = self.project(self.before_attention(tokens)).reshape(count, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attention = ((query @ key.transpose(-2, -1)) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        tokens = tokens + self.join((attention @ value).transpose(1, 2).reshape(count, length, WIDTH))
        return tokens + self.narrow(functional.gelu(self.widen(self.before_perceptron(tokens)))), attention


class Transformer(nn.Module):
    """Patches, a class token or none, blocks, and a head that reads the class token or the mean of all."""

    def __init__(self, *, with_class_token: bool, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        extra = int(with_class_token)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.3) if with_class_token else None
        self.places = nn.Parameter(torch.randn(1, GRID[0] * GRID[1] + extra, WIDTH) * 0.3)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.normalise, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.5)
            if isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1.0, 0.2)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.2)
        self.eval().requires_grad_(False)

    def decide(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the scores that the head gives tokens."""
        tokens = self.normalise(tokens)
        result: torch.Tensor = self.head(tokens.mean(1) if self.class_token is None else tokens[:, 0])
        return result

    def steps(self, given: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Return the scores, and of each block the attention and the tokens behind it."""
        tokens = self.embed(given).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat((self.class_token.expand(tokens.shape[0], -1, -1), tokens), 1)
        tokens = tokens + self.places
        attentions, results = [], []
        for block in self.blocks:
            tokens, attention = block(tokens)
            attentions.append(attention)
            results.append(tokens)
        return self.decide(tokens), attentions, results

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        return self.steps(given)[0]


def images(count: int = 2) -> torch.Tensor:
    """Random images, [N, 3, height, width] in 0..1."""
    return torch.rand(count, 3, *SIDE, generator=torch.Generator().manual_seed(7))


def exported(module: nn.Module, path: Path, **settings: Any) -> onnxviz.Model:
    """The model of a module's ONNX export, which takes images as they are."""
    torch.onnx.export(module, (images(),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}},
                      **settings)  # fmt: skip
    return onnxviz.Model(onnxviz.open_model(path), UNIT, device="cpu")


def ask(model: onnxviz.Model, given: torch.Tensor, number: int = TARGET) -> Question:
    """The question of where the evidence for a class lies."""
    target = ClassTarget(resolve_head(model.view, None, None), number)
    return ForwardPass(model, given, [], target.layers, to_input=False).ask([target] * len(given))
