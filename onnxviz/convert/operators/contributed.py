"""ONNX Runtime's own floating operators (domain com.microsoft), which files that it has optimised hold.

Meanings: docs/ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.activations import Clip, HardSigmoid, Swish
from onnxviz.convert.operators.convolution import convert_convolution
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation


class Chain(nn.Module):
    """An operator, then what was fused with it: perhaps a sum, perhaps an activation.

    Args:
        first: the operator.
        activation: the activation.
        added: whether the last argument is added before the activation.
    """

    def __init__(self, first: nn.Module, activation: nn.Module, added: bool) -> None:
        super().__init__()
        self.first = first
        self.activation = activation
        self.added = added

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Run both."""
        result = self.first(*(values[:-1] if self.added else values))
        activated: torch.Tensor = self.activation(result + values[-1] if self.added else result)
        return activated


class MatrixProduct(nn.Module):
    """alpha * A B + beta * C, of matrices that may be transposed.

    Args:
        alpha: factor of the product.
        beta: factor of what is added.
        transposed: for each operand, whether its last two axes change places.
        batch: for each operand, whether its first axis belongs behind the other leading ones (`transBatch`).
    """

    def __init__(
        self, alpha: float, beta: float, transposed: tuple[bool, bool], batch: tuple[bool, bool] = (False, False)
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.transposed = transposed
        self.batch = batch

    def forward(self, first: torch.Tensor, second: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply."""
        operands = []
        for values, transposed, batch in zip((first, second), self.transposed, self.batch, strict=True):
            if batch:
                values = values.movedim(0, -2)
            operands.append(values.transpose(-1, -2) if transposed and values.dim() > 1 else values)
        result = torch.matmul(*operands)
        if self.alpha != 1:
            result = result * self.alpha
        if added is None:
            return result
        return result + (added if self.beta == 1 else added * self.beta)


class BiasedGelu(nn.Module):
    """GELU of values with an optional bias."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, values: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Activate."""
        return functional.gelu(values if bias is None else values + bias, approximate=self.approximate)


class SkipNormalisation(nn.Module):
    """Normalisation over the last axis of the sum of an input, a skip connection and a bias.

    Args:
        epsilon: added to the variance.
        centred: whether the mean is subtracted (layer normalisation) or not (by the root mean square only).
        skipped: whether there is a skip connection.
        outputs: for each output of the node, whether it has a name.
    """

    def __init__(self, epsilon: float, centred: bool, outputs: Sequence[bool]) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.centred = centred
        self.outputs = tuple(outputs)

    def forward(
        self,
        values: torch.Tensor,
        skip: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> Any:
        """Normalise [batch, sequence, hidden]."""
        total = values + skip if bias is None else values + skip + bias
        size = (total.shape[-1],)
        if self.centred:
            result = functional.layer_norm(total, size, scale, shift, self.epsilon)
        else:
            result = functional.rms_norm(total, size, scale, self.epsilon)
        if self.outputs == (True,):
            return result
        mean = total.mean(-1, keepdim=True)
        centre = total - mean if self.centred else total
        inverse = (centre.square().mean(-1, keepdim=True) + self.epsilon).rsqrt()
        return (result, mean, inverse, total)[: len(self.outputs)]


_ACTIVATIONS: Mapping[str, Callable[[list[float]], nn.Module]] = {
    "": lambda _: nn.Identity(),
    "Relu": lambda _: nn.ReLU(),
    "Tanh": lambda _: nn.Tanh(),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "Softplus": lambda _: nn.Softplus(),
    "Softsign": lambda _: nn.Softsign(),
    "LeakyRelu": lambda numbers: nn.LeakyReLU(numbers[0] if numbers else 0.01),
    "Elu": lambda numbers: nn.ELU(numbers[0] if numbers else 1.0),
    "Clip": lambda numbers: Clip(*numbers),
    "HardSigmoid": lambda numbers: HardSigmoid(*(numbers or (0.2, 0.5))),
}


def _activation(operation: Operation, numbers: Sequence[float]) -> nn.Module:
    name = operation.attributes.get("activation", "")
    if name not in _ACTIVATIONS or (name == "Clip" and len(numbers) != 2):
        raise NotConvertible("an activation that is not known")
    return _ACTIVATIONS[name](list(numbers))


def convert_fused_convolution(operation: Operation) -> Conversion:
    """Convert `FusedConv`: a convolution, a fourth input that is added, an activation."""
    added = operation.has(3)
    plain = replace(
        operation,
        operator="Conv",
        given=operation.given[:3],
        constants=operation.constants[:3],
        shapes=operation.shapes[:3],
        elements=operation.elements[:3],
    )
    conversion = convert_convolution(plain)
    numbers = [float(number) for number in operation.attributes.get("activation_params", ())]
    module = Chain(conversion.module, _activation(operation, numbers), added)
    return Conversion(module, (*conversion.inputs, 3) if added else conversion.inputs)


def convert_fused_gemm(operation: Operation) -> Conversion:
    """Convert `FusedGemm`."""
    get = operation.attributes.get
    product = MatrixProduct(
        float(get("alpha", 1.0)), float(get("beta", 1.0)), (bool(get("transA", 0)), bool(get("transB", 0)))
    )
    names = [f"activation_{name}" for name in ("alpha", "beta", "gamma")]
    numbers = [float(operation.attributes[name]) for name in names if name in operation.attributes]
    inputs = (0, 1, 2) if operation.has(2) else (0, 1)
    return Conversion(Chain(product, _activation(operation, numbers), False), inputs)


def convert_fused_matrix_product(operation: Operation) -> Conversion:
    """Convert `FusedMatMul` and `TransposeMatMul`."""
    get = operation.attributes.get
    transposed = (bool(get("transA", 0)), bool(get("transB", 0)))
    batch = (bool(get("transBatchA", 0)), bool(get("transBatchB", 0)))
    return Conversion(MatrixProduct(float(get("alpha", 1.0)), 1.0, transposed, batch), (0, 1))


def convert_gelu(operation: Operation) -> Conversion:
    """Convert `Gelu`, `BiasGelu` and `FastGelu`."""
    approximate = "tanh" if operation.operator == "FastGelu" else "none"
    return Conversion(BiasedGelu(approximate), (0, 1) if operation.has(1) else (0,))


def convert_quick_gelu(operation: Operation) -> Conversion:
    """Convert `QuickGelu`: x * sigmoid(alpha * x)."""
    return Conversion(Swish(float(operation.attributes.get("alpha", 1.702))))


def convert_skip_normalisation(operation: Operation) -> Conversion:
    """Convert `SkipLayerNormalization` and `SkipSimplifiedLayerNormalization`."""
    centred = operation.operator == "SkipLayerNormalization"
    module = SkipNormalisation(float(operation.attributes.get("epsilon", 1e-12)), centred, operation.outputs)
    return Conversion(module, (0, 1, 2, 3, 4) if centred else (0, 1, 2, 9, 3))


CONVERTERS: Mapping[str, Converter] = {
    f"com.microsoft:{operator}": converter
    for operator, converter in {
        "BiasGelu": convert_gelu,
        "FastGelu": convert_gelu,
        "FusedConv": convert_fused_convolution,
        "FusedGemm": convert_fused_gemm,
        "FusedMatMul": convert_fused_matrix_product,
        "Gelu": convert_gelu,
        "QuickGelu": convert_quick_gelu,
        "SkipLayerNormalization": convert_skip_normalisation,
        "SkipSimplifiedLayerNormalization": convert_skip_normalisation,
        "TransposeMatMul": convert_fused_matrix_product,
    }.items()
}
