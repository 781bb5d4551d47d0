"""Initializers that old files (IR version 3) list among the inputs are weights, not inputs."""

from __future__ import annotations

from onnx import ValueInfoProto

from onnxviz.graph.draft import Draft


def run(draft: Draft) -> str:
    """Leave only real inputs in the list of inputs."""
    graph = draft.graph
    constant = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in constant]
    removed = len(graph.input) - len(kept)
    draft.model.ir_version = max(draft.model.ir_version, 4)
    if not removed:
        return ""
    copies = [ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del graph.input[:]
    graph.input.extend(copies)
    return f"took {removed} weights out of the list of inputs"
