"""`onnxviz run --check`: a short verdict for continuous integration."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from onnxviz.cli.show import failed_jobs, make_table
from onnxviz.core.errors import SelectionError, beginning, shorten
from onnxviz.core.results import ExpectationResult, RunResult
from onnxviz.recipe.recipe import Recipe

_STATES = {"error": ("BROKEN", "red"), "warn": ("warn", "yellow"), "off": ("off", "dim")}


def require_expectations(whole: Recipe, restricted: Recipe) -> str:
    """Refuse a recipe of which nothing would be checked.

    Args:
        whole: the recipe as it is written.
        restricted: what is left of it by `--only`.

    Returns:
        A sentence on what is not checked, or "".

    Raises:
        SelectionError: if nothing would be.
    """
    if whole.faults:
        return ""  # it is refused for these
    if not whole.expect:
        raise SelectionError(
            "--check would check nothing: the recipe has no `expect:`",
            where=whole.name,
            remedy="add for example `expect: [{metric: filters.dead_fraction, max: 0.1}]`",
        )
    left_out = len(whole.expect) - len(restricted.expect)
    if not restricted.expect:
        raise SelectionError(
            f"--check would check nothing: --only leaves out all {_expectations(left_out)}",
            where=whole.name,
            remedy="name an analysis that `expect:` speaks of",
        )
    if all(item.level == "off" for item in restricted.expect):
        raise SelectionError(
            "--check would check nothing: all expectations are of level off",
            where=whole.name,
            remedy="give one the level error or warn",
        )
    if not left_out:
        return ""
    return f"{_expectations(left_out)} {'was' if left_out == 1 else 'were'} left out, as --only says"


def show_check(console: Console, result: RunResult, remarks: Iterable[str], report: str) -> None:
    """Show the expectations, the failed jobs, and the verdict in one line.

    Args:
        console: where to.
        result: the run.
        remarks: what was not checked, and what the report has no longer.
        report: path of the report.
    """
    several = len(result.models) > 1
    names = ("", "metric", *(("model",) if several else ()), "value", "expected", "level")
    table = make_table(*((name, "right" if name == "value" else "left") for name in names))
    for item in result.expectations:
        state, style = ("holds", "green") if item.holds else _STATES[item.level]
        value = "none" if item.value is None else f"{item.value:.4g}"
        model = (Text(shorten(item.model)),) if several else ()
        expected = shorten(item.condition, 200)
        table.add_row(Text(state, style=style), Text(shorten(item.metric)), *model, value, Text(expected), item.level)
        if item.because and not item.holds:
            table.add_row("", Text(beginning(item.because, 2000), style="dim"))
    console.print(table)
    failed_jobs(console, result)
    for remark in remarks:
        console.print(Text(remark, style="yellow"), soft_wrap=True)
    text, style = verdict_line(result)
    console.print(Text(f"{text}; {report}", style=style), soft_wrap=True)


def verdict_line(result: RunResult) -> tuple[str, str]:
    """Return the verdict in one line, and its style."""
    tested = [item for item in result.expectations if item.level != "off"]
    holding = sum(item.holds for item in tested)
    text = f"{holding} of {_expectations(len(tested))} {'holds' if 1 in (holding, len(tested)) else 'hold'}"
    broken = sum(_is_error(item) for item in tested)
    if result.failed:
        return f"INCOMPLETE: {result.failed} of {result.provenance.jobs} jobs failed; {text}", "bold red"
    if broken:
        return f"FAILED: {text}", "bold red"
    return f"PASSED: {text}", "bold green"


def _is_error(item: ExpectationResult) -> bool:
    return item.level == "error" and not item.holds


def _expectations(count: int) -> str:
    return f"{count} expectation{'s' * (count != 1)}"
