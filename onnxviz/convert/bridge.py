"""The only module that knows onnx2torch: its converters, ours beside them, and the walk over the graph.

onnx2torch's registry of converters is what is used of it. The walk is our own, because onnx2torch's gives up at the
first operator it does not know, stores a repeated weight once for each use, merges outputs, and takes element 0 of the
batch where a node declares a second output.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto
from torch import fx, nn

from onnxviz.convert import shapes
from onnxviz.convert.operators import CONVERTERS, Converter, Operation
from onnxviz.errors import ModelError
from onnxviz.graph.shapes import FLOATS, TensorType, infer, value_info

DOMAIN = "onnxviz"
"""Operators with a converter of ours are moved here, where onnx2torch finds it; one word, no dot."""
_SINCE = "onnxviz_since"
"""Attribute of a moved node: the opset version of its form, which its new domain does not tell."""

_SAME_SINCE: dict[str, int] = {
    **dict.fromkeys(("Acos", "Asin", "Atan", "Cos", "Sin", "Tan"), 7),
    **dict.fromkeys(("Cast", "Equal"), 13),
    **dict.fromkeys(("Elu", "HardSigmoid", "Selu"), 6),
    **dict.fromkeys(("ConvTranspose", "Round"), 11),
    **dict.fromkeys(("Concat", "DepthToSpace", "Transpose", "IsNaN"), 13),
    **dict.fromkeys(("Softplus", "Softsign"), 1),
    "Constant": 13,
    "ConstantOfShape": 9,
    "HardSwish": 14,
    "IsInf": 10,
    "TopK": 11,
}
"""Operators whose later versions only added element types, with the version of the stock converter that does them."""


@dataclass
class Converted:
    """What became of a model: one fx graph over all of it that converts.

    Attributes:
        root: holds the modules and constants that the graph names.
        graph: inputs in graph order; no output yet.
        nodes: identifier of a value -> its node in `graph`.
        refused: node of the model -> why it does not convert.
        model: the model.
    """

    root: nn.Module
    graph: fx.Graph
    model: ModelProto
    nodes: dict[str, fx.Node] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def convert(model: ModelProto) -> Converted:
    """Convert every node of a model that can be converted.

    Args:
        model: a model with plain identifiers as names, no initializers among its inputs.

    Returns:
        The converted part, and for each other node the reason.
    """
    return _Walk(model).run()


class _Walk:
    """One pass over the nodes of a model, in order."""

    def __init__(self, model: ModelProto) -> None:
        stock = _onnx2torch()
        self.types = infer(model)
        self.moved = _move(model, self.types, stock)
        self.opsets = {entry.domain: entry.version for entry in self.moved.opset_import}
        self.onnx_graph = stock.graph(self.moved.graph)
        self.get_converter = stock.get_converter
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.result = Converted(nn.Module(), fx.Graph(), model)
        self.numbers: dict[str, fx.Node] = {}  # values that are Python numbers: fx nodes that give an int or a tuple

    def run(self) -> Converted:
        for index, value in enumerate(self.moved.graph.input):
            self.result.nodes[value.name] = self.result.graph.placeholder(f"input_{index}")
        # No converter may disturb the random numbers of the program that uses it.
        with torch.random.fork_rng(devices=()), torch.no_grad():
            for position, (node, onnx_node) in enumerate(
                zip(self.moved.graph.node, self.onnx_graph.nodes.values(), strict=True)
            ):
                try:
                    if not self._as_numbers(node):
                        self._as_module(node, onnx_node, f"{_plain(node.op_type)}_{position}")
                except Exception as fault:  # converters raise whatever comes to them
                    self.result.refused[node.name] = _reason(fault)
        return self.result

    def _as_numbers(self, node: NodeProto) -> bool:
        """Compute a shape in Python; False if the node computes something else."""
        graph, nodes = self.result.graph, self.result.nodes
        attributes = {entry.name: entry for entry in node.attribute}
        if node.op_type in ("Shape", "Size") and node.input[0] in nodes:
            arguments: tuple[Any, ...] = (nodes[node.input[0]],)
            if node.op_type == "Shape":
                arguments += tuple(attributes[name].i if name in attributes else None for name in ("start", "end"))
                arguments = (arguments[0], arguments[1] or 0, arguments[2])
            source = shapes.shape_of if node.op_type == "Shape" else shapes.size_of
            self.numbers[node.output[0]] = graph.call_function(source, arguments)
            return True
        if not any(name in self.numbers for name in node.input):
            return False
        function = self._number_function(node, attributes)
        inputs = [self._numbers(name) for name in node.input if name]
        if function is None or len(node.output) > 1 or any(value is None for value in inputs):
            return False
        if "axes" in attributes or node.op_type == "ReduceProd":
            inputs = inputs[:1]
        self.numbers[node.output[0]] = graph.call_function(function, tuple(inputs))
        return True

    @staticmethod
    def _number_function(node: NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> Callable[..., Any] | None:
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

    def _as_module(self, node: NodeProto, onnx_node: Any, name: str) -> None:
        converter = self.get_converter(
            domain=node.domain, operation_type=node.op_type, version=self.opsets[node.domain]
        )
        module, mapping = converter(onnx_node, self.onnx_graph)
        arguments = [self._argument(value, node) for value in mapping.inputs]
        if _MISSING in arguments:
            return  # behind a node that does not convert
        self.result.root.add_module(name, module.eval().requires_grad_(False))
        given = [argument for argument in arguments if argument is not None]
        keywords: dict[str, Any] = {}
        if len(given) < len(arguments):
            names = list(inspect.signature(module.forward).parameters)
            first = arguments.index(None)
            keywords = {
                key: value for key, value in zip(names[first:], arguments[first:], strict=False) if value is not None
            }
            given = arguments[:first]
        made = self.result.graph.call_module(name, tuple(given), keywords)
        made_values = [value for value in node.output if value]
        if len(made_values) == 1 and node.output[0]:
            self.result.nodes[made_values[0]] = made
            return
        for index, value in enumerate(node.output):
            if value:
                self.result.nodes[value] = self.result.graph.call_function(_output, (made, index, node.op_type))

    def _argument(self, value: str, node: NodeProto) -> Any:
        """Return what a module is called with for a value: a node, None if left out, _MISSING if not converted."""
        if not value:
            return None
        if value in self.numbers:
            number = self.numbers[value]
            if node.domain == DOMAIN and node.op_type in _TAKES_NUMBERS:
                return number
            like = number
            while like.target not in (shapes.shape_of, shapes.size_of):
                like = like.all_input_nodes[0]
            # The tensor whose shape it all came from knows the device.
            return self.result.graph.call_function(shapes.to_tensor, (number, like.all_input_nodes[0]))
        if value not in self.result.nodes and value in self.constants:
            name = f"constant_{len(self.result.nodes)}"
            array = onnx.numpy_helper.to_array(self.constants[value])
            self.result.root.register_buffer(name, torch.from_numpy(np.array(array)))
            self.result.nodes[value] = self.result.graph.get_attr(name)
        return self.result.nodes.get(value, _MISSING)


_MISSING = object()
_TAKES_NUMBERS = ("Reshape",)
"""Operators of ours whose module takes a shape as Python numbers."""


def _output(made: Any, index: int, operator: str) -> torch.Tensor:
    """Take one of a node's outputs; never a part of its only one."""
    if isinstance(made, torch.Tensor):
        raise ModelError(f"{operator} declares several outputs and its converter made one")
    result: torch.Tensor = made[index]
    return result


def _plain(text: str) -> str:
    return text if text.isidentifier() and text.isascii() else "operator"


def _reason(fault: Exception) -> str:
    text = str(fault) or type(fault).__name__
    return "" if text.startswith("Converter is not implemented") else text.splitlines()[0][:200]


def _move(model: ModelProto, types: Mapping[str, TensorType], stock: _Stock) -> ModelProto:
    """Copy a model with the nodes that we convert in our own domain and the shape of every value written down."""
    moved = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    moved.graph.CopyFrom(model.graph)
    constant = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in moved.graph.input if value.name not in constant]
    del moved.graph.input[:], moved.graph.value_info[:]
    moved.graph.input.extend(kept)
    known = {value.name for value in (*moved.graph.input, *moved.graph.output)}
    moved.graph.value_info.extend(
        value_info(name, kind) for name, kind in types.items() if kind.element and name not in known | constant
    )
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    for node in moved.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        node.domain = ""
        since = _since(node.op_type, opset)
        if node.op_type in CONVERTERS or stock.adopt(node.op_type, since):
            node.domain = DOMAIN
            node.attribute.append(onnx.helper.make_attribute(_SINCE, since))
    for entry in moved.opset_import:
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    moved.opset_import.add(domain=DOMAIN, version=1)
    return moved


def _since(operator: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(operator, max_inclusive_version=opset).since_version)
    except onnx.defs.SchemaError:
        return opset


class _Stock:
    """onnx2torch's registry, with our converters in it."""

    def __init__(self) -> None:
        from onnx2torch.node_converters.registry import add_converter, get_converter
        from onnx2torch.onnx_graph import OnnxGraph
        from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

        self.add_converter = add_converter
        self.get_converter = get_converter
        self.graph = OnnxGraph
        self._mapping = OnnxMapping
        self._result = OperationConverterResult
        self._adopted: set[str] = set()
        for operator, converter in CONVERTERS.items():
            add_converter(operator, 1, domain=DOMAIN)(self._wrap(converter))

    def adopt(self, operator: str, since: int) -> bool:
        """Make a stock converter of an older version do a newer one that computes the same; False if none does."""
        if operator in self._adopted:
            return not self._has(operator, since)
        if operator not in _SAME_SINCE or since <= _SAME_SINCE[operator] or self._has(operator, since):
            return False
        self.add_converter(operator, 1, domain=DOMAIN)(self.get_converter(operator, _SAME_SINCE[operator]))
        self._adopted.add(operator)
        return True

    def _has(self, operator: str, since: int) -> bool:
        try:
            self.get_converter(operator, since)
        except NotImplementedError:
            return False
        return True

    def _wrap(self, converter: Converter) -> Callable[[Any, Any], Any]:
        def converted(node: Any, graph: Any) -> Any:
            conversion = converter(_operation(node.proto, graph))
            names = [node.input_values[index] for index in conversion.inputs]
            return self._result(conversion.module, self._mapping(tuple(names), tuple(node.output_values)))

        return converted


def _operation(node: NodeProto, graph: Any) -> Operation:
    attributes: dict[str, Any] = {}
    for entry in node.attribute:
        value = onnx.helper.get_attribute_value(entry)
        if isinstance(value, TensorProto):
            value = onnx.numpy_helper.to_array(value)
        attributes[entry.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return Operation(
        operator=node.op_type,
        version=int(attributes.pop(_SINCE)),
        attributes=attributes,
        constants=tuple(
            graph.initializers[name].to_numpy() if name in graph.initializers else None for name in node.input
        ),
        given=tuple(bool(name) for name in node.input),
        shapes=tuple(_shape(graph.value_info.get(name)) for name in node.input),
    )


def _shape(info: onnx.ValueInfoProto | None) -> tuple[int | None, ...] | None:
    if info is None or not info.type.tensor_type.HasField("shape"):
        return None
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else None
        for dimension in info.type.tensor_type.shape.dim
    )


_stock: _Stock | None = None
_declared: list[Any] = []


def _onnx2torch() -> _Stock:
    """Load onnx2torch once, and register our converters with it."""
    global _stock
    if _stock is None:
        _load_torchvision()
        _stock = _Stock()
    return _stock


def _load_torchvision() -> None:
    """Import torchvision, which onnx2torch needs for two operators, also where its compiled part does not load.

    A torchvision made for CUDA beside a PyTorch made for CPUs fails with "operator torchvision::nms does not exist"
    when it describes operators that it could not load. Declaring them lets everything else of it work.
    """
    for _ in range(50):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as fault:
            missing = re.fullmatch(r"operator torchvision::(\w+) does not exist", str(fault))
            if missing is None:
                raise
            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(f"{missing[1]}(Tensor values) -> Tensor")
            _declared.append(library)
        else:
            return
