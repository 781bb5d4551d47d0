"""Planes and colours: independent numbers on a grid become red, green and blue in 0..1, and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import LUMA
from onnxviz.optimize.color import correlate, decorrelated, matrix_on
from onnxviz.optimize.parameterizations.base import Canvas, Painter

_EDGE = 0.01
"""How near to black and white a picture to start from may be: beyond, a sigmoid hardly moves."""


def to_colors(planes: torch.Tensor, canvas: Canvas, decorrelate: bool) -> torch.Tensor:
    """Turn planes [N, channels, h, w] into images [N, samples, h, w] in 0..1; one channel stands for all of a photo.

    With `decorrelate`, planes are independent, and the canvas' matrix makes colours of them.
    """
    if planes.shape[1] == 1:
        return planes.sigmoid().expand(-1, canvas.samples, -1, -1)
    return (correlate(planes, canvas.colors) if decorrelate and canvas.colored else planes).sigmoid()


def to_planes(pictures: torch.Tensor, canvas: Canvas, decorrelate: bool) -> torch.Tensor:
    """Return the planes whose images are given pictures, brought to 0.01..0.99: the inverse of `to_colors`."""
    if canvas.channels == 1 and canvas.samples == 3:
        return grey(pictures).clamp(_EDGE, 1 - _EDGE).logit()
    planes = pictures.clamp(_EDGE, 1 - _EDGE).logit()
    return decorrelated(planes, canvas.colors) if decorrelate and canvas.colored else planes


def colors_on(canvas: Canvas) -> torch.Tensor:
    """Return the [3, 3] that makes colours of decorrelated planes: the canvas' own, or that of photographs."""
    return matrix_on(canvas.device) if canvas.colors is None else canvas.colors


def grey(pictures: torch.Tensor) -> torch.Tensor:
    """Return the brightness of pictures: RGB [N, 3, h, w] to [N, 1, h, w]."""
    return (pictures * _luma_on(pictures.device)).sum(dim=1, keepdim=True)


@functools.lru_cache(maxsize=8)
def _luma_on(device: torch.device) -> torch.Tensor:
    """Keep the weights on the device: copying them there would make every step wait for the device."""
    return torch.tensor(LUMA, device=device).view(1, 3, 1, 1)


class PlanePainter(Painter):
    """Makes images of planes that are linear in the parameters.

    `deviation` is the standard deviation of the start parameters, `shape` that of one image's parameters.
    """

    def __init__(self, canvas: Canvas, decorrelate: bool, deviation: float, shape: tuple[int, ...]) -> None:
        self.canvas, self.decorrelate, self.deviation, self.shape = canvas, decorrelate, deviation, shape

    def planes(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the planes [N, channels, h, w] of parameters [N, *shape]."""
        raise NotImplementedError(type(self).__name__)

    def solve(self, planes: torch.Tensor) -> torch.Tensor:
        """Return parameters [N, *shape] whose planes are those given, [N, channels, h, w]."""
        raise NotImplementedError(type(self).__name__)

    def colors(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the images [N, 3, h, w] of planes [N, channels, h, w]."""
        return to_colors(planes, self.canvas, self.decorrelate)

    def planes_of(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return the planes whose images are given pictures: the inverse of `colors`."""
        return to_planes(pictures, self.canvas, self.decorrelate)

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        if pictures is not None:
            return self.solve(self.planes_of(pictures)).contiguous()
        return normal(self.shape, draws, self.canvas.device) * self.deviation

    def paint(self, parameters: torch.Tensor) -> torch.Tensor:
        return row_by_row(lambda rows: self.colors(self.planes(rows)), parameters)


class Enlarged:
    """Enlarges planes bilinearly from `low` to `size`, heights and widths in pixels, by two products of matrices.

    They have the same bits in every run, also backwards, where the usual bilinear resampling adds up in an order that a
    GPU does not keep. `offset` shifts down and to the right, in the pixels of `size`.
    """

    def __init__(
        self,
        low: tuple[int, int],
        size: tuple[int, int],
        device: torch.device,
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.low, self.size = low, size
        self._same = low == size and not any(offset)
        weights = [_bilinear_weights(*lengths) for lengths in zip(low, size, offset, strict=True)]
        # On the device from the start: copying them there would make every step wait for the device.
        self._rows = torch.from_numpy(weights[0]).to(device)
        self._columns = torch.from_numpy(weights[1]).to(device).T.contiguous()

    def __call__(self, planes: torch.Tensor) -> torch.Tensor:
        """Return planes [..., h, w] of planes [..., low h, low w]."""
        if self._same:
            return planes
        enlarged: torch.Tensor = self._rows @ (planes @ self._columns)
        return enlarged


def _bilinear_weights(low: int, size: int, offset: float = 0.0) -> np.ndarray:
    """Return the weights of bilinear enlarging along one direction, float32 [size, low], rows of sum 1.

    Pixels are compared at their centres, and the border goes on with its own value. What an offset draws in from before
    the first pixel is the mirror image (lucid `param/lowres.py`, `lowres_tensor`; it compares pixels at their corners,
    as TensorFlow 1 resized, which shifts small tensors by up to half a cell).
    """
    centres = np.abs(np.arange(size) + 0.5 - offset)
    places = np.clip(centres * low / size - 0.5, 0.0, low - 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(low)))
    return np.asarray(weights, dtype=np.float32)


def row_by_row(make: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Make something of each row, on a CPU one after the other.

    There, sigmoids and products of matrices have other last bits at another place in memory, so a picture would be
    another one in a batch than alone. It costs next to nothing: a CPU is no faster with many at once.
    """
    if rows.device.type != "cpu" or len(rows) == 1:
        return make(rows)
    return torch.cat([make(row.clone()) for row in torch.split(rows, 1)])


def normal(shape: tuple[int, ...], draws: Sequence[torch.Generator], device: torch.device) -> torch.Tensor:
    """Draw float32 [len(draws), *shape], each row by its own generator on the CPU, so that a batch changes nothing."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in draws]).to(device)


def unpack(parameters: torch.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """Take flat parameters apart: [rows, Σ sizes] to [rows, *shape] for each shape, one after the other."""
    parts = torch.split(parameters, [math.prod(shape) for shape in shapes], dim=1)
    return [part.reshape(len(parameters), *shape) for part, shape in zip(parts, shapes, strict=True)]


def pack(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Put parameters together: the inverse of `unpack`."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)
