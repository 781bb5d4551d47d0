"""Does a gradient flow from a layer back to the image, and if not, which operators stop it?

A threshold, a rounding or a comparison has derivative zero almost everywhere: behind it every gradient is exactly zero,
and a map made of it is blank for a reason that has nothing to do with the image.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import onnx
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import FLOATS
from onnxviz.graph.structure import ancestors, attribute, reads

_WHOLE = {"tensor(bool)", "tensor(int32)", "tensor(int64)", "tensor(string)"}
"""Types that hold no numbers of an image; narrower integers may be rounded ones, which gradients pass."""


def stops(graph: GraphProto, image: str, value: str) -> tuple[NodeProto, ...]:
    """Return the nodes of a normalised graph at which every gradient from a value to the image ends.

    There are none if a gradient flows, or if the value does not depend on the image at all.
    """
    flows = {image}  # the values from which a gradient can flow back to it
    for node in graph.node:
        if not _flat(node) and any(name in flows for name in _differentiable(node)):
            flows.update(name for name in node.output[: traits_of(node).sloped_outputs] if name)
    if value in flows:
        return ()
    needed = ancestors(graph, [value])
    return tuple(
        node
        for node in graph.node
        if (made := needed.intersection(node.output)) and not made & flows and not flows.isdisjoint(reads(node))
    )


def _flat(node: NodeProto) -> bool:
    if traits_of(node).flat:
        return True
    # A cast to whole numbers rounds; to a boolean it compares. Quantisation has an operator of its own.
    return node.op_type == "Cast" and attribute(node, "to", TensorProto.FLOAT) not in FLOATS


def _differentiable(node: NodeProto) -> Iterable[str]:
    """Return what a node reads and could pass a gradient to: no indices, shapes or conditions."""
    sloped = traits_of(node).sloped
    counts = _whole_inputs(node.op_type, node.domain)
    passed = {
        name for place, name in enumerate(node.input) if (place not in counts if sloped is None else place in sloped)
    }
    return passed | (set(reads(node)) - set(node.input))


@cache
def _whole_inputs(operator: str, domain: str) -> frozenset[int]:
    """Return which inputs of an operator hold nothing but indices, sizes or conditions, as its schema says."""
    if not onnx.defs.has(operator, domain):
        return frozenset()
    inputs = onnx.defs.get_schema(operator, domain).inputs
    return frozenset(place for place, given in enumerate(inputs) if set(given.types) <= _WHOLE)
