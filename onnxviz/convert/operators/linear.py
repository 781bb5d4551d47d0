"""Matrix products, sums of products, determinants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto
from torch import nn
from torch.nn import functional

from onnxviz.convert.element_types import wrap
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation


class Linear(nn.Module):
    """A matrix product with constant weights, plus a constant bias: `nn.Linear` without its random beginning."""

    bias: torch.Tensor | None

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(_parameter(weight), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(_parameter(bias), requires_grad=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply [..., in] by the transpose of [out, in]."""
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
        """Multiply tensors of any rank."""
        return wrap(multiply(first, second), self.element)


class GeneralProduct(nn.Module):
    """alpha A' B' + beta C, each matrix transposed or not. Source: ONNX Gemm."""

    def __init__(self, alpha: float, beta: float, transposed: tuple[bool, bool], element: int) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.transposed = transposed
        self.element = element

    def forward(self, first: torch.Tensor, second: torch.Tensor, third: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply [M, K] and [K, N], or their transposes, and add what broadcasts to [M, N]."""
        first, second = (
            matrix.t() if swap else matrix for matrix, swap in zip((first, second), self.transposed, strict=True)
        )
        if first.dtype.is_floating_point and second.dtype.is_floating_point:
            if third is None:
                made = first @ second
                return made if self.alpha == 1 else self.alpha * made
            return torch.addmm(third.to(first.dtype), first, second, beta=self.beta, alpha=self.alpha)
        made = self.alpha * multiply(first.double(), second.double())
        if third is not None:
            made = made + self.beta * third
        return wrap(made.to(torch.promote_types(first.dtype, second.dtype)), self.element)


class EinsteinSum(nn.Module):
    """A sum of products over named axes. Source: ONNX Einsum."""

    def __init__(self, equation: str, element: int) -> None:
        super().__init__()
        self.equation = equation
        self.element = element

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Sum products of tensors of any rank."""
        if values[0].dtype.is_floating_point or values[0].device.type == "cpu":
            return wrap(torch.einsum(self.equation, *values), self.element)
        made = torch.einsum(self.equation, *(value.double() for value in values))
        return wrap(made.to(values[0].dtype), self.element)


class Determinant(nn.Module):
    """Determinants of square matrices [..., M, M]. Source: ONNX Det."""

    def forward(self, matrices: torch.Tensor) -> torch.Tensor:
        """Compute [...]."""
        determinants: torch.Tensor = torch.linalg.det(matrices)
        return determinants


def convert_matrix_product(operation: Operation) -> Conversion:
    """Convert `MatMul`."""
    second = operation.known(1)
    if second is not None and second.ndim == 2 and operation.element(0) == TensorProto.FLOAT:
        return Conversion(Linear(second.T.astype(np.float32, copy=False), None))
    return Conversion(MatrixProduct(operation.result()), (0, 1))


def convert_general_product(operation: Operation) -> Conversion:
    """Convert `Gemm`."""
    get = operation.attributes.get
    alpha, beta = float(get("alpha", 1.0)), float(get("beta", 1.0))
    transposed = bool(get("transA", 0)), bool(get("transB", 0))
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
    module = GeneralProduct(alpha, beta, transposed, operation.result())
    return Conversion(module, (0, 1, 2) if operation.has(2) else (0, 1))


def _vector(values: np.ndarray | None, length: int) -> np.ndarray | None:
    """Return what is the same for each row as a vector; None if it differs from row to row."""
    if values is None or (values.ndim == 2 and values.shape[0] != 1) or values.ndim > 2:
        return None
    return np.broadcast_to(values.reshape(-1), (length,)) if values.size in (1, length) else None


def convert_einstein_sum(operation: Operation) -> Conversion:
    """Convert `Einsum`."""
    equation = str(operation.attributes.get("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) != len(operation.given) or equation.count("->") > 1:
        raise NotConvertible("the equation of Einsum does not fit its inputs")
    return Conversion(EinsteinSum(equation, operation.result()), range(len(operation.given)))


def convert_determinant(_operation: Operation) -> Conversion:
    """Convert `Det`."""
    return Conversion(Determinant())


CONVERTERS: Mapping[str, Converter] = {
    "Det": convert_determinant,
    "Einsum": convert_einstein_sum,
    "Gemm": convert_general_product,
    "MatMul": convert_matrix_product,
}
