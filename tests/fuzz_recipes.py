"""Recipes that nobody means: texts damaged at random, and structures drawn from the JSON schema, in and out of bounds.

`lay_out` makes the folder in which they lie, `damaged_recipes` and `drawn_recipes` make them, and `fuzz_commands.call`
brings them through the command line.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import hostile_models
import numpy as np
from hypothesis import strategies as st
from PIL import Image
from tiny_models import fill

from onnxviz.analyses import registry
from onnxviz.core import limits
from onnxviz.core.yaml_source import dump
from onnxviz.recipe.schema import json_schema

ROOT = Path(__file__).resolve().parent.parent
Draw = Any


@dataclass(frozen=True)
class Case:
    """A recipe with what is given beside it.

    Attributes:
        content: the file's bytes.
        overrides: arguments of `--set`.
    """

    content: bytes
    overrides: tuple[str, ...] = ()


# --- the folder -------------------------------------------------------------------------------------------------------


def lay_out(folder: Path) -> Path:
    """Fill a folder with what recipes may name: models, pictures, labels, other recipes, and traps."""
    fill(folder)
    (folder / "empty.txt").write_text("")
    (folder / "wide.txt").write_text("a\x1b[31m\n" * 5000, encoding="utf-8")
    (folder / "labels.csv").write_text("file,class_index,name\n0.png,999999999,\x1b[2J\n")
    (folder / "broken.onnx").write_bytes((folder / "m.onnx").read_bytes()[:500])
    (folder / "hostile.onnx").write_bytes(hostile_models.named("\x1b[31m<b>\n../../x").SerializeToString())
    (folder / "photos" / "broken.png").write_bytes((folder / "photos" / "0.png").read_bytes()[:60])
    (folder / "photos" / "\u202egnp.\u202d.png").write_bytes((folder / "photos" / "1.png").read_bytes())
    _concepts(folder / "concepts")
    base = "version: 1\nmodel: {path: m.onnx}\nanalyses: {w: {kind: weights}}\n"
    (folder / "base.yaml").write_text(base)
    (folder / "itself.yaml").write_text("extends: itself.yaml\n")
    (folder / "circle.yaml").write_text("extends: circle_back.yaml\n")
    (folder / "circle_back.yaml").write_text("extends: circle.yaml\n")
    (folder / "latin.yaml").write_bytes(base.encode() + b"title: \xe9\n")
    (folder / "huge.yaml").write_bytes(b"#" * (limits.RECIPE_BYTES + 1))
    for name, target in {
        "zero": "/dev/zero", "loop": "loop", "loop.yaml": "loop.yaml", "gone": "nowhere", "up": "..",
    }.items():  # fmt: skip
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "photos" / "pipe.png")
    (folder / "photos" / "again").symlink_to("../photos")
    return folder


def _concepts(folder: Path) -> None:
    """Labelled images as `onnxviz.data.concepts.MaskFolder` reads them."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(3)
    for index in range(2):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(random.integers(0, 3, (16, 16), dtype=np.uint8)).save(folder / "labels" / f"{index}.png")
    (folder / "classes.txt").write_text("sky\nroad\ncar\n")


# --- texts, damaged ---------------------------------------------------------------------------------------------------


@cache
def texts() -> tuple[str, ...]:
    """Return recipes that are sound: those of the repository, and one for the example of each analysis."""
    found = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "recipes").glob("*.yaml"))]
    found.append(resources.files("onnxviz").joinpath("quickstart.yaml").read_text(encoding="utf-8"))
    head = "version: 1\nmodel: {builtin: scenes}\n"
    head += "data:\n  photos: {builtin: scenes, count: 3}\n  street: {concepts: concepts}\n"
    for cls in registry().values():
        example = cls.example.strip()
        if example:
            body = "\n".join("    " + line for line in example.split("\n"))
            found.append(f"{head}analyses:\n  one:\n{body}\n")
    found.append("extends: base.yaml\nversion: 1\ndata: {p: {images: photos}}\nmatrix: {w: {limit: [1, 2]}}\n")
    return tuple(found)


PATHS = (
    "m.onnx", "broken.onnx", "hostile.onnx", "labels.txt", "empty.txt", "wide.txt", "photos", "photos/*.png", "**",
    "photos/**", "../**", "concepts", "base.yaml", "itself.yaml", "circle.yaml", "latin.yaml", "huge.yaml", "zero",
    "loop", "loop.yaml", "loop/x", "gone", "pipe", "photos/pipe.png", "up/up/up", ".", "..", "/", "~", "~nobody/x",
    "~/x", "/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/mem", "/proc/self/fd/0", "/etc", "//x/y", "C:\\x",
    "\\\\host\\share", "a/" * 2000, "x" * 5000, "[", "[!", "photos/[", "{a,b}", "nul\\0", "http://x/y", "file:///etc",
    "-", "--help", "$HOME", "%s%n", "\u202e", "m.onnx/x", "photos/../photos/0.png", "*" * 300, "*/" * 40, "?" * 90,
)  # fmt: skip
WORDS = (
    "", "~", "null", "y", "no", "on", "True", "yes", "1", "0", "-1", "-0", "+1", "01", "0o17", "0x1F", "0b1", "1_000",
    "1e3", "1e400", "-1e400", "1e-400", ".5", "5.", ".inf", "-.inf", ".nan", "inf", "nan", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "1" * 400, "1:30:00", "2001-12-14", "2001-12-14t21:59:43.10-05:00",
    "=", "<<", "*", "*a", "&a", "&a b", "!x", "!!python/object/apply:os.system [ls]", "!!binary aGk=", "!!set {a}",
    "%", "@", "`", "|", ">", "|9", ">-\n", "[", "]", "{", "}", "[]", "{}", "[[]]", "{a: {}}", "[1, [2]]", "? a", "- -",
    ": :", "# x",
    '"', "'", '"\\ud800"', '"\\0"', '"\\x1b[31m"', '"\\u202e"', '"\\U0010FFFF"', "\u2028", "\u0085", "\ufeff",
    "é", "e\u0301", "日本", "🦁", "\u200b", "\U000e0041", "kind", "model", "version", "top:3", "top:-1",
    "top:99999999999",
    "label", "0-15", "0-999999999", "15-0", "all", "center", "Conv[3]", "Conv[-1]", "Conv[99999999999999]", "[a-",
    "*:*",
    "all_convs", "last_conv", "logits", "x" * 3000, "a." * 500, "a:b.c", "scenes", "photos", "\ttab", "a\tb",
)  # fmt: skip
LINES = (
    "%YAML 1.2", "%YAML 9.9", "%TAG ! tag:x,2000:", "---", "...", "--- !!map", "<<: {a: 1}", "<<: *a",
    "extends: base.yaml",
    "extends: itself.yaml", "extends: loop.yaml", "extends: zero", "extends: pipe", "extends: ..", "extends: [a]",
    "matrix: {one: {limit: [1, 2, 3], title: [a, b]}}", "matrix: {filters: {limit: {a: 1, A: 2}}}", "matrix: []",
    "matrix: {filters: {title: [a, A, 'a ', '-', '']}}", "defaults: {weights: {kind: grad_cam}}",
    "defaults: {weights: null}",
    "defaults: {x: {y: z}}", "models: {a: {builtin: scenes}, b: {path: m.onnx}}", "models: {}", "models: {a: null}",
    "expect: [{metric: a.b, min: .nan}]", "expect: {}", "expect: [null]", "? {a: b}\n: c", "? |\n  x\n: y", "\tx: 1",
    "seed: -1", "seed: 9223372036854775807", "title: |\n  a\n  b", "title: \"\\e[2J\"", "version: 1", "version: 2",
    "\x00",
    "\x1b[31m: red", "analyses: {}", "data: null", "data: {p: {images: []}}", "  deep: " + "[" * 40 + "]" * 40,
    "model: {builtin: scenes, size: 99999}", "model: {path: m.onnx, size: [1, 1]}",
    "model: {path: m.onnx, labels: [a]}",
    "model: {builtin: scenes, preprocess: {mean: [1, 2], scale: 0}}",
    "model: {path: m.onnx, preprocess: {scale: 1e-300}}",
)  # fmt: skip
_TOKEN = re.compile(r"[^\s,\[\]{}:#\"']+")


def _changed_line(draw: Draw, lines: list[str]) -> None:
    """Change one line of a text, or its place."""
    place = draw(st.integers(0, len(lines) - 1))
    kind = draw(st.sampled_from(("token", "token", "path", "line", "delete", "twice", "indent", "move", "cut", "many")))
    line = lines[place]
    if kind in ("token", "path"):
        tokens = list(_TOKEN.finditer(line))
        if tokens:
            token = tokens[draw(st.integers(0, len(tokens) - 1))]
            new = draw(st.sampled_from(WORDS if kind == "token" else PATHS) | st.text(max_size=8))
            lines[place] = line[: token.start()] + new + line[token.end() :]
    elif kind == "line":
        lines.insert(place, draw(st.sampled_from(LINES)))
    elif kind == "delete" and len(lines) > 1:
        del lines[place]
    elif kind == "twice":
        lines.insert(draw(st.integers(0, len(lines))), line)
    elif kind == "indent":
        shift = draw(st.integers(-3, 3))
        lines[place] = " " * shift + line if shift > 0 else line[min(-shift, len(line)) :]
    elif kind == "move":
        other = draw(st.integers(0, len(lines) - 1))
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == "cut":
        lines[place] = line[: draw(st.integers(0, len(line)))]
    elif kind == "many":
        lines[place:place] = [line] * draw(st.sampled_from((10, 300)))


_WHOLE = {
    "nothing": lambda text: text.encode("utf-8", "surrogatepass"),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass"),
    "line ends": lambda text: text.replace("\n", "\r\n").encode("utf-8", "surrogatepass"),
    "old line ends": lambda text: text.replace("\n", "\r").encode("utf-8", "surrogatepass"),
    "UTF-16": lambda text: text.encode("utf-16", "surrogatepass"),
    "Latin 1": lambda text: text.encode("latin-1", "replace"),
    "tabs": lambda text: text.replace("  ", "\t").encode("utf-8", "surrogatepass"),
    "zero": lambda text: text.replace("a", "\0", 1).encode("utf-8", "surrogatepass"),
    "twice": lambda text: (text + "\n---\n" + text).encode("utf-8", "surrogatepass"),
    "long": lambda text: (text + "\n# " + "x" * limits.RECIPE_BYTES).encode("utf-8", "surrogatepass"),
}


@st.composite
def damaged_recipes(draw: Draw) -> Case:
    """Return a sound recipe's text with one to six changes."""
    lines = draw(st.sampled_from(texts())).split("\n")
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3, 6)))):
        _changed_line(draw, lines)
    whole = draw(st.sampled_from(("nothing",) * 12 + tuple(_WHOLE)))
    return Case(_WHOLE[whole]("\n".join(lines)), draw(overrides()))


def overrides() -> st.SearchStrategy[tuple[str, ...]]:
    """Return up to three arguments of `--set`, mostly none."""
    names = st.sampled_from((
        "one", "filters", "classes", "evidence", "concepts", "model", "models.first", "data.scenes", "data.photos",
        "seed",
        "title", "analyses", "defaults.weights", "matrix.one", "expect.0", "expect", "version", "extends", "a0", "a1",
    ))  # fmt: skip
    fields = st.sampled_from((
        "", ".layers", ".steps", ".limit", ".path", ".builtin", ".images", ".title", ".targets.0.units", ".units",
        ".kind",
        ".transforms.0", ".transforms", ".min", ".", ".x.y.z", ".0", ".99999999", ".size", ".seeds",
    ))  # fmt: skip
    one = st.builds("{}{}={}".format, names, fields, st.sampled_from(WORDS + PATHS)) | st.text(max_size=20)
    return st.lists(one, max_size=3).map(tuple) | st.just(())


# --- structures from the schema ---------------------------------------------------------------------------------------

_ALIASES = ("first", "second")
_DATA = ("scenes", "photos", "street", "one")
_LAYERS = (
    "first_conv", "last_conv", "all_convs", "logits", "Conv[0]", "Conv[-1]", "conv1", "conv2:act", "*", "conv*",
    "second",
)  # fmt: skip
HINTS: Mapping[str, st.SearchStrategy[Any]] = {
    "version": st.just(1),
    "path": st.sampled_from(("m.onnx", "m.onnx", "hostile.onnx")),
    "builtin": st.sampled_from(("scenes", "scenes_second")),
    "labels": st.sampled_from(("labels.txt", ["a", "b", "c", "d"])),
    "preprocess": st.sampled_from(("imagenet", "caffe", "unit", "tf")),
    "preset": st.sampled_from(("imagenet", "caffe", "unit", "tf")),
    "extends": st.sampled_from(("base.yaml", "base.yaml", "itself.yaml", "gone", "loop.yaml")),
    "concepts": st.just("concepts"),
    "data": st.sampled_from(_DATA),
    "layers": st.sampled_from(_LAYERS) | st.lists(st.sampled_from(_LAYERS), max_size=3),
    "layer": st.sampled_from(_LAYERS),
    "units": st.sampled_from((0, "0-3", "all", [0, 1], "3-1", -1, None)),
    "classes": st.sampled_from(("top:1", "top:2", 0, [0, 1], "label", "top:99")),
    "images": st.sampled_from(("photos", "photos/*.png", ["photos/0.png"], 0, 1)),
    "kernels": st.sampled_from((1, [0], 8)),
    "metric": st.sampled_from(("a0.dead_fraction", "a1.top1_rate", "first:a0.detectors", "a0.x")),
}
"""What the names of fields that the schema calls text or numbers ask for; without it hardly a recipe is sound."""
_KNOWN = frozenset({
    "title", "description", "default", "type", "properties", "required", "additionalProperties", "anyOf", "oneOf",
    "items",
    "prefixItems", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum",
    "const",
    "$ref", "discriminator", "propertyNames", "$defs", "$schema", "minLength", "maxLength", "pattern", "uniqueItems",
    "minProperties", "maxProperties", "examples", "multipleOf",
})  # fmt: skip
LARGE = (1 << 31, 1 << 53, (1 << 63) - 1)


def odd_values() -> st.SearchStrategy[Any]:
    """Return a value of any type, mostly one that is wrong."""
    texts_of = st.sampled_from(WORDS + PATHS).filter(lambda word: "\0" not in word)
    scalars = st.none() | st.booleans() | st.integers(-(1 << 65), 1 << 65) | st.floats() | texts_of
    return scalars | st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts_of, inner, max_size=3), max_leaves=4
    )


class SchemaDrawer:
    """Draws values from a JSON schema: mostly valid ones, at the bounds as often as within, sometimes beyond.

    Args:
        schema: the whole, with its `$defs`.
        wrong: of so many values one is wrong on purpose.
    """

    def __init__(self, schema: Mapping[str, Any], wrong: int = 200) -> None:
        self.schema = schema
        self.wrong = wrong

    def value(self, draw: Draw, schema: Mapping[str, Any], name: str = "") -> Any:
        """Draw a value for a part of the schema; `name` is that of the field."""
        if unknown := set(schema) - _KNOWN:
            raise NotImplementedError(f"the schema says {unknown} of {name!r}: draw that too")
        # What is rare lies within: hypothesis draws the ends far more often than the numbers between them.
        chance = draw(st.integers(0, self.wrong - 1))
        if chance == self.wrong * 5 // 8:
            return draw(odd_values())
        if "$ref" in schema:
            return self.value(draw, self.schema["$defs"][schema["$ref"].removeprefix("#/$defs/")], name)
        if name in HINTS and "properties" not in schema and schema.get("type") != "object" and chance % 6 != 4:
            return draw(HINTS[name])
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return draw(st.sampled_from(schema["enum"]))
        if options := schema.get("anyOf") or schema.get("oneOf"):
            return self.value(draw, draw(st.sampled_from(options)), name)
        return self.typed(draw, schema, name)

    def typed(self, draw: Draw, schema: Mapping[str, Any], name: str) -> Any:
        kind = schema.get("type")
        if kind == "object":
            return self.mapping(draw, schema)
        if kind == "array":
            return self.items(draw, schema, name)
        if kind == "integer":
            return self.integer(draw, schema)
        if kind == "number":
            return self.number(draw, schema)
        if kind == "boolean":
            return draw(st.booleans())
        if kind == "null":
            return None
        if kind == "string":
            return draw(st.sampled_from(("a", "scenes", "photos", "0", "")) | st.text(max_size=6))
        return draw(odd_values())  # anything may stand there

    def mapping(self, draw: Draw, schema: Mapping[str, Any]) -> dict[str, Any]:
        made = {}
        required = schema.get("required", ())
        for name, part in schema.get("properties", {}).items():
            if (name in required) if draw(st.integers(0, 9)) < 6 else True:
                made[name] = self.value(draw, part, name)
        if not schema.get("properties") and isinstance(part := schema.get("additionalProperties"), dict):
            for name in draw(st.lists(st.sampled_from(("a0", "a1", "first", "photos")), max_size=2, unique=True)):
                made[name] = self.value(draw, part)
        return made

    def items(self, draw: Draw, schema: Mapping[str, Any], name: str) -> list[Any]:
        if "prefixItems" in schema:
            return [self.value(draw, part, name) for part in schema["prefixItems"]]
        least = schema.get("minItems", 0)
        count = draw(st.integers(least, min(schema.get("maxItems", least + 3), least + 3)))
        return [self.value(draw, schema.get("items", {})) for _ in range(count)]

    def integer(self, draw: Draw, schema: Mapping[str, Any]) -> int:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in schema else -3)
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        ends = [low, low + 1, *((high, high - 1) if high is not None else LARGE)]
        beyond = [low - 1, *((high + 1,) if high is not None else (1 << 63,))]
        chosen: int = draw(st.one_of(
            st.integers(low, min(low + 40, high if high is not None else low + 40)),
            st.sampled_from(ends),
            st.sampled_from(ends * 3 + beyond),
        ))  # fmt: skip
        return chosen

    def number(self, draw: Draw, schema: Mapping[str, Any]) -> float:
        low, high = schema.get("minimum"), schema.get("maximum")
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        ends = [0.5, 1e-300, 5e-324, 1e-12, 1e6, 1e300, 1.7976931348623157e308]
        ends += [float(end) for end in (low, high) if end is not None]
        ends += [math.nextafter(above, math.inf)] if above is not None else []
        ends += [math.nextafter(below, -math.inf)] if below is not None else []
        ends = [end for end in ends if _within(end, low, high, above, below)] or [0.5]
        beyond = [float(end) for end in (above, below) if end is not None] + [math.inf, -math.inf, math.nan, -1.0]
        first = low if low is not None else above if above is not None else -4.0
        last = high if high is not None else below if below is not None else max(first, 0) + 4.0
        middle = st.floats(first, last).filter(lambda number: _within(number, low, high, above, below))
        chosen: float = draw(st.one_of(middle, middle, st.sampled_from(ends), st.sampled_from(ends * 3 + beyond)))
        return chosen


def _within(number: float, low: Any, high: Any, above: Any, below: Any) -> bool:
    return (
        (low is None or number >= low)
        and (high is None or number <= high)
        and (above is None or number > above)
        and (below is None or number < below)
    )


@cache
def _schema() -> dict[str, Any]:
    return json_schema()


@st.composite
def drawn_recipes(draw: Draw, small: bool = False) -> Case:
    """Return a recipe drawn from the schema.

    Args:
        draw: hypothesis'.
        small: bound what costs time, for recipes that run; hardly anything else is wrong with them.
    """
    schema = _schema()
    drawer = SchemaDrawer(schema, 400 if small else 200)
    properties = schema["properties"]
    tree: dict[str, Any] = {"version": 1}
    several = draw(st.integers(0, 7)) == 7
    model = schema["$defs"]["ModelSettings"]
    models = {alias: _model(draw, drawer, model) for alias in (_ALIASES if several else ("model",))}
    tree |= {"models": models} if several else models
    tree["data"] = _data(draw, drawer)
    kinds = sorted(registry())
    every = properties["analyses"]["additionalProperties"]["discriminator"]["mapping"]
    for index in range(draw(st.integers(1, 2))):
        part = {"$ref": every[draw(st.sampled_from(kinds))]}
        tree.setdefault("analyses", {})[f"a{index}"] = _analysis(draw, drawer.value(draw, part))
    for name in ("title", "seed", "expect", "defaults", "matrix", "extends"):
        if draw(st.integers(0, 9)) >= 8:
            tree[name] = _extra(draw, drawer, name, tree["analyses"])
    if small:
        tame(tree)
    try:
        text = dump(tree)
    except (UnicodeError, ValueError):  # lone surrogates: nothing that a file could say
        text = repr(tree)
    return Case(text.encode("utf-8", "surrogatepass"), () if small else draw(overrides()))


def _analysis(draw: Draw, made: Any) -> Any:
    """Return what was drawn of an analysis, mostly with what none of its kind can do without."""
    kind = made.get("kind") if isinstance(made, dict) else None
    if kind == "activation_maximization" and draw(st.integers(0, 7)) < 7:
        made.setdefault("targets", [{"layer": "logits", "units": 0}])
    if kind in ("grad_cam", "adversarial") and draw(st.integers(0, 7)) < 7:
        made.pop("images", None)
        made.pop("score", None)
    return made


def _model(draw: Draw, drawer: SchemaDrawer, schema: Mapping[str, Any]) -> Any:
    made = drawer.value(draw, schema, "model")
    if isinstance(made, dict) and draw(st.integers(0, 19)) < 19:
        kept = draw(st.sampled_from(("builtin", "path")))
        made = {key: value for key, value in made.items() if key not in ("builtin", "path")}
        made = {kept: draw(HINTS[kept]), **made}
        if kept == "builtin":
            for known in ("labels", "size", "output"):  # the built-in models say these themselves
                made.pop(known, None)
        elif draw(st.integers(0, 3)) < 3:  # what most declarations say is not true of the file
            made.pop("output", None)
    return made


def _data(draw: Draw, drawer: SchemaDrawer) -> dict[str, Any]:
    made: dict[str, Any] = {
        "scenes": {"builtin": "scenes", "count": 3},
        "photos": {"images": "photos/*.png"},
        "street": {"concepts": "concepts"},
    }
    if draw(st.booleans()):
        kind = draw(st.sampled_from(("ImagesSettings", "ConceptsSettings", "BuiltinSettings")))
        made["one"] = drawer.value(draw, drawer.schema["$defs"][kind])
    return made


def _extra(draw: Draw, drawer: SchemaDrawer, name: str, analyses: Mapping[str, Any]) -> Any:
    """Draw what works on analyses: defaults and a matrix of fields that the analyses have."""
    if name not in ("defaults", "matrix"):
        return drawer.value(draw, drawer.schema["properties"][name], name)
    given = draw(st.sampled_from([item for item in analyses.values() if isinstance(item, dict)] or [{}]))
    kind = given.get("kind", "weights")
    cls = registry().get(kind) if isinstance(kind, str) else None
    part = drawer.schema["$defs"][(cls or registry()["weights"]).__name__]["properties"]
    fields = draw(st.lists(st.sampled_from(sorted(part)), min_size=1, max_size=2, unique=True))
    if name == "defaults":
        return {str(kind): {field: drawer.value(draw, part[field], field) for field in fields}}
    return {
        next(iter(analyses), "a0"): {
            field: [drawer.value(draw, part[field], field) for _ in range(draw(st.integers(1, 3)))] for field in fields
        }
    }


_MOST = {
    "steps": 2, "seeds": 2, "count": 3, "limit": 2, "size": 24, "label_size": 24, "best_units": 2, "best_images": 2,
    "input_channels": 2, "batch": 4,
}  # fmt: skip


def tame(tree: Any) -> None:
    """Bound in place what costs time: numbers that say how much, wherever they stand."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        most = _MOST.get(key) if isinstance(key, str) else None
        if most is not None and isinstance(value, int) and not isinstance(value, bool):
            tree[key] = min(value, most)
        elif most is not None and isinstance(value, list):
            tree[key] = [min(item, most) if type(item) is int else item for item in value]
        else:
            tame(value)
