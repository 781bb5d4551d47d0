"""A run as bars in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from onnxviz.core.errors import beginning, shorten
from onnxviz.execution.observer import Observer
from onnxviz.execution.schedule import Schedule
from onnxviz.progress.counting import Lines, Progression, Running, duration, span

_BARS = 4
"""Jobs with a bar of their own."""
_WIDE, _NARROW = 90, 56
"""Columns from which on everything has room, and from which on the bars do."""
_REDRAWN = 8
"""Times a second. What happens in between only counts, so that 10,000 tiny jobs are not slowed down by the screen."""


class TerminalProgress(Observer):
    """A bar for the whole run and one for each job that is running. A context manager: no bar is left at the end.

    Args:
        console: the terminal.
        verbose: a line for each job whatever its length.
        bars_only: no lines.
    """

    def __init__(self, console: Console, *, verbose: bool = False, bars_only: bool = False) -> None:
        self._console = console
        self._bars_only = bars_only
        self._progression = Progression()
        self._lines = Lines(self._progression, every_job=verbose)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=_REDRAWN, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progression.running.clear()
        self._live.stop()
        self._say(self._lines.close())
        if kind is None and (line := self._lines.never_begun()):
            self._say([line])

    def planned(self, schedule: Schedule, cached: set[str]) -> None:
        """Begin the bar of all jobs."""
        self._progression.plan(schedule, cached)
        self._lines.plan()

    def started(self, name: str, cost: float) -> None:
        """Begin the bar of a job."""
        self._progression.start(name, cost)
        self._say(self._lines.start())

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        """Move the job's bar."""
        self._progression.step(name, done, total, note)

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        """Say how a job ended, above the bars, or count it."""
        self._progression.end(name, cost, status)
        self._say(self._lines.end(name, seconds, status, error))

    def message(self, text: str) -> None:
        """Say something above the bars."""
        self._say([Text(beginning(text, 2000), style="yellow")])

    def _say(self, lines: Iterable[Text]) -> None:
        for line in lines:
            if not self._bars_only:
                self._console.print(line, soft_wrap=True)

    # --- drawing ----------------------------------------------------------------------------------------------------

    def _render(self) -> RenderableType:
        progression = self._progression
        if not progression.jobs:
            return Text("reading the recipe's models and data ...", style="dim")
        now, width = progression.clock(), self._console.width
        running = list(progression.running.values())
        rows = [self._whole(now), *(_row(job, now, max(10, width // 4)) for job in running[:_BARS])]
        # What matters least goes first where there is little room: the rate and the time spent, then the bar.
        shown = [0, 1, 2, 3, 4, 5] if width >= _WIDE else [0, 1, 2, 5] if width >= _NARROW else [0, 2, 5]
        table = Table.grid(padding=(0, 1))
        for column in shown:
            if column == 0:
                table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(8, width // 3))
            elif column == 1:
                table.add_column(width=max(8, min(28, width // 5)))
            else:
                table.add_column(no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(row[column] for column in shown))
        if len(running) <= _BARS:
            return table
        return Group(table, Text(f"  and {len(running) - _BARS} more", style="dim"))

    def _whole(self, now: float) -> list[RenderableType]:
        progression = self._progression
        spent, left = now - progression.begun, progression.left()
        made = progression.ended - progression.cached
        return [
            Text("jobs"),
            ProgressBar(total=1.0, completed=progression.part, pulse=False),
            Text(f"{progression.ended}/{progression.jobs}"),
            Text(f"{made / spent:.1f}/s" if made and spent > 0 else "", style="dim"),
            Text(duration(spent)),
            Text("" if left is None else f"{span(*left)} left", style="cyan"),
        ]


def _row(job: Running, now: float, longest: int) -> list[RenderableType]:
    known = job.total > 0
    return [
        Text(f"  {shorten(job.name, 100)}"),
        ProgressBar(total=float(job.total) if known else None, completed=float(job.done), pulse=not known),
        Text(f"{job.done}/{job.total}" if known else ""),
        Text(f"{job.rate(now):.1f}/s" if job.done else "", style="dim"),
        Text(duration(now - job.begun)),
        Text(shorten(job.note, longest), style="dim"),
    ]
