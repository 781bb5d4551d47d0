"""Where on the image the evidence of a map lies, in words that are on the evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.core.shares import percent

HALF = 0.5
"""Part of the map's maximum from which on a place counts as evidence."""
_SHARE = 0.2
"""A part of the image with as much of all places that count is named, also if no region has its maximum there."""
_MOST = 0.5
"""From this share of the image on the evidence covers most of it."""
_LISTED = 4
_ROWS, _SIDES = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True)
class Places:
    """The parts of an image, thirds of its height and width, that hold the evidence.

    Attributes:
        parts: their names, that with the map's maximum first, then by the largest value in each; each holds places of
            at least half of the maximum.
        regions: how many connected regions reach half of the maximum.
        extent: the share of the image that they cover.
    """

    parts: tuple[str, ...]
    regions: int
    extent: float

    @property
    def words(self) -> str:
        """The parts in words: "upper left", or "several places: upper left (the strongest) and lower right"."""
        if self.extent >= _MOST:
            return f"most of the image, the strongest at the {self.parts[0]}"
        if len(self.parts) == 1:
            return self.parts[0]
        shown = [f"{self.parts[0]} (the strongest)", *self.parts[1:_LISTED]]
        left = len(self.parts) - len(shown)
        shown += [f"{left} more"] if left else []
        listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
        return f"several places: {listed}" if self.regions > 1 else f"one region: {listed}"

    @property
    def sentence(self) -> str:
        """How a sentence on the evidence goes on: "lies at the upper left and covers 12% of the image"."""
        covered = f"{percent(self.extent)} of the image"
        if self.extent >= _MOST:
            return f"covers most of the image ({percent(self.extent)}) and is strongest at the {self.parts[0]}"
        where = {True: f"at the {self.words}", False: f"in {self.words}"}[len(self.parts) == 1]
        return f"lies {where}; it covers {covered}" if len(self.parts) > 1 else f"lies {where} and covers {covered}"


def find_places(heat: npt.NDArray[np.floating]) -> Places | None:
    """Say where a map, [h, w] over the image and not negative, reaches half of its maximum; None if all is zero."""
    highest = float(heat.max(initial=0.0))
    if not highest > 0:
        return None
    strong = heat >= HALF * highest
    labels, regions = connected(strong)
    rows, columns = (np.arange(size) * 3 // size for size in heat.shape)
    part = 3 * rows[:, None] + columns[None, :]
    named = {int(part[_peak(heat, labels == region)]) for region in range(1, regions + 1)}
    counts = np.bincount(part[strong], minlength=9)
    named |= {number for number in range(9) if counts[number] >= _SHARE * counts.sum()}
    first = int(part[_peak(heat, strong)])
    most = {number: float(heat[strong & (part == number)].max()) for number in named}
    order = sorted(named, key=lambda number: (number != first, -most[number], number))
    return Places(tuple(_name(number) for number in order), regions, float(strong.mean()))


def _name(part: int) -> str:
    vertical, horizontal = _ROWS[part // 3], _SIDES[part % 3]
    return "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}"


def _peak(heat: npt.NDArray[np.floating], inside: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return where a map is highest inside of a region; on a plateau, as at enlarged borders, in its middle."""
    rows, columns = np.nonzero(inside & (heat >= heat[inside].max()))
    place = int(((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin())
    return int(rows[place]), int(columns[place])


def connected(marked: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], int]:
    """Number the regions of a mask [h, w], from 1 in reading order; pixels that share a side or a corner are connected.

    Runs of marked pixels are found in each row, and joined with those of the row above that they touch.
    """
    edges = np.diff(np.pad(marked, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, stops) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    bounds = np.searchsorted(rows, np.arange(marked.shape[0] + 1))
    for row in range(1, marked.shape[0]):
        above, own = bounds[row - 1], bounds[row]
        while above < bounds[row] and own < bounds[row + 1]:
            if starts[above] <= stops[own] and starts[own] <= stops[above]:
                one, other = sorted((root(int(above)), root(int(own))))
                parents[other] = one
            if stops[above] < stops[own]:
                above += 1
            else:
                own += 1
    numbers: dict[int, int] = {}
    labels = np.zeros(marked.shape, np.int64)
    for run, (line, start, stop) in enumerate(zip(rows, starts, stops, strict=True)):
        labels[line, start:stop] = numbers.setdefault(root(run), len(numbers) + 1)
    return labels, len(numbers)
