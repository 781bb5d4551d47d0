"""Activation maximization: pictures made to order for units, made from noise by gradient ascent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from onnxviz.analyses import presentation, storage
from onnxviz.analyses.activation_maximization import findings as shown
from onnxviz.analyses.activation_maximization import made_pictures
from onnxviz.analyses.activation_maximization.goals import (
    BeginPicture,
    DiversityTerm,
    Goal,
    ObjectiveEntry,
    are_classes,
    goals,
    picture_of,
    reference_data,
)
from onnxviz.analyses.activation_maximization.how_made import held_by, how_made, kinds_in, require_suitable
from onnxviz.analyses.activation_maximization.made_pictures import Example, Limits, MadePicture, Standing
from onnxviz.analyses.activation_maximization.making import make, opened_generator
from onnxviz.analyses.activation_maximization.measurements import (
    SIMPLE,
    STAGE,
    Beside,
    Measured,
    RealActivations,
    RealImages,
    certainties,
    key_of_goal,
    measurable,
    measure_real,
    measure_simple,
    own_activations,
    real_jobs,
    simple_jobs,
)
from onnxviz.analyses.activation_maximization.photographs import (
    PHOTOGRAPHS,
    Photographs,
    measure_photographs,
    measured_photographs,
    photograph_jobs,
)
from onnxviz.analyses.base import Analysis, Job, JobContext, Subject
from onnxviz.core.devices import Device
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Array, Caveat, Coverage, Finding, Note, TileGrid
from onnxviz.data.domains import domain_of
from onnxviz.data.generator_file import generator_file
from onnxviz.data.image_choice import choose_images, find_source
from onnxviz.graph.targets import TargetSelector
from onnxviz.optimize.ascent import Maximized
from onnxviz.optimize.edits import Edit
from onnxviz.optimize.feature_statistics import restrained_layers, suiting
from onnxviz.optimize.optimizers import Optimizer
from onnxviz.optimize.parameterizations import Fourier, ParameterizationChoice
from onnxviz.optimize.parameterizations.maco import opacity_from_gradients
from onnxviz.optimize.regularizers import Regularizer
from onnxviz.optimize.settings import CLASS_FOCUS, AscentSettings, Octaves, Precision, Usual, usual
from onnxviz.optimize.stopping import EarlyStopping
from onnxviz.optimize.transforms import Fill, Transform

Percentile = Annotated[float, Field(gt=0, le=100)]
Side = Annotated[int, Field(ge=8, le=4096)]

_BESIDE = 0.2
"""Share of a step through a whole network that views, parameterization and optimizer take, however deep it is run."""
_TILE = 192
"""Width in pixels to which small pictures are enlarged, about."""
_DIVERSE = 4
"""Pictures in a group that is to be diverse, if the recipe gives no number."""


class ActivationMaximization(Analysis):
    """What a unit looks for: a picture made from noise so that it excites the unit most.

    Gradient ascent changes the image, never the network, until the activation of the target is as large as it gets over
    random shifts, sizes and angles. Targets are single neurons, channels, whole layers or class logits, driven up or
    down; objectives are sums and products of these and of others, such as directions, styles and differences. The
    picture shows what is sufficient to excite the unit, which can be more exaggerated and more varied than anything in
    a photograph: give `data`, and each picture stands beside the real images that excite the same unit, with its place
    among all of them. Several seeds, or a group that is kept diverse, show several of the things that a unit looks for.
    """

    kind: Literal["activation_maximization"] = "activation_maximization"
    heading: ClassVar[str] = "What units look for"
    version: ClassVar[int] = 8
    results: ClassVar[tuple[type, ...]] = (MadePicture, Example, Standing, Limits, Measured)
    cites: ClassVar[tuple[str, ...]] = (
        "Erhan, Bengio, Courville and Vincent 2009, Visualizing Higher-Layer Features of a Deep Network",
        "Simonyan, Vedaldi and Zisserman 2013, arXiv:1312.6034",
        "Mordvintsev, Olah and Tyka 2015, Inceptionism: Going Deeper into Neural Networks",
        "Mordvintsev, Pezzotti, Schubert and Olah 2018, Differentiable Image Parameterizations",
        "Olah, Mordvintsev and Schubert 2017, Feature Visualization, doi:10.23915/distill.00007",
    )
    metric_names: ClassVar[Mapping[str, str]] = presentation.described(shown.METRICS)
    reading: ClassVar[str] = (
        "Each picture began as noise, or as what is said beside it, and was changed step by step until it excites its"
        " unit or class most. Look for what repeats: eyes, feathers, textures. It is an exaggeration, not a "
        "photograph."
    )
    side_by_side: ClassVar[bool] = True
    example: ClassVar[str] = """\
kind: activation_maximization
targets:
  - {layer: logits, units: [0, 1, 2]}
  - {layer: last_conv, units: 0-7, sign: both}
  - {layer: first_conv, units: 3, position: center}
objectives:
  - {kind: channel, layer: last_conv, unit: 4}
  - {title: two units at once, objective: {kind: sum, terms: [
      {kind: channel, layer: last_conv, unit: 4}, {kind: channel, layer: last_conv, unit: 5, weight: 0.5}]}}
data: photos            # real images: where each picture stands among them, and those that excite the unit most
examples: 4
steps: 160
seeds: 2
parameterization: {kind: fourier, decorrelate: true, blur: 0.5}
transforms:
  - {kind: jitter, share: 0.15}
  - {kind: scale, minimum: 0.6, maximum: 1.3}
  - {kind: rotate, degrees: 25}
regularizers: [{kind: total_variation, weight: 0.5}, {kind: lp_norm, p: 6, weight: 0.1}]
optimizer: {kind: adam, learning_rate: 0.05, average: 0.5}
focus: 2
"""

    targets: tuple[TargetSelector, ...] = Field(
        (), description="What to make pictures for: layers with units, direction and position."
    )
    objectives: tuple[ObjectiveEntry, ...] = Field(
        (), description="What else to make pictures for: objectives, or {title, objective}."
    )
    data: str | None = Field(
        None, description="A data set of real images, on which every target is measured for comparison."
    )
    limit: int | None = Field(
        None, ge=1, description="Most real images to measure, spread evenly over the data set; all if not given."
    )
    examples: int = Field(4, ge=0, le=64, description="Real images beside each picture: those that excite it most.")
    steps: int = Field(256, ge=1, le=100_000, description="Optimization steps for each picture.")
    size: Side | tuple[Side, Side] | None = Field(
        None, description="Side of the pictures in pixels, or [height, width]; the model's input size if not given."
    )
    seeds: int = Field(1, ge=1, le=100, description="Pictures for each target, each from a start of its own.")
    group: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Pictures made together for each target and seed, which objectives may compare; 4 if they are to "
        "be diverse, else 1.",
    )
    diversity: DiversityTerm | None = Field(
        None, description="Keep the pictures of a group different; `{}` for the usual weight."
    )
    focus: float | None = Field(
        None,
        ge=0,
        le=16,
        description="How much a target should stand out among the units of its layer (see the objective `channel`); "
        f"{CLASS_FOCUS:g} for classes and 0 for other units if not given.",
    )
    begin: Literal["noise", "grey"] | BeginPicture = Field(
        "noise", description="What the pictures start from: noise, grey, or an image of a data set."
    )
    parameterization: ParameterizationChoice = Field(
        default_factory=Fourier, description="How an image is written while it is optimized."
    )
    colors: Photographs | None = Field(
        None, description="Take the colours' correlations from these photographs; the published ones if not given."
    )
    magnitude: Photographs | None = Field(
        None, description="Take the magnitudes of the `maco` parameterization from these photographs."
    )
    transforms: tuple[Transform, ...] | None = Field(
        None,
        description="Random views that the target has to like, applied first to last; may be empty. If not given, wide "
        "ones for classes (shifted ±15%, scaled 0.6 to 1.3, turned ±25°) and narrow ones for other units (±5%, 0.9 to "
        "1.1, ±10°).",
    )
    border: Fill = Field("reflect", description="What the views show beyond the image's border.")
    regularizers: tuple[Regularizer, ...] | None = Field(
        None,
        description="What holds the image back; may be empty. If not given, nothing for units other than classes; for "
        "classes total variation x 0.5 and, where weights read a feature map to tell them, feature statistics x 0.3.",
    )
    edits: tuple[Edit, ...] = Field(
        (), description="What is done to the pixels after a step; for `{kind: pixel, squash: none}` only."
    )
    optimizer: Optimizer | None = Field(
        None,
        description="How the image follows the gradient. If not given, Adam at rate 0.05: for classes averaged over "
        "the last half of the steps, for other units falling to 0; larger where there are fewer than 256, up to 0.12.",
    )
    stopping: EarlyStopping | None = Field(
        None, description="Stop pictures that no longer rise; `{}` for the usual limits. Never if not given."
    )
    octaves: Octaves | None = Field(None, description="Work from small to large; at one size if not given.")
    redirect: int = Field(
        16,
        ge=0,
        description="Steps in which gradients pass ReLUs that would stop them all, so that dead units start; further "
        "ones follow for units that are still silent.",
    )
    begin_again: bool = Field(
        True,
        description="Begin a picture that a plain colour, a grating or a real image beats by more than 2 % once more, "
        "with that one, and show the better of both; for single pictures begun with noise, of units but classes.",
    )
    opacity: Percentile | None = Field(
        None,
        description="Let pixels fade that the target cared little about while the picture was made, as MaCo shows "
        "them: those whose slopes, added up, reach this percentile of the picture's are opaque; 80 there. All are if "
        "not given.",
    )
    precision: Precision = Field("float32", description="In what the network computes; bfloat16 is faster on a GPU.")
    batch: int | None = Field(
        None, ge=1, le=1024, description="Pictures in one job; chosen by their size and the device if not given."
    )
    keep_arrays: bool = Field(True, description="Also store the images as 32-bit floats, for other programs.")

    @model_validator(mode="after")
    def _sound(self) -> ActivationMaximization:
        """Refuse choices that do not go together."""
        form = self.parameterization
        if not self.targets and not self.objectives:
            raise ValueError("give `targets`, `objectives` or both: there is nothing to make pictures for")
        if self.edits and not (form.kind == "pixel" and form.squash == "none"):
            names = ", ".join(edit.kind for edit in self.edits)
            raise ValueError(
                f"edits ({names}) change pixels, and this parameterization has none that are free; "
                "give `parameterization: {kind: pixel, squash: none}`"
            )
        if self.diversity is not None and self.together < 2:
            raise ValueError("a group of one picture cannot be diverse; give `group: 2` or more")
        if self.opacity is not None and "alpha" in kinds_in(form):
            raise ValueError("`opacity` is for parameterizations without an opacity of their own, which `alpha` has")
        if self.magnitude is not None and "maco" not in kinds_in(form):
            raise ValueError("`magnitude` needs `parameterization: {kind: maco}`")
        return self

    @property
    def _generators(self) -> tuple[str, ...]:
        """Names of the data that pictures are made with, where they are made by a generator."""
        form = self.parameterization
        return (form.model,) if form.kind == "generator" else ()

    @property
    def _photographs(self) -> dict[str, Photographs]:
        """What is measured of photographs, and of which."""
        return {name: value for name, value in (("colors", self.colors), ("magnitude", self.magnitude)) if value}

    @property
    def together(self) -> int:
        """How many pictures are made together for each target and seed."""
        return self.group or (1 if self.diversity is None else _DIVERSE)

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Split the pictures into jobs of a few, each of the same layers; before them, what is measured on images."""
        if subject.view.input_layout == "other":
            raise AnalysisError(
                "the model's input is no image, so no picture can be made for it",
                remedy="use an analysis that needs no image",
            )
        require_suitable(self, subject)
        found = self._goals(subject)
        for layers in dict.fromkeys(goal.layers for goal in found):
            restrained_layers(subject.view, layers, self.regularizers or ())
        for name in self._generators:
            generator_file(name, subject.data)
        photographs = list(photograph_jobs(self._photographs, self._size(subject.input_size), subject))
        images = self._real_images(subject)
        beside = [] if images is None else list(real_jobs(found, images, subject))
        beside += simple_jobs(found, self._size(subject.input_size), subject)
        yield from (*photographs, *beside)
        yield from self._picture_jobs(found, photographs, beside, subject)

    def _picture_jobs(
        self, found: Sequence[Goal], photographs: Sequence[Job], beside: Sequence[Job], subject: Subject
    ) -> Iterator[Job]:
        """Yield the jobs that make pictures; of those that measure, each needs the ones for its goals."""
        own, size = subject.input_size, self._size(subject.input_size)
        larger = size[0] * size[1] / (own[0] * own[1])
        pictures = self.batch or _pictures_in_a_job(size, subject.device)
        together = max(1, pictures // self.together)
        picture_bytes = self._picture_bytes(size, domain_of(subject.preprocessing).planes)
        by_layers: dict[tuple[str, ...], list[Goal]] = {}
        for goal in found:
            by_layers.setdefault(goal.layers, []).append(goal)
        for layers, goals_there in by_layers.items():
            wanted = [
                (goal, {**goal.to_data(), "seed": subject.seed + seed, "examples": self.examples if seed == 0 else 0})
                for goal in goals_there
                for seed in range(self.seeds)
            ]
            count = math.ceil(len(wanted) / together)
            share = subject.view.share_of_work([subject.view.layer(layer) for layer in layers], own)
            depth = _BESIDE + (1.0 - _BESIDE) * share
            for index in range(count):
                part = wanted[index * together : (index + 1) * together]
                asked = [goal for goal, _ in part]
                keys = {key_of_goal(goal) for goal in asked}
                measured = [job for job in beside if not keys.isdisjoint(job.parameters["keys"])]
                real = any(job.parameters["stage"] == STAGE for job in measured)
                made = len(part) * self.together
                shown_bytes = sum(entry["examples"] for _, entry in part) * picture_bytes * real
                yield Job(
                    name=f"{' + '.join(layers)} {index + 1}/{count}",
                    parameters={"layer": layers[0], "pictures": [entry for _, entry in part]},
                    layers=layers,
                    data=self._data_of(asked, subject, real=real),
                    cost=float((3 * self.steps + 2) * made) * larger * depth,
                    images=made,
                    needs=tuple(job.name for job in (*photographs, *measured)),
                    bytes=storage.RECORD + made * picture_bytes + shown_bytes,
                )

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:
        """Say which metrics need classes or real images, where there are none."""
        classes = any(are_classes(job.layers, subject) for job in jobs if "pictures" in job.parameters)
        return shown.unproduced(classes=classes, real=self.data is not None)

    def _data_of(self, found: Sequence[Goal], subject: Subject, *, real: bool) -> tuple[str, ...]:
        names = list(reference_data(found, subject.data))
        if isinstance(self.begin, BeginPicture):
            names.append(picture_of(self.begin.name, subject.data)[0])
        if real and self.data is not None:
            names.append(self.data)
        names += self._generators
        return tuple(dict.fromkeys(names))

    def _real_images(self, subject: Subject) -> RealImages | None:
        if self.data is None:
            return None
        source = find_source(self.data, subject.data)
        own, chosen = subject.input_size, choose_images(source, None, self.limit or len(source))
        return RealImages(self.data, tuple(chosen), len(source), own, self._size(own))

    def _goals(self, subject: Subject) -> list[Goal]:
        return goals(self.targets, self.objectives, self.diversity, self.together, self.focus, subject)

    def _size(self, default: tuple[int, int]) -> tuple[int, int]:
        if self.size is None:
            return default
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _picture_bytes(self, size: tuple[int, int], channels: int) -> int:
        """Estimate what one picture takes: its file, its rows, the points of its curve, its numbers."""
        picture = storage.png(*size) if max(size) < presentation.SMALL else storage.jpeg(*size)
        planes = channels + (self.opacity is not None)
        numbers = storage.dense(planes * size[0] * size[1]) if self.keep_arrays else 0
        return picture + 2 * storage.PICTURE_ROW + 20 * min(self.steps, presentation.POINTS) + numbers

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Make the pictures of one job, or measure images for it."""
        stage = job.parameters.get("stage")
        if stage == STAGE:
            return [measure_real(job, context)]
        if stage == SIMPLE:
            return [measure_simple(job, context)]
        if stage == PHOTOGRAPHS:
            return [measure_photographs(self._photographs, self._size(context.model.input_size), job, context)]
        entries = job.parameters["pictures"]
        found, seeds = [Goal.of(entry) for entry in entries], [int(entry["seed"]) for entry in entries]
        beside = Beside.of(context)
        made, begun = make(self, self._settings(found[0].layers, context), found, seeds, beside, context)
        results = self._results(made, entries, found, beside, begun, context)
        images = made.images
        if self.opacity is not None:
            opacity = opacity_from_gradients(made.importance, self.opacity)
            images = np.concatenate([images, opacity[:, None]], axis=1)
        pixels = made_pictures.shown_pixels(images, context.model.domain)
        pictures = [result.drawn(shown) for result, shown in zip(results, pixels, strict=True)]
        return [*pictures, *([made_pictures.numbers_of(job.name, made, results)] if self.keep_arrays else [])]

    def _results(
        self,
        made: Maximized,
        entries: Sequence[Mapping[str, Any]],
        found: Sequence[Goal],
        beside: Beside,
        begun: Sequence[str],
        context: JobContext,
    ) -> list[MadePicture]:
        """Return the numbers of every picture."""
        each = [goal for goal in found for _ in range(self.together)]
        images = made_pictures.opaque(made.images, context.model.domain)
        certainty = certainties(images, each, context)
        activations = own_activations(images, each, beside.real, context)
        results = []
        for index, goal in enumerate(each):
            place, member = divmod(index, self.together)
            known, value = beside.real.get(key_of_goal(goal)), activations[index]
            before, after = (goal.factor * float(values[index]) for values in (made.before, made.after))
            simple, subject = beside.simple.get(key_of_goal(goal)), context.subject
            examples = int(entries[place]["examples"]) if member == 0 else 0
            results.append(
                MadePicture(
                    title=goal.title,
                    unit=goal.unit,
                    sign=goal.sign,
                    seed=int(entries[place]["seed"]),
                    member=(member + 1, self.together) if self.together > 1 else None,
                    before=before,
                    after=after,
                    start_gain=float(made.start_gain[index]),
                    steps=int(made.taken[index]),
                    probability=certainty[index][0],
                    recognised=certainty[index][1],
                    activation=value,
                    standing=None
                    if known is None or value is None
                    else made_pictures.standing(value, known.values, goal.sign),
                    limits=made_pictures.limits_of(goal, before, after, simple, known, begun[index], subject),
                    curve=presentation.thinned(goal.factor * made.curves[index][: made.taken[index]]),
                    examples=self._examples(goal, beside.real, examples, subject),
                )
            )
        return results

    def _examples(
        self, goal: Goal, real: Mapping[str, RealActivations], count: int, subject: Subject
    ) -> tuple[Example, ...]:
        known = real.get(key_of_goal(goal))
        if known is None or self.data is None or not count:
            return ()
        return made_pictures.examples_of(goal, known, find_source(self.data, subject.data), subject, count)

    def _suits(self, layers: Sequence[str], size: tuple[int, int], subject: Subject) -> Usual:
        """Return what the recipe says of views, regularizers, optimizer and blur, or else what is usual."""
        form = self.parameterization
        domain = domain_of(subject.preprocessing)
        suits = usual(size, self.steps, classes=are_classes(layers, subject), photographic=domain.photographic)
        held = suiting(suits.regularizers, subject.view, layers)
        return Usual(
            suits.transforms if self.transforms is None else self.transforms,
            held if self.regularizers is None else self.regularizers,
            self.optimizer or suits.optimizer,
            form.blur if form.kind == "fourier" and form.blur is not None else suits.blur,
            form.mean_color if form.kind == "fourier" and form.mean_color is not None else suits.mean_color,
        )

    def _suits_kinds(self, asked: Sequence[Goal], subject: Subject) -> dict[str, Usual]:
        """Return the same for each kind of targets that there is."""
        found = {are_classes(goal.layers, subject): goal.layers for goal in asked}
        kinds, size = {True: "classes", False: "other units"}, self._size(subject.input_size)
        return {kinds[kind]: self._suits(found[kind], size, subject) for kind in sorted(found, reverse=True)}

    def _settings(self, layers: Sequence[str], context: JobContext) -> AscentSettings:
        domain, measured = context.model.domain, measured_photographs(context)
        size = self._size(context.model.input_size)
        suits = self._suits(layers, size, context.subject)
        form = self.parameterization
        return AscentSettings(
            steps=self.steps,
            size=size,
            channels=domain.planes,
            samples=domain.channels,
            group=self.together,
            parameterization=suits.written(form),
            begin="grey" if self.begin == "grey" else "noise",
            transforms=suits.transforms,
            fill=self.border,
            regularizers=suits.regularizers,
            edits=self.edits,
            optimizer=suits.optimizer,
            stopping=self.stopping,
            octaves=self.octaves,
            redirect=self.redirect,
            precision=self.precision,
            importance=self.opacity is not None,
            colors=measured.get("colors"),
            magnitude=measured.get("magnitude"),
            generators={
                name: opened_generator(name, context.subject.data, context.model.device) for name in self._generators
            },
        )

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Put the pictures of one target side by side and say in words what came out."""
        made = [one for one in found if isinstance(one, MadePicture)]
        arrays: list[Finding] = [one for one in found if isinstance(one, Array)]
        if not made:
            return arrays
        asked = self._goals(subject)
        suits = self._suits_kinds(asked, subject)
        tiles = tuple(shown.tiles(made, (("regularizers", held_by(suits)),)))
        size = presentation.tile_size(tiles, _TILE)
        return [
            Note(shown.summary(made), "summary"),
            *shown.caveats(made, asked, subject),
            *self._unmeasured(asked),
            TileGrid("pictures", "Pictures", tiles, self._description(subject, suits), size),
            *shown.coverage(made, asked, subject),
            *self._coverage(subject),
            *shown.metrics(made),
            presentation.table(
                "activations", "Activation before and after", shown.COLUMNS, made, shown.TABLE_DESCRIPTION
            ),
            *arrays,
        ]

    def _coverage(self, subject: Subject) -> Iterator[Coverage]:
        images = self._real_images(subject)
        if images is not None:
            reason = f"`limit: {self.limit}`, spread evenly" if len(images.chosen) < images.found else ""
            name = f"real images of {shorten(images.data)}"
            yield Coverage(name, len(images.chosen), images.found, reason, "coverage.real_images")

    def _description(self, subject: Subject, suits: Mapping[str, Usual]) -> str:
        size = subject.view.input_size or subject.preprocessing.size
        known = None if self.size is None and size is None else self._size(size or (0, 0))
        text = how_made(self, known, suits, subject.preprocessing)
        images = self._real_images(subject)
        if images is None:
            return text
        return (
            f"{text} Real images: {len(images.chosen):,} of {shorten(images.data)}, seen by the network at "
            f"{images.own[0]} x {images.own[1]} pixels, positions and objectives at the pictures' size; beside the "
            f"pictures the {self.examples} that excite it most, or least where it is driven down."
        )

    def _unmeasured(self, asked: Sequence[Goal]) -> Iterator[Caveat]:
        """Say which objectives have no value on a single real image."""
        names = [goal.title for goal in asked if not measurable(goal)]
        if self.data is not None and names:
            yield Caveat(
                f"What compares a group's pictures with each other has no value on a real image: {', '.join(names)}.",
                "unmeasured",
                "limit",
            )


def _pictures_in_a_job(size: tuple[int, int], device: Device) -> int:
    """Return how many pictures of this size a job makes: few, so that little is lost, but enough to fill a GPU."""
    usual = 224 * 224 / (size[0] * size[1])
    return max(1, min(64, int(64 * usual)) if device == "cuda" else min(16, int(usual)))
