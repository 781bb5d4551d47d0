"""What all exporters share: how they refuse, and how they write down what their source computes."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from typing import Any


class RefusedError(Exception):
    """The model is refused: what is wrong, and what to do; or a package is missing."""

    def __init__(self, what: str, remedy: str = "", missing: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.missing = missing


def require(name: str) -> Any:
    """Import a framework, or say which one is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as fault:
        raise RefusedError(f"{name} is not installed ({fault})", missing=name) from None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return which versions of them are installed, tensorflow-cpu as tensorflow."""
    found = {}
    for name in packages:
        try:
            found[name.removesuffix("-cpu")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def first_line(fault: BaseException) -> str:
    """Return an exception's class and the first line of what it says."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return f"{type(fault).__name__}: {(lines or [''])[0]}"[:400]


def save_reference(path: str, given: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Write down what a source was given and what it made of it, as `comparison.compare` reads it."""
    import numpy

    arrays = {f"input_{index}": array for index, array in enumerate(given)}
    arrays |= {f"output_{index}": array for index, array in enumerate(outputs)}
    numpy.savez(path, **arrays)


def differ(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Tell whether two runs on the same inputs gave different arrays."""
    import numpy

    pairs = zip(first, second)  # noqa: B905 - old Pythons
    return not all(numpy.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs)
