"""Intervals of shares and tests of their difference, against published values and slow enumeration."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest

import onnxviz
from onnxviz.core.shares import Share, difference, mcnemar, paired, percent, wilson


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, 857, table I, method 3 (score without continuity correction).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_that_were_published(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)


def test_an_interval_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert math.isnan(Share(0, 0).value)
    assert str(Share(0, 0)) == "unknown (0 of 0)"


def test_all_and_none_keep_an_interval() -> None:
    assert wilson(10, 10)[0] == pytest.approx(0.7225, abs=5e-5)
    assert wilson(10, 10)[1] == 1.0


@pytest.mark.parametrize("pair", [(0, 0), (3, 3), (1, 7), (0, 6), (9, 4)])
def test_mcnemar_is_the_share_of_coin_throws_at_least_as_uneven(pair: tuple[int, int]) -> None:
    total = sum(pair)
    throws = list(product((0, 1), repeat=total))
    uneven = [throw for throw in throws if min(sum(throw), total - sum(throw)) <= min(pair)]
    assert mcnemar(*pair) == pytest.approx(float(Fraction(len(uneven), len(throws))))


def test_mcnemar_of_many_trials_is_finite() -> None:
    assert mcnemar(5_000, 5_000) == pytest.approx(1.0)
    assert mcnemar(6_000, 4_000) < 1e-80


def test_paired_differences_are_held_against_all_their_signs() -> None:
    values = [0.4, -0.1, 0.3, 0.2, -0.05, 0.6, 0.1, 0.0, 0.25]
    sums = [
        abs(math.fsum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in product((-1, 1), repeat=len(values))
    ]
    exact = sum(other >= math.fsum(values) - 1e-12 for other in sums) / len(sums)
    assert paired(values) == pytest.approx(exact, abs=0.005)
    assert paired([-value for value in values]) == paired(values)
    assert paired([]) == paired([0.0, 0.0]) == 1.0


def test_a_share_says_what_it_is_of() -> None:
    assert str(Share(14, 20)) == "70.0 % (14 of 20; 48 to 85 %)"
    with pytest.raises(ValueError, match="no share"):
        Share(3, 2)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, 873, table II, method 10; there the first minus the second.
    [((48, 80), (56, 70), 0.0524, 0.3339), ((3, 10), (9, 10), 0.1705, 0.8090), ((2, 7), (6, 7), 0.0582, 0.8062),
     ((0, 29), (5, 56), -0.0381, 0.1926)],
)  # fmt: skip
def test_intervals_of_differences_are_those_that_were_published(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    one, other = Share(*first), Share(*second)
    assert difference(one.value, one.interval, other.value, other.interval) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.0, 0, "0%"), (1 / 342, 0, "<1%"), (0.004, 1, "0.4%"), (0.0004, 1, "<0.1%"), (0.29, 0, "29%"),
        (0.996, 0, ">99%"), (0.9996, 1, ">99.9%"), (0.9996, 2, "99.96%"), (1.0, 0, "100%"), (1.0, 1, "100.0%"),
    ],
)  # fmt: skip
def test_none_is_said_of_none_only_and_all_of_all_only(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text


def test_every_share_in_words_is_written_so() -> None:
    written = re.compile(r":\.\d%")
    package = Path(onnxviz.__file__).parent
    found = [path for path in package.rglob("*.py") if written.search(path.read_text(encoding="utf-8"))]
    assert not found, "write `core.shares.percent`, which does not round some to none"


@pytest.mark.parametrize("total", [1, 3, 40, 47, 200, 999])
def test_an_interval_ends_exactly_at_none_and_at_all(total: int) -> None:
    assert wilson(0, total)[0] == 0.0
    assert wilson(total, total)[1] == 1.0
    assert 0 < wilson(1, total)[0] <= wilson(total, total)[0]
