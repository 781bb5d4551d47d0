"""The only module that knows onnx2torch: its registry of converters.

What somebody registers for a domain of their own with onnx2torch's public `add_converter` is used as it is. Its own
converters are not: of the 108 operators that it knows 32 pass the node tests in all versions that are met here
(docs/onnx2torch.md). So the package need not be there, and is not loaded here: whoever registers has loaded it. The
walk over the graph is our own too (`walk`), because onnx2torch's gives up at the first operator it does not know,
merges outputs, and takes element 0 of the batch where a node declares a second output.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from onnx import ModelProto, NodeProto
from torch import nn

StockConverter = Callable[[Any, Any], Any]
"""Takes onnx2torch's node and graph."""


def find(node: NodeProto, version: int) -> StockConverter | None:
    """Return the converter that is registered for a node, or None if there is none or the operator is the standard's.

    Args:
        node: the node.
        version: the opset version of its domain that the model imports.
    """
    registry = sys.modules.get("onnx2torch.node_converters.registry")
    if registry is None or node.domain in ("", "ai.onnx"):
        return None
    try:
        converter: StockConverter = registry.get_converter(
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
    from onnx2torch.onnx_graph import OnnxGraph

    graph = OnnxGraph(model.graph)
    module, mapping = converter(next(iter(graph.nodes.values())), graph)
    return module, tuple(mapping.inputs)
