"""Where the object of a class is: pixel labels of an analysis' images, and which of their concepts is the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import AnalysisError, DataError, SelectionError, nearest, shorten
from onnxviz.core.values import Preprocessing
from onnxviz.data.base import data_set
from onnxviz.data.images import fit_labels
from onnxviz.graph.targets import class_indices

if TYPE_CHECKING:
    from onnxviz.data.concepts import Concept, ConceptSet
    from onnxviz.data.images import ImageSource
    from onnxviz.graph.model_output import Head

_STRETCH = Preprocessing(fit="stretch")
_NO_OBJECTS = ("colour", "color", "texture", "material", "scene")
"""Categories of what is true of things or of whole images."""
ANY = "*"
"""Stands for every class that is not named."""


@dataclass(frozen=True, eq=False)
class Objects:
    """Pixel labels of images, with the objects of classes in them.

    Attributes:
        data: the labels.
        places: for each image of the analysis which of `data` it is; -1 where there is none.
        chosen: names of concepts by the whole name of a class, or by `ANY`.
        sizes: for each image of the analysis its height and width in pixels; None where these are not known.
    """

    data: ConceptSet
    places: tuple[int, ...]
    chosen: Mapping[str, Sequence[str]]
    sizes: Sequence[tuple[int, int]] | None = None

    @classmethod
    def of(
        cls,
        source: ImageSource,
        labels: str | None,
        data: Mapping[str, Any],
        chosen: Mapping[str, str | list[str]],
    ) -> Objects | None:
        """Find the labels of a data set's images: its own, or those of the data set that is named; None for neither.

        Args:
            source: the analysis' images.
            labels: the data set with labels, if it is another.
            data: all data sets.
            chosen: names of concepts by the whole name of a class (`by_title`), or by `ANY`.

        Raises:
            DataError: if the data set that is named does not exist or has no labels, or not of these images.
            AnalysisError: if an object is no concept, or objects are named and nothing is labelled.
        """
        by_class = {name: [names] if isinstance(names, str) else names for name, names in chosen.items()}
        found = source if labels is None else data_set(labels, data)
        if not hasattr(found, "read_labels"):
            if labels is not None:
                raise DataError("it has no labels of pixels", where=f"data {shorten(labels)!r}",
                                remedy="name a concept folder: images/, labels/ and classes.txt")  # fmt: skip
            if chosen:
                raise AnalysisError("nothing says where objects are: the images have no labels of pixels",
                                    where="objects", remedy="name a data set with labels in `masks`")  # fmt: skip
            return None
        labelled = cast("ConceptSet", found)
        places = range(len(source)) if found is source else _places(source, labelled)
        objects = cls(labelled, tuple(places), by_class, getattr(source, "sizes", None))
        known = {concept.name for concept in objects.concepts}
        for name in (name for names in by_class.values() for name in names if name not in known):
            raise AnalysisError(f"no concept is called {shorten(name)!r}", where="objects",
                                remedy=nearest(name, known) or "name one that the data set has")  # fmt: skip
        return objects

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept, in the order of their numbers."""
        return self.data.concepts

    def numbers(self, title: str) -> tuple[int, ...]:
        """Return the numbers of the concepts that are the object of a class; none where nothing says which.

        Those that are chosen; else those of the class's name, or of one of its synonyms; else those of the longest name
        that a class's name ends with, as "king penguin" does with "penguin"; else the only one that there is. What is
        not chosen is no colour, texture, material or scene: the class "orange" is not what is orange.
        """
        names = self.chosen.get(title, self.chosen.get(ANY))
        if names is not None:
            return tuple(concept.index for concept in self.concepts if concept.name in names)
        things = [concept for concept in self.concepts if concept.category not in _NO_OBJECTS]
        words = [_plain(word) for word in title.split(",")]
        ends = [one for one in things if any(f" {word}".endswith(f" {_plain(one.name)}") for word in words)]
        longest = max((len(_plain(one.name)) for one in ends), default=0)
        found = [one for one in ends if len(_plain(one.name)) == longest]
        if not found and len(self.concepts) == 1:
            found = things
        return tuple(concept.index for concept in found)

    def read(self, image: int, preprocessing: Preprocessing, size: tuple[int, int]) -> npt.NDArray[np.int32] | None:
        """Return an image's labels [layers, h, w] as the network sees it; None where it has none.

        Labels of another size are brought to the image's first: what a crop keeps depends on the size.

        Raises:
            DataError: if labels have another aspect ratio than the image.
        """
        place = self.places[image]
        if place < 0:
            return None
        labels = self.data.read_labels(place)
        own = labels.shape[-2:] if self.sizes is None else self.sizes[image]
        if own != labels.shape[-2:]:
            height, width = labels.shape[-2:]
            if abs(height * own[1] - width * own[0]) >= max(*own, height, width):  # a side may be rounded
                raise DataError(
                    f"labels of {width} x {height} pixels have another aspect ratio than the image of "
                    f"{own[1]} x {own[0]}",
                    where=f"data {shorten(self.data.name)!r}: {shorten(self.data.names[place])}",
                    remedy="label the images that are explained, whole",
                )
            labels = fit_labels(labels, _STRETCH, own)
        return fit_labels(labels, preprocessing, size)

    def mask(self, labels: npt.NDArray[np.int32], title: str) -> npt.NDArray[np.bool_]:
        """Return where the object of a class is in an image's labels [layers, h, w]; nowhere where it is not known."""
        found: npt.NDArray[np.bool_] = np.any(np.isin(labels, self.numbers(title)), axis=0)
        return found


def by_title(
    chosen: Mapping[str, str | list[str]], head: Head, labels: Sequence[str] | None
) -> dict[str, str | list[str]]:
    """Return chosen objects by what a report calls their classes, `ANY` as it is.

    Classes are named as everywhere else: by a label or one of its synonyms, or by number.

    Raises:
        SelectionError: if a class does not exist, or is named twice.
    """
    titles = head.titles(labels)
    if not titles:  # a file need not say how many there are
        return dict(chosen)
    found: dict[str, str | list[str]] = {}
    for name, concepts in chosen.items():
        known = name == ANY or name in titles
        for title in [name] if known else [titles[number] for number in class_indices(name, head, labels)]:
            if title in found:
                raise SelectionError(f"{shorten(title)!r} is named twice", where="objects", remedy="name it once")
            found[title] = concepts
    return found


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _places(source: ImageSource, labelled: ConceptSet) -> list[int]:
    """Return for each image of a source the one of the same name among those that are labelled; -1 for none.

    Names are compared without folder and suffix, and with both where several images are called alike.
    """
    whole = {name: place for place, name in enumerate(labelled.names)}
    stems: dict[str, int] = {}
    for place, name in enumerate(labelled.names):
        stem = PurePosixPath(name).stem
        stems[stem] = -1 if stem in stems else place
    places = [whole.get(name, stems.get(PurePosixPath(name).stem, -1)) for name in source.names]
    if max(places, default=-1) < 0:
        raise DataError(
            f"none of the {len(places)} images is among those with labels; the first is {shorten(source.names[0])!r}, "
            f"the first with labels {shorten(labelled.names[0])!r}",
            where=f"data {shorten(labelled.name)!r}",
            remedy="images and their labels are matched by the names of the image files",
        )
    return places
