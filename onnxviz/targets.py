"""From what a user writes (layer, class name, range, position) to what an analysis works on: `values.Target`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from onnxviz.errors import SelectionError, nearest, shorten
from onnxviz.values import Layer, Target

if TYPE_CHECKING:
    from onnxviz.graph.view import GraphView

CENTRE: tuple[int, ...] = ()
"""`Target.position` of the centre neuron: where that is depends on the image size, and is found when the layer runs."""

_RANGE = re.compile(r"\s*(\d{1,9})\s*-\s*(\d{1,9})\s*")
_INDEX = re.compile(r"\s*(-?\d{1,9})\s*")

UnitChoice = StrictInt | str
Index = Annotated[StrictInt, Field(ge=0)]


class TargetSelector(BaseModel):
    """Units of one or more layers, as a recipe names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: str | list[str] = Field(
        description="A layer name, glob, `Conv[3]`, role (first_conv, last_conv, all_convs, logits), or a list."
    )
    units: UnitChoice | list[UnitChoice] | None = Field(
        None,
        description="Indices from 0, ranges such as 0-15, class names where the layer is the logits, or `all`; "
        "nothing for the layer as a whole.",
    )
    sign: Literal["positive", "negative", "both"] = Field(
        "positive", description="Drive the activation up, down, or make one picture of each."
    )
    position: Literal["center"] | list[Index] | None = Field(
        None, description="One neuron of the unit: `center`, or its place as [y, x]; nothing for the unit everywhere."
    )


def resolve(selectors: Sequence[TargetSelector], view: GraphView, labels: Sequence[str] | None) -> tuple[Target, ...]:
    """Return the targets that selectors name, in their order, each once.

    Args:
        selectors: what the user wrote.
        view: the network whose layers are meant.
        labels: class names in logit order, or None.

    Raises:
        SelectionError: if a layer, unit, class or position does not exist or could be several.
    """
    found: dict[Target, None] = {}
    for selector in selectors:
        for layer in view.select(selector.layer):
            names = labels if has_class_units(layer, view) else None
            for unit in _units(selector.units, layer, names):
                for sign in _SIGNS[selector.sign]:
                    label = names[unit] if names is not None and unit is not None and unit < len(names) else ""
                    found[Target(layer.name, unit, _position(selector, layer), sign, label)] = None
    return tuple(found)


_SIGNS: dict[str, tuple[Literal[1, -1], ...]] = {"positive": (1,), "negative": (-1,), "both": (1, -1)}


def unit_indices(
    choice: UnitChoice | Sequence[UnitChoice], layer: Layer, names: Sequence[str] | None = None
) -> list[int]:
    """Return the unit indices of one layer that a choice names, in its order, each once.

    Args:
        choice: index, range "0-15", class name, "all", or a list of these.
        layer: the layer.
        names: the units' class names in order, or None where units have no names.

    Raises:
        SelectionError: if a unit does not exist, or a name is unknown or ambiguous.
    """
    items = [choice] if isinstance(choice, str | int) else list(choice)
    if not items:
        raise SelectionError(
            "an empty list names no unit", where=_shown(layer), remedy="leave `units` out for the whole layer"
        )
    found: dict[int, None] = {}
    for item in items:
        found.update(dict.fromkeys(_indices(item, layer, names)))
    return list(found)


def class_index(name: str, labels: Sequence[str] | None) -> int:
    """Return the index of a class, by its whole label or by one of the synonyms in it ("lion, king of beasts").

    Capitals, underscores and repeated blanks make no difference.

    Raises:
        SelectionError: if there are no labels, or the name is unknown, or several classes have it.
    """
    if not labels:
        raise SelectionError(
            f"there are no class names to look up {shorten(name)!r} in",
            remedy="give the model `labels:`, a file with one class name a line, or name the class by its index",
        )
    wanted = _plain(name)
    exact = [index for index, label in enumerate(labels) if _plain(label) == wanted]
    matches = exact or [
        index for index, label in enumerate(labels) if wanted in {_plain(word) for word in label.split(",")}
    ]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(f"{index} ({shorten(labels[index])})" for index in matches[:8])
        raise SelectionError(f"{len(matches)} classes are called {shorten(name)!r}: {listed}", remedy="give the index")
    words = {word.strip() for label in labels for word in label.replace("_", " ").split(",")}
    advice = nearest(" ".join(name.replace("_", " ").split()), sorted(words))
    raise SelectionError(
        f"none of the {len(labels)} classes is called {shorten(name)!r}",
        remedy=advice or "`onnxviz inspect` lists the model's classes",
    )


def has_class_units(layer: Layer, view: GraphView) -> bool:
    """Return whether a layer's units are the classes: the logits, or a softmax or reshape behind them."""
    logits = view.logits
    if layer.name == logits.name:
        return True
    return bool(layer.position > logits.position and layer.unit_count == logits.unit_count > 0)


def _units(
    choice: UnitChoice | list[UnitChoice] | None, layer: Layer, names: Sequence[str] | None
) -> Sequence[int | None]:
    return [None] if choice is None else unit_indices(choice, layer, names)


def _indices(item: UnitChoice, layer: Layer, names: Sequence[str] | None) -> Sequence[int]:
    """Return what one entry of `units` names: a class name wins over a number that is written as text."""
    if isinstance(item, str):
        count = layer.unit_count
        named = names is not None and any(_plain(label) == _plain(item) for label in names)
        if not named and item.strip().lower() == "all":
            if not count:
                raise SelectionError("the number of units is not known, so `all` cannot be listed", where=_shown(layer))
            return range(count)
        if not named and (match := _RANGE.fullmatch(item)):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise SelectionError(f"the range {item.strip()} runs backwards", where=_shown(layer))
            _require_unit(last, layer)
            return range(first, last + 1)
        match = None if named else _INDEX.fullmatch(item)
        item = int(match[1]) if match else _named_unit(item, layer, names)
    _require_unit(item, layer)
    return [item]


def _named_unit(name: str, layer: Layer, names: Sequence[str] | None) -> int:
    """Look up a class name, and say why it cannot be one where units have no names."""
    if names:
        try:
            return class_index(name, names)
        except SelectionError as fault:
            raise SelectionError(fault.what, where=_shown(layer), remedy=fault.remedy) from fault
    count = layer.unit_count
    raise SelectionError(
        f"{shorten(name)!r} is no unit: units have numbers, and names only where the layer is the logits and the model "
        "has labels",
        where=_shown(layer),
        remedy=f"give an index from 0 to {count - 1}, a range such as 0-{min(15, count - 1)}, or `all`"
        if count
        else "give an index",
    )


def _require_unit(index: int, layer: Layer) -> None:
    count = layer.unit_count
    if layer.channel_axis is None:
        raise SelectionError(
            "this layer has no units", where=_shown(layer), remedy="leave `units` out for the whole layer"
        )
    if index < 0 or (count and index >= count):
        limits = f"has {count} units, 0 to {count - 1}" if count else "counts its units from 0"
        raise SelectionError(f"there is no unit {index}: the layer {limits}", where=_shown(layer))


def _position(selector: TargetSelector, layer: Layer) -> tuple[int, ...] | None:
    if selector.position is None:
        return None
    if selector.units is None:
        raise SelectionError(
            "`position` needs `units`: a whole layer has no position", where=_shown(layer), remedy="add `units`"
        )
    spatial = layer.spatial_shape
    if not spatial:
        raise SelectionError(
            "this layer has no positions, its units are single numbers",
            where=_shown(layer),
            remedy="leave `position` out",
        )
    if selector.position == "center":
        return CENTRE
    if len(selector.position) != len(spatial):
        raise SelectionError(
            f"a position here has {len(spatial)} numbers, not {len(selector.position)}",
            where=_shown(layer),
            remedy=f"the positions have the shape {[size or '?' for size in spatial]}",
        )
    return tuple(selector.position)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _shown(layer: Layer) -> str:
    return f"layer {shorten(layer.name)!r}"
