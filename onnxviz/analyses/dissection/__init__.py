"""Network dissection in numbers: thresholds, masks and overlaps of units with labelled concepts.

Definitions after Bau, Zhou, Khosla, Oliva and Torralba 2017 (arXiv:1704.05796), made exact: the threshold is a Hazen
quantile of all activations, upsampling is bilinear with half-pixel centres, and every count is an integer.
"""

from onnxviz.analyses.dissection.best_images import BestImages
from onnxviz.analyses.dissection.chance import Chance, Exchange
from onnxviz.analyses.dissection.counting import Overlap, ShuffledOverlap, count_image, count_overlap
from onnxviz.analyses.dissection.labels import Labels
from onnxviz.analyses.dissection.neighbours import likeness
from onnxviz.analyses.dissection.passes import Activations, Passes
from onnxviz.analyses.dissection.thresholds import Thresholds, TopValues
from onnxviz.analyses.dissection.upsampling import Grid, upsample

__all__ = [
    "Activations",
    "BestImages",
    "Chance",
    "Exchange",
    "Grid",
    "Labels",
    "Overlap",
    "Passes",
    "ShuffledOverlap",
    "Thresholds",
    "TopValues",
    "count_image",
    "count_overlap",
    "likeness",
    "upsample",
]
