"""Scenes of dead leaves on a device, made once: what is usual is measured on them, and they shine through views."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock

import torch
from torch import Tensor
from torch.nn import functional

from onnxviz.optimize.dead_leaves import SCENES, dead_leaves

_SIDE = 320
"""Pixels of a side beyond which scenes are made smaller and enlarged: all stay in memory, 39 MB for a size at most."""
_LOCK = Lock()


def scenes(which: Tensor, size: tuple[int, int]) -> Tensor:
    """Return some of the scenes; nothing waits for the device.

    Args:
        which: int64 [N], numbers from 0 to `SCENES` - 1.
        size: height and width in pixels.

    Returns:
        RGB, float32 [N, 3, height, width], in 0..1.
    """
    shrunk = min(1.0, _SIDE / max(size))
    small = max(1, round(size[0] * shrunk)), max(1, round(size[1] * shrunk))
    with _LOCK:  # threads that work side by side would each make them
        made = _all(small, which.device)
    chosen = made.index_select(0, which)
    return chosen if small == size else functional.interpolate(chosen, size, mode="bilinear", align_corners=False)


@lru_cache(maxsize=4)  # a captured step reads them: more sizes than one run works on at a time
def _all(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return all scenes, [SCENES, 3, height, width]."""
    return torch.stack([torch.from_numpy(dead_leaves(seed, size)) for seed in range(SCENES)]).to(device)
