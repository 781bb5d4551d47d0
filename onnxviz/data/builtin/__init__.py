"""The built-in models and the built-in labelled data set, so that a first run needs no file from anywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, ValidationError

from onnxviz.core.errors import DataError, SelectionError, nearest, shorten
from onnxviz.core.values import Preprocessing
from onnxviz.data.base import DataSource
from onnxviz.data.builtin.scenes import CLASSES, PREPROCESSING, SceneSet, Split

__all__ = ["MODELS", "BuiltinModel", "BuiltinSettings", "SceneSet", "model", "scenes"]


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A trained model that comes with the package: it names the shape and the texture of a scene's main object."""

    name: str
    path: Path
    preprocessing: Preprocessing = PREPROCESSING
    labels: tuple[str, ...] = CLASSES


MODELS: dict[str, BuiltinModel] = {
    name: BuiltinModel(name, Path(__file__).with_name(f"{name}.onnx")) for name in ("scenes", "scenes_second")
}
"""The built-in models by name: the second is the same network trained again from other random weights."""


def model(name: str) -> BuiltinModel:
    """Return the built-in model of that name; raises SelectionError, with the nearest names, if there is none."""
    if name not in MODELS:
        raise SelectionError(
            f"no built-in model is called {shorten(name)!r}",
            remedy=nearest(name, MODELS) or f"known are {', '.join(MODELS)}",
        )
    return MODELS[name]


def scenes(count: int = 200, seed: int = 0, size: int = 64, split: Split = "test") -> SceneSet:
    """Return the built-in data set; scenes are drawn when they are read.

    Args:
        count: number of scenes.
        seed: another seed gives other scenes.
        size: side of the pictures in pixels, 16 to 4096.
        split: "train", "validation" or "test"; the built-in models learned from "train" with seed 0.

    Raises:
        DataError: an argument is out of its range.
    """
    try:
        settings = BuiltinSettings(builtin="scenes", count=count, seed=seed, size=size, split=split)
    except ValidationError as fault:
        wrong = fault.errors()[0]
        raise DataError(
            f"{wrong['loc'][0]} cannot be {wrong['input']!r}",
            where="built-in scenes",
            remedy=wrong["msg"].replace("Input should be", "it must be"),
        ) from None
    return settings.open("scenes", Path())


class BuiltinSettings(DataSource):
    """The built-in labelled data set, generated."""

    kind: ClassVar[str] = "builtin"

    builtin: Literal["scenes"] = Field(description="Which one.")
    count: int = Field(200, ge=1, le=100_000, description="Number of images.")
    seed: int = Field(0, ge=0, description="Another seed gives other images.")
    size: int = Field(64, ge=16, le=4096, description="Side of the square images in pixels.")
    split: Split = Field("test", description="Images that the built-in models learned from (train, seed 0), or others.")

    def open(self, name: str, base: Path) -> SceneSet:  # noqa: ARG002 - it is drawn
        """Return the scenes."""
        return SceneSet(self.count, self.seed, self.size, self.split)

    @property
    def in_words(self) -> str:
        """How it was generated."""
        return f"{self.builtin}: {self.count} generated images, {self.size} pixels, seed {self.seed}"
