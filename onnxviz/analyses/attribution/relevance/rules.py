"""Rules by which the relevance of what a layer with weights gives is divided among what it was given.

With x_i the values, z_j = sum_i x_i w_ij + b_j the result and R_j its relevance. Outside of these rules relevance is
carried by its ratio to the value, g_j = R_j / z_j, which is the gradient where every rule is that of the gradient times
the value. A rule for inner layers returns R_i / x_i, one for the first layer R_i itself.

Sources: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
Propagation"; Montavon et al. 2017, arXiv:1512.02479; Montavon et al. 2019, "Layer-Wise Relevance Propagation: An
Overview"; Lapuschkin et al. 2019, arXiv:1902.10178. Where values are of either sign and where biases go: zennit 0.5.1,
`zennit/rules.py` (Anders et al. 2021, arXiv:2106.13200).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from onnxviz.analyses.attribution.relevance.weighted import Weighted

STABILIZER = 1e-6
"""What keeps denominators from zero; also the epsilon of the epsilon rule unless another is chosen."""

Rule = Callable[[Weighted, torch.Tensor, torch.Tensor], torch.Tensor]
"""A layer, its result, and relevance by result, R_j / z_j -> relevance by value, R_i / x_i."""
FirstRule = Callable[[Weighted, torch.Tensor, int], torch.Tensor]
"""A layer, relevance R_j, and which of the layers it is that the image reaches first -> relevance R_i."""


def stabilized(values: torch.Tensor, epsilon: float = STABILIZER) -> torch.Tensor:
    """Move values away from zero, which itself counts as positive."""
    return values + torch.where(values >= 0, epsilon, -epsilon)


@dataclass(frozen=True)
class Epsilon:
    """R_i = sum_j x_i w_ij R_j / (z_j + epsilon sign z_j) (Bach et al. 2015)."""

    epsilon: float = STABILIZER

    def __call__(self, layer: Weighted, result: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """Return R_i / x_i."""
        _, back = _product(layer, layer.values, layer.weight, None)
        return back(ratio * result / stabilized(result, self.epsilon))


@dataclass(frozen=True)
class Gamma:
    """As epsilon, with w + gamma w⁺ for w where x_i and z_j have the same sign, and w + gamma w⁻ where they do not.

    Of inputs that are not negative: Montavon et al. 2019; of others: Andéol et al. 2021.
    """

    gamma: float = 0.25

    def __call__(self, layer: Weighted, result: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """Return R_i / x_i."""
        raised, lowered = (layer.weight + self.gamma * part for part in _parts(layer.weight))
        biases = (None, None) if layer.bias is None else [layer.bias + self.gamma * part for part in _parts(layer.bias)]
        relevance = ratio * result
        above = _by_signs(layer, relevance * (result > 0), raised, lowered, biases[0])
        below = relevance * (result < 0)
        return above + _by_signs(layer, below, lowered, raised, biases[1]) if bool(below.any()) else above


@dataclass(frozen=True)
class Plus:
    """Only contributions x_i w_ij above zero count, alpha = 1 and beta = 0 (Bach et al. 2015)."""

    def __call__(self, layer: Weighted, result: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """Return R_i / x_i."""
        positive, negative = _parts(layer.weight)
        bias = None if layer.bias is None else layer.bias.clamp(min=0)
        return _by_signs(layer, ratio * result, positive, negative, bias)


@dataclass(frozen=True, eq=False)
class Box:
    """Divide by x_i w_ij - l_i w⁺_ij - h_i w⁻_ij, of values between l and h (zB; Montavon et al. 2017).

    Attributes:
        limits: l and h of each layer that the image reaches first, [1, ...] or as its values.
    """

    limits: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __call__(self, layer: Weighted, relevance: torch.Tensor, place: int) -> torch.Tensor:
        """Return R_i."""
        low, high = (limit.expand_as(layer.values) for limit in self.limits[place])
        parts = zip((layer.values, low, high), (layer.weight, *_parts(layer.weight)), strict=True)
        (whole, own), (least, to_low), (most, to_high) = (_product(layer, *part, None) for part in parts)
        shared = relevance / stabilized(whole - least - most)
        return layer.values.detach() * own(shared) - low * to_low(shared) - high * to_high(shared)


def flat(layer: Weighted, relevance: torch.Tensor, place: int) -> torch.Tensor:  # noqa: ARG001 - of all alike
    """Divide equally among all values that a result is made of (Lapuschkin et al. 2019)."""
    count, back = _product(layer, torch.ones_like(layer.values), torch.ones_like(layer.weight), None)
    return back(relevance / stabilized(count))


def _parts(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.clamp(min=0), values.clamp(max=0)


def _by_signs(
    layer: Weighted,
    relevance: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Return R_i / x_i with one kind of weights for positive and another for negative values."""
    values = layer.values.detach()
    above, below = _parts(values)
    result, back = _product(layer, above, positive, bias)
    if not bool((below < 0).any()):
        return back(relevance / stabilized(result))
    other, other_back = _product(layer, below, negative, None)
    shared = relevance / stabilized(result + other)
    return torch.where(values < 0, other_back(shared), back(shared))


def _product(
    layer: Weighted, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Return what a layer would give for other values and weights, and the transpose of its weighting."""
    with torch.enable_grad():
        given = values.detach().requires_grad_()
        result = layer.compute(given, weight, bias)

    def back(shared: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(result, given, shared)[0]

    return result.detach(), back
