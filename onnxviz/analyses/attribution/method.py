"""What every method of attribution is: its settings, and what it finds for a question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch

    from onnxviz.analyses.attribution.question import Question


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method found for some images and a target of each.

    Attributes:
        maps: [N, h, w] each at its own resolution: one for each layer, or one of the pixels.
        facts: numbers that say how good the maps are by the method's own measure, such as "completeness error": [N].
        said: what is to be said of how they were made, such as the baseline.
    """

    maps: tuple[torch.Tensor, ...]
    facts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    said: str = ""


class Method(BaseModel, ABC):
    """A way to say where the evidence for a score lies: its settings are its fields, its name is `method`.

    The first line of a subclass' docstring is its help. A module that defines one imports torch in functions only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    heading: ClassVar[str]
    """What it is called in headings and sentences."""
    shows: ClassVar[Literal["layers", "pixels"]]
    """Whether it gives a map of each layer, or one of the pixels."""
    signed: ClassVar[bool] = False
    """Whether negative values are evidence against the target; else its maps are never negative."""
    to_input: ClassVar[bool] = False
    """Whether it reads `Question.input_gradient`."""
    needs_gradients: ClassVar[bool] = True
    """Whether the network has to convert; one that does not works with whatever ONNX Runtime computes."""
    cites: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """What it is called beside others: its heading, with the settings that are not the usual ones."""
        own = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name != "method" and getattr(self, name) != field.get_default(call_default_factory=True)
        }
        settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in own.items())
        return f"{self.heading} ({settings})" if settings else self.heading

    @property
    def reads_layers(self) -> bool:
        """Whether it reads `Question.layers`."""
        return self.shows == "layers"

    @property
    def fine(self) -> bool:
        """Whether its maps have the detail of pixels, of which single ones say little."""
        return self.shows == "pixels"

    @abstractmethod
    def attribute(self, question: Question) -> Attribution:
        """Return the evidence; an image's does not depend on the others but for rounding."""

    def references(self) -> int:
        """Return how many images of the data set it reads in `Question.references`."""
        return 0

    def cost(self, layers: int) -> float:  # noqa: ARG002 - for subclasses
        """Estimate what one target of one image takes, in forward passes, beside the pass that all methods share."""
        return 0.0
