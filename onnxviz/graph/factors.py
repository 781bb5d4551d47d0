"""What an axis runs over, as factors: rows and columns of the image, channels, heads, windows, tokens.

An axis of height * width patches is the factors (row, column), one of windows (image, row and column of the window). A
change of form splits and merges factors, a transpose moves them, so that windows, heads and merged patches are followed
exactly through any sequence of both. What a factor is of is known or it is not: nothing here guesses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from onnxviz.core.values import Grid, Tokens
from onnxviz.graph.shapes import total

Kind = Literal["image", "row", "column", "channel", "position", "key", "tokens", ""]


@dataclass(frozen=True)
class Factor:
    """One factor of an axis.

    Attributes:
        kind: what it counts. "position" counts places that cannot be followed back to rows and columns, "key" what a
            single query weighs, "tokens" a grid with more tokens around it, "" is unknown.
        size: how many there are, None where that is free.
        stride: how many of its kind one step passes.
        whole: how many of its kind there are in all its factors together.
        grid: the factors of a "tokens" between the tokens that are no patches.
        before: tokens in front of the grid.
        behind: tokens behind it.
        open: on which side tokens were added whose number is not known yet.
    """

    kind: Kind
    size: int | None
    stride: int = 1
    whole: int | None = None
    grid: tuple[Factor, ...] = ()
    before: int = 0
    behind: int = 0
    open: Literal["", "before", "behind"] = ""

    def split(self, inner: int) -> tuple[Factor, Factor]:
        """Return the outer and the inner factor, which is of that size; a grid with more around it is lost."""
        assert self.size is not None
        if self.kind == "tokens":
            return Factor("", self.size // inner), Factor("", inner)
        return replace(self, size=self.size // inner, stride=self.stride * inner), replace(self, size=inner)


Axis = tuple[Factor, ...]
"""The factors of an axis, the slowest first; none where its size is 1."""
Meaning = tuple[Axis, ...]
"""What each axis of a value runs over."""
PLACES = frozenset(["row", "column", "tokens", "position", "key"])


def fresh(kind: Kind, size: object) -> Axis:
    """Return an axis of one factor that is all there is of its kind."""
    known = size if isinstance(size, int) else None
    return () if known == 1 else (Factor(kind, known, 1, known),)


def kinds(axis: Axis) -> set[str]:
    """Return what the factors of an axis are of."""
    return {factor.kind for factor in axis}


def has_channels(axis: Axis) -> bool:
    """Whether an axis runs over channels, or over some of their factors."""
    return "channel" in kinds(axis)


def is_unknown(axis: Axis) -> bool:
    """Whether nothing is known of an axis."""
    return bool(axis) and kinds(axis) == {""}


def length(axis: Axis) -> int | None:
    """Return an axis' size as its factors have it."""
    sizes = [factor.size for factor in axis]
    return math.prod(size for size in sizes if size is not None) if None not in sizes else None


def simplified(given: Sequence[Axis]) -> Meaning:
    """Merge neighbours that are one, and count strides in steps of the finest factor that is left."""
    merged = [_merged(axis) for axis in given]
    for kind in ("row", "column", "channel"):
        strides = [factor.stride for axis in merged for factor in _inside(axis) if factor.kind == kind]
        step = min(strides, default=1)
        if step > 1 and all(stride % step == 0 for stride in strides):
            merged = [tuple(_coarser(factor, kind, step) for factor in axis) for axis in merged]
    return tuple(merged)


def _inside(axis: Axis) -> Iterator[Factor]:
    for factor in axis:
        yield from factor.grid if factor.kind == "tokens" else (factor,)


def _coarser(factor: Factor, kind: str, step: int) -> Factor:
    if factor.kind == "tokens":
        return replace(factor, grid=tuple(_coarser(part, kind, step) for part in factor.grid))
    if factor.kind != kind:
        return factor
    whole = None if factor.whole is None else -(-factor.whole // step)
    return replace(factor, stride=factor.stride // step, whole=whole)


def _merged(axis: Axis) -> Axis:
    found: list[Factor] = []
    for factor in axis:
        last = found[-1] if found else None
        if last is not None and last.kind == factor.kind and None not in (last.size, factor.size):
            assert last.size is not None
            assert factor.size is not None
            if factor.kind in ("", "position") or (
                factor.kind in ("row", "column", "channel") and last.stride == factor.stride * factor.size
            ):
                found[-1] = replace(factor, size=last.size * factor.size)
                continue
        found.append(factor)
    return tuple(found)


def either(one: Axis, other: Axis) -> Axis:
    """Return what an axis runs over when two values that are joined place by place say it; unknown if they disagree."""
    if one == other or not other or is_unknown(other):
        return one or other
    if not one or is_unknown(one):
        return other
    if kinds(one) == kinds(other) == {"channel"}:
        return max(one, other, key=lambda axis: axis[0].stride)
    if kinds(one) == {"position"} and kinds(other) <= PLACES:
        return other
    if kinds(other) == {"position"} and kinds(one) <= PLACES:
        return one
    if kinds(one) == kinds(other):
        return one if not any(factor.open for factor in one) else other
    return fresh("", length(one))


# --- changes of form ------------------------------------------------------------------------------------------------


def reshaped(given: Meaning, out: Sequence[object]) -> Meaning:
    """Follow axes through a change of form: factors keep their order, and are split where an axis ends inside of one.

    Of the new sizes in `out` those that are no numbers are free.
    """
    queue = [factor for axis in given for factor in axis]
    found: list[Axis] = [fresh("", size) for size in out]
    if any(factor.size == 0 for factor in queue) or 0 in out:
        return tuple(found)
    start, stop = 0, len(out)
    free = [place for place, size in enumerate(out) if not isinstance(size, int)]
    if free and free[0] == 0 and len(free) > 1 and queue and queue[0].kind == "image" and queue[0].size is None:
        found[0], queue, start = (queue[0],), queue[1:], 1
        free = free[1:]
    while stop > (free[-1] + 1 if free else start):
        size = out[stop - 1]
        taken = None if not isinstance(size, int) else _take(queue, size)
        if taken is None:
            if stop - 1 == start == 0 and len(queue) == 1 and queue[0].kind == "image":
                found[0] = (queue[0],)  # a free batch that the form fixes
            return tuple(found)
        stop -= 1
        found[stop] = taken
    queue.reverse()
    while free and start < free[0]:
        size = out[start]
        taken = None if not isinstance(size, int) else _take(queue, size, forwards=True)
        if taken is None:
            return tuple(found)
        found[start] = taken
        start += 1
    queue.reverse()
    if free and len(free) == 1:
        found[free[0]] = tuple(queue)
    return simplified(found)


def _take(queue: list[Factor], size: int, *, forwards: bool = False) -> Axis | None:
    """Take the factors of an axis of this size from the end of a queue; None if they do not make one up.

    With `forwards` the queue is reversed, so that the outer factors are at its end.
    """
    taken: list[Factor] = []
    while size > 1:
        if not queue or queue[-1].size is None:
            return None
        factor = queue.pop()
        assert factor.size is not None
        if size % factor.size == 0:
            size //= factor.size
        elif factor.size % size == 0:
            outer, inner = factor.split(factor.size // size if forwards else size)
            rest, factor = (inner, outer) if forwards else (outer, inner)
            queue.append(rest)
            size = 1
        else:
            return None
        taken.append(factor)
    return tuple(taken) if forwards else tuple(reversed(taken))


# --- what it all makes ----------------------------------------------------------------------------------------------


def units_of(given: Meaning) -> int | None:
    """Return the axis of the units: that of the channels, or of the outermost factor that they are split into."""
    best: tuple[int, int] | None = None
    for axis, factors in enumerate(given):
        strides = [factor.stride for factor in factors if factor.kind == "channel"]
        if axis and strides and (best is None or max(strides) > best[0]):
            best = max(strides), axis
    if best is not None:
        return best[1]
    single = [axis for axis, factors in enumerate(given) if axis and not factors]
    return single[0] if single else None


def tokens_of(given: Meaning, units: int | None) -> tuple[Tokens, ...]:
    """Return the axes beside the units that run over a whole grid of patches, row by row."""
    found = []
    for axis, factors in enumerate(given):
        if axis in (0, units) or not factors or any(factor.open for factor in factors):
            continue
        around = (
            factors[0] if factors[0].kind == "tokens" and len(factors) == 1 else Factor("tokens", None, grid=factors)
        )
        sizes = [factor.size for factor in around.grid if factor.size is not None and _is_all(factor)]
        if [factor.kind for factor in around.grid] == ["row", "column"] and len(sizes) == 2:
            found.append(Tokens(axis, sizes[0], sizes[1], around.before, around.behind))
    return tuple(found)


def is_attention(given: Sequence[Axis]) -> bool:
    """Whether axes run over the same places twice, as over queries and keys, or over the keys of a single query."""
    flat = [factor for axis in given for factor in _inside(axis)]
    twice = any(factor.kind in ("row", "column") and flat.count(factor) > 1 for factor in flat)
    return twice or any(factor.kind == "key" for factor in flat)


ATTENTION = "it weighs keys for each query: attention, no map of positions"


def grid_of(given: Meaning, units: int) -> Grid | str:
    """Return how the positions of a value, units first, become rows and columns; or why they do not."""
    spatial = [axis for axis in range(len(given)) if axis not in (0, units)]
    first = given[0][1:] if given[0] and given[0][0].kind == "image" else given[0]
    around = [
        (index, factors[0])
        for index, axis in enumerate(spatial)
        if (factors := given[axis]) and factors[0].kind == "tokens"
    ]
    if first:
        return "its first axis runs over more than the images"
    parts = [tuple(_inside(given[axis])) for axis in spatial]
    flat = [factor for part in parts for factor in part]
    if not flat:
        return "its units are single numbers: there are no positions"
    if is_attention(parts):
        return ATTENTION
    if any(factor.kind == "channel" for factor in flat):
        return "its channels are split over several axes, as into heads"
    if any(len(part) > 1 and any(factor.size is None for factor in part) for part in parts):
        return "how many rows and columns its positions are is not known, while the size of images is free"
    if not {factor.kind for factor in flat} <= {"row", "column"}:
        return "its positions cannot be followed back to rows and columns of the image"
    if len(around) > 1 or any(factor.open or len(given[spatial[index]]) > 1 for index, factor in around):
        return "which of its tokens are patches of the image is not known"
    places = range(len(flat))
    rows, columns = (
        sorted((place for place in places if flat[place].kind == kind), key=lambda place: -flat[place].stride)
        for kind in ("row", "column")
    )
    if not all(_chain([flat[place] for place in order]) for order in (rows, columns)):
        return "only some of the rows and columns of the image are left, or not in their order"
    sizes = tuple(tuple(factor.size for factor in part) for part in parts)
    index, extra = around[0] if around else (0, Factor("", None))
    return Grid(sizes, (*rows, *columns), len(rows), index, extra.before, extra.behind)


def _chain(factors: Sequence[Factor]) -> bool:
    """Whether factors, the outermost first, count everything of their kind, but for what a step of the last passes."""
    if not factors:
        return True
    if any(factor.size is None for factor in factors):
        return len(factors) == 1 and factors[0].whole is None
    steps = all(a.stride == b.stride * (b.size or 0) for a, b in pairwise(factors))
    return steps and factors[0].stride * (factors[0].size or 0) == factors[0].whole


_MOST_CUT = 0.25
"""Share of the rows or columns that may be cut off: what is left of more is no longer drawn over the image."""

Shape = tuple[object, ...]


def of_length(axis: Axis, size: object) -> Axis:
    """Return an axis with its size where that is known now; unknown if it cannot be as long."""
    if not isinstance(size, int):
        return axis
    if size == 1:
        return ()
    if len(axis) == 1 and axis[0].kind == "tokens" and axis[0].open:
        extra = size - (length(axis[0].grid) or 0) - axis[0].before - axis[0].behind
        if extra < 0:
            return fresh("", size)
        before, behind = (extra, 0) if axis[0].open == "before" else (0, extra)
        around = replace(axis[0], size=size, open="", before=axis[0].before + before, behind=axis[0].behind + behind)
        return (around,)
    known = length(axis)
    if known is None and len(axis) == 1:
        factor = axis[0]
        return (replace(factor, size=size, whole=size if factor.whole is None else factor.whole),)
    return axis if axis and known in (None, size) else fresh("", size)


def with_units(given: Meaning, place: int | None, out: Shape) -> Meaning:
    """Return a meaning with its channels at a place, where that axis is unknown and no other has them."""
    if place is None or len(given) <= place or not is_unknown(given[place]) or any(map(has_channels, given)):
        return given
    return (*given[:place], fresh("channel", out[place]), *given[place + 1 :])


def without_channels(axis: Axis) -> Axis:
    """Return an axis, unknown if it ran over channels that are no longer those."""
    return fresh("", length(axis)) if has_channels(axis) else axis


def mixed_places(contracted: Axis, kept: Sequence[Axis], size: object) -> Axis | None:
    """Return what a sum over places makes where the channels are elsewhere, as in an MLP-Mixer; None for channels."""
    places = bool(contracted) and kinds(contracted) <= PLACES
    alone = not contracted and size == 1  # one map of one channel: the channels lie along another axis
    return fresh("position", size) if (places or alone) and any(map(has_channels, kept)) else None


def product_with_weights(given: Meaning, contracted: int, place: int, out: Shape) -> Meaning:
    """Return what a product with weights runs over that sums over one axis and puts what it makes at a place."""
    kept = [axis for index, axis in enumerate(given) if index != contracted]
    made = mixed_places(given[contracted], kept, out[place])
    if made is None:
        made = fresh("channel", out[place])
        kept = [_restrided(axis, length(given[contracted]), length(made)) for axis in kept]
    kept.insert(place, made)
    return tuple(kept)


def _restrided(axis: Axis, old: int | None, new: int | None) -> Axis:
    """Return heads beside features whose number has changed."""
    if not has_channels(axis):
        return axis
    if len(axis) == 1 and old and new and axis[0].stride % old == 0 and (axis[0].whole or 0) % old == 0:
        return (replace(axis[0], stride=axis[0].stride // old * new, whole=(axis[0].whole or 0) // old * new),)
    return fresh("", length(axis))


def resized(axis: Axis, was: object, size: object) -> Axis:
    """Return rows or columns of another number; what else has another length is other positions."""
    if size == 1:
        return ()
    if was == size and isinstance(size, int):
        return axis
    if len(axis) == 1 and axis[0].kind in ("row", "column") and _is_all(axis[0]):
        return fresh(axis[0].kind, size)
    if not axis or is_unknown(axis):
        return fresh("", size)
    return fresh("position", size) if kinds(axis) <= PLACES else fresh("", size)


def remaining(axis: Axis, was: object, size: object, start: int | None, step: int) -> Axis:
    """Return what a slice leaves of an axis: channels, tokens, or rows if it goes over almost all of them."""
    if size == 1:
        return ()
    if kinds(axis) == {"channel"}:
        return fresh("channel", size)
    single = axis[0] if len(axis) == 1 else None
    if isinstance(was, int) and isinstance(size, int) and single is not None and single.kind in ("row", "column"):
        whole = _is_all(single) and step > 0 and start in (None, 0, 1)
        if whole and size * step >= (1 - _MOST_CUT) * was:
            return fresh(single.kind, size)
    elif single is not None and single.kind in ("image", "row", "column") and step == 1 and start in (None, 0, 1):
        return fresh(single.kind, size)
    if start is not None and isinstance(size, int) and step == 1 and single is not None and single.kind == "tokens":
        return _tokens_left(single, start, size)
    return fresh("position", size) if kinds(axis) <= PLACES else fresh("", size)


def _tokens_left(tokens: Factor, start: int, size: int) -> Axis:
    patches = length(tokens.grid) or 0
    first, last = tokens.before, tokens.before + patches
    if tokens.open or start > first or start + size < last:
        return fresh("position", size)
    before, behind = first - start, start + size - last
    return (replace(tokens, size=size, before=before, behind=behind),) if before or behind else tokens.grid


def unfolded(axis: Axis, taken: np.ndarray) -> tuple[Axis, Axis]:
    """Return what rows or columns run over that are taken in overlapping patches: places in a patch, and patches."""
    kind = axis[0].kind if len(axis) == 1 and _is_all(axis[0]) else ""
    steps = [np.unique(np.diff(taken, axis=place)) for place in (0, 1)]
    if kind not in ("row", "column") or any(len(found) != 1 for found in steps):
        return fresh("", taken.shape[0]), fresh("", taken.shape[1])
    patches = int(steps[1][0] > steps[0][0])
    inside, outside = fresh("position", taken.shape[1 - patches]), fresh(kind, taken.shape[patches])
    return (inside, outside) if patches else (outside, inside)


def _is_all(factor: Factor) -> bool:
    return factor.stride == 1 and factor.size == factor.whole


def end_to_end(along: Sequence[Axis], sizes: Sequence[object], whole: object) -> Axis:
    """Return what an axis runs over that is put together of several: channels, or a grid of patches among tokens."""
    if any(map(has_channels, along)) and all(
        is_unknown(axis) or kinds(axis) == {"channel"} or not axis for axis in along
    ):
        return fresh("channel", whole)
    grids = [place for place, axis in enumerate(along) if axis and kinds(axis) <= {"row", "column", "tokens"}]
    if len(grids) == 1:
        axis = along[grids[0]]
        tokens = axis[0] if axis[0].kind == "tokens" else Factor("tokens", length(axis), grid=axis)
        before, behind = total(sizes[: grids[0]]), total(sizes[grids[0] + 1 :])
        two = {"row", "column"} <= {factor.kind for factor in tokens.grid}
        if two and not tokens.open and (before is not None or behind is not None) and length(tokens.grid) is not None:
            side: Literal["", "before", "behind"] = "before" if before is None else "behind" if behind is None else ""
            known = whole if isinstance(whole, int) else None
            return (replace(tokens, size=known, before=tokens.before + (before or 0),
                            behind=tokens.behind + (behind or 0), open=side),)  # fmt: skip
    if any(kinds(axis) & PLACES for axis in along if axis):
        return fresh("position", whole)
    return fresh("", whole)
