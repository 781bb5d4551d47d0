"""Does a gradient flow from a layer back to the image, and if not, which operators stop it?

A threshold, a rounding or a comparison has derivative zero almost everywhere: behind it every gradient is exactly zero,
and a map made of it is blank for a reason that has nothing to do with the image.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.shapes import FLOATS
from onnxviz.graph.structure import ancestors, attribute, reads

FLAT = frozenset(
    [
        "And",
        "ArgMax",
        "ArgMin",
        "BitCast",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Ceil",
        "Equal",
        "EyeLike",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Hardmax",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonMaxSuppression",
        "NonZero",
        "Not",
        "OneHot",
        "Or",
        "Round",
        "Shape",
        "Sign",
        "Size",
        "Xor",
        "Binarizer",
        "LabelEncoder",
        "OneHotEncoder",
        "TfIdfVectorizer",
        "TreeEnsemble",
        "TreeEnsembleClassifier",
        "TreeEnsembleRegressor",
    ]
)
"""Operators whose derivative is zero wherever it exists."""

_DATA_INPUTS: dict[str, tuple[int, ...]] = {
    "Where": (1, 2),
    "Gather": (0,),
    "GatherElements": (0,),
    "GatherND": (0,),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Reshape": (0,),
    "Expand": (0,),
    "Tile": (0,),
    "Slice": (0,),
    "Pad": (0, 2),
    "Resize": (0,),
    "TopK": (0,),
    "If": (),
}
"""Inputs through which gradients flow, where that is not all of them; for `If` what the branches read does."""


def reached(graph: GraphProto, image: str) -> set[str]:
    """Return the values from which a gradient can flow back to the image.

    Args:
        graph: a normalised graph.
        image: identifier of the input.
    """
    found = {image}
    for node in graph.node:
        if not _flat(node) and any(value in found for value in _differentiable(node)):
            outputs = list(node.output)
            # The second output of these holds places, not values.
            found.update(name for name in (outputs[:1] if node.op_type in ("TopK", "MaxPool") else outputs) if name)
    return found


def stops(graph: GraphProto, image: str, value: str) -> tuple[NodeProto, ...]:
    """Return the nodes at which every gradient from a value to the image ends.

    Args:
        graph: a normalised graph.
        image: identifier of the input.
        value: identifier of the value that the gradient is taken of.

    Returns:
        Nothing if a gradient flows, or if the value does not depend on the image at all.
    """
    flows = reached(graph, image)
    if value in flows:
        return ()
    needed = ancestors(graph, [value])
    return tuple(
        node
        for node in graph.node
        if any(name in needed for name in node.output)
        and not any(name in flows for name in node.output)
        and any(name in flows for name in reads(node))
    )


def _flat(node: NodeProto) -> bool:
    if node.op_type in FLAT:
        return True
    # A cast to whole numbers rounds; to a boolean it compares. Quantisation has an operator of its own.
    return node.op_type == "Cast" and attribute(node, "to", TensorProto.FLOAT) not in FLOATS


def _differentiable(node: NodeProto) -> Iterable[str]:
    if node.op_type not in _DATA_INPUTS:
        return reads(node)
    places = _DATA_INPUTS[node.op_type]
    if node.op_type == "If":
        return (name for name in reads(node) if name != node.input[0])
    return (node.input[place] for place in places if place < len(node.input))
