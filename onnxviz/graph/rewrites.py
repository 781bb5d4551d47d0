"""Operators of opsets before 17, written as opset 17 writes them.

Each function of `LIFT` gets a node and returns the nodes that take its place, or None if opset 17 cannot express it. An
operator that is not in `LIFT` and only lost or gained attributes is brought over by `as_its_schemas_say`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto
from onnx.defs import OpSchema

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import UNKNOWN, Dimension, TensorType
from onnxviz.graph.structure import attribute, remove_attribute, set_integer, text, to_array

TARGET = 17
"""The opset that older models are lifted to."""


@dataclass(frozen=True)
class RewriteContext:
    """What a rewrite may look at.

    Attributes:
        draft: for new identifiers and constants.
        source: the opset that the node was written for.
        types: inferred types.
        constants: initializers by identifier.
    """

    draft: Draft
    source: int
    types: Mapping[str, TensorType]
    constants: Mapping[str, TensorProto]

    def kind(self, value: str) -> TensorType:
        """Type of a value."""
        if value in self.constants:
            return TensorType(self.constants[value].data_type, tuple(self.constants[value].dims))
        return self.types.get(value, UNKNOWN)

    def shape(self, value: str) -> tuple[Dimension, ...] | None:
        """Dimensions of a value, or None."""
        return self.kind(value).shape

    def rank(self, value: str) -> int | None:
        """Number of dimensions, or None."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        """The numbers of a constant input, or None."""
        name = node.input[index] if index < len(node.input) else ""
        return to_array(self.constants[name]) if name in self.constants else None

    def add(self, array: np.ndarray, node: NodeProto) -> str:
        """Add a constant for a node."""
        return self.draft.add_constant(onnx.numpy_helper.from_array(array), node.output[0])

    def add_integers(self, numbers: Any, node: NodeProto) -> str:
        """Add a constant list of integers for a node."""
        return self.add(np.asarray(numbers, np.int64), node)

    def add_like(self, number: float, value: str, node: NodeProto) -> str:
        """Add a scalar of the same element type as a value."""
        element = self.kind(value).element or TensorProto.FLOAT
        with np.errstate(over="ignore"):
            tensor = onnx.helper.make_tensor("", element, (), [number])
        return self.draft.add_constant(tensor, node.output[0])


Rewrite = Callable[[RewriteContext, NodeProto], list[NodeProto] | None]

_ADDED_WITHOUT_EFFECT = frozenset(
    ["allowzero", "axis", "batch_dims", "ceil_mode", "count_include_pad", "cubic_coeff_a", "dilations", "end",
     "exclude_outside", "extrapolation_value", "largest", "layout", "linear_before_reset", "mode", "nearest_mode",
     "output_padding", "output_shape", "reduction", "select_last_index", "sorted", "spatial", "start",
     "sparse_value", "storage_order", "training_mode", "value_float", "value_floats", "value_int", "value_ints",
     "value_string", "value_strings"]
)  # fmt: skip
"""Attributes that came later and whose default is what the operator did before."""
_WITHOUT_MEANING = frozenset(["consumed_inputs", "output_sequence", "is_test"])
"""Attributes of opsets 1 to 6 that say how to compute, not what."""


@lru_cache(maxsize=4096)
def schema(operator: str, opset: int) -> OpSchema | None:
    """Return the standard's schema of an operator in an opset, or None."""
    try:
        return onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None


def as_its_schemas_say(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Bring a node over whose operator only gained or lost attributes: defaults that changed are written out."""
    old, new = schema(node.op_type, context.source), schema(node.op_type, TARGET)
    if old is None or new is None or new.deprecated:
        return None
    names = [entry.name for entry in new.inputs]
    if [entry.name for entry in old.inputs][: len(names)] != names[: len(old.inputs)]:
        return None
    if any(name not in old.attributes and name not in _ADDED_WITHOUT_EFFECT for name in new.attributes):
        return None
    given = {entry.name for entry in node.attribute}
    remove_attribute(node, *(given & _WITHOUT_MEANING - set(new.attributes)))
    for entry in node.attribute:
        if entry.name not in new.attributes or new.attributes[entry.name].type != old.attributes[entry.name].type:
            return None
    for name, declared in old.attributes.items():
        default = declared.default_value
        if name in given or default.type == AttributeProto.UNDEFINED or name not in new.attributes:
            continue
        if new.attributes[name].default_value != default:
            node.attribute.append(AttributeProto.FromString(default.SerializeToString()))
    del node.output[new.max_output :]
    return [node]


def _take(node: NodeProto, name: str, default: Any = None) -> Any:
    """Take an attribute off a node."""
    value = attribute(node, name, default)
    remove_attribute(node, name)
    return value


# --- attributes that became inputs ----------------------------------------------------------------------------------


def _axes(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Squeeze, Unsqueeze and ReduceSum: the axes are an input from opset 13 on."""
    if context.source < 13:
        axes = _take(node, "axes")
        if axes is not None:
            node.input.append(context.add_integers(axes, node))
    return [node]


def _split(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Opset 1 had the sizes as input or attribute, 2 to 12 as attribute, since 13 they are an input."""
    sizes = _take(node, "split")
    if sizes is not None and not (len(node.input) > 1 and node.input[1]):
        del node.input[1:]
        node.input.append(context.add_integers(sizes, node))
    return [node]


def _slice(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    if context.source < 10:
        starts, ends, axes = (_take(node, name) for name in ("starts", "ends", "axes"))
        node.input.extend([context.add_integers(starts, node), context.add_integers(ends, node)])
        if axes is not None:
            node.input.append(context.add_integers(axes, node))
    return [node]


def _pad(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    if context.source < 11:
        pads, value = _take(node, "paddings" if context.source < 2 else "pads"), _take(node, "value", 0.0)
        node.input.append(context.add_integers(pads, node))
        if text(node, "mode", "constant") == "constant":
            node.input.append(context.add_like(float(value), node.input[0], node))
    return [node]


def _clip(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    if context.source < 11:
        remove_attribute(node, "consumed_inputs")
        for limit in (_take(node, "min"), _take(node, "max")):
            node.input.append("" if limit is None else context.add_like(float(limit), node.input[0], node))
        while not node.input[-1]:
            del node.input[-1]
    return [node]


def _concat(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Opset 1 joined along axis 1 if nothing else was said."""
    if context.source < 4 and attribute(node, "axis") is None:
        set_integer(node, "axis", 1)
    return [node]


def _reshape(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    if context.source < 5:
        shape = _take(node, "shape")
        remove_attribute(node, "consumed_inputs")
        if shape is None:
            return None
        node.input.append(context.add_integers(shape, node))
    return [node]


def _top_k(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    if context.source < 10:
        node.input.append(context.add_integers([_take(node, "k")], node))
    return [node]


def _tile(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Opset 1 tiled along one axis: inputs `tiles` and `axis`."""
    if context.source < 6:
        tiles, axis, rank = context.constant(node, 1), context.constant(node, 2), context.rank(node.input[0])
        if tiles is None or axis is None or rank is None:
            return None
        repeats = np.ones(rank, np.int64)
        repeats[int(axis.reshape(-1)[0])] = int(tiles.reshape(-1)[0])
        del node.input[1:]
        node.input.append(context.add_integers(repeats, node))
    return [node]


def _dropout(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Inference: the ratio does not matter; without an input that says otherwise nothing is dropped."""
    if context.source < 12:
        remove_attribute(node, "ratio", "is_test", "consumed_inputs")
    return [node]


# --- broadcasting by attribute, until opset 6 -----------------------------------------------------------------------


def _binary(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 7 the second operand was broadcast if asked for, aligned at an axis of the first."""
    if context.source >= 7:
        return [node]
    broadcast, axis = _take(node, "broadcast", 0), _take(node, "axis")
    remove_attribute(node, "consumed_inputs")
    if not broadcast or axis is None:
        return [node]
    left, right = context.rank(node.input[0]), context.rank(node.input[1])
    if left is None or right is None:
        return None
    behind = left - (axis + left if axis < 0 else axis) - right
    if behind <= 0:
        return [node]
    axes = context.add_integers(range(right, right + behind), node)
    wider = context.draft.new_value(node.input[1])
    name = context.draft.new_node(node.name)
    made = onnx.helper.make_node("Unsqueeze", [node.input[1], axes], [wider], name=name)
    node.input[1] = wider
    return [made, node]


def _gemm(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Since opset 7 the third operand is always broadcast."""
    remove_attribute(node, *(["broadcast"] if context.source < 7 else []))
    return [node]


def _prelu(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 7 a slope with one number for each channel needed no trailing dimensions."""
    remove_attribute(node, "consumed_inputs")
    if context.source >= 7:
        return [node]
    rank, shape = context.rank(node.input[0]), context.shape(node.input[1])
    if rank is None or shape is None:
        return None
    if len(shape) == 1 and shape[0] != 1 and rank > 2:
        axes = context.add_integers(range(1, rank - 1), node)
        wider = context.draft.new_value(node.input[1])
        name = context.draft.new_node(node.name)
        made = onnx.helper.make_node("Unsqueeze", [node.input[1], axes], [wider], name=name)
        node.input[1] = wider
        return [made, node]
    return [node]


# --- another meaning ------------------------------------------------------------------------------------------------


def _softmax(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 13 the input was flattened at `axis` to two dimensions and the last one normalised."""
    if context.source >= 13:
        return [node]
    shape = context.shape(node.input[0])
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
    draft = context.draft
    flat, result, dimensions = (draft.new_value(node.output[0]) for _ in range(3))
    return [
        onnx.helper.make_node("Flatten", [node.input[0]], [flat], name=draft.new_node(node.name), axis=axis),
        onnx.helper.make_node(node.op_type, [flat], [result], name=draft.new_node(node.name), axis=1),
        onnx.helper.make_node("Shape", [node.input[0]], [dimensions], name=draft.new_node(node.name)),
        onnx.helper.make_node("Reshape", [result, dimensions], [node.output[0]], name=node.name),
    ]


def _resize(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Upsample and the first Resize sampled at x / scale, rounded down where "nearest"; since 11 one may choose."""
    if context.source >= 13:
        return [node]
    if context.source >= 11:
        if text(node, "coordinate_transformation_mode") != "tf_crop_and_resize":
            node.input[1] = ""
        if len(node.input) > 3 and node.input[3]:
            node.input[2] = ""
        return [node]
    scales = attribute(node, "scales")
    if scales is None and attribute(node, "width_scale") is not None:  # opset 1
        scales = [1.0, 1.0, attribute(node, "height_scale"), attribute(node, "width_scale")]
    if scales is not None:
        scale_input = context.add(np.asarray(scales, np.float32), node)
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


def _batch_normalization(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Inference is the same in all versions but for `spatial`; training is, as far as it only gives the result."""
    if not attribute(node, "spatial", 1):
        return None
    if context.source < 14 and len(node.output) > 1:
        if any(node.output[1:]):
            return None
        trains = not attribute(node, "is_test", 0)
        node.output[1:] = [context.draft.new_value(node.output[0]) for _ in range(2)] if trains else []
        if trains:
            set_integer(node, "training_mode", 1)
    remove_attribute(node, "spatial", "is_test", "consumed_inputs")
    return [node]


def _cast(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Opset 1 wrote the element type as text."""
    if context.source < 6:
        name = text(node, "to").upper()
        if name not in TensorProto.DataType.keys():  # noqa: SIM118 - an enum of protobuf
            return None
        set_integer(node, "to", TensorProto.DataType.Value(name))
    return [node]


def _power_as_integer(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """LpPool and GlobalLpPool: opset 1 had a floating p."""
    if context.source < 2:
        power = float(_take(node, "p", 2.0))
        if power != int(power):
            return None
        set_integer(node, "p", int(power))
        return [node]
    return as_its_schemas_say(context, node)


def _scatter(_: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Scatter got a new name in opset 11."""
    node.op_type = "ScatterElements"
    return [node]


def _roi_align(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 16 boxes were not moved by half a pixel."""
    if context.source < 16:
        mode = onnx.helper.make_attribute("coordinate_transformation_mode", "output_half_pixel")
        node.attribute.append(mode)
    return [node]


def _scan(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """The Scan of opset 8 had a batch axis and sequence lengths."""
    return [node] if context.source >= 9 else None


_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
LIFT: dict[str, Rewrite] = {
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], _softmax),
    **dict.fromkeys(["Squeeze", "Unsqueeze", "ReduceSum"], _axes),
    **dict.fromkeys(["Upsample", "Resize"], _resize),
    **dict.fromkeys(["LpPool", "GlobalLpPool"], _power_as_integer),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "PRelu": _prelu,
    "Pad": _pad,
    "Reshape": _reshape,
    "RoiAlign": _roi_align,
    "Scan": _scan,
    "Scatter": _scatter,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "TopK": _top_k,
}
"""Operators that are written differently, or mean something else, in an older opset."""
