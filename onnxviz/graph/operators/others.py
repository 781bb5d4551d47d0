"""Operators that quantise, those of classical models, and those of ONNX Runtime, of which only gradients are known."""

from __future__ import annotations

from onnxviz.graph.operators.traits import family

TRAITS = {
    **family("QuantizeLinear", "quantize", keeps="order", rounds=True),
    **family("DequantizeLinear", "quantize", keeps="order"),
    **family("DynamicQuantizeLinear", "quantize", keeps="order", rounds=True),
    **family("TfIdfVectorizer", flat=True),
    **family(
        "ai.onnx.ml:Binarizer ai.onnx.ml:LabelEncoder ai.onnx.ml:OneHotEncoder ai.onnx.ml:TreeEnsemble"
        " ai.onnx.ml:TreeEnsembleClassifier ai.onnx.ml:TreeEnsembleRegressor",
        work="unknown",
        flat=True,
    ),
    **family(
        "ai.onnx.ml:FeatureVectorizer ai.onnx.ml:Imputer ai.onnx.ml:LinearClassifier ai.onnx.ml:LinearRegressor"
        " ai.onnx.ml:Normalizer ai.onnx.ml:SVMClassifier ai.onnx.ml:SVMRegressor ai.onnx.ml:Scaler"
        " com.microsoft:BiasGelu com.microsoft:DequantizeLinear com.microsoft:FastGelu com.microsoft:FusedConv"
        " com.microsoft:FusedGemm com.microsoft:FusedMatMul com.microsoft:Gelu com.microsoft:MatMulIntegerToFloat"
        " com.microsoft:QuickGelu com.microsoft:SkipLayerNormalization"
        " com.microsoft:SkipSimplifiedLayerNormalization com.microsoft:TransposeMatMul",
        work="unknown",
    ),
    **family(
        "com.microsoft:DynamicQuantizeMatMul com.microsoft:QGemm com.microsoft:QLinearAdd"
        " com.microsoft:QLinearAveragePool com.microsoft:QLinearConcat com.microsoft:QLinearConv"
        " com.microsoft:QLinearGlobalAveragePool com.microsoft:QLinearLeakyRelu com.microsoft:QLinearMul"
        " com.microsoft:QLinearSigmoid com.microsoft:QLinearSoftmax com.microsoft:QuantizeLinear",
        work="unknown",
        rounds=True,
    ),
}
