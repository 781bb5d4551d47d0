"""Models of old opsets are lifted to opset 17; newer ones keep theirs.

Until opset 13 many operators were written in several ways (axes as attribute or as input), broadcast by attribute, or
meant something else under the same name (Softmax, Upsample); opset 17 is the first that has all that vision models of
those years use in its present form. From there on operators are only added or widened, which the converters and this
package read as they are: lowering would lose what the newer form says (Pad's axes, Resize's antialias), and has nothing
to gain.

Node by node, the graphs inside nodes included, because the converter of the onnx package refuses a whole model for one
operator that it does not know, and forgets node names and weights' places. What opset 17 cannot express goes on in a
domain `opset<N>`, in which it means the standard's operator of opset N; nobody can take it for the operator of the same
name in opset 17.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.passes.rewrites import LIFT, TARGET, RewriteContext, as_its_schemas_say, schema
from onnxviz.graph.shapes import TensorType, infer_body
from onnxviz.graph.structure import constants_within, copy_of, refill, set_domain
from onnxviz.graph.tensors import subgraphs

_MEANING_CHANGED = frozenset({"Softmax", "LogSoftmax", "Hardmax", "PRelu", "Upsample", "Resize", "BatchNormalization"})
"""Operators whose meaning changed at some opset although their attributes may look the same."""
_KEPT = re.compile(r"opset([0-9]+)")


def run(draft: Draft) -> str:
    """Rewrite every node whose operator differs between the model's opset, if that is older, and opset 17."""
    source = draft.opset
    kept = [found for entry in draft.model.opset_import if (found := _KEPT.fullmatch(entry.domain))]
    if (source >= TARGET or source == 0) and all(int(found[1]) >= TARGET for found in kept):
        return ""
    stuck: Counter[tuple[int, str]] = Counter()
    lift = _Lift(draft, source, stuck)
    lift.graph(draft.graph, draft.types(), constants_within(draft.graph))
    set_domain(draft.model.opset_import, "", max(source, TARGET) if source else TARGET)
    for opset in {opset for opset, _ in stuck}:
        set_domain(draft.model.opset_import, f"opset{opset}", 1)
    draft.model.ir_version = max(draft.model.ir_version, 8)
    for (opset, operator), count in stuck.items():
        draft.refused.append((operator, f"{count} of opset {opset} could not be brought to opset {TARGET}"))
    names = ", ".join(sorted({operator for _, operator in stuck}))
    said = f"lifted opset {source} to {TARGET}" if source < TARGET else f"lifted parts of older opsets to {TARGET}"
    return said + (f" ({names} could not be)" if stuck else "")


class _Lift:
    """The nodes of one model, those of the graphs inside nodes included."""

    def __init__(self, draft: Draft, source: int, stuck: Counter[tuple[int, str]]) -> None:
        self.draft = draft
        self.source = source
        self.stuck = stuck

    def graph(self, graph: GraphProto, types: Mapping[str, TensorType], constants: Mapping[str, TensorProto]) -> None:
        """Lift a graph's nodes in place."""
        done: list[NodeProto] = []
        for node in graph.node:
            for body in subgraphs(node):
                within = infer_body(body, self.draft.model.opset_import, types)
                self.graph(body, {**types, **within}, {**constants, **constants_within(body)})
            kept = _KEPT.fullmatch(node.domain)
            source = int(kept[1]) if kept else self.source
            if (node.domain and not kept) or source >= TARGET or source == 0:
                done.append(node)
                continue
            node.domain = ""
            done.extend(self._node(node, source, types, constants))
        refill(graph.node, done)

    def _node(
        self, node: NodeProto, source: int, types: Mapping[str, TensorType], constants: Mapping[str, TensorProto]
    ) -> list[NodeProto]:
        if _unchanged(node.op_type, source):
            return [node]
        context = RewriteContext(self.draft, node, constants, types=types, source=source)
        before = copy_of(node)
        rewritten = LIFT.get(node.op_type, as_its_schemas_say)(context, node)
        if rewritten is not None:
            return rewritten
        self.stuck[source, before.op_type] += 1
        before.domain = f"opset{source}"
        return [before]


@lru_cache(maxsize=4096)
def _unchanged(operator: str, source: int) -> bool:
    """Whether an operator of one opset means the same in the target opset, as its two schemas say."""
    old, new = schema(operator, source), schema(operator, TARGET)
    if old is None:
        return True  # unknown in its own opset: listed as unknown elsewhere
    if new is None:
        return False
    if old.since_version == new.since_version:
        return True
    if operator in _MEANING_CHANGED or new.deprecated:
        return False
    ours, theirs = (
        (
            {
                name: (str(entry.type), entry.required, entry.default_value.SerializeToString())
                for name, entry in kind.attributes.items()
            },
            [(entry.name, str(entry.option)) for entry in kind.inputs],
            len(kind.outputs),
        )
        for kind in (old, new)
    )
    return ours == theirs
