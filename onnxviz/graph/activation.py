"""Which activation belongs to a layer: one operator, or the several that an exporter writes for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TypedGraph
from onnxviz.graph.structure import reads, to_array

_LONGEST = 14
"""Operators that one activation is written with, at most: GELU by tanh takes nine. Roundings are not counted."""


class Following:
    """Finds what bias, normalisation and activation follow a value.

    `modules` maps the identifier of a value to the innermost module of the exporter's that made it.
    """

    def __init__(self, graph: TypedGraph, modules: Mapping[str, str]) -> None:
        self._graph = graph
        self._consumers = graph.readers
        self._constants = graph.constants
        self._places = {id(node): place for place, node in enumerate(graph.graph.node)}
        self._modules = modules

    def activated(self, value: str) -> str:
        """Return what leaves the bias, normalisation and activation right behind a value.

        An operator with a second input that depends on the image, such as the Add of a residual, ends the search: what
        is behind it belongs to the sum. Without an activation it is what leaves bias and normalisation, or the value.
        In a quantised graph it is what later layers read, see `as_read`.
        """
        return self.as_read(self._activated(value))

    def as_read(self, value: str) -> str:
        """Return what later layers read of a value: what leaves the QuantizeLinear and DequantizeLinear behind it.

        A quantisation does more than round: it clips at the ends of its range. Quantisers leave out a Relu or Clip in
        front of one that clips there anyway, and the value before it is what no later layer ever sees.

        Returns:
            The end of the pairs that alone read the value; the value itself if others read it too, or there are none.
        """
        for _ in range(_LONGEST):
            quantised = self._only_reader(value, "QuantizeLinear")
            restored = self._only_reader(quantised, "DequantizeLinear") if quantised else ""
            if not restored:
                break
            value = restored
        return value

    def _only_reader(self, value: str, operator: str) -> str:
        """Return what the only reader of a value makes of it if it is of an operator, else ""."""
        reader = self._graph.only_reader(value)
        if reader is None or reader.op_type != operator or reader.input[0] != value:
            return ""
        return str(reader.output[0])

    def _activated(self, value: str) -> str:
        settled = current = value
        for _ in range(_LONGEST):
            if end := self._activation(current):
                return self._rest_of_module(end, value)
            following = self._bias_or_normalisation(current)
            if following is None:
                break
            current, form_only = following
            settled = settled if form_only else current
        return settled

    def _bias_or_normalisation(self, value: str) -> tuple[str, bool] | None:
        """Return the next value on the way, and whether it only has another form."""
        node = self._graph.only_reader(value)
        if node is None:
            return None
        traits = traits_of(node)
        form_only = traits.form in ("quantize", "transpose") or node.op_type == "Cast"
        if (traits.normalises or form_only) and node.input[0] == value:
            return node.output[0], form_only
        first = node.op_type in ("Add", "Mul") or (node.op_type in ("Sub", "Div") and node.input[0] == value)
        if first and all(name == value or name in self._constants for name in node.input):
            return node.output[0], False
        return None

    def _activation(self, value: str) -> str | None:
        """Return the result of the activation that reads a value, or None if there is none or more than one.

        An activation that is written as several operators ends where the branches from the value meet again, as in
        x * Sigmoid(x), x * Tanh(Softplus(x)) or 0.5 * x * (1 + Erf(x / sqrt(2))).
        """
        inside = {value}
        region: list[NodeProto] = []
        waiting = list(self._consumers.get(value, ()))
        while waiting and sum(traits_of(node).form != "quantize" for node in region) < _LONGEST:
            waiting.sort(key=lambda node: self._places[id(node)])
            node = waiting.pop(0)
            if traits_of(node).form not in ("pointwise", "quantize") or node.output[0] in inside:
                continue
            varying = [name for name in node.input if name and name not in self._constants]
            if not all(name in inside for name in varying):
                continue
            inside.add(node.output[0])
            region.append(node)
            waiting.extend(self._consumers.get(node.output[0], ()))
            if len(varying) > 1 and self._closes(node, region):
                return self._half(node, region)
        direct = [
            node for node in self._consumers.get(value, ()) if traits_of(node).activation and node.input[0] == value
        ]
        return direct[0].output[0] if len(direct) == 1 else None

    def _closes(self, node: NodeProto, region: list[NodeProto]) -> bool:
        """Whether everything on the way from a value to a node is used only on that way, and is not linear."""
        way = {id(node)}
        needed = set(reads(node))
        for earlier in reversed(region[:-1]):
            if earlier.output[0] in needed:
                way.add(id(earlier))
                needed.update(reads(earlier))
        nodes = [earlier for earlier in region if id(earlier) in way]
        if not any(traits.form == "pointwise" and not traits.algebraic for traits in map(traits_of, nodes)):
            return False
        return all(
            id(reader) in way
            for earlier in nodes
            if earlier is not node
            for reader in self._consumers.get(earlier.output[0], ())
        )

    def _half(self, node: NodeProto, region: list[NodeProto]) -> str:
        """The factor 1/2 of GELU may come last."""
        end = str(node.output[0])
        if any(earlier.op_type in ("Erf", "Tanh") for earlier in region):
            following = self._scaled(end)
            if following is not None and following.op_type in ("Mul", "Div"):
                other = next((name for name in following.input if name in self._constants), "")
                factor = float(to_array(self._constants[other]).reshape(-1)[0])
                if math.isclose(factor, 0.5 if following.op_type == "Mul" else 2.0, rel_tol=1e-3):
                    return str(following.output[0])
        return end

    def _scaled(self, value: str) -> NodeProto | None:
        """Return the only reader of a value if it combines it with one constant number."""
        reader = self._graph.only_reader(value)
        if reader is None or reader.op_type not in ("Add", "Mul", "Div", "Sub", "Pow"):
            return None
        others = [name for name in reader.input if name != value]
        scales = len(others) == 1 and (reader.input[0] == value or reader.op_type in ("Add", "Mul"))
        tensor = self._constants.get(others[0]) if scales else None
        return reader if tensor is not None and math.prod(tensor.dims) == 1 else None

    def _rest_of_module(self, end: str, start: str) -> str:
        """Go on through scalings that the exporter says belong to the activation's module, as those of StarReLU."""
        for _ in range(4):
            node = self._scaled(end)
            if node is None:
                break
            module, inner = self._modules.get(node.output[0], ""), self._modules.get(end, "")
            if not module or not _within(inner, module) or _within(self._modules.get(start, ""), module):
                break
            end = node.output[0]
        return end


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith((outer + ".", outer + "/"))
