"""When an image is done before its last step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class EarlyStopping(BaseModel):
    """Stops each image by itself once its activation no longer rises.

    The mean activation over the last `patience` steps is compared with the mean over as many before them, so that the
    random views do not decide. No image is stopped before twice `patience` steps. A schedule that falls goes on
    falling to the last step that was asked for, so an image that is stopped took larger steps at its end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patience: int = Field(64, ge=8, description="Steps over which the activation is compared with those before.")
    rise: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="Least rise over so many steps, as a share of the activation."
    )

    def watch(self, count: int, steps: int, device: torch.device) -> Watch:
        """Return what watches the images of one batch.

        Args:
            count: number of images.
            steps: most steps that each may take.
            device: where the images are made.
        """
        return Watch(self, count, steps, device)


class Watch:
    """Follows the activations of a batch; no image influences another, and only `all_done` waits for the device."""

    def __init__(self, rules: EarlyStopping, count: int, steps: int, device: torch.device) -> None:
        """Allocate what is remembered; `EarlyStopping.watch` says what the arguments are."""
        import torch

        self._least_rise = rules.rise
        self._patience = rules.patience
        self._seen = torch.zeros((count, steps), device=device)
        self._back = torch.arange(rules.patience, device=device)
        self._moving = torch.ones(count, dtype=torch.bool, device=device)
        self._taken = torch.zeros(count, dtype=torch.int64, device=device)

    def still(self, activation: Tensor, step: Tensor) -> Tensor:
        """Return [N], whether each image is still to be changed at this step; once it is not, it never is again.

        Args:
            activation: [N], what is driven up, as it is before this step's change.
            step: 0-dimensional int64, from 0; each step is told once, in order.
        """
        self._seen.index_copy_(1, step.view(1), activation.detach().to(self._seen.dtype).view(-1, 1))
        recent = self._mean(step)
        rises = recent - self._mean(step - self._patience) > self._least_rise * recent.abs()
        early = step + 1 < 2 * self._patience
        self._moving.logical_and_(rises | early)
        self._taken.add_(self._moving)
        return self._moving

    def all_done(self) -> bool:
        """Return whether no image is changed any more; waits for the device."""
        return not bool(self._moving.any())

    def taken(self) -> Tensor:
        """Return int64 [N], how many steps each image has taken."""
        return self._taken

    def _mean(self, last: Tensor) -> Tensor:
        """Return [N], the mean over `patience` steps up to one; of no meaning before there are so many."""
        return self._seen.index_select(1, (last - self._back).clamp_(min=0)).mean(dim=1)
