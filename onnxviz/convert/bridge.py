"""The only module that knows onnx2torch: its registry of converters.

What somebody registers for a domain of their own with onnx2torch's public `add_converter` is used as it is. Its own
converters are not: 28 node tests of the onnx package are wrong with them, and each operator has one of ours
(docs/onnx2torch.md). The walk over the graph is our own too (`walk`), because onnx2torch's gives up at the first
operator it does not know, merges outputs, and takes element 0 of the batch where a node declares a second output.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import onnx
import torch
from onnx import ModelProto, NodeProto
from torch import nn

StockConverter = Callable[[Any, Any], Any]
"""Takes onnx2torch's node and graph."""


def find(node: NodeProto, version: int) -> StockConverter | None:
    """Return onnx2torch's converter for a node, or None if it has none or the operator is the standard's.

    Args:
        node: the node.
        version: the opset version of its domain that the model imports.
    """
    if node.domain in ("", "ai.onnx"):
        return None
    get_converter, _ = _onnx2torch()
    try:
        converter: StockConverter = get_converter(
            domain=node.domain,
            operation_type=node.op_type,
            version=version,
        )
    except NotImplementedError:
        return None
    return converter


def convert(converter: StockConverter, model: ModelProto) -> tuple[nn.Module, Sequence[str]]:
    """Convert one node.

    Args:
        converter: what `find` returned for it.
        model: a model of this node alone, with its constants as initializers and types for the rest.

    Returns:
        The module and the identifiers of the values that it is called with.
    """
    _, make_graph = _onnx2torch()
    graph = make_graph(model.graph)
    module, mapping = converter(next(iter(graph.nodes.values())), graph)
    return module, tuple(mapping.inputs)


@cache
def _onnx2torch() -> tuple[Callable[..., Any], Callable[[onnx.GraphProto], Any]]:
    """Load onnx2torch once."""
    _load_torchvision()
    from onnx2torch.node_converters.registry import get_converter
    from onnx2torch.onnx_graph import OnnxGraph

    return get_converter, OnnxGraph


_declared: list[Any] = []


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
