"""Steps of the backward pass that carry relevance and no gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from onnxviz.analyses.attribution.relevance.rules import stabilized


class _Step(torch.autograd.Function):
    """A function whose result is known, and whose backward pass is whatever is given."""

    @staticmethod
    def forward(
        ctx: Any, _values: torch.Tensor, result: tuple[torch.Tensor], back: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Hand on the result."""
        ctx.back = back
        return result[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Carry on."""
        return ctx.back(gradient), None, None


class _EarlyStep(_Step):
    """One before all layers, where relevance itself comes back."""


def step(
    values: torch.Tensor, result: torch.Tensor, back: Callable[[torch.Tensor], torch.Tensor], *, early: bool = False
) -> torch.Tensor:
    """Return a result, on the tape of the values by a backward pass of its own.

    Args:
        values: on the tape.
        result: off the tape.
        back: what comes back at the result -> what goes back to the values. That is relevance by value; before the
            first step that is not early it is relevance itself.
        early: whether relevance itself comes back at the result too.
    """
    made: torch.Tensor = (_EarlyStep if early else _Step).apply(values, (result,), back)  # type: ignore[no-untyped-call]
    return made


def enter(values: torch.Tensor) -> torch.Tensor:
    """Return the same, from where on relevance is carried by its ratio to the value."""
    kept = values.detach()
    return step(values, kept.view_as(kept), lambda ratio: ratio * kept)


def is_before(values: torch.Tensor) -> bool:
    """Whether values on the tape lie before every step that is not early: where relevance itself comes back."""
    nodes, seen = [values.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if node.name() == "_StepBackward":
            return False
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return True


def passed(values: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Return a result whose relevance passes to the values whole: of arithmetic with constants before all layers."""
    shape = values.shape
    return step(values, result, lambda relevance: relevance.sum_to_size(shape), early=True)


def shared(values: torch.Tensor, add: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return sums of values, whose relevance is divided in proportion to their sizes: of such before all layers.

    Nothing is lost where the values add up to zero, or are all zero.
    """
    sizes = values.detach().abs() + _NOTHING

    def back(relevance: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = sizes.detach().requires_grad_()
            total = add(leaf)
        return sizes * torch.autograd.grad(total, leaf, relevance / total.detach())[0]

    return step(values, add(values.detach()), back, early=True)


def scaled(values: torch.Tensor, result: torch.Tensor, start: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Return a function of each element whose relevance passes to the values whole: its slope is result / value.

    Args:
        values: on the tape.
        result: what it gives.
        start: what it gives at 0, which is no value's share and taken off the result.
    """
    kept = values.detach()
    slope = torch.where(kept.abs() > _NOTHING, (result - start) / kept, 0.0)
    return step(values, result, lambda ratio: ratio * slope)


_NOTHING = 1e-9
"""Values nearer to zero than this pass nothing, where a ratio to them would overflow."""


def summed(values: torch.Tensor) -> torch.Tensor:
    """Return sums or means, whose relevance is divided in proportion, with a stabilised denominator."""
    kept = values.detach()
    return step(values, kept.view_as(kept), lambda ratio: ratio * (kept / stabilized(kept)))


def divided(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the same, whose relevance is divided equally among so many factors."""
    return step(values, values.detach().view_as(values), lambda ratio: ratio / count)
