"""What analyses talk about: layers, units, targets, and how an image becomes a model's input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from onnxviz.core.errors import beginning, shorten

ChannelOrder = Literal["RGB", "BGR", "GRAY", "STORED"]
Fit = Literal["crop", "stretch", "none"]
Interpolation = Literal["bilinear", "bicubic", "bilinear_aliased"]
Origin = Literal["declared", "trial", "undecided", "guess"]
"""Where a preprocessing comes from: somebody said it, it was the best of those tried on images, or nobody knows."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """An axis that runs over the patches of a grid, row by row, and over tokens that are no patches.

    Attributes:
        axis: the axis of the layer's tensor.
        height: rows of the grid.
        width: columns of the grid.
        before: tokens in front of the patches: class, distillation and register tokens.
        behind: tokens behind the patches.
    """

    axis: int
    height: int
    width: int
    before: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Grid:
    """How the positions of a layer become rows and columns, where they are not simply its last two axes.

    Attributes:
        sizes: the factors of each axis beside the units.
        order: which of all these factors makes up the rows, then the columns, the outermost first.
        rows: how many of them make up the rows.
        tokens: which of the axes beside the units has tokens that are no patches.
        before: how many of them stand in front of the patches: class, distillation and register tokens.
        behind: how many behind.
    """

    sizes: tuple[tuple[int | None, ...], ...]
    order: tuple[int, ...]
    rows: int
    tokens: int = 0
    before: int = 0
    behind: int = 0

    @property
    def shape(self) -> tuple[int | None, int | None]:
        """Height and width of the map; None where they are free."""
        flat = [size for sizes in self.sizes for size in sizes]
        ordered = [flat[place] for place in self.order]
        height, width = (
            None if None in part else math.prod(size for size in part if size is not None)
            for part in (ordered[: self.rows], ordered[self.rows :])
        )
        return height, width


@dataclass(frozen=True, slots=True)
class Layer:
    """A node of the network with its first output.

    Attributes:
        name: how the layer is shown and addressed; unique in its model. From the model file: data, never code or path.
        value: plain identifier of the tensor in the normalised graph.
        operator: ONNX operator type, for example "Conv".
        position: index in topological order.
        shape: the tensor's shape, batch included; None where a dimension is free.
        channel_axis: the axis of the units, or None if the tensor has none (a scalar per image) or it is not known.
        aliases: other names users may give (node name, value name, exporter scope).
        tokens: the axes that run over patches of the image; two for a map of attention, of queries and of keys.
        grid: how its positions become rows and columns; None where those are simply the two axes beside the units.
        unplaced: why it has no units or no map of positions; "" if it has both.
    """

    name: str
    value: str
    operator: str
    position: int
    shape: tuple[int | None, ...]
    channel_axis: int | None
    aliases: tuple[str, ...] = ()
    tokens: tuple[Tokens, ...] = ()
    grid: Grid | None = None
    unplaced: str = ""

    @property
    def unit_count(self) -> int:
        """Number of units, 0 if the channel dimension is unknown."""
        if self.channel_axis is None:
            return 0
        return self.shape[self.channel_axis] or 0

    @property
    def spatial_shape(self) -> tuple[int | None, ...]:
        """Every dimension that is neither batch nor channel, in order."""
        return tuple(size for axis, size in enumerate(self.shape) if axis not in (0, self.channel_axis))

    @property
    def map_shape(self) -> tuple[int | None, int | None] | None:
        """Height and width of what `onnxviz.model.maps.to_map` makes of the layer; None if it has no map."""
        if self.channel_axis is None or self.unplaced:
            return None
        if self.grid is not None:
            return self.grid.shape
        spatial = self.spatial_shape
        return (spatial[0], spatial[1]) if len(spatial) == 2 and not self.tokens else None

    @property
    def has_map(self) -> bool:
        """Whether the units have rows and columns of the image, more than one position.

        Two dimensions beside the units need not be those: attention has one row for each query and one column for each
        key, a layer split into heads one column for each feature of a head. Tokens of a grid of patches are a map.
        """
        return self.map_shape not in (None, (1, 1))


@dataclass(frozen=True, slots=True)
class Unit:
    """One channel of a layer: `layer` is the layer's name, `index` counts from 0."""

    layer: str
    index: int


@dataclass(frozen=True, slots=True)
class Target:
    """What an optimization drives or an attribution explains.

    Attributes:
        layer: the layer's name.
        unit: channel index; None for the whole layer.
        position: spatial position of a single neuron; None for all positions.
        sign: 1 to maximise, -1 to minimise.
        label: what to call it: a class name, or "".
        focus: how much the unit should stand out among those of its layer: `objectives.Channel.focus`.
    """

    layer: str
    unit: int | None = None
    position: tuple[int, ...] | None = None
    sign: Literal[1, -1] = 1
    label: str = ""
    focus: float = 0.0


LUMA = (0.299, 0.587, 0.114)
"""Brightness of red, green and blue (ITU-R BT.601)."""
AUTO = "auto"
"""Stands for a preset where the preprocessing is to be chosen by trial on images."""
DEFAULT_SIZE = (224, 224)
"""Height and width in pixels where neither the model nor the preprocessing says."""
CROP_FRACTION = 0.875
"""What photographs are cropped to unless somebody says otherwise: 224 of 256 pixels, as in ImageNet's evaluation."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes a model's input: x = (255 * image - mean) / scale, in the model's channel order.

    Attributes:
        channel_order: order of the model's channels; GRAY is 0.299 R + 0.587 G + 0.114 B; STORED is whatever the files
            hold, any number of channels in their order.
        mean: subtracted, in units of `range`, in the model's channel order; one number stands for all.
        scale: divided by, in units of `range`, in the model's channel order; one number stands for all.
        fit: "crop" resizes the short side to size / crop_fraction and cuts out the centre, "stretch" ignores the
            aspect ratio, "none" requires images of the right size.
        crop_fraction: the part of the resized short side that the crop keeps; None for `CROP_FRACTION` of an image
            that is large enough to need no enlarging for it, and for all (1) of a smaller one.
        interpolation: how pixels are made where an image is resized: "bilinear" and "bicubic" average over all pixels
            that become one, "bilinear_aliased" looks at four of them only, as OpenCV and TensorFlow do by default. None
            is bilinear, and where a preprocessing is found by trial, what the trial takes.
        size: height and width in pixels, where the model leaves them free.
        name: the preset's name, or "custom".
        origin: whether it was said, or found by trial, or is to be found yet, or guessed, so that reports can warn.
        range: between what the numbers of the files lie; 0..255 but for STORED.
        show: the channels of STORED that stand for red, green and blue in pictures, counted from 0, or the one that is
            shown in grey; the first three, or the first of fewer, if empty.
        count: how many channels STORED has; None where it is not known yet.
    """

    channel_order: ChannelOrder = "RGB"
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (255.0,)
    fit: Fit = "crop"
    crop_fraction: float | None = None
    interpolation: Interpolation | None = None
    size: tuple[int, int] | None = None
    name: str = "custom"
    origin: Origin = "declared"
    range: tuple[float, float] = (0.0, 255.0)
    show: tuple[int, ...] = ()
    count: int | None = None

    def input_size(self, own: tuple[int, int] | None) -> tuple[int, int]:
        """Return height and width in pixels of the input: the model's own, else this one's, else `DEFAULT_SIZE`."""
        return own or self.size or DEFAULT_SIZE

    @property
    def channels(self) -> int:
        """Number of channels of the model's input."""
        if self.channel_order == "STORED":
            return self.count or max(len(self.mean), len(self.scale))
        return 1 if self.channel_order == "GRAY" else 3

    @property
    def shown_channels(self) -> tuple[int, ...]:
        """The channels of STORED that pictures show: three, or one in grey."""
        return self.show or ((0, 1, 2) if self.channels >= 3 else (0,))

    @property
    def declared(self) -> bool:
        """Whether somebody said how to preprocess."""
        return self.origin == "declared"

    @property
    def in_words(self) -> str:
        """How images become the model's input, in one line."""
        if self.undecided:
            return f"{AUTO}: to be chosen by trial on images"
        mean, scale = (
            "/".join(f"{number:g}" for number in (numbers if len(set(numbers)) > 1 else numbers[:1]))
            for numbers in (self.mean, self.scale)
        )
        fraction = self.crop_fraction
        kept = f"centre {CROP_FRACTION:g} kept of images that are large enough" if fraction is None else (
            f"centre {fraction:g} kept" if fraction < 1 else "centre kept"
        )  # fmt: skip
        fit = {"crop": f"short side resized, {kept}", "stretch": "stretched to size", "none": "not resized"}[self.fit]
        order: str = self.channel_order
        low, high = self.range
        shown = ""
        if order == "STORED":
            order = f"{self.channels} channel{'s' * (self.channels != 1)} as stored"
            which = ", ".join(map(str, self.shown_channels))
            shown = f"; channels {which} shown as red, green and blue" if len(self.shown_channels) == 3 else (
                f"; channel {which} shown in grey"
            )  # fmt: skip
        return f"{self.name}: {order}, ({low:g}..{high:g} minus {mean}) divided by {scale}, {fit}{self.resized}{shown}"

    @property
    def resized(self) -> str:
        """How pixels are made where images are resized, to be written behind something; "" for the usual way."""
        how = {"bilinear": "", "bicubic": ", bicubic", "bilinear_aliased": ", bilinear without antialiasing"}
        return how[self.interpolation or "bilinear"]

    @property
    def doubt(self) -> str:
        """What a reader must know of where it comes from, as a sentence; "" if it was declared."""
        return {
            "declared": "",
            "guess": "Nobody said how images become this model's input.",
            "trial": "How images become this model's input was chosen by trial, not declared.",
            "undecided": "Nothing was chosen yet for how images become this model's input.",
        }[self.origin]

    @property
    def undecided(self) -> bool:
        """Whether it is to be chosen by trial yet; only its geometry means something then."""
        return self.origin == "undecided"

    @property
    def keeps_geometry(self) -> bool:
        """Whether somebody said how to bring images to size, so that trials try nothing else."""
        return self.fit != "crop" or self.crop_fraction is not None or self.interpolation is not None

    def with_size(self, height: int, width: int) -> Preprocessing:
        """Return the same preprocessing for another input size in pixels."""
        return replace(self, size=(height, width))


def _per_cent(*fractions: float) -> tuple[float, ...]:
    return tuple(255.0 * fraction for fraction in fractions)


PRESETS: dict[str, Preprocessing] = {
    # Caffe's reference networks; the means are those of BVLC's ImageNet models.
    "caffe": Preprocessing("BGR", (104.0, 117.0, 123.0), (1.0,), name="caffe"),
    # torchvision's reference transforms.
    "imagenet": Preprocessing("RGB", _per_cent(0.485, 0.456, 0.406), _per_cent(0.229, 0.224, 0.225), name="imagenet"),
    # Keras' mode "tf": -1..1.
    "tf": Preprocessing("RGB", (127.5,), (127.5,), name="tf"),
    "unit": Preprocessing("RGB", (0.0,), (255.0,), name="unit"),
    "raw": Preprocessing("RGB", (0.0,), (1.0,), name="raw"),
    "gray_unit": Preprocessing("GRAY", (0.0,), (255.0,), name="gray_unit"),
    "gray_raw": Preprocessing("GRAY", (0.0,), (1.0,), name="gray_raw"),
    "gray_tf": Preprocessing("GRAY", (127.5,), (127.5,), name="gray_tf"),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a layer's activations are from ONNX Runtime's on the same input.

    Attributes:
        layer: the layer's name.
        relative: max |ours - theirs| / max |theirs|.
        absolute: max |ours - theirs|.
        tolerance: the largest `relative` that is accepted.
        reference: "file" for the model as given, "float32" for the normalised graph.
        note: what else there is to know.
        off: who is outside the tolerance by a third computation, where the two differ by more: "runtime" for ONNX
            Runtime, "ours" for the converted network, "both", "neither"; "unknown" where there is none; "" where
            they do not differ.
        ours: error of the converted network by that computation, relative to the layer's largest value.
        theirs: error of ONNX Runtime.
        origin: name of the layer or node at which the error arises.
        judged: how that was found, in words.
        effect: what ONNX Runtime's error does to the model's output, in words; told with one of the layers.
        end_to_end: `relative` where both compute all from the image, roundings to integers included; None where
            `relative` is that itself.
    """

    layer: str
    relative: float
    absolute: float
    tolerance: float
    reference: Literal["file", "float32"] = "file"
    note: str = field(default="", compare=False)
    off: Literal["", "runtime", "ours", "both", "neither", "unknown"] = ""
    ours: float = 0.0
    theirs: float = 0.0
    origin: str = ""
    judged: str = field(default="", compare=False)
    effect: str = field(default="", compare=False)
    end_to_end: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the converted network is right within the tolerance; a NaN is not."""
        if self.off in ("runtime", "neither"):
            return self.ours <= self.tolerance
        return self.relative <= self.tolerance

    @property
    def verdict(self) -> str:
        """Who is off, in words; "" where the two agree."""
        who = {
            "runtime": f"ONNX Runtime is off by {self.theirs:.2g}, the converted network by {self.ours:.2g}",
            "ours": f"the converted network is off by {self.ours:.2g}, ONNX Runtime by {self.theirs:.2g}",
            "both": f"the converted network is off by {self.ours:.2g} and ONNX Runtime by {self.theirs:.2g}",
            "neither": f"both are within the tolerance, off by {self.ours:.2g} and {self.theirs:.2g}",
            "unknown": "who is off could not be found",
        }.get(self.off, "")
        place = f"; it arises at {shorten(self.origin)}" if who and self.origin and self.origin != self.layer else ""
        return f"{who}{place} ({beginning(self.judged)})" if who and self.judged else who + place
