"""Labels that a model gives: any segmenter in ONNX, asked for the class of every pixel."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.devices import thread_count
from onnxviz.core.errors import DataError, beginning, nearest, shorten
from onnxviz.core.values import LUMA, PRESETS, Preprocessing
from onnxviz.data.concepts import DEFAULT_CATEGORY, is_void
from onnxviz.data.decode import Pixels
from onnxviz.data.images import fit_image, fit_labels
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.labels import read_labels

_KEPT_BYTES = 64 << 20
"""Most that maps of classes take in memory, compressed; beyond, those asked for longest ago are computed again."""
_WHOLE: dict[int, npt.DTypeLike] = {
    TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8, TensorProto.UINT16: np.uint16
}  # fmt: skip
"""Inputs of whole numbers."""
_ONE_MESSAGE = 2_000_000_000
"""A larger model does not fit into one message to ONNX Runtime."""


class PixelPreprocessing(BaseModel):
    """How an RGB image becomes the labeller's input: (255 * image - mean) / scale, in its channel order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel_order: Literal["RGB", "BGR", "GRAY"] = Field("RGB", description="Order of the channels; GRAY is luma.")
    mean: list[float] = Field([0.0], min_length=1, max_length=3, description="Subtracted, in 0..255.")
    scale: list[float] = Field([255.0], min_length=1, max_length=3, description="Divided by, in 0..255.")


class LabellerSettings(BaseModel):
    """A model that gives each pixel of an image a class; its answers are taken for labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(description="ONNX file of a segmenter, relative to the recipe.")
    classes: str | list[str] = Field(
        description="Its classes in order: a text file, one a line, relative to the recipe, or a list of names. Those "
        "called void, background or the like are no concept."
    )
    preprocess: str | PixelPreprocessing | None = Field(
        None, description="A preset or channel_order, mean and scale; not needed where the input is of bytes."
    )
    size: int | None = Field(None, ge=16, le=4096, description="Side of its input, where the model leaves it free.")
    category: str = Field(
        DEFAULT_CATEGORY, min_length=1, max_length=100, description="What its classes are, such as object or part."
    )

    def open(self, base: Path) -> Labeller:
        """Look at the model and its classes; raises OnnxvizError if they cannot be used."""
        given = read_labels(base / self.classes) if isinstance(self.classes, str) else tuple(self.classes)
        view = open_model(base / self.model)
        return Labeller(view, given, _preprocessing(self.preprocess, view), self.category, self.size)


class Labeller:
    """A segmenter as an annotator (`annotated.Annotator`): images are stretched to its input.

    A pixel has the class of the nearest position of the model's map: the index that the map holds, or the place of its
    largest score.
    """

    def __init__(
        self,
        view: GraphView,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        category: str = DEFAULT_CATEGORY,
        side: int | None = None,
    ) -> None:
        """Prepare a model; ONNX Runtime opens it when the first image is labelled.

        Raises:
            DataError: if its input is no image of a known size, or no class is a concept.
        """
        self.view = view
        self.category = category
        self.classes = tuple(classes)
        self.names = tuple(dict.fromkeys(name for name in self.classes if not is_void(name)))
        self._preprocessing = preprocessing
        places = {name: place for place, name in enumerate(self.names, 1)}
        self._numbers = np.array([places.get(name, 0) for name in self.classes], np.int32)
        self._kept: OrderedDict[bytes, tuple[bytes, tuple[int, int]]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        where = f"labeller {shorten(view.file)}"
        if not self.names:
            raise DataError("none of its classes is a concept", where=where)
        if view.input_layout == "other" or view.input_channels not in (1, 3):
            raise DataError("its input is no photograph", where=where, remedy="name a model that takes RGB images")
        if preprocessing.channels != view.input_channels:
            what = f"takes {view.input_channels} channels, and the preprocessing makes {preprocessing.channels}"
            raise DataError(what, where=where, remedy="give channel_order: RGB, BGR or GRAY")
        size = view.input_size or (None if side is None else (side, side))
        if size is None:
            raise DataError("leaves the size of its input free", where=where, remedy="give one: `size: 512`")
        self._size = size

    @property
    def digest(self) -> str:
        """Changes with the model, its classes and how images become its input."""
        how = (self.view.digest, self.classes, self._preprocessing, self._size)
        return hashlib.sha256(repr(how).encode("utf-8", "surrogateescape")).hexdigest()

    @property
    def remark(self) -> str:
        """Whose labels they are."""
        return (
            f"labels of the category {self.category!r} are those that a model gives, {shorten(self.view.file)} "
            f"(SHA-256 {self.view.digest[:16]}...), and no ground truth: where it errs, they do"
        )

    def label(self, pixels: Pixels) -> npt.NDArray[np.int32]:
        """Return for each pixel of an image [height, width, 3] the place of its class in `names` from 1, 0 for none.

        Raises:
            DataError: if ONNX Runtime cannot run the model, or it gives no map of these classes.
        """
        found = self._classes_of(pixels)
        height, width = pixels.shape[:2]
        fitted: npt.NDArray[np.int32] = fit_labels(self._numbers[found], _STRETCH, (height, width))
        return fitted

    def _classes_of(self, pixels: Pixels) -> npt.NDArray[np.integer[Any]]:
        """Return the classes [h, w] at the model's positions, from memory where they have been computed."""
        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                packed, shape = self._kept[key]
                return np.frombuffer(zlib.decompress(packed), np.uint16).reshape(shape)
        found = class_map(self._run(pixels), len(self.classes), self._where)
        packed = zlib.compress(found.astype(np.uint16).tobytes(), 1)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = packed, (found.shape[0], found.shape[1])
                self._bytes += len(packed)
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                _, (oldest, _) = self._kept.popitem(last=False)
                self._bytes -= len(oldest)
        return found

    @property
    def _where(self) -> str:
        return f"labeller {shorten(self.view.file)}"

    def _run(self, pixels: Pixels) -> list[npt.NDArray[Any]]:
        try:
            return [np.asarray(value) for value in self._session.run(None, {self.view.input_name: self._input(pixels)})]
        except Exception as fault:  # every kind of failure has a class of its own, and none is public
            raise DataError(f"ONNX Runtime fails: {beginning(str(fault))}", where=self._where) from fault

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        if self.view.original.ByteSize() > _ONE_MESSAGE:
            raise DataError("the model is too large to label images with", where=self._where)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            self.view.original.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _input(self, pixels: Pixels) -> npt.NDArray[Any]:
        """Return an image as the model's input, one image of a batch."""
        how = self._preprocessing
        values: npt.NDArray[Any] = fit_image(pixels, _STRETCH, self._size) * np.float32(255)
        if how.channel_order == "BGR":
            values = values[:, :, ::-1]
        elif how.channel_order == "GRAY":
            values = (values * np.asarray(LUMA, np.float32)).sum(axis=2, keepdims=True)
        values = (values - np.asarray(how.mean, np.float32)) / np.asarray(how.scale, np.float32)
        element = self.view.types[self.view.input_name].element
        if element in _WHOLE:
            bounds = np.iinfo(np.dtype(_WHOLE[element]))
            values = np.rint(values).clip(bounds.min, bounds.max).astype(_WHOLE[element])
        elif element == TensorProto.FLOAT16:
            values = values.astype(np.float16)
        batch = values[None] if self.view.input_layout == "NHWC" else values.transpose(2, 0, 1)[None]
        return np.ascontiguousarray(batch)


_STRETCH = Preprocessing(fit="stretch")


def class_map(outputs: Sequence[npt.NDArray[Any]], count: int, where: str) -> npt.NDArray[np.integer[Any]]:
    """Return the class at each position, [h, w], by the first output of one image that says it.

    That is one of indices, [1, h, w] whatever axes of one there are more, or one of a score for each class,
    [1, classes, h, w] or [1, h, w, classes].

    Raises:
        DataError: if there is none, an index is none of the classes, or a score is no number.
    """
    for output in outputs:
        found = output[0] if output.ndim > 2 and output.shape[0] == 1 else output
        if found.ndim == 3 and count > 1 and count in (found.shape[0], found.shape[2]):
            if not np.isfinite(found).all():
                raise DataError("its scores are no finite numbers", where=where)
            return np.asarray(found.argmax(axis=0 if found.shape[0] == count else 2))
        if found.ndim == 3 and 1 in (found.shape[0], found.shape[2]):
            found = found[0] if found.shape[0] == 1 else found[:, :, 0]
        if found.ndim == 2 and found.dtype.kind in "iu" and found.size:
            if found.min() < 0 or found.max() >= count:
                outside = found[(found < 0) | (found >= count)].flat[0]
                raise DataError(f"gives the class {outside}, and {count} are named", where=where,
                                remedy="name all classes in `classes`")  # fmt: skip
            return found
    shapes = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs[:5])
    raise DataError(
        f"no output is a map of {count} classes: {shapes}",
        where=where,
        remedy="`classes` must name as many as the model has scores, in their order",
    )


def _preprocessing(given: str | PixelPreprocessing | None, view: GraphView) -> Preprocessing:
    if isinstance(given, PixelPreprocessing):
        order = given.channel_order
        lengths = {len(given.mean), len(given.scale)} - {1}
        if 0.0 in given.scale or lengths - {1 if order == "GRAY" else 3}:
            raise DataError("needs one number as mean and scale, or one for each channel; scale is not 0",
                            where="labeller: preprocess")  # fmt: skip
        return Preprocessing(order, tuple(given.mean), tuple(given.scale))
    if given is None:
        if view.types[view.input_name].element not in _WHOLE:
            raise DataError("nothing says how images become its input", where=f"labeller {shorten(view.file)}",
                            remedy="write `preprocess: imagenet`, or what it was trained with")  # fmt: skip
        return PRESETS["gray_raw" if view.input_channels == 1 else "raw"]
    if given not in PRESETS:
        raise DataError(f"no preprocessing is called {shorten(given)!r}", where="labeller: preprocess",
                        remedy=nearest(given, PRESETS) or f"the presets are {', '.join(PRESETS)}")  # fmt: skip
    return PRESETS[given]
