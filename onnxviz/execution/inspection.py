"""What `onnxviz inspect` tells of a model, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxviz.analyses.base import Subject
from onnxviz.core import limits
from onnxviz.core.devices import DeviceChoice
from onnxviz.core.errors import DataError, ModelError, SelectionError, shorten
from onnxviz.core.results import LayerRow, ModelCard
from onnxviz.core.values import AUTO, Agreement
from onnxviz.data.class_conflicts import contradictions
from onnxviz.data.ground_truth import class_pattern
from onnxviz.data.image_choice import unknown_classes
from onnxviz.execution.schedule import PARITY_IMAGES, ParityCheck
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.fixed_inputs import InputValue
from onnxviz.graph.inputs import further_inputs
from onnxviz.graph.labels import labels_in, with_labels, with_labels_of
from onnxviz.graph.structure import reads
from onnxviz.model.preprocessing import METADATA_KEY, preprocessing_for
from onnxviz.model.preprocessing_candidates import pictures_for
from onnxviz.model.preprocessing_trials import Probe

if TYPE_CHECKING:
    from onnxviz.model.model import Model


@dataclass(frozen=True)
class Unsupported:
    """An operator that does not convert, with its domain where that is not the standard's, and the nodes that are it.

    The reason is "" if nothing knows the operator.
    """

    operator: str
    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """A model, read and compared.

    Attributes:
        card: what the report's model section shows.
        layers: the rows of the layers that were asked for.
        logits: name of the layer that holds the class scores, "" if there is none.
        layout: of the input.
        roles: what last_map, block_outputs and the convolutions stand for, a sentence each.
        unsupported: operators that do not convert; None if nothing was converted.
        gradient_stops: nodes at which every gradient from the class scores to the image ends.
        unreachable: names of the layers that need those.
        errors: layers that could not be compared with ONNX Runtime, with the reason.
        said: what the agreement was measured on.
        probe: the preprocessings that were tried on pictures; None if there were none.
        classes: names of the classes in the order of the scores, where they are known.
        class_count: how many classes there are; 0 if there are none, or that is not known.
        no_classes: what the main output is where it is no scores of classes; "" where it is.
        waiting: why some of the layers cannot be analysed yet: inputs that nobody has given; "" if there are none.
        on_images: of which of the pictures the class is not known although it should be.
    """

    card: ModelCard
    layers: tuple[LayerRow, ...]
    logits: str
    layout: str
    roles: tuple[str, ...] = ()
    unsupported: tuple[Unsupported, ...] | None = None
    gradient_stops: tuple[str, ...] = ()
    unreachable: frozenset[str] = frozenset()
    errors: tuple[tuple[str, str], ...] = ()
    said: str = ""
    probe: Probe | None = None
    classes: tuple[str, ...] = ()
    class_count: int = 0
    no_classes: str = ""
    on_images: tuple[str, ...] = ()
    waiting: str = ""


def inspect_model(
    path: Path,
    *,
    layers: str | None = None,
    preprocess: str | None = None,
    convert: bool = True,
    agreement: bool = False,
    images: Path | None = None,
    labels: Path | None = None,
    classes_from: str | None = None,
    count: int | None = None,
    sizes: Mapping[str, int] | None = None,
    inputs: Mapping[str, InputValue] | None = None,
    device: DeviceChoice = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Read a model and describe it.

    Args:
        path: ONNX file.
        layers: a selector: only these; all if None.
        preprocess: a preset's name, for the agreement, and to be tried with the others on pictures.
        convert: find out what converts, which loads torch.
        agreement: compare the layers with ONNX Runtime.
        images: a folder or glob of pictures: try preprocessings on them.
        labels: class names in the order of the logits, one a line; to rank by accuracy.
        classes_from: pattern that finds the pictures' classes in their names (`ground_truth.class_pattern`).
        count: use at most this many pictures, spread evenly; as many as a run would try if None.
        sizes: numbers for free dimensions, by their names.
        inputs: values for inputs beside the image, see `open_model`.
        device: where to compute.
        progress: called with the number of preprocessings tried and of all.

    Raises:
        ModelError: if the file is refused, or pictures were given and it is no classifier of images.
        SelectionError: if no layer is selected, or no preset is called so.
        DataError: if the pictures or class names cannot be used.
    """
    view = open_model(path, sizes, inputs)
    if preprocess == AUTO:
        if images is None:
            raise SelectionError("`auto` tries preprocessings on pictures", remedy="add --images FOLDER")
        preprocess = None
    chosen = view.select(layers) if layers is not None else view.layers
    preprocessing = preprocessing_for(view, preprocess)
    agreements: tuple[Agreement, ...] = ()
    errors: dict[str, str] = {}
    said = ""
    unsupported: tuple[Unsupported, ...] | None = None
    unreachable: frozenset[str] = frozenset()
    if convert or agreement:
        from onnxviz.execution.workers.torch_setup import find_device, make_model, prepare_torch

        found = find_device(device)
        prepare_torch(found)
        subject = Subject("model", view, preprocessing, None, {}, 0)
        model = make_model(subject, found)
        unsupported = tuple(Unsupported(name, why, nodes) for name, (why, nodes) in model.unsupported().items())
        unreachable = frozenset(layer.name for layer in view.layers if not model.converts(layer))
        if agreement:
            heavy = _heavy(view)
            reachable = tuple(layer.name for layer in chosen if layer.name not in unreachable | heavy)
            agreements, errors, said = _agreement(model, subject, reachable)
            why = f"it, or what it is made from, takes more than {limits.COMPARED_BYTES >> 20} MiB for one image"
            errors = {**errors, **dict.fromkeys((layer.name for layer in chosen if layer.name in heavy), why)}
    tried: Probe | None = None
    on_images: tuple[str, ...] = ()
    if images is not None:
        tried, on_images = _probe(view, preprocess, images, labels, classes_from, count, device, progress)
    card = view.card("model", preprocessing, agreements)
    names = {layer.name for layer in chosen}
    return Inspection(
        card,
        tuple(row for row in card.layers if row.name in names),
        _logits(view),
        view.input_layout,
        view.roles if layers is None else (),
        unsupported,
        view.gradient_stops(view.logits) if _logits(view) else (),
        unreachable,
        tuple(errors.items()),
        said,
        tried,
        *_classes(view, labels),
        on_images,
        _waiting(view),
    )


def _waiting(view: GraphView) -> str:
    try:
        view.require_image_only(layer.value for layer in view.layers)
    except ModelError as fault:
        values = {layer.value for layer in view.layers}
        behind = {value.name for value in further_inputs(view.proto.graph, view.input_name, values)}
        for node in view.proto.graph.node:
            if any(name in behind for name in reads(node)):
                behind.update(node.output)
        ready = sum(1 for layer in view.layers if layer.value not in behind)
        return f"{ready} of {len(view.layers)} layers can be analysed; {fault.what}; {fault.remedy}"
    return ""


def _classes(view: GraphView, labels: Path | None) -> tuple[tuple[str, ...], int, str]:
    """Return the names of the classes, how many there are, and what the main output is where it has none."""
    told, names = with_labels(view, None) if labels is None else with_labels_of(view, labels)
    head = told.main_head
    if head is None:
        return (), 0, "no output depends on the image"
    if not head.has_classes:
        return (), 0, f"{shorten(head.name, 60)}: {head.in_words}"
    return names or (), head.classes, ""


def _logits(view: GraphView) -> str:
    try:
        return view.logits.name
    except SelectionError:
        return ""


def _heavy(view: GraphView) -> frozenset[str]:
    """Return the layers that are not computed unasked: they, or what they are made from, are known to be too large."""
    heavy: set[str] = set()
    for node in view.proto.graph.node:
        kinds = [view.types.get(name) for name in node.output]
        sizes = [[size for size in kind.shape or () if isinstance(size, int)] for kind in kinds if kind is not None]
        large = any(4 * math.prod(size) > limits.COMPARED_BYTES for size in sizes)
        if large or any(name in heavy for name in reads(node)):
            heavy.update(name for name in node.output if name)
    return frozenset(layer.name for layer in view.layers if layer.value in heavy)


def _agreement(
    model: Model, subject: Subject, layers: tuple[str, ...]
) -> tuple[tuple[Agreement, ...], dict[str, str], str]:
    """Compare with ONNX Runtime, on made-up images or, where the model takes none, on noise."""
    if not layers:
        return (), {}, ""
    if subject.view.input_layout != "other" and len(model.inputs) == 1:
        from onnxviz.execution.parity_job import measure_agreement

        agreements, errors = measure_agreement(model, subject, ParityCheck("", "model", layers, None))
        return agreements, errors, f"on {PARITY_IMAGES} made-up images, preprocessed as {subject.preprocessing.name}"
    from onnxviz.model.parity import check_tensors, made_up_inputs

    said = "on made-up inputs of the declared shapes, 1 for free dimensions, 0 for whole numbers"
    try:
        return check_tensors(model, layers, made_up_inputs(subject.view)), {}, said
    except ModelError as fault:
        free = subject.view.free_dimensions
        hint = f"; give its free dimensions sizes that fit: --size {free[0]}=..." if free else ""
        return (), dict.fromkeys(layers, fault.what + hint), said


def _probe(
    view: GraphView,
    preprocess: str | None,
    images: Path,
    labels: Path | None,
    classes_from: str | None,
    count: int | None,
    device: DeviceChoice,
    progress: Callable[[int, int], None] | None,
) -> tuple[Probe, tuple[str, ...]]:
    """Try preprocessings on pictures; say too of which of them the class is not known although it should be."""
    from onnxviz.data.images import ImageFolder
    from onnxviz.execution.workers.torch_setup import find_device, prepare_torch
    from onnxviz.model.preprocessing_search import probe

    found = find_device(device)
    prepare_torch(found)
    names = None
    if labels is not None:
        view, names = with_labels_of(view, labels)
    if classes_from is not None:
        try:
            class_pattern(classes_from)
        except ValueError as fault:
            raise SelectionError(f"--classes-from: {fault}") from None
    pictures = ImageFolder.find("images", [str(images)], Path(), count or pictures_for(view), classes_from)
    try:
        pictures.require_classes()
    except DataError as fault:
        fault.where = fault.where or "--classes-from"
        raise
    said = preprocess is not None or METADATA_KEY in view.metadata
    names = names if names is not None else labels_in(view)
    on_images = (*pictures.remarks_on_classes, *contradictions(pictures, names), *unknown_classes(pictures, names))
    tried = probe(
        view,
        pictures,
        labels=names,
        declared=preprocessing_for(view, preprocess) if said else None,
        device=found,
        progress=progress,
    )
    return tried, on_images
