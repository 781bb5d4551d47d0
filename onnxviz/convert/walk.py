"""The walk over a graph: every node that can be converted becomes a module in one fx graph."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from torch import fx, nn

from onnxviz.convert import bridge
from onnxviz.convert import shape_arithmetic as arithmetic
from onnxviz.convert.definitions import definition, has_definition
from onnxviz.convert.element_types import CARRIERS, PLAIN, accept, to_carrier
from onnxviz.convert.operators import CONVERTERS, Body, Conversion, NotConvertible, Operation
from onnxviz.convert.operators.exact_products import EXACT
from onnxviz.convert.refusals import REFUSALS
from onnxviz.core import limits
from onnxviz.core.errors import ModelError, beginning
from onnxviz.graph.draft import ExactForms
from onnxviz.graph.operators import custom_operators
from onnxviz.graph.shapes import UNKNOWN, TensorType, infer, type_of, value_info
from onnxviz.graph.structure import constant_value, copy_of, initializers, reads

_LONGEST_LITERAL = 4096
"""Longest constant that a module gets as Python numbers where it asks for numbers."""
_NO_NUMBERS = frozenset([TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128])
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


@dataclass
class _Place:
    """Where a graph lies.

    Attributes:
        depth: how many nodes it lies within.
        numbers: those of its inputs that are Python numbers.
        copied: how many bytes of weights the graphs within nodes have copied so far, in the whole model.
    """

    depth: int = 0
    numbers: frozenset[str] = frozenset()
    copied: list[int] = field(default_factory=lambda: [0])


def convert(model: ModelProto, declared: Mapping[str, int] | None = None, exact: ExactForms | None = None) -> Converted:
    """Convert every node of a model that can be converted.

    Args:
        model: a model with plain identifiers as names, no initializers among its inputs.
        declared: identifier of an input -> the element type that the file gives it, where the model has another.
        exact: products of integers that are computed exactly.

    Returns:
        The converted part, and for each other node the reason.
    """
    # No converter may disturb the random numbers of the program that uses it.
    with torch.random.fork_rng(devices=()), torch.no_grad():
        return _Walk(model, declared or {}, _Place(), exact or ExactForms()).run()


class _Walk:
    """One pass over the nodes of a model, in order."""

    def __init__(self, model: ModelProto, declared: Mapping[str, int], place: _Place, exact: ExactForms) -> None:
        self.model = model
        self.exact = exact
        self.declared = declared
        self.place = place
        self.types = infer(model)
        self.opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
        self.constants = {**exact.constants, **initializers(model.graph)}
        for node in model.graph.node:  # in graphs within nodes nobody has made initializers of them yet
            tensor = constant_value(node) if node.op_type == "Constant" and self._place(node)[0] == "" else None
            if tensor is not None:
                tensor = copy_of(tensor)
                tensor.name = node.output[0]
                self.constants[tensor.name] = tensor
        self.result = Converted(nn.Module(), fx.Graph(), model)
        self.numbers: dict[str, fx.Node] = {}  # values that are Python numbers: fx nodes that give an int or a tuple

    def run(self) -> Converted:
        graph = self.result.graph
        given = [value for value in self.model.graph.input if value.name not in self.constants]
        arguments = [graph.placeholder(f"input_{index}") for index, _ in enumerate(given)]
        for value, argument in zip(given, arguments, strict=True):
            element = self.declared.get(value.name, value.type.tensor_type.elem_type)
            if value.name in self.place.numbers:
                vector = len(self.types[value.name].shape or ()) == 1
                self.numbers[value.name] = graph.call_function(_vector, (argument,)) if vector else argument
            elif element in PLAIN or element not in CARRIERS:
                self.result.nodes[value.name] = argument
            else:
                self.result.nodes[value.name] = graph.call_function(accept, (argument, CARRIERS[element]))
        for position, node in enumerate(self.model.graph.node):
            if node.op_type == "Constant" and node.output[0] in self.constants:
                continue
            try:
                if not self._as_numbers(node):
                    self._as_module(self._exactly(node), f"{_plain(node.op_type)}_{position}")
            except Exception as fault:  # converters raise whatever comes to them
                self.result.refused[node.name] = _reason(fault)
        for output in self.model.graph.output:
            if output.name in self.numbers or output.name in self.constants:
                self._argument(output.name)
        return self.result

    # --- shapes as numbers --------------------------------------------------------------------------------------------

    def _as_numbers(self, node: NodeProto) -> bool:
        """Compute a shape in Python; False if the node computes something else."""
        if self._place(node)[0] or not node.input:
            return False
        graph, nodes = self.result.graph, self.result.nodes
        attributes = _attributes(node)
        if node.op_type in ("Shape", "Size") and node.input[0] in nodes:
            arguments: tuple[Any, ...] = (nodes[node.input[0]],)
            if node.op_type == "Shape":
                arguments += (attributes.get("start", 0), attributes.get("end"))
            source = arithmetic.shape_of if node.op_type == "Shape" else arithmetic.size_of
            self.numbers[node.output[0]] = graph.call_function(source, arguments)
            return True
        if not any(name in self.numbers for name in node.input) or not self._short(node):
            return False
        inputs = [self._numbers(name) if name else None for name in node.input]
        if any(value is None and name for value, name in zip(inputs, node.input, strict=True)):
            return False
        found = arithmetic.call(node.op_type, attributes, inputs, len(node.output))
        if found is None:
            return False
        made = graph.call_function(*found)
        if node.op_type != "Split":
            self.numbers[node.output[0]] = made
            return True
        for index, name in enumerate(node.output):
            if name:
                self.numbers[name] = graph.call_function(arithmetic.part, (made, index))
        return True

    def _short(self, node: NodeProto) -> bool:
        """Whether what a node computes is a number, a vector or a matrix of a few."""
        if len(node.output) != 1 and node.op_type != "Split":
            return False
        for name in node.output:
            kind = self.types.get(name, UNKNOWN)
            if kind.shape is None or len(kind.shape) > 2 or kind.element in _NO_NUMBERS:
                return False
            if kind.fixed is None and (len(kind.shape) == 2 or node.op_type in arithmetic.GROWING):
                return False  # a free size: as long as the data
            size = math.prod(kind.fixed or (1,))
            if size > arithmetic.LONGEST or (len(kind.shape) == 2 and not size):
                return False
        return True

    def number_node(self, name: str) -> fx.Node | None:
        """Return what gives a value as numbers; None if that would mean reading a tensor."""
        literal = self._literal(name, arithmetic.LONGEST)
        return (
            self.numbers.get(name) if literal is None else self.result.graph.call_function(arithmetic.same, (literal,))
        )

    def _numbers(self, name: str) -> Any:
        if name in self.numbers:
            return self.numbers[name]
        return self._literal(name, arithmetic.LONGEST)

    def _literal(self, name: str, longest: int) -> Any:
        """Return a short constant as numbers; None if it is none, or is long."""
        tensor = self.constants.get(name)
        if tensor is None or math.prod(tensor.dims) > longest or tensor.data_type == TensorProto.STRING:
            return None
        return arithmetic.from_array(onnx.numpy_helper.to_array(tensor), longest)

    def _exactly(self, node: NodeProto) -> NodeProto:
        """Return the exact form of a node, where it has one."""
        further = self.exact.inputs.get(node.output[0] if node.output else "")
        if further is None:
            return node
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.domain = EXACT
        copy.input.extend([*[""] * (3 - len(node.input)), *further])
        return copy

    # --- everything else ----------------------------------------------------------------------------------------------

    def _as_module(self, node: NodeProto, name: str) -> None:
        conversion, arguments = self._convert(node)
        if any(argument is _MISSING for argument in arguments):
            return  # behind a node that does not convert
        self.result.root.add_module(name, conversion.module.eval().requires_grad_(False))
        made = self.result.graph.call_module(name, tuple(arguments))
        named = [value for value in node.output if value]
        if len(named) == 1 and node.output[0]:
            self._made(named[0], made)
            if conversion.several:
                self._made(named[0], self.result.graph.call_function(_output, (made, 0, node.op_type)))
            return
        if conversion.refused:
            self.result.refused[node.name] = "; ".join(dict.fromkeys(conversion.refused.values()))
        for index, value in enumerate(node.output):
            if value and index not in conversion.refused:
                self._made(value, self.result.graph.call_function(_output, (made, index, node.op_type)))

    def _made(self, value: str, made: fx.Node) -> None:
        made.meta["shape"] = self.types.get(value, UNKNOWN).fixed
        self.result.nodes[value] = made

    def _convert(self, node: NodeProto) -> tuple[Conversion, list[Any]]:
        """Return what becomes of a node, and what it is called with.

        Raises:
            Exception: whatever a converter raises for a node that it cannot convert.
        """
        self._refuse_oversized(node)
        domain, version = self._place(node)
        key = f"{domain}:{node.op_type}" if domain else node.op_type
        if key in REFUSALS:
            raise NotConvertible(REFUSALS[key])
        for place, formal in enumerate(_needed_inputs(node.op_type, domain, version)):
            if formal and not (place < len(node.input) and node.input[place]):
                raise NotConvertible(f"it has no input {formal!r}")
        converter = CONVERTERS.get(key)
        if converter is None and domain and key in custom_operators():
            converter = custom_operators()[key].convert
        if converter is not None:
            try:
                conversion = converter(self._operation(node, version))
                return conversion, self._arguments(node, conversion)
            except NotConvertible:
                if not _has_body(node.op_type, domain, version):
                    raise
        stock = bridge.find(node, version)
        if stock is not None:
            module, inputs = bridge.convert(stock, self._alone(node, version, domain))
            while inputs and not inputs[-1]:
                inputs = inputs[:-1]  # left to the defaults of a module that is not ours
            return Conversion(module), [self._argument(value) for value in inputs]
        if _has_body(node.op_type, domain, version):
            conversion = self._by_definition(node, domain, version)
            return conversion, self._arguments(node, conversion)
        raise NotConvertible("")

    def _refuse_oversized(self, node: NodeProto) -> None:
        """Refuse a node whose result is known to be too large, whatever its operator."""
        for name in node.output:
            sizes = [size for size in self.types.get(name, UNKNOWN).shape or () if isinstance(size, int)]
            if 4 * math.prod(sizes) > limits.TENSOR_BYTES:
                raise NotConvertible(f"it makes {sizes[:8]} numbers, above the bound of {limits.TENSOR_BYTES:,} bytes")

    def _place(self, node: NodeProto) -> tuple[str, int]:
        """Return a node's domain and the version of it; what could not be lifted lies in a domain `opset<N>`."""
        domain = _domain(node.domain)
        kept = re.fullmatch(r"opset(\d+)", domain)
        return ("", int(kept[1])) if kept else (domain, self.opsets.get(domain, 1))

    def _arguments(self, node: NodeProto, conversion: Conversion) -> list[Any]:
        arguments = []
        for index in conversion.inputs:
            value = node.input[index] if index is not None and index < len(node.input) else ""
            if value in self.numbers and index in conversion.numbers:
                arguments.append(self.numbers[value])
            elif index in conversion.numbers and self._literal(value, _LONGEST_LITERAL) is not None:
                arguments.append(self._literal(value, _LONGEST_LITERAL))
            else:
                arguments.append(self._argument(value))
        return arguments + [self._captured(value) for value in conversion.captures]

    def _captured(self, value: str) -> Any:
        """Return what a body is given for a value from around it: numbers stay numbers."""
        return self.numbers[value] if value in self.numbers else self._argument(value)

    def _argument(self, value: str) -> Any:
        """Return what a module is called with for a value: a node, None if left out, _MISSING if not converted."""
        nodes = self.result.nodes
        if not value:
            return None
        if value in self.numbers and value not in nodes:
            number = self.numbers[value]
            kind = CARRIERS.get(self.types.get(value, UNKNOWN).element)
            nodes[value] = self.result.graph.call_function(arithmetic.to_tensor, (number, self._like(number), kind))
        if value not in nodes and value in self.constants:
            tensor = self.constants[value]
            name = f"constant_{len(nodes)}"
            array = onnx.numpy_helper.to_array(tensor)
            self.result.root.register_buffer(name, to_carrier(array, tensor.data_type))
            nodes[value] = self.result.graph.get_attr(name)
        return nodes.get(value, _MISSING)

    def _like(self, number: fx.Node) -> fx.Node:
        """Return a tensor on the device on which a number is needed."""
        while number.all_input_nodes:
            if number.target in (arithmetic.shape_of, arithmetic.size_of):
                return number.all_input_nodes[0]  # the tensor whose shape it all came from
            number = number.all_input_nodes[0]
        # It came as a number from around this graph: whatever lies in the root moves with it.
        if not hasattr(self.result.root, "empty"):
            self.result.root.register_buffer("empty", torch.empty(0))
        return self.result.graph.get_attr("empty")

    def _operation(self, node: NodeProto, version: int) -> Operation:
        inputs = [self.types.get(name, UNKNOWN) for name in node.input]
        outputs = [self.types.get(name, UNKNOWN) for name in node.output]
        return Operation(
            operator=node.op_type,
            version=_since(node.op_type, _domain(node.domain).split("opset")[0], version),
            attributes=_attributes(node),
            constants=tuple(self._constant(name) for name in node.input),
            given=tuple(bool(name) for name in node.input),
            shapes=tuple(_shape(kind) for kind in inputs),
            elements=tuple(kind.element for kind in inputs),
            outputs=tuple(bool(name) for name in node.output),
            results=tuple(kind.element for kind in outputs),
            result_shapes=tuple(_shape(kind) for kind in outputs),
            bodies={
                entry.name: partial(self._body, entry.g)
                for entry in node.attribute
                if entry.type == AttributeProto.GRAPH
            },
        )

    def _constant(self, name: str) -> Any:
        return onnx.numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    # --- graphs within nodes ------------------------------------------------------------------------------------------

    def _body(
        self,
        graph: GraphProto,
        numbers: Sequence[int] = (),
        number_outputs: Sequence[int] = (),
        types: Sequence[tuple[int, Sequence[int | None] | None]] = (),
    ) -> Body:
        """Convert a graph that lies in a node's attribute."""
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        made = own | {name for node in graph.node for name in node.output}
        read = dict.fromkeys(name for node in graph.node for name in reads(node))
        read.update(dict.fromkeys(value.name for value in graph.output))
        known = (self.types, self.result.nodes, self.numbers, self.constants)
        outer = [name for name in read if name not in made and any(name in names for names in known)]
        captured = [name for name in outer if name not in self.constants]
        constants = [self.constants[name] for name in outer if name in self.constants]
        self._spend(constants)
        inner = GraphProto(name="graph", node=graph.node, output=graph.output)
        kinds = [*types, *[(0, None)] * len(graph.input)]
        inner.input.extend(_declared(value, *kind) for value, kind in zip(graph.input, kinds, strict=False))
        inner.initializer.extend(graph.initializer)
        inner.initializer.extend(constants)
        inner.input.extend(value_info(name, self.types.get(name, UNKNOWN)) for name in captured)
        as_numbers = [graph.input[index].name for index in numbers if index < len(graph.input)]
        as_numbers += [name for name in captured if name in self.numbers]
        model = ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        model.graph.CopyFrom(inner)
        return self._sub_network(model, captured, as_numbers, number_outputs)

    def _spend(self, constants: Iterable[TensorProto]) -> None:
        """Bound what graphs within nodes copy of the weights around them: many may read the same large one."""
        self.place.copied[0] += sum(tensor.ByteSize() for tensor in constants)
        if self.place.copied[0] > limits.BODY_BYTES:
            raise NotConvertible(f"graphs within nodes read more than {limits.BODY_BYTES:,} bytes of outer weights")

    def _sub_network(
        self,
        model: ModelProto,
        captured: Sequence[str],
        numbers: Sequence[str] = (),
        number_outputs: Sequence[int] = (),
    ) -> Body:
        """Convert a graph by itself, as it is called with its own inputs and then with what it captures."""
        from onnxviz.convert.specialise import fold_constants, truncate

        if self.place.depth >= _DEPTH:
            raise NotConvertible(f"graphs lie more than {_DEPTH} deep within each other")
        graph = model.graph
        place = _Place(self.place.depth + 1, frozenset(numbers), self.place.copied)
        walk = _Walk(model, {}, place, ExactForms())
        converted = walk.run()
        outputs = [value.name for value in graph.output]
        made = [converted.nodes.get(name) for name in outputs]
        for index in number_outputs:
            if index < len(outputs):
                made[index] = walk.number_node(outputs[index]) or made[index]
        if any(node is None for node in made):
            kinds = sorted({node.op_type for node in graph.node if node.name in converted.refused})
            because = "; ".join(dict.fromkeys(reason for reason in converted.refused.values() if reason))
            held = ", ".join(kinds) or "values that do not convert"
            raise NotConvertible(f"it holds {held}: {because}" if because else f"it holds {held}")
        fold_constants(converted.root, converted.graph)
        module = truncate(converted.root, converted.graph, [node for node in made if node is not None])
        return Body(module, len(graph.input) - len(captured), len(outputs), tuple(captured))

    def _by_definition(self, node: NodeProto, domain: str, version: int) -> Conversion:
        """Convert a node by the body that the standard gives its operator."""
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.domain = domain
        schema = onnx.defs.get_schema(node.op_type, version, domain)
        defined = definition(copy, schema, version, self.types, self.model.ir_version)
        graph = defined.model.graph
        for formal, value in defined.inputs.items():
            if value in self.constants:
                tensor = TensorProto()
                tensor.CopyFrom(self.constants[value])
                tensor.name = formal
                graph.initializer.append(tensor)
        computed = {formal: value for formal, value in defined.inputs.items() if value not in self.constants}
        kept = [value for value in graph.input if value.name in computed]
        del graph.input[:]
        graph.input.extend(kept)
        numbers = [formal for formal, value in computed.items() if value in self.numbers]
        body = self._sub_network(defined.model, list(computed), numbers)
        module = _Spread(body.module, tuple(bool(name) for name in node.output))
        return Conversion(module, (), captures=tuple(computed.values()), several=True)

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


def _attributes(node: NodeProto) -> dict[str, Any]:
    """Return what a node's attributes hold: tensors as arrays, strings as `str`; graphs are left out."""
    return {
        entry.name: _plain_value(onnx.helper.get_attribute_value(entry))
        for entry in node.attribute
        if entry.type not in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    }


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TensorProto):
        return onnx.numpy_helper.to_array(value)
    return [_plain_value(entry) for entry in value] if isinstance(value, list) else value


def _declared(value: ValueInfoProto, element: int, shape: Sequence[int | None] | None) -> ValueInfoProto:
    """Return an input of a body with what the node around it knows of it, where the body does not say."""
    own = type_of(value)
    if (own.element and own.shape is not None) or not element:
        return value
    known = own.shape if shape is None or own.shape is not None else tuple(shape)
    return value_info(value.name, TensorType(own.element or element, known))


def _vector(numbers: arithmetic.Numbers) -> arithmetic.Numbers:
    """Return a number as the vector that a body declares it to be."""
    return numbers if isinstance(numbers, tuple) else (numbers,)


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
    return beginning(text.splitlines()[0]) if text else ""


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
def _needed_inputs(operator: str, domain: str, opset: int) -> tuple[str, ...]:
    """Return the standard's name of each input that an operator must have, "" for those that it may do without."""
    for version in (opset, onnx.defs.onnx_opset_version()):  # a file may use an operator before its time
        with contextlib.suppress(onnx.defs.SchemaError):
            schema = onnx.defs.get_schema(operator, version, domain)
            break
    else:
        return ()
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return tuple(formal.name if formal.option == single else "" for formal in schema.inputs)


@lru_cache(maxsize=4096)
def _has_body(operator: str, domain: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return has_definition(schema)
