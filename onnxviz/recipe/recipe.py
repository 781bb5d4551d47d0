"""A recipe: what to find out about which model, with which data; read with all its faults at once."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxviz.analyses import registry
from onnxviz.analyses.base import Analysis
from onnxviz.core import limits
from onnxviz.core.errors import Fault, RecipeError, shorten
from onnxviz.core.yaml_source import (
    Address,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    SourcePosition,
    copy,
    dump,
    find,
    parse_source,
    place_of,
    plain,
    read_source,
    words,
)
from onnxviz.data.base import DataSource
from onnxviz.data.kinds import data_kinds
from onnxviz.graph.fixed_inputs import FILLINGS
from onnxviz.recipe.faults import check, ordered, read_analysis, unknown, unknown_key
from onnxviz.recipe.layers import extended, form, not_a_path, override
from onnxviz.recipe.schema import (
    ID_PATTERN,
    ExpectationSettings,
    LimitsSettings,
    ModelSettings,
    RecipeSettings,
    metric_parts,
)

SINGLE = "model"
"""Alias of the model where a recipe has only one."""


@dataclass(frozen=True)
class Recipe:
    """A recipe whose form is right; what it says about models and data has not been looked at.

    Its one model has the alias `SINGLE`; defaults and matrices are worked into the analyses. `tree` is everything with
    its place, and `faults` what is wrong with a recipe of which only the sound parts were asked for.
    """

    name: str
    title: str
    seed: int
    models: Mapping[str, ModelSettings]
    data: Mapping[str, DataSource]
    analyses: Mapping[str, Analysis]
    expect: tuple[ExpectationSettings, ...]
    tree: MappingNode = field(repr=False, compare=False)
    faults: tuple[Fault, ...] = ()
    limits: LimitsSettings | None = None

    @property
    def compares(self) -> bool:
        """Whether the recipe names its models, so that reports must too."""
        return SINGLE not in self.models

    def address(self, alias: str) -> Address:
        """Return where a model's settings stand."""
        return ("models", alias) if self.compares else ("model",)

    def place(self, address: Address, *, key: bool = False) -> SourcePosition:
        """Return the place of an entry, or of what is left of it."""
        return place_of(self.tree, address, key=key)

    def resolve(self, address: Address) -> Path:
        """Return the file that the text at an address names, relative to where that text was written."""
        node = find(self.tree, address)
        assert isinstance(node, ScalarNode)
        return node.place.folder / str(node.value)

    def inputs(self, alias: str) -> dict[str, Any]:
        """Return the values of a model's fixed inputs, those in files as paths."""
        address = (*self.address(alias), "inputs")
        return {
            name: self.resolve((*address, name)) if _is_file(value) else value
            for name, value in self.models[alias].inputs.items()
        }

    def base(self, name: str) -> Path:
        """Return the folder that a data set's patterns are relative to."""
        node = find(self.tree, ("data", name, self.data[name].kind))
        first = node.items[0] if isinstance(node, SequenceNode) and node.items else node
        return first.place.folder if first is not None else Path()

    def expected(self, alias: str, analysis: str) -> Iterator[tuple[SourcePosition, str]]:
        """Yield the metrics of an analysis on a model that are expected to hold, with their places."""
        node = find(self.tree, ("expect",))
        for item in node.items if isinstance(node, SequenceNode) else ():
            word, level = find(item, ("metric",)), find(item, ("level",))
            if not isinstance(word, ScalarNode) or (level is not None and plain(level) == "off"):
                continue
            named = metric_parts(str(word.value))
            if named is not None and named[0] in (None, alias) and named[1] == analysis:
                yield word.place, named[2]

    def lock(self, folder: Path) -> str:
        """Return a recipe, as YAML, that repeats this one from inside `folder`, with all defaults filled in."""
        models = {alias: self._locked_model(alias, folder) for alias in self.models}
        data: dict[str, Any] = {}
        for name, settings in self.data.items():
            data[name] = settings.model_dump(mode="json", exclude_none=True)
            for path in settings.paths:
                *above, key = path.split(".")
                part = data[name]
                for step in above:
                    part = part.get(step, {})
                if key in part and not (above and isinstance(part[key], list)):
                    part[key] = _relative_all(part[key], self.base(name), folder)
        locked: dict[str, Any] = {"version": 1, "title": self.title, "seed": self.seed}
        locked |= {"models": models} if self.compares else {"model": models[SINGLE]}
        if data:
            locked["data"] = data
        locked["analyses"] = {
            name: {"kind": analysis.model_dump(mode="json")["kind"]} | analysis.model_dump(mode="json")
            for name, analysis in self.analyses.items()
        }
        if self.limits is not None:
            locked["limits"] = self.limits.model_dump(mode="json", exclude_none=True)
        if self.expect:
            locked["expect"] = [item.model_dump(mode="json", exclude_none=True) for item in self.expect]
        return dump(locked)

    def _locked_model(self, alias: str, folder: Path) -> dict[str, Any]:
        settings = self.models[alias].model_dump(mode="json", exclude_none=True)
        for key in ("path", "labels"):
            if isinstance(settings.get(key), str):
                settings[key] = relative(self.resolve((*self.address(alias), key)), folder)
        inputs = self.inputs(alias)
        settings["inputs"] = {
            name: relative(value, folder) if isinstance(value, Path) else value for name, value in inputs.items()
        }
        if not inputs:
            del settings["inputs"]
        return settings


def read_recipe(path: Path | str, overrides: Sequence[str] = (), *, partly: bool = False) -> Recipe:
    """Read a recipe from a file.

    Args:
        path: the YAML file.
        overrides: what `--set` was given, for example "classes.steps=64" or "model.path=squeezenet.onnx".
        partly: return what is sound of a faulty recipe, with its faults, if at least a model is; `make_plan` then
            checks that against the model and the data and raises all faults together.

    Raises:
        RecipeError: with every fault that can be seen without opening the model.
    """
    file = Path(path)
    tree, faults = read_source(file, str(path))
    return _build(tree, faults, str(path), file, overrides, partly=partly)


def parse_recipe(text: str, name: str, folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from text; `folder` is what its paths are relative to. Raises as `read_recipe`."""
    tree, faults = parse_source(text, name, folder)
    return _build(tree, faults, name, folder / name, overrides)


def relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, with slashes; absolute where there is no way (another drive).

    The folder's own place counts, not that of a link to it: from there `..` leads.
    """
    there = Path(os.path.realpath(path.parent), path.name)
    try:
        return Path(os.path.relpath(there, os.path.realpath(folder))).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value not in FILLINGS


def _relative_all(value: str | list[str], base: Path, folder: Path) -> str | list[str]:
    if isinstance(value, list):
        return [relative(base / item, folder) for item in value]
    return relative(base / value, folder)


def _build(
    tree: Node | None, faults: list[Fault], name: str, file: Path, overrides: Sequence[str], *, partly: bool = False
) -> Recipe:
    if tree is None and not faults:
        faults = [Fault("the recipe is empty; `onnxviz init MODEL` writes one to start from", name)]
    if tree is not None and not isinstance(tree, MappingNode):
        faults.append(tree.place.fault("a recipe is a mapping that begins with 'version: 1'"))
        tree = None
    if tree is None:
        raise RecipeError(ordered(faults))
    unreadable = {(fault.file, fault.line, fault.column) for fault in faults}
    tree = extended(tree, (file.resolve(),), faults)
    for text in overrides:
        override(tree, text, faults)
    builder = _Builder(tree, name)
    recipe = builder.build()
    # What could not be read is told once, not again as a value of the wrong type.
    faults += [fault for fault in builder.faults if (fault.file, fault.line, fault.column) not in unreadable]
    if recipe is None or (faults and not partly):
        raise RecipeError(ordered(faults))
    return dataclasses.replace(recipe, faults=tuple(faults))


class _Builder:
    """Checks the parts of a recipe, collecting faults."""

    def __init__(self, tree: MappingNode, name: str) -> None:
        self.tree = tree
        self.name = name
        self.faults: list[Fault] = []
        self.copied = 0

    def build(self) -> Recipe | None:
        """Return the recipe, or what of it is sound if there are faults; None if no model is."""
        analyses_node, data_node = self.named("analyses"), self.named("data")
        self.named("models")
        if analyses_node is not None:
            self.work_in_defaults(analyses_node)
            self.work_in_matrix(analyses_node)
        top = self.top()
        data = {key: self.data(node) for key, node in data_node.entries.items()} if data_node else {}
        analyses = {key: self.analysis(node) for key, node in analyses_node.entries.items()} if analyses_node else {}
        self.paths()
        self.metrics()
        if top is None:
            return None
        models = {SINGLE: top.model} if top.model is not None else dict(top.models or {})
        return Recipe(
            name=self.name,
            title=top.title or Path(self.name).stem,
            seed=top.seed,
            models=models,
            data={key: value for key, value in data.items() if value is not None},
            analyses={key: value for key, value in analyses.items() if value is not None},
            expect=tuple(top.expect),
            tree=self.tree,
            limits=top.limits,
        )

    def named(self, part: str) -> MappingNode | None:
        """Return a mapping from ids, checking the ids."""
        node = self.tree.entries.get(part)
        if isinstance(node, ScalarNode) and node.value is None:
            self.tree.drop(part)
        node = self.mapping(part, "names to their settings")
        if node is None:
            return None
        self.count(part, len(node.entries), self.tree.keys[part])
        for key in node.entries:
            if not re.fullmatch(ID_PATTERN, key):
                text = "has something else than a-z, 0-9, _ and -, or more than 64 of them"
                self.faults.append(node.keys[key].fault(f"the name {shorten(key)!r} {text}"))
            elif part == "analyses" and key in RecipeSettings.model_fields:
                self.faults.append(node.keys[key].fault(f"an analysis cannot be called {key!r}: the word means a part"))
            elif part == "models" and key == SINGLE:
                self.faults.append(node.keys[key].fault(f"a model among several cannot be called {key!r}"))
        return node

    def mapping(self, part: str, what: str) -> MappingNode | None:
        """Return a part that must be a mapping, None if it is not there or something else."""
        node = self.tree.entries.get(part)
        if node is None or isinstance(node, MappingNode):
            return node
        self.faults.append(node.place.fault(f"expected a mapping from {what}, not {form(node)}"))
        return None

    def count(self, part: str, count: int, place: SourcePosition) -> None:
        """Refuse a part of too many entries, at once: each costs an opened file, or jobs."""
        most = limits.RECIPE_ENTRIES[part]
        if count > most:
            raise RecipeError(
                [place.fault(f"{count:,} entries of `{part}` are too many; a recipe has {most:,} at most")]
            )

    def count_copies(self, size: int, place: SourcePosition) -> None:
        """Refuse, at once, to copy more values for `defaults` and `matrix` than memory and time are for."""
        self.copied += size
        if self.copied > limits.RECIPE_COPIES:
            text = f"defaults and matrices would make more than {limits.RECIPE_COPIES:,} values in this recipe"
            raise RecipeError([place.fault(f"{text}; write several recipes")])

    def top(self) -> RecipeSettings | None:
        shallow = MappingNode(dict(self.tree.entries), dict(self.tree.keys), self.tree.place)
        for part in ("analyses", "data", "matrix", "defaults"):
            if part in shallow.entries:
                shallow.entries[part] = MappingNode({}, {}, self.tree.place)
        settings, faults = check(RecipeSettings, shallow)
        self.faults += faults
        if settings is None:
            sound = [part for part in ("version", "seed", "model", "models", "analyses") if part in shallow.entries]
            core = MappingNode({part: shallow.entries[part] for part in sound}, shallow.keys, self.tree.place)
            settings, _ = check(RecipeSettings, core)
        if "analyses" in self.tree.entries and not plain(self.tree.entries["analyses"]):
            self.faults.append(self.tree.keys["analyses"].fault("no analysis is given; `onnxviz explain` lists them"))
        both = [key for key in ("model", "models") if key in self.tree.entries]
        if not both:
            self.faults.append(self.tree.place.fault("'model' is missing: {path: FILE.onnx, preprocess: ...}"))
        elif len(both) == 2:
            self.faults.append(self.tree.keys["models"].fault("either 'model' or 'models', not both"))
        elif settings is not None and settings.model is None and not settings.models:
            self.faults.append(self.tree.keys[both[0]].fault("no model is given"))
        return settings if len(both) == 1 else None

    def data(self, node: Node) -> DataSource | None:
        if not isinstance(node, MappingNode):
            self.faults.append(node.place.fault("expected a mapping such as {images: 'photos/*.jpg'}"))
            return None
        kinds = data_kinds()
        sources = [key for key in kinds if key in node.entries]
        if len(sources) != 1:
            wrong = [key for key in node.entries if not any(key in cls.model_fields for cls in kinds.values())]
            if wrong and not sources:
                self.faults += [unknown_key(key, list(kinds), node.keys[key]) for key in wrong]
            else:
                *others, last = map(repr, kinds)
                known = f"{', '.join(others)} and {last}"
                self.faults.append(node.place.fault(f"a data set has one of {known}"))
            return None
        settings, faults = check(kinds[sources[0]], node)
        self.faults += faults
        return settings

    def analysis(self, node: Node) -> Analysis | None:
        settings, faults = read_analysis(node)
        self.faults += faults
        return settings

    def work_in_defaults(self, analyses: MappingNode) -> None:
        node = self.mapping("defaults", "kinds to settings")
        if node is None:
            return
        for kind, settings in node.entries.items():
            cls = registry().get(kind)
            if cls is None:
                self.faults.append(unknown("no analysis is of kind", kind, registry(), node.keys[kind]))
            elif not isinstance(settings, MappingNode):
                self.faults.append(settings.place.fault(f"expected a mapping of settings, not {form(settings)}"))
            else:
                known = [name for name in cls.model_fields if name != "kind"]
                wrong = [key for key in settings.entries if key not in known]
                self.faults += [unknown_key(key, known, settings.keys[key]) for key in wrong]
                self.fill_in(analyses, kind, settings, set(wrong))

    def fill_in(self, analyses: MappingNode, kind: str, settings: MappingNode, wrong: set[str]) -> None:
        size = _size(settings)
        for analysis in analyses.entries.values():
            if not isinstance(analysis, MappingNode) or "kind" not in analysis.entries:
                continue
            if plain(analysis.entries["kind"]) == kind:
                self.count_copies(size, settings.place)
                for key, value in settings.entries.items():
                    if key not in analysis.entries and key not in wrong:
                        analysis.put(key, copy(value), settings.keys[key])

    def work_in_matrix(self, analyses: MappingNode) -> None:
        node = self.mapping("matrix", "analyses to fields")
        if node is None:
            return
        for name, fields in node.entries.items():
            original = analyses.entries.get(name)
            if not isinstance(original, MappingNode):
                self.faults.append(unknown("no analysis is called", name, analyses.entries, node.keys[name]))
            elif not isinstance(fields, MappingNode) or not fields.entries:
                self.faults.append(fields.place.fault("expected a mapping from fields to lists of values"))
            else:
                self.multiply(analyses, name, original, fields)

    def multiply(self, analyses: MappingNode, name: str, original: MappingNode, fields: MappingNode) -> None:
        axes = []
        for key, values in fields.entries.items():
            choices = list(_choices(values))
            if not choices:
                self.faults.append(values.place.fault(f"expected a list of values for {shorten(key)!r}"))
                return
            axes.append([(key, word, value) for word, value in choices])
        count = math.prod(map(len, axes))
        self.count("analyses", len(analyses.entries) - 1 + count, fields.place)
        longest = max(_size(item) for axis in axes for *_, item in axis)
        self.count_copies(count * (_size(original) + len(axes) * longest), fields.place)
        made: dict[str, MappingNode] = {}
        for combination in itertools.product(*axes):
            variant = copy(original)
            assert isinstance(variant, MappingNode)
            for key, _, value in combination:
                variant.put(key, copy(value), fields.keys[key])
            made["-".join([name, *(word for _, word, _ in combination)])] = variant
        entries, keys = dict(analyses.entries), dict(analyses.keys)
        analyses.entries.clear()
        for key, value in entries.items():
            if key != name:
                analyses.put(key, value, keys[key])
                continue
            for variant_id, variant in made.items():
                if variant_id in entries or not re.fullmatch(ID_PATTERN, variant_id):
                    text = f"the matrix makes the name {shorten(variant_id)!r}, which is taken or too long"
                    self.faults.append(keys[name].fault(text))
                analyses.put(variant_id, variant, keys[name])

    def paths(self) -> None:
        """Look for what only files may be."""
        places: list[Address] = []
        for model in [("model",), *(("models", alias) for alias in self.keys_of("models"))]:
            places += [(*model, "path"), (*model, "labels")]
            places += [(*model, "inputs", name) for name in self.keys_of(*model, "inputs")]
        for name in self.keys_of("data"):
            places += [("data", name, *field.split(".")) for cls in data_kinds().values() for field in cls.paths]
        for address in places:
            node = find(self.tree, address)
            for item in node.items if isinstance(node, SequenceNode) and address[0] == "data" else [node]:
                if (
                    isinstance(item, ScalarNode)
                    and isinstance(item.value, str)
                    and (fault := not_a_path(item.value, item.place))
                ):
                    self.faults.append(fault)

    def metrics(self) -> None:
        """Check that expectations speak of analyses and models that there are."""
        analyses, models = self.keys_of("analyses"), self.keys_of("models")
        expect = self.tree.entries.get("expect")
        for item in expect.items if isinstance(expect, SequenceNode) else ():
            node = find(item, ("metric",))
            if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
                continue  # the schema says what is wrong with it
            named = metric_parts(node.value)
            if named is None:
                self.faults.append(node.place.fault(f"{shorten(node.value)!r} is not of the form analysis_id.metric"))
                continue
            alias, name, metric = named
            if alias is not None and alias not in models:
                self.faults.append(unknown("no model is called", alias, models, node.place))
            if name not in analyses:
                self.faults.append(unknown("no analysis is called", name, analyses, node.place))
            else:
                self.metric(metric, name, node.place)

    def metric(self, metric: str, analysis: str, place: SourcePosition) -> None:
        """Check that the kind of an analysis produces the metric that is expected of it."""
        found = find(self.tree, ("analyses", analysis, "kind"))
        kind = "" if found is None else str(plain(found))
        cls = registry().get(kind)
        if cls is not None and declared_as(metric, cls.metric_names) is None:
            self.faults.append(unknown(f"{kind!r} has no metric", metric, cls.metric_names, place))

    def keys_of(self, *address: str) -> list[str]:
        node = find(self.tree, address)
        return list(node.entries) if isinstance(node, MappingNode) else []


def declared_as(metric: str, names: Mapping[str, str]) -> str | None:
    """Return the name by which an analysis declares a metric, `*` standing for anything; None if it does not.

    Of an analysis that declares nothing every metric is taken as declared.
    """
    if not names:
        return metric
    return next((name for name in names if fnmatch.fnmatchcase(metric, name.replace("[", "[[]"))), None)


def _size(node: Node) -> int:
    """Return the number of words in a node, itself counted where it has none."""
    return sum(1 for _ in words(node)) or 1


def _choices(values: Node) -> Iterator[tuple[str, Node]]:
    """Yield the values of one axis of a matrix with the word that names each: `{name: value}`, or a list."""
    if isinstance(values, MappingNode):
        yield from values.entries.items()
        return
    if not isinstance(values, SequenceNode):
        return
    taken: set[str] = set()
    for number, item in enumerate(values.items, start=1):
        named = item.entries.get("kind") if isinstance(item, MappingNode) else item
        word = str(plain(named)).lower() if isinstance(named, ScalarNode) else str(number)
        word = re.sub(r"[^a-z0-9_]+", "-", word).strip("-") or str(number)
        if word in taken:
            word = f"{word}-{number}"
        taken.add(word)
        yield word, item
