"""The methods of attribution by name: a file for each family, and those of other packages by entry point."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil

from onnxviz.analyses.attribution.method import Method
from onnxviz.core.plugins import by_kind

ENTRY_POINTS = "onnxviz.attribution"


def name_of(method: type[Method]) -> str:
    """Return the name that a recipe uses for this class."""
    return str(method.model_fields["method"].default)


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Return every method by name: the built-in ones, family by family, then those of other packages.

    Raises:
        AnalysisError: if two classes claim the same name, or an entry point is no method.
    """
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    own = [
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls)
        and issubclass(cls, Method)
        and cls.__module__ == module.__name__
        and "method" in cls.model_fields
    ]
    return by_kind(own, Method, ENTRY_POINTS, name_of)  # type: ignore[type-abstract]
