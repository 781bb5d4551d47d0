"""What images show, as people note it: a folder for each class, or the files' names; tables: `label_tables`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, TypeAlias

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
