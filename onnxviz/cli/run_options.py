"""The options that all commands share which run something."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from onnxviz.core.devices import Device, require_device
from onnxviz.core.errors import RecipeError, SelectionError, beginning, shorten
from onnxviz.core.memory import parse_bytes
from onnxviz.execution.workers import WORKERS

if TYPE_CHECKING:
    from onnxviz.confinement import Limits
    from onnxviz.recipe.recipe import Recipe

DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="What to compute on.")]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID",
        help="Do only this analysis, which also decides the exit code; "
        "the report keeps what it has of others; may be repeated.",
    ),
]
OpenOption = Annotated[
    bool | None, typer.Option("--open/--no-open", help="Open the report; by default in a desktop session.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory that reading the model may take: 4GiB, 500MB; 80 % of the machine's if not given.",
    ),
]
NO_LIMIT = "none"
"""Takes a limit away."""


@dataclass(frozen=True)
class RunOptions:
    """How a recipe is run and what is said of it; the annotations are the command line's."""

    device: DeviceOption = "auto"
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            envvar=WORKERS,
            metavar="N",
            help="Processes that do the jobs: one for each GPU, or one, if not given; 0 runs everything in this "
            "process, unconfined.",
        ),
    ] = None
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")] = (
        "local"
    )
    only: OnlyOption = None
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Do this analysis again though it is done; may be repeated; `all`."),
    ] = None
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--stop-on-failure", help="Whether the rest is done after a job has failed.")
    ] = True
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory of one process: 4GiB, 500MB, none; if not given, 80 % of the machine's for all together.",
        ),
    ] = None
    job_time: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Time for one job, or none; two hours if not given.")
    ] = None
    file_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest file that may be written, or none; 4GiB if not given.")
    ] = None
    processes: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="0: a model's process may start no others, as if not given.")
    ] = None
    network: Annotated[
        bool | None,
        typer.Option(help="Whether a model's process may use the network; it may not."),
    ] = None
    confine: Annotated[
        bool | None,
        typer.Option(
            "--confine/--no-confine", help="Keep a model's process from files, network and other processes; it is kept."
        ),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and end.")] = False
    check: Annotated[bool, typer.Option("--check", help="Say only whether the recipe's expectations hold, for CI.")] = (
        False
    )
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and the path of the report.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for every job, and how its process was confined.")
    ] = False
    log_file: Annotated[Path | None, typer.Option(metavar="PATH", help="Add the run's log to this file, too.")] = None
    events: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Write what happens as JSON lines for other programs; - for standard output."
        ),
    ] = None
    open_report: OpenOption = None

    @property
    def chosen_device(self) -> Device:
        """The device that the run will most likely be on.

        Raises:
            OnnxvizError: if it is not there; the nodes of a cluster may have what this machine has not.
        """
        return self.device if self.engine == "ray" and self.device != "auto" else require_device(self.device)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all fields of `RunOptions` as options; it is called with them as `options`."""
    hints = typing.get_type_hints(RunOptions, include_extras=True)
    fields = dataclasses.fields(RunOptions)
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "options"
    ]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields
    ]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        options = RunOptions(**{field.name: given.pop(field.name) for field in fields})
        command(**given, options=options)

    signature = inspect.Signature([*own, *shared])
    # Typer reads a command's options from here.
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return called


def limits_of(options: RunOptions) -> Limits | None:
    """Return the limits that the options ask for, those of the machine where they say nothing; None if none does.

    Raises:
        SelectionError: if a size or time is none, or there is no process to be limited.
    """
    from onnxviz.execution.workers.engine import worker_count
    from onnxviz.execution.workers.limits import default_limits

    given: dict[str, Any] = {name: getattr(options, name) for name in ("processes", "network", "confine")}
    given = {name: value for name, value in given.items() if value is not None}
    if options.memory is not None:
        given["memory"] = _size("--memory", options.memory)
    if options.job_time is not None:
        given["seconds"] = _seconds(options.job_time)
    if options.file_size is not None:
        given["file_bytes"] = _size("--file-size", options.file_size)
    if not given:
        return None
    if options.engine == "ray":
        return dataclasses.replace(default_limits(max(1, options.workers or 1)), **given)
    count = worker_count(options.workers, options.chosen_device)
    if count == 0:
        _require_a_process(options)
    return dataclasses.replace(default_limits(count), **given)


def reading_limits(memory: str | None, most: int | None = None) -> Limits:
    """Return the limits of a command that reads models: as `--memory` says, but no more than `most` bytes.

    Raises:
        SelectionError: if it is no size.
    """
    from onnxviz.confinement import Limits
    from onnxviz.execution.workers.limits import default_limits

    limit = default_limits().memory if memory is None else _size_of("--memory", memory, "write --memory 4GiB")
    return Limits(memory=min(size for size in (limit, most) if size is not None))


def require_named(recipe: Recipe, options: RunOptions) -> None:
    """Refuse a recipe with faults where analyses are named, because what is named may be what is at fault.

    Raises:
        RecipeError: with the recipe's own faults.
    """
    if recipe.faults and (options.only or options.force):
        raise RecipeError(recipe.faults)


def _require_a_process(options: RunOptions) -> None:
    """Refuse limits that nobody would keep."""
    asked = {
        "--memory": options.memory not in (None, NO_LIMIT),
        "--job-time": options.job_time not in (None, NO_LIMIT),
        "--file-size": options.file_size not in (None, NO_LIMIT),
        "--processes": options.processes == 0,
        "--no-network": options.network is False,
        "--confine": options.confine is True,
    }
    if named := [name for name, wanted in asked.items() if wanted]:
        raise SelectionError(
            f"{' and '.join(named)}: with 0 workers the models are opened in this process, which is not limited",
            remedy="use --workers 1 or more",
        )


def _size(option: str, text: str) -> int | None:
    return None if text == NO_LIMIT else _size_of(option, text, f"write {option} none for no limit")


def _size_of(option: str, text: str, remedy: str) -> int:
    try:
        size = parse_bytes(text)
    except ValueError as fault:
        raise SelectionError(f"{option}: {beginning(str(fault))}") from None
    if size < 1:
        raise SelectionError(f"{option}: nothing works with 0 bytes", remedy=remedy)
    return size


def _seconds(text: str) -> float | None:
    if text == NO_LIMIT:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        what = f"--job-time: {shorten(text)!r} is no time"
        raise SelectionError(what, remedy="write a number of seconds such as 600, or none")
    return seconds
