"""What layers are called: modules of PyTorch's exporters, layers of Keras, names in the file, names of weights.

A module's name stands for what leaves the module: the one value that is made inside and read outside. Where several
values leave it, or two things go by one name, the name stands for nothing: a wrong layer is worse than none.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnx import NodeProto

from onnxviz.core import limits
from onnxviz.graph.draft import Draft
from onnxviz.graph.operators import traits_of
from onnxviz.graph.selection import LayerNames, is_reserved
from onnxviz.graph.structure import initializers, input_of, reads

_WEIGHT_SUFFIX = re.compile(
    r"(\.weight|_weight|/kernel|/weights|/depthwise_kernel|\.W|_W|_w)(/read|/ReadVariableOp.*)?(:0|_0)?$"
)
_BLOB_NUMBER = re.compile(r"_\d+$")
_INSERTED = re.compile(r"__\d+$")
"""Ends the names of nodes that tf2onnx has put in between."""
_OPERATIONS = frozenset(["Conv2D", "depthwise", "BiasAdd", "MatMul", "FusedBatchNormV3", "Relu", "Relu6"])
"""What TensorFlow calls the operations inside of a layer: "conv1/Conv2D". Other files with paths have no layers."""
_SCOPES_KEY = "pkg.torch.onnx.name_scopes"
_DEPTH = 24
_CALLS = 64
"""Calls of one module that get names of their own."""


def name_layers(
    draft: Draft, listed: Sequence[tuple[NodeProto, str]], dependent: set[str], unknown: dict[str, str]
) -> tuple[list[str], dict[str, list[str]], LayerNames]:
    """Find all names of the layers that are listed in topological order, each by its node and value.

    Returns:
        One unique name for each layer, in order: the framework's where it is known, else the file's; identifier of a
        value -> other names of the layer; and the rest, with what is `unknown`.
    """
    modules = _Modules(draft, dependent)
    by_file = _file_claims(draft, listed, modules)
    file_names = _file_names(draft, listed, by_file)
    by_module = modules.claims()
    by_weight = _weight_claims(draft, listed)
    by_call = modules.later_calls()
    outputs = {value.name for value in draft.graph.output}
    by_output = {draft.names.get(value, ""): {value} for _, value in listed if value in outputs}
    known = {value for _, value in listed}
    taken = set(file_names)
    found: dict[str, list[str]] = {}
    ambiguous: dict[str, list[str]] = {}
    namesakes: dict[str, list[str]] = {}
    for name in dict.fromkeys([*by_file, *by_module, *by_weight, *by_call, *by_output]):
        if name in taken or not name or len(name) > limits.NAME_LENGTH:
            continue
        meant = by_file.get(name, set()) | by_module.get(name, set())
        meant = meant or by_weight.get(name, set()) or by_call.get(name, set()) or by_output.get(name, set())
        if len(meant) == 1 and meant <= known and not is_reserved(name):
            found.setdefault(next(iter(meant)), []).append(name)
        elif meant & known or is_reserved(name):
            several = namesakes if is_reserved(name) else ambiguous
            several[name] = [value for _, value in listed if value in meant][:_CALLS]
    shown, in_file = list(file_names), {}
    for place, (node, value) in enumerate(listed):
        name = modules.best_name(node, [name for name in found.get(value, ()) if by_module.get(name) == {value}])
        if name:
            shown[place], in_file[value] = name, file_names[place]
            found[value] = [file_names[place], *(other for other in found[value] if other != name)]
    by_value = {value: name for (_, value), name in zip(listed, shown, strict=True)}
    ambiguous_names, namesake_names = (
        {name: tuple(by_value[value] for value in values) for name, values in several.items()}
        for several in (ambiguous, namesakes)
    )
    inner = {value: modules.innermost(node) for node, value in listed}
    return shown, found, LayerNames(ambiguous_names, namesake_names, inner, in_file, unknown)


def _depth(name: str) -> tuple[int, int]:
    """How deep a module lies; of two that lie equally deep the one of the longer name."""
    return len(re.split(r"[./]", name)), len(name)


# --- names in the file ----------------------------------------------------------------------------------------------


def _file_names(draft: Draft, listed: Sequence[tuple[NodeProto, str]], claims: Mapping[str, set[str]]) -> list[str]:
    """Name each layer by its node, or by its value where the exporter gave nodes no names.

    A name that several layers go by in the file, or that means something else in selectors, gets a number.
    """
    given: list[str] = []
    for node, value in listed:
        index = list(node.output).index(value)
        name = draft.node_names.get(node.name, "") or draft.names.get(value, "")
        if index and draft.node_names.get(node.name, ""):
            name = draft.names.get(value, "") or f"{name}.{index}"
        given.append((name or value)[: limits.NAME_LENGTH])
    taken = set(given)
    often = Counter(given)
    seen: Counter[str] = Counter()
    unique = []
    for name in given:
        shown = name
        if often[name] > 1 or len(claims.get(name, ())) > 1 or is_reserved(name):
            while shown in taken:
                seen[name] += 1
                shown = f"{name}#{seen[name]}"
        taken.add(shown)
        unique.append(shown)
    return unique


def _file_claims(draft: Draft, listed: Sequence[tuple[NodeProto, str]], modules: _Modules) -> dict[str, set[str]]:
    """Names of nodes and values, also of nodes that were removed; names that stand in the file go before made ones."""
    written: defaultdict[str, set[str]] = defaultdict(set)
    shortened: defaultdict[str, set[str]] = defaultdict(set)
    removed: defaultdict[str, set[str]] = defaultdict(set)
    for node, value in listed:
        original, own = draft.names.get(value, ""), draft.node_names.get(node.name, "")
        if value == node.output[0]:
            written[own].add(value)
        if not modules.is_program_name(node, original):
            written[original].add(value)
            written[original.removesuffix(":0")].add(value)
        shortened[own.removeprefix("/")].add(value)
        for name in draft.aliases.get(value, ()):
            removed[name].add(value)
            removed[name.removesuffix(":0")].add(value)
    claims: dict[str, set[str]] = {}
    for name, values in (*written.items(), *shortened.items(), *removed.items()):
        if name:
            claims.setdefault(name, values)
    return claims


def _weight_claims(draft: Draft, listed: Sequence[tuple[NodeProto, str]]) -> dict[str, set[str]]:
    """Names of weights without their ending: where an exporter names no modules, or has folded one into another."""
    claims: dict[str, set[str]] = {}
    weights = initializers(draft.graph)
    for node, value in listed:
        stem = _weight_stem(draft, node)
        if stem is not None and node.input[1] in weights:
            claims.setdefault(stem, set()).add(value)
    for base, value in _blob_names(draft, listed).items():
        claims.setdefault(base, {value})
    return claims


def _weight_stem(draft: Draft, node: NodeProto) -> str | None:
    """Return the name of a node's weights without its ending; None if it has none."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return None
    original = draft.names.get(input_of(node, 1), "")
    stem = _WEIGHT_SUFFIX.sub("", original)
    return stem if stem != original else None


def _blob_names(draft: Draft, listed: Sequence[tuple[NodeProto, str]]) -> dict[str, str]:
    """Undo Caffe2's numbering of blobs that are written in place: conv10_1 (convolution), conv10_2 (ReLU) -> conv10."""
    originals = [draft.names.get(value, "") for _, value in listed]
    if any(draft.node_names.get(node.name, "") for node, _ in listed) or not all(
        _BLOB_NUMBER.search(name) for name in originals
    ):
        return {}
    first: dict[str, str] = {}
    for name, (_, value) in zip(originals, listed, strict=True):
        first.setdefault(_BLOB_NUMBER.sub("", name), value)
    return first


# --- modules --------------------------------------------------------------------------------------------------------


@dataclass
class _Scope:
    """A module of the exporter's: the places of its nodes in the graph, and how deep it lies in a path of names."""

    members: list[int] = field(default_factory=list)
    path: tuple[str, ...] = ()
    numbered: bool = False
    """Whether several calls of it go by this one name."""
    removed: set[str] = field(default_factory=set)
    """Values behind which its nodes were removed."""


class _Modules:
    """The modules that exporters write into names or metadata, and what leaves each of them."""

    def __init__(self, draft: Draft, dependent: set[str]) -> None:
        self._draft = draft
        self._nodes = [node for node in draft.graph.node if any(name in dependent for name in node.output)]
        self._maker = {name: place for place, node in enumerate(self._nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for place, node in enumerate(self._nodes):
            for name in dict.fromkeys(reads(node)):
                self._readers.setdefault(name, []).append(place)
        self._outputs = {value.name for value in draft.graph.output}
        self._scopes: dict[str, _Scope] = {}
        self._programs: dict[str, list[str]] = {}
        written = [draft.node_names.get(node.name, "") for node in self._nodes]
        self._is_torch = any(self._torch_modules(node) for node in self._nodes)
        self._has_layers = any(_keras(name) and name.rpartition("/")[2] in _OPERATIONS for name in written)
        self._is_program = any(self._program(node) for node in self._nodes)
        for place, (node, lie_in) in enumerate(zip(self._nodes, self._with_adopted(), strict=True)):
            self._enter(place, node, lie_in)
        self._enter_namesakes()
        for value in list(draft.aliases):
            self._enter_removed(value)
        self._all_weights = self._weights(range(len(self._nodes)))
        self._calls = {name: self._leaving(scope) for name, scope in self._scopes.items()}

    def is_program_name(self, node: NodeProto, name: str) -> bool:
        """Whether a value's name is only the operation's, such as "linear", where modules may be called the same."""
        written = self._program(node)
        return bool(written) and "." not in name and not re.search(r"\d", name)

    def innermost(self, node: NodeProto) -> str:
        """Return the innermost module that a node belongs to, or ""."""
        written = self._program(node)
        if written:
            return written[-2] if len(written) > 1 else ""
        own = self._draft.node_names.get(node.name, "")
        paths = _torchscript(own) or ["/".join(path) for path in _keras(own)]
        return paths[-1] if paths else ""

    def best_name(self, node: NodeProto, names: Sequence[str]) -> str:
        """Return the name by which a framework's user knows what a node gives; "" where the file says nothing of it.

        That is the module whose weights it has, else the innermost module; for Keras the layer's name alone, with the
        path of the models around it where only that tells it from others.

        Args:
            node: the node.
            names: the modules and layers that have its output as their result.
        """
        if self._is_torch:
            weighted = [name for name in self._of_weights(node)[-1:] if name in names]
            return (weighted or sorted(names, key=_depth))[-1] if names else ""
        if not self._has_layers:
            return ""
        own = _keras(self._draft.node_names.get(node.name, ""))
        others = [path for path in self._keras_paths(node) if path not in own]
        for path in [*own[::-1], *others[::-1]]:
            tails = ["/".join(path[start:]) for start in range(len(path))]
            if named := [tail for tail in reversed(tails) if tail in names]:
                return named[0]
        return ""

    def claims(self) -> dict[str, set[str]]:
        """Return module -> what leaves it (several values if that is not one); Keras layers also without their path."""
        claims: dict[str, set[str]] = {}
        depths: dict[str, int] = {}
        for name, calls in self._calls.items():
            scope = self._scopes[name]
            meant = calls[0] if len(calls) == 1 or scope.numbered else set().union(*calls)
            if scope.path:
                for start in range(len(scope.path)):
                    # The layer of the outermost model is meant, as by Keras' get_layer.
                    tail, depth = "/".join(scope.path[start:]), len(scope.path)
                    if depth < depths.get(tail, depth + 1):
                        claims[tail], depths[tail] = set(meant), depth
                    elif depth == depths[tail]:
                        claims[tail] = claims[tail] | meant
            else:
                claims[name] = claims.get(name, set()) | meant
        return claims

    def later_calls(self) -> dict[str, set[str]]:
        """Return names for the second, third call of modules whose calls the exporter does not tell apart."""
        claims: dict[str, set[str]] = {}
        for name, calls in self._calls.items():
            if self._scopes[name].numbered:
                for number, values in enumerate(calls[1:_CALLS], start=1):
                    claims.setdefault(f"{name}_{number}", set()).update(values)
        return claims

    def _program(self, node: NodeProto) -> list[str]:
        """Return what PyTorch's default exporter writes: the modules from the network down, and the operation."""
        if node.name not in self._programs:
            written = self._draft.node_metadata.get(node.name, {}).get(_SCOPES_KEY, "")
            self._programs[node.name] = _literal_list(written)
        return self._programs[node.name]

    def _enter(self, place: int, node: NodeProto, lie_in: list[str]) -> None:
        for name in dict.fromkeys([*lie_in, *self._of_weights(node)]):
            scope = self._scopes.setdefault(name, _Scope(numbered=self._is_program))
            scope.members.append(place)
        if not lie_in:
            for path in self._keras_paths(node):
                scope = self._scopes.setdefault("/".join(path), _Scope(path=path))
                scope.members.append(place)

    def _with_adopted(self) -> list[list[str]]:
        """Return PyTorch's modules of each node; nodes without any belong to what their neighbours have in common.

        Exporters and passes put such nodes in between. A node is bare of names in a file that has modules.
        """
        own = [self._torch_modules(node) for node in self._nodes]
        bare = [not names and not self._keras_paths(node) for names, node in zip(own, self._nodes, strict=True)]
        if not any(own):
            return own
        ahead = list(own)  # what the readers have in common
        for place in range(len(self._nodes) - 1, -1, -1):
            if bare[place]:
                outputs = [value for value in self._nodes[place].output if value]
                readers = [ahead[reader] for value in outputs for reader in self._readers.get(value, ())]
                ahead[place] = [] if any(value in self._outputs for value in outputs) else _common(readers)
        for place, node in enumerate(self._nodes):
            if bare[place]:
                makers = [own[self._maker[name]] for name in reads(node) if name in self._maker]
                own[place] = _common([*makers, ahead[place]])
        return own

    def _torch_modules(self, node: NodeProto) -> list[str]:
        if written := self._program(node):
            return [name for name in written[:-1] if name]
        return _torchscript(self._draft.node_names.get(node.name, ""))

    def _of_weights(self, node: NodeProto) -> list[str]:
        """Return the modules whose weights a convolution has, where it has moved to a normalisation behind them.

        PyTorch's default exporter writes a convolution down as the batch normalisation that was folded into it.
        """
        stem = _weight_stem(self._draft, node) if self._program(node) else None
        if not stem or len(stem) > limits.NAME_LENGTH:
            return []
        parts = stem.split(".")[:_DEPTH]
        return [".".join(parts[: end + 1]) for end in range(len(parts))]

    def _keras_paths(self, node: NodeProto) -> list[tuple[str, ...]]:
        """Return the paths of layers in a node's name, and in that of its value.

        A folded batch normalisation lives on in the name of the convolution's value.
        """
        own = self._draft.node_names.get(node.name, "")
        if _INSERTED.search(own) and traits_of(node).arranges and traits_of(node).form != "quantize":
            return []
        sources = [own, *(self._draft.names.get(value, "").removesuffix(":0") for value in node.output[:1])]
        return list(dict.fromkeys(path for source in sources for path in _keras(source)))

    def _enter_namesakes(self) -> None:
        """A node called like a path, "a/conv" beside "a/conv/depthwise", is the last step of what lies in that path."""
        for place, node in enumerate(self._nodes):
            scope = self._scopes.get(self._draft.node_names.get(node.name, ""))
            if scope is not None and scope.path and place not in scope.members:
                scope.members = sorted([*scope.members, place])

    def _enter_removed(self, value: str) -> None:
        for name in self._draft.aliases.get(value, ()):
            for inner in _torchscript(name)[-1:]:
                self._scopes.setdefault(inner, _Scope()).removed.add(value)
            for path in _keras(name)[-1:]:
                self._scopes.setdefault("/".join(path), _Scope(path=path)).removed.add(value)

    def _leaving(self, scope: _Scope) -> list[set[str]]:
        """Return what leaves a module in each of its calls; there is more than one value where no one is its result."""
        if not scope.members:
            return [scope.removed]
        if scope.numbered and self._goes_by_another_name(scope):
            shared = self._weights(scope.members)
            others = [place for place in range(len(self._nodes)) if self._weights([place]).keys() & shared.keys()]
            return [self._all_made([*scope.members, *others])]
        calls = []
        split = self._split(scope.members)
        if len({tuple(self._nodes[place].op_type for place in places) for places in split}) > 1:
            split = [scope.members]  # no calls of one module, but pieces of one call
        for places in split:
            inside = set(places)
            leaving = {
                value
                for place in places
                for value in self._nodes[place].output
                if value
                and (value in self._outputs or any(reader not in inside for reader in self._readers.get(value, ())))
            }
            calls.append(self._all_made(places) if scope.numbered and self._repeats(places) else leaving)
        return calls

    def _all_made(self, places: Sequence[int]) -> set[str]:
        return {value for place in places for value in self._nodes[place].output if value}

    def _weights(self, places: Sequence[int]) -> Counter[tuple[str, str]]:
        """Count how often constant weights are used."""
        return Counter(
            (node.op_type, node.input[weight])
            for node in (self._nodes[place] for place in places)
            if (weight := traits_of(node).weight) and node.input[weight] not in self._maker
        )

    def _repeats(self, places: Sequence[int]) -> bool:
        """Whether all weights are used twice: two calls right behind each other, which nothing tells apart."""
        counts = self._weights(places)
        return bool(counts) and min(counts.values()) > 1

    def _goes_by_another_name(self, scope: _Scope) -> bool:
        """Whether all weights are also used outside: a module that is called by two names has calls that are missed."""
        counts = self._weights(scope.members)
        return bool(counts) and all(self._all_weights[weight] > count for weight, count in counts.items())

    def _split(self, members: Sequence[int]) -> list[list[int]]:
        """Split a module's nodes into calls: those that follow each other, or feed each other, belong together."""
        runs: list[list[int]] = []
        for place in members:
            if runs and place <= runs[-1][-1] + 1:
                runs[-1].append(place)
            else:
                runs.append([place])
        calls = {place: run for run in runs for place in run}
        for place in members:
            for name in reads(self._nodes[place]):
                source = calls.get(self._maker.get(name, -1))
                if source is not None and source is not calls[place]:
                    shorter, longer = sorted((source, calls[place]), key=len)
                    longer.extend(shorter)
                    calls.update(dict.fromkeys(shorter, longer))
        return [sorted(call) for call in {id(call): call for call in calls.values()}.values()]


def _common(paths: Sequence[list[str]]) -> list[str]:
    """Return the modules that several paths begin with."""
    shared: list[str] = []
    for names in zip(*paths, strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return shared


def _literal_list(written: str) -> list[str]:
    """Read a list of names as Python writes it; [] for anything else."""
    if not written or len(written) > limits.NAME_LENGTH:
        return []
    try:
        listed = ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        return []
    return listed[:_DEPTH]


def _torchscript(name: str) -> list[str]:
    """Return the modules in a node's name, outermost first: "/a/a.0/conv/Conv" lies in a, a.0 and a.0.conv.

    Entries of a list repeat the name of the list, and of the lists around it.
    """
    if not name.startswith("/") or len(name) > limits.NAME_LENGTH:
        return []
    path, before = "", ""
    found = []
    for part in name.split("/")[1:-1][:_DEPTH]:
        own = part.removeprefix(before + ".") if before else part
        path = f"{path}.{own}" if path else own
        before = part
        found.append(path)
    return found


def _keras(name: str) -> list[tuple[str, ...]]:
    """Return the paths of layers in a name, outermost first: "model/conv1/Conv2D" lies in model and model/conv1."""
    if "/" not in name or name.startswith("/") or len(name) > limits.NAME_LENGTH:
        return []
    parts = tuple(name.split("/")[: _DEPTH + 1])
    return [parts[:end] for end in range(1, len(parts))]
