"""What is true of an operator wherever it stands: one record, read by everything that asks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

Form = Literal[
    "", "along_axis", "attention", "axis_normalisation", "channel_normalisation", "columns_to_image", "concat",
    "convolution", "cumulative", "deformed_convolution", "depth_to_space", "einsum", "expand", "gather",
    "gather_elements", "gather_nd", "gemm", "generation", "global_pool", "grid_sample", "last_normalisation",
    "map_normalisation", "nonzero", "normalisation", "one_hot", "pad", "pointwise", "pool", "product", "quantize",
    "recurrent", "reduction", "reshape", "resize", "rotary", "scatter_elements", "scatter_nd", "shape", "slice",
    "space_to_depth", "split", "tile", "top_k", "transpose", "transposed_convolution", "trilu", "unpool",
]  # fmt: skip
"""How positions of the result depend on positions of the inputs; "" if no rule says."""

CHANNELS_FIRST: frozenset[Form] = frozenset([
    "channel_normalisation", "convolution", "deformed_convolution", "depth_to_space", "global_pool",
    "map_normalisation", "pool", "space_to_depth", "transposed_convolution", "unpool",
])  # fmt: skip
"""Forms that are defined on [images, channels, *positions]: images are apart, and axis 1 holds the channels."""


@dataclass(frozen=True)
class OperatorTraits:
    """What is true of an operator.

    Attributes:
        form: which rule the batch, the axes, the receptive field and folding have for it.
        keeps: what the result holds of the first input's numbers: all of them in their "order", with their "axes" in
            another one, "all" arranged anew, "some", perhaps repeated, their "mean" over some, or "" for others.
        work: what its multiply-adds are: one for each weight of a unit and position of the result ("convolution") or
            of the input ("transposed"), those of a matrix "product", "none" that count, or "unknown".
        weight: index of the input that holds its weights, where that is constant; 0 if it has none.
        bounds: between which values its results lie, whatever its inputs and attributes are.
        activation: whether it is written behind a layer as its activation.
        algebraic: whether a pointwise operator only adds, multiplies or takes powers: no activation is of these alone.
        flat: whether its derivative is zero wherever it exists.
        sloped: the inputs through which gradients flow, where that is not all that can hold other than whole numbers.
        sloped_outputs: how many of its outputs hold such values, the first ones, where that is not all.
        operands: the inputs that a pointwise operator broadcasts with each other, where that is not all.
        rounds: whether it rounds its result to a quantised type.
        random: whether it draws random numbers.
    """

    form: Form = ""
    keeps: Literal["", "mean", "some", "all", "axes", "order"] = ""
    work: Literal["none", "convolution", "transposed", "product", "unknown"] = "none"
    weight: int = 0
    bounds: tuple[float, float] = (-math.inf, math.inf)
    activation: bool = False
    algebraic: bool = False
    flat: bool = False
    sloped: tuple[int, ...] | None = None
    sloped_outputs: int | None = None
    operands: tuple[int, ...] | None = None
    rounds: bool = False
    random: bool = False

    @property
    def arranges(self) -> bool:
        """Whether the result is the first input but for its shape and the order of its axes."""
        return self.keeps in ("order", "axes")

    @property
    def moves(self) -> bool:
        """Whether every number of the result is one of the first input's."""
        return self.arranges or self.keeps in ("all", "some")

    @property
    def normalises(self) -> bool:
        """Whether it brings values to a common mean or size by statistics of the image or of the training."""
        return self.form.endswith("normalisation")


UNKNOWN = OperatorTraits(work="unknown")
"""Of an operator that nothing is known of."""


def family(names: str, form: Form = "", **facts: Any) -> dict[str, OperatorTraits]:
    """Return one record for several operators.

    Args:
        names: the operators, with "domain:" in front where that is not the standard's.
        form: theirs.
        facts: what else is true of them all.
    """
    return dict.fromkeys(names.split(), OperatorTraits(form, **facts))
