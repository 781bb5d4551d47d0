"""The contract of parameterizations: how numbers that are optimized become images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.generators import GeneratorNetwork


@dataclass(frozen=True)
class Canvas:
    """What images are painted on.

    Attributes:
        channels: planes that images are made of: 3 for colour, 1 for grey; any number where they are no photographs.
        size: height and width in pixels, margins included.
        group: how many images are made together for one objective; they follow each other in the batch.
        colors: [3, 3], planes to colours (`color.correlate`); the published matrix of photographs if None.
        magnitude: [3, h, w // 2 + 1], mean magnitudes of the spectrum of given photographs; a power law if None.
        generators: name -> a generator, for learned priors.
        samples: channels of the images: 3 of photographs, grey ones too; else as many as there are planes.
    """

    channels: int
    size: tuple[int, int]
    group: int
    device: torch.device
    colors: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    generators: Mapping[str, GeneratorNetwork] = field(default_factory=dict)
    samples: int = 3

    @property
    def colored(self) -> bool:
        """Whether the planes are those of red, green and blue."""
        return self.channels == 3 == self.samples


class Painter:
    """Makes images from parameters, for one batch; pure: the same parameters give the same images.

    Parameters are one tensor [rows, ...]: a row for each image, or for each group where images of a group share some.
    Rows never influence each other, and no method waits for the device.
    """

    rate: float = 1.0
    """What the optimizer's step size is multiplied by, so that the usual one suits all parameterizations."""

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        """Return the first parameters, float32 on the canvas' device.

        Args:
            draws: one generator for each image, on the CPU, so that the same seed starts alike alone and in a batch.
            pictures: RGB [N, 3, h, w] in 0..1 to start from, on the canvas' device; from noise if None.

        Raises:
            AnalysisError: if it cannot start from a picture.
        """
        raise NotImplementedError(type(self).__name__)

    def paint(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the images [N, 3, h, w] in 0..1, RGB; [N, 4, h, w] with opacity where they may be transparent.

        One channel is repeated three times.
        """
        raise NotImplementedError(type(self).__name__)

    def penalty(self, parameters: torch.Tensor) -> torch.Tensor | None:  # noqa: ARG002 - none is less likely
        """Return [N], what makes parameters unlikely, to be held down relative to the activation; None if nothing."""
        return None

    def keep(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the parameters brought back to where they may be, after a step; most return them as they are."""
        return parameters


class Parameterization(BaseModel):
    """A way to write images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    may_have_margin: ClassVar[bool] = True
    """Whether what lies beyond the picture can be painted with it; a generator's image is whole, and nothing is cut."""
    photographic: ClassVar[bool] = False
    """Whether it can write photographs only, of three channels or one."""

    def showing_last_bits(self) -> Self:
        """Return the same without what would hide a difference in the last bits of gradients, for `lanes`."""
        own = getattr(self, "own", None)
        return self.model_copy(update={"own": own.showing_last_bits()}) if isinstance(own, Parameterization) else self

    def painter(self, canvas: Canvas) -> Painter:
        """Return what makes images of this canvas.

        Raises:
            AnalysisError: if it cannot make images of this size or kind.
        """
        raise NotImplementedError(type(self).__name__)


class PlaneParameterization(Parameterization):
    """A way to write images as planes, numbers without bounds, of which colours are made."""

    decorrelate: bool = Field(
        True, description="Give the colours the correlations of photographs, if they are colours."
    )
