"""Converters of our own; one module for each family of operators, each with its own table.

A converter gets an `Operation` and returns a `Conversion`; it knows nothing of onnx2torch, nor of the graph around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from onnxviz.convert.operators.operation import (
    Body,
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    by_function,
)

FAMILIES: tuple[ModuleType, ...] = tuple(
    import_module(f"{__name__}.{family}")
    for family in (
        "activations",
        "arrangement",
        "attention",
        "casting",
        "classical",
        "control",
        "convolution",
        "exact_products",
        "generation",
        "indexing",
        "linear",
        "losses",
        "normalisation",
        "pointwise",
        "pooling",
        "quantisation",
        "recurrent",
        "reductions",
        "resizing",
        "sampling",
        "searching",
        "signal",
    )
)
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
