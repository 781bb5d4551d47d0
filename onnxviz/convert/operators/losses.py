"""Losses that stayed in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from onnxviz.convert.operators.operation import Converter, by_function

_ATTRIBUTES: Mapping[str, Any] = {"reduction": ("mean", "sum", "none"), "ignore_index": -100}
"""The class that does not count by default is none of a valid file."""


def negative_log_likelihood(
    logarithms: torch.Tensor,
    classes: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    reduction: str,
    ignore_index: int,
) -> torch.Tensor:
    """Negative log likelihood of given classes: a scalar, or [N, ...] without reduction, of [N, C, ...] and [N, ...].

    Weights are [C]. Source: ONNX NegativeLogLikelihoodLoss.
    """
    # Not functional.nll_loss, which has no gradient for weights that are computed.
    kept = classes != ignore_index
    index = torch.where(kept, classes, 0).long()
    loss = torch.where(kept, -logarithms.gather(1, index.unsqueeze(1)).squeeze(1), 0.0)
    share = kept.to(loss.dtype) if weight is None else torch.where(kept, weight[index], 0.0)
    loss = loss * share
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / share.sum()


def cross_entropy(
    scores: torch.Tensor,
    classes: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    reduction: str,
    ignore_index: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log likelihood of given classes after softmax, and the logarithms.

    Source: ONNX SoftmaxCrossEntropyLoss.
    """
    logarithms = functional.log_softmax(scores, 1)
    loss = negative_log_likelihood(logarithms, classes, weight, reduction=reduction, ignore_index=ignore_index)
    return loss, logarithms


CONVERTERS: Mapping[str, Converter] = {
    "NegativeLogLikelihoodLoss": by_function(negative_log_likelihood, 3, **_ATTRIBUTES),
    "SoftmaxCrossEntropyLoss": by_function(cross_entropy, 3, several=True, **_ATTRIBUTES),
}
