"""Initializers that old files (IR version 3) list among the inputs are weights, not inputs."""

from __future__ import annotations

from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import graph_inputs
from onnxviz.graph.structure import refill


def run(draft: Draft) -> str:
    """Leave only real inputs in the list of inputs."""
    kept = graph_inputs(draft.graph)
    removed = len(draft.graph.input) - len(kept)
    draft.model.ir_version = max(draft.model.ir_version, 4)
    if not removed:
        return ""
    refill(draft.graph.input, kept)
    return f"took {removed} weights out of the list of inputs"
