"""The commands, each a thin layer over the package, which it loads when it is called: `--help` waits for nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from onnxviz.cli.browser import open_page
from onnxviz.cli.concepts import concepts
from onnxviz.cli.ending import interrupted
from onnxviz.cli.run_options import (
    NO_LIMIT,
    DeviceOption,
    MemoryOption,
    OnlyOption,
    OpenOption,
    RunOptions,
    limits_of,
    reading_limits,
    require_named,
    with_run_options,
)
from onnxviz.core.devices import likely_device, require_device
from onnxviz.core.errors import OnnxvizError, OutputError, SelectionError, nearest, shorten

if TYPE_CHECKING:
    from onnxviz.recipe.recipe import Recipe

QUICKSTART = "quickstart.yaml"
"""The recipe of `onnxviz demo`, beside the package's modules."""


class Commands(TyperGroup):
    """The commands; an interruption is one line, whatever it interrupts."""

    def invoke(self, ctx: Any) -> Any:
        """Do a command.

        Raises:
            typer.Exit: if the user interrupts it.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise interrupted() from None
        except typer.BadParameter as fault:  # by pydantic, whose word for it says nothing
            fault.message = fault.message.replace("Value error, ", "")
            raise


app = typer.Typer(
    name="onnxviz",
    cls=Commands,
    help="What has this vision model learned, where does it look, can it be trusted? Any ONNX model, one recipe, "
    "one report.",
    no_args_is_help=True,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(concepts, name="concepts")

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change the recipe: classes.steps=64, model.path=m.onnx, ..."),
]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="The run folder; runs/<recipe> if not given.")]
SeedOption = Annotated[int | None, typer.Option(help="Another seed than the recipe's.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"onnxviz {version('onnxviz')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """What has this vision model learned, where does it look? Any ONNX model, one recipe, one report."""


@app.command()
@with_run_options
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    seed: SeedOption = None,
    *,
    options: RunOptions,
) -> None:
    """Run a recipe and write its report; what is done already is kept."""
    from onnxviz.recipe.recipe import read_recipe

    _run(read_recipe(recipe, _with_seed(overrides, seed), partly=True), out, options)


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: OutOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = None,
    only: OnlyOption = None,
    memory: MemoryOption = None,
) -> None:
    """Show what a recipe would do: jobs, images, time, space, and what is done already."""
    from onnxviz.recipe.recipe import read_recipe

    loaded = read_recipe(recipe, _with_seed(overrides, seed), partly=True)
    _plan(loaded, out, RunOptions(device=device, only=only, memory=memory))


@app.command()
def validate(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes.")],
    overrides: SetOption = None,
    memory: MemoryOption = None,
) -> None:
    """Check recipes, their models and their data, and list all faults."""
    from onnxviz.cli.show import consoles, show_error, show_lines
    from onnxviz.execution.validation import Validity
    from onnxviz.execution.workers.process import Request, ask

    output, errors = consoles()
    refused = False
    device = likely_device()
    for path in recipes:
        try:
            given = {"path": str(path), "overrides": overrides or ()}
            first = ("onnxviz.execution.validation:read_first", given)  # by the process that checks it
            do = "onnxviz.execution.validation:validity"
            request = Request(do, {"device": device}, reading_limits(memory), first=first)
            found = ask(request, shorten(str(path)), Validity)
            show_lines(output, [f"{path}: valid; {found.jobs} job{'s' * (found.jobs != 1)}", *found.remarks])
            show_lines(output, (f"  {sentence}" for sentence in found.left_out))
        except OnnxvizError as error:
            refused = True
            show_error(errors, error)
    if refused:
        raise typer.Exit(2)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    layers: Annotated[
        str | None, typer.Option(help="Only these: a name, glob, Conv[3], block_outputs, logits.")
    ] = None,
    agreement: Annotated[
        bool | None,
        typer.Option(
            "--agreement/--no-agreement", help="Compare every layer with ONNX Runtime; done unless there are --images."
        ),
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(help="How images become its input: caffe, imagenet, tf, unit, ...")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="A folder of photographs: try every plausible preprocessing on them and rank them."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The model's class names, one a line: to rank by accuracy, or for --classes.")
    ] = None,
    classes: Annotated[
        bool,
        typer.Option("--classes", help="List the classes with their numbers, and with names where they are known."),
    ] = False,
    classes_from: Annotated[
        str | None,
        typer.Option(help='Where file names hold the class: "{class}_*.jpg"; else labels.csv or one folder for each.'),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=2, help="Most photographs to try them on; as many as take about a minute if not given."),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option("--size", metavar="NAME=NUMBER", help="A number for a free dimension: height=224."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="A value for an input beside the image: ones, zeros, a number, a list [0, 1] or a .npy file.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = None,
) -> None:
    """Show what a model is: its producer, input, layers, what does not convert, and how to feed it."""
    from onnxviz.cli.show import consoles
    from onnxviz.cli.show_model import show_classes, show_inspection, show_probe, trial_counter
    from onnxviz.data.images import require_files
    from onnxviz.execution.inspection import Inspection
    from onnxviz.execution.parity_job import MIXES_BATCH
    from onnxviz.execution.workers.process import Request, ask

    output, errors = consoles()
    if model.suffix.lower() in (".yaml", ".yml") and model.is_file():
        where = shorten(str(model), 200)
        raise SelectionError("a recipe, not a model", where=where, remedy="onnxviz validate checks it")
    given = {"--classes": classes, "--images": images, "--agreement": agreement, "--layers": layers}
    _refuse_idle_options(given | {"--labels": labels, "--classes-from": classes_from})
    if images is not None:
        require_files(str(images), Path())
    fixed = _inputs(inputs)
    files = [images, labels, *(Path(value) for value in fixed.values() if isinstance(value, str))]
    request = Request(
        "onnxviz.execution.inspection:inspect_model",
        {
            "path": model,
            "layers": layers,
            "preprocess": preprocess,
            "convert": not classes,
            "agreement": agreement is not False and images is None and not classes,
            "images": images,
            "labels": labels,
            "classes_from": classes_from,
            "count": count,
            "sizes": _sizes(sizes),
            "inputs": fixed,
            "device": device,
        },
        reading_limits(memory),
        require_device(device),
        read=[*_beside(model), *(path.resolve() for path in files if path is not None)],
    )
    counter = trial_counter(errors) if images is not None else None
    found = ask(request, shorten(model.name), Inspection, compute=not classes, progress=counter)
    if classes:
        show_classes(output, found)
    elif images is None:
        show_inspection(output, found)
    elif found.probe is not None:
        show_probe(output, found)
    if any(why != MIXES_BATCH for _, why in found.errors) or any(not item.holds for item in found.card.agreement):
        raise typer.Exit(3)


def _beside(model: Path) -> list[Path]:
    """Return the folders that a model's file and its external data may lie in."""
    return [model.absolute().parent, Path(os.path.realpath(model)).parent]


def _refuse_idle_options(options: Mapping[str, object]) -> None:
    """Refuse options that would do nothing: with pictures preprocessings are tried, without them layers are shown."""
    given = [name for name, value in options.items() if value is not None and value is not False]
    purposes = [name for name in ("--classes", "--images", "--agreement", "--layers") if name in given]
    if len(purposes) > 1 and purposes != ["--agreement", "--layers"]:
        what = f"{purposes[0]} and {purposes[1]} ask for different things"
        raise SelectionError(what, remedy="call `onnxviz inspect` once for each")
    if "--labels" in given and "--images" not in given and "--classes" not in given:
        what = "--labels ranks preprocessings, and there are no pictures"
        raise SelectionError(what, remedy="add --images FOLDER, or --classes to list the classes")
    if "--classes-from" in given and "--images" not in given:
        what = "--classes-from ranks preprocessings, and there are no pictures"
        raise SelectionError(what, remedy="add --images FOLDER")


def _inputs(given: list[str] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in given or ():
        name, equals, text = item.partition("=")
        if not equals or not name or not text:
            what = f"--input {shorten(item)!r} is not a name and a value"
            raise SelectionError(what, remedy="write --input mask=ones")
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values


def _sizes(given: list[str] | None) -> dict[str, int] | None:
    sizes = {}
    for item in given or ():
        name, equals, number = item.rpartition("=")
        if not equals or not number.isdecimal() or not name or not 0 < int(number) < 1 << 31:
            what = f"--size {shorten(item)!r} is not a name and a number"
            raise SelectionError(what, remedy="write --size height=224")
        sizes[name] = int(number)
    return sizes or None


@app.command("report")
def rebuild(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    single_file: Annotated[bool, typer.Option("--single-file", help="Put the pictures into the page.")] = False,
    open_report: OpenOption = None,
) -> None:
    """Write the report of a finished run again."""
    from onnxviz import report
    from onnxviz.execution.folder import read_run
    from onnxviz.execution.store import locked

    result = read_run(run_folder)
    with locked(run_folder):  # read before, so that a folder without a run is not made one
        page = report.write_report(result, run_folder, single_file=single_file)
    typer.echo(page)
    open_page(page, open_report)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the comparison is written.")] = Path(
        "runs/comparison"
    ),
    open_report: OpenOption = None,
) -> None:
    """Set finished runs side by side in one report."""
    from onnxviz import report
    from onnxviz.cli.running import EXIT_CODES
    from onnxviz.cli.show import consoles, show_lines, show_result
    from onnxviz.execution.folder import RUN, read_run, run_data
    from onnxviz.execution.store import locked, write_bytes

    output, _ = consoles()
    if len(runs) < 2:
        raise OutputError("a comparison needs two runs or more", remedy="onnxviz compare runs/a runs/b")
    sources = [(folder.resolve().name or "run", read_run(folder), folder) for folder in runs]
    with locked(out):
        merged = report.compare(sources, out)
        write_bytes(out / RUN, run_data(merged))
        page = report.write_report(merged, out)
    for reason in merged.not_comparable:
        show_lines(output, [f"NOT COMPARABLE: {reason}"])
    show_result(output, merged)
    typer.echo(page)
    open_page(page, open_report)
    if any(item.broken for item in merged.expectations):
        raise typer.Exit(EXIT_CODES["failed"])
    raise typer.Exit(EXIT_CODES[merged.verdict])


@app.command()
def schema(out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it there.")] = None) -> None:
    """Print the JSON schema of recipes, for completion and checks in editors."""
    from onnxviz.execution.store import write_bytes
    from onnxviz.recipe.schema import json_schema

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_bytes(out, text.encode())
        typer.echo(out)


@app.command()
def explain(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND|KIND.FIELD|PART]",
            help="A kind of analysis, one of its fields, or a part of recipes: model, data, expect, matrix, ...",
        ),
    ] = None,
) -> None:
    """Explain an analysis or a part of recipes, with fields, defaults, metrics and examples; or list them."""
    from onnxviz.cli.explain import explain as show
    from onnxviz.cli.show import consoles

    show(consoles()[0], subject)


@app.command("help")
def explain_command(
    context: typer.Context, command: Annotated[str | None, typer.Argument(help="A command.")] = None
) -> None:
    """Show what commands there are, or the arguments and options of one."""
    whole = context.find_root()
    assert isinstance(whole.command, TyperGroup)
    if command is None:
        typer.echo(whole.get_help())
        return
    found = whole.command.get_command(whole, command)
    if found is None:
        known = whole.command.list_commands(whole)
        raise SelectionError(
            f"no command is called {shorten(command)!r}",
            remedy=nearest(command, known) or f"known are {', '.join(known)}",
        )
    with typer.Context(found, info_name=command, parent=whole) as inner:
        typer.echo(found.get_help(inner))


@app.command()
@with_run_options
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")] = Path("runs/quickstart"),
    overrides: SetOption = None,
    *,
    options: RunOptions,
) -> None:
    """Run the four core analyses on the built-in model: needs no files, takes about a minute."""
    from importlib import resources

    from onnxviz.recipe.recipe import parse_recipe

    text = resources.files("onnxviz").joinpath(QUICKSTART).read_text(encoding="utf-8")
    _run(parse_recipe(text, QUICKSTART, Path(), tuple(overrides or ())), out, options)


@app.command()
def init(
    model: Annotated[Path, typer.Argument(help="An ONNX file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The recipe.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Photographs that the model is used on: its preprocessing is tried on them.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="The model's class names, one a line in the order of its scores.")
    ] = None,
    memory: MemoryOption = None,
) -> None:
    """Write a recipe to start from, for a model."""
    from onnxviz.data.images import require_files
    from onnxviz.execution.store import write_bytes
    from onnxviz.execution.workers.process import Request, ask

    target = out or Path(f"{model.stem}.yaml")
    if images is not None:
        require_files(str(images), Path())  # here: the confined process may not look at them
    read = [*_beside(model), *([labels.resolve()] if labels is not None else [])]
    asked = {"model": model, "target": target, "images": images, "labels": labels}
    request = Request("onnxviz.cli.start:starting_recipe", asked, reading_limits(memory), read=read)
    text = ask(request, shorten(model.name), str)
    if target.exists():
        raise OutputError("exists already", where=shorten(str(target), 200), remedy="name another with --out")
    write_bytes(target, text.encode())
    typer.echo(target)


def _with_seed(overrides: list[str] | None, seed: int | None) -> tuple[str, ...]:
    return (*(overrides or ()), *([f"seed={seed}"] if seed is not None else ()))


def _run(recipe: Recipe, out: Path | None, options: RunOptions) -> None:
    from onnxviz.cli.running import run_recipe
    from onnxviz.execution.execute import default_folder

    if not options.dry_run:
        run_recipe(recipe, out or default_folder(recipe), options)
    limits_of(options)
    idle = {"--check": options.check, "--events": options.events, "--log-file": options.log_file}
    if named := [name for name, value in idle.items() if value]:
        raise SelectionError(f"nothing runs with --dry-run, so {named[0]} would do nothing", remedy="leave one out")
    _plan(recipe, out, options)


def _plan(recipe: Recipe, out: Path | None, options: RunOptions) -> None:
    from onnxviz.cli.show import consoles
    from onnxviz.cli.show_plan import show_plan
    from onnxviz.execution.estimate import Work
    from onnxviz.execution.execute import default_folder
    from onnxviz.execution.workers.engine import worker_count
    from onnxviz.execution.workers.process import DOUBTFUL, Request, ask
    from onnxviz.execution.workers.processes import paths_of
    from onnxviz.recipe.selection import chosen as chosen_analyses
    from onnxviz.recipe.selection import restricted

    require_named(recipe, options)
    output, _ = consoles()
    chosen = options.chosen_device
    folder = out or default_folder(recipe)
    recipe = restricted(recipe, options.only or ())
    most = recipe.limits.memory_bytes if recipe.limits is not None else None
    limits = reading_limits(None if options.memory == NO_LIMIT else options.memory, most)
    asked = {
        "recipe": recipe,
        "device": chosen,
        "folder": folder,
        "again": chosen_analyses(recipe, options.force or (), "--force"),
        "workers": max(1, worker_count(options.workers, chosen)),
        # A GPU is not measured: it may not be taken from those who use it only to say what a run would take. Nor is
        # anything where torch might not fit in.
        "measured": chosen == "cpu" and (limits.memory or 0) >= DOUBTFUL,
    }
    read = [*paths_of(recipe), folder.resolve()]
    request = Request("onnxviz.execution.estimate:work_of", asked, limits, read=read)
    show_plan(output, ask(request, shorten(recipe.name), Work), recipe, folder)
