"""Counts and lists as people write them."""

from __future__ import annotations

from collections.abc import Iterable

from onnxviz.core.errors import shorten


def counted(count: int, noun: str) -> str:
    """Return "1 job", "2 jobs", "1,000 jobs"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def listed(names: Iterable[str], most: int = 12, separator: str = ", ", *, length: int = 0) -> str:
    """Return the first names in a row and how many more there are: "a, b and 3 more".

    Args:
        names: in order.
        most: how many are written out.
        separator: what stands between two names.
        length: from which number of characters on a name is cut; 0 leaves names as they are.
    """
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return separator.join(shorten(name, length) if length else name for name in every[:most]) + more
