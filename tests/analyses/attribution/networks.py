"""Small PyTorch networks whose layers are modules, and their ONNX exports, for equality with other packages."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import onnxviz

SIZE = (16, 24)
CLASSES = 5


class Residual(nn.Module):
    """Convolutions with a residual sum; one ReLU serves all, and each rectified map passes through a tap."""

    layers = ("Relu[0]", "Relu[2]", "Relu[3]")

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.one, self.two = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, CLASSES)
        self.relu = nn.ReLU()
        self.taps = nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.taps[0](self.relu(self.stem(image)))
        second = self.taps[1](self.relu(self.two(self.relu(self.one(first))) + first))
        return self.head(self.taps[2](self.relu(self.last(second))).mean((2, 3)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.tap = nn.Identity()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        count, length, width = tokens.shape
        split = self.qkv(self.tap(self.norm1(tokens))).reshape(count, length, 3, self.heads, width // self.heads)
        mixed = functional.scaled_dot_product_attention(*split.permute(2, 0, 3, 1, 4).unbind(0))
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(count, length, width))
        return tokens + self.down(functional.gelu(self.up(self.norm2(tokens))))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """A vision transformer: 4 x 6 patches and a class token, which is all that the head reads."""

    layers = ("blocks.0", "blocks.1.norm1", "blocks.1")
    grid = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        width = 16
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(0.3 * torch.randn(1, 25, width))
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.taps = nn.ModuleList([nn.Identity(), self.blocks[1].tap, nn.Identity()])  # type: ignore[list-item]
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(patches.shape[0], -1, -1), patches], dim=1) + self.places
        for block, tap in zip(self.blocks, self.taps[::2], strict=True):
            tokens = tap(block(tokens))
        return self.head(self.norm(tokens)[:, 0])  # type: ignore[no-any-return]


def exported(network: type[nn.Module], folder: Path) -> tuple[nn.Module, onnxviz.Model]:
    """Return a network with random weights, and the model of its ONNX export."""
    torch.manual_seed(0)
    module, path = network().eval(), folder / f"{network.__name__}.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        module, (torch.rand(2, 3, *SIZE),), path, dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    return module, onnxviz.load(path, preprocess={"mean": [120, 110, 100], "scale": 60, "fit": "none"}, device="cpu")
