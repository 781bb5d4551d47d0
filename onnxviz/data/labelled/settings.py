"""What a recipe says of labelled images, and which format a folder of them has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias, cast

from pydantic import Field

from onnxviz.core.errors import DataError, beginning, nearest, shorten
from onnxviz.data.base import DataSource, ImageSource
from onnxviz.data.concepts import ConceptSet, MaskFolder
from onnxviz.data.images import ImageFolder
from onnxviz.data.labelled.annotated import AnnotatedImages, Annotator
from onnxviz.data.labelled.broden import BrodenSet, is_broden
from onnxviz.data.labelled.class_folders import ClassFolders
from onnxviz.data.labelled.coco import CocoSet, annotations_of, is_coco
from onnxviz.data.labelled.colour_names import ColourNames
from onnxviz.data.labelled.index_masks import is_ade, is_voc, open_ade, open_voc
from onnxviz.data.labelled.joined import JoinedSets
from onnxviz.data.labelled.labeller import LabellerSettings

Format: TypeAlias = Literal["broden", "coco", "voc", "ade", "masks"]
Category = Annotated[str, Field(min_length=1, max_length=100)]
_WITH_SPLITS = ("broden", "voc", "ade", "coco")


class ConceptsSettings(DataSource):
    """Images of which every pixel is labelled with concepts."""

    kind: ClassVar[str] = "concepts"
    paths: ClassVar[tuple[str, ...]] = ("concepts", "labeller.model", "labeller.classes")

    concepts: str | list[str] = Field(
        description="Folder with images/, labels/ and classes.txt; in the format of Broden, COCO, Pascal VOC or "
        "ADE20K; or with a sub-folder of images for each concept and `category`. Or COCO's JSON file. Relative to the "
        "recipe; a list joins several sets."
    )
    limit: int | None = Field(None, ge=1, description="Use at most so many images of each folder, spread evenly.")
    split: str | None = Field(None, description="Use the images of this split alone, where the format has splits.")
    category: Category | dict[str, Category] | None = Field(
        None,
        description="What a folder's sub-folders are called after, such as texture: it holds for the whole image. Of "
        "several folders by the folder's name: {dtd: texture}.",
    )
    colours: bool = Field(
        False,
        description="Compute the eleven basic colour names of all pixels too, as concepts of the category `colour`; "
        "then the folder's images need no other labels.",
    )
    labeller: LabellerSettings | None = Field(
        None,
        description="A segmenter that labels all pixels too, as concepts of a category of its own; then the folder's "
        "images need no other labels. Its labels are no ground truth.",
    )

    def open(self, name: str, base: Path) -> ConceptSet:
        """Find the images that have labels, or get some."""
        annotators: list[Annotator] = [ColourNames()] * self.colours
        if self.labeller is not None:
            annotators.append(self.labeller.open(base))
        folders = [self.concepts] if isinstance(self.concepts, str) else self.concepts
        roots = [_root(folder, base) for folder in folders]
        if not roots:
            raise DataError("no folder is named", where=f"data {name!r}")
        choices = zip(roots, self._choices(roots), strict=True)
        sets = [_open(name, root, choice, bool(annotators)) for root, choice in choices]
        found = sets[0] if len(sets) == 1 else JoinedSets(name, list(zip(_titles(roots), sets, strict=True)))
        if not annotators:
            return cast("ConceptSet", found)
        labelled = AnnotatedImages(found, annotators)
        if self.labeller is not None:
            labelled.read_labels(0)  # a labeller that cannot be run is told before anything is
        return labelled

    def _choices(self, roots: Sequence[Path]) -> list[Choice]:
        """Return what is used of each folder: of several, each gets what its format knows."""
        if isinstance(self.category, dict):
            names = [root.name for root in roots]
            if unknown := [name for name in self.category if name not in names]:
                known = nearest(unknown[0], names) or f"they are {', '.join(map(shorten, names))}"
                raise DataError(f"no folder is called {shorten(unknown[0])!r}", where="category", remedy=known)
        by_name = self.category if isinstance(self.category, dict) else {}
        plain = self.category if isinstance(self.category, str) else None
        if len(roots) == 1:
            return [Choice(self.limit, self.split, by_name.get(roots[0].name, plain))]
        formats = [format_of(root) for root in roots]
        splits = [self.split if form in _WITH_SPLITS and root.is_dir() else None
                  for root, form in zip(roots, formats, strict=True)]  # fmt: skip
        if self.split is not None and not any(splits):
            raise DataError("none of the folders has splits", where="split", remedy="leave `split` out")
        if plain is not None and None not in formats:
            raise DataError("all folders say themselves what their concepts are", where="category",
                            remedy="leave `category` out")  # fmt: skip
        return [
            Choice(self.limit, split, by_name.get(root.name, None if form else plain))
            for root, form, split in zip(roots, formats, splits, strict=True)
        ]

    def files(self, base: Path) -> Iterator[Path]:
        """Yield the folders of labelled images, and what a labeller consists of."""
        yield from super().files(base)
        if self.labeller is not None:
            model = base / self.labeller.model
            yield from (model.absolute().parent, Path(os.path.realpath(model)).parent)


@dataclass(frozen=True)
class Choice:
    """What is used of a set, and as what.

    Attributes:
        limit: at most so many images, spread evenly.
        split: the images of this split alone.
        category: what sub-folders are called after.
        look: whether some values of masks are looked at.
    """

    limit: int | None = None
    split: str | None = None
    category: str | None = None
    look: bool = True


def open_set(name: str, folder: str | os.PathLike[str], base: Path, choice: Choice | None = None) -> ConceptSet:
    """Open a folder of labelled images, of the format that its files say.

    Args:
        name: the data set's name in the recipe.
        folder: relative to `base`.
        base: the folder that relative paths start from.
        choice: what is used of it.

    Raises:
        DataError: if it cannot be used, or not in the way that is chosen.
    """
    chosen = choice or Choice()
    root = _root(folder, base)
    form = format_of(root)
    where = f"data {name!r}: {shorten(str(root), 200)}"
    if chosen.split is not None and (form not in _WITH_SPLITS or root.is_file()):
        raise DataError("has no splits", where=where, remedy="leave `split` out")
    if chosen.category is not None and form is not None:
        raise DataError("says itself what its concepts are", where=where, remedy="leave `category` out")
    if form == "broden":
        return BrodenSet.find(name, root, chosen.limit, chosen.split, look=chosen.look)
    if form == "coco":
        return CocoSet.find(name, annotations_of(root, chosen.split) or root, chosen.limit)
    if form in ("voc", "ade"):
        return (open_voc if form == "voc" else open_ade)(name, root, chosen.limit, chosen.split, look=chosen.look)
    if chosen.category is not None and root.is_dir():
        return ClassFolders.find(name, root, chosen.category, chosen.limit)
    return MaskFolder.find(name, root, base, chosen.limit, look=chosen.look)


def _open(name: str, root: Path, choice: Choice, annotated: bool) -> ImageSource:
    """Open a folder; one of images without labels only if they get some."""
    if annotated and choice == Choice(choice.limit) and root.is_dir() and format_of(root) is None:
        return ImageFolder.find(name, [str(root)], root, choice.limit)
    return open_set(name, root, root, choice)


def _titles(roots: Sequence[Path]) -> list[str]:
    """Return a name of its own for each folder: its last part, and a number where several are called so."""
    names = [root.name for root in roots]
    return [name if names.count(name) == 1 else f"{name} {names[: place + 1].count(name)}"
            for place, name in enumerate(names)]  # fmt: skip


def format_of(root: Path) -> Format | None:
    """Return which format a folder has, or a file if it is COCO's, by the names of its files; None for none of them."""
    if root.suffix.lower() == ".json":
        return "coco"
    tests: tuple[tuple[Format, Callable[[Path], bool]], ...] = (
        ("broden", is_broden), ("masks", _is_masks), ("coco", is_coco), ("voc", is_voc), ("ade", is_ade)
    )  # fmt: skip
    return next((form for form, holds in tests if holds(root)), None)


def _is_masks(root: Path) -> bool:
    return (root / "labels").is_dir()


def _root(folder: str | os.PathLike[str], base: Path) -> Path:
    try:
        root = Path(os.path.abspath(base / Path(folder).expanduser()))  # noqa: PTH100 - keeps links' own names
        root.exists()
    except (OSError, ValueError, RuntimeError) as fault:  # too long, or of a user that there is not
        what = (fault.strerror if isinstance(fault, OSError) else "") or str(fault)
        raise DataError(f"cannot be looked at: {beginning(what)}", where=shorten(str(folder), 200)) from fault
    return root
