"""Tensors of few numbers enlarged to a picture: blocks that parameterizations are put together from.

Enlarging is two products of matrices, rows and columns. They have the same bits in every run, also backwards, where the
usual bilinear resampling adds up in an order that a GPU does not keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Enlarged:
    """Enlarges planes bilinearly from one size to another.

    Args:
        low: height and width that are given.
        size: height and width that are wanted.
        device: where it is done.
        offset: shift down and to the right, in the pixels of `size`.
    """

    def __init__(
        self,
        low: tuple[int, int],
        size: tuple[int, int],
        device: torch.device,
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        import torch

        self.low, self.size = low, size
        self._same = low == size and not any(offset)
        weights = [bilinear_weights(*lengths) for lengths in zip(low, size, offset, strict=True)]
        # On the device from the start: copying them there would make every step wait for the device.
        self._rows = torch.from_numpy(weights[0]).to(device)
        self._columns = torch.from_numpy(weights[1]).to(device).T.contiguous()

    def __call__(self, planes: Tensor) -> Tensor:
        """Return planes [..., h, w] of planes [..., low h, low w]."""
        if self._same:
            return planes
        enlarged: Tensor = self._rows @ (planes @ self._columns)
        return enlarged


def bilinear_weights(low: int, size: int, offset: float = 0.0) -> np.ndarray:
    """Return the weights of bilinear enlarging along one direction.

    Pixels are compared at their centres, and the border goes on with its own value. What an offset draws in from before
    the first pixel is the mirror image (lucid `param/lowres.py`, `lowres_tensor`; it compares pixels at their corners,
    as TensorFlow 1 resized, which shifts small tensors by up to half a cell).

    Args:
        low: how many numbers are given.
        size: how many are wanted, at least as many.
        offset: by how much they are shifted towards the end, in wanted pixels.

    Returns:
        float32 [size, low], rows of sum 1.
    """
    centres = np.abs(np.arange(size) + 0.5 - offset)
    places = np.clip(centres * low / size - 0.5, 0.0, low - 1.0)
    weights = np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(low)))
    return np.asarray(weights, dtype=np.float32)
