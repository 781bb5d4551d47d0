"""Where the batch dimension goes: which axis of every value holds the images.

An axis holds the batch if its size is the batch, or a multiple of it with the images outermost (as after
[N, C, H, W] -> [N * C / 2, 2, H * W]). Followed operator by operator; an operator that mixes images, or that nobody
knows, is a problem, and nothing is claimed about what is made from its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, TensorProto

from onnxviz.graph.operators import CHANNELS_AT_ONE, POINTWISE
from onnxviz.graph.shapes import Dimension, TensorType
from onnxviz.graph.structure import attribute, integers, reads, to_array

_POINTWISE = POINTWISE | {"Affine", "ImageScaler", "IsInf", "IsNaN"}
_IMAGEWISE = CHANNELS_AT_ONE | {"Crop"}
_ALONG_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "CumSum": None, "LpNormalization": -1, "TopK": -1}


class Mixes(Exception):  # noqa: N818 - not an error of the program
    """An operator does something to the batch axis that keeps the images from being independent."""


@dataclass
class BatchFlow:
    """What is known about the batch after following it through a graph.

    Attributes:
        axis: value -> axis that holds the batch.
        repeats: value -> how many entries of that axis belong to one image; 1 for an ordinary batch axis.
        problems: nodes at which the batch was lost, with the reason.
    """

    axis: dict[str, int] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    problems: list[tuple[NodeProto, str]] = field(default_factory=list)

    def leads(self, value: str, types: Mapping[str, TensorType], batch: int) -> bool:
        """Whether a value is a plain batch: axis 0 holds the images and nothing else."""
        shape = types.get(value, TensorType(0, None)).shape
        return self.axis.get(value) == 0 and shape is not None and len(shape) > 0 and shape[0] == batch


@dataclass
class _Scene:
    types: Mapping[str, TensorType]
    constants: Mapping[str, TensorProto]
    flow: BatchFlow
    batch: int

    def shape(self, value: str) -> tuple[Dimension, ...]:
        shape = self.types.get(value, TensorType(0, None)).shape
        if shape is None:
            raise Mixes("has a shape that is not known")
        return shape

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        name = node.input[index] if index < len(node.input) else ""
        return to_array(self.constants[name]) if name in self.constants else None


def follow(
    nodes: list[NodeProto],
    types: Mapping[str, TensorType],
    constants: Mapping[str, TensorProto],
    input_name: str,
    batch: int,
) -> BatchFlow:
    """Follow the batch from the input through all nodes.

    Args:
        nodes: in topological order.
        types: inferred with the batch set to `batch`.
        constants: initializers by identifier.
        input_name: the input whose axis 0 is the batch.
        batch: the number of images with which shapes were inferred.
    """
    flow = BatchFlow({input_name: 0})
    scene = _Scene(types, constants, flow, batch)
    for node in nodes:
        if any(name in flow.lost for name in reads(node)):
            flow.lost.update(name for name in node.output if name)
            continue
        if node.op_type in ("Shape", "Size") or not any(name in flow.axis for name in reads(node)):
            continue
        try:
            axis = _result_axis(scene, node)
        except Mixes as reason:
            flow.problems.append((node, str(reason)))
            flow.lost.update(name for name in node.output if name)
        else:
            flow.axis.update((name, axis) for name in node.output if name)
    return flow


def _result_axis(scene: _Scene, node: NodeProto) -> int:
    if node.domain:
        raise Mixes("is not a standard operator")
    if node.op_type in _POINTWISE:
        return _pointwise(scene, node)
    if node.op_type not in _RULES and node.op_type not in _IMAGEWISE:
        raise Mixes("is not known to treat images one by one")
    if node.input[0] not in scene.flow.axis and node.op_type not in ("Concat", "MatMul"):
        raise Mixes("depends on the images in an unusual place")
    if node.op_type in _IMAGEWISE:
        if scene.flow.axis[node.input[0]] != 0 or any(name in scene.flow.axis for name in node.input[1:]):
            raise Mixes("works on a tensor whose first axis is not the batch")
        return 0
    return _RULES[node.op_type](scene, node)


def _same(axes: set[int]) -> int:
    if len(axes) != 1:
        raise Mixes("joins tensors with the batch at different axes")
    return axes.pop()


def _pointwise(scene: _Scene, node: NodeProto) -> int:
    """Broadcasting aligns shapes on the right; a tensor without batch must be 1 wide where the batch is."""
    shapes = {name: scene.shape(name) for name in node.input if name}
    rank = max(len(shape) for shape in shapes.values())
    axis = _same({scene.flow.axis[name] + rank - len(shapes[name]) for name in shapes if name in scene.flow.axis})
    for name, shape in shapes.items():
        place = axis - (rank - len(shape))
        if name not in scene.flow.axis and place >= 0 and shape[place] != 1:
            raise Mixes("has another number for each image")
    return axis


def _transpose(scene: _Scene, node: NodeProto) -> int:
    order = integers(node, "perm", range(len(scene.shape(node.input[0])) - 1, -1, -1))
    return order.index(scene.flow.axis[node.input[0]])


def _reshape(scene: _Scene, node: NodeProto) -> int:
    """The axis that has as many numbers in front of it as before; of several, the one that is nothing but the batch."""
    before, after = scene.shape(node.input[0]), scene.shape(node.output[0])
    axis = scene.flow.axis[node.input[0]]
    wanted = _product(before[:axis])
    places = [place for place in range(len(after)) if wanted is not None and _product(after[:place]) == wanted]
    if not places:
        raise Mixes("joins the batch with another axis in front of it")
    plain = [place for place in places if after[place] == scene.batch]
    return (plain or [place for place in places if after[place] == before[axis]] or places)[0]


def _product(sizes: tuple[Dimension, ...]) -> int | None:
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _flatten(scene: _Scene, node: NodeProto) -> int:
    axis, rank = scene.flow.axis[node.input[0]], len(scene.shape(node.input[0]))
    cut = int(attribute(node, "axis", 1))
    cut += rank if cut < 0 else 0
    if axis == cut:
        return 1
    if axis == 0 and cut > 0:
        return 0
    raise Mixes("joins the batch with another axis in front of it")


def axes_of(node: NodeProto, constant: Callable[[int], np.ndarray | None]) -> tuple[int, ...] | None:
    """Return the axes a node names by attribute or constant input; () if none are named, None if they vary."""
    listed = attribute(node, "axes")
    if listed is not None:
        return tuple(int(axis) for axis in listed)
    if len(node.input) > 1 and node.input[1]:
        array = constant(1)
        return None if array is None else tuple(int(axis) for axis in array.reshape(-1))
    return ()


def _named_axes(scene: _Scene, node: NodeProto, rank: int) -> tuple[int, ...]:
    axes = axes_of(node, lambda index: scene.constant(node, index))
    if axes is None:
        raise Mixes("chooses its axes while running")
    return tuple(axis % rank for axis in axes)


def _squeeze(scene: _Scene, node: NodeProto) -> int:
    shape, axis = scene.shape(node.input[0]), scene.flow.axis[node.input[0]]
    axes = _named_axes(scene, node, len(shape))
    if not axes:  # every axis of size 1 goes; the batch must be told apart from them
        axes = tuple(index for index, size in enumerate(shape) if size == 1 and index != axis)
    if axis in axes:
        raise Mixes("removes the batch axis")
    return axis - sum(gone < axis for gone in axes)


def _unsqueeze(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.output[0])), scene.flow.axis[node.input[0]]
    new = _named_axes(scene, node, rank)
    return [index for index in range(rank) if index not in new][axis]


def _concat(scene: _Scene, node: NodeProto) -> int:
    rank = len(scene.shape(node.output[0]))
    axis = _same({scene.flow.axis[name] for name in node.input if name in scene.flow.axis})
    if int(attribute(node, "axis", 1)) % rank == axis:
        raise Mixes("joins along the batch")
    if any(name not in scene.flow.axis for name in node.input):
        raise Mixes("joins images with something that is there once")
    return axis


def _gather(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.input[0])), scene.flow.axis[node.input[0]]
    taken = int(attribute(node, "axis", 0)) % rank
    if taken == axis or node.input[1] in scene.flow.axis:
        raise Mixes("takes images apart")
    return axis if taken > axis else axis - 1 + len(scene.shape(node.input[1]))


def _slice(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.input[0])), scene.flow.axis[node.input[0]]
    if len(node.input) > 3 and node.input[3]:
        array = scene.constant(node, 3)
        axes = None if array is None else [int(entry) % rank for entry in array.reshape(-1)]
    else:
        starts = scene.shape(node.input[1])[0]
        axes = list(range(starts)) if isinstance(starts, int) else None
    if axes is None or axis in axes:
        raise Mixes("takes images apart")
    return axis


def _pad(scene: _Scene, node: NodeProto) -> int:
    pads, axis = scene.constant(node, 1), scene.flow.axis[node.input[0]]
    if pads is None or pads.reshape(2, -1)[:, axis].any():
        raise Mixes("adds images")
    return axis


def _reduce(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.input[0])), scene.flow.axis[node.input[0]]
    if node.op_type in ("ArgMax", "ArgMin"):
        axes: tuple[int, ...] = (int(attribute(node, "axis", 0)) % rank,)
    else:
        axes = _named_axes(scene, node, rank)
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return axis
    if not axes or axis in axes:
        raise Mixes("takes a value over all images")
    return axis if attribute(node, "keepdims", 1) else axis - sum(gone < axis for gone in axes)


def _along(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.input[0])), scene.flow.axis[node.input[0]]
    default = _ALONG_AXIS[node.op_type]
    along = int(attribute(node, "axis", -1)) if default is not None else None
    if along is None:
        array = scene.constant(node, 1)
        along = None if array is None else int(array.reshape(-1)[0])
    if along is None or along % rank == axis:
        raise Mixes("works along the batch")
    return axis


def _layer_normalization(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.input[0])), scene.flow.axis[node.input[0]]
    if axis >= int(attribute(node, "axis", -1)) % rank:
        raise Mixes("works along the batch")
    return axis


def _split(scene: _Scene, node: NodeProto) -> int:
    rank, axis = len(scene.shape(node.input[0])), scene.flow.axis[node.input[0]]
    if int(attribute(node, "axis", 0)) % rank == axis:
        raise Mixes("takes images apart")
    return axis


def _gemm(scene: _Scene, node: NodeProto) -> int:
    axis = scene.flow.axis[node.input[0]]
    if axis != int(attribute(node, "transA", 0)) or node.input[1] in scene.flow.axis:
        raise Mixes("sums over images")
    if len(node.input) > 2 and node.input[2]:
        bias = scene.shape(node.input[2])
        if node.input[2] in scene.flow.axis or (len(bias) == 2 and bias[0] != 1):
            raise Mixes("has another number for each image")
    return 0


def _matmul(scene: _Scene, node: NodeProto) -> int:
    left, right = node.input[0], node.input[1]
    ranks = {name: len(scene.shape(name)) for name in (left, right)}
    rank = max(*ranks.values(), 2)
    axes = set()
    for name in (left, right):
        if name not in scene.flow.axis:
            continue
        axis = scene.flow.axis[name] + rank - ranks[name]
        if axis == (rank - 1 if name == left else rank - 2) or ranks[name] < 2:
            raise Mixes("sums over images")
        axes.add(axis)
    axis = _same(axes)
    if axis >= rank - 2 and left in scene.flow.axis and right in scene.flow.axis:
        raise Mixes("multiplies images with each other")
    for name in (left, right):
        place = axis - (rank - ranks[name])
        if name not in scene.flow.axis and place >= 0 and axis < rank - 2 and scene.shape(name)[place] != 1:
            raise Mixes("has another number for each image")
    return axis


def _resize(scene: _Scene, node: NodeProto) -> int:
    axis = scene.flow.axis[node.input[0]]
    before, after = scene.shape(node.input[0]), scene.shape(node.output[0])
    if before[axis] != after[axis] or len(before) != len(after):
        raise Mixes("makes images of images")
    return axis


def _quantize(scene: _Scene, node: NodeProto) -> int:
    axis = scene.flow.axis[node.input[0]]
    wide = len(scene.shape(node.input[1])) > 0 and scene.shape(node.input[1]) != (1,)
    if wide and int(attribute(node, "axis", 1)) % len(scene.shape(node.input[0])) == axis:
        raise Mixes("has another number for each image")
    return axis


def _expand(scene: _Scene, node: NodeProto) -> int:
    before, after = scene.shape(node.input[0]), scene.shape(node.output[0])
    axis = scene.flow.axis[node.input[0]]
    place = axis + len(after) - len(before)
    if before[axis] != after[place]:
        raise Mixes("makes images of images")
    return place


_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum"
_RULES: dict[str, Callable[[_Scene, NodeProto], int]] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Pad": _pad,
    "Split": _split,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Resize": _resize,
    "Upsample": _resize,
    "Tile": _resize,
    "Expand": _expand,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    "LayerNormalization": _layer_normalization,
    **dict.fromkeys(_ALONG_AXIS, _along),
    **dict.fromkeys([*_REDUCTIONS.split(), "ReduceSumSquare", "ArgMax", "ArgMin"], _reduce),
}
