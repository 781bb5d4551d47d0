"""What pictures are made for: targets and objectives of a recipe, resolved, and as data that travels with a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter

from onnxviz.core.errors import AnalysisError, DataError, shorten
from onnxviz.core.values import Target, Unit
from onnxviz.data.image_choice import choose_images, find_source
from onnxviz.data.images import ImageSource
from onnxviz.graph.targets import TargetSelector, is_behind_scores, resolve
from onnxviz.optimize.objectives import KeptDifferent, Objective, ObjectiveChoice, objective_of
from onnxviz.optimize.settings import CLASS_FOCUS

if TYPE_CHECKING:
    from onnxviz.analyses.base import Subject


class BeginPicture(BaseModel):
    """A picture to start from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="The data set with the picture.")
    image: int | str = Field(0, description="Its index from 0, or its name.")

    @property
    def name(self) -> str:
        """What `picture_of` finds it by."""
        return f"{self.data}/{self.image}"


class NamedObjective(BaseModel):
    """An objective with a heading of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str | None = Field(None, min_length=1, max_length=200, description="What its pictures are called.")
    objective: ObjectiveChoice = Field(description="What to make pictures for.")


def _form(value: Any) -> str:
    """Tell an objective with a heading from a plain one."""
    named = "objective" in value if isinstance(value, dict) else isinstance(value, NamedObjective)
    return "titled" if named else "plain"


ObjectiveEntry = Annotated[
    Annotated[NamedObjective, Tag("titled")] | Annotated[ObjectiveChoice, Tag("plain")], Discriminator(_form)
]
"""One of `objectives:`: an objective, or `{title, objective}`."""


class DiversityTerm(BaseModel):
    """What keeps the pictures of a group different from each other."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="How much difference counts, relative to the activation."
    )
    layer: str | None = Field(
        None,
        description="The layer in whose features they differ; the target's own if it has positions, else last_map.",
    )


@dataclass(frozen=True)
class Goal:
    """What one picture, or one set of pictures, is made for.

    Attributes:
        target: units and layers that `targets:` names; None for an objective.
        objective: what `objectives:` names, by full layer names; None for a target.
        title: how it is called.
        sign: 1 to maximise, -1 to minimise.
        diversity: the layer in which pictures of a set differ, and the weight of that; None for single pictures.
    """

    target: Target | None
    objective: Objective | None
    title: str
    sign: int = 1
    diversity: tuple[str, float] | None = None

    @property
    def wanted(self) -> Objective:
        """What is to be excited: the objective of the target without its sign, or the objective itself."""
        if self.objective is not None:
            return self.objective
        assert self.target is not None
        return objective_of(self.target)

    @property
    def optimized(self) -> Target | Objective:
        """What the loop is given: with what keeps the pictures of a set different."""
        if self.diversity is None:
            return self.target if self.target is not None else self.wanted
        layer, weight = self.diversity
        return KeptDifferent(wanted=self.sign * self.wanted, layer=layer, share=weight)

    @property
    def factor(self) -> int:
        """What values of the loop are multiplied by to be those of what is wanted: an objective holds its sign."""
        return self.sign if self.diversity is not None else 1

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that the loop computes, each once."""
        own = self.wanted.layers()
        return own if self.diversity is None else tuple(dict.fromkeys((*own, self.diversity[0])))

    @property
    def unit(self) -> Unit | None:
        """The one unit that it is about, or None."""
        if self.target is not None:
            return None if self.target.unit is None else Unit(self.target.layer, self.target.unit)
        index = getattr(self.objective, "unit", None)
        layer = getattr(self.objective, "layer", None)
        return Unit(layer, index) if isinstance(index, int) and isinstance(layer, str) else None

    @property
    def pictures(self) -> tuple[str, ...]:
        """The reference pictures that it needs, as the recipe names them."""
        return tuple(dict.fromkeys(picture for picture, _ in self.wanted.references()))

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON data."""
        data: dict[str, Any] = {"title": self.title}
        if self.target is not None:
            target = self.target
            position = None if target.position is None else list(target.position)
            data |= {"layer": target.layer, "unit": target.unit, "position": position, "sign": target.sign}
            data |= {"label": target.label} if target.label else {}
            data |= {"focus": target.focus} if target.focus else {}
        else:
            assert self.objective is not None
            data["objective"] = self.objective.model_dump(mode="json")
        if self.diversity is not None:
            data["diversity"] = list(self.diversity)
        return data

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Goal:
        """Undo `to_data`."""
        given = data.get("diversity")
        diversity = None if given is None else (str(given[0]), float(given[1]))
        if "objective" in data:
            return cls(None, _adapter().validate_python(data["objective"]), data["title"], 1, diversity)
        position = data["position"]
        target = Target(
            data["layer"],
            data["unit"],
            None if position is None else tuple(position),
            data["sign"],
            data.get("label", ""),
            data.get("focus", 0.0),
        )
        return cls(target, None, data["title"], target.sign, diversity)


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(ObjectiveChoice)


def goals(
    targets: Sequence[TargetSelector],
    objectives: Sequence[NamedObjective | Objective],
    diversity: DiversityTerm | None,
    together: int,
    focus: float | None,
    subject: Subject,
) -> list[Goal]:
    """Return what a recipe's targets and objectives mean on a model, in their order.

    Raises:
        AnalysisError: if an objective needs a larger group, or reads no layer.
        SelectionError: if a layer, unit, class or position does not exist or could be several.
    """
    found = []
    for target in resolve(targets, subject.view, subject.labels):
        within = _diverse(target.layer, diversity, subject)
        focused = replace(target, focus=_focus(target, focus, subject))
        found.append(Goal(focused, None, _title(target), target.sign, within))
    taken = {goal.title for goal in found}
    for entry in objectives:
        title, objective = (entry.title, entry.objective) if isinstance(entry, NamedObjective) else (None, entry)
        resolved = objective.resolved(subject.view, subject.labels)
        name = _unused(title or resolved.title(), taken)
        taken.add(name)
        _require_sound(resolved, name, together)
        found.append(Goal(None, resolved, name, 1, _diverse(resolved.layers()[-1], diversity, subject)))
    return found


def are_classes(layers: Sequence[str], subject: Subject) -> bool:
    """Return whether the units of any of some layers are the model's scores, such as those of classes."""
    return any(is_behind_scores(subject.view.layer(layer), subject.view) for layer in layers)


def _focus(target: Target, focus: float | None, subject: Subject) -> float:
    if target.unit is None or target.position is not None:
        return 0.0
    if focus is not None:
        return focus
    return CLASS_FOCUS if is_behind_scores(subject.view.layer(target.layer), subject.view) else 0.0


def _require_sound(objective: Objective, name: str, together: int) -> None:
    if not objective.layers():
        raise AnalysisError(
            f"{name!r} reads no layer of the network, so there is nothing that a picture could excite",
            remedy="add an objective of a layer to it: {kind: sum, terms: [...]}",
        )
    if objective.least_group() > together:
        raise AnalysisError(
            f"{name!r} compares the pictures of a group, which needs {objective.least_group()} of them",
            remedy=f"give `group: {objective.least_group()}` or more",
        )


def _diverse(own: str, diversity: DiversityTerm | None, subject: Subject) -> tuple[str, float] | None:
    """Return the layer in whose features a set differs, which need several positions to be compared, and the weight."""
    if diversity is None:
        return None
    view, layer = subject.view, diversity.layer
    if layer is None and all(size == 1 for size in view.layer(own).spatial_shape):
        layer = "last_map"
    return view.layer(layer or own).name, diversity.weight


def _title(target: Target) -> str:
    """Return how a target is called: class name, unit, neuron or layer."""
    if target.unit is None:
        return f"{target.layer} (whole layer)"
    name = target.label or f"{target.layer}:{target.unit}"
    if target.position is None:
        return name
    return f"{name} at {'the centre' if not target.position else list(target.position)}"


def _unused(name: str, taken: set[str]) -> str:
    count, found = 1, name
    while found in taken:
        count += 1
        found = f"{name} ({count})"
    return found


def picture_of(name: str, data: Mapping[str, Any]) -> tuple[str, ImageSource, int]:
    """Return which image of which data set, by its name, "DATA SET/IMAGE" is; the image is named or counted from 0.

    Raises:
        DataError: if there is none, or it could be several.
    """
    source_name, _, image = name.partition("/")
    if not image:
        raise DataError(
            f"{shorten(name)!r} names no picture",
            remedy="write DATA/IMAGE, a data set of the recipe and the image's name or index, such as photos/lion.jpg",
        )
    source = find_source(source_name, data)
    chosen = choose_images(source, int(image) if image.isdecimal() and len(image) < 10 else image, 2)
    if len(chosen) > 1:
        raise DataError(f"{shorten(name)!r} names several pictures", remedy="name one of them")
    return source_name, source, chosen[0]


def reference_data(found: Sequence[Goal], data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the data sets that the goals' reference pictures are from."""
    for name in dict.fromkeys(picture for goal in found for picture in goal.pictures):
        yield picture_of(name, data)[0]
