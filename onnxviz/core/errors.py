"""Every error that onnxviz raises on purpose.

    OnnxvizError                      exit code 2 unless the command line says otherwise
    ├── RecipeError                   one or more faults in a recipe, each with its place
    ├── ModelError
    │   ├── ModelFileError            the file cannot be read, or is refused as unsafe
    │   ├── UnsupportedOperatorError  the layers asked for need operators that do not convert
    │   └── AgreementError            the converted network, or an imported file, differs
    ├── SelectionError                a layer, unit or class that the model does not have
    ├── DataError                     images, labels or concept data that cannot be used
    │   └── BatchMixedError           a layer whose tensor has no axis of images in front
    ├── OutputError                   the run folder cannot be written or read
    └── AnalysisError                 an analysis cannot do what it was asked
        └── MemoryLimitError          it needs more memory than there is, even for one image

Each message says what is wrong, where, and what to do about it. Raise the facts where they are
known; add the place (the analysis, the file) once, further out.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class OnnxvizError(Exception):
    """Base of all deliberate errors.

    Args:
        what: what is wrong, as a sentence without a final stop.
        where: the file, node, layer or recipe entry concerned; empty if `what` names it.
        remedy: what the user can do, as a sentence without a final stop.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n  {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{advice}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a recipe.

    Attributes:
        message: what is wrong and, where known, the nearest right spelling.
        file: the recipe's name as the user gave it.
        line: counted from 1; 0 if the place is unknown (for example `--set`).
        column: likewise.
        source: the text of that line, for the caret.
    """

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    source: str = ""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        head = f"{place}: {self.message}" if place else self.message
        if not (self.source and self.column):
            return head
        return f"{head}\n    {self.source}\n    {' ' * (self.column - 1)}^"


class RecipeError(OnnxvizError):
    """A recipe was refused; `faults` lists everything that is wrong with it, in order of place."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class ModelError(OnnxvizError):
    """Something about the model."""


class ModelFileError(ModelError):
    """A model file that cannot be read or is refused as unsafe."""


class UnsupportedOperatorError(ModelError):
    """Operators that do not convert; `operators` maps each to the names of the nodes using it."""

    def __init__(self, operators: dict[str, tuple[str, ...]], *, where: str = "", remedy: str = "") -> None:
        self.operators = operators
        listed = "; ".join(
            f"{name} ({', '.join(shorten(node) for node in nodes[:5])}{', ...' if len(nodes) > 5 else ''})"
            for name, nodes in sorted(operators.items())
        )
        super().__init__(f"operators that do not convert: {listed}", where=where, remedy=remedy)


class AgreementError(ModelError):
    """What was made of a model gives other values: the converted network than ONNX Runtime, a file than its source."""


class SelectionError(OnnxvizError):
    """A layer, unit, class or input that the model does not have, or a value that it cannot take."""


class DataError(OnnxvizError):
    """Images, labels or concept data that cannot be used."""


class BatchMixedError(DataError):
    """A layer whose tensor has no axis of images in front, so that no image has an activation of its own."""


class OutputError(OnnxvizError):
    """A run folder that cannot be written or read."""


class AnalysisError(OnnxvizError):
    """An analysis that cannot do what it was asked."""


class MemoryLimitError(AnalysisError):
    """Something that needs more memory than there is, even for one image at a time."""


_NO_ROOM = {
    errno.ENOSPC: "the disk is full: make room, or name another place",
    errno.EDQUOT: "the quota of disk space is used up: make room, or name another place",
    errno.EROFS: "the disk cannot be written to: name another place",
}
"""What the system says where there is no room, whatever was to be written -> what to do."""


def without_room(error: Exception) -> OutputError | None:
    """Return the error for one by which the system says that something cannot be written; None for any other."""
    if not isinstance(error, OSError) or error.errno not in _NO_ROOM:
        return None
    where = error.filename2 or error.filename or ""
    text = f"{'cannot' if where else 'something cannot'} be written: {error.strerror}"
    return OutputError(text, where=shorten(str(where), 200), remedy=_NO_ROOM[error.errno])


def nearest(word: str, candidates: Iterable[str], count: int = 3) -> str:
    """Return "did you mean 'a' or 'b'?" for the candidates closest to `word`, or "" if none is close."""
    pool = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word.lower(), pool, n=count, cutoff=0.6)
    if not close:
        return ""
    return "did you mean " + " or ".join(repr(shorten(pool[key])) for key in close) + "?"


def shorten(text: str, length: int = 80) -> str:
    """Make a name from a model fit for one line of a message: control and bidi characters escaped, middle cut.

    For names only: both ends of a name tell, but a sentence without its middle says something else (`beginning`).
    """
    shown = _printable(text[: 4 * length])
    if len(shown) <= length and len(text) <= 4 * length:
        return shown
    half = (length - 3) // 2
    return f"{shown[:half]}...{_printable(text[-half:])[-half:]}"


def beginning(text: str, length: int = 400) -> str:
    """Make a sentence fit for one line: control and bidi characters escaped; behind a word, the rest of an endless one.

    Endless is what has more characters than a sentence of ours: what another library says of a fault may be.
    """
    shown = _printable(" ".join(text[: 4 * length].split()))
    if len(shown) <= length and len(text) <= 4 * length:
        return shown
    cut = shown[: length - 4]
    return f"{cut.rpartition(' ')[0] or cut} ..."


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(error: Exception) -> str:
    """Return what an error says on one line, for tables and logs; of an error that is not ours only the first line."""
    if isinstance(error, OnnxvizError):
        return "; ".join(" ".join(line.split()) for line in str(error).splitlines())
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {beginning(first)}"
