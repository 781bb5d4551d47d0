"""Where a value holds the batch, what a rule may look at to find out, and where reshapes put it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from onnxviz.graph.shapes import Dimension, TypedGraph, product


class MixesBatchError(Exception):
    """An operator does something to the batch axis that keeps the images from being independent."""


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """Where a value holds the batch.

    Attributes:
        axis: the axis; of a value without axes 0, which is then an axis of its own.
        before: how many positions of that axis lie in front of the images.
    """

    axis: int
    before: int = 1

    def at(self, axis: int) -> BatchAxis:
        """The same in another axis."""
        return BatchAxis(axis, self.before)


@dataclass
class BatchFlow:
    """What is known about the batch while, and after, it is followed through a graph.

    Attributes:
        graph: its types inferred with the batch set to `batch`.
        batch: the number of images that shapes were inferred with.
        choices: identifier of a node -> which of the ways to place the batch it takes.
        places: value -> where it holds the batch.
        lost: values that depend on the images in a way that is not known.
        problems: nodes at which the batch was lost, with the reason.
        widened: (identifier of a node, index of an input) -> where that input, which is there once, must be repeated
            for every image.
        within: identifiers of nodes that work along an axis which holds the images and something else, and mean the
            latter.
        options: identifier of a node -> in how many ways it could place the batch.
    """

    graph: TypedGraph
    batch: int
    choices: Mapping[str, int]
    places: dict[str, BatchAxis]
    lost: set[str] = field(default_factory=set)
    problems: list[tuple[NodeProto, str]] = field(default_factory=list)
    widened: dict[tuple[str, int], BatchAxis] = field(default_factory=dict)
    within: set[str] = field(default_factory=set)
    options: dict[str, int] = field(default_factory=dict)

    @property
    def mixed(self) -> set[str]:
        """The values that are no plain batch, of which axis 0 holds the images and nothing else."""
        plain = BatchAxis(0)
        return {
            value
            for value, place in self.places.items()
            if place != plain or (self.graph.shape(value) or ())[:1] != (self.batch,)
        }

    def place(self, value: str) -> BatchAxis | None:
        """Where a value holds the batch; None if it does not."""
        return self.places.get(value)

    def shape(self, value: str) -> tuple[Dimension, ...]:
        """A value's dimensions.

        Raises:
            UnknownShapeError: if even their number is not known.
        """
        return self.graph.known_shape(value)

    def constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        """The numbers of a constant input, or None."""
        return self.graph.constant(node, index)

    def widen(self, node: NodeProto, index: int, place: BatchAxis, *, size: Dimension) -> None:
        """Ask for an input that is there once, `size` long at the place, to be repeated for every image.

        Raises:
            MixesBatchError: if it has another number for each image.
        """
        if size != 1 and self.batch != 1:
            raise MixesBatchError("has another number for each image")
        if not isinstance(size, int) or size % place.before:
            raise MixesBatchError("joins images with something that is there once")
        self.widened[node.name, index] = place


Rule = Callable[[BatchFlow, NodeProto], BatchAxis | Sequence[BatchAxis]]
"""From a node to the place of the batch in its output, or in each of its outputs."""


def reshaped(flow: BatchFlow, node: NodeProto, preferred: int | None = None) -> BatchAxis:
    """Return where a node that only changes the shape of its first input puts the batch, as `placed` does."""
    place = flow.place(node.input[0])
    assert place is not None
    return placed(flow, node, flow.shape(node.input[0]), place, preferred)


def placed(
    flow: BatchFlow, node: NodeProto, before: tuple[Dimension, ...], place: BatchAxis, preferred: int | None = None
) -> BatchAxis:
    """Return where a node's result, which a reshape makes from a tensor of another shape, holds the batch.

    Of several axes that are as good the first choice is `preferred`, in which a node of this kind keeps the batch by
    itself.

    Raises:
        MixesBatchError: if no axis of the result can hold the batch.
    """
    after = flow.shape(node.output[0])
    if 0 in after:
        raise MixesBatchError("makes an empty tensor")
    ranked = _options(before, after, place, flow.batch)
    options = [option for _, option in sorted(ranked, key=lambda entry: (entry[0], entry[1].axis != preferred))]
    if not options:
        raise MixesBatchError("joins the batch with another axis in front of it")
    if len(options) > 1:
        flow.options[node.name] = len(options)
    return options[min(flow.choices.get(node.name, 0), len(options) - 1)]


def _options(
    before: tuple[Dimension, ...], after: tuple[Dimension, ...], place: BatchAxis, batch: int
) -> list[tuple[int, BatchAxis]]:
    """Return the ways to hold the batch with as many numbers in front of it as before, and how plain each is."""
    if not after:
        return [(0, BatchAxis(0))] if place.before == 1 and product(before[: place.axis]) == 1 else []
    common = 0
    lead = product(before[: place.axis])
    if lead is None:  # leading axes that are the same need not be known numbers
        while common < min(place.axis, len(after)) and before[common] == after[common] is not None:
            common += 1
        lead = product(before[common : place.axis])
    if lead is None:
        return []
    front = lead * place.before
    found: list[tuple[int, BatchAxis]] = []
    passed = 1
    for axis in range(common, len(after)):
        size = after[axis]
        if front % passed == 0:
            inner = front // passed
            if isinstance(size, int):
                if size and size % (inner * batch) == 0:
                    found.append((_plainness(size, inner, batch, last=axis == len(after) - 1), BatchAxis(axis, inner)))
            elif inner == 1:
                found.append((1, BatchAxis(axis)))
        if not isinstance(size, int):
            break
        passed *= size
        if passed > front:
            break
    return found


def _plainness(size: int, inner: int, batch: int, *, last: bool) -> int:
    """Rank an axis that could hold the batch; the last axis is what dense layers sum over."""
    if inner == 1:
        return 0 if size == batch else (3 if last else 1)
    return 2 if size == inner * batch else 4


def grown(shape: tuple[Dimension, ...], place: BatchAxis, times: int) -> tuple[Dimension, ...]:
    """Return the shape of a value with `times` as many images."""
    if not shape:
        return (times,)
    size = shape[place.axis]
    return (*shape[: place.axis], size * times if isinstance(size, int) else None, *shape[place.axis + 1 :])
