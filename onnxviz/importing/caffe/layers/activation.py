"""Layers that treat each number for itself, and Softmax.

Source: Caffe's layer of the same name each; ONNX operators as named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxviz.importing.caffe.writer import Step


def pointwise(operator: str) -> Callable[[Step], None]:
    """Return the conversion of a layer that is one ONNX operator without parameters."""

    def convert(step: Step) -> None:
        step.top(operator, [step.bottom], step.bottom.shape)

    return convert


def relu(step: Step) -> None:
    """Convert ReLU to Relu, or to LeakyRelu where it has a slope."""
    slope = step.number(step.parameters("relu_param"), "negative_slope")
    if slope:
        step.top("LeakyRelu", [step.bottom], step.bottom.shape, alpha=slope)
    else:
        step.top("Relu", [step.bottom], step.bottom.shape)


def relu6(step: Step) -> None:
    """Convert the forks' ReLU6 to Clip."""
    bound = step.number(step.parameters("relu6_param"), "threshold")
    step.top("Clip", [step.bottom, step.constant("min", 0), step.constant("max", bound)], step.bottom.shape)


def clip(step: Step) -> None:
    """Convert Clip."""
    low, high = step.numbers("clip_param", "min", "max")
    if low > high:
        raise step.refuse(f"clips between {low} and {high}")
    step.top("Clip", [step.bottom, step.constant("min", low), step.constant("max", high)], step.bottom.shape)


def prelu(step: Step) -> None:
    """Convert PReLU; its slope belongs to a channel or to all of them."""
    source = step.bottom
    if source.rank < 2:
        raise step.refuse("needs an input with a channel axis")
    shared = step.parameters("prelu_param").channel_shared
    shape = (1 if shared else source.shape[1], *(1 for _ in source.shape[2:]))
    step.top("PRelu", [source, step.weight(0, shape, "slope")], source.shape)


def elu(step: Step) -> None:
    """Convert ELU."""
    step.top("Elu", [step.bottom], step.bottom.shape, alpha=step.number(step.parameters("elu_param"), "alpha"))


def power(step: Step) -> None:
    """Convert Power, (shift + scale · x)^power."""
    scale, shift, exponent = step.numbers("power_param", "scale", "shift", "power")
    _chain(step, [*_linear(scale, shift), *([("Pow", exponent)] if exponent != 1 else [])])


def exp(step: Step) -> None:
    """Convert Exp, base^(shift + scale · x), where a base of -1 stands for e."""
    scale, shift, base = step.numbers("exp_param", "scale", "shift", "base")
    if base != -1 and base <= 0:
        raise step.refuse(f"has the base {base}", "give a positive base, or -1 for e")
    factor = 1.0 if base == -1 else math.log(base)
    _chain(step, [*_linear(scale * factor, shift * factor), ("Exp", None)])


def log(step: Step) -> None:
    """Convert Log, the logarithm of shift + scale · x to a base, where a base of -1 stands for e."""
    scale, shift, base = step.numbers("log_param", "scale", "shift", "base")
    if base != -1 and (base <= 0 or base == 1):
        raise step.refuse(f"has the base {base}", "give a positive base other than 1, or -1 for e")
    behind: list[tuple[str, float | None]] = [] if base == -1 else [("Mul", 1 / math.log(base))]
    _chain(step, [*_linear(scale, shift), ("Log", None), *behind])


def swish(step: Step) -> None:
    """Convert Swish, x · sigmoid(beta · x)."""
    source = step.bottom
    beta = step.number(step.parameters("swish_param"), "beta")
    inside = source
    if beta != 1:
        inside = step.inner("Mul", [source, step.constant("beta", beta)], source.shape, "scaled")
    gate = step.inner("Sigmoid", [inside], source.shape, "gate")
    step.top("Mul", [source, gate], source.shape)


def threshold(step: Step) -> None:
    """Convert Threshold: 1 above the threshold, else 0."""
    source = step.bottom
    bound = step.constant("threshold", step.number(step.parameters("threshold_param"), "threshold"))
    above = step.inner("Greater", [source, bound], source.shape, "above")
    step.top("Cast", [above], source.shape, to=1)


def softmax(step: Step) -> None:
    """Convert Softmax along an axis."""
    source = step.bottom
    axis = step.axis(step.parameters("softmax_param").axis, "compares images with each other")
    step.top("Softmax", [source], source.shape, axis=axis)


def _linear(scale: float, shift: float) -> list[tuple[str, float | None]]:
    found: list[tuple[str, float | None]] = []
    if scale != 1:
        found.append(("Mul", scale))
    if shift != 0:
        found.append(("Add", shift))
    return found


def _chain(step: Step, operations: Sequence[tuple[str, float | None]]) -> None:
    """Add one node after the other, each with at most one constant; the last makes the top."""
    value = step.bottom
    if not operations:
        step.top("Identity", [value], value.shape)
        return
    for index, (operator, number) in enumerate(operations):
        role = operator.lower()
        constants = [] if number is None else [step.constant(role, number)]
        if index == len(operations) - 1:
            step.top(operator, [value, *constants], value.shape)
        else:
            value = step.inner(operator, [value, *constants], value.shape, role)
