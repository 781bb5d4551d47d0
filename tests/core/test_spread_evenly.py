"""Some of many things."""

from __future__ import annotations

import itertools

import pytest

from onnxviz.core.sampling import spread_evenly


@pytest.mark.parametrize("total", [0, 1, 2, 7, 24, 25, 117])
@pytest.mark.parametrize("most", [0, 1, 3, 24, 200])
def test_some_are_taken_evenly(total: int, most: int) -> None:
    found = spread_evenly(range(total), most)
    assert len(found) == len(set(found)) == min(total, most)
    assert found == sorted(found)
    if len(found) > 1:
        gaps = {later - earlier for earlier, later in itertools.pairwise(found)}
        assert max(gaps) - min(gaps) <= 1
        assert found[0] == 0
