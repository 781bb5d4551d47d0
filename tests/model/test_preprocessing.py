"""Presets, fields, metadata and class names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto
from tiny_models import save_model

import onnxviz
from onnxviz.core import limits
from onnxviz.core.errors import DataError, SelectionError
from onnxviz.core.values import PRESETS, Preprocessing
from onnxviz.data import builtin
from onnxviz.graph import open_model
from onnxviz.graph.labels import labels_in, read_labels
from onnxviz.graph.shapes import TensorType
from onnxviz.model.preprocessing import METADATA_KEY, preprocessing_for, read_preprocessing


def view(channels: int = 3, own: str | None = None, element: int = TensorProto.FLOAT) -> Any:
    return SimpleNamespace(
        input_channels=channels,
        metadata={} if own is None else {METADATA_KEY: own},
        file="m.onnx",
        producer="",
        input_name="x",
        types={"x": TensorType(element, (None, 3, 8, 8))},
    )


def test_presets_and_fields() -> None:
    assert read_preprocessing("caffe") is PRESETS["caffe"]
    assert read_preprocessing({"preset": "caffe", "fit": "stretch"}) == Preprocessing(
        "BGR", (104, 117, 123), (1,), "stretch", name="custom"
    )
    assert read_preprocessing({"preset": "imagenet"}) == PRESETS["imagenet"]
    assert read_preprocessing({"size": 64}).size == (64, 64)
    assert read_preprocessing({"size": [64, 48], "mean": 3}).mean == (3,)
    assert read_preprocessing(PRESETS["tf"]) is PRESETS["tf"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("zzz", "the presets are caffe"),
        ({"means": 1}, "did you mean 'mean'"),
        ({"declared": True}, "has no 'declared'"),
        ({"channel_order": "RBG"}, "did you mean 'RGB'"),
        ({"fit": "squash"}, "it is one of crop"),
        ({"channel_order": "RGB", "mean": [1, 2]}, "2 numbers for 3"),
        ({"scale": 0}, "cannot be 0"),
        ({"scale": [1, 0, 1]}, "cannot be 0"),
        ({"mean": "104"}, "must be numbers"),
        ({"mean": float("nan")}, "must be numbers"),
        ({"mean": True}, "must be numbers"),
        ({"crop_fraction": 0}, "crop_fraction"),
        ({"crop_fraction": "x"}, "crop_fraction"),
        ({"size": [0, 3]}, "from 1 to 16384"),
        ({"size": [64, 64, 64]}, "height and width"),
        ({"size": 1e9}, "from 1 to 16384"),
        ({"name": 3}, "must be text"),
        ({"channel_order": ["RGB"]}, "channel_order cannot be"),
        ({"interpolation": "bicubics"}, "did you mean 'bicubic'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_remedy(given: Any, said: str) -> None:
    with pytest.raises(SelectionError) as caught:
        read_preprocessing(given)
    assert said in str(caught.value)


def test_the_number_of_channels_must_be_the_models() -> None:
    with pytest.raises(SelectionError, match="gray_unit"):
        preprocessing_for(view(1), "caffe")
    with pytest.raises(SelectionError, match="the model takes 3"):
        preprocessing_for(view(3), "gray_unit")
    assert preprocessing_for(view(1)) == Preprocessing("GRAY", name="gray_unit", origin="guess")
    assert preprocessing_for(view(3)) == Preprocessing("RGB", name="unit", origin="guess")


@pytest.mark.parametrize(
    ("element", "channels", "mean", "name"),
    [
        (TensorProto.UINT8, 3, 0.0, "raw"),
        (TensorProto.UINT8, 1, 0.0, "gray_raw"),
        (TensorProto.UINT16, 3, 0.0, "raw"),
        (TensorProto.INT8, 3, 128.0, "custom"),
    ],
)
def test_whole_numbers_keep_their_range(element: int, channels: int, mean: float, name: str) -> None:
    found = preprocessing_for(view(channels, element=element))
    assert (found.mean, found.scale, found.name, found.declared) == ((mean,), (1.0,), name, False)


def test_the_file_may_say_and_may_be_wrong() -> None:
    own = view(own=json.dumps({"channel_order": "BGR", "scale": [1, 2, 3]}))
    assert preprocessing_for(own).scale == (1, 2, 3)
    assert preprocessing_for(own, "tf") is PRESETS["tf"]
    for damaged in ("{", "[1]", '{"scale": 0}', "[" * 100_000):
        with pytest.raises(SelectionError):
            preprocessing_for(view(own=damaged))


def test_class_names(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes("\ufefftench, Tinca\r\n\r\n  lion\u2028king \n\n".encode())
    assert read_labels(path) == ("tench, Tinca", "", "lion\u2028king")


def test_class_names_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    for content, said in ((b"\xff\xfe\x00", "UTF-8"), (b"\n\n", "empty"), (b"a" * (limits.LABELS_BYTES + 1), "larger")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=said):
            read_labels(path)
    for missing in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_labels(missing)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", "b"]', ("a", "b")),
        ('["a"]', None),
        ('["a", 3]', None),
        ('{"a": 1, "b": 2}', None),
        ("[" * 100_000, None),
        ("not json", None),
        ("", None),
    ],
)
def test_class_names_in_metadata_are_taken_only_if_they_fit(
    text: str, expected: tuple[str, ...] | None, tmp_path: Path
) -> None:
    save_model(tmp_path / "m.onnx", classes=2)
    view = dataclasses.replace(open_model(tmp_path / "m.onnx"), metadata={"onnxviz.labels": text})
    assert labels_in(view) == expected


def test_the_built_in_model_knows_its_classes() -> None:
    own = builtin.model("scenes")
    assert onnxviz.load(own.path).labels == own.labels
