"""Models that are not ONNX yet, converted to ONNX: what `onnxviz import` calls."""

from __future__ import annotations

from onnxviz.importing.importer import Imported, import_model
from onnxviz.importing.torch_module import from_torch

__all__ = ["Imported", "from_torch", "import_model"]
