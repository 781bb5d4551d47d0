"""Converters of our own, where the stock one is wrong, slow, missing or waits for the device.

A converter gets an `Operation` and returns a `Conversion`; it knows nothing of onnx2torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxviz.convert.operators import arithmetic, arrangement, convolution, normalisation, pooling
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation

CONVERTERS: Mapping[str, Converter] = {
    "AveragePool": pooling.convert_average_pool,
    "BatchNormalization": normalisation.convert_batch_normalisation,
    "Clip": arithmetic.convert_clip,
    "Conv": convolution.convert_convolution,
    "Dropout": arithmetic.convert_identity,
    "Flatten": arrangement.convert_flatten,
    "Gelu": arithmetic.convert_gelu,
    "GlobalAveragePool": pooling.convert_global_average_pool,
    "GlobalMaxPool": pooling.convert_global_maximum_pool,
    "Identity": arithmetic.convert_identity,
    "InstanceNormalization": normalisation.convert_instance_normalisation,
    "LRN": arithmetic.convert_local_response,
    "LogSoftmax": arithmetic.convert_softmax,
    "MaxPool": pooling.convert_maximum_pool,
    "Pad": arrangement.convert_pad,
    "ReduceL1": arithmetic.convert_reduction,
    "ReduceL2": arithmetic.convert_reduction,
    "ReduceLogSum": arithmetic.convert_reduction,
    "ReduceLogSumExp": arithmetic.convert_reduction,
    "ReduceMax": arithmetic.convert_reduction,
    "ReduceMean": arithmetic.convert_reduction,
    "ReduceMin": arithmetic.convert_reduction,
    "ReduceSum": arithmetic.convert_reduction,
    "ReduceSumSquare": arithmetic.convert_reduction,
    "Reshape": arrangement.convert_reshape,
    "Slice": arrangement.convert_slice,
    "Softmax": arithmetic.convert_softmax,
    "Squeeze": arrangement.convert_squeeze,
    "Unsqueeze": arrangement.convert_unsqueeze,
}
"""Converter by ONNX operator."""

__all__ = ["CONVERTERS", "Conversion", "Converter", "NotConvertible", "Operation"]
