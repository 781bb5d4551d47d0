"""What images show, as people note it: a table beside them, a folder for each class, or the files' names."""

from __future__ import annotations

import csv
import fnmatch
import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from onnxviz.core import limits
from onnxviz.core.errors import DataError, shorten

TABLE = "labels.csv"
"""Name of the table that is looked for beside an image."""
CLASS_COLUMNS = ("class_index", "name", "wnid")
"""Columns of the table that say which class a file shows."""
PLACE = "{class}"
"""Stands for the class in a pattern on file names."""
HOW = (
    "say what the pictures show, by the model's class names: a labels.csv beside them (columns file,class_index,name), "
    'one folder for each class, or a pattern on the file names such as classes: "{class}_*.jpg"'
)
"""How to make the classes of images known, as an advice."""
_WORDNET = re.compile(r"n\d{8}")
_MOST_STARS = 4
_LONGEST = 200


@cache
def class_pattern(text: str) -> re.Pattern[str]:
    """Read a pattern on file names: `{class}` is the class, the shortest that fits; `*`, `?` and `[...]` as in globs.

    Raises:
        ValueError: if it does not hold `{class}` once, or is too long or has too many stars.
    """
    if text.count(PLACE) != 1:
        raise ValueError(f"a pattern of classes holds {PLACE} once, such as {PLACE}_*.jpg")
    if len(text) > _LONGEST or text.count("*") > _MOST_STARS:
        raise ValueError(f"a pattern of classes has at most {_LONGEST} characters and {_MOST_STARS} stars")
    before, after = (_glob(part) for part in text.split(PLACE))
    return re.compile(rf"{before}(?P<name>[^/]+?){after}\Z")


def _glob(part: str) -> str:
    return fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z").removesuffix(r")\z")


def class_in(name: str, pattern: str) -> str | None:
    """Return the class that a file's name holds; a pattern without "/" looks at the last part only."""
    found = class_pattern(pattern).match(name if "/" in pattern else PurePosixPath(name).name)
    return found["name"] if found else None


def folder_classes(names: Sequence[str]) -> tuple[str | None, ...]:
    """Return the folder that each image lies in, which may stand for its class; None beside the folders.

    Args:
        names: the files' names below their common folder.
    """
    return tuple(PurePosixPath(name).parent.name or None for name in names)


def folder_numbers(folders: Sequence[str | None]) -> tuple[int | None, ...]:
    """Return the class numbers that folders are called by; None for all unless two are numbers and one of them is 0."""
    plain = [int(name) if name is not None and name.isdecimal() and len(name) < 6 else None for name in folders]
    numbers = set(plain) - {None}
    return tuple(plain) if 0 in numbers and len(numbers) > 1 else (None,) * len(plain)


def wordnet_id(name: str) -> str | None:
    """Return the WordNet id that a file of ImageNet begins with, as in `n01498041_7.jpg`."""
    found = re.match(r"n\d{8}(?=[_.])", PurePosixPath(name).name)
    return found[0] if found else None


def is_wordnet_id(name: str) -> bool:
    """Whether a class is named by its WordNet id."""
    return bool(_WORDNET.fullmatch(name))


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Return the lines of a labels.csv by file name; empty if there is none.

    Raises:
        DataError: if it is too large, cannot be read, names no files, or gives one file two classes.
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > limits.LABELS_BYTES:
        raise DataError(f"larger than {limits.LABELS_BYTES >> 20} MiB", where=shorten(str(path), 200))
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise DataError(
            f"cannot be read as a table: {fault}",
            where=shorten(str(path), 200),
            remedy="save it as UTF-8 with the columns file,class_index,name",
        ) from fault
    if rows and "file" not in rows[0]:
        raise DataError(
            "has no column 'file'",
            where=shorten(str(path), 200),
            remedy="the first line must name the columns: file,class_index,name",
        )
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        line = {key: value.strip() for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
        if name := line.get("file"):
            found[name] = _one_class(name, found.get(name, {}), line, path)
    return found


def _one_class(name: str, before: dict[str, str], line: dict[str, str], path: Path) -> dict[str, str]:
    """Return what two lines of a table say of one file, if they agree."""
    for column in CLASS_COLUMNS:
        first, second = before.get(column), line.get(column)
        if first and second and _comparable(first) != _comparable(second):
            raise DataError(
                f"gives {shorten(name)!r} two classes: {column} {shorten(first)!r} and {shorten(second)!r}",
                where=shorten(str(path), 200),
                remedy="keep one line for each file",
            )
    return {**before, **{column: text for column, text in line.items() if text or column not in before}}


def _comparable(text: str) -> str:
    plain = " ".join(text.replace("_", " ").split()).casefold()
    return plain.lstrip("0") if plain.isdecimal() else plain
