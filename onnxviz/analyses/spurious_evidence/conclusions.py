"""What follows from the images of a folder, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.spurious_evidence.groups import FEWEST as FEWEST_MAPS
from onnxviz.analyses.spurious_evidence.groups import Grouping, find_groups
from onnxviz.analyses.spurious_evidence.looked import BACKGROUND, CENTRE, EDGE, OBJECT, REPLACED, Looked
from onnxviz.analyses.spurious_evidence.statistics import (
    FEWEST,
    SIGNIFICANT,
    Contrast,
    Place,
    fisher,
    fixed_places,
    holm,
    mean_interval,
)
from onnxviz.core.shares import Share, mcnemar, paired


@dataclass(frozen=True)
class Lies:
    """How much of the evidence lies on something, beside its share of the area.

    Attributes:
        evidence: mean share of the evidence.
        area: mean share of the area.
        images: how many these are means of.
        interval: of the mean share of the evidence; () of too few images.
        probability: of so large a difference between both on the same images if either sign were as likely, after
            correction for the number of tests.
    """

    evidence: float
    area: float
    images: int
    interval: tuple[float, float] | tuple[()]
    probability: float = 1.0

    @classmethod
    def of(cls, evidence: npt.NDArray[np.float64], area: npt.NDArray[np.float64]) -> Lies | None:
        """Compare the shares on the images where both are known; None where there is none. Not corrected yet."""
        known = np.isfinite(evidence) & np.isfinite(area)
        if not known.any():
            return None
        shares, areas = evidence[known], area[known]
        chance = paired((shares - areas).tolist()) if len(shares) >= FEWEST else 1.0
        return cls(float(shares.mean()), float(areas.mean()), len(shares), mean_interval(shares), chance)

    @property
    def beyond(self) -> bool:
        """Whether there is more evidence than area, by more than chance."""
        return self.probability < SIGNIFICANT and self.evidence > self.area


@dataclass(frozen=True)
class OnConcept:
    """How much of a class's evidence lies on a labelled concept, over the images that hold it.

    Attributes:
        number: the class; None for all images.
        concept: its place among the concepts.
        lies: evidence beside area.
        inside: mean part of the concept's area that lies on the object; NaN where that is not known.
    """

    number: int | None
    concept: int
    lies: Lies
    inside: float


@dataclass(frozen=True, eq=False)
class ClassConclusions:
    """What was found of one class.

    Attributes:
        number: the class.
        images: how many stand for it.
        off_object: evidence outside of the object; None where it is known in no image.
        survival: of the images that are taken for the class as they are, how many still are after each change.
        gone: how often the class is given to its own images without their objects, beside those of other classes.
        carried: how often to objects of other classes before a background of the class, beside other backgrounds.
        edge: how often to images of other classes with the edge of one of the class, beside other edges.
        alone: how often to its own images with nothing left but the edge, beside those of other classes.
        place: where it has most evidence beyond other classes.
        mean_map: [rows, columns], the mean of its maps.
        group: its most separate group of maps; `members` are images of the data set.
    """

    number: int
    images: int
    off_object: Lies | None
    survival: Mapping[str, Share]
    gone: Contrast | None
    carried: Contrast | None
    edge: Contrast | None
    alone: Contrast | None
    place: Place | None
    mean_map: npt.NDArray[np.float64]
    group: Grouping | None


@dataclass(frozen=True, eq=False)
class Conclusions:
    """What was found of all classes.

    Attributes:
        classes: those with images, by number.
        least: how large a difference between shares of images must be to count.
        least_at_place: how large a difference between shares of evidence.
        off_object: evidence outside of the object over all images.
        concepts: evidence on concepts, of all images and of each class; the largest excess first.
        survival: over all images, of those that are taken for their class as they are.
        control: by part that is replaced, how probable so uneven an outcome is if replacing as much of the image at
            random did the same; only for parts that were replaced.
        tested_groups: how many classes were searched for groups.
    """

    classes: tuple[ClassConclusions, ...]
    least: float
    least_at_place: float
    off_object: Lies | None
    concepts: tuple[OnConcept, ...]
    survival: Mapping[str, Share]
    control: Mapping[str, float]
    tested_groups: int

    def by_background(self) -> list[ClassConclusions]:
        """Return the classes that follow the background."""
        return [one for one in self.classes if any(c and c.holds(self.least) for c in (one.gone, one.carried))]

    def by_edge(self) -> list[ClassConclusions]:
        """Return the classes that follow the edge of the image."""
        return [one for one in self.classes if any(c and c.holds(self.least) for c in (one.edge, one.alone))]

    def by_place(self) -> list[ClassConclusions]:
        """Return the classes with evidence at a fixed place."""
        return [one for one in self.classes if one.place and one.place.holds(self.least_at_place)]

    def by_group(self) -> list[ClassConclusions]:
        """Return the classes with a group of maps that stands apart."""
        return [one for one in self.classes if one.group and one.group.holds]

    def beyond_area(self) -> list[ClassConclusions]:
        """Return the classes whose evidence lies outside of their objects more than the area does."""
        return [one for one in self.classes if one.off_object and one.off_object.beyond]

    def striking(self) -> list[ClassConclusions]:
        """Return the classes that anything was found of, those that follow something first."""
        found = (*self.by_background(), *self.by_edge(), *self.by_place(), *self.by_group(), *self.beyond_area())
        return list({one.number: one for one in found}.values())


def conclude(
    looked: Looked, least: float, least_at_place: float, seed: int, *, with_concepts: bool = True
) -> Conclusions:
    """Draw the conclusions from all images; those on single concepts, which take longest, only if asked."""
    numbers = sorted(set(looked.classes.tolist()))
    shown = looked.coarse.sum(axis=(1, 2)) > 0
    off, off_area = 1 - looked.object_evidence, 1 - looked.object_area
    off_object = corrected([Lies.of(off[looked.classes == one], off_area[looked.classes == one]) for one in numbers])
    background = contrasts(looked, numbers, "gone", "carried")
    edge = contrasts(looked, numbers, "edge", "alone")
    places = {one.number: one for one in fixed_places(looked.coarse[shown], looked.classes[shown], seed)}
    searched = sum((shown & (looked.classes == one)).sum() >= FEWEST_MAPS for one in numbers)
    groups = {one: _grouping(looked, shown & (looked.classes == one), seed, int(searched)) for one in numbers}
    classes = tuple(
        ClassConclusions(
            one,
            int((looked.classes == one).sum()),
            lies,
            survival(looked, looked.classes == one),
            background["gone", one],
            background["carried", one],
            edge["edge", one],
            edge["alone", one],
            places.get(one),
            _mean_map(looked.coarse[shown & (looked.classes == one)]),
            groups[one],
        )
        for one, lies in zip(numbers, off_object, strict=True)
    )
    return Conclusions(
        classes,
        least,
        least_at_place,
        Lies.of(off, off_area),
        on_concepts(looked, numbers) if with_concepts else (),
        survival(looked, np.ones(len(looked), bool)),
        {part: chance for part in (OBJECT, BACKGROUND) if (chance := _control(looked, part)) is not None},
        int(searched),
    )


def _mean_map(maps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return maps.mean(axis=0) if len(maps) else np.zeros(maps.shape[1:])


def _grouping(looked: Looked, of_class: npt.NDArray[np.bool_], seed: int, tests: int) -> Grouping | None:
    found = find_groups(looked.coarse[of_class], seed, tests)
    return None if found is None else replace(found, members=looked.images[of_class][found.members])


def corrected(found: Sequence[Lies | None]) -> list[Lies | None]:
    """Return comparisons with their probabilities corrected for the number of those that were tested."""
    tested = [place for place, one in enumerate(found) if one is not None and one.images >= FEWEST]
    chances = dict(zip(tested, holm([found[place].probability for place in tested]), strict=True))  # type: ignore[union-attr]
    return [one and replace(one, probability=chances.get(place, 1.0)) for place, one in enumerate(found)]


def survival(looked: Looked, chosen: npt.NDArray[np.bool_]) -> dict[str, Share]:
    """Return how many of the images that are taken for their class still are so after each change that was made."""
    right = chosen & (looked.predicted == looked.classes)
    found = {}
    for change in REPLACED:
        after = looked.after(change)
        done = right & (after >= 0)
        if done.any():
            found[change] = Share(int((after[done] == looked.classes[done]).sum()), int(done.sum()))
    return found


def _control(looked: Looked, part: str) -> float | None:
    """Return how probable the outcomes of replacing a part and as much anywhere are if both did the same (McNemar)."""
    one, other = looked.after(f"{part} by image"), looked.after(f"as much as the {part}")
    done = (looked.predicted == looked.classes) & (one >= 0) & (other >= 0)
    if not done.any():
        return None
    first, second = (after[done] == looked.classes[done] for after in (one, other))
    return mcnemar(int((first & ~second).sum()), int((second & ~first).sum()))


def contrasts(looked: Looked, numbers: Sequence[int], *kinds: str) -> dict[tuple[str, int], Contrast | None]:
    """Return for each kind and class how often the class is given where something of it is there, and where not.

    Probabilities are corrected for the number of kinds and classes; None where one side has too few images.
    """
    found: dict[tuple[str, int], Contrast | None] = {}
    for kind in kinds:
        for number in numbers:
            found[kind, number] = _contrast(looked, number, kind)
    tested = [key for key, one in found.items() if one is not None]
    chances = holm([one.probability for one in found.values() if one is not None])
    for key, chance in zip(tested, chances, strict=True):
        one = found[key]
        assert one is not None
        found[key] = replace(one, probability=chance)
    return found


def _contrast(looked: Looked, number: int, kind: str) -> Contrast | None:
    changes = {"gone": f"{OBJECT} by image", "carried": f"{BACKGROUND} by image", "edge": EDGE, "alone": CENTRE}
    after = looked.after(changes[kind])
    if kind in ("gone", "alone"):
        owners, done = looked.classes, after >= 0
    else:
        owners = looked.donor_classes
        done = (after >= 0) & (owners >= 0) & (looked.classes != number)
    own, others = done & (owners == number), done & (owners != number)
    if min(own.sum(), others.sum()) < FEWEST:
        return None
    first, second = (Share(int((after[chosen] == number).sum()), int(chosen.sum())) for chosen in (own, others))
    return Contrast(number, first, second, fisher(first, second))


def on_concepts(looked: Looked, numbers: Sequence[int]) -> tuple[OnConcept, ...]:
    """Return how much evidence lies on each concept, over all images and in each class; the largest excess first."""
    found: list[OnConcept] = []
    every = np.ones(len(looked), bool)
    for number, chosen in ((None, every), *((one, looked.classes == one) for one in numbers)):
        for concept in range(looked.area.shape[1]):
            there = chosen & (looked.area[:, concept] > 0)
            lies = Lies.of(looked.evidence[there, concept], looked.area[there, concept])
            if lies is not None and lies.images >= FEWEST:
                inside = looked.inside[there, concept]
                known = inside[np.isfinite(inside)]
                found.append(OnConcept(number, concept, lies, float(known.mean()) if len(known) else float("nan")))
    chances = holm([one.lies.probability for one in found])
    ready = [replace(one, lies=replace(one.lies, probability=p)) for one, p in zip(found, chances, strict=True)]
    return tuple(sorted(ready, key=lambda one: one.lies.area - one.lies.evidence))
