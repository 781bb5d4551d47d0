"""What exemplars say in numbers, tables and sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from onnxviz.analyses import presentation
from onnxviz.analyses.exemplars.peaks import LayerPeaks
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Array, Caveat, Column, Coverage, Finding, Metric, Note, Table, Tile, TileGrid
from onnxviz.core.values import Layer, Unit
from onnxviz.core.wording import counted, listed
from onnxviz.data.images import ImageSource

METRICS = presentation.by_name(
    Metric(
        "never_active", math.nan, "units that are never active",
        "Share of the units that are above zero nowhere in any of the images: on these they do nothing, if an "
        "activation that cuts at zero comes behind.", "percent", "lower",
    ),
)  # fmt: skip
"""What recipes can expect, without values."""
_TILE = 128
_LISTED = 8
_COLUMNS = (
    Column("unit", "unit"), Column("highest peak", "number", "The greatest activation in any of the images."),
    Column("median peak", "number", "Of the sampled images."), Column("lowest peak", "number"),
    Column("above 0 in", "percent", "Share of the images in which the unit is above zero anywhere."),
    Column("image of the highest"), Column("classes of the highest"),
)  # fmt: skip


@dataclass(frozen=True)
class LayerFound:
    """How many of a layer's units are never active.

    Attributes:
        layer: its name.
        units: how many units were asked for.
        never_active: which of them are above zero in none of so many images.
        images: of how many.
        shown: how many are shown in pictures.
        tied: how many reach their highest peak in more images than are kept.
    """

    layer: str
    units: int
    never_active: tuple[int, ...]
    images: int
    shown: int
    tied: int


def layer_findings(
    layer: Layer, peaks: LayerPeaks, units: Sequence[int], shown: Sequence[int], tiles: Sequence[Tile],
    source: ImageSource, class_of: Callable[[int], str],
) -> list[Any]:  # fmt: skip
    """Return the tiles of a layer's units, a row for each unit, and the numbers of all.

    `class_of` says what an image is known to show.
    """
    best = peaks.highest
    order = np.sort(peaks.sampled, axis=0)
    median = order[(len(order) - 1) // 2]
    rows = tuple(
        (
            Unit(layer.name, unit),
            float(best.values[unit, 0]),
            float(median[unit]),
            float(-peaks.lowest.values[unit, 0]) if peaks.lowest.values.shape[1] else float(order[0, unit]),
            int(peaks.active[unit]) / peaks.images,
            shorten(source.names[best.images[unit, 0]], 60),
            class_words([class_of(image) for image in best.images[unit].tolist()]),
        )
        for unit in units
    )
    dead = tuple(unit for unit in units if peaks.never_active[unit])
    tied = sum(int(peaks.as_high[unit]) > best.values.shape[1] for unit in units if unit not in dead)
    found: list[Any] = [LayerFound(layer.name, len(units), dead, peaks.images, len(shown), tied)]
    if tiles:
        found.append(
            TileGrid(f"exemplars-{layer.position}", f"What excites units of {shorten(layer.name, 60)}", tuple(tiles),
                     "", _TILE)
        )  # fmt: skip
    found.append(
        Table("units", "Units", _COLUMNS, rows, "Of every unit the peaks: its greatest activation in an image.")
    )
    found.append(
        Array(
            f"peaks-{layer.position}",
            f"Highest and lowest peaks of {layer.name}",
            {
                "units": np.array(units), "values": best.values[units], "images": best.images[units],
                "places": best.places[units], "map": np.array(peaks.shape),
                "lowest_values": -peaks.lowest.values[units], "lowest_images": peaks.lowest.images[units],
                "active_images": peaks.active[units], "names": np.array(source.names),
            },
        )
    )  # fmt: skip
    return found


def summary(layers: Sequence[LayerFound]) -> Iterator[Finding]:
    """Yield how many units are never active, and where."""
    if not layers:
        return
    units = [one for layer in layers for one in [True] * len(layer.never_active)
             + [False] * (layer.units - len(layer.never_active))]  # fmt: skip
    yield presentation.of_share(METRICS["never_active"], units)
    several = layers[0].images > 1
    images = counted(layers[0].images, "image") if several else "the one image"
    dead = [layer for layer in layers if layer.never_active]
    if dead:
        where = listed((f"{shorten(layer.layer, 40)}: {len(layer.never_active)} of {layer.units}" for layer in dead),
                       _LISTED)  # fmt: skip
        nowhere = f"in none of {images}" if several else f"nowhere in {images}"
        yield Note(f"Units that are above zero {nowhere}: {where}.", "never_active")
    else:
        some = f"some of {images}" if several else images
        yield Note(f"Each of {counted(len(units), 'unit')} is above zero in {some}.", "never_active")


def about_shown(layers: Sequence[LayerFound], wanted: int | str) -> Iterator[Finding]:
    """Say of how many units there are pictures."""
    done, every = sum(layer.shown for layer in layers), sum(layer.units for layer in layers)
    dead = sum(len(layer.never_active) for layer in layers)
    reasons = [f"`shown: {wanted}` of each layer"] if done < every - dead else []
    reasons += ["those that are never active have none"] if dead else []
    if every:
        yield Coverage("units in pictures", done, every, "; ".join(reasons), "coverage.shown")


def about_ties(layers: Sequence[LayerFound]) -> Iterator[Finding]:
    """Say of how many units the images that are shown are some of many that excite them as much."""
    tied = [layer for layer in layers if layer.tied]
    if tied:
        where = listed((f"{shorten(layer.layer, 40)}: {layer.tied} of {layer.units}" for layer in tied), _LISTED)
        yield Caveat(
            "Units that reach their highest peak in more images than are kept, as an activation does that ends at a "
            f"bound: {where}. Of images and places that excite a unit alike those are shown that come first, which say "
            "less of it.", "ties", "limit",
        )  # fmt: skip


def about_left_out(layers: Sequence[Layer]) -> Iterator[Finding]:
    """Say which of the chosen layers could not be looked at."""
    if layers:
        names = listed((shorten(layer.name, 60) for layer in layers), _LISTED)
        yield Caveat(
            f"{counted(len(layers), 'chosen layer')} {'has' if len(layers) == 1 else 'have'} no units with a map or a "
            f"single number, and {'was' if len(layers) == 1 else 'were'} left out: {names}.", "left_out", "limit",
        )  # fmt: skip


def about_refused(rule: str, refused: Mapping[str, str]) -> Iterator[Finding]:
    """Say at which layers there is nothing carried back to the pixels, and why."""
    for reason, layers in groupby(sorted(refused, key=refused.__getitem__), key=refused.__getitem__):
        names = listed((shorten(layer, 60) for layer in layers), _LISTED)
        yield Caveat(
            f"There is no {rule.replace('_', ' ')} of units of {names}: {reason}.", f"refused.{names}", "limit"
        )


def class_name(source: ImageSource, image: int) -> str:
    """Return the class that an image is known to show, as its data set calls it; "" if nothing says it."""
    for ask in ("class_names_of", "class_of"):
        if hasattr(source, ask):
            said = getattr(source, ask)(image)
            name = said[0] if isinstance(said, tuple) and said else said
            if isinstance(name, str):
                return name
    return ""


def class_words(names: Sequence[str]) -> str:
    """Return how often each class is among some images, the most frequent first; "" if none is known."""
    known = Counter(name for name in names if name)
    if not known:
        return ""
    said = [f"{shorten(name, 40)} {count}" for name, count in known.most_common(3)]
    left = len(known) - len(said)
    rest = f"; {left} more classes" if left > 1 else "; 1 more class" if left else ""
    return f"{', '.join(said)} of {len(names)}{rest}"
