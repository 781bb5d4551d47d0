"""What several analyses show and say in the same way: tables, shares, pictures, coverage, caveats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxviz.core.findings import Caveat, Cell, Column, Finding, Metric, Note, Picture, Table, Tile
from onnxviz.core.shares import Share
from onnxviz.core.wording import counted, listed
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import ancestors
from onnxviz.model.maps import in_words

if TYPE_CHECKING:
    from onnxviz.analyses.base import LayerSelector, Subject
    from onnxviz.core.values import Layer

POINTS = 256
"""Most points of a line."""
SMALL = 128
"""Pictures with shorter sides are stored exactly and enlarged in whole steps."""


def table(
    name: str, title: str, columns: Mapping[str, Column], results: Sequence[object], description: str = ""
) -> Table:
    """Return a table with a row for each result.

    Args:
        name: the table's id.
        title: its heading.
        columns: attribute of the results -> its column; `standing.times` is one of an attribute, nothing of None.
        results: dataclasses.
        description: what stands below the heading.
    """
    rows = tuple(tuple(_cell(result, attribute) for attribute in columns) for result in results)
    return Table(name, title, tuple(columns.values()), rows, description)


def _cell(result: Any, attribute: str) -> Cell:
    for part in attribute.split("."):
        result = None if result is None else getattr(result, part)
    if isinstance(result, bool):
        return "yes" if result else "no"
    cell: Cell = result
    return cell


def of_share(kind: Metric, holds: Sequence[bool]) -> Metric:
    """Return a metric that is the share of things for which something holds, with its interval."""
    share = Share(sum(holds), len(holds))
    return replace(kind, value=share.value, total=share.total, interval=share.interval)


def by_name(*kinds: Metric) -> dict[str, Metric]:
    """Return metrics without their values by name."""
    return {kind.name: kind for kind in kinds}


def described(kinds: Mapping[str, Metric]) -> dict[str, str]:
    """Return what each of some metrics is, as an analysis' `metric_names`."""
    return {name: kind.description for name, kind in kinds.items()}


def picture(pixels: npt.NDArray[np.uint8], alt: str) -> Picture:
    """Return a made or a real picture: a small one without loss."""
    small = max(pixels.shape[:2]) < SMALL
    return Picture(pixels, alt=alt, format="png" if small else "jpeg", pixelated=small)


def thinned(curve: npt.NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Return so many of a line's points as are seen where it is a few hundred pixels wide."""
    return tuple(float(value) for value in curve[:: max(1, math.ceil(len(curve) / POINTS))])


def tile_size(tiles: Sequence[Tile], usual: int) -> int:
    """Return the width at which small pictures are shown, a whole multiple of theirs; 0 leaves it to the report."""
    width = max((shown.width for tile in tiles for shown in tile.pictures), default=0)
    return width * max(1, round(usual / width)) if 0 < width < SMALL else 0


def layer_remarks(selector: LayerSelector, subject: Subject) -> tuple[str, ...]:
    """Say where the last convolution stands, if it is taken for the end of the network and is not."""
    note = subject.view.remark_on(selector)
    return (note,) if note else ()


def about_layers(selector: LayerSelector, layers: Sequence[Layer], subject: Subject) -> list[Finding]:
    """Say what should be known of the layers, and how tokens were made a map."""
    said = in_words(layers)
    tokens = [Note(f"{said}.", "tokens")] if said else []
    return [*(Caveat(remark) for remark in layer_remarks(selector, subject)), *tokens]


def about_rounding(scores: Sequence[Layer], subject: Subject) -> Iterator[Caveat]:
    """Say that gradients pass the roundings of a quantised model as if they were not there."""
    graph = subject.view.proto.graph
    needed = ancestors(graph, [layer.value for layer in scores])
    count = sum(traits_of(node).rounds and not needed.isdisjoint(node.output) for node in graph.node)
    if count:
        yield Caveat(
            f"The model rounds its values at {counted(count, 'place')} before this score. Gradients pass them straight "
            "through, as if nothing were rounded, so that they are those of the network that it was quantised from, "
            "more or less.", "rounding", "limit",
        )  # fmt: skip


def doubtful_preprocessing(subject: Subject, consequence: str) -> Iterator[Caveat]:
    """Yield the doubt about the preprocessing, if there is one, with what follows if it is wrong."""
    if doubt := subject.preprocessing.doubt:
        yield Caveat(f"{doubt} With the wrong preprocessing {consequence}", "preprocessing", "wrong")


def without_slope(stops: Sequence[str]) -> str:
    """Say that no gradient reaches the image, with the first of the operators that stop it."""
    return f"every path to the image ends in an operator without a slope: {listed(stops, 2)}"
