"""Single units as objectives: a neuron, a channel, a class, a whole layer."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.optimize.objectives.base import Measure, ObjectiveContext, OfLayer, Seen, UnitName, unit_number
from onnxviz.optimize.objectives.positions import (
    BOX,
    Box,
    Position,
    box_in_words,
    centre,
    check_position,
    in_words,
    mean_over,
    position_in,
)

if TYPE_CHECKING:
    from torch import Tensor

    from onnxviz.core.values import Layer, Target
    from onnxviz.graph.view import GraphView
    from onnxviz.optimize.objectives.base import Objective

__all__ = ["Channel", "Neuron", "WholeLayer", "centre", "objective_of"]


FOCUS = (
    "How much the unit should stand out among those of its layer, as a power of the cosine between its axis and all "
    "activations; 0: not at all."
)
_LEAST_COSINE = 0.1
_EPSILON = 1e-4


class _OfUnit(OfLayer):
    unit: UnitName

    def fitted(self, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> dict[str, object]:
        """Return the unit's number."""
        return {"unit": unit_number(self.unit, layer, view, labels)}


class Channel(_OfUnit):
    """A unit everywhere: the mean of its activations over all positions; in a layer without positions the unit itself.

    So it is a class logit too, where the layer is the logits. Sources: Olah et al. 2017 (channel); Simonyan et al. 2013
    (class logit).

    With `focus` p, the slope is that of a · max(0.1, cos)^p, where cos is the unit's share a / |x| in all activations
    x of its layer at the position, as lucid's directions have it (`objectives_util.py`, `_dot_cossim`); the value is a
    all the same. Otherwise the fastest way up is often one that excites the unit's neighbours as well: a picture of a
    dog that has something of all dogs.
    """

    kind: Literal["channel"] = "channel"
    focus: float = Field(0.0, ge=0, le=16, description=FOCUS)
    box: Box | None = Field(None, description=BOX)

    def alike(self) -> Hashable:
        """Return the layer and the focus: units may differ."""
        return (self.kind, self.layer, self.box is None, self.focus)

    def densest(self) -> Objective:
        """Add the whole layer to a unit that is to stand out: below the least cosine its neighbours do not count."""
        return self + WholeLayer(layer=self.layer, box=self.box) if self.focus else self

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        """Read each image's own unit."""
        layer, power = self.layer, self.focus
        rows, units = rows_and_units(same, layer, context)
        mean = mean_over(layer, [item.box for item in same], context)

        def measure(seen: Seen) -> Tensor:
            activations = seen.activations[layer]
            own = activations[rows, units].float()
            return mean(own * _standing_out(own, activations.float(), power) if power else own)

        return measure

    def words(self) -> str:
        """Return layer and unit."""
        return unit_in_words(self.layer, self.unit) + box_in_words(self.box)


def _standing_out(own: Tensor, activations: Tensor, power: float) -> Tensor:
    """Return 1 with the relative slope of max(0.1, cos)^power: [N, ...], of units [N, ...] among [N, units, ...]."""
    import torch

    cosines = (own / (torch.linalg.vector_norm(activations, dim=1) + _EPSILON)).clamp(min=_LEAST_COSINE)
    standing: Tensor = (cosines / cosines.detach()).pow(power)
    return standing


class Neuron(_OfUnit):
    """A unit at one position: the activation there.

    Source: Erhan et al. 2009; the centre of an even map as lucid `objectives_util.py` has it. Among the tokens of a
    transformer the centre is the central patch.
    """

    kind: Literal["neuron"] = "neuron"
    position: Position = "center"

    def fitted(self, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> dict[str, object]:
        """Return the unit's number."""
        check_position(self.position, layer)
        return super().fitted(layer, view, labels)

    def alike(self) -> Hashable:
        """Return the layer: units and positions may differ."""
        return (self.kind, self.layer)

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        """Read each image's own unit at its own position."""
        layer = self.layer
        rows, units = rows_and_units(same, layer, context)
        places = indices([position_in(layer, item.position, context) for item in same], context)
        return lambda seen: seen.activations[layer][(rows, units, *places)].float()

    def words(self) -> str:
        """Return layer, unit and position."""
        return f"{unit_in_words(self.layer, self.unit)} at {in_words(self.position)}"


class WholeLayer(OfLayer):
    """Whatever a layer already does: the mean of the squares of all its activations.

    Source: Mordvintsev, Olah and Tyka 2015 (DeepDream); lucid `objectives.py` (`deepdream`).
    """

    kind: Literal["layer"] = "layer"
    box: Box | None = Field(None, description=BOX)

    def alike(self) -> Hashable:
        """Return the layer."""
        return (self.kind, self.layer, self.box is None)

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        """Square all activations of each image."""
        layer = self.layer
        if self.box is None:
            return lambda seen: seen.activations[layer].float().square().reshape(len(same), -1).mean(dim=1)
        mean = mean_over(layer, [item.box for item in same], context)
        return lambda seen: mean(seen.activations[layer].float().square().mean(dim=1))

    def words(self) -> str:
        """Return the layer."""
        return f"{shorten(self.layer, 60)} (whole layer){box_in_words(self.box)}"


def objective_of(target: Target) -> Objective:
    """Return the objective of a target, without its sign."""
    if target.unit is None:
        return WholeLayer(layer=target.layer)
    if target.position is None:
        return Channel(layer=target.layer, unit=target.unit, focus=target.focus)
    return Neuron(layer=target.layer, unit=target.unit, position=target.position or "center")


def rows_and_units(same: Sequence[_OfUnit], layer: str, context: ObjectiveContext) -> tuple[Tensor, Tensor]:
    """Return the index [N] of each image in the batch, and the index [N] of its unit."""
    import torch

    units = [context.unit(layer, number(item.unit)) for item in same]
    return torch.arange(len(same), device=context.device), torch.tensor(units, device=context.device)


def indices(positions: Sequence[tuple[int, ...]], context: ObjectiveContext) -> list[Tensor]:
    """Return one index tensor [N] for each dimension of some positions."""
    import torch

    return [torch.tensor(axis, device=context.device) for axis in zip(*positions, strict=True)]


def unit_in_words(layer: str, unit: int | str) -> str:
    """Return "layer:unit", names cut to what fits a title."""
    return f"{shorten(layer, 60)}:{shorten(str(unit), 40)}"


def number(unit: int | str) -> int:
    """Return the index of a unit that was resolved.

    Raises:
        SelectionError: if it is still a name.
    """
    if isinstance(unit, str):
        raise SelectionError(f"the unit {shorten(unit)!r} is not resolved", remedy="give its index")
    return unit
