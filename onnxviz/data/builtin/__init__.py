"""The built-in models and the built-in labelled data set, so that a first run needs no file from anywhere else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from onnxviz.core.errors import SelectionError, nearest
from onnxviz.core.values import Preprocessing
from onnxviz.data.base import DataSource
from onnxviz.data.builtin.scenes import CLASSES, PREPROCESSING, SceneSet, Split

__all__ = ["MODELS", "BuiltinModel", "BuiltinSettings", "SceneSet", "model", "scenes"]


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """A trained model that comes with the package.

    Attributes:
        name: how recipes call it.
        path: the ONNX file.
        preprocessing: how an image becomes its input.
        labels: class names, in the order of the logits.
        description: one sentence.
    """

    name: str
    path: Path
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    description: str

    @property
    def accuracy(self) -> float:
        """The part of the held-out scenes that it names rightly, 0 to 1, by ONNX Runtime on this file."""
        facts = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))
        return float(facts["accuracy"])


def _builtin(name: str, description: str) -> BuiltinModel:
    return BuiltinModel(name, Path(__file__).with_name(f"{name}.onnx"), PREPROCESSING, CLASSES, description)


MODELS: dict[str, BuiltinModel] = {
    model.name: model
    for model in (
        _builtin("scenes", "Names the shape and the texture of the main object of a scene; six convolutions."),
        _builtin("scenes_second", "The same network trained again from other random weights."),
    )
}
"""The built-in models by name."""


def model(name: str) -> BuiltinModel:
    """Return the built-in model of that name; raises SelectionError, with the nearest names, if there is none."""
    if name not in MODELS:
        raise SelectionError(
            f"there is no built-in model {name!r}",
            remedy=nearest(name, MODELS) or f"the built-in models are {', '.join(MODELS)}",
        )
    return MODELS[name]


def scenes(count: int = 200, seed: int = 0, size: int = 64, split: Split = "test") -> SceneSet:
    """Return the built-in data set; scenes are drawn when they are read.

    Args:
        count: number of scenes.
        seed: another seed gives other scenes.
        size: side of the pictures in pixels, 16 to 4096.
        split: "train", "validation" or "test"; the built-in models learned from "train" with seed 0.

    Returns:
        A concept set, which is also an image source.

    Raises:
        DataError: an argument is out of its range.
    """
    return SceneSet(count, seed, size, split)


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
        return scenes(count=self.count, seed=self.seed, size=self.size, split=self.split)

    @property
    def in_words(self) -> str:
        """How it was generated."""
        return f"{self.builtin}: {self.count} generated images, {self.size} pixels, seed {self.seed}"
