"""The differentiable model: images in, activations and gradients out, whatever the exporter's layout was."""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import fx

from onnxviz.convert import Network, declared_elements
from onnxviz.convert.element_types import integer_range
from onnxviz.convert.operators import NotConvertible
from onnxviz.core.errors import BatchMixedError, DataError, ModelError, SelectionError, beginning, shorten
from onnxviz.core.memory import is_out_of_memory
from onnxviz.core.values import Layer, Preprocessing
from onnxviz.data.domains import domain_of
from onnxviz.data.given_images import PREPARE, as_images, require_floating, require_no_bytes, require_range
from onnxviz.graph import GraphView
from onnxviz.graph.fixed_inputs import InputValue
from onnxviz.graph.model_output import Head, OutputKind
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import ancestors
from onnxviz.model import ort_session as runtime
from onnxviz.model.batches import choose_batch, layers_in_words, micro_batch, pass_bytes, room_for, run_batches
from onnxviz.model.layer_values import Activations, Layers, units_first, units_last
from onnxviz.model.opening import opened
from onnxviz.model.ort_session import Session, folds_too_much
from onnxviz.model.probabilities import probabilities_of, require_probabilities
from onnxviz.model.reference import operator_name
from onnxviz.model.reference.integers import PRODUCTS

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
_Item = TypeVar("_Item")

_NETWORKS = 8
"""How many truncated networks are kept; they share their weights."""
_SESSIONS = 4
"""How many ONNX Runtime sessions are kept; each holds the weights it needs."""
_ORIGINS = {"declared": "", "trial": " (chosen by trial)", "undecided": " (to be chosen)", "guess": " (a guess)"}
_FAULTS = (ArithmeticError, LookupError, MemoryError, NotConvertible, RuntimeError, TypeError, ValueError)
"""What modules raise for tensors that do not fit."""


class Model:
    """A vision model from an ONNX file, with gradients.

    Attributes:
        view: the network's layers, weights and receptive fields.
        preprocessing: how an RGB image in 0..1 becomes the network's input.
        labels: class names in the order of the classes, or None.
        device: where the network runs.
        input_size: height and width in pixels that the model is made for.
        layers: the layers in topological order.
        halvings: how often batches are halved from the start, because memory did not suffice before.
        reduced: a sentence for each thing that was done otherwise than usual, such as fewer images at a time; whoever
            reports empties it.
        distrusted: identifiers of values that ONNX Runtime computes wrongly: what depends on them is measured by the
            converted network.
        fitting: what ran out of memory -> the number of images at a time that is tried since, and the sentence on it.
    """

    def __init__(
        self,
        view: GraphView,
        preprocessing: Preprocessing,
        labels: Sequence[str] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.view = view
        self.preprocessing = preprocessing
        self.labels = None if labels is None else tuple(labels)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError:
            raise SelectionError(f"{shorten(str(device))!r} is no device", remedy="write cpu, cuda or cuda:1") from None
        self.input_size = preprocessing.input_size(view.input_size)
        self.layers = Layers(view.layers)
        self.halvings = 0
        self.reduced: list[str] = []
        self.distrusted: frozenset[str] = frozenset()
        self.fitting: dict[str, tuple[int, str]] = {}
        self._network: Network | None = None
        self._forwards: OrderedDict[Any, Forward] = OrderedDict()
        self._continued: OrderedDict[Any, fx.GraphModule] = OrderedDict()
        self._sessions: OrderedDict[Any, Session] = OrderedDict()
        self._passes: dict[tuple[object, ...], tuple[int, int]] = {}
        self._input_range = integer_range(view.types[view.input_name].element)
        # ONNX Runtime's optimizer fuses quantised operators into others that round differently, and computes
        # constants without a bound.
        graph = view.proto.graph
        self._exact = any(traits_of(node).rounds for node in graph.node) or folds_too_much(graph, view.types)
        self.domain = domain_of(preprocessing)
        self._to_input = self.domain.encoder(self.device)

    def __repr__(self) -> str:
        height, width = self.input_size
        return (
            f"<onnxviz.Model {shorten(self.view.file)}: {len(self.layers)} layers, {height}×{width} pixels, "
            f"preprocessing {self.preprocessing.name}{_ORIGINS[self.preprocessing.origin]}, {self.device}>"
        )

    def _repr_html_(self) -> str:
        height, width = self.input_size
        facts = {
            "file": shorten(self.view.file),
            "exporter": shorten(self.view.producer),
            "layers": str(len(self.layers)),
            "input": f"{height} × {width} pixels, {self.view.input_layout}",
            "preprocessing": self.preprocessing.name + _ORIGINS[self.preprocessing.origin],
            "classes": str(len(self.labels)) if self.labels else "no names",
            "device": str(self.device),
        }
        rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in facts.items())
        return f"<table>{rows}</table>"

    # --- images to input --------------------------------------------------------------------------------------------

    def prepare(self, images: Any) -> torch.Tensor:
        """Bring images to the model's input size as a recipe's run does, bit by bit: resized, cropped, RGB in 0..1.

        Args:
            images: paths of files, PIL images, or uint8 [height, width, 3] (grey: [height, width]) as arrays or
                tensors; one or several, of any sizes. Floating images [N, 3, height, width] in 0..1 are taken as
                prepared already and returned as they are.

        Returns:
            float32 [N, 3, height, width] in 0..1, of `input_size`, with all channels where they are STORED; what every
            other call computes with. Floating images keep their size where the model leaves its own open.

        Raises:
            DataError: if they are no images, cannot be read, or are floating and not in 0..1 or of another size.
        """
        made = self._as_images(images)
        if self.view.input_size is not None:
            height, width = made.shape[2:]
            if (height, width) != self.input_size:
                raise DataError(
                    f"floating images are taken as prepared already, and these are {height}×{width} pixels where the "
                    f"model takes {self.input_size[0]}×{self.input_size[1]}",
                    remedy="give files, PIL images or uint8 arrays, which are brought to size, or resize them yourself",
                )
        return made

    def _as_images(self, images: Any) -> torch.Tensor:
        """Prepare images; floating ones may have another size, with which networks without dense layers go on."""
        return as_images(images, self.preprocessing, self.input_size)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images into the network's input: x = (255 image - mean) / scale; differentiable, no resizing.

        Args:
            images: RGB, [N, 3, height, width], floating, 0..1; as many channels as `domain` has, where they are STORED.

        Returns:
            float32 in the model's channel order and layout, on its device; whole numbers, with the rounding passed
            straight through to gradients, where the model takes integers.

        Raises:
            DataError: if the images have another shape, are not floating or not in 0..1.
            ModelError: if the model's input is no image.
        """
        require_floating(images, self.domain.channels)
        require_range(images, PREPARE)
        return self._encode(images)

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode without a look at the values, for which a GPU would have to be waited for at each step."""
        require_floating(images, self.domain.channels)
        if self.view.input_layout == "other":
            raise ModelError(
                "the model's input is no image [N, channels, height, width] or [N, height, width, channels]",
                where=shorten(self.view.file),
                remedy="use onnxviz.to_torch(path) to call it with tensors of your own",
            )
        values = images.to(device=self.device, dtype=torch.float32)
        values = self._to_input(values)
        if self._input_range is not None:
            values = values + (values.detach().round().clamp(*self._input_range) - values.detach())
        values = values.contiguous(memory_format=torch.channels_last)
        return values.permute(0, 2, 3, 1) if self.view.input_layout == "NHWC" else values

    def input_arrays(self, images: torch.Tensor) -> dict[str, np.ndarray]:
        """Return what ONNX Runtime is given of images, by the identifier of the input."""
        with torch.no_grad():
            return {self.view.input_name: self._encode(images).cpu().numpy()}

    # --- with gradients ---------------------------------------------------------------------------------------------

    def differentiable(self, layers: Sequence[Layer | str] | Layer | str) -> Forward:
        """Return a function from images to the activations of some layers, through which gradients flow.

        The function takes RGB images [N, 3, height, width] in 0..1 and returns one tensor for each layer, in the order
        given, units first: [N, units, *spatial]. All come from one forward pass, on one tape: gradients exist with
        respect to the images, and of a later layer with respect to an earlier one that is returned too, also when
        nothing else requires gradients. The network is run no deeper than the layers need; its weights are frozen.
        Tensors may lie channels last in memory: `reshape` them, do not `view`.

        Args:
            layers: layers or their names.

        Returns:
            The function; kept for the next call with the same layers.

        Raises:
            SelectionError: if a layer does not exist.
            UnsupportedOperatorError: if a layer needs operators that do not convert; names all of them.
        """
        chosen = self.resolve(layers)
        key = tuple(layer.value for layer in chosen)
        return _remember(self._forwards, key, _NETWORKS, lambda: self._make_forward(chosen))

    def unchecked(self, layers: Sequence[Layer]) -> Forward:
        """Return what `differentiable` returns, for the caller alone, and also of layers that mix the batch."""
        return self._make_forward(tuple(layers)).compute

    def resolve(self, layers: Sequence[Layer | str] | Layer | str) -> tuple[Layer, ...]:
        """Turn names into layers; raises SelectionError if one does not exist."""
        named = [layers] if isinstance(layers, Layer | str) else list(layers)
        return tuple(self.view.layer(item) if isinstance(item, str) else item for item in named)

    def _some(self, layers: Sequence[Layer | str] | Layer | str) -> tuple[Layer, ...]:
        chosen = self.resolve(layers)
        if not chosen:
            raise SelectionError("no layer is named", remedy="`model.layers` are all that there are")
        return chosen

    def _make_forward(self, chosen: tuple[Layer, ...]) -> _Forward:
        self.view.require_image_only(layer.value for layer in chosen)
        return _Forward(self, self._cut(chosen, tape=True), chosen)

    def _cut(self, layers: Sequence[Layer], given: Sequence[str] = (), *, tape: bool = False) -> fx.GraphModule:
        axes = {layer.value: layer.channel_axis for layer in layers if layer.channel_axis is not None}
        axes = {value: axis for value, axis in axes.items() if axis != 1}
        return self.network.cut([layer.value for layer in layers], unit_axes=axes, given=given, tape=tape)

    def continued(
        self, images: torch.Tensor, layers: Sequence[Layer], given: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Compute layers from values that somebody else computed, without gradients.

        Args:
            images: RGB, [N, 3, height, width], 0..1.
            layers: what to return, units first. A layer whose own value is given is computed all the same.
            given: identifier of a value -> what everything that reads it is computed from.
        """
        given = {value: tensor for value, tensor in given.items() if self.network.has(value)}
        key = (tuple(layer.value for layer in layers), tuple(given))
        network = _remember(self._continued, key, _NETWORKS, lambda: self._cut(layers, list(given)))
        with torch.no_grad():
            return self._call(network, images, *(value.to(self.device) for value in given.values()))

    def _call(self, network: fx.GraphModule, images: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        encoded = self._encode(images)
        arguments = [encoded if name == self.view.input_name else None for name in self.inputs]
        results: tuple[torch.Tensor, ...] = network(*arguments, *given)
        return results

    @property
    def inputs(self) -> tuple[str, ...]:
        """Identifiers of the model's inputs, in the order of the file."""
        return self.network.inputs

    def unsupported(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Return the operators that do not convert, each with the reason ("" if unknown) and the nodes that need it."""
        return self.network.unsupported()

    def converts(self, layer: Layer | str) -> bool:
        """Whether a layer can be computed by the converted network."""
        return self.network.has(self.resolve(layer)[0].value)

    @property
    def network(self) -> Network:
        """Everything of the model that converts; made when it is first asked for."""
        if self._network is None:
            self._network = self.convert()
        return self._network

    def convert(self) -> Network:
        """Return what `network` is, for the caller alone."""
        view = self.view
        return Network(view.proto, view.names, self.device, declared_elements(view.original), view.exact)

    # --- without gradients ------------------------------------------------------------------------------------------

    def activations(self, images: Any, layers: Sequence[Layer | str] | Layer | str) -> Activations[torch.Tensor]:
        """Return the activations of some layers, by the converted network, without gradients.

        Args:
            images: whatever `prepare` takes: paths, PIL images and uint8 arrays of any sizes, which are brought to
                `input_size`; floating images [N, 3, height, width] in 0..1 are taken as they are.
            layers: layers or their names.

        Returns:
            Layer name -> activations, float32, [N, units, *spatial].

        Raises:
            SelectionError: if a layer does not exist.
            DataError: if they are no images, cannot be read, or are floating and not in 0..1.
            MemoryLimitError: if memory does not suffice, even for one image at a time.
            UnsupportedOperatorError: if a layer needs operators that do not convert.
        """
        chosen = self._some(layers)
        batch = self._as_images(images)
        forward = self.differentiable(chosen)
        with torch.no_grad():
            joined = self._in_batches(batch, chosen, forward, kept=False)
        named = {layer.name: values for layer, values in zip(chosen, joined, strict=True)}
        return Activations(self.view, named)

    def measure(
        self, images: Any, layers: Sequence[Layer | str] | Layer | str, *, kept: bool = True
    ) -> Activations[np.ndarray]:
        """Return the activations of some layers by ONNX Runtime: on a CPU the fast way without gradients.

        Args:
            images: as for `activations`; computed in micro-batches.
            layers: layers or their names.
            kept: whether the result outlives the next call; one that does not need not be copied.

        Returns:
            Layer name -> activations, float32, [N, units, *spatial].

        Raises:
            SelectionError: if a layer does not exist.
            DataError: if the images cannot be used.
            MemoryLimitError: if memory does not suffice, even for one image at a time.
            ModelError: if ONNX Runtime refuses the model or the size of the images.
        """
        chosen = self._some(layers)
        values = self._measure(self._as_images(images), chosen, kept)
        named = {layer.name: units_first(each, layer.channel_axis) for layer, each in zip(chosen, values, strict=True)}
        return Activations(self.view, named)

    def distrust(self, names: Collection[str]) -> None:
        """Do not measure by ONNX Runtime what depends on these layers and values, which it computes wrongly."""
        asked = set(names)
        found = {layer.value for layer in self.view.layers if layer.name in asked}
        found.update(value for value, name in self.view.names.items() if name in asked)
        self.distrusted = frozenset(found)

    @cached_property
    def _saturated(self) -> frozenset[str]:
        """What ONNX Runtime sums of products of integers, where these sums saturate on this processor."""
        nodes = self.view.proto.graph.node
        sums = [output for node in nodes if operator_name(node) in PRODUCTS for output in node.output]
        return frozenset(sums if sums and runtime.saturates() else ())

    def _measure(self, images: torch.Tensor, layers: Sequence[Layer], kept: bool = True) -> list[np.ndarray]:
        values = [layer.value for layer in layers]
        distrusted = self.distrusted | self._saturated
        if distrusted and distrusted & ancestors(self.view.proto.graph, values):
            names = ", ".join(shorten(layer.name) for layer in layers[:3]) + (", ..." if len(layers) > 3 else "")
            self.reduced.append(f"{names}: measured by the converted network, because ONNX Runtime is wrong there")
            tensors = self.activations(images, layers)
            return [units_last(tensors[layer.name].cpu().numpy(), layer.channel_axis) for layer in layers]
        any_size = tuple(images.shape[2:]) != self.view.input_size
        key = (tuple(values), any_size, torch.get_num_threads())

        def compute(part: torch.Tensor) -> list[np.ndarray]:
            session = _remember(self._sessions, key, _SESSIONS, lambda: self.session(values, any_size=any_size))
            found = session.run(self.input_arrays(part))
            for layer, array in zip(layers, found, strict=True):
                self._check_batch(array.shape, len(part), part.shape[2:], layer.name)
            return found

        # Copied also if they are all: while its own arrays live, the session keeps its working memory.
        return self._in_batches(images, layers, compute, kept=kept)

    def session(self, values: Sequence[str], *, any_size: bool = False) -> Session:
        """Return what `measure` runs, of values by identifier, for the caller alone: it is not kept.

        Raises:
            ModelError: if ONNX Runtime refuses the model.
        """
        view, device = self.view, str(self.device)
        view.require_image_only(values)
        return Session(
            view.proto, values, device=device, exact=self._exact, any_size=any_size, types=view.types, names=view.names
        )

    def probabilities(self, images: Any, head: Head | None = None) -> np.ndarray:
        """Return probabilities [N, classes] of a head: those that the file computes, or that are declared.

        A softmax or sigmoid that the file does not have is used only where somebody says that the outputs are scores of
        classes: `load(..., output="classes")`, or as many class names as outputs. With one score for two classes they
        are those of class 0 and class 1; labels that do not exclude each other have probabilities of their own.

        Args:
            images: as for `activations`.
            head: one of `view.heads`; the main one if None.

        Raises:
            SelectionError: if the model gives no class for the whole image, or nothing makes probabilities of its
                scores.
        """
        head = require_probabilities(head or self.view.main_head, self.view.file)
        if head.final is None:
            return probabilities_of(head, self.scores(images, head))
        return probabilities_of(head, self._measure(self._as_images(images), [head.final])[0])

    def scores(self, images: Any, head: Head | None = None) -> np.ndarray:
        """Return a head's scores [N, units], before any softmax or sigmoid, by ONNX Runtime.

        Args:
            images: as for `activations`.
            head: one of `view.heads`; the main one if None.

        Raises:
            SelectionError: if no output depends on the image, or there are scores for positions.
        """
        layer = self.view.logits if head is None or head.scores is None else head.scores
        values = self.measure(images, layer)[layer.name]
        flat = values.reshape(len(values), -1)
        if layer.unit_count and flat.shape[1] != layer.unit_count:
            raise SelectionError(
                f"{shorten(layer.name)} gives {flat.shape[1]} numbers for {layer.unit_count} units",
                where=shorten(self.view.file),
                remedy="use `measure` for a model that classifies positions, not images",
            )
        return flat

    # --- sizes ------------------------------------------------------------------------------------------------------

    def _in_batches(
        self, images: torch.Tensor, layers: Sequence[Layer], compute: Callable[[torch.Tensor], Any], *, kept: bool
    ) -> list[Any]:
        """Compute layers of a part of the images at a time, so that their activations stay small and fit in memory.

        They are copied together, unless one pass computes all and they need not be kept.
        """
        shape, fixed = images.shape, self.view.batch
        count = shape[0]
        if count == 0:
            raise DataError("there are no images")
        if fixed and count % fixed:
            raise DataError(
                f"the model takes exactly {fixed} images at a time, {count} were given",
                where=shorten(self.view.file),
                remedy=f"give a multiple of {fixed}",
            )
        joined: list[Any] = []

        def work(start: int, stop: int) -> None:
            parts = compute(images[start:stop])
            if not kept and stop - start == count:
                joined.extend(parts)
                return
            if not joined:
                joined.extend([room_for(part, count) for part in parts])  # all or none: memory may run out
            for whole, part in zip(joined, parts, strict=True):
                whole[start:stop] = part

        sizes = (self.view, self.input_size, shape[2:], layers)
        key, what = (*shape[2:], *(layer.value for layer in layers)), layers_in_words(layers)
        if key not in self._passes:
            self._passes[key] = micro_batch(*sizes), pass_bytes(*sizes)
        usual, image_bytes = self._passes[key]
        step = fixed or choose_batch(self, min(count, usual), lambda: image_bytes, what)
        # A session keeps the memory of its largest batch, in pieces that smaller ones may not fit into.
        for _ in run_batches(self, count, step, work, what, fixed=bool(fixed), release=self._sessions.clear):
            pass
        return joined

    def _check_batch(self, shape: Sequence[int], count: int, size: Sequence[int], name: str) -> None:
        """Refuse a tensor whose first axis is not the batch: an image ran over into it, or the layer mixes it."""
        if not shape or shape[0] != count:
            own = tuple(size) == self.input_size
            remedy = "the layer mixes the batch with other dimensions and cannot be looked at; name another layer"
            images = "1 image" if count == 1 else f"{count} images"
            raise (BatchMixedError if own else DataError)(
                f"{shorten(name)} has shape {list(shape)} for {images} of {size[0]}×{size[1]} pixels",
                where=shorten(self.view.file),
                remedy=remedy if own else _other_size(self, size),
            )


def _other_size(model: Model, refused: Sequence[int]) -> str:
    """Say which size of images to try where one does not fit."""
    height, width = model.input_size
    if (height, width) != tuple(refused):
        return f"give images of {height}×{width} pixels, or an earlier layer"
    return "the model leaves its size open, but not every size will do: try another `size`, such as a multiple of 32"


@dataclass(frozen=True, eq=False)
class _Forward:
    """Images to activations; holds no state of a call."""

    model: Model
    network: fx.GraphModule
    layers: tuple[Layer, ...]

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        require_floating(images, self.model.domain.channels)
        require_no_bytes(images)
        results = self.compute(images)
        for layer, result in zip(self.layers, results, strict=True):
            self.model._check_batch(result.shape, images.shape[0], images.shape[2:], layer.name)
        return results

    def compute(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the layers' tensors as they are, also where their first axis is not the batch."""
        model = self.model
        if model.view.batch is not None and images.shape[0] != model.view.batch:
            raise DataError(
                f"the model takes exactly {model.view.batch} images at a time, not {images.shape[0]}",
                where=shorten(model.view.file),
            )
        try:
            return model._call(self.network, images)
        except _FAULTS as fault:
            if is_out_of_memory(fault):
                raise  # less at a time may do
            if tuple(images.shape[2:]) == tuple(model.view.input_size or ()):
                raise ModelError(
                    f"the network fails on an image of its own size: {beginning(str(fault))}",
                    where=shorten(model.view.file),
                    remedy="run `onnxviz inspect`; if ONNX Runtime computes these layers, please report this",
                ) from fault
            raise DataError(
                f"images of {images.shape[2]}×{images.shape[3]} pixels do not fit: {beginning(str(fault))}",
                where=shorten(model.view.file),
                remedy=_other_size(model, images.shape[2:]),
            ) from fault


def load(
    path: Path | str,
    preprocess: str | Preprocessing | Mapping[str, Any] | None = None,
    labels: Path | str | Sequence[str] | None = None,
    device: torch.device | str | None = None,
    output: OutputKind | Mapping[str, OutputKind] | None = None,
    inputs: Mapping[str, InputValue] | None = None,
) -> Model:
    """Open a model as `onnxviz.load` does, which also tries preprocessings, and warns of one that is a guess."""
    return Model(*opened(path, preprocess, labels, output, inputs), device)


def _remember(kept: OrderedDict[Any, _Item], key: Any, most: int, make: Callable[[], _Item]) -> _Item:
    """Return what is kept under a key, or make it; forget what was used least recently."""
    if key in kept:
        kept.move_to_end(key)
        return kept[key]
    made = make()
    kept[key] = made
    while len(kept) > most:
        kept.popitem(last=False)
    return made
