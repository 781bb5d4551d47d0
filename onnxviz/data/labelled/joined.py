"""Several labelled data sets as one: the same name in the same category is one concept."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import shorten
from onnxviz.core.wording import counted, listed
from onnxviz.data.base import ImageSource
from onnxviz.data.concepts import Concept
from onnxviz.data.decode import Pixels

_TOLD = 3


class JoinedSets:
    """The images of several sets, one set behind the other; a set's labels are its own.

    An image has labels of those categories alone that its set has, so a concept is compared over the images of the sets
    that are labelled for its category.
    """

    def __init__(self, name: str, sets: Sequence[tuple[str, ImageSource]]) -> None:
        """Join sets, each under a name of its own; one without labels of its pixels has none."""
        self.name = name
        self.set_names = tuple(title for title, _ in sets)
        self.sets = tuple(source for _, source in sets)
        self._ends = list(itertools.accumulate(len(source) for source in self.sets))
        self.names = tuple(f"{title}/{image}" for title, source in sets for image in source.names)
        concepts: dict[tuple[str, str], Concept] = {}
        self._numbers: list[npt.NDArray[np.int32]] = []
        for source in self.sets:
            own: Sequence[Concept] = getattr(source, "concepts", ())
            numbers = np.zeros(max((concept.index for concept in own), default=0) + 1, np.int32)
            for concept in own:
                joined = Concept(len(concepts) + 1, concept.name, concept.category)
                numbers[concept.index] = concepts.setdefault(_key(concept), joined).index
            self._numbers.append(numbers)
        self.concepts = tuple(concepts.values())
        self.categories = tuple(dict.fromkeys(concept.category for concept in self.concepts))
        self.found = sum(int(getattr(source, "found", 0)) or len(source) for source in self.sets)
        self.skipped = self._told("skipped")
        self.notes = self._told("notes")
        self.remarks = tuple(self._remarks())

    def __len__(self) -> int:
        return self._ends[-1]

    def set_of(self, index: int) -> str:
        """Return the name of the set that an image belongs to."""
        return self.set_names[self._place(index)[0]]

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each image in pixels."""
        return tuple(size for source in self.sets for size in getattr(source, "sizes", ()))

    @cached_property
    def digest(self) -> str:
        """Changes with the images and labels of each set, and with the sets' names."""
        parts = (f"{title}/{source.digest}\n" for title, source in zip(self.set_names, self.sets, strict=True))
        return hashlib.sha256("".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def read(self, index: int) -> Pixels:
        """Return an image as uint8 [height, width, 3]; raises DataError if it cannot be read."""
        place, inner = self._place(index)
        return self.sets[place].read(inner)

    def stored(self, index: int) -> npt.NDArray[Any]:
        """Return an image as its file holds it; raises as `read`."""
        place, inner = self._place(index)
        source = self.sets[place]
        found: npt.NDArray[Any] = getattr(source, "stored", source.read)(inner)
        return found

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's labels as int32 [layers, height, width]; raises DataError as its set does."""
        place, inner = self._place(index)
        source = self.sets[place]
        if not hasattr(source, "read_labels"):
            return np.zeros((1, *source.read(inner).shape[:2]), np.int32)
        found: npt.NDArray[np.int32] = self._numbers[place][source.read_labels(inner)]
        return found

    def _place(self, index: int) -> tuple[int, int]:
        place = bisect.bisect_right(self._ends, index)
        return place, index - (self._ends[place - 1] if place else 0)

    def _told(self, attribute: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            (f"{title}/{image}", what)
            for title, source in zip(self.set_names, self.sets, strict=True)
            for image, what in getattr(source, attribute, ())
        )

    def _remarks(self) -> Iterator[str]:
        counts = [f"{shorten(title)} {counted(len(source), 'image')}"
                  for title, source in zip(self.set_names, self.sets, strict=True)]  # fmt: skip
        yield f"{len(self.sets)} sets are joined: {', '.join(counts)}"
        for title, source in zip(self.set_names, self.sets, strict=True):
            yield from (f"{shorten(title)}: {remark}" for remark in getattr(source, "remarks", ()))
        for category in self.categories:
            having = [(title, {_key(concept) for concept in getattr(source, "concepts", ())
                               if concept.category == category})
                      for title, source in zip(self.set_names, self.sets, strict=True)]  # fmt: skip
            labelled = [(title, keys) for title, keys in having if keys]
            every = set().union(*(keys for _, keys in labelled))
            lacking = [f"{shorten(title)} lacks {len(every - keys):,}" for title, keys in labelled if every - keys]
            if lacking:
                yield (
                    f"the sets name different concepts of the category {shorten(category)!r}, {listed(lacking, _TOLD)} "
                    f"of {len(every):,}; what a set does not name counts as absent from its images"
                )


def _key(concept: Concept) -> tuple[str, str]:
    return " ".join(concept.name.casefold().split()), concept.category
