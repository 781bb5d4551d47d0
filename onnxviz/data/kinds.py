"""The data sources by kind, and those of other packages by entry point."""

from __future__ import annotations

import functools

from onnxviz.core.plugins import by_kind
from onnxviz.data.base import DataSource
from onnxviz.data.builtin import BuiltinSettings
from onnxviz.data.generator_file import GeneratorSettings
from onnxviz.data.images import ImagesSettings
from onnxviz.data.labelled.settings import ConceptsSettings

ENTRY_POINTS = "onnxviz.data"


@functools.cache
def data_kinds() -> dict[str, type[DataSource]]:
    """Return every data source by kind; where images are looked for unasked, the first that holds some is taken."""
    own: tuple[type[DataSource], ...] = (ImagesSettings, ConceptsSettings, BuiltinSettings, GeneratorSettings)
    return by_kind(own, DataSource, ENTRY_POINTS, lambda cls: cls.kind)
