"""Pictures of exemplars: the patch of an image that a position sees, the image with it framed, and many as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from onnxviz.analyses.dissection.counting import Grid, upsample
from onnxviz.analyses.dissection.pictures import show_mask

Pixels = npt.NDArray[np.uint8]
_Number = TypeVar("_Number", np.uint8, np.float32)
Box = tuple[int, int, int, int]
"""Top, left, bottom and right in pixels of the image, bottom and right exclusive; may reach beyond the image."""

CELL = 88
"""Side in pixels of one picture among several."""
_GAP = 4
NOTHING = 128
"""Grey of what lies beyond the image, and between pictures."""
FRAME = (255, 0, 200)
"""Colour of a patch's frame: not that of the mask's outline."""
_COARSE = 6
"""From this many times enlarged on, pixels are shown as squares."""
HALF = 0.5
"""Part of a unit's highest activation from which on a place is not dimmed."""


def patch(image: npt.NDArray[_Number], box: Box, nothing: int = NOTHING) -> npt.NDArray[_Number]:
    """Return what lies in a box of an image [h, w, channels]; `nothing` where that is beyond the image.

    A position may see padding only, or nothing at all: its patch is one pixel of `nothing` then.
    """
    top, left, bottom, right = box
    height, width, channels = image.shape
    found = np.full((max(bottom - top, 1), max(right - left, 1), channels), nothing, image.dtype)
    rows, columns = (max(top, 0), min(bottom, height)), (max(left, 0), min(right, width))
    if rows[0] < rows[1] and columns[0] < columns[1]:
        inside = found[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
        inside[:] = image[rows[0] : rows[1], columns[0] : columns[1]]
    return found


def shown_box(box: Box, size: tuple[int, int]) -> Box:
    """Return the part of a box of which anything can be shown: one that is larger than the image ends with it."""
    top, left, bottom, right = box
    height, width = size
    if bottom - top > height:
        top, bottom = max(top, 0), min(bottom, height)
    if right - left > width:
        left, right = max(left, 0), min(right, width)
    return top, left, bottom, right


def whole(image: Pixels, activation: npt.NDArray[np.floating] | None, highest: float, box: Box | None) -> Pixels:
    """Return a small image, dimmed where a unit is less than half as active as it ever is, with its patch framed.

    Mask and frame are drawn at the size at which they are shown.

    Args:
        image: uint8 [h, w, 3].
        activation: the unit's map of this image, [rows, columns]; None of a unit without a map.
        highest: its highest activation in any image; where it is not above 0, nothing is dimmed.
        box: what the position of the peak sees; None where that is unknown.
    """
    shown = scaled(image)
    size = (shown.shape[0], shown.shape[1])
    if activation is not None and highest > 0:
        rows, columns = activation.shape
        enlarged = upsample(activation.astype(np.float32), Grid.between((rows, columns), size))
        shown = show_mask(shown, enlarged >= np.float64(HALF * highest))
    if box is not None:
        _frame(shown, box, size[0] / image.shape[0], size[1] / image.shape[1])
    return centred(shown)


def _frame(image: Pixels, box: Box, down: float, across: float) -> None:
    """Draw a box's outline in place, its pixels so much smaller; nothing where it is the image's own border."""
    height, width = image.shape[:2]
    top, left = math.floor(box[0] * down), math.floor(box[1] * across)
    bottom, right = max(math.ceil(box[2] * down), top + 3), max(math.ceil(box[3] * across), left + 3)
    inside = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    for row in (top, bottom - 1):
        if 0 < row < height - 1:
            image[row, inside[1]] = FRAME
    for column in (left, right - 1):
        if 0 < column < width - 1:
            image[inside[0], column] = FRAME


def scaled(pixels: Pixels, side: int = CELL) -> Pixels:
    """Return a picture whose longer side is a side; very small ones in whole steps larger, so that pixels show."""
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest * _COARSE <= side:
        times = side // longest
        return pixels.repeat(times, axis=0).repeat(times, axis=1)
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def centred(pixels: Pixels, side: int = CELL) -> Pixels:
    """Return a picture in the middle of a square of a side."""
    found = np.full((side, side, 3), NOTHING, np.uint8)
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    found[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return found


def together(cells: Sequence[Pixels], columns: int = 0) -> Pixels:
    """Return square pictures as one, row by row; so many in a row, or as many rows as columns."""
    columns = columns or math.ceil(math.sqrt(len(cells)))
    side, rows = cells[0].shape[0], math.ceil(len(cells) / columns)
    step = side + _GAP
    found = np.full((rows * step - _GAP, columns * step - _GAP, 3), NOTHING, np.uint8)
    for place, each in enumerate(cells):
        row, column = divmod(place, columns)
        found[row * step : row * step + side, column * step : column * step + side] = each
    return found
