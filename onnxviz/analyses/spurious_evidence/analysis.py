"""Spurious evidence: which classes a network recognises by what is not their object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from onnxviz.analyses import explained_score, presentation, storage
from onnxviz.analyses.attribution.coarse_maps import GRID
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.objects import Objects, by_title
from onnxviz.analyses.base import ImageAnalysis, Job, JobContext, LayerSelector, Subject
from onnxviz.analyses.spurious_evidence import findings
from onnxviz.analyses.spurious_evidence.conclusions import conclude
from onnxviz.analyses.spurious_evidence.looked import REPLACED, DrawnMap, Looked, Shown
from onnxviz.analyses.spurious_evidence.looking import Asked, Look
from onnxviz.analyses.spurious_evidence.pictures import MOST_MAPS, chosen, draw_maps, show
from onnxviz.core.errors import AnalysisError, nearest, shorten
from onnxviz.core.findings import Finding
from onnxviz.core.values import Layer
from onnxviz.data.image_choice import find_source
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.data.visible_part import cropped_note
from onnxviz.graph.model_output import Head
from onnxviz.graph.targets import resolve_head
from onnxviz.model.batches import choose_batch, gradient_bytes, named_memory_limit, run_batches

_TOGETHER = 8
"""Images that share a pass."""
_IN_JOB = 64
"""Most images of a job."""
_CHANGES = len(REPLACED)
_PICTURES = "pictures"
_FEWER = "choose later layers or another method, or raise the memory limit"


class SpuriousEvidence(ImageAnalysis):
    """Whether classes are recognised by their objects, or by backgrounds, edges and marks that come with them.

    Every image is explained for its class, by any method of attribution, and shown to the network again with parts of
    it replaced. With pixel labels it is counted how much of the evidence lies on the object, on its parts and on every
    other concept, beside their shares of the area; objects and backgrounds are exchanged between images, which says
    what no map can: a class that is still given without its object, or to other objects before its background, is
    recognised by that background. Without labels the edges of images are exchanged, and the maps of a class are
    compared with each other (spectral relevance analysis) and with those of other classes at the same place.

    What is found is a dependence, and it holds for these images. A shortcut that lies on the object itself, or that all
    classes share, is not found; without labels a background that does not reach the edge is not either.
    """

    kind: Literal["spurious_evidence"] = "spurious_evidence"
    method: str | dict[str, Any] = Field(
        "grad_cam",
        description="How evidence is found: the name of a method of attribution, or a mapping with it in `method` and "
        "its settings. Of signed maps only what speaks for the class counts.",
    )
    layers: LayerSelector = Field(
        "last_map",
        description="Layers with a map of positions, for methods that show layers; of several the mean of their maps, "
        "each divided by its sum.",
    )
    classes: Literal["auto", "label", "top:1"] = Field(
        "auto",
        description="The class that an image stands for: `label` its own, `top:1` what the model takes it for, `auto` "
        "its own where that is known and else the other.",
    )
    masks: str | None = Field(
        None,
        description="Data set with pixel labels of the same images, matched by the names of the image files; if not "
        "given those of the images themselves, if they have any.",
    )
    objects: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="Which labelled concepts are the object of a class: class name to concepts, `*` for all classes "
        "that are not named. If not given the concept of the class's name, or of the end of it (penguin for king "
        "penguin), or the only one that there is.",
    )
    effect: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Least difference between two shares of images that counts, if it is more than chance too."
    )

    place_effect: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="The same for the share of a class's evidence that lies at one place of the image."
    )

    heading: ClassVar[str] = "Spurious evidence"
    version: ClassVar[int] = 1
    results: ClassVar[tuple[type, ...]] = (Looked, Shown, DrawnMap)
    metric_names: ClassVar[Mapping[str, str]] = findings.described()
    cites: ClassVar[tuple[str, ...]] = (
        "Lapuschkin et al. 2019, Unmasking Clever Hans predictors, Nature Communications 10, 1096",
        "Wang et al. 2020, Score-CAM (energy inside of objects), arXiv:1910.01279",
        "Xiao et al. 2020, Noise or Signal: The Role of Image Backgrounds, arXiv:2006.09994",
    )
    reading: ClassVar[str] = (
        "Each image, where its evidence lies, and what the network takes it for when its object, its background or its "
        "edge is another image's. A class that stays without its object is recognised by something else."
    )
    example: ClassVar[str] = "{kind: spurious_evidence, data: photos, method: grad_cam, layers: last_map}"

    @model_validator(mode="after")
    def _require_a_method(self) -> SpuriousEvidence:
        self._method()
        return self

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan a job for every few images, and one for the pictures."""
        source, images = self.chosen_images(subject)
        head, objects = self._head(subject), self._objects(subject)
        own = explained_score.OwnClasses.of(source, subject, head)
        known = [self._own(own, index) for index in images]
        donors = exchange(known, subject.seed)
        data = tuple(dict.fromkeys((self.data, *([self.masks] if self.masks else []))))
        used = self._layers(subject)
        names = tuple(dict.fromkeys((*(one.name for one in used), explained_score.layer_of(head).name)))
        passes = 1 + (0 if objects is None else _CHANGES) + 2 + self._method().cost(len(used))
        jobs = []
        for start in range(0, len(images), _IN_JOB):
            places = range(start, min(start + _IN_JOB, len(images)))
            asked = [
                [images[place], known[place], *((images[at], known[at]) if (at := donors[place]) >= 0 else (-1, None))]
                for place in places
            ]
            named = f"images {places[0] + 1} to {places[-1] + 1}"
            size = storage.RECORD + len(asked) * storage.dense(
                GRID * GRID + (3 * len(objects.concepts) if objects else 0)
            )
            yield (job := Job(named, {"asked": asked}, names, data, passes * len(asked), len(asked), bytes=size))
            jobs.append(job)
        height, width = subject.input_size
        most = min(len(images), findings.MOST_SHOWN)
        yield Job(
            _PICTURES,
            {},
            names,
            data,
            cost=passes * most,
            images=6 * most + 2 * MOST_MAPS,
            needs=tuple(job.name for job in jobs),
            bytes=storage.RECORD + (6 * most + 2 * MOST_MAPS) * (storage.png(height, width) // 2 + storage.PICTURE_ROW),
        )

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:
        """Say which numbers need labels of pixels, or several images."""
        asked = [one for job in jobs for one in job.parameters.get("asked", ())]
        return findings.without(
            labelled=self._objects(subject) is not None,
            known=any(own is not None for _, own, *_ in asked),
            exchanged=any(donor >= 0 for *_, donor, _ in asked),
        )

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Look at some images, or make the pictures of the most telling ones."""
        look = self._look(context)
        if job.name == _PICTURES:
            looked = Looked.join([one for name in job.needs for one in context.found[name]])
            told = conclude(looked, self.effect, self.place_effect, context.subject.seed, with_concepts=False)
            maps = draw_maps(looked, told, look.title)
            places = chosen(looked, told, findings.MOST_SHOWN)
            return [*maps, *show(look, looked, places, self._asked(context))]
        asked = [Asked(*one) for one in job.parameters["asked"]]
        model, what = context.model, f"Evidence by {look.method.heading}"
        size, fixed = model.input_size, model.view.batch
        score = explained_score.layer_of(look.head)
        together = fixed or choose_batch(model, _TOGETHER, lambda: gradient_bytes(model.view, size, size, score), what)
        order = [one.image for one in asked]
        with named_memory_limit(what, remedy=_FEWER), ReadAhead(look.source, order, model.preprocessing, size) as read:

            def work(start: int, stop: int) -> Looked:
                part = asked[start:stop]
                found = look.at(part, read([one.image for one in part]))
                context.progress(stop, len(asked), look.source.names[part[-1].image])
                return found

            passes = run_batches(model, len(asked), together, work, what)
            return [Looked.join([found for *_, found in passes])]

    def merge(self, parts: Sequence[list[Any]]) -> list[Any]:
        """Put together what was found in the images; the pictures stand behind it."""
        every = [one for part in parts for one in part]
        looked = [one for one in every if isinstance(one, Looked)]
        return [*([Looked.join(looked)] if looked else []), *(one for one in every if not isinstance(one, Looked))]

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:
        """Say what was found, class by class, and show the most telling images."""
        looked = next((one for one in found if isinstance(one, Looked)), None)
        if looked is None:
            return [self.image_coverage(0, "failed", subject)]
        source, images = self.chosen_images(subject)
        head, used = self._head(subject), self._layers(subject)
        told = findings.Told(
            conclude(looked, self.effect, self.place_effect, subject.seed),
            looked,
            source.names,
            {number: head.title(number, subject.labels) for number in looked.numbers()},
            () if (objects := self._objects(subject)) is None else objects.concepts,
            self._method().heading,
        )
        pictures = [one for one in found if isinstance(one, Shown)]
        maps = [one for one in found if isinstance(one, DrawnMap)]
        return [
            *told.findings(pictures, maps),
            *explained_score.in_words(head, subject.view),
            *presentation.doubtful_preprocessing(subject, "evidence and predictions mean nothing."),
            *cropped_note(source, images, subject.preprocessing, subject.input_size),
            *presentation.about_layers(self.layers, used, subject),
            self.image_coverage(len(looked), "failed", subject),
        ]

    # --- the recipe's words -----------------------------------------------------------------------------------------

    def _method(self) -> Method:
        """Return the method of attribution.

        Raises:
            ValueError: if there is none of that name, or its settings are wrong.
        """
        given = {"method": self.method} if isinstance(self.method, str) else dict(self.method)
        name = given.get("method")
        if not isinstance(name, str) or name not in methods():
            known = ", ".join(sorted(methods()))
            raise ValueError(
                f"no method of attribution is called {shorten(str(name))!r}; "
                + (nearest(str(name), methods()) or f"there are {known}")
            )
        return methods()[name].model_validate(given)

    def _head(self, subject: Subject) -> Head:
        head = resolve_head(subject.view, None, subject.labels)
        if not explained_score.may_choose(head):
            raise AnalysisError(
                f"the model gives no class to an image: {head.in_words}",
                remedy="leave this analysis out; it asks what an image is taken for when parts of it change",
            )
        return head

    def _objects(self, subject: Subject) -> Objects | None:
        chosen = by_title(self.objects, self._head(subject), subject.labels)
        return Objects.of(find_source(self.data, subject.data), self.masks, subject.data, chosen)

    def _layers(self, subject: Subject) -> tuple[Layer, ...]:
        """Return the layers whose maps are asked for; none where the method shows pixels.

        Raises:
            AnalysisError: if none of them has a map.
        """
        if not self._method().reads_layers:
            return ()
        selected = subject.view.select(self.layers)
        shown = [layer if layer.operator not in ("Conv", "ConvTranspose") else subject.view.layer(f"{layer.name}:act")
                 for layer in selected]  # fmt: skip
        used = tuple(dict.fromkeys(layer for layer in shown if layer.has_map))
        if not used:
            raise AnalysisError(
                "none of the selected layers has a map of positions",
                where="layers",
                remedy="select layers before the global pooling, for example `layers: last_map`",
            )
        return used

    def _own(self, own: explained_score.OwnClasses, index: int) -> int | None:
        if self.classes == "label":
            return own.require(index)
        return None if self.classes == "top:1" else own.get(index)

    def _look(self, context: JobContext) -> Look:
        subject = context.subject
        source = find_source(self.data, subject.data)
        return Look(context, source, self._head(subject), self._method(), self._layers(subject), self._objects(subject))

    def _asked(self, context: JobContext) -> dict[int, Asked]:
        """Return by image what was asked of it."""
        jobs = (job for job in self.jobs(context.subject) if job.name != _PICTURES)
        return {one[0]: Asked(*one) for job in jobs for one in job.parameters["asked"]}


def exchange(classes: Sequence[int | None], seed: int) -> list[int]:
    """Return for each image the place of another one, of another class where both are known; -1 where there is none.

    Every image is another one's once, as far as that can be: places are exchanged at random, and again between pairs
    while an image would be given one of its own class.
    """
    count = len(classes)
    rng = np.random.default_rng([seed, count])
    donors = rng.permutation(count).tolist()

    def wrong(place: int, donor: int) -> bool:
        return place == donor or (classes[place] is not None and classes[place] == classes[donor])

    for place in range(count):
        if wrong(place, donors[place]):
            for other in rng.permutation(count).tolist():
                if not wrong(place, donors[other]) and not wrong(other, donors[place]):
                    donors[place], donors[other] = donors[other], donors[place]
                    break
    return [-1 if wrong(place, donor) else donor for place, donor in enumerate(donors)]
