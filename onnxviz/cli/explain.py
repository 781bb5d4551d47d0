"""`onnxviz explain`: what analyses do and what recipes may say, from their own declarations."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from onnxviz.analyses import registry
from onnxviz.analyses.base import Analysis
from onnxviz.cli.show import show_lines, show_table
from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.data.kinds import data_kinds
from onnxviz.recipe.schema import ExpectationSettings, LimitsSettings, ModelSettings, PreprocessSettings, RecipeSettings

_TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "nothing",
}
_SETTINGS: dict[str, tuple[type[BaseModel], ...]] = {
    "model": (ModelSettings,),
    "models": (ModelSettings,),
    "preprocess": (PreprocessSettings,),
    "data": tuple(data_kinds().values()),
    "expect": (ExpectationSettings,),
    "limits": (LimitsSettings,),
}
"""Part of a recipe -> what stands in it."""
_WHOLE = 40
"""Up to so many fields of an analysis are shown at once, those within others included."""
_EXAMPLES = {
    "model": """\
model: {path: squeezenet.onnx, preprocess: caffe, labels: imagenet.txt}
""",
    "models": """\
models:
  first: {path: first.onnx, preprocess: imagenet}
  second: {path: second.onnx, preprocess: imagenet}
""",
    "preprocess": """\
model:
  path: m.onnx
  preprocess: {preset: imagenet, fit: stretch}    # or only a name: preprocess: imagenet
""",
    "data": """\
data:
  photos: {images: "photos/*.jpg", limit: 100}
  scenes: {concepts: scenes/}    # images/, labels/ with one mask each, classes.txt; docs/concepts.md has more formats
""",
    "defaults": """\
defaults:
  grad_cam: {data: photos, limit: 20}    # for every analysis of this kind that does not say otherwise
""",
    "matrix": """\
analyses:
  classes: {kind: activation_maximization, targets: [{layer: logits, units: 0-9}]}
matrix:
  classes: {steps: [64, 512], size: [128, 256]}    # four analyses: classes-64-128, classes-64-256, ...
""",
    "analyses": """\
analyses:
  filters: {kind: weights, layers: first_conv}    # `onnxviz explain` lists the kinds
""",
    "expect": """\
expect:
  - {metric: filters.dead_fraction, max: 0.05, level: warn, because: dead filters are capacity that is not used}
  - {metric: evidence.top1_accuracy, min: 0.7, level: warn}    # `onnxviz explain grad_cam` lists its metrics
""",
    "limits": """\
limits: {memory: 4GiB, job_seconds: 600}
""",
    "extends": """\
extends: base.yaml
analyses:
  classes: {steps: 64}    # everything else is as in base.yaml
""",
}
"""Part of a recipe -> how it may look; a test reads each."""

_SOURCES = 16
"""Sources that are listed: an analysis of many methods has one for each."""


def explain(console: Console, subject: str | None) -> None:
    """Explain a kind of analysis, one of its fields, or a part of recipes; list what there is if nothing is named.

    Raises:
        SelectionError: if there is no such kind, field or part.
    """
    kinds = registry()
    subject, _, field = (subject or "").partition(".")
    if subject not in kinds:
        subject = subject.lower().replace("-", "_")
    if field:
        if subject not in kinds:
            raise SelectionError(f"no analysis is called {shorten(subject)!r}", remedy=f"known are {', '.join(kinds)}")
        _explain_field(console, subject, kinds[subject], field)
    elif not subject:
        explain_all(console, kinds)
    elif subject in kinds:
        explain_kind(console, subject, kinds[subject])
    elif subject in parts():
        explain_part(console, subject)
    else:
        known = [*kinds, *parts()]
        hint = nearest(subject, known) or f"known are {', '.join(known)}"
        raise SelectionError(f"no analysis and no part of recipes is called {shorten(subject)!r}", remedy=hint)


def parts() -> dict[str, str]:
    """Return the parts of recipes that can be explained -> what they are for."""
    described = {name: field.description or "" for name, field in RecipeSettings.model_fields.items()}
    plain = {name: described[name] for name in (*_SETTINGS, *_EXAMPLES) if name in described}
    return {"recipe": "All parts of a recipe.", **plain, "preprocess": summary(PreprocessSettings)}


def explain_all(console: Console, kinds: Mapping[str, type[Analysis]]) -> None:
    """List every analysis with its first sentence, and the parts of recipes."""
    show_table(console, ("kind", "what it finds out"), [(kind, summary(cls)) for kind, cls in kinds.items()])
    show_table(console, ("part", "of a recipe"), parts().items())
    show_lines(console, ["`onnxviz explain KIND`, `KIND.FIELD` or `PART` says more about one."])


def explain_kind(console: Console, kind: str, cls: type[Analysis]) -> None:
    """Show an analysis: description, fields with defaults, metrics, example, sources."""
    text = inspect.cleandoc(cls.__doc__ or "")
    show_lines(console, [f"{kind}: {text}", ""])
    _show_rows(console, _rows(cls), kind)
    if cls.metric_names:
        show_table(console, ("metric", "what `expect:` can test"), cls.metric_names.items())
    _show_example(console, cls.example)
    if cls.cites:
        left = len(cls.cites) - _SOURCES
        more = [f"    and {left} more, which stand where they are used"] if left > 0 else []
        show_lines(console, ["After", "", *(f"    {source}" for source in cls.cites[:_SOURCES]), *more])


def explain_part(console: Console, part: str) -> None:
    """Show a part of recipes: what it is for, its fields with defaults, an example."""
    settings = (RecipeSettings,) if part == "recipe" else _SETTINGS.get(part, ())
    show_lines(console, [f"{part}: {parts()[part]}", ""])
    for cls in settings:
        if len(settings) > 1:
            show_lines(console, [f"{summary(cls)}", ""])
        _show_rows(console, _rows(cls))
    _show_example(console, _EXAMPLES.get(part, ""))


def _explain_field(console: Console, kind: str, cls: type[Analysis], field: str) -> None:
    """Show a field of an analysis with what may stand in it."""
    path = tuple(field.split("."))
    rows = [row for row in _rows(cls) if _path(row[0])[: len(path)] == path]
    if not rows:
        known = list(dict.fromkeys(".".join(_path(row[0])) for row in _rows(cls)))
        hint = nearest(field, known) or f"known are {', '.join(name for name in known if '.' not in name)}"
        raise SelectionError(f"{kind} has no field {shorten(field)!r}", remedy=hint)
    _show_rows(console, rows, kind, len(path) + 1)
    if len(path) == 1 and (choices := list(_choices(cls, field))):
        show_table(console, ("one of", "what it is"), choices)


def _choices(cls: type[BaseModel], field: str) -> Iterator[tuple[str, str]]:
    """Yield the mappings that may stand in a field, where a word chooses one: the word, and what it is."""
    schema = cls.model_json_schema()
    for name, _ in _references(schema["properties"][field]):
        definition = schema["$defs"][name]
        if kind := _kind_of(definition):
            yield kind, definition.get("description", "").partition("\n")[0]


def _show_rows(console: Console, rows: Sequence[tuple[str, ...]], kind: str = "", depth: int = 1) -> None:
    """Show fields; of an analysis with many only those down to a depth, and how to see what stands in them."""
    shown = [row for row in rows if not kind or len(rows) <= _WHOLE or len(_path(row[0])) <= depth]
    show_table(console, ("field", "value", "default", "meaning"), shown)
    deeper = dict.fromkeys(".".join(_path(row[0])[:depth]) for row in rows if len(_path(row[0])) > depth)
    if deeper and len(shown) < len(rows):
        command = f"`onnxviz explain {kind}.{next(iter(deeper))}`"
        show_lines(console, [f"{command} says what stands there; likewise of {', '.join(deeper)}.", ""])


def _rows(cls: type[BaseModel]) -> list[tuple[str, ...]]:
    schema = cls.model_json_schema()
    return [row for row in fields(schema, schema.get("$defs", {})) if row[0] not in ("kind", "title")]


def _path(name: str) -> tuple[str, ...]:
    """Return the names of a field and those it stands in, without the marks for lists and kinds."""
    return tuple(re.sub(r"\[\]|\([^)]*\)", "", name).split("."))


def _show_example(console: Console, example: str) -> None:
    if example:
        show_lines(console, ["Example", "", *(f"    {line}" for line in example.strip().splitlines()), ""])


def summary(cls: type[BaseModel]) -> str:
    """Return the first line of a class' description."""
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
                kind = _kind_of(inner)
                yield from fields(inner, definitions, f"{start}{name}{mark}{f'({kind})' if kind else ''}.")


def _kind_of(definition: Mapping[str, Any]) -> str | None:
    """Return by which word a recipe chooses one of several mappings, if it does."""
    properties = definition.get("properties", {})
    return next((properties[key]["const"] for key in ("kind", "method") if "const" in properties.get(key, {})), None)


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
