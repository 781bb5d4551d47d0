"""What an analysis may report, as plain data that survives a round trip through JSON.

Findings hold text, numbers and pictures, never markup. Text that comes from a model, an image's name or a recipe is
kept as it is; the report shows it as text. A finding's `id` is unique within its analysis: findings with the same id
are put side by side when models are compared, and `merge` joins the parts that several jobs made of one finding.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np

from onnxviz.core.values import Unit

Cell: TypeAlias = "str | int | float | bool | Unit | None"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image: `pixels` while it is being made, `path` (relative to the run folder) once it is stored.

    Attributes:
        pixels: uint8 [height, width, 3].
        alt: what the picture shows, for readers who cannot see it.
        format: "png" for kernels, masks and diagrams; "jpeg" for photograph-like pictures.
        pixelated: enlarge without smoothing.
    """

    pixels: np.ndarray | None = None
    path: str = ""
    alt: str = ""
    format: Literal["png", "jpeg"] = "png"
    pixelated: bool = False
    width: int = 0
    height: int = 0

    def __post_init__(self) -> None:
        if self.pixels is not None:
            if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
                raise TypeError(f"a picture is uint8 [h, w, 3], not {self.pixels.dtype} {self.pixels.shape}")
            object.__setattr__(self, "height", int(self.pixels.shape[0]))
            object.__setattr__(self, "width", int(self.pixels.shape[1]))


@dataclass(frozen=True)
class Metric:
    """One number that stands for a result; `expect:` can test it by name.

    Attributes:
        total: how many things the number rests on, for example images; 0 if it is no share or mean of anything.
        interval: where the true value lies with a confidence of 95 %, or empty.
        chance: the least and the most that is found by chance, counted the same way; empty if that is unknown.
        tabled: it stands in a table of the same analysis, where a report of one model shows it.
    """

    name: str
    value: float
    title: str = ""
    description: str = ""
    format: Literal["number", "integer", "percent", "scientific"] = "number"
    better: Literal["higher", "lower", "neither"] = "neither"
    id: str = ""
    total: int = 0
    interval: tuple[float, float] | tuple[()] = ()
    chance: tuple[float, float] | tuple[()] = ()
    tabled: bool = False


@dataclass(frozen=True)
class Column:
    """A table's column: its heading and how its cells are written."""

    name: str
    kind: Literal["text", "integer", "number", "percent", "scientific", "unit"] = "text"
    description: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; a `Unit` cell becomes a link to the unit's page."""

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    description: str = ""
    key: int = 0
    """Index of the column that identifies a row when models are compared."""
    leading: bool = False
    """Whether it stands before the pictures, because it says how to take them."""


@dataclass(frozen=True)
class Tile:
    """One unit, class or kernel: pictures with facts.

    Attributes:
        title: heading, for example "ostrich" or "fire9/concat:17".
        unit: the unit's address, or None if the tile is about no single unit.
        pictures: shown side by side.
        facts: name -> number or text, in order.
        curve: for example the activation at each step, drawn as a small line.
        curve_title: what the curve shows.
        captions: one for each picture, or empty.
    """

    title: str
    unit: Unit | None = None
    pictures: tuple[Picture, ...] = ()
    facts: tuple[tuple[str, Cell], ...] = ()
    curve: tuple[float, ...] = ()
    curve_title: str = ""
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class TileGrid:
    """Many tiles of the same kind."""

    id: str
    title: str
    tiles: tuple[Tile, ...]
    description: str = ""
    tile_size: int = 0
    """Preferred width of a picture on the page in pixels; 0 leaves it to the report."""


@dataclass(frozen=True)
class MatrixRow:
    """One row of pictures: a heading, the original picture, and one cell for each column (None where there is none)."""

    title: str
    cells: tuple[tuple[Picture, ...] | None, ...]
    lead: Picture | None = None
    facts: tuple[tuple[str, Cell], ...] = ()


@dataclass(frozen=True)
class PictureMatrix:
    """Pictures in rows and columns, for example image and class by layer; a cell's pictures stand above each other."""

    id: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    description: str = ""
    scale: str = ""
    """What the colours mean, for example "0 to the map's own maximum"."""


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; len(edges) == len(counts) + 1."""

    id: str
    title: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    x_label: str = ""
    y_label: str = ""
    description: str = ""


@dataclass(frozen=True)
class Bars:
    """A number for each category, for example detectors for each concept category; with what chance gives, or none."""

    id: str
    title: str
    categories: tuple[str, ...]
    values: tuple[float, ...]
    y_label: str = ""
    description: str = ""
    chance: tuple[tuple[float, float], ...] = ()
    """For each category the least and the most that is found by chance."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """One or more lines over a common axis."""

    id: str
    title: str
    series: tuple[Series, ...]
    x_label: str = ""
    y_label: str = ""
    description: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence or two in words: what was found.

    Attributes:
        about: which parts such sentences speak of one by one, such as "each image"; empty where it speaks of all that
            was analysed. The first screen shows those of parts only where there is room for every one.
    """

    text: str
    id: str = ""
    about: str = ""


@dataclass(frozen=True)
class Caveat:
    """Something the reader must know before believing the result.

    Attributes:
        text: its first sentence, or what stands before a colon, is a line of its own in the report; the rest folds out.
        level: how much depends on it: results may be "wrong" or mean nothing; there is a "doubt" about some; or it is a
            "limit" of what was looked at, or how to read it. The report has the worst first.
    """

    text: str
    id: str = ""
    level: Literal["wrong", "doubt", "limit"] = "doubt"


@dataclass(frozen=True)
class Coverage:
    """How much of what there is was analysed: `done` of `total` `what`, and why not more."""

    what: str
    done: int
    total: int
    reason: str = ""
    id: str = ""


@dataclass(frozen=True, eq=False)
class Array:
    """Numbers for other programs, stored as .npz; not shown in the report but linked from it."""

    id: str
    title: str
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True)
class Outcomes:
    """For each image whether it has what a metric is the share of: not shown, but compared image by image.

    Attributes:
        id: the metric's name.
        images: the images' names; the data set is the analysis' own.
        holds: whether each has it.
    """

    id: str
    images: tuple[str, ...]
    holds: tuple[bool, ...]


@dataclass(frozen=True)
class Numbers:
    """Where an array of a job's result lies once it is stored; read back, it is the array again."""

    path: str


@dataclass(frozen=True)
class CustomFinding:
    """Base of a kind of finding that another package adds, and of its parts: frozen dataclasses too.

    Fields hold what those of the findings here do: text, numbers, units, pictures, arrays, findings, and tuples of
    these. The report shows a table of them under `title`, with `description`, where there are such fields. A process
    that has not imported the class reads and writes an `UnknownFinding`, without loss.
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        FINDING_TYPES[_type_name(cls)] = cls


@dataclass(frozen=True)
class UnknownFinding:
    """A finding of a class that this process does not have, or has in another form, as it was stored.

    Attributes:
        kind: module and name of the class.
        fields: its fields by name, in order.
    """

    kind: str
    fields: tuple[tuple[str, Any], ...]


Finding: TypeAlias = (
    Metric | Table | TileGrid | PictureMatrix | Histogram | Bars | Curve | Note | Caveat | Coverage | Array | Outcomes
    | CustomFinding | UnknownFinding
)  # fmt: skip

FINDING_TYPES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Metric, Column, Table, Tile, TileGrid, MatrixRow, PictureMatrix, Histogram, Bars, Series, Curve, Note,
        Caveat, Coverage, Array, Outcomes, Picture, Unit, Numbers,
    )
}  # fmt: skip

_CUSTOM = re.compile(r"[^\W\d][\w<>]*(\.[^\W\d][\w<>]*|\.<locals>)+")
"""Names of classes with their modules, by which findings of other packages differ from those here."""
_PLAIN = frozenset({str, int, bool, type(None)})
"""Types of cells that are JSON data as they are."""
_WITHOUT_LEAVES = (
    Metric, Column, Table, Histogram, Bars, Series, Curve, Note, Caveat, Coverage, Outcomes, Unit, str, int, float,
)  # fmt: skip

T = TypeVar("T")


def _type_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if issubclass(cls, CustomFinding) else cls.__name__


def pictures(value: object) -> Iterable[Picture]:
    """Yield every picture inside a finding or a collection of findings, in order."""
    if isinstance(value, Picture):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from pictures(getattr(value, entry.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from pictures(item)


Leaf: TypeAlias = Picture | Array | Numbers | np.ndarray
"""What is stored in a file of its own."""


def replace_leaves(value: T, replace: Callable[[Any], Leaf]) -> T:
    """Return the same finding or result with every picture and array replaced, for storing them in files."""
    if isinstance(value, Leaf):
        return replace(value)  # type: ignore[return-value]
    if isinstance(value, _WITHOUT_LEAVES):  # a table may have a million cells
        return value
    if isinstance(value, tuple | list):
        return type(value)(replace_leaves(item, replace) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Unit):
        return dataclasses.replace(
            value,
            **{entry.name: replace_leaves(getattr(value, entry.name), replace) for entry in dataclasses.fields(value)},
        )
    return value


def to_data(value: object, types: Mapping[str, type] | None = None) -> Any:
    """Turn a finding, or a dataclass of a job's result, into JSON data.

    Numbers that JSON lacks are written as {"type": "float", "value": "nan"}; pictures and arrays must have been stored.

    Args:
        value: findings, and what they are made of.
        types: the dataclasses that may be written, by name; those of findings if None.

    Raises:
        TypeError: if a picture or an array has no path yet, or something is no finding and no part of one.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple | list):
        return [
            item if type(item) in _PLAIN else to_data(item, types) for item in value
        ]  # a table may have a million cells
    if isinstance(value, Picture | Array) and not value.path:
        raise TypeError(f"a {type(value).__name__} must be stored before it is written as data")
    if isinstance(value, UnknownFinding):
        return {"type": value.kind, **{name: to_data(item, types) for name, item in value.fields}}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = _type_name(type(value))
        names = [entry.name for entry in dataclasses.fields(value)]
        if name not in (FINDING_TYPES if types is None else types) or "type" in names:
            raise TypeError(f"{name} is no finding: derive it from `CustomFinding`, without a field called 'type'")
        kept = [name for name in names if not (name in ("pixels", "arrays") and isinstance(value, Picture | Array))]
        return {"type": name, **{name: to_data(getattr(value, name), types) for name in kept}}
    if isinstance(value, np.generic):
        return to_data(value.item(), types)
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": "float", "value": str(value)}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a finding cannot hold a {type(value).__name__}")


def from_data(data: Any, types: Mapping[str, type] = FINDING_TYPES) -> Any:
    """Undo `to_data`; lists become tuples.

    Args:
        data: JSON data.
        types: the dataclasses that may be made, by name; those of findings if not given.

    Raises:
        ValueError: if the data names a type that is no finding or has fields that the type lacks.
    """
    if isinstance(data, list):
        return tuple([item if type(item) in _PLAIN or type(item) is float else from_data(item, types) for item in data])
    if not isinstance(data, dict):
        return data
    name = data.get("type")
    if name == "float":
        return float(data["value"])
    given = {key: from_data(item, types) for key, item in data.items() if key != "type"}
    cls, custom = types.get(str(name)), bool(_CUSTOM.fullmatch(str(name)))
    known = {entry.name for entry in dataclasses.fields(cls)} if cls else set()
    if custom and set(given) != known:
        return UnknownFinding(str(name), tuple(given.items()))
    if cls is None:
        raise ValueError(f"no finding is called {name!r}")
    if unknown := set(given) - known:
        raise ValueError(f"{name} has no field {sorted(unknown)[0]!r}")
    return cls(**given)


_JOINED = {"TileGrid": ("tiles",), "Table": ("rows",), "PictureMatrix": ("rows",), "Outcomes": ("images", "holds")}


def merge(parts: Iterable[Sequence[Any]]) -> list[Any]:
    """Join what several jobs of one analysis found.

    Grids, tables, matrices and outcomes with the same id become one, in job order; coverage of the same kind is added
    up; sentences that are said twice are kept once; everything else, such as the analysis' own dataclasses, is kept as
    it is.
    """
    merged: list[Any] = []
    places: dict[tuple[str, str], int] = {}
    for finding in (finding for part in parts for finding in part):
        kind = _type_name(type(finding))
        if isinstance(finding, Coverage):
            identity = (kind, finding.id or finding.what)
        elif isinstance(finding, Note | Caveat):
            identity = (kind, finding.text)
        else:
            identity = (kind, getattr(finding, "id", "") if kind in _JOINED else f"#{len(merged)}")
        place = places.get(identity)
        if place is None:
            places[identity] = len(merged)
            merged.append(finding)
            continue
        first = merged[place]
        if kind in _JOINED:
            entries = {name: getattr(first, name) + getattr(finding, name) for name in _JOINED[kind]}
            merged[place] = dataclasses.replace(first, **entries)
        elif isinstance(first, Coverage) and isinstance(finding, Coverage):
            merged[place] = dataclasses.replace(
                first, done=first.done + finding.done, total=first.total + finding.total
            )
    return merged
