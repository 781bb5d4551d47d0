"""Results on disk: the key of a job, and the folder in which its presence means that it is done.

Everything is written to a temporary name, flushed to the disk and renamed, so that a process killed at any moment
leaves either a whole result or none. The same result is written as the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnxviz.errors import OutputError, shorten
from onnxviz.findings import Array, Finding, Picture, from_data, replace_leaves, to_data

FORMAT = 1
"""Version of a stored result; part of every key."""
KEY_LENGTH = 32
"""Hexadecimal digits of a key: 128 bits of SHA-256."""
RECORD = "findings.json"
LOCK = "run.lock"
"""Marks a run folder; locked while a run writes to it."""
JPEG_QUALITY = 90


def canonical(data: Any) -> bytes:
    """Return JSON data as bytes that depend on its content only.

    Raises:
        TypeError: if it is no JSON data.
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def key_of(data: Mapping[str, Any]) -> str:
    """Return the key of a job: SHA-256 over the canonical form of everything that its result depends on."""
    return hashlib.sha256(canonical({"format": FORMAT, **data})).hexdigest()[:KEY_LENGTH]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is either the old or the new one, whole.

    Raises:
        OutputError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the error for a path that cannot be written."""
    reason = error.strerror or str(error)
    return OutputError(
        f"cannot be written: {reason}",
        where=shorten(str(path), 200),
        remedy="free the folder or name another with --out",
    )


def encode_picture(picture: Picture) -> bytes:
    """Return the pixels as PNG or JPEG: the same pixels give the same bytes, and no metadata is written."""
    assert picture.pixels is not None
    stream = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    if picture.format == "jpeg":
        image.save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()


def encode_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return arrays as .npz: like `numpy.savez_compressed`, but the same numbers give the same bytes.

    Raises:
        TypeError: if an array holds Python objects, which only pickle could write.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            values = np.asarray(arrays[name])
            if values.dtype.hasobject:
                raise TypeError(f"the array {name!r} holds Python objects")
            inner = io.BytesIO()
            np.lib.format.write_array(inner, values, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, inner.getvalue())
    return stream.getvalue()


@dataclass(frozen=True)
class Store:
    """The finished jobs of a run folder.

    Attributes:
        folder: the run folder.
    """

    folder: Path

    @property
    def jobs(self) -> Path:
        """Folder of the results, one folder for each key."""
        return self.folder / "jobs"

    def has(self, key: str) -> bool:
        """Whether a result is there; `load` says whether it is whole."""
        return (self.jobs / key / RECORD).is_file()

    def save(self, key: str, findings: Sequence[Finding], about: Mapping[str, Any]) -> None:
        """Store a result, pictures and arrays as files beside it.

        Args:
            key: the job's key.
            findings: what it found.
            about: JSON data kept with it, for people who look into the folder.

        Raises:
            OutputError: if it cannot be written.
            TypeError: if a finding holds something that cannot be stored.
        """
        files: dict[str, bytes] = {}
        stored = [replace_leaves(finding, lambda leaf: _file_away(leaf, key, files)) for finding in findings]
        data = [to_data(finding) for finding in stored]
        record = {
            "format": FORMAT,
            "about": dict(about),
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            "findings": data,
            "digest": hashlib.sha256(canonical(data)).hexdigest(),
        }
        files[RECORD] = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
        self._move_in(key, files)

    def _move_in(self, key: str, files: Mapping[str, bytes]) -> None:
        try:
            self.jobs.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=self.jobs))
            # Like any other folder, not private as mkdtemp makes it: reports are shared.
            temporary.chmod(0o777 & ~_umask())
        except OSError as error:
            raise cannot_write(self.jobs, error) from error
        try:
            for name, content in files.items():
                with (temporary / name).open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
            final = self.jobs / key
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            _flush_folder(self.jobs)
        except OSError as error:
            raise cannot_write(self.jobs / key, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def load(self, key: str, *, arrays: bool = False) -> list[Finding] | None:
        """Return a stored result, or None if there is none.

        Args:
            key: the job's key.
            arrays: read the numbers of `Array` findings too.

        Raises:
            DamagedError: if it is not whole.
        """
        folder = self.jobs / key
        if not folder.is_dir():
            return None
        try:
            record = json.loads((folder / RECORD).read_bytes())
            if (
                record["format"] != FORMAT
                or record["digest"] != hashlib.sha256(canonical(record["findings"])).hexdigest()
            ):
                raise DamagedError(key, f"{RECORD} was changed")
            files = dict(record["files"])
            for name, digest in files.items():
                _check_file(folder, key, name, digest)
            findings = [from_data(finding) for finding in record["findings"]]
            return [replace_leaves(item, lambda leaf: _fetch(leaf, folder, files, arrays)) for item in findings]
        except FileNotFoundError as error:
            raise DamagedError(key, f"{Path(error.filename or RECORD).name} is missing") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
            raise DamagedError(key, f"{RECORD} cannot be read: {shorten(str(error), 120)}") from error

    def discard(self, key: str) -> None:
        """Remove a damaged result, so that it is made again."""
        try:
            shutil.rmtree(self.jobs / key)
        except OSError as error:
            raise cannot_write(self.jobs / key, error) from error

    def clean(self) -> None:
        """Remove what killed runs left half-written. Only for whoever holds the folder's lock."""
        for leftover in self.jobs.glob(".tmp-*") if self.jobs.is_dir() else ():
            shutil.rmtree(leftover, ignore_errors=True)


class DamagedError(OutputError):
    """A stored result that is not whole: something else wrote into the folder, or the disk failed."""

    def __init__(self, key: str, why: str) -> None:
        self.key = key
        super().__init__(why, where=f"jobs/{key}", remedy="it is removed and made again")


def _file_away(leaf: Picture | Array, key: str, files: dict[str, bytes]) -> Picture | Array:
    """Put a picture or array among the files and return it with its path."""
    if isinstance(leaf, Picture):
        if leaf.pixels is None:
            return leaf  # stored before, by another job
        name = f"{len(files):04d}.{'jpg' if leaf.format == 'jpeg' else 'png'}"
        files[name] = encode_picture(leaf)
        return replace(leaf, pixels=None, path=f"jobs/{key}/{name}", width=leaf.width, height=leaf.height)
    if leaf.path and not leaf.arrays:
        return leaf
    name = f"{len(files):04d}-{plain_name(leaf.id)}.npz"
    files[name] = encode_arrays(leaf.arrays)
    return replace(leaf, arrays={}, path=f"jobs/{key}/{name}")


def _fetch(leaf: Picture | Array, folder: Path, files: Mapping[str, str], arrays: bool) -> Picture | Array:
    """Check that a leaf names a file of the store, and read an array's numbers if wanted."""
    if not re.fullmatch(rf"jobs/[0-9a-f]{{{KEY_LENGTH}}}/[A-Za-z0-9_.-]+", leaf.path):
        raise ValueError(f"the path {shorten(leaf.path)!r} is none of the store's")
    if isinstance(leaf, Array) and arrays and Path(leaf.path).name in files:
        with np.load(folder / Path(leaf.path).name, allow_pickle=False) as archive:
            return replace(leaf, arrays={name: archive[name] for name in archive.files})
    return leaf


def _check_file(folder: Path, key: str, name: str, digest: str) -> None:
    if Path(name).name != name:
        raise DamagedError(key, f"{RECORD} names a file outside its folder")
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
        raise DamagedError(key, f"{name} was changed")


def plain_name(text: str, length: int = 60) -> str:
    """Return text made fit to be part of a file's name on every system."""
    made = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:length]
    return made or "unnamed"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_run_folder(folder: Path) -> bool:
    """Whether a folder was made by a run."""
    return (folder / LOCK).is_file() or (folder / "run.json").is_file()


def check_folder(folder: Path) -> None:
    """Refuse a folder that a run must not write to, without changing anything.

    Raises:
        OutputError: if it is a file, or a folder with other things in it.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(
                "is a file, not a folder", where=shorten(str(folder), 200), remedy="name another with --out"
            )
        if folder.is_dir() and any(folder.iterdir()) and not is_run_folder(folder):
            raise OutputError(
                "has other things in it and is no run folder, so nothing is written there",
                where=shorten(str(folder), 200),
                remedy="name a new or empty folder with --out",
            )
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a run folder, or open it again, and keep other runs out while the context lasts.

    Raises:
        OutputError: if it cannot be written, is no run folder, or another process writes to it.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("a+", encoding="ascii")
    except OSError as error:
        raise cannot_write(folder, error) from error
    with stream:
        if not _lock(stream.fileno()):
            stream.seek(0)
            owner = shorten(stream.readline().strip(), 60)
            raise OutputError(
                f"another run{f' ({owner})' if owner else ''} is writing to this folder",
                where=shorten(str(folder), 200),
                remedy="wait until it has ended, or name another folder with --out",
            )
        try:
            stream.seek(0)
            stream.truncate()
            stream.write(f"process {os.getpid()}\n")
            stream.flush()
            probe = folder / f".write-{os.getpid()}.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise cannot_write(folder, error) from error
        yield


_LOCKED_BYTE = 1 << 20
"""Windows' locks keep others from reading what is locked; this byte lies behind the text that says who holds it."""


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process until it is closed; False if another process has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
