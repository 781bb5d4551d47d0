"""Random views of the image: what is optimized has to excite the unit from each of them, which rules out noise.

Source: Olah et al. 2017, section "Transformation Robustness"; amounts as in lucid `optvis/transform.py`. Places are
moved by `Pad`, `Jitter`, `Scale`, `Rotate` and `Crop`, all in one resampling; then `Blur`, `Noise`, `ColorJitter`
and `Admix` change the pixels of the view. Each takes uniform numbers that are drawn before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onnxviz.core.values import LUMA
from onnxviz.optimize.dead_leaves import SCENES
from onnxviz.optimize.gaussian import DEVIATIONS, gaussian_blur

if TYPE_CHECKING:
    from torch import Tensor

Fill = Literal["reflect", "grey", "edge"]
Factor = Annotated[float, Field(gt=0.1, le=10)]
Degrees = Annotated[float, Field(ge=-180, le=180)]
_Model = TypeVar("_Model", bound=BaseModel)


class AnyTransform(BaseModel):
    """What a view goes through."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    numbers: ClassVar[int] = 0
    """How many random numbers a view takes."""
    photographic: ClassVar[bool] = False
    """Whether it is for photographs only: it knows of red, green and blue, or brings scenes in."""


class _Range(AnyTransform):
    """A number between a smallest and a largest one."""

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        minimum, maximum = getattr(self, "minimum", 0.0), getattr(self, "maximum", 0.0)
        if minimum > maximum:
            raise ValueError(f"minimum {minimum:g} is larger than maximum {maximum:g}")
        return self


class Move(AnyTransform):
    """Moves places: where in the picture a view's pixels come from."""

    def matrices(self, draws: Tensor, size: tuple[int, int]) -> Tensor:
        """Return where the output's pixels come from.

        Args:
            draws: uniform numbers of 0..1, [..., numbers].
            size: height and width of the picture in pixels.

        Returns:
            [..., 3, 3], acting on (x, y, 1) in pixels from the picture's centre, output place to input place.
        """
        raise NotImplementedError


class Change(AnyTransform):
    """Changes the pixels of a view."""

    def rows(self, draws: Tensor) -> Tensor:
        """Return what `apply` needs to know of each step.

        Args:
            draws: uniform numbers of 0..1, [steps, N, numbers].

        Returns:
            [steps, N, ...], any shape.
        """
        raise NotImplementedError

    def apply(self, images: Tensor, row: Tensor) -> Tensor:
        """Change views.

        Args:
            images: RGB [N, 3, h, w], about 0..1.
            row: [N, ...], what `rows` says of this step.

        Returns:
            [N, 3, h, w]; values are not clipped to 0..1, where they would lose their gradient.
        """
        raise NotImplementedError


class Pad(AnyTransform):
    """A margin that is optimized with the picture and cut off at the end, so that views can look past its edge."""

    kind: Literal["pad"] = "pad"
    share: float = Field(0.1, ge=0, le=1, description="Width of the margin as a share of the picture's side.")
    pixels: int | None = Field(None, ge=0, le=4096, description="Width of the margin in pixels; instead of `share`.")

    @model_validator(mode="after")
    def _one_unit(self) -> Pad:
        return _refuse_both(self, "pixels", "share")

    def width(self, side: int) -> int:
        """Return the margin in pixels, for a side in pixels."""
        return round(self.share * side) if self.pixels is None else self.pixels


class Jitter(Move):
    """Shifts by whole pixels in both directions, each number of pixels as likely as any other."""

    kind: Literal["jitter"] = "jitter"
    share: float = Field(0.05, ge=0, le=1, description="Largest shift as a share of the image's side.")
    pixels: int | None = Field(None, ge=0, le=4096, description="Largest shift in pixels; instead of `share`.")

    numbers: ClassVar[int] = 2

    @model_validator(mode="after")
    def _one_unit(self) -> Jitter:
        return _refuse_both(self, "pixels", "share")

    def matrices(self, draws: Tensor, size: tuple[int, int]) -> Tensor:
        """Shift by -p to p pixels; lucid's `jitter(d)` cuts d pixels off, which is p = d / 2."""
        import torch

        sides = size[::-1]
        most = [round(self.share * side) if self.pixels is None else self.pixels for side in sides]
        largest = torch.tensor(most, dtype=draws.dtype)
        return _shifts((draws * (2 * largest + 1)).floor() - largest)


class Scale(_Range, Move):
    """Enlarges or shrinks about the centre."""

    kind: Literal["scale"] = "scale"
    minimum: Factor = Field(0.9, description="Smallest factor.")
    maximum: Factor = Field(1.1, description="Largest factor.")
    values: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Factors, each as likely as any other; instead of `minimum` and `maximum`."
    )

    numbers: ClassVar[int] = 1

    @model_validator(mode="after")
    def _one_choice(self) -> Scale:
        return _refuse_both(self, "values", "minimum", "maximum")

    def matrices(self, draws: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - the same at every size
        """Scale by a factor between `minimum` and `maximum`, or by one of `values`."""
        factor = _between(draws[..., 0], self.minimum, self.maximum, self.values)
        return _linear(1.0 / factor, factor * 0)


class Rotate(Move):
    """Turns about the centre."""

    kind: Literal["rotate"] = "rotate"
    degrees: float = Field(10.0, ge=0, le=180, description="Largest angle, in both directions.")
    values: Annotated[tuple[Degrees, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Angles in degrees, each as likely as any other; instead of `degrees`."
    )

    numbers: ClassVar[int] = 1

    @model_validator(mode="after")
    def _one_choice(self) -> Rotate:
        return _refuse_both(self, "values", "degrees")

    def matrices(self, draws: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - the same at every size
        """Rotate by an angle between -`degrees` and `degrees`, or by one of `values`."""
        angle = _between(draws[..., 0], -self.degrees, self.degrees, self.values) * (math.pi / 180.0)
        return _linear(angle * 0 + 1, angle)


class Crop(_Range, Move):
    """Shows a part of the picture, at any place that lies within it, enlarged to the picture's size."""

    kind: Literal["crop"] = "crop"
    minimum: float = Field(0.7, gt=0.05, le=1, description="Smallest side of the part as a share of the picture's.")
    maximum: float = Field(1.0, gt=0.05, le=1, description="Largest side of the part as a share of the picture's.")

    numbers: ClassVar[int] = 3

    def matrices(self, draws: Tensor, size: tuple[int, int]) -> Tensor:
        """Draw the share and the place evenly; a part keeps the picture's shape."""
        import torch

        share = _between(draws[..., 0], self.minimum, self.maximum, None)
        matrices = _linear(share, share * 0)
        free = (1.0 - share)[..., None] * torch.tensor([size[1], size[0]], dtype=draws.dtype)
        matrices[..., :2, 2] = (draws[..., 1:] - 0.5) * free
        return matrices


class Blur(_Range, Change):
    """Blurs the view, strongly at first if asked for, so that large shapes come before small ones."""

    kind: Literal["blur"] = "blur"
    minimum: float = Field(0.0, ge=0, le=100, description="Smallest standard deviation of the Gaussian in pixels.")
    maximum: float = Field(1.0, ge=0, le=100, description="Largest standard deviation of the Gaussian in pixels.")
    final: float = Field(
        1.0,
        ge=0,
        le=1,
        description="What deviations are multiplied by in the last step: the factor falls evenly from 1.",
    )

    numbers: ClassVar[int] = 1

    def rows(self, draws: Tensor) -> Tensor:
        """Return the deviations, [steps, N]."""
        import torch

        fading = torch.linspace(1.0, self.final, len(draws), dtype=draws.dtype)
        return _between(draws[..., 0], self.minimum, self.maximum, None) * fading[:, None]

    def apply(self, images: Tensor, row: Tensor) -> Tensor:
        """Blur by `row`'s deviations in pixels; the kernel is as wide as the largest one needs."""
        return gaussian_blur(images, row, math.ceil(DEVIATIONS * self.maximum))


class Noise(Change):
    """Adds normal noise to every pixel and colour, new in every step."""

    kind: Literal["noise"] = "noise"
    deviation: float = Field(0.02, ge=0, le=1, description="Standard deviation; black to white is 1.")

    numbers: ClassVar[int] = 2

    def rows(self, draws: Tensor) -> Tensor:
        """Return int32 [steps, N, 2], what names the noise of a view."""
        import torch

        return (draws * 2.0**24).to(torch.int32)

    def apply(self, images: Tensor, row: Tensor) -> Tensor:
        """Add noise."""
        from onnxviz.optimize.noise import normal_noise

        return images + self.deviation * normal_noise(row, (images.shape[2], images.shape[3])).to(images.dtype)


class ColorJitter(Change):
    """Changes brightness, contrast and saturation, each by a random factor of 1 - amount to 1 + amount."""

    kind: Literal["color_jitter"] = "color_jitter"
    brightness: float = Field(0.1, ge=0, le=1, description="Largest change of brightness: colours times a factor.")
    contrast: float = Field(0.1, ge=0, le=1, description="Largest change of contrast: distances to middle grey.")
    saturation: float = Field(0.1, ge=0, le=1, description="Largest change of saturation: distances to grey.")

    numbers: ClassVar[int] = 3
    photographic: ClassVar[bool] = True

    def rows(self, draws: Tensor) -> Tensor:
        """Return [steps, N, 3, 4], matrix and shift of saturation(contrast(brightness(rgb)))."""
        import torch

        amounts = torch.tensor([self.brightness, self.contrast, self.saturation], dtype=draws.dtype)
        bright, contrast, saturation = (1.0 + (2.0 * draws - 1.0) * amounts).unbind(-1)
        grey = torch.tensor(LUMA, dtype=draws.dtype).expand(3, 3)
        mix = grey + saturation[..., None, None] * (torch.eye(3, dtype=draws.dtype) - grey)
        shift = (0.5 - 0.5 * contrast)[..., None, None].expand(*contrast.shape, 3, 1)  # grey, which mixing keeps
        return torch.cat([mix * (bright * contrast)[..., None, None], shift], dim=-1)

    def apply(self, images: Tensor, row: Tensor) -> Tensor:
        """Apply each image's matrix and shift."""
        import torch

        row = row.to(images.dtype)
        return torch.baddbmm(row[..., 3:], row[..., :3], images.flatten(2)).view_as(images)


class Admix(_Range, Change):
    """Lets a scene shine through, another one in every step: the target has to be there in spite of it.

    Source: Wang et al. 2021 (Admix, arXiv:2102.00436), who mix photographs into pictures that are to convince networks
    other than the one they are made on. Scenes of dead leaves need no photographs.
    """

    kind: Literal["admix"] = "admix"
    minimum: float = Field(0.0, ge=0, le=0.95, description="Smallest share of the scene in the view.")
    maximum: float = Field(0.3, ge=0, le=0.95, description="Largest share of the scene in the view.")

    numbers: ClassVar[int] = 2
    photographic: ClassVar[bool] = True

    def rows(self, draws: Tensor) -> Tensor:
        """Return [steps, N, 2], the number of the scene and its share."""
        import torch

        share = _between(draws[..., 1], self.minimum, self.maximum, None)
        return torch.stack([(draws[..., 0] * SCENES).floor(), share], dim=-1)

    def apply(self, images: Tensor, row: Tensor) -> Tensor:
        """Mix each image with its scene."""
        from onnxviz.optimize.scenes import scenes  # loads torch

        share = row[:, 1, None, None, None].to(images.dtype)
        scene = scenes(row[:, 0].long(), (images.shape[2], images.shape[3])).to(images.dtype)
        return images * (1.0 - share) + scene * share


Transform = Annotated[
    Pad | Jitter | Scale | Rotate | Crop | Blur | Noise | ColorJitter | Admix, Field(discriminator="kind")
]


def margins(transforms: Sequence[AnyTransform], size: tuple[int, int]) -> tuple[int, int]:
    """Return the pixels that `pad` adds above and below, and left and right of a picture of this size.

    At least what was asked for: the canvas becomes as large as a Fourier transform likes, which is fast for
    lengths with small prime factors only (a canvas of 268 = 4 x 67 pixels took twice as long as one of 270).
    """
    pads = [transform for transform in transforms if isinstance(transform, Pad)]
    top, left = (_margin(sum(pad.width(length) for pad in pads), length) for length in size)
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


def _between(draws: Tensor, minimum: float, maximum: float, values: tuple[float, ...] | None) -> Tensor:
    """Return numbers between two ends, or of a list, each as likely as any other."""
    import torch

    if values is None:
        return minimum + (maximum - minimum) * draws
    return torch.tensor(values, dtype=draws.dtype)[(draws * len(values)).long()]


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


def _shifts(shifts: Tensor) -> Tensor:
    """Return matrices [..., 3, 3] that add shifts [..., 2]."""
    matrices = _linear(shifts[..., 0] * 0 + 1, shifts[..., 0] * 0)
    matrices[..., :2, 2] = shifts
    return matrices


def _refuse_both(model: _Model, one: str, *others: str) -> _Model:
    """Refuse two ways of saying the same; defaults that were written out, as stored recipes have them, say nothing."""
    fields = type(model).model_fields
    given = [other for other in others if getattr(model, other) != fields[other].default]
    if getattr(model, one) is not None and given:
        raise ValueError(f"`{one}` and `{given[0]}` exclude each other: keep one of them")
    return model
