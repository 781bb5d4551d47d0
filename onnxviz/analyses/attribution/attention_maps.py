"""Where a network attends: the maps of attention over the patches of an image, and what stands between them."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.values import Layer, Tokens
from onnxviz.graph.structure import ancestors, attribute, consumers, image_dependent, reads
from onnxviz.graph.view import GraphView

_REMEDY = "leave this method out; AttnLRP, Grad-CAM and the gradients need no maps of attention"


@dataclass(frozen=True)
class AttentionMaps:
    """The attention that a score depends on, all over the tokens of one grid.

    Attributes:
        layers: what the softmaxes give, in order: [N, heads, queries, keys] of the same tokens.
        tokens: the tokens of the grid, as their keys are.
        read: the last layer of these tokens, which the score is read from.
    """

    layers: tuple[Layer, ...]
    tokens: Tokens
    read: Layer


def attention_maps(view: GraphView, score: Layer) -> AttentionMaps:
    """Find the softmaxes whose results weigh values, of the network up to a score.

    Raises:
        AnalysisError: if there are none, or one that is not over the tokens of the image's one grid, with the reason.
    """
    needed = ancestors(view.proto.graph, [score.value])
    readers = consumers(view.proto.graph)
    made = {layer.value: layer for layer in view.layers if layer.value in needed and layer.position < score.position}
    found = [
        layer
        for layer in made.values()
        if layer.operator == "Softmax" and any(node.op_type in ("MatMul", "Einsum") for node in readers[layer.value])
    ]
    whole = [layer.name for layer in made.values() if layer.operator in ("Attention", "MultiHeadAttention")]
    if whole:
        raise AnalysisError("the file has attention as one operator, and its maps are no values of the graph",
                            where=shorten(whole[0]), remedy=_REMEDY)  # fmt: skip
    if not found:
        raise AnalysisError("the network has no attention: no softmax weighs values", where=shorten(view.file),
                            remedy=_REMEDY)  # fmt: skip
    tokens = [_tokens(view, layer) for layer in found]
    other = next((place for place, each in enumerate(tokens) if each != tokens[0]), None)
    if other is not None:
        raise AnalysisError(
            f"attention runs over {_in_words(tokens[0])} first, and here over {_in_words(tokens[other])}: there is no "
            "one grid to follow it through",
            where=shorten(found[other].name), remedy=_REMEDY,
        )  # fmt: skip
    same = [layer for layer in made.values() if layer.has_map and [_grid(each) for each in layer.tokens] == tokens[:1]]
    read = next((layer for layer in reversed(same) if layer.position > found[-1].position), None)
    if read is None:
        raise AnalysisError("behind the last attention no layer has these tokens", where=shorten(found[-1].name),
                            remedy=_REMEDY)  # fmt: skip
    return AttentionMaps(tuple(found), tokens[0], read)


def _grid(tokens: Tokens) -> Tokens:
    """Return tokens as those of keys, whichever axis they lie on."""
    return Tokens(3, tokens.height, tokens.width, tokens.before, tokens.behind)


def _tokens(view: GraphView, layer: Layer) -> Tokens:
    """Return the tokens that a softmax attends to.

    Raises:
        AnalysisError: if it is not from all tokens of a grid to the same.
    """
    axes = [tokens.axis for tokens in layer.tokens]
    axis = int(attribute(view.node(layer), "axis", -1)) % max(len(layer.shape), 1)
    if axes == [2, 3] and axis == 3 and layer.channel_axis == 1:
        queries, keys = map(_grid, layer.tokens)
        if queries == keys:
            return keys
    raise AnalysisError(
        "this softmax is not known to go from all tokens of the image to the same, as [images, heads, queries, keys]: "
        f"{layer.unplaced or 'its tokens are not known'}",
        where=shorten(layer.name),
        remedy=_REMEDY,
    )


def _in_words(tokens: Tokens) -> str:
    extra = tokens.before + tokens.behind
    return f"{tokens.height} × {tokens.width} patches" + (f" and {extra} other tokens" if extra else "")


def block_results(view: GraphView, maps: AttentionMaps, score: Layer) -> tuple[Layer, ...]:
    """Return for each map of attention the last value before the next one that all that follows is computed from.

    In a transformer these are the sums at the ends of its blocks; that of the last map is the last such sum of tokens,
    so that each may stand in for it.

    Raises:
        AnalysisError: if there is no such value between two maps of attention.
    """
    computed = image_dependent(view.proto.graph, view.input_name)
    passed = _bottlenecks(view, score, computed)
    same = [
        layer
        for layer in view.layers
        if layer.value in passed
        and (layer.channel_axis, layer.tokens, layer.shape[1:])
        == (maps.read.channel_axis, maps.read.tokens, maps.read.shape[1:])
    ]
    # Of two computed values: a normalisation's bias is added to one, behind the last block too.
    sums = [layer for layer in same if layer.operator == "Add" and set(view.node(layer).input) <= computed]
    ends = [*(layer.position for layer in maps.layers[1:]), score.position]
    results = []
    for layer, end in zip(maps.layers, ends, strict=True):
        between = [each for each in sums if layer.position < each.position < end]
        if not between:
            raise AnalysisError(
                "behind this attention no sum is all that the rest of the network is computed from, as at the end of a "
                "transformer's block",
                where=shorten(layer.name), remedy=_REMEDY,
            )  # fmt: skip
        results.append(between[-1])
    return tuple(results)


def _bottlenecks(view: GraphView, score: Layer, computed: Set[str]) -> Set[str]:
    """Return the values, of those that depend on the image, that every way from it to a score leads through."""
    graph = view.proto.graph
    alive = computed & set(ancestors(graph, [score.value]))
    nodes = [node for node in graph.node if any(name in alive for name in node.output)]
    last = {name: place for place, node in enumerate(nodes) for name in reads(node) if name in alive}
    waiting: set[str] = {view.input_name}
    found: set[str] = set()
    for place, node in enumerate(nodes):
        waiting.update(name for name in node.output if name in alive)
        waiting = {name for name in waiting if last.get(name, -1) > place}
        if len(waiting) == 1:
            found |= waiting
    return found
