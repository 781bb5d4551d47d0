"""Spurious evidence for readers: sentences with their numbers, tables, pictures, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from onnxviz.analyses import presentation
from onnxviz.analyses.attribution.coarse_maps import GRID
from onnxviz.analyses.spurious_evidence import replacement
from onnxviz.analyses.spurious_evidence.conclusions import ClassConclusions, Conclusions, Lies
from onnxviz.analyses.spurious_evidence.groups import APART
from onnxviz.analyses.spurious_evidence.looked import (
    BACKGROUND,
    CENTRE,
    EDGE,
    OBJECT,
    REPLACED,
    DrawnMap,
    Looked,
    Shown,
)
from onnxviz.analyses.spurious_evidence.pictures import MOST_MAPS, members_of
from onnxviz.analyses.spurious_evidence.statistics import FEWEST, Contrast, Place
from onnxviz.core.errors import shorten
from onnxviz.core.findings import (
    Array,
    Caveat,
    Cell,
    Column,
    Finding,
    Metric,
    Note,
    Outcomes,
    Table,
    Tile,
    TileGrid,
)
from onnxviz.core.shares import Share, percent
from onnxviz.core.wording import listed
from onnxviz.data.concepts import Concept

MOST_SHOWN = 24
"""Images that are shown."""
_MOST_NAMED, _MOST_CONCEPTS = 6, 5
_TILE = 160

_KINDS = presentation.by_name(
    Metric("top1_accuracy", 0, "images named right",
           "Share of the images whose own class has the highest score, where their class is known.", "percent",
           "higher"),
    Metric("background_evidence", 0, "evidence outside of the object",
           "Mean share of the positive evidence that lies outside of the object of the class.", "percent", "lower"),
    Metric("highest_background_evidence", 0, "evidence outside of the object, worst class",
           f"The same of the class with most, of those with at least {FEWEST} images.", "percent", "lower"),
    Metric("classes_beyond_area", 0, "classes with evidence beyond the area",
           "Classes with more evidence outside of the object than the area there, by more than chance.", "integer",
           "lower"),
    Metric("survives_object_replaced", 0, "class survives without the object",
           "Share of the images that are still taken for their class with the object replaced by another image's "
           "background, of those taken for it before.", "percent", "lower"),
    Metric("survives_background_replaced", 0, "class survives another background",
           "Share of the images that are still taken for their class before another image's background, of those taken "
           "for it before.", "percent", "higher"),
    Metric("survives_edge_replaced", 0, "class survives another edge",
           "Share of the images that are still taken for their class with another image's edge, of those taken for it "
           "before.", "percent", "higher"),
    Metric("classes_by_background", 0, "classes that follow the background",
           "Classes that are given without their object, or to other objects before their background, more often than "
           "without the one or the other, by `effect` at least and by more than chance.", "integer", "lower"),
    Metric("background_effect", 0, "largest effect of a background",
           "How much more often a class is given for its background, the largest difference of two shares.", "percent",
           "lower"),
    Metric("classes_by_edge", 0, "classes that follow the edge",
           "Classes that are given to images of other classes with the edge of one of theirs, or to that edge alone, "
           "more often than with other edges, by `effect` at least and by more than chance.", "integer", "lower"),
    Metric("edge_effect", 0, "largest effect of an edge",
           "How much more often a class is given for its images' edge, the largest difference of two shares.",
           "percent", "lower"),
    Metric("classes_at_place", 0, "classes with evidence at a fixed place",
           "Classes whose evidence lies at one place of the image more than that of other classes, by `place_effect` "
           "at least and by more than chance.", "integer", "lower"),
    Metric("place_effect", 0, "largest excess of evidence at a place",
           "How much more of a class's evidence lies at one place than of other classes', the largest difference.",
           "percent", "lower"),
    Metric("classes_with_groups", 0, "classes with a separate group of maps",
           "Classes some of whose maps stand apart from the others.", "integer", "lower"),
)  # fmt: skip
_LABELLED = ("background_evidence", "highest_background_evidence", "classes_beyond_area", "survives_object_replaced",
             "survives_background_replaced", "classes_by_background", "background_effect")  # fmt: skip
_EXCHANGED = ("survives_object_replaced", "survives_background_replaced", "classes_by_background", "background_effect",
              "survives_edge_replaced", "classes_by_edge", "edge_effect")  # fmt: skip
_DONE = {
    f"{OBJECT} by image": "object replaced by another image's background",
    f"{OBJECT} by blur": "object replaced by its surroundings, smoothed",
    f"{OBJECT} by noise": "object replaced by noise",
    f"{BACKGROUND} by image": "background replaced by another image's",
    f"{BACKGROUND} by blur": "background replaced by itself, smoothed",
    f"{BACKGROUND} by noise": "background replaced by noise",
    f"as much as the {OBJECT}": "as much as the object replaced, anywhere",
    f"as much as the {BACKGROUND}": "as much as the background replaced, anywhere",
    EDGE: "edge replaced by another image's",
    CENTRE: "all but the edge replaced by its mirror images",
}


def described() -> dict[str, str]:
    """Return what each metric is."""
    return presentation.described(_KINDS)


def without(*, labelled: bool, known: bool, exchanged: bool) -> dict[str, str]:
    """Return why metrics cannot be had: without labels of pixels, known classes, or images to exchange parts with."""
    found = {} if labelled else dict.fromkeys(_LABELLED, "the images have no labels of pixels")
    found |= {} if known else {"top1_accuracy": "the class of no image is known"}
    return found | ({} if exchanged else dict.fromkeys(_EXCHANGED, "there are no images to take parts from"))


@dataclass(frozen=True, eq=False)
class Told:
    """What was found, to be told.

    Attributes:
        all: the conclusions.
        looked: the images.
        names: of all images of the data set.
        titles: the classes' names by number.
        concepts: what is labelled.
        method: the name of the method of attribution.
    """

    all: Conclusions
    looked: Looked
    names: Sequence[str]
    titles: Mapping[int, str]
    concepts: Sequence[Concept]
    method: str

    def findings(self, shown: Sequence[Shown], drawn: Sequence[DrawnMap]) -> list[Finding]:
        """Return everything, the most telling first."""
        return [
            *self._summary(),
            *self._metrics(),
            *self._pictures(shown),
            *self._maps(drawn),
            self._survival(),
            self._classes(),
            *self._on_concepts(),
            *self._caveats(),
            *self._outcomes(),
            Array("arrays.images", "What was found in each image",
                  {field.name: getattr(self.looked, field.name) for field in fields(self.looked)}
                  | {"changes": np.array(REPLACED)}),
        ]  # fmt: skip

    def title(self, number: int, most: int = 60) -> str:
        """Return a class's name for a sentence."""
        return shorten(self.titles[number], most)

    # --- sentences --------------------------------------------------------------------------------------------------

    def _summary(self) -> Iterator[Finding]:
        if self.all.off_object is not None:
            yield Note(
                f"Over all images {_lies(self.all.off_object)}. Evidence is what {self.method} finds.", "evidence"
            )
        for classes, said in (
            (self.all.by_background(), self._by_background),
            (self.all.by_edge(), self._by_edge),
            (self.all.by_place(), self._by_place),
            (self.all.by_group(), self._by_group),
        ):
            for one in classes[:_MOST_NAMED]:
                yield Note(said(one))
            if len(classes) > _MOST_NAMED:
                more = listed([self.title(one.number, 40) for one in classes[_MOST_NAMED:]])
                yield Note(f"The same holds for {more}; the tables have their numbers.")
        yield from self._nothing()
        yield from self._survives()
        if beyond := self.all.beyond_area():
            names = listed([self.title(one.number, 40) for one in beyond], _MOST_NAMED)
            yield Note(
                f"More evidence lies outside of the object than its share of the area, by more than chance, in "
                f"{len(beyond)} of {len(self.all.classes)} classes: {names}.", "beyond_area",
            )  # fmt: skip

    def _by_background(self, one: ClassConclusions) -> str:
        said = []
        if one.gone and one.gone.holds(self.all.least):
            said.append(
                f"without its object, which another image's background replaces, it is still given to {one.gone.own} "
                f"of its images, where other classes' images without their objects are called so in {one.gone.others}"
            )
        if one.carried and one.carried.holds(self.all.least):
            said.append(
                f"objects of other classes before a background of this class are called so in {one.carried.own}, "
                f"before other backgrounds in {one.carried.others}"
            )
        return f"{self.title(one.number)} follows what lies outside of its object: {'; '.join(said)}."

    def _by_edge(self, one: ClassConclusions) -> str:
        said = []
        if one.edge and one.edge.holds(self.all.least):
            said.append(
                f"images of other classes with the edge of one of its images are called so in {one.edge.own}, with "
                f"other edges in {one.edge.others}"
            )
        if one.alone and one.alone.holds(self.all.least):
            said.append(
                f"with nothing left but the edge it is still given to {one.alone.own} of its images, where other "
                f"classes' images are called so in {one.alone.others}"
            )
        return f"{self.title(one.number)} follows the edge of the image: {'; '.join(said)}."

    def _by_place(self, one: ClassConclusions) -> str:
        assert one.place is not None
        return (
            f"Evidence for {self.title(one.number)} lies at a fixed place, the {place_in_words(one.place)}: "
            f"{percent(one.place.own)} of it on average (n = {one.place.images}), of other classes' evidence "
            f"{percent(one.place.others)}; the place is {percent((2 / GRID) ** 2)} of the area."
        )

    def _by_group(self, one: ClassConclusions) -> str:
        assert one.group is not None
        return (
            f"{len(one.group.members)} of {one.group.maps} maps of {self.title(one.number)} stand apart from the "
            f"others (silhouette {one.group.silhouette:.2f}, p {_chance(one.group.probability)}): in these images the "
            "evidence lies elsewhere. They are among the pictures."
        )

    def _nothing(self) -> Iterator[Finding]:
        """Say what was looked for and not found, with how large it would have had to be."""
        least, classes = percent(self.all.least), self.all.classes
        tested = [one for one in classes if one.gone or one.carried]
        if tested and not self.all.by_background():
            yield Note(f"In none of {len(tested)} classes does what lies outside of the object make a difference of "
                       f"{least} or more that is more than chance.", "no_background")  # fmt: skip
        tested = [one for one in classes if one.edge]
        if tested and not self.all.by_edge():
            yield Note(f"In none of {len(tested)} classes does the edge of the image make a difference of {least} or "
                       "more that is more than chance.", "no_edge")  # fmt: skip
        tested = [one for one in classes if one.place]
        if tested and not self.all.by_place():
            least = percent(self.all.least_at_place)
            yield Note(f"In none of {len(tested)} classes does {least} more of the evidence lie at a fixed place than "
                       "that of other classes does, by more than chance.", "no_place")  # fmt: skip
        if self.all.tested_groups and not self.all.by_group():
            yield Note(f"In none of {self.all.tested_groups} classes does a group of maps stand apart from the rest.",
                       "no_group")  # fmt: skip

    def _survives(self) -> Iterator[Finding]:
        """Say how often classes survive, beside what replacing as much of the image at random does."""
        for part in (OBJECT, BACKGROUND):
            kept, other = (self.all.survival.get(name) for name in (f"{part} by image", f"as much as the {part}"))
            if kept and other:
                yield Note(
                    f"With the {part} replaced by another image's background the class survives in {kept}; with as "
                    f"much of the image replaced in tiles anywhere in {other} (McNemar p "
                    f"{_chance(self.all.control[part])}).", f"survival.{part}",
                )  # fmt: skip
        if kept := self.all.survival.get(EDGE):
            yield Note(f"With another image's edge ({_edge_area()} of the area) the class survives in {kept}.",
                       "survival.edge")  # fmt: skip

    # --- numbers ----------------------------------------------------------------------------------------------------

    def _metrics(self) -> Iterator[Metric]:
        known = self.looked.known > 0
        if known.any():
            right = (self.looked.predicted == self.looked.classes)[known]
            yield presentation.of_share(_KINDS["top1_accuracy"], right.tolist())
        if (off := self.all.off_object) is not None:
            yield replace(_KINDS["background_evidence"], value=off.evidence, total=off.images, interval=off.interval)
        classes = self.all.classes
        worst = [one.off_object for one in classes if one.off_object and one.off_object.images >= FEWEST]
        if worst:
            lies = max(worst, key=lambda one: one.evidence)
            yield replace(_KINDS["highest_background_evidence"], value=lies.evidence, total=lies.images,
                          interval=lies.interval)  # fmt: skip
            yield replace(_KINDS["classes_beyond_area"], value=len(self.all.beyond_area()), total=len(worst))
        for name, change in (
            ("object", f"{OBJECT} by image"),
            ("background", f"{BACKGROUND} by image"),
            ("edge", EDGE),
        ):
            if (share := self.all.survival.get(change)) is not None:
                yield replace(_KINDS[f"survives_{name}_replaced"], value=share.value, total=share.total,
                              interval=share.interval)  # fmt: skip
        yield from self._counted("background", [one for each in classes for one in (each.gone, each.carried)],
                                 len(self.all.by_background()))  # fmt: skip
        yield from self._counted("edge", [one for each in classes for one in (each.edge, each.alone)],
                                 len(self.all.by_edge()))  # fmt: skip
        places = [one.place for one in classes if one.place]
        if places:
            yield replace(_KINDS["classes_at_place"], value=len(self.all.by_place()), total=len(places))
            yield replace(_KINDS["place_effect"], value=max(one.effect for one in places))
        if self.all.tested_groups:
            yield replace(_KINDS["classes_with_groups"], value=len(self.all.by_group()), total=self.all.tested_groups)

    def _counted(self, what: str, found: Sequence[Contrast | None], count: int) -> Iterator[Metric]:
        tested = [one for one in found if one is not None]
        if tested:
            largest = max(tested, key=lambda one: one.effect)
            yield replace(_KINDS[f"classes_by_{what}"], value=count, total=len({one.number for one in tested}))
            yield replace(_KINDS[f"{what}_effect"], value=largest.effect, total=largest.own.total,
                          interval=largest.interval)  # fmt: skip

    def _outcomes(self) -> Iterator[Outcomes]:
        known = self.looked.known > 0
        if known.any():
            names = tuple(self.names[image] for image in self.looked.images[known].tolist())
            right = (self.looked.predicted == self.looked.classes)[known]
            yield Outcomes("top1_accuracy", names, tuple(right.tolist()))

    # --- pictures ---------------------------------------------------------------------------------------------------

    def _pictures(self, shown: Sequence[Shown]) -> Iterator[Finding]:
        if shown:
            tiles = tuple(self._tile(one) for one in shown)
            yield TileGrid(
                "images", "The most telling images", tiles,
                "First the images of classes of which anything was found: those that keep their class without their "
                "object, or lose it with the background or the edge; those of separate groups; then those with most "
                "evidence outside of their objects beyond its share of the area. Evidence is drawn on a scale from 0 "
                "to its own maximum.", presentation.tile_size(tiles, _TILE),
            )  # fmt: skip

    def _tile(self, one: Shown) -> Tile:
        place = int(np.flatnonzero(self.looked.images == one.image)[0])
        number, taken = int(self.looked.classes[place]), int(self.looked.predicted[place])
        known, sure = bool(self.looked.known[place]), float(self.looked.sure[place])
        right = f"{'right' if number == taken else 'wrong'}: " if known else ""
        facts: list[tuple[str, Cell]] = [
            ("class", self.title(number)),
            ("taken for", f"{right}{self.title(taken)}" + ("" if np.isnan(sure) else f" ({percent(sure)})")),
        ]
        on_object, area = float(self.looked.object_evidence[place]), float(self.looked.object_area[place])
        if not np.isnan(on_object):
            facts.append(("evidence outside of the object", f"{percent(1 - on_object)}, area {percent(1 - area)}"))
        elif not self.looked.coarse[place].any():
            facts.append(("evidence", "none"))
        groups = [other for other in self.all.by_group() if other.number == number]
        if any(place in members_of(self.looked, other) for other in groups):
            facts.append(("map", "in the group that stands apart"))
        captions = ["as the network sees it", f"evidence for {self.title(number, 30)}"]
        for change, _ in one.changed:
            after = int(self.looked.after(change)[place])
            captions.append(f"{_DONE[change]}: {'still ' if after == number else ''}{self.title(after, 30)}")
        pictures = (one.photograph, one.overlay, *(picture for _, picture in one.changed))
        return Tile(shorten(self.names[one.image]), None, pictures, tuple(facts), captions=tuple(captions))

    def _maps(self, drawn: Sequence[DrawnMap]) -> Iterator[Finding]:
        """Show the mean maps of classes, all on one scale, and what they have beyond other classes."""
        by_number, tiles = {one.number: one for one in self.all.classes}, []
        for one in drawn:
            found = by_number[one.number]
            facts: list[tuple[str, Cell]] = [("images", found.images)]
            if (place := found.place) is not None:
                beyond = f"{percent(place.own)}, of other classes {percent(place.others)}"
                facts.append(("most beyond other classes", f"{place_in_words(place)}: {beyond}"))
            captions = ("mean map", "less the mean of other classes")
            tiles.append(Tile(self.titles[one.number], None, (one.mean, one.beyond), tuple(facts), captions=captions))
        if drawn:
            highest, bound = percent(drawn[0].highest), percent(drawn[0].bound)
            yield TileGrid(
                "mean_maps", "Where the evidence of a class lies on average", tuple(tiles),
                f"Means over the images of a class, each map brought to {GRID} × {GRID} cells that add up to 1. All "
                f"mean maps have one scale, from 0 to {highest} of the evidence in a cell; all differences one from "
                f"-{bound} (blue) to {bound} (red). At most {MOST_MAPS} classes are shown.", _TILE,
            )  # fmt: skip

    # --- tables -----------------------------------------------------------------------------------------------------

    def _survival(self) -> Table:
        columns = [change for change in REPLACED if change in self.all.survival]
        every = [("all classes", len(self.looked), self.all.survival)]
        striking = {one.number for one in self.all.striking()}
        order = sorted(self.all.classes, key=lambda one: one.number not in striking)
        rows = [*every, *((self.titles[one.number], one.images, one.survival) for one in order)]
        cells = tuple(
            (name, images, *(str(shares[change]) if change in shares else None for change in columns))
            for name, images, shares in rows
        )
        heads = (Column("class"), Column("images", "integer"), *(Column(_DONE[change]) for change in columns))
        return Table(
            "survival", "How often the class survives", heads, cells,
            "Of the images that are taken for their class as they are, the share that still is, with how many and the "
            "95 % interval; by ONNX Runtime. Objects are replaced in upright boxes a little wider than they, so that "
            "their outline does not stay; another image's background has its own object smoothed away. Noise has the "
            "mean and spread of the image's background.",
        )  # fmt: skip

    def _classes(self) -> Table:
        striking = {one.number for one in self.all.striking()}
        rows: list[tuple[Cell, ...]] = []
        for one in sorted(self.all.classes, key=lambda each: each.number not in striking):
            lies: tuple[Cell, ...] = (None,) * 4
            if one.off_object:
                off = one.off_object
                lies = (off.evidence, _span(off.interval), off.area, _chance(off.probability))
            place: tuple[Cell, ...] = (None,) * 3
            if one.place:
                place = (place_in_words(one.place), one.place.effect, _chance(one.place.probability))
            group = None if one.group is None else one.group.silhouette
            rows.append((self.titles[one.number], one.images, *lies, *_contrast(one.gone), *_contrast(one.carried),
                         *_contrast(one.edge), *_contrast(one.alone), *place, group))  # fmt: skip
        return Table("classes", "Class by class", _COLUMNS, tuple(rows), _CLASSES)

    def _on_concepts(self) -> Iterator[Table]:
        kept, counts = [], dict[int | None, int]()
        for one in self.all.concepts:
            counts[one.number] = counts.get(one.number, 0) + 1
            if one.number is None or (counts[one.number] <= _MOST_CONCEPTS and one.lies.beyond):
                kept.append(one)
        rows = tuple(
            (
                f"{'all classes' if one.number is None else self.titles[one.number]}: {self.concepts[one.concept].name}"
                f" ({self.concepts[one.concept].category})",
                one.lies.images, one.lies.evidence, _span(one.lies.interval), one.lies.area,
                one.lies.evidence / one.lies.area, None if np.isnan(one.inside) else one.inside,
                _chance(one.lies.probability),
            )
            for one in kept
        )  # fmt: skip
        if rows:
            yield Table(
                "concepts", "Evidence on labelled concepts", _CONCEPT_COLUMNS, rows,
                "Means over the images that hold the concept; of all classes every concept, of each class at most "
                f"{_MOST_CONCEPTS} that have more evidence than area by more than chance. p as in the table above, "
                f"corrected for {len(self.all.concepts):,} comparisons (Holm).",
            )  # fmt: skip

    # --- what to know -----------------------------------------------------------------------------------------------

    def _caveats(self) -> Iterator[Finding]:
        looked = self.looked
        blank = int((looked.coarse.sum(axis=(1, 2)) <= 0).sum())
        if blank:
            yield Caveat(f"{blank} of {len(looked)} maps hold no positive evidence by {self.method}; they are left out "
                         "of all means of evidence.", "blank", "limit")  # fmt: skip
        if self.concepts and (lacking := int(np.isnan(looked.object_area).sum())):
            names = listed([self.title(number, 40) for number in sorted(set(
                looked.classes[np.isnan(looked.object_area)].tolist()))], 4)  # fmt: skip
            yield Caveat(f"In {lacking} of {len(looked)} images no object of their class is labelled ({names}): "
                         "objects and backgrounds are not replaced there. `objects` says which concepts are a class's "
                         "object.",
                         "no_object", "limit")  # fmt: skip
        if not self.concepts:
            yield Caveat(
                "There are no labels of pixels: where objects and backgrounds are is not known, and was not tested. "
                f"The outer eighth of each side, {_edge_area()} of the area, stands for the background; an object that "
                f"reaches it counts there too. Evidence is what {self.method} finds.", "no_masks", "limit",
            )  # fmt: skip
        if len(self.all.classes) - len([one for one in self.all.classes if one.images < FEWEST]) == 1:
            yield Caveat(
                "Only one class has images enough: what is found is read beside other classes, so that nothing can be "
                "said of it.", "one_class",
            )  # fmt: skip
        few = [one for one in self.all.classes if one.images < FEWEST]
        if few:
            yield Caveat(f"{len(few)} of {len(self.all.classes)} classes have fewer than {FEWEST} images: nothing "
                         f"is tested of {listed([self.title(one.number, 40) for one in few], 4)}.",
                         "few", "limit")  # fmt: skip
        unknown = int((looked.known == 0).sum())
        if unknown:
            yield Caveat(f"{unknown} of {len(looked)} images stand for what the model takes them for, as their own "
                         "class is not known or not asked for.", "predicted", "limit")  # fmt: skip
        yield Caveat(
            "Changed images are unlike those that the network was made for: what a replacement does is read beside the "
            "same replacement in images of other classes, which looks as strange.", "changed", "limit",
        )  # fmt: skip


def place_in_words(place: Place) -> str:
    """Say where on the image a place lies."""
    last = GRID - 2
    row = "top" if place.top <= last / 4 else "bottom" if place.top >= 3 * last / 4 else "middle"
    column = "left" if place.left <= last / 4 else "right" if place.left >= 3 * last / 4 else "centre"
    return "centre" if (row, column) == ("middle", "centre") else f"{row} {column}"


def _lies(found: Lies) -> str:
    span = f"; {_span(found.interval)}" if found.interval else ""
    beside = ""
    if found.interval and not found.interval[0] <= found.area <= found.interval[1]:
        beside = ": more than by area" if found.evidence > found.area else ": less than by area"
    return (
        f"{percent(found.evidence)} of the evidence lies outside of the object (n = {found.images}{span}), which is "
        f"{percent(found.area)} of the area{beside}"
    )


def _span(interval: tuple[float, float] | tuple[()]) -> str:
    return f"{percent(interval[0]).removesuffix('%')} to {percent(interval[1])}" if interval else ""


def _chance(probability: float) -> str:
    return f"{probability:.2g}" if probability >= 0.001 else "< 0.001"


def _contrast(found: Contrast | None) -> tuple[Cell, Cell, Cell]:
    return (
        (None, None, None) if found is None else (_share(found.own), _share(found.others), _chance(found.probability))
    )


def _share(share: Share) -> str:
    return f"{percent(share.value)} of {share.total}"


def _edge_area() -> str:
    return percent(1 - (1 - 2 / replacement.EDGE) ** 2)


_COLUMNS = (
    Column("class"),
    Column("images", "integer"),
    Column("evidence outside of the object", "percent"),
    Column("interval"),
    Column("area outside of the object", "percent"),
    Column("p of evidence and area"),
    Column("given without the object"),
    Column("to others without theirs"),
    Column("p"),
    Column("given before its background"),
    Column("before others"),
    Column("p of backgrounds"),
    Column("given with its edge"),
    Column("with others"),
    Column("p of edges"),
    Column("given to its edge alone"),
    Column("to others' edges alone"),
    Column("p of edges alone"),
    Column("place with most evidence beyond others'"),
    Column("excess there", "percent"),
    Column("p of the place"),
    Column("silhouette of a group", "number"),
)
_CONCEPT_COLUMNS = (
    Column("concept"),
    Column("images", "integer"),
    Column("evidence", "percent"),
    Column("interval"),
    Column("area", "percent"),
    Column("evidence by area", "number"),
    Column("part of it on the object", "percent"),
    Column("p"),
)
_CLASSES = (
    "Evidence and area are compared on the same images by exchanging signs (Fisher), in both directions. The next "
    "columns say how often the class is given to its images without their objects, and to images of other classes "
    "without theirs; to objects of other classes before its backgrounds, and before others; to images of other "
    "classes with its images' edge, and with others; to its images and to others with nothing left but the edge: "
    "Fisher's exact test, in one direction. A place is four cells of the coarse maps; classes are exchanged among the "
    "images at random. All p are corrected for the number of classes, and those of the two ways to look at "
    "backgrounds, and at edges, for both together (Holm; of places the largest difference of any class and place). "
    f"Silhouettes from {APART} on are compared with clouds of one piece."
)
