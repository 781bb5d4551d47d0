"""Further inputs of a model (masks, scales, identifiers) get values once for all, so that the image is its only input.

A fixed value is a constant of the graph, in the file's own graph as well as in the normalised one: shapes, folding, the
comparison with ONNX Runtime and everything else see a model that never had this input.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto

from onnxviz.core import limits
from onnxviz.core.arrays import read_array
from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import describe_value, graph_inputs, image_input
from onnxviz.graph.model_file import LoadedModel
from onnxviz.graph.passes.replacement import Replacement
from onnxviz.graph.shapes import Dimension, type_of
from onnxviz.graph.structure import copy_of, refill

InputValue: TypeAlias = "str | float | Sequence[Any] | Path | np.ndarray"
"""`ones`, `zeros`, a number for all entries, all numbers as a list or an array, or the path of a .npy file of them."""

FILLINGS = {"ones": 1, "zeros": 0}
"""Words for a value of which all numbers are the same."""
_EXPAND_SINCE = 8
_FRACTIONS = ("FLOAT", "DOUBLE", "BFLOAT")


def fix_inputs(loaded: LoadedModel, values: Mapping[str, InputValue]) -> None:
    """Make inputs of a loaded model constants; a free first dimension follows the number of images.

    Args:
        loaded: the model, changed in place.
        values: what the inputs are fixed to, by their names in the file.

    Raises:
        SelectionError: if the model has no such input, or it cannot take the value; says what it takes.
        DataError: if a .npy file cannot be read.
    """
    inputs = {loaded.names[value.name]: value for value in graph_inputs(loaded.proto.graph)}
    for name in values:
        if name not in inputs:
            raise SelectionError(
                f"the model has no input {shorten(name)!r}",
                remedy=nearest(name, inputs) or "its inputs: " + ", ".join(map(repr, map(shorten, inputs))),
            )
    if values and len(values) == len(inputs):
        raise SelectionError("all inputs are fixed", remedy="leave out the one that is the image")
    draft = Draft(loaded.proto, loaded.names, loaded.node_names, loaded.node_metadata, dimensions=loaded.dimensions)
    removed = {name: copy_of(inputs[name]) for name in values}
    fixed = {value.name for value in removed.values()}
    refill(draft.graph.input, [value for value in draft.graph.input if value.name not in fixed])
    draft.model.ir_version = max(draft.model.ir_version, 4)  # before, initializers were inputs as well
    image = image_input(draft.graph)
    digest = hashlib.sha256()
    nodes: list[NodeProto] = []
    for name, value in sorted(removed.items()):
        array, follows = _Input(name, value, image, loaded.dimensions).array(values[name])
        tensor = onnx.numpy_helper.from_array(array, value.name)
        digest.update(repr((name, tensor.data_type, array.shape)).encode() + tensor.SerializeToString())
        if follows and image is not None and draft.opset >= _EXPAND_SINCE:
            nodes += _for_each_image(draft, tensor, array.ndim, image.name)
        else:
            draft.graph.initializer.append(tensor)
        loaded.fixed[name] = _in_words(values[name], array)
    refill(draft.graph.node, [*nodes, *draft.graph.node])
    loaded.fixed_digest = digest.hexdigest() if values else ""


def _for_each_image(draft: Draft, tensor: TensorProto, rank: int, image: str) -> list[NodeProto]:
    """Repeat a value of one image for all: Expand to [number of images, 1, ...]."""
    new = Replacement(draft, NodeProto(output=[tensor.name]))
    one = draft.add_constant(tensor, tensor.name)
    wanted = new.add("Gather", new.add("Shape", image), new.constant([0], np.int64), axis=0)
    if rank > 1:
        wanted = new.add("Concat", wanted, new.constant([1] * (rank - 1), np.int64), axis=0)
    new.add("Expand", one, wanted, to=new.node.output[0])
    return new.nodes


class _Input:
    """What an input takes, and a value brought to that."""

    def __init__(
        self, name: str, value: ValueInfoProto, image: ValueInfoProto | None, dimensions: Mapping[str, str]
    ) -> None:
        self.value = value
        self.kind = type_of(value)
        self.dimensions = dimensions
        self.name = name
        shape = self.kind.shape
        first = type_of(image).shape if image is not None else None
        self.follows = bool(shape and first and self._is_batch(shape[0], first[0]))

    def _is_batch(self, own: Dimension, image: Dimension) -> bool:
        """Whether a free first dimension is the number of images: it is called the same, or one has no name."""
        if isinstance(own, int) or isinstance(image, int):
            return False
        names = [self.dimensions.get(name or "", "") for name in (own, image)]
        return names[0] == names[1] or any(not name or name.startswith("unk__") for name in names)

    def array(self, given: InputValue) -> tuple[np.ndarray, bool]:
        """Return a value in the input's own type and shape, and whether it is repeated for each image."""
        if not self.kind.element:
            raise self._refused("is no tensor and cannot be fixed")
        if isinstance(given, str) and given not in FILLINGS:
            given = Path(given)
        if isinstance(given, Path):
            if given.suffix.lower() != ".npy":
                raise self._refused(f"cannot be {shorten(str(given), 200)!r}")
            given = read_array(given, limits.INPUT_BYTES)
        filling = isinstance(given, str | bool | int | float | np.number | np.bool_)
        if filling:
            number = FILLINGS[given] if isinstance(given, str) else given
            array = np.full(self._sizes(), number)
        else:
            array = self._shaped(given)
        return self._typed(array), self.follows and array.shape[0] == 1

    def _sizes(self) -> tuple[int, ...]:
        shape = list(self.kind.shape or ())
        if shape and not isinstance(shape[0], int):
            shape[0] = 1
        if self.kind.shape is None or not all(isinstance(size, int) for size in shape):
            raise self._refused("has free dimensions, so that one number does not say how many there are", listed=True)
        sizes = tuple(size for size in shape if isinstance(size, int))
        if math.prod(sizes) * 8 > limits.INPUT_BYTES:
            raise self._refused(f"would take more than {limits.INPUT_BYTES >> 20} MiB")
        return sizes

    def _shaped(self, given: Any) -> np.ndarray:
        try:
            array = np.asarray(given)
        except ValueError:  # rows of different lengths
            raise self._refused("cannot be this list, whose rows have different lengths", listed=True) from None
        if array.dtype == object:
            raise self._refused("cannot be this, which holds something else than numbers", listed=True)
        shape = self.kind.shape
        for tried in (array, array[np.newaxis]):
            fits = shape is None or (
                len(shape) == tried.ndim
                and all(size == own or not isinstance(size, int) for size, own in zip(shape, tried.shape, strict=True))
            )
            if fits:
                return tried
        raise self._refused(f"cannot have the shape {list(array.shape)}", listed=True)

    def _typed(self, array: np.ndarray) -> np.ndarray:
        element = TensorProto.DataType.Name(self.kind.element)
        if (element == "STRING") != (array.dtype.kind in "US"):
            raise self._refused(f"cannot be {'numbers' if element == 'STRING' else 'text'}")
        if element == "STRING":
            return array.astype(object)
        if array.dtype.kind not in "biuf":
            raise self._refused(f"cannot be numbers of type {array.dtype}")
        with np.errstate(all="ignore"):
            made = array.astype(onnx.helper.tensor_dtype_to_np_dtype(self.kind.element))
            if not element.startswith(_FRACTIONS) and not np.array_equal(made.astype(array.dtype), array):
                raise self._refused("cannot hold these numbers")
        return made

    def _refused(self, what: str, *, listed: bool = False) -> SelectionError:
        remedy = "give all its numbers, as a list or a .npy file" if listed else ""
        remedy = remedy or "give `ones`, `zeros`, a number, a list or the path of a .npy file that fits"
        described = describe_value(self.value, {self.value.name: self.name}, self.dimensions)
        return SelectionError(f"the input {described} {what}", remedy=remedy)


def _in_words(given: InputValue, array: np.ndarray) -> str:
    if isinstance(given, str) and given in FILLINGS:
        return given
    if not isinstance(given, str | Path) and np.ndim(given) == 0:
        return f"{given}"
    shape = " × ".join(map(str, array.shape)) or "one"
    origin = f" from {shorten(Path(given).name)}" if isinstance(given, str | Path) else ""
    return f"{shape} values{origin}"
