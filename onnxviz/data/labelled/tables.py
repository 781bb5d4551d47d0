"""Tables of published data sets: text of any size, read line by line, by whoever may mean harm."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from onnxviz.core import limits
from onnxviz.core.errors import DataError, beginning, shorten

Row = dict[str, str]


def rows(path: Path, columns: Collection[str], largest: int = limits.LABELS_BYTES) -> Iterator[tuple[int, Row]]:
    """Yield the number of each line of a table and its fields by column.

    Args:
        path: a CSV file whose first line names its columns.
        columns: those that there must be.
        largest: most bytes of the file.

    Raises:
        DataError: if it cannot be read, is too large, or lacks a column; with the line where there is one.
    """
    where = shorten(str(path), 200)
    line = 1
    try:
        if path.stat().st_size > largest:
            raise DataError(f"larger than {largest >> 20} MiB", where=where)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            if lacking := [name for name in columns if name not in header]:
                raise DataError(
                    f"has no column {' and no column '.join(map(repr, lacking))}",
                    where=where,
                    remedy=f"the first line must name the columns: {','.join(columns)}",
                )
            if len(set(header)) < len(header):
                raise DataError("names a column twice", where=f"{where}, line 1")
            for fields in reader:
                line = reader.line_num
                if len(fields) > len(header):
                    count = f"{len(fields)} fields, where the first line names {len(header)} columns"
                    raise DataError(count, where=f"{where}, line {line}")
                if fields:
                    fields += [""] * (len(header) - len(fields))
                    yield line, dict(zip(header, map(str.strip, fields), strict=True))
    except UnicodeDecodeError as fault:
        raise DataError(f"cannot be read: {beginning(str(fault))}", where=where, remedy="save it as UTF-8") from fault
    except (OSError, csv.Error) as fault:
        system = isinstance(fault, OSError)
        what = (fault.strerror if isinstance(fault, OSError) else "") or str(fault)
        place = where if system else f"{where}, behind line {line}"
        raise DataError(f"cannot be read: {beginning(what)}", where=place) from fault


def whole_number(text: str, largest: int) -> int | None:
    """Return a decimal number from 0 to `largest`, or None for any other text."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(largest))):
        return None
    return number if (number := int(text)) <= largest else None


def inside(name: str) -> str:
    """Return the name of a file below a folder; raises DataError if it would lead out of it."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in path.parts[0]:
        raise DataError(
            f"{shorten(name)!r} is not the name of a file below the folder", remedy="write names as in city/street.jpg"
        )
    return path.as_posix()
