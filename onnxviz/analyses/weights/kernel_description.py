"""What a layer's kernels are like: numbers for each, for the layer and for all, and a sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxviz.analyses import presentation
from onnxviz.analyses.weights import kernels
from onnxviz.analyses.weights.kernels import Character
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Cell, Column, Finding, Histogram, Metric, Note, Picture, Table
from onnxviz.core.shares import percent
from onnxviz.core.values import Layer, Unit

_HISTOGRAM_BINS = 41
_CHARACTERS: dict[Character, str] = {
    "oriented": "oriented (edges, bars)",
    "smooth": "smooth (blobs, colours)",
    "sharp": "sharp (spots, fine lines)",
    "like noise": "like noise",
    "cannot be told": "too small to be told from noise",
}
METRICS = presentation.by_name(
    Metric("dead_fraction", math.nan, "dead kernels",
           "Share of kernels that are zero or have a norm below a thousandth of their layer's median.",
           "percent", "lower"),
    Metric("duplicate_fraction", math.nan, "duplicate kernels",
           "Share of kernels with a cosine above 0.99 to another one that reads the same channels.",
           "percent", "lower"),
    Metric("negative_fraction", math.nan, "negatives of other kernels",
           "Share of kernels with a cosine below -0.99 to another one that reads the same channels: pairs that answer "
           "to opposite things.", "percent", "neither"),
    Metric("high_frequency_share", math.nan, "high-frequency share",
           "Mean share of the kernels' energy above half the Nyquist frequency; white noise has 80 %.",
           "percent", "lower"),
    Metric("like_noise_fraction", math.nan, "kernels like noise",
           f"Share of kernels of at least {kernels.NOISE_WEIGHTS} weights, not dead, whose spectrum is like noise.",
           "percent", "lower"),
)  # fmt: skip


@dataclass(frozen=True)
class Kernel:
    """What one kernel, or one unit of a dense layer, is like; None where a question has no meaning.

    Attributes:
        duplicate: the kernel that it repeats, "" if there is none; `likeness` is the cosine to it.
        negative: the kernel that it is the negative of, likewise; `opposition` is the cosine to it.
        share: of its energy above half the Nyquist frequency.
        orientation: 0 for no direction, 1 for a single one.
        looks: what it looks like.
    """

    unit: Unit
    norm: float
    dead: bool
    duplicate: Unit | str | None
    likeness: float | None
    negative: Unit | str | None
    opposition: float | None
    share: float | None
    orientation: float | None
    looks: Character | None

    @property
    def remark(self) -> str:
        """That it is dead, if it is."""
        return "dead" if self.dead else ""

    @property
    def cosine(self) -> float | None:
        """To the kernel that it is a duplicate of, else to the one that it is the negative of."""
        return self.opposition if self.likeness is None else self.likeness

    def facts(self) -> Iterator[tuple[str, Cell]]:
        """Yield what its tile says."""
        yield "norm", float(f"{self.norm:.4g}")
        if self.looks is not None:
            yield "looks", self.looks
        if self.share is not None:
            yield "high-frequency share", percent(self.share)
        if self.likeness is not None:
            yield from (("duplicate of", self.duplicate), ("cosine (duplicate)", round(self.likeness, 4)))
        if self.opposition is not None:
            yield from (("negative of", self.negative), ("cosine (negative)", round(self.opposition, 4)))


@dataclass(frozen=True)
class LayerKernels:
    """What was found of a layer's kernels.

    Attributes:
        layer: the layer's name.
        kernels: what each is like.
        noise: the 5 % and 95 % quantiles of the high-frequency share of white noise of this size; () without spectra.
        sheet: all kernels on one picture; None if they cannot be drawn.
        pictures: of the first kernels.
        channels: input channels that are drawn; of a kernel in colour all three.
        colored: whether kernels are drawn in colour.
    """

    layer: str
    kernels: tuple[Kernel, ...]
    noise: tuple[float, float] | tuple[()]
    sheet: Picture | None = None
    pictures: tuple[Picture, ...] = ()
    channels: tuple[int, ...] = ()
    colored: bool = False

    @classmethod
    def of(cls, layer: Layer, array: np.ndarray, groups: int) -> LayerKernels:
        """Describe kernels [out, in / groups, ...] of a convolution, or weights [out, in] of a dense layer."""
        norms = kernels.norms(array)
        dead = kernels.dead(norms)
        convolution = array.ndim > 2
        twins = kernels.duplicates(array, groups) if convolution else None
        opposites = kernels.duplicates(array, groups, negative=True) if convolution else None
        spectrum = kernels.spectrum(array) if convolution else None
        found = []
        for index, (norm, is_dead) in enumerate(zip(norms.tolist(), dead.tolist(), strict=True)):
            shown = spectrum if not is_dead else None
            found.append(
                Kernel(
                    Unit(layer.name, index),
                    norm,
                    is_dead,
                    *_partner(layer, twins, index),
                    *_partner(layer, opposites, index),
                    None if shown is None else float(shown.high_frequency_share[index]),
                    None if shown is None else float(shown.orientation[index]),
                    "dead" if is_dead else None if shown is None else shown.character(index),
                )
            )
        noise = () if spectrum is None else (spectrum.smooth_below, spectrum.sharp_above)
        return cls(layer.name, tuple(found), noise)

    def looking(self, character: Character) -> int:
        """Return how many kernels look so."""
        return sum(kernel.looks == character for kernel in self.kernels)

    def verdict(self, what: str, first: bool) -> str:
        """Say in a sentence what the kernels or units are like; `first` where they read the image itself."""
        count, dead = len(self.kernels), sum(kernel.dead for kernel in self.kernels)
        looks = {text: self.looking(character) for character, text in _CHARACTERS.items() if self.noise}
        parts = [", ".join(f"{number} {text}" for text, number in looks.items() if number), f"{dead or 'none'} dead"]
        if (repeating := _count([kernel.duplicate for kernel in self.kernels])) is not None:
            parts.append(f"{repeating or 'none'} repeating another one")
        if opposite := _count([kernel.negative for kernel in self.kernels]):
            parts.append(f"{opposite} the negative of another one")
        said = f"{shorten(self.layer, 60)}: of {count} {what} {'; '.join(filter(None, parts))}."
        if self.noise and first and self.looking("like noise") > (count - dead) / 2:
            said += " So many kernels like noise in a first layer point to too little training or over-fitting."
        return said

    def row(self, shape: Sequence[int]) -> tuple[Cell, ...]:
        """Return the cells under `_LAYER_COLUMNS`; `shape` is that of the weights."""
        alive = [kernel.share for kernel in self.kernels if kernel.share is not None]
        return (
            self.layer,
            len(self.kernels),
            " x ".join(str(size) for size in shape[1:]),
            float(np.median([kernel.norm for kernel in self.kernels])),
            sum(kernel.dead for kernel in self.kernels),
            _count([kernel.duplicate for kernel in self.kernels]),
            _count([kernel.negative for kernel in self.kernels]),
            float(np.mean(alive)) if alive else None,
            *(self.noise or (None, None)),
            *(self.looking(character) if self.noise else None for character in _CHARACTERS),
        )


def _partner(
    layer: Layer, partners: Sequence[kernels.Duplicate | None] | None, index: int
) -> tuple[Unit | str | None, float | None]:
    """Return a kernel's partner and the cosine to it."""
    if partners is None:
        return None, None
    found = partners[index]
    return ("", None) if found is None else (Unit(layer.name, found.index), found.cosine)


def _count(partners: Sequence[Unit | str | None]) -> int | None:
    """Return how many kernels have a partner; None where none can have one."""
    known = [partner for partner in partners if partner is not None]
    return sum(partner != "" for partner in known) if known else None


_KERNEL_COLUMNS = {
    "unit": Column("kernel", "unit"),
    "norm": Column("norm", "number", "L2 norm of the weights"),
    "remark": Column("dead", "text", "all zero, or a norm below a thousandth of the layer's median"),
    "duplicate": Column("duplicate of", "unit", "the kernel of largest cosine above 0.99 that reads the same channels"),
    "negative": Column("negative of", "unit", "the kernel of smallest cosine below -0.99 that reads the same channels"),
    "cosine": Column(
        "cosine", "number", "to the kernel that it is a duplicate of, else to the one that it is the negative of"
    ),
    "share": Column("high-frequency share", "percent", "energy above half the Nyquist frequency; white noise has 80 %"),
    "orientation": Column("orientation", "number", "0 no direction, 1 a single one"),
    "looks": Column("looks", "text", "cannot be told: too few weights to call the kernel like noise"),
}
_LAYER_COLUMNS = (
    Column("layer"),
    Column("kernels", "integer"),
    Column("shape"),
    Column("median norm", "number"),
    Column("dead", "integer"),
    Column("duplicates", "integer"),
    Column("negatives", "integer", "kernels that are the negative of another one"),
    Column("high-frequency share", "percent", "mean over the kernels that are not dead"),
    Column("white noise from", "percent", "5 % quantile of the share of white noise of this size"),
    Column("white noise to", "percent", "95 % quantile"),
    Column("oriented", "integer"),
    Column("smooth", "integer"),
    Column("sharp", "integer"),
    Column("like noise", "integer"),
    Column("cannot be told", "integer", "too few weights to call a kernel like noise"),
)


def tables(layers: Sequence[LayerKernels], shapes: Sequence[Sequence[int]]) -> Iterator[Table]:
    """Yield the tables of all kernels and of the layers; `shapes` are those of the layers' weights."""
    every = [kernel for layer in layers for kernel in layer.kernels]
    yield presentation.table("kernels", "Every kernel", _KERNEL_COLUMNS, every)
    rows = tuple(layer.row(shape) for layer, shape in zip(layers, shapes, strict=True))
    yield Table("layers", "Layers", _LAYER_COLUMNS, rows)


def histograms(found: LayerKernels, place: int, array: np.ndarray, what: str) -> list[Finding]:
    """Return how norms and weights of the layer at a place of the selection are spread; it has kernels or units."""

    def histogram(key: str, values: np.ndarray, low: float, high: float, title: str, label: str, of: str) -> Finding:
        counts, edges = np.histogram(values, bins=_HISTOGRAM_BINS, range=(low, high) if high > low else None)
        return Histogram(f"{key}.{place}", f"{shorten(found.layer)}: {title}", tuple(edges.tolist()),
                         tuple(float(count) for count in counts), label, of)  # fmt: skip

    reach = kernels.bound(array)
    norms = np.array([kernel.norm for kernel in found.kernels])
    return [
        histogram("norms", norms, 0.0, float(norms.max()), f"norms of the {what}", "L2 norm", what),
        histogram("weights", array, -reach, reach, "weights", "weight", "weights"),
    ]


def metrics(every: Sequence[Kernel], large: Collection[str]) -> Iterator[Metric]:
    """Yield the shares over all kernels of all layers; what has a meaning for no kernel is left out.

    Args:
        every: the kernels.
        large: names of the layers whose kernels are large enough to be called like noise.
    """
    shaped = [kernel for kernel in every if kernel.share is not None]
    for name, values in (
        ("dead_fraction", [kernel.dead for kernel in every]),
        ("duplicate_fraction", [kernel.duplicate != "" for kernel in every if kernel.duplicate is not None]),
        ("negative_fraction", [kernel.negative != "" for kernel in every if kernel.negative is not None]),
        ("high_frequency_share", [kernel.share or 0.0 for kernel in shaped]),
        ("like_noise_fraction", [kernel.looks == "like noise" for kernel in shaped if kernel.unit.layer in large]),
    ):
        if values:  # all kernels of the layers are looked at, so there is no sample and no interval
            yield replace(METRICS[name], value=statistics.fmean(values), total=len(values))


def in_words(every: Sequence[Kernel], layers: int) -> Iterator[Note]:
    """Yield a sentence on the kernels of all layers, where there are several."""
    if layers < 2:
        return
    parts = [f"{sum(kernel.dead for kernel in every) or 'none'} dead"]
    for partners, what in (
        ([kernel.duplicate for kernel in every], "repeating another one"),
        ([kernel.negative for kernel in every], "the negative of another one"),
    ):
        asked = [partner != "" for partner in partners if partner is not None]
        fewer = f" (of the {len(asked)} that can)" if len(asked) < len(every) else ""
        parts += [f"{sum(asked) or 'none'} {what}{fewer}"] if asked else []
    yield Note(f"{layers} layers: of {len(every)} kernels and units {'; '.join(parts)}.", "summary")
