"""Losses that stayed in a file."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation

_NOTHING_IGNORED = -100
"""No class of a valid file, and what PyTorch ignores unless told otherwise."""


class NegativeLogLikelihood(nn.Module):
    """Negative log likelihood of given classes. Source: ONNX NegativeLogLikelihoodLoss.

    Args:
        reduction: "mean", "sum" or "none".
        ignored: class that does not count.
    """

    def __init__(self, reduction: str, ignored: int) -> None:
        super().__init__()
        self.reduction = reduction
        self.ignored = ignored

    def forward(
        self, logarithms: torch.Tensor, classes: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute a scalar, or [N, ...] without reduction, of [N, C, ...] and [N, ...]; weights [C]."""
        # Not functional.nll_loss, which has no gradient for weights that are computed.
        kept = classes != self.ignored
        index = torch.where(kept, classes, 0).long()
        loss = torch.where(kept, -logarithms.gather(1, index.unsqueeze(1)).squeeze(1), 0.0)
        share = kept.to(loss.dtype) if weight is None else torch.where(kept, weight[index], 0.0)
        loss = loss * share
        if self.reduction == "none":
            return loss
        return loss.sum() if self.reduction == "sum" else loss.sum() / share.sum()


class CrossEntropy(nn.Module):
    """Negative log likelihood of given classes after softmax. Source: ONNX SoftmaxCrossEntropyLoss.

    Args:
        loss: of the logarithms.
        outputs: how many outputs the node has; the second is the logarithms.
    """

    def __init__(self, loss: NegativeLogLikelihood, outputs: int) -> None:
        super().__init__()
        self.loss = loss
        self.outputs = outputs

    def forward(
        self, scores: torch.Tensor, classes: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss of [N, C, ...] and [N, ...]."""
        logarithms = functional.log_softmax(scores, 1)
        loss: torch.Tensor = self.loss(logarithms, classes, weight)
        return loss if self.outputs == 1 else (loss, logarithms)


def _loss(operation: Operation) -> NegativeLogLikelihood:
    reduction = str(operation.attributes.get("reduction", "mean"))
    if reduction not in ("mean", "sum", "none"):
        raise NotConvertible(f"{operation.operator} with a reduction that ONNX does not define")
    return NegativeLogLikelihood(reduction, int(operation.attributes.get("ignore_index", _NOTHING_IGNORED)))


def convert_negative_log_likelihood(operation: Operation) -> Conversion:
    """Convert `NegativeLogLikelihoodLoss`."""
    return Conversion(_loss(operation), range(len(operation.given)))


def convert_cross_entropy(operation: Operation) -> Conversion:
    """Convert `SoftmaxCrossEntropyLoss`."""
    module = CrossEntropy(_loss(operation), 1 if operation.single else 2)
    return Conversion(module, range(len(operation.given)))


CONVERTERS: Mapping[str, Converter] = {
    "NegativeLogLikelihoodLoss": convert_negative_log_likelihood,
    "SoftmaxCrossEntropyLoss": convert_cross_entropy,
}
