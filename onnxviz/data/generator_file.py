"""A generator as a recipe's data: an ONNX model that makes images from codes, which pictures are made with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from onnxviz.core.errors import DataError, nearest, shorten
from onnxviz.data.base import DataSource
from onnxviz.data.decode import Pixels
from onnxviz.graph import open_model


@dataclass(frozen=True)
class GeneratorFile:
    """An ONNX model that makes images; as a data set it holds none.

    Attributes:
        name: what the recipe calls it.
        path: the file.
        digest: SHA-256 of the file and its external data.
    """

    name: str
    path: Path
    digest: str
    names: tuple[str, ...] = ()

    @classmethod
    def open(cls, name: str, path: Path) -> GeneratorFile:
        """Look at the file, without torch.

        Raises:
            ModelFileError: if the file cannot be read or is refused as unsafe.
        """
        return cls(name, path, open_model(path).digest)

    def __len__(self) -> int:
        return 0

    def read(self, index: int) -> Pixels:
        """Refuse: it holds no images.

        Raises:
            DataError: always.
        """
        raise DataError(f"a generator holds no image {index}", where=f"data {shorten(self.name)!r}")


class GeneratorSettings(DataSource):
    """A model that makes images from codes, for pictures that are made with what it has learned."""

    kind: ClassVar[str] = "generator"
    paths: ClassVar[tuple[str, ...]] = ("generator",)
    holds_images: ClassVar[bool] = False

    generator: str = Field(description="ONNX file of a decoder or generator, relative to the recipe.")

    def open(self, name: str, base: Path) -> GeneratorFile:
        """Look at the file."""
        return GeneratorFile.open(name, base / self.generator)

    def files(self, base: Path) -> Iterator[Path]:
        """Yield the folders of the file and of what it links to, where its external data lies."""
        file = base / self.generator
        yield from (file.absolute().parent, Path(os.path.realpath(file)).parent)


def generator_file(name: str, data: Mapping[str, Any]) -> GeneratorFile:
    """Return the generator of this name.

    Raises:
        DataError: if the recipe has none.
    """
    known = [entry for entry in data if isinstance(data[entry], GeneratorFile)]
    if name not in known:
        what = "is no generator" if name in data else "is not there"
        raise DataError(
            f"the generator {shorten(name)!r} {what}",
            where="data",
            remedy=nearest(name, known) or "add it under `data:`, for example digits: {generator: decoder.onnx}",
        )
    found: GeneratorFile = data[name]
    return found
