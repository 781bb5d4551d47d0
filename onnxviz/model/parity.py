"""Parity check: whether the converted network computes what the model file says, layer by layer, on real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto

from onnxviz.core import limits
from onnxviz.core.errors import (
    AgreementError,
    BatchMixedError,
    DataError,
    ModelError,
    OnnxvizError,
    beginning,
    one_line,
    shorten,
)
from onnxviz.core.shares import percent
from onnxviz.core.values import Agreement, Layer
from onnxviz.graph import GraphView
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import FLOATS, type_of
from onnxviz.graph.structure import ancestors, initializers, producers, reads
from onnxviz.model.differences import HALF_TOLERANCE, KEPT, TOLERANCE, Difference
from onnxviz.model.judge import Case, Verdict, judge
from onnxviz.model.layer_values import units_first
from onnxviz.model.model import Model
from onnxviz.model.ort_session import Session, most_bytes
from onnxviz.model.to_torch import to_torch

_LAYER_BYTES = 256 << 20
"""What the activations of one group of layers may take for one image."""

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
Reference = Literal["file", "float32"]


def check_parity(model: Model, layers: Sequence[Layer | str] | Layer | str, images: object) -> tuple[Agreement, ...]:
    """Compare the converted network with ONNX Runtime at every layer, on the same images.

    Two references, both by ONNX Runtime: the model as given, without graph optimizations, wherever it has the layer's
    value ("file"), and the normalised float32 graph that `Model.measure` runs ("float32").

    Args:
        model: the model.
        layers: layers or their names.
        images: real images in the model's size, as for `Model.activations`.

    Returns:
        For each layer the comparison with the file, where that is possible, and the one with the float32 graph. The
        note of the latter says why the former is missing.

    Raises:
        BatchMixedError: if the first axis of a layer is not the images.
        DataError: if the images cannot be used.
        UnsupportedOperatorError: if a layer needs operators that do not convert.
    """
    found, mixing = check_comparable_layers(model, layers, images)
    if mixing:
        raise BatchMixedError(
            f"{shorten(mixing[0])} mixes the images of a batch, so that no image has values of its own",
            where=shorten(model.view.file),
            remedy="name another layer",
        )
    return found


def check_comparable_layers(
    model: Model, layers: Sequence[Layer | str] | Layer | str, images: object
) -> tuple[tuple[Agreement, ...], tuple[str, ...]]:
    """Compare as `check_parity` does, all layers but those that mix the batch.

    Sessions and networks are not kept by the model: they are made for one comparison, and each may hold all weights.

    Args:
        model: the model.
        layers: layers or their names.
        images: as for `check_parity`.

    Returns:
        What `check_parity` returns, and the names of the layers whose first axis is not the images.

    Raises:
        DataError: if the images cannot be used.
        UnsupportedOperatorError: if a layer needs operators that do not convert.
    """
    chosen = model.resolve(layers)
    batch = model.prepare(images)
    if batch.shape[0] == 0:
        raise DataError("there are no images to compare the conversion on")
    result: list[Agreement] = []
    mixing: list[str] = []
    for group in _groups(chosen):
        result.extend(_check_group(model, group, batch, mixing))
    return tuple(result), tuple(mixing)


def check_tensors(
    model: Model, layers: Sequence[Layer | str] | Layer | str, inputs: Sequence[np.ndarray]
) -> tuple[Agreement, ...]:
    """Compare the converted network with ONNX Runtime on tensors, for models that take no image.

    Args:
        model: the model.
        layers: layers or their names.
        inputs: one array for each input of the model, in the order of the file.

    Returns:
        As `check_parity`.

    Raises:
        ModelError: if the network or ONNX Runtime cannot do with these inputs.
        UnsupportedOperatorError: if a layer needs operators that do not convert.
    """
    chosen = model.resolve(layers)
    network = to_torch(model, chosen)
    given = dict(zip(model.inputs, inputs, strict=True))
    try:
        with torch.no_grad():
            ours = network(*(torch.from_numpy(np.array(array)).to(model.device) for array in inputs))
    except (ArithmeticError, RuntimeError, ValueError, TypeError, IndexError) as fault:
        raise ModelError(
            f"the network fails on these inputs: {beginning(str(fault))}",
            where=shorten(model.view.file),
            remedy="give inputs of the shapes that the model declares",
        ) from fault
    values = [layer.value for layer in chosen]
    made = producers(model.view.original.graph)
    held = [value for value in values if value in made]
    file: dict[str, np.ndarray] = {}
    refusal = ""
    try:
        if held:
            file = dict(zip(held, _run_rows(model, Session(model.view.original, held, exact=True), given), strict=True))
    except ModelError as fault:
        refusal = fault.what
    float32 = Session(model.view.proto, values, exact=True).run(given)
    tolerance = HALF_TOLERANCE if is_half(model.view.original) else TOLERANCE
    rows = {layer.value: own.cpu().numpy() for layer, own in zip(chosen, ours, strict=True)}
    by_file = _judged_tensors(model, model.view.original, given, rows, file, tolerance)
    by_graph = _judged_tensors(model, model.view.proto, given, rows, dict(zip(rows, float32, strict=True)), TOLERANCE)
    result: list[Agreement] = []
    for layer, theirs in zip(chosen, float32, strict=True):
        value = layer.value
        if value in file:
            found = _agreement(_apart(rows[value], file[value]), layer, tolerance, "file", "")
            result.append(_with_verdict(model, found, by_file.get(value)))
        missing = "" if value in file else refusal or "the file has no such value: importing made it"
        found = _agreement(_apart(rows[value], theirs), layer, TOLERANCE, "float32", missing)
        result.append(_with_verdict(model, found, by_graph.get(value)))
    return tuple(result)


def _apart(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    difference = Difference()
    difference.add(ours, theirs)
    return difference


def _judged_tensors(
    model: Model,
    graph: ModelProto,
    inputs: Mapping[str, np.ndarray],
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    tolerance: float,
) -> dict[str, Verdict]:
    """Let a third computation decide on the layers that differ on tensors."""
    suspects = {value: ours[value] for value in theirs if not _apart(ours[value], theirs[value]).relative <= tolerance}
    return _decided(Case(model, graph, inputs, suspects, {}, tolerance, _quantised(model))) if suspects else {}


def _run_rows(model: Model, session: Session, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Run the file as given; where it insists on one row at a time, row by row."""
    alone = all(_fixed_batch(model.view.original, name) == 1 for name in inputs)
    count = max((len(array) for array in inputs.values() if array.ndim), default=1)
    if not alone or count == 1:
        return session.run(inputs)
    rows = [session.run({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(count)]
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def made_up_inputs(view: GraphView, seed: int = 0) -> list[np.ndarray]:
    """Make inputs for a model that takes no image: normal noise, zeros for whole numbers, 1 for free dimensions.

    Raises:
        ModelError: if an input is no tensor, or even the number of its dimensions is free.
    """
    generator = np.random.default_rng(seed)
    made = []
    constant = {tensor.name for tensor in view.proto.graph.initializer}
    for value in view.proto.graph.input:
        if value.name in constant:
            continue
        kind = type_of(value)
        if not kind.element or kind.shape is None or kind.element == TensorProto.STRING:
            raise ModelError(
                f"inputs for {shorten(view.names.get(value.name, value.name))!r} cannot be made up",
                where=shorten(view.file),
            )
        shape = [size if isinstance(size, int) else 1 for size in kind.shape]
        array = generator.standard_normal(shape).astype(np.float32)
        if kind.element not in FLOATS:
            array = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.element))
        made.append(array)
    return made


def require(agreements: Sequence[Agreement]) -> None:
    """Refuse layers that do not agree.

    Raises:
        AgreementError: names every layer outside its tolerance, with the difference.
    """
    broken = [item for item in agreements if not item.holds]
    if broken:
        listed = "; ".join(
            f"{shorten(item.layer)} differs by {item.relative:.2g} of its largest value"
            f" (tolerance {item.tolerance:.2g}, against the {'file' if item.reference == 'file' else 'float32 graph'})"
            + (f"; {item.verdict}" if item.verdict else "")
            for item in broken[:5]
        )
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise AgreementError(
            f"the converted network and ONNX Runtime disagree: {listed}{more}",
            remedy="analyse other layers; a picture of this one would show a different network",
        )


def _agreement(found: Difference, layer: Layer, tolerance: float, reference: Reference, note: str) -> Agreement:
    if found.part < 1 and not np.isnan(found.absolute):
        said = f"quantised: computed from ONNX Runtime's rounded values, of which {percent(found.part, 1)} count"
        note = f"{note}; {said}" if note else said
    return Agreement(layer.name, found.relative, found.absolute, tolerance, reference, note)


def _groups(layers: Sequence[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Split layers so that one image's activations of a group stay small."""
    group: list[Layer] = []
    total = 0
    for layer in layers:
        size = 4
        for length in layer.shape[1:]:
            size *= length or 1
        if group and total + size > _LAYER_BYTES:
            yield tuple(group)
            group, total = [], 0
        group.append(layer)
        total += size
    if group:
        yield tuple(group)


def _check_group(
    model: Model, layers: tuple[Layer, ...], images: torch.Tensor, mixing: list[str]
) -> Iterator[Agreement]:
    """Yield the agreement of each layer; those that mix the batch are added to `mixing` instead."""
    original = model.view.original
    made = producers(original.graph)
    in_file = [layer for layer in layers if layer.value in made]
    session, batch, refusal = None, 0, ""
    if in_file:
        try:
            session = Session(original, [layer.value for layer in in_file], exact=True)
            batch = _fixed_batch(original, model.view.input_name)
        except ModelError as fault:
            refusal = fault.what
    rounded, pair = _quantised(model), _Pair(model, layers, images.shape[2:])
    mixed: set[str] = set()
    file = {layer.value: Difference(part=KEPT if layer.value in rounded else 1.0) for layer in in_file}
    float32 = {layer.value: Difference(part=KEPT if layer.value in rounded else 1.0) for layer in layers}
    apart = {layer.value: Difference() for layer in layers if layer.value in rounded}
    step = model.view.batch or max(batch, 1)
    for start in range(0, len(images), step):
        part = images[start : start + step]
        own, reference = pair.compute(part)
        ours = dict(zip((layer.value for layer in layers), own, strict=True))
        for layer, values in zip(layers, reference, strict=True):
            if values.shape[:1] != (len(part),):
                mixed.add(layer.value)
            else:
                float32[layer.value].add(ours[layer.value], units_first(values, layer.channel_axis), start)
        for layer, own_way, values in zip(layers, pair.end_to_end(part), reference, strict=False):
            if layer.value in apart and layer.value not in mixed:
                apart[layer.value].add(own_way, units_first(values, layer.channel_axis))
        if session is None:
            continue
        try:
            given = _run_file(model, session, part, batch)
        except ModelError as fault:
            session, refusal = None, fault.what
            continue
        for layer, values in zip(in_file, given, strict=True):
            if layer.value not in mixed:
                file[layer.value].add(ours[layer.value], units_first(values, layer.channel_axis), start)
    tolerance = HALF_TOLERANCE if is_half(original) else TOLERANCE
    if session is None:
        file = {}
    by_file = _judged(pair, original, images, file, tolerance, step)
    by_graph = _judged(pair, model.view.proto, images, float32, TOLERANCE, model.view.batch or 1, by_file)
    note = f"the file itself does not run in ONNX Runtime: {refusal}" if refusal else ""
    for layer in layers:
        value = layer.value
        if value in mixed:
            mixing.append(layer.name)
            continue
        end_to_end = apart[value].relative if value in apart and pair.rounds else None
        if value in file:
            found = _agreement(file[value], layer, tolerance, "file", "")
            yield _with_verdict(model, replace(found, end_to_end=end_to_end), by_file.get(value))
        missing = "" if value in made else "the file has no such value: importing made it"
        found = _agreement(float32[value], layer, TOLERANCE, "float32", note or missing)
        yield _with_verdict(model, replace(found, end_to_end=end_to_end), by_graph.get(value))


def _judged(
    pair: _Pair,
    graph: ModelProto,
    images: torch.Tensor,
    differences: Mapping[str, Difference],
    tolerance: float,
    count: int,
    known: Mapping[str, Verdict] | None = None,
) -> dict[str, Verdict]:
    """Let a third computation decide on the layers that differ, each on the images at which it differs most.

    Args:
        pair: computes the layers by the network.
        graph: what ONNX Runtime computed.
        images: all images.
        differences: identifier of a layer's value -> how far it is from ONNX Runtime's.
        tolerance: the largest difference that needs no third computation.
        count: how many images the graph takes at a time.
        known: verdicts that hold here too.
    """
    found: dict[str, Verdict] = {}
    suspects: dict[int, list[str]] = {}
    for value, difference in differences.items():
        if difference.relative <= tolerance:
            continue
        if known and value in known:
            found[value] = known[value]
        else:
            suspects.setdefault(difference.at, []).append(value)
    model, axes = pair.model, {layer.value: layer.channel_axis for layer in pair.layers}
    for start, values in suspects.items():
        part = images[start : start + count]
        part = torch.cat([part, part[:1].expand(count - len(part), *part.shape[1:])])
        own = dict(zip(axes, pair.compute(part)[0], strict=True))
        with torch.no_grad():
            inputs = {model.view.input_name: model.encode(part).cpu().numpy()}
        any_size = graph is model.view.proto and tuple(images.shape[2:]) != model.view.input_size
        ours = {value: own[value] for value in values}
        case = Case(model, graph, inputs, ours, axes, tolerance, _quantised(model), _frontier(model), any_size)
        found.update(_decided(case))
    return found


def _decided(case: Case) -> dict[str, Verdict]:
    """Judge, or say why that is impossible."""
    try:
        return judge(case)
    except (OnnxvizError, ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as fault:
        how = f"there is no third computation: {beginning(one_line(fault))}"
        return {value: Verdict("unknown", np.nan, np.nan, value, how) for value in case.ours}


def _with_verdict(model: Model, found: Agreement, verdict: Verdict | None) -> Agreement:
    if verdict is None or found.relative <= found.tolerance:
        return found
    layer = next((layer.name for layer in model.layers if layer.value == verdict.origin), "")
    origin = layer or model.view.names.get(verdict.origin, verdict.origin)
    return replace(found, off=verdict.off, ours=verdict.ours, theirs=verdict.theirs, origin=origin, judged=verdict.how)


def _run_file(model: Model, session: Session, images: torch.Tensor, batch: int) -> list[np.ndarray]:
    """Run the file as given, in its own type and batch; the last batch is filled up with its first image."""
    with torch.no_grad():
        encoded = model.encode(images).cpu().numpy()
    count = len(encoded)
    if batch and count < batch:
        encoded = np.concatenate([encoded, np.repeat(encoded[:1], batch - count, axis=0)])
    results = session.run({model.view.input_name: encoded})
    return [values[:count] if values.ndim else values for values in results]


def _fixed_batch(model: ModelProto, name: str) -> int:
    """Return the batch size that a file insists on, 0 if it is free."""
    for value in model.graph.input:
        if value.name == name and value.type.tensor_type.shape.dim:
            return int(value.type.tensor_type.shape.dim[0].dim_value)
    return 0


class _Pair:
    """Both computations of some layers: the converted network, and the float32 graph in ONNX Runtime.

    Behind a quantisation the network computes from ONNX Runtime's rounded values.
    """

    def __init__(self, model: Model, layers: Sequence[Layer], size: Sequence[int]) -> None:
        self.model = model
        self.layers = layers
        self._frontier = _frontier(model)
        self._constants = _constants(model, layers)
        if self._frontier:
            self._rounding = Session(model.view.proto, self._frontier, exact=True)
        if not self._frontier and not self._constants:
            self._forward = model.unchecked(layers)
        self.rounds = bool(self._frontier)
        self._session = model.session([layer.value for layer in layers], any_size=tuple(size) != model.view.input_size)

    def compute(self, images: torch.Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return each layer by the network, units first, and by ONNX Runtime, as it is."""
        model = self.model
        with torch.no_grad():
            encoded = {model.view.input_name: model.encode(images).cpu().numpy()}
            if self._frontier or self._constants:
                rounded = self._rounding.run(encoded) if self._frontier else []
                given = {name: torch.from_numpy(array) for name, array in zip(self._frontier, rounded, strict=True)}
                ours = model.continued(images, self.layers, {**self._constants, **given})
            else:
                ours = self._forward(images)
        return [values.cpu().numpy() for values in ours], self._session.run(encoded)

    def end_to_end(self, images: torch.Tensor) -> list[np.ndarray]:
        """Return each layer by the network from the images alone, where that is not what `compute` returns anyway."""
        if not self.rounds:
            return []
        return [values.cpu().numpy() for values in self.model.continued(images, self.layers, self._constants)]


def _constants(model: Model, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
    """Return what layers are made from that depends on no image, computed once for all images, where it is small.

    Importing folds small constants; a small one that is left is made from large ones.
    """
    graph = model.view.proto.graph
    needed = ancestors(graph, [layer.value for layer in layers])
    constant = set(initializers(graph))
    made: set[str] = set()
    wanted: set[str] = set()
    for node in graph.node:
        if any(name in needed for name in node.output):
            if node.input and all(name in constant for name in reads(node)):
                constant.update(node.output)
                made.update(name for name in node.output if name)
            else:
                wanted.update(name for name in reads(node) if name in made)
    names = sorted(name for name in wanted if model.network.has(name))
    kinds = [model.view.types.get(name) for name in names]
    if not names or sum(most_bytes(kind) for kind in kinds) > limits.FOLDED_BYTES:
        return {}
    with torch.no_grad():
        values = model.network.cut(names)(*[None] * len(model.inputs))
    return dict(zip(names, values, strict=True))


def _frontier(model: Model) -> list[str]:
    """Return what the values that were rounded on the way mean: every DequantizeLinear of no constant."""
    constant = set(initializers(model.view.proto.graph))
    return [
        node.output[0]
        for node in model.view.proto.graph.node
        if node.op_type == "DequantizeLinear" and not node.domain and node.input[0] not in constant
    ]


def _quantised(model: Model) -> set[str]:
    """Return the values that are computed from rounded ones."""
    found: set[str] = set()
    constant = set(initializers(model.view.proto.graph))
    for node in model.view.proto.graph.node:
        makes = traits_of(node).rounds and any(name and name not in constant for name in node.input)
        if makes or any(name in found for name in reads(node)):
            found.update(name for name in node.output if name)
    return found


def is_half(model: ModelProto) -> bool:
    """Whether a model computes in half precision anywhere."""
    if any(tensor.data_type in _HALF for tensor in initializers(model.graph).values()):
        return True
    if any(value.type.tensor_type.elem_type in _HALF for value in model.graph.input):
        return True
    return any(
        node.op_type == "Cast" and any(entry.name == "to" and onnx.helper.get_attribute_value(entry) in _HALF
                                       for entry in node.attribute)
        for node in model.graph.node
    )  # fmt: skip
