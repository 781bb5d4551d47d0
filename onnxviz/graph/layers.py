"""The list of layers: which values count, what they are called, and where their units are."""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Mapping

from onnx import GraphProto, NodeProto, TensorProto

from onnxviz import limits
from onnxviz.graph.inputs import InputLayout
from onnxviz.graph.operators import CHANNELS_AT_ONE
from onnxviz.graph.passes import Draft
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import attribute, consumers, initializers, integers, reads
from onnxviz.values import Layer

CHANNELS_FIRST = CHANNELS_AT_ONE | {"ConvInteger", "DeformConv", "QLinearConv"}
"""Operators whose first input and output have their channels at axis 1, as the ONNX standard says."""

_WEIGHT_SUFFIX = re.compile(
    r"(\.weight|_weight|/kernel|/weights|/depthwise_kernel|\.W|_W|_w)(/read|/ReadVariableOp.*)?(:0|_0)?$"
)
_SCOPE_SUFFIX = re.compile(r"_\d+$")


def image_dependent(graph: GraphProto, input_name: str) -> set[str]:
    """Return the values that depend on the input's content, not only on its shape."""
    found = {input_name}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and any(name in found for name in reads(node)):
            found.update(name for name in node.output if name)
    return found


def make_layers(
    draft: Draft, types: Mapping[str, TensorType], input_name: str, layout: InputLayout
) -> tuple[Layer, ...]:
    """List every float tensor that depends on the image and is made by a node, in topological order."""
    graph = draft.graph
    dependent = image_dependent(graph, input_name)
    axes = channel_axes(draft, types, dependent, input_name, layout)
    listed: list[tuple[NodeProto, str]] = [
        (node, value)
        for node in graph.node
        for value in node.output
        if value in dependent and types.get(value, TensorType(0, None)).element == TensorProto.FLOAT
    ]
    names = _display_names(draft, listed)
    aliases = _aliases(draft, listed, names)
    layers = []
    for position, ((node, value), name) in enumerate(zip(listed, names, strict=True)):
        shape = types[value].shape
        dimensions = () if shape is None else tuple(size if isinstance(size, int) else None for size in shape)
        layers.append(
            Layer(name, value, node.op_type, position, dimensions, axes.get(value), tuple(aliases.get(value, ())))
        )
    return tuple(layers)


# --- names ----------------------------------------------------------------------------------------------------------


def _display_names(draft: Draft, listed: list[tuple[NodeProto, str]]) -> list[str]:
    """Name each layer by its node, or by its value where the exporter gave nodes no names; make names unique."""
    given: list[str] = []
    for node, value in listed:
        index = list(node.output).index(value)
        name = draft.node_names.get(node.name, "") or draft.names.get(value, "")
        if index and draft.node_names.get(node.name, ""):
            name = draft.names.get(value, "") or f"{name}.{index}"
        given.append((name or value)[: limits.NAME_LENGTH])
    taken = set(given)
    seen: Counter[str] = Counter()
    unique = []
    for name in given:
        seen[name] += 1
        shown = name
        while seen[name] > 1 and shown in taken:
            shown = f"{name}#{seen[name]}"
            seen[name] += shown in taken
        taken.add(shown)
        unique.append(shown)
    return unique


def _aliases(draft: Draft, listed: list[tuple[NodeProto, str]], names: list[str]) -> dict[str, list[str]]:
    """Collect the other names a user may know a layer by; a name that would fit several layers fits none."""
    tiers: list[dict[str, set[str]]] = [{} for _ in range(5)]

    def offer(tier: int, alias: str, value: str) -> None:
        if alias and len(alias) <= limits.NAME_LENGTH:
            tiers[tier].setdefault(alias, set()).add(value)

    weights = initializers(draft.graph)
    scopes: dict[str, str] = {}
    for node, value in listed:
        original = draft.names.get(value, "")
        if value == node.output[0]:
            offer(0, draft.node_names.get(node.name, ""), value)
        offer(1, original, value)
        offer(2, original.removesuffix(":0"), value)
        offer(2, draft.node_names.get(node.name, "").removeprefix("/"), value)
        for alias in draft.aliases.get(value, ()):
            offer(3, alias, value)
            offer(3, alias.removesuffix(":0"), value)
        for scope in _scopes(draft, node):
            scopes[scope] = value  # the last one: what leaves the module
        weight = node.input[1] if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 1 else ""
        if weight in weights:
            stem = _WEIGHT_SUFFIX.sub("", draft.names.get(weight, ""))
            if stem != draft.names.get(weight, ""):
                offer(4, stem, value)
    for scope, value in scopes.items():
        offer(3, scope, value)
    for base, value in _blob_names(draft, listed).items():
        offer(4, base, value)
    taken = set(names)
    found: dict[str, list[str]] = {}
    for tier in tiers:
        for alias, values in tier.items():
            if alias not in taken and len(values) == 1:
                found.setdefault(next(iter(values)), []).append(alias)
        taken.update(alias for alias, values in tier.items() if len(values) == 1)
    return found


def _scopes(draft: Draft, node: NodeProto) -> list[str]:
    """Return the modules a node belongs to, as PyTorch's exporters write them, outermost first."""
    written = draft.node_metadata.get(node.name, {}).get("pkg.torch.onnx.name_scopes", "")
    if written and len(written) < limits.NAME_LENGTH:
        try:
            listed = ast.literal_eval(written)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = []
        if isinstance(listed, list):
            return [scope for scope in listed[:-1] if isinstance(scope, str) and scope]
    name = draft.node_names.get(node.name, "")
    if not name.startswith("/") or len(name) > limits.NAME_LENGTH:
        return []
    path = ""
    found = []
    for part in name.split("/")[1:-1]:
        # "/layer4/layer4.1/conv2/Conv": a part repeats the path where the module is an entry of a list.
        path = part if not path or part.startswith(path + ".") else f"{path}.{part}"
        found.append(path)
    return found[:32]


def _blob_names(draft: Draft, listed: list[tuple[NodeProto, str]]) -> dict[str, str]:
    """Undo Caffe2's numbering of blobs that are written in place: conv10_1 (convolution), conv10_2 (ReLU) -> conv10."""
    originals = [draft.names.get(value, "") for _, value in listed]
    if any(draft.node_names.get(node.name, "") for node, _ in listed) or not all(
        _SCOPE_SUFFIX.search(name) for name in originals
    ):
        return {}
    first: dict[str, str] = {}
    for name, (_, value) in zip(originals, listed, strict=True):
        first.setdefault(_SCOPE_SUFFIX.sub("", name), value)
    return first


# --- channel axes ---------------------------------------------------------------------------------------------------


def channel_axes(
    draft: Draft, types: Mapping[str, TensorType], dependent: set[str], input_name: str, layout: InputLayout
) -> dict[str, int | None]:
    """Find the axis of the units of every value that depends on the image, by carrying it from the input onwards."""
    axes: dict[str, int | None] = {}
    graph = draft.graph
    readers = consumers(graph)

    def settle(value: str, carried: int | None) -> None:
        shape = types.get(value, TensorType(0, None)).shape
        if shape is None or len(shape) < 2 or value in draft.mixed_batches:
            axes[value] = None
            return
        if any(node.op_type in CHANNELS_FIRST and node.input[0] == value for node in readers.get(value, ())):
            carried = 1
        if carried is None or not 0 < carried < len(shape):
            carried = 2 if len(shape) == 3 else 1
        axes[value] = carried

    settle(input_name, {"NCHW": 1, "NHWC": 3}.get(layout))
    for node in graph.node:
        for value in node.output:
            if value in dependent:
                settle(value, _carried_axis(node, types, axes, value))
    return axes


def _carried_axis(
    node: NodeProto, types: Mapping[str, TensorType], axes: dict[str, int | None], value: str
) -> int | None:
    """Return where a node puts the channel axis of its input; None where it cannot be told."""
    out = types.get(value, TensorType(0, None)).shape
    if node.op_type in CHANNELS_FIRST:
        return 1
    if out is None:
        return None
    if node.op_type in ("MatMul", "Einsum"):
        return len(out) - 1
    if node.op_type in ("Gemm", "Flatten"):
        return 1
    source = next((name for name in node.input if axes.get(name) is not None), None)
    if source is None:
        return None
    axis = axes[source]
    before = types[source].shape
    assert axis is not None
    assert before is not None
    if node.op_type == "Transpose":
        order = integers(node, "perm", range(len(before) - 1, -1, -1))
        return order.index(axis) if axis in order else None
    if node.op_type == "Reshape":
        return _reshaped_axis(before, out, axis)
    if len(out) == len(before):
        return axis
    return _shifted_axis(node, before, out, axis)


def _reshaped_axis(before: tuple[object, ...], out: tuple[object, ...], axis: int) -> int | None:
    """Find the axis of the same size that has as many numbers in front of it, or behind it."""
    size = before[axis]
    candidates = [index for index in range(1, len(out)) if out[index] == size]
    for index in candidates:
        if (front := _product(before[1:axis])) is not None and _product(out[1:index]) == front:
            return index
    for index in candidates:
        if (behind := _product(before[axis + 1 :])) is not None and _product(out[index + 1 :]) == behind:
            return index
    if axis == len(before) - 1 and len(out) - 1 in candidates:
        return len(out) - 1
    return 1 if 1 in candidates and len(out) != 3 else None


def _product(sizes: tuple[object, ...]) -> int | None:
    if not all(isinstance(size, int) for size in sizes):
        return None
    return math.prod(size for size in sizes if isinstance(size, int))


def _shifted_axis(node: NodeProto, before: tuple[object, ...], out: tuple[object, ...], axis: int) -> int | None:
    """Follow the axis through operators that remove or add dimensions."""
    if node.op_type == "Gather" and len(out) == len(before) - 1:
        gone = int(attribute(node, "axis", 0)) % len(before)
        return None if gone == axis else axis - (gone < axis)
    if len(out) > len(before):  # broadcasting aligns on the right; Unsqueeze is found by its sizes
        return _reshaped_axis(before, out, axis) if node.op_type == "Unsqueeze" else axis + len(out) - len(before)
    return _reshaped_axis(before, out, axis)
