"""Which images of a data set are meant, and which class an image shows."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import PurePosixPath
from typing import Annotated, TypeVar

from pydantic import Field, StrictInt

from onnxviz.errors import DataError, SelectionError, nearest, shorten
from onnxviz.ground_truth import is_wordnet_id
from onnxviz.images import ImageSource
from onnxviz.targets import class_index

ImageChoice = Annotated[
    StrictInt | str | list[StrictInt | str] | None,
    Field(description="Indices from 0, names, or globs such as `*lion*`; nothing for all, up to the limit."),
]

Source = TypeVar("Source", bound=ImageSource)


def find_source(name: str, data: Mapping[str, Source]) -> Source:
    """Return the data set of this name.

    Raises:
        DataError: if the recipe has none.
    """
    if name not in data:
        raise DataError(
            f"there is no data set {shorten(name)!r}",
            where="data",
            remedy=nearest(name, data) or f"the recipe has {', '.join(sorted(data)) or 'none'}",
        )
    if not len(data[name]):
        raise DataError(
            f"the data set {shorten(name)!r} holds no images",
            where="data",
            remedy="name one of images, not a generator",
        )
    return data[name]


def choose_images(source: ImageSource, choice: int | str | Sequence[int | str] | None, limit: int) -> list[int]:
    """Return the indices of the images that a choice names, each once; all if there is no choice.

    Args:
        source: the images.
        choice: indices, names (with or without folder and suffix), globs, or None.
        limit: most images to return, spread evenly.

    Raises:
        DataError: if an image does not exist, or a plain name fits several.
    """
    items = range(len(source)) if choice is None else [choice] if isinstance(choice, int | str) else choice
    found: dict[int, None] = {}
    for item in items:
        found.update(dict.fromkeys(_matching(source, item)))
    chosen = list(found)
    if not chosen:
        raise DataError("no image is chosen", where=f"data {shorten(source.name)!r}", remedy="name at least one")
    if len(chosen) <= limit:
        return chosen
    return [chosen[place * len(chosen) // limit] for place in range(limit)]


def _matching(source: ImageSource, item: int | str) -> list[int]:
    where = f"data {shorten(source.name)!r}"
    if isinstance(item, int):
        if not 0 <= item < len(source):
            raise DataError(f"there is no image {item}: it has {len(source)}, counted from 0", where=where)
        return [item]
    names = source.names
    tests = (
        lambda name: name == item,
        lambda name: PurePosixPath(name).name == item or PurePosixPath(name).stem == item,
    )
    for test in tests:
        same = [index for index, name in enumerate(names) if test(name)]
        if len(same) > 1:
            raise DataError(
                f"{shorten(item)!r} fits {len(same)} images",
                where=where,
                remedy=f"write {shorten(names[same[0]])!r} for the first",
            )
        if same:
            return same
    pattern = re.compile(fnmatch.translate(item)) if len(item) < 1000 else None
    matched = [index for index, name in enumerate(names) if pattern and pattern.match(name)]
    if not matched:
        stems = {PurePosixPath(name).stem for name in names[:20_000]}
        raise DataError(
            f"no image is called {shorten(item)!r}",
            where=where,
            remedy=nearest(item, stems) or f"the first is {shorten(names[0])!r}; globs such as '*lion*' work too",
        )
    return matched


def own_class(source: ImageSource, index: int, labels: Sequence[str] | None) -> int | None:
    """Return the index of the class that an image shows, or None if nothing says it.

    The class's names decide where the model has labels, because data sets number their classes in their own ways; the
    number decides between classes of the same name, and where there are no labels or no names. A folder whose name is
    none of the labels says nothing: it may be called anything.

    Raises:
        SelectionError: if somebody wrote the class down and it is none of the labels.
    """
    number: int | None = source.class_index_of(index) if hasattr(source, "class_index_of") else None
    if not labels:
        return number
    names = _names(source, index)
    fault: SelectionError | None = None
    for name in names:
        try:
            return _index_of(name, labels)
        except SelectionError as error:
            fault = fault or error
    named = [name for name in names if name != str(number)]
    if number is not None and (
        not named or (number < len(labels) and any(_fits(name, labels[number]) for name in named))
    ):
        return number
    if fault is not None and (not hasattr(source, "class_is_stated") or source.class_is_stated(index)):
        raise fault
    return None


def unfit_names(source: ImageSource) -> Iterator[str]:
    """Yield how many of the images a pattern of classes fits, if not all."""
    unfit: Sequence[str] = getattr(source, "without_class", ())
    if unfit:
        yield (
            f"the pattern of classes fits {len(source) - len(unfit):,} of {len(source):,} images; the class of the "
            f"others is not known, the first of them is {shorten(unfit[0])!r}"
        )


def misnamed_folders(source: ImageSource, labels: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on each folder that is no class of a model, where other folders of the data set are.

    Args:
        source: the images; each may lie in a folder that is called by its class.
        labels: the model's class names.
    """
    folder_of: Callable[[int], str | None] | None = getattr(source, "class_folder_of", None)
    if folder_of is None:
        return ()
    found: dict[tuple[str, ...], bool] = {}
    unknown: dict[str, int] = {}
    for index in range(len(source)):
        if (folder := folder_of(index)) is None:
            continue
        names = (folder, *_names(source, index))  # the same for most images of a folder, and the search is slow
        if names not in found:
            found[names] = own_class(source, index, labels) is not None
        if not found[names]:
            unknown[folder] = unknown.get(folder, 0) + 1
    if not any(found.values()):
        return ()  # folders may be called anything
    return tuple(
        f"folder {shorten(folder)!r} is no class of the model: the class of {count:,} "
        f"image{'s' if count > 1 else ''} is not known" + (f"; {hint}" if (hint := nearest(folder, labels)) else "")
        for folder, count in unknown.items()
    )


def _names(source: ImageSource, index: int) -> tuple[str, ...]:
    if hasattr(source, "class_names_of"):
        return tuple(source.class_names_of(index))
    name = source.class_of(index) if hasattr(source, "class_of") else None
    return () if name is None else (name,)


def _index_of(name: str, labels: Sequence[str]) -> int:
    """Return the index of a class by its label, a synonym, or the WordNet id that the label begins with."""
    try:
        return class_index(name, labels)
    except SelectionError:
        found = [index for index, label in enumerate(labels) if is_wordnet_id(name) and label.startswith(f"{name} ")]
        if len(found) != 1:
            raise
        return found[0]


def class_count(sources: Iterable[object]) -> int | None:
    """Return how many classes the images' own class numbers count, from 0 to the highest; None if none has one."""
    highest = -1
    for source in sources:
        number_of: Callable[[int], int | None] | None = getattr(source, "class_index_of", None)
        if number_of is not None and isinstance(source, Sized):
            highest = max(
                highest, *(number if number is not None else -1 for number in map(number_of, range(len(source)))), -1
            )
    return highest + 1 if highest >= 0 else None


def _fits(name: str, label: str) -> bool:
    """Whether a class name is a label or one of its synonyms."""
    try:
        return class_index(name, [label]) == 0
    except SelectionError:
        return False
