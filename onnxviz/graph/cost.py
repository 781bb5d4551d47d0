"""What a layer costs: multiplications with additions for one image."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import UNKNOWN, TensorType, product
from onnxviz.graph.structure import attribute


def multiply_adds(node: NodeProto, types: Mapping[str, TensorType]) -> int | None:
    """Return the multiply-adds of a node for one image, with the usual convention.

    Convolutions and matrix products count one for each product that is summed; what else counts none.

    Returns:
        The number, or None if a shape is not known.
    """
    traits = traits_of(node)
    if traits.work in ("none", "unknown"):
        return 0 if traits.work == "none" else None
    made = (types.get(node.input[0] if traits.work == "transposed" else node.output[0], UNKNOWN).shape or (None, None))[
        1:
    ]
    places = product(made)
    if places is None:
        return None
    if traits.work != "product":
        weight = types.get(node.input[traits.weight], UNKNOWN).fixed
        return None if weight is None else places * math.prod(weight[1:])
    left = types.get(node.input[0], UNKNOWN).shape
    if not left:
        return None
    summed = left[0 if traits.form == "gemm" and attribute(node, "transA", 0) else -1]
    return places * summed if isinstance(summed, int) else None
