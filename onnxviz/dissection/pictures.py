"""A unit's mask on a photograph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxviz.images import Pixels, fit_image
from onnxviz.values import Preprocessing

OUTLINE = (255, 221, 0)
_DIMMED = 0.62
"""Dark enough for the mask to stand out, light enough for the scene to be recognised."""
_STRETCH = Preprocessing(fit="stretch")


def shown_size(pixels: Pixels, side: int) -> tuple[int, int]:
    """Return height and width of a picture in its own proportions whose longer side is `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def show_at(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image, uint8 [H, W, 3], at another size."""
    return np.round(fit_image(pixels, _STRETCH, size) * 255).astype(np.uint8)


def show_mask(pixels: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """Dim an image outside a mask and draw the mask's outline.

    Args:
        pixels: uint8 [H, W, 3].
        mask: bool [H, W].

    Returns:
        uint8 [H, W, 3]: the yellow outline lies just inside the mask with a black line around it, so that it stands
        out from light and from dark pictures.
    """
    grey = pixels.mean(axis=2, keepdims=True)
    outside = (0.75 * grey + 0.25 * pixels) * _DIMMED
    shown = np.where(mask[:, :, None], pixels, outside).round().astype(np.uint8)
    shown[_grown(mask) & ~mask] = (0, 0, 0)
    shown[mask & _grown(~mask)] = OUTLINE
    return shown


def _grown(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return a mask with its four-neighbours added."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown
