"""Cascading randomisation: a map that stays the same when the weights are random says nothing of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx

from onnxviz.analyses.attribution.map_similarity import rank_correlation, structural_similarity
from onnxviz.core.values import Layer
from onnxviz.graph.draft import ExactForms
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import ancestors, copy_of, initializers, origin, producers, to_array

if TYPE_CHECKING:
    from onnx import NodeProto

    from onnxviz.analyses.attribution.question import Question
    from onnxviz.graph.view import GraphView
    from onnxviz.model.model import Model

Maps = Mapping[str, npt.NDArray[np.floating]]
"""By a method's name a map for each image, [N, h, w], at its own resolution."""
MakeMaps = Callable[["Question"], Maps]

_WEIGHTED = ("convolution", "transposed_convolution", "deformed_convolution", "product", "gemm", "einsum", "recurrent")
_STORED = ("DequantizeLinear", "QuantizeLinear")
_KEPT_BYTES = 128 << 20
"""Networks with other weights are kept for the next images where all of them together take no more than this."""


@dataclass(frozen=True)
class Stage:
    """How far the randomisation has gone.

    Attributes:
        layers: how many layers with weights have other ones, counted from the output.
        of: how many there are.
    """

    layers: int
    of: int


@dataclass(frozen=True)
class Similarity:
    """How alike a map is to the one with other weights; NaN where that cannot be said.

    Attributes:
        rank: Spearman's correlation of the absolute values.
        structure: the structural similarity.
    """

    rank: float
    structure: float


class ShuffledWeights:
    """A network whose weights are shuffled within each layer, from the output down, in a few stages.

    Adebayo et al. 2018 (Sanity checks for saliency maps), cascading randomisation, with each layer's own numbers in
    another order in place of new ones, so that their distribution stays what it was and quantised weights stay whole.
    Biases and normalisations stay. The user's network is not changed.

    Args:
        model: the network.
        scores: the layers of the scores; what these do not depend on is left alone.
        stages: most stages, spread evenly over the layers; the first shuffles the last layer, the last one all. A
            single one shuffles all.
        seed: the run's.
    """

    def __init__(self, model: Model, scores: Sequence[Layer], stages: int, seed: int) -> None:
        self.model, self.seed = model, seed
        self._weights = weights_from_output(model.view, scores)
        count = len(self._weights)
        parts = np.unique(np.rint(np.linspace(count, 1, min(stages, count))).astype(int))
        self.stages = tuple(Stage(int(part), count) for part in parts)
        self._kept: dict[Stage, Model] = {}

    @cached_property
    def _bytes(self) -> int:
        return int(self.model.view.proto.ByteSize())

    def models(self) -> Iterator[tuple[Stage, Model]]:
        """Yield the network of each stage; one at a time where they are large."""
        for stage in self.stages:
            made = self._kept.get(stage) or self._made(stage)
            if self._bytes * len(self.stages) <= _KEPT_BYTES:
                self._kept[stage] = made
            yield stage, made

    def _made(self, stage: Stage) -> Model:
        from onnxviz.model.model import Model

        names = {name for group in self._weights[: stage.layers] for name in group}
        model = self.model
        made = Model(with_shuffled(model.view, names, self.seed), model.preprocessing, model.labels, model.device)
        made.input_size, made.halvings, made.distrusted = model.input_size, model.halvings, model.distrusted
        return made


def weights_from_output(view: GraphView, scores: Sequence[Layer]) -> list[list[str]]:
    """Return the identifiers of the weights of each layer that the scores depend on, the last layer first.

    Weights are constant matrices and kernels that convolutions, products and recurrent layers read, also through what
    only stores them in another form; those that two layers share belong to the later one.
    """
    graph = view.proto.graph
    constants, makers = initializers(graph), producers(graph)
    needed, seen = ancestors(graph, [layer.value for layer in scores]), set[str]()
    found: list[list[str]] = []
    for node in reversed(graph.node):
        if traits_of(node).form not in _WEIGHTED or needed.isdisjoint(node.output):
            continue
        sources = [origin(name, makers, _only_stores) for name in node.input]
        own = [name for name in dict.fromkeys(sources) if name in constants and len(constants[name].dims) > 1]
        if own := [name for name in own if name not in seen]:
            seen.update(own)
            found.append(own)
    return found


def _only_stores(node: NodeProto) -> bool:
    return traits_of(node).arranges or node.op_type in _STORED


def with_shuffled(view: GraphView, names: set[str], seed: int) -> GraphView:
    """Return a view of the same network with the numbers of some of its constants in another order.

    The order depends on the seed and the constant's identifier only.
    """
    proto = copy_of(view.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            generator = np.random.default_rng([seed, *tensor.name.encode()])
            values = to_array(tensor)
            shuffled = generator.permutation(values.ravel()).reshape(values.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(shuffled, tensor.name))
    # Exact products of integers divide weights by their own scales, which shuffled ones no longer fit.
    return replace(view, proto=proto, exact=ExactForms())


def similarities(
    question: Question, maps: Maps, make: MakeMaps, shuffled: ShuffledWeights
) -> list[dict[str, tuple[Similarity, ...]]]:
    """Make the maps again with other weights, and compare.

    Args:
        question: images and targets; the targets stay what they are.
        maps: with the network's own weights.
        make: makes the maps of these names for a question of the same images.
        shuffled: the network with other weights.

    Returns:
        For each image, by name, how alike the maps are at each stage.
    """
    found: list[dict[str, list[Similarity]]] = [{name: [] for name in maps} for _ in question.targets]
    for _, model in shuffled.models():
        again = make(question.again(model=model))
        for name, before in maps.items():
            for place, rows in enumerate(found):
                rows[name].append(_compared(before[place], again[name][place]))
    return [{name: tuple(values) for name, values in rows.items()} for rows in found]


def _compared(before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> Similarity:
    if not np.isfinite(after).all() or not np.isfinite(before).all():
        return Similarity(float("nan"), float("nan"))
    return Similarity(rank_correlation(before, after), structural_similarity(before, after))


def in_words(stages: Sequence[Stage]) -> str:
    """Say how far the randomisation goes: "1, 9, 18 and 26 of 26 layers"."""
    if not stages:
        return "no layers"
    counts = [str(stage.layers) for stage in stages]
    listed = f"{', '.join(counts[:-1])} and {counts[-1]}" if len(counts) > 1 else counts[0]
    return f"{listed} of {stages[-1].of} layers"
