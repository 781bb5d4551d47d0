"""Shapes and types written into the graph for the libraries that read it."""

from __future__ import annotations

from onnxviz.graph.draft import Draft
from onnxviz.graph.shapes import value_info


def run(draft: Draft) -> str:
    """Write down what is known of every value; a declared output shape may be wrong once the batch is free."""
    graph, types = draft.graph, {name: kind for name, kind in draft.types().items() if kind.element}
    outputs = {value.name for value in graph.output}
    del graph.value_info[:]
    made = [name for node in graph.node for name in node.output if name in types and name not in outputs]
    graph.value_info.extend(value_info(name, types[name]) for name in made)
    for value in graph.output:
        if value.name in types:
            value.CopyFrom(value_info(value.name, types[value.name]))
    return ""
