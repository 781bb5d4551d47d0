"""What a table of adversarial searches counts: success and robustness of what was right, and the rest apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxviz.core.findings import Cell, Column, Curve, Metric, Series
from onnxviz.core.shares import Share

COLUMNS = (
    Column("search", description="The photograph, and the target where the recipe names several."),
    Column("photograph", description="Its name in the data set."),
    Column("true class", description="What the data set says that it shows; empty if nothing says it."),
    Column("class before", description="The model's first choice for the photograph."),
    Column("probability before", "percent", "What the model gives that class before; empty if nothing says it."),
    Column("wanted", description="The class that was driven up."),
    Column("class after", description="The model's first choice for the changed picture."),
    Column("probability after", "percent", "What the model gives the class after, on the changed picture."),
    Column("success", description="Whether the changed picture is taken for what was wanted."),
    Column(
        "L2",
        "number",
        "Length of the change, over all pixels and colours, in levels of 0 to 255; made small with norm l2 only.",
    ),
    Column(
        "Linf",
        "integer",
        "Largest change of any pixel and colour, in levels of 0 to 255; made small with norm linf only.",
    ),
    Column("radius", "number", "Of the smallest ball in which a picture was found, in levels of 0 to 255."),
    Column("none within", "number", "Radius of the largest ball that was searched without success; 0 if none was."),
    Column("steps", "integer", "Gradient steps to the first picture found; in the largest ball where none was."),
    Column("gradient", description="`vanished` where it was zero at some step."),
)
SEARCH, NAME, TRUE, BEFORE, P_BEFORE, WANTED, AFTER, P_AFTER, SUCCESS, L2, LINF, RADIUS, EMPTY, STEPS, GRADIENT = range(
    15
)

Row = tuple[Cell, ...]


def is_right(row: Row) -> bool:
    """Whether a search starts from a photograph that is taken for the class that it is known to show."""
    return row[TRUE] is not None and row[TRUE] == row[BEFORE]


def is_won(row: Row) -> bool:
    """Whether a search ended with a picture that is taken for what was wanted."""
    return row[SUCCESS] == "yes"


def counted(rows: Sequence[Row]) -> list[Row]:
    """Return the searches that success is a share of: from what was right; all where no class is known at all."""
    if any(row[TRUE] is not None for row in rows):
        return [row for row in rows if is_right(row)]
    return list(rows)


def metrics(rows: Sequence[Row], norm: str) -> Iterator[Metric]:
    """Yield the numbers that `expect:` can test; `norm` is what the search made small."""
    basis, known = counted(rows), by_photograph(rows)
    won = [row for row in basis if is_won(row)]
    single = len({row[NAME] for row in basis}) == len(basis)
    if basis:
        share = Share(len(won), len(basis))
        name, title, words = (
            ("success_rate", "Success rate", "Share of the searches from photographs that are classified right, which "
             "ended with a picture taken for what was wanted.")
            if known else
            ("changed_rate", "First choices changed", "Share of the searches that ended with a picture taken for what "
             "was wanted. No true class is known, so it is not known which first choices were right.")
        )  # fmt: skip
        # Searches of one photograph with several targets are not independent of each other.
        interval = share.interval if single else ()
        yield Metric(name, share.value, title, words, "percent", "lower", total=share.total, interval=interval)
    if won:
        key, column, title, what = _SIZES[norm]
        words = f"{what} of the smallest change found where the search succeeded, in levels of 0 to 255; median."
        yield Metric(key, median(won, column), title, words, better="higher", total=len(won))
    if known:
        right = [found for found in known if is_right(found[0])]
        still = [found for found in right if all(row[AFTER] == row[TRUE] for row in found)]
        for key, count, title, words in (
            ("accuracy", len(right), "Accuracy before", "Share of the photographs with a known class that are taken "
             "for it."),
            ("accuracy_under_attack", len(still), "Robust accuracy", "Share of the photographs with a known class "
             "that are taken for it before, and after every search too."),
        ):  # fmt: skip
            share = Share(count, len(known))
            yield Metric(
                key, share.value, title, words, "percent", "higher", total=share.total, interval=share.interval
            )


_SIZES = {
    "linf": ("median_linf", LINF, "Largest change", "Largest value"),
    "l2": ("median_l2", L2, "Length of the change", "Length"),
}
"""What each norm's search makes small; the other size is whatever the steps left it at, and no margin."""
METRICS = {
    "success_rate": "Share of the searches from photographs that were right, which ended as wanted.",
    "changed_rate": "Share of the searches that ended as wanted, where no true class is known.",
    "median_l2": "With norm l2: length of the smallest change found.",
    "median_linf": "With norm linf: largest value of the smallest change found.",
    "accuracy": "Share of the photographs with a known class that are taken for it.",
    "accuracy_under_attack": "Robust accuracy: share that is taken for its class before and after every search.",
}


def by_photograph(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the searches of each photograph with a known class."""
    known: dict[str, list[Row]] = {}
    for row in rows:
        if row[TRUE] is not None:
            known.setdefault(str(row[NAME]), []).append(row)
    return list(known.values())


def summary(rows: Sequence[Row], norm: str) -> str:
    """Say how many searches succeeded among those that count, what it took, and what became of the rest."""
    basis = counted(rows)
    won = [row for row in basis if is_won(row)]
    known = any(row[TRUE] is not None for row in rows)
    start = "from photographs that are classified right" if known else "(no true class is known)"
    words = [f"{len(won)} of {len(basis)} searches {start} found a picture that is taken for what was wanted"]
    if won:
        words[0] += f"; it took {_took(won, norm)}."
    elif basis:
        words[0] += ", within the radius searched."
    else:
        words = ["No photograph with a known class is classified right, so there is no success to count."]
    return " ".join([*words, *_rest(rows)])


def _took(won: Sequence[Row], norm: str) -> str:
    """Say how large the smallest changes found were, and how far down smaller ones were searched for."""
    if norm == "linf":
        least = sum(row[LINF] == 1 for row in won)
        floor = f"; {least} of them changed no value by more than 1 level, the least that there is" if least else ""
        size = f"at most {count_of(median(won, LINF), 'level')} of 255 in any pixel and colour"
    else:
        floor, size = "", f"a change of length {median(won, L2):.4g} levels"
    searched = [row for row in won if number(row[EMPTY]) > 0]
    tried = f"; for {len(searched)} nothing was found within {median(searched, EMPTY):.4g} (median)" if searched else ""
    return f"{size} (median{floor}{tried})"


def _rest(rows: Sequence[Row]) -> Iterator[str]:
    """Say what became of photographs that were wrong from the start, and of those whose class is not known."""
    wrong = [row for row in rows if row[TRUE] is not None and not is_right(row)]
    if wrong:
        changed = [row for row in wrong if row[AFTER] != row[BEFORE]]
        mended = sum(row[AFTER] == row[TRUE] for row in wrong)
        yield (
            f"Not counted: {count_of(len(wrong), 'search', 'searches')} from photographs that the model has wrong from "
            f"the start; {len(changed)} changed the choice, {mended} of these to the right class."
        )
    if len(unknown := [row for row in rows if row[TRUE] is None]) < len(rows) and unknown:
        won = sum(is_won(row) for row in unknown)
        yield (
            f"Not counted: {count_of(len(unknown), 'search', 'searches')} from photographs whose class is not known; "
            f"{won} ended as wanted."
        )


def curve(rows: Sequence[Row], radii: Sequence[float], norm: str) -> Iterator[Curve]:
    """Draw how many photographs give way as the ball grows, where several were searched."""
    basis = counted(rows)
    places = sorted({number(row[RADIUS]) for row in basis if row[RADIUS] is not None} | set(radii))
    if not basis or len(radii) < 2:
        return
    shares = [sum(is_won(row) and number(row[RADIUS]) <= radius for row in basis) / len(basis) for radius in places]
    yield Curve(
        "success_by_radius",
        "Photographs that give way, by radius",
        (Series("success rate", (0.0, *places), (0.0, *shares)),),
        f"radius in levels of 0 to 255, {norm}",
        "share",
        f"At each radius the share of {len(basis)} for which a picture was found in a ball of that size or a smaller "
        "one; the photographs that count for the success rate.",
    )


def median(rows: Sequence[Row], column: int) -> float:
    """Return the median of a column."""
    return float(np.median([number(row[column]) for row in rows]))


def number(cell: Any) -> float:
    """Return a cell's number; NaN if it has none."""
    return float(cell) if isinstance(cell, int | float) else math.nan


def count_of(value: float, thing: str, things: str = "") -> str:
    """Write "1 level" or "3 levels"."""
    return f"{value:g} {thing if value == 1 else things or f'{thing}s'}"
