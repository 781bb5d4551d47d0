"""An image whose frequencies are as strong as in photographs, always: only their phases are optimized (MaCo).

Where things are lies in a spectrum's phases; how much there is of each frequency, in its magnitudes. With these fixed,
the image cannot fill with the high frequencies that fool networks, and the objective decides only where shapes are.
Source: Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with MAgnitude Constrained
Optimization" (arXiv:2306.06805), section 3; its implementation is Xplique, `features_visualizations/maco.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.parameterizations.base import Canvas, PlaneParameterization
from onnxviz.optimize.parameterizations.fourier import spectrum_scale
from onnxviz.optimize.parameterizations.planes import PlanePainter, colors_on

CONTRAST = (1.76, 1.54, 1.48)
"""Standard deviations of planes that have the mean magnitudes of 206 ImageNet photographs (`measure_magnitude`)."""


class Maco(PlaneParameterization):
    """The phases of the image's spectrum are the parameters; its magnitudes are those of photographs.

    The magnitudes are measured from photographs that the recipe gives (`photographs.measure_magnitude`). Without them
    they follow a power law with the contrast of photographs: no spectrum of ImageNet is shipped.
    """

    kind: Literal["maco"] = "maco"
    photographic: ClassVar[bool] = True
    decay: float = Field(
        1.4,
        ge=0,
        description="Without photographs: magnitudes fall with frequency to this power; photographs: 1.3-1.5.",
    )
    contrast: float | None = Field(
        None,
        gt=0,
        description="Standard deviation of each plane before the sigmoid; that of photographs if left out; Xplique: 1.",
    )

    def painter(self, canvas: Canvas) -> MacoPainter:
        return MacoPainter(self, canvas)


class MacoPainter(PlanePainter):
    """Images of phases: irfft2(magnitude · e^(i · phase)).

    Parameters are [N, channels, h, w // 2 + 1], in radians. Two things that Xplique does in every step are done once,
    or not at all, because the magnitudes never change:

    * It divides each image by its standard deviation. By Parseval's theorem that is a constant of the magnitudes, so
      they are divided by it here.
    * It divides the phases by their standard deviation. That leaves them within about a radian of 0, and images of such
      phases have a bright spot in their corner, so phases are left as they are here, and start evenly over the circle.

    In the columns of frequency 0 and 1/2 the spectrum of a real image repeats itself; there the second half follows the
    first, so that magnitudes are exact. Frequencies that are their own mirror image, the mean among them, are real:
    theirs are magnitude · cos(phase).
    """

    rate = 4.0
    """Phases are angles, a spectrum's numbers start near 0.01."""

    def __init__(self, form: Maco, canvas: Canvas) -> None:
        height, width = canvas.size
        # The deviation is half a circle: as far as phases start from 0.
        super().__init__(canvas, form.decorrelate, math.pi, (canvas.channels, height, width // 2 + 1))
        self._magnitude = _magnitude(form, canvas)

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        if pictures is not None:
            return self.solve(self.planes_of(pictures)).contiguous()
        drawn = torch.stack([torch.rand(self.shape, generator=generator) for generator in draws])
        return (drawn.to(self.canvas.device) * 2.0 - 1.0) * self.deviation

    def planes(self, parameters: torch.Tensor) -> torch.Tensor:
        phases = mirrored(parameters, self.canvas.size)
        spectrum = torch.complex(self._magnitude * phases.cos(), self._magnitude * phases.sin())
        planes: torch.Tensor = torch.fft.irfft2(spectrum, s=self.canvas.size)
        return planes

    def solve(self, planes: torch.Tensor) -> torch.Tensor:
        phases: torch.Tensor = torch.fft.rfft2(planes).angle()
        return phases


def mirrored(phases: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Make phases [..., h, w // 2 + 1] those of a real image: phase(-f) = -phase(f) in the columns that hold both.

    Phases of frequencies that are their own mirror image stay; `irfft2` takes their cosine.
    """
    height, width = size

    def mirror(column: torch.Tensor) -> torch.Tensor:
        return torch.cat((column[..., : height // 2 + 1, :], -column[..., 1 : (height + 1) // 2, :].flip(-2)), dim=-2)

    inner = phases[..., 1:-1] if width % 2 == 0 else phases[..., 1:]
    last = (mirror(phases[..., -1:]),) if width % 2 == 0 and width > 1 else ()
    return torch.cat((mirror(phases[..., :1]), inner, *last), dim=-1)


def deviation(magnitude: torch.Tensor, width: int) -> torch.Tensor:
    """Return the standard deviation [...] of real planes by their half spectrum (Parseval's theorem), without the mean.

    `magnitude` is |rfft2| of the planes, [..., h, w // 2 + 1], and `width` is w.
    """
    twice = magnitude.new_full(magnitude.shape[-1:], 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    energy = (magnitude.square() * twice).sum(dim=(-2, -1)) - magnitude[..., 0, 0].square()
    return energy.sqrt() / (magnitude.shape[-2] * width)


def _magnitude(form: Maco, canvas: Canvas) -> torch.Tensor:
    contrast = form.contrast
    if canvas.magnitude is None:
        law = torch.from_numpy(spectrum_scale(canvas.size, form.decay)).to(canvas.device)
        wanted = torch.tensor([contrast] * 3 if contrast else CONTRAST, device=canvas.device)
        if canvas.channels == 3 and not form.decorrelate and not contrast:
            wanted = _of_colors(wanted[:, None, None], canvas).flatten()
        planes = law.expand(canvas.channels, *law.shape)
        return planes * (wanted[: canvas.channels] / deviation(planes, canvas.size[1]))[:, None, None]
    measured = canvas.magnitude.to(canvas.device, torch.float32)
    if canvas.channels == 1:
        measured = measured[:1]  # brightness; of the colours' matrix it is the first column
    elif not form.decorrelate:
        measured = _of_colors(measured, canvas)
    planes = resized(measured, canvas.size)
    if contrast is not None:
        planes = planes * (contrast / deviation(planes, canvas.size[1]))[:, None, None]
    return planes


def _of_colors(planes: torch.Tensor, canvas: Canvas) -> torch.Tensor:
    """Return the magnitudes of red, green and blue by those of the independent planes that they are made of."""
    return (colors_on(canvas).square() @ planes.flatten(1).square()).sqrt().view(planes.shape)


def resized(magnitude: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring magnitudes [channels, h, w // 2 + 1], w even, to another size of image, height and width in pixels.

    Planes keep their mean square and their deviation, and a frequency, in cycles per pixel, keeps its share: logarithms
    are interpolated between frequencies. Photographs look alike at all scales, so it does not matter that what they
    show becomes larger or smaller.
    """
    height, width = magnitude.shape[1], 2 * (magnitude.shape[2] - 1)
    if (height, width) == (size[0], size[1] - size[1] % 2):
        return magnitude
    before = deviation(magnitude, width)
    logarithms = magnitude.clamp_min(torch.finfo(torch.float32).tiny).log()
    # The mean is no frequency: its neighbours stand in for it, and it is set afterwards.
    logarithms[:, 0, 0] = (logarithms[:, 0, 1] + logarithms[:, 1 % height, 0]) / 2
    rows = torch.from_numpy(np.fft.fftfreq(size[0]).astype(np.float32)).to(magnitude.device) * height + height // 2
    columns = torch.from_numpy(np.fft.rfftfreq(size[1]).astype(np.float32)).to(magnitude.device) * width
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flip(-1)
    extent = magnitude.new_tensor([max(width // 2, 1), max(height - 1, 1)])
    grid = (places / extent * 2.0 - 1.0)[None]
    shifted = torch.fft.fftshift(logarithms, dim=1)[None]
    found = torch.nn.functional.grid_sample(shifted, grid, "bilinear", "border", align_corners=True)[0].exp()
    found = found * (before / deviation(found, size[1]))[:, None, None]
    found[:, 0, 0] = magnitude[:, 0, 0] * (size[0] * size[1] / (height * width))
    return found


def opacity_from_gradients(accumulated: np.ndarray, percentile: float = 80.0) -> np.ndarray:
    """Return how opaque each pixel is to be shown: how much the objective cared about it while it was optimized.

    Fel et al. 2023, section 3 ("transparency"): the sum over all steps of the gradient's absolute value; Xplique
    `plot/image.py` (`plot_maco`) cuts it at a percentile and divides it by what is then the largest.

    Args:
        accumulated: [N, h, w], Σ over steps of the mean over colours of |∂ activation / ∂ picture|.
        percentile: everything above this percentile of the picture's values is fully opaque.

    Returns:
        float32 [N, h, w] in 0..1; 1 everywhere for a picture that had no gradient at all.
    """
    values = np.asarray(accumulated, dtype=np.float64)
    highest = np.percentile(values, percentile, axis=(1, 2), keepdims=True)
    highest = np.where(highest > 0, highest, values.max(axis=(1, 2), keepdims=True))
    shares = np.minimum(values, highest) / np.where(highest > 0, highest, 1.0)
    return np.where(highest > 0, shares, 1.0).astype(np.float32)
