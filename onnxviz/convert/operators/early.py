"""Operators of CoreML and Caffe2 exports that the standard had as experiments in its first opset."""

from __future__ import annotations

from collections.abc import Mapping

from onnxviz.convert.operators.operation import Converter

CONVERTERS: Mapping[str, Converter] = {}
