"""What is driven up: objectives that add and multiply, in recipes as in Python.

Each is data (`base.Objective`): it names layers and units, is bound once to the tensors of a batch, and then gives one
number for each image at every step.
"""

from onnxviz.optimize.objectives.base import Measure, Objective, ObjectiveContext, Product, Seen, Sum, bind
from onnxviz.optimize.objectives.choice import ObjectiveChoice
from onnxviz.optimize.objectives.directions import Direction, NeuronDirection
from onnxviz.optimize.objectives.groups import Alignment, ChannelInterpolation, Diversity
from onnxviz.optimize.objectives.positions import Box, Position, centre
from onnxviz.optimize.objectives.references import Caricature, FeatureInversion, InputDifference, Style
from onnxviz.optimize.objectives.units import Channel, Neuron, WholeLayer, objective_of

__all__ = [
    "Alignment",
    "Box",
    "Caricature",
    "Channel",
    "ChannelInterpolation",
    "Direction",
    "Diversity",
    "FeatureInversion",
    "InputDifference",
    "Measure",
    "Neuron",
    "NeuronDirection",
    "Objective",
    "ObjectiveChoice",
    "ObjectiveContext",
    "Position",
    "Product",
    "Seen",
    "Style",
    "Sum",
    "WholeLayer",
    "bind",
    "centre",
    "objective_of",
]
