"""An objective whose group of pictures is kept different, without that being counted in its value."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal, Self

from onnxviz.optimize.objectives.base import Measure, Objective, ObjectiveContext, Seen, bind
from onnxviz.optimize.objectives.groups import Diversity

if TYPE_CHECKING:
    from torch import Tensor

    from onnxviz.graph.view import GraphView


class KeptDifferent(Objective):
    """What is wanted, of pictures that differ: the slope is that of a + |a| · share · diversity, the value is a.

    Activations differ by orders of magnitude between layers; relative to them, the same share means the same
    everywhere, as with regularizers. With the value left as it is, curves show what the unit does.
    """

    kind: Literal["kept_different"] = "kept_different"
    wanted: Objective
    layer: str
    share: float

    def layers(self) -> tuple[str, ...]:
        """Return the layers of what is wanted, and the one whose features differ."""
        return tuple(dict.fromkeys((*self.wanted.layers(), self.layer)))

    def references(self) -> tuple[tuple[str, str | None], ...]:
        """Return those of what is wanted."""
        return self.wanted.references()

    def least_group(self) -> int:
        """Return 2, or more if what is wanted needs more."""
        return max(2, self.wanted.least_group())

    def alike(self) -> Hashable:
        """Return what is alike of what is wanted, the layer and the share."""
        return (self.kind, self.wanted.alike(), self.layer, self.share)

    def bind(self, same: Sequence[Self], context: ObjectiveContext) -> Measure:
        """Measure what is wanted, and the likeness within each group."""
        wanted = bind([item.wanted for item in same], context)
        differ = bind([Diversity(layer=self.layer)] * len(same), context)

        def measure(seen: Seen) -> Tensor:
            value = wanted(seen)
            term = self.share * value.detach().abs() * differ(seen)
            return value + (term - term.detach())

        return measure

    def resolved(self, view: GraphView, labels: Sequence[str] | None) -> Self:
        """Resolve what is wanted, and name the layer in full."""
        update = {"wanted": self.wanted.resolved(view, labels), "layer": view.layer(self.layer).name}
        return self.model_copy(update=update)

    def words(self) -> str:
        """Return what is wanted."""
        return self.wanted.words()
