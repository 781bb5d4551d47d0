"""From pydantic's errors to faults that stand at the right place and say what was expected."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from onnxviz.analyses import registry
from onnxviz.analyses.base import Analysis
from onnxviz.core.errors import Fault, nearest, shorten
from onnxviz.core.yaml_source import Address, MappingNode, Node, SourcePosition, find, place_of, plain

M = TypeVar("M", bound=BaseModel)

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "nothing",
}

_MOST_FAULTS = 1_000


@dataclass(frozen=True)
class _Trouble:
    """One of pydantic's errors: where in the data, and through which branches of unions."""

    address: Address
    branches: tuple[tuple[Address, str], ...]
    error: Any

    @property
    def expected(self) -> str:
        return _EXPECTED.get(self.error["type"], "")

    @property
    def words_allowed(self) -> str:
        """The words that alone may stand there, if it is about them."""
        return str(self.error["ctx"]["expected"]) if self.error["type"] == "literal_error" else ""


def check(cls: type[M], node: Node) -> tuple[M | None, list[Fault]]:
    """Return the settings that a node holds, or everything that is wrong with it.

    It is read strictly, as JSON data: "1" is no number, 1 no text, and a list may stand for a tuple.
    """
    try:
        return cls.model_validate_json(json.dumps(plain(node)), strict=True), []
    except ValidationError as error:
        found = [_locate(item, node) for item in error.errors(include_url=False, include_input=True)]
    faults = [_fault(cls, group, node) for group in _grouped(found)]
    return None, list(dict.fromkeys(faults))


def unknown_key(key: str, known: Sequence[str], place: SourcePosition) -> Fault:
    """Return the fault for a key that is not known here."""
    hint = nearest(key, known) or (f"known here: {', '.join(known)}" if len(known) <= 16 else "")
    return place.fault(f"unknown key {shorten(key)!r}" + (f"; {hint}" if hint else ""))


def unknown(what: str, name: str, known: Collection[str], place: SourcePosition) -> Fault:
    """Return the fault for a name that is none of those known, with the nearest."""
    hint = nearest(name, known) or f"known are {', '.join(map(shorten, known)) or 'none'}"
    return place.fault(f"{what} {shorten(name)!r}; {hint}")


def _locate(error: Any, root: Node) -> _Trouble:
    """Follow pydantic's location through the data; what is no key there is the name of a union's branch."""
    address: Address = ()
    branches: list[tuple[Address, str]] = []
    node = root
    parts = list(error["loc"])
    for position, part in enumerate(parts):
        if error["type"] == "missing" and position == len(parts) - 1:
            break
        below = find(node, (part,))
        if below is None or _is_tag(part, node, address, branches):
            branches.append((address, str(part)))
        else:
            address, node = (*address, part), below
    return _Trouble(address, tuple(branches), error)


def _is_tag(part: str | int, node: Node, address: Address, branches: Sequence[tuple[Address, str]]) -> bool:
    """Return whether a part of pydantic's location that is also a key here is the `kind` of a union's branch."""
    tagged = isinstance(node, MappingNode) and "kind" in node.entries and plain(node.entries["kind"]) == part
    return tagged and (address, part) not in branches


def _grouped(troubles: Sequence[_Trouble]) -> Iterator[list[_Trouble]]:
    """Put together what is one fault to the user.

    A union reports the errors of all its branches. A branch that accepted the value's type is the one that was
    meant, and only its errors count; if there is none, the branches are alternatives of one message.
    """
    unions: dict[Address, dict[str, list[_Trouble]]] = {}
    for trouble in troubles:
        if trouble.branches:
            where, branch = trouble.branches[0]
            unions.setdefault(where, {}).setdefault(branch, []).append(trouble)
    told: set[Address] = set()
    for trouble in troubles:
        if not trouble.branches:
            yield [trouble]
            continue
        where = trouble.branches[0][0]
        if where in told:
            continue
        told.add(where)
        variants = unions[where].values()
        meant = [
            group
            for group in variants
            if not any(item.address == where and (item.expected or item.words_allowed) for item in group)
        ]
        if meant:
            inner = [_Trouble(item.address, item.branches[1:], item.error) for item in min(meant, key=len)]
            yield from _grouped(inner)
        else:
            nested = [item for group in variants for item in group if item.address != where]
            if nested and len(nested) < sum(len(group) for group in variants):
                yield nested[:1]
            else:
                yield [item for group in variants for item in group]


def _fault(cls: type[BaseModel], group: Sequence[_Trouble], root: Node) -> Fault:
    trouble = group[0]
    error, address = trouble.error, trouble.address
    kind, context = error["type"], error.get("ctx", {})
    place = place_of(root, address)
    value = find(root, address)
    if len(group) > 1 or trouble.expected:
        wanted = _either(dict.fromkeys(item.expected or item.words_allowed or _words(item.error) for item in group))
        words = ", ".join(item.words_allowed for item in group if item.words_allowed)
        return place.fault(f"expected {wanted}, not {_shown(value)}{_hint(value, words)}")
    if kind == "extra_forbidden":
        known = _fields_at(cls, address[:-1], root)
        return unknown_key(str(address[-1]), known, place_of(root, address, key=True))
    if kind == "missing":
        return place.fault(f"{shorten(str(error['loc'][-1]))!r} is missing")
    if kind in ("too_long", "too_short"):
        bound = context.get("max_length", context.get("min_length"))
        count = len(plain(value)) if value is not None else 0
        return place.fault(f"expected at {'most' if kind == 'too_long' else 'least'} {bound} entries, not {count}")
    if kind == "literal_error":
        return place.fault(f"expected {context['expected']}, not {_shown(value)}{_hint(value, context['expected'])}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        if kind == "union_tag_not_found":
            return place.fault(f"{key!r} is missing; write {{{key}: NAME}}, and settings beside it")
        known = context["expected_tags"]
        tag = find(root, (*address, key)) or value  # a name alone may stand for a mapping with it
        hint = _hint(tag, known) or "; known are " + known.replace("'", "")
        return place_of(root, (*address, key)).fault(f"no {key} is called {_shown(tag)}{hint}")
    return place.fault(_words(error) if kind == "value_error" else f"{_words(error)}, not {_shown(value)}")


def _hint(node: Node | None, options: str) -> str:
    known = [part.strip().strip("'") for part in options.replace(" or ", ", ").split(",")]
    hint = nearest(str(plain(node)), known) if node is not None else ""
    return f"; {hint}" if hint else ""


def _words(error: Any) -> str:
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text.replace("Input should be", "must be")


def _either(options: typing.Iterable[str]) -> str:
    *others, last = options
    return f"{', '.join(others)} or {last}" if others else last


def _shown(node: Node | None) -> str:
    if node is None:
        return "this"
    value = plain(node)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(shorten(value)) if isinstance(value, str) else f"{value}"


def _fields_at(cls: type[BaseModel], address: Address, root: Node) -> list[str]:
    """Return the fields that a mapping at this address may have, over all branches of unions that fit its kind."""
    annotations: list[Any] = [cls]
    for part in address:
        annotations = [inner for outer in annotations for inner in _below(outer, part)]
    models = [option for annotation in annotations for option in _options(annotation) if _is_model(option)]
    node = find(root, address)
    if isinstance(node, MappingNode) and "kind" in node.entries:
        kind = plain(node.entries["kind"])
        same = [m for m in models if "kind" in m.model_fields and kind in _options(m.model_fields["kind"].annotation)]
        models = same or models
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _below(annotation: Any, part: str | int) -> Iterator[Any]:
    for option in _options(annotation):
        if _is_model(option):
            if part in option.model_fields:
                yield option.model_fields[part].annotation
        elif typing.get_origin(option) is dict:
            yield typing.get_args(option)[1]
        else:
            yield from (inner for inner in typing.get_args(option) if inner is not Ellipsis)


def _options(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of an annotation: a union's members, a literal's values, else the annotation itself."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            yield from _options(inner)
    elif origin is typing.Literal:
        yield from typing.get_args(annotation)
    else:
        yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def ordered(faults: Sequence[Fault]) -> list[Fault]:
    """Return the faults without repetitions, file by file in the order of the text, those of `--set` last.

    Of more than a thousand the first are returned, with one that says how many others there are.
    """
    names = dict.fromkeys(fault.file for fault in faults)
    files = {name: index for index, name in enumerate(sorted(names, key=lambda name: name.startswith("--set")))}
    found = sorted(dict.fromkeys(faults), key=lambda fault: (files[fault.file], fault.line, fault.column))
    if (more := len(found) - _MOST_FAULTS) > 0:
        found[_MOST_FAULTS:] = [Fault(f"and {more:,} more fault{'s' * (more != 1)}", found[-1].file)]
    return found


def read_analysis(node: Node) -> tuple[Analysis | None, list[Fault]]:
    """Return the analysis that a node describes, or None and everything that is wrong with it."""
    kinds = registry()
    if not isinstance(node, MappingNode):
        return None, [node.place.fault("expected a mapping such as {kind: grad_cam, layers: last_map}")]
    kind = node.entries.get("kind")
    if kind is None:
        return None, [node.place.fault(f"'kind' is missing; known are {', '.join(kinds)}")]
    name = str(plain(kind))
    if name not in kinds:
        return None, [unknown("no analysis is of kind", name, kinds, kind.place)]
    return check(kinds[name], node)
