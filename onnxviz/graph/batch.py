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

from collections.abc import Mapping

from onnxviz.graph.batch_places import BatchAxis, BatchFlow, MixesBatchError
from onnxviz.graph.batch_rules import result_places
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TypedGraph, UnknownShapeError
from onnxviz.graph.structure import ancestors, reads

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
