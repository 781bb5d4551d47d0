"""`onnxviz run --check`: a short verdict for continuous integration."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from onnxviz.cli.show import failed_jobs, make_table, show_lines, state_of
from onnxviz.core.errors import SelectionError, beginning, shorten
from onnxviz.core.results import RunResult
from onnxviz.core.wording import counted
from onnxviz.recipe.recipe import Recipe


def require_expectations(whole: Recipe, restricted: Recipe) -> str:
    """Refuse a recipe of which nothing would be checked; say what is not, because `--only` restricted it, or "".

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
            f"--check would check nothing: --only leaves out all {counted(left_out, 'expectation')}",
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
    return f"{counted(left_out, 'expectation')} {'was' if left_out == 1 else 'were'} left out, as --only says"


def show_check(console: Console, result: RunResult, remarks: Iterable[str], report: str) -> None:
    """Show the expectations, the failed jobs, what was not checked or is lost, and the verdict in one line."""
    several = len(result.models) > 1
    table = make_table("", "metric", *(("model",) if several else ()), ">value", "expected", "level")
    for item in result.expectations:
        state, style = state_of(item)
        value = "none" if item.value is None else f"{item.value:.4g}"
        model = (Text(shorten(item.model)),) if several else ()
        expected = shorten(item.condition, 200)
        table.add_row(Text(state, style=style), Text(shorten(item.metric)), *model, value, Text(expected), item.level)
        if item.because and not item.holds:
            table.add_row("", Text(beginning(item.because, 2000), style="dim"))
    console.print(table)
    failed_jobs(console, result)
    show_lines(console, remarks, "yellow")
    text, style = verdict_line(result)
    show_lines(console, [f"{text}; {report}"], style)


def verdict_line(result: RunResult) -> tuple[str, str]:
    """Return the verdict in one line, and its style."""
    total, holding = len(result.tested), sum(item.holds for item in result.tested)
    text = f"{holding} of {counted(total, 'expectation')} {'holds' if 1 in (holding, total) else 'hold'}"
    if result.failed:
        return f"INCOMPLETE: {result.failed} of {result.provenance.jobs} jobs failed; {text}", "bold red"
    if any(item.broken for item in result.tested):
        return f"FAILED: {text}", "bold red"
    return f"PASSED: {text}", "bold green"
