"""What a layer costs: multiplications with additions for one image."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import attribute

_UNKNOWN = TensorType(0, None)


def multiply_adds(node: NodeProto, types: Mapping[str, TensorType]) -> int | None:
    """Return the multiply-adds of a node for one image, with the usual convention.

    Convolutions and matrix products count one for each product that is summed; what else counts none.

    Returns:
        The number, or None if a shape is not known.
    """
    traits = traits_of(node)
    if traits.work in ("none", "unknown"):
        return 0 if traits.work == "none" else None
    made = _image(types.get(node.input[0] if traits.work == "transposed" else node.output[0], _UNKNOWN))
    if made is None:
        return None
    if traits.work != "product":
        weight = types.get(node.input[traits.weight], _UNKNOWN).fixed
        return None if weight is None else math.prod(made) * math.prod(weight[1:])
    left = types.get(node.input[0], _UNKNOWN).shape
    if not left:
        return None
    summed = left[0 if traits.form == "gemm" and attribute(node, "transA", 0) else -1]
    return math.prod(made) * summed if isinstance(summed, int) else None


def _image(kind: TensorType) -> tuple[int, ...] | None:
    """The shape without the batch."""
    if not kind.shape or not all(isinstance(size, int) for size in kind.shape[1:]):
        return None
    return tuple(size for size in kind.shape[1:] if isinstance(size, int))
