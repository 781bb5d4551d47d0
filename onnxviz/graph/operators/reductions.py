"""Operators that pool, sum or normalise over positions or units."""

from __future__ import annotations

import math

from onnxviz.graph.operators.traits import family

TRAITS = {
    **family("AveragePool", "pool", keeps="mean"),
    **family("LpPool", "pool"),
    **family("MaxPool", "pool", keeps="some", sloped_outputs=1),
    **family("GlobalAveragePool", "global_pool", keeps="mean"),
    **family("GlobalLpPool", "global_pool"),
    **family("GlobalMaxPool", "global_pool", keeps="some"),
    **family("MaxUnpool", "unpool"),
    **family("MaxRoiPool RoiAlign"),
    **family("ReduceMax ReduceMin", "reduction", keeps="some"),
    **family("ReduceMean", "reduction", keeps="mean"),
    **family("ReduceL1 ReduceL2 ReduceSumSquare", "reduction", bounds=(0.0, math.inf)),
    **family("ReduceLogSum ReduceLogSumExp ReduceProd ReduceSum", "reduction"),
    **family("ArgMax ArgMin", "reduction", flat=True),
    **family("CumProd CumSum", "cumulative"),
    **family("Softmax", "along_axis", bounds=(0.0, 1.0)),
    **family("LogSoftmax", "along_axis", bounds=(-math.inf, 0.0)),
    **family("Hardmax", "along_axis", flat=True),
    **family("LpNormalization", "axis_normalisation"),
    **family("BatchNormalization LRN", "channel_normalisation"),
    **family("GroupNormalization InstanceNormalization", "map_normalisation"),
    **family("LayerNormalization RMSNormalization", "last_normalisation"),
    **family("MeanVarianceNormalization", "normalisation"),
    **family("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"),
}
