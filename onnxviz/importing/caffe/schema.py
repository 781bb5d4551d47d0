"""The parts of Caffe's file formats that conversion reads, as protobuf messages.

Two schemas, in `schema.yaml`, because the two files are read for different things: the `.prototxt` gives the network,
the `.caffemodel` the weights.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_ODD_NAMES = {"RELU": "ReLU", "TANH": "TanH", "ARGMAX": "ArgMax", "ABSVAL": "AbsVal", "SOFTMAX_LOSS": "SoftmaxWithLoss"}
_ODD_NAMES |= {"HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "LRN": "LRN", "MVN": "MVN", "BNLL": "BNLL"}
"""Layer types of old files whose name of today is not theirs in camel case."""


def modern_type(legacy: int) -> str:
    """Return today's name of a layer type that an old file gives as an enumeration value."""
    name = dict(enumerate(_schema()["enums"]["LegacyType"])).get(legacy, "NONE")
    return _ODD_NAMES.get(name, "".join(part.capitalize() for part in name.split("_")))


@functools.cache
def _schema() -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name("schema.yaml").read_text(encoding="utf-8")))


def text_message(name: str) -> Any:
    """Return the class of a message of the `.prototxt`."""
    return _classes("caffe_text")[name]


def binary_message(name: str) -> Any:
    """Return the class of a message of the `.caffemodel`."""
    return _classes("caffe_binary")[name]


def parameter_messages() -> frozenset[str]:
    """Return the names of the messages that hold a layer's own parameters."""
    return frozenset(_schema()["parameters"])


@functools.cache
def _classes(package: str) -> dict[str, Any]:
    """Build message classes in a pool of their own, so that an installed Caffe is not disturbed."""
    schema = _schema()
    messages = dict(schema[package.removeprefix("caffe_")])
    if package == "caffe_text":
        # Every layer may have every parameter.
        parameters = " ".join(f"{name}:{name}" for name in schema["parameters"])
        messages |= {name: f"{messages[name]} {parameters}" for name in ("Layer", "LegacyLayer")}
        messages |= schema["parameters"]
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for name, values in schema["enums"].items():
        # Names of enumeration values share their parent's scope: each enumeration gets a message of its own.
        scope = file.message_type.add(name=f"{name}_")
        enum = scope.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=values[value] if isinstance(values, dict) else number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(), start=1):
            _add_field(message, package, field, number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


def _add_field(message: Any, package: str, text: str, number: int) -> None:
    text, _, explicit = text.partition("@")
    text, _, default = text.partition("=")
    name, _, kind = text.partition(":")
    repeated = kind.endswith("*")
    kind = kind.removesuffix("*")
    field = message.field.add(name=name, number=int(explicit or number))
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    scalar = f"TYPE_{kind.upper()}"
    if kind in _schema()["enums"]:
        field.type, field.type_name = field.TYPE_ENUM, f".{package}.{kind}_.{kind}"
    elif hasattr(field, scalar):
        field.type = getattr(field, scalar)
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
    if default:
        field.default_value = default
