"""Products of computed values with constant weights, read off the calls of PyTorch that compute them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """A function that is linear in its values but for a bias.

    Attributes:
        values: what is weighted, on the tape.
        weight: constant.
        bias: of each channel of the result, or None.
        multiply: the product of values with weights.
        axis: of the result's channels; None where they lie on no one axis.
        scale: weights whose result is multiplied by a factor of each channel.
        convolves: whether it is a convolution, and no dense layer.
    """

    values: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    axis: int | None
    scale: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    convolves: bool

    def compute(self, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return what it gives for other values, weights and biases."""
        made = self.multiply(values, weight)
        if bias is None or self.axis is None:
            return made
        return made + bias.reshape(-1, *(1,) * (made.dim() - 1 - self.axis % made.dim()))

    def followed_by(self, factor: torch.Tensor, shift: torch.Tensor) -> Weighted:
        """Return this and a multiplication and an addition for each channel behind it, merged into one."""
        bias = shift if self.bias is None else self.bias * factor + shift
        return dataclasses.replace(self, weight=self.scale(self.weight, factor), bias=bias)


def _scale_first(weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return weight * factor.reshape(-1, *(1,) * (weight.dim() - 1))


def _convolution(
    function: Callable[..., torch.Tensor],
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *rest: Any,
    **settings: Any,
) -> Weighted:
    def multiply(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return function(values, weights, None, *rest, **settings)

    return Weighted(input, weight, bias, multiply, 1 - weight.dim(), _scale_first, True)


def _transposed_convolution(
    function: Callable[..., torch.Tensor],
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *rest: Any,
    **settings: Any,
) -> Weighted:
    groups = int(settings["groups"] if "groups" in settings else rest[3] if len(rest) > 3 else 1)

    def scale(weights: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        grouped = weights.reshape(groups, -1, *weights.shape[1:])
        spread = factor.reshape(groups, 1, -1, *(1,) * (weights.dim() - 2))
        return (grouped * spread).reshape(weights.shape)

    plain = _convolution(function, input, weight, bias, *rest, **settings)
    return dataclasses.replace(plain, scale=scale)


def _linear(
    function: Callable[..., torch.Tensor],
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> Weighted:
    return Weighted(input, weight, bias, function, -1, _scale_first, False)


def _matrix_product(
    function: Callable[..., torch.Tensor],  # noqa: ARG001 - another name of the same
    first: torch.Tensor,
    second: torch.Tensor,
) -> Weighted:
    if first.requires_grad:
        axis = -1 if second.dim() == 2 else None
        return Weighted(first, second, None, torch.matmul, axis, torch.mul, False)
    return Weighted(second, first, None, lambda values, weight: weight @ values, None, torch.mul, False)


_READERS: Mapping[str, Callable[..., Weighted]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matrix_product),
}
PRODUCTS = frozenset(_READERS)
"""Names of PyTorch's functions that are linear in each of their first two arguments."""


def read(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Weighted:
    """Return what a call of one of `PRODUCTS` computes, of whose arguments just the values are on the tape."""
    return _READERS[name](function, *args, **kwargs)
