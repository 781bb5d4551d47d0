"""A graph that was exported for one image runs with any number of them.

The batch is followed through the graph (see `onnxviz.graph.batch`). Where it meets a hard-coded size (a Reshape to
[1, 256], a Squeeze of all axes of size 1, a Resize to fixed sizes) that size is made relative. If an operator mixes
images, or is not known to keep them apart, a hard-coded batch stays as it is.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from onnxviz.errors import shorten
from onnxviz.graph.batch import BatchFlow, follow
from onnxviz.graph.inputs import find_input
from onnxviz.graph.passes import BATCH, Draft
from onnxviz.graph.rewrites import exact_scales
from onnxviz.graph.shapes import TensorType, infer
from onnxviz.graph.structure import initializers, remove_attribute, to_array


def run(draft: Draft) -> str:
    """Make the first dimension of the image input free, if the graph allows it."""
    image = find_input(draft.graph)
    shape = image.type.tensor_type.shape
    if not shape.dim:
        return ""
    declared = shape.dim[0].dim_value if shape.dim[0].HasField("dim_value") else 0
    others = [value for value in draft.graph.input if value.name != image.name]
    if others and declared:
        return f"left the batch at {declared}: the model has other inputs as well"
    batch = declared or 1
    shape.dim[0].dim_value = batch
    types = infer(draft.model)
    constants = initializers(draft.graph)
    nodes = list(draft.graph.node)
    flow = follow(nodes, types, constants, image.name, batch)
    if flow.problems and declared:
        draft.mixed_batches = _mixed(flow, types, batch)
        node, reason = flow.problems[0]
        return f"left the batch at {declared}: {_shown(draft, node)} {reason}"
    before = ModelProto()
    before.CopyFrom(draft.model)
    stubborn = _make_relative(draft, flow, types)
    if stubborn is not None and declared:
        draft.model.CopyFrom(before)
        return f"left the batch at {declared}: {_shown(draft, stubborn)} has a hard-coded size"
    shape.dim[0].dim_param = BATCH
    draft.mixed_batches = _mixed(flow, types, batch)
    return f"freed the batch dimension (was {declared})" if declared else ""


def _shown(draft: Draft, node: NodeProto) -> str:
    return f"{node.op_type} {shorten(draft.node_names.get(node.name) or draft.names.get(node.output[0], ''))!r}"


def _mixed(flow: BatchFlow, types: dict[str, TensorType], batch: int) -> set[str]:
    """Return the values whose first axis is not simply the batch."""
    return {value for value in flow.axis if not flow.leads(value, types, batch)}


def _make_relative(draft: Draft, flow: BatchFlow, types: dict[str, TensorType]) -> NodeProto | None:
    """Rewrite hard-coded sizes on the way of the batch; return a node whose sizes cannot be rewritten."""
    constants = initializers(draft.graph)
    nodes: list[NodeProto] = list(draft.graph.node)
    for node in nodes:
        source = node.input[0] if node.input else ""
        if source not in flow.axis or node.output[0] not in flow.axis:
            continue
        axis, place = flow.axis[source], flow.axis[node.output[0]]
        if node.op_type == "Reshape" and node.input[1] in constants:
            target = to_array(constants[node.input[1]]).reshape(-1)
            relative = _relative_shape(target, types[source].shape, types[node.output[0]].shape, axis, place)
            if relative is None:
                return node
            if not np.array_equal(relative, target):
                remove_attribute(node, "allowzero")
                node.input[1] = draft.add_constant(onnx.numpy_helper.from_array(relative), node.input[1])
        elif node.op_type == "Squeeze" and not (len(node.input) > 1 and node.input[1]):
            shape = types[source].shape or ()
            gone = np.asarray([i for i, size in enumerate(shape) if size == 1 and i != axis], np.int64)
            node.input.append(draft.add_constant(onnx.numpy_helper.from_array(gone), node.output[0]))
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            before, after = types[source].fixed, types[node.output[0]].fixed
            if before is None or after is None:
                return node
            scales = onnx.numpy_helper.from_array(exact_scales(list(before), list(after)))
            node.input[2] = draft.add_constant(scales, node.output[0])
            del node.input[3:]
        elif node.op_type == "Expand" and node.input[1] in constants:
            target = to_array(constants[node.input[1]]).copy()
            if target.size and place - (len(types[node.output[0]].shape or ()) - target.size) >= 0:
                index = place - (len(types[node.output[0]].shape or ()) - target.size)
                if target[index] != 1:
                    target[index] = 1
                    node.input[1] = draft.add_constant(onnx.numpy_helper.from_array(target), node.input[1])
    return None


def _relative_shape(
    target: np.ndarray, before: tuple[object, ...] | None, after: tuple[object, ...] | None, axis: int, place: int
) -> np.ndarray | None:
    """Return a Reshape's target that fits any batch, or None if there is none."""
    if before is None or after is None or place >= target.size:
        return None
    if target[place] == -1 or (target[place] == 0 and place == axis):
        return target
    if place == axis and before[axis] == after[place] and (target == -1).any():
        relative = target.copy()
        relative[place] = 0
        return relative
    rest = [size for index, size in enumerate(after) if index != place]
    if not all(isinstance(size, int) for size in rest):
        if (target == -1).any():
            return None
        relative = target.copy()
    else:
        relative = np.asarray([size if isinstance(size, int) else 1 for size in after], np.int64)
    relative[place] = -1
    return relative
