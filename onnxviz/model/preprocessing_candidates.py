"""What is tried to find a model's preprocessing, and on which images; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.values import CROP_FRACTION, PRESETS, ChannelOrder, Preprocessing
from onnxviz.data.image_choice import known_class
from onnxviz.data.images import ImageSource
from onnxviz.graph import GraphView
from onnxviz.graph.model_output import Head

VERSION = 3
"""Part of the key of what was chosen: raise it when another choice may come out."""
VARIANTS = 3
"""Ways in which each picture is shown for one trial."""
_FEWEST = 40
_MOST = 200
_MULTIPLY_ADDS = 20_000_000_000
"""What one variant of the pictures may take in one trial, where that is more than the fewest."""
_SMALL = 96
"""Longest side of inputs that CIFAR's statistics are tried on."""

_Values = tuple[float, float, float]

RANGES: dict[str, tuple[_Values, _Values]] = {
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "-127.5..127.5": ((127.5, 127.5, 127.5), (1.0, 1.0, 1.0)),
    "0..255 less the mean of photographs": ((123.0, 117.0, 104.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean and deviation": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
"""Name -> mean and scale by red, green, blue, in units of 0..255."""

_CIFAR: _Values = (125.307, 122.961, 113.8575)
SMALL_RANGES: dict[str, tuple[_Values, _Values]] = {
    "CIFAR-10's mean and deviation": (_CIFAR, (63.0105, 62.0925, 66.7080)),
    "CIFAR-10's mean and deviation within images": (_CIFAR, (51.5865, 50.847, 51.255)),
}
"""Those that are tried on small inputs too: both deviations are in use."""

GRAY_RANGES: dict[str, tuple[float, float]] = {
    "0..1": (0.0, 255.0),
    "0..255": (0.0, 1.0),
    "-1..1": (127.5, 127.5),
    "-127.5..127.5": (127.5, 1.0),
    "0..1, dark is 1": (255.0, -255.0),
    "0..255, dark is 255": (255.0, -1.0),
}
"""The same for models of one channel; some see ink as light."""

_WHOLE = {"-128..127": (128.0, 1.0), "0..255": (0.0, 1.0)}
"""The same for models that take whole numbers: in 0..1 only 0 and 1 would be left of a picture."""


def candidates(
    view: GraphView, declared: Preprocessing | None = None, geometry: Preprocessing | None = None
) -> Iterator[tuple[str, Preprocessing]]:
    """Yield every way to make pixel values that is tried, with what becomes of them; the declared one too."""
    geometry = declared or geometry or Preprocessing()
    made: list[Preprocessing] = []
    for name, order, shift, factor in _colours(view, geometry):
        tried = replace(geometry, channel_order=order, mean=shift, scale=factor, origin="declared")
        preset = next((key for key, preset in PRESETS.items() if same_values(preset, tried)), "custom")
        made.append(replace(tried, name=preset))
        yield name, made[-1]
    if declared is not None and not any(same_values(declared, other) for other in made):
        yield f"as declared ({shorten(declared.name, 30)})", declared


def _colours(
    view: GraphView, geometry: Preprocessing
) -> Iterator[tuple[str, ChannelOrder, tuple[float, ...], tuple[float, ...]]]:
    element = view.types[view.input_name].element
    orders: tuple[ChannelOrder, ...] = ("GRAY",) if view.input_channels == 1 else ("RGB", "BGR")
    if onnx.helper.tensor_dtype_to_np_dtype(element).kind in "iu":
        name = "-128..127" if element == TensorProto.INT8 else "0..255"
        mean, scale = _WHOLE[name]
        for order in orders:
            yield name, order, (mean,), (scale,)
        if orders == ("GRAY",):
            yield f"{name}, dark is light", "GRAY", (255 - mean,), (-scale,)
    elif view.input_channels == 1:
        for name, (mean, scale) in GRAY_RANGES.items():
            yield name, "GRAY", (mean,), (scale,)
    else:
        size = view.input_size or geometry.size
        small = size is not None and max(size) <= _SMALL
        for name, (means, scales) in (RANGES | SMALL_RANGES if small else RANGES).items():
            yield name, "RGB", means, scales
            yield name, "BGR", means[::-1], scales[::-1]


SIZES = 5
"""Ways to bring pictures to size that are tried beside the usual one, at most."""


def crops(usual: Preprocessing) -> tuple[Preprocessing, ...]:
    """Return what else a picture's part may be: a crop of small ones too, the centre square, all of it stretched."""
    return (
        replace(usual, crop_fraction=CROP_FRACTION),
        replace(usual, crop_fraction=1.0),
        replace(usual, fit="stretch"),
    )


def interpolations(usual: Preprocessing) -> tuple[Preprocessing, ...]:
    """Return how else a picture may be resized."""
    return replace(usual, interpolation="bicubic"), replace(usual, interpolation="bilinear_aliased")


def same_values(first: Preprocessing, second: Preprocessing) -> bool:
    """Whether two preprocessings make the same numbers of a pixel, to half a grey level and half a per cent."""
    if first.channel_order != second.channel_order:
        return False
    count = first.channels
    first_mean, second_mean = (np.broadcast_to(item.mean, count) for item in (first, second))
    first_scale, second_scale = (np.broadcast_to(item.scale, count) for item in (first, second))
    return bool(np.allclose(first_mean, second_mean, atol=1.0) and np.allclose(first_scale, second_scale, rtol=5e-3))


def pictures_for(view: GraphView) -> int:
    """Return on how many pictures to try preprocessings: more where a pass is cheap, so that it takes a minute."""
    costs = [view.multiply_adds(layer) for layer in view.layers]
    total = sum(cost for cost in costs if cost is not None)
    return _FEWEST if None in costs or not total else int(min(_MOST, max(_FEWEST, _MULTIPLY_ADDS // total)))


_RANKED = ("classes", "binary", "multilabel", "unknown")


def require_classifier(view: GraphView) -> Head:
    """Return the output whose choices rank the preprocessings; raises SelectionError if there is none."""
    remedy = "name a preset, or give channel_order, mean and scale"
    where = shorten(view.file)
    if view.input_layout == "other":
        raise SelectionError("the model takes no image: there is no preprocessing to find", where=where, remedy=remedy)
    if view.input_channels not in (0, 1, 3):
        raise SelectionError(
            f"trials are of photographs, and the model takes {view.input_channels} channels",
            where=where,
            remedy="give mean and scale, one number or one for each channel, and range",
        )
    head = view.main_head
    if head is None or head.has_positions or head.choices == 1 or head.kind not in _RANKED:
        found = "no output depends on the image" if head is None else f"{shorten(head.name, 60)!r}: {head.in_words}"
        raise SelectionError(
            f"a preprocessing can be chosen by trial only for a model that gives one class to an image ({found})",
            where=where,
            remedy=remedy,
        )
    return head


def known_classes(
    head: Head, images: ImageSource, indices: Sequence[int], labels: Sequence[str] | None
) -> list[int | None]:
    """Return the class of each image as an index of the head's classes; None where nothing says it."""
    found = (known_class(images, index, labels) for index in indices)
    return [number if number is not None and number < head.choices else None for number in found]
