"""Random views of the image: what is optimized has to excite the unit from each of them, which rules out noise.

Source: Olah et al. 2017, section "Transformation Robustness"; amounts as in lucid `optvis/transform.py`. Places are
moved by `Pad`, `Jitter`, `Scale`, `Rotate` and `Crop`, all in one resampling; then `Blur`, `Noise`, `ColorJitter`
and `Admix` change the pixels of the view. Each takes uniform numbers that are drawn before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import LUMA
from onnxviz.optimize.dead_leaves import SCENES, scenes
from onnxviz.optimize.gaussian import DEVIATIONS, gaussian_blur

Fill = Literal["reflect", "grey", "edge"]
Factor = Annotated[float, Field(gt=0.1, le=10)]
Degrees = Annotated[float, Field(ge=-180, le=180)]


class AnyTransform(BaseModel):
    """What a view goes through."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    numbers: ClassVar[int] = 0
    """How many random numbers a view takes."""
    photographic: ClassVar[bool] = False
    """Whether it is for photographs only: it knows of red, green and blue, or brings scenes in."""
    instead: ClassVar[tuple[str, ...]] = ()
    """A field, and those instead of which it may be given."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        minimum, maximum = getattr(self, "minimum", 0.0), getattr(self, "maximum", 0.0)
        if minimum > maximum:
            raise ValueError(f"minimum {minimum:g} is larger than maximum {maximum:g}")
        # Defaults that were written out, as stored recipes have them, say nothing.
        fields = type(self).model_fields
        given = [name for name in self.instead if getattr(self, name) != fields[name].default]
        if len(given) > 1 and given[0] == self.instead[0]:
            raise ValueError(f"`{given[0]}` and `{given[1]}` exclude each other: keep one of them")
        return self


class Move(AnyTransform):
    """Moves places: where in the picture a view's pixels come from."""

    def matrices(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
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

    def rows(self, draws: torch.Tensor) -> torch.Tensor:
        """Return what `apply` needs to know of each step.

        Args:
            draws: uniform numbers of 0..1, [steps, N, numbers].

        Returns:
            [steps, N, ...], any shape.
        """
        raise NotImplementedError

    def apply(self, images: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
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
    instead: ClassVar[tuple[str, ...]] = ("pixels", "share")

    def width(self, side: int) -> int:
        """Return the margin in pixels, for a side in pixels."""
        return round(self.share * side) if self.pixels is None else self.pixels


class Jitter(Move):
    """Shifts by whole pixels in both directions, each number of pixels as likely as any other."""

    kind: Literal["jitter"] = "jitter"
    share: float = Field(0.05, ge=0, le=1, description="Largest shift as a share of the image's side.")
    pixels: int | None = Field(None, ge=0, le=4096, description="Largest shift in pixels; instead of `share`.")

    instead: ClassVar[tuple[str, ...]] = ("pixels", "share")
    numbers: ClassVar[int] = 2

    def matrices(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Shift by -p to p pixels; lucid's `jitter(d)` cuts d pixels off, which is p = d / 2."""
        sides = size[::-1]
        most = [round(self.share * side) if self.pixels is None else self.pixels for side in sides]
        largest = torch.tensor(most, dtype=draws.dtype)
        return _shifts((draws * (2 * largest + 1)).floor() - largest)


class Scale(Move):
    """Enlarges or shrinks about the centre."""

    kind: Literal["scale"] = "scale"
    minimum: Factor = Field(0.9, description="Smallest factor.")
    maximum: Factor = Field(1.1, description="Largest factor.")
    values: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Factors, each as likely as any other; instead of `minimum` and `maximum`."
    )

    instead: ClassVar[tuple[str, ...]] = ("values", "minimum", "maximum")
    numbers: ClassVar[int] = 1

    def matrices(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:  # noqa: ARG002 - the same at every size
        factor = _between(draws[..., 0], self.minimum, self.maximum, self.values)
        return _linear(1.0 / factor, factor * 0)


class Rotate(Move):
    """Turns about the centre."""

    kind: Literal["rotate"] = "rotate"
    degrees: float = Field(10.0, ge=0, le=180, description="Largest angle, in both directions.")
    values: Annotated[tuple[Degrees, ...], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="Angles in degrees, each as likely as any other; instead of `degrees`."
    )

    instead: ClassVar[tuple[str, ...]] = ("values", "degrees")
    numbers: ClassVar[int] = 1

    def matrices(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:  # noqa: ARG002 - the same at every size
        angle = _between(draws[..., 0], -self.degrees, self.degrees, self.values) * (math.pi / 180.0)
        return _linear(angle * 0 + 1, angle)


class Crop(Move):
    """Shows a part of the picture, at any place that lies within it, enlarged to the picture's size."""

    kind: Literal["crop"] = "crop"
    minimum: float = Field(0.7, gt=0.05, le=1, description="Smallest side of the part as a share of the picture's.")
    maximum: float = Field(1.0, gt=0.05, le=1, description="Largest side of the part as a share of the picture's.")
    numbers: ClassVar[int] = 3

    def matrices(self, draws: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Draw the share and the place evenly; a part keeps the picture's shape."""
        share = _between(draws[..., 0], self.minimum, self.maximum, None)
        matrices = _linear(share, share * 0)
        free = (1.0 - share)[..., None] * torch.tensor([size[1], size[0]], dtype=draws.dtype)
        matrices[..., :2, 2] = (draws[..., 1:] - 0.5) * free
        return matrices


class Blur(Change):
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

    def rows(self, draws: torch.Tensor) -> torch.Tensor:
        """Return the deviations, [steps, N]."""
        fading = torch.linspace(1.0, self.final, len(draws), dtype=draws.dtype)
        return _between(draws[..., 0], self.minimum, self.maximum, None) * fading[:, None]

    def apply(self, images: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Blur by `row`'s deviations in pixels; the kernel is as wide as the largest one needs."""
        return gaussian_blur(images, row, math.ceil(DEVIATIONS * self.maximum))


class Noise(Change):
    """Adds normal noise to every pixel and colour, new in every step."""

    kind: Literal["noise"] = "noise"
    deviation: float = Field(0.02, ge=0, le=1, description="Standard deviation; black to white is 1.")
    numbers: ClassVar[int] = 2

    def rows(self, draws: torch.Tensor) -> torch.Tensor:
        """Return int32 [steps, N, 2], what names the noise of a view."""
        return (draws * 2.0**24).to(torch.int32)

    def apply(self, images: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return images + self.deviation * normal_noise(row, (images.shape[2], images.shape[3])).to(images.dtype)


class ColorJitter(Change):
    """Changes brightness, contrast and saturation, each by a random factor of 1 - amount to 1 + amount."""

    kind: Literal["color_jitter"] = "color_jitter"
    brightness: float = Field(0.1, ge=0, le=1, description="Largest change of brightness: colours times a factor.")
    contrast: float = Field(0.1, ge=0, le=1, description="Largest change of contrast: distances to middle grey.")
    saturation: float = Field(0.1, ge=0, le=1, description="Largest change of saturation: distances to grey.")
    numbers: ClassVar[int] = 3
    photographic: ClassVar[bool] = True

    def rows(self, draws: torch.Tensor) -> torch.Tensor:
        """Return [steps, N, 3, 4], matrix and shift of saturation(contrast(brightness(rgb)))."""
        amounts = torch.tensor([self.brightness, self.contrast, self.saturation], dtype=draws.dtype)
        bright, contrast, saturation = (1.0 + (2.0 * draws - 1.0) * amounts).unbind(-1)
        grey = torch.tensor(LUMA, dtype=draws.dtype).expand(3, 3)
        mix = grey + saturation[..., None, None] * (torch.eye(3, dtype=draws.dtype) - grey)
        shift = (0.5 - 0.5 * contrast)[..., None, None].expand(*contrast.shape, 3, 1)  # grey, which mixing keeps
        return torch.cat([mix * (bright * contrast)[..., None, None], shift], dim=-1)

    def apply(self, images: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        row = row.to(images.dtype)
        return torch.baddbmm(row[..., 3:], row[..., :3], images.flatten(2)).view_as(images)


class Admix(Change):
    """Lets a scene shine through, another one in every step: the target has to be there in spite of it.

    Source: Wang et al. 2021 (Admix, arXiv:2102.00436), who mix photographs into pictures that are to convince networks
    other than the one they are made on. Scenes of dead leaves need no photographs.
    """

    kind: Literal["admix"] = "admix"
    minimum: float = Field(0.0, ge=0, le=0.95, description="Smallest share of the scene in the view.")
    maximum: float = Field(0.3, ge=0, le=0.95, description="Largest share of the scene in the view.")
    numbers: ClassVar[int] = 2
    photographic: ClassVar[bool] = True

    def rows(self, draws: torch.Tensor) -> torch.Tensor:
        """Return [steps, N, 2], the number of the scene and its share."""
        share = _between(draws[..., 1], self.minimum, self.maximum, None)
        return torch.stack([(draws[..., 0] * SCENES).floor(), share], dim=-1)

    def apply(self, images: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        share = row[:, 1, None, None, None].to(images.dtype)
        scene = scenes(row[:, 0].long(), (images.shape[2], images.shape[3])).to(images.dtype)
        return images * (1.0 - share) + scene * share


Transform = Annotated[
    Pad | Jitter | Scale | Rotate | Crop | Blur | Noise | ColorJitter | Admix, Field(discriminator="kind")
]


class Views:
    """The random views of a batch.

    Moves are one affine map for each view, so the image is resampled once; what changes pixels follows, in the order
    given. Each image has its own draws, made before the first step: nothing waits for the host inside the loop, a
    picture is the same alone or in a batch, and a step's view is the same however often it is looked at.

    `size` is that of a view in pixels; the canvas has a `margin` above and below it, and left and right of it.
    Generators are on the CPU, one for each image.
    """

    def __init__(
        self,
        transforms: Sequence[AnyTransform],
        size: tuple[int, int],
        steps: int,
        generators: Sequence[torch.Generator],
        device: torch.device | str,
        fill: Fill = "reflect",
    ) -> None:
        from onnxviz.optimize.resampling import Resampling  # loads torch

        self.margin = margins(transforms, size)
        draws = _draw(transforms, steps, generators)
        moves = [(transform, drawn) for transform, drawn in draws if isinstance(transform, Move)]
        self._maps = fused(moves, size, self.margin).to(device, torch.float32) if moves else None
        self._resampling = Resampling(size, fill, device)
        self._changes = [
            (transform, transform.rows(drawn).to(device)) for transform, drawn in draws if isinstance(transform, Change)
        ]

    def look(self, canvas: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return images as they are seen in a step, int64 [] on their device, from 0.

        The canvas is RGB [N, 3, h + 2 top, w + 2 left] in 0..1, the view [N, 3, h, w].
        """
        place = step.view(1)
        if self._maps is None:
            seen = self.cut(canvas)
        else:
            seen = self._resampling(canvas, self._maps.index_select(0, place)[0])
        for transform, rows in self._changes:
            seen = transform.apply(seen, rows.index_select(0, place)[0])
        return seen

    def cut(self, canvas: torch.Tensor) -> torch.Tensor:
        """Cut the margin off: [N, C, h + 2 top, w + 2 left] to [N, C, h, w]."""
        top, left = self.margin
        return canvas[:, :, top : canvas.shape[2] - top, left : canvas.shape[3] - left]


def _draw(
    transforms: Sequence[AnyTransform], steps: int, generators: Sequence[torch.Generator]
) -> list[tuple[AnyTransform, torch.Tensor]]:
    """Return transforms with uniform numbers [steps, N, numbers], each image's from its own generator."""
    ends = list(accumulate((transform.numbers for transform in transforms), initial=0))
    drawn = torch.stack([torch.rand((steps, ends[-1]), generator=generator) for generator in generators], dim=1)
    return [(each, drawn[..., first:end]) for each, first, end in zip(transforms, ends, ends[1:], strict=False)]


def fused(moves: Sequence[tuple[Move, torch.Tensor]], size: tuple[int, int], margin: tuple[int, int]) -> torch.Tensor:
    """Fuse moves, first to last with their numbers [..., numbers], to one affine map for each view of a size in pixels.

    Return [..., 2, 3], from the view to the canvas in the normalised coordinates of `torch.nn.functional.affine_grid`
    (align_corners=False).
    """
    total = torch.eye(3, dtype=torch.float64)
    for move, draws in moves:
        total = total @ move.matrices(draws.double(), size)
    (height, width), (top, left) = size, margin
    view = torch.tensor([width / 2.0, height / 2.0, 1.0], dtype=torch.float64)
    canvas = torch.tensor([width / 2.0 + left, height / 2.0 + top, 1.0], dtype=torch.float64)
    return (total * view / canvas[:, None])[..., :2, :]


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


def normal_noise(names: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return normal noise that is a function of its names: the same on every device, in any order, in any batch.

    The hash `pcg3d` makes three colours of a pixel's number and two names; the normal distribution's inverse does the
    rest. A generator would give other noise when a step is looked at twice, and cannot be part of a captured step.
    Names are int32 [N, 2]; the noise is float32 [N, 3, h, w], of mean 0 and deviation 1, at most 5.2 deviations from 0.
    Source: Jarzynski and Olano 2020, "Hash Functions for GPU Rendering", Journal of Computer Graphics Techniques 9(3),
    listing of pcg3d.
    """
    height, width = size
    pixels = torch.arange(height * width, dtype=torch.int32, device=names.device)[None]
    # Whole numbers of 32 bits wrap around, as the hash expects of them.
    x, y, z = (value * 1664525 + 1013904223 for value in (pixels, names[:, :1], names[:, 1:]))
    x = x + y * z
    y = y + z * x
    z = z + x * y
    x, y, z = (value ^ ((value >> 16) & 0xFFFF) for value in (x, y, z))
    x = x + y * z
    y = y + z * x
    z = z + x * y
    bits = (torch.stack((x, y, z), dim=1) >> 9) & 0x7FFFFF
    even = (bits.to(torch.float32) + 0.5) / 2.0**22 - 1.0  # -1..1, never the ends
    return (torch.erfinv(even) * math.sqrt(2.0)).view(len(names), 3, height, width)


def _between(draws: torch.Tensor, minimum: float, maximum: float, values: tuple[float, ...] | None) -> torch.Tensor:
    """Return numbers between two ends, or of a list, each as likely as any other."""
    if values is None:
        return minimum + (maximum - minimum) * draws
    return torch.tensor(values, dtype=draws.dtype)[(draws * len(values)).long()]


def _linear(factor: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return matrices [..., 3, 3] that multiply by `factor` and turn by `angle` in radians."""
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    matrices = factor.new_zeros((*factor.shape, 3, 3))
    matrices[..., 0, 0] = cosine
    matrices[..., 0, 1] = -sine
    matrices[..., 1, 0] = sine
    matrices[..., 1, 1] = cosine
    matrices[..., 2, 2] = 1.0
    return matrices


def _shifts(shifts: torch.Tensor) -> torch.Tensor:
    """Return matrices [..., 3, 3] that add shifts [..., 2]."""
    matrices = _linear(shifts[..., 0] * 0 + 1, shifts[..., 0] * 0)
    matrices[..., :2, 2] = shifts
    return matrices
