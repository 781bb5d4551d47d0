"""What adversarial searches found, and what is counted: success and robustness of what was right, the rest apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxviz.analyses import presentation
from onnxviz.core.findings import Column, Curve, Metric, Picture, Series

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


@dataclass(frozen=True, eq=False)
class Search:
    """What the search from one photograph to one target found; all of it is measured on the picture that is stored.

    `COLUMNS` say what is in most of it; classes are by their numbers, None where nothing says them.

    Attributes:
        image: the photograph's index in the data set.
        goal: the target, as the recipe has it; classes by their numbers.
        wanted: the class that was driven up, or None for any other.
        lead: of the class to leave, in logits, at some of the steps.
        factor: by how much the picture of the change is multiplied.
        pictures: the photograph as the network sees it, the changed one, and the change.
    """

    image: int
    name: str
    goal: str | int
    true: int | None
    before: int
    sure_before: float | None
    wanted: int | None
    after: int
    sure_after: float | None
    l2: float
    linf: int
    radius: float | None
    empty: float
    steps: int
    flat: bool
    lead: tuple[float, ...]
    factor: int
    pictures: tuple[Picture, ...]

    @property
    def right(self) -> bool:
        """Whether the photograph is taken for the class that it is known to show."""
        return self.true is not None and self.true == self.before

    @property
    def won(self) -> bool:
        """Whether the changed picture is taken for what was wanted."""
        return self.after != self.before if self.wanted is None else self.after == self.wanted


def counted(found: Sequence[Search]) -> list[Search]:
    """Return the searches that success is a share of: from what was right; all where no class is known at all."""
    if any(one.true is not None for one in found):
        return [one for one in found if one.right]
    return list(found)


def metrics(found: Sequence[Search], norm: str) -> Iterator[Metric]:
    """Yield the numbers that `expect:` can test; `norm` is what the search made small."""
    basis, known = counted(found), dict[int, list[Search]]()
    for one in found:
        if one.true is not None:
            known.setdefault(one.image, []).append(one)
    won = [one for one in basis if one.won]
    if basis:
        rate = presentation.of_share(METRICS["success_rate" if known else "changed_rate"], [one.won for one in basis])
        # Searches of one photograph with several targets are not independent of each other.
        single = len({one.image for one in basis}) == len(basis)
        yield rate if single else replace(rate, interval=())
    if won:
        size = median(one.linf if norm == "linf" else one.l2 for one in won)
        yield replace(METRICS[f"median_{norm}"], value=size, total=len(won))
    if known:
        right = [searches[0].right for searches in known.values()]
        still = [searches[0].right and all(one.after == one.true for one in searches) for searches in known.values()]
        yield presentation.of_share(METRICS["accuracy"], right)
        yield presentation.of_share(METRICS["accuracy_under_attack"], still)


_MEDIAN = "of the smallest change found where the search succeeded, in levels of 0 to 255; median."
METRICS = presentation.by_name(
    Metric("success_rate", math.nan, "success rate",
           "Share of the searches from photographs that are classified right, which ended with a picture taken for "
           "what was wanted.", "percent", "lower"),
    Metric("changed_rate", math.nan, "first choices changed",
           "Share of the searches that ended with a picture taken for what was wanted. No true class is known, so it "
           "is not known which first choices were right.", "percent", "lower"),
    # Each norm's search makes its own size small; the other is whatever the steps left it at, and no margin.
    Metric("median_l2", math.nan, "length of the change", f"Length {_MEDIAN}", better="higher"),
    Metric("median_linf", math.nan, "largest change", f"Largest value {_MEDIAN}", better="higher"),
    Metric("accuracy", math.nan, "accuracy before",
           "Share of the photographs with a known class that are taken for it.", "percent", "higher"),
    Metric("accuracy_under_attack", math.nan, "robust accuracy",
           "Robust accuracy: share of the photographs of known class taken for it before, and after every search.",
           "percent", "higher"),
)  # fmt: skip


def described() -> dict[str, str]:
    """Return what each metric is, and with which norm there is one that only one norm has."""
    told = presentation.described(METRICS)
    for norm in ("l2", "linf"):
        told[f"median_{norm}"] += f" Only with norm {norm}."
    return told


def summary(found: Sequence[Search], norm: str) -> str:
    """Say how many searches succeeded among those that count, what it took, and what became of the rest."""
    basis = counted(found)
    won = [one for one in basis if one.won]
    known = any(one.true is not None for one in found)
    start = "from photographs that are classified right" if known else "(no true class is known)"
    words = [f"{len(won)} of {len(basis)} searches {start} found a picture that is taken for what was wanted"]
    if won:
        words[0] += f"; it took {_took(won, norm)}."
    elif basis:
        words[0] += ", within the radius searched."
    else:
        words = ["No photograph with a known class is classified right, so there is no success to count."]
    return " ".join([*words, *_rest(found)])


def _took(won: Sequence[Search], norm: str) -> str:
    """Say how large the smallest changes found were, and how far down smaller ones were searched for."""
    if norm == "linf":
        least = sum(one.linf == 1 for one in won)
        floor = f"; {least} of them changed no value by more than 1 level, the least that there is" if least else ""
        size = f"at most {count_of(median(one.linf for one in won), 'level')} of 255 in any pixel and colour"
    else:
        floor, size = "", f"a change of length {median(one.l2 for one in won):.4g} levels"
    searched = [one.empty for one in won if one.empty > 0]
    tried = ""
    if searched:
        within = count_of(float(f"{median(searched):.4g}"), "level")
        tried = f"; for {len(searched)} nothing was found within {within}{_in_the_median(searched)}"
    return f"{size}{_in_the_median(won)}{floor}{tried}"


def _in_the_median(several: Sequence[object]) -> str:
    return ", in the median" if len(several) > 1 else ""


def _rest(found: Sequence[Search]) -> Iterator[str]:
    """Say what became of photographs that were wrong from the start, and of those whose class is not known."""
    wrong = [one for one in found if one.true is not None and not one.right]
    if wrong:
        changed = [one for one in wrong if one.after != one.before]
        mended = sum(one.after == one.true for one in wrong)
        yield (
            f"Not counted: {count_of(len(wrong), 'search', 'searches')} from photographs that the model has wrong from "
            f"the start; {len(changed)} changed the choice, {mended} of these to the right class."
        )
    if len(unknown := [one for one in found if one.true is None]) < len(found) and unknown:
        won = sum(one.won for one in unknown)
        yield (
            f"Not counted: {count_of(len(unknown), 'search', 'searches')} from photographs whose class is not known; "
            f"{won} ended as wanted."
        )


def curve(found: Sequence[Search], radii: Sequence[float], norm: str) -> Iterator[Curve]:
    """Draw how many photographs give way as the ball grows, where several were searched."""
    basis = counted(found)
    reached = [one.radius for one in basis if one.won and one.radius is not None]
    places = sorted({*reached, *radii})
    if not basis or len(radii) < 2:
        return
    shares = [sum(own <= radius for own in reached) / len(basis) for radius in places]
    yield Curve(
        "success_by_radius",
        "Photographs that give way, by radius",
        (Series("success rate", (0.0, *places), (0.0, *shares)),),
        f"radius in levels of 0 to 255, {norm}",
        "share",
        f"At each radius the share of {len(basis)} for which a picture was found in a ball of that size or a smaller "
        "one; the photographs that count for the success rate.",
    )


def median(values: Iterable[float]) -> float:
    """Return the median of some numbers."""
    return float(np.median(list(values)))


def count_of(value: float, thing: str, things: str = "") -> str:
    """Write "1 level" or "3 levels"."""
    return f"{value:g} {thing if value == 1 else things or f'{thing}s'}"
