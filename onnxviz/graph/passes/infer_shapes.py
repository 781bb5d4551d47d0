"""Shapes and types written into the graph for the libraries that read it."""

from __future__ import annotations

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import value_info


def run(draft: Draft) -> str:
    """Write down what is known of every value; a declared output shape may be wrong once the batch is free."""
    graph = draft.graph
    types = draft.types()
    outputs = {value.name for value in graph.output}
    del graph.value_info[:]
    for node in graph.node:
        for name in node.output:
            kind = types.get(name)
            if name and name not in outputs and kind is not None and kind.element:
                graph.value_info.append(value_info(name, kind))
    for value in graph.output:
        kind = types.get(value.name)
        if kind is not None and kind.element:
            value.CopyFrom(value_info(value.name, kind))
    return ""
