"""The contract of objectives: data that names what is wanted, adds and multiplies, and is bound once to tensors."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from onnxviz.core.errors import AnalysisError, SelectionError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import Layer
from onnxviz.graph.targets import has_class_units, unit_indices
from onnxviz.graph.view import GraphView

LayerName = Annotated[str, Field(description="A layer name, `Conv[3]`, or a role such as last_map or logits.")]
UnitName = Annotated[StrictInt | str, Field(description="Index from 0, or a class name where the layer is the logits.")]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
"""Small enough that its products with activations stay within float32."""


@dataclass(frozen=True)
class Seen:
    """What one step looks at.

    Attributes:
        images: RGB [N, 3, h, w] in 0..1, the views that the network is given.
        activations: layer name -> [N, units, *spatial].
    """

    images: torch.Tensor
    activations: Mapping[str, torch.Tensor]


Measure = Callable[[Seen], "torch.Tensor"]
"""Takes what a step sees and returns [N], one number for each image, differentiable. Never waits for the device."""


@dataclass(frozen=True)
class ObjectiveContext:
    """What objectives are bound to before the first step.

    Attributes:
        device: where the tensors lie.
        group: how many images are made together for one objective; they follow each other in the batch, which is as
            long as a multiple of it.
        shapes: layer name -> [units, *spatial] of one image at the size that is optimized.
        layers: layer name -> what is known of it.
        references: (picture, layer) -> the picture's activations [units, *spatial], for the pairs that
            `Objective.references` names; (picture, None) -> the picture itself, RGB [3, h, w] in 0..1.
    """

    device: torch.device
    group: int
    shapes: Mapping[str, tuple[int, ...]]
    layers: Mapping[str, Layer] = field(default_factory=dict)
    references: Mapping[tuple[str, str | None], torch.Tensor] = field(default_factory=dict)

    def unit(self, layer: str, unit: int) -> int:
        """Return the unit's index if the layer has it, else raise SelectionError."""
        units = self.units(layer)
        if not 0 <= unit < units:
            raise SelectionError(
                f"layer {shorten(layer)!r} has {units} units, 0 to {units - 1}; there is no unit {unit}"
            )
        return unit

    def units(self, layer: str) -> int:
        """Return how many units a layer has; raises SelectionError if it has none: one number for each image."""
        if not self.shapes[layer]:
            raise SelectionError(f"layer {shorten(layer)!r} has no units", remedy="take the whole layer")
        return self.shapes[layer][0]


class Objective(BaseModel):
    """What an image is driven to: one number for each image, to be made as large as it gets.

    Objectives are data, so a recipe can name them, and they add and multiply: `a + 0.5 * b - c`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Number = Field(1.0, description="What the value is multiplied by; negative: avoid.")

    measured_together: ClassVar[tuple[str, ...]] = ()
    """Fields that two objectives must have in common to be bound together: all but units, positions, weights."""

    def layers(self) -> tuple[str, ...]:
        """Return the names of the layers that it reads, each once."""
        return ()

    def references(self) -> tuple[tuple[str, str | None], ...]:
        """Return what must be known of given pictures: (picture, layer), or (picture, None) for the picture itself."""
        return ()

    def least_group(self) -> int:
        """Return how many images it takes at least to mean anything: 2 for differences between images, else 1."""
        return 1

    def alike(self) -> Hashable:
        """Return what two objectives must have in common to be bound together, and whether they have a box."""
        shared = [getattr(self, name) for name in self.measured_together]
        return (type(self), *shared, getattr(self, "box", None) is None)

    def densest(self) -> Objective:
        """Return this, or where its slope may reach all units of a layer later only, what reaches them at once.

        The last bits of sums over all units may depend on how many images share a pass, which is tried with this.
        """
        return self

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        """Return the function that measures the images of a batch; without the weights.

        Args:
            same: an objective for each image of the batch, all `alike`; `self` is the first.
            context: shapes, references and the device.

        Raises:
            SelectionError: if a unit or position does not exist.
        """
        raise NotImplementedError(type(self).__name__)

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:  # noqa: ARG002 - nothing is named
        """Return the same with layers by their full names and units by their numbers.

        Raises:
            SelectionError: if a layer, unit or class does not exist.
        """
        return self

    def words(self) -> str:
        """Say what it is, in a few words, without its weight: "fire5:3", "fire5:3 at the centre"."""
        raise NotImplementedError(type(self).__name__)

    def title(self) -> str:
        """Say what it is, weight included: "- fire5:3", "0.5 x fire5:3"."""
        return sum_in_words((self,))

    def __add__(self, other: Any) -> Objective:
        # Sums in it are dissolved, their weights multiplied into their terms.
        return Sum(terms=(*_terms(self), *_terms(other))) if isinstance(other, Objective) else NotImplemented

    def __radd__(self, other: Any) -> Objective:
        # Python's `sum` starts with 0.
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: Any) -> Objective:
        return self + (-other) if isinstance(other, Objective) else NotImplemented

    def __neg__(self) -> Self:
        return self.model_copy(update={"weight": -self.weight})

    def __truediv__(self, other: Any) -> Objective:
        return self * (1 / other) if isinstance(other, int | float) else NotImplemented

    def __mul__(self, other: Any) -> Objective:
        if isinstance(other, Objective):
            return _product(self, other)
        if isinstance(other, int | float):
            return self.weighted(other)
        return NotImplemented

    __rmul__ = __mul__

    def weighted(self, factor: float) -> Self:
        """Return the same with its weight multiplied; raises ValueError if it then cannot be calculated with."""
        weight = self.weight * factor
        if not (math.isfinite(weight) and abs(weight) <= 1e9):
            raise ValueError(f"a weight must lie between -1e9 and 1e9, not at {weight}")
        return self.model_copy(update={"weight": weight})


# --- sums and products ------------------------------------------------------------------------------------------------

MOST_TERMS = 64
DEEPEST = 8


class _Composition(Objective):
    """What sums and products share: all but the name of the field that holds their parts, and how these are joined."""

    _parts: ClassVar[str]
    _join: ClassVar[Callable[[Any, Any], Any]]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.parts:
            raise ValueError(f"a {self.kind} needs at least one objective")  # type: ignore[attr-defined]
        if depth(self) > DEEPEST:
            raise ValueError(f"sums and products may be nested {DEEPEST} deep, not deeper")
        if terms_in(self) > MOST_TERMS:
            raise ValueError(f"an objective may have {MOST_TERMS} terms over all its sums and products, not more")
        return self

    @property
    def parts(self) -> tuple[Objective, ...]:
        found: tuple[Objective, ...] = getattr(self, self._parts)
        return found

    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(layer for part in self.parts for layer in part.layers()))

    def references(self) -> tuple[tuple[str, str | None], ...]:
        return tuple(dict.fromkeys(pair for part in self.parts for pair in part.references()))

    def least_group(self) -> int:
        return max(part.least_group() for part in self.parts)

    def alike(self) -> Hashable:
        return (self._parts, *(part.alike() for part in self.parts))

    def densest(self) -> Objective:
        return self.model_copy(update={self._parts: tuple(part.densest() for part in self.parts)})

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:
        return self.model_copy(update={self._parts: tuple(part.resolved(view, labels) for part in self.parts)})

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        measures = [bind(column, context) for column in zip(*(item.parts for item in same), strict=True)]
        return lambda seen: functools.reduce(type(self)._join, [measure(seen) for measure in measures])


class Sum(_Composition):
    """Several objectives at once, each with its weight: `a + 0.5 * b - c`."""

    kind: Literal["sum"] = "sum"
    terms: tuple[ObjectiveChoice, ...] = Field(
        max_length=MOST_TERMS, description="What is added up, each with its weight."
    )
    _parts: ClassVar[str] = "terms"
    _join: ClassVar[Callable[[Any, Any], Any]] = operator.add

    def words(self) -> str:
        return sum_in_words(self.terms)


class Product(_Composition):
    """Several objectives that must all be strong: their values multiplied, `a * b`.

    Two negative values make a positive one, so factors should be above 0: activations behind a ReLU are.
    """

    kind: Literal["product"] = "product"
    factors: tuple[ObjectiveChoice, ...] = Field(
        max_length=MOST_TERMS, description="What is multiplied, each with its weight."
    )
    _parts: ClassVar[str] = "factors"
    _join: ClassVar[Callable[[Any, Any], Any]] = operator.mul

    def words(self) -> str:
        """Return the factors; their weights stand in front."""
        weight, words = _weight_and_words(self.model_copy(update={"weight": 1.0}))
        return _times(abs(weight), words) if weight >= 0 else f"- {_times(-weight, words)}"


if TYPE_CHECKING:
    ObjectiveChoice = Objective


def depth(objective: Objective) -> int:
    """Return how deep sums and products are nested: 0 for an objective that is neither."""
    return 1 + max(map(depth, objective.parts)) if isinstance(objective, _Composition) else 0


def terms_in(objective: Objective) -> int:
    """Return how many objectives there are that are neither sum nor product."""
    return sum(map(terms_in, objective.parts)) if isinstance(objective, _Composition) else 1


def _product(*objectives: Objective) -> Product:
    """Return the product; products in it are dissolved, their weights multiplied into its own."""
    weight = 1.0
    factors: list[Objective] = []
    for objective in objectives:
        if isinstance(objective, Product):
            weight *= objective.weight
            factors += objective.factors
        else:
            factors.append(objective)
    return Product(weight=weight, factors=tuple(factors))


def sum_in_words(terms: Sequence[Objective]) -> str:
    """Return "a - 0.5 x b + c", of many terms the first ones."""
    shown = terms if len(terms) <= 5 else terms[:4]
    text = ""
    for term in shown:
        weight, words = _weight_and_words(term)
        sign = "-" if weight < 0 else "+" if text else ""
        text += f"{' ' if text else ''}{sign}{' ' if sign else ''}{_times(abs(weight), words)}"
    return text if len(shown) == len(terms) else f"{text} and {len(terms) - len(shown)} more"


def _terms(objective: Objective) -> Iterator[Objective]:
    if isinstance(objective, Sum):
        for term in objective.terms:
            yield from _terms(term.weighted(objective.weight))
    else:
        yield objective


def _weight_and_words(objective: Objective) -> tuple[float, str]:
    """Return an objective's weight and the words for the rest, as a factor; of a product the factors' weights too."""
    if isinstance(objective, Product):
        factors = [_weight_and_words(factor) for factor in objective.factors]
        return objective.weight * math.prod(weight for weight, _ in factors), " x ".join(words for _, words in factors)
    if isinstance(objective, Sum) and len(objective.terms) > 1:
        return objective.weight, f"({objective.words()})"
    return objective.weight, objective.words()


def _times(weight: float, words: str) -> str:
    return words if weight == 1 else f"{weight:g} x {words}"


# --- of one layer -----------------------------------------------------------------------------------------------------


class OfLayer(Objective):
    """An objective that reads one layer."""

    layer: LayerName
    measured_together: ClassVar[tuple[str, ...]] = ("layer",)

    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:
        layer = view.layer(self.layer)
        return self.model_copy(update={"layer": layer.name, **self.fitted(layer, view, labels)})

    def fitted(self, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> dict[str, object]:  # noqa: ARG002
        """Return the fields that change when the layer is known, and refuse those that do not fit it.

        Raises:
            SelectionError: if a unit, class or position does not exist.
        """
        return {}


def unit_number(unit: int | str, layer: Layer, view: GraphView, labels: Sequence[str] | None) -> int:
    """Return the index of the one unit that an index or a class name means.

    Raises:
        SelectionError: if there is none, or several are named.
    """
    named = labels if isinstance(unit, str) and has_class_units(layer, view) else None
    found = unit_indices(unit, layer, named)
    if len(found) != 1:
        raise SelectionError(
            f"{shorten(str(unit))!r} names {len(found)} units, and an objective is made of single ones",
            where=f"layer {shorten(layer.name)!r}",
            remedy="give one index, or add up several objectives",
        )
    return found[0]


def bind(objectives: Sequence[Objective], context: ObjectiveContext) -> Measure:
    """Return the function that measures a batch of images, each by its own objective, weights included.

    Objectives that differ in their units only are measured together, whatever their order.

    Args:
        objectives: one for each image of the batch.
        context: shapes, references and the device.

    Raises:
        AnalysisError: if images are to be compared that are not made together, or a picture cannot be used.
        SelectionError: if a unit or position does not exist.
    """
    kinds: dict[Hashable, list[int]] = {}
    alike = [objective.alike() for objective in objectives]
    for index, kind in enumerate(alike):
        kinds.setdefault(kind, []).append(index)
    _check_groups(objectives, alike, context.group)
    weights = torch.tensor([objective.weight for objective in objectives], device=context.device)
    weighted = any(objective.weight != 1 for objective in objectives)
    parts = [([objectives[i] for i in members], members) for members in kinds.values()]
    measures = [same[0].bind(same, context) for same, _ in parts]
    if len(parts) == 1:
        (measure,) = measures
        return (lambda seen: weights * measure(seen)) if weighted else measure
    layers = [same[0].layers() for same, _ in parts]
    chosen = [torch.tensor(members, device=context.device) for _, members in parts]
    order = torch.cat(chosen).argsort()

    def each(seen: Seen) -> torch.Tensor:
        values = [
            measure(_subset(seen, index, read)) for measure, index, read in zip(measures, chosen, layers, strict=True)
        ]
        return weights * torch.cat(values)[order]

    return each


def _check_groups(objectives: Sequence[Objective], alike: Sequence[Hashable], group: int) -> None:
    """Refuse comparisons between images that are not there; groups stay whole when a batch is split by kinds."""
    for index, objective in enumerate(objectives):
        if objective.least_group() > group:
            raise AnalysisError(
                f"it compares images that are made together, at least {objective.least_group()}, "
                f"and here {group} is made at a time",
                where=objective.words(),
                remedy="make several images of the same objective",
            )
        if objective.least_group() > 1 and alike[index] != alike[index - index % group]:
            raise ValueError("the images of one group need objectives of the same kind")


def _subset(seen: Seen, index: torch.Tensor, layers: Sequence[str]) -> Seen:
    return Seen(seen.images[index], {layer: seen.activations[layer][index] for layer in layers})
