"""SSD's PriorBox: boxes that depend on sizes only, so the converted network holds them as a constant.

Source: SSD's prior_box_layer.cpp (https://github.com/weiliu89/caffe/tree/ssd).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from onnxviz.core import limits
from onnxviz.importing.caffe.writer import Step


def prior_box(step: Step) -> None:
    """Convert PriorBox to a constant of the shape [1, 2, boxes · 4]: boxes, and the variances of each."""
    step.expect_bottoms(2)
    feature, image = step.bottoms
    if feature.rank != 4 or image.rank != 4:
        raise step.refuse("needs a feature map and an image")
    parameters = step.parameters("prior_box_param")
    sizes = _box_sizes(step, parameters)
    rows, columns = feature.shape[2:]
    count = rows * columns * len(sizes)
    if 32 * count > limits.FOLDED_BYTES:
        raise step.refuse(f"makes {count:,} boxes, more than {limits.FOLDED_BYTES // 32:,}")
    (height, width), (down, right) = _grid(step, parameters, (rows, columns), image.shape[2:])
    offset = step.number(parameters, "offset")
    x = (np.arange(columns) + offset) * right
    y = (np.arange(rows) + offset) * down
    center = np.stack(np.broadcast_arrays(x[None, :, None], y[:, None, None]), axis=-1)
    half = np.asarray(sizes) / 2
    corners = np.concatenate([center - half, center + half], axis=-1)
    boxes = corners / np.array([float(width), float(height)] * 2)
    if parameters.clip:
        boxes = boxes.clip(0, 1)
    values = np.stack([boxes.reshape(-1, 4), np.broadcast_to(_variances(step, parameters), (count, 4))])
    tensor = onnx.numpy_helper.from_array(values.reshape(1, 2, -1).astype(np.float32))
    step.top("Constant", [], (1, 2, 4 * count), free=False, value=tensor)


def _grid(
    step: Step, parameters: Any, feature: tuple[int, ...], image: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the size of the image and of one step of the feature map, in pixels, height first."""
    height = parameters.img_size or parameters.img_h or image[0]
    width = parameters.img_size or parameters.img_w or image[1]
    both = step.number(parameters, "step")
    steps = (both or step.number(parameters, "step_h"), both or step.number(parameters, "step_w"))
    if min(steps) < 0:
        raise step.refuse("has a negative step")
    # Caffe computes the steps itself unless both are given.
    if not all(steps):
        steps = (height / feature[0], width / feature[1])
    return (height, width), steps


def _box_sizes(step: Step, parameters: Any) -> list[tuple[float, float]]:
    """Return width and height in pixels of each box of a place, in SSD's order."""
    ratios = [1.0]
    given = [*parameters.aspect_ratio, *parameters.min_size, *parameters.max_size]
    if len(given) > 1000 or not all(math.isfinite(value) and value > 0 for value in given):
        raise step.refuse("has sizes or aspect ratios that are not finite and positive, or very many of them")
    for ratio in parameters.aspect_ratio:
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if parameters.flip else [ratio]
    if not parameters.min_size or len(parameters.max_size) not in (0, len(parameters.min_size)):
        raise step.refuse("needs min_size, and max_size for none or each of them")
    sizes: list[tuple[float, float]] = []
    for index, least in enumerate(parameters.min_size):
        sizes.append((least, least))
        if parameters.max_size:
            if parameters.max_size[index] <= least:
                raise step.refuse("has a max_size that is not above its min_size")
            sizes.append((math.sqrt(least * parameters.max_size[index]),) * 2)
        sizes += [(least * math.sqrt(ratio), least / math.sqrt(ratio)) for ratio in ratios if abs(ratio - 1) >= 1e-6]
    return sizes


def _variances(step: Step, parameters: Any) -> np.ndarray:
    given = list(parameters.variance) or [0.1]
    if len(given) not in (1, 4) or not all(math.isfinite(value) and value > 0 for value in given):
        raise step.refuse("needs one positive variance or four")
    return np.asarray(given * 4 if len(given) == 1 else given)
