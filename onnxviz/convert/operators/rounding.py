"""Rounding to integers and narrow floats whose gradient is that of not rounding (straight through).

Bengio, Leonard and Courville, "Estimating or Propagating Gradients Through Stochastic Neurons", 2013.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from onnx import TensorProto


@dataclass(frozen=True)
class Format:
    """A floating type narrower than float16.

    Attributes:
        mantissa: bits behind the binary point.
        exponent: smallest exponent of a normal number.
        largest: largest finite number.
        infinite: whether it has infinities.
        limited: whether it has neither infinities nor NaN: what is too large becomes the largest number.
    """

    mantissa: int
    exponent: int
    largest: float
    infinite: bool = False
    limited: bool = False


_FORMATS: Mapping[str, Format] = {
    "FLOAT8E4M3FN": Format(3, -6, 448.0),
    "FLOAT8E4M3FNUZ": Format(3, -7, 240.0),
    "FLOAT8E5M2": Format(2, -14, 57344.0, infinite=True),
    "FLOAT8E5M2FNUZ": Format(2, -15, 57344.0),
    "FLOAT6E2M3": Format(3, 0, 7.5, limited=True),
    "FLOAT6E3M2": Format(2, -2, 28.0, limited=True),
    "FLOAT4E2M1": Format(1, 0, 6.0, limited=True),
}
FORMATS: Mapping[int, Format] = {
    int(getattr(TensorProto, name)): kind for name, kind in _FORMATS.items() if hasattr(TensorProto, name)
}
"""Narrow floating types by ONNX element type; FLOAT8E8M0 holds powers of two only and is not among them."""


class _Round(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor) -> torch.Tensor:
        return values.round()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class _Replace(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        return rounded.to(values.dtype, copy=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def round_through(values: torch.Tensor) -> torch.Tensor:
    """Round to the nearest integer, ties to even, with a gradient of 1."""
    result: torch.Tensor = _Round.apply(values)  # type: ignore[no-untyped-call]
    return result


def straight_through(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Return `rounded` in the type of `values`, with the gradient of `values`."""
    result: torch.Tensor = _Replace.apply(values, rounded.detach())  # type: ignore[no-untyped-call]
    return result


def round_to_format(values: torch.Tensor, element: int, saturate: bool = True, mode: str = "up") -> torch.Tensor:
    """Round to the numbers of a narrow floating type, ties to even; the gradient is 1 where nothing was clipped.

    Args:
        values: numbers.
        element: ONNX element type: one of `FORMATS`, or FLOAT8E8M0.
        saturate: whether what is too large becomes the largest number, instead of infinity or NaN.
        mode: "up", "down" or "nearest", for FLOAT8E8M0.

    Returns:
        float32 numbers, as the tables of ONNX Cast say.
    """
    if element == TensorProto.FLOAT8E8M0:
        return straight_through(values, _power_of_two(values.detach(), saturate, mode))
    kind = FORMATS[element]
    if saturate or kind.limited:
        values = values.clamp(-kind.largest, kind.largest)
    exact = values.detach()
    exponent = (torch.frexp(exact)[1] - 1).clamp(min=kind.exponent)
    quantum = torch.ldexp(torch.ones_like(exact), exponent - kind.mantissa)
    rounded = (exact / quantum).round() * quantum
    # frexp gives no exponent for what is not finite.
    rounded = torch.where(exact.isfinite(), rounded, exact)
    if kind.limited:  # without NaN: the onnx package, whose tests are the standard here, makes it zero
        return straight_through(values, torch.where(exact.isnan(), torch.zeros_like(rounded), rounded))
    beyond = exact.new_tensor(float("inf") if kind.infinite else float("nan"))
    rounded = torch.where(rounded.abs() > kind.largest, beyond.copysign(exact), rounded)
    return straight_through(values, rounded)


def _power_of_two(values: torch.Tensor, saturate: bool, mode: str) -> torch.Tensor:
    """Round to FLOAT8E8M0: powers of two from 2^-127 to 2^127, and NaN."""
    fraction, exponent = torch.frexp(values.abs())  # value = fraction * 2^exponent, fraction in [0.5, 1)
    exponent = exponent - 1
    # As the bits of a float32 have it: below 2^-126 it is a fraction of 2^-126 whose exponent counts as -127.
    subnormal = values.abs() < 2.0**-126
    above = torch.where(subnormal, values != 0, fraction > 0.5)
    exponent = exponent.clamp(min=-127)
    exponent = torch.where(subnormal, torch.full_like(exponent, -127), exponent)
    if mode == "nearest":
        half = torch.where(subnormal, values.abs() * 2.0**126, fraction * 2 - 1)
        tie = torch.where(subnormal, half > 0.5, half >= 0.5)
        exponent = exponent + tie
    elif mode == "up":
        exponent = exponent + above
    largest = 127
    # In two steps: 2^-127 is no normal float32.
    kept, one = exponent.clamp(max=largest), torch.ones_like(values)
    result = torch.ldexp(one, kept // 2) * torch.ldexp(one, kept - kept // 2)
    beyond = exponent > largest
    if not saturate:
        result = torch.where(beyond, torch.full_like(result, float("nan")), result)
    return torch.where(values.isfinite(), result, torch.full_like(result, float("nan")))
