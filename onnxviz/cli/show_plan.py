"""Shows what a run would do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxviz.cli.show import make_table, number, safe
from onnxviz.core.errors import beginning, shorten
from onnxviz.core.memory import show_bytes
from onnxviz.execution.estimate import Work
from onnxviz.execution.schedule import CHOICE, PlannedJob, left_out
from onnxviz.progress import duration, span
from onnxviz.recipe.recipe import Recipe

_FEW = 30
"""Up to so many jobs, each has its row."""
_FIRST = 3
"""Rows of an analysis where there are more."""


def show_plan(console: Console, work: Work, recipe: Recipe, folder: Path) -> None:
    """Show the jobs with images, passes, time and space, what is done, and what the rest will take."""
    table = make_table("job", ">images", ">passes", ">time", ">stored", "", title=recipe.title)
    schedule = work.schedule
    few = len(schedule.jobs) <= _FEW
    for alias in schedule.aliases:
        start = f"{shorten(alias, 40)}: " if recipe.compares else ""
        if (choice := schedule.choices.get(alias)) is not None:
            name, done = f"{start}{CHOICE}, on {shorten(choice.data, 40)}", choice.key in work.cached
            _row(table, name, choice.images, choice.cost, work.job_seconds.get(choice.key), 0, done)
        if (check := schedule.parity_checks.get(alias)) is not None:
            count = len(check.layers)
            name = f"{start}agreement of {count} layer{'' if count == 1 else 's'} with ONNX Runtime"
            _row(table, name, 0, check.cost, work.job_seconds.get(check.key), 0, check.key in work.cached)
        for analysis in recipe.analyses:
            found = [job for job in schedule.jobs if job.alias == alias and job.analysis == analysis]
            shown = found if few or len(found) <= _FIRST + 1 else found[:_FIRST]
            for job in shown:
                _row(
                    table, f"{start}{shorten(job.name, 70)}", job.job.images, job.job.cost,
                    work.job_seconds.get(job.key), job.job.bytes, job.key in work.cached,
                )  # fmt: skip
            if len(shown) < len(found):
                _rest(table, f"{start}{shorten(analysis, 40)}", found[len(shown) :], work)
    console.print(table)
    for remark in schedule.remarks:
        console.print(Text(beginning(remark, 2000), style="yellow"), soft_wrap=True)
    for line in (*_sums(work, folder), *left_out(schedule.data)):
        console.print(Text(safe(line)), soft_wrap=True)


def _row(table: Table, name: str, images: int, cost: float, seconds: float | None, size: int, done: bool) -> None:
    table.add_row(
        Text(name),
        number(images),
        f"{cost:,.1f}" if 0 < cost < 1 else number(cost),
        "" if done or seconds is None else duration(seconds),
        show_bytes(size) if size else "",
        "done" if done else "",
    )


def _rest(table: Table, start: str, jobs: Sequence[PlannedJob], work: Work) -> None:
    """Add one row for many jobs."""
    times = [work.job_seconds[job.key] for job in jobs if job.key in work.job_seconds]
    size = sum(job.job.bytes for job in jobs)
    done = sum(job.key in work.cached for job in jobs)
    table.add_row(
        Text(f"{start}: and {len(jobs):,} more", style="dim"),
        number(sum(job.job.images for job in jobs)),
        number(sum(job.job.cost for job in jobs)),
        duration(sum(times)) if times else "",
        show_bytes(size) if size else "",
        "done" if done == len(jobs) else f"{done:,} done" if done else "",
    )


def _sums(work: Work, folder: Path) -> list[str]:
    schedule = work.schedule
    to_do = [job for job in schedule.jobs if job.key not in work.cached]
    passes = schedule.cost(work.cached)
    count = len(schedule.jobs)
    lines = [
        f"{count:,} job{'s' * (count != 1)}, {count - len(to_do):,} done before; about {passes:,.0f} forward passes "
        f"to do on {schedule.device}"
    ]
    if not passes:
        return lines
    images = sum(job.job.images for job in to_do)
    size = f"about {show_bytes(work.bytes)} to store, {images:,} image{'s' * (images != 1)} to read or make"
    if work.seconds is None:
        lines.append(f"time not known; {size}")
    else:
        who = f" with {work.workers} workers" if work.workers > 1 else ""
        alone = " if nothing else ran" if work.crowded else ""
        lines.append(f"{span(*work.seconds)}{who}{alone}; {size}")
    lines += [f"  {sentence}" for sentence in work.basis[:8]]
    if len(work.basis) > 8:
        lines.append(f"  and {len(work.basis) - 8} more models or analyses")
    with contextlib.suppress(OSError, StopIteration):
        free = shutil.disk_usage(next(place for place in (folder, *folder.absolute().parents) if place.exists())).free
        if work.bytes > free:
            lines.append(f"NOT ENOUGH ROOM: {show_bytes(free)} are free for {shorten(str(folder), 200)}")
    return lines
