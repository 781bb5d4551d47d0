"""What has this vision model learned, where does it look, can it be trusted? Any ONNX model, with gradients.

>>> model = onnxviz.load("squeezenet.onnx", preprocess="caffe")
>>> model.layers
>>> model.activations(images, ["conv10"])
>>> onnxviz.to_torch("squeezenet.onnx")
>>> onnxviz.run("recipe.yaml")

Everything here is loaded when it is first used: `import onnxviz` loads neither PyTorch nor ONNX Runtime.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxviz.analyses.base import Analysis
    from onnxviz.core.errors import (
        AgreementError,
        AnalysisError,
        BatchMixedError,
        DataError,
        MemoryLimitError,
        ModelError,
        ModelFileError,
        OnnxvizError,
        OutputError,
        RecipeError,
        SelectionError,
        UnsupportedOperatorError,
    )
    from onnxviz.core.values import Agreement, Layer, Preprocessing, Target, Unit
    from onnxviz.execution.execute import run_file as run
    from onnxviz.graph import GraphView, open_model
    from onnxviz.model.loading import load
    from onnxviz.model.model import Model
    from onnxviz.model.to_torch import to_torch

__version__: str

# ONNX Runtime's builds may send usage data, and keep an identifier of the machine in the home folder. Not from here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Agreement",
    "AgreementError",
    "Analysis",
    "AnalysisError",
    "BatchMixedError",
    "DataError",
    "GraphView",
    "Layer",
    "MemoryLimitError",
    "Model",
    "ModelError",
    "ModelFileError",
    "OnnxvizError",
    "OutputError",
    "Preprocessing",
    "RecipeError",
    "SelectionError",
    "Target",
    "Unit",
    "UnsupportedOperatorError",
    "__version__",
    "load",
    "open_model",
    "run",
    "to_torch",
]

_ERRORS = tuple(name for name in __all__ if name.endswith("Error"))
_PLACES: dict[str, tuple[str, str]] = {
    **{name: ("onnxviz.core.errors", name) for name in _ERRORS},
    **{name: ("onnxviz.core.values", name) for name in ("Agreement", "Layer", "Preprocessing", "Target", "Unit")},
    "Model": ("onnxviz.model.model", "Model"),
    "load": ("onnxviz.model.loading", "load"),
    "to_torch": ("onnxviz.model.to_torch", "to_torch"),
    **{name: ("onnxviz.graph", name) for name in ("GraphView", "open_model")},
    "Analysis": ("onnxviz.analyses.base", "Analysis"),
    "run": ("onnxviz.execution.execute", "run_file"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to load, and every worker process loads this file first

        return version("onnxviz")
    if name not in _PLACES:
        raise AttributeError(f"module 'onnxviz' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
