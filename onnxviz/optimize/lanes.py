"""How images share a CPU: in several threads, a few at a time, and every picture the same bits as if made alone.

Threads that each make their own images are faster than threads that share every operator, and what one thread computes
does not depend on how many there are. A few images in a pass are faster than one: weights are brought into the form
that a kernel likes at each pass. But the library may choose another kernel for another number of images, with other
last bits, from which an ascent arrives at another picture. So it is tried which numbers of images give the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onnxviz.core.lazy_torch import torch

PROBE_STEPS = 2
"""Steps that are compared: the first moves by signs alone with some optimizers, which shows no last bits."""
_SMALL = 160 * 160
"""Pixels of images of which 8 in a pass are faster than 4; 8 of 224 x 224 were slower."""


def tried_sizes(pixels: int) -> tuple[int, ...]:
    """Return the numbers of images in a pass that are tried for images of so many pixels, from large to small."""
    return (8, 4, 2, 1) if pixels <= _SMALL else (4, 2, 1)


def agreeing(make: Callable[[int], Sequence[np.ndarray]], tried: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of images that may share a pass, from large to small: all give an image the same bits.

    Args:
        make: makes so many images, all of them the same one, and returns arrays [images, ...]. So it is seen too if
            the place in the batch matters, as it does to matrix products with few rows.
        tried: numbers of images, from large to small.

    Returns:
        The largest number and those that agree with it; (1,) if a picture alone would need a pass of more than two.
    """
    first: Sequence[np.ndarray] = ()
    found = []
    for size in tried:
        made = make(size)
        images = first or [array[0] for array in made]
        if all(
            np.array_equal(array, np.broadcast_to(one, array.shape)) for array, one in zip(made, images, strict=True)
        ):
            first = images
            found.append(size)
    return tuple(found) if found and min(found) <= 2 else (1,)


def shares(count: int, lanes: int, sizes: Sequence[int]) -> list[tuple[range, int]]:
    """Split images among threads, given how many may share a pass.

    Return images and the number that is to share their pass, which may be larger: the last image is then repeated.
    """
    upward = sorted(sizes)
    each = next((size for size in upward if size * lanes >= count), upward[-1])
    found = []
    for first in range(0, count, each):
        part = range(first, min(first + each, count))
        found.append((part, next(size for size in upward if size >= len(part))))
    return found


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread in this block: the same bits however many threads there are, and no waiting for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
