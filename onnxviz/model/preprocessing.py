"""Which preprocessing a model gets: what the user says, else what its file says, else a guess that is marked as one."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any

from onnx import TensorProto

from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.core.values import AUTO, PRESETS, ChannelOrder, Fit, Interpolation, Preprocessing
from onnxviz.graph import GraphView

LARGEST_SIDE = 16_384
"""Most pixels of an input's height and width."""
METADATA_KEY = "onnxviz.preprocessing"
"""Metadata property of a model file that holds its preprocessing as a JSON object."""


def preprocessing_for(view: GraphView, given: str | Preprocessing | Mapping[str, Any] | None = None) -> Preprocessing:
    """Return how images become a model's input.

    Args:
        view: the model.
        given: the name of a preset, a preprocessing, its fields as a mapping, or None to ask the model file.

    Returns:
        What was given, or the file's own, or a guess with the origin "guess": 0..1; Caffe's for a model of Caffe; for
        one that takes whole numbers 0..255, or -128..127 if they have a sign. For "auto" one that is `undecided`.

    Raises:
        SelectionError: if the preset or a field does not exist, a value makes no sense, or the number of channels is
            not the model's.
    """
    if given is None and METADATA_KEY in view.metadata:
        given = _from_metadata(view.metadata[METADATA_KEY])
    if given is None:
        return _guess(view)
    preprocessing = read_preprocessing(given)
    preprocessing = _for_channels(preprocessing, view)
    if preprocessing.undecided:
        return dataclasses.replace(preprocessing, channel_order="GRAY" if view.input_channels == 1 else "RGB")
    if view.input_channels and preprocessing.channels != view.input_channels:
        wanted = {1: "one of the presets gray_unit, gray_raw, gray_tf", 3: "an RGB or BGR one"}.get(
            view.input_channels, "channel_order: STORED"
        )
        raise SelectionError(
            f"the preprocessing {preprocessing.name!r} makes {preprocessing.channels} channel(s), "
            f"the model takes {view.input_channels}",
            where=shorten(view.file),
            remedy=f"choose {wanted}, or give channel_order, mean and scale",
        )
    return preprocessing


def _for_channels(preprocessing: Preprocessing, view: GraphView) -> Preprocessing:
    """Let what says nothing of colours be for a model of any number of channels."""
    count = view.input_channels
    plain = preprocessing.channel_order == "RGB" and len(preprocessing.mean) == 1 == len(preprocessing.scale)
    if count not in (0, 1, 3) and plain and view.input_layout != "other":
        preprocessing = dataclasses.replace(preprocessing, channel_order="STORED")
    if preprocessing.channel_order != "STORED" or not count:
        return preprocessing
    return _checked(dataclasses.replace(preprocessing, count=count))


def _guess(view: GraphView) -> Preprocessing:
    order: ChannelOrder = "GRAY" if view.input_channels == 1 else "RGB"
    element = view.types[view.input_name].element
    if element == TensorProto.INT8:
        guess = Preprocessing(order, (128.0,), (1.0,))
    elif element in (TensorProto.UINT8, TensorProto.UINT16):  # 0..1 would leave nothing but 0 and 1
        guess = PRESETS["gray_raw" if order == "GRAY" else "raw"]
    elif order == "RGB" and "caffe" in view.producer.lower():
        guess = PRESETS["caffe"]
    else:
        guess = PRESETS["gray_unit" if order == "GRAY" else "unit"]
    return _for_channels(dataclasses.replace(guess, origin="guess"), view)


def read_preprocessing(given: str | Preprocessing | Mapping[str, Any]) -> Preprocessing:
    """Read a preset's name or the fields of a preprocessing; raises SelectionError if one makes no sense.

    A mapping may name a `preset` whose other fields it keeps.
    """
    if isinstance(given, Preprocessing):
        return _checked(given)
    if given == AUTO:
        return Preprocessing(origin="undecided", name=AUTO)
    if isinstance(given, str):
        if given not in PRESETS:
            raise SelectionError(
                f"no preprocessing is called {shorten(given)!r}",
                remedy=nearest(given, [*PRESETS, AUTO]) or f"the presets are {', '.join(PRESETS)}, or write {AUTO}",
            )
        return PRESETS[given]
    if not isinstance(given, Mapping):
        raise SelectionError(
            f"no preprocessing can be made of {shorten(repr(given), 40)}",
            remedy="name a preset, or give its fields as a mapping",
        )
    fields = dict(given)
    preset = fields.pop("preset", None)
    base = read_preprocessing(str(preset)) if preset is not None else Preprocessing()
    known = {field.name for field in dataclasses.fields(Preprocessing)} - {"origin"}
    for key in fields:
        if key not in known:
            raise SelectionError(
                f"a preprocessing has no {shorten(str(key))!r}",
                remedy=nearest(str(key), known) or f"it has {', '.join(sorted(known))}",
            )
    values: dict[str, Any] = {
        key: _tuple(key, value) if key in ("mean", "scale", "size", "range", "show") else value
        for key, value in fields.items()
    }
    if "channel_order" not in fields and _is_stored(values):
        values["channel_order"] = "STORED"
    if fields:
        values.setdefault("name", "custom")
    return _checked(dataclasses.replace(base, **values))


def _is_stored(fields: Mapping[str, Any]) -> bool:
    """Whether the fields of a preprocessing that name no channel order say what only STORED has."""
    several = (fields.get(key) or () for key in ("mean", "scale"))
    return bool(fields.get("range") or fields.get("show")) or any(len(each) not in (0, 1, 3) for each in several)


def _from_metadata(text: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise SelectionError(f"the model's own {METADATA_KEY} is no JSON object", remedy="give another: preprocess=...")
    return fields


def _tuple(key: str, value: Any) -> tuple[Any, ...] | None:
    if value is None and key == "size":
        return None
    return tuple(value) if isinstance(value, list | tuple) else (value,) if key != "size" else (value, value)


def _checked(preprocessing: Preprocessing) -> Preprocessing:
    """Refuse values that make no sense."""
    for key, kind in (("channel_order", ChannelOrder), ("fit", Fit), ("interpolation", Interpolation)):
        choices = typing.get_args(kind)
        value = getattr(preprocessing, key)
        if value not in choices and not (key == "interpolation" and value is None):
            advice = nearest(str(value), choices) or f"it is one of {', '.join(choices)}"
            raise SelectionError(f"{key} cannot be {shorten(str(value))!r}", remedy=advice)
    for key in ("mean", "scale"):
        numbers = getattr(preprocessing, key)
        if not all(_is_number(number) and math.isfinite(number) for number in numbers):
            raise SelectionError(f"the {key} of a preprocessing must be numbers, in units of 0..255")
        if len(numbers) not in (1, preprocessing.channels) or not numbers:
            raise SelectionError(
                f"the {key} has {len(numbers)} numbers for {preprocessing.channels} channel(s)",
                remedy="give one number, or one for each channel",
            )
    if 0 in preprocessing.scale:
        raise SelectionError("the scale of a preprocessing cannot be 0")
    _check_stored(preprocessing)
    fraction, size = preprocessing.crop_fraction, preprocessing.size
    if fraction is not None and not (_is_number(fraction) and 0 < fraction <= 1):
        raise SelectionError("crop_fraction must be above 0 and at most 1")
    if size is not None and not (
        len(size) == 2 and all(type(side) is int and 0 < side <= LARGEST_SIDE for side in size)
    ):
        raise SelectionError(f"size must be height and width in pixels, from 1 to {LARGEST_SIDE}")
    if not isinstance(preprocessing.name, str):
        raise SelectionError("the name of a preprocessing must be text")
    return preprocessing


def _check_stored(preprocessing: Preprocessing) -> None:
    span, show = preprocessing.range, preprocessing.show
    if preprocessing.channel_order != "STORED" and (show or tuple(span) != (0, 255)):
        raise SelectionError("`range` and `show` are for `channel_order: STORED`", remedy="leave them out, or say so")
    if not (len(span) == 2 and all(_is_number(end) and math.isfinite(end) for end in span) and span[0] < span[1]):
        raise SelectionError("range must be two numbers, the smaller first, between which those of the files lie")
    known = preprocessing.count
    if show and (
        len(show) not in (1, 3) or not all(type(c) is int and c >= 0 and (known is None or c < known) for c in show)
    ):
        raise SelectionError(
            f"show cannot be {list(show)}",
            remedy=f"name one or three channels, counted from 0{'' if known is None else f' to {known - 1}'}",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
