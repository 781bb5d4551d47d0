"""The tensors of a model file: sizes checked against the stored bytes, external data from the model's folder only."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, shorten


def damaged(what: str) -> ModelFileError:
    """Return the error for what only a new export mends."""
    return ModelFileError(what, remedy="export the model again")


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in a node's attributes (branches of If, bodies of Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_within(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of the graphs inside them."""
    stack = [nodes]
    while stack:
        for node in stack.pop():
            yield node
            stack.extend(graph.node for graph in subgraphs(node))


def all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    """Yield the nodes of the graph, of all sub-graphs and functions."""
    for nodes in (*(function.node for function in reversed(proto.functions)), proto.graph.node):
        yield from nodes_within(nodes)


def all_graphs(proto: ModelProto) -> Iterator[GraphProto]:
    """Yield the graph and all graphs inside nodes."""
    yield proto.graph
    for node in all_nodes(proto):
        yield from subgraphs(node)


def innermost_tensor(kind: TypeProto) -> Any:
    """Return the type of a tensor, or of the tensors in a sequence, optional or map; None if there are none."""
    name = kind.WhichOneof("value")
    while name in ("sequence_type", "optional_type", "map_type"):
        kind = kind.map_type.value_type if name == "map_type" else getattr(kind, name).elem_type
        name = kind.WhichOneof("value")
    return getattr(kind, name) if name in ("tensor_type", "sparse_tensor_type") else None


def messages(proto: Message) -> Iterator[Message]:
    """Yield a message and all messages inside it."""
    stack = [proto]
    while stack:
        message = stack.pop()
        yield message
        for entry, value in message.ListFields():
            if entry.type == entry.TYPE_MESSAGE:
                stack.extend([value] if isinstance(value, Message) else value)


def bring_tensors_in(proto: ModelProto, path: Path | None, digest: Any) -> int:
    """Put external data into the tensors, check all tensors' sizes, and return the number of external bytes."""
    folder = Path(os.path.realpath(path)).parent if path is not None else None
    total = 0
    for tensor in [message for message in messages(proto) if isinstance(message, TensorProto)]:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            if folder is None:
                raise ModelFileError(
                    f"tensor {shorten(tensor.name)!r} lies in another file, which a model in memory cannot name",
                    remedy="give the path of the model's file",
                )
            data = _external_bytes(tensor, folder, limits.EXTERNAL_BYTES - total)
            total += len(data)
            digest.update(data)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = data
        _check_size(tensor)
    left = limits.SPARSE_TOTAL_BYTES
    for graph in all_graphs(proto):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse, left))
            left -= graph.initializer[-1].ByteSize()
        graph.ClearField("sparse_initializer")
    for node in all_nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR:
                attribute.t.CopyFrom(_dense(attribute.sparse_tensor, left))
                left -= attribute.t.ByteSize()
                attribute.ClearField("sparse_tensor")
                attribute.type = AttributeProto.TENSOR
                attribute.name = "value" if attribute.name == "sparse_value" else attribute.name
    return total


def open_at_once(file: Path) -> BinaryIO:
    """Open a file for reading; a named pipe is opened without waiting for a writer, to be seen as what it is."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    return open(file, "rb", opener=opener)  # Path.open takes no opener


def _external_bytes(tensor: TensorProto, folder: Path, left: int) -> bytes:
    """Read a tensor's external data, which must lie in the model's own folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    shown = shorten(location)
    pure = PurePosixPath(location.replace("\\", "/"))
    if not location or "\0" in location:
        raise damaged(f"tensor {shorten(tensor.name)!r} names no external data file")
    if pure.is_absolute() or PureWindowsPath(location).anchor or PureWindowsPath(location).drive or ".." in pure.parts:
        raise ModelFileError(
            f"external data {shown!r} lies outside the model's folder, which is refused",
            remedy="put the data file beside the model and export with a plain file name",
        )
    file = folder.joinpath(*pure.parts)
    if not Path(os.path.realpath(file)).is_relative_to(folder):
        raise ModelFileError(
            f"external data {shown!r} is a link out of the model's folder, which is refused",
            remedy="put the data file itself beside the model",
        )
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", "-1"))
    except ValueError:
        raise ModelFileError(f"external data {shown!r} has an offset or length that is no number") from None
    expected = _declared_bytes(tensor)
    try:
        with open_at_once(file) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"external data {shown!r} is not a regular file", remedy="copy it again")
            length = length if length >= 0 else status.st_size - offset
            if offset < 0 or offset + length > status.st_size or length != expected:
                raise ModelFileError(
                    f"external data {shown!r} does not hold tensor {shorten(tensor.name)!r}: {expected:,} bytes are"
                    f" needed, {length:,} declared at offset {offset:,} of a file of {status.st_size:,}",
                    remedy="copy the data file again; it must be the one exported together with the model",
                )
            if length > left:
                raise ModelFileError(
                    f"more than {limits.EXTERNAL_BYTES:,} bytes of external data", remedy="use a smaller model"
                )
            stream.seek(offset)
            data = stream.read(length)
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileError(
            f"external data file {shown!r} is missing", remedy=f"put it into the model's folder, {shorten(str(folder))}"
        ) from None
    except OSError as fault:
        raise ModelFileError(f"external data {shown!r} cannot be read: {fault.strerror}") from fault
    if len(data) != length:
        raise ModelFileError(f"external data {shown!r} ended early", remedy="copy the data file again")
    return data


def _declared_bytes(tensor: TensorProto) -> int:
    """Number of bytes that a tensor's declared type and shape need."""
    shown = shorten(tensor.name)
    if len(tensor.dims) > limits.RANK:
        raise damaged(f"tensor {shown!r} has {len(tensor.dims):,} dimensions, more than {limits.RANK}")
    if any(size < 0 for size in tensor.dims):
        raise damaged(f"tensor {shown!r} has a negative dimension")
    if any(size > 1 << 40 for size in tensor.dims):
        raise damaged(f"tensor {shown!r} has a dimension of {max(tensor.dims):,}")
    count = int(math.prod(tensor.dims))
    if tensor.data_type == TensorProto.STRING:
        return count
    bits = _bits(tensor.data_type)
    if bits == 0:
        raise damaged(f"tensor {shown!r} has unknown element type {tensor.data_type}")
    size = int((count * bits + 7) // 8)
    if size > limits.TENSOR_BYTES:
        raise ModelFileError(f"tensor {shown!r} declares {size:,} bytes, more than {limits.TENSOR_BYTES:,}")
    return size


def _bits(data_type: int) -> int:
    name = TensorProto.DataType.Name(data_type) if data_type in TensorProto.DataType.values() else ""
    if name in ("", "UNDEFINED", "STRING"):
        return 0
    if name in ("UINT2", "INT2"):
        return 2
    if name in ("UINT4", "INT4", "FLOAT4E2M1"):
        return 4
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


def _check_size(tensor: TensorProto) -> None:
    """Refuse a tensor whose stored data does not match its declared shape."""
    if tensor.HasField("segment"):
        raise damaged(f"tensor {shorten(tensor.name)!r} is stored in segments")
    if tensor.data_type == TensorProto.UNDEFINED and not tensor.dims and not tensor.HasField("raw_data"):
        return  # the empty half of a sparse tensor that is not there
    expected = _declared_bytes(tensor)
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        stored = len(tensor.raw_data)
        fits = stored == expected and tensor.data_type != TensorProto.STRING
    else:
        name = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        stored = len(getattr(tensor, name))
        if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            count *= 2
        bits = _bits(tensor.data_type)
        fits = stored == ((count * bits + 7) // 8 if 0 < bits < 8 else count)
    if not fits:
        raise ModelFileError(
            f"tensor {shorten(tensor.name)!r} declares shape {list(tensor.dims)[:8]} but holds {stored:,} "
            f"{'bytes' if tensor.HasField('raw_data') else 'elements'}",
            remedy="the file is damaged: export or copy the model again",
        )


def _dense(sparse: onnx.SparseTensorProto, left: int) -> TensorProto:
    """Turn a sparse tensor into an ordinary one of at most `left` bytes; its size is checked first."""
    name = sparse.values.name
    for half in (sparse.values, sparse.indices):
        if half.data_type == TensorProto.UNDEFINED:
            raise damaged(f"sparse tensor {shorten(name)!r} has no numbers")
    shell = TensorProto(name=name, data_type=sparse.values.data_type, dims=sparse.dims)
    if _declared_bytes(shell) > min(left, limits.FOLDED_BYTES):
        raise ModelFileError(f"sparse tensor {shorten(name)!r} is too large", remedy="store it as a dense tensor")
    values = onnx.numpy_helper.to_array(sparse.values)
    indices = onnx.numpy_helper.to_array(sparse.indices).astype(np.int64)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.ndim == 2:
            indices = np.ravel_multi_index(tuple(indices.T), tuple(sparse.dims))
        array.reshape(-1)[indices] = values
    except (IndexError, ValueError) as fault:
        raise ModelFileError(f"sparse tensor {shorten(name)!r} has indices outside its shape") from fault
    return onnx.numpy_helper.from_array(array, name)
