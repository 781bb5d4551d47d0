"""Which scores are explained: one for each class of a head, of a region of a map, of detections, or a similarity."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.targets import (
    AtPositions,
    ClassTarget,
    DetectionTarget,
    SimilarityTarget,
    Target,
    at_all_positions,
    decoded,
)
from onnxviz.analyses.explained_images import Wanted
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.shares import percent
from onnxviz.core.values import Layer
from onnxviz.graph.detection_positions import Piece, resolved
from onnxviz.graph.model_output import Head

if TYPE_CHECKING:
    import torch


_OUTSIDE = 1e-4
"""How far outside of 0 to 1 rounding may bring a score."""


class Scores(ABC):
    """The scores of images from which classes are chosen, and the target that explains one of them."""

    @property
    @abstractmethod
    def layers(self) -> tuple[Layer, ...]:
        """The layers that they are computed from."""

    @abstractmethod
    def of(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores [N, choices] of what the layers give, [N, units, *spatial] each."""

    @abstractmethod
    def target(self, number: int, values: Sequence[torch.Tensor]) -> Target:
        """Return what is explained of a class in one image; `values` are that image's, [1, units, *spatial] each."""

    def predicted(self, values: Sequence[torch.Tensor]) -> list[tuple[float, ...] | None]:
        """Return for each image the share of positions where each class is predicted; None where that says nothing."""
        return [None] * len(values[0])


@dataclass(frozen=True)
class ClassScores(Scores):
    """The classes or units of a head; `positions` says how scores at several positions become one."""

    head: Head
    positions: explained_score.Positions
    names: tuple[str, ...] | None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of the scores."""
        return (explained_score.layer_of(self.head),)

    def of(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores, over positions."""
        placed = explained_score.score_at_positions(values[0], self.head)
        return placed.mean(dim=2) if self.positions == "mean" else placed.amax(dim=2)

    def predicted(self, values: Sequence[torch.Tensor]) -> list[tuple[float, ...] | None]:
        """Return of a map of classes the shares of its positions."""
        placed = explained_score.score_at_positions(values[0], self.head)
        return [explained_score.predicted_shares(one, self.head, self.positions) for one in placed]

    def target(self, number: int, values: Sequence[torch.Tensor]) -> ClassTarget:  # noqa: ARG002 - of any image
        """Return the class."""
        return ClassTarget(self.head, number, self.positions, self.head.title(number, self.names))


@dataclass(frozen=True)
class RegionScores(ClassScores):
    """The classes of a map in a part of it: a box, or where each is predicted.

    After Seg-Grad-CAM (Vinogradova et al. 2020, arXiv:2002.11434): the logit's mean over a set of positions, which is
    fixed by the image as it is.

    Attributes:
        box: top, left, bottom and right as shares of the map; None for the positions where a class is predicted.
    """

    box: tuple[float, float, float, float] | None = None

    def of(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mean scores in the box, or over all positions."""
        if self.box is None:
            return super().of(values)
        rows, columns = (int(side) for side in values[0].shape[2:])
        return values[0].flatten(2)[:, :, list(in_box(self.box, rows, columns))].mean(dim=2)

    def target(self, number: int, values: Sequence[torch.Tensor]) -> Target:  # type: ignore[override]
        """Return the class in the box, or where this image has it."""
        name = self.head.title(number, self.names)
        rows, columns = (int(side) for side in values[0].shape[2:])
        if self.box is not None:
            places = in_box(self.box, rows, columns)
            top, left, bottom, right = (percent(share) for share in self.box)
            where = f"from {top} to {bottom} of the height and {left} to {right} of the width"
            return AtPositions(self.layers[0], number, places, f"{name} {where}")
        flat = values[0][0].flatten(1)
        places = tuple((flat.argmax(dim=0) == number).nonzero()[:, 0].tolist())
        if places:
            return AtPositions(self.layers[0], number, places, f"{name} where it is predicted")
        best = int(flat[number].argmax())
        where = f"predicted nowhere; at its highest score, row {best // columns + 1} and column {best % columns + 1}"
        return AtPositions(self.layers[0], number, (best,), f"{name} ({where})")


@dataclass(frozen=True)
class DetectionScores(Scores):
    """The classes of a detector's best detections, each scored as the detector decodes it.

    Attributes:
        classes: the layers with scores of classes.
        units: which units of these are classes.
        objectness: the layers with the scores of there being an object.
        object_unit: which unit of these.
        powers: of the objectness and of the class score.
        names: of the classes, or None.
        pieces: of each of `classes`, what its positions are joined of; empty where that is not known.
        image: height and width of the images.
    """

    classes: tuple[Layer, ...]
    units: tuple[int, ...]
    objectness: tuple[Layer, ...]
    object_unit: int
    powers: tuple[float, float]
    names: tuple[str, ...] | None
    pieces: tuple[tuple[Piece, ...], ...] = ()
    image: tuple[int, int] = (1, 1)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of class scores, then those of objectness."""
        return (*self.classes, *self.objectness)

    def _everywhere(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores of all detections, [N, classes, positions]."""
        count = len(self.classes)
        for layer, each in zip(self.layers, values, strict=True):
            units = self.units if layer in self.classes else (self.object_unit,)
            read = each[:, list(units)]
            low, high = float(read.min()), float(read.max())
            if low < -_OUTSIDE or high > 1 + _OUTSIDE:
                raise AnalysisError(
                    f"scores of detections are numbers from 0 to 1, and these are from {low:.3g} to {high:.3g}",
                    where=shorten(layer.name),
                    remedy="name the output behind its sigmoid or softmax, or other `units`",
                )
        found = at_all_positions(tuple(values[:count]), self.units)
        if not self.objectness:
            return found
        return decoded(at_all_positions(tuple(values[count:]), (self.object_unit,)), found, self.powers)

    def of(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the highest score of each class."""
        return self._everywhere(values).amax(dim=2)

    def target(self, number: int, values: Sequence[torch.Tensor]) -> DetectionTarget:
        """Return the class's best detection in this image."""
        place = int(self._everywhere(values)[0, number].argmax())
        name = self.names[number] if self.names else f"class {number}"
        shapes: list[tuple[int, ...]] = []
        for pieces, each in zip(self.pieces or [()] * len(self.classes), values, strict=False):
            own = tuple(int(side) for side in each.shape[2:])
            shapes += resolved(pieces, math.prod(own), self.image) or (own,)
        name = f"{name} at {position_in_words(shapes, place)}"
        return DetectionTarget(
            self.classes, self.objectness, self.units[number], self.object_unit, place, self.powers, name,
            cell_of(shapes, place),
        )  # fmt: skip


@dataclass(frozen=True)
class SimilarityScores(Scores):
    """How near an image's embedding is to that of another; `name` is the other image's."""

    embedding: Layer
    reference: tuple[float, ...]
    name: str

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of the embedding."""
        return (self.embedding,)

    def of(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the similarity, as the only choice."""
        return self.target(0, values).score(*values)[:, None]

    def target(self, number: int, values: Sequence[torch.Tensor]) -> SimilarityTarget:  # noqa: ARG002 - of any image
        """Return the similarity."""
        return SimilarityTarget(self.embedding, self.reference, f"similarity to {self.name}")


@dataclass(frozen=True)
class Chosen:
    """Which classes of each image are explained, with all of its scores.

    Attributes:
        numbers: of each image its classes, that which the network believes in most first, also of those that are named.
        values: of each image the scores of all classes.
        predicted: `Scores.predicted`.
        placed: positions that the first layer of the scores has.
    """

    numbers: Sequence[Sequence[int]]
    values: Sequence[Sequence[float]]
    predicted: Sequence[Sequence[float] | None]
    placed: int

    @classmethod
    def of(cls, raw: Sequence[torch.Tensor], scores: Scores, wanted: Sequence[Wanted]) -> Chosen:
        """Choose; `raw` is what the layers of the scores give, [N, units, *spatial] each."""
        values, predicted = scores.of(raw).tolist(), scores.predicted(raw)
        chosen = []
        for place, found in enumerate(values):
            order, asked = (
                explained_score.in_order(found, predicted[place]),
                wanted[min(place, len(wanted) - 1)].classes,
            )
            chosen.append(order[:asked] if isinstance(asked, int) else [number for number in order if number in asked])
        positions = math.prod(raw[0].shape[2:])
        return cls(chosen, values, predicted, positions)


def in_box(box: tuple[float, float, float, float], rows: int, columns: int) -> tuple[int, ...]:
    """Return the positions of a map whose centres lie in a box of shares; the nearest one if none does."""
    top, left, bottom, right = box
    chosen = [row for row in range(rows) if top <= (row + 0.5) / rows < bottom]
    across = [column for column in range(columns) if left <= (column + 0.5) / columns < right]
    chosen = chosen or [min(rows - 1, int((top + bottom) / 2 * rows))]
    across = across or [min(columns - 1, int((left + right) / 2 * columns))]
    return tuple(row * columns + column for row in chosen for column in across)


def cell_of(shapes: Sequence[tuple[int, ...]], place: int) -> tuple[float, float, float, float] | None:
    """Return the cell of a position of several grids as shares of the image; None if it is not of rows and columns."""
    for shape in shapes:
        if place < math.prod(shape):
            if len(shape) != 2:
                return None
            (row, column), (rows, columns) = divmod(place, shape[1]), shape
            return row / rows, column / columns, (row + 1) / rows, (column + 1) / columns
        place -= math.prod(shape)
    raise IndexError(place)


def position_in_words(shapes: Sequence[tuple[int, ...]], place: int) -> str:
    """Say which position it is of several maps, counted through all of them."""
    for number, shape in enumerate(shapes):
        count = math.prod(shape)
        if place < count:
            of = f" of {'grid' if len(shape) == 2 else 'list'} {number + 1}" if len(shapes) > 1 else ""
            if len(shape) == 2:
                row, column = divmod(place, shape[1])
                return f"row {row + 1}, column {column + 1} of {shape[0]} × {shape[1]}{of}"
            return f"position {place + 1} of {count}{of}"
        place -= count
    raise IndexError(place)
