"""Normalisation with constant statistics or those of the image; the stock converters need to know the rank before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation


class BatchNormalisation(nn.Module):
    """Batch normalisation as it is after training."""

    scale: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor

    def __init__(self, statistics: list[np.ndarray], epsilon: float) -> None:
        super().__init__()
        for name, values in zip(("scale", "bias", "mean", "variance"), statistics, strict=True):
            self.register_buffer(name, torch.from_numpy(values.copy()))
        self.epsilon = epsilon

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C, ...]."""
        return functional.batch_norm(values, self.mean, self.variance, self.scale, self.bias, eps=self.epsilon)


class InstanceNormalisation(nn.Module):
    """Normalisation by each image's own mean and variance in each channel."""

    scale: torch.Tensor
    bias: torch.Tensor

    def __init__(self, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_numpy(scale.copy()))
        self.register_buffer("bias", torch.from_numpy(bias.copy()))
        self.epsilon = epsilon

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise [N, C, *spatial]."""
        return functional.instance_norm(values, weight=self.scale, bias=self.bias, eps=self.epsilon)


def convert_batch_normalisation(operation: Operation) -> Conversion:
    """Convert `BatchNormalization` with constant statistics."""
    if operation.attributes.get("training_mode", 0):
        raise NotConvertible("BatchNormalization in training mode")
    statistics = [operation.constant(index) for index in range(1, 5)]
    epsilon = float(operation.attributes.get("epsilon", 1e-5))
    return Conversion(BatchNormalisation([values for values in statistics if values is not None], epsilon))


def convert_instance_normalisation(operation: Operation) -> Conversion:
    """Convert `InstanceNormalization` with constant scale and bias."""
    scale, bias = operation.constant(1), operation.constant(2)
    if scale is None or bias is None:
        raise NotConvertible("InstanceNormalization without scale or bias")
    return Conversion(InstanceNormalisation(scale, bias, float(operation.attributes.get("epsilon", 1e-5))))


CONVERTERS: Mapping[str, Converter] = {
    "BatchNormalization": convert_batch_normalisation,
    "InstanceNormalization": convert_instance_normalisation,
}
