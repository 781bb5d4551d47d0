"""The pictures and arrays that a run refers to: names checked, files found, placed beside the page.

A run folder may come from somebody else, so a name in `run.json` is trusted with nothing: it must stay inside the run
folder, also through symbolic links, and a picture must be what its first bytes say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from onnxviz.core.errors import OutputError, shorten

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@,-]*\Z")
Kinds = Mapping[bytes, tuple[str, str]]
"""What files start with -> their extension and media type."""
PICTURES: Kinds = {b"\x89PNG\r\n\x1a\n": ("png", "image/png"), b"\xff\xd8\xff": ("jpg", "image/jpeg")}
ARRAYS: Kinds = {b"PK": ("npz", "application/zip")}


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file that a run calls `name`, or None if it is not there.

    Args:
        folder: the run folder.
        name: path relative to the run folder, with forward slashes.

    Raises:
        OutputError: if the name is not a plain relative path or leads out of the run folder.
    """
    parts = name.split("/")
    if not name or len(name) > 1024 or not all(_PLAIN.match(part) for part in parts):
        raise OutputError(
            f"the run refers to a file by the name {shorten(name)!r}, which is no plain relative path",
            where=str(folder / "run.json"),
            remedy="run the recipe again, and do not trust this folder if somebody else made it",
        )
    root = folder.resolve()
    path = (root / PurePosixPath(name)).resolve()
    if not path.is_relative_to(root):
        raise OutputError(
            f"the run refers to {shorten(name)!r}, which lies outside its folder",
            where=str(folder / "run.json"),
            remedy="do not trust this folder if somebody else made it",
        )
    return path if path.is_file() else None


def find_kind(folder: Path, name: str, kinds: Kinds) -> tuple[Path, str, str] | None:
    """Return the file that a run calls `name`, its extension and media type; None if it is missing or of no such kind.

    Raises:
        OutputError: as `find_file`.
    """
    path = find_file(folder, name)
    if path is None:
        return None
    with path.open("rb") as stream:
        start = stream.read(8)
    return next(((path, *kind) for magic, kind in kinds.items() if start.startswith(magic)), None)


def content_name(path: Path) -> str:
    """Return twenty hexadecimal digits that depend on the file's bytes only."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=10)).hexdigest()


def place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`: a hard link where the file system has them, a copy elsewhere."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new text, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
