"""If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Mapping

from onnxviz.convert.operators.operation import Converter

CONVERTERS: Mapping[str, Converter] = {}
