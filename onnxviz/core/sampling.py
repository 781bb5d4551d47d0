"""Some of many things, spread evenly, so that what is left out is left out everywhere alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def spread_evenly(items: Sequence[_Item], most: int) -> list[_Item]:
    """Return so many of the items at most, spread evenly and in their order: the first, and no item twice."""
    count = min(most, len(items))
    return [items[place * len(items) // count] for place in range(count)]
