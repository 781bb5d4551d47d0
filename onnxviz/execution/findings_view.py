"""Findings as a notebook shows them: pictures and tables in HTML, in which every name is text."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.core.errors import beginning, shorten
from onnxviz.core.findings import (
    Array,
    Caveat,
    Coverage,
    Finding,
    Metric,
    Note,
    Outcomes,
    Picture,
    PictureMatrix,
    Table,
    TileGrid,
    UnknownFinding,
    pictures,
)
from onnxviz.core.shares import percent
from onnxviz.core.values import Unit
from onnxviz.execution.store import encode_picture
from onnxviz.report.files import PICTURES, find_kind

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_TILES, _ROWS, _ENTRIES = 24, 20, 50
"""Most tiles of a grid, rows of a table and entries of a list that are shown; how many more there are is said."""
_SIDE = 128
_SMALL = 48
"""Pictures of fewer pixels are enlarged without smoothing, as in the report."""
_FORMATS: dict[str, Callable[[float], str]] = {
    "percent": lambda value: percent(value, 1),
    "integer": lambda value: f"{value:,.0f}",
    "scientific": lambda value: f"{value:.2e}",
    "number": lambda value: f"{value:.4g}",
}


@dataclass(frozen=True, eq=False, repr=False)
class Findings:
    """What an analysis found in a model, as its caller in Python sees it; a notebook shows it as pictures and tables.

    Attributes:
        title: the analysis' heading.
        findings: everything that was found, as plain data.
        metrics: the numbers that a recipe's `expect:` could test.
        remarks: what was done otherwise than usual, such as fewer images at a time.
    """

    title: str
    findings: tuple[Finding, ...]
    metrics: dict[str, float]
    remarks: tuple[str, ...] = ()

    @property
    def pictures(self) -> list[Image]:
        """The pictures, in the order of the report."""
        from PIL import Image as Images

        return [Images.fromarray(item.pixels) for item in pictures(self.findings) if item.pixels is not None]

    @property
    def values(self) -> dict[str, dict[str, np.ndarray]]:
        """The numbers behind the pictures: arrays by name, by the id of what they belong to."""
        return {item.id: dict(item.arrays) for item in self.findings if isinstance(item, Array)}

    def __repr__(self) -> str:
        kinds = [type(item).__name__ for item in self.findings]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        return f"<onnxviz findings {shorten(self.title)!r}: {counted}>"

    def _repr_html_(self) -> str:
        metrics = [item for item in self.findings if isinstance(item, Metric)]
        rest = [item for item in self.findings if not isinstance(item, Metric | Note | Caveat | Coverage | Array)]
        said = [item for item in self.findings if isinstance(item, Note | Caveat)]
        ends = [item for item in self.findings if isinstance(item, Coverage | Array)]
        remarks = [f"<p>{_sentence(text)}</p>" for text in self.remarks]
        rest.sort(key=lambda item: isinstance(item, Table) - isinstance(item, TileGrid | PictureMatrix))
        parts = [*map(finding_html, said), metrics_html(metrics), *map(finding_html, [*rest, *ends]), *remarks]
        return f"<div><h3>{_name(self.title)}</h3>{''.join(parts)}</div>"

    def _repr_png_(self) -> bytes | None:
        """Show the first pictures side by side, where no HTML is shown."""
        import io

        sheet = contact_sheet(self.pictures[:_TILES])
        if sheet is None:
            return None
        stream = io.BytesIO()
        sheet.save(stream, "PNG")
        return stream.getvalue()


def contact_sheet(images: Sequence[Image], columns: int = 6) -> Image | None:
    """Return pictures side by side, each as large as its square allows; None of none."""
    from PIL import Image as Images

    if not images:
        return None
    columns = min(columns, len(images))
    sheet = Images.new("RGB", (columns * (_SIDE + 8), -(-len(images) // columns) * (_SIDE + 8)), "white")
    for place, image in enumerate(images):
        factor = _SIDE / max(image.size)
        how = Images.Resampling.NEAREST if max(image.size) < _SMALL else Images.Resampling.BICUBIC
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        sheet.paste(image.resize(size, how), (place % columns * (_SIDE + 8) + 4, place // columns * (_SIDE + 8) + 4))
    return sheet


def sample(findings: Sequence[Finding], count: int) -> list[Picture]:
    """Return at most so many pictures, spread evenly: one of each tile, else the last of each row of a matrix."""
    tiles = [
        tile.pictures[0] for item in findings if isinstance(item, TileGrid) for tile in item.tiles if tile.pictures
    ]
    rows = [row for item in findings if isinstance(item, PictureMatrix) for row in item.rows]
    ends = [cells[-1][-1] for row in rows if (cells := [cell for cell in row.cells if cell])]
    found = tiles or ends or list(pictures(findings))
    count = min(count, len(found))
    return [found[place * len(found) // count] for place in range(count)]


# --- parts of a page ------------------------------------------------------------------------------------------------


def picture_html(picture: Picture, folder: Path | None = None, width: int = _SIDE) -> str:
    """Return a picture with its pixels, or its file's if those are in a run folder."""
    if picture.pixels is not None:
        kind, content = f"image/{picture.format}", encode_picture(picture)
    else:
        found = find_kind(folder, picture.path, PICTURES) if folder else None
        if found is None:
            return "<span>picture missing</span>"
        path, _, kind = found
        content = path.read_bytes()
    small = picture.pixelated or 0 < picture.width < _SMALL
    style = f"width:{width}px;display:inline-block;margin:1px" + (";image-rendering:pixelated" if small else "")
    data = base64.b64encode(content).decode()
    return f'<img alt="{_sentence(picture.alt, 300)}" style="{style}" src="data:{kind};base64,{data}">'


def metrics_html(metrics: Sequence[Metric]) -> str:
    """Return a table of numbers, with their intervals."""
    rows = []
    for item in metrics:
        write = _FORMATS[item.format]
        inside = f" ({' to '.join(map(write, item.interval))})" if item.interval else ""
        rows.append((item.title or item.name, f"{write(item.value)}{inside}"))
    return _table((), rows) if rows else ""


def finding_html(finding: Any) -> str:
    """Return a finding; of a kind that is not known here a table of its fields."""
    if isinstance(finding, Note | Caveat):
        return f"<p>{'⚠ ' if isinstance(finding, Caveat) else ''}{_sentence(finding.text)}</p>"
    if isinstance(finding, Coverage):
        reason = f" ({finding.reason})" if finding.reason else ""
        return f"<p><small>{_sentence(f'{finding.done:,} of {finding.total:,} {finding.what}{reason}')}</small></p>"
    if isinstance(finding, Array):
        names = ", ".join(finding.arrays)
        return f"<p><small>{_sentence(f'.values[{finding.id!r}]: {names}')}</small></p>"
    if isinstance(finding, Outcomes):
        return ""  # for comparisons, image by image
    draw = _DRAWN.get(type(finding), _fields_html)
    title = next((text for name in ("title", "id", "kind") if isinstance(text := _field(finding, name), str)), "")
    text = _field(finding, "description")
    about = f"<p><small>{_sentence(text)}</small></p>" if isinstance(text, str) and text else ""
    return f"<h4>{_name(title or type(finding).__name__)}</h4>{about}{draw(finding)}"


def _grid_html(grid: TileGrid) -> str:
    width = 3 * _SIDE if len(grid.tiles) == 1 else min(grid.tile_size or _SIDE, _SIDE)
    tiles = []
    for tile in grid.tiles[:_TILES]:
        facts = "; ".join(f"{name} {_plain(value)}" for name, value in tile.facts[:3])
        drawn = "".join(picture_html(picture, width=width) for picture in tile.pictures)
        text = f"{_name(tile.title)}<br><small>{_sentence(facts, 300)}</small>"
        tiles.append(f'<figure style="margin:0;max-width:40em">{drawn}<figcaption>{text}</figcaption></figure>')
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(tiles)}</div>{_more(len(grid.tiles), _TILES)}'


def _matrix_html(matrix: PictureMatrix) -> str:
    rows = [
        (row.title, row.lead, *(cell if cell is not None else () for cell in row.cells)) for row in matrix.rows[:_ROWS]
    ]
    scale = f"<p><small>{_sentence(matrix.scale)}</small></p>" if matrix.scale else ""
    return scale + _table(("", "", *matrix.columns), rows) + _more(len(matrix.rows), _ROWS)


def _table_html(table: Table) -> str:
    return _table([column.name for column in table.columns], table.rows[:_ROWS]) + _more(len(table.rows), _ROWS)


def _fields_html(finding: Any) -> str:
    if isinstance(finding, UnknownFinding):
        fields = list(finding.fields)
    else:
        fields = [(entry.name, getattr(finding, entry.name)) for entry in dataclasses.fields(finding)]
    heads = [name for name in ("id", "title", "description") if isinstance(_field(finding, name), str)]
    return _table((), [(name.replace("_", " "), value) for name, value in fields if name not in heads and value != ()])


_DRAWN: dict[type, Callable[[Any], str]] = {TileGrid: _grid_html, PictureMatrix: _matrix_html, Table: _table_html}


def _table(heads: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_name(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_value(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div style="overflow-x:auto"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


def _value(value: Any) -> str:
    if isinstance(value, Picture):
        return picture_html(value)
    if isinstance(value, tuple | list):
        if value and all(isinstance(item, Picture) for item in value):
            return "".join(map(picture_html, value))
        shown = ", ".join(map(_value, islice(value, _ENTRIES)))
        return shown + _more(len(value), _ENTRIES)
    if dataclasses.is_dataclass(value) and not isinstance(value, Unit):
        return finding_html(value)
    return _name(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, Unit):
        return f"{value.layer}:{value.index}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _field(finding: Any, name: str) -> Any:
    own = dict(finding.fields) if isinstance(finding, UnknownFinding) else {}
    return own.get(name, getattr(finding, name, None))


def _more(count: int, shown: int) -> str:
    return f" <small>and {count - shown:,} more</small>" if count > shown else ""


def _name(text: object) -> str:
    return html.escape(shorten(str(text), 140))


def _sentence(text: str, length: int = 2000) -> str:
    return html.escape(beginning(text, length))
