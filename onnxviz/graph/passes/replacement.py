"""One node written as several: what passes share that replace operators by others."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import UNKNOWN
from onnxviz.graph.structure import constants_within, producers, refill, to_array
from onnxviz.graph.tensors import subgraphs


class Replacement:
    """The nodes that take the place of one.

    Args:
        draft: the graph, for new identifiers and constants.
        node: what is replaced.
        constants: identifier -> tensor, of all that the node sees.
        makers: identifier -> the node that makes it, in the same graph before anything is replaced.
        shared: identifiers of values that earlier replacements in the same graph made, by whatever tells them apart.
        main: whether the node lies in the main graph, not in one inside a node.

    Attributes:
        nodes: what was added so far.
        elements: identifier of a value that was added -> its element type, where somebody asks for it.
    """

    def __init__(
        self,
        draft: Draft,
        node: NodeProto,
        constants: Mapping[str, TensorProto],
        makers: Mapping[str, NodeProto],
        shared: dict[tuple[str, ...], str],
        main: bool,
    ) -> None:
        self.draft = draft
        self.node = node
        self.constants = constants
        self.makers = makers
        self.shared = shared
        self.main = main
        self.nodes: list[NodeProto] = []
        self.elements: dict[str, int] = {}

    def input(self, index: int) -> str:
        """Identifier of an input of the node; "" if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def known(self, index: int) -> np.ndarray | None:
        """The numbers of a constant input, or None."""
        name = self.input(index)
        return to_array(self.constants[name]) if name in self.constants else None

    def element(self, index: int) -> int:
        """Element type of an input; 0 if unknown."""
        name = self.input(index)
        return self.elements.get(name) or self.draft.types().get(name, UNKNOWN).element

    def rank(self, index: int) -> int | None:
        """Number of dimensions of an input, or None."""
        if self.input(index) in self.constants:
            return len(self.constants[self.input(index)].dims)
        shape = self.draft.types().get(self.input(index), UNKNOWN).shape
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

        Args:
            operator: its operator.
            inputs: identifiers of what it reads.
            to: identifier of what it makes; a new one if "".
            like: the value of the file that a new one is called like; the replaced node's result if "".
            domain: of the operator.
            name: identifier of the node; a new one, shown under the name of the replaced one, if "".
            attributes: of the node.
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

    Args:
        draft: changed in place.
        rewrites: what does it, by domain and operator.
        by: name of the pass.

    Returns:
        How many nodes of each operator the pass replaced so far, in words; "" if there are none.
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
