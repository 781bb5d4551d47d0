"""What is driven up: one number for each image, read from the activations of its target's layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxviz.errors import SelectionError, shorten
from onnxviz.values import Target

if TYPE_CHECKING:
    from torch import Tensor


def objective(activations: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return the activation of each image's own target, without its sign.

    A neuron is the activation at one position; a channel (Olah et al. 2017) is the mean over all positions, and in a
    layer without positions, such as logits, the unit itself (Simonyan et al. 2013); a whole layer is the mean of
    squares (Mordvintsev et al. 2015, DeepDream).

    Args:
        activations: [N, units, *spatial], one image for each target.
        targets: N targets in the same layer.

    Returns:
        [N], float32.

    Raises:
        SelectionError: if a target's unit or position does not exist in these activations.
    """
    import torch

    return torch.stack([_activation(image, target) for image, target in zip(activations, targets, strict=True)])


def signs(targets: Sequence[Target]) -> list[float]:
    """Return 1.0 for each target to maximise and -1.0 for each to minimise."""
    return [float(target.sign) for target in targets]


def centre(spatial: Sequence[int]) -> tuple[int, ...]:
    """Return the middle position; of an even number the one after the middle, as lucid `objectives_util.py` has it."""
    return tuple(size // 2 for size in spatial)


def _activation(image: Tensor, target: Target) -> Tensor:
    """Read one target from one image's activations [units, *spatial]."""
    if target.unit is None:
        return image.float().square().mean()
    units, spatial = int(image.shape[0]), tuple(int(size) for size in image.shape[1:])
    if not 0 <= target.unit < units:
        raise SelectionError(
            f"layer {shorten(target.layer)!r} has {units} units, 0 to {units - 1}; there is no unit {target.unit}"
        )
    unit = image[target.unit].float()
    if target.position is None:
        return unit.mean()
    position = target.position or centre(spatial)
    if len(position) != len(spatial) or any(not 0 <= at < size for at, size in zip(position, spatial, strict=True)):
        raise SelectionError(
            f"layer {shorten(target.layer)!r} has positions of shape {list(spatial)} at this image size; "
            f"there is no position {list(position)}",
            remedy="give `position: center`, or one index for each dimension, counted from 0",
        )
    return unit[position]
