"""A graph that passes work on, and what they say about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxviz.graph.shapes import TensorType, infer
from onnxviz.graph.structure import image_dependent, keep_initializers, reads, refill, rename_reads

BATCH = "batch"
"""Name of the batch dimension once it is free."""


@dataclass
class ExactForms:
    """What the converted network computes exactly where the graph says it in rounded real numbers.

    Attributes:
        inputs: identifier of a value -> what the node that makes it reads beyond the inputs of its operator.
        constants: those of them that nobody else reads.
    """

    inputs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)


@dataclass
class Draft:
    """A graph that passes work on.

    Attributes:
        model: changed in place; names, node_names, node_metadata and dimensions are those of the `LoadedModel`.
        refused: operators that a pass could not handle: (operator, reason).
        aliases: identifier of a value -> names of the nodes and values that were removed behind it.
        mixed_batches: values whose first axis is not simply the batch.
        sizes: what the user says about free dimensions: name, or input and place ("input:2") -> size.
        exact: products of integers, see `to_qdq`.
        readable: nodes that make real numbers of quantised values of the file.
        nodes_folded: how many nodes were evaluated so far.
        bytes_folded: size of what they made.
        branches_chosen: how many conditions were constant so far.
        shapes_resolved: how many shapes were made constant so far.
        replaced: what replaced nodes -> how many of each operator so far.
    """

    model: ModelProto
    names: dict[str, str]
    node_names: dict[str, str]
    node_metadata: dict[str, dict[str, str]]
    refused: list[tuple[str, str]] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    mixed_batches: set[str] = field(default_factory=set)
    sizes: Mapping[str, int] = field(default_factory=dict)
    dimensions: Mapping[str, str] = field(default_factory=dict)
    exact: ExactForms = field(default_factory=ExactForms)
    readable: list[NodeProto] = field(default_factory=list)
    nodes_folded: int = 0
    bytes_folded: int = 0
    branches_chosen: int = 0
    shapes_resolved: int = 0
    replaced: dict[str, Counter[str]] = field(default_factory=dict)
    _types: dict[str, TensorType] | None = None

    @property
    def graph(self) -> GraphProto:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """Version of the standard operators; 0 if the model uses none."""
        return max((entry.version for entry in self.model.opset_import if entry.domain == ""), default=0)

    def types(self) -> dict[str, TensorType]:
        """Return the types of all values, inferred when first asked for within a pass."""
        if self._types is None:
            self._types = infer(self.model)
        return self._types

    @property
    def progress(self) -> tuple[int, ...]:
        """What passes that help each other have done so far: if it stays the same, none will do more."""
        replaced = sum(count.total() for count in self.replaced.values())
        return self.nodes_folded, self.shapes_resolved, self.branches_chosen, replaced

    def changed(self) -> None:
        """Forget what was inferred about the graph before it changed."""
        self._types = None

    def new_value(self, like: str) -> str:
        """Return a new identifier for a value that is shown under the name of another."""
        safe = f"v{len(self.names)}"
        while safe in self.names:
            safe += "_"
        self.names[safe] = self.names.get(like, like)
        return safe

    def new_node(self, like: str) -> str:
        """Return a new identifier for a node that takes the place of another."""
        safe = f"n{len(self.node_names)}"
        while safe in self.node_names:
            safe += "_"
        self.node_names[safe] = self.node_names.get(like, "")
        if like in self.node_metadata:
            self.node_metadata[safe] = self.node_metadata[like]
        return safe

    def alias(self, value: str, *names: str) -> None:
        """Let a value also go by the names of what was removed behind it."""
        self.aliases.setdefault(value, []).extend(names)

    def rewire(self, nodes: list[NodeProto], renamed: dict[str, str]) -> None:
        """Keep only these nodes in the main graph, and let them read what stands for the values of the others."""
        rename_reads(nodes, renamed)
        refill(self.graph.node, nodes)

    def add_constant(self, tensor: TensorProto, like: str) -> str:
        """Add an initializer under a new identifier and return that."""
        tensor.name = self.new_value(like)
        self.graph.initializer.append(tensor)
        return tensor.name

    def keep_nodes(self, wanted: Callable[[NodeProto], bool]) -> set[str]:
        """Remove nodes that are not wanted, and on which nothing that is left depends; return what that reads."""
        kept: list[NodeProto] = []
        needed = {value.name for value in self.graph.output}
        for node in reversed(self.graph.node):
            if wanted(node) or needed.intersection(node.output):
                kept.append(node)
                needed.update(reads(node))
        if len(kept) < len(self.graph.node):
            refill(self.graph.node, reversed(kept))
        return needed

    def drop_unused(self) -> None:
        """Remove constants that nothing reads, and nodes that serve only them or that compute nothing but shapes."""
        live = image_dependent(self.graph)
        keep_initializers(self.graph, self.keep_nodes(lambda node: not live.isdisjoint(node.output)))
