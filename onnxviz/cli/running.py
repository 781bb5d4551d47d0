"""Runs a recipe for the command line: who is told how it goes on, and what is said at the end."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TextIO

import typer
from rich.console import Console
from rich.text import Text

from onnxviz.cli.browser import open_page
from onnxviz.cli.check import require_expectations, show_check
from onnxviz.cli.ending import INTERNAL, INTERRUPTED, REFUSED
from onnxviz.cli.run_options import RunOptions, limits_of, require_named
from onnxviz.cli.show import consoles, failed_jobs, safe, show_confinement, show_expectations, show_result
from onnxviz.core.devices import require_device
from onnxviz.core.errors import OnnxvizError, OutputError, SelectionError, beginning, one_line, shorten
from onnxviz.execution.execute import run as execute
from onnxviz.execution.finished_run import Run
from onnxviz.execution.folder import append_log, open_log
from onnxviz.execution.observer import Observer, Several
from onnxviz.execution.partial_run import LOST, of_analyses
from onnxviz.execution.workers.engine import Options
from onnxviz.progress import EventStream, PlainProgress, TerminalProgress, duration
from onnxviz.recipe.recipe import Recipe
from onnxviz.recipe.selection import restricted

EXIT_CODES = {"passed": 0, "finished": 0, "failed": 1, "incomplete": 3}
_STANDARD_OUTPUT = "-"
_OWN_LOG = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ")
_OWN_EVENTS = re.compile(rb'\{"event": "')


def run_recipe(recipe: Recipe, out: Path, options: RunOptions) -> NoReturn:
    """Run a recipe, tell the user and other programs how it goes, and end.

    Raises:
        typer.Exit: always, with the exit code of the verdict.
        OnnxvizError: if it is refused.
    """
    if options.quiet and options.verbose:
        raise SelectionError("--quiet and --verbose ask for opposite things", remedy="leave one out")
    if options.engine == "local":  # before there is a folder
        require_device(options.device)
    require_named(recipe, options)
    part = restricted(recipe, options.only or ())
    left_out = require_expectations(recipe, part) if options.check else ""
    to_standard_output = options.events == _STANDARD_OUTPUT
    output, errors = consoles()
    people = errors if to_standard_output else output
    events = _event_stream(options, out)
    _require_writable("--log-file", options.log_file, out, _OWN_LOG)
    with _told_of_the_end(options, events, errors):
        finished = _watched(recipe, out, options, people, events)
        result = of_analyses(finished.result, part.analyses)  # the report may have more, of runs before
        code = EXIT_CODES[result.verdict]
        events.verdict(result, str(finished.report), code)
    report = safe(str(finished.report))
    if options.check:
        lost = [event for event in result.provenance.events if event.startswith(LOST)]
        show_check(people, result, [*lost, *([left_out] if left_out else [])], report)
    elif options.quiet:
        failed_jobs(errors, result)
        show_expectations(errors, result, broken_only=True)
        typer.echo(report, err=to_standard_output)
    else:
        if options.verbose:
            show_confinement(people, result.provenance)
        show_result(people, result)
        people.print(Text(f"{duration(result.provenance.seconds)}; the report:"), soft_wrap=True)
        typer.echo(report, err=to_standard_output)
    open_page(finished.report, options.open_report)
    raise typer.Exit(code)


def _watched(recipe: Recipe, out: Path, options: RunOptions, people: Console, events: EventStream) -> Run:
    observers: list[Observer] = [events]
    how: Options = {
        "device": options.device,
        "workers": options.workers,
        "engine": options.engine,
        "limits": limits_of(options),
        "force": options.force or (),
        "only": options.only or (),
        "keep_going": options.keep_going,
        "log_file": options.log_file,
    }
    with contextlib.ExitStack() as stack:
        watcher = _watcher(options, people)
        if watcher is not None:
            stack.enter_context(watcher)
            observers.append(watcher)
        command = shlex.join(["onnxviz", *sys.argv[1:]])
        return execute(recipe, out, observer=Several(observers), command=command, **how)


def _watcher(options: RunOptions, people: Console) -> TerminalProgress | PlainProgress | None:
    """Return what shows the run while it goes on, or None if nothing shall be shown."""
    if options.quiet:
        return None
    bars = people.is_terminal and not people.is_dumb_terminal
    if options.check:
        return TerminalProgress(people, bars_only=True) if bars else None
    return TerminalProgress(people, verbose=options.verbose) if bars else PlainProgress(people, verbose=options.verbose)


@contextlib.contextmanager
def _told_of_the_end(options: RunOptions, events: EventStream, errors: Console) -> Iterator[None]:
    """Tell the events and the log of an end without a report; whoever reads only them would wait for it."""
    try:
        yield
    except KeyboardInterrupt:
        events.ended("interrupted", INTERRUPTED)
        errors.print(Text("\ninterrupted; the same command goes on where it was"), soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except OnnxvizError as error:
        events.ended("refused", REFUSED, str(error))
        _log(options.log_file, f"refused: {error}")
        raise
    except Exception as error:
        events.ended("fault", INTERNAL, one_line(error))
        _log(options.log_file, f"fault: {one_line(error)}")
        raise
    finally:
        events.close()
        if events.fault:
            text = f"events were lost: {options.events} cannot be written: {events.fault}"
            errors.print(Text(beginning(text, 2000), style="yellow"), soft_wrap=True)


def _log(path: Path | None, text: str) -> None:
    if path is not None:
        with contextlib.suppress(OSError), open_log(path) as stream:
            append_log(stream, text)


def _event_stream(options: RunOptions, out: Path) -> EventStream:
    if options.events is None:
        return EventStream(None)
    if options.events == _STANDARD_OUTPUT:
        return EventStream(_own_output)
    path = Path(options.events)
    _require_writable("--events", path, out, _OWN_EVENTS)
    if options.log_file is not None and options.log_file.absolute() == path.absolute():
        raise SelectionError("--events and --log-file are the same file", remedy="name two")
    return EventStream(lambda: path.open("w", encoding="utf-8"))


def _own_output() -> TextIO:
    """Return standard output under a number of its own, so that a reader who goes away breaks nothing else."""
    try:
        return os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    except (OSError, io.UnsupportedOperation):  # a notebook's or a test's
        return sys.stdout


def _require_writable(option: str, path: Path | None, out: Path, own: re.Pattern[bytes]) -> None:
    """Refuse a file that cannot be written, that is something else, or that lies where only runs write.

    Raises:
        OutputError: before anything has run.
    """
    if path is None:
        return
    where = f"{option} {shorten(str(path), 200)}"
    if path.resolve().is_relative_to(out.resolve()):
        raise OutputError("lies in the run folder, where only runs write", where=where, remedy="name a file beside it")
    try:
        if path.is_dir():
            raise OutputError("is a folder", where=where, remedy="name a file in it")
        if path.is_file():
            with path.open("rb") as stream:
                start = stream.read(64)
            if start and not own.match(start):
                what = "exists already and is something else, so it is not written to"
                raise OutputError(what, where=where, remedy="name another file")
        if not path.exists() or path.is_file():  # a pipe waits for its reader, once
            open_log(path).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot be written: {reason}", where=where, remedy="name another file") from error
