"""Operators of which each position of the result depends on the same position of the inputs (after broadcasting)."""

from __future__ import annotations

import math
from typing import Any

from onnxviz.graph.operators.traits import family

_ALGEBRAIC: dict[str, Any] = {"form": "pointwise", "algebraic": True}
_ACTIVATION: dict[str, Any] = {"form": "pointwise", "activation": True}
_FLAT: dict[str, Any] = {"form": "pointwise", "flat": True}

TRAITS = {
    **family("Add Div Mean Mul Neg Pow Reciprocal Sub Sum", **_ALGEBRAIC),
    **family("Cast Identity", keeps="order", **_ALGEBRAIC),
    **family("CastLike", keeps="order", operands=(0,), sloped=(0,), **_ALGEBRAIC),
    **family("Dropout", keeps="order", operands=(0,), sloped=(0,), sloped_outputs=1, random=True, **_ALGEBRAIC),
    **family("Acosh Asinh Atanh Cosh Log Max Min Mod Sinh Tan", "pointwise"),
    **family("Abs Exp", "pointwise", bounds=(0.0, math.inf)),
    **family("Sqrt", bounds=(0.0, math.inf), **_ALGEBRAIC),
    **family("Cos Erf Sin", "pointwise", bounds=(-1.0, 1.0)),
    **family("Acos", "pointwise", bounds=(0.0, math.pi)),
    **family("Asin Atan", "pointwise", bounds=(-math.pi / 2, math.pi / 2)),
    **family("Where", "pointwise"),
    **family("Celu Elu Gelu HardSwish LeakyRelu Mish PRelu Selu Shrink Swish ThresholdedRelu", **_ACTIVATION),
    **family("Clip", operands=(0,), **_ACTIVATION),
    **family("Relu Softplus", bounds=(0.0, math.inf), **_ACTIVATION),
    **family("HardSigmoid Sigmoid", bounds=(0.0, 1.0), **_ACTIVATION),
    **family("Softsign Tanh", bounds=(-1.0, 1.0), **_ACTIVATION),
    **family("Sign", bounds=(-1.0, 1.0), flat=True, **_ACTIVATION),
    **family("Ceil Floor Round", **_FLAT),
    **family("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor", **_FLAT),
    **family("BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor", **_FLAT),
    **family("Bernoulli", random=True, **_FLAT),
    **family("BitCast", flat=True),  # a number of twice the bits becomes two
}
