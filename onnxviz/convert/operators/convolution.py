"""Convolution and its transpose, with ONNX padding, for shared, computed and constant weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    bounded,
    by_function,
)
from onnxviz.convert.operators.windows import CONVOLVE, Window, make_window, pad, read_window

_MODULES: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def convolve(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, window: Window, groups: int
) -> torch.Tensor:
    """Convolve with ONNX's padding, by PyTorch's own wherever that is the same for an image of this size.

    Args:
        images: [N, C, *spatial].
        weight: [M, C / groups, *kernel].
        bias: [M], or None.
        window: padding, strides and dilations.
        groups: number of groups of channels.

    Returns:
        [N, M, *spatial].
    """
    pairs, _ = window.padding(images.shape[2:])
    padding: tuple[int, ...] = tuple(before for before, _ in pairs)
    if any(before != after or before < 0 for before, after in pairs):
        images = pad(images, pairs, "Conv")
        padding = (0,) * len(pairs)
    return CONVOLVE[len(pairs)](images, weight, bias, window.stride, padding, window.dilation, groups)


class WeightedConvolution(nn.Module):
    """A convolution, or a transposed one, with the weights of the file.

    Args:
        weight: the weights.
        bias: the bias, or None.
        function: takes images [N, C, *spatial], weights and bias.
    """

    bias: torch.Tensor | None

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.copy()), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(torch.from_numpy(bias.copy()), requires_grad=False)
        self.function = function

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.function(images, self.weight, self.bias)


def convolve_by_computed(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    attributes: Mapping[str, Any],
    groups: int,
) -> torch.Tensor:
    """Convolve [N, C, *spatial] with weights [M, C / groups, *kernel] that are computed by other nodes."""
    window = make_window("Conv", attributes, tuple(weight.shape[2:]))
    return convolve(images, weight, bias, window, groups)


def convert_convolution(operation: Operation) -> Conversion:
    """Convert `Conv` of one to three spatial axes."""
    weight = operation.known(1)
    groups = operation.setting("group", 1)
    axes = _axes(operation)
    bias = operation.known(2)
    if weight is None or operation.computed(2):
        if axes is not None:
            read_window(operation, (1,) * axes)  # refuses what does not fit
        return Conversion(
            Function(convolve_by_computed, attributes=dict(operation.attributes), groups=groups), (0, 1, 2)
        )
    kernel = tuple(weight.shape[2:])
    _check_kernel(operation, kernel)
    window = read_window(operation, kernel)
    if window.static and min(window.begin) >= 0:
        return Conversion(_convolution(weight, bias, window, groups))
    # Asymmetric padding, or such as follows from the image's size.
    return Conversion(WeightedConvolution(weight, bias, partial(convolve, window=window, groups=groups)))


def _axes(operation: Operation) -> int | None:
    """Return the number of spatial axes, if it is known.

    Raises:
        NotConvertible: if PyTorch does not convolve over so many.
    """
    ranks = [operation.rank(1), operation.rank(0)]
    axes = next((rank - 2 for rank in ranks if rank is not None), None)
    if axes is not None and axes not in _MODULES:
        raise NotConvertible(f"a convolution over {axes} axes")
    return axes


def _check_kernel(operation: Operation, kernel: Sequence[int]) -> None:
    declared = operation.attributes.get("kernel_shape")
    if declared and tuple(declared) != tuple(kernel):
        raise NotConvertible(f"the weights of {operation.operator} have not the declared kernel_shape")


def _convolution(weight: np.ndarray, bias: np.ndarray | None, window: Window, groups: int) -> nn.Module:
    # On the meta device: no time and no random numbers are spent on weights that are replaced at once.
    convolution = _MODULES[len(window.kernel)](
        weight.shape[1] * groups,
        weight.shape[0],
        window.kernel,  # type: ignore[arg-type]
        stride=window.stride,  # type: ignore[arg-type]
        padding=window.begin,  # type: ignore[arg-type]
        dilation=window.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    convolution.weight = nn.Parameter(torch.from_numpy(weight.copy()), requires_grad=False)
    if bias is not None:
        convolution.bias = nn.Parameter(torch.from_numpy(bias.copy()), requires_grad=False)
    return convolution


# --- transposed -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """How one axis of a transposed convolution comes about.

    Attributes:
        whole: its length before anything is cut off.
        padding: what PyTorch cuts off at both ends.
        extra: what PyTorch leaves at the end of that.
        front: what is cut off at the beginning afterwards.
        behind: what is cut off at the end afterwards.
        missing: what is appended afterwards.
    """

    whole: int
    padding: int
    extra: int = 0
    front: int = 0
    behind: int = 0
    missing: int = 0


class TransposedConvolution(nn.Module):
    """A transposed convolution; its padding cuts off, its output padding and its output shape append.

    Source: ONNX ConvTranspose.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self.groups = int(attributes.get("group", 1))
        self.attributes = {key: value for key, value in attributes.items() if key not in ("output_shape", "auto_pad")}
        self.automatic = str(attributes.get("auto_pad", "NOTSET"))
        self.shape = tuple(attributes.get("output_shape") or ())

    def forward(self, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Convolve [N, C, *spatial] with the transpose of [C, M / groups, *kernel]; [N, M, *spatial]."""
        window = make_window("ConvTranspose", self.attributes, tuple(weight.shape[2:]))
        rank = len(window.kernel)
        plans = [self._plan(window, axis, size) for axis, size in enumerate(images.shape[2:])]
        sizes = [plan.whole + plan.missing for plan in plans]
        bounded((images.shape[0], weight.shape[1] * self.groups, *sizes), "ConvTranspose")
        late = any(plan.missing for plan in plans)
        made = _TRANSPOSED[rank](
            images,
            weight,
            None if late else bias,
            window.stride,
            [plan.padding for plan in plans],
            [plan.extra for plan in plans],
            self.groups,
            window.dilation,
        )
        for axis, plan in enumerate(plans, 2):
            if plan.front or plan.behind:
                made = made.narrow(axis, plan.front, made.shape[axis] - plan.front - plan.behind)
        if late:  # beyond the reach of any sample there is only the bias
            made = pad(made, [(0, plan.missing) for plan in plans], "ConvTranspose")
            if bias is not None:
                made = made + bias.reshape(-1, *(1,) * rank)
        return made

    def _plan(self, window: Window, axis: int, size: int) -> _Plan:
        whole = window.stride[axis] * (size - 1) + window.extent[axis]
        before, length = self._place(window, axis, size, whole)
        behind = whole - before - length  # what is to be cut off at the end
        extra = before - behind  # PyTorch cuts off as much there as at the beginning
        if 0 <= extra < max(window.stride[axis], window.dilation[axis]):
            return _Plan(whole, padding=before, extra=extra)
        if extra < 0:
            return _Plan(whole, padding=before, behind=-extra)
        padding = max(behind, 0)
        return _Plan(whole, padding=padding, front=before - padding, missing=max(-behind, 0))

    def _place(self, window: Window, axis: int, size: int, whole: int) -> tuple[int, int]:
        """Return how much is cut off at the beginning of an axis, and its length then."""
        appended = tuple(self.attributes.get("output_padding") or ())
        behind = appended[axis] if appended else 0
        wanted = self.shape[len(self.shape) - len(window.kernel) + axis] if self.shape else None
        same = self.automatic in ("SAME_UPPER", "SAME_LOWER")
        if wanted is None and not same:
            if self.automatic == "VALID":
                return 0, whole + behind
            return window.begin[axis], whole + behind - window.begin[axis] - window.end[axis]
        total = max(whole + behind - (size * window.stride[axis] if wanted is None else wanted), 0)
        # A kernel smaller than the stride leaves less than SAME promises: so says ONNX's own shape inference too.
        length = whole + behind - total if wanted is None else wanted
        return (total // 2 if self.automatic == "SAME_UPPER" else total - total // 2), length


def convert_transposed_convolution(operation: Operation) -> Conversion:
    """Convert `ConvTranspose` of one to three spatial axes."""
    axes = _axes(operation)
    if axes is not None:
        window = read_window(operation, (1,) * axes)
        appended = operation.attributes.get("output_padding") or (0,) * axes
        shape = operation.attributes.get("output_shape") or ()
        if len(appended) != axes or len(shape) not in (0, axes, axes + 2):
            raise NotConvertible("output_padding or output_shape of ConvTranspose do not fit its kernel")
        if min((*window.begin, *window.end, *appended)) < 0:
            raise NotConvertible("ConvTranspose with negative padding")
    convolution = TransposedConvolution(operation.attributes)
    weight = operation.known(1)
    if weight is None or operation.computed(2):
        return Conversion(convolution, (0, 1, 2))
    _check_kernel(operation, weight.shape[2:])
    return Conversion(WeightedConvolution(weight, operation.known(2), convolution))


# --- causal -----------------------------------------------------------------------------------------------------------


def convolve_causally(
    values: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    state: torch.Tensor | None = None,
    *,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convolve each channel of [N, C, length] with [C, 1, kernel] after a state [N, C, kernel - 1].

    The last samples are the state of the next call. Source: ONNX CausalConvWithState.
    """
    before = weight.shape[2] - 1
    padded = functional.pad(values, (before, 0)) if state is None else torch.cat((state, values), 2)
    made = functional.conv1d(padded, weight, bias, groups=values.shape[1])
    if activation != "none":
        made = functional.silu(made)
    return made, padded[:, :, padded.shape[2] - before :]


CONVERTERS: Mapping[str, Converter] = {
    "CausalConvWithState": by_function(convolve_causally, 4, several=True, activation=("none", "silu", "swish")),
    "Conv": convert_convolution,
    "ConvTranspose": convert_transposed_convolution,
}
