"""Convolution and pooling as the ONNX standard defines them, tap by tap, in double precision.

The onnx package's reference evaluator computes these position by position: minutes where this takes a second. Integers
are exact while their sums stay below 2^53.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """Where the windows of an operator lie, and the padding before and behind, one number for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Any], kernel: Sequence[int], sizes: Sequence[int]) -> Geometry:
        """Read the attributes of a convolution or pooling of images of these sizes."""
        rank = len(kernel)
        strides = _numbers(attributes, "strides", [1] * rank)
        dilations = _numbers(attributes, "dilations", [1] * rank)
        auto = attributes.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            spans = [(length - 1) * dilation + 1 for length, dilation in zip(kernel, dilations, strict=True)]
            totals = [
                max((math.ceil(size / stride) - 1) * stride + span - size, 0)
                for size, stride, span in zip(sizes, strides, spans, strict=True)
            ]
            less, more = tuple(total // 2 for total in totals), tuple(total - total // 2 for total in totals)
            before, behind = (less, more) if auto == "SAME_UPPER" else (more, less)
        else:
            pads = _numbers(attributes, "pads", [0] * (2 * rank))
            before, behind = pads[:rank], pads[rank:]
        return cls(tuple(kernel), strides, dilations, before, behind)

    def windows(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the number of windows along each axis of padded images."""
        return tuple(
            (size - (length - 1) * dilation - 1) // stride + 1
            for size, length, dilation, stride in zip(sizes, self.kernel, self.dilations, self.strides, strict=True)
        )

    def at(self, tap: Sequence[int], counts: Sequence[int]) -> tuple[slice, ...]:
        """Return where a tap of every window lies in padded images of any batch and channels."""
        return (
            slice(None),
            slice(None),
            *(
                slice(place * dilation, place * dilation + (count - 1) * stride + 1, stride)
                for place, dilation, count, stride in zip(tap, self.dilations, counts, self.strides, strict=True)
            ),
        )


def _numbers(attributes: Mapping[str, Any], name: str, default: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(number) for number in attributes.get(name) or default)


def convolve(values: np.ndarray, weight: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Compute Conv without its bias (ONNX Operators.md, "Conv"), float64.

    Of values [N, C, *sizes] and weight [M, C / group, *kernel] it makes [N, M, *windows].
    """
    geometry = Geometry.of(attributes, weight.shape[2:], values.shape[2:])
    padded = _padded(values, geometry, 0.0)
    counts = geometry.windows(padded.shape[2:])
    groups, batch = int(attributes.get("group", 1)), len(values)
    matrices = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], *weight.shape[2:])
    result = np.zeros((batch, groups, matrices.shape[1], math.prod(counts)))
    for tap in np.ndindex(*geometry.kernel):
        part = padded[geometry.at(tap, counts)].reshape(batch, groups, weight.shape[1], -1)
        result += np.matmul(matrices[(..., *tap)], part)
    return result.reshape(batch, weight.shape[0], *counts)


def convolve_transposed(values: np.ndarray, weight: np.ndarray, attributes: Mapping[str, Any]) -> np.ndarray:
    """Compute ConvTranspose without its bias (ONNX Operators.md, "ConvTranspose"), float64.

    Of values [N, C, *sizes] and weight [C, M / group, *kernel] it makes [N, M, *sizes].
    """
    rank, sizes = values.ndim - 2, values.shape[2:]
    plain = {name: value for name, value in attributes.items() if name not in ("pads", "auto_pad")}
    geometry = Geometry.of(plain, weight.shape[2:], sizes)
    extra = _numbers(attributes, "output_padding", [0] * rank)
    full = [
        (size - 1) * stride + (length - 1) * dilation + 1 + more
        for size, stride, length, dilation, more in zip(
            sizes, geometry.strides, geometry.kernel, geometry.dilations, extra, strict=True
        )
    ]
    before, behind = _cropped(attributes, sizes, geometry.strides, full)
    groups, batch = int(attributes.get("group", 1)), len(values)
    matrices = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], *weight.shape[2:])
    columns = values.reshape(batch, groups, weight.shape[0] // groups, -1)
    result = np.zeros((batch, groups * weight.shape[1], *full))
    for tap in np.ndindex(*geometry.kernel):
        part = np.matmul(matrices[(..., *tap)].swapaxes(1, 2), columns)
        result[geometry.at(tap, sizes)] += part.reshape(batch, -1, *sizes)
    ends = [size - end for size, end in zip(full, behind, strict=True)]
    return result[(slice(None), slice(None), *(slice(start, end) for start, end in zip(before, ends, strict=True)))]


def _cropped(
    attributes: Mapping[str, Any], sizes: Sequence[int], strides: Sequence[int], full: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """Return what a transposed convolution cuts off in front and at the end."""
    auto = attributes.get("auto_pad", "NOTSET")
    wanted = attributes.get("output_shape")
    if wanted or auto in ("SAME_UPPER", "SAME_LOWER"):
        target = (
            list(wanted)[-len(sizes) :] if wanted else [size * step for size, step in zip(sizes, strides, strict=True)]
        )
        totals = [max(size - goal, 0) for size, goal in zip(full, target, strict=True)]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        return (less, more) if auto == "SAME_UPPER" else (more, less)
    pads = _numbers(attributes, "pads", [0] * (2 * len(sizes)))
    return pads[: len(sizes)], pads[len(sizes) :]


def pool(values: np.ndarray, attributes: Mapping[str, Any], maximum: bool) -> np.ndarray:
    """Compute MaxPool or AveragePool of [N, C, *sizes] without rounding sizes up (ONNX Operators.md), float64."""
    geometry = Geometry.of(attributes, [int(size) for size in attributes["kernel_shape"]], values.shape[2:])
    padded = _padded(values, geometry, -np.inf if maximum else 0.0)
    counts = geometry.windows(padded.shape[2:])
    shape = (*values.shape[:2], *counts)
    taps = [geometry.at(tap, counts) for tap in np.ndindex(*geometry.kernel)]
    if maximum:
        largest = np.full(shape, -np.inf)
        for tap in taps:
            largest = np.maximum(largest, padded[tap])
        return largest
    inside = np.ones((1, 1, *values.shape[2:]))
    counted = _padded(inside, geometry, 1.0 if attributes.get("count_include_pad", 0) else 0.0)
    total, number = np.zeros(shape), np.zeros((1, 1, *counts))
    for tap in taps:
        total += padded[tap]
        number += counted[tap]
    return total / number


def _padded(values: np.ndarray, geometry: Geometry, filling: float) -> np.ndarray:
    widths = [(0, 0), (0, 0), *zip(geometry.before, geometry.behind, strict=True)]
    return np.pad(values, widths, constant_values=filling)
