"""One record for each operator, in a file for each family; a new operator is a line in one of them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxviz.graph.operators import arrangement, others, pointwise, products, reductions
from onnxviz.graph.operators.custom import CustomOperator, custom_operators
from onnxviz.graph.operators.traits import CHANNELS_FIRST, UNKNOWN, Form, OperatorTraits

TRAITS: Mapping[str, OperatorTraits] = {
    **arrangement.TRAITS, **others.TRAITS, **pointwise.TRAITS, **products.TRAITS, **reductions.TRAITS,
}  # fmt: skip
"""By operator; "domain:Operator" outside the standard's own domain."""


def traits_of(node: NodeProto) -> OperatorTraits:
    """Return what is true of a node's operator; `UNKNOWN` for one that nobody entered or registered."""
    key = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    known = TRAITS.get(key)
    if known is None and node.domain and key in custom_operators():
        return custom_operators()[key].traits
    return known or UNKNOWN


__all__ = ["CHANNELS_FIRST", "TRAITS", "UNKNOWN", "CustomOperator", "Form", "OperatorTraits", "traits_of"]
