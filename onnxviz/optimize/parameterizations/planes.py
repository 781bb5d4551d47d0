"""Planes and colours: independent numbers on a grid become red, green and blue in 0..1, and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxviz.core.values import LUMA
from onnxviz.optimize.color import correlate, decorrelated, matrix_on

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from onnxviz.optimize.parameterizations.base import Canvas

_EDGE = 0.01
"""How near to black and white a picture to start from may be: beyond, a sigmoid hardly moves."""


def to_colors(planes: Tensor, canvas: Canvas, decorrelate: bool) -> Tensor:
    """Turn planes into images.

    Args:
        planes: [N, channels, h, w], any unit.
        canvas: its colours are those of the images.
        decorrelate: whether planes are independent, so that colours are made of them by the canvas' matrix.

    Returns:
        [N, samples, h, w] in 0..1; one channel is repeated for all three of a grey photograph.
    """
    if planes.shape[1] == 1:
        return planes.sigmoid().expand(-1, canvas.samples, -1, -1)
    return (correlate(planes, canvas.colors) if decorrelate and canvas.colored else planes).sigmoid()


def to_planes(pictures: Tensor, canvas: Canvas, decorrelate: bool) -> Tensor:
    """Return the planes whose images are given pictures: the inverse of `to_colors`.

    Args:
        pictures: RGB [N, 3, h, w] in 0..1; brought to 0.01..0.99.
        canvas: its colours are those of the images.
        decorrelate: as for `to_colors`.

    Returns:
        [N, channels, h, w].
    """
    if canvas.channels == 1 and canvas.samples == 3:
        return grey(pictures).clamp(_EDGE, 1 - _EDGE).logit()
    planes = pictures.clamp(_EDGE, 1 - _EDGE).logit()
    return decorrelated(planes, canvas.colors) if decorrelate and canvas.colored else planes


def colors_on(canvas: Canvas) -> Tensor:
    """Return the [3, 3] that makes colours of decorrelated planes: the canvas' own, or that of photographs."""
    return matrix_on(canvas.device) if canvas.colors is None else canvas.colors


def grey(pictures: Tensor) -> Tensor:
    """Return the brightness of pictures: RGB [N, 3, h, w] to [N, 1, h, w]."""
    return (pictures * _luma_on(pictures.device)).sum(dim=1, keepdim=True)


@functools.lru_cache(maxsize=8)
def _luma_on(device: torch.device) -> Tensor:
    """Keep the weights on the device: copying them there would make every step wait for the device."""
    import torch

    return torch.tensor(LUMA, device=device).view(1, 3, 1, 1)


class PlanePainter:
    """Makes images of planes that are linear in the parameters; a painter as `base.Painter` describes it.

    Args:
        canvas: what is painted on.
        decorrelate: whether the planes are independent of each other, see `to_colors`.
        deviation: standard deviation of the start parameters.
        shape: of one image's parameters.
    """

    rate: float = 1.0

    def __init__(self, canvas: Canvas, decorrelate: bool, deviation: float, shape: tuple[int, ...]) -> None:
        self.canvas, self.decorrelate, self.deviation, self.shape = canvas, decorrelate, deviation, shape

    def planes(self, parameters: Tensor) -> Tensor:
        """Return the planes [N, channels, h, w] of parameters [N, *shape]."""
        raise NotImplementedError(type(self).__name__)

    def solve(self, planes: Tensor) -> Tensor:
        """Return parameters [N, *shape] whose planes are those given, [N, channels, h, w]."""
        raise NotImplementedError(type(self).__name__)

    def colors(self, planes: Tensor) -> Tensor:
        """Return the images [N, 3, h, w] of planes [N, channels, h, w]."""
        return to_colors(planes, self.canvas, self.decorrelate)

    def planes_of(self, pictures: Tensor) -> Tensor:
        """Return the planes whose images are given pictures: the inverse of `colors`."""
        return to_planes(pictures, self.canvas, self.decorrelate)

    def start(self, draws: Sequence[torch.Generator], pictures: Tensor | None) -> Tensor:
        """Draw the parameters from a normal distribution, or take those of pictures."""
        if pictures is not None:
            return self.solve(self.planes_of(pictures)).contiguous()
        return normal(self.shape, draws, self.canvas.device) * self.deviation

    def paint(self, parameters: Tensor) -> Tensor:
        """Return the images."""
        return row_by_row(lambda rows: self.colors(self.planes(rows)), parameters)

    def penalty(self, parameters: Tensor) -> Tensor | None:  # noqa: ARG002 - none is less likely
        """Return nothing."""
        return None

    def keep(self, parameters: Tensor) -> Tensor:
        """Return the parameters as they are."""
        return parameters


def row_by_row(make: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Make something of each row, on a CPU one after the other.

    There, sigmoids and products of matrices have other last bits at another place in memory, so a picture would be
    another one in a batch than alone. It costs next to nothing: a CPU is no faster with many at once.
    """
    import torch

    if rows.device.type != "cpu" or len(rows) == 1:
        return make(rows)
    return torch.cat([make(row.clone()) for row in torch.split(rows, 1)])


def normal(shape: tuple[int, ...], draws: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Draw from a normal distribution, each row by its own generator on the CPU, so that a batch changes nothing.

    Returns:
        float32 [len(draws), *shape].
    """
    import torch

    return torch.stack([torch.randn(shape, generator=generator) for generator in draws]).to(device)


def unpack(parameters: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Take flat parameters apart: [rows, Σ sizes] to [rows, *shape] for each shape, one after the other."""
    import torch

    parts = torch.split(parameters, [math.prod(shape) for shape in shapes], dim=1)
    return [part.reshape(len(parameters), *shape) for part, shape in zip(parts, shapes, strict=True)]


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Put parameters together: the inverse of `unpack`."""
    import torch

    return torch.cat([part.flatten(1) for part in parts], dim=1)
