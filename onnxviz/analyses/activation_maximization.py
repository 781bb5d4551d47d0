"""Activation maximization: pictures made to order for units, made from noise by gradient ascent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from onnxviz.analyses import storage
from onnxviz.analyses.base import Analysis, Bench, Job, Subject
from onnxviz.errors import AnalysisError, SelectionError
from onnxviz.findings import (
    Array,
    Caveat,
    Cell,
    Column,
    Coverage,
    Finding,
    Metric,
    Note,
    Picture,
    Table,
    Tile,
    TileGrid,
    merge,
)
from onnxviz.optimize.ascent import DEFAULT_TRANSFORMS, Maximized, Settings, maximize
from onnxviz.optimize.color import to_pixels
from onnxviz.optimize.optimizers import Adam, Optimizer
from onnxviz.optimize.parameterization import Fourier, Parameterization
from onnxviz.optimize.regularizers import Regularizer
from onnxviz.optimize.transforms import Fill, Transform
from onnxviz.targets import TargetSelector, has_class_units, resolve
from onnxviz.values import Target, Unit

if TYPE_CHECKING:
    from onnxviz.model import Model

Side = Annotated[int, Field(ge=8, le=4096)]

_COLUMNS = (
    Column("picture", description="Target, direction and seed."),
    Column("unit", "unit"),
    Column("target", description="What was optimized."),
    Column("direction", description="Whether the activation was driven up or down."),
    Column("seed", "integer"),
    Column("before", "number", "Activation of the start image, seen without transforms."),
    Column("after", "number", "Activation of the final image, seen without transforms."),
    Column("rise", "number", "Difference in the direction asked for; below or at 0 the optimization failed."),
    Column("class probability", "percent", "What the model itself gives the final image; only for classes."),
    Column("top class", description="Whether that is the model's first choice; only for classes."),
    Column(
        "louder start", "number", "What the start was multiplied by, because its unit was silent on it; 1: nothing."
    ),
)
_UNIT, _TARGET, _DIRECTION, _SEED, _BEFORE, _AFTER, _RISE, _PROBABILITY, _TOP, _LOUDER = range(1, 11)

Row = tuple[Cell, ...]


class ActivationMaximization(Analysis):
    """What a unit looks for: a picture made from noise so that it excites the unit most.

    Gradient ascent changes the image, never the network, until the activation of the target is as large as it gets over
    random shifts, sizes and angles. Targets are single neurons, channels, whole layers or class logits, driven up or
    down. The picture shows what is sufficient to excite the unit, which can be more exaggerated and more varied than
    anything in a photograph: read it beside real images that excite the same unit. Several seeds show several of the
    things that a unit looks for.
    """

    kind: Literal["activation_maximization"] = "activation_maximization"
    heading: ClassVar[str] = "What units look for"
    version: ClassVar[int] = 1
    cites: ClassVar[tuple[str, ...]] = (
        "Erhan, Bengio, Courville and Vincent 2009, Visualizing Higher-Layer Features of a Deep Network",
        "Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034",
        "Mordvintsev, Olah and Tyka 2015, Inceptionism: Going Deeper into Neural Networks",
        "Mordvintsev, Pezzotti, Schubert and Olah 2018, Differentiable Image Parameterizations",
        "Olah, Mordvintsev and Schubert 2017, Feature Visualization, doi:10.23915/distill.00007",
    )
    example: ClassVar[str] = """\
kind: activation_maximization
targets:
  - {layer: logits, units: [0, 1, 2]}
  - {layer: last_conv, units: 0-7, sign: both}
  - {layer: first_conv, units: 3, position: center}
steps: 160
seeds: 2
parameterization: {kind: fourier, decorrelate: true}
transforms:
  - {kind: pad, share: 0.1}
  - {kind: jitter, share: 0.08}
  - {kind: scale, minimum: 0.8, maximum: 1.2}
  - {kind: rotate, degrees: 15}
regularizers: [{kind: total_variation, weight: 0.1}, {kind: lp_norm, p: 6, weight: 0.1}]
optimizer: {kind: adam, learning_rate: 0.03}
"""

    targets: Annotated[tuple[TargetSelector, ...], Field(min_length=1)] = Field(
        description="What to make pictures for: layers with units, direction and position."
    )
    steps: int = Field(160, ge=1, le=100_000, description="Optimization steps for each picture.")
    size: Side | tuple[Side, Side] | None = Field(
        None, description="Side of the pictures in pixels, or [height, width]; the model's input size if not given."
    )
    seeds: int = Field(1, ge=1, le=100, description="Pictures for each target, each from a start of its own.")
    parameterization: Parameterization = Field(
        default_factory=Fourier, description="How an image is written while it is optimized."
    )
    transforms: tuple[Transform, ...] = Field(
        DEFAULT_TRANSFORMS, description="Random views that the target has to like, applied first to last; may be empty."
    )
    border: Fill = Field("reflect", description="What the views show beyond the image's border.")
    regularizers: tuple[Regularizer, ...] = Field((), description="What holds the image back; often not needed.")
    optimizer: Optimizer = Field(default_factory=Adam, description="How the image follows the gradient.")
    batch: int | None = Field(
        None, ge=1, le=1024, description="Pictures in one job; chosen by their size if not given. Raise it on a GPU."
    )
    keep_arrays: bool = Field(True, description="Also store the images as 32-bit floats, for other programs.")

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Split the pictures into jobs of a few, each within one layer."""
        if subject.view.input_layout == "other":
            raise AnalysisError(
                "the model's input is no image, so no picture can be made for it",
                remedy="use an analysis that needs no image",
            )
        resolved = resolve(self.targets, subject.view, subject.labels)
        own = subject.view.input_size or subject.preprocessing.size or (224, 224)
        size = self._size(own)
        larger = size[0] * size[1] / (own[0] * own[1])
        together = self.batch or max(1, min(16, 224 * 224 // (size[0] * size[1])))
        picture_bytes = self._picture_bytes(size, 1 if subject.view.input_channels == 1 else 3)
        for layer in dict.fromkeys(target.layer for target in resolved):
            wanted = [
                {"unit": t.unit, "position": t.position, "sign": t.sign, "label": t.label, "seed": subject.seed + seed}
                for t in resolved
                if t.layer == layer
                for seed in range(self.seeds)
            ]
            count = math.ceil(len(wanted) / together)
            for index in range(count):
                part = wanted[index * together : (index + 1) * together]
                yield Job(
                    name=f"{layer} {index + 1}/{count}",
                    parameters={"layer": layer, "pictures": part},
                    layers=(layer,),
                    cost=float((3 * self.steps + 2) * len(part)) * larger,
                    images=len(part),
                    bytes=storage.RECORD + len(part) * picture_bytes,
                )

    def run(self, job: Job, bench: Bench) -> list[Finding]:
        """Make the pictures of one job."""
        layer, pictures = job.parameters["layer"], job.parameters["pictures"]
        targets = [_target(layer, entry) for entry in pictures]
        seeds = [int(entry["seed"]) for entry in pictures]
        settings = self._settings(bench)
        made = maximize(
            bench.model, targets, seeds, settings, told=lambda done, total: bench.progress(done, total, "steps")
        )
        classes = has_class_units(bench.subject.view.layer(layer), bench.subject.view)
        certainty = _certainty(bench.model, made.images, targets) if classes else [(None, None)] * len(targets)
        rows = tuple(
            _row(target, seed, float(made.before[i]), float(made.after[i]), float(made.louder[i]), *certainty[i])
            for i, (target, seed) in enumerate(zip(targets, seeds, strict=True))
        )
        pixels = to_pixels(made.images)
        tiles = tuple(_tile(row, pixels[i], made.curves[i]) for i, row in enumerate(rows))
        findings: list[Finding] = [
            TileGrid("pictures", "Pictures", tiles),
            Table("activations", "Activation before and after", _COLUMNS, rows),
        ]
        if self.keep_arrays:
            findings.append(_array(job.name, made, targets, seeds))
        return findings

    def combine(self, parts: Sequence[list[Finding]], subject: Subject) -> list[Finding]:
        """Put the pictures of one target side by side and say in words what came out."""
        merged = merge(parts)
        grids = [finding for finding in merged if isinstance(finding, TileGrid)]
        tables = [finding for finding in merged if isinstance(finding, Table)]
        arrays = [finding for finding in merged if isinstance(finding, Array)]
        if not grids or not tables:
            return merged
        rows, tiles = tables[0].rows, grids[0].tiles
        grid = TileGrid(
            "pictures", "Pictures", tuple(self._joined(rows, tiles)), self._description(subject), _tile_size(tiles)
        )
        table = Table("activations", "Activation before and after", _COLUMNS, rows, _TABLE_DESCRIPTION)
        found: list[Finding] = [Note(_summary(rows), "summary"), *self._caveats(rows, subject)]
        return [*found, grid, *self._coverage(rows, subject), *_metrics(rows), table, *arrays]

    def _size(self, default: tuple[int, int]) -> tuple[int, int]:
        if self.size is None:
            return default
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _picture_bytes(self, size: tuple[int, int], channels: int) -> int:
        """Estimate what one picture takes: its file, its rows, the points of its curve, its numbers."""
        picture = storage.png(*size) if max(size) < _SMALL else storage.jpeg(*size)
        numbers = storage.dense(channels * size[0] * size[1]) if self.keep_arrays else 0
        return picture + 2 * storage.PICTURE_ROW + 20 * min(self.steps, 256) + numbers

    def _settings(self, bench: Bench) -> Settings:
        grey = bench.subject.preprocessing.channels == 1 or bench.subject.view.input_channels == 1
        return Settings(
            steps=self.steps,
            size=self._size(bench.model.input_size),
            channels=1 if grey else 3,
            parameterization=self.parameterization,
            transforms=self.transforms,
            fill=self.border,
            regularizers=self.regularizers,
            optimizer=self.optimizer,
        )

    def _joined(self, rows: Sequence[Row], tiles: Sequence[Tile]) -> Iterator[Tile]:
        """Join the tiles of one target: its seeds and directions side by side, curves averaged over seeds."""
        groups: dict[tuple[Cell, Cell], list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault((row[_UNIT], row[_TARGET]), []).append(index)
        for members in groups.values():
            # The curve and the figures are those of the direction asked for first.
            lead = [i for i in members if rows[i][_DIRECTION] == rows[members[0]][_DIRECTION]]
            curve = np.mean([tiles[i].curve for i in lead], axis=0)
            several = len(lead) > 1
            yield Tile(
                title=tiles[members[0]].title,
                unit=tiles[members[0]].unit,
                pictures=tuple(picture for i in members for picture in tiles[i].pictures),
                captions=tuple(caption for i in members for caption in tiles[i].captions),
                facts=(*_facts([rows[i] for i in lead]), ("regularizers", self._regularizer_words())),
                curve=tuple(float(value) for value in curve),
                curve_title=f"activation at each step{', mean over seeds' if several else ''}",
            )

    def _description(self, subject: Subject) -> str:
        height, width = self._size(subject.view.input_size or subject.preprocessing.size or (0, 0))
        transforms = ", ".join(_transform_words(transform) for transform in self.transforms) or "no random views"
        colours = ", decorrelated colours" if self.parameterization.decorrelate else ""
        pixels = f" of {height} x {width} pixels" if height else ""
        return (
            f"{self.steps} steps of {self._optimizer_words()} "
            f"on images{pixels}, {self.parameterization.kind} parameterization{colours}; views: {transforms}; "
            f"regularizers: {self._regularizer_words()}. A channel's activation is its mean over all positions, "
            "a whole layer's the mean of squares; a tile's figures are means over its seeds."
        )

    def _optimizer_words(self) -> str:
        optimizer, name = self.optimizer, _OPTIMIZERS[self.optimizer.kind]
        if optimizer.kind != "adam":
            return f"{name} at rate {optimizer.learning_rate:g}"
        falling = " falling to 0" if optimizer.anneal else ""
        damped = f", damping {optimizer.damping:g}," if optimizer.damping else ""
        return f"{name} at rate {optimizer.learning_rate:g}{falling}{damped}"

    def _regularizer_words(self) -> str:
        words = [
            f"L{entry.p:g} norm x {entry.weight:g}"
            if entry.kind == "lp_norm"
            else f"total variation^{entry.exponent:g} x {entry.weight:g}"
            for entry in self.regularizers
        ]
        return ", ".join(words) or "none"

    def _coverage(self, rows: Sequence[Row], subject: Subject) -> Iterator[Coverage]:
        """Say for every layer how many of its units have a picture."""
        asked = resolve(self.targets, subject.view, subject.labels)
        for name in dict.fromkeys(target.layer for target in asked if target.unit is not None):
            done = {row[_UNIT] for row in rows if isinstance(row[_UNIT], Unit) and row[_UNIT].layer == name}  # type: ignore[union-attr]
            total = subject.view.layer(name).unit_count or len(done)
            wanted = len({target.unit for target in asked if target.layer == name and target.unit is not None})
            reason = "" if wanted == total else "the recipe names these units"
            if len(done) < wanted:
                reason = f"{wanted - len(done)} of the {wanted} units asked for have no picture, because a job failed"
            yield Coverage(f"units of {name}", len(done), total, reason, f"coverage.{name}")

    def _why_flat(self, subject: Subject) -> str:
        """Say what may keep activations from rising: operators without a slope, where there are any."""
        layers = dict.fromkeys(target.layer for target in resolve(self.targets, subject.view, subject.labels))
        stops = dict.fromkeys(stop for name in layers for stop in subject.view.gradient_stops(subject.view.layer(name)))
        if stops:
            more = f" and {len(stops) - 2} more" if len(stops) > 2 else ""
            return (
                f"every path to the image ends in an operator without a slope ({', '.join(list(stops)[:2])}{more}), "
                "so that gradients do not say how to change it. Layers before that can be driven."
            )
        return (
            "it may be dead, or silent on the start image so that it has no gradient. More steps, another seed or the "
            "layer before the activation function may help."
        )

    def _caveats(self, rows: Sequence[Row], subject: Subject) -> Iterator[Caveat]:
        flat = [str(row[0]) for row in rows if not _number(row[_RISE]) > 0]
        if flat:
            shown = ", ".join(flat[:20]) + (f" and {len(flat) - 20} more (see the table)" if len(flat) > 20 else "")
            yield Caveat(
                f"The activation did not rise for {len(flat)} of {len(rows)} pictures: {shown}. Such a picture shows "
                f"nothing about its unit: {self._why_flat(subject)}",
                "did_not_rise",
            )
        for name in dict.fromkeys(target.layer for target in resolve(self.targets, subject.view, subject.labels)):
            layer = subject.view.layer(name)
            if layer.operator == "Softmax" and has_class_units(layer, subject.view):
                yield Caveat(
                    f"{name} is a softmax: its output also rises when other classes fall, and its gradient vanishes "
                    "where it is near 0 or 1. The layer `logits` usually gives clearer pictures.",
                    "softmax_target",
                )
        if not subject.preprocessing.declared:
            yield Caveat(
                "Nobody said how images become this model's input. With the wrong preprocessing, colours and contrast "
                "of these pictures are wrong too.",
                "preprocessing",
            )


_SMALL = 128
"""Pictures with shorter sides are stored exactly and enlarged in whole steps."""

_OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "ascent": "plain gradient ascent"}
_TABLE_DESCRIPTION = "One line for each picture; activations are of the picture as it is, without random views."


def _transform_words(transform: Transform) -> str:
    if transform.kind == "scale":
        return f"scaled {transform.minimum:g} to {transform.maximum:g}"
    if transform.kind == "rotate":
        return f"turned ±{transform.degrees:g}°"
    return f"{'shifted ±' if transform.kind == 'jitter' else 'margin '}{transform.share:.0%}"


def _target(layer: str, entry: dict[str, Any]) -> Target:
    position = entry["position"]
    return Target(layer, entry["unit"], None if position is None else tuple(position), entry["sign"], entry["label"])


def _title(target: Target) -> str:
    """Return how a target is called: class name, unit, neuron or layer."""
    if target.unit is None:
        return f"{target.layer} (whole layer)"
    name = target.label or f"{target.layer}:{target.unit}"
    if target.position is None:
        return name
    return f"{name} at {'the centre' if not target.position else list(target.position)}"


def _row(
    target: Target,
    seed: int,
    before: float,
    after: float,
    louder: float,
    probability: float | None,
    top: bool | None,
) -> tuple[Cell, ...]:
    title, direction = _title(target), "up" if target.sign > 0 else "down"
    name = f"{title}, {'' if target.sign > 0 else 'negative, '}seed {seed}"
    unit = None if target.unit is None else Unit(target.layer, target.unit)
    shown = None if top is None else ("yes" if top else "no")
    return (
        name,
        unit,
        title,
        direction,
        seed,
        before,
        after,
        target.sign * (after - before),
        probability,
        shown,
        louder,
    )


def _certainty(model: Model, images: np.ndarray, targets: Sequence[Target]) -> list[tuple[float | None, bool | None]]:
    """Return the probability that the model gives each image's class, and whether it is the first choice."""
    if all(target.unit is None for target in targets):
        return [(None, None)] * len(targets)
    try:
        probabilities = model.probabilities(images)
    except SelectionError:  # a segmentation or a detector: one class for each position, none for the picture
        return [(None, None)] * len(targets)
    return [
        (float(line[target.unit]), int(line.argmax()) == target.unit)
        if target.unit is not None and target.unit < len(line)
        else (None, None)
        for line, target in zip(probabilities, targets, strict=True)
    ]


def _tile_size(tiles: Sequence[Tile]) -> int:
    """Return the width at which small pictures are shown, a whole multiple of theirs; 0 leaves it to the report."""
    width = max((picture.width for tile in tiles for picture in tile.pictures), default=0)
    return width * max(1, round(192 / width)) if 0 < width < _SMALL else 0


def _tile(row: Row, pixels: np.ndarray, curve: np.ndarray) -> Tile:
    """Return the tile of one picture; `combine` joins those of one target."""
    small = max(pixels.shape[:2]) < _SMALL
    picture = Picture(pixels, alt=f"optimized picture: {row[0]}", format="png" if small else "jpeg", pixelated=small)
    unit = row[_UNIT]
    assert unit is None or isinstance(unit, Unit)
    sure = "" if row[_PROBABILITY] is None else f", {_number(row[_PROBABILITY]):.1%}"
    arrow = "" if row[_DIRECTION] == "up" else "driven down, "
    loud = "" if row[_LOUDER] == 1 else f"; start x {_number(row[_LOUDER]):g}"
    caption = f"{arrow}seed {row[_SEED]}: {_figure(row[_BEFORE])} to {_figure(row[_AFTER])}{sure}{loud}"
    # A line a few hundred pixels wide needs no more points.
    thin = curve[:: max(1, math.ceil(len(curve) / 256))]
    return Tile(str(row[_TARGET]), unit, (picture,), curve=tuple(float(v) for v in thin), captions=(caption,))


def _facts(rows: Sequence[Row]) -> tuple[tuple[str, Cell], ...]:
    """Return the figures of one target and direction, over its seeds."""

    def mean(column: int) -> float:
        return math.fsum(_number(row[column]) for row in rows) / len(rows)

    facts: list[tuple[str, Cell]] = [
        ("direction", rows[0][_DIRECTION]),
        ("before", mean(_BEFORE)),
        ("after", mean(_AFTER)),
    ]
    if rows[0][_PROBABILITY] is not None:
        facts.append(("class probability", mean(_PROBABILITY)))
    seeds = [row[_SEED] for row in rows]
    facts.append(("seed", seeds[0]) if len(seeds) == 1 else ("seeds", ", ".join(map(str, seeds))))
    loud = [_number(row[_LOUDER]) for row in rows if row[_LOUDER] != 1]
    if loud:
        facts.append(("louder start", f"x {max(loud):g}, silent on the usual one"))
    if any(not _number(row[_RISE]) > 0 for row in rows):
        facts.append(("did not rise", "the picture shows nothing about this unit"))
    return tuple(facts)


def _metrics(rows: Sequence[Row]) -> Iterator[Metric]:
    rose = [_number(row[_RISE]) > 0 for row in rows]
    yield Metric(
        "rise_fraction", sum(rose) / len(rose), "pictures that rose",
        "Share of pictures whose activation moved in the direction asked for.", "percent", "higher", "rise_fraction",
    )  # fmt: skip
    classes = [row for row in rows if row[_PROBABILITY] is not None and row[_DIRECTION] == "up"]
    if classes:
        mean = math.fsum(_number(row[_PROBABILITY]) for row in classes) / len(classes)
        yield Metric(
            "mean_class_probability", mean, "class probability",
            "Mean of what the model gives its class pictures.", "percent", "higher", "mean_class_probability",
        )  # fmt: skip
        yield Metric(
            "top1_rate", sum(row[_TOP] == "yes" for row in classes) / len(classes),
            "recognised by the model",
            "Share of class pictures whose class is the model's first choice.", "percent", "higher", "top1_rate",
        )  # fmt: skip


def _summary(rows: Sequence[Row]) -> str:
    """Say in words what was made and whether it worked."""
    count, targets = len(rows), len({(row[_UNIT], row[_TARGET]) for row in rows})
    rose = sum(_number(row[_RISE]) > 0 for row in rows)
    made = f"{count} picture{'s' * (count != 1)} of {targets} target{'s' * (targets != 1)}"
    if rose == count:
        outcome = "the activation moved in the direction asked for" + (" in every one" if count > 1 else "")
    else:
        outcome = f"the activation moved in the direction asked for in {rose}, not in {count - rose}"
    text = f"{made}; {outcome}."
    if count <= 6:
        each = [f"{row[0]}: {_figure(row[_BEFORE])} to {_figure(row[_AFTER])}" for row in rows]
        text += f" Activation before and after: {'; '.join(each)}."
    classes = [row for row in rows if row[_TOP] is not None and row[_DIRECTION] == "up"]
    if classes:
        known = sum(row[_TOP] == "yes" for row in classes)
        text += f" The model itself names the class first for {known} of {len(classes)} class pictures."
    return text


def _array(name: str, made: Maximized, targets: Sequence[Target], seeds: Sequence[int]) -> Array:
    arrays = {
        "images": made.images,
        "curves": made.curves,
        "before": made.before,
        "after": made.after,
        "louder": made.louder,
        "unit": np.asarray([-1 if target.unit is None else target.unit for target in targets], dtype=np.int64),
        "sign": np.asarray([target.sign for target in targets], dtype=np.int64),
        "seed": np.asarray(seeds, dtype=np.int64),
    }
    return Array(f"images.{name}", f"Pictures of {name} as floats", arrays)


def _number(cell: Cell) -> float:
    assert isinstance(cell, int | float)
    return float(cell)


def _figure(cell: Cell) -> str:
    """Write an activation with three digits, and without an exponent unless it is very large or small."""
    value = _number(cell)
    return f"{value:.0f}" if 100 <= abs(value) < 1e7 else f"{value:.3g}"
