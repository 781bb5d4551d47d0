"""COCO's annotations of instances (Lin et al. 2014): one JSON file with images, categories and outlines."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from onnxviz.core import limits
from onnxviz.core.errors import DataError, beginning, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.wording import counted, listed
from onnxviz.data.concepts import Concept, LabelledFiles, is_void
from onnxviz.data.decode import check_image, image_size
from onnxviz.data.files_below import FilesBelow
from onnxviz.data.labelled.outlines import Mask, decode_runs, polygon_mask, runs_mask
from onnxviz.data.labelled.tables import inside

_TOLD = 8
_LARGEST_ID = 1 << 53

Outline = tuple[npt.NDArray[np.float64], ...] | str | npt.NDArray[np.int64]
"""Polygons, points [N, 2] of x and y each; or runs of pixels, as a text or as numbers."""


@dataclass(slots=True)
class _Image:
    """An image of the file: its name, height and width, and its regions, each with its category's id."""

    name: str
    size: tuple[int, int]
    regions: list[tuple[int, Outline]] = field(default_factory=list)


@dataclass(frozen=True, eq=False, kw_only=True)
class CocoSet(LabelledFiles):
    """Images with regions of objects.

    Attributes:
        sizes: for each image its height and width in pixels.
        regions: for each image its regions, each with its concept's index.
        content: SHA-256 of the JSON file.
    """

    sizes: tuple[tuple[int, int], ...]
    regions: tuple[tuple[tuple[int, Outline], ...], ...]
    content: str

    @classmethod
    def find(cls, name: str, file: Path, limit: int | None = None) -> CocoSet:
        """Open a file of annotations; images that cannot be used are skipped and listed.

        Args:
            name: the data set's name in the recipe.
            file: such as annotations/instances_val2017.json.
            limit: use at most so many images, spread evenly over those of the file.

        Raises:
            DataError: if the file is no such one, with all that is wrong in it, or no image can be used.
        """
        entries, content = _read(file)
        images, concepts, numbers = _Faults(file).read(entries)
        folder = _folder_of(file, images)
        skipped: list[tuple[str, str]] = []
        notes: list[tuple[str, str]] = []
        used: list[_Image] = []
        for image in images if limit is None else spread_evenly(images, limit):
            try:
                path = folder / inside(image.name)
                remark = check_image(path)
                if (size := image_size(path)) != image.size:
                    stated = f"{image.size[1]} x {image.size[0]}"
                    raise DataError(f"is {size[1]} x {size[0]} pixels, {file.name} says {stated}")
            except DataError as fault:
                skipped.append((image.name, fault.what))
                continue
            used.append(image)
            notes += [(image.name, remark)] * bool(remark)
        if not used:
            first, reason = skipped[0] if skipped else (file.name, "lists no image")
            what = f"none of {counted(len(images), 'image')} can be used; {shorten(first)}: {reason}"
            raise DataError(what, where=f"data {name!r}")
        names = tuple(image.name for image in used)
        return cls(
            name=name,
            names=names,
            paths=FilesBelow(folder, names),
            skipped=tuple(skipped),
            notes=tuple(notes),
            found=len(images),
            concepts=concepts,
            numbers=np.arange(len(concepts) + 1, dtype=np.int32),
            sizes=tuple(image.size for image in used),
            regions=tuple(
                tuple((numbers[category], outline) for category, outline in image.regions if numbers[category])
                for image in used
            ),
            content=content,
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over images, concepts and the JSON file."""
        return hashlib.sha256(f"{super().digest}/{self.content}".encode()).hexdigest()

    def label_files(self, index: int) -> tuple[Path, ...]:  # noqa: ARG002 - the JSON file is read once
        """Return nothing: the labels are in the JSON file, of which `content` is the digest."""
        return ()

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's labels as int32 [layers, height, width]; objects that overlap lie in different layers.

        Raises:
            DataError: if an outline stands for no region of the image.
        """
        size = self.sizes[index]
        masks: dict[int, Mask] = {}
        for concept, outline in self.regions[index]:
            try:
                found = region(outline, size)
            except DataError as fault:
                where = f"{self.name}: {shorten(self.names[index])}"
                raise DataError(f"a region has {fault.what}", where=where) from fault
            masks[concept] = masks[concept] | found if concept in masks else found
        layers = [np.zeros(size, np.int32)]
        for concept, mask in masks.items():
            free = next((layer for layer in layers if not layer[mask].any()), None)
            if free is None:
                layers.append(free := np.zeros(size, np.int32))
            free[mask] = concept
        return np.stack(layers)


def region(outline: Outline, size: tuple[int, int]) -> Mask:
    """Return the pixels of a region, bool [height, width]; raises DataError if it stands for none."""
    if isinstance(outline, tuple):
        found = np.zeros(size, np.bool_)
        for points in outline:
            found |= polygon_mask(points, size)
        return found
    return runs_mask(decode_runs(outline) if isinstance(outline, str) else outline.tolist(), size)


def is_coco(folder: Path) -> bool:
    """Return whether a folder is laid out as COCO's: annotations/instances_val2017.json."""
    return any((folder / "annotations").glob("instances_*.json"))


def annotations_of(folder: Path, split: str | None = None) -> Path | None:
    """Return the file of instances of a folder that is laid out as COCO's, or None if it is not.

    Raises:
        DataError: if there are several and `split` does not say which.
    """
    files = {path.stem.removeprefix("instances_"): path for path in (folder / "annotations").glob("instances_*.json")}
    if not files:
        return None
    if split is None and len(files) == 1:
        return next(iter(files.values()))
    if split not in files:
        what = f"{len(files)} files of instances" if split is None else f"no split {shorten(split)!r}"
        known = listed([shorten(one, 40) for one in sorted(files)], _TOLD)
        raise DataError(what, where=shorten(str(folder / "annotations"), 200), remedy=f"the splits are {known}")
    return files[split]


def _read(file: Path) -> tuple[Mapping[str, Any], str]:
    where = shorten(str(file), 200)
    try:
        if file.stat().st_size > limits.LABEL_INDEX_BYTES:
            raise DataError(f"larger than {limits.LABEL_INDEX_BYTES >> 20} MiB", where=where)
        content = file.read_bytes()
        found = json.loads(content)
    except OSError as fault:
        raise DataError(f"cannot be read: {fault.strerror}", where=where) from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"is no JSON: {beginning(str(fault))}", where=where) from fault
    parts = ("images", "categories", "annotations")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), list) for part in parts):
        raise DataError("has no lists of images, categories and annotations", where=where)
    return found, hashlib.sha256(content).hexdigest()


class _Faults:
    """What is wrong in a file, collected."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[str] = []

    def read(self, found: Mapping[str, Any]) -> tuple[list[_Image], tuple[Concept, ...], dict[int, int]]:
        """Return images, concepts, and for each category's id its concept's index, 0 for none.

        Raises:
            DataError: with all that is wrong.
        """
        concepts, numbers = self.categories(found["categories"])
        images = self.images(found["images"])
        self.annotations(found["annotations"], images, numbers)
        if not concepts and not self.found:
            self.found.append("categories: no concept")
        if self.found:
            raise DataError(listed(self.found, _TOLD, "; "), where=shorten(str(self.file), 200))
        return list(images.values()), concepts, numbers

    def add(self, part: str, place: int, what: str) -> None:
        """Note what is wrong with an entry."""
        self.found.append(f"{part}[{place}]: {what}")

    def entries(self, part: str, items: Sequence[Any], key: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield the place, the number in `key` and the rest of each entry that has one."""
        for place, item in enumerate(items):
            number = item.get(key) if isinstance(item, dict) else None
            if type(number) is int and 0 <= number < _LARGEST_ID:
                yield place, number, item
            else:
                self.add(part, place, f"has no whole number as {key!r}")

    def categories(self, items: Sequence[Any]) -> tuple[tuple[Concept, ...], dict[int, int]]:
        """Return the concepts, and for each category's id its concept's index, 0 for none."""
        concepts: list[Concept] = []
        numbers: dict[int, int] = {}
        known: dict[str, int] = {}
        for place, number, item in self.entries("categories", items, "id"):
            name = item.get("name")
            if not isinstance(name, str):
                self.add("categories", place, "has no text as 'name'")
            elif number in numbers or known.setdefault(name.casefold(), number) != number:
                self.add("categories", place, f"the id {number} or the name {shorten(name)!r} is there twice")
            elif is_void(name):
                numbers[number] = 0
            else:
                concepts.append(Concept(len(concepts) + 1, name))
                numbers[number] = len(concepts)
        return tuple(concepts), numbers

    def images(self, items: Sequence[Any]) -> dict[int, _Image]:
        """Return the images by id."""
        images: dict[int, _Image] = {}
        names: set[str] = set()
        for place, number, item in self.entries("images", items, "id"):
            name, height, width = item.get("file_name"), item.get("height"), item.get("width")
            if not isinstance(name, str) or not (_is_count(height) and _is_count(width)):
                self.add("images", place, "needs a text as 'file_name', and numbers as 'height' and 'width'")
            elif height * width > limits.IMAGE_PIXELS:
                self.add("images", place, f"{width} x {height} pixels are too many")
            elif number in images or name in names:
                self.add("images", place, f"the id {number} or the name {shorten(name)!r} is there twice")
            else:
                names.add(name)
                images[number] = _Image(name, (height, width))
        return images

    def annotations(self, items: Sequence[Any], images: Mapping[int, _Image], numbers: Mapping[int, int]) -> None:
        """Give each image its regions."""
        for place, number, item in self.entries("annotations", items, "image_id"):
            category = item.get("category_id")
            image = images.get(number)
            if image is None:
                self.add("annotations", place, f"there is no image {number}")
            elif not isinstance(category, int) or category not in numbers:
                self.add("annotations", place, f"there is no category {shorten(str(category))}")
            else:
                try:
                    image.regions.append((category, _outline(item.get("segmentation"), image.size)))
                except DataError as fault:
                    self.add("annotations", place, fault.what)


def _outline(found: Any, size: tuple[int, int]) -> Outline:
    """Return a region as it is kept; raises DataError if it is none."""
    if isinstance(found, dict):
        runs = found.get("counts")
        if found.get("size") != list(size):
            raise DataError(f"runs of size {shorten(str(found.get('size')))}, where the image has {list(size)}")
        if isinstance(runs, str):
            return runs
        if isinstance(runs, list) and all(type(run) is int and 0 <= run <= limits.IMAGE_PIXELS for run in runs):
            return np.array(runs, np.int64)
        raise DataError("runs that are neither numbers nor a text")
    if isinstance(found, list) and all(isinstance(polygon, list) for polygon in found):
        if all(len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_finite, polygon)) for polygon in found):
            return tuple(np.array(polygon, np.float64).reshape(-1, 2) for polygon in found)
        raise DataError("a polygon that is no list of x and y of three points or more")
    raise DataError("'segmentation' is neither polygons nor runs of pixels")


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and abs(value) < 1e9


def _folder_of(file: Path, images: Sequence[_Image]) -> Path:
    """Return the folder of the images: where the first that is anywhere lies; that of the file if none is."""
    split = file.stem.removeprefix("instances_")
    above = file.parent.parent
    places = [file.parent, file.parent / "images", above / split, above / "images" / split, above / "images", above]
    for image in images[:100]:
        for folder in places:
            try:
                if (folder / inside(image.name)).is_file():
                    return folder
            except (DataError, OSError):
                continue
    return file.parent
