"""Convolution kernels as pictures and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from onnxviz.analyses import presentation, storage
from onnxviz.analyses.base import Analysis, Job, JobContext, LayerSelector, Subject
from onnxviz.analyses.weights import kernels
from onnxviz.analyses.weights.kernel_description import (
    METRICS,
    Kernel,
    LayerKernels,
    histograms,
    in_words,
    metrics,
    tables,
)
from onnxviz.core import colormap
from onnxviz.core.errors import AnalysisError, SelectionError, shorten
from onnxviz.core.findings import (
    Cell,
    Column,
    Coverage,
    Finding,
    MatrixRow,
    Note,
    Picture,
    PictureMatrix,
    Table,
    Tile,
    TileGrid,
    merge,
)
from onnxviz.core.values import Layer, Preprocessing, Unit
from onnxviz.core.wording import listed
from onnxviz.data.domains import domain_of
from onnxviz.data.image_choice import ImageChoice, choose_images, find_source
from onnxviz.data.images import load_batch
from onnxviz.graph.operators import traits_of
from onnxviz.graph.structure import producers
from onnxviz.optimize.color import to_pixels

if TYPE_CHECKING:
    from onnxviz.graph.view import GraphView

_SHEET_SIDE = 768
_RESPONSE_QUANTILE = 0.995
"""Of the absolute values of a response: stronger ones have the full colour, or one bright edge would hide the rest."""
_KEEPS_CHANNELS = frozenset(["pad", "quantize", "resize", "transpose"])
"""Forms that may stand between the image and a layer that still reads red, green and blue as they are."""
_RESPONSE_SCALE = (
    "blue is negative, white zero, red positive; full colour from the map's own 99.5 % quantile of absolute values on"
)


class Response(BaseModel):
    """Which kernels are applied to which photographs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="The data set with the photographs.")
    images: ImageChoice = 0
    kernels: StrictInt | list[StrictInt] = Field(
        8, description="How many kernels, those of largest norm, or a list of their indices from 0."
    )
    limit: int = Field(8, ge=1, description="Most photographs to use, spread evenly over those chosen.")


class Weights(Analysis):
    """The kernels of convolutions as pictures, with what is wrong with them.

    Kernels that read the image show what they look for: edges, bars and blobs of colour in a trained network. Kernels
    like noise in a first layer point to a network that was trained too little or fits its training images too closely;
    dead and duplicate ones to wasted capacity. Deeper kernels, a few pixels wide over many input channels, say
    little by themselves: their statistics are more useful than their pictures.

    High-frequency share is the part of a kernel's energy above half the Nyquist frequency in its 2-D spectrum; white
    noise has 80 %. It is called oriented, smooth or sharp where its spectrum has more of a direction, a lower or a
    higher share than 95 in 100 kernels of white noise of the same size, in this order; otherwise like noise. Of kernels
    with fewer than 48 weights (3 x 3 of three channels have 27) that cannot be told: there the test misses more than
    one in five edges, bars or blobs with as much noise on top. A dead kernel has a norm below a thousandth of its
    layer's median. Two kernels that read the same channels are duplicates where their cosine is above 0.99; below
    -0.99 one is the negative of the other, which is no waste: they answer to opposite things.
    """

    kind: Literal["weights"] = "weights"
    layers: LayerSelector = Field("first_conv", description="Convolutions and dense layers; others are refused.")
    normalization: Literal["kernel", "layer"] = Field(
        "kernel", description="Stretch the contrast of each kernel on its own, or use one scale for the whole layer."
    )
    zero: Literal["grey", "free"] = Field(
        "grey", description="Zero is mid-grey and the scale symmetric, or the scale runs from the smallest weight "
        "(black) to the largest (white)."
    )  # fmt: skip
    limit: int = Field(256, ge=1, description="Most kernels of a layer to draw; the statistics cover all.")
    input_channels: int = Field(
        12, ge=1, description="Most input channels to draw for a kernel that does not read the image's colours: those "
        "with the largest norm in the layer."
    )  # fmt: skip
    response_to: Response | None = Field(None, description="Photographs to apply some kernels to.")

    heading: ClassVar[str] = "Kernels"
    version: ClassVar[int] = 3
    results: ClassVar[tuple[type, ...]] = (LayerKernels, Kernel)
    cites: ClassVar[tuple[str, ...]] = (
        "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks, figure 3",
        "Zeiler and Fergus 2013, Visualizing and understanding convolutional networks, arXiv:1311.2901",
    )
    metric_names: ClassVar[Mapping[str, str]] = presentation.described(METRICS)
    reading: ClassVar[str] = (
        "Each picture is one filter, a weight a square. Stripes and edges in black and white or in two colours look "
        "for outlines, blobs of colour for colours; a large one that looks like noise has learnt little."
    )
    example: ClassVar[str] = "{kind: weights, layers: first_conv, response_to: {data: photos, kernels: 8}}"

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan one job for each layer, and one more where kernels are applied to photographs."""
        layers, _ = self._layers(subject.view)
        for place, layer in enumerate(layers):
            array = subject.view.weight(layer)
            assert array is not None, "only layers with weights are selected"
            yield Job(f"kernels {place} {shorten(layer.name, 40)}", {"layer": place}, cost=0.1,
                      images=min(self.limit, layer.unit_count) + 1,
                      bytes=storage.kernels(array.shape, self.limit, self.input_channels))  # fmt: skip
        if self.response_to is None:
            return
        images = choose_images(
            find_source(self.response_to.data, subject.data), self.response_to.images, self.response_to.limit
        )
        size = subject.input_size
        for place, layer in self._applicable(subject.view):
            chosen = self._chosen_kernels(layer, _weight(subject.view, layer))
            yield Job(f"response {place} {shorten(layer.name, 40)}", {"layer": place, "images": images}, (layer.name,),
                      (self.response_to.data,), float(len(images)), len(images) * (len(chosen) + 1),
                      bytes=storage.responses(size, len(images), layer.spatial_shape, len(chosen)))  # fmt: skip

    def run(self, job: Job, context: JobContext) -> list[LayerKernels | Finding]:
        """Draw and describe one layer's kernels, or apply some of them to photographs."""
        place = int(job.parameters["layer"])
        view = context.subject.view
        layer = self._layers(view)[0][place]
        if "images" in job.parameters:
            return [*self._response(layer, place, job.parameters["images"], context)]
        array = _weight(view, layer)
        found = LayerKernels.of(layer, array, view.groups(layer))
        if not _is_drawable(array):
            return [found]
        return [self._drawn(found, _in_image_order(view, layer, array, context.subject.preprocessing))]

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:  # noqa: ARG002
        """Say which numbers have a meaning for none of the layers."""
        view = subject.view
        shapes = {layer: _weight(view, layer).shape for layer in self._layers(view)[0]}
        found: dict[str, str] = {}
        if not any(kernels.has_duplicates(shape, view.groups(layer)) for layer, shape in shapes.items()):
            why = f"no layer has two convolution kernels of at least {kernels.DUPLICATE_WEIGHTS} weights on one input"
            found |= {"duplicate_fraction": why, "negative_fraction": why}
        if not any(map(kernels.has_spectrum, shapes.values())):
            found["high_frequency_share"] = "no layer has kernels of 3 x 3 or more"
        if not any(map(kernels.tells_noise, shapes.values())):
            found["like_noise_fraction"] = (
                f"no layer has kernels of 3 x 3 or more with at least {kernels.NOISE_WEIGHTS} weights: smaller ones "
                "cannot be told from noise"
            )
        return found

    def merge(self, parts: Sequence[list[Any]]) -> list[Any]:
        """Put the layers first; join what was found on photographs."""
        found = merge(parts)
        return sorted(found, key=lambda item: not isinstance(item, LayerKernels))

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Show the layers, and sum them up in numbers."""
        view = subject.view
        layers, skipped = self._layers(view)
        places = {layer.name: place for place, layer in enumerate(layers)}
        weights = {layer.name: _weight(view, layer) for layer in layers}
        done = [item for item in found if isinstance(item, LayerKernels)]
        every = [kernel for item in done for kernel in item.kernels]
        large = {name for name, array in weights.items() if kernels.tells_noise(array.shape)}
        names = ", ".join(shorten(name, 40) for name in skipped[:8])
        reason = f"no constant weights: {names}" if skipped else ""
        shown: list[Finding] = []
        for item in done:
            layer, array = layers[places[item.layer]], weights[item.layer]
            what = "units" if array.ndim == 2 else "kernels"
            shown += histograms(item, places[item.layer], array, what)
            shown.append(Note(item.verdict(what, reads_image(view, layer)), about="each layer"))
            shown += self._pictures(item, places[item.layer], array)
        return [
            *metrics(every, large),
            *in_words(every, len(done)),
            *(tables(done, [weights[item.layer].shape for item in done]) if done else ()),
            *merge([shown]),
            *(item for item in found if not isinstance(item, LayerKernels)),
            Coverage("layers", len(done), len(layers) + len(skipped), reason, id="coverage.layers"),
            self._drawn_coverage(sum(len(item.pictures) for item in done), weights),
        ]

    def _drawn_coverage(self, drawn: int, weights: Mapping[str, np.ndarray]) -> Coverage:
        """Count the kernels that have a picture, and say why the others have none."""
        plain = [shorten(name, 40) for name, array in weights.items() if not _is_drawable(array)]
        why = "single weights for each input channel, or no two spatial dimensions"
        reasons = [f"{why}: {listed(plain, 8)}"] if plain else []
        if any(_is_drawable(array) and len(array) > self.limit for array in weights.values()):
            reasons.append(f"the first {self.limit} of a layer (`limit`)")
        return Coverage("kernels drawn", drawn, sum(map(len, weights.values())), "; ".join(reasons), "coverage.kernels")

    def _layers(self, view: GraphView) -> tuple[list[Layer], list[str]]:
        """Return the selected layers that have weights, and the names of the others."""
        selected = view.select(self.layers)
        found = [layer for layer in selected if view.weight(layer) is not None]
        if not found:
            raise AnalysisError(
                f"none of the selected layers has constant weights: {shorten(selected[0].name)!r} is a "
                f"{shorten(selected[0].operator, 40)}",
                where="layers",
                remedy="select convolutions or dense layers, for example `layers: first_conv`",
            )
        return found, [layer.name for layer in selected if layer not in found]

    # --- pictures ---------------------------------------------------------------------------------------------------

    def _drawn(self, found: LayerKernels, drawing: _Drawing) -> LayerKernels:
        """Draw the first kernels, and all of these on a sheet."""
        shown = min(len(drawing.kernels), self.limit)
        used = _strongest(drawing.kernels, 3 if drawing.rgb else self.input_channels)
        pictures = self._kernel_pictures(drawing, used, shown)
        return replace(
            found,
            sheet=_picture(_sheet(pictures), f"{shown} kernels of {shorten(found.layer)}"),
            pictures=tuple(_picture(pixels, f"kernel {index}") for index, pixels in enumerate(pictures)),
            channels=tuple(used),
            colored=drawing.rgb,
        )

    def _pictures(self, found: LayerKernels, place: int, array: np.ndarray) -> Iterator[Finding]:
        """Yield the sheet of all kernels, one tile for each, and what was left out."""
        if found.sheet is None:
            return
        count, channels = array.shape[:2]
        name, used = shorten(found.layer), found.channels
        captions = () if found.colored or channels == 1 else (f"input channels {_listed(used)}",)
        scale = (
            "each kernel on its own scale, dead ones on the layer's"
            if self.normalization == "kernel"
            else "one scale for the layer"
        )
        zero = "zero is mid-grey" if self.zero == "grey" else "black is the smallest weight, white the largest"
        colours = f"in colour, as {name} reads red, green and blue directly" if found.colored else "in grey"
        said = f"{count} kernels of {array.shape[2]} x {array.shape[3]}, {colours}; {scale}, {zero}."
        if not found.colored and channels > 1:
            said += f" Input channels from left to right, top to bottom: {_listed(used)}"
            said += f", those of largest norm of {channels}." if len(used) < channels else "."
        tiles = tuple(
            Tile(f"kernel {kernel.unit.index}", kernel.unit, (picture,), tuple(kernel.facts()), captions=captions)
            for kernel, picture in zip(found.kernels, found.pictures, strict=False)
        )
        yield TileGrid(f"sheet.{place}", f"{name}: all kernels", (Tile("all kernels", None, (found.sheet,)),), said)
        yield TileGrid(f"kernels.{place}", f"{name}: kernel by kernel", tiles,
                       f"Drawn as above, in {'colour' if found.colored else 'grey'}.", tile_size=96)  # fmt: skip
        if not found.colored:
            reason = f"{name}: the {len(used)} of largest norm" if len(used) < channels else ""
            yield Coverage("input channels drawn", len(used), channels, reason, id=f"coverage.inputs.{place}")

    def _kernel_pictures(self, drawing: _Drawing, used: Sequence[int], shown: int) -> list[np.ndarray]:
        """Draw the first kernels: in colour, or a small grid of the used input channels."""
        layer_limits = _limits(drawing.kernels)
        dead = kernels.dead(kernels.norms(drawing.kernels))
        drawn = []
        for kernel, is_dead in zip(drawing.kernels[:shown], dead, strict=False):
            # A dead kernel stretched to its own tiny scale would look alive.
            limits = layer_limits if self.normalization == "layer" or is_dead else _limits(kernel)
            if drawing.rgb:
                drawn.append(kernels.kernel_pixels(kernel.transpose(1, 2, 0), self.zero == "grey", limits))
                continue
            slices = [kernels.kernel_pixels(kernel[channel], self.zero == "grey", limits) for channel in used]
            columns = kernels.columns_for(len(slices))
            drawn.append(slices[0] if len(slices) == 1 else kernels.grid(slices, columns, separator=1, shade=255))
        return drawn

    # --- response to photographs ------------------------------------------------------------------------------------

    def _applicable(self, view: GraphView) -> list[tuple[int, Layer]]:
        """Return the two-dimensional convolutions with their places."""
        found = [
            (place, layer)
            for place, layer in enumerate(self._layers(view)[0])
            if layer.operator in ("Conv", "ConvTranspose") and len(layer.spatial_shape) == 2
        ]
        if not found:
            raise AnalysisError(
                "no selected layer is a two-dimensional convolution that could be applied to a photograph",
                where="response_to",
                remedy="leave `response_to` out, or add a convolution to `layers`",
            )
        return found

    def _chosen_kernels(self, layer: Layer, array: np.ndarray) -> list[int]:
        assert self.response_to is not None
        wanted = self.response_to.kernels
        if isinstance(wanted, int):
            if wanted < 1:
                raise SelectionError("at least one kernel must be chosen", where="response_to.kernels")
            return sorted(np.argsort(-kernels.norms(array), kind="stable")[:wanted].tolist())
        for index in wanted:
            if not 0 <= index < len(array):
                raise SelectionError(
                    f"there is no kernel {index}: {shorten(layer.name)!r} has {len(array)}, counted from 0",
                    where="response_to.kernels",
                )
        return list(dict.fromkeys(wanted))

    def _response(self, layer: Layer, place: int, images: Sequence[int], context: JobContext) -> list[Finding]:
        """Show the convolution's own output for each photograph and kernel."""
        assert self.response_to is not None
        view, preprocessing = context.subject.view, context.subject.preprocessing
        source = find_source(self.response_to.data, context.subject.data)
        array = _weight(view, layer)
        chosen = self._chosen_kernels(layer, array)
        drawing = _in_image_order(view, layer, array, preprocessing)
        pictures = self._kernel_pictures(drawing, _strongest(drawing.kernels, 3 if drawing.rgb else 1), len(array))
        own = tuple((_picture(pictures[index], f"kernel {index}"),) for index in chosen)
        rows = [MatrixRow("the kernel", own)]
        ranges: list[tuple[Cell, ...]] = []
        for done, index in enumerate(images):
            context.progress(done, len(images), source.names[index])
            batch = load_batch(source, [index], preprocessing, context.model.input_size)
            response = context.model.measure(batch, [layer])[layer.name][0][chosen]
            if not np.isfinite(response).all():
                raise AnalysisError(
                    f"the response to {shorten(source.names[index])} is not finite", where=shorten(layer.name)
                )
            photo, domain = source.names[index], domain_of(preprocessing)
            photograph = to_pixels(batch if domain.photographic else domain.show(batch))[0]
            rows.append(_response_row(photo, photograph, chosen, response))
            for number, values in zip(chosen, response, strict=True):
                cell = Unit(layer.name, number)
                ranges.append((f"{photo}, kernel {number}", cell, float(values.min()), float(values.max())))
        context.progress(len(images), len(images))
        name = shorten(layer.name)
        how = "of largest norm" if isinstance(self.response_to.kernels, int) else "chosen by `response_to.kernels`"
        return [
            PictureMatrix(
                f"response.{place}", f"{name}: response of kernels to photographs",
                tuple(f"kernel {index}" for index in chosen), tuple(rows),
                "The convolution's own output, its bias included, before any normalisation or activation.",
                _RESPONSE_SCALE,
            ),
            Table(f"ranges.{place}", f"{name}: smallest and largest response", _RANGE_COLUMNS, tuple(ranges)),
            Coverage("kernels applied to photographs", len(chosen), len(array), f"those {how}",
                     id="coverage.response_kernels"),
            Coverage("photographs", len(images), len(source), "chosen by `response_to.images`"
                     if len(images) < len(source) else "", id=f"coverage.photographs.{place}"),
        ]  # fmt: skip


_RANGE_COLUMNS = (
    Column("photograph"),
    Column("kernel", "unit"),
    Column("smallest", "number", "of the convolution's own output, over all positions"),
    Column("largest", "number"),
)


# --- drawing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Kernels [out, in, height, width] in the order of the image's channels; `rgb` if these are red, green, blue."""

    kernels: np.ndarray
    rgb: bool


def _weight(view: GraphView, layer: Layer) -> np.ndarray:
    array = view.weight(layer)
    assert array is not None, "only layers with weights are selected"
    if not np.isfinite(array).all():
        raise AnalysisError("the weights are not finite", where=shorten(layer.name))
    return array


def _in_image_order(view: GraphView, layer: Layer, array: np.ndarray, preprocessing: Preprocessing) -> _Drawing:
    """Put the input channels of a layer that reads the image directly in the order red, green, blue."""
    colored = domain_of(preprocessing).photographic and array.shape[1] == 3 == preprocessing.channels
    direct = colored and view.groups(layer) == 1 and reads_image(view, layer)
    if direct and preprocessing.channel_order == "BGR":
        return _Drawing(array[:, ::-1], True)
    return _Drawing(array, direct)


def reads_image(view: GraphView, layer: Layer) -> bool:
    """Whether nothing but padding, scaling by constants and a change of layout stands between image and layer."""
    makers = producers(view.proto.graph)
    value = view.node(layer).input[0]
    while value != view.input_name:
        node = makers.get(value)
        if node is None:
            return False
        traits = traits_of(node)
        scales = traits.algebraic or node.op_type in ("BatchNormalization", "Clip")
        if not scales and traits.form not in _KEEPS_CHANNELS:
            return False
        variable = [name for name in node.input if name in makers or name == view.input_name]
        if len(variable) != 1:
            return False
        value = variable[0]
    return True


def _is_drawable(array: np.ndarray) -> bool:
    """Whether kernels have two spatial dimensions and more than one pixel."""
    return array.ndim == 4 and max(array.shape[2:]) > 1


def _limits(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _strongest(array: np.ndarray, count: int) -> list[int]:
    """Return the input channels of largest norm over all kernels, in order of index."""
    strength = np.square(array, dtype=np.float64).sum(axis=(0, 2, 3))
    return sorted(np.argsort(-strength, kind="stable")[:count].tolist())


def _sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Lay all kernels out on one picture of a fair size, enlarged without smoothing."""
    columns = kernels.columns_for(len(pictures))
    width = pictures[0].shape[1]
    enlarge = max(1, (_SHEET_SIDE // columns - 4) // width)
    return kernels.grid(pictures, columns, enlarge, separator=4, shade=255)


def _picture(pixels: np.ndarray, alt: str) -> Picture:
    return Picture(np.ascontiguousarray(pixels), alt=alt, pixelated=True)


def _response_row(name: str, photograph: np.ndarray, chosen: Sequence[int], response: np.ndarray) -> MatrixRow:
    cells = tuple(
        (
            Picture(
                colormap.colour_signed(values, float(np.quantile(np.abs(values), _RESPONSE_QUANTILE))),
                alt=f"response of kernel {index} to {shorten(name)}",
            ),
        )
        for index, values in zip(chosen, response, strict=True)
    )
    lead = Picture(np.ascontiguousarray(photograph), alt=f"{shorten(name)} as the network sees it", format="jpeg")
    return MatrixRow(name, cells, lead)


def _listed(numbers: Sequence[int]) -> str:
    """Write indices shortly: 0-2 for a run, else one by one."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ", ".join(str(number) for number in numbers)
