"""How the command line says things: tables and messages in which names from models cannot do anything."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxviz.core.errors import OnnxvizError, RecipeError, beginning, shorten
from onnxviz.core.wording import counted, listed

if TYPE_CHECKING:
    from onnxviz.core.results import ExpectationResult, Provenance, RunResult

_PIPE_WIDTH = 160
"""Columns where there is no terminal: tables are not folded into a width that nobody has."""
_VERDICTS = {
    "passed": ("all expectations hold", "bold green"),
    "finished": ("finished; nothing was tested", "bold"),
    "failed": ("an expectation does not hold", "bold red"),
    "incomplete": ("some jobs failed", "bold red"),
}


def consoles() -> tuple[Console, Console]:
    """Return the consoles of standard output and error."""
    made = (Console(highlight=False, markup=False), Console(highlight=False, markup=False, stderr=True))
    for console in made:
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = _PIPE_WIDTH
    return made


def safe(text: str) -> str:
    """Escape control and direction characters, line ends excepted: a name cannot drive the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text
    )


def show_error(console: Console, error: OnnxvizError) -> None:
    """Say what is wrong, where, and what to do."""
    if isinstance(error, RecipeError):
        for fault in error.faults:
            head, *rest = safe(str(fault)).split("\n")
            show_lines(console, [head], "red")
            show_lines(console, rest, "dim")
        show_lines(console, [f"{counted(len(error.faults), 'fault')}; nothing ran"], "bold")
        return
    console.print(Text.assemble(("error: ", "bold red"), safe(str(error))), soft_wrap=True)


def show_result(console: Console, result: RunResult) -> None:
    """Show the failed jobs, the expectations and the verdict."""
    failed_jobs(console, result)
    show_expectations(console, result)
    text, style = _VERDICTS[result.verdict]
    if result.verdict == "passed" and (warned := sum(not item.holds for item in result.tested)):
        text, style = f"no expectation fails, {warned} warn{'s' * (warned == 1)}", "bold yellow"
    if result.verdict == "finished" and result.expectations:
        text = "finished; nothing was tested, because all expectations are of level off"
    console.print(Text(text, style=style))


def failed_jobs(console: Console, result: RunResult) -> None:
    """Show the jobs that failed, each error once."""
    jobs: dict[str, list[str]] = {}
    for analysis in result.analyses:
        for part in analysis.parts:
            for job in part.failed:
                jobs.setdefault(job.error, []).append(f"{analysis.id}/{job.job}")
    for error, names in jobs.items():
        console.print(Text(beginning(f"failed  {listed(names, 1)}: {error}", 2000), style="red"), soft_wrap=True)


def show_expectations(console: Console, result: RunResult, *, broken_only: bool = False) -> None:
    """Show the expectations with what came out; with `broken_only` those that make the run fail."""
    several = len(result.models) > 1
    for item in result.expectations:
        if not broken_only or item.broken:
            console.print(_expectation(item, several), soft_wrap=True)


def show_confinement(console: Console, provenance: Provenance) -> None:
    """Show who did the jobs, what they were limited to, and what kept them from the rest of the machine."""
    limits = ", ".join(f"{name}: {value}" for name, value in provenance.limits)
    show_lines(console, [f"{provenance.engine}{'; ' if limits else ''}{limits}"])
    for defence in provenance.defences:
        state = f"kept by {defence.how}" if defence.active else f"NOT kept: {defence.reason}"
        show_lines(console, [f"  {defence.name}: {state}"])


def show_lines(console: Console, lines: Iterable[str], style: str = "") -> None:
    """Print lines of text as they are."""
    for line in lines:
        console.print(Text(safe(line), style=style), soft_wrap=True)


def _expectation(item: ExpectationResult, several: bool) -> Text:
    state, style = state_of(item)
    value = "none" if item.value is None else f"{item.value:.4g}"
    start = f"{item.model}: " if several and ":" not in item.metric else ""
    line = Text.assemble(
        (f"{state:<6}", style), f"  {beginning(f'{start}{item.metric} = {value}, expected {item.condition}', 1000)}"
    )
    if item.because and not item.holds:
        line.append(f"  ({beginning(item.because, 2000)})", style="dim")
    return line


def state_of(item: ExpectationResult) -> tuple[str, str]:
    """Return what became of an expectation, and its style."""
    if item.holds:
        return "holds", "green"
    return {"error": ("BROKEN", "red"), "warn": ("warn", "yellow"), "off": ("off", "dim")}[item.level]


def make_table(*columns: str, title: str = "") -> Table:
    """Return an empty table; columns are named, with ">" in front where they stand on the right."""
    table = Table(box=box.SIMPLE_HEAD, title=Text(shorten(title, 100)) if title else None, title_justify="left")
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def show_rows(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[tuple[Sequence[str], str]],
    *,
    names: int,
    spare: Sequence[str] = (),
) -> None:
    """Show a table; where it is wider than the console, each row's names get a line of their own, so that none folds.

    Args:
        console: where to.
        columns: as `make_table` has them.
        rows: the cells of each, and its style.
        names: how many of the first columns say what a row is about.
        spare: columns that are left out where there is no room for them, in this order.
    """
    heads = [name.lstrip(">") for name in columns]
    widths = [max(map(cell_len, cells)) for cells in zip(heads, *(cells for cells, _ in rows), strict=True)]
    if sum(widths) + 3 * len(widths) + 1 <= console.width:
        table = make_table(*columns)
        for cells, style in rows:
            table.add_row(*(Text(cell) for cell in cells), style=style)
        console.print(table)
        return
    shown = list(range(names, len(columns)))
    left = []
    for name in spare:
        if sum(2 + widths[index] for index in shown) <= console.width:
            break
        left += [name] * (name in heads)
        shown = [index for index in shown if heads[index] != name]
    for cells, style in (heads, "bold"), *rows:
        console.print(Text("  ".join(cell for cell in cells[:names] if cell), style=style), soft_wrap=True)
        line = ""
        for index in shown:
            space = " " * (widths[index] - cell_len(cells[index]))
            line += f"  {space}{cells[index]}" if columns[index].startswith(">") else f"  {cells[index]}{space}"
        console.print(Text(line.rstrip(), style=style), soft_wrap=True)
    if left:
        console.print(f"left out for want of width: {', '.join(left)}", soft_wrap=True)


def show_fact(console: Console, name: str, value: str, style: str = "bold", width: int = 14) -> None:
    """Show a line with its name in front."""
    console.print(Text.assemble((f"{name:<{width}}", style), value), soft_wrap=True)


def number(value: float) -> str:
    """Write a number with thousands apart, nothing for 0."""
    return f"{value:,.0f}" if value else ""


def show_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show a table of text."""
    table = make_table(*columns)
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console.print(table)
