"""What is attributed: a score of one image, computed from what one or several layers give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxviz.analyses import explained_score
from onnxviz.core.values import Layer
from onnxviz.graph.model_output import Head

if TYPE_CHECKING:
    import torch


class Target(ABC):
    """A score of one image, as a function of layers' values; nothing here needs torch before it is computed."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is called in sentences and headings."""

    @property
    @abstractmethod
    def layers(self) -> tuple[Layer, ...]:
        """The layers that it is computed from."""

    @abstractmethod
    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the score of each of some images, on the tape of the values.

        Args:
            values: what each of the layers gives for N images, [N, units, *spatial] (or [N], of one unit).

        Returns:
            [N].
        """

    @property
    def outline(self) -> Outline | None:
        """The part of the image that it is about, where it is about one and that is known."""
        return None


@dataclass(frozen=True)
class Outline:
    """A rectangle on the image.

    Attributes:
        box: top, left, bottom and right as shares of the image.
        what: what the rectangle is, in words.
    """

    box: tuple[float, float, float, float]
    what: str


@dataclass(frozen=True)
class ClassTarget(Target):
    """A class or unit of a head: its logit, or what comes nearest to one.

    Attributes:
        head: one that `graph.targets.resolve_head` gave.
        number: the class or unit.
        positions: where the head has a score for each position, their mean or the highest.
        name: what the class is called.
    """

    head: Head
    number: int
    positions: explained_score.Positions = "mean"
    name: str = ""

    @property
    def title(self) -> str:
        """The class's name, or its number."""
        return self.name or self.head.title(self.number, None)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of the scores."""
        return (explained_score.layer_of(self.head),)

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the class's score."""
        placed = explained_score.score_at_positions(values[0], self.head)[:, self.number]
        return placed.mean(dim=1) if self.positions == "mean" else placed.amax(dim=1)


@dataclass(frozen=True)
class Difference(Target):
    """Why one and not the other: the difference of two scores of the same layers, such as the logits of two classes."""

    first: Target
    second: Target

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.first.title} and not {self.second.title}"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of both."""
        return self.first.layers

    @property
    def outline(self) -> Outline | None:
        """That of the first."""
        return self.first.outline

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return how far the first is above the second."""
        return self.first.score(*values) - self.second.score(*values)


@dataclass(frozen=True, eq=False)
class AtPositions(Target):
    """A class at some positions of a map of scores: their mean.

    Attributes:
        scores_layer: gives the scores, [N, classes, *spatial].
        number: the class.
        places: which of the positions, counted row by row.
        name: what it is called.
    """

    scores_layer: Layer
    number: int
    places: tuple[int, ...]
    name: str

    @property
    def title(self) -> str:
        """The class, and where."""
        return self.name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of the scores."""
        return (self.scores_layer,)

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the mean over the positions."""
        import torch

        flat = values[0].reshape(*values[0].shape[:2], -1)[:, self.number]
        return flat[:, torch.tensor(self.places, device=flat.device)].mean(dim=1)


@dataclass(frozen=True, eq=False)
class DetectionTarget(Target):
    """The class score of one detection: at one position of a detector's maps, decoded as the detector does.

    Attributes:
        classes: the layers with scores of classes, [N, units, *spatial] each, joined position by position.
        objectness: as many layers with the scores of there being an object, or none.
        unit: of the class in each of `classes`.
        object_unit: of the objectness in each of its layers.
        place: the position, counted through all layers.
        powers: of the objectness and of the class score: the detection's score is the product.
        name: what it is called.
        cell: the cell of the grid that the position is, as shares of the image: `Outline.box`; None if not known.
    """

    classes: tuple[Layer, ...]
    objectness: tuple[Layer, ...]
    unit: int
    object_unit: int
    place: int
    powers: tuple[float, float]
    name: str
    cell: tuple[float, float, float, float] | None = None

    @property
    def title(self) -> str:
        """The class, and where."""
        return self.name

    @property
    def outline(self) -> Outline | None:
        """The cell, which is not the box."""
        return None if self.cell is None else Outline(self.cell, CELL)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of class scores, then those of objectness."""
        return (*self.classes, *self.objectness)

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the decoded score at the position."""
        count = len(self.classes)
        found = at_all_positions(values[:count], (self.unit,))[:, 0, self.place]
        if not self.objectness:
            return found
        present = at_all_positions(values[count:], (self.object_unit,))[:, 0, self.place]
        return decoded(present, found, self.powers)


@dataclass(frozen=True, eq=False)
class SimilarityTarget(Target):
    """How near an embedding is to that of another image: the cosine of the angle between them.

    Attributes:
        embedding: the layer, [N, units, *spatial]; taken as one vector.
        reference: the other image's vector.
        name: what it is called.
    """

    embedding: Layer
    reference: tuple[float, ...]
    name: str

    @property
    def title(self) -> str:
        """What it is compared with."""
        return self.name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of the embedding."""
        return (self.embedding,)

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return the cosine similarity."""
        import torch
        from torch.nn import functional

        flat = values[0].flatten(1)
        other = torch.tensor(self.reference, dtype=flat.dtype, device=flat.device)
        return functional.cosine_similarity(flat, other[None], dim=1)


CELL = "the cell of the grid that makes this detection, not its box"


def at_all_positions(values: tuple[torch.Tensor, ...], units: tuple[int, ...]) -> torch.Tensor:
    """Return some units of layers at all of their positions, joined: [N, units, positions]."""
    import torch

    return torch.cat([each.reshape(*each.shape[:2], -1)[:, list(units)] for each in values], dim=2)


def decoded(objectness: torch.Tensor, scores: torch.Tensor, powers: tuple[float, float]) -> torch.Tensor:
    """Return objectness ** powers[0] * scores ** powers[1], of numbers in 0..1; with a finite slope at 0."""
    present, found = (each.clamp(min=1e-12) for each in (objectness, scores))
    return present ** powers[0] * found ** powers[1]
