"""Damage to what a run has stored: what is noticed when the same command is run again, and what comes out then."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_runs import Row

from onnxviz.core.errors import OnnxvizError
from onnxviz.execution.execute import run_file
from onnxviz.execution.observer import Observer
from onnxviz.execution.store import CHECKED, LOCK, RECORD

STORED = """\
version: 1
title: Stored
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 8}}
analyses:
  filters: {kind: weights, layers: first_conv}
  evidence: {kind: grad_cam, layers: last_conv, data: scenes, classes: "top:1", limit: 3}
"""
Damage = Callable[[Path, random.Random], bool]
"""Changes something in a run folder; tells whether the run must say so."""


class _Heard(Observer):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


def _files(folder: Path, pattern: str = "jobs/*/*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _flipped(folder: Path, chance: random.Random) -> bool:
    _flip(chance.choice(_files(folder)), chance)
    return True


def _flipped_unseen(folder: Path, chance: random.Random) -> bool:
    path = chance.choice(_files(folder))
    status = path.stat()
    _flip(path, chance)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True


def _truncated(folder: Path, chance: random.Random) -> bool:
    path = chance.choice(_files(folder))
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
    return True


def _zeroed(folder: Path, chance: random.Random) -> bool:
    path = chance.choice(_files(folder))
    path.write_bytes(bytes(path.stat().st_size))
    return True


def _grown(folder: Path, chance: random.Random) -> bool:
    path = chance.choice(_files(folder))
    path.write_bytes(path.read_bytes() + b"\n{}\n")
    return True


def _deleted(folder: Path, chance: random.Random) -> bool:
    chance.choice(_files(folder)).unlink()
    return True


def _removed(folder: Path, chance: random.Random) -> bool:
    shutil.rmtree(chance.choice(_files(folder)).parent)
    return False  # what is not there was not made yet


def _swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def _swapped(folder: Path, chance: random.Random) -> bool:
    _swap(*chance.sample(_files(folder, f"jobs/*/{RECORD}"), 2))
    return True


def _swapped_folders(folder: Path, chance: random.Random) -> bool:
    _swap(*chance.sample(sorted((folder / "jobs").iterdir()), 2))
    return True


def _swapped_pictures(folder: Path, chance: random.Random) -> bool:
    _swap(*chance.sample(_files(folder, "jobs/*/*.[jp][pn]g"), 2))
    return True


def _made_a_folder(folder: Path, chance: random.Random) -> bool:
    path = chance.choice(_files(folder))
    path.unlink()
    path.mkdir()
    return True


def _beside(*patterns: str) -> Damage:
    """Damage something that is written anew by every run."""

    def damage(folder: Path, chance: random.Random) -> bool:
        path = chance.choice([path for pattern in patterns for path in _files(folder, pattern)])
        chance.choice((_flip, lambda path, _: path.unlink(), lambda path, _: path.write_bytes(b"\0[{"), _half))(
            path, chance
        )
        return False

    return damage


def _half(path: Path, _: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _forged_notes(folder: Path, _: random.Random) -> bool:
    """Say that nothing is known of any result; and of some, what is no note at all."""
    names = [path.name for path in (folder / "jobs").iterdir()]
    (folder / CHECKED).write_text("{" + ", ".join(f'"{name}": [["{RECORD}", true, "x"]]' for name in names) + "}")
    return False


DAMAGES: dict[str, Damage] = {
    "a bit flipped": _flipped,
    "a bit flipped, size and time of change as before": _flipped_unseen,
    "truncated": _truncated,
    "zeroed": _zeroed,
    "something appended": _grown,
    "a file deleted": _deleted,
    "a result deleted": _removed,
    "the records of two jobs swapped": _swapped,
    "the folders of two jobs swapped": _swapped_folders,
    "two pictures swapped": _swapped_pictures,
    "a folder in place of a file": _made_a_folder,
    "run.json, tables, arrays damaged or deleted": _beside("run.json", "tables/*", "tables/.written.json", "arrays/*"),
    "notes on checked files, lock damaged or deleted": _beside(CHECKED, LOCK),
    "notes on checked files forged": _forged_notes,
}


def damaged_results(work: Path, times: int, seed: int, names: tuple[str, ...] = tuple(DAMAGES)) -> Iterator[Row]:
    """Damage results in every way, several times, and run the same command again."""
    work.mkdir(parents=True, exist_ok=True)
    recipe, calm = work / "stored.yaml", work / "calm"
    recipe.write_text(STORED)
    run_file(recipe, calm, workers=0)
    run_file(recipe, calm, workers=0)  # notes on what was checked are there, and whole
    for name in names:
        row = Row(f"stored results: {name}")
        for number in range(times):
            _damage(row, DAMAGES[name], recipe, calm, work / "damaged", random.Random(f"{seed}:{name}:{number}"))
        yield row


def _copied(calm: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(calm, folder)  # with the times of change
    assert (folder / CHECKED).exists()


def _damage(row: Row, damage: Damage, recipe: Path, calm: Path, folder: Path, chance: random.Random) -> None:
    _copied(calm, folder)
    told = damage(folder, chance)
    heard = _Heard()
    row.runs += 1
    try:
        done = run_file(recipe, folder, workers=0, observer=heard)
    except OnnxvizError as error:
        row.faults.append(f"{row.fault}: {error}")
        row.lost += 1
        return
    if told:
        row.expect_named("is made again", "\n".join(done.result.provenance.events))
        row.expect_named("is made again", "\n".join(heard.said))
    row.expect(done.result.verdict == "finished", done.result.verdict)
    row.compare(folder, calm)
