"""Random views of the image: what is optimized has to excite the unit from each of them, which rules out noise.

All transforms of a step are one affine map, so the image is resampled once. Each image of a batch has its own draws,
made before the first step: nothing waits for the host inside the loop, and a picture is the same alone or in a batch.
Source: Olah et al. 2017, section "Transformation Robustness"; amounts as in lucid `optvis/transform.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Fill = Literal["reflect", "grey", "edge"]


class _Transform(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def matrices(self, draws: Tensor) -> Tensor:
        """Return where the output's pixels come from.

        Args:
            draws: uniform numbers of 0..1, [..., 2].

        Returns:
            [..., 3, 3], acting on (x, y, 1) from the image's centre, output place to input place; the shift in the last
            column is in shares of the width and height.
        """
        raise NotImplementedError


class Pad(_Transform):
    """A margin that is optimized with the picture and cut off at the end, so that views can look past its edge."""

    kind: Literal["pad"] = "pad"
    share: float = Field(0.1, ge=0, le=1, description="Width of the margin as a share of the picture's side.")

    def matrices(self, draws: Tensor) -> Tensor:
        """Leave the view as it is: the margin lies around it."""
        return _linear(draws[..., 0] * 0 + 1, draws[..., 0] * 0)


class Jitter(_Transform):
    """Shifts by whole pixels in both directions."""

    kind: Literal["jitter"] = "jitter"
    share: float = Field(0.05, ge=0, le=1, description="Largest shift as a share of the image's side.")

    def matrices(self, draws: Tensor) -> Tensor:
        """Shift by at most `share` of the width and height."""
        matrices = _linear(draws[..., 0] * 0 + 1, draws[..., 0] * 0)
        matrices[..., :2, 2] = (draws * 2.0 - 1.0) * self.share
        return matrices


class Scale(_Transform):
    """Enlarges or shrinks about the centre."""

    kind: Literal["scale"] = "scale"
    minimum: float = Field(0.9, gt=0.1, le=10, description="Smallest factor.")
    maximum: float = Field(1.1, gt=0.1, le=10, description="Largest factor.")

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is larger than maximum {self.maximum:g}")
        return self

    def matrices(self, draws: Tensor) -> Tensor:
        """Scale by a factor between `minimum` and `maximum`."""
        factor = self.minimum + (self.maximum - self.minimum) * draws[..., 0]
        return _linear(1.0 / factor, factor * 0)


class Rotate(_Transform):
    """Turns about the centre."""

    kind: Literal["rotate"] = "rotate"
    degrees: float = Field(10.0, ge=0, le=180, description="Largest angle, in both directions.")

    def matrices(self, draws: Tensor) -> Tensor:
        """Rotate by an angle between -`degrees` and `degrees`."""
        angle = (draws[..., 0] * 2.0 - 1.0) * math.radians(self.degrees)
        return _linear(angle * 0 + 1, angle)


Transform = Annotated[Pad | Jitter | Scale | Rotate, Field(discriminator="kind")]


def _linear(factor: Tensor, angle: Tensor) -> Tensor:
    """Return matrices [..., 3, 3] that multiply by `factor` and turn by `angle` in radians."""
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    matrices = factor.new_zeros((*factor.shape, 3, 3))
    matrices[..., 0, 0] = cosine
    matrices[..., 0, 1] = -sine
    matrices[..., 1, 0] = sine
    matrices[..., 1, 1] = cosine
    matrices[..., 2, 2] = 1.0
    return matrices


def margins(transforms: Sequence[Pad | Jitter | Scale | Rotate], size: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels that `pad` adds above and below, and left and right of a picture of this size.

    At least the share that was asked for: the canvas becomes as large as a Fourier transform likes, which is fast for
    lengths with small prime factors only (a canvas of 268 = 4 x 67 pixels took twice as long as one of 270).
    """
    share = sum(transform.share for transform in transforms if transform.kind == "pad")
    top, left = (_margin(round(share * length), length) for length in size)
    return top, left


def _margin(least: int, length: int) -> int:
    if not least:
        return 0
    near = range(least, least + 9)  # a much larger canvas would cost more than it gains
    return next((margin for margin in near if _is_smooth(length + 2 * margin)), least)


def _is_smooth(number: int) -> bool:
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number == 1


def cut(canvas: Tensor, margin: tuple[int, int]) -> Tensor:
    """Cut the margin off: [N, 3, h + 2 top, w + 2 left] to [N, 3, h, w]."""
    top, left = margin
    return canvas[:, :, top : canvas.shape[2] - top, left : canvas.shape[3] - left]


def draw(
    transforms: Sequence[Pad | Jitter | Scale | Rotate],
    size: tuple[int, int],
    steps: int,
    generators: list[torch.Generator],
) -> Tensor | None:
    """Draw the affine map of every step for every image, each from the image's own generator.

    Args:
        transforms: applied first to last.
        size: height and width of the view in pixels, the margin not counted.
        steps: number of maps for each image.
        generators: one for each image.

    Returns:
        float32 [steps, N, 2, 3], from the view to the canvas (picture with margin) in the normalised coordinates of
        `torch.nn.functional.affine_grid` (align_corners=False); None if every view is the picture itself.
    """
    import torch

    moving = [transform for transform in transforms if transform.kind != "pad"]
    if not moving:
        return None
    draws = torch.stack([torch.rand((steps, len(moving), 2), generator=generator) for generator in generators], dim=1)
    height, width = size
    total = torch.eye(3).expand(steps, len(generators), 3, 3)
    for index, transform in enumerate(moving):
        matrices = transform.matrices(draws[:, :, index])
        # Whole pixels: a shift alone must not blur.
        matrices[..., :2, 2] = (matrices[..., :2, 2] * torch.tensor([width, height])).round()
        total = total @ matrices
    top, left = margins(transforms, size)
    view = torch.tensor([width / 2.0, height / 2.0, 1.0])
    canvas = torch.tensor([width / 2.0 + left, height / 2.0 + top, 1.0])
    return (total * view[None, :] / canvas[:, None])[:, :, :2].contiguous()


def resample(images: Tensor, maps: Tensor, size: tuple[int, int], fill: Fill = "reflect") -> Tensor:
    """Look at the images through affine maps, bilinearly.

    Args:
        images: [N, 3, H, W] in 0..1, margins included.
        maps: [N, 2, 3] as `draw` makes them.
        size: height and width of the view in pixels.
        fill: what lies beyond the image's border: its mirror image, middle grey, or the border's own colour.

    Returns:
        [N, 3, h, w]; pixels at the border are as bright as those inside.
    """
    from torch.nn import functional

    grid = functional.affine_grid(maps, [len(images), images.shape[1], *size], align_corners=False)
    if fill == "grey":
        return functional.grid_sample(images - 0.5, grid, "bilinear", "zeros", align_corners=False) + 0.5
    mode = "reflection" if fill == "reflect" else "border"
    return functional.grid_sample(images, grid, "bilinear", mode, align_corners=False)
