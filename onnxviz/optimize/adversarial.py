"""Pictures that a network takes for something else: gradient descent from a photograph, inside a small ball around it.

Everything is counted in levels of 8 bits, 0 to 255, and the network is shown pictures of whole levels only, at every
step: what is found is a picture that can be stored, not one that rounding repairs. The real-valued change that the
gradients add up to is kept beside it, so that steps smaller than a level are not lost, as weights are kept beside their
binary form by Courbariaux et al. 2015 (BinaryConnect, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.graph.model_output import Head
from onnxviz.model.batches import choose_batch, filled, gradient_bytes, run_batches
from onnxviz.optimize.optimizers import as_rows

if TYPE_CHECKING:
    from onnxviz.model.model import Model

Norm = Literal["linf", "l2"]
Told = Callable[[int, int], None]
"""Called with the steps done and the steps in all, over all pictures; those that are not needed count as done."""

_LEVELS = 255.0
_LOOK = 8
"""Every so many steps it is asked whether any picture is still to be changed, as a GPU has to be waited for."""
_TIMES = 4
"""How often a search is repeated with a larger lead, where ONNX Runtime does not take the picture for what the
differentiable network takes it for. Their numbers differ by rounding, which in quantised networks is coarse."""
_NOISE = 1e-3
"""The first lead of such a repetition, as a share of the largest logit."""
_CLOSE = 0.02
"""Share of a length at which halving ends: the search itself is no nearer to the smallest one."""
_LEAST_STEP = 0.6
"""In levels, for linf: with less, the first steps would change no whole level."""


@dataclass(frozen=True)
class Attack:
    """How a picture is searched for.

    Attributes:
        norm: of the change: its largest value, or its length.
        radii: of the balls to search, ascending, in levels of 0..255.
        halvings: how often the gap between the largest ball without a picture and the smallest with one is halved; the
            search there starts from the picture that was found.
        steps: gradient steps in each ball, from each start.
        step_size: in levels; 2.5 · radius / steps if None, for linf at least 0.6.
        restarts: further starts, at random in the ball, where the one from the picture itself finds nothing.
        confidence: lead in logits over every other class, at which a picture is done.
    """

    norm: Norm
    radii: tuple[float, ...]
    halvings: int = 0
    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    confidence: float = 0.0

    @property
    def most_steps(self) -> int:
        """The steps that a picture takes at most."""
        return self.steps * ((1 + self.restarts) * len(self.radii) + self.halvings)


@dataclass(frozen=True, eq=False)
class Attacked:
    """What was found for one picture.

    Attributes:
        picture: uint8 [channels, h, w]; where nothing was found, what came closest.
        radius: of the smallest ball in which a picture was found, else None.
        steps: taken until the first picture was found, from the start that led there; all of them if none was.
        margins: float32 [steps + 1], lead of the class to leave over the class to reach in logits, at each of them.
        flat: whether the margin's gradient was zero at some step, so that it said nothing.
        scale: the largest logit's size, for the first picture of the search.
        empty: radius of the largest ball that was searched without finding any; 0 if there is none.
    """

    picture: np.ndarray
    radius: float | None
    steps: int
    margins: np.ndarray
    flat: bool
    scale: float
    empty: float = 0.0


def attack(
    model: Model,
    pictures: np.ndarray,
    left: Sequence[int],
    wanted: Sequence[int | None],
    seeds: Sequence[int],
    rules: Attack,
    told: Told | None = None,
    head: Head | None = None,
) -> list[Attacked]:
    """Search for pictures near given ones that the network takes for another class.

    Projected gradient descent (Madry et al. 2018, section 2.1) on a margin of logits: the largest other class minus the
    wanted one (Carlini and Wagner 2017, section V-A, f₆ without its cut at 0), or the class to leave minus the largest
    other. Steps go along the gradient's signs (linf) or the gradient divided by its length (l2).

    Args:
        model: the network; its preprocessing is part of the way from the picture to the logits.
        pictures: uint8 [N, channels, h, w], one channel for grey and three for RGB.
        left: the class to leave, for each picture; it counts where no class is wanted.
        wanted: the class to reach, or None for any other than `left`.
        seeds: one for each picture, for its random starts.
        rules: how to search.
        told: told how many of all steps are done.
        head: whose classes are meant; the model's main one if None.

    Returns:
        One for each picture; none influences another.

    Raises:
        AnalysisError: if the logits are not finite.
        MemoryLimitError: if memory does not suffice, even for one picture at a time.
    """
    head = head or model.view.main_head
    if head is None or head.scores is None:
        raise AnalysisError("the model has no scores of classes", where=shorten(model.view.file))
    searched = [
        _Wanted(picture, own, aim, seed, rules.confidence)
        for picture, own, aim, seed in zip(pictures, left, wanted, seeds, strict=True)
    ]
    search = _Search(model, head, searched, rules, told)
    for radius in rules.radii:
        search.enter(radius)
    for _ in range(rules.halvings):
        if not search.narrow():
            break
    search.tell_all()
    return [replace(one.found, empty=one.empty) for one in searched if one.found is not None]


def distance(change: np.ndarray, norm: Norm) -> float:
    """Return the size of a change in whole levels."""
    values = change.astype(np.float64).ravel()
    return float(np.abs(values).max(initial=0.0)) if norm == "linf" else float(np.linalg.norm(values))


@dataclass(eq=False)
class _Wanted:
    """A picture, what it is to be taken for, and what was found for it so far.

    `left` is the class to leave, `wanted` the one to reach, None for any other; `lead` is by how much it has to be
    found, and `empty` the radius of the largest ball that was searched without finding any.
    """

    picture: np.ndarray
    left: int
    wanted: int | None
    seed: int
    lead: float
    found: Attacked | None = None
    empty: float = 0.0

    @property
    def reached(self) -> float:
        """Radius of the smallest ball in which a picture was found; infinite if none was."""
        return math.inf if self.found is None or self.found.radius is None else self.found.radius

    def change(self) -> np.ndarray:
        assert self.found is not None
        change: np.ndarray = self.found.picture.astype(np.int16) - self.picture
        return change

    def is_taken(self, choice: int) -> bool:
        return choice != self.left if self.wanted is None else choice == self.wanted

    def keep(self, now: Attacked) -> None:
        """Take what was found in a smaller ball, or what came closer where nothing was."""
        best = self.found
        if best is None:
            self.found = now
            return
        closer = best.radius is None and float(now.margins.min()) < float(best.margins.min())
        chosen = now if now.radius is not None or closer else best
        self.found = replace(chosen, flat=best.flat or now.flat)


class _Search:
    """Pictures with the smallest balls in which something was found for them."""

    def __init__(self, model: Model, head: Head, pictures: Sequence[_Wanted], rules: Attack, told: Told | None) -> None:
        self.model, self.head, self.pictures, self.rules, self.told = model, head, pictures, rules, told
        self.done = 0
        assert head.scores is not None
        self.layer = head.scores
        self.forward = model.differentiable(self.layer)

    def enter(self, radius: float) -> None:
        """Search in a ball for each picture not yet found, from the picture itself and then from random starts."""
        before, searched = self.done, [one for one in self.pictures if one.reached == math.inf]
        for start in range(1 + self.rules.restarts):
            self._descend({one: radius for one in searched if one.reached > radius}, start)
        self._note_empty(dict.fromkeys(searched, radius))
        self._tell(before + len(self.pictures) * self.rules.steps * (1 + self.rules.restarts))

    def narrow(self) -> bool:
        """Search half-way between the largest empty ball and the found picture, from that picture drawn in.

        Return whether there was anything between: more than a level, or for l2 than a fiftieth of the change.
        """
        before, radii = self.done, {}
        for one in self.pictures:
            if one.reached == math.inf:
                continue
            reached = distance(one.change(), self.rules.norm)
            middle = (one.empty + reached) / 2
            middle = float(math.floor(middle)) if self.rules.norm == "linf" else middle
            least = 1.0 if self.rules.norm == "linf" else max(1.0, _CLOSE * reached)
            if reached - one.empty > least and middle >= 1:
                radii[one] = middle
        first = {one: one.found for one in radii}
        self._descend(radii, None)
        for one, found in first.items():  # how it went from the photograph, not from the picture found before
            if one.found is not None and found is not None:
                one.found = replace(one.found, margins=found.margins, steps=found.steps)
        self._note_empty(radii)
        self._tell(before + len(self.pictures) * self.rules.steps)
        return bool(radii)

    def tell_all(self) -> None:
        """Count the steps that were not needed."""
        self._tell(len(self.pictures) * self.rules.most_steps)

    def _note_empty(self, radii: dict[_Wanted, float]) -> None:
        for one, radius in radii.items():
            if one.reached > radius:
                one.empty = radius

    def _descend(self, radii: dict[_Wanted, float], start: int | None) -> None:
        """Search from one start: the number of a random one, 0 for the picture itself, None for what was found."""
        begun = self.done
        for _ in range(1 + _TIMES):
            if not radii:
                return
            made = self._made(radii, start, begun)
            refused = self._refused({one: now.picture for one, now in made.items() if now.radius is not None})
            for one, now in made.items():
                one.keep(replace(now, radius=None) if one in refused else now)
                if one in refused:
                    one.lead = 2.0 * max(one.lead, -float(now.margins.min()), _NOISE * now.scale)
            radii = {one: radius for one, radius in radii.items() if one in refused}

    def _refused(self, found: dict[_Wanted, np.ndarray]) -> set[_Wanted]:
        """Return those whose pictures ONNX Runtime does not take for what is wanted."""
        if not found:
            return set()
        choices = measured_logits(self.model, np.stack(list(found.values())), self.head).argmax(axis=1).tolist()
        return {one for one, choice in zip(found, choices, strict=True) if not one.is_taken(choice)}

    def _made(self, radii: dict[_Wanted, float], start: int | None, begun: int) -> dict[_Wanted, Attacked]:
        """Run what is searched for through the network, some pictures at a time."""
        searched, model, fixed = list(radii), self.model, self.model.view.batch
        height, width = searched[0].picture.shape[1:]

        def image_bytes() -> int:
            return gradient_bytes(model.view, model.input_size, (height, width), self.layer)

        what = "The search for adversarial pictures"
        usual = min(len(searched), _together(model.device.type, (height, width)))
        together = fixed or choose_batch(model, usual, image_bytes, what)

        def work(first: int, stop: int) -> list[Attacked]:
            # A network that takes exactly so many images gets the last one again and again; the copies are dropped.
            chosen = [searched[min(first + index, len(searched) - 1)] for index in range(fixed or stop - first)]
            done = begun + first * self.rules.steps

            def tell(step: int) -> None:
                self._tell(done + step * (stop - first))

            return self._batch(chosen, [radii[one] for one in chosen], start, tell)[: stop - first]

        batches = run_batches(model, len(searched), together, work, what, fixed=bool(fixed))
        return dict(zip(searched, [found for _, _, made in batches for found in made], strict=True))

    def _batch(
        self, chosen: Sequence[_Wanted], radii: Sequence[float], start: int | None, tell: Callable[[int], None]
    ) -> list[Attacked]:
        device = self.model.device
        pictures = torch.from_numpy(np.stack([one.picture for one in chosen])).to(device, torch.float32)
        ball = _Ball(self.rules.norm, pictures, torch.tensor(radii, device=device))
        change = torch.zeros_like(pictures)
        if start is None:
            change = ball.project(torch.from_numpy(np.stack([one.change() for one in chosen])).to(change))
        elif start > 0:
            change = ball.draw([_generator(one.seed, start) for one in chosen])
        descent = _Descent(self._logits, ball, _Margin(chosen, device), self.rules, change)
        descent.run(tell)
        return self._read(descent, radii)

    def _logits(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return [N, classes] of pictures in levels, with one or three channels."""
        (raw,) = self.forward((pictures / _LEVELS).expand(-1, 3, -1, -1))
        scores = raw.reshape(len(raw), raw.shape[1] if raw.ndim > 1 else 1, -1).mean(dim=2).float()
        if not self.head.is_two_from_one:
            return scores
        return torch.cat([torch.full_like(scores, self.head.threshold), scores], dim=1)

    def _read(self, descent: _Descent, radii: Sequence[float]) -> list[Attacked]:
        pictures = descent.best.to("cpu").numpy().astype(np.uint8)
        lines = descent.margins.cpu().numpy()
        steps, won, flat = descent.taken.tolist(), descent.won.tolist(), descent.flat.tolist()
        scales = descent.scale.tolist()
        margins = [line[: count + 1].copy() for line, count in zip(lines, steps, strict=True)]
        if not all(np.isfinite(line).all() for line in margins):
            raise AnalysisError(
                "the logits of a picture near a photograph are not finite numbers",
                where=shorten(self.layer.name),
                remedy="check the model's preprocessing; a smaller radius may help",
            )
        reached = [radius if found else None for radius, found in zip(radii, won, strict=True)]
        return [Attacked(*found) for found in zip(pictures, reached, steps, margins, flat, scales, strict=True)]

    def _tell(self, done: int) -> None:
        total = len(self.pictures) * self.rules.most_steps
        if done > self.done:
            self.done = min(done, total)
            if self.told is not None:
                self.told(self.done, total)


class _Descent:
    """Projected gradient descent for one batch from one start; waits for the device only now and then."""

    def __init__(
        self,
        logits: Callable[[torch.Tensor], torch.Tensor],
        ball: _Ball,
        margin: _Margin,
        rules: Attack,
        change: torch.Tensor,
    ) -> None:
        self.logits, self.ball, self.margin, self.rules = logits, ball, margin, rules
        count, device = len(ball.pictures), ball.pictures.device
        self.change = change
        self.best = ball.pictures.clone()
        self.least = torch.full((count,), math.inf, device=device)
        self.margins = torch.zeros((count, rules.steps + 1), device=device)
        self.won = torch.zeros(count, dtype=torch.bool, device=device)
        self.taken = torch.zeros(count, dtype=torch.int64, device=device)
        self.flat = torch.zeros(count, dtype=torch.bool, device=device)
        self.scale = torch.zeros(count, device=device)
        self.rate = ball.radius * (2.5 / rules.steps)
        if ball.norm == "linf":
            self.rate = self.rate.clamp_min(_LEAST_STEP)
        if rules.step_size is not None:
            self.rate = torch.full_like(ball.radius, rules.step_size)

    def run(self, tell: Callable[[int], None]) -> None:
        """Do the steps; pictures that are found are not changed any more."""
        for step in range(self.rules.steps + 1):
            last = step == self.rules.steps
            picture = (self.ball.pictures + self.ball.rounded(self.change)).requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                logits = self.logits(picture)
                value = self.margin.of(logits)
            if step == 0:
                self.scale = logits.detach().abs().amax(dim=1)
            self._look(step, picture.detach(), value.detach())
            if last or (step % _LOOK == 0 and self.all_won()):
                break
            (gradient,) = torch.autograd.grad(value.sum(), picture)
            moving = ~self.won
            self.flat |= moving & ~gradient.flatten(1).any(dim=1)
            self.taken += moving
            rate = as_rows(self.rate * moving, gradient)
            self.change = self.ball.project(self.change - rate * self.ball.direction(gradient))
            tell(step + 1)

    def all_won(self) -> bool:
        """Return whether all pictures are found; waits for the device."""
        return bool(self.won.all())

    def _look(self, step: int, picture: torch.Tensor, value: torch.Tensor) -> None:
        """Keep the pictures with the smallest margins; those that are found already stay."""
        self.margins[:, step] = value
        # Compared this way round, a margin that is not a number is kept as well, and reported.
        better = ~self.won & ~(value >= self.least)
        self.best = torch.where(as_rows(better, picture), picture, self.best)
        self.least = torch.where(better, value, self.least)
        self.won = self.won | (value < -self.margin.lead)


class _Margin:
    """How far a picture is from being taken for another class."""

    def __init__(self, chosen: Sequence[_Wanted], device: torch.device) -> None:
        own = [one.left if one.wanted is None else one.wanted for one in chosen]
        self._own = torch.tensor(own, device=device)[:, None]
        self._sign = torch.tensor([1.0 if one.wanted is None else -1.0 for one in chosen], device=device)
        self.lead = torch.tensor([one.lead for one in chosen], device=device)

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """Return [N], the margin of logits [N, classes]: below 0 where the picture is found."""
        own = logits.gather(1, self._own)[:, 0]
        others = logits.scatter(1, self._own, -math.inf).amax(dim=1)
        margins: torch.Tensor = self._sign * (own - others)
        return margins


class _Ball:
    """The pictures near a picture: of whole levels from 0 to 255, and no further than the radius."""

    def __init__(self, norm: Norm, pictures: torch.Tensor, radius: torch.Tensor) -> None:
        self.norm, self.pictures, self.radius = norm, pictures, radius
        self._low, self._high = -pictures, _LEVELS - pictures

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the steepest direction of size 1; zero for a gradient of zero."""
        if self.norm == "linf":
            return gradient.sign()
        return gradient / as_rows(_length(gradient).clamp_min(1e-30), gradient)

    def project(self, change: torch.Tensor) -> torch.Tensor:
        """Return the change brought back into the ball, and the picture into 0 to 255."""
        radius = as_rows(self.radius, change)
        if self.norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            # A little less, or float32 could let the squared length be one more than the radius allows.
            inside = (1 - 1e-6) * self.radius / _length(change).clamp_min(1e-30)
            change = change * as_rows(inside.clamp(max=1.0), change)
        return change.clamp(self._low, self._high)

    def rounded(self, change: torch.Tensor) -> torch.Tensor:
        """Return a change in whole levels that is inside the ball as well.

        The nearest levels may be further away than the change itself. With linf they are kept within the radius rounded
        down. With l2 they are round(s · change) with the largest s for which they are not longer than the change; among
        changes in whole levels that are no longer than these, none has a larger product with the change: n = round(s c)
        maximises 2 s n·c - n·n.
        """
        if self.norm == "linf":
            whole = as_rows(self.radius.floor(), change)
            return self._levels(change).clamp(-whole, whole)
        length, numbers = _length(change), change[0].numel()
        # round(s · change) is at least as long as s · change less half a level in every place.
        low, high = length.new_zeros(len(length)), 1.01 + 0.51 * math.sqrt(numbers) / length.clamp_min(1e-30)
        for _ in range(16):
            middle = (low + high) / 2
            fits = _length(self._levels(change * as_rows(middle, change))) <= length
            low, high = low.where(~fits, middle), high.where(fits, middle)
        return self._levels(change * as_rows(low, change))

    def draw(self, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Return random changes in the ball, evenly spread over it, each from its own generator on the CPU."""
        shape = self.pictures.shape[1:]
        if self.norm == "linf":
            drawn = [torch.rand(shape, generator=generator) * 2.0 - 1.0 for generator in generators]
        else:
            drawn = []
            for generator in generators:
                way = torch.randn(shape, generator=generator)
                share = torch.rand((), generator=generator) ** (1.0 / way.numel())
                drawn.append(way * (share / way.norm()))
        change = torch.stack(drawn).to(self.pictures.device)
        return self.project(change * as_rows(self.radius, change))

    def _levels(self, change: torch.Tensor) -> torch.Tensor:
        return change.round().clamp(self._low, self._high)


def as_images(levels: np.ndarray) -> np.ndarray:
    """Return pictures, uint8 [N, 1 or 3, h, w], as the network is given them: float32 [N, 3, h, w] in 0..1."""
    return np.broadcast_to(levels.astype(np.float32) / np.float32(_LEVELS), (len(levels), 3, *levels.shape[2:]))


def measured_logits(model: Model, levels: np.ndarray, head: Head) -> np.ndarray:
    """Return the logits [N, classes] of pictures, uint8 [N, 1 or 3, h, w], by ONNX Runtime.

    One score that stands for two classes is the second's; the first's is the threshold between them.
    """
    scores = model.scores(as_images(filled(levels, model.view.batch)), head)[: len(levels)]
    return np.concatenate([np.full_like(scores, head.threshold), scores], axis=1) if head.is_two_from_one else scores


def _length(change: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return lengths


def _together(device: str, size: Sequence[int]) -> int:
    """Return how many pictures share a pass: on a CPU several of small ones only, whose passes are mostly overhead."""
    return 32 if device != "cpu" else max(1, min(16, 16 * 1024 // (size[0] * size[1])))


def _generator(seed: int, start: int) -> torch.Generator:
    """Return the draws of one start of one picture, the same whatever else is searched for."""
    mixed = np.random.SeedSequence([seed & 0xFFFFFFFFFFFFFFFF, start]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed) & 0x7FFFFFFFFFFFFFFF)
