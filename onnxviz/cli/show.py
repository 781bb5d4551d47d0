"""How the command line says things: tables and messages in which names from models cannot do anything."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from onnxviz.errors import OnnxvizError, RecipeError, shorten
from onnxviz.plan import PROOF_COST, Plan
from onnxviz.results import ExpectationResult, RunResult

_PIPE_WIDTH = 160
"""Columns where there is no terminal: tables are not folded into a width that nobody has."""
_VERDICTS = {
    "passed": ("all expectations hold", "bold green"),
    "failed": ("an expectation does not hold", "bold red"),
    "incomplete": ("some jobs failed", "bold red"),
}


def consoles() -> tuple[Console, Console]:
    """Return the consoles of standard output and error; what their encoding lacks is replaced, not fatal."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
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
            console.print(Text(head, style="red"), soft_wrap=True)
            for line in rest:
                console.print(Text(line, style="dim"), soft_wrap=True)
        count = len(error.faults)
        console.print(Text(f"{count} fault{'s' if count != 1 else ''}; nothing ran", style="bold"), soft_wrap=True)
        return
    console.print(Text.assemble(("error: ", "bold red"), safe(str(error))), soft_wrap=True)


def show_plan(console: Console, plan: Plan, cached: set[str]) -> None:
    """Show the jobs with their images, estimated passes, and whether they are done."""
    table = make_table(("job", "left"), ("images", "right"), ("passes", "right"), ("", "left"), title=plan.recipe.title)
    for alias in plan.subjects:
        start = f"{alias}: " if plan.recipe.compares else ""
        if alias in plan.proofs:
            proof = plan.proofs[alias]
            name = f"{start}agreement of {len(proof.layers)} layers with ONNX Runtime"
            table.add_row(name, "", number(PROOF_COST), _kept(proof.key in cached))
        for job in plan.jobs:
            if job.alias == alias:
                shown = f"{start}{shorten(job.name, 70)}"
                images = str(job.job.images) if job.job.images else ""
                table.add_row(Text(shown), images, number(job.job.cost), _kept(job.key in cached))
    console.print(table)
    total = sum(job.job.cost for job in plan.jobs if job.key not in cached)
    done = sum(job.key in cached for job in plan.jobs)
    line = f"{len(plan.jobs)} jobs, {done} done before; about {number(total)} forward passes to do on {plan.device}"
    console.print(Text(line), soft_wrap=True)


def show_result(console: Console, result: RunResult) -> None:
    """Show the expectations and the verdict."""
    for analysis in result.analyses:
        for part in analysis.parts:
            for job in part.failed:
                text = f"failed  {analysis.id}/{job.job}: {job.error}"
                console.print(Text(shorten(text, 800), style="red"), soft_wrap=True)
    several = len(result.models) > 1
    for item in result.expectations:
        console.print(_expectation(item, several), soft_wrap=True)
    text, style = _VERDICTS[result.verdict]
    if result.verdict == "passed" and not result.expectations:
        text = "finished; the recipe expects nothing"
    console.print(Text(text, style=style))


def show_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines of text as they are."""
    for line in lines:
        console.print(Text(safe(line)), soft_wrap=True)


def _expectation(item: ExpectationResult, several: bool) -> Text:
    if item.holds:
        mark, style = "holds ", "green"
    else:
        mark, style = {"error": ("BROKEN", "red"), "warn": ("warn  ", "yellow"), "off": ("off   ", "dim")}[item.level]
    value = "none" if item.value is None else f"{item.value:.4g}"
    start = f"{item.model}: " if several and ":" not in item.metric else ""
    line = Text.assemble((mark, style), shorten(f"  {start}{item.metric} = {value}, expected {item.condition}", 300))
    if item.because and not item.holds:
        line.append(shorten(f"  ({item.because})", 300), style="dim")
    return line


def make_table(*columns: tuple[str, str], title: str = "") -> Table:
    """Return an empty table whose columns have a name and a side."""
    table = Table(box=box.SIMPLE_HEAD, title=Text(shorten(title, 100)) if title else None, title_justify="left")
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    return table


def number(value: float) -> str:
    """Write a number with thousands apart, nothing for 0."""
    return f"{value:,.0f}" if value else ""


def _kept(cached: bool) -> str:
    return "done" if cached else ""


def show_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show a table of text."""
    table = make_table(*((name, "left") for name in columns))
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console.print(table)
