"""What a finished run leaves in its folder beside the jobs: tables, arrays, the locked recipe, `run.json`, a log."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from onnxviz.core import results
from onnxviz.core.errors import OutputError, beginning, shorten
from onnxviz.core.findings import Array, Cell, Finding, Table, replace_leaves
from onnxviz.core.results import Part, RunResult
from onnxviz.core.values import Unit
from onnxviz.execution.store import cannot_write, plain_name, write_bytes

RUN = "run.json"
RECIPE = "recipe.lock.yaml"
LOG = "log.txt"
_WRITTEN = "tables/.written.json"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_run(result: RunResult, folder: Path) -> RunResult:
    """Write tables, arrays, the locked recipe and `run.json`, in this order, each at once or not at all.

    Returns:
        The run with the paths that arrays have now.

    Raises:
        OutputError: if something cannot be written.
    """
    before = _written(folder)
    written: list[str] = []
    several = len(result.models) > 1
    analyses = []
    for analysis in result.analyses:
        parts = []
        for part in analysis.parts:
            start = plain_name(f"{analysis.id}-{part.model}" if several else analysis.id)
            write_tables(part.findings, folder, start, written)
            parts.append(_publish_arrays(part, folder, start, written))
        analyses.append(replace(analysis, parts=tuple(parts)))
    result = replace(result, analyses=tuple(analyses))
    write_bytes(folder / _WRITTEN, json.dumps(sorted(written)).encode())
    for stale in before - set(written):
        (folder / stale).unlink(missing_ok=True)
    write_bytes(folder / RECIPE, result.recipe.encode())
    write_bytes(folder / RUN, run_data(result))
    return result


def run_data(result: RunResult) -> bytes:
    """Return what `run.json` holds."""
    return (json.dumps(results.write(result), allow_nan=False) + "\n").encode()


def read_run(folder: Path) -> RunResult:
    """Read a finished run.

    Raises:
        OutputError: if the folder has none, or a damaged one.
    """
    try:
        return results.read(json.loads((folder / RUN).read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        remedy = "name the folder of a run, for example runs/audit"
        if (folder / "jobs").is_dir():
            remedy = "run the recipe again: what was finished is kept"
        raise OutputError(
            f"there is no finished run ({RUN}) here", where=shorten(str(folder), 200), remedy=remedy
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{RUN} cannot be read: {beginning(str(error))}",
            where=shorten(str(folder), 200),
            remedy="run the recipe again: what was finished is kept",
        ) from error


def write_tables(findings: Iterable[Finding], folder: Path, start: str, written: list[str]) -> None:
    """Write every table as CSV; text that a spreadsheet would run as a formula gets a quote in front."""
    for finding in findings:
        if isinstance(finding, Table):
            name = _fresh(f"tables/{start}-{plain_name(finding.id)}", ".csv", written)
            stream = io.StringIO(newline="")
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([_cell(column.name) for column in finding.columns])
            writer.writerows([_cell(cell) for cell in row] for row in finding.rows)
            # The byte order mark makes spreadsheets read UTF-8.
            write_bytes(folder / name, stream.getvalue().encode("utf-8-sig"))


def _cell(cell: Cell) -> str | int | float:
    if cell is None:
        return ""
    if isinstance(cell, Unit):
        return _cell(f"{cell.layer}:{cell.index}")
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell
    return cell


def _publish_arrays(part: Part, folder: Path, start: str, written: list[str]) -> Part:
    """Give arrays a name that people find; hard links where the disk has them, since jobs keep the same bytes."""

    def publish(leaf: object) -> object:
        if not isinstance(leaf, Array):
            return leaf
        name = _fresh(f"arrays/{start}-{plain_name(leaf.id)}", ".npz", written)
        source, target = folder / leaf.path, folder / name
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            try:
                temporary.hardlink_to(source)
            except (OSError, NotImplementedError):
                shutil.copyfile(source, temporary)
            target.unlink(missing_ok=True)
            temporary.replace(target)
        except OSError as error:
            raise cannot_write(target, error) from error
        return replace(leaf, arrays={}, path=name)

    findings = tuple(replace_leaves(finding, publish) for finding in part.findings)  # type: ignore[arg-type]
    return replace(part, findings=findings)


def _fresh(stem: str, suffix: str, written: list[str]) -> str:
    """Return a name not written yet in this run, and note it; capitals do not make names differ."""
    taken = {name.lower() for name in written}
    number, name = 1, f"{stem}{suffix}"
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    written.append(name)
    return name


def _written(folder: Path) -> set[str]:
    """Return what the run before wrote, so that tables of an older recipe do not stay; nothing else is touched."""
    try:
        names = json.loads((folder / _WRITTEN).read_bytes())
    except (OSError, ValueError):
        return set()
    plain = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    return {
        name for name in plain if name.count("/") == 1 and name.startswith(("tables/", "arrays/")) and ".." not in name
    }


class Log:
    """The log in a run folder, and in another file: what was done when, and the tracebacks that messages leave out."""

    def __init__(self, folder: Path, also: Path | None = None) -> None:
        self.path = folder / LOG
        self._streams: dict[Path, TextIO | None] = dict.fromkeys((self.path, *([also] if also else ())))

    def write(self, text: str) -> None:
        """Append a line or a traceback with the time; a log that cannot be written stops nobody."""
        for path, stream in self._streams.items():
            with contextlib.suppress(OSError):
                opened = self._streams[path] = stream or open_log(path)
                append_log(opened, text)

    def close(self) -> None:
        """Close the files; they are opened again by the next line."""
        for path, stream in self._streams.items():
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
                self._streams[path] = None


def open_log(path: Path) -> TextIO:
    """Open a log to append to it, line by line, so that a killed run leaves all that was said.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)


def append_log(stream: TextIO, text: str) -> None:
    """Write a line or a traceback with the time."""
    stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text.rstrip()}\n")
