"""`onnxviz concepts`: what is in a labelled data set, and what is broken in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxviz.cli.run_options import MemoryOption, reading_limits
from onnxviz.core.errors import shorten

if TYPE_CHECKING:
    from rich.console import Console

    from onnxviz.data.labelled.check import Checked, ConceptCount

concepts = typer.Typer(
    help="Labelled data sets: what they hold and what is broken.", no_args_is_help=True, rich_markup_mode=None
)
_SHOWN = 40
"""Rows of concepts, and faults, that are shown unless all are asked for."""


@concepts.callback()
def group() -> None:
    """Labelled data sets: what they hold, and what is broken in them."""


@concepts.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A labelled data set, or a JSON file of COCO.")],
    split: Annotated[str | None, typer.Option(help="Only the images of this split.")] = None,
    category: Annotated[
        str | None, typer.Option(help="What sub-folders are called after (texture, scene), where there are no masks.")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help="Show every concept and every fault.")] = False,
    memory: MemoryOption = None,
) -> None:
    """Read all labels of a data set, count its concepts, and say what is broken where; exit code 1 if anything is."""
    from onnxviz.cli.show import consoles
    from onnxviz.data.labelled.check import Checked
    from onnxviz.execution.workers.process import Request, ask

    output, errors = consoles()
    path = folder.absolute()
    asked = {"path": path, "split": split, "category": category}
    real = Path(os.path.realpath(path))  # unlike Path.resolve and Path.is_dir, no exception for names that are too long
    read = [path, real] if os.path.isdir(path) else [path.parent.parent, real.parent.parent]  # noqa: PTH112
    request = Request("onnxviz.data.labelled.check:check", asked, reading_limits(memory), read=read)
    found = ask(request, shorten(str(folder), 200), Checked, progress=_counter(errors))
    show_check(output, errors, found, None if whole else _SHOWN)
    if found.fault_count:
        raise typer.Exit(1)


def show_check(output: Console, errors: Console, found: Checked, most: int | None) -> None:
    """Show what was found, with so many concepts and faults at most."""
    from onnxviz.cli.show import make_table, safe, show_lines
    from onnxviz.core.shares import percent
    from onnxviz.core.wording import counted

    def row(one: ConceptCount) -> list[str]:
        share = percent(one.pixels / one.area, 2) if one.area else "none"
        return [f"{one.images:,}", f"{one.pixels:,}", share]

    show_lines(output, [f"format: {found.form}", f"images: labels of {found.images:,} of {found.found:,} were read"])
    if found.categories:
        table = make_table("category", ">concepts", ">images", ">pixels", ">of their pixels")
        for one in found.categories:
            table.add_row(safe(shorten(one.category)), f"{one.concepts:,}", *row(one))
        output.print(table)
        table = make_table("concept", "category", ">images", ">pixels", ">of the category's images")
        ordered = sorted(found.concepts, key=lambda one: (-one.images, -one.pixels))
        for one in ordered[:most]:
            table.add_row(safe(shorten(one.name)), safe(shorten(one.category)), *row(one))
        output.print(table)
        if most is not None and len(ordered) > most:
            show_lines(
                output, [f"and {counted(len(ordered) - most, 'concept')} more in fewer images; --all shows them"]
            )
    show_lines(output, found.remarks[:most])
    show_lines(errors, found.faults[:most], "red")
    if (told := len(found.faults[:most])) < found.fault_count:
        show_lines(errors, [f"and {counted(found.fault_count - told, 'fault')} more"], "red")
    verdict = f"{counted(found.fault_count, 'fault')}" if found.fault_count else "nothing is broken"
    show_lines(output, [verdict], "bold red" if found.fault_count else "bold green")


def _counter(console: Console) -> Callable[[int, int, str], None] | None:
    """Return what shows how many images were read, where somebody watches."""
    if not console.is_terminal:
        return None

    def count(done: int, total: int, _note: str = "") -> None:
        if done % 50 == 0 or done + 1 == total:
            console.print(f"image {done + 1:,} of {total:,}", end="\r" if done + 1 < total else "\n")

    return count
