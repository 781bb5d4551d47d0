"""Sampling at computed places: grids, regions, deformed kernels."""

from __future__ import annotations

from collections.abc import Mapping

from onnxviz.convert.operators.operation import Converter

CONVERTERS: Mapping[str, Converter] = {}
