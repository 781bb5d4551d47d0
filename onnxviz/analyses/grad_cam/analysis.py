"""Grad-CAM at every layer: heat maps of the evidence for a class, from the first layer to the last."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, StrictInt, field_validator

from onnxviz.analyses import explained_score, presentation, storage
from onnxviz.analyses.attribution.methods import cam
from onnxviz.analyses.base import ImageAnalysis, Job, JobContext, LayerSelector, Subject
from onnxviz.analyses.grad_cam.evidence import (
    LARGEST_PICTURE,
    SMALLEST_PICTURE,
    ClassEvidence,
    ImageEvidence,
    Wanted,
    explain,
)
from onnxviz.analyses.grad_cam.evidence_places import Places
from onnxviz.analyses.grad_cam.findings import (
    ImageSummary,
    about_blank,
    image_findings,
    image_metrics,
    in_words,
    layers_listed,
)
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Coverage, Finding, Metric, merge
from onnxviz.core.values import Layer
from onnxviz.data.image_choice import find_source
from onnxviz.data.read_ahead import ReadAhead
from onnxviz.data.visible_part import cropped_note
from onnxviz.graph.targets import class_indices, resolve_head
from onnxviz.model.batches import choose_batch, gradient_bytes, named_memory_limit, run_batches

if TYPE_CHECKING:
    import torch

    from onnxviz.graph.model_output import Head
    from onnxviz.graph.view import GraphView

_TOP = re.compile(r"top:([1-9]\d{0,3})")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LIMIT = 24
_TOGETHER = 8
"""Images that share a pass where there are as many: small networks take half the time, and large ones no more."""
_JOBS, _MOST_PASSES = 16, 8
"""Jobs into which many images are split at least, for workers to share; and most passes of a job, which keeps all its
pictures until it ends."""
_FEWER_LAYERS = "choose fewer layers: the maps of all come from one pass; or raise the memory limit"


class ClassActivationMaps(ImageAnalysis):
    """Base of analyses that make maps of activations and gradients: a subclass says its `kind`, and gives `evidence`.

    For each image and class one forward and one backward pass gives the maps of all layers.
    """

    layers: LayerSelector = Field(
        "block_outputs",
        description="Layers with a map of positions; others are left out. `block_outputs` are those behind the sums or "
        "concatenations of blocks, the last of them `last_map`, before the head; tokens of patches are a map.",
    )
    value: Literal["activation", "convolution"] = Field(
        "activation",
        description="What a convolution stands for: what leaves the normalisation and activation behind it (the "
        "rectified feature maps of the paper), or its own output. Other layers are taken as they are.",
    )
    limit: int = Field(_LIMIT, ge=1, description="Most images to use, spread evenly over those chosen.")
    classes: StrictInt | str | list[StrictInt | str] = Field(
        "top:3",
        description="`top:N` for the N classes of highest logit in each image (of a map of classes those predicted at "
        "most positions), `label` for the image's own class, or class names and indices.",
    )

    score: str | None = Field(
        None,
        description="What is explained: an output by its name, or any layer, whose units are then the scores; the "
        "model's own classes if not given. `classes` counts its classes or units.",
    )
    positions: explained_score.Positions = Field(
        "mean", description="Where a score has positions: their mean (a segmentation), or the highest (a detector)."
    )

    results: ClassVar[tuple[type, ...]] = (ImageEvidence, ClassEvidence, Places)
    metric_names: ClassVar[Mapping[str, str]] = {
        "top1_accuracy": "Share of the images whose own class has the highest logit, where their class is known.",
        "top1_confidence": "Mean probability of the class of highest logit.",
        "last_layer_extent": "Mean share of the image where the last layer's map reaches half of its maximum.",
        "blank_fraction": "Share of the maps (layer, image, class or number) that are zero everywhere.",
    }
    reading: ClassVar[str] = (
        "Bright places speak for the class or number that is named, and raise its score. From left to right layer "
        "follows layer: the first ones see edges everywhere, the last ones, if the model is sound, the object itself."
    )

    @property
    def method_name(self) -> str:
        """What the method is called in sentences."""
        return self.heading or type(self).__name__

    @abstractmethod
    def evidence(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Return the maps of some images at one layer, before what is negative is cut off.

        Args:
            activations: [N, units, h, w].
            gradients: of the score of each image, [N, units, h, w].

        Returns:
            [N, h, w].
        """

    @field_validator("classes")
    @classmethod
    def _require_a_class(cls, value: object) -> object:
        if isinstance(value, list) and not value:
            raise ValueError("an empty list names no class")
        if isinstance(value, str) and value.startswith("top:") and not _TOP.fullmatch(value):
            raise ValueError("write top:3 for the three classes of highest logit")
        return value

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan a job for every few images; few images are computed one by one, many share their passes."""
        source, chosen = self.chosen_images(subject)
        used, _ = self._layers(subject.view)
        head = self._head(subject)
        score, own = explained_score.layer_of(head), explained_score.OwnClasses.of(source, subject, head)
        together = _TOGETHER if len(chosen) >= _TOGETHER else 1
        per_job = together * max(1, min(_MOST_PASSES, len(chosen) // (_JOBS * together)))
        parts = [chosen[start : start + per_job] for start in range(0, len(chosen), per_job)]
        for number, part in enumerate(parts):
            classes = [self._classes(own, index, subject, head) for index in part]
            counts = [wanted if isinstance(wanted, int) else len(wanted) for wanted in classes]
            named = f" {shorten(source.names[part[0]], 40)}" if per_job == 1 else ""
            yield Job(
                name=f"{number + 1}/{len(parts)}{named}",
                parameters={
                    "images": part,
                    "together": together,
                    "classes": classes,
                    "own_classes": [own.get(index) for index in part],
                },
                layers=tuple(dict.fromkeys((*(layer.name for _, layer in used), score.name))),
                data=(self.data,),
                cost=sum(1.0 + 2.0 * count for count in counts),
                images=sum(2 * count * len(used) + 1 for count in counts),
                bytes=sum(_stored_bytes(subject, [layer for _, layer in used], count) for count in counts),
            )

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:
        """Say that there is no accuracy or confidence where the output is no choice, or no image's class is known."""
        known = any(own is not None for job in jobs for own in job.parameters["own_classes"])
        return explained_score.without_metrics(self._head(subject), self.data, known=known)

    def run(self, job: Job, context: JobContext) -> list[ImageEvidence]:
        """Explain the classes of some images at every layer."""
        source, model = find_source(self.data, context.subject.data), context.model
        used, _ = self._layers(context.subject.view)
        head = self._head(context.subject)
        given = (job.parameters[name] for name in ("images", "classes", "own_classes"))
        wanted = [Wanted(index, source.names[index], *rest) for index, *rest in zip(*given, strict=True)]
        what, score = f"{self.method_name} at {len(used)} layers", explained_score.layer_of(head)
        size, fixed = model.input_size, model.view.batch
        usual = int(job.parameters["together"])
        together = fixed or choose_batch(model, usual, lambda: gradient_bytes(model.view, size, size, score), what)
        # The last pass is as large as the others, so that an image has the same bits in whichever it is.
        filled = [*wanted, *wanted[-1:] * (-len(wanted) % together)]

        def explained(start: int, stop: int) -> list[ImageEvidence]:
            if not (real := wanted[start:stop]):
                return []
            batch = read([entry.index for entry in filled[start:stop]])
            found = explain(context, batch, real, used, head, self.positions, (self.method_name, self.evidence))
            context.progress(min(stop, len(wanted)), len(wanted), real[-1].name)
            return found

        order = [entry.index for entry in wanted]
        with (
            named_memory_limit(what, remedy=_FEWER_LAYERS),
            ReadAhead(source, order, model.preprocessing, size) as read,
        ):
            passes = run_batches(model, len(filled), together, explained, what, fixed=bool(fixed))
            return [found for *_, part in passes for found in part]

    def present(self, found: Sequence[ImageEvidence], subject: Subject) -> list[Finding]:
        """Show the images; average the numbers; say what was left out."""
        head = self._head(subject)
        source, chosen = self.chosen_images(subject)
        used, _ = self._layers(subject.view)
        titles = [title for title, _ in used]
        numbers: dict[str, list[Metric]] = {}
        for metric in (metric for image in found for metric in image_metrics(image, head)):
            numbers.setdefault(metric.name, []).append(metric)
        metrics = [explained_score.joined(parts) for parts in numbers.values()]
        summaries = [ImageSummary.of(image, source, titles, head, subject.labels) for image in found]
        shown = [
            image_findings(image, titles, source.names[image.index], subject, head, self.positions, self.method_name)
            for image in found
        ]
        return [
            *metrics,
            *in_words(summaries, choice=head.has_choice or bool(_TOP.fullmatch(str(self.classes)))),
            *explained_score.in_words(head, subject.view),
            *explained_score.too_sure(metrics),
            *merge(shown),
            *cropped_note(source, chosen, subject.preprocessing, subject.input_size),
            *self._coverage(subject, len(found)),
            *about_blank(metrics),
            *presentation.about_layers(self.layers, [layer for _, layer in used], subject),
        ]

    def remarks(self, subject: Subject) -> tuple[str, ...]:
        """Say where the last convolution stands, if it is taken for the end of the network and is not."""
        return presentation.layer_remarks(self.layers, subject)

    def _coverage(self, subject: Subject, images: int) -> list[Finding]:
        used, skipped = self._layers(subject.view)
        reason = "; ".join(f"{why}: {layers_listed(names)}" for why, names in skipped.items())
        classes = self.classes if isinstance(self.classes, list) else [self.classes]
        per_image = int(match[1]) if (match := _TOP.fullmatch(str(classes[0]))) else len(classes)
        head, heads = self._head(subject), subject.view.heads
        total = head.choices or per_image
        most = explained_score.by_frequency(head, self.positions)
        highest = "those predicted at most positions" if most else "the highest scores"
        why_classes = f"{highest} of each image" if match else "chosen by `classes`"
        what = "classes" if head.has_classes else "units of the score"
        explained = f"explained: {shorten(head.name, 60)!r}; another one by `score:`"
        others = [Coverage("outputs of the model", 1, len(heads), explained, id="coverage.outputs")]
        return [
            *(others if len(heads) > 1 and head in heads else []),
            Coverage("layers", len(used), len(used) + sum(map(len, skipped.values())), reason, id="coverage.layers"),
            self.image_coverage(images, "failed", subject),
            Coverage(what, min(per_image, total), total, why_classes, id="coverage.classes"),
        ]

    def _layers(self, view: GraphView) -> tuple[list[tuple[str, Layer]], dict[str, list[str]]]:
        """Return what is asked for: (heading, layer) of those with positions, and by reason the names of the rest."""
        used: dict[str, tuple[str, Layer]] = {}
        skipped: dict[str, list[str]] = {}
        for layer in view.select(self.layers):
            own = layer.operator in _CONVOLUTIONS and self.value == "activation"
            shown = view.layer(f"{layer.name}:act") if own else layer
            if shown.has_map:
                used.setdefault(shown.value, (layer.name, shown))
            else:
                why = shown.unplaced or "its units are single numbers: there are no positions"
                skipped.setdefault(why, []).append(layer.name)
        if not used:
            reasons = "; ".join(f"{layers_listed(names, 3)}: {why}" for why, names in skipped.items())
            raise AnalysisError(
                f"none of the selected layers has a map of positions: {reasons}",
                where="layers",
                remedy="select layers before the global pooling, for example `layers: block_outputs`",
            )
        return list(used.values()), skipped

    def _head(self, subject: Subject) -> Head:
        return resolve_head(subject.view, self.score, subject.labels)

    def _classes(self, own: explained_score.OwnClasses, index: int, subject: Subject, head: Head) -> list[int] | int:
        """Return indices of classes or units, or how many of the highest scores to take."""
        if isinstance(self.classes, str) and (match := _TOP.fullmatch(self.classes)):
            return min(int(match[1]), head.choices or int(match[1]))
        if self.classes == "label":
            return class_indices(own.require(index), head, subject.labels)
        return class_indices(self.classes, head, subject.labels)


class GradCam(ClassActivationMaps):
    """Where in the image the evidence for a class or another score lies, layer by layer.

    For each image and class one forward and one backward pass gives the maps of all layers. A layer's channels are
    weighted with the spatial mean of the gradient of the class's logit, added up, and negative sums are cut off. First
    layers see edges all over the image; in a sound network the last ones see what makes the class: the neck of the
    ostrich, the face of the lion. Evidence on the background, or on clothes instead of a face, is a warning.

    Each map is drawn on a scale from 0 to its own maximum, so maps show where, not how much. What a map shows at an
    early layer depends on the layer's whole future in the network; read the progression, not one picture.
    """

    kind: Literal["grad_cam"] = "grad_cam"

    heading: ClassVar[str] = "Grad-CAM"
    version: ClassVar[int] = 5
    cites: ClassVar[tuple[str, ...]] = cam.GradCam.cites
    example: ClassVar[str] = "{kind: grad_cam, data: photos, layers: block_outputs, classes: top:3}"

    def evidence(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight the channels with their mean gradients."""
        return cam.GradCam().weighted(activations, gradients)


def _stored_bytes(subject: Subject, layers: Sequence[Layer], classes: int) -> int:
    """Estimate what one image takes: for each class the photograph, and for each layer two pictures and a map."""
    height, width = subject.input_size
    longest = max(height, width)
    scale = -(-SMALLEST_PICTURE // longest) if longest < SMALLEST_PICTURE else min(1.0, LARGEST_PICTURE / longest)
    picture = storage.jpeg(round(scale * height), round(scale * width)) + storage.PICTURE_ROW
    values = 0
    for layer in layers:
        rows, columns = layer.map_shape or (None, None)
        values += rows * columns if rows and columns else height * width // 16
    return storage.RECORD + classes * ((2 * len(layers) + 1) * picture + storage.sparse(values))
