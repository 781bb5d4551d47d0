"""Names of a module that are loaded when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def loaded_later(module: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a module with an `__all__` whose names lie elsewhere.

    Args:
        module: the module's `__name__`.
        places: name -> where it lies, as "package.module:name".
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, attribute = places[name].partition(":")
        value = getattr(importlib.import_module(place), attribute)
        vars(sys.modules[module])[name] = value
        return value

    return find, lambda: sorted({*vars(sys.modules[module]), *vars(sys.modules[module])["__all__"]})
