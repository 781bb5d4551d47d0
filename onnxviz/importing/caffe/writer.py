"""The ONNX graph being written, and what a layer's conversion sees of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, shorten
from onnxviz.importing.caffe.prototxt import CaffeLayer, CaffeNet
from onnxviz.importing.caffe.weights import shown

Shape = tuple[int, ...]


class BatchIsFixed(Exception):  # noqa: N818 -- not an error: the network is converted again with its declared batch
    """A layer mixes images, so the graph only means the same with the batch size that the file declares."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Value:
    """A value of the graph.

    Attributes:
        name: its name in the ONNX file.
        shape: its sizes with the batch that the file declares.
        free: whether axis 0 counts the images, of which there may be any number.
        origin: what made it, where a later layer needs to know (the pooling behind a mask).
    """

    name: str
    shape: Shape
    free: bool
    origin: Any = field(default=None, repr=False, compare=False)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


class GraphWriter:
    """Collects nodes, initializers and names of one graph; `free` says whether the batch is to be left free."""

    def __init__(self, net: CaffeNet, free: bool) -> None:
        self.net = net
        self.free = free
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[Value] = []
        self.initializers: list[TensorProto] = []
        self.values: dict[str, Value] = {}
        self.notes: list[str] = []
        self._value_names: dict[str, int] = {}
        self.node_names: dict[str, int] = {}
        self._stored: dict[tuple[Any, ...], str] = {}
        self._bytes = 0

    def add_value(self, wanted: str, shape: Iterable[int], free: bool, layer: CaffeLayer, origin: Any = None) -> Value:
        """Make a value after checking that its shape is one."""
        sizes = tuple(int(size) for size in shape)
        if any(size < 1 for size in sizes) or math.prod(sizes) > limits.CAFFE_VALUE_ELEMENTS or len(sizes) > 32:
            raise self.net.refuse_layer(
                layer,
                f"would make a blob of the shape {shown(sizes)}",
                f"at most 32 sizes, each at least 1, with a product of at most {limits.CAFFE_VALUE_ELEMENTS:,}",
            )
        value = Value(_unused(wanted, self._value_names), sizes, free and self.free, origin)
        self.values[value.name] = value
        return value

    def store(self, wanted: str, array: np.ndarray, key: tuple[Any, ...] | None = None) -> str:
        """Store numbers as an initializer, once for each key, and return its name."""
        if key is not None and key in self._stored:
            return self._stored[key]
        self._bytes += array.nbytes
        if self._bytes > limits.MODEL_BYTES:
            raise self.net.refuse(
                f"the weights and constants exceed the limit of {limits.MODEL_BYTES:,} bytes",
                remedy="convert a part of the network",
            )
        name = _unused(wanted, self._value_names)
        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        if key is not None:
            self._stored[key] = name
        return name


def _unused(wanted: str, taken: dict[str, int]) -> str:
    """Return a new name; `taken` counts the uses of each, so that many equal names cost no search."""
    name = wanted
    while name in taken:
        taken[wanted] += 1
        name = f"{wanted}_{taken[wanted]}"
    taken[name] = 1
    return name


class Step:
    """One layer being converted: its inputs, parameters and weights, and the nodes that it becomes."""

    def __init__(
        self, writer: GraphWriter, layer: CaffeLayer, bottoms: Sequence[Value], blobs: Sequence[np.ndarray]
    ) -> None:
        self.writer = writer
        self.layer = layer
        self.bottoms = tuple(bottoms)
        self.blobs = tuple(blobs)
        self.tops: dict[int, Value] = {}

    # --- what the layer is given ---

    @property
    def bottom(self) -> Value:
        """The only input of the layer."""
        self.expect_bottoms(1)
        return self.bottoms[0]

    def expect_bottoms(self, least: int, most: int | None = None) -> None:
        """Refuse another number of inputs."""
        most = least if most is None else most
        if not least <= len(self.bottoms) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self.refuse(f"has {len(self.bottoms)} bottoms; it needs {wanted}")

    def parameters(self, name: str) -> Any:
        """Return a parameter message of the layer; where the file gives none, one with Caffe's defaults."""
        return getattr(self.layer.message, name)

    def number(self, message: Any, name: str) -> float:
        """Return a parameter that must be finite."""
        value = float(getattr(message, name))
        if not math.isfinite(value):
            raise self.refuse(f"has {name} = {value}", "give a finite number")
        return value

    def numbers(self, message: str, *names: str) -> list[float]:
        """Return parameters that must be finite."""
        return [self.number(self.parameters(message), name) for name in names]

    def axis(self, axis: int, mixes: str = "") -> int:
        """Return an axis counted from the front; negative ones count from the back.

        Args:
            axis: the axis that the file gives.
            mixes: what the layer does to the images if it is their axis; "" if that keeps them apart.
        """
        rank = self.bottoms[0].rank
        if not -rank <= axis < rank:
            raise self.refuse(f"has axis {axis}, but its input has {rank} axes")
        if mixes and axis % rank == 0:
            self.fix_batch(mixes)
        return axis % rank

    def refuse(self, what: str, remedy: str = "check the layer against the network that was trained") -> ModelFileError:
        """Return the error that names the layer, its file and its line."""
        return self.writer.net.refuse_layer(self.layer, f"{what}", remedy)

    def fix_batch(self, reason: str) -> None:
        """Say that the layer mixes images or depends on their number."""
        if self.writer.free and any(bottom.free for bottom in self.bottoms):
            raise BatchIsFixed(f"layer {shorten(self.layer.name)!r} {reason}")

    # --- weights ---

    def learned(self, index: int, shape: Iterable[int], role: str) -> np.ndarray:
        """Return a learned blob, float32 of the shape that the layer needs; files may add axes of size 1.

        The role, such as "bias", is for the message.
        """
        wanted = tuple(shape)
        if index >= len(self.blobs):
            raise self.refuse(
                f"needs its {role}, which the weights do not hold",
                "give the .caffemodel that belongs to this .prototxt",
            )
        found = self.blobs[index].shape
        if [size for size in found if size != 1] != [size for size in wanted if size != 1]:
            needed = "×".join(map(str, wanted)) or "1"
            raise self.refuse(
                f"needs a {role} of the shape {needed}; the weights hold {'×'.join(map(str, found[:8])) or '1'}",
                "give the .caffemodel that belongs to this .prototxt",
            )
        return self.blobs[index].reshape(wanted)

    def weight(
        self, index: int, shape: Iterable[int], role: str, change: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> str:
        """Store a learned blob and return the initializer's name; blobs that layers share are stored once."""
        array = self.learned(index, shape, role)
        if change is not None:
            array = change(array)
        key = (id(self.blobs[index]), array.shape, array.strides)
        return self.writer.store(f"{self.layer.name}.{role}", array, key)

    def constant(self, role: str, values: Any, kind: type = np.float32) -> str:
        """Store numbers that the layer's parameters give, and return the initializer's name."""
        return self.writer.store(f"{self.layer.name}.{role}", np.asarray(values, dtype=kind))

    def indices(self, role: str, values: Iterable[int]) -> str:
        """Store integers for ONNX's own parameters (shapes, axes, sizes), and return the initializer's name."""
        return self.constant(role, list(values), np.int64)

    # --- nodes ---

    def inner(
        self, operator: str, inputs: Sequence[Value | str], shape: Iterable[int], role: str, **attributes: Any
    ) -> Value:
        """Add a node before the one that makes the layer's top; it is named after the layer and its role."""
        value = self.writer.add_value(f"{self.layer.name}/{role}", shape, self._free(), self.layer)
        self.add_node(operator, inputs, [value.name], f"{self.layer.name}/{role}", attributes)
        return value

    def top(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        shape: Iterable[int],
        *,
        index: int = 0,
        free: bool | None = None,
        **attributes: Any,
    ) -> Value:
        """Add the node that makes a top; it has the layer's name.

        The shape has the declared batch. `free`, whether axis 0 counts the images, is taken from the inputs if None.
        """
        name = self.layer.name if index == 0 else f"{self.layer.name}/{index}"
        value = self.make_top(index, shape, free)
        self.add_node(operator, inputs, [value.name], name, attributes)
        return value

    def several_tops(
        self, operator: str, inputs: Sequence[Value | str], shapes: Sequence[Shape], **attributes: Any
    ) -> None:
        """Add one node that makes all tops."""
        values = [self.make_top(index, shape) for index, shape in enumerate(shapes)]
        self.add_node(operator, inputs, [value.name for value in values], self.layer.name, attributes)

    def make_top(self, index: int, shape: Iterable[int], free: bool | None = None, origin: Any = None) -> Value:
        """Name a top after its blob; a layer that works in place adds its own name, as ONNX values are made once."""
        if index >= len(self.layer.tops):
            raise self.refuse(f"has {len(self.layer.tops)} tops; it makes more")
        wanted = self.layer.tops[index]
        if wanted in self.layer.bottoms or wanted in self.writer.values:
            wanted = f"{wanted}/{self.layer.name}"
        value = self.writer.add_value(wanted, shape, self._free() if free is None else free, self.layer, origin)
        self.tops[index] = value
        return value

    def pass_on(self, value: Value) -> None:
        """Let the top be a value that exists: the layer does nothing at test time."""
        if self.layer.tops and self.layer.tops[0] in self.layer.bottoms:
            self.tops[0] = value
        else:
            self.top("Identity", [value], value.shape)

    def _free(self) -> bool:
        return any(bottom.free for bottom in self.bottoms)

    def add_node(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        outputs: Sequence[str],
        name: str,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        """Add a node for outputs that exist already."""
        read = [entry.name if isinstance(entry, Value) else entry for entry in inputs]
        node = helper.make_node(
            operator, read, list(outputs), _unused(name, self.writer.node_names), **(attributes or {})
        )
        self.writer.nodes.append(node)

    def reshaped(self, value: Value, shape: Iterable[int], role: str) -> Value:
        """Give a value another shape whose axis 0 stays what it was."""
        sizes = tuple(shape)
        return self.inner("Reshape", [value, self.indices(f"{role}.shape", self._target(value, sizes))], sizes, role)

    def _target(self, value: Value, sizes: Shape) -> list[int]:
        return [0 if value.free else sizes[0], *sizes[1:]] if sizes else []

    def reshape_top(self, value: Value, shape: Iterable[int]) -> None:
        """Make the top from a value by a shape whose axis 0 stays what it was."""
        sizes = tuple(shape)
        self.top("Reshape", [value, self.indices("shape", self._target(value, sizes))], sizes)
