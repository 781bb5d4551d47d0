"""Convolution kernels as pictures and numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from onnxviz import colormap, kernels
from onnxviz.analyses import storage
from onnxviz.analyses.base import Analysis, Bench, Job, LayerSelector, Subject
from onnxviz.errors import AnalysisError, SelectionError, shorten
from onnxviz.findings import (
    Cell,
    Column,
    Coverage,
    Finding,
    Histogram,
    MatrixRow,
    Metric,
    Note,
    Picture,
    PictureMatrix,
    Table,
    Tile,
    TileGrid,
)
from onnxviz.graph.structure import producers
from onnxviz.image_choice import ImageChoice, choose_images, find_source
from onnxviz.images import load_batch
from onnxviz.values import Layer, Preprocessing, Unit

if TYPE_CHECKING:
    from onnxviz.graph.view import GraphView

_SHEET_SIDE = 768
_HISTOGRAM_BINS = 41
_RESPONSE_QUANTILE = 0.995
"""Of the absolute values of a response: stronger ones have the full colour, or one bright edge would hide the rest."""
_KEEPS_CHANNELS = frozenset({
    "Transpose", "Pad", "Identity", "Cast", "Add", "Sub", "Mul", "Div", "Clip", "BatchNormalization", "QuantizeLinear",
    "DequantizeLinear", "Resize",
})  # fmt: skip
"""What may stand between the image and a layer that still reads red, green and blue as they are."""
_RESPONSE_SCALE = (
    "blue is negative, white zero, red positive; full colour from the map's own 99.5 % quantile of absolute values on"
)
_CHARACTERS: dict[kernels.Character, str] = {
    "oriented": "oriented (edges, bars)",
    "smooth": "smooth (blobs, colours)",
    "sharp": "sharp (spots, fine lines)",
    "noisy": "like noise",
    "dead": "dead",
}


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

    Kernels that read the image show what they look for: edges, bars and blobs of colour in a trained network. Noisy
    kernels in a first layer point to a network that was trained too little or fits its training images too closely;
    dead and duplicate ones to wasted capacity. Deeper kernels, a few pixels wide over many input channels, say
    little by themselves: their statistics are more useful than their pictures.

    High-frequency share is the part of a kernel's energy above half the Nyquist frequency in its 2-D spectrum; white
    noise has 80 %. It is called oriented, smooth or sharp where its spectrum has more of a direction, a lower or a
    higher share than 95 in 100 kernels of white noise of the same size, in this order; otherwise like noise. A dead
    kernel has a norm below a thousandth of its layer's median. Two kernels that read the same channels are duplicates
    where their cosine is above 0.99 or below -0.99.
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
    version: ClassVar[int] = 1
    cites: ClassVar[tuple[str, ...]] = (
        "Krizhevsky et al. 2012, ImageNet classification with deep convolutional neural networks, figure 3",
        "Zeiler and Fergus 2013, Visualizing and understanding convolutional networks, arXiv:1311.2901",
    )
    metric_names: ClassVar[Mapping[str, str]] = {
        "dead_fraction": "Share of kernels that are zero or almost.",
        "duplicate_fraction": "Share of kernels that another one of the layer repeats.",
        "high_frequency_share": "Mean share of the kernels' energy above half the Nyquist frequency.",
        "noisy_fraction": "Share of kernels whose spectrum cannot be told from white noise.",
    }
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

    def run(self, job: Job, bench: Bench) -> list[Finding]:
        """Draw and describe one layer's kernels, or apply some of them to photographs."""
        place = int(job.parameters["layer"])
        layer = self._layers(bench.subject.view)[0][place]
        if "images" in job.parameters:
            return self._response(layer, place, job.parameters["images"], bench)
        view, preprocessing = bench.subject.view, bench.subject.preprocessing
        array = _weight(view, layer)
        described = _Described.of(array, view.groups(layer))
        findings: list[Finding] = [
            _kernel_table(layer, described),
            _layer_table(layer, array, described),
            *_histograms(layer, place, array, described),
            Note(described.verdict(layer, reads_image(view, layer))),
        ]
        if _is_drawable(array):
            findings += self._drawn(layer, place, _in_image_order(view, layer, array, preprocessing), described)
        return findings

    def combine(self, parts: Sequence[list[Finding]], subject: Subject) -> list[Finding]:
        """Join the layers and sum them up in numbers."""
        merged = super().combine(parts, subject)
        rows = [row for finding in merged if isinstance(finding, Table) and finding.id == "kernels"
                for row in finding.rows]  # fmt: skip
        layers, skipped = self._layers(subject.view)
        done = sum(isinstance(finding, Histogram) and finding.id.startswith("norms.") for finding in merged)
        reason = f"no constant weights: {', '.join(shorten(name, 40) for name in skipped[:8])}" if skipped else ""
        coverage = Coverage("layers", done, len(layers) + len(skipped), reason, id="coverage.layers")
        return [*_metrics(rows), *merged, coverage, self._drawn_coverage(merged, layers, subject.view)]

    def _drawn_coverage(self, found: Sequence[Finding], layers: Sequence[Layer], view: GraphView) -> Coverage:
        """Count the kernels that have a picture, and say why the others have none."""
        tiles = sum(len(grid.tiles) for grid in found if isinstance(grid, TileGrid) and grid.id.startswith("kernels."))
        arrays = [(layer.name, _weight(view, layer)) for layer in layers]
        plain = [shorten(name, 40) for name, array in arrays if not _is_drawable(array)]
        more = f" and {len(plain) - 8} more" if len(plain) > 8 else ""
        reasons = (
            [f"single weights for each input channel, or no two spatial dimensions: {', '.join(plain[:8])}{more}"]
            if plain
            else []
        )
        if any(_is_drawable(array) and len(array) > self.limit for _, array in arrays):
            reasons.append(f"the first {self.limit} of a layer (`limit`)")
        total = sum(len(array) for _, array in arrays)
        return Coverage("kernels drawn", tiles, total, "; ".join(reasons), id="coverage.kernels")

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

    def _drawn(self, layer: Layer, place: int, drawing: _Drawing, described: _Described) -> list[Finding]:
        """Return one tile for each kernel, the sheet of all, and what was left out."""
        count, channels = drawing.kernels.shape[:2]
        shown = min(count, self.limit)
        used = _strongest(drawing.kernels, 3 if drawing.rgb else self.input_channels)
        pictures = self._kernel_pictures(drawing, used, shown)
        what = "" if drawing.rgb or channels == 1 else f"input channels {_listed(used)}"
        tiles = tuple(
            Tile(f"kernel {index}", Unit(layer.name, index), (_picture(pictures[index], f"kernel {index}"),),
                 described.facts(index, layer), captions=(what,) if what else ())
            for index in range(shown)
        )  # fmt: skip
        scale = (
            "each kernel on its own scale, dead ones on the layer's"
            if self.normalization == "kernel"
            else "one scale for the layer"
        )
        zero = "zero is mid-grey" if self.zero == "grey" else "black is the smallest weight, white the largest"
        name = shorten(layer.name)
        colours = f"in colour, as {name} reads red, green and blue directly" if drawing.rgb else "in grey"
        size = f"{drawing.kernels.shape[2]} x {drawing.kernels.shape[3]}"
        said = f"{count} kernels of {size}, {colours}; {scale}, {zero}."
        if not drawing.rgb and channels > 1:
            said += f" Input channels from left to right, top to bottom: {_listed(used)}"
            said += f", those of largest norm of {channels}." if len(used) < channels else "."
        sheet = Tile("all kernels", None, (_picture(_sheet(pictures[:shown]), f"{shown} kernels of {name}"),))
        findings: list[Finding] = [
            TileGrid(f"sheet.{place}", f"{name}: all kernels", (sheet,), said),
            TileGrid(f"kernels.{place}", f"{name}: kernel by kernel", tiles,
                     f"Drawn as above, in {'colour' if drawing.rgb else 'grey'}.", tile_size=96),
        ]  # fmt: skip
        if not drawing.rgb:
            reason = f"{name}: the {len(used)} of largest norm" if len(used) < channels else ""
            findings.append(
                Coverage("input channels drawn", len(used), channels, reason, id=f"coverage.inputs.{place}")
            )
        return findings

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

    def _response(self, layer: Layer, place: int, images: Sequence[int], bench: Bench) -> list[Finding]:
        """Show the convolution's own output for each photograph and kernel."""
        assert self.response_to is not None
        view, preprocessing = bench.subject.view, bench.subject.preprocessing
        source = find_source(self.response_to.data, bench.subject.data)
        array = _weight(view, layer)
        chosen = self._chosen_kernels(layer, array)
        drawing = _in_image_order(view, layer, array, preprocessing)
        pictures = self._kernel_pictures(drawing, _strongest(drawing.kernels, 3 if drawing.rgb else 1), len(array))
        own = tuple((_picture(pictures[index], f"kernel {index}"),) for index in chosen)
        rows = [MatrixRow("the kernel", own)]
        ranges: list[tuple[Cell, ...]] = []
        for done, index in enumerate(images):
            bench.progress(done, len(images), source.names[index])
            batch = load_batch(source, [index], preprocessing, bench.model.input_size)
            response = bench.model.measure(batch, [layer])[layer.name][0][chosen]
            if not np.isfinite(response).all():
                raise AnalysisError(
                    f"the response to {shorten(source.names[index])} is not finite", where=shorten(layer.name)
                )
            rows.append(_response_row(source.names[index], batch[0], chosen, response))
            ranges += [
                (
                    f"{source.names[index]}, kernel {number}",
                    Unit(layer.name, number),
                    float(values.min()),
                    float(values.max()),
                )
                for number, values in zip(chosen, response, strict=True)
            ]
        bench.progress(len(images), len(images))
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


# --- describing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Described:
    """A layer's statistics: norms [out], dead [out], duplicates and spectrum where these have a meaning."""

    norms: np.ndarray
    dead: np.ndarray
    duplicates: tuple[kernels.Duplicate | None, ...] | None
    spectrum: kernels.Spectrum | None
    dense: bool

    @classmethod
    def of(cls, array: np.ndarray, groups: int) -> _Described:
        lengths = kernels.norms(array)
        if array.ndim == 2:
            return cls(lengths, kernels.dead(lengths), None, None, True)
        return cls(lengths, kernels.dead(lengths), kernels.duplicates(array, groups), kernels.spectrum(array), False)

    def character(self, index: int) -> kernels.Character | None:
        """Return what a kernel looks like, or None where kernels are too small to tell."""
        if self.dead[index]:
            return "dead"
        return self.spectrum.character(index) if self.spectrum is not None else None

    def facts(self, index: int, layer: Layer) -> tuple[tuple[str, Cell], ...]:
        """Return what the tile of a kernel says."""
        facts: list[tuple[str, Cell]] = [("norm", float(f"{self.norms[index]:.4g}"))]
        character = self.character(index)
        if character is not None:
            facts.append(("looks", "like noise" if character == "noisy" else character))
        if self.spectrum is not None and not self.dead[index]:
            facts.append(("high-frequency share", f"{self.spectrum.high_frequency_share[index]:.0%}"))
        if self.duplicates is not None and (twin := self.duplicates[index]) is not None:
            facts += [("duplicate of", Unit(layer.name, twin.index)), ("cosine", round(twin.cosine, 4))]
        return tuple(facts)

    def verdict(self, layer: Layer, first: bool) -> str:
        """Say in a sentence what the kernels are like; `first` where they read the image itself."""
        count = len(self.norms)
        parts = []
        if self.spectrum is not None:
            characters = [self.character(index) for index in range(count)]
            numbers = {character: characters.count(character) for character in _SHAPED}
            parts.append(", ".join(f"{n} {_CHARACTERS[character]}" for character, n in numbers.items() if n))
        dead = int(self.dead.sum())
        parts.append(f"{dead or 'none'} dead")
        if self.duplicates is not None:
            parts.append(f"{sum(twin is not None for twin in self.duplicates) or 'none'} repeating another one")
        what = "units" if self.dense else "kernels"
        said = f"{shorten(layer.name, 60)}: of {count} {what} {'; '.join(filter(None, parts))}."
        if self.spectrum is not None and first and numbers["noisy"] > (count - dead) / 2:
            said += " So many kernels like noise in a first layer point to too little training or over-fitting."
        return said


_SHAPED: tuple[kernels.Character, ...] = ("oriented", "smooth", "sharp", "noisy")
_KERNEL_COLUMNS = (
    Column("kernel", "unit"),
    Column("norm", "number", "L2 norm of the weights"),
    Column("dead", "text", "all zero, or a norm below a thousandth of the layer's median"),
    Column("duplicate of", "unit", "the kernel of largest |cosine| above 0.99 that reads the same channels"),
    Column("cosine", "number"),
    Column("high-frequency share", "percent", "energy above half the Nyquist frequency; white noise has 80 %"),
    Column("orientation", "number", "0 no direction, 1 a single one"),
    Column("looks", "text"),
)
_LAYER_COLUMNS = (
    Column("layer"),
    Column("kernels", "integer"),
    Column("shape"),
    Column("median norm", "number"),
    Column("dead", "integer"),
    Column("duplicates", "integer"),
    Column("high-frequency share", "percent", "mean over the kernels that are not dead"),
    Column("noise from", "percent", "5 % quantile of the share of white noise of this size"),
    Column("noise to", "percent", "95 % quantile"),
    Column("oriented", "integer"),
    Column("smooth", "integer"),
    Column("sharp", "integer"),
    Column("noisy", "integer"),
)

_RANGE_COLUMNS = (
    Column("photograph"),
    Column("kernel", "unit"),
    Column("smallest", "number", "of the convolution's own output, over all positions"),
    Column("largest", "number"),
)


def _kernel_table(layer: Layer, described: _Described) -> Table:
    rows = []
    for index, (norm, dead) in enumerate(zip(described.norms, described.dead, strict=True)):
        twin = described.duplicates[index] if described.duplicates is not None else None
        spectrum = described.spectrum if not dead else None
        character = described.character(index)
        row: tuple[Cell, ...] = (
            Unit(layer.name, index),
            float(norm),
            "dead" if dead else "",
            Unit(layer.name, twin.index) if twin else "" if described.duplicates is not None else None,
            twin.cosine if twin else None,
            float(spectrum.high_frequency_share[index]) if spectrum is not None else None,
            float(spectrum.orientation[index]) if spectrum is not None else None,
            character,
        )
        rows.append(row)
    return Table("kernels", "Every kernel", _KERNEL_COLUMNS, tuple(rows))


def _layer_table(layer: Layer, array: np.ndarray, described: _Described) -> Table:
    spectrum, alive = described.spectrum, ~described.dead
    characters = [described.character(index) for index in range(len(array))]
    row: tuple[Cell, ...] = (
        layer.name,
        len(array),
        " x ".join(str(size) for size in array.shape[1:]),
        float(np.median(described.norms)),
        int(described.dead.sum()),
        None if described.duplicates is None else sum(twin is not None for twin in described.duplicates),
        float(spectrum.high_frequency_share[alive].mean()) if spectrum is not None and alive.any() else None,
        spectrum.smooth_below if spectrum is not None else None,
        spectrum.sharp_above if spectrum is not None else None,
        *(characters.count(name) if spectrum is not None else None for name in _SHAPED),
    )
    return Table("layers", "Layers", _LAYER_COLUMNS, (row,))


def _histograms(layer: Layer, place: int, array: np.ndarray, described: _Described) -> list[Finding]:
    def histogram(key: str, values: np.ndarray, low: float, high: float, title: str, label: str, what: str) -> Finding:
        counts, edges = np.histogram(values, bins=_HISTOGRAM_BINS, range=(low, high) if high > low else None)
        return Histogram(f"{key}.{place}", f"{shorten(layer.name)}: {title}", tuple(edges.tolist()),
                         tuple(float(count) for count in counts), label, what)  # fmt: skip

    reach = kernels.bound(array)
    what = "units" if described.dense else "kernels"
    return [
        histogram("norms", described.norms, 0.0, float(described.norms.max()), f"norms of the {what}", "L2 norm", what),
        histogram("weights", array, -reach, reach, "weights", "weight", "weights"),
    ]


def _metrics(rows: Sequence[Sequence[Cell]]) -> list[Finding]:
    """Return the shares over all kernels of all layers; what has a meaning for no kernel is left out."""
    found: list[Finding] = []
    dead = [row[2] == "dead" for row in rows]
    twins = [row[3] != "" for row in rows if row[3] is not None]
    shares = [row[5] for row in rows if isinstance(row[5], float)]
    looks = [row[7] for row in rows if row[5] is not None]

    def add(name: str, value: float, total: int, title: str, description: str) -> None:
        # All kernels of the layers are looked at, so there is no sample and no interval.
        found.append(Metric(name, value, title, description, "percent", "lower", total=total))

    if dead:
        add("dead_fraction", sum(dead) / len(dead), len(dead), "dead kernels",
            "Share of kernels that are zero or have a norm below a thousandth of their layer's median.")  # fmt: skip
    if twins:
        add("duplicate_fraction", sum(twins) / len(twins), len(twins), "duplicate kernels",
            "Share of kernels with |cosine| above 0.99 to another one that reads the same channels.")  # fmt: skip
    if shares:
        add("high_frequency_share", statistics.fmean(shares), len(shares), "high-frequency share",
            "Mean share of the kernels' energy above half the Nyquist frequency; white noise has 80 %.")  # fmt: skip
        add("noisy_fraction", looks.count("noisy") / len(looks), len(looks), "noise-like kernels",
            "Share of kernels, dead ones left out, whose spectrum cannot be told from white noise.")  # fmt: skip
    return found


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
    direct = array.shape[1] == 3 == preprocessing.channels and view.groups(layer) == 1 and reads_image(view, layer)
    if direct and preprocessing.channel_order == "BGR":
        return _Drawing(array[:, ::-1], True)
    return _Drawing(array, direct)


def reads_image(view: GraphView, layer: Layer) -> bool:
    """Whether nothing but padding, scaling by constants and a change of layout stands between image and layer."""
    makers = producers(view.proto.graph)
    value = view.node(layer).input[0]
    while value != view.input_name:
        node = makers.get(value)
        if node is None or node.op_type not in _KEEPS_CHANNELS:
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


def _response_row(name: str, image: np.ndarray, chosen: Sequence[int], response: np.ndarray) -> MatrixRow:
    photograph = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
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
