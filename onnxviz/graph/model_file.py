"""An untrusted ONNX file made safe: bounded, self-contained, in order, and with plain identifiers for names.

Names from a model file would otherwise reach generated Python source (torch.fx), file names and pages. After
`read_model`, the original names exist only as data in `LoadedModel`.

What is refused: a file that is no ONNX model, damaged or larger than the bounds in `limits`; tensors whose bytes do
not match their declared shape; external data outside the model's own folder; a graph that is not one (a value made
twice, made from itself, or from nothing). What is dropped, but kept as data where it may serve: doc strings,
metadata, training information, quantization annotations.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
)

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, beginning, shorten
from onnxviz.graph.structure import refill, set_domain
from onnxviz.graph.tensors import (
    all_nodes,
    bring_tensors_in,
    damaged,
    innermost_tensor,
    messages,
    nodes_within,
    open_at_once,
    subgraphs,
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DOMAIN = re.compile(r"[A-Za-z0-9_.\-]{0,127}")

_DROPPED = frozenset(["configuration", "denotation", "device_configurations", "doc_string", "opaque_type",
                      "quantization_annotation", "training_info"])  # fmt: skip
"""Fields of any message that nothing here reads."""
_STANDARD = frozenset(["", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training"])
"""Domains whose operators mean something else in every version."""
_LARGEST_VERSION = (1 << 31) - 1
FUNCTION_DOMAIN = "function"
"""Domain of the model's own functions after renaming."""


@dataclass(kw_only=True)
class ModelFile:
    """What a file says of itself.

    Attributes:
        file: its own name, without its folder.
        digest: SHA-256 of its bytes and of its external data, in hexadecimal.
        bytes: size of both.
        producer: name and version of the exporter.
        opset: the opsets that it uses, as text.
        metadata: its metadata properties.
        names: identifier of a value -> its name in the file; values that passes make are called like what they replace.
        dimensions: identifier of a free dimension -> its name in the file.
        fixed: name of an input that was given a value once for all -> that, in words.
        fixed_digest: changes whenever one of these values does; "" if there are none.
    """

    file: str
    digest: str
    bytes: int
    producer: str
    opset: str
    metadata: dict[str, str]
    names: dict[str, str] = field(repr=False)
    dimensions: dict[str, str] = field(repr=False)
    fixed: dict[str, str] = field(default_factory=dict)
    fixed_digest: str = ""


@dataclass(kw_only=True)
class LoadedModel(ModelFile):
    """A model that is safe to hand to other libraries.

    Attributes:
        proto: the model with plain identifiers, all tensors inside, nodes in topological order.
        node_names: identifier of a node -> its name in the file ("" if it has none).
        node_metadata: identifier of a node -> what the exporter wrote about it.
    """

    proto: ModelProto
    node_names: dict[str, str]
    node_metadata: dict[str, dict[str, str]]


def read_model(path: Path) -> LoadedModel:
    """Read an ONNX file from anywhere.

    Raises:
        ModelFileError: if it cannot be read, is no ONNX model, or is refused as unsafe; names the file and the remedy.
    """
    return _make_safe(_read_file(path, limits.MODEL_BYTES), path)


def from_proto(proto: ModelProto) -> LoadedModel:
    """Make a copy of a model in memory safe, as if it had been read from a file.

    Its tensors must be inside: external data is refused, as there is no folder.

    Raises:
        ModelFileError: if it is no ONNX model, or is refused as unsafe.
    """
    try:
        content = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError, RuntimeError) as fault:  # beyond 2 GiB, or a name that is no text
        raise ModelFileError(
            f"the model cannot be serialized: {beginning(str(fault))}",
            where="model",
            remedy="save it with external data and give the path of the file",
        ) from fault
    return _make_safe(content, None)


def _make_safe(content: bytes, path: Path | None) -> LoadedModel:
    name = path.name if path is not None else "model"
    place = shorten(name)
    try:
        proto = _parse(content)
        if sum(1 for _ in islice(all_nodes(proto), limits.NODES + 1)) > limits.NODES:
            raise ModelFileError(f"more than {limits.NODES:,} nodes", remedy="use a smaller model")
        digest = hashlib.sha256(content)
        size = len(content) + bring_tensors_in(proto, path, digest)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        producer = f"{proto.producer_name} {proto.producer_version}".strip()
        renamer = _Renamer()
        renamer.model(proto)
    except ModelFileError as fault:
        fault.where = fault.where or place
        raise
    return LoadedModel(
        proto=proto,
        names=renamer.names,
        node_names=renamer.node_names,
        node_metadata=renamer.node_metadata,
        digest=digest.hexdigest(),
        bytes=size,
        file=name,
        producer=producer,
        opset=", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in proto.opset_import),
        metadata=metadata,
        dimensions=renamer.dimensions,
    )


# --- the file -------------------------------------------------------------------------------------------------------


def _read_file(path: Path, bound: int) -> bytes:
    """Read a regular file of at most `bound` bytes."""
    place = shorten(str(path))
    try:
        with open_at_once(path) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError("not a regular file", where=place, remedy="give the path of an .onnx file")
            if status.st_size > bound:
                raise ModelFileError(
                    f"{status.st_size:,} bytes are more than the limit of {bound:,}",
                    where=place,
                    remedy="store the weights as external data, or use a smaller model",
                )
            content = stream.read(status.st_size + 1)  # as many bytes are allocated as are asked for
    except FileNotFoundError:
        raise ModelFileError("no such file", where=place, remedy="check the path of the model") from None
    except (IsADirectoryError, NotADirectoryError):
        raise ModelFileError("a folder, not a file", where=place, remedy="give the path of an .onnx file") from None
    except PermissionError:
        remedy = "make the file readable for the user who runs this"
        if path.is_dir():  # Windows reports a folder this way
            remedy = "this is a folder: give the path of an .onnx file"
        raise ModelFileError("no permission to read it", where=place, remedy=remedy) from None
    except (OSError, ValueError) as fault:
        raise ModelFileError(f"cannot be read: {fault}", where=place, remedy="check the path of the model") from fault
    if not content:
        raise ModelFileError("the file is empty", where=place, remedy="export or copy the model again")
    if len(content) > bound:
        raise ModelFileError(f"more than the limit of {bound:,} bytes", where=place, remedy="use a smaller model")
    return content


def _parse(content: bytes) -> ModelProto:
    proto = ModelProto()
    try:
        proto.ParseFromString(content)
    except (DecodeError, RuntimeError, MemoryError) as fault:
        raise ModelFileError(
            "not an ONNX model, or a damaged one (it does not parse)",
            remedy=_hint(content) or "export or copy the model again; it may have been cut off",
        ) from fault
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output) or proto.ir_version <= 0:
        raise ModelFileError(
            "not an ONNX model (it holds no graph)", remedy=_hint(content) or "export or copy the model again"
        )
    _check_text(proto)
    if not proto.opset_import:
        if proto.ir_version >= 3:
            raise damaged("the model does not say which opset it uses")
        proto.opset_import.add(domain="", version=1)  # IR versions 1 and 2 meant opset 1
    if not proto.graph.output:
        raise damaged("the graph has no outputs")
    return proto


def _check_text(proto: ModelProto) -> None:
    """Drop what serves nobody, and refuse names that are no text.

    Protobuf hands out what is not UTF-8 as bytes, which no name may be.
    """
    for message in messages(proto):
        for entry, value in message.ListFields():
            needless = entry.name == "metadata_props" and not isinstance(message, ModelProto | NodeProto)
            if entry.name in _DROPPED or needless:
                message.ClearField(entry.name)
                continue
            texts = [value] if isinstance(value, str | bytes) else value
            if entry.type == entry.TYPE_STRING and not all(isinstance(text, str) for text in texts):
                remedy = "the file is damaged: export or copy it again"
                raise ModelFileError(f"a field {entry.name!r} is not valid UTF-8", remedy=remedy)


def _hint(content: bytes) -> str:
    """Recognise what is often mistaken for an ONNX file."""
    heads = {
        b"PK\x03\x04": "this looks like a zip archive (a PyTorch checkpoint or Keras file?): export it to ONNX first",
        b"\x89HDF": "this looks like an HDF5 file (Keras?): convert it with tf2onnx first",
        b"version https://git-lfs": "this is a Git LFS pointer, not the file itself: run `git lfs pull`",
        b"<": "this looks like a web page: download the file again",
        b"\x80\x02": "this looks like a Python pickle (a PyTorch checkpoint?): export it to ONNX first",
        b"\x1f\x8b": "this is a gzip file: unpack it first",
    }
    if content[4:8] == b"TFL3":
        return "this looks like a TensorFlow Lite file: convert it with tf2onnx first"
    return next((hint for head, hint in heads.items() if content.startswith(head)), "")


# --- names ----------------------------------------------------------------------------------------------------------


class _Renamer:
    """Gives every name in a model a plain identifier and puts nodes into topological order."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.node_names: dict[str, str] = {}
        self.node_metadata: dict[str, dict[str, str]] = {}
        self.dimensions: dict[str, str] = {}
        self._dimensions: dict[str, str] = {}
        self._functions: dict[tuple[str, str, str], str] = {}

    def model(self, proto: ModelProto) -> None:
        """Rename everything in place."""
        _check_opsets(proto.opset_import)
        for index, function in enumerate(proto.functions):
            key = (function.domain, function.name, function.overload)
            if key in self._functions:
                raise damaged(f"function {shorten(function.name)!r} is defined twice")
            self._functions[key] = f"f{index}"
        self._graph(proto.graph, {})
        for function in proto.functions:
            self._function(function, proto.opset_import)
        if proto.functions:
            set_domain(proto.opset_import, FUNCTION_DOMAIN, 1)
        used = {node.domain for node in nodes_within(proto.graph.node)}
        _import_used(proto.opset_import, used, proto.opset_import)
        for name in ("metadata_props", "domain", "producer_name", "producer_version"):
            proto.ClearField(name)

    def _value(self, original: str, scope: dict[str, str]) -> str:
        safe = f"v{len(self.names)}"
        self.names[safe] = original
        scope[original] = safe
        return safe

    def _function(self, function: FunctionProto, opsets: Any) -> None:
        function.name = self._functions[(function.domain, function.name, function.overload)]
        function.domain = FUNCTION_DOMAIN
        scope: dict[str, str] = {}
        _refuse_repeats(function.input, "function input")
        function.input[:] = [self._value(name, scope) for name in function.input]
        for attribute in (*function.attribute, *(entry.name for entry in function.attribute_proto)):
            _checked(attribute, "attribute")
        for entry in function.attribute_proto:
            self._attribute(entry, scope)
        _check_opsets(function.opset_import)
        set_domain(function.opset_import, FUNCTION_DOMAIN, 1)
        self._nodes(function.node, scope)
        _import_used(function.opset_import, {node.domain for node in nodes_within(function.node)}, opsets)
        function.output[:] = [_known(name, scope, "function output") for name in function.output]
        del function.value_info[:]
        function.ClearField("overload")

    def _graph(self, graph: GraphProto, outer: dict[str, str]) -> None:
        """Rename one graph; `outer` holds the names visible from the graphs around it."""
        scope = dict(outer)
        made = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]
        _refuse_repeats([value.name for value in graph.input], "graph input")
        _refuse_repeats([tensor.name for tensor in graph.initializer], "initializer")
        for name in dict.fromkeys(made):
            if not name:
                raise damaged("an input or initializer has no name")
            self._value(name, scope)
        own = set(made)
        for value in graph.input:
            _check_input(value)
            self._value_info(value, scope)
        for tensor in graph.initializer:
            tensor.name = scope[tensor.name]
        self._nodes(graph.node, scope, own)
        for value in graph.output:
            _known(value.name, scope, "graph output")
            self._value_info(value, scope)
        kept = [value for value in graph.value_info if value.name in scope]
        for value in kept:
            self._value_info(value, scope)
        refill(graph.value_info, {value.name: value for value in kept}.values())
        graph.name = "graph"

    def _nodes(self, nodes: Any, scope: dict[str, str], own: set[str] | None = None) -> None:
        ordered = _in_order(nodes, set(scope), own if own is not None else set(scope))
        for node in ordered:
            self._node(node, scope)
        if any(node is not other for node, other in zip(nodes, ordered, strict=True)):
            refill(nodes, ordered)

    def _node(self, node: NodeProto, scope: dict[str, str]) -> None:
        key = (node.domain, node.op_type, node.overload)
        if key in self._functions:
            node.domain, node.op_type = FUNCTION_DOMAIN, self._functions[key]
            node.ClearField("overload")
        elif _checked_domain(node.domain) == FUNCTION_DOMAIN:
            raise ModelFileError(f"domain {FUNCTION_DOMAIN!r} is reserved", remedy="rename the operator's domain")
        else:
            _checked(node.op_type, "operator type")
            node.domain = _checked_domain(node.domain)
        safe = f"n{len(self.node_names)}"
        self.node_names[safe] = node.name
        if node.metadata_props:
            self.node_metadata[safe] = {entry.key: entry.value for entry in node.metadata_props}
        node.name = safe
        node.input[:] = [_known(name, scope, f"an input of {node.op_type}") if name else "" for name in node.input]
        for attribute in node.attribute:
            self._attribute(attribute, scope)
        node.output[:] = [self._value(name, scope) if name else "" for name in node.output]
        node.ClearField("metadata_props")

    def _attribute(self, attribute: AttributeProto, scope: dict[str, str]) -> None:
        _checked(attribute.name, "attribute")
        if attribute.ref_attr_name:
            _checked(attribute.ref_attr_name, "attribute")
        tensors = [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
        for tensor in tensors:
            tensor.ClearField("name")
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            self._graph(graph, scope)
        for kind in (*attribute.type_protos, *([attribute.tp] if attribute.HasField("tp") else [])):
            self._type(kind)

    def _value_info(self, value: ValueInfoProto, scope: dict[str, str]) -> None:
        value.name = scope[value.name]
        self._type(value.type)

    def _type(self, kind: TypeProto) -> None:
        """Rename the free dimensions of a type."""
        tensor = innermost_tensor(kind)
        for dimension in tensor.shape.dim if tensor is not None else ():
            if dimension.HasField("dim_param"):
                safe = self._dimensions.setdefault(dimension.dim_param, f"d{len(self._dimensions)}")
                self.dimensions[safe] = dimension.dim_param
                dimension.dim_param = safe
            elif dimension.HasField("dim_value") and dimension.dim_value <= 0:
                dimension.ClearField("dim_value")  # exporters write 0 or -1 for "free"


def _check_input(value: ValueInfoProto) -> None:
    """Refuse an input that declares more than can be given, or an element type that does not exist."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return
    what = f"the input {shorten(value.name)!r}"
    if kind.elem_type not in TensorProto.DataType.values():
        raise damaged(f"{what} has unknown element type {kind.elem_type}")
    sizes = [max(int(dimension.dim_value), 1) for dimension in kind.shape.dim]
    if len(sizes) > limits.RANK:
        raise damaged(f"{what} has {len(sizes):,} dimensions, more than {limits.RANK}")
    if 4 * math.prod(sizes) > limits.INPUT_BYTES:
        shown = " × ".join(map(str, sizes[:8]))
        raise ModelFileError(
            f"{what} declares {shown} numbers, more than {limits.INPUT_BYTES:,} bytes", remedy="export a smaller input"
        )


def _in_order(nodes: Sequence[NodeProto], visible: set[str], own: set[str]) -> list[NodeProto]:
    """Return the nodes in topological order, as they are where that is one already.

    Of the names that are `visible` before the first node, those of this graph's `own` may not be made again.
    """
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name and (name in maker or name in own):
                raise damaged(f"value {shorten(name)!r} is made twice")
            if name:
                maker[name] = index
    needs = [{name for name in _reads(node) if name} for node in nodes]
    for node, wanted in zip(nodes, needs, strict=True):
        for name in wanted:
            if name not in maker and name not in visible:
                reader = f"{shorten(node.op_type)} {shorten(node.name)!r}"
                raise damaged(f"{reader} reads {shorten(name)!r}, which nothing makes")
    sorter = TopologicalSorter(
        {index: [maker[name] for name in wanted if name in maker] for index, wanted in enumerate(needs)}
    )
    try:
        sorter.prepare()
    except CycleError as fault:
        stuck = nodes[min(fault.args[1])]
        raise damaged(f"{shorten(stuck.op_type)} {shorten(stuck.name)!r} is part of a cycle") from None
    ready: list[int] = []
    done: list[NodeProto] = []
    while sorter.is_active():
        for index in sorter.get_ready():
            heapq.heappush(ready, index)
        first = heapq.heappop(ready)  # of several that could come next, the first in the file
        done.append(nodes[first])
        sorter.done(first)
    return done


def _reads(node: NodeProto) -> Iterator[str]:
    """Yield the names a node needs: its inputs and what its sub-graphs take from the graphs around them."""
    yield from node.input
    for graph in subgraphs(node):
        inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        inside.update(name for inner in graph.node for name in inner.output)
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in inside)
        yield from (value.name for value in graph.output if value.name not in inside)


def _known(name: str, scope: dict[str, str], role: str) -> str:
    if name not in scope:
        raise damaged(f"{role}, {shorten(name)!r}, is made by nothing")
    return scope[name]


def _refuse_repeats(names: Iterable[str], role: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise damaged(f"{role} {shorten(name)!r} is there twice")
        seen.add(name)


def _checked(name: str, role: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise ModelFileError(f"{role} {shorten(name)!r} is not a plain name, which is refused")
    return name


def _checked_domain(domain: str) -> str:
    if not _DOMAIN.fullmatch(domain):
        raise ModelFileError(f"operator domain {shorten(domain)!r} is not a plain name, which is refused")
    return "" if domain == "ai.onnx" else domain


def _check_opsets(opsets: Any) -> None:
    """Refuse versions that do not exist, and two of the standard's at once; every domain is named once afterwards.

    In a domain that the standard does not know a version says nothing: the highest stands for all.
    """
    versions: dict[str, int] = {}
    for opset in opsets:
        domain = _checked_domain(opset.domain)
        version = int(opset.version)
        if not domain and not 1 <= version <= onnx.defs.onnx_opset_version():
            newer = version > onnx.defs.onnx_opset_version()
            raise ModelFileError(
                f"opset {version} is newer than all that the installed onnx {onnx.__version__} knows"
                if newer
                else f"opset {version} does not exist",
                remedy="update onnx, or export for an older opset" if newer else "export the model again",
            )
        if domain not in _STANDARD:
            version = min(max(version, 1), _LARGEST_VERSION)
        elif not 0 <= version <= _LARGEST_VERSION:
            raise damaged(f"opset {version} of {domain} does not exist")
        elif versions.get(domain, version) != version:
            raise damaged(f"the model uses opsets {versions[domain]} and {version} of {domain or 'ai.onnx'} at once")
        versions[domain] = max(versions.get(domain, version), version)
    del opsets[:]
    for domain, version in versions.items():
        opsets.add(domain=domain, version=version)


def _import_used(opsets: Any, used: Iterable[str], around: Any) -> None:
    """Import the domains whose operators are used: exporters forget those of their own operators.

    A function falls back on the imports `around` it, which are the model's.

    Raises:
        ModelFileError: if a domain of the standard lacks.
    """
    known = {entry.domain: entry.version for entry in (*around, *opsets)}
    for domain in sorted(set(used) - {entry.domain for entry in opsets}):
        if domain not in known and domain in _STANDARD:
            raise damaged(f"the model does not say which opset of {domain or 'ai.onnx'} it uses")
        set_domain(opsets, domain, known.get(domain, 1))
