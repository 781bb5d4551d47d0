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

from onnxviz.convert.operators.operation import Conversion, Converter, Function, NotConvertible, Operation, by_function


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
        return torch.addcmul(self.shift, values, self.factor)


def batch_normalise(
    values: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float,
    placewise: bool,
) -> tuple[torch.Tensor, ...]:
    """Normalise [N, C, ...] by statistics [C] that other nodes compute; [N] is one channel.

    With `placewise` (`spatial=0` before opset 9) the statistics have the shape of one image. They are outputs too, of a
    node that names them although it does not train. Source: ONNX BatchNormalization.
    """
    factor = (variance + epsilon).rsqrt() * scale
    if placewise:
        made = (values - mean) * factor + bias
    else:
        spread = (-1, *(1,) * (values.dim() - 2))
        made = torch.addcmul((bias - mean * factor).reshape(spread), values, factor.reshape(spread))
    return made, mean, variance, mean, variance


def batch_normalise_in_training(
    values: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float,
    placewise: bool,
    momentum: float,
) -> tuple[torch.Tensor, ...]:
    """Normalise [N, C, ...] by the batch's own statistics, which move the stored ones.

    `momentum` says how much of the stored ones stays. Source: ONNX BatchNormalization.
    """
    axes = (0,) if placewise else (0, *range(2, values.dim()))
    spread, centre = torch.var_mean(values, axes, correction=0)
    shape = centre.shape if placewise else (-1, *(1,) * (values.dim() - 2))
    factor = (scale.reshape(centre.shape) * (spread + epsilon).rsqrt()).reshape(shape)
    made = (values - centre.reshape(shape)) * factor + bias.reshape(shape)
    moved = [
        stored * momentum + own.reshape(stored.shape) * (1 - momentum)
        for stored, own in ((mean, centre), (variance, spread))
    ]
    return (made, *moved, centre, spread)


def group_normalise(
    values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, epsilon: float, num_groups: int
) -> torch.Tensor:
    """Normalise [N, C, *spatial] by each image's own mean and variance in each group of channels; then scale and bias.

    Scale and bias are of each channel, or (opset 18) of each group.
    Source: ONNX GroupNormalization, and InstanceNormalization, whose groups are the channels (`num_groups` is 0).
    """
    channels = values.shape[1]
    if scale.shape[0] != channels:
        scale = scale.repeat_interleave(channels // scale.shape[0])
        bias = bias.repeat_interleave(channels // bias.shape[0])
    # Not functional.group_norm, which refuses images of one sample. Contiguous, because the kernel for images that lie
    # channels last subtracts squared means from means of squares: digits are lost where the mean is large.
    return torch.group_norm(values.contiguous(), num_groups or channels, scale, bias, epsilon)


def layer_normalise(
    values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None, *, axis: int, epsilon: float
) -> torch.Tensor:
    """Normalise a tensor of any rank over the axes from one on. Source: ONNX LayerNormalization."""
    shape = values.shape[axis % max(values.dim(), 1) :]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(values, shape, scale, bias, epsilon)
    made = functional.layer_norm(values, shape, None, None, epsilon) * scale
    return made if bias is None else made + bias


def layer_normalise_with_statistics(
    values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None, *, axis: int, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return mean and inverse standard deviation too, each with a gradient; they keep the axes with size 1."""
    axes = tuple(range(axis % max(values.dim(), 1), values.dim()))
    variance, mean = torch.var_mean(values, axes, correction=0, keepdim=True)
    inverse = (variance + epsilon).rsqrt()
    made = (values - mean) * inverse * scale
    return made if bias is None else made + bias, mean, inverse


def root_mean_square_normalise(values: torch.Tensor, scale: torch.Tensor, axis: int, epsilon: float) -> torch.Tensor:
    """Divide by the root mean square over the axes from one on. Source: ONNX RMSNormalization."""
    shape = values.shape[axis % max(values.dim(), 1) :]
    if scale.shape == shape:
        return functional.rms_norm(values, shape, scale, epsilon)
    return functional.rms_norm(values, shape, None, epsilon) * scale


def norm_normalise(values: torch.Tensor, axis: int, p: int) -> torch.Tensor:
    """Divide by the p-norm along an axis; zero stays zero. Source: ONNX LpNormalization."""
    norm: torch.Tensor = torch.linalg.vector_norm(values, p, axis, keepdim=True)
    return values / torch.where(norm == 0, 1.0, norm)


def mean_variance_normalise(values: torch.Tensor, axes: tuple[int, ...] | None) -> torch.Tensor:
    """Bring to mean zero and standard deviation one over some axes. Source: ONNX MeanVarianceNormalization."""
    axes = (0, 2, 3) if axes is None else axes
    centred = values - values.mean(axes, keepdim=True)
    count = math.prod([values.shape[axis] for axis in axes])
    # The norm and not the root of the variance: its derivative at zero is zero and not infinite.
    norm: torch.Tensor = torch.linalg.vector_norm(centred, 2, axes, keepdim=True)
    return centred / (norm / math.sqrt(max(count, 1)) + 1e-9)


def local_response(values: torch.Tensor, size: int, alpha: float, beta: float, bias: float) -> torch.Tensor:
    """Divide [N, C, ...] by the sum of squares in a window of channels. Source: ONNX LRN.

    PyTorch's window of even size lies one channel off ONNX's.
    """
    before = (size - 1) // 2
    squares = values.square().flatten(2).unsqueeze(1)
    squares = functional.pad(squares, (0, 0, before, size - 1 - before))
    mean = functional.avg_pool2d(squares, (size, 1), stride=1).reshape(values.shape)
    return values / (bias + alpha * mean) ** beta


_EPSILON = 1e-5


def convert_batch_normalisation(operation: Operation) -> Conversion:
    """Convert `BatchNormalization`.

    It trains where `training_mode` says so, and before opset 14 where the node has the outputs of training.
    """
    epsilon = operation.setting("epsilon", _EPSILON)
    if operation.version >= 14:
        training = operation.setting("training_mode", False)
    else:
        training = not operation.single and not operation.setting("is_test", False)
    placewise = not operation.setting("spatial", True)
    stored = [operation.known(index) for index in range(1, 5)]
    statistics = [array for array in stored if array is not None]
    rank = operation.rank(0)
    plain = operation.single and not (training or placewise)
    if plain and len(statistics) == 4 and rank is not None and rank >= 2:
        return Conversion(StoredNormalisation(statistics, epsilon, rank))
    function = Function(batch_normalise, epsilon=epsilon, placewise=placewise)
    if training:
        momentum = operation.setting("momentum", 0.9)
        function = Function(batch_normalise_in_training, epsilon=epsilon, placewise=placewise, momentum=momentum)
    return Conversion(function, range(5), several=True)


def convert_group_normalisation(operation: Operation) -> Conversion:
    if operation.setting("num_groups", 0) < 1:
        raise NotConvertible("GroupNormalization without groups")
    return by_function(group_normalise, 3, epsilon=_EPSILON, num_groups=0)(operation)


def convert_layer_normalisation(operation: Operation) -> Conversion:
    function = layer_normalise if operation.single else layer_normalise_with_statistics
    return by_function(function, 3, axis=-1, epsilon=_EPSILON)(operation)


def convert_norm_normalisation(operation: Operation) -> Conversion:
    if operation.setting("p", 2) not in (1, 2):
        raise NotConvertible(f"LpNormalization of order {operation.attributes['p']}")
    return by_function(norm_normalise, axis=-1, p=2)(operation)


def convert_mean_variance_normalisation(operation: Operation) -> Conversion:
    if operation.version < 9:
        raise NotConvertible("MeanVarianceNormalization before opset 9")
    return by_function(mean_variance_normalise, axes=None)(operation)


def convert_local_response(operation: Operation) -> Conversion:
    if operation.setting("size", 1) < 1:
        raise NotConvertible("LRN over no channels")
    return by_function(local_response, size=1, alpha=1e-4, beta=0.75, bias=1.0)(operation)


CONVERTERS: Mapping[str, Converter] = {
    "BatchNormalization": convert_batch_normalisation,
    "GroupNormalization": convert_group_normalisation,
    "InstanceNormalization": by_function(group_normalise, 3, epsilon=_EPSILON, num_groups=0),
    "LRN": convert_local_response,
    "LayerNormalization": convert_layer_normalisation,
    "LpNormalization": convert_norm_normalisation,
    "MeanVarianceNormalization": convert_mean_variance_normalisation,
    "RMSNormalization": by_function(root_mean_square_normalise, 2, axis=-1, epsilon=_EPSILON),
}
