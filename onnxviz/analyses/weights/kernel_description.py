"""What a layer's kernels are like: numbers for each, for the layer and for all, and a sentence."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxviz.analyses.weights import kernels
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Cell, Column, Finding, Histogram, Metric, Note, Table
from onnxviz.core.shares import percent
from onnxviz.core.values import Layer, Unit

_HISTOGRAM_BINS = 41
_CHARACTERS: dict[kernels.Character, str] = {
    "oriented": "oriented (edges, bars)",
    "smooth": "smooth (blobs, colours)",
    "sharp": "sharp (spots, fine lines)",
    "like noise": "like noise",
    "cannot be told": "too small to be told from noise",
    "dead": "dead",
}


@dataclass(frozen=True, eq=False)
class Described:
    """A layer's statistics: norms [out], dead [out]; duplicates, negatives and spectrum where these have a meaning."""

    norms: np.ndarray
    dead: np.ndarray
    duplicates: tuple[kernels.Duplicate | None, ...] | None
    negatives: tuple[kernels.Duplicate | None, ...] | None
    spectrum: kernels.Spectrum | None
    dense: bool

    @classmethod
    def of(cls, array: np.ndarray, groups: int) -> Described:
        """Describe kernels [out, in / groups, ...] of a convolution, or weights [out, in] of a dense layer."""
        lengths = kernels.norms(array)
        if array.ndim == 2:
            return cls(lengths, kernels.dead(lengths), None, None, None, True)
        same, opposite = (kernels.duplicates(array, groups, negative=negative) for negative in (False, True))
        return cls(lengths, kernels.dead(lengths), same, opposite, kernels.spectrum(array), False)

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
            facts.append(("looks", character))
        if self.spectrum is not None and not self.dead[index]:
            facts.append(("high-frequency share", percent(self.spectrum.high_frequency_share[index])))
        for what, partners in (("duplicate of", self.duplicates), ("negative of", self.negatives)):
            if partners is not None and (partner := partners[index]) is not None:
                facts += [(what, Unit(layer.name, partner.index)), (f"cosine ({what[:-3]})", round(partner.cosine, 4))]
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
            parts.append(f"{_count(self.duplicates) or 'none'} repeating another one")
        if opposite := _count(self.negatives):
            parts.append(f"{opposite} the negative of another one")
        what = "units" if self.dense else "kernels"
        said = f"{shorten(layer.name, 60)}: of {count} {what} {'; '.join(filter(None, parts))}."
        if self.spectrum is not None and first and numbers["like noise"] > (count - dead) / 2:
            said += " So many kernels like noise in a first layer point to too little training or over-fitting."
        return said


def _count(partners: Sequence[kernels.Duplicate | None] | None) -> int | None:
    return None if partners is None else sum(partner is not None for partner in partners)


_SHAPED: tuple[kernels.Character, ...] = ("oriented", "smooth", "sharp", "like noise", "cannot be told")
_KERNEL_COLUMNS = (
    Column("kernel", "unit"),
    Column("norm", "number", "L2 norm of the weights"),
    Column("dead", "text", "all zero, or a norm below a thousandth of the layer's median"),
    Column("duplicate of", "unit", "the kernel of largest cosine above 0.99 that reads the same channels"),
    Column("negative of", "unit", "the kernel of smallest cosine below -0.99 that reads the same channels"),
    Column("cosine", "number", "to the kernel that it is a duplicate of, else to the one that it is the negative of"),
    Column("high-frequency share", "percent", "energy above half the Nyquist frequency; white noise has 80 %"),
    Column("orientation", "number", "0 no direction, 1 a single one"),
    Column("looks", "text", "cannot be told: too few weights to call the kernel like noise"),
)
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


def kernel_table(layer: Layer, described: Described) -> Table:
    """Return one row for each kernel of a layer."""
    rows = []
    for index, (norm, dead) in enumerate(zip(described.norms, described.dead, strict=True)):
        same, opposite = (
            None if found is None else found[index] for found in (described.duplicates, described.negatives)
        )
        partner = same or opposite
        spectrum = described.spectrum if not dead else None
        character = described.character(index)
        row: tuple[Cell, ...] = (
            Unit(layer.name, index),
            float(norm),
            "dead" if dead else "",
            *(
                Unit(layer.name, found.index) if found else "" if described.duplicates is not None else None
                for found in (same, opposite)
            ),
            partner.cosine if partner else None,
            float(spectrum.high_frequency_share[index]) if spectrum is not None else None,
            float(spectrum.orientation[index]) if spectrum is not None else None,
            character,
        )
        rows.append(row)
    return Table("kernels", "Every kernel", _KERNEL_COLUMNS, tuple(rows))


def layer_table(layer: Layer, array: np.ndarray, described: Described) -> Table:
    """Return a layer's row in the table of layers."""
    spectrum, alive = described.spectrum, ~described.dead
    characters = [described.character(index) for index in range(len(array))]
    row: tuple[Cell, ...] = (
        layer.name,
        len(array),
        " x ".join(str(size) for size in array.shape[1:]),
        float(np.median(described.norms)),
        int(described.dead.sum()),
        _count(described.duplicates),
        _count(described.negatives),
        float(spectrum.high_frequency_share[alive].mean()) if spectrum is not None and alive.any() else None,
        spectrum.smooth_below if spectrum is not None else None,
        spectrum.sharp_above if spectrum is not None else None,
        *(characters.count(name) if spectrum is not None else None for name in _SHAPED),
    )
    return Table("layers", "Layers", _LAYER_COLUMNS, (row,))


def histograms(layer: Layer, place: int, array: np.ndarray, described: Described) -> list[Finding]:
    """Return how norms and weights of the layer at a place of the selection are spread."""

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


def metrics(rows: Sequence[Sequence[Cell]], large: Collection[str]) -> list[Finding]:
    """Return the shares over all kernels of all layers; what has a meaning for no kernel is left out.

    Args:
        rows: of the table of kernels.
        large: names of the layers whose kernels are large enough to be called like noise.
    """
    found: list[Finding] = []
    dead = [row[2] == "dead" for row in rows]
    twins, opposites = ([row[place] != "" for row in rows if row[place] is not None] for place in (3, 4))
    described = [row for row in rows if isinstance(row[6], float)]
    shares = [float(row[6]) for row in described if isinstance(row[6], float)]
    looks = [row[8] for row in described if isinstance(row[0], Unit) and row[0].layer in large]

    def add(
        name: str, value: float, total: int, title: str, description: str,
        better: Literal["lower", "neither"] = "lower",
    ) -> None:  # fmt: skip
        # All kernels of the layers are looked at, so there is no sample and no interval.
        found.append(Metric(name, value, title, description, "percent", better, total=total))

    if dead:
        add("dead_fraction", sum(dead) / len(dead), len(dead), "dead kernels",
            "Share of kernels that are zero or have a norm below a thousandth of their layer's median.")  # fmt: skip
    if twins:
        add("duplicate_fraction", sum(twins) / len(twins), len(twins), "duplicate kernels",
            "Share of kernels with a cosine above 0.99 to another one that reads the same channels.")  # fmt: skip
        add("negative_fraction", sum(opposites) / len(opposites), len(opposites), "negatives of other kernels",
            "Share of kernels with a cosine below -0.99 to another one that reads the same channels: pairs that answer "
            "to opposite things.", "neither")  # fmt: skip
    if shares:
        add("high_frequency_share", statistics.fmean(shares), len(shares), "high-frequency share",
            "Mean share of the kernels' energy above half the Nyquist frequency; white noise has 80 %.")  # fmt: skip
    if looks:
        add("like_noise_fraction", looks.count("like noise") / len(looks), len(looks), "kernels like noise",
            "Share of kernels, dead and too small ones left out, whose spectrum is like white noise.")  # fmt: skip
    return found


def in_words(rows: Sequence[Sequence[Cell]], layers: int) -> Iterator[Note]:
    """Yield a sentence on the kernels of all layers, where there are several.

    Args:
        rows: of the table of kernels.
        layers: how many layers they are of.
    """
    if layers < 2:
        return
    parts = [f"{sum(row[2] == 'dead' for row in rows) or 'none'} dead"]
    for place, what in ((3, "repeating another one"), (4, "the negative of another one")):
        asked = [row[place] != "" for row in rows if row[place] is not None]
        fewer = f" (of the {len(asked)} that can)" if len(asked) < len(rows) else ""
        parts += [f"{sum(asked) or 'none'} {what}{fewer}"] if asked else []
    yield Note(f"{layers} layers: of {len(rows)} kernels and units {'; '.join(parts)}.", "summary")
