"""Operators of other domains, each with its traits and its converter, that other packages register."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from onnxviz.core.errors import AnalysisError
from onnxviz.graph.operators.traits import OperatorTraits

GROUP = "onnxviz.operators"
"""Entry points that name a `CustomOperator` each."""


@dataclass(frozen=True)
class CustomOperator:
    """An operator of a domain that is not the standard's.

    Attributes:
        key: its domain and name, "com.example:Operator".
        traits: what is true of it wherever it stands.
        convert: takes a node (`onnxviz.convert.operators.Operation`) and returns its `Conversion`, or raises
            `NotConvertible`.
        shaped_like: the standard's operator whose result has the same shape for such inputs and attributes; "" if there
            is none: then layers behind it are not known.
    """

    key: str
    traits: OperatorTraits
    convert: Callable[[Any], Any]
    shaped_like: str = ""


@cache
def custom_operators() -> Mapping[str, CustomOperator]:
    """Return what other packages register, by domain and name; asked for where a model has such an operator.

    Raises:
        AnalysisError: if an entry point is no such operator, or two are of the same.
    """
    found: dict[str, CustomOperator] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        operator = entry.load()
        if not isinstance(operator, CustomOperator):
            raise AnalysisError(f"the entry point {entry.name!r} is no CustomOperator", where=GROUP)
        if operator.key in found:
            raise AnalysisError(f"two of {GROUP} are of {operator.key!r}")
        found[operator.key] = operator
    return found


def custom_distributions() -> list[str]:
    """Return the names of the packages that may convert operators of other domains, installed or not."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return sorted({"onnx2torch", *(entry.dist.name for entry in entries if entry.dist is not None)})
