"""From a network's scores to probabilities of classes, where the file or somebody says that there are any."""

from __future__ import annotations

import numpy as np

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.graph.model_output import Head


def require_probabilities(head: Head | None, file: str) -> Head:
    """Return a head that has probabilities of classes for the whole image; raises SelectionError if it has none."""
    if head is not None and head.probability and not head.has_positions:
        return head
    found = "no output that depends on the image" if head is None else f"{shorten(head.name)!r}: {head.in_words}"
    raise SelectionError(
        f"the model gives no probabilities of classes for the whole image ({found})",
        where=shorten(file),
        remedy="if these are scores of classes, say so: `output: classes`, binary or multilabel",
    )


def probabilities_of(head: Head, values: np.ndarray) -> np.ndarray:
    """Return probabilities [N, classes] of what a head's `final` layer holds, or its scores where it has none.

    Raises:
        SelectionError: if there are not as many as classes.
    """
    shares = values.reshape(len(values), -1)
    if head.final is None:
        shares = softmax(shares) if head.probability == "softmax" else sigmoid(shares)
    elif head.final.operator == "LogSoftmax" and head.probability != "given":
        shares = np.exp(shares)
    if head.kind == "binary":
        shares = np.concatenate([1.0 - shares, shares], axis=1)
    if head.classes and shares.shape[1] != head.classes:
        raise SelectionError(
            f"{shorten(head.name)} gives {shares.shape[1]} probabilities for {head.classes} classes",
            remedy="use `measure` for a model that classifies positions, not images",
        )
    return shares


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the softmax along the second axis of [N, classes]."""
    raised: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return shares


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-x), written so that nothing overflows."""
    shares: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * scores))
    return shares
