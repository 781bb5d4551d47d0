"""A PyTorch .pt2 program made safe: its graph and its plain tensors, written anew without anything that can run code.

`torch.export.load` is not safe by itself (its own documentation says so). Read in torch 2.13, these parts of an
archive run code, and this is what happens to each here:

    example inputs        unpickled, without restrictions if the restricted way fails   left out
    weights, constants    those marked `use_pickle`, custom and opaque objects          refused
    node targets          looked up by name from the module `torch`, such as torch.hub  refused but for operators
    size expressions      evaluated by sympy as Python                                  refused but for arithmetic
    tree specifications   import the module of an enumeration or default factory        refused but for plain containers
    guards                Python source that is compiled                                left out
    compiled models       shared libraries (AOTInductor)                                left out
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, shorten

_TARGET = re.compile(
    r"torch\.ops\.[A-Za-z][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|torch\.sym_[a-z]+|torch\._sym_[a-z]+|math\.(ceil|floor|trunc|sqrt)"
)
_TARGET_FORBIDDEN = re.compile(r"__|from_file|load_library|import_module|torch\.ops\.(loaded_libraries|torch_bind)")
_EXPRESSION = re.compile(r"[A-Za-z0-9_+\-*/%<>=!&|~(), ]{0,2000}|[0-9.eE+-]{1,40}")
_QUOTED = re.compile(r"Symbol\('([a-z_]+\d+)'(, (positive|nonnegative|integer|real|finite)=(True|False)){0,5}\)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYMBOL = re.compile(r"_?(s|u|zuf|zf|f)\d+")
_FUNCTIONS = {
    *("Add", "Mul", "Pow", "Max", "Min", "Mod", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "floor"),
    *("ceiling", "Integer", "Rational", "Piecewise", "True", "False", "FloorDiv", "ModularIndexing", "Where"),
    *("PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow"),
    *("FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity"),
    *("IsNonOverlappingAndDenseIndicator", "oo", "int_oo", "inf"),
}
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_REMEDY = (
    "export it again with the network's tensors only: torch.export.save(torch.export.export(model.eval(), (example,)), "
    "'model.pt2'); or call onnxviz.importing.from_torch where the model was made"
)
_CONTEXT = re.compile(r'(null|\[\]|\[("[^"\\]{0,200}"|\d{1,9})(, ?("[^"\\]{0,200}"|\d{1,9}))*\])')
_DEPTH = 200
_EXPANDED = 1 << 20
"""Most elements of a tensor that repeats its data by strides of 0."""


def write_safe_program(source: Path, target: Path, place: str = "") -> str:
    """Write a copy of a program that holds its graph and its plain tensors only.

    Args:
        source: the .pt2 archive.
        target: where the copy goes.
        place: the program, for messages; `source` if not given.

    Returns:
        The torch version that wrote it, or "".

    Raises:
        ModelFileError: if it is damaged, too large, of the form before torch 2.8, or holds what can run code.
    """
    place = place or shorten(str(source), 200)
    try:
        with zipfile.ZipFile(source) as archive:
            return _copy(archive, target)
    except ModelFileError as fault:
        fault.where = fault.where or place
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, NotImplementedError, EOFError) as fault:
        raise ModelFileError(f"a damaged program: {fault}", where=place, remedy="save or copy it again") from fault


def _copy(archive: zipfile.ZipFile, target: Path) -> str:
    members = {member.filename: member for member in archive.infolist()}
    if len(members) != len(archive.infolist()) or len(members) > 200_000:
        raise ModelFileError("the archive holds an entry twice, or too many", remedy=_REMEDY)
    if sum(member.file_size for member in members.values()) > limits.MODEL_BYTES:
        raise ModelFileError(f"unpacked it is larger than {limits.MODEL_BYTES:,} bytes", remedy="use a smaller model")
    if "serialized_exported_program.json" in members:
        raise ModelFileError(
            "a program of torch 2.7 or older, whose tensors are pickled",
            remedy="load it with the torch that wrote it and save it with torch 2.8 or newer",
        )
    root = next(iter(members)).split("/", 1)[0]
    models = [name for name in members if re.fullmatch(rf"{re.escape(root)}/models/[^/]+\.json", name)]
    if len(models) != 1:
        raise ModelFileError(f"the archive holds {len(models)} programs; one can be imported", remedy=_REMEDY)
    name = models[0].rsplit("/", 1)[1].removesuffix(".json")
    program = _json(archive, models[0])
    _check_program(program)
    program["guards_code"] = []
    kept: dict[str, bytes] = {f"model/models/{_MODEL}.json": json.dumps(program).encode()}
    for part in ("weights", "constants"):
        place = f"{root}/data/{part}/"
        if f"{place}{name}.pt" in members:
            raise ModelFileError(f"its {part} are a Python pickle", remedy=_REMEDY)
        listed = _json(archive, f"{place}{name}_{part}_config.json")
        for path, count in _payloads(listed, part).items():
            content = archive.read(f"{place}{path}")
            if count > max(len(content), _EXPANDED):
                raise ModelFileError(f"a tensor among its {part} is larger than its data", remedy=_REMEDY)
            kept[f"model/data/{part}/{path}"] = content
        kept[f"model/data/{part}/{_MODEL}_{part}_config.json"] = json.dumps(listed).encode()
    for entry in ("archive_format", "archive_version", "byteorder", ".data/version"):
        if f"{root}/{entry}" in members:
            kept[f"model/{entry}"] = archive.read(f"{root}/{entry}")
    kept[f"model/data/sample_inputs/{_MODEL}.pt"] = b""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for path, content in kept.items():
            copy.writestr(path, content)
    return str(program.get("torch_version", ""))[:40]


_MODEL = "model"


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    parsed = json.loads(archive.read(name))
    if not isinstance(parsed, dict):
        raise ModelFileError(f"{shorten(name)} is no object", remedy=_REMEDY)
    return parsed


def _payloads(listed: dict[str, Any], part: str) -> dict[str, int]:
    """Return the files of a list of tensors with their largest numbers of elements; refuse those that are pickled."""
    paths: dict[str, int] = {}
    for name, entry in listed["config"].items():
        path = entry["path_name"]
        if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", path) or not entry.get("tensor_meta"):
            raise ModelFileError(f"{shorten(name)!r} among its {part} is no plain tensor but pickled", remedy=_REMEDY)
        sizes = [int(size["as_int"]) for size in entry["tensor_meta"]["sizes"]]
        if min(sizes, default=0) < 0:
            raise ModelFileError(f"{shorten(name)!r} has a negative size", remedy=_REMEDY)
        paths[path] = max(paths.get(path, 0), math.prod(sizes))
    return paths


# --- the graph ------------------------------------------------------------------------------------------------------


def _check_program(program: dict[str, Any]) -> None:
    """Refuse what would be looked up, evaluated or imported by its name."""
    for symbol, bounds in program["range_constraints"].items():
        if not _SYMBOL.fullmatch(symbol) or not isinstance(bounds, dict):
            raise ModelFileError(f"the size {shorten(str(symbol))!r} is no symbol", remedy=_REMEDY)
    stack: list[tuple[Any, int]] = [(program, 0)]
    while stack:
        entry, depth = stack.pop()
        if depth > _DEPTH:
            raise ModelFileError("its graph is nested too deeply", remedy=_REMEDY)
        if isinstance(entry, list):
            stack.extend((item, depth + 1) for item in entry)
        elif isinstance(entry, dict):
            _check_entry(entry)
            stack.extend((item, depth + 1) for item in entry.values())


def _check_entry(entry: dict[str, Any]) -> None:
    target = entry.get("target")
    called = isinstance(target, str) and "inputs" in entry and "outputs" in entry
    if called and (not _TARGET.fullmatch(str(target)) or _TARGET_FORBIDDEN.search(str(target))):
        raise ModelFileError(f"the operator {shorten(str(target))!r} is not one of a network", remedy=_REMEDY)
    expression = entry.get("expr_str")
    if expression is not None:
        _check_expression(expression)
    for key in ("in_spec", "out_spec"):
        if entry.get(key) is not None:
            _check_tree(entry[key])
    if entry.get("as_custom_obj") or entry.get("custom_obj") or entry.get("as_operator"):
        raise ModelFileError("it holds an object that is no tensor", remedy=_REMEDY)
    if entry.get("treespec_namedtuple_fields"):
        raise ModelFileError("its inputs or outputs are of classes of their own", remedy=_REMEDY)


def _check_expression(expression: object) -> None:
    """Refuse a size that is not arithmetic of symbols: it is evaluated as Python."""
    if isinstance(expression, str) and len(expression) < 10_000:
        plain = _QUOTED.sub(r"\1", expression)
        words = set(_WORD.findall(plain)) if _EXPRESSION.fullmatch(plain) else {""}
        if all(word in _FUNCTIONS or _SYMBOL.fullmatch(word) or re.fullmatch(r"[eE]\d*", word) for word in words):
            return
    raise ModelFileError(f"the size {shorten(str(expression))!r} is no arithmetic", remedy=_REMEDY)


def _check_tree(text: object) -> None:
    """Refuse a tree of inputs or outputs that is not made of tuples, lists and dictionaries."""
    parsed = json.loads(text) if isinstance(text, str) else None
    if not (isinstance(parsed, list) and len(parsed) == 2 and parsed[0] == 1):
        raise ModelFileError("the structure of its inputs is unknown", remedy=_REMEDY)
    stack = [parsed[1]]
    while stack:
        node = stack.pop()
        context = node["context"]
        if node["type"] not in _CONTAINERS or not (context is None or _CONTEXT.fullmatch(str(context))):
            raise ModelFileError(
                f"its inputs or outputs are of the class {shorten(str(node['type']))!r}",
                remedy="export a network that takes and returns tensors, tuples, lists or dictionaries",
            )
        stack.extend(node["children_spec"])
