"""One ONNX node as its converter sees it, and what the converter makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from onnxviz.core import limits
from onnxviz.core.errors import ModelError


class NotConvertible(Exception):  # noqa: N818 - an answer, not a fault
    """This node cannot be converted; the text says why."""


@dataclass(frozen=True)
class Body:
    """A graph inside a node, converted.

    Attributes:
        module: takes the body's own inputs, then the captured values; returns a tuple, one entry per output.
        inputs: number of the body's own inputs.
        outputs: number of its outputs.
        captures: identifiers of the values that it reads from the graphs around it, constants left out.
    """

    module: nn.Module
    inputs: int
    outputs: int
    captures: tuple[str, ...]


@dataclass(frozen=True)
class Operation:
    """A node with everything about it that is known before any image is seen.

    Attributes:
        operator: ONNX operator type.
        version: opset version in which this form of the operator appeared.
        attributes: attribute values by name; tensors as arrays, strings as `str`; graphs are in `bodies`.
        constants: for each input, its value if it is an initializer; None if it is computed or left out.
        given: for each input, whether it is there at all.
        shapes: for each input, its inferred shape (None where a dimension is free), or None if unknown.
        elements: for each input, its ONNX element type; 0 if unknown.
        outputs: for each output, whether it has a name.
        results: for each output, its ONNX element type; 0 if unknown.
        result_shapes: for each output, its inferred shape, as for inputs.
        bodies: converts the graph that is the attribute of this name, when called; `numbers` says which of its inputs
            it gets as Python numbers, `number_outputs` which of its outputs it returns as numbers where it can, `types`
            the element types and shapes of its inputs, for where the body does not say.
    """

    operator: str
    version: int
    attributes: Mapping[str, Any]
    constants: tuple[np.ndarray | None, ...]
    given: tuple[bool, ...]
    shapes: tuple[tuple[int | None, ...] | None, ...]
    elements: tuple[int, ...] = ()
    outputs: tuple[bool, ...] = (True,)
    results: tuple[int, ...] = ()
    result_shapes: tuple[tuple[int | None, ...] | None, ...] = ()
    bodies: Mapping[str, Callable[..., Body]] = field(default_factory=dict)

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

    def known(self, index: int) -> np.ndarray | None:
        """Return the value of an input that is an initializer; None if it is left out or computed."""
        return self.constants[index] if self.has(index) else None

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.given) and self.given[index]

    def computed(self, index: int) -> bool:
        """Whether the node has this input and other nodes compute it."""
        return self.has(index) and self.constants[index] is None

    def rank(self, index: int) -> int | None:
        """Number of dimensions of an input; None if unknown."""
        shape = self.shapes[index] if self.has(index) else None
        return None if shape is None else len(shape)

    def element(self, index: int) -> int:
        """ONNX element type of an input; 0 if unknown."""
        return self.elements[index] if index < len(self.elements) else 0

    def result(self, index: int = 0) -> int:
        """ONNX element type of an output; 0 if unknown."""
        return self.results[index] if index < len(self.results) else 0

    def wants(self, index: int) -> bool:
        """Whether the node has this output."""
        return index < len(self.outputs) and self.outputs[index]

    @property
    def single(self) -> bool:
        """Whether the first output is the only one: the module returns a tensor, and else a tuple."""
        return sum(self.outputs) == 1 and self.outputs[0]

    def setting(self, name: str, default: Any) -> Any:
        """Return an attribute in the type of its default; `by_function` says what defaults mean.

        Raises:
            NotConvertible: if it is a word that the standard does not know.
        """
        value = self.attributes.get(name)
        if isinstance(default, tuple):
            word = default[0] if value is None else str(value)
            if word not in default:
                raise NotConvertible(f"{name} {word[:40]!r} of {self.operator}, which ONNX does not define")
            return word
        if default is None:
            return tuple(int(number) for number in value) if isinstance(value, list | tuple) else value
        return default if value is None else type(default)(value)

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
    """A module and what it is called with.

    Attributes:
        module: returns a tensor if the node has one output (`Operation.single`), else a tuple with an entry for each
            output of the node, or more; the entries of outputs without a name may be None.
        inputs: which of the node's inputs it is called with, in order; None is passed for one that is left out, and
            where None stands here.
        numbers: those of `inputs` that the module prefers as Python numbers (an int, a float or a tuple of them) where
            they follow from shapes; it gets a tensor where they do not (`as_numbers` reads both).
        captures: identifiers of further values that it is called with, after the inputs (`Body.captures`).
        refused: outputs that the module does not make, by their place, and why: others of the node are there.
        several: whether the module returns a tuple for a node with one output too, of which that is the first.
    """

    module: nn.Module
    inputs: Sequence[int | None] = (0,)
    numbers: Sequence[int] = ()
    captures: Sequence[str] = ()
    refused: Mapping[int, str] = field(default_factory=dict)
    several: bool = False


Converter = Callable[[Operation], Conversion]


class Function(nn.Module):
    """A function of tensors as a module, with what is known of its arguments before any image is seen.

    Args:
        function: takes a node's inputs, and the rest by name.
        settings: the rest; tensors among it move with the network.
    """

    def __init__(self, function: Callable[..., Any], /, **settings: Any) -> None:
        super().__init__()
        self.function = function
        self.settings = {name: value for name, value in settings.items() if not isinstance(value, torch.Tensor)}
        self.held = [name for name in settings if name not in self.settings]
        for name in self.held:
            self.register_buffer(name, settings[name])

    def extra_repr(self) -> str:
        """Name the function and its settings."""
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return ", ".join([getattr(self.function, "__name__", ""), *settings])

    def forward(self, *values: Any) -> Any:
        """Call the function."""
        return self.function(*values, **self.settings, **{name: self.get_buffer(name) for name in self.held})


ALL = 1 << 30
"""Said of how many inputs a function takes that takes all there are."""


def by_function(
    function: Callable[..., Any],
    inputs: int = 1,
    /,
    numbers: Sequence[int] = (),
    element: bool = False,
    several: bool = False,
    **attributes: Any,
) -> Converter:
    """Return a converter to a function that takes a node's inputs and, by name, its attributes.

    Args:
        function: the function.
        inputs: how many of the node's inputs it takes at most.
        numbers: as in `Conversion`.
        element: whether it takes the ONNX element type of the first input, as `element`.
        several: as in `Conversion`.
        attributes: the default of each attribute, in whose type it is passed on; None for an attribute that is left out
            or a list of integers; a tuple of words for one that has to be one of them, the first by default.
    """

    def convert(operation: Operation) -> Conversion:
        settings = {name: operation.setting(name, default) for name, default in attributes.items()}
        if element:
            settings["element"] = operation.element(0)
        taken = range(len(operation.given))[:inputs]
        return Conversion(Function(function, **settings), taken, numbers, several=several)

    return convert


def as_numbers(values: Any) -> tuple[Any, ...]:
    """Return what was passed as numbers, or as a tensor, as a tuple of Python numbers.

    Reading a tensor waits for its device; shapes, which are the usual case, arrive as numbers.
    """
    if isinstance(values, torch.Tensor | np.ndarray):
        values = values.tolist()
    if isinstance(values, list | tuple):
        return tuple(values)
    return (values,)


def as_integers(values: Any) -> tuple[int, ...]:
    """Return the same as whole numbers."""
    return tuple(int(value) for value in as_numbers(values))


def single_number(values: Any) -> Any:
    """Return a number that may have come as a tensor or list of one element.

    Raises:
        ModelError: if there are more or fewer.
    """
    numbers = as_numbers(values.reshape(-1) if isinstance(values, torch.Tensor | np.ndarray) else values)
    if len(numbers) != 1:
        raise ModelError(f"a condition, count or size has {len(numbers)} elements, not one")
    return numbers[0]


def bounded(shape: Sequence[int], operator: str, item: int = 4) -> tuple[int, ...]:
    """Return a shape, unless a tensor of it would be too large: a few bytes of a file may ask for terabytes.

    Args:
        shape: the shape of what an operator is about to make.
        operator: its name, for the message.
        item: bytes of one element.

    Raises:
        ModelError: above `limits.TENSOR_BYTES`, or if a size is negative.
    """
    sizes = tuple(shape)
    if math.prod(sizes) * item > limits.TENSOR_BYTES:
        raise ModelError(
            f"{operator} asks for a tensor of {' × '.join(map(str, sizes))} elements, "
            f"above the bound of {limits.TENSOR_BYTES >> 30} GiB",
            remedy="use a smaller image, or check where the model comes from",
        )
    if any(size < 0 for size in sizes):
        raise ModelError(f"{operator} asks for a tensor of a negative size", remedy="use a larger image")
    return sizes
