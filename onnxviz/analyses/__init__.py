"""The analyses by kind: one folder each with its `analysis` module, and those of other packages by entry point."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import typing

from onnxviz.analyses.base import Analysis
from onnxviz.core.plugins import by_kind

ENTRY_POINTS = "onnxviz.analyses"


def kind_of(analysis: type[Analysis]) -> str:
    """Return the `kind` that a recipe uses for this class."""
    (kind,) = typing.get_args(analysis.model_fields["kind"].annotation)
    return str(kind)


@functools.cache
def registry() -> dict[str, type[Analysis]]:
    """Return every analysis by kind: the built-in ones in order of name, then those of other packages.

    Raises:
        AnalysisError: if two classes claim the same kind, or an entry point is no analysis.
    """
    classes = [cls for module in _built_in_modules() for cls in _analyses_in(module)]
    return by_kind(classes, Analysis, ENTRY_POINTS, kind_of)


def _built_in_modules() -> list[object]:
    # A folder without such a module is what several analyses share.
    names = [f"{__name__}.{info.name}.analysis" for info in sorted(pkgutil.iter_modules(__path__)) if info.ispkg]
    return [importlib.import_module(name) for name in names if importlib.util.find_spec(name)]


def _analyses_in(module: object) -> list[type[Analysis]]:
    return [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Analysis) and "kind" in cls.model_fields and cls.__module__ == module.__name__  # type: ignore[attr-defined]
    ]
