"""Maps at the image's size: one layer's, or those of several layers as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FUSED = "the mean of the layers' maps, each scaled from 0 at its lowest value to 1 at its highest, and enlarged"
"""How `fused` makes one map of several, in words."""


def fused(maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Return one map of those of several layers: their mean, each scaled to 0..1 and enlarged, scaled to 0..1 again.

    A map that is the same everywhere says nothing and counts as 0. Source: pytorch-grad-cam 1.5 (`base_cam.py`,
    `aggregate_multi_layers`; `utils/image.py`, `scale_cam_image`), without the 1e-7 that it divides by at least.

    Args:
        maps: of each layer [N, h, w], not negative, at its own resolution.
        size: height and width of the image.

    Returns:
        [N, *size], from 0 to 1 in each image.
    """
    first, *others = maps
    total = upsample(to_unit(first), size)
    for each in others:  # one by one: enlarged maps of many layers take gigabytes
        total = total + upsample(to_unit(each), size)
    return to_unit(total / len(maps))


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge maps, [N, h, w], bilinearly with half-pixel centres, as OpenCV's INTER_LINEAR does: [N, *size]."""
    from torch.nn import functional

    enlarged: torch.Tensor = functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)
    return enlarged[:, 0]


def to_unit(maps: torch.Tensor) -> torch.Tensor:
    """Scale each map, [N, h, w], from 0 at its lowest value to 1 at its highest; one without a range becomes zeros."""
    return to_own_maximum(maps - maps.amin(dim=(1, 2), keepdim=True))


def to_own_maximum(maps: torch.Tensor) -> torch.Tensor:
    """Divide each map, [N, h, w] and not negative, by its own maximum; one that is zero everywhere stays so."""
    import torch

    highest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(highest > 0, highest, torch.ones_like(highest))
