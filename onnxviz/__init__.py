"""What has this vision model learned, where does it look, can it be trusted? Any ONNX model, with gradients.

>>> model = onnxviz.load("squeezenet.onnx", preprocess="caffe")
>>> model.layers
>>> model.activations(images, ["conv10"])
>>> onnxviz.to_torch("squeezenet.onnx")
>>> onnxviz.run("recipe.yaml")

Everything here is loaded when it is first used: `import onnxviz` loads neither PyTorch nor ONNX Runtime.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from onnxviz.core.lazy import loaded_later

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
    from onnxviz.execution.interactive import Model, load
    from onnxviz.graph import GraphView, open_model
    from onnxviz.model.to_torch import to_torch

__version__: str

# ONNX Runtime's builds may send usage data, and keep an identifier of the machine in the home folder. Not from here.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Agreement", "AgreementError", "Analysis", "AnalysisError", "BatchMixedError", "DataError", "GraphView",
    "Layer", "MemoryLimitError", "Model", "ModelError", "ModelFileError", "OnnxvizError", "OutputError",
    "Preprocessing", "RecipeError", "SelectionError", "Target", "Unit", "UnsupportedOperatorError", "__version__",
    "load", "open_model", "run", "to_torch",
]  # fmt: skip

_PLACES = {
    **{name: f"onnxviz.core.errors:{name}" for name in __all__ if name.endswith("Error")},
    **{name: f"onnxviz.core.values:{name}" for name in ("Agreement", "Layer", "Preprocessing", "Target", "Unit")},
    "Analysis": "onnxviz.analyses.base:Analysis",
    "GraphView": "onnxviz.graph:GraphView",
    "Model": "onnxviz.execution.interactive:Model",
    "load": "onnxviz.execution.interactive:load",
    "open_model": "onnxviz.graph:open_model",
    "run": "onnxviz.execution.execute:run_file",
    "to_torch": "onnxviz.model.to_torch:to_torch",
}
_find, __dir__ = loaded_later(__name__, _PLACES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to load, and every worker process loads this file first

        return version("onnxviz")
    return _find(name)
