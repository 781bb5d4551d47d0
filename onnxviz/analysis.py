"""What the author of an analysis needs, in a package of its own: docs/analyses.md says how to write one.

Everything here is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxviz.core.lazy import loaded_later

if TYPE_CHECKING:
    from onnxviz.analyses.base import Analysis, Job, JobContext, LayerSelector, Progress, Subject
    from onnxviz.analyses.grad_cam.analysis import ClassActivationMaps
    from onnxviz.analyses.sharding import ExactSum, LastLook, Pass, ShardedAnalysis
    from onnxviz.analyses.stream import Batch
    from onnxviz.core.colormap import colour, colour_signed, overlay
    from onnxviz.core.errors import AnalysisError, DataError, SelectionError
    from onnxviz.core.findings import (
        Array,
        Bars,
        Caveat,
        Column,
        Coverage,
        Curve,
        CustomFinding,
        Finding,
        Histogram,
        MatrixRow,
        Metric,
        Note,
        Outcomes,
        Picture,
        PictureMatrix,
        Series,
        Table,
        Tile,
        TileGrid,
        UnknownFinding,
        merge,
    )
    from onnxviz.core.shares import wilson
    from onnxviz.core.values import Layer, Unit
    from onnxviz.data.image_choice import ImageChoice, choose_images, find_source
    from onnxviz.data.images import load_batch

__all__ = [
    "Analysis", "AnalysisError", "Array", "Bars", "Batch", "Caveat", "ClassActivationMaps", "Column", "Coverage",
    "Curve", "CustomFinding", "DataError", "ExactSum", "Finding", "Histogram", "ImageChoice", "Job", "JobContext",
    "LastLook", "Layer", "LayerSelector", "MatrixRow", "Metric", "Note", "Outcomes", "Pass", "Picture",
    "PictureMatrix", "Progress", "SelectionError", "Series", "ShardedAnalysis", "Subject", "Table", "Tile",
    "TileGrid", "Unit", "UnknownFinding", "choose_images", "colour", "colour_signed", "find_source", "load_batch",
    "merge", "overlay", "wilson",
]  # fmt: skip

_ELSEWHERE = {
    "onnxviz.analyses.base": ("Analysis", "Job", "JobContext", "LayerSelector", "Progress", "Subject"),
    "onnxviz.analyses.grad_cam.analysis": ("ClassActivationMaps",),
    "onnxviz.analyses.sharding": ("ExactSum", "LastLook", "Pass", "ShardedAnalysis"),
    "onnxviz.analyses.stream": ("Batch",),
    "onnxviz.core.colormap": ("colour", "colour_signed", "overlay"),
    "onnxviz.core.errors": ("AnalysisError", "DataError", "SelectionError"),
    "onnxviz.core.shares": ("wilson",),
    "onnxviz.core.values": ("Layer", "Unit"),
    "onnxviz.data.image_choice": ("ImageChoice", "choose_images", "find_source"),
    "onnxviz.data.images": ("load_batch",),
}
_OTHERS = {name: f"{module}:{name}" for module, names in _ELSEWHERE.items() for name in names}
_PLACES = {name: _OTHERS.get(name, f"onnxviz.core.findings:{name}") for name in __all__}

__getattr__, __dir__ = loaded_later(__name__, _PLACES)
