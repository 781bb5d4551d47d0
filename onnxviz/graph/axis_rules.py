"""What becomes of one axis where an operator cuts, resizes, sums or joins along it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from onnxviz.graph.factors import PLACES, Axis, Factor, Meaning, fresh, has_channels, is_unknown, kinds, length

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


def total(sizes: Sequence[object]) -> int | None:
    """Return the sum of sizes, None if one is not known."""
    return sum(size for size in sizes if isinstance(size, int)) if all(isinstance(s, int) for s in sizes) else None
