"""How the second operand of the opsets 1 to 6 lies along the first one's axes."""

from __future__ import annotations

import torch

from onnxviz.convert.operators.operation import Operation


def read_axis(operation: Operation) -> int | None:
    """Return the axis of the first operand at which the second one begins, or None if they broadcast as in NumPy.

    Until opset 6 `broadcast=1` with `axis` placed the second operand anywhere; without `axis` it lies at the end.
    """
    attributes = operation.attributes
    return int(attributes["axis"]) if operation.version < 7 and "axis" in attributes else None


def aligned(second: torch.Tensor, rank: int, axis: int | None) -> torch.Tensor:
    """Give the second operand the axes of size 1 that NumPy's broadcasting needs.

    Args:
        second: the operand.
        rank: number of axes of the first operand.
        axis: axis of the first operand at which the second one begins; None if it needs nothing.
    """
    if axis is None or second.dim() == 0:
        return second
    behind = rank - axis % rank - second.dim()
    return second.reshape(*second.shape, *(1,) * behind) if behind > 0 else second
