"""Grad-CAM at every layer: heat maps of the evidence for a class, from the first layer to the last."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt, field_validator

from onnxviz.analyses import explained_score, storage
from onnxviz.analyses.base import Analysis, Job, JobContext, LayerSelector, Subject
from onnxviz.analyses.grad_cam import evidence_summary
from onnxviz.analyses.grad_cam.evidence_places import Places, find_places
from onnxviz.core import colormap
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import (
    Array,
    Caveat,
    Cell,
    Column,
    Coverage,
    Finding,
    MatrixRow,
    Metric,
    Note,
    Outcomes,
    Picture,
    PictureMatrix,
    Table,
)
from onnxviz.core.values import Layer
from onnxviz.data.image_choice import ImageChoice, choose_images, find_source
from onnxviz.data.images import ImageSource, load_batch
from onnxviz.data.visible_part import cropped_note
from onnxviz.graph.targets import class_indices, resolve_head
from onnxviz.model.batches import named_memory_limit
from onnxviz.model.maps import in_words

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.grad_cam.attribution import EvidenceMap
    from onnxviz.graph.model_output import Head
    from onnxviz.graph.view import GraphView

_TOP = re.compile(r"top:([1-9]\d{0,3})")
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_SMALLEST_PICTURE, _LARGEST_PICTURE = 128, 256
_LIMIT = 24
_FEWER_LAYERS = "choose fewer layers: the maps of all come from one pass; or raise the memory limit"


class GradCam(Analysis):
    """Where in the image the evidence for a class or another score lies, layer by layer.

    For each image and class one forward and one backward pass gives the maps of all layers. A layer's channels are
    weighted with the spatial mean of the gradient of the class's logit, added up, and negative sums are cut off. First
    layers see edges all over the image; in a sound network the last ones see what makes the class: the neck of the
    ostrich, the face of the lion. Evidence on the background, or on clothes instead of a face, is a warning.

    Each map is drawn on a scale from 0 to its own maximum, so maps show where, not how much. What a map shows at an
    early layer depends on the layer's whole future in the network; read the progression, not one picture.
    """

    kind: Literal["grad_cam"] = "grad_cam"
    data: str = Field(description="The data set with the images.")
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
    images: ImageChoice = None
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

    heading: ClassVar[str] = "Grad-CAM"
    version: ClassVar[int] = 4
    cites: ClassVar[tuple[str, ...]] = ("Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391",)
    metric_names: ClassVar[Mapping[str, str]] = {
        "top1_accuracy": "Share of the images whose own class has the highest logit, where their class is known.",
        "top1_confidence": "Mean probability of the class of highest logit.",
        "last_layer_extent": "Mean share of the image where the last layer's map reaches half of its maximum.",
        "blank_fraction": "Share of the maps (layer, image, class or number) that are zero everywhere.",
    }
    example: ClassVar[str] = "{kind: grad_cam, data: photos, layers: block_outputs, classes: top:3}"

    @field_validator("classes")
    @classmethod
    def _require_a_class(cls, value: object) -> object:
        if isinstance(value, list) and not value:
            raise ValueError("an empty list names no class")
        if isinstance(value, str) and value.startswith("top:") and not _TOP.fullmatch(value):
            raise ValueError("write top:3 for the three classes of highest logit")
        return value

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan one job for each image."""
        source = find_source(self.data, subject.data)
        used, _ = self._layers(subject.view)
        head = self._head(subject)
        score, own = explained_score.layer_of(head), explained_score.OwnClasses.of(source, subject, head)
        for index in choose_images(source, self.images, self.limit):
            classes = self._classes(own, index, subject, head)
            count = classes if isinstance(classes, int) else len(classes)
            yield Job(
                name=f"{index} {shorten(source.names[index], 40)}",
                parameters={
                    "image": index,
                    "classes": classes,
                    "own_class": own.get(index),
                },
                layers=tuple(dict.fromkeys((*(layer.name for _, layer in used), score.name))),
                data=(self.data,),
                cost=1.0 + 2.0 * count,
                images=2 * count * len(used) + 1,
                bytes=_stored_bytes(subject, [layer for _, layer in used], count),
            )

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:
        """Say that there is no accuracy or confidence where the output is no choice, or no image's class is known."""
        known = any(job.parameters["own_class"] is not None for job in jobs)
        return explained_score.without_metrics(self._head(subject), self.data, known=known)

    def run(self, job: Job, context: JobContext) -> list[Finding]:
        """Explain the classes of one image at every layer."""
        index = int(job.parameters["image"])
        source = find_source(self.data, context.subject.data)
        used, _ = self._layers(context.subject.view)
        titles = tuple(title for title, _ in used)
        with named_memory_limit(f"Grad-CAM at {len(used)} layers", remedy=_FEWER_LAYERS):
            layers, head = [layer for _, layer in used], self._head(context.subject)
            evidence = _explain(context, source, index, layers, job.parameters["classes"], head, self.positions)
        kept = [place for place, size in enumerate(evidence.sizes) if max(size) > 1]
        if not kept:
            raise AnalysisError(
                "no selected layer has a map of positions at this image size",
                remedy="select layers before the global pooling, for example `layers: block_outputs`",
            )
        return _report(evidence, kept, titles, source.names[index], job, context.subject, self.positions)

    def combine(self, parts: Sequence[list[Finding]], subject: Subject) -> list[Finding]:
        """Join the images; average the numbers; say what was left out."""
        numbers: dict[str, list[Metric]] = {}
        for part in parts:
            for finding in part:
                if isinstance(finding, Metric):
                    numbers.setdefault(finding.name, []).append(finding)
        rest: list[list[Finding]] = [[finding for finding in part if not isinstance(finding, Metric)] for part in parts]
        metrics = [explained_score.joined(found) for found in numbers.values()]
        said = explained_score.in_words(self._head(subject), subject.view)
        source = find_source(self.data, subject.data)
        chosen = choose_images(source, self.images, self.limit)
        seen = cropped_note(source, chosen, subject.preprocessing, subject.input_size)
        whole = evidence_summary.in_words(parts, source, by_score=bool(_TOP.fullmatch(str(self.classes))))
        found = [*metrics, *whole, *said, *explained_score.too_sure(metrics), *super().combine(rest, subject), *seen]
        return [*found, *self._coverage(subject, len(parts)), *_blank(metrics), *self._on_layers(subject)]

    def remarks(self, subject: Subject) -> tuple[str, ...]:
        """Say where the last convolution stands, if it is taken for the end of the network and is not."""
        note = subject.view.remark_on(self.layers)
        return (note,) if note else ()

    def _on_layers(self, subject: Subject) -> list[Finding]:
        """Say what should be known of the layers, and how tokens were made a map."""
        used, _ = self._layers(subject.view)
        said = in_words([layer for _, layer in used])
        tokens = [Note(f"{said}.", "tokens")] if said else []
        return [*(Caveat(remark) for remark in self.remarks(subject)), *tokens]

    def _coverage(self, subject: Subject, images: int) -> list[Finding]:
        source = find_source(self.data, subject.data)
        used, skipped = self._layers(subject.view)
        reason = "; ".join(f"{why}: {_listed(names)}" for why, names in skipped.items())
        chosen = len(choose_images(source, self.images, self.limit))
        wanted = len(choose_images(source, self.images, len(source)))
        why_images = [f"`limit: {self.limit}`, spread evenly"] if chosen < wanted else []
        why_images += ["chosen by `images`"] if wanted < len(source) else []
        why_images += [f"{chosen - images} failed"] if images < chosen else []
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
            Coverage("images", images, len(source), "; ".join(why_images), id="coverage.images"),
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
            reasons = "; ".join(f"{_listed(names, 3)}: {why}" for why, names in skipped.items())
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


def _stored_bytes(subject: Subject, layers: Sequence[Layer], classes: int) -> int:
    """Estimate what one image takes: for each class the photograph, and for each layer two pictures and a map."""
    height, width = subject.input_size
    longest = max(height, width)
    scale = -(-_SMALLEST_PICTURE // longest) if longest < _SMALLEST_PICTURE else min(1.0, _LARGEST_PICTURE / longest)
    picture = storage.jpeg(round(scale * height), round(scale * width)) + storage.PICTURE_ROW
    values = 0
    for layer in layers:
        rows, columns = layer.map_shape or (None, None)
        values += rows * columns if rows and columns else height * width // 16
    return storage.RECORD + classes * ((2 * len(layers) + 1) * picture + storage.sparse(values))


# --- the computation ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Evidence:
    """What the passes gave for one image.

    Attributes:
        image: float32 [3, H, W], as the network sees it.
        head: what is explained.
        classes: indices of its classes or units.
        scores: one for each of them; of classes the logit.
        probabilities: [all classes], or None if nothing makes any.
        best: index of the highest score.
        maps: for each class one map for each layer.
        placed: positions that each score is of; 1 for a classifier.
        predicted: for each class of a map the share of the positions where it is the highest; else None.
    """

    image: torch.Tensor
    head: Head
    classes: tuple[int, ...]
    scores: tuple[float, ...]
    probabilities: np.ndarray | None
    best: int
    maps: tuple[tuple[EvidenceMap, ...], ...]
    placed: int
    predicted: tuple[float, ...] | None

    @property
    def sizes(self) -> list[tuple[int, ...]]:
        return [tuple(found.values.shape[1:]) for found in self.maps[0]]


def _explain(
    context: JobContext,
    source: ImageSource,
    index: int,
    layers: Sequence[Layer],
    classes: Sequence[int] | int,
    head: Head,
    positions: explained_score.Positions,
) -> _Evidence:
    """Run one forward pass, and one backward pass for each class."""
    import torch

    from onnxviz.analyses.grad_cam.attribution import grad_cam

    subject, model = context.subject, context.model
    batch = load_batch(source, [index], subject.preprocessing, model.input_size)
    image = torch.from_numpy(batch).to(model.device).requires_grad_()
    score_layer = explained_score.layer_of(head)
    wanted = list(dict.fromkeys((*layers, score_layer)))
    outputs = dict(zip(wanted, model.differentiable(wanted)(image), strict=True))
    raw = outputs[score_layer]
    placed = explained_score.score_at_positions(raw, head)
    scores = placed.mean(dim=2) if positions == "mean" else placed.amax(dim=2)
    activations = [outputs[layer] for layer in layers]
    for layer, activation in zip([*layers, score_layer], [*activations, raw], strict=True):
        if not bool(torch.isfinite(activation).all()):
            raise AnalysisError("the activations are not finite for this image", where=shorten(layer.name))
    values = scores.detach()[0]
    predicted = explained_score.predicted_shares(placed.detach()[0], head, positions)
    chosen = explained_score.in_order(values.tolist(), predicted)
    # The class that the network believes in most comes first, also of those that are named.
    chosen = chosen[:classes] if isinstance(classes, int) else [number for number in chosen if number in classes]
    maps = []
    for done, number in enumerate(chosen):
        context.progress(done, len(chosen), head.title(number, None))
        maps.append(grad_cam(scores[:, number], activations, keep_tape=done + 1 < len(chosen), layers=layers))
    context.progress(len(chosen), len(chosen))
    return _Evidence(
        image.detach()[0],
        head,
        tuple(chosen),
        tuple(float(values[number]) for number in chosen),
        explained_score.probabilities(context.model, batch, head, int(values.numel())),
        int(values.argmax()),
        tuple(maps),
        int(placed.shape[2]),
        predicted,
    )


# --- what to say and show -------------------------------------------------------------------------------------------


def _report(
    evidence: _Evidence,
    kept: list[int],
    titles: tuple[str, ...],
    name: str,
    job: Job,
    subject: Subject,
    positions: explained_score.Positions,
) -> list[Finding]:
    """Turn one image's maps into findings."""
    index = int(job.parameters["image"])
    columns = tuple(titles[place] for place in kept)
    photograph = _photograph(evidence.image, subject.preprocessing.channel_order == "GRAY")
    pictures = [[_pictures(row[place].values, photograph) for place in kept] for row in evidence.maps]
    blank = [[float(row[place].values.max()) <= 0 for place in kept] for row in evidence.maps]
    head = evidence.head
    shown = [head.title(number, subject.labels) for number in evidence.classes]
    places = [_where(row[kept[-1]].values, photograph.shape[:2]) for row in evidence.maps]
    rows, table = [], []
    for place, number in enumerate(evidence.classes):
        logit, probability = evidence.scores[place], _probability(evidence, place)
        words = (head.unit, "logit" if head.has_classes and head.holds == "scores" else "value")
        facts: list[tuple[str, Cell]] = [(words[0], number), (words[1], round(logit, 4))]
        facts += [("probability", round(probability, 4))] if probability is not None else []
        facts += [("predicted at", f"{evidence.predicted[number]:.1%} of positions")] if evidence.predicted else []
        facts += [("evidence at the last layer", _in_words(places[place]))]
        empty = [columns[k] for k, is_blank in enumerate(blank[place]) if is_blank]
        facts += [("no positive evidence at", _listed(empty))] if empty else []
        cells = tuple(_cell(pair, shown[place], column) for pair, column in zip(pictures[place], columns, strict=True))
        lead = Picture(photograph, alt=f"{shorten(name)} as the network sees it", format="jpeg")
        rows.append(MatrixRow(shown[place], cells, lead, tuple(facts)))
        found = places[place]
        position, extent = (None, None) if found is None else (found.words, found.extent)
        table.append((f"{name}: {shown[place]}", number, logit, probability, position, extent, len(empty)))
    findings: list[Finding] = [
        PictureMatrix(
            f"maps.{index}", f"{name}: {_columns_in_words(columns)}", columns, tuple(rows), scale=_SCALE
        ),
        Table("evidence", "Evidence at the last layer", explained_score.columns(head) + _COLUMNS, tuple(table), _TABLE),
        Coverage(f"maps (layer, image, {head.unit})", len(kept) * len(rows), len(titles) * len(rows),
                 _pointlike(titles, kept), id="coverage.maps"),
        _array(evidence, kept, columns, index, name),
        *_outcome(name, evidence.best, job.parameters["own_class"]),
        *_numbers(evidence, blank, places, job.parameters["own_class"]),
        *_caveats(evidence, kept, columns, shown, subject.view.gradient_stops(explained_score.layer_of(head))),
        *explained_score.about_positions(head, evidence.placed, positions),
    ]  # fmt: skip
    reached = float(evidence.maps[0][kept[-1]].gradient.max()) > 0
    said = _sentence(
        name,
        shown[0],
        explained_score.certainty(head, _probability(evidence, 0), evidence.scores[0], _predicted(evidence, 0)),
        columns[-1],
        places[0],
        reached,
    )
    findings.append(
        Note(
            said
            + explained_score.first_choice(
                head, evidence.best, evidence.classes, evidence.probabilities, subject.labels
            ),
            about="each image",
        )
    )
    return findings


_SCALE = "0 to the map's own maximum; black is no positive evidence"
_TABLE = (
    "Position: the parts of the image, thirds of its height and width, in which regions of the last layer's map reach "
    "half of its maximum, that with the maximum first. Extent: how much of the image these regions cover. Layers "
    "without positive evidence: their map is zero everywhere."
)


_COLUMNS = (
    Column("position"),
    Column("extent", "percent"),
    Column("layers without positive evidence", "integer"),
)


def _where(values: torch.Tensor, size: tuple[int, ...]) -> Places | None:
    """Return where on an image of a size a map [1, h, w] reaches half of its maximum; None if it is blank."""
    from onnxviz.analyses.grad_cam.attribution import upsample

    finest = (max(size[0], values.shape[1]), max(size[1], values.shape[2]))
    return find_places(upsample(values, finest)[0].double().cpu().numpy())


def _columns_in_words(columns: Sequence[str]) -> str:
    return f"evidence at {columns[0]}" if len(columns) == 1 else "from the first layer to the last"


def _in_words(place: Places | None) -> str:
    return "none" if place is None else f"{place.words}, {place.extent:.0%} of the image"


def _sentence(
    image: str,
    shown: str,
    certainty: str,
    layer: str,
    place: Places | None,
    reached: bool,
) -> str:
    named = shorten(layer, 60)
    if not reached:
        return f"{image}: nothing can be said of {shown}{certainty} at {named}: the score has no gradient there."
    if place is None:
        return f"{image}: nothing at {named} speaks for {shown}{certainty}."
    return f"{image}: the evidence for {shown}{certainty} at {named} {place.sentence}."


def _numbers(
    evidence: _Evidence, blank: list[list[bool]], places: Sequence[Places | None], own: int | None
) -> list[Finding]:
    """Return one image's share of the metrics; `combine` averages them over the images."""
    found: list[Finding] = [*explained_score.choice_metrics(evidence.head, evidence.best, evidence.probabilities, own)]
    extents = [place.extent for place in places if place is not None]
    if extents:
        found.append(
            Metric("last_layer_extent", sum(extents) / len(extents), "extent of the evidence",
                   "Mean share of the image where the last layer's map reaches half of its maximum; blank maps left "
                   "out.", "percent", total=1)
        )  # fmt: skip
    flat = [is_blank for row in blank for is_blank in row]
    found.append(
        Metric("blank_fraction", sum(flat) / len(flat), "maps without positive evidence",
               f"Share of the maps (layer, image, {evidence.head.unit}) that are zero everywhere.", "percent", "lower",
               total=len(flat))
    )  # fmt: skip
    return found


def _caveats(
    evidence: _Evidence,
    kept: list[int],
    columns: tuple[str, ...],
    shown: Sequence[str],
    stops: tuple[str, ...],
) -> list[Finding]:
    """Say what a reader could take for a finding and is none; `stops` are the nodes that no gradient passes."""
    found: list[Finding] = []
    reached = np.array([[float(row[place].gradient.max()) > 0 for place in kept] for row in evidence.maps])
    if not reached.any():
        found.append(
            Caveat(f"The gradient of the score is zero at every layer ({_cause(stops)}): Grad-CAM cannot explain "
                   "this network, and its blank maps mean nothing.", "no_gradient", "wrong")
        )  # fmt: skip
    else:
        flat = [name for name, by_layer in zip(shown, reached.tolist(), strict=True) if not any(by_layer)]
        if flat:
            found.append(
                Caveat(f"The score of {_listed(flat)} has a gradient of zero at every layer, as of a score that is cut "
                       "off at its largest value; its blank maps mean nothing.", "no_gradient", "wrong")
            )  # fmt: skip
        cut = [column for column, by_class in zip(columns, reached.T.tolist(), strict=True) if not any(by_class)]
        if cut:
            found.append(
                Caveat(f"The score's gradient is zero at {_listed(cut)}: the score does not depend on these "
                       "layers, or every path to it is cut; their blank maps mean nothing.", "no_gradient")
            )  # fmt: skip
    return found


def _cause(stops: tuple[str, ...]) -> str:
    if not stops:
        return "a saturated output, or an operator whose slope is zero there"
    more = f" and {len(stops) - 2} more" if len(stops) > 2 else ""
    return f"every path to the image ends in an operator without a slope: {', '.join(stops[:2])}{more}"


def _blank(metrics: Sequence[Metric]) -> list[Finding]:
    fraction = next((metric.value for metric in metrics if metric.name == "blank_fraction"), 0.0)
    if fraction <= 0:
        return []
    return [
        Caveat(f"{fraction:.0%} of the maps hold no positive evidence: the weighted sum of channels is nowhere above "
               "zero. They are drawn black; the rows say at which layers.", "blank", "limit")
    ]  # fmt: skip


def _array(evidence: _Evidence, kept: list[int], columns: tuple[str, ...], index: int, name: str) -> Array:
    maps = {
        f"class{number}_layer{position:03d}": row[place].values[0].float().cpu().numpy()
        for number, row in zip(evidence.classes, evidence.maps, strict=True)
        for position, place in enumerate(kept)
    }
    about = {"layers": np.array(columns), "classes": np.array(evidence.classes), "logits": np.array(evidence.scores)}
    return Array(f"arrays.{index}", f"{name}: maps at the layers' own resolution", {**maps, **about})


# --- pictures -------------------------------------------------------------------------------------------------------


def _photograph(image: torch.Tensor, gray: bool) -> np.ndarray:
    """Return what the network sees as uint8 [h, w, 3], enlarged or reduced to a size that suits a report."""
    from torch.nn import functional

    if gray:
        image = (image * image.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(dim=0).expand(3, -1, -1)
    longest = max(image.shape[1:])
    if longest < _SMALLEST_PICTURE:
        times = -(-_SMALLEST_PICTURE // longest)
        image = image.repeat_interleave(times, dim=1).repeat_interleave(times, dim=2)
    elif longest > _LARGEST_PICTURE:
        size = [max(1, round(length * _LARGEST_PICTURE / longest)) for length in image.shape[1:]]
        image = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    pixels: np.ndarray = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels)


def _pictures(values: torch.Tensor, photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return heat map and overlay of a map [1, h, w]; the scale is the low-resolution map's own maximum."""
    from onnxviz.analyses.grad_cam.attribution import to_own_maximum, upsample

    height, width = photograph.shape[:2]
    heat = upsample(to_own_maximum(values), (height, width))[0].cpu().numpy()
    return colormap.colour(heat), colormap.overlay(photograph, heat)


def _cell(pair: tuple[np.ndarray, np.ndarray], shown: str, column: str) -> tuple[Picture, Picture]:
    alt = f"Grad-CAM of {shorten(shown, 40)} at {shorten(column, 40)}"
    return Picture(pair[0], alt=alt, format="jpeg"), Picture(pair[1], alt=f"{alt}, over the image", format="jpeg")


def _probability(evidence: _Evidence, place: int) -> float | None:
    return None if evidence.probabilities is None else float(evidence.probabilities[evidence.classes[place]])


def _predicted(evidence: _Evidence, place: int) -> float | None:
    return None if evidence.predicted is None else evidence.predicted[evidence.classes[place]]


def _pointlike(titles: Sequence[str], kept: Sequence[int]) -> str:
    gone = [title for place, title in enumerate(titles) if place not in kept]
    return f"a single position at this image size: {_listed(gone)}" if gone else ""


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shorten(name, 40) for name in names[:most]) + more


def _outcome(name: str, best: int, own: int | None) -> list[Finding]:
    """Return whether an image of known class is named right, so that models can be compared image by image."""
    return [] if own is None else [Outcomes("top1_accuracy", (name,), (own == best,))]
