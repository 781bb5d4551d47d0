"""Class names from a text file, one a line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxviz.core import limits
from onnxviz.core.errors import DataError, SelectionError, shorten

if TYPE_CHECKING:
    from onnxviz.graph.model_output import OutputKind
    from onnxviz.graph.view import GraphView


METADATA_KEY = "onnxviz.labels"
"""A model's metadata entry with its class names, a JSON list of strings in the order of the logits."""


def labels_in(view: GraphView) -> tuple[str, ...] | None:
    """Return the class names that a model brings in its metadata, or None if it has none that fit its classes."""
    return with_labels(view, None)[1]


def with_labels(
    view: GraphView,
    names: Sequence[str] | None,
    kinds: OutputKind | Mapping[str, OutputKind] | None = None,
    numbers: int | None = None,
) -> tuple[GraphView, tuple[str, ...] | None]:
    """Return a view with what is said of its outputs, and the class names in the order of the classes.

    Args:
        view: the model.
        names: class names; None for those that the file brings, if they fit.
        kinds: what the outputs are, as for `GraphView.with_output`.
        numbers: how many classes the images' own class numbers count; None if they have none.

    Returns:
        The view; the names, "not NAME" put before where there are two classes and the second has the only name.

    Raises:
        SelectionError: if there are more or fewer names than classes, or an output cannot be what it is said to be.
    """
    if names is None and (own := _in_file(view)):
        try:
            return with_labels(view, own, kinds, numbers)
        except SelectionError:
            pass  # what is wrong with `kinds` is said below; names that do not fit are not used
    told = view.with_output(kinds, None if names is None else len(names), numbers)
    if names is None:
        return told, None
    _require_fit(told, len(names))
    main = told.main_head
    if main is not None and main.kind == "binary" and len(names) == 1:
        return told, (f"not {names[0]}", names[0])
    return told, tuple(names)


def with_labels_of(view: GraphView, path: Path) -> tuple[GraphView, tuple[str, ...] | None]:
    """Return the same as `with_labels` for the names in a file.

    Raises:
        DataError: if the file cannot be read.
        SelectionError: as there, with the file's name.
    """
    try:
        return with_labels(view, read_labels(path))
    except SelectionError as fault:
        fault.where = shorten(str(path))
        raise


def _require_fit(view: GraphView, count: int) -> None:
    main = view.main_head
    if main is None or main.named:
        return
    output = f"the output {shorten(main.name, 60)!r}"
    ordered = "give one name for each class, in the order of the scores"
    if main.kind == "regression":
        if main.choices in (0, count):
            return
        what = f"{count} names, and {output} is {main.in_words}"
        remedy = "give one name for each number, in their order, or leave `labels` out"
    elif not main.choices or (main.source == "declared" and not main.has_classes):
        return  # the names can still be those of a layer that an analysis is told to explain
    elif main.has_classes:
        what, remedy = f"{count} class names for a model of {main.classes} classes", ordered
    else:
        why = f" ({main.reason})" if main.holds == "renumbered" else ""
        has = f"{main.choices} number{'' if main.choices == 1 else 's'}{' at each position' * main.has_positions}"
        what = f"{count} class names, and {output} has {has}{why}"
        remedy = (
            f"{ordered}; or say what it is, such as `output: boxes`: the names are then those of the layer that an "
            "analysis explains as its `score:`"
        )
    raise SelectionError(what, where=shorten(view.file), remedy=remedy)


def _in_file(view: GraphView) -> tuple[str, ...] | None:
    """Return the class names that a model brings in its metadata, or None if it has none."""
    text = view.metadata.get(METADATA_KEY, "")
    if not text or len(text) > limits.LABELS_BYTES:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def read_labels(path: Path | str) -> tuple[str, ...]:
    """Read class names in the order of the logits: one a line, without white space and empty lines at the end.

    Raises:
        DataError: if the file cannot be read, is larger than `limits.LABELS_BYTES`, is not UTF-8 text, or is empty.
    """
    place = shorten(str(path))
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(limits.LABELS_BYTES + 1)
    except OSError as fault:
        raise DataError(
            f"the class names cannot be read ({fault.strerror})",
            where=place,
            remedy="give a text file, one name a line",
        ) from None
    if len(content) > limits.LABELS_BYTES:
        raise DataError(
            f"the file of class names is larger than {limits.LABELS_BYTES >> 20} MiB",
            where=place,
            remedy="give a text file, one name a line",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("the class names are not UTF-8 text", where=place, remedy="save the file as UTF-8") from None
    # Only line ends end a line: `splitlines` would also split at characters that may stand in a name.
    names = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError("the file of class names is empty", where=place, remedy="write one name a line")
    return tuple(names)
