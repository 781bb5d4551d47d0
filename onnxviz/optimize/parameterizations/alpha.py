"""Images with opacity: what the objective does not need stays transparent.

Source: Mordvintsev, Pezzotti, Schubert and Olah 2018, "Differentiable Image Parameterizations", section
"Semi-transparent patterns"; lucid's `transparency.ipynb`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, Painter, Parameterization
from onnxviz.optimize.parameterizations.fourier import MAGIC, Fourier, FourierPainter, spectrum_scale
from onnxviz.optimize.parameterizations.planes import (
    Enlarged,
    PlanePainter,
    normal,
    pack,
    row_by_row,
    to_colors,
    unpack,
)
from onnxviz.optimize.parameterizations.shared import Own

_COARSE = 4
"""How many pixels there are for one number of a background, which is smooth."""
_LEAST = 1e-6
"""Transparency is never less than this, so that its logarithm is finite."""


class Transparent(Parameterization):
    """An image with opacity, seen on another random background at every step; opacity costs activation."""

    kind: Literal["alpha"] = "alpha"
    photographic: ClassVar[bool] = True
    own: Own = Field(Fourier(), description="How the colours are written.")
    opacity: float = Field(0.5, gt=0, lt=1, description="How opaque the image is at the start.")
    decay: float = Field(
        1.5,
        ge=0,
        description="The opacity's amplitudes fall with frequency to this power; lucid's 1 leaves haze around shapes.",
    )
    weight: float = Field(
        1.0, ge=0, description="How much opacity is held down; 1 multiplies the activation by the mean transparency."
    )
    backgrounds: int = Field(
        16, ge=1, le=256, description="How many random backgrounds each image has; steps take turns."
    )
    contrast: float = Field(1.5, ge=0, description="Standard deviation of the backgrounds' planes before the sigmoid.")

    def painter(self, canvas: Canvas) -> TransparentPainter:
        return TransparentPainter(self, canvas)


class TransparentPainter(Painter):
    """Images of a base parameterization and sigmoid(irfft2(scale · spectrum) / 4 + constant) as their opacity.

    Parameters are [N, P]: the spectrum of the opacity, then those of the colours.
    The loop looks at `composite(paint(parameters), backgrounds(step))`, so that no background is worth relying on.
    """

    def __init__(self, form: Transparent, canvas: Canvas) -> None:
        self.form, self.canvas = form, canvas
        self._own: PlanePainter = form.own.painter(canvas)
        plane = replace(canvas, channels=1, colors=None)
        self._opacity = FourierPainter(Fourier(decay=form.decay, decorrelate=False), plane)
        self._constant = math.log(form.opacity / (1.0 - form.opacity))
        self._fields = RandomFields(canvas, form.contrast)
        self._bank: torch.Tensor | None = None

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        """Start the colours, and the opacity near its mean; also draw the backgrounds.

        Pictures are RGB [N, 3, h, w], or have their opacity [N, 4, h, w].
        """
        own = self._own.start(draws, None if pictures is None else pictures[:, :3])
        if pictures is not None and pictures.shape[1] == 4:
            spectrum = self._opacity.solve(pictures[:, 3:].clamp(0.01, 0.99).logit() - self._constant)
        else:
            spectrum = self._opacity.start(draws, None) * (1.0 if pictures is None else 0.0)
        self._bank = self._fields.draw(draws, self.form.backgrounds)
        return pack([spectrum, own])

    def paint(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return [N, 4, h, w]: red, green, blue, not multiplied by the opacity, and the opacity."""
        return row_by_row(self._paint, parameters)

    def backgrounds(self, step: torch.Tensor) -> torch.Tensor:
        """Return what the images stand on in a step, int64 [] on their device: RGB [N, 3, h, w] in 0..1."""
        assert self._bank is not None, "start draws the backgrounds"
        chosen = self._bank.index_select(1, (step % self.form.backgrounds).view(1))
        return row_by_row(self._fields.paint, chosen[:, 0])

    def penalty(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return [N], weight · -log(mean transparency), over the canvas with its margin.

        Lucid maximises activation a · transparency t, whose slope is t · (∇a + a ∇log t). Up to the factor t, which
        Adam divides out, that is the slope of a - |a| · penalty with |a| held constant, as the loop has it. Unlike the
        product it does not reward opacity where a is negative.
        """
        return row_by_row(self._penalty, parameters)

    def _paint(self, parameters: torch.Tensor) -> torch.Tensor:
        spectrum, own = self._parts(parameters)
        return torch.cat([self._own.paint(own), self._logits(spectrum).sigmoid()], dim=1)

    def _penalty(self, parameters: torch.Tensor) -> torch.Tensor:
        spectrum, _ = self._parts(parameters)
        # sigmoid(-x) instead of 1 - sigmoid(x), which would be 0 in float32 from x = 17 on, without a slope.
        transparency = (-self._logits(spectrum)).sigmoid().mean(dim=(1, 2, 3))
        return -self.form.weight * (transparency + _LEAST).log()

    def _parts(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The spectrum first: complex numbers have to lie at even places.
        spectrum, own = unpack(parameters, [self._opacity.shape, self._own.shape])
        return spectrum, own

    def _logits(self, spectrum: torch.Tensor) -> torch.Tensor:
        return self._opacity.planes(spectrum) + self._constant


def composite(images: torch.Tensor, backgrounds: torch.Tensor) -> torch.Tensor:
    """Put images [N, 4, h, w] on backgrounds [N, 3, h, w]: opacity · colour + (1 - opacity) · background.

    Colours are mixed as they are encoded, as a browser mixes a PNG, so the picture that is looked at later is the one
    that was optimized (lucid `transform.py`, `collapse_alpha_random`; its notebook mixes light instead).
    """
    return torch.lerp(backgrounds, images[:, :3], images[:, 3:])


class RandomFields:
    """Smooth random images with the colours of photographs: 1/f^1.5 spectra, as lucid's notebook draws backgrounds.

    They are kept small and enlarged when they are needed. `contrast` is the standard deviation of the planes before the
    sigmoid, over many images.
    """

    decay = 1.5

    def __init__(self, canvas: Canvas, contrast: float) -> None:
        low = (max(1, canvas.size[0] // _COARSE), max(1, canvas.size[1] // _COARSE))
        self._canvas = canvas
        self._spectra = FourierPainter(Fourier(decay=self.decay), replace(canvas, size=low))
        self._enlarge = Enlarged(low, canvas.size, canvas.device)
        self._factor = contrast / _expected_deviation(low, self.decay)

    def draw(self, draws: Sequence[torch.Generator], count: int) -> torch.Tensor:
        """Return small planes [N, count, channels, low h, low w], each image's from its own generator."""
        spectra = normal((count, *self._spectra.shape), draws, self._canvas.device)
        planes = self._spectra.planes(spectra.flatten(0, 1)) * self._factor
        return planes.view(len(draws), count, -1, *self._spectra.canvas.size)

    def paint(self, planes: torch.Tensor) -> torch.Tensor:
        """Return RGB [N, 3, h, w] in 0..1 of small planes [N, channels, low h, low w]."""
        return to_colors(self._enlarge(planes), self._canvas, decorrelate=True)


def _expected_deviation(size: tuple[int, int], decay: float) -> float:
    """Return the standard deviation of `FourierPainter`'s planes for spectra of normally distributed numbers.

    A wave of an inner column stands for its mirror image too, so it is twice as high and has four times the variance of
    one in the first column, or in the last of an even width.
    """
    squares = spectrum_scale(size, decay).astype(float) ** 2
    columns = [1.0 if column == 0 or 2 * column == size[1] else 4.0 for column in range(squares.shape[1])]
    return math.sqrt((squares * columns).sum()) / (size[0] * size[1]) / MAGIC
