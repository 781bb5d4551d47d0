"""Class names from a text file, one a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from onnxviz import limits
from onnxviz.errors import DataError, SelectionError, shorten

if TYPE_CHECKING:
    from onnxviz.graph.view import GraphView


METADATA_KEY = "onnxviz.labels"
"""A model's metadata entry with its class names, a JSON list of strings in the order of the logits."""


def labels_in(view: GraphView) -> tuple[str, ...] | None:
    """Return the class names that a model brings in its metadata, or None if it has none that fit its logits."""
    text = view.metadata.get(METADATA_KEY, "")
    if not text or len(text) > limits.LABELS_BYTES:
        return None
    try:
        names = json.loads(text)
        count = view.logits.unit_count
    except (ValueError, RecursionError, SelectionError):
        return None
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def read_labels(path: Path | str) -> tuple[str, ...]:
    """Read class names in the order of the logits: one a line, empty lines at the end ignored.

    Args:
        path: a UTF-8 text file of at most `limits.LABELS_BYTES`.

    Returns:
        The names, without the white space around them.

    Raises:
        DataError: if the file cannot be read, is too large, is not text, or is empty.
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
