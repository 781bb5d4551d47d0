"""What somebody says of a network's outputs: by declaring them, or by the number of class names or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from onnxviz.core.errors import SelectionError, nearest, shorten
from onnxviz.core.values import Layer
from onnxviz.graph.model_output import WITH_CLASSES, Head, OutputKind, Probability, has_positions


def tell(
    heads: Sequence[Head], kinds: OutputKind | Mapping[str, OutputKind] | None, names: int | None, numbers: int | None
) -> tuple[Head, ...]:
    """Return heads with what is said of them: by name, else by the number of class names or of the images' classes.

    Raises:
        SelectionError: if there is no such output, or it cannot be what it is said to be.
    """
    for kind in [kinds] if isinstance(kinds, str) else (kinds or {}).values():
        if kind not in get_args(OutputKind):
            raise SelectionError(
                f"an output cannot be {shorten(str(kind))!r}",
                remedy=nearest(str(kind), get_args(OutputKind)) or f"write one of {', '.join(get_args(OutputKind))}",
            )
    by_name = dict.fromkeys((head.name for head in heads), kinds) if isinstance(kinds, str) else dict(kinds or {})
    for name in by_name:
        if not any(name in head.outputs for head in heads):
            every = [output for head in heads for output in head.outputs]
            raise SelectionError(
                f"the model has no output {shorten(name)!r}",
                remedy=nearest(name, every) or f"it has {', '.join(repr(shorten(output)) for output in every[:12])}",
            )
    told = []
    for head in heads:
        said = [by_name[output] for output in head.outputs if output in by_name]
        told.append(_declared(head, said[0]) if said else head)
    known = [head for head in told if head.has_classes]
    # Names that are too few or too many for the known classes are not those of another output that they happen to fit.
    fitting = names if names is not None and (not known or any(head.takes(names) for head in known)) else None
    told = [
        _counted(head, fitting, numbers) if head.kind == "unknown" and head.source != "declared" else head
        for head in told
    ]
    return tuple(replace(head, named=names is not None and head.takes(names)) for head in told)


def _declared(head: Head, kind: OutputKind) -> Head:
    scores, where = head.scores, f"output {shorten(head.name)!r}"
    if kind == "unknown":
        return Head(head.outputs, scores=scores, source="declared", reason="declared to be unknown")
    if kind == "multilabel" and head.source == "graph" and head.probability == "softmax":
        raise _unfit(kind, where, f"the file has {head.reason}, by which one class excludes the others", "classes")
    contradicted = head.source == "graph" and kind != head.kind
    reason = f"declared; the file has {head.reason}" if contradicted else "declared"
    if kind not in WITH_CLASSES:
        return Head(head.outputs, kind, scores, 0, "declared", reason)
    if scores is None or not (count := head.choices or scores.unit_count or (1 if len(scores.shape) == 1 else 0)):
        raise SelectionError(
            f"it cannot be {kind!r}: no layer with an axis of units holds its scores",
            where=where,
            remedy="leave it out, and name what is to be explained with `score:`",
        )
    count = scores.unit_count or count
    if kind == "map_of_classes" and not has_positions(scores):
        raise _unfit(kind, where, "it has no positions", "classes" if count > 1 else "binary")
    if kind != "map_of_classes" and has_positions(scores):
        raise _unfit(kind, where, f"it has {count} units at several positions", "map_of_classes")
    if kind == "binary" and count != 1:
        raise _unfit(kind, where, f"it has {count} numbers, and `binary` is one score", "classes")
    if kind in ("classes", "multilabel") and count == 1:
        raise _unfit(kind, where, "it has one number", "binary")
    if head.holds == "renumbered":
        reason = f"declared, with the numbers that the scores have; {head.reason}"
    if kind in ("binary", "map_of_classes") and count == 1 and head.holds == "activated":
        raise _unfit(kind, where, _UNDECIDED, "unknown")
    made, final = (head.probability, head.final) if head.final is not None else _probability(head, _USUAL[kind])
    classes = 2 if count == 1 else count
    return Head(head.outputs, kind, scores, classes, "declared", reason, made, final, holds=head.holds)


_UNDECIDED = "an activation is among what made its number, which is no probability, so nothing says where it decides"


def _probability(head: Head, usual: Probability) -> tuple[Probability, Layer | None]:
    """Return what makes probabilities where no activation ends the file, and their layer: never a second activation."""
    if head.holds == "probabilities":
        return "given", head.scores
    return ("" if head.holds == "activated" else usual), None


_USUAL: dict[str, Probability] = {
    "classes": "softmax", "binary": "sigmoid", "multilabel": "sigmoid", "map_of_classes": "",
}  # fmt: skip
"""What makes probabilities of scores that are declared to be of classes, where the file has nothing that does."""


def _unfit(kind: str, where: str, why: str, other: str) -> SelectionError:
    return SelectionError(
        f"it cannot be {kind!r}: {why}",
        where=where,
        remedy=f"write {other}, or what else it is: regression, embedding, boxes, image",
    )


def _counted(head: Head, names: int | None, numbers: int | None) -> Head:
    """Take an output that nothing is said of for class scores where there are as many classes as units."""
    scores = head.scores
    if scores is None or scores.channel_axis is None or not scores.unit_count or head.holds == "renumbered":
        return head
    count, placed = scores.unit_count, has_positions(scores)
    if names == count > 1 and (not placed or scores.has_map):
        kind: OutputKind = "map_of_classes" if placed else "classes"
        reason = f"taken for class scores because there are {names} class names"
        made, final = _probability(head, "" if placed else "softmax")
        return Head(head.outputs, kind, scores, count, "labels", reason, made, final, holds=head.holds)
    if names == 2 and count == 1 and not placed and head.holds != "activated":
        reason = "taken for the score of the second class because there are 2 class names"
        made, final = _probability(head, "sigmoid")
        return Head(head.outputs, "binary", scores, 2, "labels", reason, made, final, holds=head.holds)
    if numbers == count > 1 and not placed:
        reason = f"taken for class scores because the images' class numbers count {numbers} classes"
        return Head(head.outputs, "classes", scores, count, "images", reason)
    return head
