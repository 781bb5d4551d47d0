"""What is done to a graph before it is looked at: one pass per file, each declaring its effect.

A pass changes a `Draft` and returns a sentence that says what it changed, or "" if it changed nothing; the sentences
end up in the report. After each pass the runner checks that the graph still is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxviz.core.errors import ModelError
from onnxviz.graph.draft import Draft
from onnxviz.graph.model_file import LoadedModel
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
    to_qdq,
    unfuse,
)
from onnxviz.graph.structure import copy_of

Pass = Callable[[Draft], str]
_PASSES: tuple[tuple[Pass, ...], ...] = (
    (initializers_as_inputs.run,),
    (given_sizes.run,),
    (inline_functions.run,),
    (remove_training_nodes.run,),
    (replace_experimental.run,),
    # Before the opsets are changed: that needs the ranks of values, and so their shapes.
    (unfuse.run, to_qdq.run, fold_constants.run, resolve_shapes.run),
    (lift_opset.run,),
    (to_float32.run,),
    (fold_constants.run, resolve_shapes.run),
    (merge_roundings.run,),
    (free_batch.run,),
    (resolve_shapes.run, fold_constants.run),
    (infer_shapes.run,),
)
"""The passes in the order in which they run.

Those of one group run again as long as one of them makes something constant: a shape that becomes known makes numbers
computable, and these may be the shape of something else.
"""
_ROUNDS = 32
"""How often passes that help each other run in turn, at most."""
_STEPS = 400_000
"""How many nodes they may look at in all rounds together, the first two not counted."""


def normalise(loaded: LoadedModel, sizes: Mapping[str, int] | None = None) -> tuple[Draft, tuple[str, ...]]:
    """Run all passes on a copy of a loaded model, with or without images.

    Args:
        loaded: not changed.
        sizes: those of its free dimensions, see `given_sizes`.

    Returns:
        The normalised graph and one sentence for each pass that changed something.

    Raises:
        ModelFileError: if a pass finds that the model cannot be what it says it is.
        ModelError: if a pass has broken the graph, which is a fault of this program.
    """
    draft = Draft(
        copy_of(loaded.proto),
        dict(loaded.names),
        dict(loaded.node_names),
        dict(loaded.node_metadata),
        sizes=sizes or {},
        dimensions=loaded.dimensions,
    )
    del draft.graph.value_info[:]
    effects: dict[str, str] = {}  # a pass that runs again tells the sum of what it did
    for group in _PASSES:
        for _ in range(max(2, min(_ROUNDS, _STEPS // max(1, len(draft.graph.node))))):
            before = draft.progress
            for change in group:
                effect = change(draft)
                draft.changed()
                _check(draft, change.__module__.rpartition(".")[2])
                if effect:
                    effects[change.__module__] = effect
            if draft.progress == before:
                break
    return draft, tuple(effects.values())


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
    if missing:
        raise ModelError(f"the pass {name} broke the graph: outputs {missing} are missing")
