"""What makes a score comparable between images: a class's probability, and whether it is what the model predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.targets import ClassTarget, Target
from onnxviz.core.values import Layer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _OfClass(Target):
    """Something of a class target that is computed from the same layer."""

    of: ClassTarget

    @property
    def title(self) -> str:
        """The class's."""
        return self.of.title

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of the scores."""
        return self.of.layers

    def _over_positions(self, placed: torch.Tensor) -> torch.Tensor:
        return placed.mean(dim=1) if self.of.positions == "mean" else placed.amax(dim=1)


@dataclass(frozen=True)
class Probability(_OfClass):
    """The probability of a class; where there is one at each position, their mean or the highest."""

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return it as the head makes it of its scores."""
        head = self.of.head
        placed = explained_score.score_at_positions(values[0], head).double()
        if head.probability != "given":
            pointed = head.probability == "softmax" and not head.is_two_from_one
            placed = placed.softmax(dim=1) if pointed else placed.sigmoid()
        return self._over_positions(placed[:, self.of.number])


@dataclass(frozen=True)
class Choice(_OfClass):
    """The number of the class that the head chooses for an image, or 0 and 1 for whether a label is present."""

    def score(self, *values: torch.Tensor) -> torch.Tensor:
        """Return it as a number."""
        head = self.of.head
        placed = explained_score.score_at_positions(values[0], head)[:, :, 0]
        if head.has_choice:
            return placed.argmax(dim=1).double()
        return (placed[:, self.of.number] > head.threshold).double()


def probability_of(target: Target) -> Probability | None:
    """Return the probability that belongs to a target's score, if something makes one."""
    return Probability(target) if isinstance(target, ClassTarget) and target.head.probability else None


def choice_of(target: Target) -> Choice | None:
    """Return what the model says of a whole image, if that is a class or a label."""
    if not isinstance(target, ClassTarget) or target.head.has_positions:
        return None
    return Choice(target) if target.head.has_choice or target.head.kind == "multilabel" else None
