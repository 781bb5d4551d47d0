"""From what a user writes (layer, class name, range, position) to what an analysis works on: `values.Target`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.core.values import Layer, Target
from onnxviz.graph.model_output import Head, OutputKind, says_what

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
        description="A layer name, glob, `Conv[3]`, role (first_conv, last_conv, all_convs, last_map, "
        "block_outputs, logits), or a list."
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
    """Return the targets that selectors name, in their order, each once; `labels` are class names in logit order.

    Raises:
        SelectionError: if a layer, unit, class or position does not exist or could be several.
    """
    found: dict[Target, None] = {}
    for selector in selectors:
        for layer in view.select(selector.layer):
            names = labels if has_class_units(layer, view) else None
            if selector.units is not None and not layer.shape and (why := view.why_unknown(layer)):
                raise _refused(layer, f"its units are not known{why}", "name a layer before this operator")
            for unit, towards in _units(selector.units, layer, names, labels if is_binary(layer, view) else None):
                for sign in _SIGNS[selector.sign]:
                    way = sign if towards > 0 else _OPPOSITE[sign]
                    number = class_of(layer, unit, way, view)
                    label = labels[number] if labels and number is not None and number < len(labels) else ""
                    found[Target(layer.name, unit, _position(selector, layer), way, label)] = None
    return tuple(found)


_OPPOSITE: dict[Literal[1, -1], Literal[1, -1]] = {1: -1, -1: 1}
_SIGNS: dict[str, tuple[Literal[1, -1], ...]] = {"positive": (1,), "negative": (-1,), "both": (1, -1)}


def unit_indices(
    choice: UnitChoice | Sequence[UnitChoice], layer: Layer, names: Sequence[str] | None = None
) -> list[int]:
    """Return the unit indices of one layer that a choice names, in its order, each once.

    The choice is an index, a range "0-15", a class name, "all", or a list of these; `names` are the units' class names.

    Raises:
        SelectionError: if a unit does not exist, or a name is unknown or ambiguous.
    """
    items = [choice] if isinstance(choice, str | int) else list(choice)
    if not items:
        raise _refused(layer, "an empty list names no unit", "leave `units` out for the whole layer")
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
    matches = class_matches(name, labels)
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(f"{index} ({shorten(labels[index])})" for index in matches[:8])
        raise SelectionError(f"{len(matches)} classes are called {shorten(name)!r}: {listed}", remedy="give the index")
    raise SelectionError(
        f"none of the {len(labels)} classes is called {shorten(name)!r}",
        remedy=nearest_class(name, labels)
        or "`onnxviz inspect MODEL --classes` lists them; names of your own: --labels FILE",
    )


def class_matches(name: str, labels: Sequence[str]) -> list[int]:
    """Return the classes of a name, as `class_index` compares them: those of that label, else of that synonym."""
    wanted = _plain(name)
    exact = [index for index, label in enumerate(labels) if _plain(label) == wanted]
    return exact or [
        index for index, label in enumerate(labels) if wanted in {_plain(word) for word in label.split(",")}
    ]


def nearest_class(name: str, labels: Sequence[str]) -> str:
    """Return "did you mean 'a' or 'b'?" for the labels and synonyms closest to a name, or "" if none is close."""
    words = {word.strip() for label in labels for word in label.replace("_", " ").split(",")}
    return nearest(" ".join(name.replace("_", " ").split()), sorted(words))


def has_class_units(layer: Layer, view: GraphView) -> bool:
    """Return whether a layer's units are known to be classes: the scores of classes, or a softmax behind them."""
    head = view.main_head
    return head is not None and head.has_classes and head.classes == layer.unit_count and is_behind_scores(layer, view)


def is_binary(layer: Layer, view: GraphView) -> bool:
    """Return whether a layer holds the one score of two classes, or the sigmoid behind it."""
    head = view.main_head
    return head is not None and head.kind == "binary" and is_behind_scores(layer, view)


def class_of(layer: Layer, unit: int | None, sign: int, view: GraphView) -> int | None:
    """Return the class that a unit stands for, driven up or down; None if it stands for none.

    One score of two classes stands for the second where it is driven up, and for the first where it is driven down.
    """
    if unit is None:
        return None
    if is_binary(layer, view):
        return int(sign > 0)
    return unit if has_class_units(layer, view) else None


def is_behind_scores(layer: Layer, view: GraphView) -> bool:
    """Return whether a layer's units are those of the main head, whatever they mean: its scores, or behind them."""
    head = view.main_head
    if head is None or head.scores is None:
        return False
    scores = head.scores
    if layer.name == scores.name:
        return True
    return bool(layer.position > scores.position and layer.unit_count == scores.unit_count > 0)


def class_indices(choice: UnitChoice | Sequence[UnitChoice], head: Head, names: Sequence[str] | None) -> list[int]:
    """Return the indices of the classes, or of the units of what has none, that a choice names, as `unit_indices` does.

    Raises:
        SelectionError: if a class does not exist, or a name is unknown or ambiguous.
    """
    assert head.scores is not None
    own = names if names and head.fits(names) else None
    if not head.is_two_from_one and head.scores.channel_axis is not None:
        return unit_indices(choice, head.scores, own)
    # One score stands for two classes, and a score without an axis of units for itself.
    return unit_indices(choice, replace(head.scores, shape=(None, head.choices), channel_axis=1), own)


def resolve_head(view: GraphView, score: str | None, names: Sequence[str] | None) -> Head:
    """Return what an analysis explains: the main head, an output, or any layer, whose units are explained as they are.

    A layer of as many units as the model has class `names` is taken for scores of these classes.

    Raises:
        SelectionError: if there is no such output or layer, or no score to explain.
    """
    if score is None:
        return _main_head(view)
    for head in view.heads:
        if score in head.outputs:
            return _explainable(head)
    layer = view.layer(score)
    for head in view.heads:
        if head.scores == layer:
            return _explainable(head)
    shown = f"layer {shorten(layer.name, 60)!r}"
    head = Head((layer.name,), scores=layer, source="declared", reason=f"{shown}, named as the score", is_layer=True)
    if names and layer.unit_count == len(names) > 1:
        kind: OutputKind = "map_of_classes" if head.has_positions else "classes"
        reason = f"{shown}, taken for class scores because there are {len(names)} class names"
        head = Head((layer.name,), kind, layer, len(names), "labels", reason, named=True, is_layer=True)
    return _explainable(head)


def _main_head(view: GraphView) -> Head:
    head = view.main_head
    if head is None:
        raise SelectionError(
            "the model has no output that could be explained", remedy="name a layer to explain with `score:`"
        )
    if not says_what(view.heads):
        listed = "; ".join(f"{shorten(other.name, 40)!r}: {other.in_words}" for other in view.heads[:12])
        more = f"; and {len(view.heads) - 12} more" if len(view.heads) > 12 else ""
        raise SelectionError(
            f"none of the model's outputs is known to be of classes, and it is not known which number to explain "
            f"({listed}{more})",
            remedy="name an output or a layer with `score:`, or say what the model gives, such as "
            f"`model: {{output: {{{plain_key(head.name)}: {'map_of_classes' if head.has_positions else 'classes'}}}}}`",
        )
    return _explainable(head)


def plain_key(name: str) -> str:
    """Return an output's name as a key of a mapping in a recipe."""
    return name if re.fullmatch(r"[A-Za-z_][\w.-]{0,60}", name) else json.dumps(shorten(name, 60))


def _explainable(head: Head) -> Head:
    layer = head.scores
    if layer is None:
        raise SelectionError(
            f"the output {shorten(head.name, 60)!r} has no layer with scores ({head.reason})",
            remedy="name a layer to explain with `score:`",
        )
    if layer.channel_axis is None and len(layer.shape) != 1:
        raise SelectionError(
            "no axis of classes or units is known there, so there is no single number to explain",
            where=shorten(layer.name),
            remedy="name another layer with `score:`",
        )
    return head


def _units(
    choice: UnitChoice | list[UnitChoice] | None, layer: Layer, names: Sequence[str] | None, two: Sequence[str] | None
) -> Sequence[tuple[int | None, int]]:
    """Return the units that a choice names, each with the way towards it; `two` names the classes of a single score."""
    if choice is None:
        return [(None, 1)]
    if not two:
        return [(unit, 1) for unit in unit_indices(choice, layer, names)]
    found: list[tuple[int | None, int]] = []
    for item in choice if isinstance(choice, list) else [choice]:
        if isinstance(item, str) and item.strip().lower() != "all" and not _INDEX.fullmatch(item):
            found.append((0, 1 if class_index(item, two) else -1))
        else:
            found += [(unit, 1) for unit in unit_indices(item, layer, None)]
    return found


def _indices(item: UnitChoice, layer: Layer, names: Sequence[str] | None) -> Sequence[int]:
    """Return what one entry of `units` names: a class name wins over a number that is written as text."""
    if isinstance(item, str):
        count = layer.unit_count
        named = names is not None and any(_plain(label) == _plain(item) for label in names)
        if not named and item.strip().lower() == "all":
            if not count:
                raise _refused(layer, "the number of units is not known, so `all` cannot be listed")
            return range(count)
        if not named and (match := _RANGE.fullmatch(item)):
            first, last = int(match[1]), int(match[2])
            if first > last:
                raise _refused(layer, f"the range {item.strip()} runs backwards")
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
            raise _refused(layer, fault.what, fault.remedy) from fault
    count = layer.unit_count
    listed = f" from 0 to {count - 1}, a range such as 0-{min(15, count - 1)}, or `all`" if count else ""
    raise _refused(
        layer,
        f"{shorten(name)!r} is no unit: units have numbers, and names only where the layer is the logits and the model "
        "has labels",
        f"give an index{listed}",
    )


def _require_unit(index: int, layer: Layer) -> None:
    count = layer.unit_count
    if layer.channel_axis is None and not layer.shape:
        raise _refused(
            layer,
            "its units are not known, because its shape is not",
            "name a layer before the operators that `onnxviz inspect` says are refused",
        )
    if layer.channel_axis is None:
        why = f": {layer.unplaced}" if layer.unplaced else ""
        raise _refused(layer, f"this layer has no units{why}", "leave `units` out for the whole layer")
    if index < 0 or (count and index >= count):
        limits = f"has {count} units, 0 to {count - 1}" if count else "counts its units from 0"
        raise _refused(layer, f"there is no unit {index}: the layer {limits}")


def _position(selector: TargetSelector, layer: Layer) -> tuple[int, ...] | None:
    if selector.position is None:
        return None
    if selector.units is None:
        raise _refused(layer, "`position` needs `units`: a whole layer has no position", "add `units`")
    spatial = layer.spatial_shape
    if not spatial:
        raise _refused(layer, "this layer has no positions, its units are single numbers", "leave `position` out")
    if selector.position == "center":
        return CENTRE
    if len(selector.position) != len(spatial):
        raise _refused(
            layer,
            f"a position here has {len(spatial)} numbers, not {len(selector.position)}",
            f"the positions have the shape {[size or '?' for size in spatial]}",
        )
    return tuple(selector.position)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _refused(layer: Layer, what: str, remedy: str = "") -> SelectionError:
    return SelectionError(what, where=f"layer {shorten(layer.name)!r}", remedy=remedy)
