"""Where the batch goes: which axis of every value holds the images, and how.

A graph that was exported for a batch of B images says what it makes of one of them; asked for are the shapes that every
value has with any number N of images. An axis of size `before * B * behind` holds the batch if entry
`(i * B + n) * behind + j` of it belongs to image n: an ordinary batch axis (`before` and `behind` 1), windows or heads
behind their image ([N * windows, ...]), or images behind a position ([positions * N, channels]).

A reshape changes neither the order of the numbers nor how many of them lie in front of the batch, so it leaves few axes
that can hold it, often one. Of several the plainest is tried first, and another one if an operator further on rules it
out. Followed operator by operator (`batch_rules`); an operator that mixes images, or that nobody knows, is a problem,
and nothing is claimed about what is made from its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnx import NodeProto, TensorProto

from onnxviz.graph.batch_places import BatchAxis, BatchContext, BatchFlow, MixesBatchError
from onnxviz.graph.batch_rules import result_places
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import reads

_ATTEMPTS = 64
"""How many of the ways to place the batch are tried at most."""
_STEPS = 200_000
"""How many nodes may be followed in all attempts together, the first not counted."""


def follow(
    nodes: Sequence[NodeProto],
    types: Mapping[str, TensorType],
    constants: Mapping[str, TensorProto],
    given: Mapping[str, BatchAxis],
    batch: int,
) -> BatchFlow:
    """Follow the batch through all nodes; where it can be placed in several ways, search for one that goes on.

    Args:
        nodes: in topological order.
        types: inferred with the batch set to `batch`.
        constants: initializers by identifier.
        given: the input whose axis 0 is the batch, and other values that are known to hold it.
        batch: the number of images with which shapes were inferred.

    Returns:
        The first flow without a problem, or the very first one.
    """
    choices: dict[str, int] = {}
    first: BatchFlow | None = None
    order = {node.name: index for index, node in enumerate(nodes)}
    for _ in range(max(1, min(_ATTEMPTS, _STEPS // max(1, len(nodes))))):
        flow = _follow_once(nodes, types, constants, given, batch, choices)
        first = first or flow
        if not flow.problems:
            return flow
        above = _above(nodes, flow.problems[0][0])
        open_ = [name for name, count in flow.options.items() if name in above and choices.get(name, 0) + 1 < count]
        if not open_:
            break
        turned = max(open_, key=order.__getitem__)
        choices = {name: choice for name, choice in choices.items() if order[name] < order[turned]} | {
            turned: choices.get(turned, 0) + 1
        }
    assert first is not None
    return first


def _above(nodes: Sequence[NodeProto], start: NodeProto) -> set[str]:
    """Return the identifiers of the nodes that a node's result depends on."""
    makers = {name: node for node in nodes for name in node.output if name}
    found: set[str] = set()
    stack = list(reads(start))
    while stack:
        maker = makers.get(stack.pop())
        if maker is not None and maker.name not in found:
            found.add(maker.name)
            stack.extend(reads(maker))
    return found


def _follow_once(
    nodes: Iterable[NodeProto],
    types: Mapping[str, TensorType],
    constants: Mapping[str, TensorProto],
    given: Mapping[str, BatchAxis],
    batch: int,
    choices: Mapping[str, int],
) -> BatchFlow:
    flow = BatchFlow(batch, dict(given))
    context = BatchContext(types, constants, flow, choices)
    for node in nodes:
        made = [name for name in node.output if name]
        if any(name in flow.lost for name in reads(node)):
            flow.lost.update(made)
            continue
        if traits_of(node).form == "shape" or not any(name in flow.places for name in reads(node)):
            continue
        try:
            places = result_places(context, node)
        except (MixesBatchError, ArithmeticError, LookupError, TypeError, ValueError) as reason:
            what = str(reason) if isinstance(reason, MixesBatchError) else "contradicts the shapes of its inputs"
            flow.problems.append((node, what))
            flow.lost.update(made)
        else:
            listed = [places] * len(node.output) if isinstance(places, BatchAxis) else places
            flow.places.update((name, place) for name, place in zip(node.output, listed, strict=False) if name)
    return flow
