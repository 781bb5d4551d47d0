"""Masks of indices in the folders of published data sets: Pascal VOC and ADE20K's scene parsing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxviz.core import limits
from onnxviz.core.errors import DataError, beginning, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.wording import listed
from onnxviz.data.concepts import Concept, MaskFolder, MaskLayout, is_void, read_concepts
from onnxviz.data.labelled.tables import inside, whole_number

Classes = tuple[tuple[Concept, ...], npt.NDArray[np.int32]]

VOC_MASKS, VOC_IMAGES, VOC_SPLITS = "SegmentationClass", "JPEGImages", "ImageSets/Segmentation"
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Of Pascal VOC 2012; name i is value i."""
VOC_BORDER = 255
"""The value of borders and of what is hard to tell: no concept."""
ADE_CLASSES = "objectInfo150.txt"
_ADE_OTHER = 0


def is_voc(folder: Path) -> bool:
    """Return whether a folder is laid out as Pascal VOC's segmentation."""
    return (folder / VOC_MASKS).is_dir() and (folder / VOC_IMAGES).is_dir()


def open_voc(
    name: str, root: Path, limit: int | None = None, split: str | None = None, *, look: bool = True
) -> MaskFolder:
    """Open a folder with JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/.

    The images are those that have a mask, or that a split lists. Values are those of VOC 2012 unless there is a
    classes.txt; 255 is no concept.

    Raises:
        DataError: if the class list, the split or every mask is missing or unusable.
    """
    masked = sorted(path.stem for path in (root / VOC_MASKS).glob("*.png"))
    stems = masked if split is None else _split(root, split)
    if not stems:
        raise DataError("has no mask", where=shorten(str(root / VOC_MASKS), 200))
    chosen = tuple(f"{VOC_IMAGES}/{stem}.jpg" for stem in (stems if limit is None else spread_evenly(stems, limit)))
    has_list = any((root / file).is_file() for file in ("classes.txt", "concepts.csv", "concepts.yaml"))
    concepts, numbers = read_concepts(root) if has_list else _numbered(dict(enumerate(VOC_CLASSES)))
    padded = np.full(max(len(numbers), VOC_BORDER + 1), -1, np.int32)
    padded[: len(numbers)] = numbers
    padded[VOC_BORDER] = 0
    return MaskFolder.of_layout(name, MaskLayout(root, VOC_IMAGES, (VOC_MASKS,), chosen), (concepts, padded), look=look)


def _split(root: Path, split: str) -> list[str]:
    folder = root / VOC_SPLITS
    known = sorted(path.stem for path in folder.glob("*.txt"))
    if split not in known:
        raise DataError(f"no list of the split {shorten(split)!r}", where=shorten(str(folder), 200),
                        remedy=f"there are {listed([shorten(one, 40) for one in known], 8) or 'none'}")  # fmt: skip
    stems = []
    for line, text in enumerate(_lines(folder / f"{split}.txt"), 1):
        if text.strip():
            try:
                stems.append(inside(text.split()[0]))
            except DataError as fault:
                where = f"{shorten(str(folder / split), 200)}.txt, line {line}"
                raise DataError(fault.what, where=where, remedy=fault.remedy) from fault
    return stems


def is_ade(folder: Path) -> bool:
    """Return whether a folder is laid out as ADE20K's scene parsing challenge (150 classes)."""
    return (folder / ADE_CLASSES).is_file() and (folder / "annotations").is_dir()


def open_ade(
    name: str, root: Path, limit: int | None = None, split: str | None = None, *, look: bool = True
) -> MaskFolder:
    """Open a folder with images/, annotations/ and objectInfo150.txt; the splits are folders in the first two.

    The first synonym of a class is its name; 0 is what is none of the classes.

    Raises:
        DataError: if the class list, the split or every mask is missing or unusable.
    """
    values = {_ADE_OTHER: "void"}
    for line, text in enumerate(_lines(root / ADE_CLASSES), 1):
        fields = text.split("\t")
        if line == 1 or not text.strip():
            continue
        value = whole_number(fields[0].strip(), 65_535)
        synonyms = fields[-1].split(",")[0].strip()
        if not value or value in values or len(fields) < 2 or not synonyms:
            what = "is not a number of its own, and behind tabs a name"
            raise DataError(what, where=f"{shorten(str(root / ADE_CLASSES), 200)}, line {line}")
        values[value] = synonyms
    parts = sorted(path.name for path in (root / "annotations").glob("*") if path.is_dir())
    if split is not None and split not in parts:
        raise DataError(f"no split {shorten(split)!r}", where=shorten(str(root / "annotations"), 200),
                        remedy=f"there are {listed([shorten(one, 40) for one in parts], 8) or 'none'}")  # fmt: skip
    chosen = () if split is None else (f"images/{split}",)
    layout = MaskLayout(root, "images", ("annotations",), chosen)
    return MaskFolder.of_layout(name, layout, _numbered(values), limit, look=look)


def _numbered(names: dict[int, str]) -> Classes:
    """Return concepts of the names that are one, and for each value its concept's index: 0 for none, -1 for no name."""
    numbers = np.full(max(names) + 1, -1, np.int32)
    concepts: list[Concept] = []
    for value, name in sorted(names.items()):
        if is_void(name):
            numbers[value] = 0
            continue
        concepts.append(Concept(len(concepts) + 1, name))
        numbers[value] = len(concepts)
    return tuple(concepts), numbers


def _lines(path: Path) -> list[str]:
    where = shorten(str(path), 200)
    try:
        if path.stat().st_size > limits.LABELS_BYTES:
            raise DataError(f"larger than {limits.LABELS_BYTES >> 20} MiB", where=where)
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as fault:
        raise DataError(f"cannot be read: {beginning(str(fault))}", where=where, remedy="save it as UTF-8") from fault
    except OSError as fault:
        raise DataError(f"cannot be read: {fault.strerror}", where=where) from fault
