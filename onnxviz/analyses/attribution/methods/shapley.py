"""Shapley values of segments: what each adds to the score, on average over the orders in which they could be added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from onnxviz.analyses.attribution.method import Attribution
from onnxviz.analyses.attribution.perturbation import measure_changes
from onnxviz.analyses.attribution.segments import SegmentPerturbation

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question

Floats = npt.NDArray[np.float64]

_GROUPS = 10
"""Parts of the random coalitions, each of which is left out once for the standard error."""


class KernelShap(SegmentPerturbation):
    """What each segment adds to the score: the Shapley value, exact where there are few segments.

    A coalition is some segments that are left while the others are covered. Where `coalitions` suffices for all of them
    (1,022 of ten segments) the values are exact. Else they are estimated by weighted least squares (theorem 2 of
    Lundberg and Lee 2017): sizes of coalitions that can be had entirely are, the smallest and largest first, and the
    rest is drawn, each with its complement. The sum over segments is the score less that of the covered image, exactly.
    """

    method: Literal["kernel_shap"] = "kernel_shap"
    heading: ClassVar[str] = "KernelSHAP"
    cites: ClassVar[tuple[str, ...]] = (
        "Lundberg and Lee 2017, A Unified Approach to Interpreting Model Predictions, arXiv:1705.07874",
        "Covert and Lee 2021, Improving KernelSHAP, arXiv:2012.01536",
        "Achanta et al. 2012, SLIC Superpixels, IEEE TPAMI 34(11)",
    )

    coalitions: int = Field(
        1022, ge=2, le=1_000_000, description="At most how many sets of segments are tried, beside all and none."
    )

    @model_validator(mode="after")
    def _suffices(self) -> KernelShap:
        if self.coalitions < min(4 * self.segments, 2**self.segments - 2):
            raise ValueError("`coalitions` must be at least four times `segments`, or the values are guesses")
        return self

    def attribute(self, question: Question) -> Attribution:
        """Return the Shapley value of each pixel's segment."""
        import torch

        images, filling, labels = question.images.cpu(), self.filling(question), self.labels(question)
        players = [int(each.max()) + 1 for each in labels]
        drawn = [
            draw_coalitions(count, self.coalitions, question.generator(place, "kernel_shap"))
            for place, count in enumerate(players)
        ]
        members = [torch.from_numpy(each.with_none_and_all()) for each in drawn]

        def change(place: int, start: int, stop: int) -> torch.Tensor:
            left = members[place][start:stop][:, labels[place]]
            return torch.where(left[:, None], images[place], filling[place])

        scores = measure_changes(question, self, [len(each) for each in members], change)
        values, errors = [], []
        for coalitions, each in zip(drawn, scores, strict=True):
            found, error = shapley_values(coalitions, each.numpy())
            values.append(torch.from_numpy(found).float())
            errors.append(error)
        gained = torch.stack([each[-1] - each[0] for each in scores])
        missing = torch.stack([each.double().sum() for each in values]) - gained
        facts = {
            "completeness error": torch.where(missing == 0, 0.0, missing.abs() / gained.abs()),
            "standard error": torch.tensor(errors, dtype=torch.float64),
        }
        maps = torch.stack([each[where] for each, where in zip(values, labels, strict=True)])
        return Attribution((maps,), facts, f"{self._said(drawn)} {self.filled_with(question)}")

    def _said(self, drawn: list[Coalitions]) -> str:
        how = dict.fromkeys(
            f"all {len(each.members):,} coalitions"
            if each.exact
            else f"{len(each.members):,} coalitions, of which "
            f"{each.certain:,} are all of their sizes and the others are drawn in pairs"
            for each in drawn
        )
        counts = sorted({each.members.shape[1] for each in drawn})
        return f"{' or '.join(map(str, counts))} segments ({self.cut}), {'; or '.join(how)}; the other segments hold"

    def cost(self, layers: int) -> float:  # noqa: ARG002 - it has no layers
        """Count a forward pass for each coalition, and those of all and of no segments."""
        return float(min(self.coalitions, 2**self.segments - 2) + 2)


@dataclass(frozen=True, eq=False)
class Coalitions:
    """Sets of segments that are tried, neither empty nor of all.

    Attributes:
        members: bool [coalitions, segments]; those of the sizes that are there entirely first, then pairs of a random
            one and its complement.
        weights: what each counts in the least squares, [coalitions].
        certain: how many are of sizes that are there entirely.
    """

    members: npt.NDArray[np.bool_]
    weights: Floats
    certain: int

    @property
    def exact(self) -> bool:
        """Whether no coalition is missing."""
        return self.certain == len(self.members)

    def with_none_and_all(self) -> npt.NDArray[np.bool_]:
        """Return the empty coalition, these, and that of all."""
        count = self.members.shape[1]
        return np.concatenate([np.zeros((1, count), np.bool_), self.members, np.ones((1, count), np.bool_)])


def draw_coalitions(segments: int, most: int, numbers: np.random.Generator) -> Coalitions:
    """Return at most so many coalitions, whole sizes as far as their share of the weight lasts, and random pairs.

    Sizes are taken as `shap.KernelExplainer` takes them: a size and that of the complements are there entirely if so
    many draws as are left would draw each of their coalitions at least once on average.
    """
    sizes = range(1, segments // 2 + 1)
    kernel = {size: (segments - 1) / (size * (segments - size)) * (1 if 2 * size == segments else 2) for size in sizes}
    certain: list[npt.NDArray[np.bool_]] = []
    weights: list[Floats] = []
    left = most
    whole = 2**segments - 2 <= most
    for size in sizes:
        count = math.comb(segments, size) * (1 if 2 * size == segments else 2)
        share = kernel[size] / sum(kernel[other] for other in sizes if other >= size)
        if not whole and left * share < count:
            break
        certain.append(_all_of(segments, size))
        weights.append(np.full(count, kernel[size] / count))
        left -= count
    rest = list(sizes)[len(certain) :]
    entire = sum(map(len, certain))
    if rest and left > 1:
        total = np.array([kernel[size] for size in rest])
        drawn = numbers.choice(rest, left // 2, p=total / total.sum())
        orders = numbers.random((len(drawn), segments)).argsort(axis=1).argsort(axis=1)
        chosen = orders < drawn[:, None]
        certain.append(np.stack([chosen, ~chosen], axis=1).reshape(-1, segments))
        weights.append(np.full(2 * len(drawn), total.sum() / (2 * len(drawn))))
    empty = np.zeros((0, segments), np.bool_)
    return Coalitions(np.concatenate([empty, *certain]), np.concatenate([np.zeros(0), *weights]), entire)


def _all_of(segments: int, size: int) -> npt.NDArray[np.bool_]:
    """Return all coalitions of a size and, where these are others, their complements."""
    chosen = np.array(list(combinations(range(segments), size)))
    members = np.zeros((len(chosen), segments), np.bool_)
    np.put_along_axis(members, chosen, True, axis=1)
    return members if 2 * size == segments else np.concatenate([members, ~members])


def shapley_values(coalitions: Coalitions, scores: Floats) -> tuple[Floats, float]:
    """Return the values that explain the scores best, and the root of the mean square of their standard errors.

    The least squares of Lundberg and Lee 2017 with the sum kept exactly (equation 7 of Covert and Lee 2021). The errors
    are those of the random coalitions alone, by a jackknife over ten parts of them; 0 where there are none.

    Args:
        coalitions: what is left of the image.
        scores: of the empty coalition, of these, and of all segments.
    """
    values = _least_squares(coalitions.members, coalitions.weights, scores)
    pairs = (len(coalitions.members) - coalitions.certain) // 2
    groups = min(_GROUPS, pairs)
    if groups < 2:
        return values, 0.0 if coalitions.exact else math.nan
    number = np.full(len(coalitions.members), -1)
    number[coalitions.certain :] = np.repeat(np.arange(pairs) * groups // pairs, 2)
    others = []
    for group in range(groups):
        kept = number != group
        weights = np.where(number < 0, coalitions.weights, coalitions.weights * pairs / (kept[number >= 0].sum() / 2))
        found = np.concatenate([[True], kept, [True]])
        others.append(_least_squares(coalitions.members[kept], weights[kept], scores[found]))
    variance = (groups - 1) * np.var(others, axis=0)
    return values, float(np.sqrt(variance.mean()))


def _least_squares(members: npt.NDArray[np.bool_], weights: Floats, scores: Floats) -> Floats:
    """Return the values of segments whose sums come nearest to the scores, and add up to the score of all."""
    chosen = members.astype(np.float64)
    inverse = np.linalg.pinv(chosen.T @ (weights[:, None] * chosen), hermitian=True)
    free = inverse @ (chosen.T @ (weights * (scores[1:-1] - scores[0])))
    ones = inverse.sum(axis=1)
    gained = scores[-1] - scores[0]
    if not ones.sum() > 0:  # one segment has no coalitions, and everything is its own
        return np.full(members.shape[1], gained / members.shape[1])
    values: Floats = free - ones * (free.sum() - gained) / ones.sum()
    return values
