"""What an input is, one class each: how samples are read, encoded, parameterized, perturbed and shown."""

from __future__ import annotations

from onnxviz.core.values import Preprocessing
from onnxviz.data.domains.base import Domain
from onnxviz.data.domains.image import ImageDomain

__all__ = ["Domain", "ImageDomain", "domain_of"]


def domain_of(preprocessing: Preprocessing) -> Domain:
    """Return what the input of a model is that gets this preprocessing."""
    return ImageDomain(preprocessing)
