"""How an image is written while it is optimized: as pixels, or as a spectrum with the statistics of photographs.

Steepest ascent depends on the coordinates. In pixels every frequency costs the same and the fastest way up is
high-frequency noise; in a spectrum scaled like that of photographs, with decorrelated colours, it is large shapes.
Source: Olah, Mordvintsev and Schubert 2017, "Feature Visualization", section "Preconditioning and Parameterization".
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.optimize.color import correlate

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class _Parameterization(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    decorrelate: bool = Field(True, description="Give the colours the correlations of photographs; no effect on grey.")

    def shape(self, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the shape of one image's parameters."""
        raise NotImplementedError

    def planes(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the planes [N, channels, h, w] that parameters stand for, before colour and sigmoid."""
        raise NotImplementedError

    def images(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the images that parameters stand for.

        Args:
            parameters: [N, *shape(channels, size)].
            size: height and width in pixels.

        Returns:
            RGB [N, 3, h, w] in 0..1; one channel is repeated three times.
        """
        planes = self.planes(parameters, size)
        if planes.shape[1] == 1:
            return planes.sigmoid().expand(-1, 3, -1, -1)
        return (correlate(planes) if self.decorrelate else planes).sigmoid()


PIXEL_GAIN = 3.0
"""How far a pixel goes for a step of 1: so the learning rates that suit spectra suit pixels too."""


class Pixel(_Parameterization):
    """Every pixel is a parameter."""

    kind: Literal["pixel"] = "pixel"
    deviation: float = Field(0.02, ge=0, description="Standard deviation of the start parameters.")

    def shape(self, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Return (channels, h, w)."""
        return (channels, *size)

    def planes(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return `PIXEL_GAIN` times the parameters."""
        assert parameters.shape[-2:] == size
        return parameters * PIXEL_GAIN


class Fourier(_Parameterization):
    """The image's spectrum is the parameter, each frequency scaled by its share in photographs."""

    kind: Literal["fourier"] = "fourier"
    deviation: float = Field(
        0.01, ge=0, description="Standard deviation of the start spectrum, real and imaginary parts."
    )
    decay: float = Field(1.0, ge=0, description="Amplitudes fall with frequency to this power; photographs: 1.")

    def shape(self, channels: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Return (channels, h, w // 2 + 1, 2): half a spectrum is enough for a real image, real and imaginary parts."""
        return (channels, size[0], size[1] // 2 + 1, 2)

    def planes(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return irfft2(scale · spectrum) / 4, as lucid `param/spatial.py` (`fft_image`) defines it.

        Odd widths are transformed exactly; lucid makes one column more and cuts it off.
        """
        import torch

        spectrum = torch.view_as_complex(parameters.contiguous()) * _scale_on(size, self.decay, parameters.device)
        planes: Tensor = torch.fft.irfft2(spectrum, s=size) / 4.0
        return planes


@functools.lru_cache(maxsize=8)
def _scale_on(size: tuple[int, int], decay: float, device: torch.device) -> Tensor:
    """Keep the scale on the device: copying it there would make every step wait for the device."""
    import torch

    return torch.from_numpy(spectrum_scale(size, decay)).to(device)


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


Parameterization = Annotated[Fourier | Pixel, Field(discriminator="kind")]


def start(
    parameterization: Fourier | Pixel, channels: int, size: tuple[int, int], generators: list[torch.Generator]
) -> Tensor:
    """Draw the parameters of the start images, each from its own generator, so that a batch changes nothing.

    Returns:
        float32 [len(generators), *shape] on the CPU.
    """
    import torch

    shape = parameterization.shape(channels, size)
    draws = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.stack(draws) * parameterization.deviation
