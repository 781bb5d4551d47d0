"""Dimensions that the model leaves free get the sizes that the user gives, so that shapes can be inferred."""

from __future__ import annotations

from onnx import TensorShapeProto

from onnxviz.core.errors import ModelFileError, nearest, shorten
from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import free_dimensions

_LARGEST = 1 << 24
_NONE = "leave it out: all dimensions of the model are fixed"


def run(draft: Draft) -> str:
    """Write the sizes of `draft.sizes` into the inputs that have a free dimension of that name or place.

    Raises:
        ModelFileError: if a size is for no free dimension, or is none; lists the free dimensions.
    """
    if not draft.sizes:
        return ""
    free: dict[str, list[TensorShapeProto.Dimension]] = {}
    for dimension, name, given, axis in free_dimensions(draft.graph, draft.names, draft.dimensions):
        for called in filter(None, (name, f"{given}:{axis}")):
            free.setdefault(called, []).append(dimension)
    listed = ", ".join(repr(shorten(name)) for name in list(free)[:20])
    for name, size in draft.sizes.items():
        if name not in free:
            raise ModelFileError(
                f"the model has no free dimension {shorten(name)!r}",
                remedy=nearest(name, free) or (listed and f"its free dimensions: {listed}") or _NONE,
            )
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _LARGEST:
            raise ModelFileError(
                f"{shorten(repr(size))} is no size for the dimension {shorten(name)!r}",
                remedy=f"give a whole number from 1 to {_LARGEST:,}",
            )
        for dimension in free[name]:
            dimension.dim_value = size
    return "set " + ", ".join(f"{shorten(name)} to {size}" for name, size in draft.sizes.items())
