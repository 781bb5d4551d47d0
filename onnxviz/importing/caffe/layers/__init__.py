"""Caffe's layer types: how each is converted, or what becomes of it instead."""

from __future__ import annotations

import functools
from collections.abc import Callable

from onnxviz.importing.caffe.layers import (
    activation,
    arithmetic,
    arrangement,
    convolution,
    detection,
    normalisation,
    pooling,
)
from onnxviz.importing.caffe.writer import Step

_DEPTHWISE = functools.partial(convolution.convolution, depthwise=True)
CONVERTERS: dict[str, Callable[[Step], None]] = {
    "AbsVal": activation.pointwise("Abs"),
    "ArgMax": arithmetic.argmax,
    "Axpy": arithmetic.axpy,
    "BN": normalisation.segnet_bn,
    "BNLL": activation.pointwise("Softplus"),
    "BatchNorm": normalisation.batch_norm,
    "Bias": normalisation.bias,
    "Clip": activation.clip,
    "Concat": arrangement.concat,
    "Convolution": convolution.convolution,
    "ConvolutionDepthwise": _DEPTHWISE,
    "Crop": arrangement.crop,
    "Deconvolution": convolution.deconvolution,
    "DepthwiseConvolution": _DEPTHWISE,
    "Dropout": lambda step: step.pass_on(step.bottom),
    "ELU": activation.elu,
    "Eltwise": arithmetic.eltwise,
    "Exp": activation.exp,
    "Flatten": arrangement.flatten,
    "InnerProduct": convolution.inner_product,
    "Interp": arrangement.interp,
    "LRN": normalisation.lrn,
    "Log": activation.log,
    "MVN": normalisation.mvn,
    "Normalize": normalisation.normalize,
    "PReLU": activation.prelu,
    "Permute": arrangement.permute,
    "Pooling": pooling.pooling,
    "Power": activation.power,
    "PriorBox": detection.prior_box,
    "ROIPooling": pooling.roi_pooling,
    "ReLU": activation.relu,
    "ReLU6": activation.relu6,
    "Reduction": arithmetic.reduction,
    "Reorg": arrangement.reorg,
    "Reshape": arrangement.reshape,
    "Scale": normalisation.scale,
    "ShuffleChannel": arrangement.shuffle_channel,
    "Sigmoid": activation.pointwise("Sigmoid"),
    "Slice": arrangement.slice_,
    "Softmax": activation.softmax,
    "Split": arrangement.split,
    "Swish": activation.swish,
    "TanH": activation.pointwise("Tanh"),
    "Threshold": activation.threshold,
    "Tile": arrangement.tile,
    "Upsample": pooling.upsample,
}
"""Layer type -> how it is written to the graph."""

INPUTS = frozenset(["Input", "DummyData", "MemoryData"])
"""Layers that become inputs of the graph."""

_LOSSES = (
    "Center Contrastive Euclidean Hinge Infogain MultinomialLogistic MultiBox SigmoidCrossEntropy SmoothL1 SoftmaxWith "
    "Triplet"
)
DROPPED = frozenset(
    ["Accuracy", "DetectionEvaluate", "DetectionOutput", "HDF5Output", *(f"{loss}Loss" for loss in _LOSSES.split())]
)
"""Layers behind the network: what they would have read becomes an output."""

DATA = frozenset(["AnnotatedData", "Data", "HDF5Data", "ImageData", "VideoData", "WindowData"])
"""Layers that read a training set."""
