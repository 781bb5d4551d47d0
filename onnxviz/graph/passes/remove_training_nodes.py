"""Nodes and outputs that only training needs.

Masks of a Dropout and statistics that a BatchNormalization hands on are made for training; who reads a graph for
inference need not know them. A Dropout that is told to drop (its input `training_mode` is true, or is not known
beforehand) stays, and so does a BatchNormalization that trains: without it the graph would be another function.
Before opset 14 one trains if it has the outputs of training, and ONNX Runtime does so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.structure import attribute, constants_within, consumers, input_of, remove_attribute, to_array

_TRAINING_MODE = 14
"""The opset from which on an attribute of a BatchNormalization says whether it trains."""


def run(draft: Draft) -> str:
    """Remove Dropout and Identity, and the statistics outputs of BatchNormalization."""
    graph = draft.graph
    outputs = {value.name for value in graph.output}
    read = consumers(graph)
    constants = constants_within(graph)
    renamed: dict[str, str] = {}
    removed: Counter[str] = Counter()
    kept = []
    for node in graph.node:
        spare = [name for name in node.output[1:] if name and (name in read or name in outputs)]
        if node.domain or spare or _drops(node, constants):
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
                draft.alias(source, draft.names.get(node.output[0], ""), draft.node_names.get(node.name, ""))
        else:
            if node.op_type == "BatchNormalization" and len(node.output) > 1:
                if not _trains(node, draft.opset):
                    removed["statistics output"] += len(node.output) - 1
                    del node.output[1:]
                elif draft.opset < _TRAINING_MODE:
                    node.output[1:] = [""] * (len(node.output) - 1)  # that there are any is what makes it train
            kept.append(node)
    if not +removed:
        return ""
    draft.rewire(kept, renamed)
    return "removed " + ", ".join(f"{count} {what}" for what, count in sorted((+removed).items()))


def _trains(node: NodeProto, opset: int) -> bool:
    """Whether a BatchNormalization with several outputs normalises by the statistics of the batch at hand."""
    if opset < _TRAINING_MODE:
        return not attribute(node, "is_test", 0)
    return bool(attribute(node, "training_mode", 0))


def _drops(node: NodeProto, constants: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a Dropout that really drops, or may do so."""
    if node.op_type != "Dropout" or not input_of(node, 2):
        return False
    training = constants.get(node.input[2])
    return training is None or bool(to_array(training).any())
