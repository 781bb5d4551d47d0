"""Attribution of images: one forward pass for a batch, a question for each of their classes, every method's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.judgement import Faithfulness, ImageJudgement, judge
from onnxviz.analyses.attribution.localisation import ObjectEvidence
from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.analyses.attribution.object_masks import ObjectMasks
from onnxviz.analyses.attribution.pictures import cell, coarse_evidence, outlined, photograph, picture_size, where
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.randomisation import ShuffledWeights
from onnxviz.analyses.attribution.results import ImageAttribution, MethodEvidence, TargetEvidence
from onnxviz.analyses.attribution.scores import Chosen, Scores
from onnxviz.analyses.attribution.simple_maps import simple_maps
from onnxviz.analyses.attribution.targets import Difference, Target
from onnxviz.analyses.explained_images import Wanted
from onnxviz.analyses.stream import measured
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.findings import Array, Picture
from onnxviz.core.values import Layer

if TYPE_CHECKING:
    from onnxviz.analyses.base import JobContext
    from onnxviz.graph.model_output import Head

Against: TypeAlias = Callable[[int, Sequence[float]], int | None]
"""Says which class one is explained against, of its number and the image's scores; None for against none."""


@dataclass(frozen=True)
class Asked:
    """What is asked about every image.

    Attributes:
        scores: what is explained.
        against: which class another is explained against.
        head: whose probabilities are shown beside, if any.
        methods: what each is called here, and the method.
        layers: headings and layers, for the methods that make maps of layers.
        references: images that methods compare others with, RGB in 0..1, float32 [R, channels, h, w]; None for none.
        judge: measures whether maps are to be believed; None where nobody asks.
        trial: whether this is a trial of methods, of which one is to be chosen.
        masks: where the objects of classes are, which maps are compared with; None where nothing says.
    """

    scores: Scores
    against: Against
    head: Head | None
    methods: Sequence[tuple[str, Method]]
    layers: Sequence[tuple[str, Layer]]
    references: np.ndarray | None = None
    judge: Judge | None = None
    trial: bool = False
    masks: ObjectMasks | None = None


def attribute(context: JobContext, batch: np.ndarray, wanted: Sequence[Wanted], asked: Asked) -> list[ImageAttribution]:
    """Ask every method where the evidence for each image's classes lies.

    Args:
        context: the model.
        batch: RGB in 0..1, float32 [N, channels, h, w]; images behind the last of `wanted` only fill the pass.
        wanted: the images and their classes.
        asked: the methods, layers and targets.

    Raises:
        AnalysisError: if activations, scores or maps are not finite.
    """
    model, methods = context.model, [method for _, method in asked.methods]
    layers, read = [layer for _, layer in asked.layers], asked.scores.layers
    to_input = any(method.to_input for method in methods)
    forward = ForwardPass(model, torch.from_numpy(batch), layers, read, to_input=to_input)
    names = [entry.name for entry in wanted]
    if converted := any(method.needs_gradients for method in methods):
        raw = [forward.values[layer].detach() for layer in read]
        forward.require_finite(names)
    else:
        given = measured(model, batch, [layer.name for layer in read])
        raw = [torch.from_numpy(given[layer.name]) for layer in read]
    scores = Chosen.of(raw, asked.scores, wanted)
    indices = [entry.index for entry in wanted]
    indices += indices[-1:] * (len(batch) - len(indices))
    references = None if asked.references is None else torch.from_numpy(asked.references)
    turns: list[_Turn] = []
    refused: dict[str, str] = {}
    for turn in range(max(map(len, scores.numbers))):
        numbers = [chosen[min(turn, len(chosen) - 1)] for chosen in scores.numbers]
        targets = [_target(asked, number, place, scores, raw) for place, number in enumerate(numbers)]
        question = forward.ask(targets, indices=indices, seed=context.subject.seed, references=references)
        if turns:
            found = [_answer(question, *each, names) for each in asked.methods]
        else:
            asked, found, refused = _first_answers(question, asked, names)
        values = question.scores if converted else question.measure(question.images, range(len(batch)))
        reached = _reached(question) if converted else [True] * len(batch)
        turns.append(_Turn(numbers, targets, values.tolist(), reached, context.subject.seed, found))
    kept = _several_positions(turns[0], asked)
    judgements = asked.judge.of(forward, turns[0], wanted, indices, asked, kept) if asked.judge else {}
    located = _meet_objects(asked.masks, question, turns, wanted, asked, kept) if asked.masks else None
    images = zip(forward.images.detach().cpu().numpy(), wanted, strict=False)
    seen = [photograph(image, model.domain) if entry.shown else None for image, entry in images]
    count, size = len(scores.values[0]), picture_size(batch.shape[2], batch.shape[3])
    sure = explained_score.probabilities(model, batch, asked.head, count) if asked.head else [None] * len(batch)
    return [
        _ImageResult(place, entry, scores, turns, asked, refused, kept, size, seen[place], sure[place], located).made(
            judgements.get(place)
        )
        for place, entry in enumerate(wanted)
    ]


def _target(asked: Asked, number: int, place: int, scores: Chosen, raw: Sequence[torch.Tensor]) -> Target:
    values = [each[place : place + 1] for each in raw]
    target, other = asked.scores.target(number, values), asked.against(number, scores.values[place])
    return target if other is None else Difference(target, asked.scores.target(other, values))


@dataclass(frozen=True, eq=False)
class _Turn:
    """What was found for one target of each image; `numbers` are the classes that these are about."""

    numbers: Sequence[int]
    targets: Sequence[Target]
    scores: Sequence[float]
    reached: Sequence[bool]
    seed: int
    found: Sequence[Attribution]


class Judge:
    """Measures whether maps are to be believed; keeps the network with other weights from batch to batch."""

    def __init__(self, settings: Faithfulness) -> None:
        self.settings = settings
        self._shuffled: ShuffledWeights | None = None

    def of(
        self,
        forward: ForwardPass,
        turn: _Turn,
        wanted: Sequence[Wanted],
        indices: Sequence[int],
        asked: Asked,
        kept: Sequence[int],
    ) -> dict[int, ImageJudgement]:
        """Judge the maps of the first target, the last layer's of methods that have several; by place of the image."""
        judged = [place for place, entry in enumerate(wanted) if entry.judged]
        if not judged:
            return {}
        # A model that takes so many images at a time is given all of them again.
        places = list(range(len(turn.targets))) if (forward.model.view.batch or 1) > 1 else judged
        score_layers, layers = turn.targets[0].layers, [layer for _, layer in asked.layers]
        part = ForwardPass(
            forward.model, forward.images.detach()[places], layers, score_layers, to_input=forward.to_input
        )
        references = None if asked.references is None else torch.from_numpy(asked.references)
        targets, numbers = [turn.targets[place] for place in places], [indices[place] for place in places]
        seed = turn.seed
        question = part.ask(targets, indices=numbers, seed=seed, references=references)
        if self.settings.randomisation and self._shuffled is None:
            self._shuffled = ShuffledWeights(forward.model, score_layers, self.settings.stages, seed)

        answers = list(zip(asked.methods, turn.found, strict=True))
        maps = {name: _last(found, method, kept)[places] for (name, method), found in answers}

        def again(other: Question) -> dict[str, torch.Tensor]:
            found = {}
            for name, method in asked.methods:
                try:
                    found[name] = _last(method.attribute(other), method, kept)
                except AnalysisError:  # of shuffled weights a method may have no answer: how alike is not known
                    found[name] = torch.full_like(maps[name], torch.nan)
            return found

        facts = {name: {fact: values[places] for fact, values in found.facts.items()} for (name, _), found in answers}
        judgements = judge(question, maps, self.settings, make=again, shuffled=self._shuffled, facts=facts)
        return {place: one for place, one in zip(places, judgements, strict=True) if place in judged}


def _last(found: Attribution, method: Method, kept: Sequence[int]) -> torch.Tensor:
    """Return the map of the pixels, or that of the last layer that has one."""
    return found.maps[0 if method.shows == "pixels" else kept[-1]]


def _meet_objects(
    masks: ObjectMasks,
    question: Question,
    turns: Sequence[_Turn],
    wanted: Sequence[Wanted],
    asked: Asked,
    kept: Sequence[int],
) -> list[list[ObjectEvidence | None]]:
    """Return for each turn and image how the maps meet the object of the class."""
    maps = [
        {
            name: _last(found, method, kept).detach().cpu().numpy()
            for (name, method), found in zip(asked.methods, turn.found, strict=True)
        }
        for turn in turns
    ]
    images, numbers = [entry.index for entry in wanted], [turn.numbers for turn in turns]
    return masks.meet(images, numbers, maps, simple_maps(question))


def _first_answers(
    question: Question, asked: Asked, images: Sequence[str]
) -> tuple[Asked, list[Attribution], dict[str, str]]:
    """Return the methods that have answers for this network, these answers, and why others have none.

    Raises:
        AnalysisError: if no method has one.
    """
    answers: dict[str, Attribution] = {}
    refused: dict[str, AnalysisError] = {}
    for name, method in asked.methods:
        try:
            answers[name] = _answer(question, name, method, images)
        except AnalysisError as error:
            refused[name] = error
    if not answers:
        raise next(iter(refused.values()))
    left = tuple((name, method) for name, method in asked.methods if name in answers)
    reasons = {name: error.what for name, error in refused.items()}
    return replace(asked, methods=left), list(answers.values()), reasons


def _answer(question: Question, name: str, method: Method, images: Sequence[str]) -> Attribution:
    found = method.attribute(question)
    for values in found.maps:
        _require_finite(values, images, "the map is not finite", name)
    return found


def _reached(question: Question) -> list[bool]:
    """Return for each image whether its score has a gradient at one of the layers, or at the image."""

    def slopes(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack([each.reshape(len(each), -1).abs().amax(dim=1) for each in gradients]).amax(dim=0)

    found = slopes(question.gradients) if question.gradients else torch.zeros(len(question.targets))
    if not bool((found > 0).all()):  # the layers may have no part in the score, and the image has
        found = torch.maximum(found, slopes([question.input_gradient]).to(found))
    return [slope > 0 for slope in found.tolist()]


def _several_positions(turn: _Turn, asked: Asked) -> tuple[int, ...]:
    """Return which of the layers have a map of more than one position at this size of the image."""
    maps = [
        found.maps for (_, method), found in zip(asked.methods, turn.found, strict=True) if method.shows == "layers"
    ]
    kept = tuple(place for place, values in enumerate(maps[0]) if max(values.shape[1:]) > 1) if maps else ()
    if maps and not kept:
        raise AnalysisError(
            "no selected layer has a map of positions at this image size",
            remedy="select layers before the global pooling, for example `layers: block_outputs`",
        )
    return kept


def _require_finite(values: torch.Tensor, images: Sequence[str], what: str, where: str) -> None:
    finite = values.reshape(len(values), -1).isfinite().all(dim=1).tolist()
    for image, fine in zip(images, finite, strict=False):
        if not fine:
            raise AnalysisError(f"{what} for the image {shorten(image)!r}", where=shorten(where))


@dataclass(frozen=True, eq=False)
class _ImageResult:
    """What a pass gave for one image."""

    place: int
    entry: Wanted
    scores: Chosen
    turns: Sequence[_Turn]
    asked: Asked
    refused: Mapping[str, str]
    kept: tuple[int, ...]
    size: tuple[int, int]
    photograph: np.ndarray | None
    sure: np.ndarray | None
    located: Sequence[Sequence[ObjectEvidence | None]] | None

    def made(self, judgement: ImageJudgement | None) -> ImageAttribution:
        """Return it with its pictures; nothing of the pass is kept."""
        turns = self.turns[: len(self.scores.numbers[self.place])]
        values = self.scores.values[self.place]
        best = int(np.argmax(values))
        answers = zip(self.asked.methods, turns[0].found, strict=True)
        return ImageAttribution(
            self.entry.index,
            self.entry.own,
            best,
            None if self.sure is None else float(self.sure[best]),
            self.scores.placed,
            None
            if self.photograph is None
            else Picture(self.photograph, alt=f"{shorten(self.entry.name)} as the network sees it", format="jpeg"),
            tuple(self._target(turn, place) for place, turn in enumerate(turns)),
            tuple((name, found.said) for (name, _), found in answers if found.said),
            self.kept,
            None if self.photograph is None else self._maps(turns),
            judgement,
            self.asked.trial,
            tuple(self.refused.items()),
            np.stack([[coarse_evidence(_last(found, method, self.kept)[self.place], self.size)
                       for (_, method), found in zip(self.asked.methods, turn.found, strict=True)] for turn in turns]),
        )  # fmt: skip

    def _target(self, turn: _Turn, place: int) -> TargetEvidence:
        number, target = turn.numbers[self.place], turn.targets[self.place]
        shares = self.scores.predicted[self.place]
        methods = zip(self.asked.methods, turn.found, strict=True)
        return TargetEvidence(
            number,
            target.title,
            turn.scores[self.place],
            None if self.sure is None else float(self.sure[number]),
            None if shares is None else shares[number],
            isinstance(target, Difference),
            turn.reached[self.place],
            tuple(self._evidence(name, method, found, target.title) for (name, method), found in methods),
            self.located[place][self.place] if self.located else None,
            self._outlined(target),
            "" if target.outline is None else target.outline.what,
        )

    def _outlined(self, target: Target) -> Picture | None:
        if self.photograph is None or target.outline is None:
            return None
        alt = f"{shorten(self.entry.name)} as the network sees it, with an outline of {target.outline.what}"
        return Picture(outlined(self.photograph, target.outline.box), alt=alt, format="jpeg")

    def _evidence(self, name: str, method: Method, found: Attribution, title: str) -> MethodEvidence:
        pixels, drawn = method.shows == "pixels", []
        places = (0,) if pixels else self.kept
        columns = [""] if pixels else [self.asked.layers[layer][0] for layer in places]
        maps = [found.maps[layer][self.place] for layer in places]
        for values, column in zip(maps, columns, strict=True):
            if self.photograph is None:
                continue
            alt = f"{name} of {shorten(title, 40)}" + (f" at {shorten(column, 40)}" if column else "")
            drawn.append(cell(values, self.photograph, alt, fine=method.fine, signed=method.signed))
        return MethodEvidence(
            name,
            tuple(columns),
            tuple(drawn),
            tuple(not float(values.max()) > 0 for values in maps),
            where(maps[-1], self.size, fine=method.fine),
            tuple((fact, float(numbers[self.place])) for fact, numbers in found.facts.items()),
        )

    def _maps(self, turns: Sequence[_Turn]) -> Array:
        arrays = {
            f"target{number}_method{place}_layer{layer:03d}": values[self.place].float().cpu().numpy()
            for number, turn in enumerate(turns)
            for place, found in enumerate(turn.found)
            for layer, values in enumerate(found.maps)
        }
        about = {
            "targets": np.array([turn.targets[self.place].title for turn in turns]),
            "methods": np.array([name for name, _ in self.asked.methods]),
            "layers": np.array([heading for heading, _ in self.asked.layers]),
        }
        title = f"{self.entry.name}: maps at their own resolution"
        return Array(f"arrays.{self.entry.index}", title, {**arrays, **about})
