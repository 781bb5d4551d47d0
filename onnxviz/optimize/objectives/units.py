"""Single units as objectives: a neuron, a channel, a class, a whole layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import Layer, Target
from onnxviz.graph.view import GraphView
from onnxviz.optimize.objectives.base import Measure, Objective, ObjectiveContext, OfLayer, Seen, UnitName, unit_number
from onnxviz.optimize.objectives.positions import AtPosition, MaybeBox, box_in_words, in_words, mean_over, positions_in

FOCUS = (
    "How much the unit should stand out among those of its layer, as a power of the cosine between its axis and all "
    "activations; 0: not at all."
)
LEAST_COSINE = 0.1
EPSILON = 1e-4


class _OfUnit(OfLayer):
    unit: UnitName

    def fitted(self, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> dict[str, object]:
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
    box: MaybeBox = None
    measured_together: ClassVar[tuple[str, ...]] = ("layer", "focus")

    def densest(self) -> Objective:
        """Add the whole layer to a unit that is to stand out: below the least cosine its neighbours do not count."""
        return self + WholeLayer(layer=self.layer, box=self.box) if self.focus else self

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer, power = self.layer, self.focus
        rows, units = rows_and_units([item.unit for item in same], layer, context)
        mean = mean_over(layer, [item.box for item in same], context)

        def measure(seen: Seen) -> torch.Tensor:
            activations = seen.activations[layer]
            own = activations[rows, units].float()
            return mean(own * _standing_out(own, activations.float(), power) if power else own)

        return measure

    def words(self) -> str:
        return unit_in_words(self.layer, self.unit) + box_in_words(self.box)


def _standing_out(own: torch.Tensor, activations: torch.Tensor, power: float) -> torch.Tensor:
    """Return 1 with the relative slope of max(0.1, cos)^power: [N, ...], of units [N, ...] among [N, units, ...]."""
    cosines = (own / (torch.linalg.vector_norm(activations, dim=1) + EPSILON)).clamp(min=LEAST_COSINE)
    standing: torch.Tensor = (cosines / cosines.detach()).pow(power)
    return standing


class Neuron(AtPosition, _OfUnit):
    """A unit at one position: the activation there.

    Source: Erhan et al. 2009; the centre of an even map as lucid `objectives_util.py` has it. Among the tokens of a
    transformer the centre is the central patch.
    """

    kind: Literal["neuron"] = "neuron"

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer = self.layer
        rows, units = rows_and_units([item.unit for item in same], layer, context)
        places = positions_in(layer, [item.position for item in same], context)
        return lambda seen: seen.activations[layer][(rows, units, *places)].float()

    def words(self) -> str:
        return f"{unit_in_words(self.layer, self.unit)} at {in_words(self.position)}"


class WholeLayer(OfLayer):
    """Whatever a layer already does: the mean of the squares of all its activations.

    Source: Mordvintsev, Olah and Tyka 2015 (DeepDream); lucid `objectives.py` (`deepdream`).
    """

    kind: Literal["layer"] = "layer"
    box: MaybeBox = None

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer = self.layer
        if self.box is None:
            return lambda seen: seen.activations[layer].float().square().reshape(len(same), -1).mean(dim=1)
        mean = mean_over(layer, [item.box for item in same], context)
        return lambda seen: mean(seen.activations[layer].float().square().mean(dim=1))

    def words(self) -> str:
        return f"{shorten(self.layer, 60)} (whole layer){box_in_words(self.box)}"


def objective_of(target: Target) -> Objective:
    """Return the objective of a target, without its sign."""
    if target.unit is None:
        return WholeLayer(layer=target.layer)
    if target.position is None:
        return Channel(layer=target.layer, unit=target.unit, focus=target.focus)
    return Neuron(layer=target.layer, unit=target.unit, position=target.position or "center")


def rows_and_units(
    units: Sequence[int | str], layer: str, context: ObjectiveContext
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the index [N] of each image in the batch, and the index [N] of its unit."""
    numbers = [context.unit(layer, number(unit)) for unit in units]
    return torch.arange(len(units), device=context.device), torch.tensor(numbers, device=context.device)


def unit_in_words(layer: str, unit: int | str) -> str:
    """Return "layer:unit", names cut to what fits a title."""
    return f"{shorten(layer, 60)}:{shorten(str(unit), 40)}"


def number(unit: int | str) -> int:
    """Return the index of a unit; raises SelectionError if it is still a name."""
    if isinstance(unit, str):
        raise SelectionError(f"the unit {shorten(unit)!r} is not resolved", remedy="give its index")
    return unit
