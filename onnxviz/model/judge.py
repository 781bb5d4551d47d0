"""Who is off where the converted network and ONNX Runtime differ: a third computation, from the same inputs.

ONNX Runtime is a witness, not the judge: on processors without VNNI its products of uint8 and int8 saturate, and its
instance normalisation sums in single precision. So each node that leads to a suspicious layer is computed once more
from what ONNX Runtime has in front of it. Where both agree on every node, two independent programs confirm what the
network is, and only rounding is left to decide: the converted network in double precision does that. Where they do not
agree on a node, the standard's definition in double precision or in exact integers decides, and nothing else: our own
converter in double precision would repeat its own mistake.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto

from onnxviz.convert import Network
from onnxviz.convert.element_types import CARRIERS, to_carrier
from onnxviz.core.errors import ModelError, beginning
from onnxviz.graph.structure import ancestors, image_dependent, producers
from onnxviz.model.differences import KEPT, difference
from onnxviz.model.layer_values import units_first
from onnxviz.model.model import Model
from onnxviz.model.ort_session import Session, most_bytes, saturates
from onnxviz.model.reference import Allowance, Undecidable, compute, is_exact, operator_name
from onnxviz.model.reference.integers import DEFINITIONS

_BYTES = 2 << 30
"""Most that the values between the image and a suspicious layer may take, in double precision."""
_EXACT = frozenset(["ConvInteger", "MatMulInteger"])
"""Operators behind a quantisation that round nothing themselves: all their values count."""
_EXPLAINED = 0.1
"""How far the standard's definition may be from our double precision, as a part of the error that is laid at a node."""

Off = Literal["", "runtime", "ours", "both", "neither", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """What a third computation says of a layer, as `core.values.Agreement` has it; `origin` is a value's identifier."""

    off: Off
    ours: float
    theirs: float
    origin: str
    how: str


def undecided(value: str, why: str) -> Verdict:
    """Return the verdict where there is no third computation."""
    return Verdict("unknown", np.nan, np.nan, value, f"there is no third computation: {why}")


@dataclass(frozen=True)
class Case:
    """What is to be judged.

    Attributes:
        model: the model.
        graph: what ONNX Runtime computes: the file as given, or the normalised graph.
        inputs: identifier of an input -> the images, as many as the graph takes at a time.
        ours: identifier of a layer that differs -> what the converted network makes of the images where it is used.
        axes: identifier of such a layer -> the axis of its units, where `ours` has them first.
        tolerance: largest relative error that is accepted.
        rounded: identifiers of values that are computed from quantised ones.
        frontier: identifiers of values from which layers behind a quantisation are computed.
        any_size: whether the images have another size than the graph declares.
    """

    model: Model
    graph: ModelProto
    inputs: Mapping[str, np.ndarray]
    ours: Mapping[str, np.ndarray]
    axes: Mapping[str, int | None]
    tolerance: float
    rounded: Collection[str] = ()
    frontier: Sequence[str] = ()
    any_size: bool = False

    def error(self, value: str, found: np.ndarray, right: np.ndarray) -> float:
        """Return how far a value is from what is right, by its largest number."""
        exact = self.makers[value].op_type in _EXACT or value not in self.rounded
        return difference(found, right, 1.0 if exact else KEPT).relative

    @cached_property
    def makers(self) -> dict[str, NodeProto]:
        """The node that makes each value of the graph."""
        return producers(self.graph.graph)


def judge(case: Case) -> dict[str, Verdict]:
    """Say of each suspicious layer who is off; raises ModelError if what leads to them cannot be computed."""
    values = _comparable(case)
    theirs: dict[str, np.ndarray] = {}
    if values:
        witness = Session(case.graph, values, exact=True, any_size=case.any_size)
        theirs = dict(zip(values, witness.run(dict(case.inputs)), strict=True))
    alone = _by_network(case, case.model.network, values, theirs, torch.float32)
    allowance = Allowance()
    nodes: dict[str, Verdict] = {}
    for value in values:
        if not case.error(value, alone[value], theirs[value]) <= case.tolerance:
            nodes[value] = _node(case, value, alone[value], theirs, allowance)
    found: dict[str, Verdict] = {}
    cleared: list[str] = []
    for value in case.ours:
        above = ancestors(case.graph.graph, [value])
        blamed = [each for name, each in nodes.items() if name in above and each.off not in ("runtime", "neither")]
        if blamed:
            found[value] = blamed[0]
        elif value in theirs:
            cleared.append(value)
        else:
            found[value] = Verdict("unknown", np.nan, np.nan, value, "its value cannot be handed on")
    if cleared:
        sides = _Sides(theirs, alone, nodes)
        found.update(_rounding(case, [value for value in cleared if value not in case.rounded], sides, allowance))
        found.update(_quantised(case, [value for value in cleared if value in case.rounded], sides))
    return {value: found[value] for value in case.ours}


def _comparable(case: Case) -> list[str]:
    """Return what leads to the suspicious layers and exists on both sides, in order."""
    graph, model = case.graph.graph, case.model
    needed = ancestors(graph, case.ours) & image_dependent(graph)
    ours = producers(model.view.proto.graph)
    values = [name for node in graph.node for name in node.output if name in needed and name in ours]
    values = [name for name in values if model.network.has(name) and _numeric(case, name)]
    sizes = (most_bytes(model.view.types.get(name)) for name in values)
    if sum(size for size in sizes if np.isfinite(size)) > _BYTES:
        raise ModelError("what leads to it is too large to be computed once more, all at a time")
    return values


def _numeric(case: Case, value: str) -> bool:
    kind = case.model.view.types.get(value)
    if kind is None or not kind.element:
        return operator_name(case.makers[value]) in DEFINITIONS
    return kind.element in CARRIERS and not CARRIERS[kind.element].is_complex


def _by_network(
    case: Case, network: Network, values: Sequence[str], given: Mapping[str, np.ndarray], kind: torch.dtype
) -> dict[str, np.ndarray]:
    """Compute values by the converted network, each from the given ones nearest to it."""
    handed = {name: array for name, array in given.items() if network.has(name)}
    cut = network.cut(values, given=list(handed))
    cut = cut.double() if kind is torch.float64 else cut
    device = case.model.device

    def tensor(array: np.ndarray) -> torch.Tensor:
        made = to_carrier(array, onnx.helper.np_dtype_to_tensor_dtype(array.dtype)).to(device)
        return made.to(kind) if made.is_floating_point() else made

    arguments = [tensor(case.inputs[name]) if name in case.inputs else None for name in network.inputs]
    with torch.no_grad():
        results = cut(*arguments, *(tensor(array) for array in handed.values()))
    return {name: result.cpu().numpy() for name, result in zip(values, results, strict=True)}


def _node(case: Case, value: str, alone: np.ndarray, theirs: Mapping[str, np.ndarray], allowance: Allowance) -> Verdict:
    """Judge the nodes that make one value of others, by the standard's definition."""
    try:
        right = compute(case.graph, value, {**case.inputs, **theirs}, allowance)
    except Undecidable as why:
        return undecided(value, str(why))
    if right.shape != theirs[value].shape == alone.shape:
        return undecided(value, f"the standard's definition gives {list(right.shape)} numbers here")
    ours, runtime = case.error(value, alone, right), case.error(value, theirs[value], right)
    exact = is_exact(case.makers[value])
    how = "by exact integers" if exact else "by the standard's definition in double precision"
    how = f"{how}, from the same inputs"
    off = _off(ours, runtime, case.tolerance)
    if exact and off == "runtime" and saturates():
        how += "; products of uint8 and int8 saturate in ONNX Runtime on this processor"
    return Verdict(off, ours, runtime, value, how)


def _off(ours: float, theirs: float, tolerance: float) -> Off:
    """Say who is outside the tolerance; NaN is."""
    if ours <= tolerance:
        return "neither" if theirs <= tolerance else "runtime"
    return "ours" if theirs <= tolerance else "both"


@dataclass(frozen=True)
class _Sides:
    """What is known of every value that leads to the suspicious layers.

    Attributes:
        theirs: identifier of a value -> what ONNX Runtime makes of the image.
        alone: what the converted network makes of ONNX Runtime's values in front of it.
        nodes: the verdict where these two differ.
    """

    theirs: Mapping[str, np.ndarray]
    alone: Mapping[str, np.ndarray]
    nodes: Mapping[str, Verdict]

    def wrong(self, case: Case, value: str) -> str:
        """Return the first value that ONNX Runtime gets wrong on the way to another; "" if there is none."""
        above = ancestors(case.graph.graph, [value])
        return next((name for name, found in self.nodes.items() if name in above and found.off == "runtime"), "")


def _rounding(case: Case, values: Sequence[str], sides: _Sides, allowance: Allowance) -> dict[str, Verdict]:
    """Judge layers whose every node agrees, or is right by the standard, by the network in double precision."""
    if not values:
        return {}
    frontier = {name: sides.theirs[name] for name in case.frontier if name in sides.theirs}
    try:
        double = case.model.convert()
        right = _by_network(case, double, values, frontier, torch.float64)
        alone = _by_network(case, double, list(sides.theirs), sides.theirs, torch.float64)
    except (RuntimeError, TypeError, ValueError, MemoryError) as fault:
        why = f"the network does not run in double precision: {beginning(str(fault))}"
        return {value: undecided(value, why) for value in values}
    errors = {name: case.error(name, array, alone[name]) for name, array in sides.theirs.items()}
    found: dict[str, Verdict] = {}
    for value in values:
        # What is used must be right, and not only its nodes: preprocessing, fusing and the order of axes lie between.
        mine = case.error(value, case.ours[value], units_first(right[value], case.axes.get(value)))
        runtime = case.error(value, sides.theirs[value], right[value])
        off = _off(mine, runtime, case.tolerance)
        if not mine <= case.tolerance:
            found[value] = Verdict(off, mine, runtime, value, "by the network in double precision, from the image on")
            continue
        how = "by the network in double precision; every node agrees on equal inputs"
        origin = sides.wrong(case, value)
        if origin:
            judged = sides.nodes[origin]
            how = f"by the network in double precision; its node at fault {judged.how}; every other node agrees"
            if value == origin:
                found[value] = replace(judged, ours=max(mine, judged.ours))
                continue
        else:
            above = ancestors(case.graph.graph, [value])
            origin = _origin({name: error for name, error in errors.items() if name in above})
            if contradiction := _contradicted(case, origin, alone[origin], sides.theirs, errors[origin], allowance):
                found[value] = Verdict("unknown", np.nan, np.nan, origin, contradiction)
                continue
        found[value] = Verdict(off, mine, runtime, origin, how)
    return found


def _quantised(case: Case, values: Sequence[str], sides: _Sides) -> dict[str, Verdict]:
    """Judge layers behind a rounding to integers, whose every node agrees or is right by the standard.

    From the image on two right computations have little in common there (`differences.KEPT`), so a layer is measured
    from the values in front of it.
    """
    found: dict[str, Verdict] = {}
    for value in values:
        origin = sides.wrong(case, value)
        if value in sides.nodes:
            found[value] = sides.nodes[value]
        elif origin:
            judged = sides.nodes[origin]
            mine = case.error(value, sides.alone[value], sides.theirs[value])
            how = f"{judged.how}; every other node agrees on equal inputs"
            found[value] = Verdict("runtime", max(mine, judged.ours), judged.theirs, origin, how)
        else:
            apart = case.error(value, sides.alone[value], sides.theirs[value])
            how = "every node agrees on equal inputs; roundings to integers fell to other sides"
            found[value] = Verdict("neither", apart, apart, value, how)
    return found


def _origin(errors: Mapping[str, float]) -> str:
    """Return the first value at which an error arises that is at least half of the largest one."""
    largest = max(errors.values())
    return next(name for name, error in errors.items() if not error < largest / 2)


def _contradicted(
    case: Case, value: str, double: np.ndarray, theirs: Mapping[str, np.ndarray], error: float, allowance: Allowance
) -> str:
    """Say if the standard's definition does not confirm an error that our double precision lays at a node."""
    try:
        right = compute(case.graph, value, {**case.inputs, **theirs}, allowance)
    except Undecidable:
        return ""  # the node agrees with ONNX Runtime within the tolerance, which no mistake of structure does
    apart = case.error(value, double, right)
    if apart <= max(_EXPLAINED * error, 1e-6):
        return ""
    return f"our double precision and the standard's definition are {apart:.1g} apart at the node in question"
