"""Where one thing says that an image shows one class, and another thing another."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from onnxviz.core.errors import shorten
from onnxviz.data.ground_truth import ClassOrigin, Statement
from onnxviz.data.image_choice import class_named, class_of, known_class
from onnxviz.data.images import ImageSource

_First = TypeVar("_First")
_Second = TypeVar("_Second")
_WORDS: Mapping[ClassOrigin, str] = {
    "pattern": "the pattern of classes",
    "table": "labels.csv",
    "folder": "the folder",
    "file name": "the WordNet id in the file's name",
}


@dataclass(slots=True)
class _Pairs:
    """The class numbers of a table, each with the class that it stands beside.

    Attributes:
        seen: each pair with the first image that has it; the class is the index of the name's, or the name itself.
        compared: how many images have both.
        apart: images where they are different classes.
    """

    seen: dict[tuple[int, int | str], int] = field(default_factory=dict)
    compared: int = 0
    apart: list[int] = field(default_factory=list)

    def doubled(self) -> tuple[int | str, list[int]] | None:
        """Return the first class that has several numbers."""
        return _several((what, number) for number, what in self.seen)

    def shared(self) -> tuple[int, list[int | str]] | None:
        """Return the first number that several classes have."""
        return _several(self.seen)


def _several(pairs: Iterable[tuple[_First, _Second]]) -> tuple[_First, list[_Second]] | None:
    """Return the first that stands beside several, and these."""
    beside: dict[_First, list[_Second]] = {}
    for one, other in pairs:
        beside.setdefault(one, []).append(other)
    return next(((one, others) for one, others in beside.items() if len(others) > 1), None)


def contradictions(source: ImageSource, labels: Sequence[str] | None) -> Iterator[str]:
    """Yield a sentence on each two things that say different classes of images, with the number of the images.

    They are numbers and names in a table, and what comes from a pattern, tables, folders and files' names.
    """
    if not hasattr(source, "statements"):
        return
    pairs = _Pairs()
    differing: dict[tuple[ClassOrigin, ClassOrigin], list[tuple[int, Statement, Statement]]] = {}
    compared: dict[tuple[ClassOrigin, ClassOrigin], int] = {}

    @functools.cache  # the search is slow, and many images have the same
    def read(number: int | None, names: tuple[str, ...]) -> int | None:
        return class_of(number, names, labels)

    for index in range(len(source)):
        statements: tuple[Statement, ...] = source.statements(index)
        if statements and statements[0].origin == "table":
            _note_pair(pairs, index, statements[0], labels)
        if len(statements) < 2 or (counted := known_class(source, index, labels)) is None:
            continue
        classes = [read(None if labels and one.origin == "pattern" else one.number, one.names) for one in statements]
        first = next((place for place, found in enumerate(classes) if found == counted), None)
        for place, found in enumerate(classes):
            if first is None or place == first or found is None:
                continue
            both = statements[first].origin, statements[place].origin
            compared[both] = compared.get(both, 0) + 1
            if found != counted:
                differing.setdefault(both, []).append((index, statements[first], statements[place]))
    yield from _on_pairs(source, pairs, labels)
    for (counts, other), found_images in differing.items():
        index, first_said, other_said = found_images[0]
        of_other = "another labels.csv above" if counts == other == "table" else _WORDS[other]
        yield (
            f"{_WORDS[counts]} and {of_other} say different classes of {len(found_images):,} of "
            f"{_images(compared[counts, other])}: {shorten(source.names[index])!r} is {_shown(first_said)} and "
            f"{_shown(other_said)}; {_WORDS[counts]} counts"
        )


def _shown(statement: Statement) -> str:
    return repr(shorten(statement.names[0])) if statement.names else str(statement.number)


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _note_pair(pairs: _Pairs, index: int, said: Statement, labels: Sequence[str] | None) -> None:
    """Add the number and the name of a line, if it has both and the name is one class."""
    if said.number is None or not said.names:
        return
    known = (class_named(name, labels) for name in said.names) if labels else ()
    what: int | str | None
    if labels:
        what = next((found for found in known if found is not None), None)
    else:
        what = " ".join(said.names[0].replace("_", " ").split()).casefold()
    if what is None:
        return
    pairs.compared += 1
    pairs.seen.setdefault((said.number, what), index)
    if labels and what != said.number:
        pairs.apart.append(index)


def _on_pairs(source: ImageSource, pairs: _Pairs, labels: Sequence[str] | None) -> Iterator[str]:
    if not labels:
        if (shared := pairs.shared()) is not None:
            number, names = shared
            listed = ", ".join(repr(shorten(str(name))) for name in names[:3])
            yield (
                f"labels.csv gives the class_index {number} to several names, {listed}: one is wrong, if they are not "
                "synonyms; the model has no class names, so the numbers count"
            )
        return
    if not pairs.apart:
        return
    index = pairs.apart[0]
    number, what = next(pair for pair, place in pairs.seen.items() if place == index)
    name = shorten(labels[int(what)])
    called = f"the class {shorten(labels[number])!r} of the model" if number < len(labels) else "no class of the model"
    yield (
        f"class_index and name in labels.csv are different classes on {len(pairs.apart):,} of "
        f"{_images(pairs.compared)}: {shorten(source.names[index])!r} has the name {name!r}, which is class {what}, "
        f"and the class_index {number}, {called}; {_explained(pairs, labels)}the names count"
    )


def _explained(pairs: _Pairs, labels: Sequence[str]) -> str:
    """Return what may lie behind numbers that are not those of the names."""
    if (twice := pairs.doubled()) is not None:
        what, numbers = twice
        return (
            f"{shorten(labels[int(what)])!r} has the numbers {' and '.join(map(str, sorted(numbers)[:3]))}, so that "
            "some lines are wrong; "
        )
    if len(pairs.seen) < 2:
        return ""
    steps = {number - int(what) for number, what in pairs.seen}
    if len(steps) == 1:
        step = steps.pop()
        from_one = " (perhaps they count from 1; the model counts from 0)" if step == 1 else ""
        return f"every number is {abs(step):,} too {'high' if step > 0 else 'low'} for the model{from_one}; "
    if pairs.shared() is not None:
        return ""
    return "each class has one number, as if they were numbered in another order; "
