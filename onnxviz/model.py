"""The differentiable model: images in, activations and gradients out, whatever the exporter's layout was."""

from __future__ import annotations

import html
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import fx

from onnxviz.convert import Network, declared_elements
from onnxviz.convert.element_types import integer_range
from onnxviz.convert.operators import NotConvertible
from onnxviz.errors import BatchMixedError, DataError, ModelError, SelectionError, shorten
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.structure import ancestors, consumers
from onnxviz.labels import labels_in, read_labels
from onnxviz.preprocessing import preprocessing_for
from onnxviz.runtime import Session
from onnxviz.values import Layer, Preprocessing

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
_Item = TypeVar("_Item")
_Values = TypeVar("_Values")

_DEFAULT_SIZE = (224, 224)
"""Height and width where neither the model nor the preprocessing says."""
_NETWORKS = 8
"""How many truncated networks are kept; they share their weights."""
_SESSIONS = 4
"""How many ONNX Runtime sessions are kept; each holds the weights it needs."""
_WORKING_BYTES = 64 << 20
"""What the activations of one micro-batch may take."""
_FAULTS = (ArithmeticError, LookupError, MemoryError, NotConvertible, RuntimeError, TypeError, ValueError)
"""What modules raise for tensors that do not fit."""
_LARGEST_BATCH = 16
"""Images in a micro-batch: on a CPU more are not faster."""


class Layers(Sequence[Layer]):
    """A model's layers in topological order; shows itself as a table in a notebook."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Layer]: ...
    def __getitem__(self, index: int | slice) -> Layer | Sequence[Layer]:
        return Layers(self._layers[index]) if isinstance(index, slice) else self._layers[index]

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        rows = [f"{shorten(layer.name):40} {layer.operator:20} {_shape_text(layer)}" for layer in self._layers]
        return "\n".join(rows)

    def _repr_html_(self) -> str:
        head = "<tr><th>layer</th><th>operator</th><th>shape</th><th>units</th></tr>"
        rows = "".join(
            f"<tr><td>{html.escape(shorten(layer.name))}</td><td>{html.escape(shorten(layer.operator))}</td>"
            f"<td>{html.escape(_shape_text(layer))}</td><td>{layer.unit_count or ''}</td></tr>"
            for layer in self._layers
        )
        return f"<table>{head}{rows}</table>"


class Activations(dict[str, _Values]):
    """Layer name -> activations; also answers to the other names that a layer goes by: an alias, a role, `Conv[3]`."""

    def __init__(self, view: GraphView, values: Mapping[str, _Values]) -> None:
        super().__init__(values)
        self._view = view

    def __missing__(self, name: str) -> _Values:
        try:
            layer = self._view.layer(name)
        except SelectionError:
            raise KeyError(name) from None
        if layer.name not in self:
            raise KeyError(name)
        return self[layer.name]


class Model:
    """A vision model from an ONNX file, with gradients.

    Attributes:
        view: the network's layers, weights and receptive fields.
        preprocessing: how an RGB image in 0..1 becomes the network's input.
        labels: class names in logit order, or None.
        device: where the network runs.
        input_size: height and width in pixels that the model is made for.
        layers: the layers in topological order.
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
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.input_size = view.input_size or preprocessing.size or _DEFAULT_SIZE
        self.layers = Layers(view.layers)
        self._network: Network | None = None
        self._forwards: OrderedDict[Any, Forward] = OrderedDict()
        self._sessions: OrderedDict[Any, Session] = OrderedDict()
        self._input_range = integer_range(view.types[view.input_name].element)
        # ONNX Runtime's optimizer fuses quantised operators into others that round differently.
        self._exact = any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in view.proto.graph.node)
        channels = preprocessing.channels
        self._mean = torch.tensor(preprocessing.mean).expand(channels).reshape(1, channels, 1, 1).to(self.device)
        self._scale = torch.tensor(preprocessing.scale).expand(channels).reshape(1, channels, 1, 1).to(self.device)

    def __repr__(self) -> str:
        height, width = self.input_size
        return (
            f"<onnxviz.Model {shorten(self.view.file)}: {len(self.layers)} layers, {height}×{width} pixels, "
            f"preprocessing {self.preprocessing.name}, {self.device}>"
        )

    def _repr_html_(self) -> str:
        height, width = self.input_size
        facts = {
            "file": shorten(self.view.file),
            "exporter": shorten(self.view.producer),
            "layers": str(len(self.layers)),
            "input": f"{height} × {width} pixels, {self.view.input_layout}",
            "preprocessing": self.preprocessing.name
            + ("" if self.preprocessing.declared else " (a guess: not declared)"),
            "classes": str(len(self.labels)) if self.labels else "no names",
            "device": str(self.device),
        }
        rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in facts.items())
        return f"<table>{rows}</table>"

    # --- images to input --------------------------------------------------------------------------------------------

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Turn images into the network's input: x = (255 image - mean) / scale; differentiable, no resizing.

        Args:
            images: RGB, [N, 3, height, width], floating, 0..1.

        Returns:
            float32 in the model's channel order and layout, on its device; whole numbers, with the rounding passed
            straight through to gradients, where the model takes integers.

        Raises:
            DataError: if the images have another shape or are not floating.
            ModelError: if the model's input is no image of one or three channels.
        """
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"images must be floating [N, 3, height, width] in 0..1, not {images.dtype} {list(images.shape)}"
            )
        if self.view.input_layout == "other" or self.view.input_channels not in (0, 1, 3):
            raise ModelError(
                f"the model's input is no image: layout {self.view.input_layout}, {self.view.input_channels} channels",
                where=shorten(self.view.file),
                remedy="use onnxviz.to_torch(path) to call it with tensors of your own",
            )
        values = images.to(device=self.device, dtype=torch.float32)
        if self.preprocessing.channel_order == "BGR":
            values = values.flip(1)
        elif self.preprocessing.channel_order == "GRAY":
            luma = torch.tensor((0.299, 0.587, 0.114), device=self.device).reshape(1, 3, 1, 1)
            values = (values * luma).sum(1, keepdim=True)
        values = (values * 255.0 - self._mean) / self._scale
        if self._input_range is not None:
            values = values + (values.detach().round().clamp(*self._input_range) - values.detach())
        values = values.contiguous(memory_format=torch.channels_last)
        return values.permute(0, 2, 3, 1) if self.view.input_layout == "NHWC" else values

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

    def resolve(self, layers: Sequence[Layer | str] | Layer | str) -> tuple[Layer, ...]:
        """Turn names into layers.

        Raises:
            SelectionError: if a layer does not exist.
        """
        named = [layers] if isinstance(layers, Layer | str) else list(layers)
        return tuple(self.view.layer(item) if isinstance(item, str) else item for item in named)

    def _make_forward(self, chosen: tuple[Layer, ...]) -> Forward:
        axes = {layer.value: layer.channel_axis for layer in chosen if layer.channel_axis not in (None, 1)}
        values = [layer.value for layer in chosen]
        whole = self.network
        network = whole.cut(values, unit_axes={k: v for k, v in axes.items() if v is not None}, tape=True)
        return _Forward(self, network, chosen, whole.inputs)

    def continued(
        self, images: torch.Tensor, layers: Sequence[Layer], given: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Compute layers from values that somebody else computed, without gradients.

        Args:
            images: RGB, [N, 3, height, width], 0..1.
            layers: what to return, units first. A layer whose own value is given is computed all the same.
            given: identifier of a value -> what everything that reads it is computed from.
        """
        axes = {layer.value: layer.channel_axis for layer in layers if layer.channel_axis not in (None, 1)}
        whole = self.network
        given = {value: tensor for value, tensor in given.items() if whole.has(value)}
        network = whole.cut(
            [layer.value for layer in layers],
            unit_axes={value: axis for value, axis in axes.items() if axis is not None},
            given=list(given),
        )
        arguments: list[torch.Tensor | None] = [None] * len(self.inputs)
        arguments[self.inputs.index(self.view.input_name)] = self.encode(images)
        with torch.no_grad():
            results: tuple[torch.Tensor, ...] = network(
                *arguments, *(value.to(self.device) for value in given.values())
            )
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
            declared = declared_elements(self.view.original)
            self._network = Network(self.view.proto, self.view.names, self.device, declared)
        return self._network

    # --- without gradients ------------------------------------------------------------------------------------------

    def activations(self, images: Any, layers: Sequence[Layer | str] | Layer | str) -> Activations[torch.Tensor]:
        """Return the activations of some layers, by the converted network, without gradients.

        Args:
            images: RGB, [N, 3, height, width] floating in 0..1 (a tensor or an array), or uint8 images
                [height, width, 3] of one size (arrays or PIL images, one or a sequence).
            layers: layers or their names.

        Returns:
            Layer name -> activations, float32, [N, units, *spatial].

        Raises:
            SelectionError: if a layer does not exist.
            DataError: if the images have different sizes or are no images.
            UnsupportedOperatorError: if a layer needs operators that do not convert.
        """
        chosen = self.resolve(layers)
        batch = as_images(images)
        forward = self.differentiable(chosen)
        parts: list[tuple[torch.Tensor, ...]] = []
        with torch.no_grad():
            parts.extend(forward(batch[start:stop]) for start, stop in self._micro_batches(batch.shape, chosen))
        joined = parts[0] if len(parts) == 1 else tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
        named = {layer.name: values for layer, values in zip(chosen, joined, strict=True)}
        return Activations(self.view, named)

    def measure(self, images: np.ndarray, layers: Sequence[Layer | str] | Layer | str) -> Activations[np.ndarray]:
        """Return the activations of some layers by ONNX Runtime: on a CPU the fast way without gradients.

        Args:
            images: RGB, float32, [N, 3, height, width], 0..1; computed in micro-batches.
            layers: layers or their names.

        Returns:
            Layer name -> activations, float32, [N, units, *spatial].

        Raises:
            SelectionError: if a layer does not exist.
            DataError: if the images cannot be used.
            ModelError: if ONNX Runtime refuses the model or the size of the images.
        """
        chosen = self.resolve(layers)
        values = self._measure(as_images(images), [layer.value for layer in chosen], chosen)
        named = {
            layer.name: units_first(array, layer.channel_axis) for layer, array in zip(chosen, values, strict=True)
        }
        return Activations(self.view, named)

    def _measure(self, images: torch.Tensor, values: Sequence[str], layers: Sequence[Layer]) -> list[np.ndarray]:
        any_size = tuple(images.shape[2:]) != self.view.input_size
        session = _remember(
            self._sessions,
            (tuple(values), any_size, torch.get_num_threads()),
            _SESSIONS,
            lambda: Session(self.view.proto, values, device=str(self.device), exact=self._exact, any_size=any_size),
        )
        results: list[np.ndarray] = []
        for start, stop in self._micro_batches(images.shape, layers):
            with torch.no_grad():
                encoded = self.encode(images[start:stop]).cpu().numpy()
            parts = session.run({self.view.input_name: encoded})
            if not results:
                for layer, part in zip(layers, parts, strict=True):
                    self._check_batch(part.shape, stop - start, images.shape[2:], layer.name)
                results = [np.empty((images.shape[0], *part.shape[1:]), part.dtype) for part in parts]
            for result, part in zip(results, parts, strict=True):
                result[start:stop] = part
        return results

    def probabilities(self, images: Any) -> np.ndarray:
        """Return class probabilities [N, classes]: the model's own if it ends in Softmax or Sigmoid, else the softmax.

        Args:
            images: as for `activations`.

        Raises:
            SelectionError: if the model gives no class for the whole image.
        """
        batch = as_images(images)
        logits = self.view.logits
        final = self._final(logits)
        if final is not None:
            values = self._measure(batch, [final.value], [final])[0]
            probabilities = np.exp(values) if final.operator == "LogSoftmax" else values
        else:
            values = units_first(self._measure(batch, [logits.value], [logits])[0], logits.channel_axis)
            raised = np.exp(values - values.max(axis=1, keepdims=True))
            probabilities = raised / raised.sum(axis=1, keepdims=True)
        if probabilities[0].size != logits.unit_count:
            raise SelectionError(
                f"{shorten(logits.name)} gives {probabilities[0].size} numbers for {logits.unit_count} classes",
                where=shorten(self.view.file),
                remedy="use `measure` for a model that classifies positions, not images",
            )
        return probabilities.reshape(len(probabilities), -1)

    def _final(self, logits: Layer) -> Layer | None:
        """Return the Softmax or Sigmoid behind the logits that leads to an output."""
        graph = self.view.proto.graph
        readers = consumers(graph)
        leading = ancestors(graph, [value.name for value in graph.output])
        by_value = {layer.value: layer for layer in self.view.layers}
        value = logits.value
        while value not in {output.name for output in graph.output}:
            onward = [node for node in readers.get(value, ()) if node.output[0] in leading]
            if not onward:
                return None
            value = onward[0].output[0]
            if onward[0].op_type in ("Softmax", "LogSoftmax", "Sigmoid"):
                return by_value.get(value)
        return None

    # --- sizes ------------------------------------------------------------------------------------------------------

    def _micro_batches(self, shape: Sequence[int], layers: Sequence[Layer]) -> Iterator[tuple[int, int]]:
        """Split a batch so that the activations of a part stay small; in the model's own size where that is fixed."""
        count, pixels = shape[0], shape[2] * shape[3]
        if count == 0:
            raise DataError("there are no images")
        own = self.input_size[0] * self.input_size[1]
        numbers = 6 * pixels  # the images and their encoding
        for layer in layers:
            size = 1
            for length in layer.shape[1:]:
                size *= length or 1
            spatial_known = all(layer.spatial_shape) and layer.spatial_shape
            numbers += (
                size * max(pixels // own, 1) if spatial_known else size * (1 if not layer.spatial_shape else pixels)
            )
        step = self.view.batch or max(1, min(_LARGEST_BATCH, _WORKING_BYTES // (4 * numbers)))
        if self.view.batch and count % self.view.batch:
            raise DataError(
                f"the model takes exactly {self.view.batch} images at a time, {count} were given",
                where=shorten(self.view.file),
                remedy=f"give a multiple of {self.view.batch}",
            )
        for start in range(0, count, step):
            yield start, min(start + step, count)

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
    return (
        "the model leaves its input size open, but not every size will do: try another `size`, such as a multiple of 32"
    )


class _Forward:
    """Images to activations; holds no state of a call."""

    def __init__(
        self, model: Model, network: fx.GraphModule, layers: tuple[Layer, ...], inputs: tuple[str, ...]
    ) -> None:
        self._model = model
        self._network = network
        self._layers = layers
        self._place = inputs.index(model.view.input_name)
        used = [index for index, node in enumerate(network.graph.find_nodes(op="placeholder")) if node.users]
        others = [inputs[index] for index in used if index != self._place]
        if others:
            names = ", ".join(shorten(model.view.names.get(name, name)) for name in others)
            raise ModelError(
                f"the layers asked for also need the model's inputs {names}",
                where=shorten(model.view.file),
                remedy="ask for layers that depend on the image only, or use onnxviz.to_torch(path)",
            )
        self._arguments: list[torch.Tensor | None] = [None] * len(inputs)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model = self._model
        if model.view.batch is not None and images.shape[0] != model.view.batch:
            raise DataError(
                f"the model takes exactly {model.view.batch} images at a time, not {images.shape[0]}",
                where=shorten(model.view.file),
            )
        arguments = list(self._arguments)
        arguments[self._place] = model.encode(images)
        try:
            results: tuple[torch.Tensor, ...] = self._network(*arguments)
        except torch.cuda.OutOfMemoryError:
            raise  # less at a time may do
        except _FAULTS as fault:
            if tuple(images.shape[2:]) == tuple(model.view.input_size or ()):
                raise ModelError(
                    f"the network fails on an image of its own size: {shorten(str(fault), 160)}",
                    where=shorten(model.view.file),
                    remedy="run `onnxviz inspect`; if ONNX Runtime computes these layers, please report this",
                ) from fault
            raise DataError(
                f"images of {images.shape[2]}×{images.shape[3]} pixels do not fit: {shorten(str(fault), 160)}",
                where=shorten(model.view.file),
                remedy=_other_size(model, images.shape[2:]),
            ) from fault
        for layer, result in zip(self._layers, results, strict=True):
            model._check_batch(result.shape, images.shape[0], images.shape[2:], layer.name)
        return results


def load(
    path: Path | str,
    preprocess: str | Preprocessing | Mapping[str, Any] | None = None,
    labels: Path | str | Sequence[str] | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """Open an ONNX model from any exporter.

    Args:
        path: the file.
        preprocess: a preset ("caffe", "imagenet", "tf", "unit", "raw", "gray_unit", ...), a `Preprocessing`, or its
            fields as a mapping; what the file says, else 0..1, if None.
        labels: class names in logit order, or a text file of them, one a line; those in the file's metadata if None.
        device: "cpu", "cuda", ...; a GPU where there is one if None.

    Returns:
        The model; it is converted when gradients or activations are first asked for.

    Raises:
        ModelFileError: if the file cannot be read or is refused as unsafe.
        SelectionError: if the preset does not exist, or there are more or fewer labels than logits.
        DataError: if the labels cannot be read.
    """
    view = open_model(path)
    preprocessing = preprocessing_for(view, preprocess)
    if labels is None:
        names = labels_in(view)
    else:
        names = read_labels(labels) if isinstance(labels, str | Path) else tuple(labels)
    if names is not None and view.logits.unit_count and len(names) != view.logits.unit_count:
        raise SelectionError(
            f"{len(names)} class names for {view.logits.unit_count} logits",
            where=shorten(view.file),
            remedy="give one name for each logit, in their order",
        )
    return Model(view, preprocessing, names, device)


def as_images(images: Any) -> torch.Tensor:
    """Turn images of any common kind into float32 [N, 3, height, width] in 0..1.

    Args:
        images: a floating tensor or array [N, 3, height, width] in 0..1; or uint8 [height, width, 3], one or several,
            as arrays, tensors or PIL images of one size.

    Raises:
        DataError: if they are no images or have different sizes.
    """
    if isinstance(images, torch.Tensor) and images.is_floating_point():
        return images
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        array = np.ascontiguousarray(images, dtype=np.float32)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    single = hasattr(images, "convert") or getattr(images, "ndim", 0) == 3
    listed = [images] if single else list(images)
    arrays = [np.asarray(item.convert("RGB") if hasattr(item, "convert") else item) for item in listed]
    for array in arrays:
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise DataError(
                f"an image must be uint8 [height, width, 3] or floating [N, 3, height, width], "
                f"not {array.dtype} {list(array.shape)}"
            )
    if len({array.shape for array in arrays}) != 1:
        raise DataError(
            "the images have different sizes" if arrays else "there are no images",
            remedy="resize them: onnxviz.images.fit_image does it as the model wants it",
        )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).to(torch.float32) / 255.0


def units_first(array: np.ndarray, channel_axis: int | None) -> np.ndarray:
    """Move the axis of the units to place 1."""
    if channel_axis in (None, 1):
        return array
    return np.ascontiguousarray(np.moveaxis(array, channel_axis, 1))


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


def _shape_text(layer: Layer) -> str:
    return " × ".join("N" if axis == 0 and size is None else "?" if size is None else str(size)
                      for axis, size in enumerate(layer.shape))  # fmt: skip
