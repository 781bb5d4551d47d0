"""A generator of the recipe's data, opened to make pictures with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxviz.core.errors import DataError, shorten
from onnxviz.data.generator_file import generator_file

if TYPE_CHECKING:
    import torch

    from onnxviz.optimize.generators import GeneratorNetwork


def opened_generator(name: str, data: Mapping[str, Any], device: torch.device) -> GeneratorNetwork:
    """Open a generator of the recipe's data on a device.

    Raises:
        DataError: if there is none, or it is no longer the one that the results are stored under.
    """
    from onnxviz.model.model import load
    from onnxviz.optimize.generators import open_generator

    file = generator_file(name, data)
    model = load(file.path, device=device)
    if model.view.digest != file.digest:
        raise DataError(
            "was changed since the run was planned",
            where=f"data {shorten(name)!r}",
            remedy="run the same command again: what is done is kept",
        )
    return open_generator(model)
