"""Layers that normalise or scale: LRN, BatchNorm, Scale, Bias, MVN, Normalize, and SegNet's BN.

Source: Caffe's lrn_layer.cpp, batch_norm_layer.cpp, scale_layer.cpp, bias_layer.cpp, mvn_layer.cpp; SSD's
normalize_layer.cpp; ONNX LRN, BatchNormalization.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxviz.importing.caffe.writer import Step, Value


def lrn(step: Step) -> None:
    """Convert LRN: across channels it is ONNX's, within a channel it is built from an average."""
    parameters = step.parameters("lrn_param")
    source = step.bottom
    size = int(parameters.local_size)
    alpha, beta, bias = step.numbers("lrn_param", "alpha", "beta", "k")
    if size % 2 == 0 or source.rank != 4:
        raise step.refuse("needs an odd local_size and an image")
    if parameters.norm_region == 0:
        if alpha <= 0 or beta <= 0:
            raise step.refuse(f"has alpha {alpha} and beta {beta}, which ONNX wants above 0")
        step.top("LRN", [source], source.shape, size=size, alpha=alpha, beta=beta, bias=bias)
        return
    # x · (1 + alpha · mean of x² over the window)^-beta; the window's padding counts, and k is not used.
    squares = step.inner("Mul", [source, source], source.shape, "squares")
    window: dict[str, Any] = {"kernel_shape": [size, size], "pads": [(size - 1) // 2] * 4, "count_include_pad": 1}
    average = step.inner("AveragePool", [squares], source.shape, "average", **window)
    scaled = step.inner("Mul", [average, step.constant("alpha", alpha)], source.shape, "scaled")
    shifted = step.inner("Add", [scaled, step.constant("one", 1)], source.shape, "shifted")
    power = step.inner("Pow", [shifted, step.constant("minus_beta", -beta)], source.shape, "power")
    step.top("Mul", [source, power], source.shape)


def batch_norm(step: Step) -> None:
    """Convert BatchNorm to BatchNormalization with the statistics that training collected."""
    parameters = step.parameters("batch_norm_param")
    source = step.bottom
    if parameters.HasField("use_global_stats") and not parameters.use_global_stats:
        raise step.refuse(
            "normalises with the statistics of the batch itself (use_global_stats: false)",
            "set use_global_stats: true, as for deployment",
        )
    if len(step.blobs) > 3:
        raise step.refuse(f"has {len(step.blobs)} blobs; Caffe's own BatchNorm has three")
    if source.rank < 2:
        raise step.refuse("needs an input with a channel axis")
    channels = source.shape[1]
    factor = float(step.learned(2, (1,), "scale factor")[0])
    # Caffe keeps sums; a factor of 0 stands for "nothing collected" and gives zeros.
    inverse = 0.0 if factor == 0 else 1 / factor
    mean = step.learned(0, (channels,), "mean") * np.float32(inverse)
    variance = step.learned(1, (channels,), "variance") * np.float32(inverse)
    numbers = {"scale": np.ones(channels), "bias": np.zeros(channels), "mean": mean, "variance": variance}
    stored = [step.constant(role, values) for role, values in numbers.items()]
    step.top("BatchNormalization", [source, *stored], source.shape, epsilon=step.number(parameters, "eps"))


def segnet_bn(step: Step) -> None:
    """Convert SegNet's BN in its form for inference, where statistics are already part of scale and shift."""
    source = step.bottom
    if len(step.blobs) != 2 or source.rank < 2:
        raise step.refuse(
            f"is a BN of a fork with {len(step.blobs)} blobs; only SegNet's form for inference, with two, is converted",
            "merge the statistics into the weights with the fork's own script (SegNet: compute_bn_statistics.py)",
        )
    _affine(step, source, step.weight(0, source.shape[1:2], "scale"), step.weight(1, source.shape[1:2], "bias"))


def scale(step: Step) -> None:
    """Convert Scale: a learned factor and bias for each channel, or a factor from a second input."""
    parameters = step.parameters("scale_param")
    step.expect_bottoms(1, 2)
    source = step.bottoms[0]
    factor: Value | str
    if len(step.bottoms) == 2:
        factor, shape = _second(step, parameters.axis)
    else:
        axis, covered = _learned_axes(step, parameters)
        if parameters.bias_term and axis == 1 and len(covered) == 1:
            # One node that every tool knows as a normalisation's scale and bias.
            _affine(step, source, step.weight(0, covered, "scale"), step.weight(1, covered, "bias"))
            return
        shape = _aligned(source, axis, covered)
        factor = step.weight(0, shape, "scale")
    if not parameters.bias_term:
        step.top("Mul", [source, factor], source.shape)
        return
    product = step.inner("Mul", [source, factor], source.shape, "product")
    step.top("Add", [product, step.weight(2 - len(step.bottoms), shape, "bias")], source.shape)


def bias(step: Step) -> None:
    """Convert Bias: a learned number for each channel, or a second input, is added."""
    parameters = step.parameters("bias_param")
    step.expect_bottoms(1, 2)
    source = step.bottoms[0]
    if len(step.bottoms) == 2:
        added, _ = _second(step, parameters.axis)
        step.top("Add", [source, added], source.shape)
        return
    shape = _aligned(source, *_learned_axes(step, parameters))
    step.top("Add", [source, step.weight(0, shape, "bias")], source.shape)


def mvn(step: Step) -> None:
    """Convert MVN: subtract the mean of an image or channel, and divide by its deviation plus eps."""
    parameters = step.parameters("mvn_param")
    source = step.bottom
    if source.rank < 3:
        raise step.refuse("needs an image")
    axes = list(range(1 if parameters.across_channels else 2, source.rank))
    reduced = (*source.shape[: axes[0]], *(1 for _ in axes))
    mean = step.inner("ReduceMean", [source], reduced, "mean", axes=axes, keepdims=1)
    if not parameters.normalize_variance:
        step.top("Sub", [source, mean], source.shape)
        return
    centred = step.inner("Sub", [source, mean], source.shape, "centred")
    squares = step.inner("Mul", [centred, centred], source.shape, "squares")
    variance = step.inner("ReduceMean", [squares], reduced, "variance", axes=axes, keepdims=1)
    root = step.inner("Sqrt", [variance], reduced, "deviation")
    eps = step.constant("eps", step.number(parameters, "eps"))
    divisor = step.inner("Add", [root, eps], reduced, "divisor")
    step.top("Div", [centred, divisor], source.shape)


def normalize(step: Step) -> None:
    """Convert SSD's Normalize: divide by the Euclidean length over channels (or the image), times a learned scale."""
    parameters = step.parameters("norm_param")
    source = step.bottom
    if source.rank != 4:
        raise step.refuse("needs an image")
    axes = [1, 2, 3] if parameters.across_spatial else [1]
    reduced = tuple(1 if axis in axes else size for axis, size in enumerate(source.shape))
    sums = step.inner("ReduceSumSquare", [source], reduced, "squares", axes=axes, keepdims=1)
    eps = step.constant("eps", step.number(parameters, "eps"))
    shifted = step.inner("Add", [sums, eps], reduced, "shifted")
    length = step.inner("Sqrt", [shifted], reduced, "length")
    unit = step.inner("Div", [source, length], source.shape, "unit")
    size = 1 if parameters.channel_shared else source.shape[1]
    step.top("Mul", [unit, step.weight(0, (size, 1, 1), "scale")], source.shape)


def _affine(step: Step, source: Value, factor: str, shift: str) -> None:
    """Add scale and bias for each channel as a BatchNormalization whose statistics change nothing."""
    channels = source.shape[1]
    mean, variance = step.constant("mean", np.zeros(channels)), step.constant("variance", np.ones(channels))
    step.top("BatchNormalization", [source, factor, shift, mean, variance], source.shape, epsilon=0.0)


def _learned_axes(step: Step, parameters: Any) -> tuple[int, tuple[int, ...]]:
    """Return the first axis that a learned blob covers, and the blob's shape."""
    source = step.bottom
    axis, count = step.axis(parameters.axis), parameters.num_axes
    if count < -1 or axis + count > source.rank:
        raise step.refuse(f"covers {count} axes from axis {axis} of an input with {source.rank}")
    shape = source.shape[axis:] if count == -1 else source.shape[axis : axis + count]
    if axis == 0 and shape:
        step.fix_batch("has learned numbers for each image of the batch")
    return axis, shape


def _aligned(source: Value, axis: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a blob's shape with axes of size 1 behind it, so that it lies along an axis; one number stays as it is."""
    return shape + (1,) * (source.rank - axis - len(shape)) if shape else ()


def _second(step: Step, axis: int) -> tuple[Value, tuple[int, ...]]:
    """Return the second input with axes of size 1 where it is to be repeated, and its shape."""
    source, other = step.bottoms
    axis = 0 if other.rank == 0 else step.axis(axis)
    if source.shape[axis : axis + other.rank] != other.shape:
        raise step.refuse(f"cannot lay an input of the shape {other.shape} along axis {axis} of {source.shape}")
    if other.free if axis else other.free != source.free:
        step.fix_batch("combines images with something that is not one for each image")
    aligned = other.shape + (1,) * (source.rank - axis - other.rank)
    if aligned == other.shape:
        return other, aligned
    return step.reshaped(other, aligned, "aligned"), aligned
