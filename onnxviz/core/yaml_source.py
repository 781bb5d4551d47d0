"""YAML text as a tree in which every key and value knows its place, so that every fault can be shown.

Only what a recipe needs is accepted: one document, scalars of YAML 1.2's core schema (`1e-3` is a number, `no` a
word), no anchors, aliases, tags or duplicate keys, within the bounds of `limits`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from onnxviz.core import limits
from onnxviz.core.errors import Fault, RecipeError, beginning, nearest, shorten

Scalar: TypeAlias = "str | int | float | bool | None"
Address: TypeAlias = tuple["str | int", ...]
"""Keys and indices that lead from the root to a node."""

_SHOWN_COLUMNS = 160


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where a key or value stands: as a `Fault` says it, with the folder that paths written here are relative to.

    `file` is the whole `--set ...` argument where it stands in one.
    """

    file: str
    line: int = 0
    column: int = 0
    source: str = ""
    folder: Path = field(default_factory=Path)

    def fault(self, message: str) -> Fault:
        """Return a fault at this place."""
        return Fault(message, self.file, self.line, self.column, self.source)


@dataclass(slots=True)
class ScalarNode:
    """A scalar."""

    value: Scalar
    place: SourcePosition


@dataclass(slots=True)
class SequenceNode:
    """A sequence."""

    items: list[Node]
    place: SourcePosition


@dataclass(slots=True)
class MappingNode:
    """A mapping: its values by key, and the places of the keys."""

    entries: dict[str, Node]
    keys: dict[str, SourcePosition]
    place: SourcePosition

    def put(self, key: str, node: Node, place: SourcePosition) -> None:
        """Set an entry; a new one goes to the end."""
        self.entries[key] = node
        self.keys[key] = place

    def drop(self, key: str) -> None:
        """Remove an entry if it is there."""
        self.entries.pop(key, None)
        self.keys.pop(key, None)


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


def plain(node: Node) -> Any:
    """Return the tree as dictionaries, lists and scalars."""
    if isinstance(node, MappingNode):
        return {key: plain(value) for key, value in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return node.value


def find(node: Node, address: Address) -> Node | None:
    """Return the node at an address, or None."""
    for part in address:
        if isinstance(node, MappingNode) and part in node.entries:
            node = node.entries[str(part)]
        elif isinstance(node, SequenceNode) and isinstance(part, int) and 0 <= part < len(node.items):
            node = node.items[part]
        else:
            return None
    return node


def place_of(node: Node, address: Address, *, key: bool = False) -> SourcePosition:
    """Return the place of the value at an address below a root, or of its `key`, or of the last node on the way."""
    place = node.place
    for depth, part in enumerate(address):
        below = find(node, (part,))
        if below is None:
            return place
        wanted = key and depth == len(address) - 1
        at_key = isinstance(node, MappingNode) and (wanted or isinstance(below, MappingNode | SequenceNode))
        place = node.keys[str(part)] if at_key and isinstance(node, MappingNode) else below.place
        node = below
    return place


def words(node: Node, address: Address = ()) -> Iterator[tuple[Address, ScalarNode]]:
    """Yield every scalar below a node with its address, in the order of the text."""
    if isinstance(node, MappingNode):
        for key, value in node.entries.items():
            yield from words(value, (*address, key))
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.items):
            yield from words(item, (*address, index))
    else:
        yield address, node


def copy(node: Node) -> Node:
    """Return a copy whose entries can be changed; places are shared."""
    if isinstance(node, MappingNode):
        return MappingNode({key: copy(value) for key, value in node.entries.items()}, dict(node.keys), node.place)
    if isinstance(node, SequenceNode):
        return SequenceNode([copy(item) for item in node.items], node.place)
    return ScalarNode(node.value, node.place)


def read_source(path: Path, shown: str | None = None) -> tuple[Node | None, list[Fault]]:
    """Read a YAML file, which faults call as `shown` says, or by its path.

    Returns:
        The tree, or None if there is none, and every fault found. A tree with faults is good enough to look for more.
    """
    name = shorten(shown or str(path), 200)
    data = b""
    try:
        if not path.is_file():
            what = "is a folder, not a recipe" if path.is_dir() else "is not a regular file"
            return None, [Fault(what if path.exists() else f"there is no such file{_similar(path)}", name)]
        if path.suffix.lower() == ".onnx":
            what = "is a model, not a recipe; `onnxviz init` writes a recipe for it, `onnxviz inspect` shows what it is"
            return None, [Fault(what, name)]
        with path.open("rb") as stream:
            data = stream.read(limits.RECIPE_BYTES + 1)
        if len(data) > limits.RECIPE_BYTES:
            return None, [Fault(f"larger than {limits.RECIPE_BYTES:,} bytes, so hardly a recipe", name)]
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, [Fault("not UTF-8 text", name, data.count(b"\n", 0, error.start) + 1)]
    except (OSError, ValueError) as error:
        return None, [Fault(f"cannot be read: {getattr(error, 'strerror', None) or error}", name)]
    return parse_source(text, name, path.parent)


def parse_source(
    text: str, file: str, folder: Path, *, place: SourcePosition | None = None
) -> tuple[Node | None, list[Fault]]:
    """Read YAML text; everything is at `place` where the text is of no file.

    Returns:
        The tree, or None if the text has none, and every fault found.
    """
    reader = _Reader(text, file, folder, place)
    try:
        return reader.read(), reader.faults
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        reader.refuse(reader.place(line, column), f"not valid YAML: {_syntax(error)}")
    except (yaml.YAMLError, UnicodeError):
        reader.faults.append(reader.unreadable())
    except RecipeError as error:
        reader.faults += error.faults
    return None, reader.faults


class _Reader:
    """Builds the tree from the parser's events: aliases, tags and depth are seen before anything is made of them."""

    def __init__(self, text: str, file: str, folder: Path, place: SourcePosition | None) -> None:
        self.text = text
        self.lines = text.splitlines() or [""]
        self.file = file
        self.folder = folder
        self.fixed = place
        self.faults: list[Fault] = []
        self.events: Iterator[Any] = iter(())

    def place(self, line: int, column: int) -> SourcePosition:
        if self.fixed is not None:
            return self.fixed
        if line >= len(self.lines):  # the end of the text: show the last line
            line, column = len(self.lines) - 1, len(self.lines[-1])
        shown = self.lines[line]
        shown = "".join(c if c.isprintable() else " " for c in shown[:_SHOWN_COLUMNS])
        return SourcePosition(self.file, line + 1, column + 1, shown if column <= len(shown) else "", self.folder)

    def refuse(self, place: SourcePosition, message: str) -> None:
        self.faults.append(place.fault(message))

    def at(self, event: Any) -> SourcePosition:
        return self.place(event.start_mark.line, event.start_mark.column)

    def unreadable(self) -> Fault:
        for number, line in enumerate(self.lines):
            for column, character in enumerate(line):
                if not character.isprintable() and character not in "\t\u0085\ufeff":
                    what = f"the character U+{ord(character):04X} has no place in YAML"
                    return self.place(number, column).fault(what)
        return self.place(0, 0).fault("not readable as YAML")

    def read(self) -> Node | None:
        # libyaml's parser where PyYAML was built with it; the same events, slower, where it was not.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.events = yaml.parse(self.text, Loader=loader)
        root: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self.refuse(self.at(event), "a second document begins here; a recipe is one document")
                    return root
                root = self.node(next(self.events), 1)
        return root

    def node(self, event: Any, depth: int) -> Node:
        place = self.at(event)
        if depth > limits.RECIPE_DEPTH:
            raise RecipeError([place.fault(f"nested more than {limits.RECIPE_DEPTH} levels deep")])
        if isinstance(event, yaml.AliasEvent):
            self.refuse(place, f"aliases such as *{shorten(str(event.anchor), 40)} are not allowed; write it out")
            return ScalarNode(None, place)
        if event.anchor is not None:
            self.refuse(place, f"anchors such as &{shorten(str(event.anchor), 40)} are not allowed; write it out")
        if event.tag is not None:
            self.refuse(place, f"tags such as {shorten(event.tag, 40)} are not allowed; a recipe is data")
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(place, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(event, depth + 1))
            return SequenceNode(items, place)
        if event.style not in (None, ""):  # quoted or a block: text, whatever it looks like
            return ScalarNode(event.value, place)
        try:
            return ScalarNode(scalar(event.value), place)
        except ValueError as error:
            self.refuse(place, str(error))
            return ScalarNode(None, place)

    def mapping(self, place: SourcePosition, depth: int) -> MappingNode:
        made = MappingNode({}, {}, place)
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_place = self.at(event)
            if isinstance(event, yaml.ScalarEvent) and event.tag is None and event.anchor is None:
                key: str | None = event.value
            else:
                self.refuse(key_place, "a key must be a plain word")
                key = None
                if not isinstance(event, yaml.ScalarEvent):
                    self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if key is None:
                continue
            if key in made.entries:
                first = made.keys[key]
                where = f" in line {first.line}" if first.line else ""
                self.refuse(key_place, f"the key {shorten(key)!r} was given before{where}")
                continue
            made.put(key, value, key_place)
        return made


_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)(\.inf|\.Inf|\.INF)")
_CONSTANTS: dict[str, Scalar] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".nan": math.nan, ".NaN": math.nan, ".NAN": math.nan,
}  # fmt: skip


def scalar(text: str) -> Scalar:
    """Return what a plain scalar means in YAML 1.2 (core schema, section 10.3.2).

    Raises:
        ValueError: if it is a whole number of more than 64 bits.
    """
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    for pattern, base in ((_INTEGER, 10), (_OCTAL, 8), (_HEXADECIMAL, 16)):
        if pattern.fullmatch(text):
            digits = text if base == 10 else text[2:]
            number = int(digits, base) if len(digits) <= 64 else 1 << 64
            if abs(number) >= 1 << 63:
                raise ValueError(f"the number {shorten(text, 30)} is too large")
            return number
    if _FLOAT.fullmatch(text):
        return float(text)
    if match := _INFINITY.fullmatch(text):
        return -math.inf if match[1] == "-" else math.inf
    return text


class _Dumper(yaml.SafeDumper):
    """Writes what `scalar` would read as another type in quotes."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Write text that has Unicode's other line ends in double quotes: in single ones they would become blanks."""
    style = '"' if any(character in text for character in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _pattern, _tag in ((_INTEGER, "int"), (_OCTAL, "int"), (_HEXADECIMAL, "int"), (_FLOAT, "float")):
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def dump(data: Any) -> str:
    """Write dictionaries, lists and scalars as YAML that `parse_source` reads back as the same."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None))


def _similar(path: Path) -> str:
    """Return what else a missing recipe may be called, or how to get one."""
    try:
        beside = [item.name for item in path.absolute().parent.iterdir() if item.suffix.lower() in (".yaml", ".yml")]
    except OSError:
        return ""
    hint = nearest(path.name, beside[:1000])
    return f"; {hint}" if hint else "; `onnxviz init MODEL.onnx` writes one" if not beside else ""


def _syntax(error: yaml.MarkedYAMLError) -> str:
    text = " ".join(part for part in (error.problem, error.context and f"({error.context})") if part)
    hint = "; indent with spaces" if "cannot start any token" in text else ""
    return beginning(text or "syntax error") + hint
