"""An image written as a spectrum with the statistics of photographs.

Steepest ascent depends on the coordinates. In pixels every frequency costs the same and the fastest way up is
high-frequency noise; in a spectrum scaled like that of photographs, with decorrelated colours, it is large shapes.
Source: Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section "Preconditioning and Parameterization".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from onnxviz.optimize.parameterizations.base import Canvas, PlaneParameterization
from onnxviz.optimize.parameterizations.planes import PlanePainter

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = 4.0
"""Lucid divides by it ("magic constant") so that its learning rates suit; ours are in the same unit."""


class Fourier(PlaneParameterization):
    """The image's spectrum is the parameter, each frequency scaled by its share in photographs."""

    kind: Literal["fourier"] = "fourier"
    deviation: float = Field(
        0.01, ge=0, description="Standard deviation of the start spectrum, real and imaginary parts."
    )
    decay: float = Field(1.0, ge=0, description="Amplitudes fall with frequency to this power; photographs: 1.")

    def painter(self, canvas: Canvas) -> FourierPainter:
        """Return what makes images of spectra."""
        return FourierPainter(self, canvas)


class FourierPainter(PlanePainter):
    """Images of spectra: irfft2(scale · spectrum) / 4, as lucid `param/spatial.py` (`fft_image`) defines it.

    Odd widths are transformed exactly; lucid makes one column more and cuts it off. Parameters are
    [N, channels, h, w // 2 + 1, 2]: half a spectrum is enough for a real image, real and imaginary parts.
    """

    def __init__(self, form: Fourier, canvas: Canvas) -> None:
        import torch

        height, width = canvas.size
        shape = (canvas.channels, height, width // 2 + 1, 2)
        super().__init__(canvas, form.decorrelate, form.deviation, shape)
        # On the device from the start: copying it there would make every step wait for the device.
        self._scale = torch.from_numpy(spectrum_scale(canvas.size, form.decay)).to(canvas.device) / MAGIC

    def planes(self, parameters: Tensor) -> Tensor:
        """Return the waves that the spectrum is made of, added up."""
        import torch

        spectrum = torch.view_as_complex(parameters.contiguous()) * self._scale
        planes: Tensor = torch.fft.irfft2(spectrum, s=self.canvas.size)
        return planes

    def solve(self, planes: Tensor) -> Tensor:
        """Return the spectrum of planes, the scale taken out."""
        import torch

        return torch.view_as_real(torch.fft.rfft2(planes) / self._scale)


def spectrum_scale(size: tuple[int, int], decay: float = 1.0) -> np.ndarray:
    """Return √(h·w) / max(f, 1 / max(h, w))^decay for each frequency f in cycles per pixel.

    Args:
        size: height and width in pixels.
        decay: the exponent.

    Returns:
        float32 [h, w // 2 + 1] (lucid `param/spatial.py`, `rfft2d_freqs` and `fft_image`).
    """
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    floor = 1.0 / max(height, width)
    return np.asarray(np.sqrt(height * width) / np.maximum(frequency, floor) ** decay, dtype=np.float32)
