"""Support vector machines."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import nn

from onnxviz.convert.operators.class_scores import (
    Labels,
    classifier,
    floating,
    floats,
    integers,
    of_two,
    transform_name,
    transformed,
)
from onnxviz.convert.operators.operation import Conversion, NotConvertible, Operation, bounded


class _Kernel(nn.Module):
    """Similarity of each image with each support vector, [N, vectors]."""

    vectors: torch.Tensor

    def __init__(self, operation: Operation, vectors: np.ndarray, linear: bool = False) -> None:
        super().__init__()
        self.kind = "LINEAR" if linear else str(operation.attributes.get("kernel_type", "LINEAR")).upper()
        if self.kind not in ("LINEAR", "POLY", "RBF", "SIGMOID"):
            raise NotConvertible(f"kernel {self.kind[:40]!r} is unknown")
        parameters = [*floats(operation, "kernel_params").tolist(), 0.0, 0.0, 0.0][:3]
        self.gamma, self.offset, self.degree = parameters
        self.register_buffer("vectors", torch.from_numpy(np.ascontiguousarray(vectors, np.float32)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compare values [N, features] with the vectors."""
        bounded((values.shape[0], self.vectors.shape[0]), "a support vector machine")
        if self.kind == "RBF":
            distances = torch.cdist(values, self.vectors, compute_mode="donot_use_mm_for_euclid_dist")
            return torch.exp(-self.gamma * distances.square())
        products: torch.Tensor = values @ self.vectors.T
        if self.kind == "LINEAR":
            return products
        products = self.gamma * products + self.offset
        if self.kind == "SIGMOID":
            return torch.tanh(products)
        return products.pow(int(self.degree) if self.degree == int(self.degree) else self.degree)


def _rows(array: np.ndarray, rows: int, what: str) -> np.ndarray:
    if rows < 1 or len(array) == 0 or len(array) % rows:
        raise NotConvertible(f"{len(array)} {what} do not fill {rows} rows")
    return array.reshape(rows, -1)


def svm_regressor(operation: Operation) -> Conversion:
    """SVMRegressor."""
    return Conversion(_Regressor(operation))


class _Regressor(nn.Module):
    coefficients: torch.Tensor | None

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        coefficients, rho = floats(operation, "coefficients"), floats(operation, "rho")
        supports = int(operation.attributes.get("n_supports", 0))
        if not len(rho):
            raise NotConvertible("it has no rho")
        self.rho = float(rho[0])
        self.one_class = bool(operation.attributes.get("one_class", 0))
        self.transform = transform_name(operation)
        if supports > 0:
            self.kernel = _Kernel(operation, _rows(floats(operation, "support_vectors"), supports, "support vectors"))
            if len(coefficients) != supports:
                raise NotConvertible(f"it has {len(coefficients)} coefficients for {supports} support vectors")
            self.register_buffer("coefficients", torch.from_numpy(coefficients))
        else:
            self.kernel = _Kernel(operation, _rows(coefficients, 1, "coefficients"), linear=True)
            self.register_buffer("coefficients", None)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [N, 1]."""
        scores = self.kernel(floating(values))
        if self.coefficients is not None:
            scores = (scores @ self.coefficients)[:, None]
        scores = scores + self.rho
        if self.one_class:
            return torch.where(scores > 0, 1.0, -1.0).to(scores.dtype)
        return transformed(scores, self.transform) if self.transform == "PROBIT" else scores


def svm_classifier(operation: Operation) -> Conversion:
    """SVMClassifier."""
    labels = Labels(operation)
    module: nn.Module
    if integers(operation, "vectors_per_class").sum() > 0:
        module = _PairwiseClassifier(operation, labels)
    else:
        module = _LinearClassifier(operation, labels)
    return classifier(module, operation, labels)


class _SupportVectorClassifier(nn.Module):
    """How scores and votes become labels and probabilities."""

    def __init__(self, operation: Operation, labels: Labels) -> None:
        super().__init__()
        self.labels = labels
        self.transform = transform_name(operation)
        if not len(floats(operation, "coefficients")):
            raise NotConvertible("it has no coefficients")

    def finish(self, votes: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return labels and scores.

        Args:
            votes: [N, classes], or scores where nobody votes.
            scores: [N, columns].
        """
        scores = self._of_one(scores) if scores.shape[1] == 1 else transformed(scores, self.transform)
        return (self.labels(votes.argmax(1)), scores)

    def _of_one(self, scores: torch.Tensor) -> torch.Tensor:
        if self.transform == "PROBIT":
            return transformed(scores, self.transform)
        if self.labels.count != 2:
            return scores
        return of_two(scores[:, 0], self.transform, complement=self.transform != "NONE")


class _LinearClassifier(_SupportVectorClassifier):
    """One plane for each class."""

    def __init__(self, operation: Operation, labels: Labels) -> None:
        super().__init__(operation, labels)
        rows = _rows(floats(operation, "coefficients"), max(labels.count, 1), "coefficients")
        self.kernel = _Kernel(operation, rows, linear=True)
        rho = floats(operation, "rho")
        if not len(rho):
            raise NotConvertible("it has no rho")
        self.rho = float(rho[0])

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return labels [N] and scores [N, classes]."""
        scores = self.kernel(floating(values)) + self.rho
        return self.finish(scores, scores)


class _PairwiseClassifier(_SupportVectorClassifier):
    """One decision for each pair of classes.

    Source of the probabilities: Wu, Lin and Weng 2004, Probability estimates for multi-class classification by pairwise
    coupling; as in LIBSVM.
    """

    duals: torch.Tensor
    rho: torch.Tensor
    slope: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(self, operation: Operation, labels: Labels) -> None:
        super().__init__(operation, labels)
        counts = integers(operation, "vectors_per_class")
        self.classes = len(counts)
        total = int(counts.sum())
        self.pairs = list(combinations(range(self.classes), 2))
        rho = floats(operation, "rho")
        if counts.min() < 0 or labels.count not in (0, self.classes) or len(rho) < len(self.pairs) or not self.pairs:
            raise NotConvertible("its classes, support vectors and rho do not fit each other")
        self.kernel = _Kernel(operation, _rows(floats(operation, "support_vectors"), total, "support vectors"))
        given = _rows(floats(operation, "coefficients"), self.classes - 1, "coefficients")
        if given.shape[1] != total:
            raise NotConvertible(f"it has {given.shape[1]} coefficients for {total} support vectors")
        # Coefficients of all pairs as one matrix: those of class i against j lie in row j - 1, of j against i in row i.
        ends = np.cumsum(counts)
        matrix = np.zeros((len(self.pairs), total), np.float32)
        for pair, (i, j) in enumerate(self.pairs):
            of_i, of_j = slice(ends[i] - counts[i], ends[i]), slice(ends[j] - counts[j], ends[j])
            matrix[pair, of_i], matrix[pair, of_j] = given[j - 1, of_i], given[i, of_j]
        self.register_buffer("duals", torch.from_numpy(matrix))
        self.register_buffer("rho", torch.from_numpy(rho[: len(self.pairs)]))
        slope, shift = floats(operation, "prob_a"), floats(operation, "prob_b")
        if len(slope) and not len(slope) == len(shift) == len(self.pairs):
            raise NotConvertible("its probability coefficients do not fit its classes")
        self.register_buffer("slope", torch.from_numpy(slope) if len(slope) else None)
        self.register_buffer("shift", torch.from_numpy(shift) if len(shift) else None)

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return labels [N] and scores [N, pairs], or probabilities [N, classes]."""
        kernel = self.kernel(floating(values))
        scores = kernel @ self.duals.T + self.rho
        first = scores > 0
        votes = scores.new_zeros(scores.shape[0], self.classes)
        for pair, (i, j) in enumerate(self.pairs):
            won = first[:, pair].to(scores.dtype)
            votes[:, i] += won
            votes[:, j] += 1 - won
        if self.slope is None or self.shift is None:
            return self.finish(votes, scores)
        chance = torch.sigmoid(-(scores * self.slope + self.shift)).clamp(1e-7, 1 - 1e-7)
        return self.finish(votes, self._coupled(chance))

    def _coupled(self, chance: torch.Tensor) -> torch.Tensor:
        """Return probabilities [N, classes] of what pairs say, [N, pairs]."""
        count = self.classes
        pairwise = chance.new_zeros(chance.shape[0], count, count)
        for pair, (i, j) in enumerate(self.pairs):
            pairwise[:, i, j], pairwise[:, j, i] = chance[:, pair], 1 - chance[:, pair]
        matrix = -pairwise.transpose(1, 2) * pairwise
        matrix = matrix + torch.diag_embed(pairwise.square().sum(1))
        share = torch.full_like(pairwise[:, 0], 1.0 / count)
        for _ in range(max(100, count)):
            product = torch.einsum("nij,nj->ni", matrix, share)
            total = (share * product).sum(1, keepdim=True)
            active = (product - total).abs().amax(1, keepdim=True) >= 0.005 / count
            if not torch.compiler.is_compiling() and active.device.type == "cpu" and not active.any():
                break
            share = torch.where(active, self._sweep(matrix, share, product, total), share)
        return share

    def _sweep(
        self, matrix: torch.Tensor, share: torch.Tensor, product: torch.Tensor, total: torch.Tensor
    ) -> torch.Tensor:
        for t in range(self.classes):
            diagonal = matrix[:, t, t, None]
            step = (total - product[:, t, None]) / diagonal
            unit = torch.nn.functional.one_hot(torch.tensor(t, device=share.device), self.classes).to(share.dtype)
            share = (share + step * unit) / (1 + step)
            total = (total + step * (step * diagonal + 2 * product[:, t, None])) / (1 + step) / (1 + step)
            product = (product + step * matrix[:, t]) / (1 + step)
        return share
