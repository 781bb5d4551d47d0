"""Folders of images, each called after what is true of its images as a whole: a texture, a scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import DataError, shorten
from onnxviz.data.concepts import Concept, LabelledFiles, is_void
from onnxviz.data.decode import image_size
from onnxviz.data.files_below import FilesBelow
from onnxviz.data.images import ImageFolder


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassFolders(LabelledFiles):
    """Images whose folder names a concept that holds for every pixel of them.

    Attributes:
        sizes: for each image its height and width in pixels.
        labels: for each image its value in `numbers`.
    """

    sizes: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]

    @classmethod
    def find(cls, name: str, root: Path, category: str, limit: int | None = None) -> ClassFolders:
        """Open a folder whose sub-folders are concepts of a category; images outside of them are skipped and listed.

        A sub-folder called void or the like (`is_void`) is no concept, and its images have no label.

        Raises:
            DataError: if there is no image in a sub-folder, or two sub-folders are called alike.
        """
        images = ImageFolder.find(name, ["."], root, limit)
        shown = [path.relative_to(root).as_posix() for path in images.paths]
        inside = [part for part in shown if "/" in part]
        skipped = [*images.skipped, *((part, "lies in no sub-folder") for part in shown if "/" not in part)]
        if not inside:
            raise DataError("no sub-folder has an image", where=f"data {name!r}: {shorten(str(root), 200)}",
                            remedy="each sub-folder is a concept: dotted/photo.jpg")  # fmt: skip
        folders = sorted({PurePosixPath(part).parts[0] for part in inside})
        concepts, numbers = _concepts(folders, category, root)
        return cls(
            name=name,
            names=tuple(inside),
            paths=FilesBelow(root, tuple(inside)),
            skipped=tuple(skipped),
            notes=images.notes,
            found=images.found,
            concepts=concepts,
            numbers=numbers,
            sizes=tuple(image_size(root / part) for part in inside),
            labels=tuple(folders.index(PurePosixPath(part).parts[0]) for part in inside),
        )

    def label_files(self, index: int) -> tuple[Path, ...]:  # noqa: ARG002 - there are none
        """Return nothing: an image's name says it."""
        return ()

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's concept at each of its pixels, int32 [1, height, width]."""
        return np.full((1, *self.sizes[index]), self.numbers[self.labels[index]], np.int32)


def _concepts(folders: list[str], category: str, root: Path) -> tuple[tuple[Concept, ...], npt.NDArray[np.int32]]:
    """Return the concepts, and for each folder its concept's index or 0."""
    concepts: list[Concept] = []
    numbers = np.zeros(len(folders), np.int32)
    known: dict[str, str] = {}
    for place, folder in enumerate(folders):
        if is_void(folder):
            continue
        if (other := known.setdefault(folder.casefold(), folder)) != folder:
            what = f"the folders {shorten(other)!r} and {shorten(folder)!r} are called alike"
            raise DataError(what, where=shorten(str(root), 200), remedy="put their images into one folder")
        concepts.append(Concept(len(concepts) + 1, folder, category))
        numbers[place] = len(concepts)
    if not concepts:
        raise DataError("no sub-folder is called after a concept", where=shorten(str(root), 200))
    return tuple(concepts), numbers
