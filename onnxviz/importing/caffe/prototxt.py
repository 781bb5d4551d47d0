"""Read a Caffe network description (`.prototxt`) from anywhere.

protobuf's own parser reads the text. Before that, one pass over its tokens bounds the nesting, since that parser
recurses, and notes what the parser does not tell: the line of each layer, and parameters that this project does not
know. A parameter of a fork may change what a layer computes, so those are refused; unknown fields elsewhere (training
settings, data augmentation) are harmless and skipped, as Caffe's forks do among each other.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format  # type: ignore[import-untyped]

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, shorten
from onnxviz.core.wording import listed
from onnxviz.importing.caffe.files import read_bounded
from onnxviz.importing.caffe.schema import modern_type, parameter_messages, text_message

_TOKEN = re.compile(
    r"""(?P<skip>[\s,;]+|\#[^\n]*)|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(?P<word>[\w.+-]+)|(?P<mark>.)""",
    re.DOTALL,
)


@dataclass(frozen=True)
class CaffeLayer:
    """One layer as the file describes it; names are any text."""

    name: str
    kind: str
    """Caffe's name of its type, for example "Convolution"."""
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    line: int
    """Where it begins in the file, counted from 1; 0 if that is not known."""
    shared: tuple[str, ...]
    """Names under which its blobs are shared with other layers, "" for those that are not."""
    message: Any = field(repr=False)


@dataclass(frozen=True)
class CaffeNet:
    """A network description."""

    file: str
    name: str
    message: Any = field(repr=False)
    layers: tuple[CaffeLayer, ...]
    """In the order of the file, those of every phase."""

    def refuse(self, what: str, line: int = 0, remedy: str = "") -> ModelFileError:
        """Return the error that says what is wrong, and where in this file."""
        place = shorten(self.file) + (f":{line}" if line else "")
        return ModelFileError(what, where=place, remedy=remedy)

    def refuse_layer(self, layer: CaffeLayer, what: str, remedy: str = "") -> ModelFileError:
        """Return the error that says what is wrong with a layer."""
        return self.refuse(f"layer {shorten(layer.name)!r} {what}", layer.line, remedy)


def read_prototxt(path: Path) -> CaffeNet:
    """Read a network description, with the layers of every phase.

    Raises:
        ModelFileError: if the file cannot be read, is no network description, or exceeds the bounds in `limits`.
    """
    content = read_bounded(path, limits.CAFFE_PROTOTXT_BYTES)
    place = shorten(path.name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content[: fault.start].count(b"\n") + 1
        raise ModelFileError(
            "not UTF-8 text",
            where=f"{place}:{line}",
            remedy="give the .prototxt first and the .caffemodel second; save the text as UTF-8",
        ) from fault
    lines = _scan(text, place)
    message = text_message("Net")()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser lets Python complain about escapes that it then refuses
            text_format.Parse(text, message, allow_unknown_field=True)
    except (text_format.ParseError, ValueError, RecursionError) as fault:
        raise _unreadable(fault, place) from fault
    if len(message.layer) + len(message.layers) > limits.CAFFE_LAYERS:
        raise ModelFileError(
            f"{len(message.layer) + len(message.layers):,} layers are more than the limit of {limits.CAFFE_LAYERS:,}",
            where=place,
            remedy="convert a part of the network",
        )
    if message.layer and message.layers:
        raise ModelFileError(
            "it has layers of the old form (layers) and of the new one (layer)",
            where=place,
            remedy="upgrade it with Caffe's upgrade_net_proto_text",
        )
    starts = lines["layer" if message.layer else "layers"]
    # The scan and the parser agree on well-formed text; where they do not, no line is better than a wrong one.
    if len(starts) != len(message.layer or message.layers):
        starts = [0] * len(message.layer or message.layers)
    layers = tuple(_layer(entry, line) for entry, line in zip(message.layer or message.layers, starts, strict=True))
    net = CaffeNet(path.name, message.name, message, layers)
    _check_names(net)
    return net


def _layer(entry: Any, line: int) -> CaffeLayer:
    modern = isinstance(entry, text_message("Layer"))
    return CaffeLayer(
        name=entry.name,
        kind=entry.type if modern else modern_type(entry.type),
        bottoms=tuple(entry.bottom),
        tops=tuple(entry.top),
        line=line,
        shared=tuple(share.name for share in entry.param) if modern else tuple(entry.param),
        message=entry,
    )


def _check_names(net: CaffeNet) -> None:
    """Refuse names that are no text (escapes may spell any bytes), empty, or longer than names are anywhere."""
    for layer in net.layers:
        for name in (layer.name, *layer.bottoms, *layer.tops):
            if not isinstance(name, str) or not name:
                raise net.refuse("a name is empty or no text", layer.line, "give the layer and its blobs names")
            if len(name) > limits.NAME_LENGTH:
                raise net.refuse(
                    f"the name {shorten(name)!r} has {len(name):,} characters, more than {limits.NAME_LENGTH:,}",
                    layer.line,
                    "shorten it",
                )


def _unreadable(fault: Exception, place: str) -> ModelFileError:
    """Say where the text stops being a network description; protobuf's message begins with line and column."""
    said = shorten(" ".join(str(fault).split()), 240)
    found = re.match(r"(\d+):(\d+) : (.*)", said)
    if found:
        place, said = f"{place}:{found[1]}:{found[2]}", found[3]
    # Message types of the schema are an implementation detail.
    said = re.sub(r'"?caffe_text\.(?:\w+\.)?(\w+)"?', r"\1", said)
    return ModelFileError(
        f"not a Caffe network description: {said}",
        where=place,
        remedy="give a deploy.prototxt; files from before 2014 need Caffe's upgrade_net_proto_text",
    )


# --- which layers take part at test time -----------------------------------------------------------------------------

_TEST = 1


def layers_at_test_time(net: CaffeNet) -> tuple[list[CaffeLayer], list[str]]:
    """Return the layers of the test phase, in order, and what was assumed.

    Source: Caffe's net.cpp, FilterNet and StateMeetsRule.

    Raises:
        ModelFileError: if a layer has rules of both kinds, which Caffe refuses.
    """
    stages = set(net.message.state.stage)
    notes: list[str] = []
    named = {stage for layer in net.layers for rule in _rules(layer) for stage in (*rule.stage, *rule.not_stage)}
    if "deploy" in named and not stages:
        # NVIDIA DIGITS writes one file for all purposes, and names this stage for the one at hand.
        stages.add("deploy")
        notes.append("the network is taken in its stage 'deploy'")
    level = net.message.state.level
    return [layer for layer in net.layers if _takes_part(net, layer, level, stages)], notes


def _rules(layer: CaffeLayer) -> list[Any]:
    return [*layer.message.include, *layer.message.exclude]


def _takes_part(net: CaffeNet, layer: CaffeLayer, level: int, stages: set[str]) -> bool:
    include, exclude = layer.message.include, layer.message.exclude
    if include and exclude:
        raise net.refuse_layer(layer, "has include and exclude rules", "use one of the two")
    if include:
        return any(_meets(rule, level, stages) for rule in include)
    return not any(_meets(rule, level, stages) for rule in exclude)


def _meets(rule: Any, level: int, stages: set[str]) -> bool:
    return (
        not (rule.HasField("phase") and rule.phase != _TEST)
        and not (rule.HasField("min_level") and level < rule.min_level)
        and not (rule.HasField("max_level") and level > rule.max_level)
        and all(stage in stages for stage in rule.stage)
        and not any(stage in stages for stage in rule.not_stage)
    )


# --- one pass over the tokens ---------------------------------------------------------------------------------------


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield (kind, piece, line) for each token that is not space or a comment."""
    line = 1
    for found in _TOKEN.finditer(text):
        piece = found.group()
        if found.lastgroup != "skip":
            yield found.lastgroup or "", piece, line
        line += piece.count("\n")


def _scan(text: str, place: str) -> dict[str, list[int]]:
    """Bound the nesting, refuse unknown parameters, and find the lines where layers begin.

    Returns:
        Lines of the messages "layer" and "layers", in order.
    """
    starts: dict[str, list[int]] = {"layer": [], "layers": []}
    known = parameter_messages()
    # Each open message: its descriptor (None below an unknown field), its name, and the field being read in it.
    descriptors: list[Any] = [text_message("Net").DESCRIPTOR]
    fields: list[str] = [""]
    value_next = False
    lists = 0
    unknown: list[tuple[str, int]] = []
    for kind, piece, line in _tokens(text):
        if kind == "word" and not value_next and not lists:
            fields[-1] = piece
            current = descriptors[-1]
            if current is not None and current.name in known and piece not in current.fields_by_name:
                unknown.append((f"{current.name}.{piece}", line))
        elif piece == ":":
            value_next = True
        elif piece in "{<" and kind == "mark":
            if len(fields) == 1 and fields[-1] in starts:
                starts[fields[-1]].append(line)
            current = descriptors[-1]
            entry = current.fields_by_name.get(fields[-1]) if current is not None else None
            descriptors.append(entry.message_type if entry is not None else None)
            fields.append("")
            value_next, lists = False, 0
            if len(fields) > limits.CAFFE_DEPTH:
                raise ModelFileError(
                    f"messages nest more than {limits.CAFFE_DEPTH} deep",
                    where=f"{place}:{line}",
                    remedy="this is no network description that Caffe could have read",
                )
        elif piece in "}>" and kind == "mark" and len(fields) > 1:
            descriptors.pop()
            fields.pop()
            value_next = False
        elif piece == "[":
            lists = 1
        elif piece == "]":
            lists, value_next = 0, False
        elif not lists:
            value_next = False
    if unknown:
        names = listed((f"{shorten(name)} (line {line})" for name, line in unknown), 8)
        raise ModelFileError(
            f"parameters that are not known: {names}",
            where=f"{place}:{unknown[0][1]}",
            remedy="remove them if they do not change what the layer computes; a fork of Caffe may mean more by them",
        )
    return starts
