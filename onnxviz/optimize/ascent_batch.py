"""Gradient ascent of one batch of images: the loop itself. No step waits for the device.

Every few steps the host waits for it: for an answer, where images may stop early, and to stay near it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.capture import captured, paced
from onnxviz.optimize.feature_statistics import layers_read, restraint
from onnxviz.optimize.objectives import Measure, Objective, ObjectiveContext, Seen, bind
from onnxviz.optimize.optimizers import as_rows
from onnxviz.optimize.parameterizations import Canvas, Painter
from onnxviz.optimize.parameterizations.alpha import composite
from onnxviz.optimize.regularizers import FeatureStatistics
from onnxviz.optimize.settings import AscentSettings
from onnxviz.optimize.stopping import Watch
from onnxviz.optimize.transforms import Views, margins

if TYPE_CHECKING:
    from onnxviz.model.model import Forward, Model


_ASKED_EVERY = 16
"""Steps after which the host waits: for where the device was so many steps before, and whether all images stopped."""


@dataclass(frozen=True, eq=False)
class AscentBatch:
    """What a batch is made from.

    Attributes:
        objectives: one for each image, all of the same layers.
        signs: [N], 1 to maximise and -1 to minimise.
        draws: one generator for each image, on the CPU.
        starts: RGB [N, 3, h, w] to start from, of any one size; noise or grey if None.
        references: what is known of given pictures at one size, asked for with that size.
    """

    model: Model
    objectives: Sequence[Objective]
    signs: torch.Tensor
    draws: Sequence[torch.Generator]
    settings: AscentSettings
    starts: torch.Tensor | None
    references: Callable[[tuple[int, int]], Mapping[tuple[str, str | None], torch.Tensor]]


Values = TypeVar("Values")


@dataclass(frozen=True, eq=False)
class AscentResult(Generic[Values]):
    """What came out of a batch of N images, on the device or the host.

    Attributes:
        images: float32 [N, 3, h, w], RGB in 0..1; [N, 4, h, w] with opacity where the parameterization has it.
        curves: float32 [N, steps], the objective's value in each step's view, before that step.
        before: float32 [N], the value of the start image, seen as it is.
        after: float32 [N], the value of the final image, seen as it is.
        start_gain: float32 [N], what a start that left its unit silent was multiplied by; 1 where it was not needed or
            did not help. `before` is the value of the start that was not yet multiplied.
        taken: int64 [N], steps that the image took before it was stopped.
        importance: float32 [N, h, w], how much the objective cared about each pixel: Σ over the steps (of the last
            octave) of the mean over colours of |∂ activation / ∂ pixel|; [N, 0, 0] unless `Settings.importance`.
    """

    images: Values
    curves: Values
    before: Values
    after: Values
    start_gain: Values
    taken: Values
    importance: Values


def optimize_batch(batch: AscentBatch, tell: Callable[[int], None]) -> AscentResult[torch.Tensor]:
    """Optimize one batch, from its smallest size to its own; `tell` is told how many steps are done."""
    settings = batch.settings
    done, canvas, parts = 0, None, []
    for size, steps in octaves(settings):
        now = replace(batch, settings=replace(settings, size=size, steps=steps))
        offset = done
        made, canvas = _optimize_at(now, canvas, lambda step, offset=offset: tell(offset + step))  # type: ignore[misc]
        parts.append(made)
        done += steps
    first, last = parts[0], parts[-1]
    return AscentResult(
        last.images,
        torch.cat([part.curves for part in parts], dim=1),
        first.before,
        last.after,
        first.start_gain,
        torch.stack([part.taken for part in parts]).sum(dim=0),
        last.importance,
    )


def octaves(settings: AscentSettings) -> list[tuple[tuple[int, int], int]]:
    """Return the sizes from small to large, each with its share of the steps."""
    chosen = settings.octaves
    count = min(chosen.count, settings.steps) if chosen else 1
    scale = chosen.scale if chosen else 1.0
    height, width = settings.size
    found = []
    for index in range(count):
        factor = scale ** (count - 1 - index)
        steps = settings.steps * (index + 1) // count - settings.steps * index // count
        found.append(((max(1, round(height / factor)), max(1, round(width / factor))), steps))
    return found


def _optimize_at(
    batch: AscentBatch, smaller: torch.Tensor | None, tell: Callable[[int], None]
) -> tuple[AscentResult[torch.Tensor], torch.Tensor]:
    """Optimize at one size; also returns the whole canvas, for the next."""
    ascent, from_picture = begun(batch, smaller)
    views = ascent.views
    with torch.no_grad():
        before = ascent.as_it_is()
        start_gain = torch.ones_like(before) if from_picture else ascent.wake(before)
    taken = ascent.run(tell)
    with torch.no_grad():
        final = ascent.painter.paint(ascent.parameters).clamp(0.0, 1.0)
        after = ascent.as_it_is()
    importance = views.cut(ascent.importance[:, None])[:, 0] if batch.settings.importance else ascent.importance
    return AscentResult(views.cut(final), ascent.curves, before, after, start_gain, taken, importance), final


def begun(batch: AscentBatch, smaller: torch.Tensor | None) -> tuple[_Ascent, bool]:
    """Return the loop at one size before its first step, and whether it starts from pictures.

    `smaller` is the whole canvas of the size before, if there was one.
    """
    settings, model = batch.settings, batch.model
    transforms = settings.transforms
    if not settings.parameterization.may_have_margin:
        transforms = tuple(transform for transform in transforms if transform.kind != "pad")
    margin = margins(transforms, settings.size)
    canvas_size = (settings.size[0] + 2 * margin[0], settings.size[1] + 2 * margin[1])
    painter = settings.parameterization.painter(_canvas(settings, canvas_size, model.device))
    pictures = _first(batch, margin, canvas_size) if smaller is None else _resized(smaller, canvas_size)
    parameters = painter.start(batch.draws, pictures)
    views = Views(transforms, settings.size, settings.steps, batch.draws, model.device, settings.fill)
    return _Ascent(batch, views, painter, parameters), pictures is not None


class _Network:
    """The network as the loop sees it: views in, the objectives' values out.

    `usual` has the usual gradients, `redirected` those that wake silent units. `silent` says of each image whether its
    unit may be silent; it is changed in place, as a captured step reads it.
    """

    def __init__(self, batch: AscentBatch) -> None:
        model, settings, layers = batch.model, batch.settings, batch.objectives[0].layers()
        self._batch = batch
        self._restraint = restraint(model, layers, settings.regularizers, settings.size)
        self._layers = layers_read(model.view, layers, settings.regularizers)
        self._bfloat = settings.precision == "bfloat16"
        self.usual = model.differentiable(self._layers)
        self.silent = torch.ones(len(batch.objectives), dtype=torch.bool, device=model.device)
        self.redirected = self._redirected() if settings.redirect else self.usual
        self._measure: Measure | None = None

    def __call__(self, views: torch.Tensor, forward: Forward | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return [N], the objectives of views RGB [N, 3, h, w]; and [N], what their features hold back, if anything."""
        forward = forward or self.usual
        with torch.autocast(views.device.type, torch.bfloat16) if self._bfloat else contextlib.nullcontext():
            found = dict(zip(self._layers, forward(views), strict=True))
        if self._measure is None:  # the first pass tells the shapes
            self._measure = self._bind({layer: tuple(values.shape[1:]) for layer, values in found.items()})
        return self._measure(Seen(views, found)), self._restraint(found) if self._restraint else None

    def _redirected(self) -> Forward:
        from onnxviz.convert.redirected_gradients import redirected  # loads torch

        forward = redirected(self.usual)
        return lambda views: forward(views, self.silent)

    def _bind(self, shapes: dict[str, tuple[int, ...]]) -> Measure:
        model, settings = self._batch.model, self._batch.settings
        layers = {layer: model.view.layer(layer) for layer in self._layers}
        references = self._batch.references(settings.size)
        return bind(self._batch.objectives, ObjectiveContext(model.device, settings.group, shapes, layers, references))


class _Ascent:
    """The state of the loop at one size: parameters, curves, the step; all are changed in place."""

    def __init__(self, batch: AscentBatch, views: Views, painter: Painter, parameters: torch.Tensor) -> None:
        self.settings, self.views, self.painter, self.network = batch.settings, views, painter, _Network(batch)
        settings = batch.settings
        self.parameters = parameters.contiguous()
        self.signs = batch.signs
        count, device = len(batch.objectives), parameters.device
        self.curves = torch.zeros((count, settings.steps), device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        canvas = [length + 2 * margin for length, margin in zip(settings.size, views.margin, strict=True)]
        self.importance = torch.zeros((count, *(canvas if settings.importance else (0, 0))), device=device)
        self.watch = Watch(settings.stopping, count, settings.steps, device) if settings.stopping else None
        self.moving: torch.Tensor | None = None  # [rows], those that the last step changed; all if None
        self.rows = count // len(self.parameters)  # images that share a row of parameters
        self.backgrounds = getattr(painter, "backgrounds", None)

    def as_it_is(self) -> torch.Tensor:
        """Return [N], the objectives of the pictures themselves, colours clipped as they are shown."""
        return self.network(self._opaque(self.views.cut(self.painter.paint(self.parameters)).clamp(0.0, 1.0)))[0]

    def wake(self, before: torch.Tensor) -> torch.Tensor:
        """Multiply starts that leave their unit silent by 4, up to four times; return [N], by how much.

        Behind a ReLU a unit that is exactly 0 has no gradient to follow, unless redirected gradients reach the image.
        A start that stays silent is left as it was.
        """
        factors, start = torch.ones_like(before), self.parameters
        silent = (before == 0) & (self.signs > 0)
        if self.rows > 1 or not bool(silent.any()):
            return factors
        if self.settings.redirect:
            silent = silent & ~self._reaches_the_image()
        for _ in range(4):
            if not bool(silent.any()):
                break
            factors = torch.where(silent, 4.0 * factors, factors)
            self.parameters = start * as_rows(factors, start)
            silent = silent & (self.as_it_is() == 0)
        factors = torch.where(silent, torch.ones_like(factors), factors)
        self.parameters = start * as_rows(factors, start)
        return factors

    def _reaches_the_image(self) -> torch.Tensor:
        """Return [N], whether redirected gradients tell how to change the start."""
        with torch.enable_grad():
            leaf = self.parameters.detach().requires_grad_(True)
            picture = self._opaque(self.views.cut(self.painter.paint(leaf)))
            value, _ = self.network(picture, self.network.redirected)
            (gradient,) = torch.autograd.grad(-value.sum(), leaf)
        return gradient.flatten(1).any(dim=1)

    def run(self, tell: Callable[[int], None]) -> torch.Tensor:
        """Do the steps; return [N], how many each image took."""
        steps, redirect = self.settings.steps, self.settings.redirect
        optimizer = self.settings.optimizer
        self.rule = optimizer.rule(steps, self.parameters)
        self.averaging = optimizer.averaging(steps, self.parameters)
        first, count = (self.network.redirected, min(redirect, steps)) if redirect else (self.network.usual, steps)
        advance, done = self._stepper(first, count), 0
        wait = paced(self.parameters.device)
        redirecting = redirect > 0
        while done < steps:
            if redirecting and done and done % redirect == 0:
                redirecting = self._is_silent(done - redirect, done)
                if not redirecting or done == redirect:  # from there on it may be many steps, worth a graph
                    forward = self.network.redirected if redirecting else self.network.usual
                    advance = self._stepper(forward, steps - done)
            advance()
            done += 1
            self._edit(done)
            if done % _ASKED_EVERY == 0:
                wait()
            tell(done)
            if self.watch is not None and done % _ASKED_EVERY == 0 and self.watch.all_done():
                break
        if self.averaging is not None:
            self.parameters = self.painter.keep(self.averaging.mean)
        wait()
        wait()  # for all that was begun: a graph is not given up while it runs
        if self.watch is not None:
            tell(steps)
            taken = self.watch.taken
            # What was not done is shown as it was at the end, not as 0.
            last = self.curves.gather(1, (taken - 1).clamp_(min=0)[:, None])
            later = torch.arange(steps, device=taken.device) >= taken[:, None]
            self.curves = torch.where(later, last, self.curves)
            return taken
        return torch.full((len(self.signs),), done, device=self.parameters.device)

    def _is_silent(self, first: int, end: int) -> bool:
        """Return whether there are units that were exactly 0 in all these steps; only they are redirected from now on.

        It is the only look at numbers of the device, at most once in `redirect` steps and while there are such units.
        """
        self.network.silent &= (self.curves[:, first:end] == 0).all(dim=1) & (self.signs > 0)
        return bool(self.network.silent.any())

    def _stepper(self, forward: Forward, count: int) -> Callable[[], None]:
        """Return what does one step; on a GPU a graph of it, where a step is the same kernels every time.

        What edits do is left out: they differ from step to step, and read the gradient that the graph has refreshed.
        """

        def advance() -> None:
            self._advance(forward)

        device = self.parameters.device
        return captured(advance, count, device) if device.type == "cuda" else advance

    def _advance(self, forward: Forward) -> None:
        leaf = self.parameters.detach().requires_grad_(True)
        images = self.painter.paint(leaf)
        # What holds images back is not computed from these: their slopes are the objective's alone.
        seen = self._opaque(images).view_as(images[:, : self.settings.samples])
        value, unusual = self.network(self.views.look(seen, self.step), forward)
        loss = -(self.signs * value)
        held = self._held_back(images, leaf, unusual)
        if held is not None:
            loss = loss + value.detach().abs() * held
        self.gradient, *slopes = torch.autograd.grad(loss.sum(), (leaf, seen) if self.settings.importance else (leaf,))
        with torch.no_grad():
            if slopes:
                self.importance.add_(slopes[0].abs().mean(dim=1))
            change = self.rule(self.gradient, self.parameters, self.step)
            if self.watch is not None:
                moving = self.watch.still(value.detach() * self.signs, self.step)
                self.moving = moving.view(-1, self.rows).any(dim=1) if self.rows > 1 else moving
                change = change * as_rows(self.moving, change)
            self.parameters.sub_(change, alpha=self.painter.rate)
            kept = self.painter.keep(self.parameters)
            if kept is not self.parameters:
                self.parameters.copy_(kept)
            self.curves.index_copy_(1, self.step.view(1), value.detach().view(-1, 1))
            self.step += 1
            if not self.settings.edits:
                self._average()

    def _average(self) -> None:
        """Take the parameters after a step into their mean, if there is one; edits belong to the step."""
        if self.averaging is not None:
            self.averaging.follow(self.parameters, self.step - 1, self.moving)

    def _held_back(
        self, images: torch.Tensor, parameters: torch.Tensor, unusual: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return [N], the weighted terms that hold images back, those of their features given; None if none do."""
        terms = [] if unusual is None else [unusual]
        of_picture = [entry for entry in self.settings.regularizers if not isinstance(entry, FeatureStatistics)]
        if of_picture:
            picture = self.views.cut(images)[:, : self.settings.samples]
            terms += [regularizer.weight * regularizer.term(picture) for regularizer in of_picture]
        penalty = self.painter.penalty(parameters)
        if penalty is not None:
            terms.append(penalty)
        return sum(terms[1:], terms[0]) if terms else None

    def _opaque(self, images: torch.Tensor) -> torch.Tensor:
        """Put images with opacity on the backgrounds of this step."""
        if self.backgrounds is None:
            return images
        backgrounds = self.backgrounds(self.step)
        if backgrounds.shape[-2:] != images.shape[-2:]:
            backgrounds = self.views.cut(backgrounds)
        return composite(images, backgrounds)

    def _edit(self, done: int) -> None:
        if self.settings.edits:
            with torch.no_grad():
                for edit in self.settings.edits:
                    self.parameters.copy_(edit.apply(self.parameters, -self.gradient, done))
                self._average()


def _canvas(settings: AscentSettings, size: tuple[int, int], device: torch.device) -> Canvas:
    colors = None if settings.colors is None else torch.from_numpy(settings.colors).float().to(device)
    magnitude = None if settings.magnitude is None else torch.from_numpy(settings.magnitude).float().to(device)
    return Canvas(
        settings.channels, size, settings.group, device, colors, magnitude, settings.generators, settings.samples
    )


def _first(batch: AscentBatch, margin: tuple[int, int], size: tuple[int, int]) -> torch.Tensor | None:
    """Return what the first octave starts from: given pictures with a margin that mirrors them, grey, or None."""
    settings = batch.settings
    if batch.starts is not None:
        pictures = _resized(batch.starts, settings.size)
        top, left = margin
        kind = "reflect" if top < settings.size[0] and left < settings.size[1] else "replicate"
        return torch.nn.functional.pad(pictures, (left, left, top, top), kind)
    if settings.begin == "grey":
        return torch.full((len(batch.objectives), settings.samples, *size), 0.5, device=batch.model.device)
    return None


def _resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return torch.nn.functional.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
