"""Layers of a Caffe network to nodes of an ONNX graph, in the order of the file."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxviz.core import limits
from onnxviz.core.errors import shorten
from onnxviz.importing.caffe.layers import CONVERTERS, DATA, DROPPED, INPUTS
from onnxviz.importing.caffe.prototxt import CaffeLayer, CaffeNet, layers_at_test_time
from onnxviz.importing.caffe.writer import BatchIsFixed, GraphWriter, Shape, Step, Value

OPSET = 17
IR_VERSION = 8


def to_onnx(net: CaffeNet, weights: dict[str, list[np.ndarray]], source: str) -> onnx.ModelProto:
    """Convert a network description and its weights; the batch is free ("N") unless a layer mixes images."""
    layers, notes = layers_at_test_time(net)
    _refuse_unknown(net, layers)
    _refuse_repeats(net, layers, weights)
    try:
        return _Conversion(net, layers, weights, free=True).run(notes, source)
    except BatchIsFixed as fault:
        notes = [*notes, f"the batch has the size that the file declares: {fault.reason}"]
        return _Conversion(net, layers, weights, free=False).run(notes, source)


def _refuse_unknown(net: CaffeNet, layers: Sequence[CaffeLayer]) -> None:
    """Refuse layer types that are not converted, all at once."""
    reading = [layer for layer in layers if layer.kind in DATA]
    if reading:
        raise net.refuse(
            f"layer {shorten(reading[0].name)!r} ({shorten(reading[0].kind)}) reads a training set",
            reading[0].line,
            "give the deploy.prototxt, or write an Input layer with the size of the images in its place",
        )
    known = {*CONVERTERS, *INPUTS, *DROPPED, "Silence"}
    unknown = [layer for layer in layers if layer.kind not in known]
    if not unknown:
        return
    found: dict[str, list[CaffeLayer]] = {}
    for layer in unknown:
        found.setdefault(layer.kind, []).append(layer)
    listed = "; ".join(
        f"{shorten(kind) or 'no type'} ({', '.join(f'{shorten(each.name)}, line {each.line}' for each in some[:3])}"
        f"{', ...' if len(some) > 3 else ''})"
        for kind, some in sorted(found.items())[:50]
    )
    remedy = "cut the network before these layers"
    if "Python" in found:
        remedy += "; a Python layer is code that the file does not hold"
    raise net.refuse(f"layer types that are not converted: {listed}", unknown[0].line, remedy)


def _refuse_repeats(net: CaffeNet, layers: Sequence[CaffeLayer], weights: dict[str, list[np.ndarray]]) -> None:
    """Refuse two layers of one name if the weights of that name could belong to either."""
    seen: dict[str, CaffeLayer] = {}
    for layer in layers:
        if layer.name in seen and layer.name in weights:
            raise net.refuse(
                f"two layers are called {shorten(layer.name)!r} (lines {seen[layer.name].line} and {layer.line}), and "
                "the weights are found by name",
                layer.line,
                "rename one of them, or mark the phase that each belongs to",
            )
        seen[layer.name] = layer


@dataclass
class _Conversion:
    """One attempt, with the batch free or as declared."""

    net: CaffeNet
    layers: Sequence[CaffeLayer]
    weights: dict[str, list[np.ndarray]]
    free: bool
    current: dict[str, Value] = field(default_factory=dict)
    made: list[Value] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def run(self, notes: Iterable[str], source: str) -> onnx.ModelProto:
        self.writer = GraphWriter(self.net, self.free)
        self.writer.notes.extend(notes)
        self.shared = self._shared_blobs()
        self._inputs()
        for layer in self.layers:
            if layer.kind not in INPUTS:
                self._layer(layer)
        return self._model(source)

    # --- inputs ---

    def _inputs(self) -> None:
        """Declare what the file calls inputs: fields of the network, or layers."""
        given = [(layer, self._declared(layer)) for layer in self.layers if layer.kind in INPUTS]
        fields = self._input_fields()
        sizes = {shapes[0][0] for _, shapes in (*given, *fields) if shapes and shapes[0]}
        if self.free and len(sizes) > 1:
            self.free = self.writer.free = False
            self.writer.notes.append("the batch has the size that the file declares: inputs declare different ones")
        solid = bool(fields) or any(layer.kind != "DummyData" for layer, _ in given)
        for layer, shapes in (*fields, *given):
            for name, shape in zip(layer.tops, shapes, strict=True):
                if layer.kind == "DummyData" and solid and self._constant(layer, name, shape):
                    continue
                if name in self.current:
                    raise self.net.refuse(f"blob {shorten(name)!r} is made twice", layer.line, "rename one of the two")
                value = self.writer.add_value(name, shape, bool(shape), layer)
                self.current[name] = value
                self.writer.inputs.append(value)
        if not self.current:
            raise self.net.refuse(
                "the network has no inputs", remedy="give the deploy.prototxt, or write an Input layer with a shape"
            )

    def _input_fields(self) -> list[tuple[CaffeLayer, list[Shape]]]:
        message = self.net.message
        names = [str(name) for name in message.input]
        shapes = [tuple(int(size) for size in shape.dim) for shape in message.input_shape]
        sizes = [int(size) for size in message.input_dim]
        if sizes and (shapes or len(sizes) != 4 * len(names)):
            raise self.net.refuse(
                f"{len(names)} inputs are named, and {len(sizes)} input_dim given",
                remedy="give four input_dim for each input, or one input_shape",
            )
        if not shapes:
            shapes = [tuple(sizes[start : start + 4]) for start in range(0, len(sizes), 4)]
        if len(shapes) != len(names) or any(not shape for shape in shapes):
            raise self.net.refuse(
                f"{len(names)} inputs are named, and {len(shapes)} shapes given",
                remedy="give one input_shape for each input, or four input_dim",
            )
        if any(not name or len(name) > limits.NAME_LENGTH for name in names):
            raise self.net.refuse("an input's name is empty or too long", remedy="give it a shorter name")
        return [
            (CaffeLayer(name, "Input", (), (name,), 0, (), message), [shape])
            for name, shape in zip(names, shapes, strict=True)
        ]

    def _declared(self, layer: CaffeLayer) -> list[Shape]:
        """Return a shape for each top of an input layer."""
        tops = len(layer.tops)
        if layer.kind == "MemoryData":
            sizes = layer.message.memory_data_param
            batch = int(sizes.batch_size)
            shapes = [(batch, int(sizes.channels), int(sizes.height), int(sizes.width)), (batch,)][:tops]
        elif layer.kind == "Input":
            shapes = [tuple(int(size) for size in shape.dim) for shape in layer.message.input_param.shape]
        else:
            dummy = layer.message.dummy_data_param
            shapes = [tuple(int(size) for size in shape.dim) for shape in dummy.shape]
            if not shapes and dummy.num:
                parts = [list(part) for part in (dummy.num, dummy.channels, dummy.height, dummy.width)]
                if any(len(part) != len(parts[0]) for part in parts):
                    raise self.net.refuse_layer(layer, "declares unequal numbers of sizes")
                shapes = [(a, b, c, d) for a, b, c, d in zip(*parts, strict=True)]
        if len(shapes) == 1:
            shapes = shapes * tops
        if len(shapes) != tops or not tops or not all(shapes):
            raise self.net.refuse_layer(
                layer,
                f"declares {len(shapes)} shapes for {tops} tops",
                "give a shape for each",
            )
        return shapes

    def _constant(self, layer: CaffeLayer, name: str, shape: Shape) -> bool:
        """Store what a DummyData fills with one number; other fillers stand for data, which is an input."""
        fillers = layer.message.dummy_data_param.data_filler
        index = layer.tops.index(name)
        filler = fillers[index] if index < len(fillers) else fillers[0] if fillers else None
        if filler is not None and filler.type != "constant":
            return False
        if 4 * math.prod(shape) > limits.FOLDED_BYTES or any(size < 1 for size in shape) or name in self.current:
            raise self.net.refuse_layer(layer, f"makes an unusable constant {shape[:8]}")
        step = Step(self.writer, layer, (), ())
        number = np.full(shape, 0 if filler is None else filler.value, np.float32)
        self.current[name] = step.top(
            "Constant", [], shape, index=index, free=False, value=onnx.numpy_helper.from_array(number)
        )
        return True

    # --- layers ---

    def _layer(self, layer: CaffeLayer) -> None:
        bottoms = [self._bottom(layer, name) for name in layer.bottoms]
        if layer.kind in DROPPED:
            self.writer.notes.append(
                f"layer {shorten(layer.name)!r} ({layer.kind}) is left out; its inputs are outputs"
            )
            return
        self.read.update(bottom.name for bottom in bottoms)
        if layer.kind == "Silence":
            return
        self._check_tops(layer)
        if not bottoms:
            raise self.net.refuse_layer(layer, "reads nothing", "give it a bottom")
        step = Step(self.writer, layer, bottoms, self._blobs(layer))
        CONVERTERS[layer.kind](step)
        if len(step.tops) != len(layer.tops):
            raise self.net.refuse_layer(
                layer,
                f"has {len(layer.tops)} tops; it makes {len(step.tops)}",
                "remove the others, or check the layer's type",
            )
        for index, name in enumerate(layer.tops):
            self.current[name] = step.tops[index]
            self.made.append(step.tops[index])

    def _bottom(self, layer: CaffeLayer, name: str) -> Value:
        if name in self.current:
            return self.current[name]
        makers = [other for other in self.layers if name in other.tops and other is not layer]
        if makers and makers[0].kind in DROPPED:
            remedy = f"layer {shorten(makers[0].name)!r} ({makers[0].kind}) makes it, and is not converted"
        elif makers:
            remedy = f"layer {shorten(makers[0].name)!r} makes it later: order the layers as they are computed"
        else:
            remedy = "check the name, and the phase of the layer that should make it"
        raise self.net.refuse_layer(
            layer,
            f"reads the blob {shorten(name)!r}, which nothing before it makes",
            remedy,
        )

    def _check_tops(self, layer: CaffeLayer) -> None:
        """Refuse a blob that is made twice, other than in place."""
        for index, name in enumerate(layer.tops):
            in_place = index < len(layer.bottoms) and layer.bottoms[index] == name
            if (name in self.current and not in_place) or name in layer.tops[:index]:
                raise self.net.refuse_layer(
                    layer,
                    f"makes the blob {shorten(name)!r}, which is there already",
                    "rename one of the two",
                )

    # --- weights ---

    def _shared_blobs(self) -> dict[str, np.ndarray]:
        """Map each name under which blobs are shared to the blob of the first layer that has one."""
        found: dict[str, np.ndarray] = {}
        for layer in self.layers:
            for name, blob in zip(layer.shared, self.weights.get(layer.name, ()), strict=False):
                if name:
                    found.setdefault(name, blob)
        return found

    def _blobs(self, layer: CaffeLayer) -> list[np.ndarray]:
        own = list(self.weights.get(layer.name, ()))
        for index, name in enumerate(layer.shared):
            if name in self.shared and index <= len(own):
                own[index : index + 1] = [self.shared[name]]
        return own

    # --- the model ---

    def _model(self, source: str) -> onnx.ModelProto:
        writer = self.writer
        inputs = [value for value in writer.inputs if value.name in self.read]
        made = list(dict.fromkeys(value for value in self.made if value not in inputs))
        # A mask is a place in ONNX's own counting: of use to MaxUnpool, but no blob that Caffe would show.
        floats = [value for value in made if value.origin is None]
        outputs = [value for value in floats if value.name not in self.read]
        inner = [value for value in floats if value.name in self.read]
        if not outputs or not inputs:
            raise self.net.refuse("the network computes nothing", remedy="give a network with at least one layer")
        unread = [value.name for value in writer.inputs if value.name not in self.read]
        if unread:
            writer.notes.append(f"inputs that nothing reads are left out: {', '.join(map(shorten, unread))}")
        graph = helper.make_graph(
            writer.nodes,
            self.net.name or "caffe",
            [_info(value) for value in inputs],
            [_info(value) for value in outputs],
            writer.initializers,
            value_info=[_info(value) for value in inner],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="onnxviz"
        )
        model.producer_version = importlib.metadata.version("onnxviz")
        helper.set_model_props(model, {"converted_from": source, "conversion_notes": "\n".join(writer.notes)})
        return model


def _info(value: Value) -> onnx.ValueInfoProto:
    sizes: list[int | str] = list(value.shape)
    if value.free:
        sizes[0] = "N"
    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, sizes)
