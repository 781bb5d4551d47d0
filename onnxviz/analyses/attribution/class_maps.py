"""Where the evidence for a class lies on average: the mean of its maps over many images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.coarse_maps import GRID, enlarged_cells
from onnxviz.core import colormap
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Cell, Picture, Tile, TileGrid
from onnxviz.core.shares import percent
from onnxviz.core.wording import listed

FEWEST = 3
"""Images of a class below which a mean says nothing that the images' own maps do not."""
MOST = 24
"""Classes that are shown."""
_TILE = 96


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Sums of the coarse maps of the images of a job, by class.

    Attributes:
        methods: what these are called, of layers the map of the last.
        numbers: the classes that are explained.
        images: for each class in how many images.
        counts: [classes, methods], how many of the maps hold positive evidence; only these are in the sums.
        sums: [classes, methods, GRID, GRID], of maps that add up to 1 each.
    """

    methods: tuple[str, ...]
    numbers: tuple[int, ...]
    images: tuple[int, ...]
    counts: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]

    @classmethod
    def of(cls, methods: Sequence[str], explained: Sequence[tuple[int, npt.NDArray[np.floating]]]) -> ClassMaps:
        """Sum up explanations.

        Args:
            methods: their names.
            explained: of each target of an image the class, and its coarse maps [methods, GRID, GRID], which add up to
                1, or are 0 where there is no evidence.
        """
        numbers = sorted({number for number, _ in explained})
        places = {number: place for place, number in enumerate(numbers)}
        images, counts = [0] * len(numbers), np.zeros((len(numbers), len(methods)), np.int64)
        sums = np.zeros((len(numbers), len(methods), GRID, GRID))
        for number, maps in explained:
            images[places[number]] += 1
            counts[places[number]] += maps.any(axis=(1, 2))
            sums[places[number]] += maps
        return cls(tuple(methods), tuple(numbers), tuple(images), counts, sums)

    @classmethod
    def join(cls, parts: Sequence[ClassMaps]) -> ClassMaps:
        """Add up the sums of several jobs; a method that has no answer in some of them has none in their maps."""
        methods = tuple(dict.fromkeys(name for part in parts for name in part.methods))
        numbers = tuple(sorted({number for part in parts for number in part.numbers}))
        images, counts = np.zeros(len(numbers), np.int64), np.zeros((len(numbers), len(methods)), np.int64)
        sums = np.zeros((len(numbers), len(methods), GRID, GRID))
        for part in parts:
            rows = [numbers.index(number) for number in part.numbers]
            columns = [methods.index(name) for name in part.methods]
            images[rows] += part.images
            counts[np.ix_(rows, columns)] += part.counts
            sums[np.ix_(rows, columns)] += part.sums
        return cls(methods, numbers, tuple(images.tolist()), counts, sums)

    def findings(self, titles: Mapping[int, str], unit: str, *, against: bool = False) -> Iterator[TileGrid]:
        """Show the mean maps of the classes with the most images.

        Args:
            titles: the names of classes by their numbers.
            unit: what one of them is called.
            against: whether each is explained against another one.
        """
        order = sorted(range(len(self.numbers)), key=lambda place: (-self.images[place], self.numbers[place]))
        shown = [place for place in order if self.images[place] >= FEWEST][:MOST]
        used = [method for method in range(len(self.methods)) if self.counts[shown, method].any()]
        if not used:
            return
        means = self.sums / np.maximum(self.counts, 1)[..., None, None]
        highest = [float(means[shown, method].max()) for method in used]
        tiles = []
        columns = tuple(self.methods[method] for method in used)
        for place in shown:
            title = titles[self.numbers[place]]
            pictures = [
                _picture(means[place, method] / most, f"mean map of {shorten(title, 40)} by {self.methods[method]}")
                for method, most in zip(used, highest, strict=True)
            ]
            tiles.append(Tile(title, None, tuple(pictures), self._facts(place, used), captions=columns))
        scales = listed(
            (f"{name}: 0 to {percent(most, 1)}" for name, most in zip(columns, highest, strict=True)), len(columns)
        )
        left = sum(count >= FEWEST for count in self.images) - len(shown)
        few = len(self.numbers) - len(shown) - left
        what = f"what speaks for it and not for the {unit} that it is explained against" if against else (
            "what speaks for it")  # fmt: skip
        said = f"Means over the images in which the {unit} is explained; {what}, in {GRID} × {GRID} cells."
        said += f" {left} more with fewer images {'is' if left == 1 else 'are'} not shown." if left else ""
        said += f" {few} with fewer than {FEWEST} images {'is' if few == 1 else 'are'} left out." if few else ""
        said += (
            f" Colours are shares of the evidence in a cell, on one scale for all that a method shows: {scales}; an "
            f"even map has {percent(1 / GRID**2, 1)} everywhere."
        )
        yield TileGrid("class_maps", f"Where the evidence for each {unit} lies on average", tuple(tiles), said, _TILE)

    def _facts(self, place: int, used: Sequence[int]) -> tuple[tuple[str, Cell], ...]:
        images = self.images[place]
        blank = [(self.methods[method], images - int(self.counts[place, method])) for method in used]
        words = listed((f"{name} {count}" for name, count in blank if count), 6)
        return (("images", images), *([("left out, without a map or positive evidence", words)] if words else []))


def _picture(grid: npt.NDArray[np.float64], alt: str) -> Picture:
    return Picture(colormap.colour(enlarged_cells(grid)), alt=alt)
