"""ONNX models that make images from a few numbers: decoders of autoencoders, generators of adversarial networks."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxviz.core.errors import AnalysisError, beginning, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import constants_within, producers, to_array
from onnxviz.graph.value_range import clip_bounds

if TYPE_CHECKING:
    from onnxviz.model.model import Model

ImageLayout = Literal["NCHW", "NHWC", "NHW", "flat"]

_FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_WHOLE = (TensorProto.INT32, TensorProto.INT64)
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
}
_LEAST_SIDE = 4
"""What is smaller, in pixels, is no image."""


@dataclass(frozen=True)
class LatentInput:
    """An input of a generator: its name in the file, the shape of what one image takes, whether of whole numbers."""

    name: str
    shape: tuple[int, ...]
    whole: bool

    @property
    def elements(self) -> int:
        """How many numbers one image takes."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class GeneratorNetwork:
    """A model that makes images from latent codes; its weights are frozen.

    Attributes:
        inputs: what it takes, in the file's order; a code holds the numbers of all of them, one after another.
        layout: how its output lies.
        channels: of its images, 1 or 3.
        size: height and width of its images in pixels.
        bounds: between which numbers its output lies, as its last operators say; None if nothing bounds it.
    """

    file: str
    inputs: tuple[LatentInput, ...]
    layout: ImageLayout
    channels: int
    size: tuple[int, int]
    bounds: tuple[float, float] | None
    _network: torch.fx.GraphModule = field(repr=False)
    _batch: int | None = None

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the images of codes [N, elements], differentiably: float32 [N, channels, h, w], as they are made."""
        made = _run(self._network, self.inputs, self._batch, codes)
        height, width = self.size
        if self.layout == "NHWC":
            return made.permute(0, 3, 1, 2)
        return made.reshape(-1, self.channels, height, width)


def open_generator(source: Model | Path | str, device: torch.device | str | None = None) -> GeneratorNetwork:
    """Open an ONNX model as a generator of images.

    Args:
        source: a loaded model, whose device and weights are used, or the file.
        device: where a file's model runs; a GPU where there is one if None.

    Raises:
        AnalysisError: if the model makes no images from codes.
        ModelFileError: if the file cannot be read or is refused as unsafe.
        UnsupportedOperatorError: if it needs operators that do not convert.
    """
    from onnxviz.model.model import Model, load

    model = source if isinstance(source, Model) else load(source, device=device)
    graph, file = model.view.proto.graph, shorten(model.view.file)
    inputs = tuple(_latent(model, name) for name in model.inputs)
    shapes = [model.view.types[name].shape or () for name in model.inputs]
    fixed = {size for shape in shapes for size in shape[:1] if isinstance(size, int)}
    if len(fixed) > 1:
        raise _no_generator(file, f"its inputs do not agree on the number of images ({sorted(fixed)})")
    batch = next(iter(fixed), None)
    output = graph.output[0].name
    network = model.network.cut([output])
    try:
        with torch.no_grad():
            made = _run(network, inputs, batch, torch.zeros((2, sum(i.elements for i in inputs)), device=model.device))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as fault:
        raise _no_generator(file, f"it fails on a code of zeros: {beginning(str(fault))}") from fault
    layout, channels, size = _layout(made.shape, file)
    if channels * size[0] * size[1] <= sum(entry.elements for entry in inputs):
        raise _no_generator(file, "it takes as many numbers as it gives")
    bounds = _bounds(graph, output)
    return GeneratorNetwork(file, inputs, layout, channels, size, bounds, network, batch)


def _latent(model: Model, identifier: str) -> LatentInput:
    view = model.view
    kind: TensorType = view.types[identifier]
    name, file = view.names.get(identifier, identifier), shorten(view.file)
    if kind.element not in _FLOATING + _WHOLE:
        raise _no_generator(file, f"its input {shorten(name)!r} takes neither floating nor whole numbers")
    shape = kind.shape
    if not shape or any(not isinstance(size, int) for size in shape[1:]):
        raise _no_generator(file, f"the shape of its input {shorten(name)!r} is not known")
    own = tuple(size for size in shape[1:] if isinstance(size, int))
    if len(own) == 3 and ((own[0] in (1, 3) and min(own[1:]) > 1) or (own[2] in (1, 3) and min(own[:2]) > 1)):
        raise _no_generator(file, f"its input {shorten(name)!r} is an image itself, {' × '.join(map(str, own))}")
    return LatentInput(name, own, kind.element in _WHOLE)


def _run(
    network: torch.fx.GraphModule, inputs: Sequence[LatentInput], batch: int | None, codes: torch.Tensor
) -> torch.Tensor:
    """Run the model on codes, as many at a time as it takes."""
    if batch is None:
        return _run_once(network, inputs, codes)
    count = len(codes)
    short = -count % batch
    filled = torch.cat((codes, codes[-1:].expand(short, -1))) if short else codes
    parts = [_run_once(network, inputs, part) for part in torch.split(filled, batch)]
    return torch.cat(parts)[:count]


def _run_once(network: torch.fx.GraphModule, inputs: Sequence[LatentInput], codes: torch.Tensor) -> torch.Tensor:
    arguments, place = [], 0
    for entry in inputs:
        numbers = codes[:, place : place + entry.elements].reshape(-1, *entry.shape)
        arguments.append(numbers.detach().round().to(torch.int64) if entry.whole else numbers)
        place += entry.elements
    made: torch.Tensor = network(*arguments)[0]
    return made.float()


def _layout(shape: Sequence[int], file: str) -> tuple[ImageLayout, int, tuple[int, int]]:
    """Tell how the images lie in the output for two codes."""
    if len(shape) > 1 and shape[0] == 2:
        own = tuple(shape[1:])
        if len(own) == 3 and own[0] in (1, 3) and min(own[1:]) >= _LEAST_SIDE:
            return "NCHW", own[0], (own[1], own[2])
        if len(own) == 3 and own[2] in (1, 3) and min(own[:2]) >= _LEAST_SIDE:
            return "NHWC", own[2], (own[0], own[1])
        if len(own) == 2 and min(own) >= _LEAST_SIDE:
            return "NHW", 1, (own[0], own[1])
        for channels in (1, 3):
            side = math.isqrt(own[0] // channels) if len(own) == 1 else 0
            if side >= _LEAST_SIDE and channels * side * side == own[0]:
                return "flat", channels, (side, side)
    raise _no_generator(
        file, f"for two codes it gives {' × '.join(map(str, shape))} numbers, no two images of 1 or 3 channels"
    )


def _bounds(graph: GraphProto, output: str) -> tuple[float, float] | None:
    """Return between which numbers a value lies, by the last operators that make it."""
    made, constants = producers(graph), constants_within(graph)
    steps: list[NodeProto] = []
    value = output
    while (node := made.get(value)) is not None:
        found = _own_bounds(node, constants)
        if found is not None:
            low, high = found
            for step in reversed(steps):
                low, high = _moved(step, low, constants), _moved(step, high, constants)
            return min(low, high), max(low, high)
        onward = [name for name in node.input if name and name not in constants]
        if len(onward) != 1 or not (_is_moving(node) or _is_affine(node, constants)):
            return None
        steps.append(node)
        value = onward[0]
    return None


def _own_bounds(node: NodeProto, constants: dict[str, TensorProto]) -> tuple[float, float] | None:
    clips = node.op_type == "Clip" and not node.domain
    low, high = clip_bounds(node, {}, constants) if clips else traits_of(node).bounds
    return (low, high) if abs(high - low) < 1e6 else None


def _is_moving(node: NodeProto) -> bool:
    """Whether a node only moves or picks numbers."""
    return traits_of(node).moves and not traits_of(node).rounds


def _is_affine(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether a node adds or multiplies by one number."""
    if node.op_type not in _ARITHMETIC or len(node.input) != 2:
        return False
    numbers = [_number(name, constants) for name in node.input]
    if node.op_type == "Div" and (numbers[1] is None or numbers[1] == 0):
        return False
    return sum(number is not None for number in numbers) == 1


def _moved(node: NodeProto, value: float, constants: dict[str, TensorProto]) -> float:
    if _is_moving(node):
        return value
    first, second = (_number(name, constants) for name in node.input)
    left = value if first is None else first
    right = value if second is None else second
    return _ARITHMETIC[node.op_type](left, right)


def _number(name: str, constants: dict[str, TensorProto]) -> float | None:
    """Return the number of a constant that holds one, finite and in any shape."""
    if name not in constants:
        return None
    array = to_array(constants[name])
    if array.size != 1 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        return None
    return float(array.reshape(-1)[0])


def _no_generator(file: str, why: str) -> AnalysisError:
    return AnalysisError(
        f"the model makes no images from codes: {why}",
        where=file,
        remedy="name a decoder or generator: a few numbers in, images of 1 or 3 channels out",
    )
