"""Grad-CAM at every layer: heat maps of the evidence for a class, from the first layer to the last."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from onnxviz.analyses import explained_score, presentation, storage
from onnxviz.analyses.attribution.evidence_places import Places
from onnxviz.analyses.attribution.methods import cam
from onnxviz.analyses.attribution.pictures import picture_size
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.analyses.explained_images import TOP, Explainer, ImageExplanation
from onnxviz.analyses.grad_cam.evidence import ClassEvidence, ImageEvidence, explain
from onnxviz.analyses.grad_cam.findings import (
    ImageSummary,
    about_blank,
    image_findings,
    image_metrics,
    in_words,
)
from onnxviz.core.findings import Finding, Metric, merge
from onnxviz.core.values import Layer
from onnxviz.data.visible_part import cropped_note

if TYPE_CHECKING:
    import torch


class ClassActivationMaps(ImageExplanation):
    """Base of analyses that make maps of activations and gradients: a subclass says its `kind`, and gives `evidence`.

    For each image and class one forward and one backward pass gives the maps of all layers.
    """

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

    @abstractmethod
    def evidence(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Return the maps of some images at one layer, before what is negative is cut off.

        Args:
            activations: [N, units, h, w].
            gradients: of the score of each image, [N, units, h, w].

        Returns:
            [N, h, w].
        """

    def explainer(self, context: JobContext, layers: Sequence[tuple[str, Layer]], job: Job) -> Explainer:  # noqa: ARG002
        """Return what makes the maps of a batch."""
        head, method = self.head(context.subject), (self.method_name, self.evidence)
        return lambda batch, wanted: explain(context, batch, wanted, layers, head, self.positions, method)

    def bytes_of(self, subject: Subject, layers: Sequence[Layer], classes: int) -> int:
        """Estimate what one image takes: for each class the photograph, and for each layer two pictures and a map."""
        return stored_bytes(subject, layers, classes)

    def present(self, found: Sequence[ImageEvidence], subject: Subject) -> list[Finding]:
        """Show the images; average the numbers; say what was left out."""
        head = self.head(subject)
        source, chosen = self.chosen_images(subject)
        used, _ = self.chosen_layers(subject.view)
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
            *in_words(summaries, choice=head.has_choice or bool(TOP.fullmatch(str(self.classes)))),
            *explained_score.in_words(head, subject.view),
            *explained_score.too_sure(metrics),
            *merge(shown),
            *cropped_note(source, chosen, subject.preprocessing, subject.input_size),
            *self.coverage(subject, len(found)),
            *about_blank(metrics),
            *presentation.about_rounding(self.score_layers(subject), subject),
            *presentation.about_layers(self.layers, [layer for _, layer in used], subject),
        ]

    def remarks(self, subject: Subject) -> tuple[str, ...]:
        """Say where the last convolution stands, if it is taken for the end of the network and is not."""
        return presentation.layer_remarks(self.layers, subject)


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
    cites: ClassVar[tuple[str, ...]] = cam.GradCamMethod.cites
    example: ClassVar[str] = "{kind: grad_cam, data: photos, layers: block_outputs, classes: top:3}"

    def evidence(self, activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        """Weight the channels with their mean gradients."""
        return cam.GradCamMethod().weighted(activations, gradients)


def stored_bytes(subject: Subject, layers: Sequence[Layer], classes: int) -> int:
    """Estimate the bytes of an image: for each class the photograph, and for each layer two pictures and a map."""
    height, width = subject.input_size
    picture = storage.jpeg(*picture_size(height, width)) + storage.PICTURE_ROW
    values = 0
    for layer in layers:
        rows, columns = layer.map_shape or (None, None)
        values += rows * columns if rows and columns else height * width // 16
    return storage.RECORD + classes * ((2 * len(layers) + 1) * picture + storage.sparse(values))
