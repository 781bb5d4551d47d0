"""Rules of PyTorch's functions that are no layers with weights: what computes the same, and carries relevance back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Protocol

import torch

from onnxviz.analyses.attribution.relevance import steps


class Carrier(Protocol):
    """The mode that these rules belong to: `propagation.Propagation`."""

    gates: MutableMapping[torch.Tensor, bool]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call another function by the rules."""

    def note(self, name: str, result: Any) -> Any:
        """Return the result of a function without a rule."""

    def merge(
        self, values: torch.Tensor, result: torch.Tensor, factor: Any = 1.0, shift: Any = 0.0
    ) -> torch.Tensor | None:
        """Return the result of arithmetic with constants behind a layer as the layer's own, if that is possible."""


def _is_live(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad


def is_gate(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function opens and closes: a sigmoid, or its straight kin between 0 and a limit."""
    if name in ("clamp", "hardtanh"):
        low, high = (*args[1:3], *kwargs.values(), None, None)[:2]
        return low == 0 and high is not None if all(map(_is_number, (low, high))) else False
    return name in ("sigmoid", "hardsigmoid", "relu6")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _sum(mode: Carrier, function: Callable[..., Any], first: Any, second: Any, **settings: Any) -> Any:
    result = function(first, second, **settings)
    if _is_live(first) and _is_live(second):
        return result if "sub" in function.__name__ else steps.summed(result)
    if settings:
        return result
    values, constant = (first, second) if _is_live(first) else (second, first)
    subtracts = function.__name__.strip("_") == "sub"
    constant = -torch.as_tensor(constant) if subtracts and values is first else constant
    turned = function.__name__.strip("_") == "rsub" or (subtracts and values is second)
    merged = mode.merge(values, result, factor=-1.0 if turned else 1.0, shift=constant)
    return result if merged is None else merged


def _multiplied(mode: Carrier, function: Callable[..., Any], first: Any, second: Any, **settings: Any) -> Any:
    if not (_is_live(first) and _is_live(second)):
        values, constant = (first, second) if _is_live(first) else (second, first)
        result = function(first, second, **settings)
        if values in mode.gates:
            mode.gates[result] = True
        merged = mode.merge(values, result, factor=constant)
        return result if merged is None else merged
    gates = [each in mode.gates for each in (first, second)]
    if all(gates) and first.numel() != second.numel():
        gates = [each.numel() < max(first.numel(), second.numel()) for each in (first, second)]
    if gates == [True, False]:
        return function(first.detach(), second, **settings)
    if gates == [False, True]:
        return function(first, second.detach(), **settings)
    return steps.divided(function(first, second, **settings), 2)


def _quotient(mode: Carrier, function: Callable[..., Any], first: Any, second: Any, **settings: Any) -> Any:
    if "rdiv" in function.__name__:
        return _quotient(mode, torch.div, torch.as_tensor(second), first, **settings)
    if not _is_live(second):
        result = function(first, second, **settings)
        if first in mode.gates:
            mode.gates[result] = True
        merged = None if settings else mode.merge(first, result, factor=1 / torch.as_tensor(second))
        return result if merged is None else merged
    if _is_live(first):
        return function(first, second.detach(), **settings)
    return _inverse(mode, function, first, second, **settings)


def _inverse(mode: Carrier, function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """Return one through something: it scales whatever it is multiplied by."""
    made = mode.note(function.__name__, function(*args, **settings))
    mode.gates[made] = True
    return made


def _power(mode: Carrier, function: Callable[..., Any], base: Any, exponent: Any) -> Any:
    if not _is_live(base) or _is_live(exponent):
        return mode.note("pow", function(base, exponent))
    if bool((torch.as_tensor(exponent) < 0).all()):
        return _inverse(mode, function, base, exponent)
    with torch.no_grad():
        result = function(base, exponent)
    return steps.scaled(base, result)


def _affine(
    mode: Carrier,
    function: Callable[..., Any],
    shift: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    value: float = 1,
) -> Any:
    """`addcmul`, by which stored statistics normalise."""
    result = function(shift, first, second, value=value)
    if _is_live(shift) or _is_live(second):
        product = mode.call(torch.mul, first, second)
        return mode.call(torch.add, shift, product if value == 1 else mode.call(torch.mul, product, value))
    merged = mode.merge(first, result, factor=second * value, shift=shift)
    return result if merged is None else merged


def _product_and_sum(
    mode: Carrier,
    function: Callable[..., Any],  # noqa: ARG001 - computed step by step
    added: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Any:
    """`addmm` and `baddbmm`."""
    product = mode.call(torch.matmul, first, second)
    product = mode.call(torch.mul, product, alpha) if alpha != 1 else product
    return mode.call(torch.add, product, mode.call(torch.mul, added, beta) if beta != 1 else added)


def _attention(
    mode: Carrier,
    function: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """`scaled_dot_product_attention`, step by step."""
    if dropout_p or enable_gqa:
        settings = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return mode.note("attention", function(query, key, value, attn_mask, **settings))
    scores = mode.call(torch.matmul, query, key.transpose(-2, -1))
    scores = scores * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return mode.call(torch.matmul, scores.softmax(-1), value)


def _layer_normalised(
    mode: Carrier,
    function: Callable[..., Any],  # noqa: ARG001 - computed step by step
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    normalized_shape: Iterable[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    made = _normalised(input, axes, eps)
    made = made if weight is None else mode.call(torch.mul, made, weight)
    return made if bias is None else mode.call(torch.add, made, bias)


def _group_normalised(
    mode: Carrier,
    function: Callable[..., Any],  # noqa: ARG001 - computed step by step
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,  # noqa: ARG001 - PyTorch's signature
) -> Any:
    grouped = input.reshape(input.shape[0], num_groups, -1)
    made = _normalised(grouped, (2,), eps).reshape(input.shape)
    spread = (-1, *(1,) * (input.dim() - 2))
    made = made if weight is None else mode.call(torch.mul, made, weight.reshape(spread))
    return made if bias is None else mode.call(torch.add, made, bias.reshape(spread))


def _batch_normalised(
    mode: Carrier,
    function: Callable[..., Any],
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None or running_var is None:
        return mode.note(
            "batch_norm", function(input, running_mean, running_var, weight, bias, training, momentum, eps)
        )
    factor = (running_var + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    shift = -running_mean * factor if bias is None else bias - running_mean * factor
    spread = (-1, *(1,) * (input.dim() - 2))
    return mode.call(torch.addcmul, shift.reshape(spread), input, factor.reshape(spread))


def _scaled_to_norm(
    mode: Carrier,  # noqa: ARG001 - the signature of all
    function: Callable[..., Any],  # noqa: ARG001 - computed step by step
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    p: float = 2.0,
    dim: int = 1,
    eps: float = 1e-12,
) -> Any:
    norm = torch.linalg.vector_norm(input.detach(), p, dim, keepdim=True)
    return input / norm.clamp_min(eps)


def _normalised(values: torch.Tensor, axes: tuple[int, ...], epsilon: float) -> torch.Tensor:
    variance, mean = torch.var_mean(values, axes, correction=0, keepdim=True)
    return (values - steps.summed(mean)) * (variance + epsilon).rsqrt().detach()


def _root_mean_square_normalised(
    mode: Carrier,
    function: Callable[..., Any],  # noqa: ARG001 - computed step by step
    input: torch.Tensor,  # noqa: A002 - PyTorch's name
    normalized_shape: Iterable[int],
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> Any:
    axes = tuple(range(-len(tuple(normalized_shape)), 0))
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps
    made = input * (input.square().mean(axes, keepdim=True) + epsilon).rsqrt().detach()
    return made if weight is None else mode.call(torch.mul, made, weight)


REPLACED: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("add", "sub", "radd", "rsub"), _sum),
    **dict.fromkeys(("mul", "multiply", "rmul"), _multiplied),
    **dict.fromkeys(("div", "true_divide", "truediv", "rdiv", "rtruediv"), _quotient),
    **dict.fromkeys(("reciprocal", "rsqrt"), _inverse),
    "pow": _power,
    "addcmul": _affine,
    **dict.fromkeys(("addmm", "baddbmm"), _product_and_sum),
    "scaled_dot_product_attention": _attention,
    "layer_norm": _layer_normalised,
    "group_norm": _group_normalised,
    "rms_norm": _root_mean_square_normalised,
    "batch_norm": _batch_normalised,
    "normalize": _scaled_to_norm,
}
"""Name of a function of PyTorch's -> what computes the same by its rule."""
