"""What happens to a run when something goes wrong: each row counts runs, lost and wrong results, and causes named.

    python -m benchmarks.faults --out FOLDER [--runs 100] [--seed 0] [--section kills --section disk ...] [--zoo FOLDER]

Sections that FOLDER has rows of are not done again; the kills go on where they were. A result is lost if it is missing
when the fault is gone and the same command has been run again; it is wrong if it is not what an undisturbed run found.
A cause counts as named if the report, or the message where nothing ran, says it. The disk is a small one that is
mounted, which only root may do; otherwise that row says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxviz.core.errors import shorten

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import fault_cases  # noqa: E402 - found in the tests' folder, since tests run a small version of each row
import stored_damage  # noqa: E402
from fault_runs import Row, drawn_kills, kill_and_finish, row_data, row_from, run, table  # noqa: E402

REAL_SHARE = 0.15
"""Part of the killed runs that do real analyses; the others do analyses that only draw numbers, so that more is tried
in the same time."""


@dataclass(frozen=True)
class Setting:
    """What a section is given.

    Attributes:
        work: folder for what is thrown away.
        out: folder for what is kept.
        runs: in how many runs something is killed; the others are in proportion.
        seed: of what is drawn.
    """

    work: Path
    out: Path
    runs: int
    seed: int


def kills(given: Setting) -> Iterator[Row]:
    """Kill workers, the parent or both at random moments."""
    work, out, runs, seed = given.work, given.out, given.runs, given.seed
    recipes = fault_cases.write_kill_recipes(work)
    references: dict[str, tuple[int, float]] = {}
    for name, recipe in recipes.items():
        done = run(recipe, work / f"calm-{name}")
        assert done.code == 0, done.said
        references[name] = len(list((work / f"calm-{name}/jobs").iterdir())), done.seconds
    rows = {name: Row(f"killed at random moments: {what}") for name, what in fault_cases.KILL_RECIPES.items()}
    journal = out / "kills.jsonl"
    before = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    for number in range(runs):
        chance = random.Random(f"{seed}:{number}")
        name = "real" if chance.random() < REAL_SHARE else "trial"
        workers = chance.choice((1, 2))
        results, seconds = references[name]
        plan = drawn_kills(chance, results, seconds)
        if number < len(before):
            one = row_from(before[number])
        else:
            one, folder = Row(f"run {number}, {workers} workers"), work / f"run-{number}"
            kill_and_finish(one, recipes[name], folder, work / f"calm-{name}", workers, plan, number)
            if one.faults:
                shutil.copytree(folder, out / f"kept-{number}", dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            with journal.open("a") as stream:
                stream.write(json.dumps(row_data(one)) + "\n")
        _add(rows[name], one)
        print(f"{number + 1} of {runs}: {name}, {workers} workers, {len(plan)} kills {one.faults or ''}", flush=True)
    yield from rows.values()


def _add(total: Row, one: Row) -> None:
    for name in ("runs", "lost", "wrong", "named", "owed"):
        setattr(total, name, getattr(total, name) + getattr(one, name))
    total.remarks += one.remarks
    total.faults += one.faults


def disk(given: Setting) -> Iterator[Row]:
    """Fill the disk, and bound the size of files."""
    recipe, calm = fault_cases.write_disk_recipe(given.work / "recipe")
    yield fault_cases.full_disk(given.work / "full", recipe, calm, levels=max(4, given.runs // 6))
    yield fault_cases.small_files(given.work / "small", recipe, calm, levels=max(3, given.runs // 12))


def memory(given: Setting) -> Iterator[Row]:
    """Give a real model too little memory."""
    yield from fault_cases.little_memory(given.work, _zoo())


def images(given: Setting) -> Iterator[Row]:
    """Give images that are not what they seem, and change files while a run reads them."""
    yield fault_cases.odd_images(given.work / "images")
    yield fault_cases.odd_masks(given.work / "masks")
    yield from fault_cases.late_masks(given.work / "late")
    for name in fault_cases.CHANGES:
        yield fault_cases.changed_files(given.work / f"changed-{name}", name)


def stored(given: Setting) -> Iterator[Row]:
    """Damage what is stored."""
    yield from stored_damage.damaged_results(given.work, times=max(2, given.runs // 5), seed=given.seed)


def models(given: Setting) -> Iterator[Row]:
    """Run models of an attacker."""
    for name, builds in fault_cases.hostile().items():
        every = max(1, round(100 / given.runs)) if given.runs < 100 else 1
        yield fault_cases.hostile_models(given.work / name, name, dict(list(builds.items())[::every]))


SECTIONS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "kills": kills, "disk": disk, "memory": memory, "images": images, "stored": stored, "models": models,
}  # fmt: skip


def _zoo() -> Path:
    return Path(os.environ.get("ONNXVIZ_ZOO", ROOT.parent / "shared"))


def main() -> None:
    """Do the sections that are not done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where rows are kept")
    parser.add_argument("--runs", type=int, default=100, help="runs in which something is killed; others in proportion")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--section", action="append", choices=SECTIONS, help="only this; may be repeated")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER", help="folder with zoo/onnx/*.onnx and data/")
    given = parser.parse_args()
    if given.zoo is not None:
        os.environ["ONNXVIZ_ZOO"] = str(given.zoo)
    out: Path = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in given.section or SECTIONS:
        kept, clock = out / f"{name}.json", time.monotonic()
        if kept.exists():
            rows += [row_from(row) for row in json.loads(kept.read_text())]
            continue
        with tempfile.TemporaryDirectory(prefix="onnxviz-faults-") as work:
            found = list(SECTIONS[name](Setting(Path(work), out, given.runs, given.seed)))
        kept.write_text(json.dumps([row_data(row) for row in found], indent=1))
        print(f"{name}: {time.monotonic() - clock:.0f} s\n{table(found)}\n", flush=True)
        rows += found
    print(f"\n{table(rows)}")
    for row in rows:
        for fault in row.faults:
            print(f"FAULT {shorten(fault, 1000)}")
    bad = any(row.lost or row.wrong or row.faults or row.named < row.owed for row in rows)
    raise SystemExit(int(bad))


if __name__ == "__main__":
    main()
