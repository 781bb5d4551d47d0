"""Read the learned blobs of a Caffe network (`.caffemodel`) from anywhere: protobuf only, no code, no pickles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, shorten
from onnxviz.importing.caffe.files import read_bounded
from onnxviz.importing.caffe.schema import binary_message


def read_caffemodel(path: Path) -> dict[str, list[np.ndarray]]:
    """Read the weights of a network; old files (V1, V0) as well.

    Returns:
        Layer name -> its blobs in Caffe's order, float32 in the shape that the file declares (old files always declare
        four dimensions). Layers without blobs are left out.

    Raises:
        ModelFileError: if the file cannot be read, is damaged, or a blob's numbers do not fill its declared shape.
    """
    content = read_bounded(path, limits.MODEL_BYTES)
    place = shorten(path.name)
    message = binary_message("Net")()
    try:
        message.ParseFromString(content)
    except (DecodeError, RuntimeError, MemoryError) as fault:
        raise ModelFileError(
            "not a .caffemodel, or a damaged one (it does not parse)",
            where=place,
            remedy=_hint(content) or "copy it again; it may have been cut off",
        ) from fault
    found: dict[str, list[np.ndarray]] = {}
    for entry in (*message.layer, *message.layers):
        oldest = not isinstance(entry, binary_message("Layer")) and entry.HasField("layer")
        holder = entry.layer if oldest else entry
        name = holder.name.decode("utf-8", "replace")
        # Caffe fills a layer from the first entry of its name.
        if holder.blobs and name not in found:
            found[name] = [_blob(blob, index, name, place) for index, blob in enumerate(holder.blobs)]
    if not message.layer and not message.layers:
        raise ModelFileError(
            "it holds no layers", where=place, remedy=_hint(content) or "give the .caffemodel of this network"
        )
    return found


def _blob(blob: Any, index: int, layer: str, place: str) -> np.ndarray:
    values = _numbers(blob)
    sizes = (
        tuple(int(size) for size in blob.shape.dim)
        if blob.HasField("shape")
        else (blob.num, blob.channels, blob.height, blob.width)
    )
    if values is None or len(sizes) > 32 or any(size < 0 for size in sizes) or math.prod(sizes) != values.size:
        stored = "an odd number of bytes" if values is None else f"{values.size:,} numbers"
        raise ModelFileError(
            f"layer {shorten(layer)!r}: blob {index} declares the shape {shown(sizes)} and holds {stored}",
            where=place,
            remedy="copy the file again; it is damaged",
        )
    return values.reshape(sizes)


def _numbers(blob: Any) -> np.ndarray | None:
    """Return the numbers as float32; None if the bytes are not a whole number of them."""
    for pieces, kind in ((blob.data, "<f4"), (blob.double_data, "<f8")):
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(content) % int(kind[-1]):
            return None
        if content:
            with np.errstate(over="ignore"):
                return np.frombuffer(content, dtype=kind).astype(np.float32, copy=False)
    unpacked = binary_message("UnpackedBlob").FromString(blob.SerializeToString())
    return np.array(unpacked.data or unpacked.double_data, dtype=np.float32)


def shown(sizes: tuple[int, ...]) -> str:
    """Return a shape as messages say it."""
    return "×".join(str(size) for size in sizes[:8]) + ("×..." if len(sizes) > 8 else "") or "()"


def _hint(content: bytes) -> str:
    """Recognise what is often mistaken for a `.caffemodel`."""
    heads = {
        b"\x89HDF": "this is an HDF5 file: save the weights with net.save() instead of net.save_hdf5()",
        b"version https://git-lfs": "this is a Git LFS pointer, not the file itself: run `git lfs pull`",
        b"<": "this looks like a web page: download the file again",
        b"PK\x03\x04": "this is a zip archive: unpack it first",
        b"\x1f\x8b": "this is a gzip file: unpack it first",
        b"\x80\x02": "this looks like a Python pickle, which is never loaded",
        b"layer": "this looks like a .prototxt: give it first, the .caffemodel second",
        b"name:": "this looks like a .prototxt: give it first, the .caffemodel second",
    }
    return next((hint for head, hint in heads.items() if content.startswith(head)), "")
