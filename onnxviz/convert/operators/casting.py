"""Element types: casts, bit casts and rounding to narrow types."""

from __future__ import annotations

from collections.abc import Mapping

from onnxviz.convert.operators.operation import Converter

CONVERTERS: Mapping[str, Converter] = {}
