"""Operators that were experiments in the first opset, as CoreML's converter wrote them, become what they are made of.

They have left the standard: shape inference knows nothing of them and all that comes behind, and ONNX Runtime refuses
them in newer opsets. ONNX 1.0 to 1.3, `onnx/defs/experiments/defs.cc`, has their definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxviz.graph.draft import Draft
from onnxviz.graph.passes.replacement import Replacement, Rewrite, replace
from onnxviz.graph.structure import attribute, integers

_LAST = 9
"""The last opset in which runtimes took these names for the experiments."""
_TO_THE_END = (1 << 63) - 1


def run(draft: Draft) -> str:
    """Replace each experimental operator by standard ones."""
    said = replace(draft, REWRITES, "replace_experimental") if 0 < draft.opset <= _LAST else ""
    return f"replaced experimental operators by standard ones ({said})" if said else ""


def _image_scaler(new: Replacement) -> bool:
    """Compute scale x + bias[c] on [N, C, H, W]."""
    bias = np.asarray(attribute(new.node, "bias", ()), np.float32).reshape(-1, 1, 1)
    to = new.node.output[0]
    scaled = _pointwise(new, "Mul", new.input(0), attribute(new.node, "scale", 1.0), "" if bias.size else to)
    return not bias.size or bool(_pointwise(new, "Add", scaled, bias, to))


def _affine(new: Replacement) -> bool:
    """Compute alpha x + beta."""
    scaled = _pointwise(new, "Mul", new.input(0), attribute(new.node, "alpha", 1.0))
    return bool(_pointwise(new, "Add", scaled, attribute(new.node, "beta", 0.0), new.node.output[0]))


def _scaled(operator: str, inner: str, outer: str) -> Rewrite:
    """Return what computes outer f(inner x), by the names of both factors; without an operator inner x."""

    def rewrite(new: Replacement) -> bool:
        to = new.node.output[0]
        value = _pointwise(new, "Mul", new.input(0), attribute(new.node, inner, 1.0), "" if operator else to)
        if operator:
            _pointwise(new, "Mul", new.add(operator, value), attribute(new.node, outer, 1.0), to)
        return True

    return rewrite


def _crop(new: Replacement) -> bool:
    """Cut `border` (left, top, right, bottom) off, or take `scale` (height, width) from the corner left, top."""
    border, size = integers(new.node, "border"), integers(new.node, "scale")
    if len(border) != 4 or len(size) not in (0, 2) or min(border) < 0 or (size and min(size) <= 0):
        return False
    left, top, right, bottom = border
    ends = [top + size[0], left + size[1]] if size else [-bottom or _TO_THE_END, -right or _TO_THE_END]
    new.add("Slice", new.input(0), to=new.node.output[0], starts=[top, left], ends=ends, axes=[2, 3])
    return True


def _pointwise(new: Replacement, operator: str, value: str, number: float | np.ndarray, to: str = "") -> str:
    """Combine a value with a constant: a number, or one for each channel."""
    attributes: dict[str, Any] = {}
    if new.draft.opset < 7:  # before, broadcasting had to be asked for, from the axis of the channels on
        attributes = {"broadcast": 1, **({"axis": 1} if np.ndim(number) else {})}
    return new.add(operator, value, new.constant(number), to=to, **attributes)


REWRITES: Mapping[tuple[str, str], Rewrite] = {
    ("", "Affine"): _affine,
    ("", "Crop"): _crop,
    ("", "ImageScaler"): _image_scaler,
    ("", "ParametricSoftplus"): _scaled("Softplus", "beta", "alpha"),
    ("", "Scale"): _scaled("", "scale", ""),
    ("", "ScaledTanh"): _scaled("Tanh", "beta", "alpha"),
}
"""What replaces an operator, by its domain and name."""
