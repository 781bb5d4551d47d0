"""What kind of model a file or folder holds, told by its content; an extension proves nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, shorten

SourceKind = Literal["caffe", "keras", "hdf5", "saved_model", "program"]
"""`keras` is the zip archive that Keras writes since 2023, `hdf5` the older file, `program` a PyTorch export."""

_HEAD_BYTES = 4_096
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)
"""Where an HDF5 signature may stand: behind a user block of 0, 512, 1024, ... bytes."""
_TO_ONNX = (
    "in the Python that made it, call torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2') "
    "and import that, or onnxviz.importing.from_torch(model, (example,), 'model.onnx')"
)
PICKLE = "a Python pickle, which can run any code when it is loaded, so it never is"
"""Why checkpoints are refused."""


_HEADS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    *((b"\x80" + bytes([protocol]), PICKLE, _TO_ONNX) for protocol in (2, 3, 4, 5)),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
)
"""First bytes of a file, what it is, and what to do."""
_AGAIN = "save or copy the model again; it may be cut off"
_SUFFIXES: dict[str, tuple[str, str]] = {
    ".caffemodel": ("the weights of a Caffe network", "onnxviz import NETWORK.prototxt --weights {name}"),
    ".onnx": ("an ONNX file by its name, which needs no import", "onnxviz inspect {name}"),
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".th", ".bin", ".pyt"), (f"by its name {PICKLE}", _TO_ONNX)
    ),
    ".pb": (
        "by its name a frozen TensorFlow graph, which does not say its inputs and outputs",
        "python -m tf2onnx.convert --graphdef FILE --inputs NAME:0 --outputs NAME:0 --output model.onnx",
    ),
    **{suffix: (f"no {suffix} file, or a damaged one", _AGAIN) for suffix in (".keras", ".h5", ".hdf5", ".pt2")},
}
"""Of files whose content says nothing: what a name promises, and what to do."""
_ACCEPTED = "imported are Keras .keras and .h5, SavedModel folders, PyTorch .pt2 programs, and Caffe .prototxt"


def source_kind(source: Path, weights: Path | None = None) -> SourceKind:
    """Tell what kind of model a path holds.

    Args:
        source: a file or folder.
        weights: a .caffemodel, given with a .prototxt.

    Returns:
        The kind, from the content; nothing of it was executed.

    Raises:
        ModelFileError: if it is none that can be imported; says what it is instead and what to do.
    """
    try:
        kind = _folder(source) if source.is_dir() else _file(source)
        if weights is not None and kind != "caffe":
            raise ModelFileError("weights of their own belong to a Caffe network only", remedy="drop --weights")
    except ModelFileError as fault:
        fault.where = shorten(str(source), 200)
        raise
    except FileNotFoundError:
        what, remedy = "no such file or folder", "check the path"
    except PermissionError:
        what, remedy = "no permission to read it", "make it readable"
    except (OSError, ValueError) as fault:
        what, remedy = f"cannot be read: {fault}", "check the path"
    else:
        return kind
    raise ModelFileError(what, where=shorten(str(source), 200), remedy=remedy)


def _folder(source: Path) -> SourceKind:
    if (source / "saved_model.pb").is_file() or (source / "saved_model.pbtxt").is_file():
        return "saved_model"
    remedy = "give the folder that holds saved_model.pb, or a file"
    inner = [path.parent.name for path in sorted(source.glob("*/saved_model.pb"))[:1]]
    if inner:
        remedy = f"it lies one folder deeper: {shorten(str(source / inner[0]), 200)}"
    elif (source / "config.json").is_file() and (source / "model.weights.h5").is_file():
        remedy = "this is an unpacked Keras archive: zip its files into model.keras"
    elif any(source.glob("*.index")) or (source / "checkpoint").is_file():
        remedy = "this is a TensorFlow checkpoint, weights without a graph: save the model with model.export(folder)"
    raise ModelFileError("a folder that is no SavedModel", remedy=remedy)


def _file(source: Path) -> SourceKind:
    if not source.is_file():
        if not source.exists():
            raise FileNotFoundError
        raise ModelFileError("not a regular file", remedy="give the path of a model")
    size = source.stat().st_size
    with source.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise ModelFileError("the file is empty", remedy="save or copy the model again")
    if any(head[offset : offset + len(_HDF5)] == _HDF5 for offset in _HDF5_OFFSETS):
        kind: SourceKind = "hdf5"
    elif head.startswith(b"PK"):
        kind = _archive(source)
    else:
        kind = _other(source, head)
    if size > limits.MODEL_BYTES:
        raise ModelFileError(
            f"{size:,} bytes are more than the limit of {limits.MODEL_BYTES:,}",
            remedy="save the model without its optimizer's state, or use a smaller one",
        )
    return kind


def _archive(source: Path) -> SourceKind:
    """Tell Keras archives, PyTorch programs, checkpoints and TorchScript apart."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as fault:
        raise ModelFileError(f"a damaged zip archive: {fault}", remedy=_AGAIN) from None
    inner = {name.split("/", 1)[-1] for name in names}
    if "config.json" in names and any(name.startswith("model.weights") for name in names):
        return "keras"
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return "program"
    if "model.json" in inner and "data/weights/model_weights_config.json" in inner:
        return "program"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ModelFileError(f"a TorchScript archive; it holds {PICKLE}", remedy=_TO_ONNX)
    if any(name.endswith(".pkl") for name in inner):
        raise ModelFileError(f"a PyTorch checkpoint: {PICKLE}", remedy=_TO_ONNX)
    if any(name.endswith("saved_model.pb") for name in names):
        raise ModelFileError("a zip archive with a SavedModel", remedy="unpack it and give the folder")
    raise ModelFileError("a zip archive that holds no model known here", remedy=_ACCEPTED)


def _other(source: Path, head: bytes) -> SourceKind:
    """Recognise what is neither HDF5 nor a zip archive."""
    suffix = source.suffix.lower()
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ModelFileError("a web page, not a model", remedy="download the file itself")
    if head[4:8] == b"TFL3":
        raise ModelFileError(
            "a TensorFlow Lite file", remedy="python -m tf2onnx.convert --tflite FILE --output model.onnx"
        )
    for start, what, remedy in _HEADS:
        if head.startswith(start):
            raise ModelFileError(what, remedy=remedy)
    if suffix == ".prototxt" and b"\0" not in head:
        return "caffe"
    if source.name == "saved_model.pb":
        raise ModelFileError("a part of a SavedModel", remedy="give its folder instead")
    what, remedy = _SUFFIXES.get(suffix, ("not a kind of model that can be imported", _ACCEPTED))
    raise ModelFileError(what, remedy=remedy.format(name=shorten(source.name)))
