"""Every pixel a parameter: the plainest way to write an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, PlaneParameterization
from onnxviz.optimize.parameterizations.planes import PlanePainter, grey

PIXEL_GAIN = 3.0
"""How far a pixel goes for a step of 1: so the learning rates that suit spectra suit pixels too."""


class Pixel(PlaneParameterization):
    """Every pixel is a parameter."""

    kind: Literal["pixel"] = "pixel"
    deviation: float = Field(0.02, ge=0, description="Standard deviation of the start parameters.")
    squash: Literal["sigmoid", "none"] = Field(
        "sigmoid",
        description=(
            "`sigmoid` keeps colours between 0 and 1; `none` lets them leave it, as the first methods did, and takes "
            "them as they are, without `decorrelate`."
        ),
    )

    def painter(self, canvas: Canvas) -> PixelPainter:
        return PixelPainter(self, canvas)


class PixelPainter(PlanePainter):
    """Images of pixels: sigmoid(colours · gain · parameters), or 1/2 + parameters where nothing squashes them."""

    def __init__(self, form: Pixel, canvas: Canvas) -> None:
        super().__init__(canvas, form.decorrelate, form.deviation, (canvas.channels, *canvas.size))
        self._squash = form.squash == "sigmoid"

    def planes(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters * PIXEL_GAIN if self._squash else parameters

    def solve(self, planes: torch.Tensor) -> torch.Tensor:
        return planes / PIXEL_GAIN if self._squash else planes

    def colors(self, planes: torch.Tensor) -> torch.Tensor:
        return super().colors(planes) if self._squash else (planes + 0.5).expand(-1, self.canvas.samples, -1, -1)

    def planes_of(self, pictures: torch.Tensor) -> torch.Tensor:
        if self._squash:
            return super().planes_of(pictures)
        return (grey(pictures) if self.canvas.channels == 1 and self.canvas.samples == 3 else pictures) - 0.5
