"""Sizes, shapes and constants that are there for one batch size, rewritten for any number of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from onnxviz.graph import windows
from onnxviz.graph.batch_places import BatchAxis, BatchFlow, grown
from onnxviz.graph.draft import Draft
from onnxviz.graph.node_axes import axes_of, axis_map, named_axis
from onnxviz.graph.shapes import Dimension, product
from onnxviz.graph.structure import (
    attribute,
    consumers,
    copy_of,
    input_of,
    integers,
    refill,
    remove_attribute,
    set_integer,
    text,
)

_RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather"})


class CannotRewriteError(Exception):
    """A node whose size cannot be made relative."""


def make_relative(draft: Draft, flow: BatchFlow, image: str, *, free: bool) -> tuple[NodeProto | None, set[str]]:
    """Rewrite all nodes on the way of the batch that hold only for one batch size.

    Args:
        draft: changed in place.
        flow: where the batch goes.
        image: the input whose axis 0 is the batch.
        free: the graph is said to run with any batch already; only what cannot is rewritten, as far as possible.

    Returns:
        A node that cannot be rewritten, or None; and the outputs that got an axis for the images.
    """
    rewriter = _Rewriter(draft, flow, image, free)
    for node in list(draft.graph.node):
        made = len(rewriter.done)
        try:
            rewriter.node(copy_of(node))
        except (CannotRewriteError, ArithmeticError, LookupError, ValueError):
            if not free:
                return node, set()
            del rewriter.done[made:]
            rewriter.done.append(node)
    rewriter.finish()
    return None, rewriter.restored


class _Rewriter:
    def __init__(self, draft: Draft, flow: BatchFlow, image: str, free: bool) -> None:
        self.draft = draft
        self.flow = flow
        self.graph = flow.graph
        self._shape, self._known = flow.graph.known_shape, flow.graph.constant
        self.image = image
        self.free = free
        self.outputs = {value.name for value in draft.graph.output}
        self.readers = consumers(draft.graph)
        self.done: list[NodeProto] = []
        self.restored: set[str] = set()
        self._images = ""
        self._wide: dict[tuple[str, BatchAxis], str] = {}

    def finish(self) -> None:
        """Put the new nodes into the graph."""
        head = []
        if self._images:
            name = self.draft.new_node("")
            head = [onnx.helper.make_node("Shape", [self.image], [self._images], name=name, start=0, end=1)]
        refill(self.draft.graph.node, [*head, *self.done])

    def node(self, node: NodeProto) -> None:
        """Append a node, rewritten where that is needed, and what it needs around it."""
        if not self.free:
            for index, name in enumerate(node.input):
                place = self.flow.widened.get((node.name, index))
                if place is not None:
                    node.input[index] = self._widened(name, place)
        source, made = (node.input[0] if node.input else ""), node.output[0]
        if node.op_type == "ScatterND" and made in self.flow.places and not self.free:
            self._scatter_nd(node, self.flow.places[made], self.flow.places[node.input[2]])
            return
        if source not in self.flow.places or made not in self.flow.places:
            self.done.append(node)
            return
        before, after = self.flow.places[source], self.flow.places[made]
        restore = not self.free and node.op_type not in ("Reshape", "Flatten") and self._wants_its_own_axis(made, after)
        if node.op_type == "Reshape" or (node.op_type in _RESHAPING and not self.free):
            self._reshape(node, before, after, restore)
            return
        if node.op_type == "Resize":
            self._resize(node, after)
        elif node.op_type == "Expand":
            self._expand(node, after)
        elif node.op_type == "Slice" and not self.free:
            self._slice(node, before)
        elif node.op_type == "Split" and not self.free:
            self._split(node, before)
        self._append(node, restore)

    def _fixed(self, shape: tuple[Dimension, ...]) -> list[int]:
        """A shape of which every dimension must be a number."""
        sizes = [size for size in shape if isinstance(size, int)]
        if len(sizes) < len(shape):
            raise CannotRewriteError
        return sizes

    def _constant(self, array: np.ndarray | list[int], like: str) -> str:
        tensor = onnx.numpy_helper.from_array(np.asarray(array, np.int64))
        return self.draft.add_constant(tensor, like)

    def _make(self, operator: str, inputs: list[str], like: NodeProto | str, to: str = "", **attributes: Any) -> str:
        shown = like if isinstance(like, str) else like.output[0]
        value = to or self.draft.new_value(shown)
        name = self.draft.new_node("" if isinstance(like, str) else like.name)
        self.done.append(onnx.helper.make_node(operator, inputs, [value], name=name, **attributes))
        return value

    def _append(self, node: NodeProto, restore: bool = False) -> None:
        """Append a node, and give its result an axis for the images if that is wanted."""
        self.done.append(node)
        if restore:
            self._restore(node)

    def _images_value(self) -> str:
        """The number of images, int64 [1]."""
        if not self._images:
            self._images = self.draft.new_value(self.image)
        return self._images

    def _count(self, times: int, like: str) -> str:
        """The number of images times a constant, int64 [1]."""
        if times == 1:
            return self._images_value()
        return self._make("Mul", [self._images_value(), self._constant([times], like)], like)

    def _with_entry(self, before: list[int], count: str, behind: list[int], like: str) -> str:
        """A list of integers of which one is computed."""
        parts = [self._constant(before, like)] if before else []
        parts.append(count)
        parts += [self._constant(behind, like)] if behind else []
        return parts[0] if len(parts) == 1 else self._make("Concat", parts, like, axis=0)

    def _with_entry_replaced(self, shape: str, index: int, rank: int, count: str, like: str) -> str:
        """A computed list of integers with one entry replaced."""
        zero, one = self._constant([0], like), self._constant([1], like)
        parts = []
        if index:
            parts.append(self._make("Slice", [shape, zero, self._constant([index], like), zero, one], like))
        parts.append(count)
        if index < rank - 1:
            ends = self._constant([rank], like)
            parts.append(self._make("Slice", [shape, self._constant([index + 1], like), ends, zero, one], like))
        return self._make("Concat", parts, like, axis=0)

    def _widened(self, value: str, place: BatchAxis) -> str:
        """Repeat a value that is there once for every image."""
        if (value, place) in self._wide:
            return self._wide[value, place]
        shape = self._shape(value)
        axis, size = place.axis, shape[place.axis]
        if size == 1:
            target = self._with_entry([1] * axis, self._images_value(), [1] * (len(shape) - axis - 1), value)
            wide = self._make("Expand", [value, target], value)
        else:
            sizes = self._fixed(shape)
            inner = [place.before, 1, sizes[axis] // place.before]
            apart = self._constant([*sizes[:axis], *inner, *sizes[axis + 1 :]], value)
            split = self._make("Reshape", [value, apart], value)
            target = self._with_entry([1] * (axis + 1), self._images_value(), [1] * (len(shape) - axis), value)
            repeated = self._make("Expand", [split, target], value)
            together = self._constant([*sizes[:axis], -1, *sizes[axis + 1 :]], value)
            wide = self._make("Reshape", [repeated, together], value)
        self._wide[value, place] = wide
        return wide

    def _wants_its_own_axis(self, value: str, place: BatchAxis) -> bool:
        """Whether an output would hold its images and something else in its first axis."""
        shape = self._shape(value)
        return value in self.outputs and place == BatchAxis(0) and bool(shape) and shape[0] != self.flow.batch

    def _restored_shape(self, value: str) -> list[int]:
        if self.flow.batch != 1:
            raise CannotRewriteError
        return [-1, *self._fixed(self._shape(value))]

    def _restore(self, node: NodeProto) -> None:
        """Give an output an axis for the images."""
        output = node.output[0]
        target = self._constant(self._restored_shape(output), output)
        node.output[0] = self.draft.new_value(output)
        self._make("Reshape", [node.output[0], target], node, to=output)
        for reader in self.readers.get(output, ()):
            if reader.op_type:  # a value that is an output and is read as well
                raise CannotRewriteError
        self.restored.add(output)

    def _reshape(self, node: NodeProto, before: BatchAxis, after: BatchAxis, restore: bool) -> None:
        """Let a node that changes only the shape make what it must for any number of images."""
        if node.name in self.flow.within:
            self._gather_within(node, before, after)
            return
        if node.op_type == "Gather" and not self._takes_the_image(node, before):
            self._append(node, restore)
            return
        if restore and not self.readers.get(node.output[0]):
            self._reshape_output(node, before)
            return
        if not self._fits(node, before, after):
            self._to_reshape(node, self._target(node, before, after))
        self._append(node, restore)

    def _gather_within(self, node: NodeProto, before: BatchAxis, after: BatchAxis) -> None:
        """Take the images apart from what else lies in their axis, gather, and join them again."""
        sizes, made = self._fixed(self._shape(node.input[0])), self._fixed(self._shape(node.output[0]))
        output, axis = node.output[0], before.axis
        apart = self._constant([*sizes[:axis], -1, *sizes[axis:]], output)
        node.input[0] = self._make("Reshape", [node.input[0], apart], node)
        set_integer(node, "axis", axis + 1)
        node.output[0] = self.draft.new_value(output)
        together = self._constant([*made[: after.axis], -1, *made[after.axis + 1 :]], output)
        self.done.append(node)
        self._make("Reshape", [node.output[0], together], node, to=output)

    def _scatter_nd(self, node: NodeProto, place: BatchAxis, updates: BatchAxis) -> None:
        """Put the images last, where no coordinate is needed for them, scatter, and put them back."""
        rank, own = len(self._shape(node.output[0])), len(self._shape(node.input[2]))
        indices = self._known(node, 1)
        if indices is None:
            raise CannotRewriteError
        indices = np.delete(indices.squeeze(axis=updates.axis), place.axis, axis=-1)
        if not indices.shape[-1]:
            raise CannotRewriteError
        order = [axis for axis in range(rank) if axis != place.axis] + [place.axis]
        own_order = [axis for axis in range(own) if axis != updates.axis] + [updates.axis]
        output = node.output[0]
        node.input[0] = self._make("Transpose", [node.input[0]], node, perm=order)
        node.input[1] = self._constant(indices, output)
        node.input[2] = self._make("Transpose", [node.input[2]], node, perm=own_order)
        node.output[0] = self.draft.new_value(output)
        self.done.append(node)
        back = [order.index(axis) for axis in range(rank)]
        self._make("Transpose", [node.output[0]], node, to=output, perm=back)

    def _takes_the_image(self, node: NodeProto, place: BatchAxis) -> bool:
        """Whether a Gather removes the batch axis of a graph for one image."""
        axis = named_axis(node, 0, len(self._shape(node.input[0])))
        return axis == place.axis and not self._shape(node.input[1])

    def _reshape_output(self, node: NodeProto, before: BatchAxis) -> None:
        output = node.output[0]
        if node.op_type == "Squeeze" and before == BatchAxis(0):
            shape = self._shape(node.input[0])
            gone = [axis for axis, size in enumerate(shape) if size == 1 and axis]
            if len(shape) - len(gone) == len(self._shape(output)) + 1:
                remove_attribute(node, "axes")
                del node.input[1:]
                node.input.append(self._constant(gone, output))
                self.done.append(node)
                self.restored.add(output)
                return
        self._to_reshape(node, self._constant(self._restored_shape(output), output))
        self.done.append(node)
        self.restored.add(output)

    def _to_reshape(self, node: NodeProto, target: str) -> None:
        source = node.input[0]
        node.op_type = "Reshape"
        remove_attribute(node, "axis", "axes", "allowzero")
        del node.input[:]
        node.input.extend([source, target])

    def _fits(self, node: NodeProto, before: BatchAxis, after: BatchAxis) -> bool:
        """Whether a node as it is makes the wanted shape from more images."""
        shape, result = self._shape(node.input[0]), self._shape(node.output[0])
        if node.op_type == "Reshape":
            target = self._known(node, 1)
            if target is None:
                return self.free
            target = target.reshape(-1)
            if target[after.axis] == -1:
                return True
            copied = target[after.axis] == 0 and not attribute(node, "allowzero", 0)
            return bool(copied and before == after and shape[before.axis] == result[after.axis])
        return all(_native(self, node, grown(shape, before, times)) == grown(result, after, times) for times in (7, 13))

    def _target(self, node: NodeProto, before: BatchAxis, after: BatchAxis) -> str:
        """Return the shape for a Reshape to what it must make, as a constant where one will do."""
        shape, result = self._shape(node.input[0]), self._shape(node.output[0])
        if not result:
            return self._constant([-1], node.output[0])
        rest = [size for index, size in enumerate(result) if index != after.axis]
        known = [size for size in rest if isinstance(size, int)]
        if len(known) == len(rest):
            return self._constant([*known[: after.axis], -1, *known[after.axis :]], node.output[0])
        if node.op_type != "Reshape":
            raise CannotRewriteError
        target = self._known(node, 1)
        if target is not None and (target == -1).sum() <= 1:
            target = target.reshape(-1).copy()
            if before == after and shape[before.axis] == result[after.axis]:
                target[after.axis] = 0
                return self._constant(target, node.output[0])
            if not (target == -1).any():
                target[after.axis] = -1
                return self._constant(target, node.output[0])
        size = result[after.axis]
        if not isinstance(size, int):
            raise CannotRewriteError
        count = self._count(size // self.flow.batch, node.output[0])
        return self._with_entry_replaced(node.input[1], after.axis, len(result), count, node.output[0])

    def _resize(self, node: NodeProto, place: BatchAxis) -> None:
        if not input_of(node, 3):
            return
        shape, result = self._shape(node.input[0]), self._shape(node.output[0])
        axes = [axis % len(shape) for axis in integers(node, "axes", range(len(shape)))]
        sizes = self._known(node, 3)
        if place.axis not in axes or (self.free and sizes is None):
            return
        output = node.output[0]
        if self.draft.opset >= 18 and sizes is not None and text(node, "keep_aspect_ratio_policy") in ("", "stretch"):
            kept = [index for index, axis in enumerate(axes) if axis != place.axis]
            remove_attribute(node, "axes")
            node.attribute.append(onnx.helper.make_attribute("axes", [axes[index] for index in kept]))
            node.input[3] = self._constant(sizes.reshape(-1)[kept], output)
            return
        if text(node, "keep_aspect_ratio_policy") not in ("", "stretch"):
            raise CannotRewriteError
        scales = None if sizes is None else _scales(node, shape, result)
        if scales is not None and len(axes) == len(shape):
            node.input[2] = self.draft.add_constant(onnx.numpy_helper.from_array(scales), output)
            del node.input[3:]
            return
        size = shape[place.axis]
        if not isinstance(size, int):
            raise CannotRewriteError
        count, index = self._count(size // self.flow.batch, output), axes.index(place.axis)
        if sizes is not None:
            listed = [int(entry) for entry in sizes.reshape(-1)]
            node.input[3] = self._with_entry(listed[:index], count, listed[index + 1 :], output)
        else:
            node.input[3] = self._with_entry_replaced(node.input[3], index, len(axes), count, output)

    def _expand(self, node: NodeProto, place: BatchAxis) -> None:
        """Where the batch is, a size of 1 leaves it as it is."""
        target, output = self._known(node, 1), node.output[0]
        if target is None and self.free:
            return
        (length,) = self._fixed(self._shape(node.input[1]))
        index = place.axis - len(self._shape(output)) + length
        if index < 0:
            return
        if target is None:
            one = self._constant([1], output)
            node.input[1] = self._with_entry_replaced(node.input[1], index, length, one, output)
        elif target[index] != 1:
            node.input[1] = self._constant([*target[:index], 1, *target[index + 1 :]], output)

    def _slice(self, node: NodeProto, place: BatchAxis) -> None:
        """All images, however many."""
        starts, ends = self._known(node, 1), self._known(node, 2)
        named, rank = axes_of(node, self.graph.constants), len(self._shape(node.input[0]))
        count = 0 if starts is None or named is None else starts.size
        axes = [axis % rank for axis in named or range(count)]
        if place.axis not in axes:
            return
        if starts is None or ends is None:
            raise CannotRewriteError
        starts, ends, index = starts.copy(), ends.copy(), axes.index(place.axis)
        starts[index], ends[index] = 0, np.iinfo(ends.dtype).max
        for position, array in ((1, starts), (2, ends)):
            node.input[position] = self.draft.add_constant(onnx.numpy_helper.from_array(array), node.output[0])

    def _split(self, node: NodeProto, place: BatchAxis) -> None:
        """Equal parts, whatever their size."""
        if named_axis(node, 0, len(self._shape(node.input[0]))) != place.axis:
            return
        del node.input[1:]
        if self.draft.opset >= 18:
            set_integer(node, "num_outputs", len(node.output))


def _native(rewriter: _Rewriter, node: NodeProto, shape: tuple[Dimension, ...]) -> tuple[Dimension, ...] | None:
    """Return what a Flatten, Squeeze or Unsqueeze makes of a shape; None if that cannot be told."""
    if node.op_type == "Flatten":
        cut = int(attribute(node, "axis", 1))
        cut += len(shape) if cut < 0 else 0
        return product(shape[:cut]), product(shape[cut:])
    found = axis_map(node, len(shape), rewriter.graph.constants)
    if found is None:
        return None
    sizes = {place: shape[axis] for axis, place in found.to.items() if place is not None}
    more = len(rewriter.graph.known_shape(node.output[0])) - len(rewriter.graph.known_shape(node.input[0]))
    return tuple(sizes.get(place, 1) for place in range(len(shape) + more))


def _scales(node: NodeProto, before: tuple[Dimension, ...], after: tuple[Dimension, ...]) -> np.ndarray | None:
    """Return scales that make a Resize do what its sizes do, float32; None if there are none.

    With sizes given, ONNX Runtime divides them in float32. A scale that after rounding down gives the same size may be
    the next larger number, and between two pixels at the same distance that decides which is the nearest.
    """
    scales = []
    for size, wanted in zip(before, after, strict=True):
        if size == wanted:
            scales.append(np.float32(1))
            continue
        if not isinstance(size, int) or not isinstance(wanted, int) or size < 1 or wanted < 1:
            return None
        quotient = scale = np.float32(wanted) / np.float32(size)
        # ONNX Runtime multiplies in float32, shape inference in double precision.
        while min(int(np.float32(size) * scale), int(size * float(scale))) < wanted:
            scale = np.nextafter(scale, np.float32(np.inf))
        if scale != quotient and text(node, "mode", "nearest") == "nearest":
            mode = text(node, "coordinate_transformation_mode", "half_pixel")
            choice = text(node, "nearest_mode", "round_prefer_floor")
            try:
                same = np.array_equal(
                    windows.nearest(size, wanted, quotient, mode, choice),
                    windows.nearest(size, wanted, scale, mode, choice),
                )
            except windows.Unknown:
                return None
            if not same:
                return None
        scales.append(scale)
    return np.asarray(scales, np.float32)
