"""What is done to the pixels after a step, outside the gradient."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.gaussian import gaussian_blur


class _Edit(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def apply(self, pixels: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        """Return the edited pixels.

        Args:
            pixels: [N, channels, h, w], around 0, which is middle grey; black is -1/2, white 1/2.
            gradient: the same shape, the slope of what is maximised at the pixels before the step.
            step: how many steps are done, from 1.
        """
        raise NotImplementedError


class Decay(_Edit):
    """Draws all pixels towards grey: pixels × (1 - share) (Yosinski et al. 2015, section 4, L2 decay)."""

    kind: Literal["decay"] = "decay"
    share: float = Field(0.01, ge=0, lt=1, description="How much of a pixel's distance to grey is taken away.")

    def apply(self, pixels: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:  # noqa: ARG002 - the same at every step
        return pixels * (1.0 - self.share)


class Blur(_Edit):
    """Blurs all pixels, at the first step and then at every so many (Yosinski et al. 2015, section 4)."""

    kind: Literal["blur"] = "blur"
    sigma: float = Field(1.0, ge=0.3, le=20, description="Standard deviation in pixels.")
    every: int = Field(4, ge=1, description="At how many steps from one blur to the next.")

    def apply(self, pixels: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:  # noqa: ARG002 - whatever the slope
        """Blur as scipy's `gaussian_filter`.

        Source: yosinski/deep-visualization-toolbox, `optimize/gradient_optimizer.py` (`blur_radius`, `blur_every`).
        """
        return gaussian_blur(pixels, self.sigma) if _is_due(step, self.every) else pixels


class _ClipSmallest(_Edit):
    percentile: float = Field(50.0, ge=0, le=100, description="About how many pixels of an image become grey, in %.")
    every: int = Field(1, ge=1, description="At how many steps from one time to the next.")

    def apply(self, pixels: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:
        if not _is_due(step, self.every):
            return pixels
        sizes = self.sizes(pixels, gradient)
        flat = sizes.flatten(1)
        # As numpy.percentile: between two neighbours in order, linearly. torch.quantile takes no more than 16 million.
        place = self.percentile / 100.0 * (flat.shape[1] - 1)
        low, high = (flat.kthvalue(rank + 1, dim=1).values for rank in (math.floor(place), math.ceil(place)))
        limit = (low + (high - low) * (place - math.floor(place))).minimum(high)
        return pixels.masked_fill(sizes < limit.view(-1, 1, 1, 1), 0.0)

    def sizes(self, pixels: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return how much each pixel counts, [N, 1, h, w]."""
        raise NotImplementedError


class ClipSmallNorm(_ClipSmallest):
    """Sets pixels that are hardly coloured to grey: those whose norm over the colours is below a percentile."""

    kind: Literal["clip_small_norm"] = "clip_small_norm"

    def sizes(self, pixels: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - whatever the slope
        """Return √(Σ pixel² over the colours).

        Source: Yosinski et al. 2015, section 4 (θ_n_pct); `small_norm_percentile` of the toolbox's
        `optimize/gradient_optimizer.py`.
        """
        return pixels.square().sum(dim=1, keepdim=True).sqrt()


class ClipSmallContribution(_ClipSmallest):
    """Sets pixels that hardly matter to the unit to grey: those whose contribution is below a percentile."""

    kind: Literal["clip_small_contribution"] = "clip_small_contribution"

    def sizes(self, pixels: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return |Σ pixel · gradient over the colours|: how much the activation would change, if the pixel were grey.

        Source: Yosinski et al. 2015, section 4 (θ_c_pct); `px_abs_benefit_percentile` of the toolbox's
        `optimize/gradient_optimizer.py`, which too takes the pixels after and the gradient before the step.
        """
        return (pixels * gradient).sum(dim=1, keepdim=True).abs()


class Bounds(_Edit):
    """Keeps every colour value within limits."""

    kind: Literal["bounds"] = "bounds"
    low: float = Field(0.0, ge=-1, le=2, description="Smallest value; black is 0.")
    high: float = Field(1.0, ge=-1, le=2, description="Largest value; white is 1.")

    @model_validator(mode="after")
    def _ordered(self) -> Bounds:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not smaller than high {self.high:g}")
        return self

    def apply(self, pixels: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:  # noqa: ARG002 - the same at every step
        return pixels.clamp(self.low - 0.5, self.high - 0.5)


class BoundedColors(_Edit):
    """Keeps every pixel's colour within a ball around grey, its hue unchanged."""

    kind: Literal["bounded_colors"] = "bounded_colors"
    radius: float = Field(160 / 255, gt=0, le=2, description="Largest distance to grey; white has √3 / 2.")

    def apply(self, pixels: torch.Tensor, gradient: torch.Tensor, step: int) -> torch.Tensor:  # noqa: ARG002 - the same at every step
        """Multiply each pixel by min(1, radius / √(Σ pixel² over the three colours)).

        Source: Mahendran and Vedaldi 2016, section 3 (bounded range, B₊); aravindhm/nnpreimage, `core/nnpreimage.m`,
        with 160 of 255 (`core/get_defaults.m`).
        """
        length = pixels.square().sum(dim=1, keepdim=True).sqrt()
        if pixels.shape[1] == 1:  # shown as three equal colours
            length = length * math.sqrt(3.0)
        return pixels * (self.radius / length).clamp(max=1.0)


def _is_due(step: int, every: int) -> bool:
    """Whether something is done after this step: after the first, and then after every so many."""
    return (step - 1) % every == 0


Edit = Annotated[
    Decay | Blur | ClipSmallNorm | ClipSmallContribution | Bounds | BoundedColors, Field(discriminator="kind")
]
