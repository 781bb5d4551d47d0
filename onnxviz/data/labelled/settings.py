"""What a recipe says of labelled images, and which format a folder of them has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from onnxviz.core.errors import DataError, shorten
from onnxviz.data.base import DataSource, ImageSource
from onnxviz.data.concepts import ConceptSet, MaskFolder
from onnxviz.data.images import ImageFolder
from onnxviz.data.labelled.annotated import AnnotatedImages
from onnxviz.data.labelled.broden import BrodenSet, is_broden
from onnxviz.data.labelled.class_folders import ClassFolders
from onnxviz.data.labelled.colour_names import ColourNames


class ConceptsSettings(DataSource):
    """Images of which every pixel is labelled with concepts."""

    kind: ClassVar[str] = "concepts"
    paths: ClassVar[tuple[str, ...]] = ("concepts",)

    concepts: str = Field(
        description="Folder with images/, labels/ and classes.txt; of Broden's format; or with a sub-folder of images "
        "for each concept and `category`. Relative to the recipe."
    )
    limit: int | None = Field(None, ge=1, description="Use at most so many images, spread evenly over the sorted list.")
    split: str | None = Field(None, description="Use the images of this split alone, where the format has splits.")
    category: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="What a folder's sub-folders are called after, such as texture: it holds for the whole image.",
    )
    colours: bool = Field(
        False,
        description="Compute the eleven basic colour names of all pixels too, as concepts of the category `colour`; "
        "then the folder's images need no other labels.",
    )

    def open(self, name: str, base: Path) -> ConceptSet:
        """Find the images that have labels, or get some."""
        choice = Choice(self.limit, self.split, self.category)
        annotators = [ColourNames()] * self.colours
        if not annotators:
            return open_set(name, self.concepts, base, choice)
        root = _root(self.concepts, base)
        found: ImageSource
        if choice == Choice(self.limit) and root.is_dir() and not (is_broden(root) or (root / "labels").is_dir()):
            found = ImageFolder.find(name, [str(root)], base, self.limit)
        else:
            found = open_set(name, self.concepts, base, choice)
        return AnnotatedImages(found, annotators)


@dataclass(frozen=True)
class Choice:
    """What is used of a set, and as what.

    Attributes:
        limit: at most so many images, spread evenly.
        split: the images of this split alone.
        category: what sub-folders are called after.
    """

    limit: int | None = None
    split: str | None = None
    category: str | None = None


def open_set(name: str, folder: str | os.PathLike[str], base: Path, choice: Choice | None = None) -> ConceptSet:
    """Open a folder of labelled images, of the format that its files say.

    Args:
        name: the data set's name in the recipe.
        folder: relative to `base`.
        base: the folder that relative paths start from.
        choice: what is used of it.

    Raises:
        DataError: if it cannot be used, or not in the way that is chosen.
    """
    chosen = choice or Choice()
    root = _root(folder, base)
    where = f"data {name!r}: {shorten(str(root), 200)}"
    broden, masks = is_broden(root), (root / "labels").is_dir()
    if chosen.split is not None and not broden:
        raise DataError("has no splits", where=where, remedy="leave `split` out")
    if chosen.category is not None and (broden or masks):
        raise DataError("says itself of which category its concepts are", where=where, remedy="leave `category` out")
    if broden:
        return BrodenSet.find(name, root, chosen.limit, chosen.split)
    if chosen.category is not None and root.is_dir():
        return ClassFolders.find(name, root, chosen.category, chosen.limit)
    return MaskFolder.find(name, root, base, chosen.limit)


def _root(folder: str | os.PathLike[str], base: Path) -> Path:
    return Path(os.path.abspath(base / Path(folder).expanduser()))  # noqa: PTH100 - keeps links' own names
