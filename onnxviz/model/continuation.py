"""The network from one of its layers on: what follows from other values there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch

from onnxviz.core.values import Layer
from onnxviz.graph.structure import ancestors, reads
from onnxviz.model.model import Model


class Continuation:
    """What later layers make of other values of a layer, for some images, without gradients.

    What it is made of beside the layer, such as the other side of a residual sum, is computed once for each image.

    Args:
        model: the network.
        images: RGB in 0..1, [N, channels, h, w]; as many as the model takes, where that is fixed.
        layer: whose values are to be others.
        targets: what is computed from them.

    Attributes:
        reaches: whether a target depends on the layer.
    """

    def __init__(self, model: Model, images: torch.Tensor, layer: Layer, targets: Sequence[Layer]) -> None:
        self._model, self._images, self._targets = model, images, tuple(targets)
        beside = _beside(model, layer, targets)
        self.reaches = beside is not None
        self._given = (layer, *(beside or ()))

    @cached_property
    def _values(self) -> tuple[torch.Tensor, ...]:
        return self._model.continued(self._images, self._given, {})

    @property
    def values(self) -> torch.Tensor:
        """What the layer gives for the images, [N, units, *spatial]."""
        return self._values[0]

    def __call__(self, values: torch.Tensor, owners: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Return what the targets give, units first.

        Args:
            values: what the layer gives instead, [M, units, *spatial]; M is what the model takes, where that is fixed.
            owners: whose image each belongs to: for each the place of an image.
        """
        places = torch.as_tensor(owners, device=values.device)
        together = (values, *(each[places] for each in self._values[1:]))
        given = {
            layer.value: each if layer.channel_axis in (None, 1) else each.movedim(1, layer.channel_axis)
            for layer, each in zip(self._given, together, strict=True)
        }
        return self._model.continued(self._images[places], self._targets, given)


def _beside(model: Model, layer: Layer, targets: Sequence[Layer]) -> list[Layer] | None:
    """Return the layers that targets are made of beside what depends on a layer; None if none depends on it.

    Values whose first axis is not simply the batch are none of them: they are computed from the images each time.
    """
    graph = model.view.proto.graph
    needed = ancestors(graph, [target.value for target in targets])
    behind, beside = {layer.value}, set[str]()
    for node in graph.node:
        names = set(reads(node))
        if names & behind and needed.intersection(node.output):
            behind.update(node.output)
            beside |= names
    if not any(target.value in behind for target in targets):
        return None
    known = {
        other.value: other
        for other in model.view.layers
        if other.channel_axis and other.value not in model.view.mixed_batches and model.converts(other)
    }
    return [known[value] for value in sorted(beside - behind) if value in known]
