"""From scores to labels and probabilities, as the classifiers of ai.onnx.ml do it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from onnxviz.convert.operators.operation import Conversion, NotConvertible, Operation

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def transform_name(operation: Operation) -> str:
    """Return the attribute post_transform.

    Raises:
        NotConvertible: if it is none of the standard's.
    """
    given = operation.attributes.get("post_transform", "NONE")
    name = TRANSFORMS[given] if isinstance(given, int) and 0 <= given < len(TRANSFORMS) else str(given).upper()
    if name not in TRANSFORMS:
        raise NotConvertible(f"post_transform {name[:40]!r} is unknown")
    return name


def transformed(scores: torch.Tensor, name: str) -> torch.Tensor:
    """Apply a post_transform to scores [N, classes]."""
    if name == "SOFTMAX":
        return torch.softmax(scores, 1)
    if name == "LOGISTIC":
        return torch.sigmoid(scores)
    if name == "PROBIT":
        normal: torch.Tensor = torch.special.ndtri(scores)
        return normal
    if name == "SOFTMAX_ZERO":  # the softmax of what is not zero
        raised = torch.exp(scores - scores.amax(1, keepdim=True))
        raised = torch.where(scores.abs() > 1e-7, raised, torch.zeros_like(raised))
        total = raised.sum(1, keepdim=True)
        normalised: torch.Tensor = raised / torch.where(total == 0, torch.ones_like(total), total)
        return normalised
    return scores


def transform_targets(scores: torch.Tensor, name: str) -> torch.Tensor:
    """Apply a post_transform to results [N, targets]; as in ONNX Runtime only PROBIT transforms a single number."""
    return scores if scores.shape[1] == 1 and name != "PROBIT" else transformed(scores, name)


def of_two(score: torch.Tensor, transform: str, complement: bool) -> torch.Tensor:
    """Return scores [N, 2] of one score s [N]: 1 - s and s where it is a share of votes, else -s and s.

    As in ONNX Runtime only LOGISTIC transforms them further.
    """
    if transform == "LOGISTIC":
        return torch.sigmoid(torch.stack([-score, score], 1))
    return torch.stack([1 - score if complement else -score, score], 1)


def floating(values: torch.Tensor) -> torch.Tensor:
    """Return values as floating numbers."""
    return values if values.is_floating_point() else values.float()


def floats(operation: Operation, name: str) -> np.ndarray:
    """Return a list of numbers, from `<name>` or `<name>_as_tensor`, as float32; empty if it is not there."""
    value = operation.attributes.get(f"{name}_as_tensor")
    if value is None or not np.size(value):
        value = operation.attributes.get(name, ())
    return np.asarray(value, np.float32).reshape(-1)


def integers(operation: Operation, name: str) -> np.ndarray:
    """Return a list of integers; empty if it is not there."""
    return np.asarray(operation.attributes.get(name, ()), np.int64).reshape(-1)


class Labels(nn.Module):
    """Class labels by index; strings are no tensors, and of them the scores are all there is."""

    labels: torch.Tensor

    def __init__(self, operation: Operation, name: str = "classlabels_ints") -> None:
        super().__init__()
        found = integers(operation, name)
        strings = operation.attributes.get("classlabels_strings", ())
        self.count = len(found) or len(strings)
        self.refused = {0: "its labels are strings"} if strings and not len(found) else {}
        self.known = self.count > 0
        self.register_buffer("labels", torch.from_numpy(found))

    def forward(self, index: torch.Tensor) -> torch.Tensor | None:
        """Return the labels of classes [N]; the index itself where there are no labels."""
        if self.refused:
            return None
        return self.labels[index] if self.known else index

    def binary(self, positive: torch.Tensor) -> torch.Tensor | None:
        """Return the labels of decisions [N] between two classes; of one label, that or 0."""
        if self.refused:
            return None
        if self.count == 1:
            return torch.where(positive, self.labels[0], torch.zeros_like(self.labels[0]))
        return self(positive.long()) if self.count == 2 else positive.long()


def classifier(module: nn.Module, operation: Operation, labels: Labels) -> Conversion:
    """Return the conversion of a classifier, whose module returns labels and scores.

    Labels that are strings are refused and the scores are not.

    Raises:
        NotConvertible: if such labels are all that is wanted.
    """
    if operation.single and labels.refused:
        raise NotConvertible(labels.refused[0])
    return Conversion(module, refused=labels.refused, several=True)
