"""What a recipe says of labelled images, and which format a folder of them has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from onnxviz.core.errors import DataError, shorten
from onnxviz.data.base import DataSource
from onnxviz.data.concepts import ConceptSet, MaskFolder
from onnxviz.data.labelled.broden import BrodenSet, is_broden


class ConceptsSettings(DataSource):
    """Images of which every pixel is labelled with concepts."""

    kind: ClassVar[str] = "concepts"
    paths: ClassVar[tuple[str, ...]] = ("concepts",)

    concepts: str = Field(
        description="Folder with images/, labels/ and classes.txt, or of Broden's format, relative to the recipe."
    )
    limit: int | None = Field(None, ge=1, description="Use at most so many images, spread evenly over the sorted list.")
    split: str | None = Field(None, description="Use the images of this split alone, where the format has splits.")

    def open(self, name: str, base: Path) -> ConceptSet:
        """Find the images that have labels."""
        return open_set(name, self.concepts, base, self.limit, self.split)


def open_set(
    name: str, folder: str | os.PathLike[str], base: Path, limit: int | None = None, split: str | None = None
) -> ConceptSet:
    """Open a folder of labelled images, of the format that its files say.

    Args:
        name: the data set's name in the recipe.
        folder: relative to `base`.
        base: the folder that relative paths start from.
        limit: use at most so many images, spread evenly.
        split: use the images of this split alone.

    Raises:
        DataError: if it cannot be used, or has no splits and one is named.
    """
    root = Path(os.path.abspath(base / Path(folder).expanduser()))  # noqa: PTH100 - keeps links' own names
    if is_broden(root):
        return BrodenSet.find(name, root, limit, split)
    if split is not None:
        raise DataError("has no splits", where=shorten(str(root), 200), remedy="leave `split` out")
    return MaskFolder.find(name, root, base, limit)
