"""What a network's outputs are: classes, labels or numbers, as far as the graph says it; else unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard

from onnx import NodeProto

from onnxviz.core.errors import shorten
from onnxviz.core.values import Layer
from onnxviz.graph.node_axes import axes_of
from onnxviz.graph.operators import traits_of
from onnxviz.graph.shapes import TypedGraph
from onnxviz.graph.structure import ancestors, attribute, origin, to_array
from onnxviz.graph.value_range import clip_bounds, constant, range_of

OutputKind = Literal[
    "classes", "binary", "multilabel", "map_of_classes", "regression", "embedding", "boxes", "image", "unknown"
]
Probability = Literal["softmax", "sigmoid", "given", ""]
Holds = Literal["scores", "probabilities", "activated", "renumbered"]
Source = Literal["graph", "declared", "labels", "images", "nothing"]

UNSAID = "nothing in the file says what it is"
WITH_CLASSES: frozenset[str] = frozenset(["classes", "binary", "multilabel", "map_of_classes"])

_IN_ORDER = ("order",)
_ARRANGED = ("order", "axes")
_SOFTMAX = frozenset(["Softmax", "LogSoftmax"])
_CHOOSES = frozenset(["ArgMax", "TopK", "Hardmax"])
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
        probability: what makes probabilities of the scores; "given" if they are in 0..1 by what made them, and nothing
            more is done to them; "" if nothing makes any.
        final: the layer that holds the probabilities, or their logarithms, in the graph; None if it has none.
        named: whether the model's class names are this head's.
        is_layer: whether it is no output, but a layer that somebody named as the score.
        holds: what the numbers of `scores` are by the graph: "scores" that an activation may follow, "probabilities",
            numbers "activated" already that are no probabilities, or scores that a table has "renumbered".
    """

    outputs: tuple[str, ...]
    kind: OutputKind = "unknown"
    scores: Layer | None = None
    classes: int = 0
    source: Source = "nothing"
    reason: str = UNSAID
    probability: Probability = ""
    final: Layer | None = None
    named: bool = False
    is_layer: bool = False
    holds: Holds = "scores"

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
        """Whether one score stands for two classes: the second where it is above `threshold`, else the first."""
        return self.has_classes and self.scores is not None and self.scores.unit_count <= 1 and self.classes == 2

    @property
    def threshold(self) -> float:
        """Above which number one score stands for the second class."""
        return 0.5 if self.probability == "given" else 0.0

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
        """Whether these are as many names as there are classes, or measured numbers."""
        return (self.has_classes or self.kind == "regression") and len(names) == self.choices > 0

    def title(self, number: int, names: Sequence[str] | None) -> str:
        """Return what one of its classes or units is called; a unit of what is not known to be classes is no class."""
        if names and self.fits(names):
            return names[number]
        if self.has_classes:
            return f"class {number}"
        if self.choices == 1:
            return f"{self.unit} {shorten(self.name, 60)!r}"
        return f"{self.unit} {number}"

    def titles(self, names: Sequence[str] | None) -> list[str]:
        """Return what all of its classes or units are called; none where it is not known how many there are."""
        return [self.title(number, names) for number in range(self.choices)]

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
            "given": "; probabilities as the file gives them",
            "": "; scores without probabilities",
        }[self.probability]
        made += ", which the file does not have" if self.probability and self.final is None else ""
        where = " at each position" if self.has_positions else ""
        match self.kind:
            case "classes":
                return f"one of {count} classes{made}"
            case "binary":
                return f"one of 2 classes from one score, class 1 where it is above {self.threshold:g}{made}"
            case "multilabel":
                return f"{count} labels, each present or not{made}"
            case "map_of_classes":
                return f"one of {count} classes at each position{made}"
            case "regression":
                return self._numbers("measured")
            case "embedding":
                return f"an embedding of {self._numbers()}" if self.choices else "an embedding"
            case "boxes":
                return "boxes of a detector"
            case "image":
                return "an image"
            case _:
                return f"unknown: {self._numbers()}{where}" if self.choices or where else "unknown"

    def _numbers(self, what: str = "") -> str:
        """Return how many numbers there are, as far as that is known."""
        named = f"{what} number".strip()
        return f"{self.choices:,} {named}{'' if self.choices == 1 else 's'}" if self.choices else f"{named}s"


def has_positions(layer: Layer) -> bool:
    """Whether a layer has several values for each unit: a map, tokens, or candidates of a detector."""
    return any(size != 1 for size in layer.spatial_shape)


def find_heads(graph: TypedGraph, layers: Sequence[Layer], names: Mapping[str, str]) -> tuple[Head, ...]:
    """Return what the graph says of its outputs, in their order; those made from the same scores are one head.

    A Softmax over the units says classes, a Sigmoid of one unit two of them, one of several labels; ArgMax, TopK and
    Hardmax choose among classes, whose scores they read. All of that at several positions is a map. What comes out of a
    NonMaxSuppression is boxes, what is divided by its own length an embedding. Nothing else is said by a graph.
    `names` maps the identifier of a value to its name in the file.
    """
    reader = _Reader(graph, layers, names)
    found: list[Head] = []
    for output in graph.graph.output:
        head = reader.with_range(reader.head(output.name))
        same = (place for place, other in enumerate(found) if (other.scores, other.kind) == (head.scores, head.kind))
        place = next(same, None) if head.scores is not None else None
        if place is None:
            found.append(head)
            continue
        first = found[place]
        better = head if head.probability and not first.probability else first
        found[place] = replace(better, outputs=first.outputs + head.outputs)
    return tuple(found)


class _Reader:
    """Walks up from outputs to what their scores are."""

    def __init__(self, graph: TypedGraph, layers: Sequence[Layer], names: Mapping[str, str]) -> None:
        self.graph, self.names = graph, names
        self.made_by, self.constants = graph.makers, graph.constants
        self.layers = {layer.value: layer for layer in layers}

    def head(self, output: str) -> Head:
        """Return what the graph says of one output."""
        name = self.names.get(output, output)
        last = self._end(output)
        key = "" if last is None else self._looked_up(last)
        chooser = self._end(key) if key else last
        if _is(chooser, "ArgMin") or (_is(chooser, "TopK") and not attribute(chooser, "largest", 1)):
            # Such numbers are distances, no scores of classes.
            said = f"{chooser.op_type} {self._shown(chooser.output[0])} picks the smallest numbers"
            return Head((name,), reason=said)
        chosen = chooser if _is(chooser, *_CHOOSES) else None
        start = output if chosen is None else chosen.input[0]
        if last is not None and chosen is not None and key and (said := self._renumbering(last)):
            return Head((name,), scores=self._scores(start), reason=said, holds="renumbered")
        node = self._end(start, _ARRANGED if chosen is None else _IN_ORDER)
        if node is not None and (activation := self._activation(node)):
            return self._activated(name, output, activation, chosen, self._written_out(activation))
        if chosen is not None:
            return self._chosen(name, chosen)
        return self._plain(name, output)

    def with_range(self, head: Head) -> Head:
        """Say of scores without an activation behind them whether their numbers are probabilities already."""
        if head.scores is None or head.final is not None or head.holds != "scores":
            return head
        found = range_of(head.scores.value, self.graph.graph)
        if found.is_probability:
            return replace(head, holds="probabilities")
        return replace(head, holds="activated") if found.activated else head

    # --- the last operators -----------------------------------------------------------------------------------------

    def _looked_up(self, node: NodeProto) -> str:
        """Return what an operator looks up in a constant table, "" if it does not."""
        if node.op_type == "LabelEncoder" and node.domain == "ai.onnx.ml":
            return str(node.input[0])
        if node.op_type not in _LOOKS_UP or len(node.input) < 2:
            return ""
        table = node.input[0]
        constant_table = table in self.constants or _is(self.made_by.get(table), "Constant")
        return str(node.input[1]) if constant_table else ""

    def _renumbering(self, node: NodeProto) -> str:
        """Say whether a table gives chosen classes other numbers than those of the scores; "" if it does not."""
        if node.op_type == "LabelEncoder":
            if _keeps_numbers(node):
                return ""
            table = f"LabelEncoder {self._shown(node.output[0])}"
        else:
            numbers = constant(node.input[0], self.made_by, self.constants)
            if numbers is not None and (
                numbers.dtype.kind not in "fiu" or numbers.reshape(-1).tolist() == list(range(numbers.size))
            ):
                return ""
            table = f"table {shorten(self.names.get(node.input[0], node.input[0]), 60)!r}"
        return f"the {table} behind the choice gives classes other numbers than the scores have"

    def _activation(self, node: NodeProto) -> NodeProto | None:
        """Return the Softmax or Sigmoid, also written out, that a node is or keeps off the ends of 0..1."""
        if _is(node, *_SOFTMAX, "Sigmoid") or self._written_out(node):
            return node
        low, high = clip_bounds(node, self.made_by, self.constants) if _is(node, "Clip") else (0.0, 0.0)
        if not 0 <= low < 0.5 < high <= 1:
            return None
        above = self._end(node.input[0], _IN_ORDER)
        found = self._activation(above) if above is not None and not _is(above, "Clip") else None
        return None if _is(found, "LogSoftmax") else found

    def _end(self, value: str, through: tuple[str, ...] = _ARRANGED) -> NodeProto | None:
        """Return the first node up from a value that does more than change form."""
        return self.made_by.get(origin(value, self.made_by, lambda node: traits_of(node).keeps in through))

    def _written_out(self, node: NodeProto) -> str:
        """Return what a softmax or sigmoid of single operators is of, "" if it is none.

        A softmax is e^x / sum e^x, with or without a shift, a sigmoid 1 / (1 + e^-x).
        """
        if found := self._written_sigmoid(node):
            return found
        if not _is(node, "Div"):
            return ""
        raised, total = (self.made_by.get(name) for name in node.input)
        if not _is(raised, "Exp") or not _is(total, "ReduceSum"):
            return ""
        if total.input[0] != raised.output[0] or self._axis(total) is None:
            return ""
        shift = self.made_by.get(raised.input[0])
        if _is(shift, "Sub"):
            most = self.made_by.get(shift.input[1])
            if _is(most, "ReduceMax") and most.input[0] == shift.input[0]:
                return str(shift.input[0])
        return str(raised.input[0])

    def _written_sigmoid(self, node: NodeProto) -> str:
        """Return the x of 1 / (1 + e^-x), "" if it is something else."""
        if _is(node, "Div") and self._is_number(node.input[0], 1):
            total = self.made_by.get(node.input[1])
        else:
            total = self.made_by.get(node.input[0]) if _is(node, "Reciprocal") else None
        if not _is(total, "Add"):
            return ""
        for one, other in (total.input, reversed(total.input)):
            raised = self.made_by.get(other)
            if not _is(raised, "Exp") or not self._is_number(one, 1):
                continue
            turned = self.made_by.get(raised.input[0])
            if _is(turned, "Neg"):
                return str(turned.input[0])
            if _is(turned, "Mul"):
                return next((a for a, b in (turned.input, reversed(turned.input)) if self._is_number(b, -1)), "")
        return ""

    def _is_number(self, value: str, number: float) -> bool:
        array = constant(value, self.made_by, self.constants)
        return array is not None and array.size > 0 and array.dtype.kind in "fiu" and bool((array == number).all())

    def _activated(self, name: str, output: str, node: NodeProto, chosen: NodeProto | None, value: str = "") -> Head:
        """Return the head behind a Softmax or Sigmoid."""
        value = value or node.input[0]
        is_sigmoid = node.op_type == "Sigmoid" or self._written_sigmoid(node)
        operator = "Sigmoid" if is_sigmoid else "Softmax"
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
                reason = f"{said} does not run over the units of what it is of"
                return Head((name,), scores=scores, reason=reason, holds="activated")
            return self._classes(name, scores, said, final)
        if has_positions(scores) or self._has_positions(output, chosen):
            reason = f"{said} at each position: numbers from 0 to 1, which may be classes, masks or an image"
            # Scores with positions can be declared a map; a row that becomes an image has its activation elsewhere.
            holds: Holds = "scores" if has_positions(scores) else "activated"
            return Head((name,), scores=scores, reason=reason, holds=holds)
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
            reason = f"{said} is of a single number, so it says nothing"
            return Head((name,), scores=scores, reason=reason, holds="activated")
        kind: OutputKind = "map_of_classes" if has_positions(scores) else "classes"
        made: Literal["softmax", ""] = "softmax" if final is not None else ""
        return Head((name,), kind, scores, self._class_count(scores), "graph", said, made, final)

    def _class_count(self, scores: Layer) -> int:
        """Return the number of units; of a map whose size is computed that of the map before it was resized."""
        node = self.made_by.get(scores.value)
        while not scores.unit_count and _is(node, "Resize"):
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
        above = ancestors(self.graph.graph, [output])
        if any(_is(self.made_by.get(value), "NonMaxSuppression") for value in above):
            return Head((name,), "boxes", scores, 0, "graph", "a NonMaxSuppression chooses it")
        if layer is not None and self._has_length_one(last) and not has_positions(layer):
            return Head((name,), "embedding", scores, 0, "graph", "it is divided by its own length")
        return Head((name,), scores=scores)

    def _has_length_one(self, value: str) -> bool:
        """Whether a vector is divided by its Euclidean length."""
        node = self.made_by.get(value)
        if _is(node, "LpNormalization"):
            return int(attribute(node, "p", 2)) == 2
        if not _is(node, "Div"):
            return False
        length = self.made_by.get(node.input[1])
        while _is(length, "Clip", "Max", "Add", "Expand", "Sqrt", "ReduceL2", "ReduceSum"):
            if length.op_type in ("ReduceL2", "ReduceSum"):
                return length.op_type == "ReduceL2" and length.input[0] == node.input[0]
            length = self.made_by.get(length.input[0])
        return False

    # --- the scores -------------------------------------------------------------------------------------------------

    def _scores(self, value: str) -> Layer | None:
        """Return the layer that holds what a last operator is of: up to an axis of units, and before a rounding."""
        last = self._up(value, lambda above: _has_units(self.layers.get(above)))
        layer = self.layers.get(last)
        if layer is None or self._runs_over_positions(last):
            return None
        found = self._before_rounding(layer)
        return found if found.channel_axis is not None or len(found.shape) == 1 else None

    def _runs_over_positions(self, value: str) -> bool:
        """Whether units are positions, or pairs of one with a unit, that a reshape has put into a row."""
        made = self.layers[value]
        while (node := self.made_by.get(value)) is not None and traits_of(node).arranges:
            value = node.input[0]
            above = self.layers.get(value)
            if above is not None and has_positions(above) and not has_positions(made):
                return True
        return False

    def _over_units(self, node: NodeProto, value: str, scores: Layer) -> bool:
        """Whether an operator's axis is that of the units of the scores, rather than one of positions."""
        shape, axis = self.graph.shape(value), self._axis(node)
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
        axes = axes_of(node, self.constants)
        return axes[0] if axes is not None and len(axes) == 1 else None

    def _has_positions(self, output: str, chosen: NodeProto | None) -> bool:
        """Whether an output has several axes beside the batch, although its scores have not: an image, a grid."""
        shape = self.graph.shape(output)
        return chosen is None and shape is not None and sum(size != 1 for size in shape[1:]) > 1

    def _before_rounding(self, layer: Layer) -> Layer:
        """Return what a quantised layer was rounded from: rounding clips the highest scores, and with them the slope.

        A quantised network is calibrated on typical images, so that a sure class' score is often cut off; its gradient
        is zero then.
        """
        value, rounded = layer.value, False
        while (node := self.made_by.get(value)) is not None and traits_of(node).keeps == "order":
            rounded |= node.op_type == "QuantizeLinear"
            value = node.input[0]
        origin = self.layers.get(value)
        return origin if rounded and origin is not None and origin.unit_count == layer.unit_count else layer

    def _up(self, value: str, wanted: Callable[[str], bool]) -> str:
        """Go up through operators that only change form, until a value is wanted or none is left."""
        while not wanted(value) and (node := self.made_by.get(value)) is not None and traits_of(node).keeps == "order":
            value = node.input[0]
        return value

    def _shown(self, value: str) -> str:
        layer = self.layers.get(value)
        return repr(shorten(layer.name if layer is not None else self.names.get(value, value), 60))


def _has_units(layer: Layer | None) -> bool:
    """Whether a tensor has an axis of units beside the batch."""
    return layer is not None and layer.channel_axis is not None and layer.unit_count > 1


def _keeps_numbers(encoder: NodeProto) -> bool:
    """Whether a LabelEncoder leaves the numbers of classes as they are, or has names for them."""
    if attribute(encoder, "keys_strings") or attribute(encoder, "classes_strings"):
        return not attribute(encoder, "keys_strings")  # before version 2: from numbers to these names
    if attribute(encoder, "values_strings"):
        return True
    columns = []
    for name in ("keys", "values"):
        tensor = attribute(encoder, f"{name}_tensor")
        given = attribute(encoder, f"{name}_int64s") or attribute(encoder, f"{name}_floats") or ()
        columns.append(list(given) if tensor is None else to_array(tensor).reshape(-1).tolist())
    return columns[0] == columns[1] or any(isinstance(value, str | bytes) for value in columns[1])


def _is(node: NodeProto | None, *operators: str) -> TypeGuard[NodeProto]:
    return node is not None and not node.domain and node.op_type in operators


# --- which of them is meant -------------------------------------------------------------------------------------


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
