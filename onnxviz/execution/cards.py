"""What a plan says of its models and data sets before anything is computed, for the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnxviz.analyses.base import Subject
from onnxviz.core.results import DataCard, ModelCard
from onnxviz.data.base import DataSource, ImageSource
from onnxviz.data.class_conflicts import contradictions
from onnxviz.data.image_choice import unknown_classes, unlike_concepts
from onnxviz.data.visible_part import part_seen


def model_card(subject: Subject) -> ModelCard:
    """Return what the report says of a model, its agreement with ONNX Runtime left out."""
    card = subject.view.card(subject.alias, subject.preprocessing)
    return replace(card, labels=len(subject.labels or ()), seen=seen_of(subject))


def seen_of(subject: Subject) -> tuple[tuple[str, str], ...]:
    """Return for each data set with images, by name, which part of them the model sees."""
    preprocessing = subject.preprocessing
    if preprocessing.undecided:
        return ()
    found = []
    for name, source in subject.data.items():
        sentence = part_seen(getattr(source, "sizes", ()), preprocessing, subject.input_size)
        masks = preprocessing.fit == "crop" and hasattr(source, "read_labels")
        if sentence:
            found.append((name, sentence + ("; dissections take all of each image, stretched" if masks else "")))
    return tuple(found)


def data_card(name: str, settings: DataSource, source: ImageSource, subjects: Sequence[Subject]) -> DataCard:
    """Return what the report says of a data set."""
    skipped = tuple((str(item), str(why)) for item, why in getattr(source, "skipped", ()))
    notes = tuple((str(item), str(what)) for item, what in getattr(source, "notes", ()))
    remarks = (*getattr(source, "remarks", ()), *_on_classes(source, subjects))
    return DataCard(name, settings.kind, settings.in_words, source.digest, len(source), skipped, notes, remarks)


def _on_classes(source: ImageSource, subjects: Sequence[Subject]) -> Iterator[str]:
    """Yield of which images the class is not known although it should be, or is said in two ways."""
    yield from getattr(source, "remarks_on_classes", ())
    for subject in subjects:
        model = f"model {subject.alias!r}: " if len(subjects) > 1 else ""
        said = [*contradictions(source, subject.labels), *unknown_classes(source, subject.labels)]
        head = subject.view.main_head
        if head is not None and head.kind == "map_of_classes" and subject.labels:
            said += unlike_concepts(source, subject.labels)
        yield from (f"{model}{sentence}" for sentence in said)


def reasons_against_comparing(subjects: Sequence[Subject]) -> Iterator[str]:
    """Yield why models must not be set side by side; same images and seeds are given, being of one recipe."""
    if len(subjects) < 2:
        return
    first = subjects[0]
    for other in subjects[1:]:
        pair = f"{first.alias} and {other.alias}"
        heads = [subject.view.main_head for subject in (first, other)]
        classes = [head.choices if head is not None else 0 for head in heads]
        kinds = [head.kind if head is not None else "unknown" for head in heads]
        if classes[0] != classes[1]:
            what = "classes" if all(head is not None and head.has_classes for head in heads) else "outputs"
            yield f"{pair} have {classes[0]} and {classes[1]} {what}"
        elif kinds[0] != kinds[1] and "unknown" not in kinds:
            yield f"{pair} give different things: {kinds[0]} and {kinds[1]}"
        elif first.labels is not None and other.labels is not None and first.labels != other.labels:
            yield f"{pair} have different class names, so the same class number means something else"
