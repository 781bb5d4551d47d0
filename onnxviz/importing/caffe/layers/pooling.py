"""Pooling with Caffe's own rounding and divisor, its inverse, and pooling of regions.

Caffe rounds the number of windows up and then drops a last window that would begin behind the image and its first
padding. The average of a window is divided by its area within the image and the declared padding; what reaches
beyond counts nowhere. ONNX has neither rule, so the pads are computed here.

Source: Caffe's pooling_layer.cpp; ONNX MaxPool, AveragePool, MaxUnpool, MaxRoiPool.
"""

from __future__ import annotations

from typing import Any

from onnxviz.importing.caffe.writer import Shape, Step, Value

Window = tuple[Shape, Shape, Shape]
"""Kernel, stride and padding, each for height and width."""


def pooling(step: Step) -> None:
    """Convert Pooling to MaxPool, AveragePool or their global forms."""
    parameters = step.parameters("pooling_param")
    source = step.bottom
    if source.rank != 4:
        wanted = "images [batch, channels, height, width]"
        raise step.refuse(f"pools an input with {source.rank} axes; Caffe pools {wanted}")
    if parameters.pool == 2:
        raise step.refuse("pools at random (STOCHASTIC)", "use MAX or AVE; at test time Caffe weights by the values")
    maximum = parameters.pool == 0
    if parameters.global_pooling and len(step.layer.tops) == 1:
        operator = "GlobalMaxPool" if maximum else "GlobalAveragePool"
        step.top(operator, [source], (*source.shape[:2], 1, 1))
        return
    window = (source.shape[2:], (1, 1), (0, 0)) if parameters.global_pooling else _window(step, parameters)
    kernel, stride, pad = window
    ceil = parameters.round_mode == 0 and parameters.ceil_mode
    found = [_windows(step, source.shape[2 + axis], window, axis, ceil) for axis in (0, 1)]
    counts, behind = zip(*found, strict=True)
    shape = (*source.shape[:2], *counts)
    attributes = {"kernel_shape": kernel, "strides": stride}
    if maximum:
        _maximum(step, source, shape, attributes | {"pads": (*pad, *behind)})
    else:
        _average(step, source, shape, attributes, pad, behind)


def _windows(step: Step, size: int, window: Window, axis: int, ceil: bool) -> tuple[int, int]:
    """Return the number of windows along an axis, and how far they reach behind the image."""
    kernel, stride, pad = (part[axis] for part in window)
    span = size + 2 * pad - kernel
    if span < 0:
        raise step.refuse(f"has a window of {kernel} for {size} pixels padded by {pad}")
    count = (-(-span // stride) if ceil else span // stride) + 1
    # Padding along either axis makes Caffe look at both.
    if any(window[2]) and (count - 1) * stride >= size + pad:
        count -= 1
    if (count - 1) * stride >= size + pad:
        raise step.refuse("has a window that begins behind the image, of which Caffe itself makes nothing defined")
    return count, max(0, (count - 1) * stride + kernel - size - pad)


def _maximum(step: Step, source: Value, shape: Shape, attributes: dict[str, Any]) -> None:
    if len(step.layer.tops) == 1:
        step.top("MaxPool", [source], shape, **attributes)
        return
    # The second top is the mask that a later Upsample reads; it is a place in ONNX's own counting.
    step.several_tops("MaxPool", [source], [shape, shape], **attributes)
    mask = step.tops[1]
    step.tops[1] = Value(mask.name, mask.shape, mask.free, origin=source)


def _average(step: Step, source: Value, shape: Shape, attributes: dict[str, Any], pad: Shape, behind: Shape) -> None:
    """Average with the divisor counted up to the declared padding."""
    beyond = tuple(max(0, reach - declared) for reach, declared in zip(behind, pad, strict=True))
    if not any(beyond):
        counted = 1 if any(pad) else 0
        step.top("AveragePool", [source], shape, **attributes, pads=(*pad, *behind), count_include_pad=counted)
        return
    if any(pad):
        # Zeros up to the declared padding become part of the image, and what lies beyond stays uncounted.
        padded = (*source.shape[:2], *(size + 2 * each for size, each in zip(source.shape[2:], pad, strict=True)))
        pads = step.indices("pads", (0, 0, *pad, 0, 0, *pad))
        source = step.inner("Pad", [source, pads], padded, "pad")
    step.top("AveragePool", [source], shape, **attributes, pads=(0, 0, *beyond), count_include_pad=0)


def _window(step: Step, parameters: Any) -> Window:
    def pair(name: str, high: str, wide: str) -> tuple[int, int]:
        if parameters.HasField(high) or parameters.HasField(wide):
            return int(getattr(parameters, high)), int(getattr(parameters, wide))
        size = int(getattr(parameters, name))
        return size, size

    kernel = pair("kernel_size", "kernel_h", "kernel_w")
    stride = pair("stride", "stride_h", "stride_w")
    pad = pair("pad", "pad_h", "pad_w")
    if min(*kernel, *stride) < 1:
        raise step.refuse("has a kernel or stride of 0")
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise step.refuse(f"is padded by {max(pad)}, which is not less than its window")
    return kernel, stride, pad


def upsample(step: Step) -> None:
    """Convert the forks' Upsample: with a mask (SegNet) to MaxUnpool, without (YOLO) to Resize by repetition."""
    parameters = step.parameters("upsample_param")
    step.expect_bottoms(1, 2)
    source = step.bottoms[0]
    if source.rank != 4:
        raise step.refuse("enlarges an input that is no image")
    scale = (parameters.scale_h or parameters.scale or 2, parameters.scale_w or parameters.scale or 2)
    if len(step.bottoms) == 2:
        _unpool(step, source, step.bottoms[1], scale)
        return
    shape = (*source.shape[:2], source.shape[2] * scale[0], source.shape[3] * scale[1])
    scales = step.constant("scales", [1, 1, *scale])
    repeat: dict[str, Any] = {
        "mode": "nearest",
        "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }
    step.top("Resize", [source, "", scales], shape, **repeat)


def _unpool(step: Step, source: Value, mask: Value, scale: tuple[int, int]) -> None:
    parameters = step.parameters("upsample_param")
    pooled = mask.origin
    if not isinstance(pooled, Value) or mask.shape != source.shape:
        raise step.refuse("needs the mask of a Pooling of the same size as its second bottom")
    size = (
        parameters.upsample_h or source.shape[2] * scale[0] - parameters.pad_out_h,
        parameters.upsample_w or source.shape[3] * scale[1] - parameters.pad_out_w,
    )
    if size != pooled.shape[2:]:
        raise step.refuse(
            f"enlarges to {size[0]}×{size[1]}, but the mask is of an image of {pooled.shape[2]}×{pooled.shape[3]}",
            "set upsample_h and upsample_w to the size before the pooling",
        )
    missing = [each * by - after for each, by, after in zip(source.shape[2:], scale, size, strict=True)]
    inputs: list[Value | str] = [source, mask]
    if min(missing) < 0:
        # Rows that no window covered: ONNX then wants the shape, which is that of what was pooled.
        target = step.writer.add_value(f"{step.layer.name}/size", (4,), False, step.layer)
        step.add_node("Shape", [pooled], [target.name], f"{step.layer.name}/size")
        inputs.append(target)
    pads = (0, 0, *(max(0, each) for each in missing))
    step.top("MaxUnpool", inputs, pooled.shape, kernel_shape=scale, strides=scale, pads=pads)


def roi_pooling(step: Step) -> None:
    """Convert ROIPooling to MaxRoiPool; the number of regions stays what the file declares."""
    parameters = step.parameters("roi_pooling_param")
    step.expect_bottoms(2)
    source, regions = step.bottoms
    if source.rank != 4 or regions.shape[1:] not in ((5,), (5, 1, 1)):
        raise step.refuse("needs an image and regions of five numbers [image, left, top, right, bottom]")
    step.fix_batch("pools regions of any image")
    if regions.rank == 4:
        regions = step.reshaped(regions, regions.shape[:2], "regions")
    size = (int(parameters.pooled_h), int(parameters.pooled_w))
    shape, scale = (regions.shape[0], source.shape[1], *size), step.number(parameters, "spatial_scale")
    step.top("MaxRoiPool", [source, regions], shape, pooled_shape=size, spatial_scale=scale)
