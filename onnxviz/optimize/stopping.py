"""When an image is done before its last step."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.lazy_torch import torch


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


class Watch:
    """Follows the activations of a batch; no image influences another, and only `all_done` waits for the device.

    `taken` is int64 [N], how many steps each image has taken.
    """

    def __init__(self, rules: EarlyStopping, count: int, steps: int, device: torch.device) -> None:
        self._rules = rules
        self._seen = torch.zeros((count, steps), device=device)
        self._back = torch.arange(rules.patience, device=device)
        self._moving = torch.ones(count, dtype=torch.bool, device=device)
        self.taken = torch.zeros(count, dtype=torch.int64, device=device)

    def still(self, activation: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return [N], whether each image is still to be changed at this step; once it is not, it never is again.

        `activation` [N] is what is driven up, as it is before the change of the step, int64 [] from 0; each is told
        once, in order.
        """
        self._seen.index_copy_(1, step.view(1), activation.detach().to(self._seen.dtype).view(-1, 1))
        recent = self._mean(step)
        rises = recent - self._mean(step - self._rules.patience) > self._rules.rise * recent.abs()
        early = step + 1 < 2 * self._rules.patience
        self._moving.logical_and_(rises | early)
        self.taken.add_(self._moving)
        return self._moving

    def all_done(self) -> bool:
        """Return whether no image is changed any more; waits for the device."""
        return not bool(self._moving.any())

    def _mean(self, last: torch.Tensor) -> torch.Tensor:
        """Return [N], the mean over `patience` steps up to one; of no meaning before there are so many."""
        return self._seen.index_select(1, (last - self._back).clamp_(min=0)).mean(dim=1)
