"""`onnxviz import`: what is not ONNX yet becomes an ONNX file, with a short account of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxviz.core.errors import ModelError, beginning, shorten
from onnxviz.core.limits import EXPORTER_SECONDS
from onnxviz.core.wording import counted

if TYPE_CHECKING:
    from rich.console import Console

    from onnxviz.importing import Imported

EPILOG = (
    "Keras and SavedModel need TensorFlow: pip install tensorflow keras tf-keras tf2onnx, here or in another "
    "environment that --python names. PyTorch .pt2 needs onnxscript: pip install onnxscript. PyTorch checkpoints "
    "(.pt, .pth, .ckpt) are pickles, which can run any code, and are never loaded: make a .pt2 with torch.export.save, "
    "or call "
    "onnxviz.importing.from_torch(module, (example,), 'model.onnx'). A SavedModel's graph is run in parts when it is "
    "loaded: import only folders that you would run. Without --output the file is named after the source, in the "
    "working folder."
)


_CAFFE_WEIGHTS = ".caffemodel"
_DIFFERS = 3
"""Exit code where the file was written although it differs from its source."""
_NOTES = 20
"""Remarks of a converter that are printed; all of them are in the file's metadata."""


def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A Keras .keras or .h5 file, a TensorFlow SavedModel folder, a PyTorch .pt2 program, or a Caffe "
            ".prototxt."
        ),
    ],
    second: Annotated[
        Path | None,
        typer.Argument(
            help="The .caffemodel of a Caffe network, before or after its .prototxt; found by itself beside it."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The ONNX file.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The .caffemodel of a Caffe network, if it is not beside it.")
    ] = None,
    python: Annotated[
        Path | None, typer.Option(help="A Python that has the framework, such as venv/bin/python.")
    ] = None,
    signature: Annotated[str | None, typer.Option(help="Which signature of a SavedModel; serving_default.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="N,H,W,C", help="Shape of the input where the model leaves it free.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds that the exporter may take.")] = EXPORTER_SECONDS,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output.")] = False,
    keep_different: Annotated[
        bool, typer.Option("--keep-different", help="Write the file also where it differs; exit code 3 then.")
    ] = False,
) -> None:
    """Turn a Keras, TensorFlow, PyTorch or Caffe model into an ONNX file."""
    from onnxviz.cli.show import consoles
    from onnxviz.importing import import_model

    if second is not None:
        source, weights = _caffe_pair(source, second, weights)
    shape = None if input_shape is None else _shape(input_shape)
    made = import_model(
        source,
        output,
        weights=weights,
        python=python,
        signature=signature,
        input_shape=shape,
        timeout=timeout,
        force=force,
        keep_different=keep_different,
    )
    console, _ = consoles()
    _show(console, made)
    if made.compared.agrees is False:
        raise typer.Exit(_DIFFERS)


def _caffe_pair(first: Path, second: Path, weights: Path | None) -> tuple[Path, Path]:
    """Return a Caffe network's description and weights, in whichever order they were given.

    Raises:
        ModelError: if they are not one of each, or weights are given twice.
    """
    pair = sorted((first, second), key=lambda path: path.suffix.lower() == _CAFFE_WEIGHTS)
    if [path.suffix.lower() == _CAFFE_WEIGHTS for path in pair] != [False, True]:
        raise ModelError(
            "two files are imported together only as a Caffe network's .prototxt and .caffemodel",
            where=shorten(f"{first} {second}", 200),
            remedy="import one model at a time; name the ONNX file with --output",
        )
    if weights is not None:
        raise ModelError(
            "the weights are given twice", where=shorten(f"{pair[1]}, --weights {weights}", 200), remedy="leave one out"
        )
    return pair[0], pair[1]


def _shape(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace("x", ",").split(",")]
    except ValueError:
        raise ModelError(
            f"{shorten(text)!r} is no input shape", remedy="numbers between commas, for example 1,224,224,3"
        ) from None


def _show(console: Console, made: Imported) -> None:
    from onnxviz.cli.show import show_fact, show_lines

    view = made.view
    size = "any size" if view.input_size is None else "{}×{} pixels".format(*view.input_size)
    batch = "any batch" if view.batch is None else f"batch {view.batch} only"
    layout = f"{view.input_layout}, {counted(view.input_channels, 'channel')}, {size}, {batch}"
    if view.input_layout == "other":
        layout = f"no image, {batch}"
    named = [layer for layer in view.layers if layer.unit_count]
    facts = [
        ("source", f"{made.about['kind']} {made.about['file']}, sha256 {made.about.get('sha256', '')[:16]}..."),
        ("made by", made.about["frameworks"]),
        ("input", layout),
        ("layers", f"{len(view.layers)}, for example {', '.join(_names(made)) or 'none'}" if named else "none"),
        ("written", str(made.path)),
    ]
    for name, value in facts:
        show_fact(console, name, shorten(value, 400), width=10)
    for note in view.metadata.get("conversion_notes", "").splitlines()[:_NOTES]:
        show_fact(console, "note", beginning(note, 2000), "bold yellow", width=10)
    style = {True: "bold", None: "bold yellow", False: "bold red"}[made.compared.agrees]
    show_fact(console, "compared", shorten(made.compared.said, 400), style, width=10)
    for name, why in view.refused_operators[:_NOTES]:
        show_fact(console, "not ONNX", shorten(f"{name}: {why}", 400), "bold red", width=10)
    show_lines(console, [f"next: {shlex.join(['onnxviz', 'inspect', str(made.path)])}"])


def _names(made: Imported) -> list[str]:
    """Return a few names that a user knows layers by: their own framework's, where it gave any."""
    from onnxviz.graph.operators import traits_of

    weighted = [layer for layer in made.view.layers if traits_of(made.view.node(layer)).weight]
    chosen = [weighted[0], weighted[len(weighted) // 2], weighted[-1]] if weighted else list(made.view.layers[:3])
    names = []
    for layer in chosen:
        known = [alias for alias in layer.aliases if ":" not in alias]
        names.append(shorten(min(known, key=len) if known else layer.name, 60))
    return list(dict.fromkeys(names))
