"""Adversarial pictures: photographs changed by a little, until the network takes them for something else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictInt, model_validator

from onnxviz.analyses import explained_score, presentation, storage
from onnxviz.analyses.adversarial import counts
from onnxviz.analyses.adversarial.counts import Search
from onnxviz.analyses.base import ImageAnalysis, Job, JobContext, Subject
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Caveat, Cell, Coverage, Finding, Note, Picture, Table, Tile, TileGrid
from onnxviz.core.shares import percent
from onnxviz.core.values import LUMA
from onnxviz.core.wording import listed
from onnxviz.data.domains import domain_of
from onnxviz.data.image_choice import find_source
from onnxviz.data.images import ImageSource, load_batch
from onnxviz.data.visible_part import cropped_note
from onnxviz.graph.operators import traits_of
from onnxviz.graph.targets import class_indices, resolve_head
from onnxviz.model.batches import filled
from onnxviz.optimize.adversarial import Attack, Attacked, Norm, as_images, attack, distance, measured_logits

if TYPE_CHECKING:
    from onnxviz.graph.model_output import Head
    from onnxviz.graph.view import GraphView
    from onnxviz.model.model import Model

Radius = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_LIMIT = 12
_TILE = 160
"""Width in pixels to which small pictures are enlarged, about."""
_KINDS = ("second", "least_likely", "untargeted")


class Adversarial(ImageAnalysis):
    """How little a photograph must change for the network to take it for something else.

    The optimization that draws what a unit looks for, seen from the other side: it starts from a photograph, the image
    may not leave a small ball around it, and a wrong class is driven up until it is the first choice. Ordinary networks
    give way to changes that nobody sees; that their margins are thin says more about them than any single picture.

    Pictures are searched in whole levels of 8 bits, from 0 to 255. Classes, probabilities and distances are those of
    the stored picture, measured by ONNX Runtime after the search. A picture that is not found is no proof that there is
    none: the search follows gradients, and a network can hide them without being robust.
    """

    kind: Literal["adversarial"] = "adversarial"
    data: str = Field(description="The data set with the photographs.")
    limit: int = Field(_LIMIT, ge=1, description="Most images to use, spread evenly over those chosen.")
    score: str | None = Field(
        None, description="The output whose classes are meant, by its name; the model's own classes if not given."
    )
    target: StrictInt | str | list[StrictInt | str] = Field(
        "second",
        description="What to drive a photograph to: `second` for the class of second highest logit, `least_likely` for "
        "that of the lowest (of a photograph that the model has wrong, both take the next one instead of the true "
        "class), `untargeted` for whichever other class is nearest, a class name or index, or a list of these.",
    )
    norm: Literal["linf", "l2"] = Field(
        "linf", description="How a change is measured: its largest value (linf), or its length over all pixels (l2)."
    )
    radius: Radius | Annotated[list[Radius], Field(min_length=1, max_length=50)] | None = Field(
        None,
        description="Largest change, in levels of 0 to 255; of several, the smallest that succeeds is found. If not "
        "given 8 for linf, and for l2 a root mean square of 2 levels.",
    )
    bisect: int | None = Field(
        None,
        ge=0,
        le=30,
        description="How often the gap between the last failure and the first success is halved. If not given until it "
        "is a single level, for l2 or 2 % of the change; with 0 a change is only one that suffices, not a smallest.",
    )
    steps: int = Field(40, ge=1, le=10_000, description="Gradient steps from each start in each ball.")
    step_size: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="In levels of 0 to 255; if not given 2.5 x radius / steps, for linf at least 0.6.",
    )
    restarts: int = Field(
        1, ge=0, le=100, description="Random starts in the ball, where the start from the photograph finds nothing."
    )
    confidence: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Lead in logits at which the search ends; 0 takes the first picture that succeeds.",
    )

    heading: ClassVar[str] = "Adversarial pictures"
    version: ClassVar[int] = 3
    results: ClassVar[tuple[type, ...]] = (Search,)
    metric_names: ClassVar[Mapping[str, str]] = counts.described()
    cites: ClassVar[tuple[str, ...]] = (
        "Szegedy et al. 2014, Intriguing properties of neural networks, arXiv:1312.6199",
        "Madry et al. 2018, Towards Deep Learning Models Resistant to Adversarial Attacks, arXiv:1706.06083",
        "Carlini and Wagner 2017, Towards Evaluating the Robustness of Neural Networks, arXiv:1608.04644",
        "Athalye, Carlini and Wagner 2018, Obfuscated Gradients Give a False Sense of Security, arXiv:1802.00420",
    )
    reading: ClassVar[str] = (
        "Left the picture, then the one that the network takes for something else, then what was changed, enlarged so"
        " that it can be seen. Where hardly anything had to be changed, the network relies on what nobody sees."
    )
    example: ClassVar[str] = "{kind: adversarial, data: photos, target: second, norm: linf, radius: [1, 2, 4, 8]}"

    @model_validator(mode="after")
    def _require_whole_levels(self) -> Adversarial:
        if min(self._radii(1)) < 1:
            raise ValueError("a radius below 1 level leaves a picture of 8 bits as it is")
        return self

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Plan a job for every few photographs."""
        if not domain_of(subject.preprocessing).photographic:
            raise AnalysisError(
                f"it changes photographs of 8 bits, and the model takes {subject.preprocessing.channels} channels as "
                "stored",
                remedy="leave this analysis out",
            )
        head = _require_classes(self._head(subject), subject.view)
        source, chosen = self.chosen_images(subject)
        own = explained_score.OwnClasses.of(source, subject, head)
        height, width = subject.input_size
        together = max(4, min(32, 224 * 224 // (height * width)))
        targets = self._targets(subject)
        steps = self._attack(1).most_steps
        picture = storage.png(height, width) + 2 * storage.PICTURE_ROW
        count = math.ceil(len(chosen) / together)
        for index in range(count):
            part = chosen[index * together : (index + 1) * together]
            known = [own.get(image) for image in part]
            made = len(part) * len(targets)
            yield Job(
                name=f"{index + 1}/{count}",
                parameters={"images": part, "known": known, "targets": targets},
                layers=(explained_score.layer_of(head).name,),
                data=(self.data,),
                # Most networks give way long before the last step.
                cost=1.5 * steps * made,
                images=3 * made,
                bytes=storage.RECORD + made * (3 * picture + 700 + 20 * min(self.steps, presentation.POINTS)),
            )

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:  # noqa: ARG002 - one interface
        """Say what cannot be counted where classes of photographs are known, and where none is."""
        other = {"linf": "l2", "l2": "linf"}[self.norm]
        found = {f"median_{other}": f"the search makes the change small by `norm: {self.norm}`: median_{self.norm}"}
        if any(number is not None for job in jobs for number in job.parameters["known"]):
            why = f"classes of {self.data!r} are known, so what was right is counted: success_rate"
            return found | {"changed_rate": why}
        why = f"the class of no photograph of {self.data!r} is known"
        return found | dict.fromkeys(("success_rate", "accuracy", "accuracy_under_attack"), why)

    def run(self, job: Job, context: JobContext) -> list[Search]:
        """Change the photographs of one job."""
        images, known = list(job.parameters["images"]), list(job.parameters["known"])
        source = find_source(self.data, context.subject.data)
        levels = _levels(context, source, images)
        head = self._head(context.subject)
        before = _Seen.of(context.model, levels, head)
        goals = list(job.parameters["targets"])
        asked = [
            _Asked(place, image, goal, own, _wanted(goal, before.logits[place], own))
            for place, (image, own) in enumerate(zip(images, known, strict=True))
            for goal in goals
        ]
        asked = [entry for entry in asked if entry.wanted != before.best(entry.place)]
        if not asked:
            return []
        rules = self._attack(levels[0].size)
        made = attack(
            context.model,
            levels[[entry.place for entry in asked]],
            [before.best(entry.place) for entry in asked],
            [entry.wanted for entry in asked],
            [(context.subject.seed * 1_000_003 + entry.image) & 0xFFFFFFFF for entry in asked],
            rules,
            told=lambda done, total: context.progress(done, total, "steps"),
            head=head,
        )
        after = _Seen.of(context.model, np.stack([found.picture for found in made]), head)
        return [
            _search(source.names[entry.image], entry, found, before, after, index, levels[entry.place], self.norm)
            for index, (entry, found) in enumerate(zip(asked, made, strict=True))
        ]

    def present(self, found: Sequence[Search], subject: Subject) -> list[Finding]:
        """Show the photographs, count the successes, and say what they mean."""
        coverage = self._coverage(found, subject)
        if not found:
            return [Note("Every photograph is taken for the class that was asked for as it is.", "summary"), *coverage]
        titles = _Titles(self._head(subject), subject.labels, len(self._targets(subject)) > 1)
        tiles = tuple(_tile(one, titles, self.norm) for one in found)
        radii = () if self.radius is None else self._radii(1)
        source, chosen = self.chosen_images(subject)
        return [
            Note(counts.summary(found, self.norm), "summary"),
            *explained_score.in_words(self._head(subject), subject.view),
            *self._caveats(found, titles, subject),
            TileGrid("pictures", "Photographs before and after", tiles, self._description(subject),
                     presentation.tile_size(tiles, _TILE)),
            *cropped_note(source, chosen, subject.preprocessing, subject.input_size),
            *counts.metrics(found, self.norm),
            *counts.curve(found, radii, self.norm),
            *coverage,
            Table("attacks", "What each photograph was taken for", counts.COLUMNS,
                  tuple(_row(one, titles) for one in found)),
        ]  # fmt: skip

    # --- the recipe's words -----------------------------------------------------------------------------------------

    def _head(self, subject: Subject) -> Head:
        return resolve_head(subject.view, self.score, subject.labels)

    def _radii(self, numbers: int) -> tuple[float, ...]:
        """Return the radii, ascending; of a picture of so many numbers where the recipe gives none."""
        if self.radius is None:
            return (8.0,) if self.norm == "linf" else (2.0 * math.sqrt(numbers),)
        given = self.radius if isinstance(self.radius, list) else [self.radius]
        return tuple(sorted(dict.fromkeys(given)))

    def _attack(self, numbers: int) -> Attack:
        halvings = self.bisect
        if halvings is None:  # the gap to halve is at most the largest radius, and is done at a level
            halvings = math.ceil(math.log2(max(self._radii(max(numbers, 64 * 64))[-1], 2.0)))
        return Attack(
            self.norm, self._radii(numbers), halvings, self.steps, self.step_size, self.restarts, self.confidence
        )

    def _targets(self, subject: Subject) -> list[str | int]:
        """Return the targets with classes by their numbers; a class of that name comes before a word of ours."""
        found: dict[str | int, None] = {}
        for item in self.target if isinstance(self.target, list) else [self.target]:
            if item in _KINDS and item not in (subject.labels or ()):
                found[item] = None
            else:
                found.update(dict.fromkeys(class_indices(item, self._head(subject), subject.labels)))
        return list(found)

    # --- what is said -----------------------------------------------------------------------------------------------

    def _description(self, subject: Subject) -> str:
        rules, (height, width) = self._attack(1), subject.input_size
        numbers = height * width * (1 if _is_grey(subject) else 3)
        radii = ", ".join(f"{radius:g}" for radius in self._radii(numbers))
        size = "2.5 x radius / steps" if rules.step_size is None else counts.count_of(rules.step_size, "level")
        often = f"{self.bisect} times" if self.bisect else "until it is a level (for l2 or 2 %)"
        halved = (
            "" if self.bisect == 0 else f", the gap between the smallest success and the largest failure halved {often}"
        )
        return (
            "Each photograph as the network sees it, the changed one, and the change times the factor said, where grey "
            f"is no change. Projected gradient descent, {self.steps} steps of {size} from the photograph and "
            f"{counts.count_of(self.restarts, 'random start')}, {_NORMS[self.norm]} {radii} levels of 0 to 255"
            f"{halved}. The curve is the lead in logits of the class to leave, until the first picture is found: it "
            "falls below 0 there."
        )

    def _coverage(self, found: Sequence[Search], subject: Subject) -> list[Finding]:
        _, chosen = self.chosen_images(subject)
        searches = len(chosen) * len(self._targets(subject))
        done = len({one.image for one in found})
        failed = "taken for the class wanted as they are, or their job failed"
        left = "" if len(found) == searches else "the rest is taken for the class wanted as it is, or its job failed"
        return [
            self.image_coverage(done, failed, subject),
            Coverage("searches (image, target)", len(found), searches, left, "coverage.searches"),
        ]

    def _caveats(self, found: Sequence[Search], titles: _Titles, subject: Subject) -> Iterator[Caveat]:
        lost = [one for one in found if not one.won]
        if lost:
            yield Caveat(
                f"For {len(lost)} of {len(found)} nothing was found. This is no proof that there is nothing: more "
                "steps, more restarts or another method may find it.",
                "no_proof",
                "limit",
            )
        flat = [shorten(titles.of_search(one), 60) for one in found if one.flat]
        if flat:
            cause = "a saturated activation or an operator without a slope; it looks like robustness and is none"
            if stops := subject.view.gradient_stops(explained_score.layer_of(self._head(subject))):
                cause = presentation.without_slope(stops)
            yield Caveat(
                f"The gradient was zero at some step for {len(flat)} of {len(found)}: {listed(flat, 6)} "
                f"({cause}). Where nothing was found there, nothing can be said.",
                "vanished_gradients",
            )
        wrong = [one for one in found if one.true is not None and not one.right]
        if wrong:
            yield Caveat(
                f"{len(wrong)} of {len(found)} searches start from a photograph that is taken for a wrong class as it "
                "is; they do not count for the success rate, and count as wrong in the robust accuracy.",
                "wrong_before",
            )
        if not any(one.true is not None for one in found):
            yield Caveat(
                "Nothing says what the photographs show, so a changed choice may be one that was wrong, and there is "
                "no success rate and no robust accuracy.",
                "no_true_classes",
            )
        quantised = {node.op_type for node in subject.view.proto.graph.node if traits_of(node).rounds}
        if quantised:
            yield Caveat(
                f"The network rounds its values ({', '.join(sorted(quantised))}). Gradients pass the rounding as if it "
                "were not there, so a search finds less than it could; what it finds is measured with the rounding.",
                "quantised",
            )
        if _is_grey(subject):
            yield Caveat(
                "The network sees grey only: photographs are grey pictures of 8 bits, and distances are over one "
                "channel.",
                "grey",
                "limit",
            )
        yield from presentation.doubtful_preprocessing(
            subject, "the classes before are wrong, and so is everything that is searched for from there."
        )


_NORMS = {"linf": "no pixel and colour changed by more than", "l2": "the length of the change at most"}


# --- classes --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One search of a job: its photograph's place and index, target, known class, and the class to reach or None."""

    place: int
    image: int
    goal: str | int
    known: int | None
    wanted: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """What ONNX Runtime makes of pictures: logits and probabilities [N, classes]; None where nothing makes any."""

    logits: np.ndarray
    probabilities: np.ndarray | None

    @classmethod
    def of(cls, model: Model, levels: np.ndarray, head: Head) -> _Seen:
        """Run pictures, uint8 [N, 1 or 3, h, w]."""
        made = None
        if head.probability:
            made = model.probabilities(as_images(filled(levels, model.view.batch)), head)[: len(levels)]
        return cls(measured_logits(model, levels, head), made)

    def best(self, index: int) -> int:
        """Return the first choice for one picture."""
        return int(self.logits[index].argmax())

    def probability(self, index: int, number: int) -> float | None:
        """Return the probability of one class for one picture."""
        return None if self.probabilities is None else float(self.probabilities[index, number])


def _wanted(goal: str | int, logits: np.ndarray, known: int | None) -> int | None:
    """Return the class to reach, or None for any other; never the one that the photograph shows, unless it is named."""
    if isinstance(goal, int):
        return goal
    if goal == "untargeted":
        return None
    first = int(logits.argmax())
    order = [int(number) for number in np.argsort(-logits, kind="stable") if number not in (first, known)]
    order = order or [int(number) for number in np.argsort(-logits, kind="stable") if number != first]
    return order[0] if goal == "second" else order[-1]


def _require_classes(head: Head, view: GraphView) -> Head:
    """Return a head whose highest score is the model's choice for the whole image."""
    where = f"output {shorten(head.name, 60)!r}"
    if view.input_layout == "other":
        raise AnalysisError("the model's input is no image", remedy="use an analysis that needs no image")
    if head.has_positions or head.kind not in ("classes", "binary", "unknown"):
        raise AnalysisError(
            f"the model gives no class for the whole image, so there is none to change: {head.in_words}",
            where=where,
            remedy="use a model that classifies images, or name another output with `score:`",
        )
    if head.kind == "unknown" and head.choices == 1:
        raise AnalysisError(
            "the model has a single number, so there is no other class to drive a photograph to",
            where=where,
            remedy="if it is the score of two classes, say so: `output: binary` in the recipe's model",
        )
    return head


@dataclasses.dataclass(frozen=True)
class _Titles:
    """What classes are called; no other class has the same name: two of ImageNet's are called crane.

    `several`: photographs are driven to several targets.
    """

    head: Head
    labels: Sequence[str] | None
    several: bool = False

    def of_search(self, one: Search) -> str:
        """Return what a search is called: by its photograph, and by its target where there are several."""
        goal = one.goal.replace("_", " ") if isinstance(one.goal, str) else self.of(one.goal)
        return f"{one.name} → {goal}" if self.several else one.name

    def of(self, number: int) -> str:
        """Return one class' name."""
        name = self.head.title(number, self.labels)
        return name if not self.labels or self.labels.count(name) <= 1 else f"{name} ({number})"


# --- pictures -------------------------------------------------------------------------------------------------------


def _is_grey(subject: Subject) -> bool:
    return domain_of(subject.preprocessing).planes == 1


def _levels(context: JobContext, source: ImageSource, images: Sequence[int]) -> np.ndarray:
    """Return photographs as the network sees them, uint8 [N, 3, h, w]; [N, 1, h, w] where it sees grey only."""
    batch = load_batch(source, images, context.subject.preprocessing, context.model.input_size)
    if _is_grey(context.subject):
        batch = (batch * np.array(LUMA, np.float32)[:, None, None]).sum(axis=1, keepdims=True)
    return np.asarray(np.rint(np.clip(batch, 0.0, 1.0) * 255.0), dtype=np.uint8)


def _search(
    name: str,
    asked: _Asked,
    found: Attacked,
    before: _Seen,
    after: _Seen,
    index: int,
    levels: np.ndarray,
    norm: Norm,
) -> Search:
    """Return what was found, measured on the picture that is stored."""
    left, now = before.best(asked.place), after.best(index)
    success = now != left if asked.wanted is None else now == asked.wanted
    change = found.picture.astype(np.int16) - levels.astype(np.int16)
    factor = max(1, int(127 // max(1, np.abs(change).max())))
    alt = shorten(name)
    return Search(
        image=asked.image,
        name=name,
        goal=asked.goal,
        true=asked.known,
        before=left,
        sure_before=before.probability(asked.place, left),
        wanted=asked.wanted,
        after=now,
        sure_after=after.probability(index, now),
        l2=distance(change, "l2"),
        linf=int(distance(change, "linf")),
        radius=min(found.radius, distance(change, norm)) if success and found.radius is not None else None,
        empty=found.empty,
        steps=found.steps,
        flat=found.flat,
        lead=presentation.thinned(found.margins),
        factor=factor,
        pictures=(
            _picture(levels, f"{alt} as the network sees it"),
            _picture(found.picture, f"{alt}, changed"),
            _picture(np.clip(128 + factor * change, 0, 255).astype(np.uint8), f"the change to {alt}"),
        ),
    )


def _row(one: Search, titles: _Titles) -> tuple[Cell, ...]:
    """Return the cells under `counts.COLUMNS`."""
    return (
        titles.of_search(one),
        one.name,
        None if one.true is None else titles.of(one.true),
        titles.of(one.before),
        one.sure_before,
        "any other class" if one.wanted is None else titles.of(one.wanted),
        titles.of(one.after),
        one.sure_after,
        "yes" if one.won else "no",
        one.l2,
        one.linf,
        one.radius,
        one.empty,
        one.steps,
        "vanished" if one.flat else "",
    )


def _tile(one: Search, titles: _Titles, norm: Norm) -> Tile:
    """Return the tile of one photograph: before, after, and the change."""
    captions = (
        titles.of(one.before) + ("" if one.sure_before is None else f" {percent(one.sure_before, 1)}"),
        titles.of(one.after) + ("" if one.sure_after is None else f" {percent(one.sure_after, 1)}"),
        f"change x {one.factor}" if one.linf else "no change",
    )
    size: tuple[str, Cell] = ("largest change", f"{one.linf} of 255")
    if norm == "l2":
        size = ("length", round(one.l2, 2))
    facts: tuple[tuple[str, Cell], ...] = (
        ("wanted", "any other class" if one.wanted is None else titles.of(one.wanted)),
        ("success", "yes" if one.won else "no"),
        size,
        ("none within", round(one.empty, 2)),
        ("steps", one.steps),
    )
    lead = "lead of the class to leave, in logits"
    return Tile(titles.of_search(one), None, one.pictures, facts, one.lead, lead, captions)


def _picture(levels: np.ndarray, alt: str) -> Picture:
    """Return uint8 [1 or 3, h, w] as a picture without loss: with a loss it would be another one to the network."""
    pixels = np.ascontiguousarray(np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0))
    return Picture(pixels, alt=alt, format="png", pixelated=max(pixels.shape[:2]) < presentation.SMALL)
