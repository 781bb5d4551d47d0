"""A read-only view of a network: layers, shapes, weights, receptive fields, cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from onnxviz.core.errors import ModelError, SelectionError, shorten
from onnxviz.core.results import HeadRow, LayerRow, ModelCard
from onnxviz.core.values import CROP_FRACTION, Agreement, Layer, Preprocessing
from onnxviz.graph.draft import ExactForms
from onnxviz.graph.gradient_path import stops
from onnxviz.graph.inputs import InputLayout, describe_value, free_dimensions, further_inputs, graph_inputs
from onnxviz.graph.model_file import ModelFile
from onnxviz.graph.model_output import Head, OutputKind, find_heads, main_of, says_what
from onnxviz.graph.operators import traits_of
from onnxviz.graph.receptive_field import Field, ReceptiveField, receptive_fields
from onnxviz.graph.selection import ROLES, LayerNames, Selector
from onnxviz.graph.shapes import UNKNOWN, TensorType, TypedGraph, infer, product, skeleton
from onnxviz.graph.structure import attribute, input_of, integers, repeated_number, to_array
from onnxviz.graph.told_outputs import tell

_ASSUMED_SIZE = (512, 512)
"""Input size for receptive fields where neither the model nor the caller gives one."""


@dataclass(eq=False, kw_only=True)
class GraphView(ModelFile):
    """A network as analyses see it.

    Attributes:
        proto: the normalised graph: plain identifiers, float32, one opset, constants folded, batch free where possible.
        original: the model as given but for plain identifiers, with the real numbers that its quantised values stand
            for; the reference of the parity check.
        layers: every float tensor that depends on the image and is made by a node, in topological order.
        naming: what else they may be called.
        input_name: identifier of the image input.
        input_layout: "NCHW", "NHWC", or "other" if the input is no image.
        input_channels: number of channels; 0 if unknown.
        input_size: height and width in pixels, or None where the model leaves them free.
        batch: None if the batch is free, else the only batch size that the graph can do.
        passes: what the importer did, one sentence each.
        refused_operators: operators outside the standard or its target opset, with the reason.
        types: of all values of the normalised graph.
        mixed_batches: identifiers of values whose first axis is not simply the batch.
        told_heads: what the outputs are, where somebody said more of them than the graph does.
        exact: products of integers that the converted network computes exactly.
    """

    proto: ModelProto
    original: ModelProto
    layers: tuple[Layer, ...]
    naming: LayerNames = field(repr=False)
    input_name: str
    input_layout: InputLayout
    input_channels: int
    input_size: tuple[int, int] | None
    batch: int | None
    passes: tuple[str, ...]
    refused_operators: tuple[tuple[str, str], ...]
    types: dict[str, TensorType] = field(repr=False)
    mixed_batches: frozenset[str] = field(repr=False)
    told_heads: tuple[Head, ...] = field(repr=False, default=())
    exact: ExactForms = field(repr=False)
    _fields: dict[tuple[int, int], dict[str, Field]] = field(repr=False, default_factory=dict, init=False)
    _work: dict[tuple[int, int] | None, list[int | None]] = field(repr=False, default_factory=dict, init=False)
    _sized_types: dict[tuple[int, int], Mapping[str, TensorType]] = field(repr=False, default_factory=dict, init=False)

    @cached_property
    def graph(self) -> TypedGraph:
        """The normalised graph with the types of its values."""
        return TypedGraph(self.proto.graph, self.types)

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """What the outputs are, in their order: as the graph says, or as `with_output` was told."""
        return self.told_heads or find_heads(self.graph, self.layers, self.names)

    @property
    def main_head(self) -> Head | None:
        """The head that analyses explain where none is named; None if no output depends on the image."""
        return main_of(self.heads)

    @property
    def logits(self) -> Layer:
        """The scores of the main head: what enters its final Softmax or Sigmoid, or the output itself.

        Raises:
            SelectionError: if no output of the model depends on the image.
        """
        head = self.main_head
        if head is None or head.scores is None:
            raise SelectionError("the model has no output that could be its logits", remedy="name a layer")
        return head.scores

    def with_output(
        self,
        kinds: OutputKind | Mapping[str, OutputKind] | None = None,
        names: int | None = None,
        numbers: int | None = None,
    ) -> GraphView:
        """Return the same view with what is said of its outputs.

        Args:
            kinds: what each output is, by its name; one kind for all of them; None if nobody says.
            names: how many class names there are; None if there are none.
            numbers: how many classes the images' own class numbers count; None if they have none.

        Raises:
            SelectionError: if there is no such output, or it cannot be what it is said to be.
        """

        def told(view: GraphView) -> GraphView:
            inferred = find_heads(view.graph, view.layers, view.names)
            return replace(view, told_heads=tell(inferred, kinds, names, numbers))

        return told(told(self).with_roles_settled())  # heads hold layers, whose names may have changed

    def with_roles_settled(self) -> GraphView:
        """Return the same view with the layer that a role stands for called so, where the file calls it so too.

        Any other layer of such a name keeps its number, as `logits#1`: the name is the role's.
        """
        by_name = {layer.name: layer.value for layer in self.layers}
        shown = {value: name for name, value in by_name.items()}
        called = {role: [by_name[name] for name in names] for role, names in self.naming.namesakes.items()}
        for role in called.keys() & by_name.keys():
            shown[by_name[role]] = next(name for n in count(1) if (name := f"{role}#{n}") not in by_name)
        for role, values in called.items():
            if self._means(role, values) and shown[values[0]].startswith(f"{role}#"):
                shown[values[0]] = role
        layers = tuple(replace(layer, name=shown[layer.value]) for layer in self.layers)
        namesakes = {role: tuple(shown[value] for value in values) for role, values in called.items()}
        naming = replace(self.naming, namesakes=namesakes)
        return self if layers == self.layers else replace(self, layers=layers, naming=naming)

    def _means(self, role: str, values: Sequence[str]) -> bool:
        """Whether a role stands for one layer, and that is the one of these values."""
        with suppress(SelectionError):
            return role in ROLES and len(values) == 1 and [each.value for each in self.select(role)] == list(values)
        return False

    def layer(self, name: str) -> Layer:
        """Return the layer of this name, alias or role; also `Conv[3]` and `conv1:act`.

        Raises:
            SelectionError: if there is none or several; names the nearest.
        """
        return self._selector.one(name)

    def select(self, selector: str | Sequence[str]) -> tuple[Layer, ...]:
        """Return the layers that names, globs and roles stand for, each once, in topological order.

        Raises:
            SelectionError: if a selector stands for no layer; names the nearest.
        """
        return self._selector.many([selector] if isinstance(selector, str) else selector)

    def remark_on(self, selector: str | Sequence[str]) -> str:
        """Say where what a selector means is not what its reader may take it for; else nothing.

        Convolutions by their role are taken for the end of the network, which in residual networks they are not, and
        for its whole, of which transformers have only the first layer. A file may call a layer as a role is called.
        """
        named = [selector] if isinstance(selector, str) else selector
        asked = {name.removesuffix(":act") for name in named}
        remarks = [self._selector.roles.conv_note()] if asked & {"last_conv", "all_convs"} else []
        remarks += [note for name, note in self.namesake_notes.items() if name in asked]
        return "; ".join(remark for remark in remarks if remark)

    @property
    def namesake_notes(self) -> dict[str, str]:
        """Role or other word of selectors that the file has a layer of the same name for -> a sentence on that."""
        by_name = {layer.name: layer.value for layer in self.layers}
        return {
            name: f"{name} keeps its meaning in recipes; the layer that the file calls so is "
            + ", ".join(repr(shorten(layer, 60)) for layer in layers[:3])
            for name, layers in self.naming.namesakes.items()
            if not self._means(name, [by_name[layer] for layer in layers])
        }

    @property
    def roles(self) -> tuple[str, ...]:
        """What the roles of layers with positions stand for, a sentence each."""
        blocks = self._selector.roles.block_outputs
        if not blocks:
            return tuple(self.namesake_notes.values())
        last, first = shorten(blocks[-1].name, 60), shorten(blocks[0].name, 60)
        said = f"block_outputs are {len(blocks)} layers from {first}" if len(blocks) > 1 else "it is all block_outputs"
        note = self._selector.roles.conv_note()
        return (f"last_map is {last}; {said}", *((note,) if note else ()), *self.namesake_notes.values())

    def why_unknown(self, *layers: Layer) -> str:
        """Name the operators that keep the shapes of layers from being known, as the end of a sentence; "" if none."""
        unknown = self.naming.unknown
        operators = list(dict.fromkeys(unknown[layer.name] for layer in layers if layer.name in unknown))
        if not operators:
            return ""
        return f": nothing is known of what {', '.join(operators[:4])} makes, which the standard does not define"

    @cached_property
    def _selector(self) -> Selector:
        main = self.main_head
        return Selector(self.graph, self.layers, main.scores if main else None, self.naming)

    def node(self, layer: Layer) -> NodeProto:
        """Return the node that makes a layer's value."""
        return self.graph.makers[layer.value]

    def gradient_stops(self, layer: Layer) -> tuple[str, ...]:
        """Return the nodes at which every gradient from a layer to the image ends, such as "Sign q_activation".

        There are none if a gradient flows, or if the layer does not depend on the image.
        """
        found = stops(self.proto.graph, self.input_name, layer.value)
        return tuple(f"{node.op_type} {shorten(self.names.get(node.output[0], ''), 60)}".strip() for node in found)

    # --- weights ----------------------------------------------------------------------------------------------------

    def weight(self, layer: Layer) -> np.ndarray | None:
        """Return a layer's weights, float32, or None if it has no constant weights.

        Conv: [out, in / groups, height, width]. ConvTranspose: the same, transposed from ONNX's order.
        Gemm and MatMul: [out, in].
        """
        node = self.node(layer)
        array = self._constant(node, 1) if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
        if array is None or node.op_type == "Conv":
            return array
        if node.op_type == "Gemm":
            array = array if attribute(node, "transB", 0) else array.T
            return np.ascontiguousarray(array * np.float32(attribute(node, "alpha", 1.0)))
        if node.op_type == "MatMul":
            return np.ascontiguousarray(array.T) if array.ndim == 2 else None
        groups = self.groups(layer)
        inputs, outputs, *kernel = array.shape
        split = array.reshape(groups, inputs // groups, outputs, *kernel)
        return np.ascontiguousarray(split.swapaxes(1, 2).reshape(groups * outputs, inputs // groups, *kernel))

    def bias(self, layer: Layer) -> np.ndarray | None:
        """Return a layer's bias [out], or None; without one of its own, the Add right behind it counts."""
        node = self.node(layer)
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and input_of(node, 2):
            array = self._constant(node, 2)
            if array is None or (node.op_type == "Gemm" and array.ndim == 2 and array.shape[0] != 1):
                return None
            if node.op_type == "Gemm":
                array = array.reshape(-1) * np.float32(attribute(node, "beta", 1.0))
                array = np.broadcast_to(array, (layer.unit_count,)) if array.size == 1 else array
            return np.ascontiguousarray(array)
        readers = self.graph.readers.get(layer.value, [])
        if node.op_type in ("Conv", "ConvTranspose", "MatMul") and [reader.op_type for reader in readers] == ["Add"]:
            other = [name for name in readers[0].input if name != layer.value]
            tensor = self.graph.constants.get(other[0]) if len(other) == 1 else None
            if tensor is not None and layer.unit_count and np.prod(tensor.dims) == layer.unit_count:
                return to_array(tensor).reshape(-1)
        return None

    def _constant(self, node: NodeProto, index: int) -> np.ndarray | None:
        array = self.graph.constant(node, index)
        return array if array is not None else self._repeated(input_of(node, index))

    def _repeated(self, value: str) -> np.ndarray | None:
        return repeated_number(self.graph.makers.get(value), self.graph.constants)

    def groups(self, layer: Layer) -> int:
        """Return the number of groups of a convolution; 1 for everything else."""
        return int(attribute(self.node(layer), "group", 1))

    def strides(self, layer: Layer) -> tuple[int, ...]:
        """Return the strides of a convolution or pooling in order of its spatial axes; () for everything else."""
        return self._steps(layer, "strides")

    def dilations(self, layer: Layer) -> tuple[int, ...]:
        """Return the dilations of a convolution or pooling; () for everything else."""
        return self._steps(layer, "dilations")

    def _steps(self, layer: Layer, name: str) -> tuple[int, ...]:
        node = self.node(layer)
        return integers(node, name, (1,) * max(len(layer.shape) - 2, 0)) if _is_windowed(node) else ()

    def kernel(self, layer: Layer) -> tuple[int, ...]:
        """Return the kernel's size along each spatial axis; () for everything without one."""
        node = self.node(layer)
        if not _is_windowed(node):
            return ()
        declared, place = integers(node, "kernel_shape"), traits_of(node).weight
        weight = self.graph.constants.get(node.input[place]) if place else None
        return declared or (tuple(weight.dims[2:]) if weight is not None else ())

    # --- size and cost ----------------------------------------------------------------------------------------------

    def parameters(self, layer: Layer) -> int:
        """Return the number of constant numbers that a layer's node reads, indices and shapes not counted."""
        total = 0
        for name in dict.fromkeys(self.node(layer).input):
            tensor = self.graph.constants.get(name)
            if tensor is not None and tensor.data_type == TensorProto.FLOAT:
                total += int(np.prod(tensor.dims, dtype=np.int64))
            elif tensor is None:
                repeated = self._repeated(name)
                total += repeated.size if repeated is not None and repeated.dtype == np.float32 else 0
        return total

    def multiply_adds(self, layer: Layer, input_size: tuple[int, int] | None = None) -> int | None:
        """Return the multiply-adds of a layer's node for one image; None if they cannot be known.

        `input_size` is height and width in pixels where the model leaves them free.
        """
        if self.input_size is not None or input_size is None or self.input_layout == "other":
            return multiply_adds(self.node(layer), self.types)
        return multiply_adds(self.node(layer), self._types_at(input_size))

    def share_of_work(self, layers: Sequence[Layer], input_size: tuple[int, int] | None = None) -> float:
        """Return the share of the network's multiply-adds that is done when some layers are; 1 if it cannot be known.

        `input_size` is height and width in pixels where the model leaves them free.
        """
        size = input_size if self.input_size is None else None
        if size not in self._work:
            self._work[size] = [self.multiply_adds(layer, size) for layer in self.layers]
        costs, last = self._work[size], max(layer.position for layer in layers)
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs) or not sum(known):
            return 1.0
        done = sum(cost for layer, cost in zip(self.layers, known, strict=True) if layer.position <= last)
        return done / sum(known)

    def receptive_field(self, layer: Layer, input_size: tuple[int, int] | None = None) -> ReceptiveField | None:
        """Return what each position of a layer sees of the image, exactly.

        `input_size` is height and width in pixels where the model leaves them free; sizes and strides do not depend on
        it, only the number of positions does.

        Returns:
            The receptive field, or None if the input is no image, the layer has no positions, or a shape on the way is
            not known.
        """
        size = self.input_size or input_size or _ASSUMED_SIZE
        if self.input_layout == "other":
            return None
        if size not in self._fields:
            graph = TypedGraph(self.proto.graph, self._types_at(size))
            self._fields[size] = receptive_fields(graph, self.input_name, self.input_layout, size)
        found = self._fields[size].get(layer.value)
        # A layer that was sliced away to nothing has no position that could see.
        if found is None or not all(map(len, found)):
            return None
        axes = tuple(axis for axis in range(1, len(layer.shape)) if axis != layer.channel_axis)
        return ReceptiveField(found[0], found[1], axes)

    def _types_at(self, size: tuple[int, int]) -> Mapping[str, TensorType]:
        """Return the types of all values for images of a size."""
        if size == self.input_size:
            return self.types
        if size not in self._sized_types:
            sized = skeleton(self.proto)
            for value in sized.graph.input:
                if value.name == self.input_name:
                    axes = (2, 3) if self.input_layout == "NCHW" else (1, 2)
                    for axis, length in zip(axes, size, strict=True):
                        value.type.tensor_type.shape.dim[axis].dim_value = length
            known = {name: self.types[name] for name in self.graph.constants}
            self._sized_types[size] = {**infer(sized), **known}
        return self._sized_types[size]

    def card(self, alias: str, preprocessing: Preprocessing, agreement: Sequence[Agreement] = ()) -> ModelCard:
        """Return what is known of the model before anything is analysed.

        Args:
            alias: the model's name in the recipe.
            preprocessing: how images become its input.
            agreement: how far its layers are from ONNX Runtime's.
        """
        rows = []
        for layer in self.layers:
            reach = self.receptive_field(layer)
            bounded = reach is not None and reach.rows.axis is not None and reach.columns.axis is not None
            rows.append(
                LayerRow(
                    name=layer.name,
                    operator=layer.operator,
                    shape=layer.shape,
                    parameters=self.parameters(layer),
                    multiply_adds=self.multiply_adds(layer, preprocessing.size),
                    receptive_field=reach.size if reach is not None and bounded else None,
                    units=layer.unit_count,
                    name_in_file=self.naming.in_file.get(layer.value, ""),
                )
            )
        costs = [row.multiply_adds for row in rows]
        learned = [t for t in self.proto.graph.initializer if self.names.get(t.name) not in self.fixed]
        floats = [tensor for tensor in learned if tensor.data_type == TensorProto.FLOAT]
        return ModelCard(
            alias=alias,
            file=self.file,
            digest=self.digest,
            bytes=self.bytes,
            producer=self.producer,
            opset=self.opset,
            inputs=tuple(describe_value(v, self.names, self.dimensions) for v in graph_inputs(self.original.graph)),
            outputs=tuple(describe_value(v, self.names, self.dimensions) for v in self.original.graph.output),
            preprocessing=preprocessing.in_words,
            preprocessing_origin=preprocessing.origin,
            geometry=self._geometry(preprocessing),
            layers=tuple(rows),
            parameters=sum(math.prod(tensor.dims) for tensor in floats),
            multiply_adds=None if None in costs else sum(cost for cost in costs if cost is not None),
            agreement=tuple(agreement),
            passes=self.passes,
            refused_operators=self.refused_operators,
            heads=tuple(self._head_row(head) for head in self.heads),
        )

    def _head_row(self, head: Head) -> HeadRow:
        scores = head.scores.name if head.scores is not None else ""
        is_explained = head is self.main_head and says_what(self.heads)
        return HeadRow(head.outputs, head.kind, head.in_words, head.reason, head.source, scores, is_explained)

    def _geometry(self, preprocessing: Preprocessing) -> str:
        size = self.input_size or preprocessing.size
        fraction = preprocessing.crop_fraction
        kept = f"{CROP_FRACTION:g} of large images" if fraction is None else f"{fraction:g}"
        fit = (f"crop {kept}" if preprocessing.fit == "crop" else preprocessing.fit) + preprocessing.resized
        return f"{fit} to {size[0]} x {size[1]}" if size else fit

    @property
    def free_dimensions(self) -> tuple[str, ...]:
        """What `open_model(path, sizes=...)` calls the dimensions that the inputs leave free; by place if unnamed."""
        found = free_dimensions(self.original.graph, self.names, self.dimensions)
        return tuple(dict.fromkeys(name or f"{shorten(given)}:{axis}" for _, name, given, axis in found))

    def require_image_only(self, values: Iterable[str]) -> None:
        """Refuse values, by their identifiers, that also depend on inputs that nobody has given.

        Raises:
            ModelError: names these inputs, with their types and shapes.
        """
        missing = further_inputs(self.proto.graph, self.input_name, values)
        if missing:
            listed = ", ".join(describe_value(value, self.names, self.dimensions) for value in missing)
            name = shorten(self.names.get(missing[0].name, ""))
            raise ModelError(
                f"what is asked for also needs the model's inputs {listed}",
                where=shorten(self.file),
                remedy=f"give them a value: inputs: {{{name}: zeros}} in a recipe or in Python, --input {name}=zeros "
                "for inspect; `ones`, a number, a list or a .npy file will do as well",
            )


def _is_windowed(node: NodeProto) -> bool:
    return traits_of(node).form in ("convolution", "transposed_convolution", "pool")


def multiply_adds(node: NodeProto, types: Mapping[str, TensorType]) -> int | None:
    """Return the multiply-adds of a node for one image, with the usual convention.

    Convolutions and matrix products count one for each product that is summed; what else counts none.

    Returns:
        The number, or None if a shape is not known.
    """
    traits = traits_of(node)
    if traits.work in ("none", "unknown"):
        return 0 if traits.work == "none" else None
    made = (types.get(node.input[0] if traits.work == "transposed" else node.output[0], UNKNOWN).shape or (None, None))[
        1:
    ]
    places = product(made)
    if places is None:
        return None
    if traits.work != "product":
        weight = types.get(node.input[traits.weight], UNKNOWN).fixed
        return None if weight is None else places * math.prod(weight[1:])
    left = types.get(node.input[0], UNKNOWN).shape
    if not left:
        return None
    summed = left[0 if traits.form == "gemm" and attribute(node, "transA", 0) else -1]
    return places * summed if isinstance(summed, int) else None
