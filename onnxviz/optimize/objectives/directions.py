"""Mixtures of units as objectives: a direction in the space of a layer's activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, StrictInt, WithJsonSchema, model_validator

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import Layer
from onnxviz.graph.view import GraphView
from onnxviz.optimize.objectives.base import Measure, Number, ObjectiveContext, OfLayer, Seen, UnitName, unit_number
from onnxviz.optimize.objectives.positions import AtPosition, MaybeBox, box_in_words, in_words, mean_over, positions_in
from onnxviz.optimize.objectives.units import EPSILON, LEAST_COSINE, number


def _pairs(given: Any) -> Any:
    """Turn a mapping into pairs; JSON has only text for keys, so digits are an index."""
    if not isinstance(given, Mapping):
        return given
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"unit {shorten(str(key))} needs a number, not {shorten(str(value), 40)!r}")
    return tuple((int(key) if isinstance(key, str) and _is_index(key) else key, value) for key, value in given.items())


def _is_index(key: str) -> bool:
    return key.isascii() and key.isdigit() and len(key) <= 9


Mixture = Annotated[
    tuple[tuple[UnitName, Number], ...],
    Field(max_length=4096),
    BeforeValidator(_pairs),
    PlainSerializer(dict, return_type=dict[int | str, float]),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1}),
]
CosinePower = Annotated[float, Field(ge=0, le=32, allow_inf_nan=False)]


class _AlongVector(OfLayer):
    vector: Annotated[tuple[Number, ...], Field(max_length=2**18)] | None = Field(
        None, description="The direction: one number for each unit of the layer."
    )
    units: Mixture | None = Field(
        None, description="The direction: a number for each unit that takes part, {3: 1, 7: -0.5}; the others are 0."
    )
    random: Annotated[StrictInt, Field(ge=0, lt=2**63)] | None = Field(
        None, description="The direction: a random one of length 1, drawn from this seed."
    )
    cosine_power: CosinePower = Field(
        0.0, description="How much more activations count that point along the direction; 0: only how far they reach."
    )
    measured_together: ClassVar[tuple[str, ...]] = ("layer", "cosine_power")

    @model_validator(mode="after")
    def _one_direction(self) -> Self:
        given = [name for name in ("vector", "units", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a direction is one of vector, units and random, not {' and '.join(given) or 'nothing'}")
        if not self._points_somewhere():
            raise ValueError("a direction of zeros points nowhere")
        return self

    def _points_somewhere(self) -> bool:
        numbers = self.vector if self.vector is not None else [value for _, value in self.units or ()]
        return self.random is not None or any(numbers)

    def fitted(self, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> dict[str, object]:
        if self.vector is not None and layer.unit_count:
            _check_length(self.vector, layer.name, layer.unit_count)
        if self.units is None:
            return {}
        found = [(unit_number(unit, layer, view, labels), value) for unit, value in self.units]
        if len(dict(found)) < len(found):
            raise SelectionError("a unit is named twice in a direction", where=f"layer {shorten(layer.name)!r}")
        return {"units": tuple(found)}

    def direction(self, context: ObjectiveContext) -> np.ndarray:
        """Return float32 [units]; raises SelectionError if the layer has not as many units, or not the ones named."""
        count = context.units(self.layer)
        if self.random is not None:
            drawn = np.random.default_rng(self.random).standard_normal(count)
            return (drawn / np.linalg.norm(drawn)).astype(np.float32)
        if self.vector is not None:
            _check_length(self.vector, self.layer, count)
            return np.array(self.vector, np.float32)
        mixed = np.zeros(count, np.float32)
        for unit, value in self.units or ():
            mixed[context.unit(self.layer, number(unit))] = value
        return mixed

    def words(self) -> str:
        layer = shorten(self.layer, 60)
        if self.random is not None:
            return f"random direction {self.random} of {layer}"
        pairs = self.units if self.units is not None else tuple(enumerate(self.vector or ()))
        if len(pairs) <= 3:
            terms = [f"{shorten(str(unit), 40)}: {value:g}" for unit, value in pairs]
            return f"direction {{{', '.join(terms)}}} of {layer}"
        strongest = sorted(pairs, key=lambda pair: -abs(pair[1]))[:3]
        most = ", ".join(shorten(str(unit), 40) for unit, _ in strongest)
        return f"direction of {len(pairs)} units of {layer}, mostly {most}"


class Direction(_AlongVector):
    """A mixture of units everywhere: the mean over all positions of v·x max(0.1, cos(v, x))^p.

    x are the activations of all units at a position. A power p makes it matter that the other units stay silent.
    Sources: Olah et al. 2018 (building blocks); lucid `objectives.py` (`direction`) and `objectives_util.py`
    (`_dot_cossim`), whose cosine is v·x / (|x| + 1e-4) / (|v| + 1e-4).
    """

    kind: Literal["direction"] = "direction"
    box: MaybeBox = None

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer, power = self.layer, self.cosine_power
        vectors = _stacked(same, context).unsqueeze(2)
        mean = mean_over(layer, [item.box for item in same], context)
        return lambda seen: mean(along(at_positions(seen.activations[layer]), vectors, power))

    def words(self) -> str:
        return super().words() + box_in_words(self.box)


class NeuronDirection(AtPosition, _AlongVector):
    """A mixture of units at one position: v·x max(0.1, cos(v, x))^p there.

    Source: lucid `objectives.py` (`direction_neuron`).
    """

    kind: Literal["neuron_direction"] = "neuron_direction"

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer, power = self.layer, self.cosine_power
        vectors = _stacked(same, context)
        rows = torch.arange(len(same), device=context.device)
        places = positions_in(layer, [item.position for item in same], context)

        def measure(seen: Seen) -> torch.Tensor:
            there = seen.activations[layer].movedim(1, -1)[(rows, *places)]
            return along(there.float(), vectors, power)

        return measure

    def words(self) -> str:
        return f"{super().words()} at {in_words(self.position)}"


def along(activations: torch.Tensor, directions: torch.Tensor, power: float) -> torch.Tensor:
    """Return v·x max(0.1, cos(v, x))^power over the second axis, differentiable also where x is 0.

    Activations x are float32 [N, units, ...], directions v of a shape that broadcasts to it.
    Source: lucid `objectives_util.py` (`_dot_cossim`).
    """
    reach = (activations * directions).sum(dim=1)
    if power == 0:
        return reach
    lengths = torch.linalg.vector_norm(activations, dim=1) + EPSILON
    cosines = reach / lengths / (torch.linalg.vector_norm(directions, dim=1) + EPSILON)
    weighted: torch.Tensor = reach * cosines.clamp(min=LEAST_COSINE).pow(power)
    return weighted


def at_positions(activations: torch.Tensor) -> torch.Tensor:
    """Return activations [N, units, *spatial] as float32 [N, units, positions]; without positions as if one."""
    return activations.float().reshape(*activations.shape[:2], -1)


def _stacked(same: Sequence[_AlongVector], context: ObjectiveContext) -> torch.Tensor:
    return torch.from_numpy(np.stack([item.direction(context) for item in same])).to(context.device)


def _check_length(vector: Sequence[float], layer: str, units: int) -> None:
    if len(vector) != units:
        raise SelectionError(
            f"the vector has {len(vector)} numbers, and layer {shorten(layer)!r} has {units} units",
            remedy="give one number for each unit, or `units:` for some of them",
        )
