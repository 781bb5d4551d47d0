"""Broden's format, as NetDissect publishes it (Bau et al. 2017; its `joinseg.py` writes it, `loadseg.py` reads it).

::

    index.csv       image,split,ih,iw,sh,sw and a column for each category
    label.csv       number,name,category,frequency,coverage,syns
    category.csv    name,first,last,count,frequency
    c_object.csv    code,number,name,frequency,coverage: the labels of a category, one file for each
    images/         images and masks, by the names that index.csv has

A category's column holds the labels of an image, separated by semicolons: numbers, each of which is true of the whole
image, and names of pictures whose pixels are numbers, red + 256 * green. Numbers are label.csv's in all columns; a
label belongs to the category in which its coverage is largest (`primary_categories_per_index`), in whatever column it
stands.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxviz.core import limits
from onnxviz.core.errors import DataError, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import Preprocessing
from onnxviz.core.wording import counted, listed
from onnxviz.data.concepts import LARGEST_VALUE, Concept, LabelledFiles, is_void, numbered
from onnxviz.data.decode import check_image, coded_size, image_size, read_coded
from onnxviz.data.files_below import FilesBelow
from onnxviz.data.images import fit_labels
from onnxviz.data.labelled.tables import Row, inside, rows, whole_number

INDEX, LABELS, CATEGORIES = "index.csv", "label.csv", "category.csv"
_OWN = ("image", "split", "ih", "iw", "sh", "sw")
_LARGEST_SIDE = limits.IMAGE_PIXELS
_STRETCH = Preprocessing(fit="stretch")
_LOOKED_AT = 24
"""Images whose labels are read when a set is opened."""
_TOLD = 8


def is_broden(folder: Path) -> bool:
    """Return whether a folder is of this format, by its files."""
    return all((folder / name).is_file() for name in (INDEX, LABELS, CATEGORIES))


@dataclass(frozen=True, eq=False, kw_only=True)
class BrodenSet(LabelledFiles):
    """Images that index.csv lists, with labels of pixels and of whole images.

    Attributes:
        folder: that of index.csv.
        labels: for each image all its labels as index.csv has them, separated by semicolons.
        heights: for each image its height in pixels.
        widths: for each image its width in pixels.
    """

    folder: Path
    labels: tuple[str, ...]
    heights: npt.NDArray[np.int32]
    widths: npt.NDArray[np.int32]

    @classmethod
    def find(
        cls, name: str, root: Path, limit: int | None = None, split: str | None = None, *, look: bool = True
    ) -> BrodenSet:
        """Open a set; images that cannot be used, or whose labels cannot, are skipped and listed.

        Of all images and masks the header is read, and unless `look` is false of some the values.

        Args:
            name: the data set's name in the recipe.
            root: the folder.
            limit: use at most so many images, spread evenly over index.csv.
            split: use the images of this split alone.
            look: whether the labels of some images are read.

        Raises:
            DataError: if a table cannot be used, no image is left, or one of those whose labels are looked at has one
                that label.csv lacks.
        """
        categories = [row["name"] for _, row in rows(root / CATEGORIES, ("name",))]
        concepts, numbers = read_labels(root, categories)
        entries = _entries(root / INDEX, categories, split)
        if not entries:
            of_split = f" of the split {shorten(split)!r}" if split is not None else ""
            raise DataError(f"lists no image{of_split}", where=shorten(str(root / INDEX), 200))
        usable: list[tuple[str, str, tuple[int, int]]] = []
        skipped: list[tuple[str, str]] = []
        notes: list[tuple[str, str]] = []
        seen: set[str] = set()
        for entry in entries if limit is None else spread_evenly(entries, limit):
            try:
                if entry.image in seen:
                    raise DataError("is listed twice")
                seen.add(entry.image)
                size, remarks = entry.check(root / "images", numbers)
            except DataError as fault:
                skipped.append((entry.image, f"{INDEX}, line {entry.line}: {_in_words(fault)}"))
                continue
            usable.append((entry.image, entry.labels, size))
            notes.extend((entry.image, remark) for remark in remarks)
        if not usable:
            first, reason = skipped[0]
            what = f"none of {len(skipped):,} images can be used; {shorten(first)}: {reason}"
            raise DataError(what, where=f"data {name!r}")
        names, labels, sizes = zip(*usable, strict=True)
        heights, widths = np.array(sizes, np.int32).T
        made = cls(
            name=name,
            names=names,
            paths=FilesBelow(root / "images", names),
            skipped=tuple(skipped),
            notes=tuple(notes),
            found=len(entries),
            concepts=concepts,
            numbers=numbers,
            remarks=tuple(_remarks(len(names)) if look else ()),
            folder=root,
            labels=labels,
            heights=heights,
            widths=widths,
        )
        for index in spread_evenly(range(len(made)), _LOOKED_AT if look else 0):
            made.read_labels(index)
        return made

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each image in pixels."""
        return tuple(zip(self.heights.tolist(), self.widths.tolist(), strict=True))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over images, masks, concepts and what index.csv says of labels."""
        total = hashlib.sha256(super().digest.encode())
        for labels in self.labels:
            total.update(labels.encode() + b"\n")
        return total.hexdigest()

    def label_files(self, index: int) -> tuple[Path, ...]:
        """Return an image's masks."""
        items = self.labels[index].split(";")
        return tuple(self.folder / "images" / item for item in items if whole_number(item, LARGEST_VALUE) is None)

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's labels as int32 [layers, height, width], in the image's size.

        Each mask is a layer, and so is each label of the whole image.

        Raises:
            DataError: if a mask cannot be decoded, holds a number that label.csv lacks, or has changed since `digest`
                was asked for.
        """
        size = (int(self.heights[index]), int(self.widths[index]))
        masks = iter(zip(self.label_files(index), self._digests_of(index), strict=True))
        items = self.labels[index].split(";")
        layers = np.empty((len(items), *size), np.int32)
        for layer, item in zip(layers, items, strict=True):
            number = whole_number(item, LARGEST_VALUE)
            if number is not None:
                layer[:] = self.numbers[number]
                continue
            path, content = next(masks)
            layer[:] = fit_labels(numbered(read_coded(path, content), self.numbers, path, LABELS), _STRETCH, size)
        return layers


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of index.csv.

    Attributes:
        line: counted from 1.
        image: the image's name.
        labels: all its labels, separated by semicolons.
        size: height and width of the image, and of its masks, as they are stated; nothing for what is no number.
    """

    line: int
    image: str
    labels: str
    size: tuple[int | None, ...]

    def check(self, folder: Path, numbers: npt.NDArray[np.int32]) -> tuple[tuple[int, int], list[str]]:
        """Return the image's size and what is to be remarked; raises DataError if it, or a label, cannot be used."""
        path = folder / inside(self.image)
        items = self.labels.split(";") if self.labels else []
        if not items:
            raise DataError("has no label in any category")
        if len(items) > limits.LABEL_LAYERS:
            raise DataError(f"has {len(items):,} labels, more than {limits.LABEL_LAYERS}")
        if None in self.size:
            raise DataError(f"{' and '.join(_OWN[2:])} must be numbers of pixels")
        remark = check_image(path)
        size = image_size(path)
        remarks = [remark] * bool(remark)
        if size != self.size[:2]:
            stated = "{1} x {0}".format(*self.size)
            remarks.append(f"the image is {size[1]} x {size[0]} pixels, {INDEX} says {stated}")
        for item in items:
            number = whole_number(item, LARGEST_VALUE)
            if number is not None:
                if number >= len(numbers) or numbers[number] < 0:
                    raise DataError(f"the label {number} is not in {LABELS}")
                continue
            height, width = coded_size(folder / inside(item))
            if (height, width) != self.size[2:]:
                stated = "{3} x {2}".format(*self.size)
                raise DataError(f"{shorten(item)} is {width} x {height} pixels, {INDEX} says {stated}")
        return size, remarks


def _entries(path: Path, categories: list[str], split: str | None) -> list[_Entry]:
    """Return the lines of index.csv; strings and numbers alone, as there may be many."""
    found: list[_Entry] = []
    sizes: dict[tuple[int | None, ...], tuple[int | None, ...]] = {}
    splits: set[str] = set()
    for line, row in rows(path, (*_OWN, *categories), limits.LABEL_INDEX_BYTES):
        splits.add(row["split"]) if len(splits) < 100 else None
        if split is not None and row["split"] != split:
            continue
        size = tuple(whole_number(row[side], _LARGEST_SIDE) for side in _OWN[2:])
        found.append(_Entry(line, row["image"], _labels_of(row, categories), sizes.setdefault(size, size)))
    if split is not None and not found and splits:
        known = listed([repr(shorten(name, 40)) for name in sorted(splits)], _TOLD)
        raise DataError(f"no image is of the split {shorten(split)!r}", where=shorten(str(path), 200),
                        remedy=f"the splits are {known}")  # fmt: skip
    return found


def _labels_of(row: Row, categories: list[str]) -> str:
    items = (item.strip() for category in categories for item in row[category].split(";"))
    return ";".join(item for item in items if item and item.strip("0"))


def read_labels(root: Path, categories: list[str]) -> tuple[tuple[Concept, ...], npt.NDArray[np.int32]]:
    """Read label.csv and the c_*.csv of some categories.

    Returns:
        The concepts, and for each label's number its concept's index: 0 for none, -1 for a number that is not listed.

    Raises:
        DataError: if a table cannot be used; all that is wrong in them, with its lines.
    """
    faults: list[str] = []
    names: dict[int, str] = {}
    for line, row in rows(root / LABELS, ("number", "name")):
        number, place = whole_number(row["number"], LARGEST_VALUE), f"{LABELS}, line {line}"
        if not number:
            faults.append(f"{place}: {shorten(row['number'])!r} is not a number from 1 to {LARGEST_VALUE}")
        elif number in names:
            faults.append(f"{place}: the number {number} is listed twice")
        else:
            names[number] = row["name"]
    best = _categories_of(root, categories, names, faults)
    faults += [
        f"{LABELS}: the label {number} {shorten(name)!r} is in no c_*.csv of {CATEGORIES}'s categories"
        for number, name in names.items()
        if number not in best and not is_void(name)
    ]
    concepts: list[Concept] = []
    numbers = np.full(max(names, default=0) + 1, -1, np.int32)
    numbers[0] = 0
    known: dict[tuple[str, str], int] = {}
    for number, name in sorted(names.items()):
        if is_void(name):
            numbers[number] = 0
        elif number in best:
            concepts.append(Concept(len(concepts) + 1, name, best[number]))
            numbers[number] = len(concepts)
            if (other := known.setdefault((name.casefold(), best[number]), number)) != number:
                faults.append(f"{LABELS}: the labels {other} and {number} are both called {shorten(name)!r}")
    if faults:
        raise DataError(listed(faults, _TOLD, "; "), where=shorten(str(root), 200))
    if not concepts:
        raise DataError("names no concept", where=shorten(str(root / LABELS), 200))
    return tuple(concepts), numbers


def _categories_of(root: Path, categories: list[str], names: dict[int, str], faults: list[str]) -> dict[int, str]:
    """Return the category of each label: where its coverage is largest, of several the last in category.csv."""
    coverage: dict[int, float] = {}
    best: dict[int, str] = {}
    for category in categories:
        if not re.fullmatch(r"[\w -]+", category):
            faults.append(f"{CATEGORIES}: {shorten(category)!r} is not the name of a category")
            continue
        table = f"c_{category}.csv"
        for line, row in rows(root / table, ("number", "name", "coverage")):
            number, covered = whole_number(row["number"], LARGEST_VALUE), _float(row["coverage"])
            if number not in names or covered is None:
                what = "is not in label.csv" if covered is not None else "has a coverage that is no number"
                faults.append(f"{table}, line {line}: the label {shorten(row['number'])} {what}")
            elif row["name"] != names[number]:
                called = f"is called {shorten(row['name'])!r}, in {LABELS} {shorten(names[number])!r}"
                faults.append(f"{table}, line {line}: the label {number} {called}")
            elif covered >= coverage.get(number, -1.0):
                coverage[number], best[number] = covered, category
    return best


def _float(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) and number >= 0 else None


def _remarks(count: int) -> Iterator[str]:
    if count > _LOOKED_AT:
        looked = f"before the run the labels of {_LOOKED_AT} of {counted(count, 'image')} were looked at"
        yield f"{looked}; all are in {LABELS}"


def _in_words(fault: DataError) -> str:
    place = f"{os.path.basename(fault.where)}: " if fault.where else ""  # noqa: PTH119 - shown, not opened
    return f"{place}{fault.what}"
