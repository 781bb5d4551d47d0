"""Operators that one opset writes differently from another, where onnx's own converter is wrong or has nothing.

Each function gets a node and returns the nodes that take its place; `NOT_MINE` leaves the node to the converter, None
says that the target opset cannot express it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxviz.graph.passes import Draft
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import attribute, integers, remove_attribute, set_integer, text, to_array

NOT_MINE: Final[list[NodeProto]] = []
"""Returned, as this very list, for a node that onnx's converter does rightly."""


@dataclass(frozen=True)
class Scene:
    """What a rewrite may look at.

    Attributes:
        draft: for new identifiers and constants.
        source: the opset that the node was written for.
        types: inferred types.
        constants: initializers by identifier.
    """

    draft: Draft
    source: int
    types: dict[str, TensorType]
    constants: dict[str, TensorProto]

    def rank(self, value: str) -> int | None:
        """Number of dimensions, or None."""
        shape = self.types.get(value, TensorType(0, None)).shape
        return None if shape is None else len(shape)

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        """The numbers of a constant input, or None."""
        name = node.input[index] if index < len(node.input) else ""
        return to_array(self.constants[name]) if name in self.constants else None

    def add(self, array: np.ndarray, node: NodeProto) -> str:
        """Add a constant for a node."""
        return self.draft.add_constant(onnx.numpy_helper.from_array(array), node.output[0])


Rewrite = Callable[[Scene, NodeProto], list[NodeProto] | None]


def uses_nothing_new(node: NodeProto, source: int, target: int) -> bool:
    """Whether a node of a newer opset uses only what its operator had in the target opset already.

    Attributes that the target lacks are removed if they say what the target does anyway (their default).
    """
    try:
        new = onnx.defs.get_schema(node.op_type, source, "")
        old = onnx.defs.get_schema(node.op_type, target, "")
    except onnx.defs.SchemaError:
        return False
    if len(node.input) > old.max_input and any(node.input[old.max_input :]):
        return False
    if [entry.name for entry in old.inputs] != [entry.name for entry in new.inputs][: len(old.inputs)]:
        return False
    for name, entry in old.attributes.items():
        if name not in new.attributes or entry.default_value != new.attributes[name].default_value:
            return False
    fresh = [entry.name for entry in node.attribute if entry.name not in old.attributes]
    for name in fresh:
        default = new.attributes[name].default_value if name in new.attributes else None
        value = attribute(node, name)
        if default is None or onnx.helper.get_attribute_value(default) != value:
            return False
    if text(node, "mode") in ("wrap", "linear", "cubic") and node.op_type in ("Pad", "GridSample"):
        return False
    if text(node, "coordinate_transformation_mode") == "half_pixel_symmetric":
        return False
    remove_attribute(node, *fresh)
    while len(node.input) > old.max_input:
        del node.input[-1]
    return True


# --- from older opsets ----------------------------------------------------------------------------------------------


def _softmax(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 13 the input was flattened at `axis` to two dimensions and the last one normalised."""
    if scene.source >= 13:
        return NOT_MINE
    shape = scene.types.get(node.input[0], TensorType(0, None)).shape
    axis = int(attribute(node, "axis", 1))
    if axis == -1:
        return [node]
    if shape is not None:
        rank = len(shape)
        axis += rank if axis < 0 else 0
        wide = [index for index in range(axis, rank) if shape[index] != 1]
        if len(wide) <= 1:
            set_integer(node, "axis", wide[0] if wide else min(axis, rank - 1))
            return [node]
    draft = scene.draft
    flat, result, dimensions = (draft.new_value(node.output[0]) for _ in range(3))
    return [
        onnx.helper.make_node("Flatten", [node.input[0]], [flat], name=draft.new_node(node.name), axis=axis),
        onnx.helper.make_node(node.op_type, [flat], [result], name=draft.new_node(node.name), axis=1),
        onnx.helper.make_node("Shape", [node.input[0]], [dimensions], name=draft.new_node(node.name)),
        onnx.helper.make_node("Reshape", [result, dimensions], [node.output[0]], name=node.name),
    ]


def _early_resize(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """Upsample and the first Resize: sampled at x / scale, rounded down where it is "nearest"."""
    if scene.source >= 11:
        return NOT_MINE
    scales = attribute(node, "scales")
    if scales is None and attribute(node, "width_scale") is not None:  # opset 1
        scales = [1.0, 1.0, attribute(node, "height_scale"), attribute(node, "width_scale")]
    if scales is not None:
        scale_input = scene.add(np.asarray(scales, np.float32), node)
    elif len(node.input) > 1:
        scale_input = node.input[1]
    else:
        return None
    mode = {"bilinear": "linear"}.get(text(node, "mode", "nearest"), text(node, "mode", "nearest"))
    if mode not in ("nearest", "linear"):
        return None
    resized = onnx.helper.make_node(
        "Resize",
        [node.input[0], "", scale_input],
        list(node.output),
        name=node.name,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return [resized]


def _batch_normalization(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """From opset 7 on inference is the same in all versions; training outputs are gone by now."""
    if scene.source < 7 or not attribute(node, "spatial", 1):
        return NOT_MINE
    if scene.source >= 14 and attribute(node, "training_mode", 0):
        return None
    remove_attribute(node, "spatial")
    return [node]


def _prelu(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 7 a slope with one number for each channel needed no trailing dimensions."""
    slope, rank = scene.constant(node, 1), scene.rank(node.input[0])
    if scene.source >= 7:
        return [node]
    if slope is None or rank is None:
        return None
    if slope.size > 1:
        node.input[1] = scene.add(slope.reshape(-1, *(1,) * (rank - 2)), node)
    return [node]


# --- from newer opsets ----------------------------------------------------------------------------------------------


def _pad(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """Opset 18 may name the axes that are padded; opset 19 may wrap around."""
    if text(node, "mode", "constant") == "wrap":
        return None
    if len(node.input) > 3 and node.input[3]:
        pads, axes, rank = scene.constant(node, 1), scene.constant(node, 3), scene.rank(node.input[0])
        if pads is None or axes is None or rank is None:
            return None
        full = np.zeros(2 * rank, np.int64)
        for index, axis in enumerate(int(entry) % rank for entry in axes.reshape(-1)):
            full[axis] = pads[index]
            full[axis + rank] = pads[index + axes.size]
        node.input[1] = scene.add(full, node)
    while len(node.input) > 3 or (len(node.input) and not node.input[-1]):
        del node.input[-1]
    return [node]


def _split(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """Opset 18 may give the number of parts; the last is then smaller where they do not come out even."""
    if attribute(node, "num_outputs") is None:
        return [node]
    parts = len(node.output)
    shape = scene.types.get(node.input[0], TensorType(0, None)).shape
    axis = int(attribute(node, "axis", 0))
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    if isinstance(size, int) and size % parts:
        each = math.ceil(size / parts)
        sizes = [each] * (parts - 1) + [size - each * (parts - 1)]
        if sizes[-1] <= 0:
            return None
        del node.input[1:]
        node.input.append(scene.add(np.asarray(sizes, np.int64), node))
    elif not isinstance(size, int):
        return None
    remove_attribute(node, "num_outputs")
    return [node]


def _late_resize(scene: Scene, node: NodeProto) -> list[NodeProto] | None:
    """Opset 18 may name axes, smooth, and keep the aspect ratio; without these it is what it was."""
    if attribute(node, "antialias", 0) or text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    if text(node, "coordinate_transformation_mode") in ("half_pixel_symmetric", "tf_crop_and_resize"):
        return None
    axes = integers(node, "axes")
    if axes:
        shape = scene.types.get(node.input[0], TensorType(0, None)).shape
        scales, sizes = scene.constant(node, 2), scene.constant(node, 3)
        if shape is None or (scales is None and sizes is None):
            return None
        places = [axis % len(shape) for axis in axes]
        if scales is None or not scales.size:
            before = [shape[place] for place in places]
            if sizes is None or not all(isinstance(size, int) for size in before):
                return None
            scales = exact_scales([size for size in before if isinstance(size, int)], [int(size) for size in sizes])
        full = np.ones(len(shape), np.float32)
        full[places] = scales
        node.input[2] = scene.add(full, node)
        del node.input[3:]
    remove_attribute(node, "antialias", "keep_aspect_ratio_policy", "axes")
    return [node]


def exact_scales(before: list[int], after: list[int]) -> np.ndarray:
    """Return scales, float32, with floor(before * scale) == after, as close to after / before as can be."""
    scales = []
    for size, wanted in zip(before, after, strict=True):
        scale = np.float32(wanted / size)
        # ONNX Runtime multiplies in float32, shape inference in double precision.
        while min(math.floor(np.float32(size) * scale), math.floor(size * float(scale))) < wanted:
            scale = np.nextafter(scale, np.float32(np.inf))
        scales.append(scale)
    return np.asarray(scales, np.float32)


LIFT: dict[str, Rewrite] = {
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Hardmax": _softmax,
    "Upsample": _early_resize,
    "Resize": _early_resize,
    "BatchNormalization": _batch_normalization,
    "PRelu": _prelu,
}
"""For models older than the target."""

LOWER: dict[str, Rewrite] = {"Pad": _pad, "Split": _split, "Resize": _late_resize}
"""For models newer than the target."""
