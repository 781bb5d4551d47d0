"""Converters of our own; one module for each family of operators, each with its own table.

A converter gets an `Operation` and returns a `Conversion`; it knows nothing of onnx2torch, nor of the graph around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from onnxviz.convert.operators.operation import (
    Body,
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    by_function,
)

_MODULES = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
FAMILIES = tuple(module for module in _MODULES if hasattr(module, "CONVERTERS"))
"""Modules with a table `CONVERTERS`."""


def _gather() -> dict[str, Converter]:
    found: dict[str, Converter] = {}
    for family in FAMILIES:
        twice = found.keys() & family.CONVERTERS.keys()
        assert not twice, f"two converters for {sorted(twice)}"
        found.update(family.CONVERTERS)
    return found


CONVERTERS: Mapping[str, Converter] = _gather()
"""Converter by ONNX operator; "domain:Operator" outside the standard's own domain."""

__all__ = ["CONVERTERS", "Body", "Conversion", "Converter", "Function", "NotConvertible", "Operation", "by_function"]
