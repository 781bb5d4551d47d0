"""How the parameters follow the gradient. None of these lets one row of the parameters influence another.

A step has little time beside the network's own pass, and may be recorded as a CUDA graph. So state lies in tensors that
are allocated before the first step and changed in place, numbers that differ from step to step lie in tables on the
device, and nothing waits for it. `torch.optim` does not take one tensor of independent images, and importing it takes
longer than many a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.lazy_torch import torch
from onnxviz.core.shares import percent

ScheduleKind = Literal["constant", "linear", "cosine"]

_SIZES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rms": lambda rows: torch.linalg.vector_norm(rows, dim=1) / math.sqrt(rows.shape[1]),
    "l2": lambda rows: torch.linalg.vector_norm(rows, dim=1),
    "std": lambda rows: rows.std(dim=1, correction=0),
    "mean_abs": lambda rows: torch.linalg.vector_norm(rows, ord=1, dim=1) / rows.shape[1],
}
"""What measures the gradients' sizes, [rows, numbers] to [rows]."""
_SMALLEST = 1e-12
"""Keeps a gradient of zero at zero where it is divided by its own size."""


class Rule(Protocol):
    """Follows the gradient of one optimization; remembers earlier steps."""

    def __call__(self, gradient: torch.Tensor, parameters: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return what to subtract from the parameters.

        Args:
            gradient: [rows, ...] of the loss; is not changed.
            parameters: [rows, ...], where the gradient was taken; are not changed.
            step: 0-dimensional int64 on the parameters' device, from 0.

        Returns:
            [rows, ...], which the next call may overwrite.
        """


class _Optimizer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    _name: ClassVar[str]

    learning_rate: float = Field(gt=0, allow_inf_nan=False, description="Step size.")
    schedule: ScheduleKind = Field(
        "constant",
        description="`linear` and `cosine` let the steps fall to 0, which takes the last noise out.",
    )
    warm_up: int = Field(0, ge=0, description="Number of first steps over which the step size rises evenly.")
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Share of the steps, the last ones, whose parameters are averaged: each random view pulls its own way, and "
            "the mean keeps what they agree on. A picture that is stopped before them is that of its last step; so are "
            "all with 0."
        ),
    )

    def rule(self, steps: int, like: torch.Tensor) -> Rule:
        """Return the rule for one optimization, before its first step.

        Args:
            steps: number of steps; fixes the schedule.
            like: the parameters [rows, ...], for shape, type and device.
        """
        raise NotImplementedError(type(self).__name__)

    def averaging(self, steps: int, parameters: torch.Tensor) -> Averaging | None:
        """Return what averages the parameters [rows, ...] of the last steps; None if the last step's are wanted."""
        return Averaging(self.average, steps, parameters) if self.average else None

    def words(self) -> str:
        """Say what it is, in a few words: "Adam at rate 0.03 falling to 0"."""
        rising = f" rising over {self.warm_up} steps" if self.warm_up else ""
        falling = {"constant": "", "linear": " falling to 0", "cosine": " falling to 0 as a cosine"}[self.schedule]
        both = " and" if rising and falling else ""
        mean = [f"averaged over the last {percent(self.average)} of the steps"] if self.average else []
        more = "".join(f", {text}" for text in self._details() + mean)
        return f"{self._name} at rate {self.learning_rate:g}{rising}{both}{falling}{more}"

    def _details(self) -> list[str]:
        return []

    def _sizes(self, steps: int) -> list[float]:
        return step_sizes(steps, self.learning_rate, self.schedule, self.warm_up)


class Adam(_Optimizer):
    """Adam: steps of about the learning rate, whatever the gradient's size."""

    kind: Literal["adam"] = "adam"
    _name: ClassVar[str] = "Adam"
    learning_rate: float = Field(
        0.03,
        gt=0,
        allow_inf_nan=False,
        description="Step size; lucid's 0.05 gives stronger, less natural colours.",
    )
    damping: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description=(
            "Share of the image's mean gradient size that damps frequencies which hardly matter to the unit; 0 is "
            "plain Adam, which moves them as fast as the others, so that early layers show speckle."
        ),
    )

    def _details(self) -> list[str]:
        return [f"damping {self.damping:g}"] if self.damping else []

    def rule(self, steps: int, like: torch.Tensor) -> Rule:
        """Return Adam (Kingma and Ba 2015, algorithm 1) with β₁ = 0.9, β₂ = 0.999.

        For each row, ε is 1e-8 + damping · √(mean of v̂ over the row's parameters). It grows with the gradient, so
        the result stays independent of the activation's scale. The corrections of both moments are taken out of the
        fraction, as section 2 of the paper has it: α √(1-β₂ᵗ) / (1-β₁ᵗ) · m / (√v + ε √(1-β₂ᵗ)).
        """
        roots = [math.sqrt(1 - 0.999**step) for step in range(1, steps + 1)]
        scales = [
            size * root / (1 - 0.9**step)
            for step, (size, root) in enumerate(zip(self._sizes(steps), roots, strict=True), start=1)
        ]
        scale = like.new_tensor(scales)
        epsilon = like.new_tensor([1e-8 * root for root in roots])
        first, second, work = (torch.zeros_like(like) for _ in range(3))

        def change(gradient: torch.Tensor, parameters: torch.Tensor, step: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - see Rule
            now = step.view(1)
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            torch.sqrt(second, out=work)
            least = epsilon.index_select(0, now)
            if self.damping:
                # The mean of v: its root has the correction √(1-β₂ᵗ) already, like that of v beside it.
                shared = second.flatten(1).mean(dim=1).sqrt_()
                work.add_(as_rows(shared.mul_(self.damping).add_(least), work))
            else:
                work.add_(least)
            return torch.div(first, work, out=work).mul_(scale.index_select(0, now))

        return change


class RmsProp(_Optimizer):
    """RMSprop: gradients divided by the root of their running mean square."""

    kind: Literal["rmsprop"] = "rmsprop"
    _name: ClassVar[str] = "RMSprop"
    learning_rate: float = Field(0.02, gt=0, allow_inf_nan=False, description="Step size.")
    decay: float = Field(0.9, ge=0, lt=1, description="How slowly the mean square follows the gradient.")

    def _details(self) -> list[str]:
        return [f"decay {self.decay:g}"] if self.decay != RmsProp.model_fields["decay"].default else []

    def rule(self, steps: int, like: torch.Tensor) -> Rule:
        """Return RMSprop (Tieleman and Hinton 2012, lecture 6.5) with ε = 1e-8."""
        scale = like.new_tensor(self._sizes(steps))
        second, work = torch.zeros_like(like), torch.zeros_like(like)

        def change(gradient: torch.Tensor, parameters: torch.Tensor, step: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - see Rule
            second.mul_(self.decay).addcmul_(gradient, gradient, value=1 - self.decay)
            torch.sqrt(second, out=work).add_(1e-8)
            return torch.div(gradient, work, out=work).mul_(scale.index_select(0, step.view(1)))

        return change


class GradientAscent(_Optimizer):
    """Plain gradient ascent, with or without normalisation and momentum."""

    kind: Literal["ascent"] = "ascent"
    _name: ClassVar[str] = "gradient ascent"
    learning_rate: float = Field(0.03, gt=0, allow_inf_nan=False, description="Step size.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Share of the last step that is added to the next.")
    nesterov: bool = Field(False, description="Look ahead along the momentum; no effect without momentum.")
    normalize: Literal["rms", "l2", "std", "mean_abs", False] = Field(
        "rms",
        description="What each image's gradient is divided by, so that one step size fits all units: its root mean "
        "square (Keras blog), its length, its standard deviation, or the mean of its absolute values (DeepDream).",
    )

    def _details(self) -> list[str]:
        divided = {"rms": "root mean square", "l2": "length", "std": "standard deviation", "mean_abs": "mean size"}
        by = f"gradients divided by their {divided[self.normalize]}" if self.normalize else "gradients as they are"
        return [by, f"{'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}"] if self.momentum else [by]

    def rule(self, steps: int, like: torch.Tensor) -> Rule:
        """Return learning rate × moving, where moving = gradient + momentum × moving; a gradient of zero stays zero.

        With `nesterov`, learning rate × (gradient + momentum × moving) (Sutskever et al. 2013, section 2, in the
        variable that PyTorch's SGD keeps). Normalisations: root mean square as Chollet 2016 ("How convolutional neural
        networks see the world"), mean absolute value as Mordvintsev et al. 2015 (`dream.ipynb`, `make_step`), standard
        deviation as TensorFlow's DeepDream tutorial; the mean is not taken away.
        """
        scale = like.new_tensor(self._sizes(steps))
        divisor = _SIZES[self.normalize] if self.normalize else None
        moving = torch.zeros_like(like) if self.momentum else None

        def change(gradient: torch.Tensor, parameters: torch.Tensor, step: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - see Rule
            size = scale.index_select(0, step.view(1))
            if divisor is None:
                slope = gradient
            elif moving is None:
                return gradient * as_rows(size / (divisor(gradient.flatten(1)) + _SMALLEST), gradient)
            else:
                slope = gradient / as_rows(divisor(gradient.flatten(1)) + _SMALLEST, gradient)
            if moving is None:
                return slope * size
            moving.mul_(self.momentum).add_(slope)
            ahead = torch.add(slope, moving, alpha=self.momentum) if self.nesterov else moving
            return ahead * size

        return change


class LBfgs(_Optimizer):
    """L-BFGS: steps that know the curvature; for objectives that are the same at every step, so without random views.

    There is no line search, which would take several passes a step and other numbers for each image. Instead a step is
    never longer than `largest_step`, and pairs that show no positive curvature are not used.
    """

    kind: Literal["lbfgs"] = "lbfgs"
    _name: ClassVar[str] = "L-BFGS"
    learning_rate: float = Field(1.0, gt=0, allow_inf_nan=False, description="Share of the quasi-Newton step.")
    history: int = Field(5, ge=1, le=100, description="Pairs of steps and gradient changes to remember.")
    largest_step: float = Field(
        0.05,
        gt=0,
        allow_inf_nan=False,
        description="Largest root mean square of a step; the first step, which knows no curvature, has just this one.",
    )

    def _details(self) -> list[str]:
        return [f"{self.history} pairs", f"steps of at most {self.largest_step:g}"]

    def rule(self, steps: int, like: torch.Tensor) -> Rule:
        """Return L-BFGS (Nocedal and Wright 2006, algorithms 7.4 and 7.5), each row with a history of its own.

        The step is H g by the two-loop recursion with H₀ = γ I, γ = s·y / y·y of the newest pair (equation 7.20). A
        pair is kept if s·y > 1e-8 |s| |y|, otherwise the older ones stay. A row without pairs goes along its gradient.
        """
        rows = len(like)
        scale = like.new_tensor(self._sizes(steps))
        past = _Pairs(like, self.history)
        longest = self.largest_step * math.sqrt(like[0].numel())

        def change(gradient: torch.Tensor, parameters: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
            slope = gradient.reshape(rows, -1)
            past.remember(parameters.reshape(rows, -1), slope)
            direction = past.newton(slope)
            # Without a pair the direction is the gradient, whose length says nothing: it is given the largest step's.
            length = torch.linalg.vector_norm(direction, dim=1) + _SMALLEST
            factor = scale.index_select(0, step.view(1)).expand(rows)
            known = torch.minimum(factor, longest / length)
            unknown = torch.clamp(factor, max=1.0) * (longest / length)
            return direction.mul_(torch.where(past.count > 0, known, unknown)[:, None]).view(like.shape)

        return change


class _Pairs:
    """The last steps s and gradient changes y of each row, in rings that each row fills at its own pace."""

    def __init__(self, like: torch.Tensor, most: int) -> None:
        rows, size = len(like), like[0].numel()
        self.most = most
        # The slot after a ring's last takes the pairs that are not kept, so that nothing asks whether one is.
        self.steps = like.new_zeros(rows * (most + 1), size)
        self.changes = like.new_zeros(rows * (most + 1), size)
        self.inverse = like.new_zeros(rows * (most + 1))
        self.rings = torch.arange(rows, device=like.device) * (most + 1)
        self.count = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.gamma = like.new_ones(rows)
        self.begun = torch.zeros((), dtype=torch.bool, device=like.device)
        self.parameters = like.new_zeros(rows, size)
        self.gradient = like.new_zeros(rows, size)

    def remember(self, parameters: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take in where the rows are now, [rows, size], and their gradients there."""
        moved = torch.sub(parameters, self.parameters, out=self.parameters)
        turned = torch.sub(gradient, self.gradient, out=self.gradient)
        product = torch.linalg.vecdot(moved, turned)
        square = torch.linalg.vecdot(turned, turned)
        kept = (product > 1e-8 * torch.sqrt(torch.linalg.vecdot(moved, moved) * square)) & self.begun
        slot = self.rings + torch.where(kept, self.count.remainder(self.most), self.most)
        self.steps.index_copy_(0, slot, moved)
        self.changes.index_copy_(0, slot, turned)
        self.inverse.index_copy_(0, slot, torch.where(kept, product.reciprocal(), 0.0))
        self.gamma.copy_(torch.where(kept, product / square, self.gamma))
        self.count.add_(kept)
        self.begun.fill_(True)
        self.parameters.copy_(parameters)
        self.gradient.copy_(gradient)

    def newton(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the inverse curvature times the gradient, [rows, size]; of a row without pairs the gradient."""
        direction = gradient.clone()
        used = []
        for back in range(1, self.most + 1):
            slot = self.rings + (self.count - back).remainder(self.most)
            moved, turned = self.steps.index_select(0, slot), self.changes.index_select(0, slot)
            # A slot that was never filled has the inverse 0, and so no share.
            inverse = self.inverse.index_select(0, slot)
            share = inverse * torch.linalg.vecdot(moved, direction)
            direction.addcmul_(share[:, None], turned, value=-1)
            used.append((moved, turned, inverse, share))
        direction.mul_(self.gamma[:, None])
        for moved, turned, inverse, share in reversed(used):
            direction.addcmul_((share - inverse * torch.linalg.vecdot(turned, direction))[:, None], moved)
        return torch.where((self.count > 0)[:, None], direction, gradient)


def as_rows(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Give one number for each row the shape that meets all its parameters."""
    return values.view(-1, *[1] * (like.dim() - 1))


def step_sizes(steps: int, learning_rate: float, kind: ScheduleKind, warm_up: int) -> list[float]:
    """Return the size of every step, `learning_rate` being the largest.

    The first `warm_up` steps w rise evenly, (t + 1) / w of the learning rate (Goyal et al. 2017, section 2.2). Over the
    remaining n steps the size then stays, falls as 1 - t / n, or as (1 + cos(π t / n)) / 2 (Loshchilov and Hutter 2017,
    SGDR, equation 5, without restarts). The first step has a size, and the last as well: 0 comes after it.
    """
    rising = min(warm_up, steps)
    left = steps - rising
    rise = [learning_rate * (step + 1) / rising for step in range(rising)]
    return rise + [learning_rate * _share(step / left, kind) for step in range(left)]


def _share(done: float, kind: ScheduleKind) -> float:
    if kind == "linear":
        return 1.0 - done
    if kind == "cosine":
        return (1.0 + math.cos(math.pi * done)) / 2.0
    return 1.0


def shares_in_mean(share: float, steps: int) -> list[float]:
    """Return the share that the parameters after each step have in the mean of a share of the steps, as it is then.

    1 up to the first step that counts, then 1/2, 1/3, ...: after each step the mean is that of all counted so far, and
    before any is, the parameters as they are. Sources: Polyak and Juditsky 1992; Izmailov et al. 2018
    (stochastic weight averaging, algorithm 1), who average weights; the optima are flat: what is near is good as well.
    """
    first = steps - max(1, round(share * steps))
    return [1.0 / max(1, step - first + 1) for step in range(steps)]


class Averaging:
    """Follows parameters [rows, ...] step by step, and keeps the `mean` of those after a share of steps, the last.

    It changes its tensors in place, and no row influences another.
    """

    def __init__(self, share: float, steps: int, parameters: torch.Tensor) -> None:
        self.mean = parameters.clone()
        self._shares = parameters.new_tensor(shares_in_mean(share, steps))

    def follow(self, parameters: torch.Tensor, step: torch.Tensor, moving: torch.Tensor | None) -> None:
        """Take in the parameters [rows, ...] after a step, int64 [] from 0; each step is told once, in order.

        `moving` is bool [rows], the rows that the step changed; the others keep their mean. All if None.
        """
        share = self._shares.index_select(0, step.view(1))
        if moving is not None:
            share = as_rows(share * moving, parameters)
        # Not lerp, which may round the last few numbers of a tensor in another way than the others.
        self.mean.add_((parameters - self.mean).mul_(share))


Optimizer = Annotated[Adam | RmsProp | GradientAscent | LBfgs, Field(discriminator="kind")]
