"""If, Loop and Scan.

Their bodies are networks of their own. Which branch runs, and how often a body, is decided in Python: on a constant at
conversion, on a number where it follows from shapes, and by reading a tensor only where the graph computes it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS
from onnxviz.convert.operators.generation import constant
from onnxviz.convert.operators.operation import (
    Body,
    Conversion,
    Converter,
    NotConvertible,
    Operation,
    as_integers,
    single_number,
)
from onnxviz.core import limits
from onnxviz.core.errors import ModelError

PartType = tuple[int, tuple[int | None, ...] | None]
"""ONNX element type and shape of an input of a body, as far as they are known."""


# --- If ---------------------------------------------------------------------------------------------------------------


def _if(operation: Operation) -> Conversion:
    condition = operation.known(0)
    if condition is not None:
        if condition.size != 1:
            raise NotConvertible(f"its condition has {condition.size} elements, not one")
        branch = operation.bodies["then_branch" if condition.any() else "else_branch"]()
        _check_outputs(branch, len(operation.outputs))
        return Conversion(branch.module, (), captures=branch.captures, several=True)
    branches = [operation.bodies[name]() for name in ("then_branch", "else_branch")]
    captures = tuple(dict.fromkeys(name for branch in branches for name in branch.captures))
    for branch in branches:
        _check_outputs(branch, len(operation.outputs))
    return Conversion(_If(branches, captures), (0,), numbers=(0,), captures=captures, several=True)


def _check_outputs(body: Body, expected: int) -> None:
    if body.outputs != expected:
        raise NotConvertible(f"its body has {body.outputs} outputs where {expected} are needed")


class _If(nn.Module):
    """Both branches, of which each call runs one."""

    def __init__(self, branches: Sequence[Body], captures: Sequence[str]) -> None:
        super().__init__()
        self.then_branch, self.else_branch = (branch.module for branch in branches)
        self.reads = [tuple(captures.index(name) for name in branch.captures) for branch in branches]

    def forward(self, condition: Any, *captured: Any) -> Any:
        if single_number(condition):
            return self.then_branch(*(captured[index] for index in self.reads[0]))
        return self.else_branch(*(captured[index] for index in self.reads[1]))


# --- what Loop and Scan share -----------------------------------------------------------------------------------------


class _Trips(threading.local):
    """How often bodies may still run in the call of a network that a thread is in: loops within loops multiply."""

    depth = 0
    left = 0


_TRIPS = _Trips()


def _begin() -> None:
    if torch.compiler.is_compiling():
        return  # a compiler that unrolls loops has bounds of its own
    if _TRIPS.depth == 0:
        _TRIPS.left = limits.LOOP_TRIPS
    _TRIPS.depth += 1


def _trip() -> None:
    if torch.compiler.is_compiling():
        return
    _TRIPS.left -= 1
    if _TRIPS.left < 0:
        raise ModelError(
            f"the model's loops run more than {limits.LOOP_TRIPS:,} times, which is refused",
            remedy="ask for layers before the loop",
        )


def _end() -> None:
    if not torch.compiler.is_compiling():
        _TRIPS.depth -= 1


def _check_trips(count: int) -> None:
    if count > limits.LOOP_TRIPS:
        raise ModelError(
            f"a loop over {count:,} steps is refused: more than {limits.LOOP_TRIPS:,}",
            remedy="ask for layers before the loop",
        )


class _Collected:
    """What a body makes in each of its runs, to be joined along an axis."""

    def __init__(self, axis: int, reverse: bool, shape: tuple[int | None, ...] | None, element: torch.dtype) -> None:
        self.axis = axis
        self.reverse = reverse
        self.empty = tuple(size or 0 for size in shape) if shape else (0,)
        self.element = element
        self.parts: list[torch.Tensor] = []
        self.size = 0

    def add(self, values: torch.Tensor) -> None:
        """Take what one run made."""
        if self.parts and values.shape != self.parts[0].shape:
            raise ModelError(
                f"the body of a loop makes {list(self.parts[0].shape)} at first and {list(values.shape)} later"
            )
        self.size += values.numel() * values.element_size()
        if self.size > limits.LOOP_BYTES:
            raise ModelError(f"the results of a loop take more than {limits.LOOP_BYTES:,} bytes, which is refused")
        self.parts.append(values)

    def joined(self, like: torch.Tensor | None) -> torch.Tensor:
        """Return all of it, [..., runs, ...]; of no runs what is known of the shape."""
        if not self.parts:
            shape = list(self.empty)
            shape[self.axis if -len(shape) <= self.axis < len(shape) else 0] = 0
            return torch.zeros(shape, dtype=self.element, device=like.device if like is not None else None)
        rank = self.parts[0].dim() + 1
        if not -rank <= self.axis < rank:
            raise ModelError(f"a Scan puts {rank - 1}-dimensional results along axis {self.axis}")
        return torch.stack(self.parts[::-1] if self.reverse else self.parts, self.axis)


def _check_carried(values: Sequence[Any]) -> None:
    for value in values:
        if value.numel() * value.element_size() > limits.LOOP_BYTES:
            raise ModelError(f"a loop carries a tensor {list(value.shape)}, which is refused as too large")


class _Looping(nn.Module):
    """What Loop and Scan share."""

    def __init__(self, operation: Operation, body: Body, carried: int) -> None:
        super().__init__()
        self.body = body.module
        self.carried = carried
        shapes = [*operation.result_shapes, *[None] * len(operation.outputs)]
        self.shapes = shapes[: len(operation.outputs)]
        self.elements = [CARRIERS.get(operation.result(i), torch.float32) for i in range(len(operation.outputs))]

    def collect(self, count: int, axes: Sequence[int] = (), reverse: Sequence[bool] = ()) -> list[_Collected]:
        """Return what takes the results of each run; outputs beyond the node's own are taken and dropped."""
        found = []
        for index in range(count):
            place = self.carried + index
            known = place < len(self.shapes)
            found.append(
                _Collected(
                    axes[index] if index < len(axes) else 0,
                    reverse[index] if index < len(reverse) else False,
                    self.shapes[place] if known else None,
                    self.elements[place] if known else torch.float32,
                )
            )
        return found


def _first_tensor(values: Sequence[Any]) -> torch.Tensor | None:
    return next((value for value in values if isinstance(value, torch.Tensor)), None)


# --- Loop -------------------------------------------------------------------------------------------------------------


def _loop(operation: Operation) -> Conversion:
    inputs = len(operation.given)
    types: list[PartType] = [(int(TensorProto.INT64), ()), (int(TensorProto.BOOL), ())]
    types += [(operation.element(index), None) for index in range(2, inputs)]  # a shape may change from run to run
    body = operation.bodies["body"](numbers=(0, 1), number_outputs=(0,), types=types)
    carried = inputs - 2
    if body.inputs != carried + 2:
        raise NotConvertible(f"its body takes {body.inputs} values where {carried + 2} are given")
    if body.outputs < carried + 1:
        raise NotConvertible(f"its body makes {body.outputs} values where it needs {carried + 1}")
    if len(operation.outputs) > body.outputs - 1:
        raise NotConvertible(f"it has {len(operation.outputs)} outputs, its body {body.outputs}")
    if not all(operation.given[2:]):
        raise NotConvertible("a value that it carries has no start")
    module = _Loop(operation, body, carried)
    return Conversion(module, tuple(range(inputs)) or (0, 1), numbers=(0, 1), captures=body.captures, several=True)


class _Loop(_Looping):
    """ONNX Loop."""

    def __init__(self, operation: Operation, body: Body, carried: int) -> None:
        super().__init__(operation, body, carried)
        self.scanned = body.outputs - 1 - carried

    def forward(self, trips: Any, condition: Any, *values: Any) -> Any:
        carried, captured = list(values[: self.carried]), values[self.carried :]
        most = None if trips is None else int(single_number(trips))
        goes_on = condition is None or bool(single_number(condition))
        collected = self.collect(self.scanned)
        count = 0
        _begin()
        try:
            while goes_on and (most is None or count < most):
                _trip()
                # The body only runs where the condition is true.
                onward, *made = self.body(count, True, *carried, *captured)
                carried = made[: self.carried]
                _check_carried(carried)
                for place, value in zip(collected, made[self.carried :], strict=True):
                    place.add(value)
                count += 1
                goes_on = bool(single_number(onward))
        finally:
            _end()
        like = _first_tensor(values)
        return (*carried, *(place.joined(like) for place in collected))


# --- Scan -------------------------------------------------------------------------------------------------------------


def _scan(operation: Operation) -> Conversion:
    inputs = len(operation.given)
    first = 1 if operation.version < 9 else 0  # version 8 has the lengths of the sequences in front
    count = int(operation.attributes["num_scan_inputs"])
    states = inputs - first - count
    if count < 1 or states < 0:
        raise NotConvertible(f"it scans {count} of {inputs} inputs")
    if not all(operation.given[first:]):
        raise NotConvertible("one of its inputs is left out")
    axes = _axes(operation, "scan_input_axes", count)  # before version 9 there are none, and it is the first
    types = [_part_type(operation, first + index, None, first) for index in range(states)]
    types += [_part_type(operation, first + states + index, axis, first) for index, axis in enumerate(axes)]
    body = operation.bodies["body"](types=types)
    if body.inputs != states + count:
        raise NotConvertible(f"its body takes {body.inputs} values where {states + count} are given")
    if not max(states, len(operation.outputs)) <= body.outputs:
        raise NotConvertible(f"its body makes {body.outputs} values")
    module: nn.Module
    if operation.version < 9:
        module = _EarlyScan(operation, body, states, count, _flags(operation, "directions", count))
    else:
        module = _Scan(operation, body, states, axes)
    return Conversion(module, range(inputs), captures=body.captures, several=True)


def _part_type(operation: Operation, index: int, axis: int | None, batch: int) -> PartType:
    """Return element type and shape of what a body sees of an input: without the scanned axis and the batch."""
    shape = operation.shapes[index]
    if shape is None:
        return operation.element(index), None
    kept = list(shape[batch:])
    if axis is not None:
        if not -len(kept) <= axis < len(kept):
            raise NotConvertible(f"it scans axis {axis} of an input with {len(kept)} dimensions")
        del kept[axis]
    return operation.element(index), tuple(kept)


def _axes(operation: Operation, name: str, count: int) -> tuple[int, ...]:
    given = tuple(int(axis) for axis in operation.attributes.get(name, (0,) * count))
    if len(given) != count:
        raise NotConvertible(f"{name} has {len(given)} entries, {count} needed")
    return given


def _flags(operation: Operation, name: str, count: int) -> tuple[bool, ...]:
    return tuple(bool(flag) for flag in _axes(operation, name, count))


class _Scan(_Looping):
    """ONNX Scan from version 9 on."""

    def __init__(self, operation: Operation, body: Body, states: int, axes: Sequence[int]) -> None:
        super().__init__(operation, body, states)
        scanned = body.outputs - states
        self.axes, self.reverse = axes, _flags(operation, "scan_input_directions", len(axes))
        self.output_axes = _axes(operation, "scan_output_axes", scanned)
        self.output_reverse = _flags(operation, "scan_output_directions", scanned)

    def forward(self, *values: Any) -> Any:
        end = self.carried + len(self.axes)
        states, captured = list(values[: self.carried]), values[end:]
        steps = _slices(values[self.carried : end], self.axes, self.reverse)
        collected = self.collect(len(self.output_axes), self.output_axes, self.output_reverse)
        _begin()
        try:
            for parts in zip(*steps, strict=True):
                _trip()
                made = self.body(*states, *parts, *captured)
                states = list(made[: self.carried])
                _check_carried(states)
                for place, value in zip(collected, made[self.carried :], strict=True):
                    place.add(value)
        finally:
            _end()
        like = _first_tensor(values)
        return (*states, *(place.joined(like) for place in collected))


def _slices(
    values: Sequence[torch.Tensor], axes: Sequence[int], reverse: Sequence[bool]
) -> list[tuple[torch.Tensor, ...]]:
    """Return the parts of each tensor along its axis, in the order of the runs."""
    lengths = {value.shape[axis] for value, axis in zip(values, axes, strict=True)}
    if len(lengths) != 1:
        raise ModelError(f"Scan goes over axes of different lengths: {sorted(lengths)}")
    _check_trips(*lengths)
    steps = []
    for value, axis, backward in zip(values, axes, reverse, strict=True):
        parts = value.unbind(axis)
        steps.append(parts[::-1] if backward else parts)
    return steps


class _EarlyScan(_Looping):
    """ONNX Scan 8: every image of a batch by itself, each over as many steps as it has."""

    def __init__(self, operation: Operation, body: Body, states: int, count: int, reverse: Sequence[bool]) -> None:
        super().__init__(operation, body, states)
        self.count, self.reverse = count, tuple(reverse)
        self.scanned = body.outputs - states

    def forward(self, lengths: torch.Tensor | None, *values: Any) -> Any:
        """Run the body along axis 1 of each image."""
        end = self.carried + self.count
        states, scanned, captured = values[: self.carried], values[self.carried : end], values[end:]
        batch, steps = scanned[0].shape[:2]
        _check_trips(batch * steps)
        counts = [steps] * batch if lengths is None else as_integers(lengths)
        if len(counts) != batch or not all(0 <= count <= steps for count in counts):
            raise ModelError(f"Scan has sequences of {counts[:4]} steps for a batch of {batch} with {steps} steps")
        after = [self.collect(1)[0] for _ in range(self.carried)]
        collected = self.collect(self.scanned)
        _begin()
        try:
            for image, count in enumerate(counts):
                parts = _slices([value[image, :count] for value in scanned], (0,) * self.count, self.reverse)
                carried, runs = self._image([state[image] for state in states], parts, captured)
                for place, value in zip(
                    (*after, *collected), (*carried, *(_padded(r, steps) for r in runs)), strict=True
                ):
                    place.add(value)
        finally:
            _end()
        return tuple(place.joined(scanned[0]) for place in (*after, *collected))

    def _image(
        self, states: list[torch.Tensor], steps: Sequence[Sequence[torch.Tensor]], captured: Sequence[Any]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        runs = self.collect(self.scanned)
        for place in runs:
            place.empty = place.empty[1:] or (0,)  # without the batch
        for parts in zip(*steps, strict=True):
            _trip()
            made = self.body(*states, *parts, *captured)
            states = list(made[: self.carried])
            _check_carried(states)
            for place, value in zip(runs, made[self.carried :], strict=True):
                place.add(value)
        return states, [place.joined(_first_tensor(states)) for place in runs]


def _padded(values: torch.Tensor, steps: int) -> torch.Tensor:
    """Fill up with zeros what a short sequence lacks."""
    if values.shape[0] == steps:
        return values
    return torch.cat([values, values.new_zeros(steps - values.shape[0], *values.shape[1:])])


# --- values that may be missing ---------------------------------------------------------------------------------------


def _has_element(operation: Operation) -> Conversion:
    """OptionalHasElement: a tensor is always there, an input that is left out never."""
    if operation.has(0) and not operation.element(0):
        raise NotConvertible("its input may be missing")
    return constant(torch.tensor(operation.has(0)))


def _get_element(operation: Operation) -> Conversion:
    """OptionalGetElement: of a tensor the tensor itself."""
    if not operation.element(0):
        raise NotConvertible("its input may be missing")
    return Conversion(nn.Identity())


CONVERTERS: Mapping[str, Converter] = {
    "If": _if,
    "Loop": _loop,
    "OptionalGetElement": _get_element,
    "OptionalHasElement": _has_element,
    "Scan": _scan,
}
