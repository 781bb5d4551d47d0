"""A converted model, from which networks for single questions are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from onnx import ModelProto
from torch import fx

from onnxviz.convert.specialise import fold_constants, truncate
from onnxviz.convert.walk import Converted, convert
from onnxviz.core.errors import ModelError, UnsupportedOperatorError, shorten
from onnxviz.graph.draft import ExactForms
from onnxviz.graph.structure import ancestors, producers


class Network:
    """Everything of a model that converts, with its weights held once, frozen.

    Args:
        model: a model with plain identifiers as names.
        names: what to call values in messages.
        device: where the weights go.
        declared: identifier of an input -> the element type that the file gives it, where the model has another.
        exact: products of integers that are computed exactly.
    """

    def __init__(
        self,
        model: ModelProto,
        names: Mapping[str, str],
        device: torch.device | str = "cpu",
        declared: Mapping[str, int] | None = None,
        exact: ExactForms | None = None,
    ) -> None:
        self._names = names
        self._converted: Converted = convert(model, declared, exact)
        fold_constants(self._converted.root, self._converted.graph)
        root = self._converted.root.eval().requires_grad_(False)
        root.to(device)
        # Images and their kernels lie channels last: on one core a forward and backward pass of SqueezeNet takes 0.7 to
        # 0.85 of the time, of residual and mobile networks 0.8 to 1.06, and tensor cores want it.
        for weight in root.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        graph = self._converted.model.graph
        constant = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in constant)
        """Identifiers of the inputs, in the order of a network's arguments."""

    def cut(
        self,
        values: Sequence[str],
        *,
        unit_axes: Mapping[str, int] | None = None,
        tape: bool = False,
        given: Sequence[str] = (),
    ) -> fx.GraphModule:
        """Return a network that computes some values and is no deeper than they are.

        Args:
            values: identifiers of values; the network returns a tuple in this order.
            unit_axes: for values whose units are not on axis 1, where they are; these are returned units first.
            tape: start recording gradients at the returned values that others depend on.
            given: identifiers of values that are further arguments, in this order, and are not computed.

        Returns:
            A module with one positional argument for each input of the model, used or not, and for each of `given`.
            Weights are shared with all other networks of this model and require no gradients.

        Raises:
            UnsupportedOperatorError: if the values need operators that do not convert; names all of them.
        """
        self._refuse_unsupported(values)
        nodes = self._converted.nodes
        axes = {nodes[value]: axis for value, axis in (unit_axes or {}).items()}
        wanted = [nodes[value] for value in values]
        handed = [nodes[value] for value in given]
        root, graph = self._converted.root, self._converted.graph
        return truncate(root, graph, wanted, unit_axes=axes, tape=tape, given=handed).eval()

    def has(self, value: str) -> bool:
        """Whether a value was converted."""
        return value in self._converted.nodes

    def unsupported(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Return the operators that do not convert, each with the reason ("" if unknown) and the nodes that need it."""
        found: dict[str, tuple[str, list[str]]] = {}
        for node in self._converted.model.graph.node:
            if node.name in self._converted.refused:
                reason = self._converted.refused[node.name]
                entry = found.setdefault(_operator(node.domain, node.op_type), (reason, []))
                entry[1].append(self._name(node.output))
        return {operator: (reason, tuple(names)) for operator, (reason, names) in found.items()}

    def _refuse_unsupported(self, values: Sequence[str]) -> None:
        graph = self._converted.model.graph
        if all(value in self._converted.nodes for value in values):
            return
        needed = ancestors(graph, values)
        operators: dict[str, list[str]] = {}
        reasons: list[str] = []
        for node in graph.node:
            if node.name in self._converted.refused and any(name in needed for name in node.output):
                operators.setdefault(_operator(node.domain, node.op_type), []).append(self._name(node.output))
                reason = self._converted.refused[node.name]
                if reason and reason not in reasons:
                    reasons.append(reason)
        if not operators:
            unknown = sorted(set(values) - set(producers(graph)))
            raise ModelError(f"values that the model does not compute: {', '.join(map(shorten, unknown))}")
        because = f"; because: {'; '.join(map(shorten, reasons[:3]))}" if reasons else ""
        raise UnsupportedOperatorError(
            {operator: tuple(names) for operator, names in operators.items()},
            remedy=f"ask for layers that do not depend on these nodes{because}",
        )

    def _name(self, outputs: Sequence[str]) -> str:
        return next((self._names.get(value, value) for value in outputs if value), "?")


def declared_elements(model: ModelProto) -> dict[str, int]:
    """Return the element type of each input as a file declares it, before normalisation makes floats float32."""
    return {value.name: value.type.tensor_type.elem_type for value in model.graph.input}


def _operator(domain: str, operator: str) -> str:
    return shorten(f"{domain}:{operator}" if domain not in ("", "ai.onnx") else operator)
