"""What users may import: every name loads, is described and documented, and importing the package costs nothing."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import onnxviz
from onnxviz import analysis

ROOT = Path(onnxviz.__file__).parents[1]
PAGES = {onnxviz: ("README.md", "docs/python.md"), analysis: ("docs/analyses.md",)}
NAMES = [(module, name) for module in PAGES for name in module.__all__]
each_name = pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=[f"{module.__name__}.{name}" for module, name in NAMES]
)


@each_name
def test_every_public_name_loads_and_is_described(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    assert name in dir(module)
    if name == "__version__":
        assert value.count(".") == 2
    elif isinstance(value, type) or (callable(value) and not hasattr(value, "__args__")):
        assert value.__doc__
        assert value.__module__.startswith("onnxviz.")


@each_name
def test_every_public_name_is_documented(module: ModuleType, name: str) -> None:
    """Between backticks, or in a block of Python."""
    pages = [(ROOT / page).read_text("utf-8") for page in PAGES[module]]
    code = [
        part
        for page in pages
        for part in re.findall(r"```python\n(.*?)^```|`([^`\n]+)`", page, re.DOTALL | re.MULTILINE)
    ]
    assert any(re.search(rf"(?<!\w){name}(?!\w)", part) for parts in code for part in parts)


@pytest.mark.parametrize("module", PAGES, ids=lambda module: module.__name__)
def test_what_type_checkers_and_users_see_is_the_same(module: ModuleType) -> None:
    """The imports for type checkers name what `__getattr__` loads, and nothing else."""
    source = Path(str(module.__file__)).read_text("utf-8")
    block = source.split("if TYPE_CHECKING:\n")[1].split("\n\n")[0]
    imported = dict[str, str]()
    for place, names in re.findall(r"from (\S+) import (\([^)]*\)|[^\n]*)", block):
        for entry in names.strip("()").split(","):
            if words := entry.split():
                imported[words[-1]] = f"{place}:{words[0]}"
    assert set(module.__all__) - set(imported) <= {"__version__"}
    for name, place in imported.items():
        home, _, own = place.partition(":")
        assert getattr(importlib.import_module(home), own) is getattr(module, name)


def test_no_module_has_the_name_of_a_public_function() -> None:
    """Importing such a module would put it in the function's place."""
    modules = {info.name for info in pkgutil.iter_modules(onnxviz.__path__)}
    assert not modules & set(onnxviz.__all__)


def test_every_error_is_public() -> None:
    errors = importlib.import_module("onnxviz.core.errors")
    deliberate = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OnnxvizError)
    }
    assert deliberate <= set(onnxviz.__all__)


@pytest.mark.parametrize("module", PAGES, ids=lambda module: module.__name__)
def test_other_names_are_refused(module: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module {module.__name__!r} has no attribute 'lod'"):
        module.lod  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import onnxviz",
        "import onnxviz; onnxviz.Layer, onnxviz.open_model, onnxviz.__version__",
        "import onnxviz.analysis as a; [getattr(a, name) for name in a.__all__]",
    ],
)
def test_importing_loads_no_engine(code: str) -> None:
    engines = "{'torch', 'onnxruntime', 'onnx2torch'}"
    check = f"{code}; import sys; loaded = {engines} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_importing_alone_loads_nothing_else() -> None:
    heavy = "{'numpy', 'onnx', 'pydantic', 'PIL', 'yaml'}"
    check = f"import onnxviz, onnxviz.analysis, sys; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    subprocess.run([sys.executable, "-c", check], check=True)
