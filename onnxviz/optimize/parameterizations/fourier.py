"""An image written as a spectrum with the statistics of photographs.

Steepest ascent depends on the coordinates. In pixels every frequency costs the same and the fastest way up is
high-frequency noise; in a spectrum scaled like that of photographs, with decorrelated colours, it is large shapes.
Source: Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section "Preconditioning and Parameterization".

What it cannot do by itself is plain colour. A large shape is the sum of many waves and a plain one is a single number,
which a few hundred steps of usual size bring nowhere near red: `mean_color` (ours) lets it go as far as it has to.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, PlaneParameterization
from onnxviz.optimize.parameterizations.planes import PlanePainter, colors_on

MAGIC = 4.0
"""Lucid divides by it ("magic constant") so that its learning rates suit; ours are in the same unit."""
_LEAST = 1e-4
_LEAST_REACH = 0.01
"""Of a plane: photographs that are all grey have planes that move no colour at all."""


class Fourier(PlaneParameterization):
    """The image's spectrum is the parameter, each frequency scaled by its share in photographs."""

    kind: Literal["fourier"] = "fourier"
    deviation: float = Field(
        0.01, ge=0, description="Standard deviation of the start spectrum, real and imaginary parts."
    )
    decay: float = Field(1.0, ge=0, description="Amplitudes fall with frequency to this power; photographs: 1.")
    blur: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Standard deviation in pixels of a Gaussian that is part of how the image is written: its fine "
        "detail fades as behind a lens. If not given, 1 for classes, less in pictures below 224 pixels, and 0 for "
        "other units, some of which look for fine detail.",
    )
    mean_color: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="How many times as far as the lowest frequency the picture's mean colour goes in a step, its hue "
        "as far as its brightness; 0 scales and decorrelates it like all else, as lucid does. If not given, 8 for "
        "units that a plain colour excites more than any grating does, and 0 for others and for classes.",
    )

    def showing_last_bits(self) -> Self:
        """Return the same with a mean colour that is no larger than the waves: it would round their last bits off."""
        return self.model_copy(update={"mean_color": None})

    def painter(self, canvas: Canvas) -> FourierPainter:
        return FourierPainter(self, canvas)


class FourierPainter(PlanePainter):
    """Images of spectra: irfft2(scale · spectrum) / 4, as lucid `param/spatial.py` (`fft_image`) defines it.

    Odd widths are transformed exactly; lucid makes one column more and cuts it off. Parameters are
    [N, channels, h, w // 2 + 1, 2]: half a spectrum is enough for a real image, real and imaginary parts.
    """

    def __init__(self, form: Fourier, canvas: Canvas) -> None:
        height, width = canvas.size
        shape = (canvas.channels, height, width // 2 + 1, 2)
        super().__init__(canvas, form.decorrelate, form.deviation, shape)
        # On the device from the start: copying it there would make every step wait for the device.
        scale = spectrum_scale(canvas.size, form.decay, form.blur or 0.0)
        self._scale = torch.from_numpy(scale).to(canvas.device) / MAGIC
        if form.mean_color:
            self._scale = self._scale.repeat(canvas.channels, 1, 1)
            self._scale[:, 0, 0] *= form.mean_color / self._reach()

    def _reach(self) -> torch.Tensor:
        """Return [channels], how far each plane moves colours: photographs differ in brightness more than in hue."""
        if not self.canvas.colored or not self.decorrelate:
            return torch.ones(self.canvas.channels, device=self.canvas.device)
        lengths: torch.Tensor = torch.linalg.vector_norm(colors_on(self.canvas), dim=0)
        return lengths.clamp_(min=_LEAST_REACH)

    def planes(self, parameters: torch.Tensor) -> torch.Tensor:
        spectrum = torch.view_as_complex(parameters.contiguous()) * self._scale
        planes: torch.Tensor = torch.fft.irfft2(spectrum, s=self.canvas.size)
        return planes

    def solve(self, planes: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.fft.rfft2(planes) / self._scale)


def spectrum_scale(size: tuple[int, int], decay: float = 1.0, blur: float = 0.0) -> np.ndarray:
    """Return √(h·w) / max(f, 1 / max(h, w))^decay · exp(-2π²·blur²·f²) for each frequency f in cycles per pixel.

    The last factor is the transform of a Gaussian of `blur` pixels. It is 0.0001 at least: a picture to start from
    keeps its detail, which no step of usual size changes. The result is float32 [h, w // 2 + 1] (lucid
    `param/spatial.py`, `rfft2d_freqs` and `fft_image`; the Gaussian is ours).
    """
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    floor = 1.0 / max(height, width)
    lens = np.maximum(np.exp(-2.0 * (np.pi * blur * frequency) ** 2), _LEAST)
    return np.asarray(np.sqrt(height * width) / np.maximum(frequency, floor) ** decay * lens, dtype=np.float32)
