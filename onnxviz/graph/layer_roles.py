"""Which layers stand for the network's blocks, and which is the last with positions before its head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, TypeGuard

from onnx import NodeProto

from onnxviz.core.errors import shorten
from onnxviz.core.values import Layer, Tokens
from onnxviz.graph.activation import Following
from onnxviz.graph.operators import UNKNOWN, Form, traits_of
from onnxviz.graph.shapes import TypedGraph
from onnxviz.graph.structure import attribute, image_dependent, integers

_ENLARGING = frozenset(["depth_to_space", "resize", "transposed_convolution", "unpool"])


class Nesting:
    """Follows the branches from where a join's inputs fork, at the last value that all paths to it lead through.

    Where something is enlarged between them, branches of several resolutions meet, as in a U-Net or a feature pyramid:
    that is no block. `inputs` gives what a node reads that depends on the image, `whole` the value that another one is
    all of, in another form.
    """

    def __init__(
        self, graph: TypedGraph, inputs: Callable[[NodeProto], list[str]], whole: Callable[[str], str]
    ) -> None:
        self._inputs, self._producers, self._whole = inputs, graph.makers, whole
        self._forks: dict[str, str | None] = {}
        self._depths: dict[str, int] = {}
        for node in graph.graph.node:
            if given := inputs(node):
                fork: str | None = given[0]
                for name in given[1:]:
                    fork = self._common(fork, name)
                for value in filter(None, node.output):
                    self._forks[value] = fork
                    self._depths[value] = 1 + self._depth(fork)

    def inside(self, joins: Sequence[Layer]) -> set[str]:
        """Return the values of the joins, sums and concatenations in topological order, that are inside of a block.

        Those are concatenations in a branch that a sum joins (of attention, of groups of channels); concatenations that
        go whole into a later one, as in a dense block; and of several joins with one fork all but the last, unless they
        begin a chain of their own.
        """
        found: set[str] = set()
        begins = self._begins(joins)
        for join in joins:
            fork = self._forks.get(join.value)
            region = self._region(join.value, fork)
            if fork is None or region is None:
                continue
            parts = self._parts(join.value)
            for other in joins:
                if other.value == join.value or other.value not in region | {fork}:
                    continue
                among = other.value in region and self._forks[other.value] == fork and other.value not in begins
                if (
                    (other.value in region and other.operator == "Concat" != join.operator)
                    or (_as_large(other, join) and among)
                    or (other.operator == join.operator == "Concat" and self._parts(other.value) <= parts)
                ):
                    found.add(other.value)
        return found

    def _common(self, first: str | None, second: str | None) -> str | None:
        """Return the last value that all paths to two values lead through."""
        while first != second:
            if self._depth(first) >= self._depth(second):
                first = None if first is None else self._forks.get(first)
            else:
                second = None if second is None else self._forks.get(second)
        return first

    def _depth(self, value: str | None) -> int:
        return 0 if value is None else self._depths.get(value, 1)

    def _begins(self, joins: Sequence[Layer]) -> set[str]:
        """Return the values that all paths to some join lead through."""
        found: set[str] = set()
        for join in joins:
            value = self._forks.get(join.value)
            while value is not None and value not in found:
                found.add(value)
                value = self._forks.get(value)
        return found

    def _region(self, value: str, fork: str | None) -> set[str] | None:
        """Return what is on the paths from a fork to a value; None if something is enlarged there."""
        found: set[str] = set()
        waiting = [value]
        while waiting:
            node = self._producers.get(waiting.pop())
            if node is None or traits_of(node).form in _ENLARGING:
                return None
            new = [name for name in self._inputs(node) if name != fork and name not in found]
            found.update(new)
            waiting += new
        return found

    def _parts(self, value: str) -> set[str]:
        """Return what a concatenation is made of, those inside of it taken apart."""
        waiting, parts = [value], set()
        while waiting:
            found = self._whole(waiting.pop())
            node = self._producers.get(found)
            if node is not None and node.op_type == "Concat" and not node.domain:
                waiting += self._inputs(node)
            else:
                parts.add(found)
        return parts


def _as_large(first: Layer, second: Layer) -> bool:
    """Whether two maps surely have as many rows and columns."""
    return first.map_shape == second.map_shape and None not in (first.map_shape or (None,))


_MIXING = frozenset(["attention", "deformed_convolution", "einsum", "grid_sample", "pool", "resize"])
"""Forms whose results depend on other positions too, beside convolutions and products of two activations."""
_PARTS = ("pad", "slice", "split")
_PRODUCTS = ("gemm", "product")
_FEWEST = 2
"""Fewer joins than this are no blocks: the network is then shown by its convolutions."""
_WIDEST = 40
"""Operators behind a sum that are looked at for its activation."""

Demand = Literal["all", "extra"]


class Roles:
    """Finds the layers that stand for blocks in a graph."""

    def __init__(self, graph: TypedGraph, layers: Sequence[Layer], logits: Layer | None, following: Following) -> None:
        self._graph = graph
        self._layers = {layer.value: layer for layer in layers}
        self._logits = logits
        self._following = following
        self._producers = graph.makers
        self._consumers = graph.readers
        self._dependent = image_dependent(graph.graph)
        self._roots: dict[str, str] = {}

    @cached_property
    def last_map(self) -> Layer | None:
        """The last layer with rows and columns before the head, on whose positions the logits depend.

        What the last weights read is where the head begins. Where that is a class token, the patches of the last block
        have no say any more: the last layer of which they have is the one that the last attention reads.
        """
        maps = [layer for value in self._live if (layer := self._layers.get(value)) is not None and layer.has_map]
        if not maps:
            return None
        found = max(maps, key=lambda layer: layer.position)
        while (earlier := self._before(found)) is not None:
            found = earlier
        return found

    def _before(self, layer: Layer) -> Layer | None:
        """Return what a layer has in another form, pools, or projects linearly for an attention; None if nothing."""
        node = self._producers[layer.value]
        inputs = self._inputs(node)
        if node.op_type == "DequantizeLinear" and inputs and inputs[0] not in self._layers:
            # A quantisation clips too: what it rounds is the layer only where that is another one pooled or moved.
            inputs = self._inputs(self._producers[inputs[0]]) if inputs[0] in self._producers else []
            rounded = self._producers.get(inputs[0]) if len(inputs) == 1 else None
            if rounded is None or not (_is_form_only(rounded) or traits_of(rounded).form == "pool"):
                return None
        if node.domain or len(inputs) != 1:
            return None
        earlier = self._layers.get(inputs[0])
        if earlier is None or not earlier.has_map or inputs[0] not in self._live:
            return None
        form = traits_of(node).form
        linear = form in _PRODUCTS or (node.op_type in ("Add", "Mul") and self._projects(inputs[0]))
        return earlier if _is_form_only(node) or form == "pool" or linear else None

    def _projects(self, value: str) -> bool:
        """Whether a value is a product with weights, but for its bias, scale and form."""
        node = self._producers.get(value)
        while node is not None and (_is_form_only(node) or node.op_type in ("Add", "Mul")):
            inputs = self._inputs(node)
            node = self._producers.get(inputs[0]) if len(inputs) == 1 else None
        return node is not None and traits_of(node).form in _PRODUCTS

    @cached_property
    def _head(self) -> list[str]:
        """What the last weights before the logits read, of several heads that of each; else what the logits read."""
        found: list[str] = []
        waiting = [(self._logits.value, False)] if self._logits is not None else []
        seen: set[tuple[str, bool]] = set()
        while waiting:
            value, weighted = waiting.pop()
            node = self._producers.get(value)
            if node is None or (value, weighted) in seen:
                continue
            seen.add((value, weighted))
            inputs = self._inputs(node)
            weighted = weighted or (len(inputs) == 1 and traits_of(node).weight > 0)
            for name in inputs:
                layer = self._layers.get(name)
                if weighted and layer is not None and layer.unit_count > 1:
                    found.append(name)
                else:
                    waiting.append((name, weighted))
        if found or self._logits is None:
            return found
        return self._inputs(self._producers[self._logits.value])  # its only weights read the image

    @cached_property
    def _live(self) -> set[str]:
        """Values on whose positions what the head reads depends."""
        demand: dict[str, Demand] = dict.fromkeys(self._head, "all")
        for node in reversed(self._graph.graph.node):
            wanted = {demand[value] for value in node.output if value in demand}
            for name in self._inputs(node) if wanted else []:
                new = self._demanded(node, name, "all" in wanted, demand)
                if new is not None and demand.get(name) != "all":
                    demand[name] = new
        return {value for value, kind in demand.items() if kind == "all"}

    def _demanded(self, node: NodeProto, name: str, whole: bool, demand: Mapping[str, Demand]) -> Demand | None:
        """Return whether all tokens of an input are needed, only those that are no patches, or none."""
        grid = _around(self._layers.get(name))
        if node.op_type in ("Gather", "Slice", "Split") and name == node.input[0] and grid is not None:
            return "extra" if self._takes_extras(node, grid, demand) else "all" if whole else "extra"
        if whole:
            return "all"
        layer = self._layers.get(name)
        if node.op_type in ("Concat", "Pad"):
            patches = layer is not None and (layer.has_map or len(layer.tokens) == 1)
            return "extra" if grid is not None else None if patches else "all"
        if layer is None or not layer.tokens:
            return "all"
        if traits_of(node).form == "product" and len(self._inputs(node)) > 1:
            own = len(layer.shape) - (2 if name == node.input[0] else 1)
            return "extra" if any(tokens.axis == own for tokens in layer.tokens) else "all"
        mixes = node.op_type == "Softmax" and len(layer.tokens) == 1
        after = [found for value in node.output if (found := self._layers.get(value)) is not None]
        return "extra" if not mixes and any(found.tokens for found in after) else "all"

    def _takes_extras(self, node: NodeProto, grid: Tokens, demand: Mapping[str, Demand]) -> bool:
        """Whether what is needed of a Gather, Slice or Split are only tokens around the patches."""
        axis = int(attribute(node, "axis", 0))
        rank = len(self._layers[node.input[0]].shape)
        if node.op_type == "Gather":
            index = self._graph.constant(node, 1)
            if axis % rank != grid.axis or index is None:
                return False
            size = grid.before + grid.height * grid.width + grid.behind
            taken = index.reshape(-1) % size
            return bool(((taken < grid.before) | (taken >= size - grid.behind)).all())
        outputs = [self._layers[value] for value in node.output if value in demand and value in self._layers]
        around = grid.before + grid.behind
        sizes = [found.shape[grid.axis] for found in outputs if len(found.shape) == rank]
        return bool(sizes) and all(size is not None and size <= around for size in sizes)

    @cached_property
    def block_outputs(self) -> tuple[Layer, ...]:
        """The outputs of the blocks that have positions, in order; the last one is `last_map`."""
        last = self.last_map
        if last is None:
            return ()
        joins = [layer for layer in self._joins() if layer.position <= last.position]
        nested = Nesting(self._graph, self._inputs, self._whole).inside(joins)
        joins = [layer for layer in joins if layer.value not in nested]
        found = [self._settled(layer) for layer in self._ends(joins)]
        if len(joins) < _FEWEST:
            found += [
                self._past_sum(self._layers.get(self._following.activated(layer.value), layer), joins)
                for layer in self._layers.values()
                if layer.operator == "Conv" and layer.value in self._live
            ]
        end = self._origin(last.value)
        shown = [
            layer
            for layer in found
            if layer.has_map and layer.position < last.position and self._origin(layer.value) != end
        ]
        ordered = [*sorted(dict.fromkeys(shown), key=lambda layer: layer.position), last]
        return tuple(ordered if len(joins) >= _FEWEST else _last_of_each_size(ordered))

    def _past_sum(self, layer: Layer, joins: Sequence[Layer]) -> Layer:
        """Return the sum of maps that alone reads a layer, with the activation behind it; else the layer."""
        value = layer.value
        while len(readers := self._consumers.get(value, [])) == 1 and len(readers[0].output) == 1:
            node, value = readers[0], readers[0].output[0]
            if sums := [join for join in joins if join.value == value and node.op_type != "Concat"]:
                return self._settled(sums[0])
            if not _is_form_only(node):
                break
        return layer

    def _joins(self) -> Iterator[Layer]:
        """Yield the layers at which branches of the network meet: sums of two maps, and joined channels."""
        for node in self._graph.graph.node:
            layer = self._layers.get(node.output[0]) if node.output else None
            if layer is None or not layer.has_map or layer.value not in self._live or node.domain:
                continue
            inputs = self._inputs(node)
            if node.op_type in ("Add", "Sum"):
                parts = [self._layers.get(name) for name in inputs]
                alike = all(part is not None and part.map_shape == layer.map_shape for part in parts)
                if len(parts) > 1 and alike and len({self._root(name) for name in inputs}) > 1:
                    yield layer
            elif node.op_type == "Concat" and len(inputs) > 1:
                axis = int(attribute(node, "axis", 1)) % len(layer.shape)
                if axis == layer.channel_axis and len({self._origin(name) for name in inputs}) > 1:
                    yield layer  # and no merging of neighbouring patches

    def _root(self, value: str) -> str:
        """Return what a value is a function of, place by place: GELU's sum joins no branches."""
        if value not in self._roots:
            node = self._producers.get(value)
            roots = {value}
            if node is not None and traits_of(node).form == "pointwise":
                roots = {self._root(name) for name in self._inputs(node)}
            self._roots[value] = roots.pop() if len(roots) == 1 else value
        return self._roots[value]

    def _ends(self, joins: Sequence[Layer]) -> Iterator[Layer]:
        """Yield the joins that end a block: not those inside of another join, nor those that an MLP follows."""
        values = {layer.value for layer in joins}
        for layer in joins:
            readers = self._consumers.get(layer.value, [])
            if layer.operator == "Concat" and readers and all(node.op_type == "Concat" for node in readers):
                continue
            following = next((other for other in joins if other.position > layer.position), None)
            if following is None or not self._is_mlp(layer.value, following, values):
                yield layer

    def _is_mlp(self, start: str, end: Layer, joins: set[str]) -> bool:
        """Whether one join adds to another what was made of each position alone: both belong to one block."""
        node = self._producers[end.value]
        if node.op_type == "Concat":
            return False
        inputs = self._inputs(node)
        if not any(self._same(name, start) for name in inputs):
            return False
        seen, waiting = {start}, [name for name in inputs if not self._same(name, start)]
        while waiting:
            value = waiting.pop()
            if value in seen:
                continue
            seen.add(value)
            made = self._producers.get(value)
            if made is None or value in joins or self._mixes(made):
                return False
            waiting += self._inputs(made)
        return True

    def _same(self, value: str, other: str) -> bool:
        """Whether a value is another one in another form."""
        return self._origin(value) == self._origin(other)

    def _whole(self, value: str) -> str:
        """Return what a value is only another form of, with nothing left out."""
        return self._origin(value, but=("slice", "split"))

    def _origin(self, value: str, but: tuple[Form, ...] = ()) -> str:
        """Return what a value is only another form or a part of, gone back no further than to some forms."""
        node = self._producers.get(value)
        while _is_form_only(node, but) and len(self._inputs(node)) == 1:
            value = self._inputs(node)[0]
            node = self._producers.get(value)
        return value

    def _mixes(self, node: NodeProto) -> bool:
        form = traits_of(node).form
        if form in ("convolution", "transposed_convolution"):
            return any(size > 1 for size in integers(node, "kernel_shape", (3,)))
        return form in _MIXING or (form == "product" and len(self._inputs(node)) > 1)

    def _settled(self, layer: Layer) -> Layer:
        """Return the activation behind a join if nothing else reads the join, else the join."""
        end = self._following.activated(layer.value)
        if end == layer.value or end not in self._layers or end not in self._live:
            return layer
        if traits_of(self._producers[end]).normalises:
            return layer  # it belongs to what comes next
        waiting, seen = [layer.value], set()
        while waiting:
            value = waiting.pop()
            if value == end or value in seen:
                continue
            seen.add(value)
            readers = self._consumers.get(value, [])
            if not readers or len(seen) > _WIDEST or any(traits_of(node).weight for node in readers):
                return layer
            waiting += [name for node in readers for name in node.output]
        return self._layers[end]

    def conv_note(self) -> str:
        """Say where the last convolution with a map stands, if it is not near the head; else nothing."""
        last = self.last_map
        convolutions = [layer for layer in self._layers.values() if layer.operator == "Conv" and layer.has_map]
        if last is None or not convolutions or self._is_near_the_head(convolutions[-1], last):
            return ""
        behind = sum(layer.position > convolutions[-1].position for layer in self.block_outputs)
        blocks = len(self.block_outputs)
        where = (
            "the first layer of all, before every block (as a transformer's patch embedding is)"
            if behind == blocks and blocks > 1
            else "a branch inside of a block, before it is joined with the others"
            if behind <= 1
            else f"before the last {behind} of {blocks} blocks"
        )
        return (
            f"The last convolution, {shorten(convolutions[-1].name, 60)}, is {where}. The last layer with positions "
            f"before the head is {shorten(last.name, 60)}: `last_map`; the blocks are `block_outputs`."
        )

    def _is_near_the_head(self, layer: Layer, last: Layer) -> bool:
        """Whether nothing but normalisation, activation, pooling and form is between a layer and the last map."""
        if layer.position >= last.position:
            return True
        value = last.value
        while value != layer.value:
            if (root := self._root(value)) != value:
                value = root
                continue
            node = self._producers.get(value)
            if node is None or len(self._inputs(node)) != 1:
                return False
            traits = traits_of(node)
            if not (traits.normalises or traits.form == "pool" or _is_form_only(node)):
                return False
            value = self._inputs(node)[0]
        return True

    def _inputs(self, node: NodeProto) -> list[str]:
        return list(dict.fromkeys(name for name in node.input if name in self._dependent))


def _is_form_only(node: NodeProto | None, but: tuple[Form, ...] = ()) -> TypeGuard[NodeProto]:
    """Whether a node gives what it reads another form, takes a part of it, or puts a border around it."""
    traits = UNKNOWN if node is None else traits_of(node)
    return (traits.arranges or traits.form in _PARTS) and traits.form not in but


def _last_of_each_size(layers: Sequence[Layer]) -> Sequence[Layer]:
    """Return the layers behind which the map changes its size, and the last; all where it never does."""
    sizes = [layer.map_shape for layer in layers]
    if len(set(sizes)) == 1 or any(None in (size or (None,)) for size in sizes):
        return layers
    return [layer for layer, own, after in zip(layers, sizes, [*sizes[1:], None], strict=True) if own != after]


def _around(layer: Layer | None) -> Tokens | None:
    """Return the only axis of tokens of a layer if there are more than the patches."""
    if layer is None or len(layer.tokens) != 1:
        return None
    (tokens,) = layer.tokens
    return tokens if tokens.before or tokens.behind else None
