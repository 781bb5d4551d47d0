"""What users may import, and that importing it costs nothing."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import onnxviz

PUBLIC = [
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


def test_the_public_names_are_these() -> None:
    assert onnxviz.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(onnxviz))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_described(name: str) -> None:
    value = getattr(onnxviz, name)
    if name == "__version__":
        assert value.count(".") == 2
    else:
        assert value.__doc__
        assert value.__module__.startswith("onnxviz.")


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing such a module would put it in the function's place."""
    modules = {info.name for info in pkgutil.iter_modules(onnxviz.__path__)}
    assert not modules & set(PUBLIC)


def test_every_error_is_public() -> None:
    errors = importlib.import_module("onnxviz.core.errors")
    deliberate = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OnnxvizError)
    }
    assert deliberate <= set(PUBLIC)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        onnxviz.lod  # noqa: B018


@pytest.mark.parametrize(
    "code", ["import onnxviz", "import onnxviz; onnxviz.Layer, onnxviz.open_model, onnxviz.__version__"]
)
def test_importing_loads_no_engine(code: str) -> None:
    engines = "{'torch', 'onnxruntime', 'onnx2torch'}"
    check = f"{code}; import sys; loaded = {engines} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True)
