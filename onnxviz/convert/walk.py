"""The walk over a graph: every node that can be converted becomes a module in one fx graph."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import onnx
import onnx.inliner
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from torch import fx, nn

from onnxviz.convert import bridge, shapes
from onnxviz.convert.element_types import CARRIERS, PLAIN, accept, to_carrier
from onnxviz.convert.operators import CONVERTERS, Body, Conversion, NotConvertible, Operation
from onnxviz.errors import ModelError
from onnxviz.graph.shapes import FLOATS, UNKNOWN, TensorType, infer, value_info
from onnxviz.graph.structure import reads

_DEPTH = 16
"""How deep graphs may lie within nodes."""


@dataclass
class Converted:
    """What became of a model: one fx graph over all of it that converts.

    Attributes:
        root: holds the modules and constants that the graph names.
        graph: inputs in graph order; no output yet.
        nodes: identifier of a value -> its node in `graph`.
        refused: node of the model -> why it does not convert; "" if nothing knows its operator.
        model: the model.
    """

    root: nn.Module
    graph: fx.Graph
    model: ModelProto
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def convert(model: ModelProto, declared: Mapping[str, int] | None = None, *, depth: int = 0) -> Converted:
    """Convert every node of a model that can be converted.

    Args:
        model: a model with plain identifiers as names, no initializers among its inputs.
        declared: identifier of an input -> the element type that the file gives it, where the model has another.
        depth: how many nodes this graph lies within.

    Returns:
        The converted part, and for each other node the reason.
    """
    # No converter may disturb the random numbers of the program that uses it.
    with torch.random.fork_rng(devices=()), torch.no_grad():
        return _Walk(model, declared or {}, depth).run()


class _Walk:
    """One pass over the nodes of a model, in order."""

    def __init__(self, model: ModelProto, declared: Mapping[str, int], depth: int) -> None:
        self.model = model
        self.declared = declared
        self.depth = depth
        self.types = infer(model)
        self.opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.result = Converted(nn.Module(), fx.Graph(), model)
        self.numbers: dict[str, fx.Node] = {}  # values that are Python numbers: fx nodes that give an int or a tuple

    def run(self) -> Converted:
        graph = self.result.graph
        given = [value for value in self.model.graph.input if value.name not in self.constants]
        arguments = [graph.placeholder(f"input_{index}") for index, _ in enumerate(given)]
        for value, argument in zip(given, arguments, strict=True):
            element = self.declared.get(value.name, value.type.tensor_type.elem_type)
            if element in PLAIN or element not in CARRIERS:
                self.result.nodes[value.name] = argument
            else:
                self.result.nodes[value.name] = graph.call_function(accept, (argument, CARRIERS[element]))
        for position, node in enumerate(self.model.graph.node):
            try:
                if not self._as_numbers(node):
                    self._as_module(node, f"{_plain(node.op_type)}_{position}")
            except Exception as fault:  # converters raise whatever comes to them
                self.result.refused[node.name] = _reason(fault)
        for output in self.model.graph.output:
            if output.name in self.numbers or output.name in self.constants:
                self._argument(output.name)
        return self.result

    # --- shapes as numbers --------------------------------------------------------------------------------------------

    def _as_numbers(self, node: NodeProto) -> bool:
        """Compute a shape in Python; False if the node computes something else."""
        if _domain(node.domain) or len(node.output) != 1:
            return False
        graph, nodes = self.result.graph, self.result.nodes
        attributes = {entry.name: entry for entry in node.attribute}
        if node.op_type in ("Shape", "Size") and node.input[0] in nodes:
            arguments: tuple[Any, ...] = (nodes[node.input[0]],)
            if node.op_type == "Shape":
                start, end = (attributes[name].i if name in attributes else None for name in ("start", "end"))
                arguments += (start or 0, end)
            source = shapes.shape_of if node.op_type == "Shape" else shapes.size_of
            self.numbers[node.output[0]] = graph.call_function(source, arguments)
            return True
        if not any(name in self.numbers for name in node.input):
            return False
        rank = self.types.get(node.output[0], UNKNOWN).shape
        if rank is None or len(rank) > 1:
            return False
        function = self._number_function(node, attributes)
        inputs = [self._numbers(name) for name in node.input if name]
        if function is None or any(value is None for value in inputs):
            return False
        if "axes" in attributes or node.op_type == "ReduceProd":
            inputs = inputs[:1]
        self.numbers[node.output[0]] = graph.call_function(function, tuple(inputs))
        return True

    @staticmethod
    def _number_function(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> Callable[..., Any] | None:
        if node.op_type == "Cast":
            kind = attributes["to"].i
            if kind in FLOATS:
                return shapes.as_floats
            return shapes.as_integers if kind in (TensorProto.INT64, TensorProto.INT32) else None
        if node.op_type == "ReduceProd" and ("keepdims" not in attributes or attributes["keepdims"].i):
            return None
        return shapes.FUNCTIONS.get(node.op_type)

    def _numbers(self, name: str) -> Any:
        if name in self.numbers:
            return self.numbers[name]
        if name in self.constants:
            return shapes.from_array(onnx.numpy_helper.to_array(self.constants[name]))
        return None

    # --- everything else ----------------------------------------------------------------------------------------------

    def _as_module(self, node: NodeProto, name: str) -> None:
        module, arguments = self._convert(node)
        if any(argument is _MISSING for argument in arguments):
            return  # behind a node that does not convert
        self.result.root.add_module(name, module.eval().requires_grad_(False))
        made = self.result.graph.call_module(name, *_call(module, arguments))
        named = [value for value in node.output if value]
        if len(named) == 1 and node.output[0]:
            self._made(named[0], made)
            return
        for index, value in enumerate(node.output):
            if value:
                self._made(value, self.result.graph.call_function(_output, (made, index, node.op_type)))

    def _made(self, value: str, made: fx.Node) -> None:
        shape = self.types.get(value, UNKNOWN).fixed
        made.meta["shape"] = shape
        self.result.nodes[value] = made

    def _convert(self, node: NodeProto) -> tuple[nn.Module, list[Any]]:
        """Return what becomes of a node and what it is called with.

        Raises:
            Exception: whatever a converter raises for a node that it cannot convert.
        """
        domain, version = self._place(node)
        converter = CONVERTERS.get(f"{domain}:{node.op_type}" if domain else node.op_type)
        if converter is not None:
            try:
                conversion = converter(self._operation(node, version))
                return conversion.module, self._arguments(node, conversion)
            except NotConvertible:
                if not _has_body(node.op_type, domain, version):
                    raise
        stock = bridge.find(node, version)
        if stock is not None:
            module, inputs = bridge.convert(stock, self._alone(node, version, domain))
            return module, [self._argument(value) for value in inputs]
        if _has_body(node.op_type, domain, version):
            body = self._by_definition(node, domain, version)
            return body.module, [self._argument(name) for name in body.captures]
        raise NotConvertible("")

    def _place(self, node: NodeProto) -> tuple[str, int]:
        """Return a node's domain and the version of it; what could not be lifted lies in a domain `opset<N>`."""
        domain = _domain(node.domain)
        kept = re.fullmatch(r"opset(\d+)", domain)
        return ("", int(kept[1])) if kept else (domain, self.opsets.get(domain, 1))

    def _arguments(self, node: NodeProto, conversion: Conversion) -> list[Any]:
        arguments = []
        for index in conversion.inputs:
            value = node.input[index] if index < len(node.input) else ""
            if value in self.numbers and index in conversion.numbers:
                arguments.append(self.numbers[value])
            else:
                arguments.append(self._argument(value))
        return arguments + [self._argument(value) for value in conversion.captures]

    def _argument(self, value: str) -> Any:
        """Return what a module is called with for a value: a node, None if left out, _MISSING if not converted."""
        nodes = self.result.nodes
        if not value:
            return None
        if value in self.numbers and value not in nodes:
            like = number = self.numbers[value]
            while like.target not in (shapes.shape_of, shapes.size_of):
                like = like.all_input_nodes[0]
            # The tensor whose shape it all came from knows the device.
            nodes[value] = self.result.graph.call_function(shapes.to_tensor, (number, like.all_input_nodes[0]))
        if value not in nodes and value in self.constants:
            tensor = self.constants[value]
            name = f"constant_{len(nodes)}"
            array = onnx.numpy_helper.to_array(tensor)
            self.result.root.register_buffer(name, to_carrier(array, tensor.data_type))
            nodes[value] = self.result.graph.get_attr(name)
        return nodes.get(value, _MISSING)

    def _operation(self, node: NodeProto, version: int) -> Operation:
        attributes: dict[str, Any] = {}
        bodies: dict[str, Callable[[], Body]] = {}
        for entry in node.attribute:
            if entry.type == AttributeProto.GRAPH:
                bodies[entry.name] = partial(self._body, entry.g)
                continue
            value = onnx.helper.get_attribute_value(entry)
            if isinstance(value, TensorProto):
                value = onnx.numpy_helper.to_array(value)
            attributes[entry.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        inputs = [self.types.get(name, UNKNOWN) for name in node.input]
        outputs = [self.types.get(name, UNKNOWN) for name in node.output]
        return Operation(
            operator=node.op_type,
            version=_since(node.op_type, _domain(node.domain).split("opset")[0], version),
            attributes=attributes,
            constants=tuple(self._constant(name) for name in node.input),
            given=tuple(bool(name) for name in node.input),
            shapes=tuple(_shape(kind) for kind in inputs),
            elements=tuple(kind.element for kind in inputs),
            outputs=tuple(bool(name) for name in node.output),
            results=tuple(kind.element for kind in outputs),
            result_shapes=tuple(_shape(kind) for kind in outputs),
            bodies=bodies,
        )

    def _constant(self, name: str) -> Any:
        return onnx.numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    # --- graphs within nodes ------------------------------------------------------------------------------------------

    def _body(self, graph: GraphProto) -> Body:
        """Convert a graph that lies in a node's attribute."""
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        made = own | {name for node in graph.node for name in node.output}
        read = dict.fromkeys(name for node in graph.node for name in reads(node))
        read.update(dict.fromkeys(value.name for value in graph.output))
        known = set(self.types) | set(self.result.nodes) | set(self.numbers) | set(self.constants)
        outer = [name for name in read if name not in made and name in known]
        captured = [name for name in outer if name not in self.constants]
        inner = GraphProto(name="graph", node=graph.node, input=graph.input, output=graph.output)
        inner.initializer.extend(graph.initializer)
        inner.initializer.extend(self.constants[name] for name in outer if name in self.constants)
        inner.input.extend(value_info(name, self.types.get(name, UNKNOWN)) for name in captured)
        return self._sub_network(inner, len(graph.input), captured)

    def _sub_network(self, graph: GraphProto, inputs: int, captured: Sequence[str]) -> Body:
        from onnxviz.convert.specialise import fold_constants, truncate

        if self.depth >= _DEPTH:
            raise NotConvertible(f"graphs lie more than {_DEPTH} deep within each other")
        model = ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        model.graph.CopyFrom(graph)
        converted = convert(model, depth=self.depth + 1)
        outputs = [value.name for value in graph.output]
        if not all(name in converted.nodes for name in outputs):
            kinds = sorted({node.op_type for node in graph.node if node.name in converted.refused})
            because = "; ".join(dict.fromkeys(reason for reason in converted.refused.values() if reason))
            raise NotConvertible(f"it holds {', '.join(kinds) or 'values that do not convert'} {because}".strip())
        fold_constants(converted.root, converted.graph)
        module = truncate(converted.root, converted.graph, [converted.nodes[name] for name in outputs])
        return Body(module, inputs, tuple(captured))

    def _by_definition(self, node: NodeProto, domain: str, version: int) -> Body:
        """Convert a node by the function body that the standard gives its operator."""
        model = self._alone(node, version, domain)
        inlined = onnx.inliner.inline_selected_functions(model, [(domain, node.op_type)], inline_schema_functions=True)
        if any(inner.op_type == node.op_type and inner.domain == domain for inner in inlined.graph.node):
            raise NotConvertible("")
        for index, inner in enumerate(inlined.graph.node):
            inner.name = f"n{index}"
        captured = [value.name for value in inlined.graph.input]
        walk = _Walk(inlined, {}, self.depth)
        body = walk._sub_network(inlined.graph, 0, captured)
        if len([name for name in node.output if name]) == 1:
            return Body(_First(body.module), 0, body.captures)
        return Body(_Spread(body.module, tuple(bool(name) for name in node.output)), 0, body.captures)

    def _alone(self, node: NodeProto, version: int, domain: str) -> ModelProto:
        """Return a model of one node, its constants inside."""
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.domain = domain
        graph = GraphProto(name="graph", node=[copy])
        for name in dict.fromkeys(name for name in node.input if name):
            if name in self.constants:
                graph.initializer.append(self.constants[name])
            else:
                graph.input.append(value_info(name, self.types.get(name, UNKNOWN)))
        graph.output.extend(value_info(name, self.types.get(name, UNKNOWN)) for name in node.output if name)
        opsets = {"": self.opsets.get("", 17), domain: version}
        return ModelProto(
            ir_version=max(self.model.ir_version, 8),
            opset_import=[onnx.helper.make_opsetid(name, number) for name, number in opsets.items()],
            graph=graph,
        )


class _First(nn.Module):
    """The only output of a body."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *values: Any) -> Any:
        """Run the body."""
        return self.body(*values)[0]


class _Spread(nn.Module):
    """A body's outputs at the places of a node's named outputs."""

    def __init__(self, body: nn.Module, named: tuple[bool, ...]) -> None:
        super().__init__()
        self.body = body
        self.named = named

    def forward(self, *values: Any) -> tuple[Any, ...]:
        """Run the body."""
        made = iter(self.body(*values))
        return tuple(next(made) if named else None for named in self.named)


_MISSING: Any = object()


def _call(module: nn.Module, arguments: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments; what is left out at the end is left to the module's defaults."""
    if None not in arguments:
        return tuple(arguments), {}
    parameters = list(inspect.signature(module.forward).parameters.values())
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return tuple(arguments), {}
    first = arguments.index(None)
    names = [parameter.name for parameter in parameters]
    keywords = {key: value for key, value in zip(names[first:], arguments[first:], strict=False) if value is not None}
    needed = [p.name for p in parameters[first:] if p.default is inspect.Parameter.empty and p.name not in keywords]
    return tuple(arguments[:first]), {**dict.fromkeys(needed), **keywords}


def _output(made: Any, index: int, operator: str) -> torch.Tensor:
    """Take one of a node's outputs; never a part of its only one."""
    if isinstance(made, torch.Tensor):
        raise ModelError(f"{operator} declares several outputs and its converter made one")
    result: torch.Tensor = made[index]
    return result


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _plain(text: str) -> str:
    return text if text.isidentifier() and text.isascii() else "operator"


def _reason(fault: Exception) -> str:
    text = str(fault) if isinstance(fault, NotConvertible) else str(fault) or type(fault).__name__
    return text.splitlines()[0][:200] if text else ""


def _shape(kind: TensorType) -> tuple[int | None, ...] | None:
    if kind.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in kind.shape)


@lru_cache(maxsize=4096)
def _since(operator: str, domain: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(operator, opset, domain).since_version)
    except onnx.defs.SchemaError:
        return opset


@lru_cache(maxsize=4096)
def _has_body(operator: str, domain: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
