"""From another format to an ONNX file: recognised by content, exported, validated, labelled with its origin."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from onnxviz.core import limits
from onnxviz.core.errors import ModelError, ModelFileError, OutputError, shorten
from onnxviz.importing.child import run_exporter
from onnxviz.importing.comparison import Comparison, compare, not_compared, read_reference, require_the_same
from onnxviz.importing.program_archive import write_safe_program
from onnxviz.importing.source_kind import SourceKind, source_kind

if TYPE_CHECKING:
    from onnxviz.graph import GraphView

KINDS: dict[SourceKind, str] = {
    "caffe": "Caffe network",
    "keras": "Keras archive",
    "hdf5": "Keras HDF5 file",
    "saved_model": "TensorFlow SavedModel",
    "program": "PyTorch program",
}
_EXPORTERS = Path(__file__).resolve().with_name("exporters")
_SUFFIXES: dict[SourceKind, str] = {"keras": ".keras", "hdf5": ".h5", "program": ".pt2"}
_FILES = 10_000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        path: the ONNX file.
        kind: what the source was.
        about: the metadata that the file carries about its origin.
        view: the network, read from the file.
        compared: whether it is the source, as far as that could be found out.
    """

    path: Path
    kind: SourceKind
    about: Mapping[str, str]
    view: GraphView
    compared: Comparison


def import_model(
    source: Path | str,
    output: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    python: Path | str | None = None,
    signature: str | None = None,
    input_shape: Sequence[int] | None = None,
    timeout: float = limits.EXPORTER_SECONDS,
    force: bool = False,
    keep_different: bool = False,
) -> Imported:
    """Turn a model of another format into an ONNX file.

    Keras, TensorFlow and PyTorch export by their own exporters, in a process of its own. Nothing is unpickled.

    Args:
        source: a Keras .keras or .h5 file, a SavedModel folder, a PyTorch .pt2 program, or a Caffe .prototxt.
        output: the ONNX file; beside nothing, in the working folder, under the source's name, if None.
        weights: the .caffemodel of a Caffe network; the one beside it if None.
        python: an interpreter that has the framework, if this one has not.
        signature: which signature of a SavedModel; "serving_default" if None.
        input_shape: shape of the first input where the model leaves it free, the batch included.
        timeout: seconds that the exporter may take.
        force: overwrite the output.
        keep_different: write the file also where it differs from the source.

    Returns:
        The file, and the network read from it.

    Raises:
        ModelFileError: if the source is refused, damaged or of no known kind.
        ModelError: if the framework is missing or its exporter fails.
        AgreementError: if what was exported differs from the source.
        OutputError: if the output exists already or cannot be written.
    """
    source = Path(source)
    given = None if weights is None else Path(weights)
    kind = source_kind(source, given)
    target = Path(output) if output is not None else Path(f"{source.resolve().stem or 'model'}.onnx")
    check_target(target, force)
    place = shorten(str(source), 200)
    interpreter = None if python is None else _interpreter(Path(python))
    if input_shape is not None and (not input_shape or min(input_shape) < 1):
        raise ModelError(f"{list(input_shape)} is no input shape", remedy="for example --input-shape 1,224,224,3")
    with tempfile.TemporaryDirectory(prefix="onnxviz-import-") as temporary:
        folder = Path(temporary)
        made = folder / "model.onnx"
        if kind == "caffe":
            about = _from_caffe(source, given, made)
            compared = not_compared("Caffe is not used, so there is nothing to compare with")
        else:
            copy, digest = _snapshot(source, kind, folder)
            request = {"kind": kind, "source": str(copy), "output": str(made), "limit": limits.MODEL_BYTES}
            request["reference"] = str(folder / "reference.npz")
            request |= {"signature": signature, "input_shape": list(input_shape) if input_shape else None}
            if kind == "program":
                request["source"] = str(folder / "safe.pt2")
                request["written_by"] = write_safe_program(copy, folder / "safe.pt2", place)
            told = run_exporter(_EXPORTERS, request, folder, python=interpreter, timeout=timeout, place=place)
            exporters = ", ".join(f"{name} {number}" for name, number in sorted(told["versions"].items()))
            about = {"sha256": digest, "frameworks": f"{told['done']['written_by']}, exported by {exporters}"}
            compared = compare(made, told["done"]["reference"], read_reference(folder / "reference.npz"))
            require_the_same(compared, place, keep=keep_different)
        about = {"kind": KINDS[kind], "file": source.resolve().name, **about, "compared": compared.said}
        view = write_checked(made, target, about, place)
    return Imported(target, kind, about, view, compared)


def check_target(target: Path, force: bool) -> None:
    """Refuse an output that cannot be or should not be written, before the work is done.

    Raises:
        OutputError: if it exists, is a folder, or its folder does not exist.
    """
    shown = shorten(str(target), 200)
    if target.is_dir():
        raise OutputError("a folder, not a file", where=shown, remedy="name the ONNX file with --output")
    if target.exists() and not force:
        raise OutputError("exists already", where=shown, remedy="name another with --output, or overwrite with --force")
    if not target.resolve().parent.is_dir():
        raise OutputError("its folder does not exist", where=shown, remedy="make the folder first")
    if not os.access(target.resolve().parent, os.W_OK):
        raise OutputError("no permission to write there", where=shown, remedy="name another with --output")


def write_checked(made: Path, target: Path, about: Mapping[str, str], place: str) -> GraphView:
    """Label an exported model with its origin, see that it is one, and move it to its place, whole or not at all.

    What is said `about` the origin is written as metadata `onnxviz.source.*`; `place` names the source in messages.

    Raises:
        ModelError: if what was exported is no valid model.
        OutputError: if it cannot be written.
    """
    from onnxviz.graph import open_model

    proto = ModelProto()
    proto.ParseFromString(made.read_bytes())
    kept = [entry for entry in proto.metadata_props if not entry.key.startswith("onnxviz.source.")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    for key, value in {**about, "importer": f"onnxviz {version('onnxviz')}"}.items():
        proto.metadata_props.add(key=f"onnxviz.source.{key}", value=value)
    shown = shorten(str(target), 200)
    temporary = target.with_name(f".{target.name[:100]}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(proto.SerializeToString())
        try:
            view = open_model(temporary)
        except ModelError as fault:
            raise ModelError(
                f"what was exported cannot be used: {fault.what}", where=place, remedy=fault.remedy
            ) from fault
        temporary.replace(target)
    except OSError as fault:
        raise OutputError(
            f"cannot be written: {fault.strerror or fault}", where=shown, remedy="name another with --output"
        ) from fault
    finally:
        temporary.unlink(missing_ok=True)
    view.file = target.name
    return view


def _interpreter(python: Path) -> Path:
    """Return an interpreter's absolute path, links kept: a virtual environment is found by them."""
    if not python.is_file():
        raise ModelError("no such interpreter", where=shorten(str(python), 200), remedy="for example venv/bin/python")
    return Path(os.path.abspath(python))  # noqa: PTH100 - resolve() would follow the link out of the environment


def _from_caffe(prototxt: Path, weights: Path | None, made: Path) -> dict[str, str]:
    """Convert a Caffe network by this project's converter."""
    from onnxviz.importing.caffe import convert

    place = shorten(str(prototxt), 200)
    if weights is None:
        weights = prototxt.with_suffix(".caffemodel")
        if not weights.is_file():
            beside = sorted(prototxt.parent.glob("*.caffemodel"))
            remedy = "name its weights: --weights FILE.caffemodel"
            if beside:
                remedy += "; beside it lie " + ", ".join(shorten(path.name) for path in beside[:4])
            raise ModelFileError("the network's weights are not beside it", where=place, remedy=remedy)
    if not weights.is_file():
        raise ModelFileError("no such file", where=shorten(str(weights), 200), remedy="check the path of the weights")
    digest = hashlib.sha256()
    for path in (prototxt, weights):
        _digest_file(path, digest, None)
    made.write_bytes(convert(prototxt, weights).SerializeToString())
    return {"sha256": digest.hexdigest(), "weights": weights.name, "frameworks": "Caffe"}


def _snapshot(source: Path, kind: SourceKind, folder: Path) -> tuple[Path, str]:
    """Copy a file under the extension its framework expects, and digest it; a folder is digested where it is."""
    digest = hashlib.sha256()
    place = shorten(str(source), 200)
    if kind == "saved_model":
        total = 0
        files = sorted(path for path in source.rglob("*") if not path.is_dir())
        if len(files) > _FILES:
            raise ModelFileError(f"more than {_FILES:,} files", where=place, remedy="give the model only")
        for path in files:
            digest.update(f"{path.relative_to(source).as_posix()}\0".encode())
            total += _digest_file(path, digest, None)
            if total > limits.MODEL_BYTES:
                what = f"more than the limit of {limits.MODEL_BYTES:,} bytes"
                raise ModelFileError(what, where=place, remedy="use a smaller model")
        return source.resolve(), digest.hexdigest()
    copy = folder / f"source{_SUFFIXES[kind]}"
    _digest_file(source, digest, copy)
    return copy, digest.hexdigest()


def _digest_file(path: Path, digest: hashlib._Hash, copy: Path | None) -> int:
    """Add a regular file to a digest, and copy it if asked to; returns its size."""
    place = shorten(str(path), 200)
    if not path.is_file():
        raise ModelFileError("not a regular file", where=place, remedy="save or copy the model again")
    size = 0
    try:
        with path.open("rb") as stream, (copy or Path(os.devnull)).open("wb") as sink:
            while chunk := stream.read(_CHUNK):
                size += len(chunk)
                if size > limits.MODEL_BYTES:
                    raise ModelFileError(
                        f"more than {limits.MODEL_BYTES:,} bytes", where=place, remedy="use a smaller one"
                    )
                digest.update(chunk)
                sink.write(chunk)
    except OSError as fault:
        raise ModelFileError(f"cannot be read: {fault.strerror}", where=place, remedy="check the file") from fault
    return size
