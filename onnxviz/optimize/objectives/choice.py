"""Any objective that a recipe can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from onnxviz.optimize.objectives.base import Objective, Product, Sum
from onnxviz.optimize.objectives.directions import Direction, NeuronDirection
from onnxviz.optimize.objectives.groups import Alignment, ChannelInterpolation, Diversity
from onnxviz.optimize.objectives.references import Caricature, FeatureInversion, InputDifference, Style
from onnxviz.optimize.objectives.units import Channel, Neuron, WholeLayer

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

for _composition in (Sum, Product):
    _composition.model_rebuild(_types_namespace={"ObjectiveChoice": ObjectiveChoice})
