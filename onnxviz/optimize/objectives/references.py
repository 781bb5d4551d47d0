"""Objectives that need a given picture: to look like it to a layer, to exaggerate it, to share its style, to leave it.

A picture is named; whoever runs the objective gives its activations at the size that is optimized
(`Objective.references`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from onnxviz.core.errors import AnalysisError, SelectionError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.graph.view import GraphView
from onnxviz.optimize.objectives.base import Measure, Objective, ObjectiveContext, OfLayer, Seen
from onnxviz.optimize.objectives.directions import CosinePower, along, at_positions
from onnxviz.optimize.objectives.positions import MaybeBox, box_in_words, mean_over

PictureName = Annotated[str, Field(min_length=1, max_length=200, description="Name of the given picture.")]


class _OfPicture(OfLayer):
    picture: PictureName

    def references(self) -> tuple[tuple[str, str | None], ...]:
        return ((self.picture, self.layer),)

    def _of(self) -> str:
        return f"{shorten(self.picture, 60)} in {shorten(self.layer, 60)}"


class FeatureInversion(_OfPicture):
    """Shows what a layer keeps of a picture: minus |Φ(x) - Φ(x₀)|² / |Φ(x₀)|².

    0 is a perfect match, and -1 is what a silent layer has. Source: Mahendran and Vedaldi 2015, section 2.
    """

    kind: Literal["feature_inversion"] = "feature_inversion"

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer = self.layer
        targets = _stacked(same, layer, context).float()
        norms = targets.square().sum(dim=(1, 2))
        for name in dict.fromkeys(item.picture for item in same):
            if float(context.references[name, layer].float().square().sum()) == 0:
                raise AnalysisError(
                    f"layer {shorten(layer)!r} is silent for the picture {shorten(name)!r}: nothing can be inverted",
                    remedy="take another layer or picture",
                )

        def measure(seen: Seen) -> torch.Tensor:
            return -(at_positions(seen.activations[layer]) - targets).square().sum(dim=(1, 2)) / norms

        return measure

    def words(self) -> str:
        return f"inversion of {self._of()}"


class Caricature(_OfPicture):
    """Exaggerates what a layer sees in a picture: the mean over all positions of x·y max(0.1, cos(x, y))^p.

    x are the activations of all units at a position, y those of the picture there: each position has its own direction.
    Sources: Olah et al. 2018 (building blocks); lucid `recipes/caricature.py` (`dot_compare`), which takes one sum
    and one cosine over the whole layer; here the cosine is each position's, as in lucid's `objectives.direction`.
    """

    kind: Literal["caricature"] = "caricature"
    cosine_power: CosinePower = Field(
        0.0, description="How much more activations count that point where the picture's do."
    )
    box: MaybeBox = None
    measured_together: ClassVar[tuple[str, ...]] = ("layer", "cosine_power")

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer, power = self.layer, self.cosine_power
        targets = _stacked(same, layer, context)
        mean = mean_over(layer, [item.box for item in same], context)
        return lambda seen: mean(along(at_positions(seen.activations[layer]), targets, power))

    def words(self) -> str:
        return f"caricature of {self._of()}{box_in_words(self.box)}"


class Style(_OfPicture):
    """Takes over a picture's textures: minus Σ (G - A)² / (4 units² positions²), of Gram matrices.

    G_ij = Σ_k F_ik F_jk over the positions k of the image's activations F, and A the same of the picture. Add up
    several layers for a whole style. Source: Gatys, Ecker and Bethge 2015, equations 3 and 4.
    """

    kind: Literal["style"] = "style"

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        layer = self.layer
        targets = _gram(_stacked(same, layer, context))

        def measure(seen: Seen) -> torch.Tensor:
            features = at_positions(seen.activations[layer])
            divisor = -4.0 * (features.shape[1] * features.shape[2]) ** 2
            return (_gram(features) - targets).square().sum(dim=(1, 2)) / divisor

        return measure

    def words(self) -> str:
        return f"style of {self._of()}"


class InputDifference(Objective):
    """How far the image is from a picture: the root of the mean squared difference of the pixels, in 0..1.

    A positive weight leads away from it, a negative one keeps it near. What is compared is what the network is given:
    with random views a moved picture is another one. Source: lucid `objectives.py` (`input_diff`).
    """

    kind: Literal["input_difference"] = "input_difference"
    picture: PictureName

    def layers(self) -> tuple[str, ...]:
        return ()

    def references(self) -> tuple[tuple[str, str | None], ...]:
        return ((self.picture, None),)

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:  # noqa: ARG002 - no layer is named
        return self

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        pictures = _pictures(same, None, context)
        root = math.sqrt(pictures[0].numel())

        def measure(seen: Seen) -> torch.Tensor:
            if seen.images.shape[1:] != pictures.shape[1:]:
                raise _other_size("the picture", pictures, seen.images.shape[1:])
            # A norm has a gradient at 0, where an image starts that is the picture; a root of squares has none.
            difference: torch.Tensor = torch.linalg.vector_norm((seen.images.float() - pictures).flatten(1), dim=1)
            return difference / root

        return measure

    def words(self) -> str:
        return f"difference from {shorten(self.picture, 60)}"


def _pictures(
    same: Sequence[_OfPicture] | Sequence[InputDifference], layer: str | None, context: ObjectiveContext
) -> torch.Tensor:
    """Return what is known of each image's picture, [N, ...], or [1, ...] where all have the same."""
    names = [item.picture for item in same]
    for name in names:
        if (name, layer) not in context.references:
            raise SelectionError(
                f"no picture called {shorten(name)!r} is given" + (f" for layer {shorten(layer)!r}" if layer else "")
            )
    distinct = list(dict.fromkeys(names))
    known = torch.stack([context.references[name, layer].detach().to(context.device).float() for name in distinct])
    if len(distinct) == 1:
        return known
    return known[torch.tensor([distinct.index(name) for name in names], device=context.device)]


def _stacked(same: Sequence[_OfPicture], layer: str, context: ObjectiveContext) -> torch.Tensor:
    """Return the pictures' activations as [N or 1, units, positions]."""
    known = _pictures(same, layer, context)
    if tuple(known.shape[1:]) != tuple(context.shapes[layer]):
        raise _other_size(f"layer {shorten(layer)!r} of the picture", known, context.shapes[layer])
    context.units(layer)
    return at_positions(known)


def _other_size(what: str, known: torch.Tensor, needed: Sequence[int]) -> AnalysisError:
    return AnalysisError(
        f"{what} has the shape {list(known.shape[1:])}, the image's has {list(needed)}",
        remedy="give the picture at the size that is optimized",
    )


def _gram(features: torch.Tensor) -> torch.Tensor:
    return features @ features.transpose(1, 2)
