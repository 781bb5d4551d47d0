"""What lies over what in a recipe: the recipe it extends, itself, and `--set`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from onnxviz.core.errors import Fault, nearest, shorten
from onnxviz.core.yaml_source import (
    Address,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    SourcePosition,
    copy,
    find,
    parse_source,
    plain,
    read_source,
    scalar,
)
from onnxviz.data.kinds import data_kinds
from onnxviz.recipe.faults import unknown
from onnxviz.recipe.schema import RecipeSettings

_NAMED = ("analyses", "data", "models", "defaults", "matrix")
_MODEL_SOURCES = ("path", "builtin")
_MOST_BASES = 8
_MOST_OPENED = 32
"""Recipes that are read for one: lists of lists would be exponentially many."""


def extended(
    tree: MappingNode, chain: tuple[Path, ...], faults: list[Fault], opened: list[Path] | None = None
) -> MappingNode:
    """Return the tree laid over the recipe that it extends, or over several: later ones over earlier ones."""
    opened = [] if opened is None else opened
    named = tree.entries.get("extends")
    words = named.items if isinstance(named, SequenceNode) else [named]
    if not words or not all(isinstance(word, ScalarNode) and isinstance(word.value, str) for word in words):
        return tree  # there is none, or the schema says what is wrong with it
    below: MappingNode | None = None
    for word in words:
        assert isinstance(word, ScalarNode)
        base = _base(word, chain, faults, opened)
        if base is None:
            return tree
        below = base if below is None else _merged(below, base, ())
    assert below is not None
    tree.drop("extends")
    return _merged(below, tree, ())


def _base(word: ScalarNode, chain: tuple[Path, ...], faults: list[Fault], opened: list[Path]) -> MappingNode | None:
    """Read one recipe that is extended, with all that it extends itself; None if there is something wrong with it."""
    place = word.place
    if fault := not_a_path(str(word.value), place):
        faults.append(fault)
        return None
    base_file = place.folder / str(word.value)
    real_file = Path(os.path.realpath(base_file))  # unlike Path.resolve, no exception where links lead in a circle
    if real_file in chain or len(chain) > _MOST_BASES:
        faults.append(place.fault(f"recipes extend each other in a circle or more than {_MOST_BASES} deep"))
        return None
    opened.append(real_file)
    if len(opened) > _MOST_OPENED:
        faults.append(place.fault(f"more than {_MOST_OPENED} recipes are extended"))
        return None
    base, found = read_source(base_file)
    faults += found
    if base is None and not found:
        faults.append(place.fault("the recipe that this one extends is empty"))
    if not isinstance(base, MappingNode):
        if base is not None:
            faults.append(base.place.fault("a recipe is a mapping that begins with 'version: 1'"))
        return None
    return extended(base, (*chain, real_file), faults, opened)


def _merged(base: MappingNode, over: MappingNode, address: Address) -> MappingNode:
    """Lay one mapping over another: mappings are joined, everything else is replaced, null removes a named entry."""
    made = copy(base)
    assert isinstance(made, MappingNode)
    _make_room(made, address, list(over.entries))
    made.place = over.place
    for key, node in over.entries.items():
        below = made.entries.get(key)
        named = len(address) == 1 and address[0] in _NAMED
        if named and isinstance(node, ScalarNode) and node.value is None:
            made.drop(key)
        elif isinstance(node, MappingNode) and isinstance(below, MappingNode) and not _other_kind(below, node, address):
            made.put(key, _merged(below, node, (*address, key)), over.keys[key])
        else:
            made.put(key, node, over.keys[key])
    return made


def _other_kind(base: MappingNode, over: MappingNode, address: Address) -> bool:
    """Whether an analysis is replaced by one of another kind, whose settings mean other things."""
    if address != ("analyses",) or "kind" not in over.entries or "kind" not in base.entries:
        return False
    return bool(plain(over.entries["kind"]) != plain(base.entries["kind"]))


def _make_room(node: MappingNode, address: Address, keys: Sequence[str]) -> None:
    """Remove what the keys that are about to be set exclude: a file replaces a built-in model, one source another."""
    if not address and "model" in keys:
        node.drop("models")
    if not address and "models" in keys:
        node.drop("model")
    if address == ("model",) or (len(address) == 2 and address[0] == "models"):
        for key in set(keys) & set(_MODEL_SOURCES):
            for other in set(_MODEL_SOURCES) - {key}:
                node.drop(other)
    if len(address) == 2 and address[0] == "data" and set(keys) & set(data_kinds()) - set(node.entries):
        for key in list(node.entries):
            node.drop(key)


def override(root: MappingNode, text: str, faults: list[Fault]) -> None:
    """Change one value as `--set` says; `text` is for example "classes.steps=64"."""
    place = SourcePosition(f"--set {shorten(text, 120)}", folder=Path())
    name, equals, written = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        faults.append(place.fault("expected NAME=VALUE, for example classes.steps=64"))
        return
    node, found = _value(written, place)
    if found:
        faults += found
        return
    analyses = root.entries.get("analyses")
    ids = list(analyses.entries) if isinstance(analyses, MappingNode) else []
    if parts[0] in ids:
        parts = ["analyses", *parts]
    elif parts[0] not in RecipeSettings.model_fields:
        known = [*ids, *RecipeSettings.model_fields]
        faults.append(unknown("no analysis or top-level key is called", parts[0], known, place))
        return
    if parts[0] == "model" and "models" in root.entries and len(parts) > 1:
        aliases = root.entries["models"]
        names = ", ".join(aliases.entries) if isinstance(aliases, MappingNode) else ""
        faults.append(place.fault(f"the recipe has several models ({names}); say models.ALIAS.{'.'.join(parts[1:])}"))
        return
    _put(root, parts, node, place, faults)


def _value(written: str, place: SourcePosition) -> tuple[Node, list[Fault]]:
    """Read the value of `--set`: lists, mappings and quoted text as YAML, anything else as one scalar.

    So that `data.photos.images=*.jpg` is a pattern and not an alias.
    """
    stripped = written.strip()
    if stripped[:1] in ("[", "{", '"', "'"):
        node, faults = parse_source(stripped, place.file, place.folder, place=place)
        return node or ScalarNode(None, place), faults
    try:
        return ScalarNode(scalar(stripped), place), []
    except ValueError as error:
        return ScalarNode(None, place), [place.fault(str(error))]


def _put(root: MappingNode, parts: Sequence[str], node: Node, place: SourcePosition, faults: list[Fault]) -> None:
    current: Node = root
    address: Address = ()
    for part in parts[:-1]:
        below = find(current, (_index(current, part),))
        by_name = len(address) == 1 and address[0] in _NAMED  # what only the user names is never made by mistake
        if below is None and not by_name and isinstance(current, MappingNode):
            below = MappingNode({}, {}, place)
            _make_room(current, address, [part])
            current.put(part, below, place)
        if below is None:
            known = list(current.entries) if isinstance(current, MappingNode) else []
            hint = nearest(part, known) or (f"known here: {', '.join(map(shorten, known))}" if known else "")
            inside = ".".join(map(str, address)) or "the recipe"
            faults.append(place.fault(f"there is no {shorten(part)!r} in {inside}" + (f"; {hint}" if hint else "")))
            return
        address, current = (*address, part), below
    last = _index(current, parts[-1])
    if isinstance(current, MappingNode):
        _make_room(current, address, [str(last)])
        current.put(str(last), node, place)
    elif isinstance(current, SequenceNode) and isinstance(last, int) and 0 <= last < len(current.items):
        current.items[last] = node
    else:
        shown = ".".join(map(str, address))
        faults.append(place.fault(f"{shown} has no {shorten(parts[-1])!r}: it is {form(current)}"))


def _index(node: Node, part: str) -> str | int:
    return int(part) if isinstance(node, SequenceNode) and part.isascii() and part.isdigit() and len(part) < 9 else part


def form(node: Node) -> str:
    """Return what a node is, in words."""
    if isinstance(node, SequenceNode):
        return f"a list of {len(node.items)}"
    return "a mapping" if isinstance(node, MappingNode) else "a single value"


def not_a_path(text: str, place: SourcePosition) -> Fault | None:
    """Return what is wrong with a file's name, or None."""
    if "://" in text:
        return place.fault(f"{shorten(text)!r} is a URL; a recipe uses files only, so download it first")
    if not text or "\0" in text:
        return place.fault("a file's name is missing")
    return None
