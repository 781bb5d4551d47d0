"""What hostile model files are put together from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

HUGE = 1 << 60
TERA = 1 << 40
Build = Callable[[], bytes]

# --- parts ------------------------------------------------------------------------------------------------------------


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def numbers(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def scalar(name: str, value: int) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.int64), name)


def floats(name: str, *shape: int) -> TensorProto:
    generator = np.random.default_rng(len(name))
    return numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)


def raw_tensor(name: str, dims: Sequence[int], data: bytes | None = b"", kind: int = TensorProto.FLOAT) -> TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=dims)
    if data is not None:
        tensor.raw_data = data
    return tensor


def model(
    nodes: Sequence[NodeProto],
    tensors: Sequence[TensorProto] = (),
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        list(tensors),
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 22 else 11, functions=list(functions))


def content(*args: Any, **named: Any) -> bytes:
    return model(*args, **named).SerializeToString()


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])
