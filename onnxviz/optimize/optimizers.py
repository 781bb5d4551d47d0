"""How the parameters follow the gradient. None of these lets one image of a batch influence another.

The rules are a few lines each, and importing `torch.optim` takes longer than many a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

Rule = Callable[["Tensor"], "Tensor"]
"""Takes the gradient [N, ...] of a loss and returns what to subtract from the parameters; remembers earlier steps."""


class _Optimizer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def rule(self, steps: int) -> Rule:
        """Return the rule for one optimization of so many steps, before its first."""
        raise NotImplementedError


class Adam(_Optimizer):
    """Adam: steps of about the learning rate, whatever the gradient's size."""

    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(
        0.03, gt=0, description="Step size; lucid's 0.05 gives stronger, less natural colours."
    )
    anneal: bool = Field(False, description="Let the steps fall evenly to 0, which takes the last noise out.")
    damping: float = Field(
        0.0,
        ge=0,
        description=(
            "Share of the image's mean gradient size that damps frequencies which hardly matter to the unit; 0 is "
            "plain Adam, which moves them as fast as the others, so that early layers show speckle."
        ),
    )

    def rule(self, steps: int) -> Rule:
        """Return Adam (Kingma and Ba 2015, algorithm 1) with β₁ = 0.9, β₂ = 0.999.

        For each image, ε is 1e-8 + damping · √(mean of v̂ over the image's parameters). It grows with the gradient, so
        the result stays independent of the activation's scale. With `anneal`, step t of n has the size
        rate · (1 - (t - 1) / n).
        """
        first: Tensor | float = 0.0
        second: Tensor | float = 0.0
        step = 0

        def change(gradient: Tensor) -> Tensor:
            nonlocal first, second, step
            fall = 1.0 - step / steps if self.anneal else 1.0
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            square = second / (1 - 0.999**step)
            shared = square.flatten(1).mean(dim=1).sqrt().view(-1, *[1] * (gradient.dim() - 1))
            return (
                self.learning_rate * fall * (first / (1 - 0.9**step)) / (square.sqrt() + self.damping * shared + 1e-8)
            )

        return change


class RmsProp(_Optimizer):
    """RMSprop: gradients divided by the root of their running mean square."""

    kind: Literal["rmsprop"] = "rmsprop"
    learning_rate: float = Field(0.02, gt=0, description="Step size.")
    decay: float = Field(0.9, ge=0, lt=1, description="How slowly the mean square follows the gradient.")

    def rule(self, steps: int) -> Rule:  # noqa: ARG002 - its steps do not change
        """Return RMSprop (Tieleman and Hinton 2012, lecture 6.5) with ε = 1e-8."""
        second: Tensor | float = 0.0

        def change(gradient: Tensor) -> Tensor:
            nonlocal second
            second = self.decay * second + (1 - self.decay) * gradient.square()
            return self.learning_rate * gradient / (second.sqrt() + 1e-8)

        return change


class GradientAscent(_Optimizer):
    """Plain gradient ascent, with or without momentum."""

    kind: Literal["ascent"] = "ascent"
    learning_rate: float = Field(0.03, gt=0, description="Step size.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Share of the last step that is added to the next.")
    normalize: bool = Field(
        True, description="Divide each image's gradient by its root mean square, so that one step size fits all units."
    )

    def rule(self, steps: int) -> Rule:  # noqa: ARG002 - its steps do not change
        """Return learning rate × (gradient + momentum × what was last); a gradient of zero stays zero."""
        moving: Tensor | float = 0.0

        def change(gradient: Tensor) -> Tensor:
            nonlocal moving
            if self.normalize:
                size = gradient.flatten(1).square().mean(dim=1).sqrt()
                gradient = gradient / (size + 1e-12).view(-1, *[1] * (gradient.dim() - 1))
            moving = self.momentum * moving + gradient
            return self.learning_rate * moving

        return change


Optimizer = Annotated[Adam | RmsProp | GradientAscent, Field(discriminator="kind")]
