"""The contract of domains."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxviz.data.base import ImageSource

if TYPE_CHECKING:
    import torch


class Domain(Protocol):
    """What an input is.

    Between reading and encoding, samples are float32 [N, channels, height, width] in 0..1: this is what analyses
    compute with, what an ascent changes, and what gradients are taken of.
    """

    @property
    def channels(self) -> int:
        """Number of channels of a sample."""
        ...

    @property
    def planes(self) -> int:
        """Number of independent planes that a picture is made of in an ascent."""
        ...

    @property
    def photographic(self) -> bool:
        """Whether samples are photographs: then views may mix scenes in, and colours are correlated as theirs are."""
        ...

    def sample(self, source: ImageSource, index: int) -> npt.NDArray[Any]:
        """Return a sample [height, width, channels]: uint8, or float32 in 0..1.

        Raises:
            DataError: if it cannot be read, or is none of this domain.
        """
        ...

    def encoder(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what turns samples [N, channels, h, w] in 0..1 into the model's numbers, differentiably."""
        ...

    def show(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return samples [N, channels, h, w] as they are shown: RGB [N, 3, h, w] in 0..1."""
        ...
