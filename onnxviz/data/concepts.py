"""Pixel-labelled data: images of which every pixel is known to belong to concepts."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxviz.core import limits
from onnxviz.core.errors import DataError, beginning, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import Preprocessing
from onnxviz.core.wording import listed
from onnxviz.core.yaml_source import parse_source, plain
from onnxviz.data.decode import image_size, indices_size, read_indices
from onnxviz.data.images import ImageFiles, ImageFolder, ImageSource, file_digests, fit_labels

VOID_NAMES = frozenset(
    {"void", "background", "bg", "backgroundclass", "unlabelled", "unlabeled", "unlabel", "notlabelled", "notlabeled",
     "nolabel", "unannotated", "unassigned", "undefined", "unclassified", "unknown", "ignore", "ignored", "ignorelabel",
     "dontcare", "donotcare", "outofroi", "none", "null", "nil", "na", "nan", "nothing", "noobject", "invalid", ""}
)  # fmt: skip
"""Names, their letters and digits in lower case, of labels that are no concept."""
DEFAULT_CATEGORY = "object"
MASK_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".pgm")
LARGEST_VALUE = 65_535

_STRETCH = Preprocessing(fit="stretch")
_SAMPLE = 24
"""Masks whose values are looked at when a folder is opened."""
_SAMPLE_PIXELS = 50_000_000
"""Fewer, where those before them have so many pixels: about a second's work."""
_LAYOUT = (
    "a concept folder holds images/, labels/ with a mask of the same name for each image, and classes.txt; "
    "docs/concepts.md has other formats"
)


@dataclass(frozen=True, slots=True)
class Concept:
    """Something a pixel can belong to.

    Attributes:
        index: its number in label arrays, from 1; 0 is no concept.
        name: for example "sky".
        category: the kind of concept, for example "object", "colour" or "texture"; IoU is measured over the images
            that have a label of the concept's category.
    """

    index: int
    name: str
    category: str = DEFAULT_CATEGORY


class ConceptSet(ImageSource, Protocol):
    """Images with labels for every pixel."""

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept that the labels may name."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """The concepts' categories, each once, in order of first appearance."""
        ...

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's labels as int32 [layers, height, width].

        A pixel may carry several labels, one in each layer; values are `Concept.index`, 0 is none.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledFiles(ImageFiles):
    """Image files with files of their pixels' labels.

    Attributes:
        concepts: numbered from 1 in the order of the values.
        numbers: for each value in the files its concept's index, 0 for none, -1 for a value that the class list lacks.
        remarks: what should be known of the labels.
    """

    concepts: tuple[Concept, ...]
    numbers: npt.NDArray[np.int32]
    remarks: tuple[str, ...] = ()

    def label_files(self, index: int) -> tuple[Path, ...]:
        """Return the files that an image's labels are read from."""
        raise NotImplementedError(type(self).__name__)

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The concepts' categories, each once, in order of first appearance."""
        return tuple(dict.fromkeys(concept.category for concept in self.concepts))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names and bytes of images and of their labels' files, and over the concepts."""
        total = hashlib.sha256(super().digest.encode())
        for contents in self._label_contents:
            total.update(b"".join(contents) + b"/")
        total.update(repr([(concept.index, concept.name, concept.category) for concept in self.concepts]).encode())
        total.update(self.numbers.tobytes())
        return total.hexdigest()

    @cached_property
    def _label_contents(self) -> tuple[tuple[bytes, ...], ...]:
        """SHA-256 of the files of each image's labels."""
        return tuple(file_digests(self.label_files(index)) for index in range(len(self)))

    def _digests_of(self, index: int) -> tuple[bytes | None, ...]:
        """Return what the files of an image's labels must have, None where `digest` has not been asked for."""
        known = self.__dict__.get("_label_contents")  # as for images
        return (None,) * len(self.label_files(index)) if known is None else known[index]


@dataclass(frozen=True)
class MaskLayout:
    """Where images and their masks lie: a mask has its image's name, below another folder.

    Attributes:
        root: the folder of both.
        images: the images' folder below it.
        labels: the masks' folders below it, one for each layer of labels.
        chosen: the images, by patterns below `root`; nothing for all in their folder.
    """

    root: Path
    images: str
    labels: tuple[str, ...]
    chosen: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskFolder(LabelledFiles):
    """A folder of images, masks and class names.

    ::

        images/street.jpg        any image, also in sub-folders
        labels/street.png        one value for each pixel: a grey or palette image
        labels/colours/street.png   further labels for the same pixels, if any
        classes.txt              line i (from 0) names value i
        concepts.csv             instead: index,name,category for each value (or concepts.yaml, a list of the same)

    Values called void, background, unlabelled, null, n/a or the like (`is_void`) are no concept. A mask of another size
    than its image, but of its aspect ratio, is brought to the image's size by taking the nearest value.

    Attributes:
        masks: for each image its mask files, one for each label layer.
        sizes: for each image its height and width in pixels.
    """

    masks: tuple[tuple[Path, ...], ...]
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def find(
        cls, name: str, folder: str | Path, base: Path, limit: int | None = None, *, look: bool = True
    ) -> MaskFolder:
        """Open a concept folder; images without a usable mask are skipped and listed.

        Of all masks the header is read, and unless `look` is false of some the values.

        Raises:
            DataError: if the folder, its class list or every mask is missing or unusable, or one of those whose values
                are looked at is damaged or holds a value that the class list lacks.
        """
        root = Path(os.path.abspath(base / Path(folder).expanduser()))  # noqa: PTH100 - keeps links' own names
        for part in (root, root / "images", root / "labels"):
            if not part.is_dir():
                raise DataError(f"no folder {shorten(str(part), 200)!r}", where=f"data {name!r}", remedy=_LAYOUT)
        layers = sorted(entry for entry in (root / "labels").iterdir() if entry.is_dir())
        layout = MaskLayout(root, "images", ("labels", *(f"labels/{entry.name}" for entry in layers)))
        return cls.of_layout(name, layout, read_concepts(root), limit, look=look)

    @classmethod
    def of_layout(
        cls,
        name: str,
        layout: MaskLayout,
        classes: tuple[tuple[Concept, ...], npt.NDArray[np.int32]],
        limit: int | None = None,
        *,
        look: bool = True,
    ) -> MaskFolder:
        """Open images and masks that lie as a layout says, with concepts and their values; raises as `find`."""
        root, (concepts, numbers) = layout.root, classes
        images = root / layout.images
        labels = [root / folder for folder in layout.labels]
        found = ImageFolder.find(name, layout.chosen or [layout.images], root, limit)
        skipped, notes = list(found.skipped), list(found.notes)
        used: list[tuple[str, Path, tuple[Path, ...], tuple[int, int]]] = []
        remedy = ""
        for shown, path in zip(found.names, found.paths, strict=True):
            relative = PurePosixPath(path.relative_to(images).as_posix()).with_suffix("")
            files = tuple(_masks_of(relative, labels))
            try:
                remarks = _check_masks(files, size := image_size(path), layout.labels[0])
            except DataError as fault:
                remedy = fault.remedy
                skipped.append((shown, f"{fault.what}; {remedy}" if remedy else fault.what))
                continue
            used.append((shown, path, files, size))
            notes.extend((shown, remark) for remark in remarks)
        if not used:
            first, reason = skipped[-1]
            raise DataError(
                f"none of {len(found)} images has a usable mask; {shorten(first)}: {reason}",
                where=f"data {name!r}",
                remedy="" if remedy else _LAYOUT,
            )
        names, paths, masks, sizes = zip(*used, strict=True)
        all_masks = [file for of_image in masks for file in of_image]
        looked, void = _look_at_values(all_masks, numbers) if look else (len(all_masks), [])
        remarks = list(_passed_over(root) if layout.labels[0] == "labels" else ())
        if void:
            first = shorten(void[0].relative_to(labels[0]).as_posix())
            remarks.append(
                f"{len(void):,} of the {looked:,} masks that were looked at hold{'s' * (len(void) == 1)} no concept: "
                f"all values are called void or the like; the first is {first!r}"
            )
        if resized := notes[len(found.notes) :]:
            first, what = resized[0]
            remarks.append(
                f"{len(resized):,} of {len(all_masks):,} masks are not of their image's size; {shorten(first)}: {what}"
            )
        if looked < len(all_masks):
            remarks.append(
                f"before the run the values of {looked} of {len(all_masks):,} masks were looked at; all have names"
            )
        return cls(
            name=name,
            names=names,
            paths=paths,
            skipped=tuple(skipped),
            notes=tuple(notes),
            found=found.found,
            masks=masks,
            sizes=sizes,
            concepts=concepts,
            numbers=numbers,
            remarks=tuple(remarks),
        )

    def label_files(self, index: int) -> tuple[Path, ...]:
        """Return an image's masks."""
        return self.masks[index]

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's labels as int32 [layers, height, width], in the image's size.

        Raises:
            DataError: if a mask cannot be decoded, holds a value that the class list lacks, or has changed since
                `digest` was asked for.
        """
        labels = [
            fit_labels(numbered(read_indices(path, content), self.numbers, path), _STRETCH, self.sizes[index])
            for path, content in zip(self.masks[index], self._digests_of(index), strict=True)
        ]
        return np.stack(labels)


def numbered(
    values: npt.NDArray[np.int32],
    concepts: npt.NDArray[np.int32],
    path: Path,
    table: str = "classes.txt or concepts.csv",
) -> npt.NDArray[np.int32]:
    """Return each pixel's concept; `concepts` gives that of each value, raises DataError if it lacks one."""
    outside = (values < 0) | (values >= len(concepts))
    numbers: npt.NDArray[np.int32] = np.where(outside, -1, concepts[np.where(outside, 0, values)])
    if numbers.min() < 0:
        unnamed = [str(value) for value in np.unique(values[numbers < 0]).tolist()]
        named = f"value{'s' * (len(unnamed) > 1)} {listed(unnamed, 8)}"
        raise DataError(
            f"the mask holds the {named}, which the class list does not name",
            where=shorten(str(path), 200),
            remedy=f"add it to {table} ({unnamed[0]},name); name it void if it is no concept",
        )
    return numbers


def _look_at_values(files: Sequence[Path], concepts: npt.NDArray[np.int32]) -> tuple[int, list[Path]]:
    """Read some masks, evenly spread, as they will be read, and return how many, and which of them hold no concept."""
    some, pixels = spread_evenly(files, _SAMPLE), 0
    void: list[Path] = []
    for number, path in enumerate(some, 1):
        numbers = numbered(read_indices(path), concepts, path)
        if not numbers.any():
            void.append(path)
        pixels += numbers.size
        if pixels > _SAMPLE_PIXELS:
            return number, void
    return len(some), void


def is_void(name: str) -> bool:
    """Return whether a label's name says that it is no concept: `__background__`, N/A, "unlabelled or void"."""

    def plain_name(part: str) -> str:
        return "".join(character for character in part.casefold() if character.isalnum())

    parts = [part for part in re.split(r"[/,;|()]|\bor\b|\band\b", name.casefold()) if plain_name(part)]
    return plain_name(name) in VOID_NAMES or all(plain_name(part) in VOID_NAMES for part in parts)


def read_concepts(root: Path) -> tuple[tuple[Concept, ...], npt.NDArray[np.int32]]:
    """Read a concept folder's class list: concepts.csv, concepts.yaml or classes.txt, the first that is there.

    Returns:
        The concepts, and for each mask value its concept's index: 0 for none, -1 for a value that is not listed.
    """
    file = next((file for file in _PARSERS if (root / file).is_file()), "")
    if not file:
        raise DataError("no classes.txt, concepts.csv or concepts.yaml", where=shorten(str(root), 200), remedy=_LAYOUT)
    path = root / file
    where = shorten(str(path), 200)
    try:
        return _number(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as fault:
        raise DataError(f"cannot be read: {beginning(str(fault))}", where=where, remedy="save it as UTF-8") from fault
    except DataError as fault:
        raise DataError(fault.what, where=where, remedy=fault.remedy) from fault


def _rows(path: Path) -> list[tuple[str, str, str]]:
    if path.stat().st_size > limits.LABELS_BYTES:
        raise DataError(f"larger than {limits.LABELS_BYTES >> 20} MiB")
    return list(_PARSERS[path.name](path.read_text("utf-8-sig")))


def _passed_over(root: Path) -> Iterator[str]:
    """Yield what the class lists say that do not count, where it differs from that which does."""
    there = [root / file for file in _PARSERS if (root / file).is_file()]
    counts = {value: name for value, name, _ in _rows(there[0])}
    for path in there[1:]:
        try:
            other = {value: name for value, name, _ in _rows(path)}
        except (OSError, UnicodeDecodeError, csv.Error, DataError):
            yield f"{there[0].name} counts, and {path.name} beside it, which cannot be used, does not"
            continue
        apart = [value for value in {**counts, **other} if not _same(counts.get(value), other.get(value))]
        if apart:
            one, another = (
                "is not named" if name is None else f"is {shorten(name)!r}"
                for name in (counts.get(apart[0]), other.get(apart[0]))
            )
            yield (
                f"{there[0].name} counts, and {path.name} beside it does not: they differ on {len(apart):,} of "
                f"{len({**counts, **other}):,} mask values; {shorten(apart[0])} {one} in the first, and {another} in "
                "the other"
            )


def _same(one: str | None, other: str | None) -> bool:
    return one == other or (one is not None and other is not None and one.casefold() == other.casefold())


def _number(rows: Sequence[tuple[str, str, str]]) -> tuple[tuple[Concept, ...], npt.NDArray[np.int32]]:
    values: dict[int, tuple[str, str]] = {}
    for value, name, category in rows:
        if not (value.isascii() and value.isdecimal() and len(value) < 6 and int(value) <= LARGEST_VALUE):
            raise DataError(
                f"{shorten(value)!r} is not a mask value from 0 to {LARGEST_VALUE}",
                remedy="each entry needs index (the value in the masks) and name; category is optional",
            )
        if int(value) in values:
            raise DataError(f"value {value} is listed twice", remedy="keep one entry for each value")
        values[int(value)] = (name, category or DEFAULT_CATEGORY)
    numbers = np.full(max(values, default=-1) + 1, -1, np.int32)
    concepts: list[Concept] = []
    first: dict[tuple[str, str], int] = {}
    for number, (name, category) in sorted(values.items()):
        if is_void(name):
            numbers[number] = 0
            continue
        key = (" ".join(name.casefold().split()), category)
        if key in first:
            raise DataError(
                f"values {first[key]} and {number} are both called {shorten(name)!r}",
                remedy="give each value a name of its own; values that mean the same must be one value in the masks",
            )
        first[key] = number
        concepts.append(Concept(len(concepts) + 1, name, category))
        numbers[number] = len(concepts)
    if not concepts:
        raise DataError("names no concept", remedy="list at least one class that is not void")
    return tuple(concepts), numbers


def _from_lines(text: str) -> Iterable[tuple[str, str, str]]:
    lines = text.rstrip().splitlines()
    return ((str(value), line.strip(), "") for value, line in enumerate(lines))


def _from_csv(text: str) -> Iterable[tuple[str, str, str]]:
    rows = csv.DictReader(io.StringIO(text))
    if not {"index", "name"} <= set(rows.fieldnames or ()):
        raise DataError(
            "has no columns 'index' and 'name'", remedy="the first line must name the columns: index,name,category"
        )
    return [_entry(row) for row in rows]


def _from_yaml(text: str) -> Iterable[tuple[str, str, str]]:
    node, faults = parse_source(text, "concepts.yaml", Path())
    if faults:
        raise DataError("\n".join(str(fault) for fault in faults[:5]), remedy="see the place marked above")
    rows = plain(node) if node is not None else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("is not a list of entries", remedy="write entries: - {index: 1, name: sky, category: object}")
    return [_entry(row) for row in rows]


def _entry(row: dict[Any, Any]) -> tuple[str, str, str]:
    value = row.get("index")
    fields = [str(value) if isinstance(value, int) else value, row.get("name"), row.get("category") or ""]
    if not all(isinstance(field, str) for field in fields):
        raise DataError(
            f"the entry {shorten(str(row))} needs a number as index and a text as name",
            remedy="write index, name and if wanted category; put a name such as true or 12 in quotes",
        )
    number, name, category = (str(field).strip() for field in fields)
    return number, name, category


_PARSERS = {"concepts.csv": _from_csv, "concepts.yaml": _from_yaml, "classes.txt": _from_lines}
"""The class lists that a concept folder may have; the first that is there counts."""


def _masks_of(relative: PurePosixPath, folders: Sequence[Path]) -> Iterable[Path]:
    """Yield the mask of an image in each label layer that has one."""
    for folder in folders:
        for suffix in MASK_SUFFIXES:
            path = folder / f"{relative}{suffix}"
            if path.is_file():
                yield path
                break


def _check_masks(files: Sequence[Path], size: tuple[int, int], folder: str) -> list[str]:
    if not files:
        raise DataError(f"has no mask in {folder}/")
    remarks = []
    for file in files:
        try:
            height, width = indices_size(file)
        except DataError as fault:
            what = f"its mask {shorten(file.name)} cannot be used: {fault.what}"
            raise DataError(what, remedy=fault.remedy) from fault
        if (height, width) == size:
            continue
        # One side may be rounded, so the ratio holds to less than a pixel of the shorter one.
        if abs(height * size[1] - width * size[0]) >= max(size):
            raise DataError(
                f"its mask {shorten(file.name)} of {width} x {height} pixels has another aspect ratio than the image "
                f"of {size[1]} x {size[0]}",
                remedy="make the mask in the image's size, by the nearest value",
            )
        how = "enlarged" if height < size[0] else "reduced"
        remarks.append(f"mask of {width} x {height} pixels for {size[1]} x {size[0]}: {how}, by the nearest labels")
    return remarks
