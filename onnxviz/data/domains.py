"""What an input is, one class each: how samples are read, encoded, parameterized, perturbed and shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import DataError
from onnxviz.core.values import LUMA, Preprocessing
from onnxviz.data.base import ImageSource

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageDomain:
    """Images of any number of channels: photographs as RGB, everything else as it is stored.

    Between reading and encoding, samples are float32 [N, channels, height, width] in 0..1: this is what analyses
    compute with, what an ascent changes, and what gradients are taken of.
    """

    preprocessing: Preprocessing

    @property
    def channels(self) -> int:
        """Number of channels of a sample: three of photographs, also where the model sees their brightness only."""
        return 3 if self.photographic else self.preprocessing.channels

    @property
    def planes(self) -> int:
        """Number of independent planes that a picture is made of in an ascent: as many as the model has channels."""
        return self.preprocessing.channels

    @property
    def photographic(self) -> bool:
        """Whether samples are photographs: then views may mix scenes in, and colours are correlated as theirs are."""
        return self.preprocessing.channel_order != "STORED"

    def sample(self, source: ImageSource, index: int) -> npt.NDArray[Any]:
        """Return a photograph as uint8 [height, width, 3], anything else as float32 in 0..1 by its `range`.

        Raises:
            DataError: if it cannot be read, or has other channels or numbers than the preprocessing says.
        """
        if self.photographic:
            return source.read(index)
        stored = getattr(source, "stored", source.read)
        return self.in_range(stored(index))

    def in_range(self, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Bring numbers as they are stored, [height, width, channels] or [height, width], to float32 in 0..1.

        Raises:
            DataError: if they have other channels than the model, or are not within `range`.
        """
        array = array[:, :, None] if array.ndim == 2 else array
        if array.ndim != 3 or 0 in array.shape:
            raise DataError(f"has the shape {list(array.shape)}", remedy="an image is [height, width, channels]")
        if array.shape[2] != self.channels:
            raise DataError(
                f"has {array.shape[2]} channel{'s' * (array.shape[2] != 1)} ({array.dtype} {list(array.shape)}), the "
                f"model takes {self.channels}",
                remedy="give images of that many, [height, width, channels]",
            )
        low, high = self.preprocessing.range
        least, most = float(array.min()), float(array.max())
        if not (low <= least and most <= high):
            raise DataError(
                f"holds numbers from {least:g} to {most:g}, outside {low:g} to {high:g}",
                remedy="say between what the files' numbers lie: `range: [0, 10000]` in `preprocess`",
            )
        return ((array.astype(np.float64) - low) / (high - low)).astype(np.float32)

    def encoder(self, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what turns samples [N, channels, h, w] into the model's numbers, differentiably."""
        import torch

        chosen = self.preprocessing
        channels, (low, high) = chosen.channels, chosen.range
        mean, scale = (
            torch.tensor(numbers, dtype=torch.float32).expand(channels).reshape(1, channels, 1, 1).to(device)
            for numbers in (chosen.mean, chosen.scale)
        )
        luma = torch.tensor(LUMA, device=device).reshape(1, 3, 1, 1)

        def encode(images: torch.Tensor) -> torch.Tensor:
            if chosen.channel_order == "BGR":
                images = images.flip(1)
            elif chosen.channel_order == "GRAY":
                images = (images * luma).sum(1, keepdim=True)
            numbers = images * (high - low)
            return ((numbers + low if low else numbers) - mean) / scale

        return encode

    def show(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return samples as RGB [N, 3, h, w]: in grey where the model sees no more, or the channels to be shown."""
        if self.photographic:
            if self.planes == 3:
                return images
            brightness = (images * np.asarray(LUMA, np.float32).reshape(1, 3, 1, 1)).sum(axis=1, keepdims=True)
            return np.repeat(brightness, 3, axis=1)
        shown = images[:, list(self.preprocessing.shown_channels)]
        return np.broadcast_to(shown, (len(images), 3, *images.shape[2:])).copy()


Domain: TypeAlias = ImageDomain
"""What an input may be: one class each, and so far one."""


def domain_of(preprocessing: Preprocessing) -> Domain:
    """Return what the input of a model is that gets this preprocessing."""
    return ImageDomain(preprocessing)
