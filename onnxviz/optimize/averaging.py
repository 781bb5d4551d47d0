"""The mean of an optimization's last parameters.

Every random view pulls its own way, and the parameters after the last step still lean towards the last views. What the
steps agree on is in their mean, at no further pass of the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def shares_in_mean(share: float, steps: int) -> list[float]:
    """Return the share that the parameters after each step have in the mean as it is then.

    1 up to the first step that counts, then 1/2, 1/3, ...: after each step the mean is that of all counted so far, and
    before any is, the parameters as they are. Sources: Polyak and Juditsky 1992; Izmailov et al. 2018
    (stochastic weight averaging, algorithm 1), who average weights; the optima are flat: what is near is good as well.

    Args:
        share: of the steps, the last ones, that count; at least one does.
        steps: number of steps.
    """
    first = steps - max(1, round(share * steps))
    return [1.0 / max(1, step - first + 1) for step in range(steps)]


class Averaging:
    """Follows parameters [rows, ...] step by step; changes its tensors in place, and no row influences another.

    Args:
        share: of the steps, the last ones, that count.
        steps: number of steps.
        parameters: [rows, ...], before the first step.

    Attributes:
        mean: [rows, ...], of the parameters after the steps that counted so far.
    """

    def __init__(self, share: float, steps: int, parameters: Tensor) -> None:
        self.mean = parameters.clone()
        self._shares = parameters.new_tensor(shares_in_mean(share, steps))

    def follow(self, parameters: Tensor, step: Tensor, moving: Tensor | None) -> None:
        """Take in the parameters after a step.

        Args:
            parameters: [rows, ...].
            step: 0-dimensional int64, the step that led to them, from 0; each is told once, in order.
            moving: bool [rows], the rows that the step changed; the others keep their mean. All if None.
        """
        share = self._shares.index_select(0, step.view(1))
        if moving is not None:
            share = (share * moving).view(-1, *[1] * (parameters.dim() - 1))
        # Not lerp, which may round the last few numbers of a tensor in another way than the others.
        self.mean.add_((parameters - self.mean).mul_(share))
