"""What is said of a run while it goes on: counts that add up, a time left that is right, and no cost to speak of."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from onnxviz.analyses.base import Job
from onnxviz.execution.observer import Observer
from onnxviz.execution.plan import ParityCheck, PlannedJob
from onnxviz.execution.schedule import Schedule
from onnxviz.progress import EventStream, PlainProgress, Progression, TerminalProgress, span


def schedule(count: int, cost: float = 1.0, *, check: bool = False) -> Schedule:
    """A schedule of jobs "a/0", "a/1", ..."""
    jobs = tuple(PlannedJob(f"{n:032x}", "m", "a", Job(str(n), cost=cost)) for n in range(count))
    parity_checks = {"m": ParityCheck("f" * 32, "m", ("x",), None)} if check else {}
    return Schedule((), (), jobs, parity_checks, "cpu", {})


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain(**options: Any) -> tuple[PlainProgress, io.StringIO]:
    stream = io.StringIO()
    return PlainProgress(Console(file=stream, width=200), **options), stream


def do(observer: Observer, number: int, seconds: float = 0.001, status: str = "done", error: str = "") -> None:
    observer.started(f"a/{number}", 1.0)
    observer.finished(f"a/{number}", 1.0, seconds, status, error)


# --- time left --------------------------------------------------------------------------------------------------------


def middle(left: tuple[float, float] | None) -> float:
    assert left is not None
    assert left[0] < left[1]
    return math.sqrt(left[0] * left[1])


@pytest.mark.parametrize("workers", [1, 4])
def test_the_time_left_is_right_with_several_workers_at_a_time(workers: int) -> None:
    clock = Clock()
    progression = Progression(clock)
    progression.plan(schedule(40, cost=10.0), set())
    assert progression.left() is None
    # Each job takes 2 seconds, so 40 of them take 80 seconds of one worker.
    for first in range(0, 20, workers):
        for number in range(first, first + workers):
            progression.start(f"a/{number}", 10.0)
        clock.now += 2.0
        for number in range(first, first + workers):
            progression.end(f"a/{number}", 10.0, "done")
    assert middle(progression.left()) == pytest.approx(40.0 / workers)
    for number in range(20, 20 + workers):
        progression.start(f"a/{number}", 10.0)
        progression.step(f"a/{number}", 5, 10, "halfway")
    clock.now += 1.0
    assert middle(progression.left()) == pytest.approx(40.0 / workers - 1.0)
    assert progression.part == pytest.approx((20 + workers / 2) / 40)


def test_a_failed_job_is_no_work_done_and_none_that_is_left() -> None:
    clock = Clock()
    progression = Progression(clock)
    progression.plan(schedule(4), set())
    for number, status in enumerate(("done", "failed")):
        progression.start(f"a/{number}", 1.0)
        clock.now += 3.0
        progression.end(f"a/{number}", 1.0, status)
    assert middle(progression.left()) == pytest.approx(2 * 3.0)  # 3 seconds for the one that was done


def test_the_parity_check_says_nothing_of_the_time_that_is_left() -> None:
    clock = Clock()
    progression = Progression(clock)
    progression.plan(schedule(4, check=True), set())
    progression.start("agreement with ONNX Runtime", 4.0)
    clock.now += 60.0  # the model was loaded meanwhile
    progression.end("agreement with ONNX Runtime", 4.0, "done")
    assert progression.left() is None
    progression.start("a/0", 1.0)
    clock.now += 1.0
    progression.end("a/0", 1.0, "done")
    assert middle(progression.left()) == pytest.approx(3.0)
    assert (progression.ended, progression.jobs) == (2, 5)


def audit() -> Schedule:
    """Analyses whose passes take very different times, as in an audit: kernels first, which need almost none."""
    costs = {"filters": [0.1, 1.0], "classes": [482.0] * 3, "evidence": [7.0] * 3, "concepts": [117.0]}
    jobs = [
        PlannedJob(f"{name}/{n}", "m", name, Job(str(n), cost=cost))
        for name, found in costs.items()
        for n, cost in enumerate(found)
    ]
    return Schedule((), (), tuple(jobs), {}, "cpu", {})


def test_nothing_is_said_of_the_time_before_there_is_evidence() -> None:
    clock = Clock()
    progression = Progression(clock)
    progression.plan(audit(), set())
    for number, cost in enumerate((0.1, 1.0)):  # a second for a tenth of a pass: at that rate all would take 4 hours
        progression.start(f"filters/{number}", cost)
        clock.now += 1.0
        progression.end(f"filters/{number}", cost, "done")
        assert progression.left() is None
    progression.start("classes/0", 482.0)
    clock.now += 20.0  # the model is made ready
    assert progression.left() is None
    progression.step("classes/0", 1, 160, "")
    clock.now += 0.1
    assert progression.left() is None
    for step in range(2, 34):
        clock.now += 0.1
        progression.step("classes/0", step, 160, "")
    left = progression.left()
    assert left is not None
    # 16 seconds for each picture; what the other analyses take is not known, so three times as much is possible.
    rest = 3 * 16.0 - 3.3 + (3 * 7 + 117) / 482 * 16.0
    assert left[0] < rest < left[1] < 3 * rest
    clock.now += 0.1 * 127
    progression.step("classes/0", 160, 160, "")
    progression.end("classes/0", 482.0, "done")
    assert progression.left() is not None


def test_a_running_job_is_judged_by_its_steps_not_by_its_start() -> None:
    clock = Clock()
    progression = Progression(clock)
    progression.plan(schedule(1, cost=100.0), set())
    progression.start("a/0", 100.0)
    clock.now += 600.0
    for step in range(1, 51):
        clock.now += 1.0
        progression.step("a/0", step, 100, "")
    assert middle(progression.left()) == pytest.approx(50.0, rel=0.05)


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (0.2, 0.4, "about 1 s"), (3.2, 7.9, "3 to 8 s"), (41, 58, "40 to 60 s"), (50, 130, "50 s to 2 min"),
        (150, 420, "2 to 7 min"), (182, 185, "about 3 min"), (3000, 8000, "50 min to 2.2 h"),
        (90_000, 9e5, "25 to 250 h"),
    ],
)  # fmt: skip
def test_a_time_between_bounds_is_no_more_exact_than_it_is_known(least: float, most: float, said: str) -> None:
    assert span(least, most) == said


# --- lines ------------------------------------------------------------------------------------------------------------


def test_few_jobs_have_a_line_each_and_those_done_before_one_together() -> None:
    observer, stream = plain()
    work = schedule(20)
    with observer:
        observer.planned(work, {job.key for job in work.jobs[:13]})
        for job in work.jobs[:13]:
            observer.finished(job.name, 1.0, 0.0, "cached")
        for number in range(13, 20):
            do(observer, number)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["20 jobs on cpu", "[13/20] 13 jobs were done before"]
    assert lines[2] == "[14/20] done   a/13  0.0 s"
    assert len(lines) == 9


def test_short_jobs_are_summed_up_and_the_counts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(Progression.__init__, "__defaults__", (clock,))
    observer, stream = plain()
    with observer:
        observer.planned(schedule(1000), set())
        for number in range(1000):
            clock.now += 0.01
            if number == 500:
                do(observer, number, 1.5)
            elif number in (7, 600):
                do(observer, number, 0.001, "failed", "it [bold]broke[/bold]\x1b[2J")
            else:
                do(observer, number)
    said = stream.getvalue()
    assert "\x1b" not in said
    assert said.count("FAILED a/7 ") == said.count("FAILED a/600 ") == 1
    assert said.count("it [bold]broke[/bold]\\x1b[2J") == said.count("as a/7") == 1
    assert said.count("done   a/500  1.5 s") == 1
    sums = [line.split("done   ")[1] for line in said.splitlines() if " jobs in " in line]
    assert sum(int(text.split()[0]) for text in sums) == 1000 - 3
    assert sums[0] == "199 jobs in 2.0 s"
    assert len(sums) == 5  # every 2 seconds


def test_jobs_that_were_not_begun_are_said() -> None:
    observer, stream = plain()
    with observer:
        observer.planned(schedule(5), set())
        do(observer, 0, status="failed", error="no")
    assert "4 jobs were not begun, because another failed" in stream.getvalue()


def test_verbose_says_when_a_job_begins() -> None:
    observer, stream = plain(verbose=True)
    with observer:
        observer.planned(schedule(100), set())
        for number in range(100):
            do(observer, number)
    assert stream.getvalue().count(" begins\n") == stream.getvalue().count("done   a/") == 100


def observers() -> dict[str, Callable[[], Any]]:
    return {
        "plain": lambda: plain()[0],
        "terminal": lambda: TerminalProgress(Console(file=io.StringIO(), force_terminal=True, width=100)),
        "events": lambda: EventStream(lambda: Path(os.devnull).open("w")),
    }


@pytest.mark.parametrize("kind", observers())
def test_ten_thousand_tiny_jobs_cost_well_under_a_tenth_of_a_millisecond_each(kind: str) -> None:
    observer = observers()[kind]()
    work = schedule(10_000)
    begun = time.process_time()
    with observer if hasattr(observer, "__enter__") else contextlib.nullcontext():
        observer.planned(work, set())
        for job in work.jobs:
            observer.started(job.name, 1.0)
            observer.progressed(job.name, 1, 1)
            observer.finished(job.name, 1.0, 0.0001, "done")
    assert time.process_time() - begun < 10_000 * 1e-4


# --- terminal ---------------------------------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar_for_each_of_four_jobs_and_counts_the_others() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)
    observer = TerminalProgress(console)
    observer.planned(schedule(40), set())
    for number in range(6):
        observer.started(f"a/{number}", 1.0)
        observer.progressed(f"a/{number}", number, 10, f"step \x1b[2J{number}")
    console.print(observer._render())
    said = stream.getvalue()
    assert "0/40" in said
    assert "3/10" in said
    assert "step \\x1b[2J3" in said
    assert "\x1b[2J" not in said
    assert "a/4" not in said
    assert "and 2 more" in said


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_bars_fit_into_a_terminal(width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    observer = TerminalProgress(console)
    observer.planned(schedule(4000), set())
    for number in range(1000):
        observer.started(f"a/{number}", 1.0)
        observer.finished(f"a/{number}", 1.0, 0.0, "done")
    observer.started("a/1000", 1.0)
    observer.progressed("a/1000", 5, 160, "a long note " * 20)
    stream.truncate(0)
    console.print(observer._render())
    lines = stream.getvalue().lstrip("\0").splitlines()
    assert len(lines) == 2
    assert width < 40 or ("1000/4000" in lines[0] and "left" in lines[0] and "5/160" in lines[1])
    assert max(map(len, lines)) <= width


# --- events -----------------------------------------------------------------------------------------------------------


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_events_are_those_of_the_document() -> None:
    stream, clock = io.StringIO(), Clock()
    events = EventStream(lambda: stream, clock=clock)
    work = schedule(3, check=True)
    events.planned(work, {work.jobs[0].key})
    events.finished("a/0", 1.0, 0.0, "cached")
    events.started("a/1", 1.0)
    for step in range(100):
        clock.now += 0.0625
        events.progressed("a/1", step, 100, "n\x1b\u202e\n")
    events.finished("a/1", 1.0, 6.25, "done")
    events.message("text")
    events.ended("interrupted", 130)
    told = read(stream)
    document = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    for event in told:
        section = document.split(f"## `{event['event']}`")[1].split("\n## ")[0]
        for name in set(event) - {"event", "time"}:
            assert f"`{name}`" in section, (event["event"], name)
    assert told[0] == {
        "event": "planned", "time": 100.0, "format": 1, "device": "cpu", "models": [], "jobs": 3, "parity_checks": 1,
        "cached": 1, "cost": 6.0,
    }  # fmt: skip
    progress = [event for event in told if event["event"] == "progress"]
    assert len(progress) == 13  # in 6.25 seconds
    assert progress[0]["note"] == "n\x1b\u202e\n"
    assert stream.getvalue().isascii()
    assert told[-1] == {
        "event": "verdict", "time": 106.25, "verdict": "interrupted", "exit_code": 130, "seconds": 6.25, "error": "",
    }  # fmt: skip


def test_a_reader_that_goes_away_ends_the_events_only() -> None:
    receiving, sending = os.pipe()
    events = EventStream(lambda: os.fdopen(sending, "w"))
    events.message("one")
    assert b"one" in os.read(receiving, 1000)
    os.close(receiving)
    events.message("two")
    events.message("three")
    events.close()
    assert events.broken
    assert events.fault == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said() -> None:
    events = EventStream(lambda: Path("/dev/full").open("w"))  # noqa: SIM115
    events.message("one")
    events.close()
    assert events.broken
    assert "space" in events.fault


def test_an_error_is_told_once_and_later_by_the_job_that_had_it_first() -> None:
    observer, stream = plain()
    observer.planned(schedule(4), set())
    for number, error in enumerate(("too large", "too large", "broken", "too large")):
        do(observer, number, status="failed", error=error)
    said = stream.getvalue()
    assert said.count("too large") == 1
    assert said.count("broken") == 1
    assert said.count("as a/0") == 2
    assert all(f"a/{number}" in said for number in range(4))
