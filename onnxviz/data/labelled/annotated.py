"""Images with labels that are computed from their pixels, beside those that they have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import DataError, shorten
from onnxviz.data.base import ImageSource
from onnxviz.data.concepts import Concept
from onnxviz.data.decode import Pixels


class Annotator(Protocol):
    """Says of every pixel of an image which concept of a category it carries."""

    @property
    def category(self) -> str:
        """What its concepts are."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Its concepts."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever its labels may."""
        ...

    @property
    def remark(self) -> str:
        """What should be known of its labels, as a sentence without a final stop."""
        ...

    def label(self, pixels: Pixels) -> npt.NDArray[np.int32]:
        """Return for each pixel of an image [height, width, 3] the place of its concept in `names` from 1, 0 for none.

        Raises:
            DataError: if it cannot.
        """
        ...


class AnnotatedImages:
    """Images, labelled or not, with further labels of every pixel; what else is known of them, their source tells."""

    def __init__(self, source: ImageSource, annotators: Sequence[Annotator]) -> None:
        """Add labels to images.

        Raises:
            DataError: if the images already have labels of an annotator's category.
        """
        self.source = source
        self.annotators = tuple(annotators)
        self.name = source.name
        self.names = source.names
        concepts: list[Concept] = list(getattr(source, "concepts", ()))
        self._first: list[int] = []
        for annotator in self.annotators:
            if annotator.category in {concept.category for concept in concepts}:
                raise DataError(
                    f"the images have labels of the category {shorten(annotator.category)!r} already",
                    where=f"data {shorten(source.name)!r}",
                    remedy="computed labels need a category of their own",
                )
            start = max((concept.index for concept in concepts), default=0)
            self._first.append(start)
            concepts += (Concept(start + n, name, annotator.category) for n, name in enumerate(annotator.names, 1))
        self.concepts = tuple(concepts)
        self.categories = tuple(dict.fromkeys(concept.category for concept in concepts))
        self.remarks = (*getattr(source, "remarks", ()), *(annotator.remark for annotator in self.annotators))

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("source", "annotators"):
            raise AttributeError(name)  # not yet set: copies and pickles ask before
        return getattr(self.source, name)

    @cached_property
    def digest(self) -> str:
        """Changes with the images, their labels, and what computes labels."""
        parts = (self.source.digest, *(f"{one.category}/{one.digest}" for one in self.annotators))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read(self, index: int) -> Pixels:
        """Return an image as uint8 [height, width, 3]; raises DataError if it cannot be read."""
        return self.source.read(index)

    def read_labels(self, index: int) -> npt.NDArray[np.int32]:
        """Return an image's labels as int32 [layers, height, width]: its own, then a layer of each annotator.

        Raises:
            DataError: if the image or its labels cannot be read or computed.
        """
        pixels = self.read(index)
        own = getattr(self.source, "read_labels", None)
        layers = [] if own is None else list(own(index))
        for start, annotator in zip(self._first, self.annotators, strict=True):
            found = annotator.label(pixels)
            layers.append(np.where(found > 0, found + np.int32(start), np.int32(0)))
        return np.stack(layers)
