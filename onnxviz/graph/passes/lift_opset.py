"""Models of old opsets are lifted to opset 17; newer ones keep theirs.

Until opset 13 many operators were written in several ways (axes as attribute or as input), broadcast by attribute, or
meant something else under the same name (Softmax, Upsample); opset 17 is the first that has all that vision models of
those years use in its present form. From there on operators are only added or widened, which the converters and this
package read as they are: lowering would lose what the newer form says (Pad's axes, Resize's antialias), and has nothing
to gain.

Node by node, the graphs inside nodes included, because the converter of the onnx package refuses a whole model for one
operator that it does not know, and forgets node names and weights' places. What opset 17 cannot express goes on in a
domain `opset<N>`, in which it means the standard's operator of opset N; nobody can take it for the operator of the same
name in opset 17.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto
from onnx.defs import OpSchema

from onnxviz.graph.draft import Draft
from onnxviz.graph.passes.replacement import Replacement
from onnxviz.graph.shapes import TensorType, infer_body
from onnxviz.graph.structure import (
    attribute,
    constants_within,
    copy_of,
    refill,
    remove_attribute,
    set_domain,
    set_integer,
    text,
)
from onnxviz.graph.tensors import subgraphs

TARGET = 17
"""The opset that older models are lifted to."""


@dataclass
class RewriteContext(Replacement):
    """What a rewrite may look at; `source` is the opset that the node was written for."""

    source: int = 0

    def add_like_first(self, number: float) -> str:
        """Add a scalar of the same element type as the first input."""
        with np.errstate(over="ignore"):
            tensor = onnx.helper.make_tensor("", self.element(0) or TensorProto.FLOAT, (), [number])
        return self.draft.add_constant(tensor, self.node.output[0])

    def unsqueezed(self, axes: range) -> list[NodeProto]:
        """Give the second input of the node more axes; return the node with what it needs before it."""
        self.node.input[1] = self.add("Unsqueeze", self.input(1), self.constant(axes, np.int64), like=self.input(1))
        return [*self.nodes, self.node]


Rewrite = Callable[[RewriteContext, NodeProto], list[NodeProto] | None]

_ADDED_WITHOUT_EFFECT = frozenset(
    ["allowzero", "axis", "batch_dims", "ceil_mode", "count_include_pad", "cubic_coeff_a", "dilations", "end",
     "exclude_outside", "extrapolation_value", "largest", "layout", "linear_before_reset", "mode", "nearest_mode",
     "output_padding", "output_shape", "reduction", "seed", "select_last_index", "sorted", "spatial", "start",
     "sparse_value", "storage_order", "training_mode", "value_float", "value_floats", "value_int", "value_ints",
     "value_string", "value_strings"]
)  # fmt: skip
"""Attributes that came later and whose default is what the operator did before."""
_WITHOUT_MEANING = frozenset(["broadcast", "consumed_inputs", "is_test", "output_sequence", "ratio"])
"""Attributes of old opsets that say how to compute, not what, or what is always so since, or matters in training."""


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


@dataclass(frozen=True)
class _Became:
    """Attributes that became inputs.

    Attributes:
        since: the opset from which on they are inputs.
        integers: those that are integers, in the order of the inputs.
        numbers: those behind them that have the type of the first input.
    """

    since: int
    integers: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


_BECAME_INPUTS = {
    "Clip": _Became(11, numbers=("min", "max")),
    "Pad": _Became(11, ("pads",), ("value",)),
    "ReduceSum": _Became(13, ("axes",)),
    "Reshape": _Became(5, ("shape",)),
    "Slice": _Became(10, ("starts", "ends", "axes")),
    "Split": _Became(13, ("split",)),
    "Squeeze": _Became(13, ("axes",)),
    "TopK": _Became(10, ("k",)),
    "Unsqueeze": _Became(13, ("axes",)),
}


def _inputs(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Give a node as inputs what were attributes; None if one is needed that it has not."""
    became = _BECAME_INPUTS[node.op_type]
    if context.source < became.since:
        remove_attribute(node, "consumed_inputs")
        for name in became.integers:
            value = _take(node, name)
            node.input.append("" if value is None else context.constant(np.atleast_1d(value), np.int64))
        for name in became.numbers:
            value = _take(node, name)
            node.input.append("" if value is None else context.add_like_first(float(value)))
        while not node.input[-1]:
            del node.input[-1]
    new = schema(node.op_type, TARGET)
    return [node] if new is not None and len(node.input) >= new.min_input else None


def _split(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Opset 1 had the sizes as input or attribute."""
    if len(node.input) > 1 and node.input[1]:
        remove_attribute(node, "split")
    else:
        del node.input[1:]
    return _inputs(context, node)


def _pad(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    for entry in node.attribute:
        entry.name = "pads" if entry.name == "paddings" else entry.name
    if context.source < 11:
        if text(node, "mode", "constant") != "constant":
            remove_attribute(node, "value")
        elif attribute(node, "value") is None:
            node.attribute.append(onnx.helper.make_attribute("value", 0.0))
    return _inputs(context, node)


def _tile(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Opset 1 tiled along one axis: inputs `tiles` and `axis`."""
    if context.source < 6:
        tiles, axis, rank = context.known(1), context.known(2), context.rank(0)
        if tiles is None or axis is None or rank is None:
            return None
        repeats = np.ones(rank, np.int64)
        repeats[int(axis.reshape(-1)[0])] = int(tiles.reshape(-1)[0])
        del node.input[1:]
        node.input.append(context.constant(repeats, np.int64))
    return [node]


def _binary(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 7 the second operand was broadcast if asked for, aligned at an axis of the first."""
    if context.source >= 7:
        return [node]
    broadcast, axis = _take(node, "broadcast", 0), _take(node, "axis")
    remove_attribute(node, "consumed_inputs")
    if not broadcast or axis is None:
        return [node]
    left, right = context.rank(0), context.rank(1)
    if left is None or right is None:
        return None
    behind = left - (axis + left if axis < 0 else axis) - right
    if behind <= 0:
        return [node]
    return context.unsqueezed(range(right, right + behind))


def _prelu(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 7 a slope with one number for each channel needed no trailing dimensions."""
    remove_attribute(node, "consumed_inputs")
    if context.source >= 7:
        return [node]
    rank, shape = context.rank(0), context.kind(1).shape
    if rank is None or shape is None:
        return None
    per_channel = len(shape) == 1 and shape[0] != 1 and rank > 2
    return context.unsqueezed(range(1, rank - 1)) if per_channel else [node]


def _softmax(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Before opset 13 the input was flattened at `axis` to two dimensions and the last one normalised."""
    if context.source >= 13:
        return [node]
    shape = context.kind(0).shape
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
    result = context.add(node.op_type, context.add("Flatten", node.input[0], axis=axis), axis=1)
    context.add("Reshape", result, context.add("Shape", node.input[0]), to=node.output[0], name=node.name)
    return context.nodes


_MODES = {
    "nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear",
    "cubic": "cubic", "bicubic": "cubic",
}  # fmt: skip
"""What exporters wrote as the mode of Upsample and the first Resize -> what Resize calls it.

The standard had no cubic one then, but ONNX Runtime has always run it.
"""


def _resize(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    """Upsample and the first Resize sampled at x / scale; since 11 one may choose.

    "nearest" is rounded down along axes that grow and, in Resize, up along those that shrink (ONNX Runtime 1.31).
    """
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
        scale_input = context.constant(scales)
    elif len(node.input) > 1:
        scale_input = node.input[1]
    else:
        return None
    mode = _MODES.get(text(node, "mode", "nearest"))
    if mode is None:
        return None
    how = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    value, rounding = node.input[0], "floor"
    if mode == "nearest" and node.op_type == "Resize":
        known = context.known(1)
        if known is not None and (known <= 1).all():
            rounding = "ceil"
        elif known is None or (known < 1).any():
            less, more = (context.add(name, scale_input, context.constant(1.0)) for name in ("Min", "Max"))
            value, scale_input = context.add("Resize", value, "", less, nearest_mode="ceil", **how), more
    context.add("Resize", value, "", scale_input, to=node.output[0], name=node.name, nearest_mode=rounding, **how)
    return context.nodes


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


_BEFORE = {"Concat": (4, "axis", 1), "RoiAlign": (16, "coordinate_transformation_mode", "output_half_pixel")}
"""Operator -> what an attribute that nobody gave stood for before an opset, where no schema says it."""


def _default(context: RewriteContext, node: NodeProto) -> list[NodeProto] | None:
    since, name, value = _BEFORE[node.op_type]
    if context.source < since and attribute(node, name) is None:
        node.attribute.append(onnx.helper.make_attribute(name, value))
    return [node]


_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
LIFT: dict[str, Rewrite] = {
    **dict.fromkeys(_BECAME_INPUTS, _inputs),
    **dict.fromkeys(_BEFORE, _default),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], _softmax),
    **dict.fromkeys(["Upsample", "Resize"], _resize),
    **dict.fromkeys(["LpPool", "GlobalLpPool"], _power_as_integer),
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "PRelu": _prelu,
    "Pad": _pad,
    "Scan": lambda context, node: [node] if context.source >= 9 else None,  # before, with a batch axis and lengths
    "Scatter": _scatter,
    "Split": _split,
    "Tile": _tile,
}
"""Operators that are written differently, or mean something else, in an older opset."""


_MEANING_CHANGED = frozenset({"Softmax", "LogSoftmax", "Hardmax", "PRelu", "Upsample", "Resize", "BatchNormalization"})
"""Operators whose meaning changed at some opset although their attributes may look the same."""
_KEPT = re.compile(r"opset([0-9]+)")


def run(draft: Draft) -> str:
    """Rewrite every node whose operator differs between the model's opset, if that is older, and opset 17."""
    source = draft.opset
    kept = [found for entry in draft.model.opset_import if (found := _KEPT.fullmatch(entry.domain))]
    if (source >= TARGET or source == 0) and all(int(found[1]) >= TARGET for found in kept):
        return ""
    stuck: Counter[tuple[int, str]] = Counter()
    _lift(draft, draft.graph, draft.types(), constants_within(draft.graph), stuck)
    set_domain(draft.model.opset_import, "", max(source, TARGET) if source else TARGET)
    for opset in {opset for opset, _ in stuck}:
        set_domain(draft.model.opset_import, f"opset{opset}", 1)
    draft.model.ir_version = max(draft.model.ir_version, 8)
    for (opset, operator), count in stuck.items():
        draft.refused.append((operator, f"{count} of opset {opset} could not be brought to opset {TARGET}"))
    names = ", ".join(sorted({operator for _, operator in stuck}))
    said = f"lifted opset {source} to {TARGET}" if source < TARGET else f"lifted parts of older opsets to {TARGET}"
    return said + (f" ({names} could not be)" if stuck else "")


def _lift(
    draft: Draft,
    graph: GraphProto,
    types: Mapping[str, TensorType],
    constants: Mapping[str, TensorProto],
    stuck: Counter[tuple[int, str]],
) -> None:
    """Lift the nodes of a graph and of those inside them in place, and count those that cannot be lifted."""
    done: list[NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            within = infer_body(body, draft.model.opset_import, types)
            _lift(draft, body, {**types, **within}, {**constants, **constants_within(body)}, stuck)
        kept = _KEPT.fullmatch(node.domain)
        source = int(kept[1]) if kept else draft.opset
        if (node.domain and not kept) or source >= TARGET or source == 0:
            done.append(node)
            continue
        node.domain = ""
        if _unchanged(node.op_type, source):
            done.append(node)
            continue
        before = copy_of(node)
        context = RewriteContext(draft, node, constants, types=types, source=source)
        rewritten = LIFT.get(node.op_type, as_its_schemas_say)(context, node)
        if rewritten is None:
            stuck[source, before.op_type] += 1
            before.domain = f"opset{source}"
        done.extend([before] if rewritten is None else rewritten)
    refill(graph.node, done)


@lru_cache(maxsize=4096)
def _unchanged(operator: str, source: int) -> bool:
    """Whether an operator of one opset means the same in the target opset, as its two schemas say."""
    old, new = schema(operator, source), schema(operator, TARGET)
    if old is None:
        return True  # unknown in its own opset: listed as unknown elsewhere
    if new is None:
        return False
    if old.since_version == new.since_version:
        return True
    if operator in _MEANING_CHANGED or new.deprecated:
        return False
    ours, theirs = (
        (
            {
                name: (str(entry.type), entry.required, entry.default_value.SerializeToString())
                for name, entry in kind.attributes.items()
            },
            [(entry.name, str(entry.option)) for entry in kind.inputs],
            len(kind.outputs),
        )
        for kind in (old, new)
    )
    return ours == theirs
