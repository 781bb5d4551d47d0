"""The contract of data sources: what a recipe says of a data set, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from onnxviz.core.errors import DataError, nearest, shorten
from onnxviz.data.decode import Pixels

_Source = TypeVar("_Source")


class ImageSource(Protocol):
    """Images by index, wherever they come from; `stored(index)`, if there is one, returns all channels of a file.

    What else a source knows of its images it says as `images.ImageFolder` does: `sizes`, `skipped`, `notes`,
    `class_names_of`, `class_index_of`; and of their pixels as `concepts.ConceptSet` does.
    """

    @property
    def name(self) -> str:
        """The data set's name in the recipe."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """One display name for each image, unique."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever an image does."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Pixels:
        """Return an image as uint8 [height, width, 3], RGB; raises DataError if it cannot be read."""
        ...


class DataSource(BaseModel):
    """Base of all data sources; its fields are what a recipe may say, the first line of its docstring is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]
    """The field that stands for the source in a recipe: `{images: photos/}` is of the kind `images`."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Fields that hold a file, folder or glob, or a list of them, relative to the recipe.

    "labeller.model" is a field of a field; only a text is a path in such a one, a list is none.
    """
    holds_images: ClassVar[bool] = True
    """Whether it can be asked for images."""

    def open(self, name: str, base: Path) -> ImageSource:
        """Open the data set.

        Args:
            name: what the recipe calls it.
            base: the folder that relative paths start from.

        Raises:
            OnnxvizError: if it cannot be used.
        """
        raise NotImplementedError(type(self).__name__)

    def verify(self, opened: ImageSource) -> Iterator[tuple[str, DataError]]:  # noqa: ARG002 - for subclasses
        """Yield what is wrong with what was opened, each with the field that says it."""
        yield from ()

    @property
    def in_words(self) -> str:
        """What it is, for the report."""
        what = getattr(self, self.kind)
        return ", ".join(map(str, what)) if isinstance(what, list) else str(what)

    def files(self, base: Path) -> Iterator[Path]:
        """Yield what a confined process must be able to read: of a glob the part in front of its first sign."""
        for field in self.paths:
            value: Any = self
            for name in field.split("."):
                value = getattr(value, name, None)
            listed = [] if value is None or "." in field else value
            for pattern in [value] if isinstance(value, str) else listed:
                yield base / os.path.expanduser(pattern).split("*")[0].split("?")[0].split("[")[0]  # noqa: PTH111


def data_set(name: str, data: Mapping[str, _Source]) -> _Source:
    """Return the data set of this name; raises DataError if the recipe has none."""
    if name not in data:
        raise no_data_set(name, data)
    return data[name]


def no_data_set(name: str, data: Mapping[str, object]) -> DataError:
    """Return the error that says that a name is none of a recipe's data sets."""
    return DataError(
        f"no data set is called {shorten(name)!r}",
        remedy=nearest(name, data) or f"the recipe has {', '.join(map(shorten, sorted(data))) or 'none'}",
    )
