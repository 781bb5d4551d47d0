"""Functions of the model's own are written out where they are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError
from onnxviz.graph.draft import Draft
from onnxviz.graph.model_file import FUNCTION_DOMAIN
from onnxviz.graph.passes.lift_opset import schema
from onnxviz.graph.structure import set_domain
from onnxviz.graph.tensors import all_nodes, nodes_within

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
    _agree_on_opset(model)
    try:
        inlined = onnx.inliner.inline_local_functions(model, convert_version=False)
    except Exception as fault:  # the inliner raises plain RuntimeError and its kin for faulty functions
        raise ModelFileError(
            f"functions of the model cannot be inlined: {fault}", remedy="export without functions"
        ) from fault
    if inlined.functions or any(node.domain == FUNCTION_DOMAIN for node in all_nodes(inlined)):
        raise ModelFileError("functions of the model cannot be inlined", remedy="export without functions")
    pairs = [(entry.domain, entry.version) for entry in model.opset_import if entry.domain != FUNCTION_DOMAIN]
    model.CopyFrom(inlined)
    del model.opset_import[:]
    for domain, version in pairs:
        model.opset_import.add(domain=domain, version=version)
    for node in nodes_within(model.graph.node):
        base = _COPY.sub("", node.name)
        draft.node_names.setdefault(node.name, draft.node_names.get(base, ""))
        if base in draft.node_metadata:
            draft.node_metadata.setdefault(node.name, draft.node_metadata[base])
        for value in node.output:
            draft.names.setdefault(value, draft.names.get(_COPY.sub("", value), value))
    return f"inlined {count} function{'s' if count > 1 else ''}"


def _agree_on_opset(model: ModelProto) -> None:
    """Let all functions use the model's opsets, as inlining wants it.

    A standard operator that another opset than the model's defines differently goes on in a domain `opset<N>` (see
    `lift_opset`); so does everything of a function if the model itself does not use the standard's operators.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain == "":
                ours = opsets.setdefault("", entry.version)
                if entry.version != ours:
                    _keep_apart(function.node, entry.version, ours, opsets)
            else:
                opsets.setdefault(entry.domain, entry.version)
    for domain, version in opsets.items():
        set_domain(model.opset_import, domain, version)
    for function in model.functions:
        del function.opset_import[:]
        for domain, version in opsets.items():
            function.opset_import.add(domain=domain, version=version)


def _keep_apart(nodes: Iterable[NodeProto], theirs: int, ours: int, opsets: dict[str, int]) -> None:
    for node in nodes_within(nodes):
        if node.domain or _since(node.op_type, theirs) == _since(node.op_type, ours):
            continue
        node.domain = f"opset{theirs}"
        opsets[node.domain] = 1


def _since(operator: str, opset: int) -> int:
    """The opset in which an operator got the form that it has in this one; 0 if there is none."""
    found = schema(operator, opset)
    return 0 if found is None else int(found.since_version)


def _check_growth(model: ModelProto) -> None:
    """Count the nodes there will be without making them; functions may call functions."""
    calls = {
        function.name: Counter(
            node.op_type if node.domain == FUNCTION_DOMAIN else "" for node in nodes_within(function.node)
        )
        for function in model.functions
    }
    try:
        order = list(
            TopologicalSorter(
                {name: [called for called in made if called] for name, made in calls.items()}
            ).static_order()
        )
    except CycleError:
        raise ModelFileError("a function of the model calls itself", remedy="export without functions") from None
    sizes = {"": 1}
    for name in order:
        sizes[name] = sum(sizes[called] * count for called, count in calls[name].items())
    total = sum(sizes[node.op_type] if node.domain == FUNCTION_DOMAIN else 1 for node in nodes_within(model.graph.node))
    if total > limits.NODES:
        raise ModelFileError(
            f"its functions would write out more than {limits.NODES:,} nodes", remedy="use a smaller model"
        )
