"""What a network's outputs are: classes, labels or numbers, as far as the graph says it; else unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from onnx import GraphProto, NodeProto

from onnxviz.errors import SelectionError, nearest, shorten
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.structure import ancestors, attribute, initializers, producers, to_array
from onnxviz.values import Layer

OutputKind = Literal[
    "classes", "binary", "multilabel", "map_of_classes", "regression", "embedding", "boxes", "image", "unknown"
]
Source = Literal["graph", "declared", "labels", "images", "nothing"]

UNSAID = "nothing in the file says what it is"
WITH_CLASSES: frozenset[str] = frozenset(["classes", "binary", "multilabel", "map_of_classes"])

PASSED_THROUGH = frozenset(
    ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"]
)
_ON_THE_WAY_OUT = PASSED_THROUGH | {"Transpose", "ZipMap"}
_SOFTMAX = frozenset(["Softmax", "LogSoftmax"])
_CHOOSES = frozenset(["ArgMax", "TopK", "Hardmax"])
_DOMAINS = ("", "ai.onnx.ml")
_LOOKS_UP = frozenset(["Gather", "ArrayFeatureExtractor"])
"""From the number of a class to its name or number in the data: the second input is what the network computed."""


@dataclass(frozen=True)
class Head:
    """One of a network's outputs, or several that are made from the same scores.

    Attributes:
        outputs: their names in the file: data, never code or path.
        kind: what it is.
        scores: the layer of its scores: for classes the logits, before any softmax or sigmoid; else the numbers
            themselves. None if no layer with units holds them.
        classes: how many classes there are; 0 if it has none, or their number is not known.
        source: who says so: the graph, the recipe or caller, the number of class names, the class numbers of the
            images, or nothing.
        reason: the same in words.
        probability: what makes probabilities of the scores; "" if nothing does.
        final: the layer that holds the probabilities, or their logarithms, in the graph; None if it has none.
        named: whether the model's class names are this head's.
        is_layer: whether it is no output, but a layer that somebody named as the score.
    """

    outputs: tuple[str, ...]
    kind: OutputKind = "unknown"
    scores: Layer | None = None
    classes: int = 0
    source: Source = "nothing"
    reason: str = UNSAID
    probability: Literal["softmax", "sigmoid", ""] = ""
    final: Layer | None = None
    named: bool = False
    is_layer: bool = False

    @property
    def name(self) -> str:
        """How it is addressed: the name of its first output."""
        return self.outputs[0]

    @property
    def has_classes(self) -> bool:
        """Whether its units stand for classes or labels."""
        return self.kind in WITH_CLASSES

    @property
    def has_choice(self) -> bool:
        """Whether it gives one class to the whole image."""
        return self.kind in ("classes", "binary")

    @property
    def is_two_from_one(self) -> bool:
        """Whether one score stands for two classes: the second where it is above 0, else the first."""
        return self.has_classes and self.scores is not None and self.scores.unit_count <= 1 and self.classes == 2

    @property
    def has_positions(self) -> bool:
        """Whether there is a score for each position rather than one for the image."""
        return self.scores is not None and has_positions(self.scores)

    @property
    def choices(self) -> int:
        """How many things can be explained: the classes, or the units of the scores; 0 if unknown."""
        if self.has_classes:
            return self.classes
        if self.scores is None or (self.scores.channel_axis is None and len(self.scores.shape) != 1):
            return 0
        return self.scores.unit_count if self.scores.channel_axis is not None else 1

    def takes(self, count: int) -> bool:
        """Whether so many class names are as many as there are classes; for two classes the second's alone will do."""
        return self.has_classes and (count == self.classes or (count == 1 and self.kind == "binary"))

    def fits(self, names: Sequence[str]) -> bool:
        """Whether these are as many class names as there are classes."""
        return self.has_classes and len(names) == self.classes > 0

    def title(self, number: int, names: Sequence[str] | None) -> str:
        """Return what one of its classes or units is called; a unit of what is not known to be classes is no class."""
        if self.has_classes:
            return names[number] if names and self.fits(names) else f"class {number}"
        if self.choices == 1:
            return f"{self.unit} {shorten(self.name, 60)!r}"
        return f"{self.unit} {number}"

    @property
    def unit(self) -> str:
        """What one of its classes or numbers is called."""
        return "class" if self.has_classes else "unit" if self.is_layer else "output"

    @property
    def in_words(self) -> str:
        """What it is, in a few words."""
        count = f"{self.choices:,}" if self.choices else "an unknown number of"
        made = {
            "softmax": "; probabilities by a softmax",
            "sigmoid": "; probabilities by a sigmoid",
            "": "; scores without probabilities",
        }[self.probability]
        made += ", which the file does not have" if self.probability and self.final is None else ""
        where = " at each position" if self.has_positions else ""
        match self.kind:
            case "classes":
                return f"one of {count} classes{made}"
            case "binary":
                return f"one of 2 classes from one score, class 1 where it is above 0{made}"
            case "multilabel":
                return f"{count} labels, each present or not{made}"
            case "map_of_classes":
                return f"one of {count} classes at each position{made}"
            case "regression":
                return f"{count} measured number{'' if self.choices == 1 else 's'}"
            case "embedding":
                return f"an embedding of {count} numbers"
            case "boxes":
                return "boxes of a detector"
            case "image":
                return "an image"
            case _:
                return f"unknown: {count} number{'' if self.choices == 1 else 's'}{where}"


def has_positions(layer: Layer) -> bool:
    """Whether a layer has several values for each unit: a map, tokens, or candidates of a detector."""
    return any(size != 1 for size in layer.spatial_shape)


def find_heads(
    graph: GraphProto, layers: Sequence[Layer], types: Mapping[str, TensorType], names: Mapping[str, str]
) -> tuple[Head, ...]:
    """Return what the graph says of its outputs, in their order; those made from the same scores are one head.

    A Softmax over the units says classes, a Sigmoid of one unit two of them, one of several labels; ArgMax, TopK and
    Hardmax choose among classes, whose scores they read. All of that at several positions is a map. What comes out of a
    NonMaxSuppression is boxes, what is divided by its own length an embedding. Nothing else is said by a graph.

    Args:
        graph: the normalised graph.
        layers: its layers.
        types: of its values.
        names: identifier of a value -> its name in the file.
    """
    reader = _Reader(graph, layers, types, names)
    found: list[Head] = []
    for output in graph.output:
        head = reader.head(output.name)
        same = next((place for place, other in enumerate(found) if _same(other, head)), None)
        if same is None:
            found.append(head)
            continue
        first = found[same]
        better = head if head.probability and not first.probability else first
        found[same] = replace(better, outputs=first.outputs + head.outputs)
    return tuple(found)


def _same(first: Head, second: Head) -> bool:
    return first.scores is not None and first.scores == second.scores and first.kind == second.kind


class _Reader:
    """Walks up from outputs to what their scores are."""

    def __init__(
        self, graph: GraphProto, layers: Sequence[Layer], types: Mapping[str, TensorType], names: Mapping[str, str]
    ) -> None:
        self.graph, self.types, self.names = graph, types, names
        self.made_by = producers(graph)
        self.layers = {layer.value: layer for layer in layers}
        self.constants = initializers(graph)

    def head(self, output: str) -> Head:
        """Return what the graph says of one output."""
        name = self.names.get(output, output)
        start, chosen = self._choice(output)
        node = self._end(start, _ON_THE_WAY_OUT if chosen is None else PASSED_THROUGH)
        if node is not None and (_is(node, _SOFTMAX) or _is(node, {"Sigmoid"})):
            return self._activated(name, output, node, chosen)
        if node is not None and (scores := self._written_out(node)):
            return self._activated(name, output, node, chosen, scores)
        if chosen is not None:
            return self._chosen(name, chosen)
        return self._plain(name, output)

    # --- the last operators -----------------------------------------------------------------------------------------

    def _choice(self, output: str) -> tuple[str, NodeProto | None]:
        """Go up through what chooses a class; return what it chooses by, and the node."""
        node = self._end(output, _ON_THE_WAY_OUT)
        if node is not None and node.op_type in _LOOKS_UP and len(node.input) > 1 and self._is_constant(node.input[0]):
            node = self._end(node.input[1], _ON_THE_WAY_OUT)
        return (node.input[0], node) if node is not None and _is(node, _CHOOSES) else (output, None)

    def _end(self, value: str, through: frozenset[str]) -> NodeProto | None:
        """Return the first node up from a value that does more than change form."""
        node = self.made_by.get(value)
        while node is not None and node.op_type in through and node.domain in _DOMAINS and node.input:
            node = self.made_by.get(node.input[0])
        return node

    def _is_constant(self, value: str) -> bool:
        return value in self.constants or (value in self.made_by and self.made_by[value].op_type == "Constant")

    def _written_out(self, node: NodeProto) -> str:
        """Return what a softmax of single operators is of, "" if it is none: e^x / sum e^x, with or without a shift."""
        if not _is(node, {"Div"}):
            return ""
        raised, total = (self.made_by.get(name) for name in node.input)
        if raised is None or total is None or not _is(raised, {"Exp"}) or not _is(total, {"ReduceSum"}):
            return ""
        if total.input[0] != raised.output[0]:
            return ""
        if self._axis(total) is None:
            return ""
        shift = self.made_by.get(raised.input[0])
        if shift is not None and _is(shift, {"Sub"}):
            most = self.made_by.get(shift.input[1])
            if most is not None and _is(most, {"ReduceMax"}) and most.input[0] == shift.input[0]:
                return str(shift.input[0])
        return str(raised.input[0])

    def _activated(self, name: str, output: str, node: NodeProto, chosen: NodeProto | None, value: str = "") -> Head:
        """Return the head behind a Softmax or Sigmoid."""
        value = value or node.input[0]
        operator = "Sigmoid" if node.op_type == "Sigmoid" else "Softmax"
        final = self.layers.get(node.output[0])
        scores = self._scores(value)
        said = f"{node.op_type if node.op_type in _SOFTMAX else operator} {self._shown(node.output[0])}"
        if chosen is not None:
            said = f"{said}, and {chosen.op_type} behind it"
        if scores is None:
            return Head((name,), reason=f"{said} is of no layer with units")
        over = node if node.op_type != "Div" else self.made_by[node.input[1]]
        if chosen is not None and not self._over_units(chosen, chosen.input[0], scores):
            return Head((name,), scores=scores, reason=f"{chosen.op_type} chooses among positions, not among units")
        if operator == "Softmax":
            if not self._over_units(over, value, scores):
                return Head((name,), scores=scores, reason=f"{said} does not run over the units of what it is of")
            return self._classes(name, scores, said, final)
        if has_positions(scores) or self._has_positions(output, chosen):
            reason = f"{said} at each position: numbers from 0 to 1, which may be classes, masks or an image"
            return Head((name,), scores=scores, reason=reason)
        count = scores.unit_count or (1 if scores.channel_axis is None else 0)
        if chosen is not None and count > 1:  # one class is chosen of several
            return Head((name,), "classes", scores, count, "graph", said, "sigmoid", final)
        kind: OutputKind = "binary" if count == 1 else "multilabel"
        return Head((name,), kind, scores, 2 if count == 1 else count, "graph", said, "sigmoid", final)

    def _chosen(self, name: str, node: NodeProto) -> Head:
        """Return the head that only says which class has the highest score."""
        scores, said = self._scores(node.input[0]), f"{node.op_type} {self._shown(node.output[0])}"
        if scores is None:
            return Head((name,), reason=f"{said} is of no layer with units")
        if not self._over_units(node, node.input[0], scores):
            return Head((name,), reason=f"{said} chooses among positions, not among the units of what it reads")
        return self._classes(name, scores, said, None)

    def _classes(self, name: str, scores: Layer, said: str, final: Layer | None) -> Head:
        if scores.unit_count == 1:
            return Head((name,), scores=scores, reason=f"{said} is of a single number, so it says nothing")
        kind: OutputKind = "map_of_classes" if has_positions(scores) else "classes"
        made: Literal["softmax", ""] = "softmax" if final is not None else ""
        return Head((name,), kind, scores, self._class_count(scores), "graph", said, made, final)

    def _class_count(self, scores: Layer) -> int:
        """Return the number of units; of a map whose size is computed that of the map before it was resized."""
        node = self.made_by.get(scores.value)
        while not scores.unit_count and node is not None and _is(node, {"Resize"}):
            above = self.layers.get(node.input[0])
            if above is None or above.channel_axis != scores.channel_axis:
                break
            scores, node = above, self.made_by.get(above.value)
        return scores.unit_count

    def _plain(self, name: str, output: str) -> Head:
        """Return the head of an output that is behind nothing."""
        last = self._up(output, self.layers.__contains__)
        layer = self.layers.get(last)
        scores = None if layer is None else self._before_rounding(layer)
        above = ancestors(self.graph, [output])
        if any(_is(node, {"NonMaxSuppression"}) and node.output[0] in above for node in self.graph.node):
            return Head((name,), "boxes", scores, 0, "graph", "a NonMaxSuppression chooses it")
        if layer is not None and self._has_length_one(last) and not has_positions(layer):
            return Head((name,), "embedding", scores, 0, "graph", "it is divided by its own length")
        return Head((name,), scores=scores)

    def _has_length_one(self, value: str) -> bool:
        """Whether a vector is divided by its Euclidean length."""
        node = self.made_by.get(value)
        if node is None:
            return False
        if _is(node, {"LpNormalization"}):
            return int(attribute(node, "p", 2)) == 2
        if not _is(node, {"Div"}):
            return False
        length = self.made_by.get(node.input[1])
        while length is not None and _is(length, {"Clip", "Max", "Add", "Expand", "Sqrt", "ReduceL2", "ReduceSum"}):
            if length.op_type in ("ReduceL2", "ReduceSum"):
                return length.op_type == "ReduceL2" and length.input[0] == node.input[0]
            length = self.made_by.get(length.input[0])
        return False

    # --- the scores -------------------------------------------------------------------------------------------------

    def _scores(self, value: str) -> Layer | None:
        """Return the layer that holds what a last operator is of: up to an axis of units, and before a rounding."""
        last = self._up(value, lambda above: _has_units(self.layers.get(above)))
        layer = self.layers.get(last)
        if layer is None:
            return None
        if self._runs_over_positions(last):
            return None
        found = self._before_rounding(layer)
        return found if found.channel_axis is not None or len(found.shape) == 1 else None

    def _runs_over_positions(self, value: str) -> bool:
        """Whether units are positions, or pairs of one with a unit, that a reshape has put into a row."""
        made = self.layers[value]
        while (node := self.made_by.get(value)) is not None and _is(node, PASSED_THROUGH | {"Transpose"}):
            value = node.input[0]
            above = self.layers.get(value)
            if above is not None and has_positions(above) and not has_positions(made):
                return True
        return False

    def _over_units(self, node: NodeProto, value: str, scores: Layer) -> bool:
        """Whether an operator's axis is that of the units of the scores, rather than one of positions."""
        kind = self.types.get(value)
        shape = kind.shape if kind is not None else None
        axis = self._axis(node)
        if axis is None:
            return False
        if value == scores.value:
            axis += len(scores.shape) if axis < 0 else 0
            return axis == scores.channel_axis
        if shape is None:
            return True
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        return not isinstance(size, int) or not scores.unit_count or size == scores.unit_count

    def _axis(self, node: NodeProto) -> int | None:
        """Return the axis that an operator runs over; None for a sum over several or over unknown ones."""
        if node.op_type != "ReduceSum":
            return int(attribute(node, "axis", 0 if node.op_type == "ArgMax" else -1))
        tensor = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        axes = [] if tensor is None else to_array(tensor).reshape(-1).tolist()
        return int(axes[0]) if len(axes) == 1 else None

    def _has_positions(self, output: str, chosen: NodeProto | None) -> bool:
        """Whether an output has several axes beside the batch, although its scores have not: an image, a grid."""
        kind = self.types.get(output)
        shape = kind.shape if kind is not None else None
        return chosen is None and shape is not None and sum(size != 1 for size in shape[1:]) > 1

    def _before_rounding(self, layer: Layer) -> Layer:
        """Return what a quantised layer was rounded from: rounding clips the highest scores, and with them the slope.

        A quantised network is calibrated on typical images, so that a sure class' score is often cut off; its gradient
        is zero then.
        """
        value, rounded = layer.value, False
        while (node := self.made_by.get(value)) is not None and _is(node, PASSED_THROUGH):
            rounded |= node.op_type == "QuantizeLinear"
            value = node.input[0]
        origin = self.layers.get(value)
        return origin if rounded and origin is not None and origin.unit_count == layer.unit_count else layer

    def _up(self, value: str, wanted: Callable[[str], bool]) -> str:
        """Go up through operators that only change form, until a value is wanted or none is left."""
        while not wanted(value):
            node = self.made_by.get(value)
            if node is None or not _is(node, PASSED_THROUGH):
                break
            value = node.input[0]
        return value

    def _shown(self, value: str) -> str:
        layer = self.layers.get(value)
        return repr(shorten(layer.name if layer is not None else self.names.get(value, value), 60))


def _has_units(layer: Layer | None) -> bool:
    """Whether a tensor has an axis of units beside the batch."""
    return layer is not None and layer.channel_axis is not None and layer.unit_count > 1


def _is(node: NodeProto, operators: Any) -> bool:
    return not node.domain and node.op_type in operators


# --- what somebody says of them -------------------------------------------------------------------------------------


def main_of(heads: Sequence[Head]) -> Head | None:
    """Return the head that is meant where none is asked for.

    It is the one that the class names are of, else the first with a class for the image, else the first with classes.
    Heads without scores come last, those that are said to be something without classes before them.
    """

    def rank(head: Head) -> int:
        if head.scores is None:
            return 5
        if head.named:
            return -1
        return {"classes": 0, "binary": 1, "multilabel": 1, "map_of_classes": 2, "unknown": 3}.get(head.kind, 4)

    found = min(heads, key=rank, default=None)
    return None if found is None or found.scores is None else found


def says_what(heads: Sequence[Head]) -> bool:
    """Whether it is known which number of the main head can be explained unasked, whatever the number means.

    Boxes and images have none, a number at each position is none for the image, and of several unknown outputs none
    goes before the others.
    """
    main = main_of(heads)
    if main is None or main.kind in ("boxes", "image"):
        return False
    return main.kind != "unknown" or not (main.has_positions or len(heads) > 1)


def tell(
    heads: Sequence[Head], kinds: OutputKind | Mapping[str, OutputKind] | None, names: int | None, numbers: int | None
) -> tuple[Head, ...]:
    """Return heads with what is said of them: by name, else by the number of class names or of the images' classes.

    Raises:
        SelectionError: if there is no such output, or it cannot be what it is said to be.
    """
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
        if said:
            head = _declared(head, said[0])
        elif head.kind == "unknown":
            head = _counted(head, names, numbers)
        told.append(replace(head, named=names is not None and head.takes(names)))
    return tuple(told)


def _declared(head: Head, kind: OutputKind) -> Head:
    scores, where = head.scores, f"output {shorten(head.name)!r}"
    if kind == "unknown":
        return Head(head.outputs, scores=scores, source="declared", reason="declared to be unknown")
    contradicted = head.has_classes and kind not in WITH_CLASSES
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
    made = head.probability if head.final is not None else _USUAL[kind]
    classes = 2 if count == 1 else count
    return Head(head.outputs, kind, scores, classes, "declared", reason, made, head.final)


_USUAL: dict[str, Literal["softmax", "sigmoid", ""]] = {
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
    if scores is None or scores.channel_axis is None or not scores.unit_count:
        return head
    count, placed = scores.unit_count, has_positions(scores)
    if names == count > 1 and (not placed or scores.has_map):
        kind: OutputKind = "map_of_classes" if placed else "classes"
        reason = f"taken for class scores because there are {names} class names"
        return Head(head.outputs, kind, scores, count, "labels", reason, "" if placed else "softmax", None)
    if names == 2 and count == 1 and not placed:
        reason = "taken for the score of the second class because there are 2 class names"
        return Head(head.outputs, "binary", scores, 2, "labels", reason, "sigmoid", None)
    if numbers == count > 1 and not placed:
        reason = f"taken for class scores because the images' class numbers count {numbers} classes"
        return Head(head.outputs, "classes", scores, count, "images", reason)
    return head
