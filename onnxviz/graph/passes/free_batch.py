"""A graph that was exported for one image runs with any number of them.

The batch is followed through the graph (see `onnxviz.graph.batch`). Where it meets a size, shape or constant that is
there for one image only (a Reshape to [1, 256], a class token of one row, a Resize to fixed sizes), that is made
relative to the number of images. If an operator mixes images, or is not known to keep them apart, a hard-coded batch
stays as it is. The freed graph is checked by shape inference: with seven times as many images every value must have the
shape that following the batch foretells; if one has not, all is put back.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, ValueInfoProto

from onnxviz.core.errors import shorten
from onnxviz.graph.batch import follow
from onnxviz.graph.batch_places import BatchAxis, BatchFlow, grown
from onnxviz.graph.draft import BATCH, Draft
from onnxviz.graph.inputs import image_input
from onnxviz.graph.passes.resolve_shapes import types_with
from onnxviz.graph.relative_sizes import make_relative
from onnxviz.graph.shapes import UNKNOWN, TensorType, TypedGraph
from onnxviz.graph.structure import attribute, copy_of, image_dependent, keep_initializers, producers, refill

_TIMES = 7
"""How many times as many images the check takes: a prime that few other sizes contain."""


def run(draft: Draft) -> str:
    """Make the first dimension of the image input free, if the graph allows it."""
    image = image_input(draft.graph)
    if image is None or not image.type.tensor_type.shape.dim:
        return ""
    first = image.type.tensor_type.shape.dim[0]
    declared = first.dim_value if first.HasField("dim_value") else 0
    constant = {tensor.name for tensor in draft.graph.initializer}
    others = [value for value in draft.graph.input if value.name != image.name and value.name not in constant]
    if others and declared:
        return f"left the batch at {declared}: the model has other inputs as well"
    if not declared:
        _keep_free(draft, image)
        if not others:  # which may share the dimension
            first.dim_param = BATCH
        return ""
    flow = _follow(draft, image, declared)
    draft.mixed_batches = flow.mixed
    if flow.problems:
        node, reason = flow.problems[0]
        return f"left the batch at {declared}: {_shown(draft, node)} {reason}"
    for value in draft.graph.output:
        place, shape = flow.places.get(value.name), flow.graph.shape(value.name)
        size = shape[place.axis] if place is not None and shape is not None and place.axis < len(shape) else None
        if place is not None and place.axis != 0 and size != declared:
            name = shorten(draft.names.get(value.name, ""))
            return f"left the batch at {declared}: the output {name!r} joins the images with another axis"
    reason = _free(draft, flow, image)
    if reason:
        return f"left the batch at {declared}: {reason}"
    return f"freed the batch dimension (was {declared})"


def _follow(draft: Draft, image: ValueInfoProto, batch: int) -> BatchFlow:
    types = types_with(draft, image.name, batch)
    given = {image.name: BatchAxis(0), **_shaped_like_the_batch(draft, image, types, batch)}
    return follow(TypedGraph(draft.graph, types), given, batch)


def _keep_free(draft: Draft, image: ValueInfoProto) -> None:
    """Make a graph whose batch is declared free do what it declares, as far as possible."""
    _name_squeezed_axes(draft, types_with(draft, image.name, _TIMES))
    flow = _follow(draft, image, _TIMES)
    if flow.problems:
        # Sizes that are there for one image only; with one image all shapes are what the exporter saw.
        make_relative(draft, _follow(draft, image, 1), image.name, free=True)
        flow = _follow(draft, image, _TIMES)
    draft.mixed_batches = flow.mixed


def _name_squeezed_axes(draft: Draft, types: Mapping[str, TensorType]) -> None:
    """Let a Squeeze of all axes of size 1 keep the batch, also of one image."""
    for node in draft.graph.node:
        if node.op_type != "Squeeze" or node.domain or any(node.input[1:]) or attribute(node, "axes") is not None:
            continue
        shape = types.get(node.input[0], UNKNOWN).shape
        if shape is not None and shape[:1] == (_TIMES,) and all(isinstance(size, int) for size in shape):
            axes = np.asarray([axis for axis, size in enumerate(shape) if size == 1], np.int64)
            del node.input[1:]
            node.input.append(draft.add_constant(onnx.numpy_helper.from_array(axes), node.output[0]))


def _free(draft: Draft, flow: BatchFlow, image: ValueInfoProto) -> str:
    """Rewrite the graph and check it; if that fails, put it back and return why."""
    nodes = [copy_of(node) for node in draft.graph.node]
    tensors = {tensor.name for tensor in draft.graph.initializer}
    stubborn, restored = make_relative(draft, flow, image.name, free=False)
    reason = f"{_shown(draft, stubborn)} has a hard-coded size" if stubborn is not None else ""
    for value in draft.graph.output:
        if value.name in restored and not reason:
            # With one image the output must have the shape that the file gives it.
            reason = f"the output {shorten(draft.names.get(value.name, ''))!r} has no axis for the images"
    if not reason:
        mixed = _mixed_value(draft, flow, image, restored)
        reason = f"{_shown(draft, mixed)} could not be shown to keep the images apart" if mixed else ""
    if reason:
        refill(draft.graph.node, nodes)
        keep_initializers(draft.graph, tensors)
        return reason
    image.type.tensor_type.shape.dim[0].dim_param = BATCH
    draft.mixed_batches -= restored
    return ""


def _mixed_value(draft: Draft, flow: BatchFlow, image: ValueInfoProto, restored: set[str]) -> NodeProto | None:
    """Return the first node whose result has not the shape that it must have with more images."""
    found = types_with(draft, image.name, flow.batch * _TIMES)
    nodes: list[NodeProto] = list(draft.graph.node)
    for node in nodes:
        for value in flow.places.keys() & node.output:
            shape, made = flow.graph.shape(value), found.get(value, UNKNOWN).shape
            if shape is None or made is None:
                return node
            wanted = (_TIMES, *shape) if value in restored else grown(shape, flow.places[value], _TIMES)
            if len(made) != len(wanted):
                return node
            if any(isinstance(size, int) and size != other for size, other in zip(wanted, made, strict=True)):
                return node
    return None


def _shaped_like_the_batch(
    draft: Draft, image: ValueInfoProto, types: Mapping[str, TensorType], batch: int
) -> dict[str, BatchAxis]:
    """Return values that do not depend on the images, but have as many entries (a class token, repeated for each)."""
    if not any(node.op_type in ("Shape", "Size") for node in draft.graph.node):
        return {}
    more = types_with(draft, image.name, batch * _TIMES)
    found: dict[str, BatchAxis] = {}
    for value in producers(draft.graph).keys() - image_dependent(draft.graph, image.name):
        one, many = types.get(value, UNKNOWN).fixed, more.get(value, UNKNOWN).fixed
        if one is None or many is None or len(one) != len(many):
            continue
        wider = [axis for axis, size in enumerate(one) if many[axis] != size]
        if len(wider) == 1 and one[wider[0]] == batch and many[wider[0]] == batch * _TIMES:
            found[value] = BatchAxis(wider[0])
    return found


def _shown(draft: Draft, node: NodeProto) -> str:
    return f"{node.op_type} {shorten(draft.node_names.get(node.name) or draft.names.get(node.output[0], ''))!r}"
