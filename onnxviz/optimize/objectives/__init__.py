"""What is driven up: objectives that add and multiply, in recipes as in Python.

Each is data (`base.Objective`): it names layers and units, is bound once to the tensors of a batch, and then gives one
number for each image at every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from onnxviz.optimize.objectives.base import Measure, Objective, ObjectiveContext, Product, Seen, Sum, bind
from onnxviz.optimize.objectives.directions import Direction, NeuronDirection
from onnxviz.optimize.objectives.groups import Alignment, ChannelInterpolation, Diversity, KeptDifferent
from onnxviz.optimize.objectives.positions import centre
from onnxviz.optimize.objectives.references import Caricature, FeatureInversion, InputDifference, Style
from onnxviz.optimize.objectives.units import Channel, Neuron, WholeLayer, objective_of

__all__ = [
    "Alignment",
    "Caricature",
    "Channel",
    "ChannelInterpolation",
    "Direction",
    "Diversity",
    "FeatureInversion",
    "InputDifference",
    "KeptDifferent",
    "Measure",
    "Neuron",
    "NeuronDirection",
    "Objective",
    "ObjectiveChoice",
    "ObjectiveContext",
    "Product",
    "Seen",
    "Style",
    "Sum",
    "WholeLayer",
    "bind",
    "centre",
    "objective_of",
]

if TYPE_CHECKING:
    ObjectiveChoice = Objective
else:
    _Single = Channel | Neuron | WholeLayer | Direction | NeuronDirection
    _Grouped = Diversity | Alignment | ChannelInterpolation
    _Compared = FeatureInversion | Caricature | Style | InputDifference
    ObjectiveChoice = Annotated[_Single | _Grouped | _Compared | Sum | Product, Field(discriminator="kind")]
    """Any objective that a recipe can name."""

for _composition in (Sum, Product):
    _composition.model_rebuild(_types_namespace={"ObjectiveChoice": ObjectiveChoice})
