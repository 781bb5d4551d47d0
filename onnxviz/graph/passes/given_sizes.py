"""Dimensions that the model leaves free get the sizes that the user gives, so that shapes can be inferred."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import TensorShapeProto, ValueInfoProto

from onnxviz.core.errors import ModelFileError, nearest, shorten
from onnxviz.graph.draft import Draft

_LARGEST = 1 << 24


def run(draft: Draft) -> str:
    """Write the sizes of `draft.sizes` into the inputs that have a free dimension of that name or place.

    Raises:
        ModelFileError: if a size is for no free dimension, or is none; lists the free dimensions.
    """
    if not draft.sizes:
        return ""
    free = free_dimensions(draft)
    for name, size in draft.sizes.items():
        if name not in free:
            raise ModelFileError(
                f"the model has no free dimension {shorten(name)!r}",
                remedy=nearest(name, free) or _listed(free) or "leave it out: all dimensions of the model are fixed",
            )
        if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _LARGEST:
            raise ModelFileError(
                f"{shorten(repr(size))} is no size for the dimension {shorten(name)!r}",
                remedy=f"give a whole number from 1 to {_LARGEST:,}",
            )
        for dimension in free[name]:
            dimension.dim_value = size
    return "set " + ", ".join(f"{shorten(name)} to {size}" for name, size in draft.sizes.items())


def free_dimensions(draft: Draft) -> dict[str, list[TensorShapeProto.Dimension]]:
    """Map what users may call the free dimensions of the inputs to the dimensions.

    A dimension is called by its name in the file, and by its place: `input:2` is the third of the input `input`.
    """
    found: dict[str, list[TensorShapeProto.Dimension]] = {}
    for value in _inputs(draft):
        for index, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                if dimension.dim_param:
                    found.setdefault(draft.dimensions.get(dimension.dim_param, dimension.dim_param), []).append(
                        dimension
                    )
                found.setdefault(f"{draft.names.get(value.name, value.name)}:{index}", []).append(dimension)
    return found


def _inputs(draft: Draft) -> list[ValueInfoProto]:
    constant = {tensor.name for tensor in draft.graph.initializer}
    return [value for value in draft.graph.input if value.name not in constant]


def _listed(free: Mapping[str, object]) -> str:
    return "its free dimensions: " + ", ".join(repr(shorten(name)) for name in list(free)[:20]) if free else ""
