"""The types of what a report's scripts are given, in TypeScript, from the dataclasses that Python writes it from.

`make scripts` writes them to `tools/report_scripts/island.d.ts`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from onnxviz.confinement import Defence
from onnxviz.core import findings, results
from onnxviz.core.values import Agreement
from onnxviz.report.differences import Difference

_HEAD = """\
// Made by tools/report_types.py from the dataclasses of findings and results: change those, not this file.

/** A number: JSON lacks those that are not finite. */
type Float = number | { type: "float"; value: "nan" | "inf" | "-inf" };

type Cell = string | boolean | Float | Unit | null;

/** What the page is made from: the run, and where its pictures lie. */
interface Island {
  run: RunResult;
  sources: (string | null)[];
  missing: string[];
  differences: Difference[];
}
"""
_PLAIN = {str: "string", bool: "boolean", int: "number", float: "Float", type(None): "null", Any: "any"}
_CHANGED: dict[str, dict[str, str]] = {
    "Picture": {"pixels": "", "path": "", "format": "", "source": "number"},
    "Array": {"arrays": "", "address": "string | null"},
    "Metric": {"count": "number | null"},
    "RunResult": {"verdict": '"passed" | "failed" | "incomplete" | "finished"', "repeat": "string"},
    "Part": {"findings": "any[]"},
}
"""What `report.page` adds to a class's fields and, as "", takes away."""


def declarations() -> str:
    """Return the whole file."""
    own = [cls for cls in findings.FINDING_TYPES.values() if not issubclass(cls, findings.CustomFinding)]
    made = [_interface(cls, kind=cls.__name__) for cls in own if cls is not findings.Numbers]
    others = [value for value in vars(results).values() if dataclasses.is_dataclass(value)]
    rows = [cls for cls in others if isinstance(cls, type) and cls.__module__ == results.__name__]
    made += [_interface(cls) for cls in (*rows, Agreement, Defence, Difference)]
    return "\n".join((_HEAD, *made))


def _interface(cls: type, kind: str = "") -> str:
    hints = typing.get_type_hints(cls)
    name = _name(cls)
    written = {entry.name: _type(hints[entry.name]) for entry in dataclasses.fields(cls)}
    members = {**({"type": f'"{kind}"'} if kind else {}), **written, **_CHANGED.get(cls.__name__, {})}
    lines = [f"  {member}: {text};" for member, text in members.items() if text]
    return "\n".join((f"interface {name} {{", *lines, "}", ""))


def _name(cls: type) -> str:
    """Return a class's name, apart from what browsers and the language call so."""
    return "ArrayFile" if cls is findings.Array else cls.__name__


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _name(annotation)
    if origin is Literal:
        return " | ".join(f'"{value}"' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(dict.fromkeys(_type(argument) for argument in arguments))
    if origin is tuple:
        return f"Array<{_type(arguments[0])}>" if arguments[1:] == (...,) else f"[{_listed(arguments)}]"
    if origin in (dict, Mapping):
        return f"Record<string, {_type(arguments[1])}>"
    return "any"


def _listed(annotations: Iterable[Any]) -> str:
    return ", ".join(_type(annotation) for annotation in annotations)


if __name__ == "__main__":
    print(declarations(), end="")
