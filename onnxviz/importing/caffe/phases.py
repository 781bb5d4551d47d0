"""Which layers of a network description take part at test time.

Source: Caffe's net.cpp, FilterNet and StateMeetsRule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxviz.core.errors import shorten
from onnxviz.importing.caffe.prototxt import CaffeLayer, CaffeNet

TEST = 1


@dataclass(frozen=True)
class NetState:
    """What the rules of layers are compared with."""

    level: int
    stages: frozenset[str]


def layers_at_test_time(net: CaffeNet) -> tuple[list[CaffeLayer], list[str]]:
    """Return the layers of the test phase, in order, and what was assumed.

    Args:
        net: the network description.

    Raises:
        ModelFileError: if a layer has rules of both kinds, which Caffe refuses.
    """
    stages = set(net.message.state.stage)
    notes: list[str] = []
    named = {stage for layer in net.layers for rule in _rules(layer) for stage in (*rule.stage, *rule.not_stage)}
    if "deploy" in named and not stages:
        # NVIDIA DIGITS writes one file for all purposes, and names this stage for the one at hand.
        stages.add("deploy")
        notes.append("the network is taken in its stage 'deploy'")
    state = NetState(net.message.state.level, frozenset(stages))
    return [layer for layer in net.layers if _takes_part(net, layer, state)], notes


def _rules(layer: CaffeLayer) -> list[Any]:
    return [*layer.message.include, *layer.message.exclude]


def _takes_part(net: CaffeNet, layer: CaffeLayer, state: NetState) -> bool:
    include, exclude = layer.message.include, layer.message.exclude
    if include and exclude:
        raise net.refuse(
            f"layer {shorten(layer.name)!r} has include and exclude rules", layer.line, "use one of the two"
        )
    if include:
        return any(_meets(rule, state) for rule in include)
    return not any(_meets(rule, state) for rule in exclude)


def _meets(rule: Any, state: NetState) -> bool:
    return (
        not (rule.HasField("phase") and rule.phase != TEST)
        and not (rule.HasField("min_level") and state.level < rule.min_level)
        and not (rule.HasField("max_level") and state.level > rule.max_level)
        and all(stage in state.stages for stage in rule.stage)
        and not any(stage in state.stages for stage in rule.not_stage)
    )
