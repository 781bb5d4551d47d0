"""Where the batch goes: which axis of every value holds the images, and how.

A graph that was exported for a batch of B images says what it makes of one of them; asked for are the shapes that every
value has with any number N of images. An axis of size `before * B * behind` holds the batch if entry
`(i * B + n) * behind + j` of it belongs to image n: an ordinary batch axis (`before` and `behind` 1), windows or heads
behind their image ([N * windows, ...]), or images behind a position ([positions * N, channels]).

A reshape changes neither the order of the numbers nor how many of them lie in front of the batch, so it leaves few axes
that can hold it, often one. Of several the plainest is tried first, and another one if an operator further on rules it
out. Followed operator by operator; an operator that mixes images, or that nobody knows, is a problem,
and nothing is claimed about what is made from its result.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from onnx import NodeProto

from onnxviz.graph.batch_places import BatchAxis, BatchFlow, MixesBatchError, Rule, placed, reshaped
from onnxviz.graph.node_axes import axes_of, axis_map, named_axis
from onnxviz.graph.operators import CHANNELS_FIRST, Form, traits_of
from onnxviz.graph.shapes import Dimension, TypedGraph, UnknownShapeError
from onnxviz.graph.structure import ancestors, attribute, input_of, reads, text

_ATTEMPTS = 64
"""How many of the ways to place the batch are tried at most."""
_STEPS = 200_000
"""How many nodes may be followed in all attempts together, the first not counted."""


def follow(graph: TypedGraph, given: Mapping[str, BatchAxis], batch: int) -> BatchFlow:
    """Follow the batch through all nodes; where it can be placed in several ways, search for one that goes on.

    Args:
        graph: its types inferred with a batch of `batch` images.
        given: the input whose axis 0 is the batch, and other values that are known to hold it.
        batch: how many images there are.

    Returns:
        The first flow without a problem, or the very first one.
    """
    choices: dict[str, int] = {}
    first: BatchFlow | None = None
    order = {node.name: index for index, node in enumerate(graph.graph.node)}
    for _ in range(max(1, min(_ATTEMPTS, _STEPS // max(1, len(order))))):
        flow = _follow_once(graph, given, batch, choices)
        first = first or flow
        if not flow.problems:
            return flow
        needed = ancestors(graph.graph, reads(flow.problems[0][0]))
        above = {graph.makers[name].name for name in needed if name in graph.makers}
        open_ = [name for name, count in flow.options.items() if name in above and choices.get(name, 0) + 1 < count]
        if not open_:
            break
        turned = max(open_, key=order.__getitem__)
        choices = {name: choice for name, choice in choices.items() if order[name] < order[turned]} | {
            turned: choices.get(turned, 0) + 1
        }
    assert first is not None
    return first


def _follow_once(
    graph: TypedGraph, given: Mapping[str, BatchAxis], batch: int, choices: Mapping[str, int]
) -> BatchFlow:
    flow = BatchFlow(graph, batch, choices, dict(given))
    for node in graph.graph.node:
        made = [name for name in node.output if name]
        if any(name in flow.lost for name in reads(node)):
            flow.lost.update(made)
            continue
        if traits_of(node).form == "shape" or not any(name in flow.places for name in reads(node)):
            continue
        try:
            places = result_places(flow, node)
        except (MixesBatchError, ArithmeticError, LookupError, TypeError, ValueError) as reason:
            told = isinstance(reason, MixesBatchError | UnknownShapeError)
            what = str(reason) if told else "contradicts the shapes of its inputs"
            flow.problems.append((node, what))
            flow.lost.update(made)
        else:
            listed = [places] * len(node.output) if isinstance(places, BatchAxis) else places
            flow.places.update((name, place) for name, place in zip(node.output, listed, strict=False) if name)
    return flow


def result_places(flow: BatchFlow, node: NodeProto) -> BatchAxis | Sequence[BatchAxis]:
    """Return where a node puts the batch in its output, or in each of them.

    Raises:
        MixesBatchError: if it does not keep images apart, or is not known to.
    """
    if node.domain:
        raise MixesBatchError("is not a standard operator")
    rule = _REFORMED.get(node.op_type) or _RULES.get(traits_of(node).form)
    if rule is None:
        raise MixesBatchError("is not known to treat images one by one")
    if rule not in _ANY_INPUT and flow.place(node.input[0]) is None:
        raise MixesBatchError("depends on the images in an unusual place")
    return rule(flow, node)


def _source(flow: BatchFlow, node: NodeProto) -> tuple[tuple[Dimension, ...], BatchAxis]:
    """Shape and batch of the first input, in which alone the batch may come."""
    place = flow.place(node.input[0])
    if place is None or any(flow.place(name) is not None for name in node.input[1:]):
        raise MixesBatchError("depends on the images in an unusual place")
    return flow.shape(node.input[0]), place


def _require_only(flow: BatchFlow, node: NodeProto, indices: Container[int]) -> None:
    """Make sure that no inputs but these hold the batch."""
    if any(flow.place(name) is not None for index, name in enumerate(node.input) if index not in indices):
        raise MixesBatchError("depends on the images in an unusual place")


def _same(places: set[BatchAxis]) -> BatchAxis:
    if len(places) != 1:
        raise MixesBatchError("joins tensors with the batch at different axes")
    return places.pop()


def _held(flow: BatchFlow, names: Iterable[str]) -> BatchAxis:
    """Where those of some values hold the batch that do; all in the same place."""
    return _same({found for name in names if (found := flow.place(name)) is not None})


def _widen_rest(flow: BatchFlow, node: NodeProto, indices: Iterable[int], place: BatchAxis) -> None:
    """Let inputs that are there once be repeated for every image."""
    for index in indices:
        name = node.input[index]
        if flow.place(name) is None:
            flow.widen(node, index, place, size=flow.shape(name)[place.axis])


def _joined(flow: BatchFlow, node: NodeProto, ranks: dict[int, int], rank: int) -> BatchAxis:
    """Align inputs on the right and find the batch that they share; widen those that are there once.

    `ranks` maps the index of each input that takes part to its rank; `rank` is that of the result.
    """
    places: dict[int, BatchAxis] = {}
    for index in ranks:
        found = flow.place(node.input[index])
        if found is not None:
            places[index] = found.at(found.axis + rank - ranks[index])
    shared = _same(set(places.values()))
    sizes = {flow.shape(node.input[index])[shared.axis - rank + ranks[index]] for index in places if ranks[index]}
    if len(sizes) > 1 or (not sizes and rank):
        raise MixesBatchError("joins tensors that hold the batch in different ways")
    for index, own in ranks.items():
        axis = shared.axis - (rank - own)
        if index in places or axis < 0:
            continue
        size = flow.shape(node.input[index])[axis]
        if size == 1:
            continue
        if {size} != sizes:
            raise MixesBatchError("has another number for each image")
        flow.widen(node, index, shared.at(axis), size=size)
    return shared


def _pointwise(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    """Broadcasting aligns shapes on the right; a tensor without batch must be 1 wide where the batch is."""
    ranks = {index: len(flow.shape(name)) for index, name in enumerate(node.input) if name}
    operands = traits_of(node).operands
    if operands is not None:
        _require_only(flow, node, operands)
        ranks = {index: ranks[index] for index in operands}
    return _joined(flow, node, ranks, max(ranks.values()))


def _imagewise(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    _, place = _source(flow, node)
    if place.axis != 0:
        raise MixesBatchError("works on a tensor whose first axis is not the batch")
    if node.op_type == "BatchNormalization" and attribute(node, "training_mode", 0):
        raise MixesBatchError("takes its statistics over all images")
    if node.op_type == "MaxPool" and any(node.output[1:]):
        raise MixesBatchError("numbers positions through all images")
    return place


def _at_front(flow: BatchFlow, node: NodeProto, indices: Sequence[int] = (0, 1)) -> BatchAxis:
    """Several inputs have their images at axis 0."""
    given = [index for index in indices if input_of(node, index)]
    shared = _held(flow, (node.input[index] for index in given))
    if shared.axis != 0:
        raise MixesBatchError("works on a tensor whose first axis is not the batch")
    _widen_rest(flow, node, given, shared)
    return shared


def _deform_conv(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    if any(flow.place(name) is not None for index, name in enumerate(node.input) if index in (1, 3)):
        raise MixesBatchError("has weights that depend on the images")
    return _at_front(flow, node, (0, 2, 4))


def _mapped(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    """Transposes, sums, and what works along some axes."""
    shape, place = _source(flow, node)
    found = axis_map(node, len(shape), flow.graph.constants)
    if found is None:
        raise MixesBatchError("chooses its axes while running")
    axis = found.to[place.axis]
    if place.axis in found.mixed or axis is None:
        summed = traits_of(node).form == "reduction"
        raise MixesBatchError("takes a value over all images" if summed else "works along the batch")
    return place.at(axis)


def _reshape(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    _, place = _source(flow, node)
    target = flow.constant(node, 1)
    copied = target is not None and place.axis < target.size and target.reshape(-1)[place.axis] == 0
    return reshaped(flow, node, place.axis if copied and not attribute(node, "allowzero", 0) else None)


def _flatten(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    cut = int(attribute(node, "axis", 1))
    cut += len(shape) if cut < 0 else 0
    return reshaped(flow, node, 0 if place.axis < cut else 1)


def _named_axes(flow: BatchFlow, node: NodeProto, rank: int) -> tuple[int, ...]:
    axes = axes_of(node, flow.graph.constants)
    if axes is None:
        raise MixesBatchError("chooses its axes while running")
    return tuple(axis % rank for axis in axes)


def _squeezed(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    if axes_of(node, flow.graph.constants) is None:
        raise MixesBatchError("chooses its axes while running")
    found = axis_map(node, len(shape), flow.graph.constants)
    return reshaped(flow, node, None if found is None else found.to.get(place.axis))


def _concat(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    rank = len(flow.shape(node.output[0]))
    shared = {found for name in node.input if (found := flow.place(name)) is not None}
    along = named_axis(node, 1, rank)
    if any(place.axis == along for place in shared):
        return _stacked(flow, node, along)
    place = _same(shared)
    sizes = {flow.shape(name)[place.axis] for name in node.input}
    if len(sizes) != 1:
        raise MixesBatchError("joins tensors that hold the batch in different ways")
    _widen_rest(flow, node, range(len(node.input)), place)
    return place


def _stacked(flow: BatchFlow, node: NodeProto, axis: int) -> BatchAxis:
    """Batches one behind the other: what belongs to one image is then apart."""
    before = 0
    for name in node.input:
        place = flow.place(name)
        if place is None or place.axis != axis or flow.shape(name)[axis] != place.before * flow.batch:
            raise MixesBatchError("joins along the batch")
        before += place.before
    return BatchAxis(axis, before)


def _split(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    if named_axis(node, 0, len(shape)) != place.axis:
        return place
    sizes = {flow.shape(name)[place.axis] for name in node.output if name}
    parts, size = len(node.output), shape[place.axis]
    if not all(node.output) or size != place.before * flow.batch or place.before % parts or len(sizes) != 1:
        raise MixesBatchError("takes images apart")
    return BatchAxis(place.axis, place.before // parts)


def _gather(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    data, indices = flow.shape(node.input[0]), flow.shape(node.input[1])
    place, chosen = flow.place(node.input[0]), flow.place(node.input[1])
    taken = named_axis(node, 0, len(data))
    if place is not None and chosen is not None:
        raise MixesBatchError("takes other positions from each image")
    if chosen is not None:
        return chosen.at(taken + chosen.axis)
    assert place is not None
    if taken != place.axis:
        return place.at(place.axis if taken > place.axis else place.axis - 1 + len(indices))
    if flow.batch != 1 or data[taken] != 1:
        return _gather_within(flow, node, data, indices, place)
    # `x[0]` of a graph for one image says nothing but "the image".
    index = flow.constant(node, 1)
    if index is None or indices or int(index) not in (0, -1):
        raise MixesBatchError("takes images apart")
    return reshaped(flow, node)


def _gather_within(
    flow: BatchFlow, node: NodeProto, data: tuple[Dimension, ...], indices: tuple[Dimension, ...], place: BatchAxis
) -> BatchAxis:
    """The same positions of each image, from an axis that holds both."""
    if flow.batch != 1 or place.before != 1 or not all(isinstance(entry, int) for entry in (*data, *indices)):
        raise MixesBatchError("takes images apart")
    apart = (*data[: place.axis], 1, *indices, *data[place.axis + 1 :])
    flow.within.add(node.name)
    return placed(flow, node, apart, place)


def _corresponding(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    """Positions of data and indices correspond along all axes but one, for GatherND along the first ones."""
    place = _held(flow, node.input)
    if node.op_type == "GatherND" and place.axis >= int(attribute(node, "batch_dims", 0)):
        raise MixesBatchError("takes images apart")
    if node.op_type != "GatherND" and place.axis == named_axis(node, 0, len(flow.shape(node.input[0]))):
        raise MixesBatchError("works along the batch")
    _widen_rest(flow, node, range(len(node.input)), place)
    return place


def _scatter_nd(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    """Constant coordinates, as an assignment to a part of a tensor is exported: the only image's are everyone's."""
    data, updates = flow.place(node.input[0]), flow.place(node.input[2])
    indices = flow.constant(node, 1)
    if indices is None or updates is None or flow.batch != 1 or not indices.size:
        raise MixesBatchError("takes images apart")
    place = data or BatchAxis(0)
    shapes = flow.shape(node.input[0]), flow.shape(node.input[2])
    own_axes = shapes[0][place.axis] == 1 and shapes[1][updates.axis] == 1
    by_coordinate = place.axis < indices.shape[-1] and updates.axis < indices.ndim - 1
    if not own_axes or not by_coordinate or indices[..., place.axis].any():
        raise MixesBatchError("takes images apart")
    if data is None:
        flow.widen(node, 0, place, size=1)
    flow.within.add(node.name)
    return place


def _slice(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    starts = flow.shape(node.input[1])[0]
    axes = _named_axes(flow, node, len(shape)) or (tuple(range(starts)) if isinstance(starts, int) else None)
    if axes is None:
        raise MixesBatchError("takes images apart")
    if place.axis in axes and flow.shape(node.output[0])[place.axis] != shape[place.axis]:
        raise MixesBatchError("takes images apart")
    if place.axis in axes and not _forwards(flow, node, axes.index(place.axis)):
        raise MixesBatchError("turns the images around")
    return place


def _forwards(flow: BatchFlow, node: NodeProto, index: int) -> bool:
    steps = flow.constant(node, 4)
    if input_of(node, 4) and steps is None:
        return False
    constant = all(flow.constant(node, place) is not None for place in (1, 2))
    return constant and (steps is None or int(steps.reshape(-1)[index]) == 1)


def _pad(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    pads = flow.constant(node, 1)
    axes = _named_axes(flow, node, len(shape)) or tuple(range(len(shape)))
    if place.axis in axes and (pads is None or pads.reshape(2, -1)[:, axes.index(place.axis)].any()):
        raise MixesBatchError("adds images")
    return place


def _one_hot(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    axis = named_axis(node, -1, len(shape) + 1)
    return place.at(place.axis + (axis <= place.axis))


def _gemm(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    left, right = flow.place(node.input[0]), flow.place(node.input[1])
    if left is not None and right is not None:
        raise MixesBatchError("multiplies images with each other")
    if left is not None and left.axis == int(bool(attribute(node, "transA", 0))):
        place = left.at(0)
    elif right is not None and right.axis == int(not attribute(node, "transB", 0)):
        place = right.at(1)
    else:
        raise MixesBatchError("sums over images")
    if input_of(node, 2):
        _addend(flow, node, place)
    return place


def _addend(flow: BatchFlow, node: NodeProto, place: BatchAxis) -> None:
    shape, own = flow.shape(node.input[2]), flow.place(node.input[2])
    if own is not None:
        if own.at(own.axis + 2 - len(shape)) != place:
            raise MixesBatchError("joins tensors with the batch at different axes")
        return
    axis = place.axis - 2 + len(shape)
    if axis >= 0 and shape[axis] != 1:
        flow.widen(node, 2, place.at(axis), size=shape[axis])


def _matmul(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    factors = (0, traits_of(node).weight)
    shapes = {index: flow.shape(node.input[index]) for index in factors}
    rank = max(*(len(shape) for shape in shapes.values()), 2)
    held = {index: found for index in factors if (found := flow.place(node.input[index])) is not None}
    _require_only(flow, node, factors if held else ())
    for index, place in held.items():
        summed = len(shapes[index]) - (1 if index == factors[0] else 2)
        if len(shapes[index]) < 2 or place.axis == summed:
            raise MixesBatchError("sums over images")
    aligned = {index: place.axis + rank - len(shapes[index]) for index, place in held.items()}
    if all(axis < rank - 2 for axis in aligned.values()):
        return _joined(flow, node, {index: len(shape) for index, shape in shapes.items()}, rank)
    if len(held) > 1:
        raise MixesBatchError("multiplies images with each other")
    index, place = held.popitem()
    # A vector on the left has no row, and leaves the result without one.
    return place.at(aligned[index] - int(index == factors[1] and len(shapes[factors[0]]) == 1))


def _einsum(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    """The batch must keep one letter, which is not summed over."""
    written = text(node, "equation").replace(" ", "")
    if "." in written or "->" not in written:
        raise MixesBatchError("is not known to treat images one by one")
    terms, result = written.split("->")
    letters = terms.split(",")
    held = [(term, flow.place(name)) for term, name in zip(letters, node.input, strict=True)]
    shared = {(term[place.axis], place.before) for term, place in held if place is not None}
    if len(shared) != 1:
        raise MixesBatchError("joins tensors with the batch at different axes")
    letter, before = shared.pop()
    if letter not in result:
        raise MixesBatchError("sums over images")
    for index, (term, name) in enumerate(zip(letters, node.input, strict=True)):
        if flow.place(name) is None and letter in term:
            axis = term.index(letter)
            flow.widen(node, index, BatchAxis(axis, before), size=flow.shape(name)[axis])
    return BatchAxis(result.index(letter), before)


def _resize(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    after = flow.shape(node.output[0])
    if shape[place.axis] != after[place.axis] or len(shape) != len(after):
        raise MixesBatchError("makes images of images")
    return place


def _expand(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    shape, place = _source(flow, node)
    after = flow.shape(node.output[0])
    axis = place.axis + len(after) - len(shape)
    if shape and shape[place.axis] != after[axis]:
        raise MixesBatchError("makes images of images")
    return place.at(axis)


def _quantize(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    if node.op_type == "DynamicQuantizeLinear":
        raise MixesBatchError("measures its scale over all images")
    shape, place = _source(flow, node)
    scale = flow.shape(node.input[1])
    wide = len(scale) > 0 and scale != (1,)
    blocked = len(scale) > 1 and scale[min(place.axis, len(scale) - 1)] != 1
    if blocked or (wide and named_axis(node, 1, len(shape)) == place.axis):
        raise MixesBatchError("has another number for each image")
    return place


def _recurrent(flow: BatchFlow, node: NodeProto) -> list[BatchAxis]:
    """RNN, GRU and LSTM: [length, images, numbers], or images first where `layout` is 1."""
    first = bool(attribute(node, "layout", 0))
    axis = 0 if first else 1
    if flow.place(node.input[0]) != BatchAxis(axis) or any(flow.place(name) for name in node.input[1:4]):
        raise MixesBatchError("works along the batch")
    for index, wanted in ((4, 0), (5, axis), (6, axis)):
        name = input_of(node, index)
        held = flow.place(name) if name else BatchAxis(wanted)
        if held is None:
            flow.widen(node, index, BatchAxis(wanted), size=flow.shape(name)[wanted])
        elif held != BatchAxis(wanted):
            raise MixesBatchError("joins tensors with the batch at different axes")
    return [BatchAxis(0 if first else 2), BatchAxis(axis), BatchAxis(axis)]


def _attention(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    """The standard's Attention: images first in queries, keys, values and what is remembered of them."""
    mask = flow.shape(node.input[3]) if input_of(node, 3) else ()
    if len(mask) == 4 and mask[0] != 1:
        raise MixesBatchError("has another number for each image")
    _require_only(flow, node, (0, 1, 2, 4, 5, 6))
    return _at_front(flow, node, (0, 1, 2, 4, 5, 6))


def _rotary(flow: BatchFlow, node: NodeProto) -> BatchAxis:
    _require_only(flow, node, (0,))
    return _at_front(flow, node, (0, 3) if input_of(node, 3) else (0, 1, 2))


_REFORMED: Mapping[str, Rule] = {"Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeezed, "Unsqueeze": _squeezed}
_RULES: Mapping[Form, Rule] = {
    **dict.fromkeys(CHANNELS_FIRST | {"columns_to_image"}, _imagewise),
    **dict.fromkeys(
        (
            "along_axis",
            "axis_normalisation",
            "cumulative",
            "last_normalisation",
            "reduction",
            "top_k",
            "transpose",
            "trilu",
        ),
        _mapped,
    ),
    **dict.fromkeys(("gather_elements", "gather_nd", "scatter_elements"), _corresponding),
    **dict.fromkeys(("resize", "tile"), _resize),
    "attention": _attention,
    "concat": _concat,
    "deformed_convolution": _deform_conv,
    "einsum": _einsum,
    "expand": _expand,
    "gather": _gather,
    "gemm": _gemm,
    "grid_sample": _at_front,
    "one_hot": _one_hot,
    "pad": _pad,
    "pointwise": _pointwise,
    "product": _matmul,
    "quantize": _quantize,
    "recurrent": _recurrent,
    "rotary": _rotary,
    "scatter_nd": _scatter_nd,
    "slice": _slice,
    "split": _split,
}
_ANY_INPUT = {_pointwise, _concat, _einsum, _gather, _corresponding, _gemm, _matmul, _at_front,
              _deform_conv, _attention, _scatter_nd}  # fmt: skip
"""Rules that allow the batch in any input."""
