"""Operators with weights, and others that sum products."""

from __future__ import annotations

from onnxviz.graph.operators.traits import family

TRAITS = {
    **family("Conv ConvInteger", "convolution", work="convolution", weight=1),
    **family("QLinearConv", "convolution", work="convolution", weight=3, rounds=True),
    **family("DeformConv", "deformed_convolution", work="convolution", weight=1),
    **family("ConvTranspose", "transposed_convolution", work="transposed", weight=1),
    **family("MatMul MatMulInteger", "product", work="product", weight=1),
    **family("QLinearMatMul", "product", work="product", weight=3, rounds=True),
    **family("Gemm", "gemm", work="product", weight=1),
    **family("Einsum", "einsum", work="unknown"),
    **family("GRU LSTM RNN", "recurrent", work="unknown", weight=1),
    **family("CausalConvWithState", work="unknown", weight=1),
    **family("Attention", "attention", work="unknown"),
    **family("LinearAttention ai.onnx.preview:FlexAttention SwiGLU", work="unknown"),
    **family("RotaryEmbedding", "rotary"),
    **family("DFT Det STFT"),
}
