"""Photographs as a model's input: which files, and how they are cut or stretched to the input's size."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, field_validator

from onnxviz.core.errors import DataError, nearest, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import CROP_FRACTION, Interpolation, Preprocessing
from onnxviz.data.base import DataSource, ImageSource
from onnxviz.data.decode import ARRAY_SUFFIX, FORMATS, Pixels, check_image, image_size, read_image, read_stored
from onnxviz.data.domains import domain_of
from onnxviz.data.ground_truth import (
    STATED,
    TABLE,
    ClassOrigin,
    LabelTables,
    Statement,
    class_in,
    class_pattern,
    folder_classes,
    folder_numbers,
    wordnet_id,
)
from onnxviz.data.patterns import matches

__all__ = [
    "ImageFolder", "ImageSource", "ImagesSettings", "Pixels", "fit_box", "fit_image", "fit_labels", "kept_fraction",
    "load_batch", "read_image",
]  # fmt: skip

SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip
"""What counts as an image when a whole folder is named."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files on disk, in a fixed order.

    Attributes:
        name: the data set's name in the recipe.
        names: the files' names below their common folder, with "/" on every system.
        paths: where the files are.
        skipped: what was left out, with the reason.
        notes: what was used but not as a plain photograph, with the reason (animations).
        found: number of files that the patterns found, before `limit`.
    """

    name: str
    names: tuple[str, ...]
    paths: Sequence[Path]
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    found: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Pixels:
        """Return an image as uint8 [height, width, 3], RGB.

        Raises:
            DataError: if the file cannot be decoded, or has changed since `digest` was asked for.
        """
        # What is computed is stored under a key made of the digest: another image must not take this one's place.
        known = self.__dict__.get("_contents")
        return read_image(self.paths[index], None if known is None else known[index])

    def stored(self, index: int) -> npt.NDArray[Any]:
        """Return an image as its file holds it, any number of channels (`decode.read_stored`); raises as `read`."""
        known = self.__dict__.get("_contents")
        return read_stored(self.paths[index], None if known is None else known[index])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and the bytes of all files, in order."""
        total = hashlib.sha256()
        for name, content in zip(self.names, self._contents, strict=True):
            encoded = name.encode("utf-8", "surrogateescape")
            total.update(len(encoded).to_bytes(8, "big") + encoded + content)
        return total.hexdigest()

    @cached_property
    def _contents(self) -> tuple[bytes, ...]:
        """SHA-256 of each file."""
        return file_digests(self.paths)


@dataclass(frozen=True, eq=False)
class ImageFolder(ImageFiles):
    """Image files that patterns name, and what is said of their classes.

    Attributes:
        classes: pattern that finds each image's class in its name (`ground_truth.class_pattern`); None for none.
    """

    classes: str | None = None

    @classmethod
    def find(
        cls, name: str, patterns: Sequence[str], base: Path, limit: int | None = None, classes: str | None = None
    ) -> ImageFolder:
        """Find the images that patterns name, sorted by name, each once; what cannot be used is skipped and listed.

        Args:
            name: the data set's name in the recipe.
            patterns: files, folders (all images in them and below) or globs; `**` stands for any depth.
            base: the folder that relative patterns start from.
            limit: use at most this many, spread evenly over the sorted list.
            classes: pattern that finds each image's class in its name, such as "{class}_*.jpg".

        Raises:
            DataError: if no image is left.
        """
        files, unmatched = _match(patterns, base)
        skipped = [(pattern, "matches no file") for pattern in unmatched]
        if not files:
            raise _nothing_found(patterns, base, f"data {name!r}")
        root = Path(os.path.commonpath([file.parent for file in files]))
        chosen = sorted(files, key=lambda file: file.relative_to(root).parts)
        if limit is not None:
            chosen = spread_evenly(chosen, limit)
        used: list[tuple[str, Path]] = []
        notes: list[tuple[str, str]] = []
        for file in chosen:
            shown = file.relative_to(root).as_posix()
            try:
                remark = check_image(file)
            except DataError as fault:
                skipped.append((shown, fault.what))
                continue
            used.append((shown, file))
            if remark:
                notes.append((shown, remark))
        if not used:
            first, reason = skipped[-1]
            raise DataError(
                f"none of {len(chosen)} files is an image that can be used; {shorten(first)}: {reason}",
                where=f"data {name!r}",
                remedy=f"give images in one of these formats: {', '.join(FORMATS)}",
            )
        names, paths = zip(*used, strict=True)
        return cls(name, names, paths, tuple(skipped), tuple(notes), len(files), classes)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each image in pixels, from its header."""
        return tuple(image_size(path) for path in self.paths)

    def statements(self, index: int) -> tuple[Statement, ...]:
        """Return all that says what an image shows, that which counts first.

        They are the recipe's pattern or, without one, each `labels.csv` in the image's folder or above it that has a
        line for the image, the nearest first; the folder that the image lies in; the WordNet id that its name begins
        with.
        """
        found: list[Statement] = []
        if self.classes is not None:
            text = class_in(self.names[index], self.classes)
            number = int(text) if text is not None and text.isdecimal() and len(text) < 10 else None
            found.append(Statement("pattern", number, () if text is None else (text,)))
        else:
            found += self._tables.statements(index)
        if (folder := self._folders[index]) is not None:
            found.append(Statement("folder", self._numbers[index], (folder,)))
        if (own := wordnet_id(self.names[index])) is not None:
            found.append(Statement("file name", None, (own,)))
        return tuple(found)

    def _counting(self, index: int) -> tuple[Statement, ...]:
        """Return the statements that count: one that somebody wrote down, or all if nobody did."""
        found = self.statements(index)
        return found[:1] if found and found[0].origin in STATED else found

    def class_names_of(self, index: int) -> tuple[str, ...]:
        """Return the names that the class of an image goes by, the likeliest first."""
        return tuple(name for statement in self._counting(index) for name in statement.names)

    def class_index_of(self, index: int) -> int | None:
        """Return the class number that a pattern, a `labels.csv` or folders called 0, 1, 2 ... state, or None."""
        return next((one.number for one in self._counting(index) if one.number is not None), None)

    def require_classes(self) -> None:
        """Make sure that what is said of the images' classes can be used.

        Raises:
            DataError: if `classes` fits no image, or a `labels.csv` cannot be read, contradicts itself, or names none
                of the files.
        """
        if self.classes is None:
            self.remarks_on_classes  # noqa: B018 - reads the tables
        elif len(self.without_class) == len(self):
            count = f"the {len(self)} images" if len(self) > 1 else "the one image"
            raise DataError(
                f"the pattern {shorten(self.classes)!r} fits none of {count}; the first is {shorten(self.names[0])!r}",
                remedy="a pattern without '/' is held against the last part of the name, suffix included",
            )

    @cached_property
    def without_class(self) -> tuple[str, ...]:
        """Names of the images that `classes` does not fit; none where there is no such pattern."""
        pattern = self.classes
        return () if pattern is None else tuple(name for name in self.names if class_in(name, pattern) is None)

    @cached_property
    def remarks_on_classes(self) -> tuple[str, ...]:
        """What is not used of what is written down on the images' classes; raises as `require_classes`."""
        if self.classes is None:
            return tuple(self._tables.remarks())
        said: list[str] = []
        if self.without_class:
            fitting = len(self) - len(self.without_class)
            said.append(
                f"the pattern of classes fits {fitting:,} of {len(self):,} images; the class of the others is not "
                f"known, the first of them is {shorten(self.without_class[0])!r}"
            )
        if any((folder / TABLE).is_file() for folder in {path.parent for path in self.paths}):
            said.append(f"{TABLE} is not read, because the recipe has a pattern of classes")
        return tuple(said)

    def class_origin_of(self, index: int) -> ClassOrigin:
        """Return where an image's class is looked for, whether it is found there or not."""
        if self.classes is not None:
            return "pattern"
        if (first := self._counting(index)[:1]) and first[0].origin == "table":
            return "table"
        if index in self._tables:
            return "missing line"
        return "folder" if self._folders[index] is not None else "file name"

    @cached_property
    def _tables(self) -> LabelTables:
        return LabelTables(self.names, self.paths)

    @cached_property
    def _folders(self) -> tuple[str | None, ...]:
        return folder_classes(self.names)

    @cached_property
    def _numbers(self) -> tuple[int | None, ...]:
        return folder_numbers(self._folders)


class ImagesSettings(DataSource):
    """Images from files."""

    kind: ClassVar[str] = "images"
    paths: ClassVar[tuple[str, ...]] = ("images",)

    images: str | list[str] = Field(description="Glob patterns or folders, relative to the recipe.")
    limit: int | None = Field(None, ge=1, description="Use at most so many images, spread evenly over the sorted list.")
    classes: str | None = Field(
        None,
        description="Where the class of each image stands in its file's name: `{class}_*.jpg`; names, numbers or "
        "WordNet ids as in the model's labels. Not given: a labels.csv beside the images or above (file,class_index,"
        "name), else one folder for each class.",
    )

    @field_validator("classes")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            class_pattern(value)
        return value

    def open(self, name: str, base: Path) -> ImageFolder:
        """Find the images."""
        patterns = [self.images] if isinstance(self.images, str) else self.images
        return ImageFolder.find(name, patterns, base, self.limit, self.classes)

    def verify(self, opened: ImageSource) -> Iterator[tuple[str, DataError]]:
        """Make sure that what is said of the images' classes can be used."""
        assert isinstance(opened, ImageFolder)
        try:
            opened.require_classes()
        except DataError as error:
            yield "images" if self.classes is None else "classes", error


def file_digests(paths: Iterable[Path]) -> tuple[bytes, ...]:
    """Return the SHA-256 of each file; raises DataError if one cannot be read."""
    found = []
    for path in paths:
        try:
            with path.open("rb") as stream:
                found.append(hashlib.file_digest(stream, "sha256").digest())
        except OSError as fault:
            raise DataError(f"cannot be read: {fault.strerror}", where=shorten(str(path), 200)) from fault
    return tuple(found)


def fit_image(pixels: npt.NDArray[Any], preprocessing: Preprocessing, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Bring an image to a model's input size.

    Args:
        pixels: uint8 [H, W, 3], RGB; or float32 [H, W, channels] in 0..1.
        preprocessing: says whether to crop, to stretch, or to require the right size.
        size: height and width of the input in pixels.

    Returns:
        float32 [h, w, channels] in 0..1, resized as Pillow does, with its antialiasing unless the preprocessing leaves
        that out; of bytes rounded to 8 bits as there.

    Raises:
        DataError: if `fit` is "none" and the image has another size.
    """
    fitted = _fitted(pixels, preprocessing, size)
    return fitted.astype(np.float32) / np.float32(255) if fitted.dtype == np.uint8 else fitted


def _fitted(pixels: npt.NDArray[Any], preprocessing: Preprocessing, size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return an image at a model's input size, as `fit_image` does, in the numbers that it has."""
    box = fit_box((pixels.shape[0], pixels.shape[1]), preprocessing, size)
    if box == (0.0, 0.0, float(size[0]), float(size[1])) and pixels.shape[:2] == size:
        return pixels
    return _resized(np.ascontiguousarray(pixels), box, size, preprocessing.interpolation or "bilinear")


def _resized(
    pixels: npt.NDArray[Any], box: tuple[float, float, float, float], size: tuple[int, int], how: Interpolation
) -> npt.NDArray[Any]:
    """Return part of an image at another size."""
    if pixels.dtype != np.uint8:  # Pillow resizes one plane of floating numbers at a time
        planes = (_resized_plane(pixels[:, :, channel], box, size, how) for channel in range(pixels.shape[2]))
        return np.stack([plane.clip(0.0, 1.0) for plane in planes], axis=2)
    return _resized_plane(pixels, box, size, how)


def _resized_plane(
    pixels: npt.NDArray[Any], box: tuple[float, float, float, float], size: tuple[int, int], how: Interpolation
) -> npt.NDArray[Any]:
    top, left, bottom, right = box
    if how != "bilinear_aliased":
        kind = Image.Resampling.BICUBIC if how == "bicubic" else Image.Resampling.BILINEAR
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], kind, box=(left, top, right, bottom)))
    above, below, down = _between(top, bottom, size[0], pixels.shape[0])
    before, behind, along = _between(left, right, size[1], pixels.shape[1])
    plane = pixels.ndim == 2
    pixels = pixels[:, :, None] if plane else pixels
    upper, lower = (
        pixels[rows[:, None], before] * (1 - along[:, None]) + pixels[rows[:, None], behind] * along[:, None]
        for rows in (above, below)
    )
    mixed = upper * (1 - down[:, None, None]) + lower * down[:, None, None]
    return mixed[:, :, 0].astype(np.float32) if plane else np.rint(mixed).astype(np.uint8)


def _between(
    start: float, end: float, count: int, size: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return the pixels on both sides of each of so many places, and how far towards the second it is."""
    places = np.clip(start + (np.arange(count) + 0.5) * ((end - start) / count) - 0.5, 0, size - 1)
    first = np.floor(places).astype(np.intp)
    return first, np.minimum(first + 1, size - 1), (places - first).astype(np.float32)


def fit_labels(
    labels: npt.NDArray[np.integer[Any]], preprocessing: Preprocessing, size: tuple[int, int]
) -> npt.NDArray[Any]:
    """Bring integer pixel labels [..., H, W] to a size as `fit_image` does images, taking the nearest label."""
    height, width = labels.shape[-2:]
    top, left, bottom, right = fit_box((height, width), preprocessing, size)
    rows = _nearest_indices(top, bottom, size[0], height)
    columns = _nearest_indices(left, right, size[1], width)
    return np.ascontiguousarray(labels[..., rows[:, None], columns[None, :]])


def fit_box(
    image: tuple[int, int], preprocessing: Preprocessing, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return the part of an image that becomes the model's input: top, left, bottom, right in image pixels.

    With "crop" the image is thought resized so that it just covers size / `kept_fraction` (for a square input: its
    short side becomes that long, rounded), and the centre is cut out. Computing the box first gives the same pixels as
    resizing the whole image, and bounds the work for images of an extreme aspect ratio.

    Raises:
        DataError: if `fit` is "none" and the image has another size.
    """
    height, width = image
    if preprocessing.fit == "none" and image != size:
        raise DataError(
            f"the image is {width} x {height} pixels, the model takes {size[1]} x {size[0]}",
            remedy="set fit: crop or fit: stretch in the preprocessing, or give images of that size",
        )
    if preprocessing.fit != "crop":
        return 0.0, 0.0, float(height), float(width)
    fraction = kept_fraction(image, preprocessing, size)
    scale = max(size[0] / fraction / height, size[1] / fraction / width)
    resized = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    down, across = height / resized[0], width / resized[1]
    return top * down, left * across, (top + size[0]) * down, (left + size[1]) * across


def kept_fraction(image: tuple[int, int], preprocessing: Preprocessing, size: tuple[int, int]) -> float:
    """Return which part of an image's resized short side a crop keeps.

    That is what the user says. Where nobody says, it is `CROP_FRACTION` of an image that covers size / `CROP_FRACTION`
    as it is, and all of a smaller one: cropping that would enlarge it, and cut off what the model was made to see.
    """
    if preprocessing.crop_fraction is not None:
        return preprocessing.crop_fraction
    large = image[0] * CROP_FRACTION >= size[0] and image[1] * CROP_FRACTION >= size[1]
    return CROP_FRACTION if large else 1.0


def load_batch(
    source: ImageSource, indices: Sequence[int], preprocessing: Preprocessing, size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Read images and bring them to a model's input size.

    Returns:
        float32 [N, channels, h, w] in 0..1, in the order of `indices`; RGB, or what the preprocessing has for STORED.

    Raises:
        DataError: if an image cannot be read or does not fit, with its name.
    """
    domain = domain_of(preprocessing)
    pixels = np.empty((len(indices), *size, domain.channels), np.uint8 if domain.photographic else np.float32)
    for place, index in enumerate(indices):
        try:
            pixels[place] = _fitted(domain.sample(source, index), preprocessing, size)
        except DataError as fault:
            if fault.where:
                raise
            raise DataError(fault.what, where=shorten(source.names[index]), remedy=fault.remedy) from fault
    batch = np.empty((len(indices), domain.channels, *size), np.float32)
    return np.divide(pixels.transpose(0, 3, 1, 2), np.float32(255 if domain.photographic else 1), out=batch)


def _nearest_indices(start: float, end: float, count: int, size: int) -> npt.NDArray[np.intp]:
    centres = start + (np.arange(count) + 0.5) * ((end - start) / count)
    indices: npt.NDArray[np.intp] = np.clip(np.floor(centres).astype(np.intp), 0, size - 1)
    return indices


def _match(patterns: Sequence[str], base: Path) -> tuple[list[Path], list[str]]:
    """Return the files that patterns name, each once, and the patterns that name none."""
    files: dict[Path, Path] = {}
    unmatched: list[str] = []
    for pattern in patterns:
        matched = False
        # What is above a link is not above what it leads to.
        start = Path(os.path.realpath(base)) if ".." in Path(pattern).parts else base
        for file in _files_of(pattern, start):
            matched = True
            real = Path(os.path.realpath(file))  # unlike Path.resolve, no exception where links lead in a circle
            files.setdefault(real, Path(os.path.abspath(file)))  # noqa: PTH100 - keeps links' own names
        if not matched:
            unmatched.append(pattern)
    return list(files.values()), unmatched


def _files_of(pattern: str, base: Path) -> Iterator[Path]:
    try:
        literal = base / Path(pattern).expanduser()
        # A name that exists as it stands is taken literally, so that "photo[1].jpg" is found.
        exists = literal.exists()
    except (OSError, ValueError, RuntimeError):
        return
    if exists:
        yield from _images_below(literal) if literal.is_dir() else iter((literal,))
        return
    for path in sorted(matches(pattern, base)):
        if not path.is_dir():
            yield path
        elif "**" not in pattern:  # "photos/**" names folders too: their files are matched on their own
            yield from _images_below(path)


def _images_below(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder; arrays only where there is nothing else, as they may be anything."""
    files = list(_files_below(folder))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    yield from images or files


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(entry for entry in folders if not entry.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in {*SUFFIXES, ARRAY_SUFFIX} and not name.startswith("."):
                yield Path(parent) / name


def _entries(folder: Path) -> list[str]:
    """Return the names of what is in a folder; nothing where it may not be read, as a confined process may not."""
    try:
        return [entry.name for entry in itertools.islice(folder.iterdir(), 10_000)]
    except OSError:
        return []


def require_files(pattern: str, base: Path) -> None:
    """Make sure that a file, folder or glob of images names any; nothing is opened. Raises DataError if it does not."""
    if not _match([pattern], base)[0]:
        raise _nothing_found([pattern], base, shorten(pattern, 200))


def _nothing_found(patterns: Sequence[str], base: Path, where: str) -> DataError:
    first = base / Path(patterns[0] if patterns else "").expanduser()
    if len(patterns) == 1 and first.is_dir():
        named = "" if where == shorten(patterns[0], 200) else f": {shorten(patterns[0], 200)}"
        return DataError(
            "the folder holds no image",
            where=where + named,
            remedy=f"images are files that end in {', '.join(sorted(SUFFIXES))}",
        )
    listed = ", ".join(repr(shorten(entry)) for entry in patterns)
    return DataError(
        f"no image matches {listed} in the folder {shorten(str(base), 200)!r}",
        where=where,
        remedy=(nearest(first.name, _entries(first.parent)) if patterns and first.parent.is_dir() else "")
        or "paths are relative to this folder; name a file, a folder or a glob such as photos/*.jpg",
    )
