"""Convolutions and matrix products of integers, exact in floating point.

A float32 holds integers to 2^24. Where the weights are constant, the largest sum that they can make is known: if it is
below that, one product in float32 is exact in whatever order it is summed. If it is not, the weights are split into
their upper and lower parts, whose sums are; only where that does not help, double precision computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from onnxviz.convert.operators.convolution import convolve
from onnxviz.convert.operators.operation import NotConvertible, Operation
from onnxviz.convert.operators.rounding import round_through
from onnxviz.convert.operators.windows import read_window

_EXACT = 1 << 24
_STEP = 16
"""Upper parts of weights are multiples of this."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class ExactProduct(nn.Module):
    """Product of integer values with constant integer weights, and a bias.

    Args:
        product: the product of values and weights: a convolution or a matrix product.
        weight: integers, their zero point subtracted.
        sums: for each sum that the product makes, the sum of the magnitudes of its weights.
        largest: largest magnitude of a value.
        bias: integers to add, in a shape that broadcasts; or None.
    """

    bias: torch.Tensor | None

    def __init__(
        self, product: Product, weight: np.ndarray, sums: np.ndarray, largest: int, bias: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.product = product
        added = 0 if bias is None or not bias.size else int(np.abs(bias.astype(np.int64)).max())
        parts = self._split(weight, sums, largest, added)
        self.steps = [step for step, _, _ in parts]
        for index, (_, part, kind) in enumerate(parts):
            self.register_buffer(f"weight{index}", torch.from_numpy(part).to(kind))
        kind = torch.float64 if len(parts) > 1 else parts[0][2]
        self.register_buffer("bias", None if bias is None else torch.from_numpy(bias.astype(np.int64)).to(kind))

    @staticmethod
    def _split(
        weight: np.ndarray, sums: np.ndarray, largest: int, added: int
    ) -> list[tuple[int, np.ndarray, torch.dtype]]:
        most = int(sums.max(initial=0))
        if most * largest + added < _EXACT:
            return [(1, weight, torch.float32)]
        count = weight.size // max(sums.size, 1)
        upper = np.rint(weight / _STEP).astype(np.int64)
        # A lower part is at most half a step; an upper one at most its share of the sum, rounded up by a half.
        if max(count * _STEP // 2, most // _STEP + count // 2 + 1) * largest < _EXACT:
            return [(_STEP, upper, torch.float32), (1, weight - _STEP * upper, torch.float32)]
        return [(1, weight, torch.float64)]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply; float32 where that is exact, else float64."""
        weights = [self.get_buffer(f"weight{index}") for index in range(len(self.steps))]
        if values.is_cuda and weights[0].dim() > 2:
            # cuDNN may transform a convolution (Winograd, FFT), whose sums are not those of integers.
            weight = torch.stack([step * part.double() for step, part in zip(self.steps, weights, strict=True)]).sum(0)
            result = round_through(self.product(values.double(), weight))
        elif len(weights) == 1:
            result = self.product(values.to(weights[0].dtype), weights[0])
        else:
            upper, lower = (self.product(values, part).double() for part in weights)
            result = upper * self.steps[0] + lower * self.steps[1]
        return result if self.bias is None else result + self.bias


def read_convolution(operation: Operation, weight: int) -> Product:
    """Return a convolution of integers with weights that are given to it; padding is zero.

    Args:
        operation: the node.
        weight: index of the input that holds the weights.

    Raises:
        NotConvertible: if the kernel's size is unknown, or it has more than three axes.
    """
    kernel = operation.attributes.get("kernel_shape")
    shape = operation.shapes[weight]
    if not kernel and shape is not None:
        kernel = [size or 0 for size in shape[2:]]
    if not kernel or not all(kernel) or len(kernel) > 3:
        raise NotConvertible(f"the kernel of this {operation.operator}")
    return partial(convolve, bias=None, window=read_window(operation, kernel), groups=operation.setting("group", 1))


def sums_of_magnitudes(weight: np.ndarray, columns: bool) -> np.ndarray:
    """Return what each output would be at most if all values were 1.

    Args:
        weight: kernels [out, in, ...], or with `columns` matrices [..., in, out].
        columns: which of both.
    """
    magnitudes = np.abs(weight.astype(np.int64))
    axes = -2 if columns and weight.ndim > 1 else tuple(range(0 if columns else 1, weight.ndim))
    return np.asarray(magnitudes.sum(axes))
