"""`onnxviz explain`: what an analysis does and what it can be told, from its own declaration."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from onnxviz.analyses.base import Analysis
from onnxviz.cli.show import show_lines, show_table

_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
}


def explain_all(console: Console, kinds: Mapping[str, type[Analysis]]) -> None:
    """List every analysis with its first sentence."""
    rows = [(kind, summary(cls)) for kind, cls in kinds.items()]
    show_table(console, ("kind", "what it finds out"), rows)
    show_lines(console, ["`onnxviz explain KIND` says more about one."])


def explain_kind(console: Console, kind: str, cls: type[Analysis]) -> None:
    """Show an analysis: description, fields with defaults, example, sources."""
    text = inspect.cleandoc(cls.__doc__ or "")
    show_lines(console, [f"{kind}: {text}", ""])
    schema = cls.model_json_schema()
    rows = [row for row in fields(schema, schema.get("$defs", {})) if row[0] not in ("kind", "title")]
    show_table(console, ("field", "value", "default", "meaning"), rows)
    if cls.example:
        show_lines(console, ["Example", "", *(f"    {line}" for line in cls.example.strip().splitlines()), ""])
    if cls.cites:
        show_lines(console, ["After", "", *(f"    {source}" for source in cls.cites)])


def summary(cls: type[Analysis]) -> str:
    """Return the first line of an analysis' description."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n")[0]


def fields(schema: Mapping[str, Any], definitions: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, ...]]:
    """Yield name, type, default and description of the fields of a JSON schema, with those of nested mappings."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(field["default"]) if "default" in field else ""
        yield f"{start}{name}", _type(field, definitions), default, field.get("description", "")
        for reference, mark in _references(field):
            inner = definitions.get(reference, {})
            if "properties" in inner and start.count(".") < 2:
                kind = inner["properties"].get("kind", {}).get("const")
                yield from fields(inner, definitions, f"{start}{name}{mark}{f'({kind})' if kind else ''}.")


def _references(field: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names of the definitions that a field may hold, and "[]" where it holds a list of them."""
    if "$ref" in field:
        yield str(field["$ref"]).rpartition("/")[2], ""
    for variant in (*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())):
        yield from _references(variant)
    if isinstance(field.get("items"), dict):
        for reference, _ in _references(field["items"]):
            yield reference, "[]"


def _type(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    if "$ref" in field:
        inner = definitions.get(str(field["$ref"]).rpartition("/")[2], {})
        return "mapping" if inner.get("type") == "object" else _type(inner, definitions)
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " | ".join(dict.fromkeys(_type(variant, definitions) for variant in field[key]))
    if field.get("type") == "array":
        inner = field.get("items")
        return f"list of {_type(inner, definitions)}" if isinstance(inner, dict) and inner else "list"
    if field.get("type") == "object":
        return "mapping"
    text = _TYPES.get(str(field.get("type")), "anything")
    bounds = [(">=", "minimum"), (">", "exclusiveMinimum"), ("<=", "maximum"), ("<", "exclusiveMaximum")]
    said = ", ".join(f"{sign} {field[name]:g}" for sign, name in bounds if name in field)
    return f"{text} {said}".strip()
