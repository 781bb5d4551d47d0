"""Operators that compute with integers become the floating ones between DequantizeLinear and QuantizeLinear.

What `QLinearConv`, `MatMulInteger` and ONNX Runtime's own quantised operators (domain com.microsoft,
docs/ContribOperators.md of ONNX Runtime) compute is a convolution, a product, a sum of real numbers that integers stand
for. Written so, its layers, weights, costs and receptive fields are those of the network that was quantised.

A product of integers is exact, that of the real numbers is rounded. What is needed to compute the former goes into
`Draft.exact`, and the converted network does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxviz.graph.draft import Draft
from onnxviz.graph.passes.replacement import Replacement, Rewrite, replace
from onnxviz.graph.shapes import TypedGraph
from onnxviz.graph.structure import (
    attribute,
    constants_within,
    measured_ranges,
    reads,
    refill,
    set_domain,
)

_SCALED = {"ConvInteger": "ConvIntegerToFloat", "MatMulInteger": "MatMulIntegerToFloat"}
"""What a product of integers is called once it is scaled to real numbers."""
_MOVING = frozenset(["DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
                     "Transpose", "Unsqueeze"])  # fmt: skip
"""Operators whose result is some of their input's numbers, whatever these stand for."""
_BYTES = (TensorProto.INT8, TensorProto.UINT8)


def run(draft: Draft) -> str:
    """Replace each quantised operator whose scales and zero points are known."""
    if draft.opset < 10:  # the first that can write a quantisation
        return ""
    _join_scalings(draft)
    read = {name for node in draft.graph.node for name in reads(node)}
    said = replace(draft, REWRITES, "to_qdq")
    # What moved integers that only replaced operators have read goes; what nothing had read before stays.
    draft.keep_nodes(lambda node: node.op_type not in _MOVING or read.isdisjoint(node.output))
    if not said:
        return ""
    for operator, scaled in _SCALED.items():
        said = said.replace(scaled, f"{operator} with its scales")
    measured = measured_ranges(draft.graph)
    apart = (
        "; the ranges that dynamic quantisation measures on whole values are in no receptive field" if measured else ""
    )
    return f"wrote quantised operators as floating ones between quantisations ({said}){apart}"


def _join_scalings(draft: Draft) -> None:
    """Make one node of a product of integers and the scaling of its result, as dynamic quantisation writes them.

    They are ConvInteger or MatMulInteger, a Cast, and a Mul by the product of both scales.
    """
    graph = draft.graph
    known, constants = TypedGraph(graph, {}), constants_within(graph)
    outputs = {value.name for value in graph.output}

    def only_reader(value: str, operator: str) -> NodeProto | None:
        found = known.only_reader(value) if value not in outputs else None
        return found if found is not None and found.op_type == operator else None

    joined: dict[int, NodeProto] = {}
    gone: set[int] = set()
    for node in graph.node:
        cast = only_reader(node.output[0], "Cast") if node.op_type in _SCALED and not node.domain else None
        scaling = only_reader(cast.output[0], "Mul") if cast is not None else None
        if cast is None or scaling is None or attribute(cast, "to") != TensorProto.FLOAT:
            continue
        scales = known.makers.get(next((name for name in scaling.input if name != cast.output[0]), ""))
        if scales is None or scales.op_type != "Mul" or scales.domain:
            continue
        pair = sorted(scales.input, key=lambda name: name in constants)
        zeros = [*node.input[2:], "", ""][:2]
        if pair[0] in constants or pair[1] not in constants or node.input[1] not in constants:
            continue
        new = NodeProto(op_type=_SCALED[node.op_type], domain="com.microsoft", name=node.name)
        new.input.extend([*node.input[:2], *pair, *zeros])
        new.output.append(scaling.output[0])
        new.attribute.extend(node.attribute)
        joined[id(scaling)] = new
        gone.update((id(node), id(cast)))
        if known.readers.get(scales.output[0], []) == [scaling]:
            gone.add(id(scales))
    if joined:
        if not any(entry.domain == "com.microsoft" for entry in draft.model.opset_import):
            set_domain(draft.model.opset_import, "com.microsoft", 1)
        refill(graph.node, [joined.get(id(node), node) for node in graph.node if id(node) not in gone])


# --- what the replacements are made of ------------------------------------------------------------------------------


def _real(new: Replacement, value: int, scale: int, zero: int) -> str:
    """The real numbers that a quantised input stands for, made once for all who read it."""
    return _dequantised(new, new.input(value), new.input(scale), new.input(zero))


def _dequantised(new: Replacement, value: str, scale: str, zero: str) -> str:
    """The real numbers behind integers; what only moves or chooses integers does so with the numbers."""
    if (value, scale, zero) in new.shared:
        return new.shared[value, scale, zero]
    draft, maker = new.draft, new.makers.get(value)
    written = draft.names.get(value, "")
    if maker is not None and maker.op_type in _MOVING and not maker.domain and len(maker.output) == 1:
        source = _dequantised(new, maker.input[0], scale, zero)
        made = new.add(maker.op_type, source, *maker.input[1:], like=value, name=draft.new_node(maker.name))
        new.nodes[-1].attribute.extend(maker.attribute)
        draft.names[made] = written.removesuffix("_quantized")
    else:
        made = new.add("DequantizeLinear", value, scale, zero, like=value, name=draft.new_node(""))
        draft.names[made] = f"{written.removesuffix('_quantized')}_DequantizeLinear"
    draft.aliases[made] = [written]
    new.shared[value, scale, zero] = made
    if new.main:
        given = [name for name in (value, scale, zero) if name]
        draft.readable.append(onnx.helper.make_node("DequantizeLinear", given, [made], name=draft.new_node("")))
    return made


def _rounded(new: Replacement, value: str, scale: int, zero: int, to: str) -> str:
    name = new.draft.new_node("")
    return new.add("QuantizeLinear", value, new.input(scale), new.input(zero), to=to, name=name)


def _floating(new: Replacement, operator: str, *inputs: str, to: str = "", domain: str = "", **attributes: Any) -> str:
    """Add the operator of real numbers, under the name that it had before ONNX Runtime's quantiser added its own."""
    draft, written = new.draft, new.draft.node_names.get(new.node.name, "")
    made = new.add(operator, *inputs, to=to, domain=domain, **attributes)
    draft.node_names[new.nodes[-1].name] = written.removesuffix("_quant")
    if made != to:
        draft.names[made] = draft.names[made].removesuffix("_quantized")
    if written.endswith("_quant"):
        draft.aliases[made] = [written]
    return made


def _number(new: Replacement, index: int) -> np.ndarray | None:
    """The only number of a constant input, or None."""
    found = new.known(index)
    return found.astype(np.float32).reshape(()) if found is not None and found.size == 1 else None


def _is_byte(new: Replacement, value: int, zero: int) -> bool:
    """Whether an input is of bytes, as its zero point says or what is inferred of it."""
    if new.input(zero) in new.constants:
        return new.constants[new.input(zero)].data_type in _BYTES
    return new.element(value) in _BYTES


def _compute_exactly(new: Replacement, value: str, *further: str | np.ndarray) -> None:
    """Note what the exact form of the node that makes a value reads beyond the plain one."""
    if not new.main:
        return
    names = []
    for item in further:
        if isinstance(item, np.ndarray):
            name = new.draft.new_value(value)
            new.draft.exact.constants[name] = onnx.numpy_helper.from_array(item, name)
            item = name
        names.append(item)
    new.draft.exact.inputs[value] = tuple(names)


class _Product:
    """A product of quantised values with quantised weights, as one of real numbers.

    Attributes:
        moved: number of dimensions of images whose channels are last; 0 where they are not.
        step: what one integer of the result stands for, along the columns of a matrix or the rows of kernels; None
            if that is computed.
    """

    def __init__(self, new: Replacement, operator: str, values: tuple[int, int, int], weights: tuple[int, int, int]):
        self.new = new
        self.operator = operator
        self.values = values
        self.weights = weights
        self.moved = 0
        self.rows = operator == "Conv" or (operator == "Gemm" and bool(attribute(new.node, "transB", 0)))
        self.scale = _number(new, values[1])
        own = new.known(weights[1])
        self.own = None if own is None else own.astype(np.float32).reshape(() if own.size == 1 else own.shape)
        self.alpha = np.float32(attribute(new.node, "alpha", 1.0)) if operator == "Gemm" else np.float32(1)

    @property
    def step(self) -> np.ndarray | None:
        if self.scale is None or self.own is None:
            return None
        return np.asarray(self.alpha * self.scale * self.own, np.float32)

    def add(self, bias: int = -1, to: str = "", **attributes: Any) -> str | None:
        """Add the product, to integers of input `bias`; None if its weights cannot be written as real numbers."""
        new = self.new
        bytes_only = _is_byte(new, self.values[0], self.values[2]) and _is_byte(new, self.weights[0], self.weights[2])
        if self.own is None or not bytes_only or (self.scale is None and new.input(self.values[1]) in new.constants):
            return None
        weight = self._weight()
        integers = new.known(bias) if bias >= 0 and new.input(bias) else np.zeros(0, np.int32)
        if weight is None or integers is None or (integers.size and self.step is None):
            return None
        real = _real(new, *self.values)
        given = [_moved(new, real, self.moved, False) if self.moved else real, weight]
        if integers.size:
            assert self.step is not None
            given.append(new.constant(integers * self.step.astype(np.float64)))
        made = _floating(new, self.operator, *given, to=to, **attributes)
        _compute_exactly(new, made, new.input(self.values[1]), self.own, integers)
        return made

    def quantised(self, bias: int, scale: int, zero: int, to: str = "", **attributes: Any) -> str | None:
        """Add the product and the quantisation of its result, which has `scale` and `zero`; None as `add`."""
        new = self.new
        made, result = self.add(bias, **attributes), _number(new, scale)
        if made is None:
            return None
        value = _rounded(new, made, scale, zero, to)
        if self.step is not None and result is not None:
            step = self.step
            if self.operator == "Conv" and step.ndim:
                step = step.reshape(-1, *(1,) * (len(new.constants[new.input(self.weights[0])].dims) - 2))
            _compute_exactly(new, value, step, np.asarray(step / result, np.float32))
        return value

    def _weight(self) -> str | None:
        """The weights as real numbers: constant ones, or those that a matrix product of two values reads."""
        new, own = self.new, self.own
        assert own is not None
        integers = new.known(self.weights[0])
        if integers is None:
            return _real(new, *self.weights) if self.operator == "MatMul" and own.size == 1 else None
        zero = new.known(self.weights[2]) if new.input(self.weights[2]) else np.zeros((), np.int8)
        if zero is None:
            return None
        zero = zero.astype(np.float32).reshape(() if zero.size == 1 else zero.shape)
        shape = (-1, *(1,) * (integers.ndim - 1)) if self.rows else None
        spread = [part.reshape(shape) if shape and part.ndim == 1 else part for part in (zero, own)]
        key = (self.operator, *(new.input(index) for index in self.weights))
        if key not in new.shared:
            new.shared[key] = new.constant((integers.astype(np.float32) - spread[0]) * spread[1])
        return new.shared[key]


def _moved(new: Replacement, value: str, rank: int | None, back: bool, to: str = "") -> str:
    """Move the channels of images from the last axis to the second, or back."""
    assert rank is not None
    order = [0, *range(2, rank), 1] if back else [0, rank - 1, *range(1, rank - 1)]
    return new.add("Transpose", value, to=to, perm=order)


def _is_last(new: Replacement) -> bool:
    return bool(attribute(new.node, "channels_last", 0))


# --- operators ------------------------------------------------------------------------------------------------------


def _convolution(new: Replacement) -> bool:
    """QLinearConv; that of ONNX Runtime may have its channels last."""
    product, to = _Product(new, "Conv", (0, 1, 2), (3, 4, 5)), new.node.output[0]
    attributes = new.attributes("channels_last")
    if not _is_last(new):
        return product.quantised(8, 6, 7, to, **attributes) is not None
    if new.input(3) not in new.constants:
        return False
    rank = len(new.constants[new.input(3)].dims)
    product.moved = rank
    made = product.quantised(8, 6, 7, **attributes)
    return made is not None and bool(_moved(new, made, rank, True, to))


def _matrix_product(new: Replacement) -> bool:
    """QLinearMatMul."""
    return _Product(new, "MatMul", (0, 1, 2), (3, 4, 5)).quantised(-1, 6, 7, new.node.output[0]) is not None


def _gemm(new: Replacement) -> bool:
    """QGemm, whose result is real without a scale of its own."""
    product, to, attributes = _Product(new, "Gemm", (0, 1, 2), (3, 4, 5)), new.node.output[0], new.attributes()
    if attributes.get("transA", 0):
        return False
    if not new.input(7):
        return product.add(6, to, **attributes) is not None
    return product.quantised(6, 7, 8, to, **attributes) is not None


def _scaled_product(new: Replacement) -> bool:
    """MatMulIntegerToFloat, and its like for convolutions."""
    operator, to = ("MatMul" if "MatMul" in new.node.op_type else "Conv"), new.node.output[0]
    product = _Product(new, operator, (0, 2, 4), (1, 3, 5))
    made = product.add(to="" if new.input(6) else to, **new.attributes())
    if made is not None and new.input(6):
        new.add("Add", made, new.input(6), to=to)
    return made is not None


def _dynamic_product(new: Replacement) -> bool:
    """DynamicQuantizeMatMul: values, weights, their scale and zero point, bias."""
    given = [new.draft.new_value(new.input(0)) for _ in range(3)]
    first = onnx.helper.make_node(
        "DynamicQuantizeLinear", [new.input(0)], given, name=new.draft.new_node(new.node.name)
    )
    scaled = NodeProto(op_type="MatMulIntegerToFloat", name=new.node.name, output=new.node.output[:1])
    scaled.input.extend([given[0], new.input(1), given[1], new.input(2), given[2], new.input(3), new.input(4)])
    new.nodes.append(first)
    new.node = scaled
    new.elements[given[0]] = TensorProto.UINT8
    return _scaled_product(new)


def _between(
    new: Replacement, operator: str, sources: Sequence[int], target: int, domain: str = "", **attributes: Any
) -> bool:
    """Write an operator of real numbers between quantisations: each source is followed by its scale and zero point."""
    rank = new.rank(sources[0]) if _is_last(new) else 0
    if rank is None or any(new.input(index) not in new.constants for index in (*(i + 1 for i in sources), target)):
        return False
    real = [_real(new, index, index + 1, index + 2) for index in sources]
    real = [_moved(new, value, rank, False) for value in real] if rank else real
    made = _floating(new, operator, *real, domain=domain, **attributes)
    made = _moved(new, made, rank, True) if rank else made
    _rounded(new, made, target, target + 1, new.node.output[0])
    return True


def _plain(operator: str, sources: Sequence[int], target: int) -> Rewrite:
    """Return what writes an operator whose attributes are those of the plain one."""
    return lambda new: _between(new, operator, sources, target, **new.attributes("channels_last"))


def _softmax(new: Replacement) -> bool:
    """QLinearSoftmax, which says in an attribute which opset's meaning it has."""
    opset, attributes = int(attribute(new.node, "opset", 13)), new.attributes("opset")
    if opset < 13 <= new.draft.opset:
        set_domain(new.draft.model.opset_import, f"opset{opset}", 1)
        return _between(new, "Softmax", (0,), 3, domain=f"opset{opset}", **attributes)
    return _between(new, "Softmax", (0,), 3, **attributes)


def _join(new: Replacement) -> bool:
    """QLinearConcat: scale and zero point of the result, then three inputs for each value."""
    return _between(new, "Concat", range(2, len(new.node.input), 3), 0, **new.attributes())


def _rounding(new: Replacement) -> bool:
    """QuantizeLinear and DequantizeLinear of ONNX Runtime, which are the standard's where they are of bytes."""
    scale, dequantises = new.known(1), new.node.op_type == "DequantizeLinear"
    is_byte = _is_byte(new, 0, 2) if dequantises or new.input(2) in new.constants else not new.input(2)
    if not is_byte or scale is None or (scale.size > 1 and new.draft.opset < 13):
        return False
    attributes = new.attributes() if scale.size > 1 else {}
    new.add(new.node.op_type, *new.node.input, to=new.node.output[0], **attributes)
    return True


REWRITES: Mapping[tuple[str, str], Rewrite] = {
    ("", "QLinearConv"): _convolution,
    ("", "QLinearMatMul"): _matrix_product,
    ("com.microsoft", "ConvIntegerToFloat"): _scaled_product,
    ("com.microsoft", "DequantizeLinear"): _rounding,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_product,
    ("com.microsoft", "MatMulIntegerToFloat"): _scaled_product,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "QLinearAdd"): _plain("Add", (0, 3), 6),
    ("com.microsoft", "QLinearAveragePool"): _plain("AveragePool", (0,), 3),
    ("com.microsoft", "QLinearConcat"): _join,
    ("com.microsoft", "QLinearConv"): _convolution,
    ("com.microsoft", "QLinearGlobalAveragePool"): _plain("GlobalAveragePool", (0,), 3),
    ("com.microsoft", "QLinearLeakyRelu"): _plain("LeakyRelu", (0,), 3),
    ("com.microsoft", "QLinearMul"): _plain("Mul", (0, 3), 6),
    ("com.microsoft", "QLinearSigmoid"): _plain("Sigmoid", (0,), 3),
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("com.microsoft", "QuantizeLinear"): _rounding,
}
"""What replaces an operator, by its domain and name."""
