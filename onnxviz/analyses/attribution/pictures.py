"""Maps of evidence as pictures, each on a scale of its own that its caption states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.coarse_maps import GRID, coarse
from onnxviz.analyses.attribution.evidence_places import Places, find_places
from onnxviz.core import colormap
from onnxviz.core.findings import Picture

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.method import Method
    from onnxviz.data.domains import Domain

SMALLEST, LARGEST = 128, 256
"""Sides in pixels between which the longer one of a picture lies."""
_WINDOWS = 16
WHERE_PIXELS = f"Maps of pixels are averaged over 1/{_WINDOWS} of the side first, as single pixels say little."

CLIPPED = 99.5
"""Percentile of a map's absolute values from which on it is drawn in the strongest colour, where it is of pixels."""
_SCALES = {
    (False, False): "0 to the map's own maximum; black is no positive evidence",
    (False, True): "red for, blue against, both to the map's own largest value; near-white is neither",
    (True, False): f"0 to the {CLIPPED:g}th percentile of the map's own values, so that single pixels do not hide the "
    "rest; black is none",
    (True, True): f"red for, blue against, both to the {CLIPPED:g}th percentile of the map's own absolute values; "
    "near-white is neither",
}


def scale_of(method: Method) -> str:
    """Return the scale of a method's maps in words."""
    return _SCALES[method.fine, method.signed]


def bound_of(values: npt.NDArray[np.floating], *, fine: bool) -> float:
    """Return the absolute value of a map that is drawn in the strongest colour; 0 if it is blank."""
    sizes = np.abs(values)
    most = float(sizes.max(initial=0.0))
    clipped = float(np.percentile(sizes, CLIPPED)) if fine and sizes.size else most
    return clipped or most  # where less than that share of the pixels holds anything


def cell(
    values: torch.Tensor, photograph: npt.NDArray[np.uint8], alt: str, *, fine: bool, signed: bool
) -> tuple[Picture, Picture]:
    """Return a map [h, w] in colours, and over the photograph, both at the photograph's size."""
    from onnxviz.analyses.attribution.fusion import upsample

    bound = bound_of(values.float().cpu().numpy(), fine=fine)
    enlarged = upsample(values[None].float() / (bound or 1.0), photograph.shape[:2])[0].cpu().numpy()
    if signed:
        coloured, over = colormap.colour_signed(enlarged, 1.0), colormap.overlay_signed(photograph, enlarged)
    else:
        coloured, over = colormap.colour(enlarged), colormap.overlay(photograph, enlarged)
    return Picture(coloured, alt=alt, format="jpeg"), Picture(over, alt=f"{alt}, over the image", format="jpeg")


def outlined(photograph: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> npt.NDArray[np.uint8]:
    """Draw a thin rectangle, white in black so that it is seen on anything, around a box of shares of the image."""
    height, width = photograph.shape[:2]
    top, left, bottom, right = (round(share * side) for share, side in zip(box, (height, width) * 2, strict=True))
    drawn = photograph.copy()
    for out, colour in ((2, 0), (1, 255)):
        rows, columns = (
            (max(low - out, 0), min(high + out, side) - 1)
            for low, high, side in ((top, bottom, height), (left, right, width))
        )
        for row in rows:
            drawn[row, columns[0] : columns[1] + 1] = colour
        for column in columns:
            drawn[rows[0] : rows[1] + 1, column] = colour
    return drawn


def where(values: torch.Tensor, size: tuple[int, ...], *, fine: bool) -> Places | None:
    """Return where on an image of a size a map [h, w] reaches half of its maximum; None if it is nowhere above 0.

    Single pixels of a map of pixels say little: it is averaged over windows of a sixteenth of the image first.
    """
    import torch
    from torch.nn import functional

    from onnxviz.analyses.attribution.fusion import upsample

    values = values.relu()
    if fine:
        window = [max(1, round(side / _WINDOWS)) | 1 for side in values.shape]
        padding = [side // 2 for side in window]
        values = functional.avg_pool2d(values[None, None], window, 1, padding, count_include_pad=False)[0, 0]
    finest = (max(size[0], values.shape[0]), max(size[1], values.shape[1]))
    heat = upsample(values[None], finest) if tuple(values.shape) != finest else values[None]
    return find_places(heat[0].to(torch.float64).cpu().numpy())


def coarse_evidence(values: torch.Tensor, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the share of what a map [h, w] has for the target in each cell over the image, [GRID, GRID]; 0 if blank.

    A map of less than two positions a cell is enlarged to the size first, as in pictures.
    """
    from onnxviz.analyses.attribution.fusion import upsample

    values = values.detach().relu()
    if min(values.shape) < 2 * GRID:
        values = upsample(values[None], (max(size[0], GRID), max(size[1], GRID)))[0]
    cells = coarse(values.double().cpu().numpy())
    total = cells.sum()
    return np.asarray(cells / total) if total > 0 else np.zeros_like(cells)


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which an image is shown: small ones in whole steps larger, large ones reduced."""
    longest = max(height, width)
    if longest < SMALLEST:
        times = -(-SMALLEST // longest)
        return height * times, width * times
    scale = min(1.0, LARGEST / longest)
    return max(1, round(height * scale)), max(1, round(width * scale))


def photograph(image: np.ndarray, domain: Domain) -> npt.NDArray[np.uint8]:
    """Return what the network sees as uint8 [h, w, 3], enlarged or reduced to a size that suits a report."""
    import torch
    from torch.nn import functional

    shown = torch.from_numpy(domain.show(image[None])[0])
    height, width = picture_size(shown.shape[1], shown.shape[2])
    if height > shown.shape[1]:
        times = height // shown.shape[1]
        shown = shown.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    elif (height, width) != tuple(shown.shape[1:]):
        shown = functional.interpolate(shown[None], size=(height, width), mode="bilinear", antialias=True)[0]
    pixels: npt.NDArray[np.uint8] = (shown.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels)
