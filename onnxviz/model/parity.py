"""Parity check: whether the converted network computes what the model file says, layer by layer, on real images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto

from onnxviz.core import limits
from onnxviz.core.errors import BatchMixedError, DataError, ModelError, OnnxvizError, beginning, one_line, shorten
from onnxviz.core.shares import percent
from onnxviz.core.values import Agreement, Layer
from onnxviz.graph import GraphView
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import FLOATS, type_of
from onnxviz.graph.structure import ancestors, initializers, producers, reads
from onnxviz.model.differences import HALF_TOLERANCE, KEPT, TOLERANCE, Difference, difference
from onnxviz.model.judge import Case, Verdict, judge, undecided
from onnxviz.model.layer_values import units_first
from onnxviz.model.model import Model
from onnxviz.model.ort_session import Session, most_bytes
from onnxviz.model.runtime_versions import element_types
from onnxviz.model.to_torch import to_torch

_LAYER_BYTES = 256 << 20
"""What the activations of one group of layers may take for one image."""

_HALF = frozenset([TensorProto.FLOAT16, TensorProto.BFLOAT16])
Reference = Literal["file", "float32"]


def check_parity(model: Model, layers: Sequence[Layer | str] | Layer | str, images: object) -> tuple[Agreement, ...]:
    """Compare as `check_comparable_layers` does; raises BatchMixedError if a layer mixes the batch."""
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
    """Compare the converted network with ONNX Runtime at all layers but those that mix the batch, on the same images.

    Two references, both by ONNX Runtime: the model as given, without graph optimizations, wherever it has the layer's
    value ("file"), and the normalised float32 graph that `Model.measure` runs ("float32"). Sessions and networks are
    not kept by the model: they are made for one comparison, and each may hold all weights.

    Args:
        model: the model.
        layers: layers or their names.
        images: real images in the model's size, as for `Model.activations`.

    Returns:
        For each layer the comparison with the file, where that is possible, and the one with the float32 graph, whose
        note says why the former is missing; and the names of the layers whose first axis is not the images.

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
        found, mixed = _check_group(model, group, batch)
        result += found
        mixing += mixed
    return tuple(result), tuple(mixing)


def check_tensors(
    model: Model, layers: Sequence[Layer | str] | Layer | str, inputs: Sequence[np.ndarray]
) -> tuple[Agreement, ...]:
    """Compare as `check_comparable_layers` does on tensors, one for each input, for models that take no image.

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
    rows = {layer.value: own.cpu().numpy() for layer, own in zip(chosen, ours, strict=True)}
    original, refusal = model.view.original, ""
    held = [value for value in rows if value in producers(original.graph)]
    in_file: dict[str, np.ndarray] = {}
    try:
        if held:
            in_file = dict(zip(held, _run_rows(model, Session(original, held, exact=True), given), strict=True))
    except ModelError as fault:
        refusal = fault.what
    in_graph = dict(zip(rows, Session(model.view.proto, list(rows), exact=True).run(given), strict=True))
    against = []
    for graph, theirs in ((original, in_file), (model.view.proto, in_graph)):
        differences = {value: difference(rows[value], array) for value, array in theirs.items()}
        compared = _Compared(graph, differences, _tolerance(model, graph))
        suspects = {value: rows[value] for value in compared.suspicious}
        if suspects:
            compared.verdicts = _decided(Case(model, graph, given, suspects, {}, compared.tolerance, _quantised(model)))
        against.append(compared)
    return tuple(_agreements(model, chosen, against[0], against[1], refusal))


@dataclass
class _Compared:
    """How layers differ from what ONNX Runtime makes of a graph, by the identifiers of their values."""

    graph: ModelProto
    differences: Mapping[str, Difference]
    tolerance: float
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def suspicious(self) -> list[str]:
        """Layers that need a third computation."""
        return [value for value, found in self.differences.items() if not found.relative <= self.tolerance]


def _tolerance(model: Model, graph: ModelProto) -> float:
    return HALF_TOLERANCE if graph is model.view.original and is_half(graph) else TOLERANCE


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


def _agreements(
    model: Model,
    layers: Sequence[Layer],
    file: _Compared,
    float32: _Compared,
    refusal: str,
    end_to_end: Mapping[str, Difference] | None = None,
) -> Iterator[Agreement]:
    """Yield each layer's agreement with the file, where it has the value, and with the float32 graph."""
    made = producers(model.view.original.graph)
    for layer in layers:
        missing = "" if layer.value in made else "the file has no such value: importing made it"
        note = f"the file itself does not run in ONNX Runtime: {refusal}" if refusal else missing
        apart = (end_to_end or {}).get(layer.value)
        for compared, said in ((file, ""), (float32, note)):
            if layer.value in compared.differences:
                found = _agreement(model, layer, compared, said)
                yield replace(found, end_to_end=None if apart is None else apart.relative)


def _agreement(model: Model, layer: Layer, compared: _Compared, note: str) -> Agreement:
    found, verdict = compared.differences[layer.value], compared.verdicts.get(layer.value)
    if found.part < 1 and not np.isnan(found.absolute):
        said = f"quantised: computed from ONNX Runtime's rounded values, of which {percent(found.part, 1)} count"
        note = f"{note}; {said}" if note else said
    reference: Reference = "file" if compared.graph is model.view.original else "float32"
    made = Agreement(layer.name, found.relative, found.absolute, compared.tolerance, reference, note)
    if verdict is None:
        return made
    named = next((layer.name for layer in model.layers if layer.value == verdict.origin), "")
    origin = named or model.view.names.get(verdict.origin, verdict.origin)
    return replace(made, off=verdict.off, ours=verdict.ours, theirs=verdict.theirs, origin=origin, judged=verdict.how)


def _groups(layers: Sequence[Layer]) -> Iterator[tuple[Layer, ...]]:
    """Split layers so that one image's activations of a group stay small."""
    group: list[Layer] = []
    total = 0
    for layer in layers:
        size = 4 * math.prod(length or 1 for length in layer.shape[1:])
        if group and total + size > _LAYER_BYTES:
            yield tuple(group)
            group, total = [], 0
        group.append(layer)
        total += size
    if group:
        yield tuple(group)


def _check_group(model: Model, layers: tuple[Layer, ...], images: torch.Tensor) -> tuple[list[Agreement], list[str]]:
    """Return the agreement of each layer, and the names of those that mix the batch."""
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
    by_file = _Compared(original, file if session else {}, _tolerance(model, original))
    by_graph = _Compared(model.view.proto, float32, TOLERANCE)
    by_file.verdicts = _judged(pair, by_file, images, step)
    by_graph.verdicts = _judged(pair, by_graph, images, model.view.batch or 1, by_file.verdicts)
    comparable = [layer for layer in layers if layer.value not in mixed]
    found = _agreements(model, comparable, by_file, by_graph, refusal, apart if pair.rounds else {})
    return list(found), [layer.name for layer in layers if layer.value in mixed]


def _judged(
    pair: _Pair, compared: _Compared, images: torch.Tensor, count: int, known: Mapping[str, Verdict] | None = None
) -> dict[str, Verdict]:
    """Let a third computation decide on the layers that differ, each on the images at which it differs most."""
    known = known or {}
    found = {value: known[value] for value in compared.suspicious if value in known}
    suspects: dict[int, list[str]] = {}
    for value in compared.suspicious:
        if value not in known:
            suspects.setdefault(compared.differences[value].at, []).append(value)
    model, axes = pair.model, {layer.value: layer.channel_axis for layer in pair.layers}
    for start, values in suspects.items():
        part = images[start : start + count]
        part = torch.cat([part, part[:1].expand(count - len(part), *part.shape[1:])])
        own = dict(zip(axes, pair.compute(part)[0], strict=True))
        inputs = model.input_arrays(part)
        graph = compared.graph
        any_size = graph is model.view.proto and tuple(images.shape[2:]) != model.view.input_size
        ours = {value: own[value] for value in values}
        case = Case(model, graph, inputs, ours, axes, compared.tolerance, _quantised(model), _frontier(model), any_size)
        found.update(_decided(case))
    return found


def _decided(case: Case) -> dict[str, Verdict]:
    """Judge, or say why that is impossible."""
    try:
        return judge(case)
    except (OnnxvizError, ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as fault:
        return {value: undecided(value, beginning(one_line(fault))) for value in case.ours}


def _run_file(model: Model, session: Session, images: torch.Tensor, batch: int) -> list[np.ndarray]:
    """Run the file as given, in its own type and batch; the last batch is filled up with its first image."""
    count = len(images)
    if batch and count < batch:
        images = torch.cat([images, images[:1].expand(batch - count, *images.shape[1:])])
    results = session.run(model.input_arrays(images))
    return [values[:count] if values.ndim else values for values in results]


def _fixed_batch(model: ModelProto, name: str) -> int:
    """Return the batch size that a file insists on, 0 if it is free."""
    for value in model.graph.input:
        if value.name == name and value.type.tensor_type.shape.dim:
            return int(value.type.tensor_type.shape.dim[0].dim_value)
    return 0


def output_error(model: Model, images: torch.Tensor, known: Sequence[Agreement] = ()) -> str:
    """Say how far ONNX Runtime's output is from that of the converted network; "" if that may be wrong itself."""
    try:
        layer = model.view.logits
        agreements = tuple(item for item in known if item.layer == layer.name)
        agreements = agreements or check_comparable_layers(model, [layer], images)[0]
        if not agreements or not all(item.holds for item in agreements):
            return ""
        in_file = layer.value in producers(model.view.original.graph)
        session = Session(model.view.original if in_file else model.view.proto, [layer.value], exact=True)
        theirs, ours = [], []
        for start in range(0, len(images), model.view.batch or 1):
            part = images[start : start + (model.view.batch or 1)]
            (found,) = session.run(model.input_arrays(part))
            theirs.append(units_first(found, layer.channel_axis))
            ours.append(model.continued(part, [layer], {})[0].cpu().numpy())
    except OnnxvizError:
        return ""
    error = difference(np.concatenate(theirs), np.concatenate(ours)).relative
    rows = [np.concatenate(side).reshape(len(images), -1) for side in (theirs, ours)]
    text = f"the output {shorten(layer.name)} differs by up to {error:.2g} of its largest value"
    if rows[0].shape[1] == layer.unit_count and layer.unit_count > 1:
        changed = int((rows[0].argmax(axis=1) != rows[1].argmax(axis=1)).sum())
        text += f", and on {changed} of {len(images)} images another of its {layer.unit_count} numbers is the largest"
    if any(item.end_to_end is not None for item in agreements):
        text += "; roundings to integers that fell to other sides lie in that too"
    return text


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
        encoded = model.input_arrays(images)
        with torch.no_grad():
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
    return not _HALF.isdisjoint(element_types(model))
