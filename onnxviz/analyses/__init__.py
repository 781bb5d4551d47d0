"""The analyses by kind: one folder each with its `analysis` module, and those of other packages by entry point."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
import typing
from collections.abc import Iterator, Mapping

from onnxviz.analyses.base import Analysis
from onnxviz.core.errors import AnalysisError
from onnxviz.core.plugins import by_kind

ENTRY_POINTS = "onnxviz.analyses"


def kind_of(analysis: type[Analysis]) -> str:
    """Return the `kind` that a recipe uses for this class."""
    (kind,) = typing.get_args(analysis.model_fields["kind"].annotation)
    return str(kind)


class _Analyses(Mapping[str, type[Analysis]]):
    """The built-in analyses, in folders named after their kinds, each loaded when it is used; then the others."""

    def __init__(self, folders: tuple[str, ...], others: Mapping[str, type[Analysis]]) -> None:
        self._folders, self._others = folders, others

    def __getitem__(self, kind: str) -> type[Analysis]:
        if kind not in self._folders:
            return self._others[kind]
        module = importlib.import_module(f"{__name__}.{kind}.analysis")
        own = (cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__)
        (found,) = (cls for cls in own if issubclass(cls, Analysis) and "kind" in cls.model_fields)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter((*self._folders, *self._others))

    def __len__(self) -> int:
        return len(self._folders) + len(self._others)


@functools.cache
def registry() -> Mapping[str, type[Analysis]]:
    """Return every analysis by kind: the built-in ones in order of name, then those of other packages.

    Raises:
        AnalysisError: if two classes claim the same kind, or an entry point is no analysis.
    """
    # A folder without such a module is what several analyses share.
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.ispkg)
    folders = tuple(name for name in names if importlib.util.find_spec(f"{__name__}.{name}.analysis"))
    others = by_kind([], Analysis, ENTRY_POINTS, kind_of)
    for kind in sorted(others.keys() & set(folders)):
        raise AnalysisError(f"two of {ENTRY_POINTS} are called {kind!r}: {__name__} and {others[kind].__module__}")
    return _Analyses(folders, others)
