"""Operators that were experiments in the first opset, as CoreML's converter wrote them, become what they are made of.

They have left the standard: shape inference knows nothing of them and all that comes behind, and ONNX Runtime refuses
them in newer opsets. ONNX 1.0 to 1.3, `onnx/defs/experiments/defs.cc`, has their definitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.structure import attribute, integers, replace_nodes

_LAST = 9
"""The last opset in which runtimes took these names for the experiments."""
_TO_THE_END = (1 << 63) - 1


def run(draft: Draft) -> str:
    """Replace each experimental operator by standard ones."""
    if not 0 < draft.opset <= _LAST:
        return ""
    kept: list[NodeProto] = []
    replaced: Counter[str] = Counter()
    for node in draft.graph.node:
        replace = None if node.domain else _REPLACEMENTS.get(node.op_type)
        nodes = None if replace is None else replace(draft, node)
        if nodes is None:
            kept.append(node)
        else:
            replaced[node.op_type] += 1
            kept.extend(nodes)
    if not replaced:
        return ""
    replace_nodes(draft.graph, kept)
    listed = ", ".join(f"{count} {operator}" for operator, count in sorted(replaced.items()))
    return f"replaced experimental operators by standard ones ({listed})"


def _image_scaler(draft: Draft, node: NodeProto) -> list[NodeProto] | None:
    """Compute scale x + bias[c] on [N, C, H, W]."""
    bias = np.asarray(attribute(node, "bias", ()), np.float32).reshape(-1, 1, 1)
    scaled = [_pointwise(draft, node, "Mul", node.input[0], np.float32(attribute(node, "scale", 1.0)))]
    return _chain(draft, node, scaled, ("Add", bias) if bias.size else None)


def _affine(draft: Draft, node: NodeProto) -> list[NodeProto] | None:
    """Compute alpha x + beta."""
    scaled = [_pointwise(draft, node, "Mul", node.input[0], np.float32(attribute(node, "alpha", 1.0)))]
    return _chain(draft, node, scaled, ("Add", np.float32(attribute(node, "beta", 0.0))))


def _scale(draft: Draft, node: NodeProto) -> list[NodeProto] | None:
    """Compute scale x."""
    return _chain(
        draft, node, [_pointwise(draft, node, "Mul", node.input[0], np.float32(attribute(node, "scale", 1.0)))]
    )


def _scaled_tanh(draft: Draft, node: NodeProto) -> list[NodeProto] | None:
    """Compute alpha tanh(beta x)."""
    nodes = [_pointwise(draft, node, "Mul", node.input[0], np.float32(attribute(node, "beta", 1.0)))]
    nodes.append(_unary(draft, node, "Tanh", nodes[-1].output[0]))
    return _chain(draft, node, nodes, ("Mul", np.float32(attribute(node, "alpha", 1.0))))


def _parametric_softplus(draft: Draft, node: NodeProto) -> list[NodeProto] | None:
    """Compute alpha log(1 + exp(beta x))."""
    nodes = [_pointwise(draft, node, "Mul", node.input[0], np.float32(attribute(node, "beta", 1.0)))]
    nodes.append(_unary(draft, node, "Softplus", nodes[-1].output[0]))
    return _chain(draft, node, nodes, ("Mul", np.float32(attribute(node, "alpha", 1.0))))


def _crop(_draft: Draft, node: NodeProto) -> list[NodeProto] | None:
    """Cut `border` (left, top, right, bottom) off, or take `scale` (height, width) from the corner left, top."""
    border, size = integers(node, "border"), integers(node, "scale")
    if len(border) != 4 or len(size) not in (0, 2) or min(border) < 0 or (size and min(size) <= 0):
        return None
    left, top, right, bottom = border
    starts = [top, left]
    ends = [-bottom or _TO_THE_END, -right or _TO_THE_END]
    if size:
        ends = [top + size[0], left + size[1]]
    return [
        onnx.helper.make_node(
            "Slice", [node.input[0]], [node.output[0]], name=node.name, starts=starts, ends=ends, axes=[2, 3]
        )
    ]


_REPLACEMENTS: dict[str, Callable[[Draft, NodeProto], list[NodeProto] | None]] = {
    "Affine": _affine,
    "Crop": _crop,
    "ImageScaler": _image_scaler,
    "ParametricSoftplus": _parametric_softplus,
    "Scale": _scale,
    "ScaledTanh": _scaled_tanh,
}


def _unary(draft: Draft, node: NodeProto, operator: str, value: str) -> NodeProto:
    made = draft.new_value(node.output[0])
    return onnx.helper.make_node(operator, [value], [made], name=draft.new_node(node.name))


def _pointwise(draft: Draft, node: NodeProto, operator: str, value: str, number: np.ndarray | np.float32) -> NodeProto:
    constant = draft.add_constant(onnx.numpy_helper.from_array(np.asarray(number, np.float32)), node.output[0])
    made = _unary(draft, node, operator, value)
    made.input.append(constant)
    if draft.opset < 7:  # before, broadcasting had to be asked for, from the axis of the channels on
        made.attribute.append(onnx.helper.make_attribute("broadcast", 1))
        if np.ndim(number):
            made.attribute.append(onnx.helper.make_attribute("axis", 1))
    return made


def _chain(
    draft: Draft,
    node: NodeProto,
    nodes: list[NodeProto],
    last: tuple[str, np.ndarray | np.float32] | None = None,
) -> list[NodeProto]:
    """Let the last node have the name and the output of the one that is replaced."""
    if last is not None:
        nodes.append(_pointwise(draft, node, last[0], nodes[-1].output[0], last[1]))
    nodes[-1].name = node.name
    nodes[-1].output[0] = node.output[0]
    return nodes
