"""What is done to a graph before it is looked at: one pass per file, each declaring its effect.

A pass changes a `Draft` and returns a sentence that says what it changed, or "" if it changed nothing; the sentences
end up in the report. After each pass the runner checks that the graph still is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxviz.errors import ModelError
from onnxviz.graph.shapes import TensorType, infer
from onnxviz.graph.structure import image_dependent, producers, reads, replace_initializers, replace_nodes
from onnxviz.model_file import LoadedModel

BATCH = "batch"
"""Name of the batch dimension once it is free."""


@dataclass
class Draft:
    """A graph that passes work on.

    Attributes:
        model: changed in place.
        names: identifier of a value -> its name in the file; values that passes make are called like what they replace.
        node_names: identifier of a node -> its name in the file.
        node_metadata: identifier of a node -> what the exporter wrote about it.
        refused: operators that a pass could not handle: (operator, reason).
        aliases: identifier of a value -> names of the nodes and values that were removed behind it.
        mixed_batches: values whose first axis is not simply the batch.
        sizes: what the user says about free dimensions: name, or input and place ("input:2") -> size.
        dimensions: identifier of a free dimension -> its name in the file.
        nodes_folded: how many nodes were evaluated so far.
        bytes_folded: size of what they made.
        branches_chosen: how many conditions were constant so far.
        shapes_resolved: how many shapes were made constant so far.
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
    nodes_folded: int = 0
    bytes_folded: int = 0
    branches_chosen: int = 0
    shapes_resolved: int = 0
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

    def add_constant(self, tensor: TensorProto, like: str) -> str:
        """Add an initializer under a new identifier and return that."""
        tensor.name = self.new_value(like)
        self.graph.initializer.append(tensor)
        return tensor.name

    def drop_unused(self) -> None:
        """Remove constants that nothing reads, and nodes that serve only them or that compute nothing but shapes."""
        kept: list[NodeProto] = []
        needed = {value.name for value in self.graph.output}
        live = image_dependent(self.graph)
        for node in reversed(self.graph.node):
            if any(name in needed or name in live for name in node.output):
                kept.append(node)
                needed.update(reads(node))
        if len(kept) < len(self.graph.node):
            replace_nodes(self.graph, reversed(kept))
        used = [tensor for tensor in self.graph.initializer if tensor.name in needed]
        if len(used) < len(self.graph.initializer):
            replace_initializers(self.graph, used)


Pass = Callable[[Draft], str]
_ROUNDS = 32
"""How often passes that help each other run in turn, at most."""
_STEPS = 400_000
"""How many nodes they may look at in all rounds together, the first two not counted."""


def normalise(loaded: LoadedModel, sizes: Mapping[str, int] | None = None) -> tuple[Draft, tuple[str, ...]]:
    """Run all passes on a copy of a loaded model.

    Args:
        loaded: any model, with or without images; not changed.
        sizes: sizes for its free dimensions, see `given_sizes`.

    Returns:
        The normalised graph and one sentence for each pass that changed something.

    Raises:
        ModelFileError: if a pass finds that the model cannot be what it says it is.
        ModelError: if a pass has broken the graph, which is a fault of this program.
    """
    model = ModelProto()
    model.CopyFrom(loaded.proto)
    draft = Draft(
        model,
        dict(loaded.names),
        dict(loaded.node_names),
        dict(loaded.node_metadata),
        sizes=sizes or {},
        dimensions=loaded.dimensions,
    )
    del draft.graph.value_info[:]
    effects: dict[str, str] = {}  # a pass that runs again tells the sum of what it did
    for group in passes():
        for _ in range(max(2, min(_ROUNDS, _STEPS // max(1, len(draft.graph.node))))):
            before = draft.nodes_folded, draft.shapes_resolved, draft.branches_chosen
            for change in group:
                effect = change(draft)
                draft.changed()
                _check(draft, change.__module__.rpartition(".")[2])
                if effect:
                    effects[change.__module__] = effect
            if (draft.nodes_folded, draft.shapes_resolved, draft.branches_chosen) == before:
                break
    return draft, tuple(effects.values())


def passes() -> tuple[tuple[Pass, ...], ...]:
    """Return the passes in the order in which they run.

    Those of one group run again as long as one of them makes something constant: a shape that becomes known makes
    numbers computable, and these may be the shape of something else.
    """
    from onnxviz.graph.passes import (
        fold_constants,
        free_batch,
        given_sizes,
        infer_shapes,
        initializers_as_inputs,
        inline_functions,
        lift_opset,
        merge_roundings,
        remove_training_nodes,
        replace_experimental,
        resolve_shapes,
        to_float32,
    )

    return (
        (initializers_as_inputs.run,),
        (given_sizes.run,),
        (inline_functions.run,),
        (remove_training_nodes.run,),
        (replace_experimental.run,),
        # Before the opsets are changed: that needs the ranks of values, and so their shapes.
        (fold_constants.run, resolve_shapes.run),
        (lift_opset.run,),
        (to_float32.run,),
        (fold_constants.run, resolve_shapes.run),
        (merge_roundings.run,),
        (free_batch.run,),
        (resolve_shapes.run, fold_constants.run),
        (infer_shapes.run,),
    )


def _check(draft: Draft, name: str) -> None:
    """Make sure that a pass left a graph: every value made once, before it is read."""
    graph = draft.graph
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for value in node.input:
            if value and value not in known:
                raise ModelError(f"the pass {name} broke the graph at {node.op_type} {node.name}: {value} is missing")
        for value in node.output:
            if value and value in known:
                raise ModelError(f"the pass {name} broke the graph at {node.op_type} {node.name}: {value} made twice")
        known.update(value for value in node.output if value)
    missing = [value.name for value in graph.output if value.name not in known]
    if missing or len(producers(graph)) != sum(bool(name) for node in graph.node for name in node.output):
        raise ModelError(f"the pass {name} broke the graph: outputs {missing} are missing")
