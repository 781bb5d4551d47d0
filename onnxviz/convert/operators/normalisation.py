"""Normalisation by stored statistics, by those of the batch, and by those of each image, group, token or channel.

Scales and biases are arguments: those of a file arrive as constants of the graph, held once however often used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation


class StoredNormalisation(nn.Module):
    """Batch normalisation by constants, as one multiplication and one addition. Source: ONNX BatchNormalization.

    Not functional.batch_norm: on a CPU its gradient to the input is wrong (PyTorch 2.13) for one image whose gradient
    comes from tokens, strided over channels.
    """

    factor: torch.Tensor
    shift: torch.Tensor

    def __init__(self, statistics: Sequence[np.ndarray], epsilon: float, rank: int) -> None:
        super().__init__()
        scale, bias, mean, variance = (np.asarray(array, np.float64) for array in statistics)
        factor = scale / np.sqrt(variance + epsilon)
        self.spread = (-1, *(1,) * (rank - 2))
        for name, values in (("factor", factor), ("shift", bias - mean * factor)):
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)).reshape(self.spread))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C, ...]."""
        return torch.addcmul(self.shift, values, self.factor)


class BatchNormalisation(nn.Module):
    """Batch normalisation by statistics that other nodes compute. Source: ONNX BatchNormalization."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(
        self,
        values: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
    ) -> torch.Tensor:
        """Normalise [N, C, ...] by statistics [C]; [N] is one channel."""
        spread = (-1, *(1,) * (values.dim() - 2))
        factor = (variance + self.epsilon).rsqrt() * scale
        return torch.addcmul((bias - mean * factor).reshape(spread), values, factor.reshape(spread))


class PlacewiseNormalisation(BatchNormalisation):
    """Batch normalisation with statistics for each channel and place (`spatial=0` before opset 9)."""

    def forward(
        self,
        values: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
    ) -> torch.Tensor:
        """Normalise [N, ...] by statistics of the shape of one image."""
        return (values - mean) * ((variance + self.epsilon).rsqrt() * scale) + bias


class InferredStatistics(nn.Module):
    """Batch normalisation of a node that names its statistics as outputs although it does not train."""

    def __init__(self, normalisation: nn.Module, outputs: int) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.outputs = outputs

    def forward(
        self,
        values: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Normalise; the statistics stay as they are."""
        made = self.normalisation(values, scale, bias, mean, variance)
        return (made, mean, variance, mean, variance)[: self.outputs]


class TrainingNormalisation(nn.Module):
    """Batch normalisation by the batch's own statistics, which move the stored ones. Source: ONNX BatchNormalization.

    Args:
        epsilon: added to the variance.
        momentum: how much of the stored statistics stays.
        placewise: statistics for each channel and place.
        outputs: how many outputs the node has.
    """

    def __init__(self, epsilon: float, momentum: float, placewise: bool, outputs: int) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.momentum = momentum
        self.placewise = placewise
        self.outputs = outputs

    def forward(
        self,
        values: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Normalise [N, C, ...]."""
        axes = (0,) if self.placewise else (0, *range(2, values.dim()))
        spread, centre = torch.var_mean(values, axes, correction=0)
        shape = centre.shape if self.placewise else (-1, *(1,) * (values.dim() - 2))
        factor = (scale.reshape(centre.shape) * (spread + self.epsilon).rsqrt()).reshape(shape)
        made = (values - centre.reshape(shape)) * factor + bias.reshape(shape)
        if self.outputs == 1:
            return made
        moved = [
            stored * self.momentum + own.reshape(stored.shape) * (1 - self.momentum)
            for stored, own in ((mean, centre), (variance, spread))
        ]
        return (made, *moved, centre, spread)[: self.outputs]


class GroupNormalisation(nn.Module):
    """Normalisation by each image's own mean and variance in each group of channels; then scale and bias.

    Source: ONNX GroupNormalization, and InstanceNormalization, whose groups are the channels.

    Args:
        groups: number of groups; None for one of each channel.
        epsilon: added to the variance.
    """

    def __init__(self, groups: int | None, epsilon: float) -> None:
        super().__init__()
        self.groups = groups
        self.epsilon = epsilon

    def forward(self, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C, *spatial]; scale and bias are of each channel, or (opset 18) of each group."""
        channels = values.shape[1]
        if scale.shape[0] != channels:
            scale = scale.repeat_interleave(channels // scale.shape[0])
            bias = bias.repeat_interleave(channels // bias.shape[0])
        # Not functional.group_norm, which refuses images of one sample. Contiguous, because the kernel for images that
        # lie channels last subtracts squared means from means of squares: digits are lost where the mean is large.
        return torch.group_norm(values.contiguous(), self.groups or channels, scale, bias, self.epsilon)


class LayerNormalisation(nn.Module):
    """Normalisation over the axes from one on. Source: ONNX LayerNormalization."""

    def __init__(self, axis: int, epsilon: float) -> None:
        super().__init__()
        self.axis = axis
        self.epsilon = epsilon

    def forward(self, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Normalise a tensor of any rank."""
        shape = values.shape[self.axis % max(values.dim(), 1) :]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return functional.layer_norm(values, shape, scale, bias, self.epsilon)
        made = functional.layer_norm(values, shape, None, None, self.epsilon) * scale
        return made if bias is None else made + bias


class LayerNormalisationWithStatistics(LayerNormalisation):
    """Layer normalisation that returns mean and inverse standard deviation too, each with a gradient."""

    def forward(  # type: ignore[override]
        self, values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Normalise a tensor of any rank; the statistics keep the axes with size 1."""
        axes = tuple(range(self.axis % max(values.dim(), 1), values.dim()))
        variance, mean = torch.var_mean(values, axes, correction=0, keepdim=True)
        inverse = (variance + self.epsilon).rsqrt()
        made = (values - mean) * inverse * scale
        return made if bias is None else made + bias, mean, inverse


class RootMeanSquareNormalisation(nn.Module):
    """Division by the root mean square over the axes from one on. Source: ONNX RMSNormalization."""

    def __init__(self, axis: int, epsilon: float) -> None:
        super().__init__()
        self.axis = axis
        self.epsilon = epsilon

    def forward(self, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Normalise a tensor of any rank."""
        shape = values.shape[self.axis % max(values.dim(), 1) :]
        if scale.shape == shape:
            return functional.rms_norm(values, shape, scale, self.epsilon)
        return functional.rms_norm(values, shape, None, self.epsilon) * scale


class NormNormalisation(nn.Module):
    """Division by the p-norm along an axis; zero stays zero. Source: ONNX LpNormalization."""

    def __init__(self, axis: int, order: int) -> None:
        super().__init__()
        self.axis = axis
        self.order = order

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise a tensor of any rank."""
        norm: torch.Tensor = torch.linalg.vector_norm(values, self.order, self.axis, keepdim=True)
        return values / torch.where(norm == 0, 1.0, norm)


class MeanVarianceNormalisation(nn.Module):
    """Mean zero and standard deviation one over some axes. Source: ONNX MeanVarianceNormalization."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise a tensor of any rank."""
        centred = values - values.mean(self.axes, keepdim=True)
        count = math.prod([values.shape[axis] for axis in self.axes])
        # The norm and not the root of the variance: its derivative at zero is zero and not infinite.
        norm: torch.Tensor = torch.linalg.vector_norm(centred, 2, self.axes, keepdim=True)
        return centred / (norm / math.sqrt(max(count, 1)) + 1e-9)


class LocalResponse(nn.Module):
    """Local response normalisation over channels; PyTorch's window of even size lies one channel off ONNX's."""

    def __init__(self, size: int, alpha: float, beta: float, bias: float) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.bias = bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Divide [N, C, ...] by the windowed sum of squares. Source: ONNX LRN."""
        before = (self.size - 1) // 2
        squares = values.square().flatten(2).unsqueeze(1)
        squares = functional.pad(squares, (0, 0, before, self.size - 1 - before))
        mean = functional.avg_pool2d(squares, (self.size, 1), stride=1).reshape(values.shape)
        return values / (self.bias + self.alpha * mean) ** self.beta


def _epsilon(operation: Operation) -> float:
    return float(operation.attributes.get("epsilon", 1e-5))


def convert_batch_normalisation(operation: Operation) -> Conversion:
    """Convert `BatchNormalization`.

    It trains where `training_mode` says so, and before opset 14 where the node has the outputs of training.
    """
    attributes = operation.attributes
    outputs = 1 if operation.single else len(operation.outputs)
    if operation.version >= 14:
        training = bool(attributes.get("training_mode", 0))
    else:
        training = outputs > 1 and not attributes.get("is_test", 0)
    placewise = not attributes.get("spatial", 1)
    module: nn.Module
    if training:
        module = TrainingNormalisation(_epsilon(operation), float(attributes.get("momentum", 0.9)), placewise, outputs)
    else:
        stored = [operation.known(index) for index in range(1, 5)]
        statistics = [array for array in stored if array is not None]
        rank = operation.rank(0)
        if outputs == 1 and not placewise and len(statistics) == 4 and rank is not None and rank >= 2:
            return Conversion(StoredNormalisation(statistics, _epsilon(operation), rank))
        module = (PlacewiseNormalisation if placewise else BatchNormalisation)(_epsilon(operation))
        if outputs > 1:
            module = InferredStatistics(module, outputs)
    return Conversion(module, range(5))


def convert_instance_normalisation(operation: Operation) -> Conversion:
    """Convert `InstanceNormalization`."""
    return Conversion(GroupNormalisation(None, _epsilon(operation)), range(3))


def convert_group_normalisation(operation: Operation) -> Conversion:
    """Convert `GroupNormalization`."""
    groups = int(operation.attributes.get("num_groups", 0))
    if groups < 1:
        raise NotConvertible("GroupNormalization without groups")
    return Conversion(GroupNormalisation(groups, _epsilon(operation)), range(3))


def convert_layer_normalisation(operation: Operation) -> Conversion:
    """Convert `LayerNormalization`."""
    kind = LayerNormalisation if operation.single else LayerNormalisationWithStatistics
    inputs = range(3) if operation.has(2) else range(2)
    return Conversion(kind(int(operation.attributes.get("axis", -1)), _epsilon(operation)), inputs)


def convert_root_mean_square_normalisation(operation: Operation) -> Conversion:
    """Convert `RMSNormalization`."""
    axis = int(operation.attributes.get("axis", -1))
    return Conversion(RootMeanSquareNormalisation(axis, _epsilon(operation)), range(2))


def convert_norm_normalisation(operation: Operation) -> Conversion:
    """Convert `LpNormalization`."""
    order = int(operation.attributes.get("p", 2))
    if order not in (1, 2):
        raise NotConvertible(f"LpNormalization of order {order}")
    return Conversion(NormNormalisation(int(operation.attributes.get("axis", -1)), order))


def convert_mean_variance_normalisation(operation: Operation) -> Conversion:
    """Convert `MeanVarianceNormalization`."""
    if operation.version < 9:
        raise NotConvertible("MeanVarianceNormalization before opset 9")
    axes = operation.attributes.get("axes")
    return Conversion(MeanVarianceNormalisation((0, 2, 3) if axes is None else tuple(int(axis) for axis in axes)))


def convert_local_response(operation: Operation) -> Conversion:
    """Convert `LRN`."""
    get = operation.attributes.get
    size = int(get("size", 1))
    if size < 1:
        raise NotConvertible("LRN over no channels")
    return Conversion(LocalResponse(size, float(get("alpha", 1e-4)), float(get("beta", 0.75)), float(get("bias", 1.0))))


CONVERTERS: Mapping[str, Converter] = {
    "BatchNormalization": convert_batch_normalisation,
    "GroupNormalization": convert_group_normalisation,
    "InstanceNormalization": convert_instance_normalisation,
    "LRN": convert_local_response,
    "LayerNormalization": convert_layer_normalisation,
    "LpNormalization": convert_norm_normalisation,
    "MeanVarianceNormalization": convert_mean_variance_normalisation,
    "RMSNormalization": convert_root_mean_square_normalisation,
}
