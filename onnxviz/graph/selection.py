"""From what a user writes to layers: names, aliases, globs, `Conv[3]`, roles, and `:act`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.core.values import Layer
from onnxviz.graph.activation import Following
from onnxviz.graph.layer_roles import Roles
from onnxviz.graph.shapes import TypedGraph

ROLES = ("first_conv", "last_conv", "all_convs", "last_map", "block_outputs", "logits")

_INDEXED = re.compile(r"([A-Za-z][A-Za-z0-9]*)\[(-?\d{1,9})\]")
_ACT = ":act"


def is_reserved(name: str) -> bool:
    """Whether a name has a meaning of its own in selectors, so that no layer of a file can take it."""
    return name in ROLES or name.endswith(_ACT) or _INDEXED.fullmatch(name) is not None


@dataclass(frozen=True)
class LayerNames:
    """What selecting layers by name needs beside their names and aliases.

    Attributes:
        ambiguous: name that stands for nothing -> names of the layers it might mean.
        namesakes: what means something else in selectors, such as a role -> names of the layers that the file calls so.
        modules: identifier of a value -> the innermost module that made it, as its exporter writes it.
        in_file: identifier of a value -> what its node is called in the file, where that is not the name shown.
        unknown: name in the file of a node or value of unknown type or shape -> the operator that it stands behind.
    """

    ambiguous: dict[str, tuple[str, ...]]
    namesakes: dict[str, tuple[str, ...]]
    modules: dict[str, str]
    in_file: dict[str, str]
    unknown: dict[str, str]


class Selector:
    """Finds layers by what users call them.

    `logits` is the layer of the role of that name, `naming` what the layers may be called beside their names and
    aliases.
    """

    def __init__(self, graph: TypedGraph, layers: Sequence[Layer], logits: Layer | None, naming: LayerNames) -> None:
        self._naming = naming
        self._layers = layers
        self._logits = logits
        self._by_name: dict[str, Layer] = {}
        for layer in layers:
            for alias in layer.aliases:
                self._by_name.setdefault(alias, layer)
        self._by_name.update((layer.name, layer) for layer in layers)
        self._by_value = {layer.value: layer for layer in layers}
        self._following = Following(graph, naming.modules)
        self.roles = Roles(graph, layers, logits, self._following)

    def one(self, name: str) -> Layer:
        """Return the one layer of this name.

        Raises:
            SelectionError: if there is none, or if the name stands for several.
        """
        found = self.many([name], globs=False)
        if len(found) > 1:
            raise SelectionError(
                f"{shorten(name)!r} stands for {len(found)} layers where one is wanted",
                remedy=f"name one of them, for example {shorten(found[-1].name)!r}",
            )
        return found[0]

    def many(self, selectors: Iterable[str], *, globs: bool = True) -> tuple[Layer, ...]:
        """Return the layers that the selectors stand for, each once, in topological order.

        Raises:
            SelectionError: if a selector stands for no layer.
        """
        found: dict[str, Layer] = {}
        for selector in selectors:
            for layer in self._match(selector, globs):
                found[layer.value] = layer
        if not found:
            raise SelectionError("no layer is selected", remedy="name at least one layer, or a role such as all_convs")
        return tuple(sorted(found.values(), key=lambda layer: layer.position))

    def _match(self, selector: str, globs: bool) -> Sequence[Layer]:
        exact = self._plain(selector, globs=False)
        if not exact and selector.endswith(_ACT):
            exact = [self.activation(layer) for layer in self._plain(selector.removesuffix(_ACT), globs=globs)]
        found = exact or self._plain(selector, globs=globs)
        if not found and (several := self._naming.ambiguous.get(selector.removesuffix(_ACT))):
            shown = ", ".join(repr(shorten(name, 80)) for name in several[:4])
            raise SelectionError(
                f"{shorten(selector)!r} could mean several layers, or a module with several results",
                remedy=f"name one of them: {shown}{' ...' if len(several) > 4 else ''}",
            )
        if not found and (cause := self._naming.unknown.get(selector.removesuffix(_ACT))):
            raise SelectionError(
                f"{shorten(selector)!r} cannot be analysed: it stands behind {cause}, of which nobody here knows what "
                "it makes",
                remedy="choose layers before it, or register a converter with onnx2torch",
            )
        if not found:
            raise SelectionError(f"no layer is called {shorten(selector)!r}", remedy=self._advice(selector))
        return found

    def _plain(self, selector: str, *, globs: bool) -> list[Layer]:
        if selector in ROLES:
            return self._role(selector)
        if selector in self._by_name:
            return [self._by_name[selector]]
        if match := _INDEXED.fullmatch(selector):
            return self._indexed(match[1], int(match[2]))
        if globs and any(character in selector for character in "*?["):
            pattern = re.compile(fnmatch.translate(selector)) if len(selector) < 1000 else None
            return [
                layer
                for layer in self._layers
                if pattern and any(pattern.match(name) for name in (layer.name, *layer.aliases))
            ]
        return []

    def _role(self, role: str) -> list[Layer]:
        if role == "logits":
            if self._logits is None:
                raise SelectionError("the model has no output that could be its logits", remedy="name a layer")
            return [self._logits]
        if role in ("last_map", "block_outputs"):
            if self._logits is None:
                raise SelectionError(
                    f"{role}: no layer is known to hold the model's scores, so what lies before them is unknown",
                    remedy="name a layer; `onnxviz inspect` lists all",
                )
            blocks = self.roles.block_outputs
            if not blocks:
                raise SelectionError(
                    f"{role}: no layer before the model's output has rows and columns of the image",
                    remedy="name a layer",
                )
            return list(blocks[-1:] if role == "last_map" else blocks)
        convolutions = [layer for layer in self._layers if layer.operator == "Conv"]
        if not convolutions:
            raise SelectionError(f"{role}: the model has no convolution", remedy="name a layer")
        # Keras' MobileNets end in a 1 x 1 convolution behind the pooling: a dense layer by another name.
        maps = [layer for layer in convolutions if any(size != 1 for size in layer.spatial_shape)]
        last = (maps or convolutions)[-1:]
        return {"first_conv": convolutions[:1], "last_conv": last}.get(role, convolutions)

    def _indexed(self, operator: str, index: int) -> list[Layer]:
        pool = [layer for layer in self._layers if layer.operator == operator]
        if not pool:
            operators = {layer.operator for layer in self._layers}
            raise SelectionError(
                f"the model has no {shorten(operator)} layers",
                remedy=nearest(operator, operators) or f"it has {', '.join(sorted(operators)[:12])}",
            )
        if not -len(pool) <= index < len(pool):
            raise SelectionError(
                f"{operator}[{index}] does not exist: the model has {len(pool)} {operator} layers",
                remedy=f"use {operator}[0] to {operator}[{len(pool) - 1}], or {operator}[-1] for the last",
            )
        return [pool[index]]

    def activation(self, layer: Layer) -> Layer:
        """Return what leaves the bias, normalisation and activation behind a layer, or the layer itself."""
        return self._by_value.get(self._following.activated(layer.value), layer)

    def _advice(self, selector: str) -> str:
        known = [name for name in self._by_name if len(name) <= 200][:20_000]
        close = nearest(selector.removesuffix(_ACT)[:200], [*known, *ROLES])
        if close:
            return close
        some: Mapping[str, None] = dict.fromkeys(layer.name for layer in self._layers)
        shown = ", ".join(repr(shorten(name)) for name in list(some)[:5])
        return f"`onnxviz inspect` lists all layers; the first are {shown}" if shown else "the model has no layers"
