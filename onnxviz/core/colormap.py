"""Numbers as colours: one perceptually uniform map for amounts, one for signed values, and heat laid over a photograph.

`INFERNO` follows matplotlib's map of that name, by Nathaniel J. Smith and Stefan van der Walt, whose data are in the
public domain (CC0 1.0): nineteen of its 256 colours with straight lines between them, nowhere more than 2 of 255 away.
Its lightness rises steadily, so that equal steps of the value look equal, in grey print and to colour-blind readers.
`SIGNED` is this project's own: blue for negative, near-white for zero, red for positive, equally dark at both ends.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxviz.core.values import LUMA

Pixels: TypeAlias = npt.NDArray[np.uint8]
Values: TypeAlias = npt.NDArray[np.floating[Any]]

_INFERNO = (
    (0, 0x000004), (4, 0x02010A), (18, 0x0D0829), (29, 0x1C0C43), (43, 0x340A5F), (56, 0x4A0C6B), (73, 0x65156E),
    (89, 0x7F1E6C), (106, 0x9A2865), (123, 0xB43359), (143, 0xD04545), (172, 0xEF6C23), (192, 0xF98E09),
    (201, 0xFC9F07), (213, 0xFBB61A), (228, 0xF7D340), (236, 0xF3E35A), (244, 0xF1F179), (255, 0xFCFFA4),
)  # fmt: skip
_SIGNED = ((0, 0x123A7C), (64, 0x5B8FD1), (128, 0xF4F3F1), (192, 0xD77A62), (255, 0x861A22))


def _table(points: tuple[tuple[int, int], ...]) -> Pixels:
    positions, colours = zip(*points, strict=True)
    channels = [[(colour >> shift) & 255 for colour in colours] for shift in (16, 8, 0)]
    table = np.stack([np.interp(np.arange(256), positions, channel) for channel in channels], axis=1)
    return np.round(table).astype(np.uint8)


INFERNO: Pixels = _table(_INFERNO)
"""uint8 [256, 3], RGB: black through purple and orange to pale yellow."""
SIGNED: Pixels = _table(_SIGNED)
"""uint8 [256, 3], RGB: blue, near-white at entry 128, red."""


def colour(values: Values, table: Pixels = INFERNO) -> Pixels:
    """Colour numbers between 0 and 1; what lies outside is clipped.

    Args:
        values: any shape [...].
        table: uint8 [256, 3].

    Returns:
        uint8 [..., 3].

    Raises:
        ValueError: if a value is not finite: a picture must not hide that.
    """
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite have no colour")
    entries = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    coloured: Pixels = table.take(entries, axis=0)
    return coloured


def colour_signed(values: Values, bound: float) -> Pixels:
    """Colour signed numbers by `SIGNED`, with zero in the middle.

    Args:
        values: any shape [...].
        bound: the absolute value at both ends of the table; 0 if every value is 0.

    Returns:
        uint8 [..., 3].

    Raises:
        ValueError: if a value or the bound is not finite.
    """
    if not np.isfinite(bound):
        raise ValueError("a bound that is not finite gives no scale")
    scaled = np.asarray(values, np.float64) / bound if bound else np.zeros(np.shape(values))
    return colour((128 + 127 * np.clip(scaled, -1, 1)) / 255, SIGNED)


def overlay(image: Pixels, heat: Values, alpha: float = 0.8) -> Pixels:
    """Lay heat over a photograph: the photograph in faint grey where there is none, the map's colour where there is.

    The colour of a pixel is (1 - w) * photograph + w * map(heat) with w = alpha * sqrt(heat): what carries evidence
    keeps both its texture and its colour, and the photograph's own colours cannot be mistaken for heat.

    Args:
        image: uint8 [h, w, 3], RGB.
        heat: [h, w] in 0..1; what lies outside is clipped.
        alpha: opacity of the heat at 1, from 0 (photograph only) to 1.

    Returns:
        uint8 [h, w, 3].

    Raises:
        ValueError: if the sizes differ, alpha is outside 0..1, or the heat is not finite.
    """
    if image.shape[:2] != heat.shape or image.shape[2:] != (3,):
        raise ValueError(f"image {image.shape} and heat {heat.shape} do not lie on each other")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is between 0 and 1, not {alpha}")
    return _blended(image, colour(heat), np.clip(heat, 0, 1), alpha)


def overlay_signed(image: Pixels, values: Values, alpha: float = 0.8) -> Pixels:
    """Lay signed numbers over a photograph as `overlay` does heat: red for, blue against, the photograph for zero.

    Args:
        image: uint8 [h, w, 3], RGB.
        values: [h, w] in -1..1; what lies outside is clipped.
        alpha: opacity of the colour at 1 and -1, from 0 to 1.

    Returns:
        uint8 [h, w, 3].

    Raises:
        ValueError: as `overlay`.
    """
    if image.shape[:2] != values.shape or image.shape[2:] != (3,):
        raise ValueError(f"image {image.shape} and values {values.shape} do not lie on each other")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is between 0 and 1, not {alpha}")
    return _blended(image, colour_signed(values, 1.0), np.clip(np.abs(values), 0, 1), alpha)


def _blended(image: Pixels, coloured: Pixels, heat: Values, alpha: float) -> Pixels:
    """Return a photograph in faint grey under colours whose opacity is alpha times the root of the heat."""
    weight = np.float32(alpha) * np.sqrt(heat.astype(np.float32))
    faint = (image.astype(np.float32) @ _LUMINANCE) * (1 - weight)
    blended: Pixels = np.empty(image.shape, np.uint8)
    for channel in range(3):
        blended[..., channel] = np.rint(faint + weight * coloured[..., channel])
    return blended


_LUMINANCE = np.array(LUMA, np.float32)
