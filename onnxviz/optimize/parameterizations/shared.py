"""Images of a group that share what they are made of, so that the same things stand in the same places.

Source: Mordvintsev, Pezzotti, Schubert and Olah 2018, "Differentiable Image Parameterizations", section
"Aligned Feature Visualization Interpolation".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, Painter, Parameterization
from onnxviz.optimize.parameterizations.fourier import Fourier
from onnxviz.optimize.parameterizations.laplacian import LaplacianPyramid
from onnxviz.optimize.parameterizations.pixel import Pixel
from onnxviz.optimize.parameterizations.planes import Enlarged, PlanePainter, normal, pack, row_by_row, unpack

Own = Annotated[Fourier | Pixel | LaplacianPyramid, Field(discriminator="kind")]
"""What an image can be written with inside another parameterization."""


class SharedTensor(BaseModel):
    """Numbers that all images of a group share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    divisor: int = Field(8, ge=1, le=256, description="One number stands for a square of this side, in pixels.")
    images: int = Field(
        1,
        ge=1,
        le=64,
        description="1: the same for the whole group; more: so many along the group, and images between them mix two.",
    )
    offset: float = Field(0.0, ge=0, lt=1, description="Shift down and to the right, as a share of the square's side.")


LUCID_TENSORS = (
    SharedTensor(divisor=2),
    SharedTensor(divisor=4),
    SharedTensor(divisor=8),
    SharedTensor(divisor=8, images=2),
    SharedTensor(divisor=16),
    SharedTensor(divisor=16, images=2),
)
"""As in lucid's `aligned_interpolation.ipynb`."""


class Shared(Parameterization):
    """Each image is a sum of its own part and of coarser parts that its group shares."""

    kind: Literal["shared"] = "shared"
    own: Own = Field(Fourier(), description="How each image's own part is written.")
    tensors: tuple[SharedTensor, ...] = Field(
        LUCID_TENSORS, min_length=1, max_length=32, description="What the group shares; added to the own parts."
    )
    deviation: float = Field(0.01, ge=0, description="Standard deviation of the shared numbers at the start.")

    def painter(self, canvas: Canvas) -> SharedPainter:
        return SharedPainter(self, canvas)


class SharedPainter(Painter):
    """Images of groups: own planes + Σ enlarged shared tensors (lucid `param/lowres.py`, `lowres_tensor`).

    Parameters are [groups, P]: the own parameters of all images of a group, then the shared tensors.
    """

    rate = 0.6
    """The shared tensors move together with the own part. With lucid's 1, pictures of two SqueezeNet channels and
    between had 1.35 times the contrast that they have alone; now 1.2 times, as well aligned."""

    def __init__(self, form: Shared, canvas: Canvas) -> None:
        self.form, self.canvas = form, canvas
        self._own: PlanePainter = form.own.painter(canvas)
        self._shapes: list[tuple[int, ...]] = [(canvas.group * math.prod(self._own.shape),)]
        self._enlarge, self._mix = [], []
        for tensor in form.tensors:
            low = (max(1, canvas.size[0] // tensor.divisor), max(1, canvas.size[1] // tensor.divisor))
            shift = (tensor.offset * canvas.size[0] / low[0], tensor.offset * canvas.size[1] / low[1])
            mix = mixing_weights(tensor.images, canvas.group)
            self._shapes.append((mix.shape[1], canvas.channels, *low))
            self._enlarge.append(Enlarged(low, canvas.size, canvas.device, shift))
            self._mix.append(torch.from_numpy(mix).to(canvas.device))

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        """Draw own and shared parameters; pictures become own parameters, and what is shared starts with nothing.

        What is shared is drawn by the generator of the group's first image.
        """
        own = self._own.start(draws, pictures)
        firsts = draws[:: self.canvas.group]
        deviation = self.form.deviation if pictures is None else 0.0
        shared = [normal(shape, firsts, self.canvas.device) * deviation for shape in self._shapes[1:]]
        return pack([own.reshape(len(firsts), -1), *shared])

    def paint(self, parameters: torch.Tensor) -> torch.Tensor:
        return row_by_row(self._paint, parameters)

    def _paint(self, parameters: torch.Tensor) -> torch.Tensor:
        own, *shared = unpack(parameters, self._shapes)
        planes = self._own.planes(own.reshape(-1, *self._own.shape))
        total = planes.view(len(parameters), self.canvas.group, *planes.shape[1:])
        for tensor, enlarge, mix in zip(shared, self._enlarge, self._mix, strict=True):
            enlarged = enlarge(tensor)
            if mix.shape[1] > 1:
                enlarged = (mix @ enlarged.flatten(2)).view(total.shape)
            total = total + enlarged
        return self._own.colors(total.view(planes.shape))


def mixing_weights(tensors: int, group: int) -> np.ndarray:
    """Return how much of each tensor along the group goes into each image, float32 [group, tensors].

    The first image has the first tensor, the last image the last one, those between mix two neighbours; there are no
    more tensors than images. (Lucid interpolates as TensorFlow 1 resizes: its last images all have the last tensor.)
    """
    count = min(tensors, group)
    places = np.linspace(0.0, count - 1.0, group)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(count))).astype(np.float32)
