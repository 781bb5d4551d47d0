"""Operators into which ONNX Runtime's optimiser fuses several become the standard ones again.

Meanings: docs/ContribOperators.md of ONNX Runtime, domain com.microsoft.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxviz.graph.draft import Draft
from onnxviz.graph.passes.replacement import Replacement, Rewrite, replace
from onnxviz.graph.structure import attribute, text

_DEFAULTS: Mapping[str, Mapping[str, float]] = {
    **{name: {} for name in ("Relu", "Sigmoid", "Softplus", "Softsign", "Tanh")},
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
}
"""Activations that are fused with a convolution or product, but for Clip, with the numbers that they have."""


def run(draft: Draft) -> str:
    """Replace each fused operator by what it was fused from."""
    said = replace(draft, REWRITES, "unfuse")
    return f"wrote fused operators as what they were fused from ({said})" if said else ""


def _activate(new: Replacement, value: str, name: str, numbers: Sequence[float]) -> bool:
    """Apply a fused activation to a value, which ends the replacement; False if it is not known."""
    to, own = new.node.output[0], new.draft.new_node("")
    if new.draft.node_names.get(new.node.name):  # the value that the file names is that of the activation
        new.draft.names[value] = new.draft.node_names[new.node.name]
    if name == "Clip" and len(numbers) == 2:
        if new.draft.opset < 11:
            new.add("Clip", value, to=to, name=own, min=numbers[0], max=numbers[1])
        else:
            new.add("Clip", value, *(new.constant(number) for number in numbers), to=to, name=own)
    elif name in _DEFAULTS:
        attributes: dict[str, Any] = {**_DEFAULTS[name], **dict(zip(_DEFAULTS[name], numbers, strict=False))}
        new.add(name, value, to=to, name=own, **attributes)
    else:
        return False
    return True


def _convolution(new: Replacement) -> bool:
    """FusedConv: a convolution, a fourth input that is added, an activation."""
    name, added = text(new.node, "activation"), new.input(3)
    numbers = [float(number) for number in attribute(new.node, "activation_params", ())]
    attributes = new.attributes("activation", "activation_params")
    last = "" if name else new.node.output[0]
    value = new.add("Conv", *map(new.input, range(3)), to="" if added else last, **attributes)
    if added:
        value = new.add("Add", value, added, to=last)
    return not name or _activate(new, value, name, numbers)


def _gemm(new: Replacement) -> bool:
    """FusedGemm: a Gemm and an activation."""
    name = text(new.node, "activation")
    given = (attribute(new.node, f"activation_{number}") for number in ("alpha", "beta", "gamma"))
    attributes = {name: value for name, value in new.attributes().items() if not name.startswith("activation")}
    value = new.add("Gemm", *new.node.input, to="" if name else new.node.output[0], **attributes)
    return not name or _activate(new, value, name, [float(number) for number in given if number is not None])


def _matrix_product(new: Replacement) -> bool:
    """FusedMatMul and TransposeMatMul: alpha A B, of matrices that may be transposed.

    `transBatch` says that an operand's first axis belongs behind its other leading ones.
    """
    operands = []
    for index, side in enumerate("AB"):
        value, rank = new.input(index), new.rank(index)
        transposed, batch = attribute(new.node, f"trans{side}", 0), attribute(new.node, f"transBatch{side}", 0)
        if transposed or batch:
            if rank is None:
                return False
            order = list(range(rank))
            if batch and rank > 1:
                order.insert(rank - 2, order.pop(0))
            if transposed and rank > 1:
                order[-2:] = order[:-3:-1]
            value = new.add("Transpose", value, perm=order)
        operands.append(value)
    alpha, to = float(attribute(new.node, "alpha", 1.0)), new.node.output[0]
    value = new.add("MatMul", *operands, to=to if alpha == 1 else "")
    if alpha != 1:
        new.add("Mul", value, new.constant(alpha), to=to)
    return True


def _biased(new: Replacement) -> str:
    """The sum of an operator's values and their bias, if it has one."""
    return new.add("Add", new.input(0), new.input(1)) if new.input(1) else new.input(0)


def _halved(new: Replacement, value: str, bent: str) -> bool:
    """End with value / 2 · (1 + bent)."""
    product = new.add("Mul", value, new.add("Add", bent, new.constant(1)))
    new.add("Mul", product, new.constant(0.5), to=new.node.output[0])
    return True


def _gelu(new: Replacement) -> bool:
    """Gelu and BiasGelu: x / 2 · (1 + erf(x / √2)) (Hendrycks and Gimpel 2016)."""
    value = _biased(new)
    error = new.add("Erf", new.add("Div", value, new.constant(math.sqrt(2))))
    return _halved(new, value, error)


def _fast_gelu(new: Replacement) -> bool:
    """FastGelu: x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 x³)))."""
    value = _biased(new)
    cube = new.add("Mul", new.add("Mul", value, value), value)
    inner = new.add("Add", value, new.add("Mul", cube, new.constant(0.044715)))
    return _halved(new, value, new.add("Tanh", new.add("Mul", inner, new.constant(math.sqrt(2 / math.pi)))))


def _quick_gelu(new: Replacement) -> bool:
    """QuickGelu: x · sigmoid(alpha x)."""
    scaled = new.add("Mul", new.input(0), new.constant(attribute(new.node, "alpha", 1.702)))
    new.add("Mul", new.input(0), new.add("Sigmoid", scaled), to=new.node.output[0])
    return True


def _skip_normalisation(new: Replacement) -> bool:
    """SkipLayerNormalization: layer normalisation of the sum of an input, a skip connection and a bias.

    SkipSimplifiedLayerNormalization divides by the root mean square only. Further outputs are the mean, the inverse
    standard deviation and the sum.
    """
    centred = new.node.op_type == "SkipLayerNormalization"
    scale, bias = new.input(2), new.input(4 if centred else 3)
    to, mean, inverse, total = [*new.node.output, "", "", ""][:4]
    joined = new.add("Add", new.input(0), new.input(1), to="" if bias else total)
    joined = new.add("Add", joined, bias, to=total) if bias else joined
    epsilon = float(attribute(new.node, "epsilon", 1e-12))
    if centred:
        new.add("LayerNormalization", joined, scale, new.input(3), to=to, axis=-1, epsilon=epsilon)
        new.nodes[-1].output.extend([mean, inverse] if inverse else [mean] if mean else [])
        return True
    if mean:
        _mean(new, joined, mean)
    power = _mean(new, new.add("Mul", joined, joined))
    root = new.add("Sqrt", new.add("Add", power, new.constant(epsilon)))
    scaled = new.add("Mul", joined, new.add("Reciprocal", root, to=inverse))
    new.add("Mul", scaled, scale, to=to)
    return True


def _mean(new: Replacement, value: str, to: str = "") -> str:
    """The mean over the last axis."""
    if new.draft.opset < 18:
        return new.add("ReduceMean", value, to=to, axes=[-1])
    return new.add("ReduceMean", value, new.constant([-1], np.int64), to=to)


def _channels_first(new: Replacement) -> bool:
    """NhwcMaxPool: a pooling of images whose channels are the last axis."""
    attributes = new.attributes()
    sizes = len(attributes.get("kernel_shape", ()))
    if not sizes:
        return False
    first = new.add("Transpose", new.input(0), perm=[0, sizes + 1, *range(1, sizes + 1)])
    pooled = new.add("MaxPool", first, **attributes)
    new.add("Transpose", pooled, to=new.node.output[0], perm=[0, *range(2, sizes + 2), 1])
    return True


REWRITES: Mapping[tuple[str, str], Rewrite] = {
    ("com.microsoft", operator): rewrite
    for operator, rewrite in {
        "BiasGelu": _gelu,
        "FastGelu": _fast_gelu,
        "FusedConv": _convolution,
        "FusedGemm": _gemm,
        "FusedMatMul": _matrix_product,
        "Gelu": _gelu,
        "NhwcMaxPool": _channels_first,
        "QuickGelu": _quick_gelu,
        "SkipLayerNormalization": _skip_normalisation,
        "SkipSimplifiedLayerNormalization": _skip_normalisation,
        "TransposeMatMul": _matrix_product,
    }.items()
}
"""What replaces an operator, by its domain and name."""
