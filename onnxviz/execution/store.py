"""Results on disk: the key of a job, and the folder in which its presence means that it is done.

Everything is written to a temporary name and renamed, so that a process killed at any moment leaves either a whole
result or none. The same result is written as the same bytes. Results are not flushed to the disk one by one, which
would cost more than many a job: what a power cut leaves damaged is found by its digests, and made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from onnxviz.core.errors import OutputError, beginning, shorten
from onnxviz.core.findings import (
    FINDING_TYPES,
    Finding,
    Leaf,
    Note,
    Numbers,
    Picture,
    from_data,
    replace_leaves,
    to_data,
)

FORMAT = 4
"""Version of a stored result; part of every key."""
KEY_LENGTH = 32
"""Hexadecimal digits of a key: 128 bits of SHA-256."""
KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
RECORD = "findings.jsonl"
"""Two lines: whose it is, with a digest of that and the second; and what was found."""
CHECKED = ".checked.json"
"""Which results were found whole."""
MANY_RESULTS = 1_000
"""From here on reading all results again would take longer than a run in which all is done should."""
LOCK = "run.lock"
"""Marks a run folder; locked while a run writes to it."""
JPEG_QUALITY = 90

T = TypeVar("T")


def canonical(data: Any) -> bytes:
    """Return JSON data as one line of bytes that depend on its content only.

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
    remedy = "free the folder or name another with --out"
    if error.errno == errno.EFBIG:  # not the disk but the limit of the process
        remedy = "raise --file-size if you trust the model (and `file_size` in `limits:`, where the recipe sets it)"
    return OutputError(f"cannot be written: {reason}", where=shorten(str(path), 200), remedy=remedy)


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
    """The finished jobs of a run folder."""

    folder: Path

    @property
    def jobs(self) -> Path:
        """Folder of the results, one folder for each key."""
        return self.folder / "jobs"

    def has(self, key: str) -> bool:
        """Whether a result is there; `load` says whether it is whole."""
        return (self.jobs / key / RECORD).is_file()

    def stored_keys(self) -> set[str]:
        """Return the keys of all results that are there."""
        try:
            with os.scandir(self.jobs) as entries:
                return {entry.name for entry in entries if KEY.fullmatch(entry.name)}
        except OSError:
            return set()

    def save(
        self,
        key: str,
        findings: Sequence[Any],
        about: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        types: Mapping[str, type] = FINDING_TYPES,
    ) -> None:
        """Store a result, pictures and arrays as files beside it.

        Args:
            key: the job's key.
            findings: what it found: findings, and dataclasses of its analysis.
            about: JSON data kept with it, for people who look into the folder.
            metrics: numbers that `expect:` can test, of findings that were put together.
            types: the dataclasses that it may hold, by name.

        Raises:
            OutputError: if it cannot be written.
            TypeError: if a finding holds something that cannot be stored.
        """
        files: dict[str, bytes] = {}
        stored = [replace_leaves(finding, lambda leaf: _file_away(leaf, key, files)) for finding in findings]
        data = [to_data(finding, types) for finding in stored]
        record: dict[str, Any] = {
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            "findings": data,
        }
        if metrics is not None:
            record["metrics"] = {name: to_data(value) for name, value in metrics.items()}
        body = canonical(record)
        head = {"format": FORMAT, "about": dict(about), "digest": _digest(key, about, body)}
        files[RECORD] = canonical(head) + b"\n" + body + b"\n"
        self.move_in(key, files)

    def save_value(self, key: str, value: object, about: Mapping[str, Any]) -> None:
        """Store a dataclass or named tuple of plain data; see `save`."""
        self.save(key, [Note(json.dumps(TypeAdapter(type(value)).dump_python(value, mode="json")))], about)

    def load_value(self, key: str, kind: type[T]) -> T | None:
        """Return what `save_value` stored, or None if there is nothing; its types are checked.

        Raises:
            DamagedError: if it is not whole, or something else.
        """
        found = self.load(key)
        if found is None:
            return None
        with _damage_told(key):
            (note,) = found
            return TypeAdapter(kind).validate_python(json.loads(note.text))

    def move_in(self, key: str, files: Mapping[str, bytes]) -> None:
        """Store the files of a result as they are, by name; `load` says whether they are whole.

        Raises:
            OutputError: if they cannot be written.
        """
        # Not by `tempfile`, whose folders are private: reports are shared.
        temporary = self.jobs / f".tmp-{secrets.token_hex(8)}"
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                with (temporary / name).open("wb") as stream:
                    stream.write(content)
            self._rename(temporary, key)
        except OSError as error:
            raise cannot_write(self.jobs / key, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _rename(self, temporary: Path, key: str) -> None:
        """Give a result its place; one that is whole stays, because another worker may just be reading it.

        Two names of one model in a recipe have jobs with the same keys, and two workers may end them at once.
        """
        for last in (False, True):
            try:
                temporary.rename(self.jobs / key)
                return
            except OSError as error:
                if last or error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                    raise
            with contextlib.suppress(DamagedError):
                self.require(key)
                return
            self.discard(key)

    def load(self, key: str, *, arrays: bool = False, types: Mapping[str, type] = FINDING_TYPES) -> list[Any] | None:
        """Return a stored result, or None if there is none; with `arrays` those are read when they are asked.

        Raises:
            DamagedError: if it is not whole.
        """
        read = self._read(key, arrays, types)
        return None if read is None else read[0]

    def require(self, key: str) -> None:
        """Compare a result with its digests.

        Raises:
            DamagedError: if it is not whole.
        """
        with _damage_told(key):
            self._record(key)

    def load_combined(self, key: str) -> tuple[list[Finding], dict[str, float]] | None:
        """Return findings that were put together, and their metrics; None if there are none.

        Raises:
            DamagedError: if they are not whole.
        """
        return self._read(key, arrays=False)

    def _read(
        self, key: str, arrays: bool, types: Mapping[str, type] = FINDING_TYPES
    ) -> tuple[list[Any], dict[str, float]] | None:
        folder = self.jobs / key
        if not folder.is_dir():
            return None
        with _damage_told(key):
            record = self._record(key)
            files = dict(record["files"])
            found = [from_data(finding, types) for finding in record["findings"]]
            fetched = [replace_leaves(item, lambda leaf: _fetch(leaf, folder, files, arrays)) for item in found]
            return fetched, {str(name): float(from_data(value)) for name, value in record.get("metrics", {}).items()}

    def _record(self, key: str) -> dict[str, Any]:
        """Return what a result's record says, compared with its digests and those of the files that it names."""
        folder = self.jobs / key
        first, _, body = (folder / RECORD).read_bytes().partition(b"\n")
        head, body = json.loads(first), body.removesuffix(b"\n")
        if head["format"] != FORMAT or head["digest"] != _digest(key, head["about"], body):
            raise DamagedError(key, f"{RECORD} was changed, or is that of another job")
        record: dict[str, Any] = json.loads(body)
        for name, digest in dict(record["files"]).items():
            _check_file(folder, key, name, digest)
        return record

    def discard(self, key: str) -> None:
        """Remove a result, so that it is made again; that it is gone already is as well."""
        try:
            shutil.rmtree(self.jobs / key)
        except FileNotFoundError:
            return
        except OSError as error:
            raise cannot_write(self.jobs / key, error) from error

    def clean(self) -> None:
        """Remove what killed runs left half-written. Only for whoever holds the folder's lock."""
        for leftover in self.jobs.glob(".tmp-*") if self.jobs.is_dir() else ():
            shutil.rmtree(leftover, ignore_errors=True)
        for pattern in (".*.tmp", "tables/.*.tmp", "arrays/.*.tmp", "report/**/.*.tmp"):
            for leftover in self.folder.glob(pattern):
                with contextlib.suppress(OSError):
                    leftover.unlink()


class Checked:
    """Remembers which results were found whole, so that a large run in which all is done need not read them all again.

    A few results are compared with their digests in every run. Of many, one counts as whole if each of its files has
    the size and the time of change that it had when its digest was last compared, as version control systems do it.
    For whoever holds the folder's lock.
    """

    def __init__(self, store: Store, count: int) -> None:
        self._store = store
        self._trusting = count > MANY_RESULTS
        self._file = store.folder / CHECKED
        try:
            data = json.loads(self._file.read_bytes())
            self._known: dict[str, Any] = data if isinstance(data, dict) else {}
        except (OSError, ValueError, RecursionError):
            self._known = {}
        self._changed = False

    def require(self, key: str) -> None:
        """Compare a result with its digests, unless nothing has changed since that was done.

        Raises:
            DamagedError: if it is not whole.
        """
        stamp = self._stamp(key) if self._trusting else None
        if stamp is None or self._known.get(key) != stamp:
            self._store.require(key)
            self.note(key)

    def note(self, key: str) -> None:
        """Take note that a result is whole."""
        self._known[key] = self._stamp(key)
        self._changed = True

    def forget(self) -> None:
        """Drop all notes: everything is compared again next time."""
        self._known = {}
        self._changed = True

    def write(self) -> None:
        """Store the notes; what cannot be stored is compared again next time."""
        if not self._changed:
            return
        there = self._store.stored_keys()
        data = {key: stamp for key, stamp in self._known.items() if key in there}
        with contextlib.suppress(OutputError):
            write_bytes(self._file, json.dumps(data, separators=(",", ":")).encode())

    def _stamp(self, key: str) -> list[list[Any]] | None:
        try:
            with os.scandir(self._store.jobs / key) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError:
            return None
        return sorted([name, status.st_size, status.st_mtime_ns] for name, status in found)


class StoredArrays(Mapping[str, np.ndarray]):
    """The numbers of a stored `Array`, read from the disk whenever they are asked for: few are needed at a time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __getitem__(self, name: str) -> np.ndarray:
        with np.load(self._file, allow_pickle=False) as archive:
            return np.asarray(archive[name])

    def __iter__(self) -> Iterator[str]:
        with np.load(self._file, allow_pickle=False) as archive:
            return iter(list(archive.files))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class DamagedError(OutputError):
    """A stored result that is not whole: something else wrote into the folder, or the disk failed."""

    def __init__(self, key: str, why: str) -> None:
        self.key = key
        super().__init__(why, where=f"jobs/{key}", remedy="run the same command again: it is removed and made again")


@contextlib.contextmanager
def _damage_told(key: str) -> Iterator[None]:
    """Turn whatever a damaged result raises into one kind of error."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(key, f"{Path(error.filename or RECORD).name} is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise DamagedError(key, f"{RECORD} cannot be read: {beginning(str(error))}") from error


def _digest(key: str, about: Mapping[str, Any], body: bytes) -> str:
    """Return the digest of a record; with the key, so that one job's record is none of another's."""
    return hashlib.sha256(b"\n".join((key.encode(), canonical(dict(about)), body))).hexdigest()


def _file_away(leaf: Leaf, key: str, files: dict[str, bytes]) -> Leaf:
    """Put a picture or array among the files and return it with its path."""
    if isinstance(leaf, np.ndarray):
        name = f"{len(files):04d}.npz"
        files[name] = encode_arrays({"values": leaf})
        return Numbers(f"jobs/{key}/{name}")
    if isinstance(leaf, Numbers):
        return leaf  # stored before, by another job
    if isinstance(leaf, Picture):
        if leaf.pixels is None:
            return leaf  # stored before, by another job
        name = f"{len(files):04d}.{'jpg' if leaf.format == 'jpeg' else 'png'}"
        files[name] = encode_picture(leaf)
        return replace(leaf, pixels=None, path=f"jobs/{key}/{name}", width=leaf.width, height=leaf.height)
    if leaf.path and (isinstance(leaf.arrays, StoredArrays) or not leaf.arrays):
        return replace(leaf, arrays={})  # stored before, by another job
    name = f"{len(files):04d}-{plain_name(leaf.id)}.npz"
    files[name] = encode_arrays(leaf.arrays)
    return replace(leaf, arrays={}, path=f"jobs/{key}/{name}")


def _fetch(leaf: Leaf, folder: Path, files: Mapping[str, str], arrays: bool) -> Leaf:
    """Check that a leaf names a file of the store, and read an array's numbers if wanted."""
    assert not isinstance(leaf, np.ndarray), "JSON data has no arrays"
    if not re.fullmatch(rf"jobs/[0-9a-f]{{{KEY_LENGTH}}}/[A-Za-z0-9_.-]+", leaf.path):
        raise ValueError(f"the path {shorten(leaf.path)!r} is none of the store's")
    if arrays and not isinstance(leaf, Picture) and Path(leaf.path).name in files:
        numbers = StoredArrays(folder / Path(leaf.path).name)
        return numbers["values"] if isinstance(leaf, Numbers) else replace(leaf, arrays=numbers)
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
def locked(folder: Path) -> Iterator[int]:
    """Make a run folder, or open it again, and keep other runs out while the context lasts.

    Yields:
        The descriptor of the lock. A process that inherits it keeps the folder locked as long as it lives: workers
        that outlive a killed run keep the next one from beginning beside them.

    Raises:
        OutputError: if it cannot be written, is no run folder, or another process writes to it.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Without a buffer, which would be written again, and fail again, when the file is closed on a full disk.
        stream = (folder / LOCK).open("a+b", buffering=0)
    except OSError as error:
        raise cannot_write(folder, error) from error
    with stream:
        if not _lock_patiently(stream.fileno()):
            stream.seek(0)
            owner = shorten(stream.readline().decode("ascii", "replace").strip(), 60)
            raise OutputError(
                f"another run{f' ({owner})' if owner else ''} is writing to this folder",
                where=shorten(str(folder), 200),
                remedy="wait until it has ended, or name another folder with --out",
            )
        try:
            stream.seek(0)
            stream.truncate()
            stream.write(f"process {os.getpid()}\n".encode())
            probe = folder / f".write-{os.getpid()}.tmp"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise cannot_write(folder, error) from error
        yield stream.fileno()


def remove_empty(folder: Path) -> None:
    """Remove a run folder in which there is nothing but the lock and the log."""
    with contextlib.suppress(OSError):
        if {entry.name for entry in folder.iterdir()} <= {LOCK, "log.txt"}:
            shutil.rmtree(folder)


_LOCKED_BYTE = 1 << 20
"""Windows' locks keep others from reading what is locked; this byte lies behind the text that says who holds it."""


_LOCK_PATIENCE = 1.0
"""Seconds; the workers of a run that was killed end within a moment."""


def _lock_patiently(descriptor: int) -> bool:
    end = time.monotonic() + _LOCK_PATIENCE
    while not _lock(descriptor):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


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
