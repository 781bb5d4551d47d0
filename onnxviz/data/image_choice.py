"""Which images of a data set are meant, and which class an image shows."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, NamedTuple, TypeVar

from pydantic import Field, StrictInt

from onnxviz.core.errors import DataError, SelectionError, nearest, shorten
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.wording import listed
from onnxviz.data.base import ImageSource, data_set
from onnxviz.data.ground_truth import STATED, ClassOrigin, is_wordnet_id
from onnxviz.graph.targets import class_index, class_matches, nearest_class

ImageChoice = Annotated[
    StrictInt | str | list[StrictInt | str] | None,
    Field(description="Indices from 0, names, or globs such as `*lion*`; nothing for all, up to the limit."),
]

_MOST = 5
"""Names that a sentence tells."""
_MOST_FOLDERS = 3
_NUMBERED = "the model's classes have names; write their numbers in a labels.csv, as class_index"

Source = TypeVar("Source", bound=ImageSource)


def find_source(name: str, data: Mapping[str, Source]) -> Source:
    """Return the data set of this name; raises DataError if the recipe has none, or it holds no images."""
    source = data_set(name, data)
    if not len(source):
        raise DataError(f"the data set {shorten(name)!r} holds no images", remedy="name one of images, no generator")
    return source


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
    return spread_evenly(chosen, limit)


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
    number decides between classes of the same name, and where there are no labels or no names. A number that a pattern
    finds counts only where there are no labels, because files are often numbered themselves. A folder whose name is
    none of the labels says nothing: it may be called anything.

    Raises:
        SelectionError: if somebody wrote the class down and it is none of the labels.
    """
    said = _said(source, index)
    found = _class_said(said, labels)
    if found is None and labels and said.names and (said.origin is None or said.origin in STATED):
        try:
            return class_index(said.names[0], labels)  # says what is wrong with the name
        except SelectionError as fault:
            fault.remedy = _NUMBERED if said.number_of_file else fault.remedy
            if said.origin is not None:
                fault.what = f"{_FOUND[said.origin]} {shorten(said.names[0])!r}; {fault.what}"
                fault.where = shorten(source.names[index])
            raise
    return found


def known_class(source: ImageSource, index: int, labels: Sequence[str] | None) -> int | None:
    """Return the same as `own_class`, and None too where what somebody wrote down is none of the labels."""
    return _class_said(_said(source, index), labels)


_FOUND: Mapping[ClassOrigin, str] = {"pattern": "the pattern of classes finds", "table": "labels.csv says"}


class _Said(NamedTuple):
    """What a data set says of an image's class, as much of it as it has; no origin where it does not tell any."""

    origin: ClassOrigin | None
    number: int | None
    names: tuple[str, ...]

    @property
    def number_of_file(self) -> bool:
        """Whether a pattern found a number, which may be the file's own and not that of a class."""
        return self.origin == "pattern" and bool(self.names) and self.names[0].isdecimal()


def _said(source: ImageSource, index: int) -> _Said:
    origin, number, names, name = (
        getattr(source, ask)(index) if hasattr(source, ask) else None
        for ask in ("class_origin_of", "class_index_of", "class_names_of", "class_of")
    )
    if names is None:
        names = () if name is None else (name,)
    return _Said(origin, number, tuple(names))


def _class_said(said: _Said, labels: Sequence[str] | None) -> int | None:
    return class_of(None if labels and said.number_of_file else said.number, said.names, labels)


def class_of(number: int | None, names: Sequence[str], labels: Sequence[str] | None) -> int | None:
    """Return the class that a number and names stand for; None if they stand for none."""
    if not labels:
        return number
    for name in names:
        if (found := class_named(name, labels)) is not None:
            return found
    named = [name for name in names if not (name.isdecimal() and int(name) == number)]
    if number is None or not named:
        return number
    return number if number < len(labels) and any(class_matches(name, [labels[number]]) for name in named) else None


def class_named(name: str, labels: Sequence[str]) -> int | None:
    """Return the one class of a name, which may be a WordNet id in front of the labels; None if none or several are."""
    found = class_matches(name, labels)
    if not found and is_wordnet_id(name):
        found = [place for place, label in enumerate(labels) if label.startswith(f"{name} ")]
    return found[0] if len(found) == 1 else None


_TOLD: Mapping[ClassOrigin, str] = {
    "pattern": "the pattern of classes finds {name}, which",
    "table": "labels.csv says {name}, which",
    "folder": "folder {name}",
}
_NOT_TOLD: Mapping[ClassOrigin, str] = {
    "table": "their lines in labels.csv say none",
    "missing line": "labels.csv has no line for them",
    "file name": "they lie in no folder that is a class, and their names say none",
}


def unknown_classes(source: ImageSource, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return sentences on the images whose class is not known although it is written down or that of others is.

    A folder that is no class, and images beside the folders, are told where other folders are classes, or where all
    folders are nearly called like classes.
    """
    if not hasattr(source, "class_origin_of"):
        return ()
    known: dict[_Said, bool] = {}  # the search is slow, and many images have the same
    unknown: dict[tuple[ClassOrigin, str], list[int]] = {}
    guessed = False
    for index in range(len(source)):
        said = _said(source, index)
        assert said.origin is not None
        if said not in known:
            found = _class_said(said, labels)
            known[said] = found is not None and (not labels or found < len(labels))
        if known[said]:
            guessed |= said.origin not in STATED
        elif said.origin != "pattern" or said.names:  # the source itself tells where a pattern does not fit
            number = "" if said.number is None else str(said.number)
            name = next(iter(said.names), number) if said.origin in _TOLD else ""
            unknown.setdefault((said.origin, name), []).append(index)
    told = {key: images for key, images in unknown.items() if guessed or key[0] not in ("folder", "file name")}
    first = list(told.items())[:_MOST]
    sentences = [_sentence(source, origin, name, images, labels) for (origin, name), images in first]
    if len(told) > _MOST:
        rest = sum(map(len, told.values())) - sum(len(images) for _, images in first)
        sentences.append(f"so it is with {len(told) - _MOST:,} names more: the class of {_images(rest)} not known")
    if not guessed and labels and (sentence := folders_missed(source, labels, likely=True)):
        sentences.append(sentence)
    return tuple(sentences)


def folders_missed(source: ImageSource, labels: Sequence[str], likely: bool = False) -> str:
    """Return a sentence on folders of images none of which is called like a class; "" if it is not so.

    With `likely` nothing is said unless the names look as if they were to be classes.
    """
    if not hasattr(source, "class_origin_of"):
        return ""
    folders: dict[str, str] = {}
    for index, name in enumerate(source.names):
        path = PurePosixPath(name)
        if _said(source, index).origin in ("folder", "missing line") and path.parent.name:
            if known_class(source, index, labels) is not None:
                return ""
            folders.setdefault(path.parent.name, name)
    hints = {folder: _folder_hint(folder, name, labels) for folder, name in folders.items()}
    from_one = len(folders) > 1 and {int(folder) for folder in folders if folder.isdecimal()} == set(
        range(1, len(folders) + 1)
    )
    if not folders or (likely and not from_one and 2 * sum(map(bool, hints.values())) < len(folders)):
        return ""
    named = [repr(shorten(folder)) + (f" ({hint})" if hint else "") for folder, hint in hints.items()]
    several = len(folders) > 1
    count = f"none of the {len(folders):,} folders of images is" if several else "the folder of the images is not"
    return f"{count} called like a class of the model: {listed(named, _MOST_FOLDERS)}" + (
        "; folders that are class numbers count from 0" if from_one else ""
    )


def _folder_hint(folder: str, name: str, labels: Sequence[str]) -> str:
    above = [part for part in PurePosixPath(name).parent.parts[:-1] if class_named(part, labels) is not None]
    if above:
        return f"{shorten(above[-1])!r} above it is a class: only the folder that an image lies in itself counts"
    return nearest_class(folder, labels)


def why_unknown(source: ImageSource, index: int, labels: Sequence[str] | None) -> str:
    """Return why the class of an image is not known, in a few words; "" if there is nothing to say."""
    origin = _said(source, index).origin
    if origin is None:
        return ""
    if origin == "table":
        return "its line in labels.csv says no class"
    if origin == "pattern":
        return "the pattern of classes finds none in its name"
    missed = folders_missed(source, labels) if labels else ""
    no_line = "labels.csv has no line for it" if origin == "missing line" else ""
    return "; ".join(filter(None, (no_line, missed)))


def _sentence(
    source: ImageSource, origin: ClassOrigin, name: str, images: Sequence[int], labels: Sequence[str] | None
) -> str:
    not_known = f"the class of {_images(len(images))} not known"
    if not name:
        return f"{not_known}: {_NOT_TOLD[origin]}; the first of them is {shorten(source.names[images[0]])!r}"
    lacking = "is no class of the model" if labels else "is no number, and the model has no class names"
    hint = nearest_class(name, labels) if labels else ""
    if labels and origin == "pattern" and name.isdecimal():
        hint = _NUMBERED
    return f"{_TOLD[origin].format(name=repr(shorten(name)))} {lacking}: {not_known}" + (f"; {hint}" if hint else "")


def _images(count: int) -> str:
    return f"{count:,} images is" if count > 1 else "1 image is"


def unlike_concepts(source: ImageSource, labels: Sequence[str]) -> Iterator[str]:
    """Yield which names of pixel labels are no class of a model that gives each pixel a class, if any."""
    names = [str(concept.name) for concept in getattr(source, "concepts", ())]
    lacking = [name for name in names if not class_matches(name, labels)]
    if lacking:
        told = []
        for name in lacking[:_MOST]:
            hint = nearest_class(name, labels)
            told.append(repr(shorten(name)) + (f" ({hint})" if hint else ""))
        more = f" and {len(lacking) - _MOST:,} more" if len(lacking) > _MOST else ""
        count = (
            f"{len(lacking):,} of the {len(names):,}" if len(lacking) < len(names) else f"none of the {len(names):,}"
        )
        are = "are no classes" if len(lacking) < len(names) else "is a class"
        yield (
            f"{count} names of the pixel labels {are} of the model, which gives each position a class: "
            f"{', '.join(told)}{more}; what they show cannot be set beside the model's classes by name"
        )


def class_count(sources: Iterable[ImageSource]) -> int | None:
    """Return how many classes the images' own class numbers count, from 0 to the highest; None if none has one."""
    said = (_said(source, index).number for source in sources for index in range(len(source)))
    highest = max((number for number in said if number is not None), default=-1)
    return highest + 1 if highest >= 0 else None
