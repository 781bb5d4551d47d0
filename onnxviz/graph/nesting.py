"""Which joins of a network's branches lie inside of a block that a later join ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx import NodeProto

from onnxviz.core.values import Layer
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TypedGraph

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
