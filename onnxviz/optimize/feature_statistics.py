"""What holds a picture back by the features that it excites: how far these are from what scenes excite.

A class is a weighted sum of features, and the ascent finds the few that count most and drives them far beyond what any
photograph reaches. Held to their usual range, more of them have to agree, and with them more of what the class looks
like is in the picture (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.core.values import Layer
from onnxviz.graph.features import features_before
from onnxviz.graph.view import GraphView
from onnxviz.optimize.dead_leaves import SCENES, scenes
from onnxviz.optimize.lanes import one_thread
from onnxviz.optimize.regularizers import FeatureStatistics, Regularizer

if TYPE_CHECKING:
    from onnxviz.model.model import Model

_WIDER = 2.5
"""Features of 206 photographs vary about so many times as much as those of dead leaves (1.4 to 2.9, at the last and at
middle layers of SqueezeNet and MobileNet)."""
_LEAST = 0.1
"""Share of the mean deviation that is added to each: a feature that no scene excites has none of its own."""
_STRAIGHT = 3.0
"""Deviations from which on the term grows in proportion: a class must excite its own features."""


class UsualFeatures(NamedTuple):
    """What scenes excite at a layer; S statistics: each unit's mean over positions, then its deviation over them.

    Both are float32 [S]; `deviation` is over scenes, and above 0 unless nothing excites the layer.
    """

    mean: torch.Tensor
    deviation: torch.Tensor


Restraint = Callable[[Mapping[str, "torch.Tensor"]], "torch.Tensor"]
"""What holds back pictures: activations, layer name -> [N, units, *spatial], to [N], the weighted terms."""


def unusualness(features: torch.Tensor, usual: UsualFeatures) -> torch.Tensor:
    """Return [N], how far features [N, units, *spatial] are from the usual ones: the mean of h((s - mean) / deviation).

    h(z) is z² / 2 up to 3 and 3 |z| - 4.5 beyond (Huber 1964). Scenes have about 0.1, photographs
    1.2 at SqueezeNet's fire9 and 0.8 at MobileNet's pooled features (means over 52, no more than 2.9).

    Source: the statistics are those of batch normalisation, which Yin et al. 2020 (DeepInversion, equation 4) keep for
    a whole batch of pictures; here each picture is held by itself, within what single pictures vary by.
    """
    z = (_statistics(features) - usual.mean) / usual.deviation
    terms: torch.Tensor = torch.nn.functional.huber_loss(z, torch.zeros_like(z), reduction="none", delta=_STRAIGHT)
    return terms.mean(dim=1)


def features_read(view: GraphView, layers: Sequence[str]) -> Layer | None:
    """Return the layer whose features the deepest of some layers is computed from; see `features_before`."""
    return features_before(view, max((view.layer(name) for name in layers), key=lambda layer: layer.position))


def suiting(regularizers: Sequence[Regularizer], view: GraphView, layers: Sequence[str]) -> tuple[Regularizer, ...]:
    """Return the usual regularizers that suit some layers: unusual features only where features are a map.

    Pooled ones stay within what photographs excite without being held (benchmarks/RESULTS.md). Feature statistics of a
    layer that is named are kept.
    """
    features = features_read(view, layers)
    # Several positions, or as many as the picture's size makes.
    if features is not None and any(length != 1 for length in features.spatial_shape):
        return tuple(regularizers)
    return tuple(entry for entry in regularizers if not isinstance(entry, FeatureStatistics) or entry.layer)


def restrained_layers(view: GraphView, layers: Sequence[str], regularizers: Sequence[Regularizer]) -> tuple[str, ...]:
    """Return the layers whose features hold back pictures for some layers, one for each `feature_statistics`.

    Raises:
        AnalysisError: if there are no features before a target.
        SelectionError: if a layer does not exist.
    """
    found = []
    for entry in regularizers:
        if not isinstance(entry, FeatureStatistics):
            continue
        layer = view.layer(entry.layer) if entry.layer else features_read(view, layers)
        if layer is None or layer.channel_axis is None:
            raise AnalysisError(
                "there are no features to keep usual: no layer of several units is read by weights before this one"
                if layer is None
                else f"the layer {shorten(layer.name)!r} has no units whose activations could be kept usual",
                where=shorten(layers[-1]),
                remedy="name a layer (`{kind: feature_statistics, layer: ...}`), or leave `feature_statistics` out",
            )
        found.append(layer.name)
    return tuple(found)


def layers_read(view: GraphView, layers: Sequence[str], regularizers: Sequence[Regularizer]) -> tuple[str, ...]:
    """Return the layers that a step reads, each once: those that are maximised, then those whose features count.

    Raises:
        AnalysisError, SelectionError: as `restrained_layers`.
    """
    return tuple(dict.fromkeys((*layers, *restrained_layers(view, layers, regularizers))))


def restraint(
    model: Model, layers: Sequence[str], regularizers: Sequence[Regularizer], size: tuple[int, int]
) -> Restraint | None:
    """Return what holds pictures of a size in pixels back by their features; None if nothing is to.

    Raises:
        AnalysisError, SelectionError: as `restrained_layers`.
    """
    names = restrained_layers(model.view, layers, regularizers)
    if not names:
        return None
    weights = [entry.weight for entry in regularizers if isinstance(entry, FeatureStatistics)]
    known = [(name, usual_features(model, name, size), weight) for name, weight in zip(names, weights, strict=True)]

    def held_back(activations: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found = [weight * unusualness(activations[layer], usual) for layer, usual, weight in known]
        return sum(found[1:], found[0])

    return held_back


def usual_features(model: Model, layer: str, size: tuple[int, int]) -> UsualFeatures:
    """Measure what scenes of a size in pixels excite at a layer: the same each time, and kept for the next call."""
    with _LOCK:
        known = _KNOWN.setdefault(model, {})
        if (layer, size) not in known:
            known[layer, size] = _measured(model, layer, size)
        return known[layer, size]


_KNOWN: WeakKeyDictionary[Model, dict[tuple[str, tuple[int, int]], UsualFeatures]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def _measured(model: Model, layer: str, size: tuple[int, int]) -> UsualFeatures:
    forward = model.differentiable((layer,))
    batch = model.view.batch or 1  # one at a time gives the same bits whatever is made with it
    found = []
    with torch.no_grad(), one_thread() if model.device.type == "cpu" else contextlib.nullcontext():
        for number in range(SCENES):  # a few hundredths of the passes of one picture
            scene = scenes(torch.tensor([number], device=model.device), size)
            found.append(_statistics(forward(scene.expand(batch, -1, -1, -1))[0][:1]))
        statistics = torch.cat(found)
        deviation = _WIDER * statistics.std(dim=0)
        floor = _LEAST * deviation.mean()
        # Where no scene changes anything, one unit of activation counts as a deviation.
        deviation = torch.where(floor > 0, deviation + floor, torch.ones_like(deviation))
        return UsualFeatures(statistics.mean(dim=0), deviation)


def _statistics(features: torch.Tensor) -> torch.Tensor:
    """Return each unit's mean over positions and, where there are several, its deviation over them: [N, S]."""
    flat = features.float().flatten(2) if features.dim() > 2 else features.float()[:, :, None]
    mean = flat.mean(dim=2)
    if flat.shape[2] == 1:
        return mean
    spread = (flat - mean[:, :, None]).square().mean(dim=2).add(_FLAT).sqrt()
    return torch.cat([mean, spread], dim=1)


_FLAT = 1e-6
"""Added to squares of which the root is taken: it has no derivative at 0."""
