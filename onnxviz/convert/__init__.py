"""From a normalised ONNX graph to a frozen, differentiable PyTorch network."""

from __future__ import annotations

from onnxviz.convert.extract import extract
from onnxviz.convert.network import Network, declared_elements

__all__ = ["Network", "declared_elements", "extract"]
