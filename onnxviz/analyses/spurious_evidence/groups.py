"""Groups of maps within a class: spectral relevance analysis, and whether a group stands apart.

Lapuschkin et al. 2019, Nature Communications 10, 1096: coarse maps are joined with their nearest neighbours, the
normalised Laplacian of that graph has an eigenvalue near zero for each group that hardly hangs together with the rest,
the largest gap behind them says how many groups there are, and images are grouped by the eigenvectors (von Luxburg
2007, arXiv:0711.0189; Ng, Jordan and Weiss 2001). Maps are compared by the square roots of their shares (Hellinger
distance), in which how much evidence there is plays no part.

Every cloud of points can be divided in groups. That one stands apart needs two things here: its mean silhouette
(Rousseeuw 1987, J. Comput. Appl. Math. 20, 53) is at least `APART`, and hardly ever so large in clouds of one piece
with the same number of points and the same extent along each principal axis, in which points are evenly spread, as in
the gap statistic (Tibshirani, Walther and Hastie 2001, J. R. Stat. Soc. B 63, 411, section 3 b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.spurious_evidence.statistics import SIGNIFICANT

APART = 0.65
"""Silhouette from which on a group may stand apart: 1 is a single point far away from all others, 0 no group at all."""
FEWEST = 16
"""Of fewer maps nothing is said: groups of a few are found in any cloud."""
_MOST = 200
"""Maps of a class that are compared, spread evenly; their distances are a matrix of that size."""
_CLOUDS, _MOST_CLOUDS, _ENOUGH = 99, 2_000, 5
"""Clouds at least, more where several classes are tested, and at most; none more once so many stand apart as far."""
_GROUPS = 4
"""Most groups of a class."""
_PART = 0.1
"""A group holds at least this part of the maps, and at least three."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups of a class's maps.

    Attributes:
        members: which of the maps are in the group that stands out most, by their places in what was given.
        maps: how many were compared.
        silhouette: the group's; 0 where no group is large enough.
        probability: of so large a silhouette in clouds of one piece, times the number of tests (Bonferroni).
        eigenvalues: the lowest of the Laplacian.
    """

    members: npt.NDArray[np.intp]
    maps: int
    silhouette: float
    probability: float
    eigenvalues: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the group stands apart."""
        return self.silhouette >= APART and self.probability < SIGNIFICANT


def find_groups(maps: npt.NDArray[np.floating], seed: int = 0, tests: int = 1) -> Grouping | None:
    """Look for a group of maps that stands apart.

    Args:
        maps: [N, rows, columns], each adding up to 1.
        seed: of the clouds.
        tests: how many classes are searched.

    Returns:
        The group that stands out most; None of too few maps.
    """
    if len(maps) < FEWEST:
        return None
    count = min(len(maps), _MOST)
    used = np.arange(count) * len(maps) // count
    points = np.sqrt(np.asarray(maps[used], np.float64).reshape(count, -1).clip(min=0))
    silhouette, members, eigenvalues = _most_apart(points)
    chance = _chance(points, silhouette, seed, tests) if silhouette >= APART else 1.0
    return Grouping(used[members], count, silhouette, min(1.0, tests * chance), eigenvalues)


def _chance(points: Points, silhouette: float, seed: int, tests: int) -> float:
    """Return how often clouds of one piece have such a silhouette (Besag and Clifford 1991, Biometrika 78, 301)."""
    rng, larger = np.random.default_rng([seed, len(points)]), 0
    clouds = min(_MOST_CLOUDS, max(_CLOUDS, round(tests / SIGNIFICANT)))
    for drawn in range(1, clouds + 1):
        larger += _most_apart(_cloud(points, rng))[0] >= silhouette
        if larger == _ENOUGH:
            return larger / drawn
    return (1 + larger) / (1 + clouds)


def _cloud(points: Points, rng: np.random.Generator) -> Points:
    """Return points evenly spread in a box, with the mean and the spread of the given ones along principal axes."""
    centre = points.mean(axis=0)
    scores, lengths, axes = np.linalg.svd(points - centre, full_matrices=False)
    spread = (scores * lengths).std(axis=0) * math.sqrt(3)
    drawn: Points = centre + (rng.uniform(-1, 1, scores.shape) * spread) @ axes
    return drawn


def _most_apart(points: Points) -> tuple[float, npt.NDArray[np.intp], tuple[float, ...]]:
    """Return the largest silhouette of a group, its members, and the lowest eigenvalues."""
    distances = _distances(points)
    values, vectors = _spectrum(distances)
    count = 2 + int(np.diff(values[1 : _GROUPS + 1]).argmax())
    rows = vectors[:, :count]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    owners = _nearest_centres(rows, count)
    found, members = _silhouettes(distances, owners, count), np.arange(0)
    sizes = np.bincount(owners, minlength=count)
    allowed = (sizes >= max(3, _PART * len(points))) & (sizes <= (len(points) + 1) // 2)
    best = float(np.where(allowed, found, 0.0).max())
    if best > 0:
        members = np.flatnonzero(owners == int(np.where(allowed, found, 0.0).argmax()))
    return best, members, tuple(values[: _GROUPS + 1].tolist())


def _distances(points: Points) -> Points:
    squares = (points**2).sum(axis=1)
    found: Points = np.sqrt((squares[:, None] + squares - 2 * points @ points.T).clip(min=0))
    return found


def _spectrum(distances: Points) -> tuple[Points, Points]:
    """Return eigenvalues, ascending, and vectors of the normalised Laplacian of the graph of nearest neighbours."""
    count = len(distances)
    others = distances + np.where(np.eye(count, dtype=bool), np.inf, 0.0)
    nearest = np.argsort(others, axis=1, kind="stable")[:, : max(3, round(math.log2(count)))]
    joined = np.zeros((count, count))
    np.put_along_axis(joined, nearest, 1.0, axis=1)
    joined = np.maximum(joined, joined.T)
    scale = 1 / np.sqrt(joined.sum(axis=1))
    found = np.linalg.eigh(np.eye(count) - scale[:, None] * joined * scale)
    return found.eigenvalues, found.eigenvectors


def _nearest_centres(rows: Points, count: int, rounds: int = 20) -> npt.NDArray[np.intp]:
    """Return the group of each row by Lloyd's algorithm, from the rows that are farthest apart."""
    chosen = [int(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).argmax())]
    for _ in range(count - 1):
        chosen.append(int(np.min([((rows - rows[place]) ** 2).sum(axis=1) for place in chosen], axis=0).argmax()))
    centres = rows[chosen]
    for _ in range(rounds):
        owners = np.asarray(((rows[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1))
        centres = np.stack(
            [rows[owners == one].mean(axis=0) if (owners == one).any() else centres[one] for one in range(count)]
        )
    return owners


def _silhouettes(distances: Points, owners: npt.NDArray[np.intp], count: int) -> Points:
    """Return the mean silhouette of each group, 0 of one with a single point or none."""
    member = np.eye(count)[owners]
    sizes = member.sum(axis=0)
    sums = distances @ member
    own = sums[np.arange(len(owners)), owners] / np.maximum(sizes[owners] - 1, 1)
    others = np.where((member > 0) | (sizes == 0), np.inf, sums / np.maximum(sizes, 1)).min(axis=1)
    values = np.where(np.isfinite(others), (others - own) / np.maximum(np.maximum(others, own), 1e-12), 0.0)
    return np.where(sizes > 1, (values @ member) / np.maximum(sizes, 1), 0.0)
