"""A small version of each row of the table of faults (`benchmarks/faults.py`): nothing lost, nothing wrong, all named."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from fault_cases import (
    CHANGES,
    changed_files,
    full_disk,
    hostile,
    hostile_models,
    late_masks,
    little_memory,
    odd_images,
    odd_masks,
    small_files,
)
from fault_runs import Kill, Row, drawn_kills, kill_and_finish, run, table
from stored_damage import DAMAGES, damaged_results
from worker_runs import write_recipe

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are watched through /proc")
SAMPLE = ("Loop endless", "Tile-dynamic-2^40", "functions 60 deep", "broadcast sums")


def require(rows: Iterable[Row]) -> None:
    """Nothing lost, nothing wrong, every cause named, and nothing else that must not be."""
    found = list(rows)
    faults = [fault for row in found for fault in row.faults]
    assert not faults, "\n".join(faults)
    assert not any(row.lost or row.wrong or row.named < row.owed for row in found), table(found)
    assert all(row.runs or "not tried" in table([row]) for row in found)


def test_kills(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 4, size: 8, seconds: 0.1, chain: true", "count: 4, size: 20")
    calm, row = tmp_path / "calm", Row("kills")
    assert run(recipe, calm, 0).code == 0
    plans = [
        [Kill("worker", 1, 0.05), Kill("worker", 3, 0.0)],
        [Kill("parent", 2, 0.03)],
        [Kill("both", 4, 0.0)],
    ]
    for number, plan in enumerate(plans):
        kill_and_finish(row, recipe, tmp_path / f"run-{number}", calm, 1 + number % 2, plan, number)
    require([row])
    assert row.remarks["parents killed"] == 2
    assert row.remarks["workers killed"] >= 3


def test_drawn_moments_are_repeatable_and_spread() -> None:
    drawn = [drawn_kills(random.Random(seed), 20, 5.0) for seed in range(100)]
    assert drawn == [drawn_kills(random.Random(seed), 20, 5.0) for seed in range(100)]
    kills = [kill for plan in drawn for kill in plan]
    assert {kill.victim for kill in kills} == {"worker", "workers", "parent", "both"}
    assert len({kill.results for kill in kills}) > 15


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
def test_full_disk(tmp_path: Path) -> None:
    require([full_disk(tmp_path, levels=2)])


def test_small_files(tmp_path: Path) -> None:
    require([small_files(tmp_path / "x", levels=1)])


def test_odd_images(tmp_path: Path) -> None:
    require([odd_images(tmp_path)])


@pytest.mark.slow
def test_odd_masks(tmp_path: Path) -> None:
    require([odd_masks(tmp_path), *late_masks(tmp_path / "late")])


@pytest.mark.parametrize("name", ["an image replaced", "the model replaced, then the worker killed"])
def test_files_that_change_while_a_run_goes_on(tmp_path: Path, name: str) -> None:
    require([changed_files(tmp_path / "x", name)])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHANGES))
def test_everything_that_can_change_while_a_run_goes_on(tmp_path: Path, name: str) -> None:
    require([changed_files(tmp_path / "x", name)])


def test_damage_to_what_is_stored(tmp_path: Path) -> None:
    rows = list(damaged_results(tmp_path, times=1, seed=7))
    require(rows)
    assert len(rows) == len(DAMAGES) + 1


def test_hostile_models(tmp_path: Path) -> None:
    row = hostile_models(tmp_path / "x", "bombs", {name: hostile()["bombs"][name] for name in SAMPLE})
    require([row])
    assert row.runs == len(SAMPLE)


@pytest.mark.zoo
@pytest.mark.slow
def test_little_memory(tmp_path: Path, zoo: Path) -> None:
    require(little_memory(tmp_path, zoo.parent))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_table_has_a_line_for_each_row() -> None:
    assert table([Row("x", runs=2, wrong=1)]).splitlines()[2:] == ["| x | 2 | 0 | 1 | 0 of 0 |  |"]
