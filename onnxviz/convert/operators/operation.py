"""One ONNX node as its converter sees it, and what the converter makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn


class NotConvertible(Exception):  # noqa: N818 - an answer, not a fault
    """This node cannot be converted; the text says why."""


@dataclass(frozen=True)
class Operation:
    """A node with everything about it that is known before any image is seen.

    Attributes:
        operator: ONNX operator type.
        version: opset version in which this form of the operator appeared.
        attributes: attribute values by name; tensors as arrays, strings as `str`.
        constants: for each input, its value if it is an initializer; None if it is computed or left out.
        given: for each input, whether it is there at all.
        shapes: for each input, its inferred shape (None where a dimension is free), or None if unknown.
    """

    operator: str
    version: int
    attributes: Mapping[str, Any]
    constants: tuple[np.ndarray | None, ...]
    given: tuple[bool, ...]
    shapes: tuple[tuple[int | None, ...] | None, ...]

    def constant(self, index: int) -> np.ndarray | None:
        """Return the value of an input that is an initializer; None if the input is left out.

        Raises:
            NotConvertible: if the input is computed by other nodes.
        """
        if not self.has(index):
            return None
        value = self.constants[index]
        if value is None:
            raise NotConvertible(f"input {index} of {self.operator} is computed, not constant")
        return value

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.given) and self.given[index]

    def integers(self, name: str, index: int) -> tuple[int, ...] | None:
        """Return a list of integers that older opsets keep in an attribute and newer ones in an input.

        Raises:
            NotConvertible: if the input is computed by other nodes.
        """
        if name in self.attributes:
            return tuple(int(number) for number in self.attributes[name])
        value = self.constant(index)
        return None if value is None else tuple(int(number) for number in np.atleast_1d(value))


@dataclass(frozen=True)
class Conversion:
    """A module and which of the node's inputs it is called with, in order."""

    module: nn.Module
    inputs: Sequence[int] = (0,)


Converter = Callable[[Operation], Conversion]
