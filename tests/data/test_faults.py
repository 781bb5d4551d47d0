"""A small version of each row of the table of faults (`benchmarks/faults.py`): nothing lost or wrong, all named."""

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
    pictures,
    small_files,
    write_disk_recipe,
)
from fault_runs import Kill, Row, drawn_kills, kill_and_finish, table
from faulty_images import write_concepts
from stored_damage import DAMAGES, damaged_results

from onnxviz.core.errors import DataError
from onnxviz.data.concepts import MaskFolder

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are watched through /proc")
SAMPLE = ("Loop endless", "Tile-dynamic-2^40", "functions 60 deep", "broadcast sums")


def require(rows: Iterable[Row]) -> None:
    """Nothing lost, nothing wrong, every cause named, and nothing else that must not be."""
    found = list(rows)
    faults = [fault for row in found for fault in row.faults]
    assert not faults, "\n".join(faults)
    assert not any(row.lost or row.wrong or row.named < row.owed for row in found), table(found)
    assert all(row.runs or "not tried" in table([row]) for row in found)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and its run folder if nothing goes wrong."""
    return write_disk_recipe(tmp_path_factory.mktemp("faults"))


def test_kills(tmp_path: Path, recipe: tuple[Path, Path]) -> None:
    row = Row("kills")
    plans = [[Kill("worker", 1, 0.05), Kill("worker", 3, 0.0)], [Kill("both", 2, 0.03)]]
    for number, plan in enumerate(plans):
        kill_and_finish(row, recipe[0], tmp_path / f"run-{number}", recipe[1], 1 + number % 2, plan, number)
    require([row])
    assert row.remarks["parents killed"] == 1
    assert row.remarks["workers killed"] >= 3


def test_drawn_moments_are_repeatable_and_spread() -> None:
    drawn = [drawn_kills(random.Random(seed), 20, 5.0) for seed in range(100)]
    assert drawn == [drawn_kills(random.Random(seed), 20, 5.0) for seed in range(100)]
    kills = [kill for plan in drawn for kill in plan]
    assert {kill.victim for kill in kills} == {"worker", "workers", "parent", "both"}
    assert len({kill.results for kill in kills}) > 15


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
def test_full_disk(tmp_path: Path, recipe: tuple[Path, Path]) -> None:
    require([full_disk(tmp_path, *recipe, levels=1)])


def test_small_files(tmp_path: Path, recipe: tuple[Path, Path]) -> None:
    require([small_files(tmp_path / "x", *recipe, levels=1)])


def test_odd_images(tmp_path: Path) -> None:
    require([odd_images(tmp_path)])


def test_odd_masks(tmp_path: Path) -> None:
    require([odd_masks(tmp_path), *late_masks(tmp_path / "late")])


def test_a_model_that_changes_while_a_run_goes_on(tmp_path: Path) -> None:
    require([changed_files(tmp_path / "x", "the model replaced, then the worker killed")])


@pytest.mark.parametrize("how", ["other", "empty", "gone"])
def test_a_picture_is_what_the_digest_was_made_of(tmp_path: Path, how: str) -> None:
    scenes, masks, names = pictures(2)
    write_concepts(tmp_path, scenes, masks, names)
    found = MaskFolder.find("x", tmp_path, tmp_path)
    assert found.digest
    for name, read in {"images/good-1.png": found.read, "labels/good-1.png": found.read_labels}.items():
        read(1)
        content = (tmp_path / name).read_bytes()
        if how == "gone":
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(
                (tmp_path / name).with_name("good-0.png").read_bytes() if how == "other" else b""
            )
        with pytest.raises(DataError, match=r"good-1\.png") as told:
            read(1)
        assert how != "other" or "was changed since the run was planned" in str(told.value)
        (tmp_path / name).write_bytes(content)
        read(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHANGES))
def test_everything_that_can_change_while_a_run_goes_on(tmp_path: Path, name: str) -> None:
    require([changed_files(tmp_path / "x", name)])


def test_damage_to_what_is_stored(tmp_path: Path) -> None:
    rows = list(damaged_results(tmp_path, times=1, seed=7))
    require(rows)
    assert len(rows) == len(DAMAGES)


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
