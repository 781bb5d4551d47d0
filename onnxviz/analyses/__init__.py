"""The analyses by kind: one folder each with its `analysis` module, and those of other packages by entry point."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import typing

from onnxviz.analyses.base import Analysis
from onnxviz.core.errors import AnalysisError

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
    found: dict[str, type[Analysis]] = {}
    classes = [cls for module in _built_in_modules() for cls in _analyses_in(module)]
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, Analysis)):
            raise AnalysisError(f"the entry point {entry.name!r} is no Analysis", where=ENTRY_POINTS)
        classes.append(cls)
    for cls in classes:
        kind = kind_of(cls)
        if kind in found:
            raise AnalysisError(f"two analyses are called {kind!r}: {found[kind].__module__} and {cls.__module__}")
        found[kind] = cls
    return found


def _built_in_modules() -> list[object]:
    folders = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.ispkg)
    return [importlib.import_module(f"{__name__}.{name}.analysis") for name in folders]


def _analyses_in(module: object) -> list[type[Analysis]]:
    return [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Analysis) and "kind" in cls.model_fields and cls.__module__ == module.__name__  # type: ignore[attr-defined]
    ]
