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
from onnxviz.inspection import Inspection
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
    table = _table(("job", "left"), ("images", "right"), ("passes", "right"), ("", "left"), title=plan.recipe.title)
    for alias in plan.subjects:
        start = f"{alias}: " if plan.recipe.compares else ""
        if alias in plan.proofs:
            proof = plan.proofs[alias]
            name = f"{start}agreement of {len(proof.layers)} layers with ONNX Runtime"
            table.add_row(name, "", _number(PROOF_COST), _kept(proof.key in cached))
        for job in plan.jobs:
            if job.alias == alias:
                shown = f"{start}{shorten(job.name, 70)}"
                images = str(job.job.images) if job.job.images else ""
                table.add_row(Text(shown), images, _number(job.job.cost), _kept(job.key in cached))
    console.print(table)
    total = sum(job.job.cost for job in plan.jobs if job.key not in cached)
    done = sum(job.key in cached for job in plan.jobs)
    line = f"{len(plan.jobs)} jobs, {done} done before; about {_number(total)} forward passes to do on {plan.device}"
    console.print(Text(line), soft_wrap=True)


def show_inspection(console: Console, found: Inspection) -> None:
    """Show a model's table."""
    card = found.card
    facts = (
        ("file", f"{card.file}, {card.bytes:,} bytes, sha256 {card.digest[:16]}..."),
        ("producer", card.producer or "not said"),
        ("opset", card.opset),
        ("inputs", "; ".join(card.inputs) + f" ({found.layout})"),
        ("outputs", "; ".join(card.outputs)),
        ("class scores", found.logits),
        ("parameters", f"{card.parameters:,}"),
        ("preprocessing", card.preprocessing + ("" if card.preprocessing_declared else " (a guess: not declared)")),
    )
    for name, value in facts:
        console.print(Text.assemble((f"{name:<14}", "bold"), shorten(value, 400)), soft_wrap=True)
    for sentence in card.passes:
        console.print(Text.assemble((f"{'importer':<14}", "bold"), shorten(sentence, 400)), soft_wrap=True)
    for operator, why in card.refused_operators:
        text = shorten(f"{operator}: {why}", 400)
        console.print(Text.assemble((f"{'refused':<14}", "bold red"), text), soft_wrap=True)
    errors = dict(found.errors)
    columns = [("layer", "left"), ("operator", "left"), ("shape", "left"), ("units", "right"), ("parameters", "right")]
    columns += [("field", "right")]
    if found.said:
        columns += [("to the file", "right"), ("to float32", "right")]
    differences = {(item.layer, item.reference): item for item in card.agreement}
    table = _table(*columns)
    for row in found.layers:
        shape = "×".join("?" if size is None else str(size) for size in row.shape)
        field = "×".join(str(size) for size in row.receptive_field) if row.receptive_field else ""
        cells = [shorten(row.name, 60), shorten(row.operator, 30), shape, str(row.units or ""), _number(row.parameters)]
        cells.append(field)
        for reference in ("file", "float32"):
            item = differences.get((row.name, reference))
            if item is not None:
                cells.append(f"{item.relative:.1e}" + ("" if item.holds else " TOO LARGE"))
            else:
                cells.append("not compared" if row.name in errors else "")
        table.add_row(*(Text(cell) for cell in cells[: len(columns)]))
    console.print(table)
    if found.said:
        said = f"differences to ONNX Runtime, relative to the layer's largest value, {found.said}"
        console.print(Text(said), soft_wrap=True)
    for layer, why in list(errors.items())[:20]:
        console.print(Text(shorten(f"{layer}: {why}", 600), style="red"), soft_wrap=True)


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


def _table(*columns: tuple[str, str], title: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(shorten(title, 100)) if title else None, title_justify="left")
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if value else ""


def _kept(cached: bool) -> str:
    return "done" if cached else ""


def show_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show a table of text."""
    table = _table(*((name, "left") for name in columns))
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console.print(table)
