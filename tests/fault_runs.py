"""Runs that something happens to: killing their processes at chosen moments, and comparing what is left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from worker_runs import PATIENCE, command, install, results_of

Victim = Literal["worker", "workers", "parent", "both"]


@dataclass
class Row:
    """One line of the table.

    Attributes:
        fault: what happened.
        runs: how often.
        lost: results that were missing when the fault was gone and the same command had been run again.
        wrong: results that differ from those of an undisturbed run.
        named: how often something was to be said of the cause, and was.
        owed: how often something was to be said of it.
        remarks: what else is worth telling, with counts.
        faults: what must not have happened, in words.
    """

    fault: str
    runs: int = 0
    lost: int = 0
    wrong: int = 0
    named: int = 0
    owed: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def expect_named(self, text: str, said: str, what: str = "") -> None:
        """Count whether a cause is in what was said."""
        self.owed += 1
        if text in said:
            self.named += 1
        else:
            self.faults.append(f"{what or self.fault}: {text!r} is not said: {said.strip()[-600:]!r}")

    def expect(self, condition: bool, what: str) -> None:
        """Note what must not have happened."""
        if not condition:
            self.faults.append(f"{self.fault}: {what}")

    def compare(self, folder: Path, reference: Path, what: str = "", also: Path | None = None) -> None:
        """Count what is missing and what differs from an undisturbed run; results of `also` may lie there too."""
        lost, wrong = differences(folder, reference, also)
        self.lost += len(lost)
        self.wrong += len(wrong)
        self.faults += [f"{what or self.fault}: lost {name}" for name in lost]
        self.faults += [f"{what or self.fault}: wrong {name}" for name in wrong]

    def compare_found(self, folder: Path, reference: Path) -> None:
        """Count what differs in run.json and in the tables; arrays are copied as they lie there, and only remarked."""
        wrong = {name for name in differences(folder, reference)[1] if not name.startswith("jobs/")}
        arrays = {name for name in wrong if name.startswith("arrays/")}
        self.remarks["array copied with the flipped bit"] += len(arrays)
        wrong -= arrays
        self.wrong += len(wrong)
        self.faults += [f"{self.fault}: wrong {name}" for name in sorted(wrong)]


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        said: what it wrote on both streams, lines joined where it wraps them.
        seconds: by the clock.
    """

    code: int
    said: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Kill:
    """Something to be killed.

    Attributes:
        victim: what.
        results: not before so many results are there.
        delay: seconds after that.
    """

    victim: Victim
    results: int
    delay: float


class Begun:
    """A run that goes on; what it says goes to a file, so that it never waits for a reader.

    Args:
        recipe: what to run.
        out: its folder.
        workers: how many.
        options: of the command line.
        more: of the process.
    """

    def __init__(self, recipe: Path, out: Path, workers: int, *options: str, **more: Any) -> None:
        self.clock = time.monotonic()
        self._said = tempfile.TemporaryFile("w+", errors="backslashreplace")  # noqa: SIM115 - closed by `ended`
        environment = {**install(recipe.parent), "ONNXVIZ_WORKERS": str(workers), "COLUMNS": "2000"}
        self.process = subprocess.Popen(
            command(recipe, out, *options), env=environment, stdout=self._said, stderr=subprocess.STDOUT, **more
        )
        self.peak = 0

    def goes_on(self) -> bool:
        """Whether it has neither ended nor hangs; notes the memory that it takes, in bytes."""
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            self.peak = max([self.peak, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))])
        return self.process.poll() is None and time.monotonic() - self.clock < PATIENCE

    def ended(self) -> Ended:
        """Wait until it has ended."""
        hangs = ""
        try:
            self.process.wait(max(1.0, self.clock + PATIENCE - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            hangs = f"\nHANGS for {PATIENCE:g} s"
        with self._said:
            self._said.seek(0)
            return Ended(self.process.returncode, self._said.read() + hangs, time.monotonic() - self.clock)


def run(recipe: Path, out: Path, workers: int = 1, *options: str, **more: Any) -> Ended:
    """Run a recipe to its end."""
    return Begun(recipe, out, workers, *options, **more).ended()


def check(row: Row, done: Ended, codes: Sequence[int]) -> None:
    """Note a wrong exit code, a traceback, or a hang."""
    row.expect(done.code in codes, f"exit code {done.code}: {done.said.strip()[-800:]}")
    row.expect("Traceback" not in done.said and "has a fault" not in done.said, f"a traceback: {done.said[-2000:]}")
    row.expect("HANGS" not in done.said, "hangs")


# --- what is left -----------------------------------------------------------------------------------------------------


def differences(folder: Path, reference: Path, also: Path | None = None) -> tuple[list[str], list[str]]:
    """Return what a run folder lacks of an undisturbed run's, and what is different there.

    What was put together while a job was missing lies beside the rest under a key of its own, which is no difference.
    """
    found, wanted = results_of(folder), results_of(reference)
    lost = sorted(wanted.keys() - found.keys())
    wrong = [name for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    other = {} if also is None else results_of(also)
    for name in found.keys() - wanted.keys():
        if name.startswith("jobs/.tmp-") or (name.startswith("jobs/") and found[name] == other.get(name)):
            continue
        job = name.startswith("jobs/") and json.loads(
            (folder / name).parent.joinpath("findings.jsonl").open().readline()
        )
        if not job or "combined" not in job["about"]:
            wrong.append(f"{name}, which should not be there")
    mine, theirs = found_in(folder), found_in(reference)
    lost += sorted(theirs.keys() - mine.keys())
    wrong += [name for name in theirs.keys() & mine.keys() if mine[name] != theirs[name]]
    return lost, sorted(wrong)


def found_in(folder: Path) -> dict[str, Any]:
    """Return what run.json says was found, without what depends on when and how."""
    data = json.loads((folder / "run.json").read_text())
    found = {f"models in run.json of {folder.name}": None} if not data["models"] else {}
    for analysis in data["analyses"]:
        for part in analysis["parts"]:
            what = {name: part[name] for name in ("findings", "metrics", "failed", "jobs")}
            found[f"run.json: {analysis['id']} of {part['model']}"] = json.dumps(what, sort_keys=True)
    found["run.json: expectations"] = json.dumps(data["expectations"], sort_keys=True)
    found["run.json: agreement"] = json.dumps([model["agreement"] for model in data["models"]], sort_keys=True)
    return found


def told(folder: Path) -> str:
    """Return what the report says went wrong: the events, the failed jobs, and what was left out of the data."""
    data = json.loads((folder / "run.json").read_text())
    failed = [job for analysis in data["analyses"] for part in analysis["parts"] for job in part["failed"]]
    sets = [[card["skipped"], card["notes"]] for card in data["data"]]
    return json.dumps([data["provenance"]["events"], failed, sets], ensure_ascii=False)


def failed_jobs(folder: Path) -> list[str]:
    """Return the errors of the failed jobs."""
    data = json.loads((folder / "run.json").read_text())
    return [job["error"] for item in data["analyses"] for part in item["parts"] for job in part["failed"]]


def leftovers(folder: Path) -> list[str]:
    """Return temporary files that a finished run has left."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return [name for name in names if re.search(r"(^|/)\.tmp-|\.tmp$", name)]


def results_there(folder: Path) -> int:
    """Return how many results there are."""
    with contextlib.suppress(OSError):
        return sum(not path.name.startswith(".") for path in (folder / "jobs").iterdir())
    return 0


# --- who is there -----------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait until something is so; False if it has not become so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


# --- killing ----------------------------------------------------------------------------------------------------------


@dataclass
class Killed:
    """What came of the kills of one attempt.

    Attributes:
        ended: how the attempt ended.
        workers: when workers were killed, as times of files are.
        parent: whether the parent was.
        seen: all workers.
    """

    ended: Ended
    workers: list[float] = field(default_factory=list)
    parent: bool = False
    seen: set[int] = field(default_factory=set)


def disturbed(recipe: Path, out: Path, workers: int, kills: list[Kill], chance: random.Random) -> Killed:
    """Run a recipe and kill what is to be killed; kills that were carried out are taken from the list."""
    begun, killed = Begun(recipe, out, workers), Killed(Ended(0, ""))
    pid, due = begun.process.pid, None
    while begun.goes_on():
        killed.seen |= set(now := children(pid))
        if kills and not killed.parent:
            if due is None and results_there(out) >= kills[0].results and now:
                due = time.monotonic() + kills[0].delay
            if due is not None and time.monotonic() >= due:
                _kill(pid, now, kills.pop(0).victim, killed, chance)
                due = None
        time.sleep(0.005)
    killed.ended = begun.ended()
    return killed


def _kill(parent: int, workers: Sequence[int], victim: Victim, killed: Killed, chance: random.Random) -> None:
    """Send SIGKILL; of several workers one, unless all are meant."""
    victims: list[int] = []
    if victim != "parent" and workers:
        victims = list(workers) if victim in ("workers", "both") else [chance.choice(list(workers))]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.workers.append(time.time())
    if victim in ("parent", "both"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent, signal.SIGKILL)
            killed.parent = True


def kill_and_finish(
    row: Row, recipe: Path, out: Path, reference: Path, workers: int, kills: Sequence[Kill], seed: int
) -> None:
    """Run a recipe with kills, again until it has finished, and compare it with an undisturbed run."""
    chance, left = random.Random(seed), list(kills)
    row.runs += 1
    seen: set[int] = set()
    label = f"run {seed}"
    for _ in range(len(kills) + 3):
        killed = disturbed(recipe, out, workers, left, chance)
        seen |= killed.seen
        row.remarks["workers killed"] += len(killed.workers)
        if killed.parent:
            row.remarks["parents killed"] += 1
            continue
        check(row, killed.ended, (0, 2, 3) if killed.workers else (0,))
        _must_be_named(row, killed, out, label)
        if killed.ended.code == 0:
            break
        row.remarks[f"exit code {killed.ended.code}, then run again"] += 1
        if killed.ended.code == 3:
            errors = failed_jobs(out)
            row.remarks["jobs whose worker was killed twice"] += len(errors)
            row.expect(all("killed" in error or "which it needs" in error for error in errors), f"{label}: {errors}")
    else:
        row.faults.append(f"{label}: never finished")
        row.lost += 1
        return
    row.expect(wait_for(lambda: not any(map(alive, seen))), f"{label}: a worker has survived")
    row.expect(not leftovers(out), f"{label}: {leftovers(out)} were left")
    row.compare(out, reference, label)


def _must_be_named(row: Row, killed: Killed, out: Path, label: str) -> None:
    """A killed worker is told of, unless everything was done before."""
    if not killed.workers:
        return
    first = killed.workers[0]
    with contextlib.suppress(OSError):
        times = [path.stat().st_mtime for path in (out / "jobs").iterdir()]
        if killed.ended.code == 0 and max(times, default=0.0) <= first:
            row.remarks["workers killed when all was done"] += 1
            return
    report = told(out) if (out / "run.json").exists() else ""
    row.expect_named("killed (signal 9)", killed.ended.said + report, label)


def drawn_kills(chance: random.Random, results: int, seconds: float) -> list[Kill]:
    """Draw what is killed, and when: at any moment of a run, start and end included, most while results are made.

    Args:
        chance: draws.
        results: how many an undisturbed run makes.
        seconds: what an undisturbed run takes.
    """
    victim = chance.choices(("worker", "workers", "parent", "both"), (4, 2, 3, 1))[0]
    kills = []
    for _ in range(chance.choices((1, 2, 3), (5, 3, 2))[0]):
        if chance.random() < 0.3:
            kills.append(Kill(victim, 0, chance.uniform(0, seconds)))
        else:
            kills.append(Kill(victim, chance.randrange(results + 1), chance.expovariate(1 / 0.05)))
        victim = chance.choices(("worker", "workers", "parent", "both"), (4, 2, 3, 1))[0]
    return sorted(kills, key=lambda kill: kill.results)


def table(rows: Sequence[Row]) -> str:
    """Return rows as a markdown table."""
    lines = ["| fault | runs | lost | wrong | cause named | remarks |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        remarks = "; ".join(f"{count} {what}" for what, count in row.remarks.items() if count)
        remarks += f"; {len(row.faults)} FAULTS" * bool(row.faults)
        named = f"{row.named} of {row.owed}"
        lines.append(f"| {row.fault} | {row.runs} | {row.lost} | {row.wrong} | {named} | {remarks.strip('; ')} |")
    return "\n".join(lines)


def row_data(row: Row) -> Mapping[str, Any]:
    """Return a row as JSON data."""
    return {**vars(row), "remarks": dict(row.remarks)}


def row_from(data: Mapping[str, Any]) -> Row:
    """Undo `row_data`."""
    return Row(**{**data, "remarks": Counter(data["remarks"])})
