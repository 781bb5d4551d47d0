"""Files that a pattern names, found in bounded time however the folders are linked."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxviz.core import limits
from onnxviz.core.errors import DataError, shorten


def matches(pattern: str, base: Path) -> Iterator[Path]:
    """Yield the files and folders that a pattern matches.

    Like `glob.glob`, except that `**` does not follow links to folders, that a folder is looked through once, however
    many ways links make to it, that the number of entries looked at is bounded, as a recipe may be a stranger's, and
    that `~` is the home folder.

    Raises:
        DataError: if it leads through too many files.
    """
    whole = Path(pattern).expanduser()
    waiting = deque([(base / whole.anchor, whole.parts[1:] if whole.anchor else whole.parts)])
    seen: set[tuple[int, int, int]] = set()
    looked = 0
    while waiting:
        folder, parts = waiting.popleft()  # short ways first
        try:
            status = folder.stat()
        except (OSError, ValueError):
            continue
        if not parts:
            yield folder
            continue
        first, rest = parts[0], parts[1:]
        if first != "**" and not glob.has_magic(first):
            waiting.append((folder / first, rest))
            continue
        if (key := (status.st_dev, status.st_ino, len(parts))) in seen:
            continue
        seen.add(key)
        entries = _entries(folder)
        looked += len(entries)
        if looked > limits.ENTRIES_LOOKED_AT:
            raise DataError(
                f"the pattern {shorten(pattern)!r} leads through more than {limits.ENTRIES_LOOKED_AT:,} files",
                remedy="name a folder that is nearer to the images",
            )
        waiting.extend(_steps(folder, first, rest, entries))


def _steps(
    folder: Path, first: str, rest: tuple[str, ...], entries: Sequence[os.DirEntry[str]]
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield where a pattern's part leads from a folder, each with the parts that are left."""
    if first == "**":
        yield folder, rest
    for entry in entries:
        if entry.name.startswith(".") and not first.startswith("."):
            continue
        path = folder / entry.name
        if first == "**":
            if entry.is_dir(follow_symlinks=False):
                yield path, ("**", *rest)
            elif not rest:
                yield path, ()
        elif fnmatch.fnmatch(entry.name, first) and (not rest or _is_folder(entry)):
            yield path, rest


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
