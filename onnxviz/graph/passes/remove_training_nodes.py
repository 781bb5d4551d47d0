"""Nodes and outputs that only training needs.

The opset converter keeps a Dropout's mask output, and onnx2torch then takes image 0 of the batch for the result; so
these go before either sees them.
"""

from __future__ import annotations

from collections import Counter

from onnxviz.graph.passes import Draft
from onnxviz.graph.structure import attribute, consumers, remove_attribute, rename_reads, replace_nodes


def run(draft: Draft) -> str:
    """Remove Dropout and Identity, and the statistics outputs of BatchNormalization."""
    graph = draft.graph
    outputs = {value.name for value in graph.output}
    read = consumers(graph)
    renamed: dict[str, str] = {}
    removed: Counter[str] = Counter()
    kept = []
    for node in graph.node:
        spare = [name for name in node.output[1:] if name and (name in read or name in outputs)]
        if node.domain or spare:
            kept.append(node)
        elif node.op_type in ("Dropout", "Identity") and node.input:
            removed[node.op_type] += 1
            source = renamed.get(node.input[0], node.input[0])
            if node.output[0] in outputs:
                # The graph's own output keeps its identifier.
                del node.input[1:], node.output[1:]
                removed["Identity"] -= node.op_type == "Identity"
                node.op_type = "Identity"
                remove_attribute(node, *(entry.name for entry in node.attribute))
                kept.append(node)
            else:
                renamed[node.output[0]] = source
                draft.aliases.setdefault(source, []).append(draft.names.get(node.output[0], ""))
                draft.aliases[source].append(draft.node_names.get(node.name, ""))
        else:
            if (
                node.op_type == "BatchNormalization"
                and len(node.output) > 1
                and not attribute(node, "training_mode", 0)
            ):
                removed["statistics output"] += len(node.output) - 1
                del node.output[1:]
            kept.append(node)
    if not +removed:
        return ""
    rename_reads(kept, renamed)
    replace_nodes(graph, kept)
    return "removed " + ", ".join(f"{count} {what}" for what, count in sorted((+removed).items()))
