"""Objectives that are made of objectives: sums and products, as data."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from onnxviz.optimize.objectives.base import Measure, Objective, Place, bind
from onnxviz.optimize.objectives.directions import Direction, NeuronDirection
from onnxviz.optimize.objectives.groups import Alignment, ChannelInterpolation, Diversity
from onnxviz.optimize.objectives.references import Caricature, FeatureInversion, InputDifference, Style
from onnxviz.optimize.objectives.units import Channel, Neuron, WholeLayer

if TYPE_CHECKING:
    from onnxviz.graph.view import GraphView

MOST_TERMS = 64
DEEPEST = 8


class _Composition(Objective):
    """What sums and products share; their parts are in a field of their own name."""

    _parts: ClassVar[str]

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
        """What it is made of."""
        found: tuple[Objective, ...] = getattr(self, self._parts)
        return found

    def layers(self) -> tuple[str, ...]:
        """Return the layers of all parts, each once."""
        return tuple(dict.fromkeys(layer for part in self.parts for layer in part.layers()))

    def references(self) -> tuple[tuple[str, str | None], ...]:
        """Return the pictures of all parts, each once."""
        return tuple(dict.fromkeys(pair for part in self.parts for pair in part.references()))

    def least_group(self) -> int:
        """Return the most that a part needs."""
        return max(part.least_group() for part in self.parts)

    def alike(self) -> Hashable:
        """Return what the parts must have in common, one by one."""
        return (self._parts, *(part.alike() for part in self.parts))

    def densest(self) -> Objective:
        """Return the composition of what the parts return."""
        return self.model_copy(update={self._parts: tuple(part.densest() for part in self.parts)})

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:
        """Resolve every part."""
        return self.model_copy(update={self._parts: tuple(part.resolved(view, labels) for part in self.parts)})

    def _measures(self, same: Sequence[Self], place: Place) -> list[Measure]:
        """Return one measure for each part, weights included."""
        return [bind(column, place) for column in zip(*(item.parts for item in same), strict=True)]


class Sum(_Composition):
    """Several objectives at once, each with its weight: `a + 0.5 * b - c`."""

    kind: Literal["sum"] = "sum"
    terms: tuple[ObjectiveChoice, ...] = Field(
        max_length=MOST_TERMS, description="What is added up, each with its weight."
    )
    _parts: ClassVar[str] = "terms"

    def bind(self, same: Sequence[Self], place: Place) -> Measure:
        """Add up the parts' values."""
        measures = self._measures(same, place)
        return lambda seen: functools.reduce(operator.add, [measure(seen) for measure in measures])

    def words(self) -> str:
        """Return the terms with their weights."""
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

    def bind(self, same: Sequence[Self], place: Place) -> Measure:
        """Multiply the parts' values."""
        measures = self._measures(same, place)
        return lambda seen: functools.reduce(operator.mul, [measure(seen) for measure in measures])

    def words(self) -> str:
        """Return the factors; their weights stand in front."""
        weight, words = _weight_and_words(self.model_copy(update={"weight": 1.0}))
        return _times(abs(weight), words) if weight >= 0 else f"- {_times(-weight, words)}"


if TYPE_CHECKING:
    ObjectiveChoice = Objective
else:
    ObjectiveChoice = Annotated[
        Channel
        | Neuron
        | WholeLayer
        | Direction
        | NeuronDirection
        | Diversity
        | Alignment
        | ChannelInterpolation
        | FeatureInversion
        | Caricature
        | Style
        | InputDifference
        | Sum
        | Product,
        Field(discriminator="kind"),
    ]
    """Any objective that a recipe can name."""

Sum.model_rebuild()
Product.model_rebuild()


def depth(objective: Objective) -> int:
    """Return how deep sums and products are nested: 0 for an objective that is neither."""
    return 1 + max(map(depth, objective.parts)) if isinstance(objective, _Composition) else 0


def terms_in(objective: Objective) -> int:
    """Return how many objectives there are that are neither sum nor product."""
    return sum(map(terms_in, objective.parts)) if isinstance(objective, _Composition) else 1


def added(*objectives: Objective) -> Sum:
    """Return the sum; sums in it are dissolved, their weights multiplied into their terms.

    Raises:
        ValueError: if it has too many terms.
    """
    return Sum(terms=tuple(term for objective in objectives for term in _terms(objective)))


def multiplied(*objectives: Objective) -> Product:
    """Return the product; products in it are dissolved, their weights multiplied into its own.

    Raises:
        ValueError: if it has too many factors.
    """
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
