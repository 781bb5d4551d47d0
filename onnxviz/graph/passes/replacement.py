"""One node written as several: what passes share that replace operators by others."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import UNKNOWN, TensorType
from onnxviz.graph.structure import attribute, constant_input, constants_within, input_of, producers, refill
from onnxviz.graph.tensors import subgraphs


@dataclass
class Replacement:
    """The nodes that take the place of one.

    Attributes:
        draft: the graph, for new identifiers and constants.
        node: what is replaced.
        constants: identifier -> tensor, of all that the node sees.
        makers: identifier -> the node that makes it, in the same graph before anything is replaced.
        shared: identifiers of values that earlier replacements in the same graph made, by whatever tells them apart.
        main: whether the node lies in the main graph, not in one inside a node.
        nodes: what was added so far.
        elements: identifier of a value that was added -> its element type, where somebody asks for it.
        types: of all that the node sees; None for those of the main graph.
    """

    draft: Draft
    node: NodeProto
    constants: Mapping[str, TensorProto] = field(default_factory=dict)
    makers: Mapping[str, NodeProto] = field(default_factory=dict)
    shared: dict[tuple[str, ...], str] = field(default_factory=dict)
    main: bool = True
    nodes: list[NodeProto] = field(default_factory=list)
    elements: dict[str, int] = field(default_factory=dict)
    types: Mapping[str, TensorType] | None = None

    def attributes(self, *without: str) -> dict[str, Any]:
        """The node's attributes, but for some."""
        entries = self.node.attribute
        return {entry.name: attribute(self.node, entry.name) for entry in entries if entry.name not in without}

    def input(self, index: int) -> str:
        """Identifier of an input of the node; "" if it is left out."""
        return input_of(self.node, index)

    def known(self, index: int) -> np.ndarray | None:
        """The numbers of a constant input, or None."""
        return constant_input(self.node, index, self.constants)

    def kind(self, index: int) -> TensorType:
        """Type of an input."""
        tensor = self.constants.get(self.input(index))
        if tensor is not None:
            return TensorType(tensor.data_type, tuple(tensor.dims))
        return (self.draft.types() if self.types is None else self.types).get(self.input(index), UNKNOWN)

    def element(self, index: int) -> int:
        """Element type of an input; 0 if unknown."""
        return self.elements.get(self.input(index)) or self.kind(index).element

    def rank(self, index: int) -> int | None:
        """Number of dimensions of an input, or None."""
        shape = self.kind(index).shape
        return None if shape is None else len(shape)

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """Add a constant and return its identifier."""
        tensor = onnx.numpy_helper.from_array(np.asarray(value, kind))
        return self.draft.add_constant(tensor, self.node.output[0])

    def add(
        self,
        operator: str,
        *inputs: str,
        to: str = "",
        like: str = "",
        domain: str = "",
        name: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node and return the identifier of what it makes.

        It makes `to`, or a new value that is called `like` another of the file, or like the replaced node's result. Its
        `name` is an identifier; without one it is shown under the name of the replaced node.
        """
        made = to or self.draft.new_value(like or self.node.output[0])
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        name = name or self.draft.new_node(self.node.name)
        self.nodes.append(onnx.helper.make_node(operator, inputs, [made], name=name, domain=domain, **attributes))
        return made


Rewrite = Callable[[Replacement], bool]
"""Adds what takes the place of a node and returns True; False if the node must stay."""


def replace(draft: Draft, rewrites: Mapping[tuple[str, str], Rewrite], by: str) -> str:
    """Replace nodes by others, in the main graph and in those inside its nodes, as long as there are any.

    What is known of a node's inputs may be known only once what lies before it is replaced.

    Returns:
        How many nodes of each operator the pass of name `by` replaced so far, in words; "" if there are none.
    """
    found = draft.replaced.setdefault(by, Counter())
    before = -1
    while before < found.total():
        before = found.total()
        _replace(draft, draft.graph, ChainMap(), rewrites, found)
        draft.changed()
    return ", ".join(f"{count} {operator}" for operator, count in sorted(found.items()))


def _replace(
    draft: Draft,
    graph: GraphProto,
    around: ChainMap[str, TensorProto],
    rewrites: Mapping[tuple[str, str], Rewrite],
    found: Counter[str],
) -> None:
    constants = around.new_child(constants_within(graph))
    makers = producers(graph)
    shared: dict[tuple[str, ...], str] = {}
    kept: list[NodeProto] = []
    before = found.total()
    for node in graph.node:
        for body in subgraphs(node):
            _replace(draft, body, constants, rewrites, found)
        rewrite = rewrites.get((node.domain, node.op_type))
        replacement = Replacement(draft, node, constants, makers, shared, graph is draft.graph)
        known = dict(shared)
        if rewrite is not None and rewrite(replacement):
            found[node.op_type] += 1
            kept.extend(replacement.nodes)
        else:
            shared.clear()
            shared.update(known)
            kept.append(node)
    if found.total() > before:
        refill(graph.node, kept)
