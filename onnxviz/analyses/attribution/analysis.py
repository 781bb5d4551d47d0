"""Attribution: where the evidence for a class lies in an image, by several methods side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

from pydantic import BeforeValidator, Field, StrictInt, WrapSerializer, field_validator, model_validator

from onnxviz.analyses import explained_score, presentation, storage
from onnxviz.analyses.attribution.belief import choose
from onnxviz.analyses.attribution.belief_findings import METRICS
from onnxviz.analyses.attribution.belief_findings import findings as belief_findings
from onnxviz.analyses.attribution.class_maps import ClassMaps
from onnxviz.analyses.attribution.evidence_places import Places
from onnxviz.analyses.attribution.findings import (
    about_blank,
    about_refused,
    image_findings,
    image_metrics,
    methods_table,
    short_names,
    summary,
)
from onnxviz.analyses.attribution.judgement import RESULTS, Faithfulness
from onnxviz.analyses.attribution.localisation import Localisation, ObjectEvidence, usual_tolerance
from onnxviz.analyses.attribution.localisation_findings import METRICS as LOCALISATION_METRICS
from onnxviz.analyses.attribution.localisation_findings import findings as localisation_findings
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.methods.fused import FusedMethod
from onnxviz.analyses.attribution.objects import Objects, by_title
from onnxviz.analyses.attribution.pictures import picture_size
from onnxviz.analyses.attribution.results import ImageAttribution, MethodEvidence, TargetEvidence
from onnxviz.analyses.attribution.target_settings import ClassSettings, Given, TargetChoice
from onnxviz.analyses.base import Job, JobContext, LayerSelector, Subject
from onnxviz.analyses.explained_images import TOP, Explainer, ImageExplanation, named_classes
from onnxviz.analyses.grad_cam.findings import in_words
from onnxviz.core.errors import AnalysisError, SelectionError, shorten
from onnxviz.core.findings import Caveat, Coverage, Finding, Metric, Note, merge
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import Layer
from onnxviz.core.wording import listed
from onnxviz.data.image_choice import choose_images, find_source
from onnxviz.data.images import ImageSource, load_batch
from onnxviz.data.visible_part import cropped_note

if TYPE_CHECKING:
    import numpy as np

    from onnxviz.analyses.attribution.explain import Against
    from onnxviz.analyses.attribution.object_masks import ObjectMasks
    from onnxviz.graph.model_output import Head
    from onnxviz.graph.view import GraphView

    MethodChoices = tuple[Method, ...]
else:
    _KNOWN = methods()
    _SETTINGS = Annotated[Union[tuple(_KNOWN.values())], Field(discriminator="method")]  # noqa: UP007

    def _settings(given: object) -> object:
        """Return the mapping that a name stands for. Behind a function of ours lists are no tuples any more."""
        if isinstance(given, str):
            return {"method": given}
        if not isinstance(given, dict):
            return given
        return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}

    _CHOICE = Annotated[
        _SETTINGS, BeforeValidator(_settings, json_schema_input_type=Literal[tuple(_KNOWN)] | _SETTINGS)
    ]

    def _methods(given: object) -> object:
        """Return nothing for `auto`, and a list for one method; an empty list names no method."""
        if given == []:
            raise ValueError("an empty list names no method")
        if given in ("auto", ["auto"]):
            return ()
        if isinstance(given, str | dict):
            return (given,)
        return tuple(given) if isinstance(given, list) else given

    MethodChoices = Annotated[
        tuple[_CHOICE, ...],
        WrapSerializer(lambda chosen, usual: usual(chosen) if chosen else "auto"),
        BeforeValidator(_methods, json_schema_input_type=Literal["auto"] | tuple[_CHOICE, ...]),
    ]

_TRIED = ("grad_cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "gradient", "gradient_times_input")
"""What `methods: auto` tries: methods that need one forward and one backward pass for all of them."""


class AttributionMaps(ImageExplanation):
    """Where in an image the evidence for a class or another score lies, by several methods side by side.

    Methods answer different questions: class activation maps say where a layer holds what speaks for a class, gradients
    which pixels change its score, and methods that change the image what its score does without a part. Where they
    agree, a reader may trust what they show more than any one of them.

    Each map is drawn on a scale of its own, which is stated, so maps show where, not how much.
    """

    kind: Literal["attribution"] = "attribution"
    heading: ClassVar[str] = "Attribution"
    cites: ClassVar[tuple[str, ...]] = tuple(dict.fromkeys(text for cls in methods().values() for text in cls.cites))
    example: ClassVar[str] = """\
kind: attribution
data: photos
methods: [grad_cam, integrated_gradients]
layers: last_map
classes: top:2
"""
    results: ClassVar[tuple[type, ...]] = (
        ImageAttribution, TargetEvidence, MethodEvidence, ClassMaps, Places, ObjectEvidence, Localisation, *RESULTS
    )  # fmt: skip
    metric_names: ClassVar[Mapping[str, str]] = {
        "top1_accuracy": "Share of the images whose own class has the highest logit, where their class is known.",
        "top1_confidence": "Mean probability of the class of highest logit.",
        "blank_fraction": "Share of the maps (method, layer, image, class or number) that are nowhere above zero.",
        **presentation.described(METRICS),
        **presentation.described(LOCALISATION_METRICS),
    }
    reading: ClassVar[str] = (
        "Rows are classes, columns methods or layers. A map shows where the evidence for the class lies by its method; "
        "next to each the same map lies over the image. The scales are stated under the maps."
    )

    methods: MethodChoices = Field(
        "auto",
        validate_default=True,
        description="Methods by name, or {method: name} with settings; `onnxviz explain attribution.methods` lists "
        "them. `auto` tries some on a few images, and takes the one to be believed first, and the runner-up.",
    )
    layers: LayerSelector = Field(
        "last_map",
        description="Layers for the methods that make maps of layers; `block_outputs` or `all_convs` show how the "
        "evidence comes together from the first layer to the last.",
    )
    shown: int = Field(
        24, ge=0, description="Most images whose maps are drawn and stored, spread evenly; all count in the numbers."
    )
    faithfulness: Faithfulness | None = Field(
        default_factory=Faithfulness,
        description="Measure whether the maps are to be believed; nothing for not to, which is said.",
    )
    target: TargetChoice = Field(
        default_factory=ClassSettings,
        description="What is explained: the score of a class (`{kind: class}`), a class in a region of a segmentation, "
        "a detection, or the similarity to another image.",
    )
    against: StrictInt | str | None = Field(
        None,
        description="Explain why a class and not this one: the difference of their scores. A class by name or index, "
        "or `next` for that of the highest score beside the explained one.",
    )

    masks: str | None = Field(
        None,
        description="Data set with pixel labels of the same images, matched by the names of the image files; if not "
        "given those of the images themselves, if they have any. Maps are compared with the object of their class.",
    )
    objects: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="Which labelled concepts are the object of a class: class name to concepts, `*` for all classes "
        "that are not named; as in `spurious_evidence`.",
    )
    tolerance: int | None = Field(
        None,
        ge=0,
        description="Pixels of the image as the network sees it by which a map's highest place may miss an object; if "
        "not given 4 % of the shorter side, as in TorchRay.",
    )

    @field_validator("methods")
    @classmethod
    def _require_different(cls, chosen: tuple[Method, ...]) -> tuple[Method, ...]:
        if len(set(chosen)) < len(chosen):
            raise ValueError("the same method is asked for twice")
        return chosen

    @model_validator(mode="after")
    def _require_a_trial(self) -> AttributionMaps:
        if self.is_auto and (self.faithfulness is None or not self.faithfulness.curves):
            raise ValueError("`methods: auto` needs `faithfulness` with `curves`, by which it chooses: name methods")
        return self

    @property
    def is_auto(self) -> bool:
        """Whether methods are chosen by trial."""
        return not self.methods

    @cached_property
    def named_methods(self) -> dict[str, Method]:
        """The methods by what they are called here: their headings, and settings that are not the usual ones."""
        made = [methods()[name]() for name in _TRIED] if self.is_auto else self.methods
        return {method.label: method for method in made}

    @property
    def data_sets(self) -> tuple[str, ...]:
        """Names of the data sets that a job reads."""
        return tuple(dict.fromkeys((self.data, *([self.masks] if self.masks else []))))

    @property
    def shows_layers(self) -> bool:
        """Whether maps of layers are made."""
        return any(method.reads_layers for method in self.named_methods.values())

    @property
    def needs_gradients(self) -> bool:
        """Whether the network has to convert."""
        return any(method.needs_gradients for method in self.named_methods.values())

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan a job for every few images; where methods are to be chosen, behind those that try them on some."""
        self._against(self.head(subject), subject)  # refused here, not in every job
        self._objects(subject)
        if not self.is_auto or self.faithfulness is None:
            yield from super().jobs(subject)
            return
        _, chosen = self.chosen_images(subject)
        some = spread_evenly(chosen, self.faithfulness.images)
        trial = [replace(job, name=f"trial {job.name}") for job in self.jobs_of(some, subject, (), some)]
        yield from trial
        names = tuple(job.name for job in trial)
        for job in self.jobs_of(chosen, subject, self.shown_images(chosen), ()):
            yield replace(job, needs=names)

    def chosen_layers(self, view: GraphView) -> tuple[list[tuple[str, Layer]], dict[str, list[str]]]:
        """Return what is asked for; `last_map` is what the target says, where it has one of its own."""
        own = self.target.last_map(view) if self.shows_layers and self.layers in ("last_map", ["last_map"]) else None
        return super().chosen_layers(view) if own is None else ([(own.name, own)], {})

    def shown_images(self, chosen: Sequence[int]) -> frozenset[int]:
        """Return the images whose maps are drawn."""
        return frozenset(spread_evenly(chosen, self.shown))

    def judged_images(self, chosen: Sequence[int]) -> frozenset[int]:
        """Return the images of which it is measured whether their maps are to be believed."""
        return frozenset(spread_evenly(chosen, self.faithfulness.images)) if self.faithfulness else frozenset()

    def judging_cost(self, layers: int) -> float:
        """Estimate what it takes to measure whether to believe the maps of an image, in forward passes."""
        costs = {name: method.cost(layers) for name, method in self.named_methods.items()}
        return self.faithfulness.cost(costs) if self.faithfulness else 0.0

    def cost_of(self, classes: int, layers: int) -> float:
        """Estimate what one image takes, in forward passes."""
        return 1.0 + classes * (2.0 + sum(method.cost(layers) for method in self.named_methods.values()))

    def pictures_of(self, classes: int, layers: int) -> int:
        """Say how many pictures are made of one image."""
        return 2 * classes * sum(layers if one.shows == "layers" else 1 for one in self.named_methods.values())

    def bytes_of(self, subject: Subject, layers: Sequence[Layer], classes: int) -> int:
        """Estimate what is stored of one image."""
        height, width = subject.input_size
        picture = storage.jpeg(*picture_size(height, width)) + storage.PICTURE_ROW
        pixels = sum(method.shows == "pixels" for method in self.named_methods.values())
        return (
            storage.RECORD
            + self.pictures_of(classes, len(layers)) * picture
            + classes * (pixels * storage.dense(height * width))
        )

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Explain the classes of some images, and sum up their maps by class."""
        images: list[ImageAttribution] = super().run(job, context)
        sums: dict[tuple[str, ...], list[tuple[int, np.ndarray]]] = {}  # some methods may refuse an image
        for image in (image for image in images if not image.tried):
            names = tuple(one.method for one in image.targets[0].methods)
            assert image.coarse is not None
            explained = zip((target.number for target in image.targets), image.coarse, strict=True)
            sums.setdefault(names, []).extend(explained)
        found = [replace(image, coarse=None) for image in images]
        return [*found, *(ClassMaps.of(names, explained) for names, explained in sums.items())]

    def explainer(self, context: JobContext, layers: Sequence[tuple[str, Layer]], job: Job) -> Explainer:
        """Return what asks every method about a batch."""
        from onnxviz.analyses.attribution.explain import Asked, Judge, attribute

        head, source = self.head(context.subject), find_source(self.data, context.subject.data)
        scores = self.target.scores(Given(head, self.positions, source, context))
        tried = [one for name in job.needs for one in context.found[name] if isinstance(one, ImageAttribution)]
        named = self.named_methods if not tried else {name: self.named_methods[name] for name in _taken(tried)}
        count = max(method.references() for method in named.values())
        asked = Asked(
            scores,
            self._against(head, context.subject),
            head if scores.layers[0] == head.scores else None,
            tuple(named.items()),
            layers,
            self._references(source, count, context) if count else None,
            Judge(self.faithfulness) if self.faithfulness else None,
            trial=self.is_auto and not job.needs,
            masks=None if self.is_auto and not job.needs else self._masks(context),
        )
        return lambda batch, wanted: attribute(context, batch, wanted, asked)

    def _objects(self, subject: Subject) -> Objects | None:
        chosen = by_title(self.objects, self.head(subject), subject.labels)
        return Objects.of(find_source(self.data, subject.data), self.masks, subject.data, chosen)

    def _masks(self, context: JobContext) -> ObjectMasks | None:
        """Return where objects are; None where nothing says."""
        from onnxviz.analyses.attribution.object_masks import ObjectMasks

        subject, model = context.subject, context.model
        if (objects := self._objects(subject)) is None:
            return None
        head = self.head(subject)
        return ObjectMasks(
            objects, lambda number: head.title(number, subject.labels), model.preprocessing, model.input_size,
            self._tolerance(subject),
        )  # fmt: skip

    def _tolerance(self, subject: Subject) -> float:
        return usual_tolerance(subject.input_size) if self.tolerance is None else self.tolerance

    def _references(self, source: ImageSource, count: int, context: JobContext) -> np.ndarray:
        """Return images that others are compared with, spread evenly over the data set."""
        chosen, model = choose_images(source, None, count), context.model
        return load_batch(source, chosen, model.preprocessing, model.input_size)

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Show the images; average the numbers; say which maps to believe, and what was left out."""
        head = self.head(subject)
        sums = [one for one in found if isinstance(one, ClassMaps)]
        found = [one for one in found if isinstance(one, ImageAttribution)]
        source, chosen = self.chosen_images(subject)
        used, _ = self.chosen_layers(subject.view)
        titles, images = [title for title, _ in used], [image for image in found if not image.tried]
        numbers: dict[str, list[Metric]] = {}
        for metric in (metric for image in images for metric in image_metrics(image, head)):
            numbers.setdefault(metric.name, []).append(metric)
        metrics = [explained_score.joined(parts) for parts in numbers.values()]
        drawn = {one.method: self.named_methods[one.method] for image in images for one in image.targets[0].methods}
        located = any(target.located for image in images for target in image.targets)
        shown = [
            image_findings(image, source.names[image.index], subject, head, drawn, titles, located=located)
            for image in images
        ]
        placed = max((image.placed for image in images), default=1)
        return [
            *metrics,
            *in_words(
                summary(images, source.names, head, subject.labels),
                choice=head.has_choice or bool(TOP.fullmatch(str(self.classes))),
            ),
            *self._belief(found),
            *self._localisation(images, subject),
            *self.target.in_words(head, subject),
            *explained_score.too_sure(metrics),
            methods_table(images, drawn),
            *self._class_maps(sums, head, subject),
            *merge(shown),
            *cropped_note(source, chosen, subject.preprocessing, subject.input_size),
            *self.coverage(subject, len(images)),
            *about_blank(metrics),
            *about_refused(found),
            *self.target.about_positions(head, placed, self.positions),
            *(presentation.about_rounding(self.score_layers(subject), subject) if self.needs_gradients else ()),
            *(presentation.about_layers(self.layers, [layer for _, layer in used], subject) if used else []),
            *(Caveat(f"{said}.", "not_fused", "limit") for said in self._not_fused(titles)),
        ]

    def _class_maps(self, sums: Sequence[ClassMaps], head: Head, subject: Subject) -> Iterator[Finding]:
        """Show where the evidence for a class lies on average."""
        if sums and head.choices != 1:
            joined = ClassMaps.join(sums)
            titles = {number: head.title(number, subject.labels) for number in joined.numbers}
            yield from joined.findings(titles, head.unit, against=self.against is not None)

    def _belief(self, found: Sequence[ImageAttribution]) -> Iterator[Finding]:
        """Say which maps to believe, and why methods were taken."""
        judged = [image.judgement for image in found if image.judgement is not None]
        if self.faithfulness is None:
            yield Caveat(
                "Whether these maps are to be believed was not measured: what they show may have little to do with "
                "what the network does. `faithfulness: {}` measures it.", "not_judged", "limit",
            )  # fmt: skip
        elif judged:
            if self.is_auto:
                choice = choose(judged)
                said = choice.words if choice else "Nothing says which of the methods tried is to be believed first."
                yield Note(f"{said} Tried were {listed(self.named_methods, 12)}.", "auto")
            yield from belief_findings(judged, self.faithfulness, short_names(self.named_methods))
            every = sum(not image.tried for image in found)
            reason = "`faithfulness.images`, spread evenly" if len(judged) < every else ""
            yield Coverage("images judged", len(judged), every, reason, "coverage.judged")

    def _localisation(self, images: Sequence[ImageAttribution], subject: Subject) -> Iterator[Finding]:
        """Say whether maps lie on the objects of their classes, where anything says where these are."""
        if (objects := self._objects(subject)) is None:
            return
        head, explained = self.head(subject), (target.number for image in images for target in image.targets)
        titles = [head.title(number, subject.labels) for number in dict.fromkeys(explained)]
        unnamed = [title for title in titles if not objects.numbers(title)]
        yield from localisation_findings(images, self._tolerance(subject), short_names(self.named_methods), unnamed)

    def remarks(self, subject: Subject) -> tuple[str, ...]:
        """Say where the last convolution stands, if it is wrongly taken for the end, and what is fused of one layer."""
        if not self.shows_layers:
            return ()
        used, _ = self.chosen_layers(subject.view)
        return (*presentation.layer_remarks(self.layers, subject), *self._not_fused([title for title, _ in used]))

    def _not_fused(self, titles: Sequence[str]) -> Iterator[str]:
        """Say which maps are fused of a single layer."""
        for label, method in self.named_methods.items():
            if isinstance(method, FusedMethod) and len(titles) == 1:
                yield (f"{label}: the map of {shorten(titles[0], 60)} alone, so that nothing is fused; `layers: "
                       "block_outputs` names several layers")  # fmt: skip

    def chosen_images(self, subject: Subject) -> tuple[ImageSource, list[int]]:
        """Return the data set, and which of its images are explained."""
        source = find_source(self.data, subject.data)
        out = self.target.left_out(source)
        every = [index for index in choose_images(source, self.images, len(source)) if index not in out]
        if not every:
            raise AnalysisError(
                "no image is left to explain beside the one that others are compared with",
                where=f"data {shorten(source.name)!r}",
                remedy="give more images",
            )
        return source, spread_evenly(every, self.limit)

    def head(self, subject: Subject) -> Head:
        """Return the classes that there are to choose from."""
        return self.target.head(subject, self.score)

    def score_layers(self, subject: Subject) -> tuple[Layer, ...]:
        """Return the layers that scores are computed from."""
        return self.target.layers(self.head(subject), subject)

    def _against(self, head: Head, subject: Subject) -> Against:
        named = None
        if self.against is not None and head.choices == 1:
            raise SelectionError(
                "there is a single score, and none to explain it against", where="against", remedy="leave `against` out"
            )
        if self.against is not None and self.against != "next":
            (named,) = named_classes(self.against, head, subject.labels, ("next",))

        def against(number: int, scores: Sequence[float]) -> int | None:
            if self.against is None or len(scores) < 2:
                return None
            if named is not None and named != number:
                return named
            return max((other for other in range(len(scores)) if other != number), key=lambda other: scores[other])

        return against


def _taken(tried: Sequence[ImageAttribution]) -> list[str]:
    """Return the methods that a trial chose: that to be believed first, and the runner-up."""
    choice = choose([image.judgement for image in tried if image.judgement is not None])
    if choice is None:
        return [one.method for one in tried[0].targets[0].methods[:2]]
    return [name for name in (choice.method, choice.runner_up) if name]
