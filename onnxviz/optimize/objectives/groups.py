"""Objectives of images that are made together: to differ, to keep their parts in place, to lead from one to another.

Each image has its own share, and the shares of a group add up to the objective of the whole group. Groups never see
each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, StrictInt

from onnxviz.core.errors import shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.graph.view import GraphView
from onnxviz.optimize.objectives.base import (
    LayerName,
    Measure,
    Objective,
    ObjectiveContext,
    OfLayer,
    Seen,
    UnitName,
    bind,
    unit_number,
)
from onnxviz.optimize.objectives.directions import at_positions
from onnxviz.optimize.objectives.units import rows_and_units, unit_in_words

_LEAST_SQUARE = 1e-10


class _Comparison(Objective):
    def least_group(self) -> int:
        return 2


class Diversity(_Comparison, OfLayer):
    """Makes the images of a group different: minus the likeness of the correlations between units in a layer.

    With G_i the Gram matrix of image i's activations, divided by its Frobenius norm, image i of g counts
    -Σ_{j≠i} ⟨G_i, G_j⟩ / g. Sources: Olah et al. 2017 (diversity); lucid `objectives.py` (`diversity`), whose value,
    to be subtracted there, is the sum over the group.
    """

    kind: Literal["diversity"] = "diversity"

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer = self.layer
        group = _whole_groups(len(same), context)
        others = (1.0 - torch.eye(group, device=context.device)) / group

        def measure(seen: Seen) -> torch.Tensor:
            features = at_positions(seen.activations[layer])
            products = _gram_products(features.reshape(-1, group, *features.shape[1:]))
            squares = products.diagonal(dim1=1, dim2=2).clamp(min=_LEAST_SQUARE)
            cosines = products * squares.rsqrt().unsqueeze(1) * squares.rsqrt().unsqueeze(2)
            return -(cosines * others).sum(dim=2).reshape(-1)

        return measure

    def words(self) -> str:
        return f"diversity in {shorten(self.layer, 60)}"


class KeptDifferent(_Comparison):
    """What is wanted, of pictures that differ: the slope is that of a + |a| · share · diversity, the value is a.

    Activations differ by orders of magnitude between layers; relative to them, the same share means the same
    everywhere, as with regularizers. With the value left as it is, curves show what the unit does.
    """

    kind: Literal["kept_different"] = "kept_different"
    wanted: Objective
    layer: str
    share: float

    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.wanted.layers(), self.layer)))

    def references(self) -> tuple[tuple[str, str | None], ...]:
        return self.wanted.references()

    def least_group(self) -> int:
        return max(super().least_group(), self.wanted.least_group())

    def alike(self) -> Hashable:
        return (self.kind, self.wanted.alike(), self.layer, self.share)

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        wanted = bind([item.wanted for item in same], context)
        differ = bind([Diversity(layer=self.layer)] * len(same), context)

        def measure(seen: Seen) -> torch.Tensor:
            value = wanted(seen)
            term = self.share * value.detach().abs() * differ(seen)
            return value + (term - term.detach())

        return measure

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:
        update = {"wanted": self.wanted.resolved(view, labels), "layer": view.layer(self.layer).name}
        return self.model_copy(update=update)

    def words(self) -> str:
        return self.wanted.words()


class Alignment(_Comparison):
    """Keeps neighbouring images of a group alike: minus the mean squared differences, in a layer or between pixels.

    Image i counts -1/2 Σ_j mean((x_i - x_j)²) / decay^|i-j| over its neighbours up to `reach` images away. Source:
    lucid `objectives.py` (`alignment`), whose value is the sum over the group.
    """

    kind: Literal["alignment"] = "alignment"
    layer: LayerName | None = Field(None, description="Where images are compared; nothing for the images themselves.")
    decay: float = Field(2.0, ge=1, le=1e3, description="How much less each further neighbour counts.")
    reach: StrictInt = Field(4, ge=1, le=64, description="How many neighbours to each side count.")
    measured_together: ClassVar[tuple[str, ...]] = ("layer", "decay", "reach")

    def layers(self) -> tuple[str, ...]:
        return (self.layer,) if self.layer is not None else ()

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:  # noqa: ARG002 - no unit is named
        return self if self.layer is None else self.model_copy(update={"layer": view.layer(self.layer).name})

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer, decay = self.layer, self.decay
        group = _whole_groups(len(same), context)
        reach = min(self.reach, group - 1)

        def measure(seen: Seen) -> torch.Tensor:
            values = seen.images if layer is None else seen.activations[layer]
            values = values.float().reshape(-1, group, values[0].numel())
            shares = []
            for apart in range(1, reach + 1):
                differences = (values[:, :-apart] - values[:, apart:]).square().mean(dim=2) / decay**apart
                shares.append(
                    torch.nn.functional.pad(differences, (0, apart)) + torch.nn.functional.pad(differences, (apart, 0))
                )
            return sum(shares[1:], shares[0]).reshape(-1) / -2.0

        return measure

    def words(self) -> str:
        return f"alignment of {'the images' if self.layer is None else shorten(self.layer, 60)}"


class ChannelInterpolation(_Comparison, OfLayer):
    """Leads from one unit to another: image i of g has (1 - t) a + t b, with t = i / (g - 1).

    a and b are the two units' means over all positions. Source: lucid `objectives.py` (`channel_interpolate`), whose
    value is the sum over the group.
    """

    kind: Literal["channel_interpolation"] = "channel_interpolation"
    unit: UnitName
    to_unit: UnitName
    to_layer: LayerName | None = Field(None, description="The layer of `to_unit`; the same if not given.")
    measured_together: ClassVar[tuple[str, ...]] = ("layer", "other_layer")

    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.layer, self.other_layer)))

    @property
    def other_layer(self) -> str:
        return self.layer if self.to_layer is None else self.to_layer

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:
        first, second = view.layer(self.layer), view.layer(self.other_layer)
        return self.model_copy(
            update={
                "layer": first.name,
                "unit": unit_number(self.unit, first, view, labels),
                "to_layer": second.name,
                "to_unit": unit_number(self.to_unit, second, view, labels),
            }
        )

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        first, second = self.layer, self.other_layer
        group = _whole_groups(len(same), context)
        rows, units = rows_and_units([item.unit for item in same], first, context)
        _, to_units = rows_and_units([item.to_unit for item in same], second, context)
        along = (rows % group) / (group - 1)

        def measure(seen: Seen) -> torch.Tensor:
            start = seen.activations[first][rows, units].float().reshape(len(rows), -1).mean(dim=1)
            end = seen.activations[second][rows, to_units].float().reshape(len(rows), -1).mean(dim=1)
            return (1.0 - along) * start + along * end

        return measure

    def words(self) -> str:
        return f"{unit_in_words(self.layer, self.unit)} to {unit_in_words(self.other_layer, self.to_unit)}"


def _whole_groups(count: int, context: ObjectiveContext) -> int:
    if context.group < 2 or count % context.group:
        raise ValueError(f"{count} images are no groups of {context.group}, or groups of one")
    return context.group


def _gram_products(features: torch.Tensor) -> torch.Tensor:
    """Return the inner products ⟨G_i, G_j⟩ [groups, g, g] of Gram matrices of features [groups, g, units, positions].

    Either as they are defined, or as |X_iᵀ X_j|², which is the same and takes less where positions are few.
    """
    groups, group, units, positions = features.shape
    if group * positions < units:
        columns = features.transpose(2, 3).reshape(groups, group * positions, units)
        squares = (columns @ columns.transpose(1, 2)).square()
        return squares.reshape(groups, group, positions, group, positions).sum(dim=(2, 4))
    grams = (features @ features.transpose(2, 3)).reshape(groups, group, units * units)
    return grams @ grams.transpose(1, 2)
