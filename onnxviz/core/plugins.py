"""Classes by kind: the package's own, and those that other packages register as entry points."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from typing import TypeVar

from onnxviz.core.errors import AnalysisError

_Class = TypeVar("_Class")


def by_kind(
    own: Iterable[type[_Class]], base: type[_Class], group: str, kind_of: Callable[[type[_Class]], str]
) -> dict[str, type[_Class]]:
    """Return classes by kind: those given, then those of other packages in order of their entry points' names.

    Raises:
        AnalysisError: if two classes claim the same kind, or an entry point is no such class.
    """
    found: dict[str, type[_Class]] = {}
    classes = list(own)
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
        cls = entry.load()
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise AnalysisError(f"the entry point {entry.name!r} is no {base.__name__}", where=group)
        classes.append(cls)
    for cls in classes:
        kind = kind_of(cls)
        if kind in found:
            raise AnalysisError(f"two of {group} are called {kind!r}: {found[kind].__module__} and {cls.__module__}")
        found[kind] = cls
    return found
