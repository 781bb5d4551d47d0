"""Grad-CAM on tensors: from the activations of one forward pass and a score to maps of evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch.nn import functional

from onnxviz.core.values import Layer
from onnxviz.model.maps import to_map

Method: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Makes maps [N, h, w] of a layer's activations and the gradients of the scores, both [N, channels, h, w]."""


@dataclass(frozen=True, eq=False)
class EvidenceMap:
    """The evidence at one layer, for a batch of images and one score each.

    Attributes:
        values: [N, h, w] at the layer's own resolution, never negative.
        gradient: [N], the largest |d score / d activation|; 0 where the score does not depend on the layer.
    """

    values: torch.Tensor
    gradient: torch.Tensor


def by_mean_gradient(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Return the sums of Grad-CAM, before they are rectified.

    With A_k the activation of channel k and y the score of an image (equations 1 and 2 of Selvaraju et al. 2017,
    arXiv:1610.02391):

        weight_k = mean over positions of dy / dA_k
        map = ReLU(sum over k of weight_k A_k)
    """
    return torch.einsum("nk,nkhw->nhw", gradients.mean(dim=(2, 3)), activations)


def grad_cam(
    score: torch.Tensor,
    activations: Sequence[torch.Tensor],
    keep_tape: bool = False,
    layers: Sequence[Layer] | None = None,
    method: Method = by_mean_gradient,
) -> tuple[EvidenceMap, ...]:
    """Compute the maps of several layers in one backward pass.

    Args:
        score: [N], one number for each image, before any softmax, on the same tape as the activations.
        activations: [N, channels, h, w] each, from one forward pass; a later one may depend on an earlier one.
        keep_tape: whether another backward pass will follow.
        layers: whose activations these are, where some are no maps as they stand but [N, channels, *spatial] with a
            grid, such as the tokens of a transformer; positions that are no patches have no part in the weights.
        method: what makes a map of activations and gradients; what is negative in it is cut off.

    Returns:
        One map for each of the activations, in their order; all zero where the score does not depend on a layer.

    Raises:
        ValueError: if an activation is not [N, channels, h, w].
    """
    as_maps: Sequence[Callable[[torch.Tensor], torch.Tensor]] = (
        [lambda values: values] * len(activations) if layers is None else [partial(to_map, layer) for layer in layers]
    )
    for as_map, given in zip(as_maps, activations, strict=True):
        activation = as_map(given)
        if activation.ndim != 4 or activation.shape[0] != score.shape[0]:
            raise ValueError(f"Grad-CAM needs activations [{score.shape[0]}, channels, h, w], not {activation.shape}")
    if not score.requires_grad:
        return tuple(_no_evidence(as_map(given)) for as_map, given in zip(as_maps, activations, strict=True))
    # An activation off the tape (it depends on nothing that has a gradient) cannot be asked for its gradient.
    taped = [activation for activation in activations if activation.requires_grad]
    gradients = iter(
        torch.autograd.grad(score.sum(), taped, retain_graph=keep_tape, allow_unused=True) if taped else ()
    )
    found = []
    for as_map, given in zip(as_maps, activations, strict=True):
        gradient = next(gradients) if given.requires_grad else None
        activation = as_map(given.detach())
        if gradient is None:
            found.append(_no_evidence(activation))
        else:
            slopes = as_map(gradient)
            found.append(EvidenceMap(method(activation, slopes).relu(), slopes.abs().amax(dim=(1, 2, 3))))
    return tuple(found)


def _no_evidence(activation: torch.Tensor) -> EvidenceMap:
    count, _, height, width = activation.shape
    return EvidenceMap(activation.new_zeros(count, height, width), activation.new_zeros(count))


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Enlarge maps, [N, h, w], bilinearly with half-pixel centres, as OpenCV's INTER_LINEAR does: [N, *size]."""
    enlarged: torch.Tensor = functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)
    return enlarged[:, 0]


def to_own_maximum(maps: torch.Tensor) -> torch.Tensor:
    """Divide each map, [N, h, w] and not negative, by its own maximum; one that is zero everywhere stays so."""
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(highest > 0, highest, torch.ones_like(highest))
