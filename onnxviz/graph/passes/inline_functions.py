"""Functions of the model's own are written out where they are called."""

from __future__ import annotations

import re

import onnx
import onnx.inliner
from onnx import NodeProto

from onnxviz import limits
from onnxviz.errors import ModelFileError
from onnxviz.graph.passes import Draft
from onnxviz.model_file import FUNCTION_DOMAIN
from onnxviz.tensors import subgraphs

_COPY = re.compile(r"(__\d+)+$")


def run(draft: Draft) -> str:
    """Inline all functions, after checking that the result is bounded.

    Raises:
        ModelFileError: if functions call themselves, or if inlining would make too many nodes.
    """
    model = draft.model
    count = len(model.functions)
    if not count:
        return ""
    _check_growth(model)
    try:
        inlined = onnx.inliner.inline_local_functions(model, convert_version=False)
    except Exception as fault:  # the inliner raises plain RuntimeError and its kin for faulty functions
        raise ModelFileError(
            f"functions of the model cannot be inlined: {fault}", remedy="export without functions"
        ) from fault
    model.CopyFrom(inlined)
    kept = [entry for entry in model.opset_import if entry.domain != FUNCTION_DOMAIN]
    pairs = [(entry.domain, entry.version) for entry in kept]
    del model.opset_import[:]
    for domain, version in pairs:
        model.opset_import.add(domain=domain, version=version)
    for node in model.graph.node:
        base = _COPY.sub("", node.name)
        draft.node_names.setdefault(node.name, draft.node_names.get(base, ""))
        if base in draft.node_metadata:
            draft.node_metadata.setdefault(node.name, draft.node_metadata[base])
        for value in node.output:
            draft.names.setdefault(value, draft.names.get(_COPY.sub("", value), value))
    return f"inlined {count} function{'s' if count > 1 else ''}"


def _check_growth(model: onnx.ModelProto) -> None:
    """Count the nodes there will be without making them; functions may call functions."""
    sizes: dict[str, int] = {}
    bodies = {function.name: function for function in model.functions}
    for start in bodies:
        stack = [(start, False)]
        open_calls: set[str] = set()
        while stack:
            name, finished = stack.pop()
            calls = [node.op_type for node in _nodes(bodies[name].node) if node.domain == FUNCTION_DOMAIN]
            if finished:
                open_calls.discard(name)
                plain = sum(1 for node in _nodes(bodies[name].node) if node.domain != FUNCTION_DOMAIN)
                sizes[name] = plain + sum(sizes[call] for call in calls)
            elif name not in sizes:
                if name in open_calls:
                    raise ModelFileError("a function of the model calls itself", remedy="export without functions")
                open_calls.add(name)
                stack.append((name, True))
                if any(call in open_calls for call in calls):
                    raise ModelFileError("a function of the model calls itself", remedy="export without functions")
                stack.extend((call, False) for call in set(calls) if call not in sizes)
    total = sum(sizes[node.op_type] if node.domain == FUNCTION_DOMAIN else 1 for node in _nodes(model.graph.node))
    if total > limits.NODES:
        raise ModelFileError(
            f"its functions would write out more than {limits.NODES:,} nodes", remedy="use a smaller model"
        )


def _nodes(nodes: object) -> list[NodeProto]:
    found: list[NodeProto] = []
    stack = [nodes]
    while stack:
        for node in stack.pop():  # type: ignore[attr-defined]
            found.append(node)
            stack.extend(graph.node for graph in subgraphs(node))
    return found
