"""Matrix products, sums of products, determinants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional

from onnxviz.convert.element_types import wrap
from onnxviz.convert.operators.operation import Conversion, Converter, Function, NotConvertible, Operation, by_function


class Linear(nn.Module):
    """A matrix product with constant weights, plus a constant bias: `nn.Linear` without its random beginning."""

    bias: torch.Tensor | None

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(_parameter(weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(_parameter(bias), requires_grad=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return functional.linear(values, self.weight, self.bias)


def _parameter(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, order="C"))


def multiply(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Multiply matrices as numpy does, batches broadcast; whole numbers on a GPU in double precision."""
    if first.dtype != second.dtype:  # one of them is a quantised value that carries gradients
        first, second = first.float(), second.float()
    if first.is_floating_point() or first.is_complex() or first.device.type == "cpu":
        return torch.matmul(first, second)
    return torch.matmul(first.double(), second.double()).to(first.dtype)


class MatrixProduct(nn.Module):
    """A product of two computed matrices. Source: ONNX MatMul."""

    def __init__(self, element: int) -> None:
        super().__init__()
        self.element = element

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return wrap(multiply(first, second), self.element)


def general_product(
    first: torch.Tensor,
    second: torch.Tensor,
    third: torch.Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    transposed: tuple[bool, bool],
    element: int,
) -> torch.Tensor:
    """Return alpha A B + beta C of [M, K], [K, N] or their transposes, and what broadcasts to [M, N]. ONNX Gemm."""
    first, second = (matrix.t() if swap else matrix for matrix, swap in zip((first, second), transposed, strict=True))
    if first.dtype.is_floating_point and second.dtype.is_floating_point:
        if third is None:
            made = first @ second
            return made if alpha == 1 else alpha * made
        return torch.addmm(third.to(first.dtype), first, second, beta=beta, alpha=alpha)
    made = alpha * multiply(first.double(), second.double())
    if third is not None:
        made = made + beta * third
    return wrap(made.to(torch.promote_types(first.dtype, second.dtype)), element)


def einstein_sum(*values: torch.Tensor, equation: str, element: int) -> torch.Tensor:
    """Return a sum of products over named axes. Source: ONNX Einsum."""
    if values[0].dtype.is_floating_point or values[0].device.type == "cpu":
        return wrap(torch.einsum(equation, *values), element)
    made = torch.einsum(equation, *(value.double() for value in values))
    return wrap(made.to(values[0].dtype), element)


def convert_matrix_product(operation: Operation) -> Conversion:
    second = operation.known(1)
    if second is not None and second.ndim == 2 and operation.element(0) == TensorProto.FLOAT:
        return Conversion(Linear(second.T.astype(np.float32, copy=False), None))
    return Conversion(MatrixProduct(operation.result()), (0, 1))


def convert_general_product(operation: Operation) -> Conversion:
    alpha, beta = operation.setting("alpha", 1.0), operation.setting("beta", 1.0)
    transposed = operation.setting("transA", False), operation.setting("transB", False)
    second, third = operation.known(1), operation.known(2)
    if (
        second is not None
        and not transposed[0]
        and not operation.computed(2)
        and operation.element(0) == TensorProto.FLOAT
    ):
        weight = second if transposed[1] else second.T
        bias = _vector(third, weight.shape[0])
        if third is None or bias is not None:
            scaled = None if bias is None else (beta * bias).astype(np.float32)
            return Conversion(Linear((alpha * weight).astype(np.float32) if alpha != 1 else weight, scaled))
    settings = {"alpha": alpha, "beta": beta, "transposed": transposed, "element": operation.result()}
    return Conversion(Function(general_product, **settings), (0, 1, 2))


def _vector(values: np.ndarray | None, length: int) -> np.ndarray | None:
    """Return what is the same for each row as a vector; None if it differs from row to row."""
    if values is None or (values.ndim == 2 and values.shape[0] != 1) or values.ndim > 2:
        return None
    return np.broadcast_to(values.reshape(-1), (length,)) if values.size in (1, length) else None


def convert_einstein_sum(operation: Operation) -> Conversion:
    equation = str(operation.attributes.get("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) != len(operation.given) or equation.count("->") > 1:
        raise NotConvertible("the equation of Einsum does not fit its inputs")
    function = Function(einstein_sum, equation=equation, element=operation.result())
    return Conversion(function, range(len(operation.given)))


CONVERTERS: Mapping[str, Converter] = {
    "Det": by_function(torch.linalg.det),
    "Einsum": convert_einstein_sum,
    "Gemm": convert_general_product,
    "MatMul": convert_matrix_product,
}
