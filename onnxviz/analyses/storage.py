"""How many bytes findings take when they are stored, estimated before they are made; right within a factor of two.

The constants were measured on the stored jobs of SqueezeNet, MobileNet, a ResNet of CIFAR-10 and mini-XCEPTION.
"""

from __future__ import annotations

RECORD = 2500
"""What a job's record takes beside its pictures and rows."""
PICTURE_ROW = 300
"""A picture in the record: its place, its text, its digest."""
SMALL_PNG = 100
"""A PNG beside its pixels."""


def jpeg(height: int, width: int) -> int:
    """Return the bytes of a photograph, a heat map or an optimized picture of quality 90."""
    return 600 + int(0.29 * height * width)


def png(height: int, width: int) -> int:
    """Return the bytes of a coloured picture without loss."""
    return SMALL_PNG + int(1.7 * height * width)


def dense(count: int) -> int:
    """Return the bytes of so many compressed 32-bit floats that are all different."""
    return 300 + int(3.45 * count)


def sparse(count: int) -> int:
    """Return the bytes of so many compressed 32-bit floats of which many are zero."""
    return 300 + int(1.6 * count)


def kernels(shape: tuple[int, ...], limit: int, channels: int) -> int:
    """Return the bytes of a layer's kernels: each has a row, and the drawn ones a picture and a place on a sheet."""
    size = RECORD + 2200 + 240 * shape[0]
    if len(shape) != 4 or max(shape[2:]) <= 1:
        return size
    values = (3 if shape[1] == 3 else min(shape[1], channels)) * shape[2] * shape[3]
    return size + min(limit, shape[0]) * (PICTURE_ROW + 350 + 6 * values)


def responses(photograph: tuple[int, int], images: int, sizes: tuple[int | None, ...], count: int) -> int:
    """Return the bytes of photographs with maps of `count` kernels, of half their size where that is not known."""
    rows, columns = (size or side // 2 for size, side in zip((*sizes, None, None), photograph, strict=False))
    picture = jpeg(*photograph) + PICTURE_ROW + count * (png(rows, columns) + PICTURE_ROW)
    return RECORD + count * (SMALL_PNG + PICTURE_ROW) + images * picture
