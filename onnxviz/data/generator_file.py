"""A generator as a recipe's data: an ONNX model that makes images from codes, which pictures are made with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from onnxviz.core.errors import DataError, shorten
from onnxviz.data.base import DataSource, data_set
from onnxviz.data.decode import Pixels
from onnxviz.graph import open_model


@dataclass(frozen=True)
class GeneratorFile:
    """An ONNX model that makes images; as a data set it holds none. Its digest is that of the model."""

    name: str
    path: Path
    digest: str
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 0

    def read(self, index: int) -> Pixels:
        """Refuse: it holds no images."""
        raise DataError(f"a generator holds no image {index}", where=f"data {shorten(self.name)!r}")


class GeneratorSettings(DataSource):
    """A model that makes images from codes, for pictures that are made with what it has learned."""

    kind: ClassVar[str] = "generator"
    paths: ClassVar[tuple[str, ...]] = ("generator",)
    holds_images: ClassVar[bool] = False

    generator: str = Field(description="ONNX file of a decoder or generator, relative to the recipe.")

    def open(self, name: str, base: Path) -> GeneratorFile:
        """Look at the file, without torch."""
        path = base / self.generator
        return GeneratorFile(name, path, open_model(path).digest)

    def files(self, base: Path) -> Iterator[Path]:
        """Yield the folders of the file and of what it links to, where its external data lies."""
        file = base / self.generator
        yield from (file.absolute().parent, Path(os.path.realpath(file)).parent)


def generator_file(name: str, data: Mapping[str, Any]) -> GeneratorFile:
    """Return the generator of this name; raises DataError if the recipe has none."""
    found = data_set(name, data)
    if not isinstance(found, GeneratorFile):
        raise DataError(
            f"{shorten(name)!r} is no generator",
            where="data",
            remedy="add one under `data:`, for example digits: {generator: decoder.onnx}",
        )
    return found
