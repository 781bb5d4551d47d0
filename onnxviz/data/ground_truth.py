"""What images show, as people note it: a table beside them, a folder for each class, or the files' names."""

from __future__ import annotations

import csv
import fnmatch
import io
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, TypeAlias

from onnxviz.core import limits
from onnxviz.core.errors import DataError, shorten

PLACE = "{class}"
"""Stands for the class in a pattern on file names."""
HOW = (
    "say what the pictures show, by the model's class names: a labels.csv beside them (columns file,class_index,name), "
    'one folder for each class, or a pattern on the file names such as classes: "{class}_*.jpg"'
)
"""How to make the classes of images known, as an advice."""
ClassOrigin: TypeAlias = Literal["pattern", "table", "missing line", "folder", "file name"]
"""Where an image's class is looked for. In a pattern or a table somebody wrote it down; where the table has no line for
the image, and else, it is looked for in the folder's name, which may mean something else, and in the file's."""
STATED: frozenset[ClassOrigin] = frozenset({"pattern", "table"})
"""Where somebody wrote down what an image shows."""
TABLE = "labels.csv"
"""The tables' name."""
CLASS_COLUMNS = ("class_index", "name", "wnid")
"""Columns of the table that say which class a file shows."""
_CLASS_NUMBER = re.compile(r"0*([0-9]{1,9})(?:\.0*)?")
"""A class number; tables that were once arrays of floats write 3.0."""
_WORDNET = re.compile(r"n\d{8}")
_MOST_STARS = 4
_LONGEST = 200


class Statement(NamedTuple):
    """What one place says of the class of an image: a number, names, both or nothing."""

    origin: ClassOrigin
    number: int | None
    names: tuple[str, ...]


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
    """Return the folder that each image lies in, which may stand for its class; None beside the folders."""
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


class LabelTables:
    """The tables in the folders of images and above, up to the images' common folder."""

    def __init__(self, names: Sequence[str], paths: Sequence[Path]) -> None:
        """Remember images by their names below their common folder; tables are read when they are asked for."""
        self._names = names
        self._paths = paths
        self._tables: dict[Path, dict[str, dict[str, str]] | None] = {}

    def statements(self, index: int) -> list[Statement]:
        """Return what the tables say of an image, the nearest table first."""
        found = []
        for table, name in self._places(index):
            if (line := table.get(name)) is not None:
                number = line.get("class_index")
                names = tuple(text for key in ("name", "wnid") if (text := line.get(key)))
                found.append(Statement("table", int(number) if number else None, names))
        return found

    def __contains__(self, index: int) -> bool:
        """Whether there is a table where one is looked for, whatever it says of the image."""
        return any(True for _ in self._places(index))

    def remarks(self) -> Iterator[str]:
        """Yield which lines name no file; raises DataError if none of a table's lines names one."""
        fitting: dict[int, set[str]] = {}
        for index in range(len(self._paths)):
            for table, name in self._places(index):
                fitting.setdefault(id(table), set()).add(name)
        for folder, found in self._tables.items():
            fit = fitting.get(id(found), ())
            lost = [name for name in found or () if name not in fit and not _is_file(folder, name)]
            if not found or not lost:
                continue
            last = PurePosixPath(lost[0].replace("\\", "/")).name
            hint = f"; {shorten(last)!r} is there" if last != lost[0] and _is_file(folder, last) else ""
            if len(lost) == len(found):
                raise DataError(
                    f"none of its {len(found):,} lines names a file; the first is {shorten(lost[0])!r}{hint}",
                    where=shorten(str(folder / TABLE), 200),
                    remedy="the column `file` names images relative to the folder that the table is in",
                )
            lines = "lines names a file that is" if len(lost) == 1 else "lines name files that are"
            yield f"labels.csv: {len(lost):,} of {len(found):,} {lines} not there: {shorten(lost[0])!r}{hint}"

    def _places(self, index: int) -> Iterator[tuple[dict[str, dict[str, str]], str]]:
        """Yield the tables where an image's line is looked for, each with the image's name there."""
        parts = PurePosixPath(self._names[index]).parts
        for depth, folder in enumerate(self._paths[index].parents[: len(parts)], 1):
            if folder not in self._tables:
                self._tables[folder] = read_table(folder / TABLE)
            table = self._tables[folder]
            if table is not None:
                yield table, "/".join(parts[-depth:])


def _is_file(folder: Path, name: str) -> bool:
    return os.path.isfile(folder / name)  # noqa: PTH113 - False for names that no file can have


def read_table(path: Path) -> dict[str, dict[str, str]] | None:
    """Return the lines of a labels.csv by file name; None if there is none.

    Raises:
        DataError: if it is too large, cannot be read, names no files, holds what is no class number, or gives one file
            two classes.
    """
    if not path.is_file():
        return None
    where = shorten(str(path), 200)
    if path.stat().st_size > limits.LABELS_BYTES:
        raise DataError(f"larger than {limits.LABELS_BYTES >> 20} MiB", where=where)
    try:
        reader = csv.DictReader(io.StringIO(path.read_text("utf-8-sig")))
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise DataError(
            f"cannot be read as a table: {fault}",
            where=where,
            remedy="save it as UTF-8 with the columns file,class_index,name",
        ) from fault
    if "file" not in (reader.fieldnames or ()):
        raise DataError(
            "has no column 'file'" if reader.fieldnames else "is empty",
            where=where,
            remedy="the first line must name the columns: file,class_index,name; call a file that is no such table "
            "otherwise",
        )
    found: dict[str, dict[str, str]] = {}
    for number, row in rows:
        line = {key: value.strip() for key, value in row.items() if isinstance(key, str) and isinstance(value, str)}
        if text := line.get("class_index"):
            line["class_index"] = _class_number(text, f"{where}, line {number}")
        if name := line.get("file"):
            name = PurePosixPath(name).as_posix()
            found[name] = _one_class(name, found.get(name, {}), line, path)
    return found


def _class_number(text: str, where: str) -> str:
    if (number := _CLASS_NUMBER.fullmatch(text)) is None:
        raise DataError(
            f"the class_index {shorten(text)!r} is no class number",
            where=where,
            remedy="classes have whole numbers from 0; leave it empty where the class is not known",
        )
    return number[1]


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
    return " ".join(text.replace("_", " ").split()).casefold()
