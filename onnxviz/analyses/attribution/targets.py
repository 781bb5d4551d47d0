"""What is attributed: a score of an image, of one class or unit, or of a difference between two."""

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
    """A score of one image, as a function of one layer's values; nothing here needs torch before it is computed."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is called in sentences and headings."""

    @property
    @abstractmethod
    def layer(self) -> Layer:
        """The layer that it is computed from."""

    @abstractmethod
    def score(self, values: torch.Tensor) -> torch.Tensor:
        """Return the score of each of some images, on the tape of the values.

        Args:
            values: what the layer gives for N images, [N, units, *spatial] (or [N], of one unit).

        Returns:
            [N].
        """


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
    def layer(self) -> Layer:
        """The layer of the scores."""
        return explained_score.layer_of(self.head)

    def score(self, values: torch.Tensor) -> torch.Tensor:
        """Return the class's score."""
        placed = explained_score.score_at_positions(values, self.head)[:, self.number]
        return placed.mean(dim=1) if self.positions == "mean" else placed.amax(dim=1)


@dataclass(frozen=True)
class Difference(Target):
    """Why one and not the other: the difference of two scores of the same layer, such as the logits of two classes."""

    first: Target
    second: Target

    @property
    def title(self) -> str:
        """Both names."""
        return f"{self.first.title} and not {self.second.title}"

    @property
    def layer(self) -> Layer:
        """The layer of both."""
        return self.first.layer

    def score(self, values: torch.Tensor) -> torch.Tensor:
        """Return how far the first is above the second."""
        return self.first.score(values) - self.second.score(values)
