"""How well a map points at the pixels that tell the classes, by the measures of XAI-TRIS; and which of two does better.

Clark, Wilming and Haufe 2023, arXiv:2306.12816: of maps their absolute values count. A map that is the same everywhere
points nowhere: it is counted as what a random one gives on average.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.belief import holm
from onnxviz.core.means import Mean
from onnxviz.core.shares import LEVEL, paired

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]

METRICS = ("precision", "mass accuracy", "EMD score")
MOST_PIXELS = 256
"""Of larger maps there is no EMD score: the exact one takes too long."""
_TOGETHER = 10


def measured(maps: Floats, truth: Masks) -> Floats:
    """Return the three measures of maps, [N, 3], of which the last is NaN for large maps.

    Args:
        maps: [N, h, w], with signs or without.
        truth: the pixels that they should point at, [N, h, w]; one at least.
    """
    sizes, right = weights_of(maps), truth.reshape(len(truth), -1)
    if sizes.shape[1] > MOST_PIXELS:
        scores = np.full(len(sizes), math.nan)
    else:
        height, width = maps.shape[1:]
        scores = 1 - distances(sizes, right, width) / math.hypot(height - 1, width - 1)
    return np.stack([precision(sizes, right), (sizes * right).sum(axis=1), scores], axis=1)


def weights_of(maps: Floats) -> Floats:
    """Return the absolute values of maps as parts of their sum, [N, pixels]; all the same for a map of zeros."""
    sizes = np.abs(maps.reshape(len(maps), -1).astype(np.float64))
    sizes[sizes.sum(axis=1) == 0] = 1
    return np.asarray(sizes / sizes.sum(axis=1, keepdims=True))


def precision(sizes: Floats, truth: Masks) -> Floats:
    """Return the share of right ones among the k highest pixels, where k is how many right ones there are, [N].

    Of pixels with the same value at the border each counts with the probability that it is among them.
    """
    found = np.empty(len(sizes))
    for place, (each, right) in enumerate(zip(sizes, truth, strict=True)):
        count = int(right.sum())
        least = np.sort(each)[-count]
        above, tied = each > least, each == least
        share = (count - above.sum()) / tied.sum()
        found[place] = ((above & right).sum() + share * (tied & right).sum()) / count
    return found


def distances(sizes: Floats, truth: Masks, width: int) -> Floats:
    """Return the earth mover's distance of maps from the right pixels, all of the same weight, in pixels: [N].

    Exactly, by linear programming (the simplex method of HiGHS): how much goes from each pixel to each right one.

    Args:
        sizes: [N, pixels], each of sum 1.
        truth: [N, pixels].
        width: pixels in a row.
    """
    from scipy import sparse
    from scipy.optimize import linprog

    rows, columns = np.divmod(np.arange(sizes.shape[1]), width)
    found: list[float] = []
    for start in range(0, len(sizes), _TOGETHER):  # several at once: half the time
        costs, given, taken, ends = [], [], [], []
        for each, right in zip(sizes[start : start + _TOGETHER], truth[start : start + _TOGETHER], strict=True):
            goals = np.flatnonzero(right)
            ways = np.hypot(rows[:, None] - rows[goals], columns[:, None] - columns[goals])
            out = sparse.kron(sparse.eye(len(each)), np.ones((1, len(goals))))
            into = sparse.kron(np.ones((1, len(each))), sparse.eye(len(goals))).tocsr()
            taken.append(sparse.vstack([out, into[:-1]]))  # the last is what is left
            given.append(np.concatenate([each, np.full(len(goals) - 1, 1 / len(goals))]))
            costs.append(ways.ravel())
            ends.append(ways.size)
        solved = linprog(
            np.concatenate(costs), A_eq=sparse.block_diag(taken).tocsr(), b_eq=np.concatenate(given), method="highs-ds"
        )
        if solved.status:
            raise RuntimeError(f"the transport problem has no solution: {solved.message}")
        moved = np.split(np.concatenate(costs) * solved.x, np.cumsum(ends)[:-1])
        found += [math.fsum(each) for each in moved]
    return np.array(found)


# --- which is better --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How a kind of map does beside another one.

    Attributes:
        value: mean over the samples, of each the mean over the networks.
        ahead: how far that is above the other's on the same samples.
        probability: of so large a mean difference if there were none: paired signs over samples, corrected by Holm's
            method for the number of methods.
        agreed: whether the mean difference has the same sign in each network.
    """

    value: Mean
    ahead: Mean
    probability: float
    agreed: bool

    @property
    def verdict(self) -> str:
        """What is to be said: "beats" or "worse" beyond chance and in each network, else "not shown"."""
        if not self.agreed or self.probability >= 1 - LEVEL:
            return "not shown"
        return "beats" if self.ahead.value > 0 else "worse"


def standings(values: Mapping[str, Floats], simple: Collection[str], rival: str) -> dict[str, Standing]:
    """Compare maps with a rival.

    Args:
        values: by the maps' names a measure of each network and sample, [networks, N].
        simple: the names of those that know nothing of the network, which no correction counts.
        rival: one of them.
    """
    gaps = {name: each - values[rival] for name, each in values.items()}
    chances = {name: paired(each.mean(axis=0).tolist()) for name, each in gaps.items()}
    methods = [name for name in values if name not in simple]
    chances |= dict(zip(methods, holm([chances[name] for name in methods]), strict=True))
    return {
        name: Standing(
            Mean.of(values[name].mean(axis=0).tolist()),
            Mean.of(gap.mean(axis=0).tolist()),
            chances[name],
            len(set(np.sign(gap.mean(axis=1)))) == 1,
        )
        for name, gap in gaps.items()
    }
