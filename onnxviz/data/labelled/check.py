"""A labelled data set read from end to end: what it holds, and what is broken where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import DataError, OnnxvizError, one_line, shorten
from onnxviz.data.concepts import ConceptSet
from onnxviz.data.labelled.settings import Choice, format_of, open_set

_MOST_FAULTS = 1000
"""Faults that are told one by one."""
_NAMES = {
    "broden": "Broden",
    "coco": "COCO",
    "voc": "Pascal VOC",
    "ade": "ADE20K scene parsing",
    "masks": "images/, labels/ and a class list",
    None: "sub-folders called after what their images show",
}


@dataclass(frozen=True)
class ConceptCount:
    """How often a concept, or anything of a category, occurs.

    Attributes:
        category: the category.
        name: the concept; "" for the category as a whole.
        concepts: how many concepts that are; 1 for one.
        images: images that have a pixel of it.
        pixels: its pixels, each counted once.
        area: all pixels of the images of the category.
    """

    category: str
    name: str
    concepts: int
    images: int
    pixels: int
    area: int


@dataclass(frozen=True)
class Checked:
    """What was found in a set.

    Attributes:
        form: its format, in words.
        images: images whose labels could be read.
        found: images that there are.
        categories: the counts of each category.
        concepts: the counts of each concept.
        faults: what is broken and where, a line each, up to a bound.
        fault_count: how many faults there are.
        remarks: what else should be known.
    """

    form: str
    images: int
    found: int
    categories: tuple[ConceptCount, ...]
    concepts: tuple[ConceptCount, ...]
    faults: tuple[str, ...]
    fault_count: int
    remarks: tuple[str, ...]


def check(
    path: Path,
    split: str | None = None,
    category: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Checked:
    """Read all of a labelled data set; nothing that is wrong with it is raised.

    Args:
        path: the folder, or COCO's JSON file.
        split: only the images of this split.
        category: what sub-folders are called after, where that is the format.
        progress: is told how many of all images were read.
    """
    words = "none that is known"
    try:
        form = format_of(path)
        words = words if form is None and category is None else _NAMES[form]
        source = open_set(path.name, path.absolute(), Path(), Choice(split=split, category=category, look=False))
    except (OnnxvizError, OSError) as fault:
        return Checked(words, 0, 0, (), (), (one_line(fault),), 1, ())
    faults = [f"{shorten(name, 200)}: {why}" for name, why in getattr(source, "skipped", ())]
    counts = _Counts(source)
    for index, name in enumerate(source.names):
        if progress is not None:
            progress(index, len(source), "")
        try:
            counts.add(source.read_labels(index))
        except DataError as fault:
            place = "" if shorten(name, 200) in fault.where else f"{shorten(name, 200)}: "
            faults.append(f"{place}{one_line(fault)}")
    notes = [f"{shorten(name, 200)}: {what}" for name, what in getattr(source, "notes", ())]
    remarks = [*getattr(source, "remarks", ()), *(counts.unused()), *notes]
    found = max(int(getattr(source, "found", 0)), len(source))
    return Checked(
        words,
        counts.read,
        found,
        tuple(counts.of_categories()),
        tuple(counts.of_concepts()),
        tuple(faults[:_MOST_FAULTS]),
        len(faults),
        tuple(remarks[:_MOST_FAULTS]),
    )


class _Counts:
    """Images and pixels of each concept of a set, and of each of its categories."""

    def __init__(self, source: ConceptSet) -> None:
        self.concepts, self.categories = source.concepts, source.categories
        size = max((concept.index for concept in self.concepts), default=0) + 1
        self.category_of = np.zeros(size, np.intp)
        for concept in self.concepts:
            self.category_of[concept.index] = self.categories.index(concept.category) + 1
        self.images, self.pixels = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.of_category = np.zeros((3, len(self.categories) + 1), np.int64)  # images, pixels with any, all pixels
        self.read = 0

    def add(self, labels: npt.NDArray[np.int32]) -> None:
        """Count an image's labels [layers, height, width]."""
        flat = labels.reshape(len(labels), -1)
        self.read += 1
        for place, layer in enumerate(flat):
            fresh = layer.copy()
            for earlier in flat[:place]:
                fresh[fresh == earlier] = 0
            self.pixels += np.bincount(fresh, minlength=len(self.pixels))
        present = np.unique(flat)
        self.images[present] += 1
        kinds = self.category_of[flat]
        for kind in set(np.unique(kinds).tolist()) - {0}:
            self.of_category[:, kind] += (1, int((kinds == kind).any(axis=0).sum()), flat.shape[1])

    def of_categories(self) -> Iterator[ConceptCount]:
        """Yield the counts of each category."""
        for place, category in enumerate(self.categories, 1):
            images, pixels, area = self.of_category[:, place].tolist()
            yield ConceptCount(category, "", int((self.category_of == place).sum()), images, pixels, area)

    def of_concepts(self) -> Iterator[ConceptCount]:
        """Yield the counts of each concept."""
        for one in self.concepts:
            area = int(self.of_category[2, self.category_of[one.index]])
            images, pixels = int(self.images[one.index]), int(self.pixels[one.index])
            yield ConceptCount(one.category, one.name, 1, images, pixels, area)

    def unused(self) -> Iterator[str]:
        """Yield how many concepts are in no image, and the first of them."""
        lacking = [shorten(concept.name) for concept in self.concepts if not self.images[concept.index]]
        if lacking and self.read:
            count = f"{len(lacking):,} of {len(self.concepts):,} concepts"
            yield f"{count} {'is' if len(lacking) == 1 else 'are'} in no image, the first is {lacking[0]!r}"
