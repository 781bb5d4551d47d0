"""Made pictures: what is stored of each, and what limits what it says of its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses import presentation
from onnxviz.analyses.activation_maximization.measurements import RealActivations, SimpleActivations
from onnxviz.core.findings import Array, Picture
from onnxviz.core.shares import percent
from onnxviz.core.values import Unit
from onnxviz.data.domains import Domain, domain_of
from onnxviz.data.images import load_batch
from onnxviz.graph.value_range import range_of
from onnxviz.optimize.color import to_pixels

if TYPE_CHECKING:
    from onnxviz.analyses.activation_maximization.goals import Goal
    from onnxviz.analyses.base import Subject
    from onnxviz.data.images import ImageSource
    from onnxviz.optimize.ascent import Maximized

_BEATEN = 0.01
"""By what share of its activation a picture has to be exceeded to be called beaten: a sigmoid ends a bit before 1."""
_AT = 0.99
"""Share of the way from 0 to a bound at which a unit is there."""
_SILENT = 0.01
"""A unit that no real image brings to this share of what its picture reaches is almost silent on them."""
_CHECKER = (0.92, 0.78)
"""The two greys behind transparent pictures."""

Images = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """A real image that excites a unit: its name, the unit's activation, and the image as it is shown."""

    name: str
    activation: float
    picture: Picture


@dataclass(frozen=True)
class Standing:
    """Where an activation stands among those on real images.

    Attributes:
        quantile: the share of real images that it exceeds in the direction asked for; equal ones count half.
        times: how many times the most extreme real one it is; None where that is 0 or has another sign.
        words: the same in words: "above all 206 images, 3.4 × the largest".
        brief: in fewer words: "above all 206, 3.4 ×".
    """

    quantile: float
    times: float | None
    words: str
    brief: str


@dataclass(frozen=True)
class Limits:
    """What limits a picture.

    Attributes:
        simple: activation of the simple picture that excites the unit most; None where none was measured.
        which: that picture.
        times: its activation divided by that of the made one; None where the quotient says nothing.
        beaten: whether it beats the made one; None where none was measured.
        begun: what the picture was begun with, where that was not noise or what the recipe says.
        state: where the unit is: at a bound, silent, dead; "" if there is nothing to say.
        dead: whether nothing that was tried changes the unit.
    """

    simple: float | None = None
    which: str = ""
    times: float | None = None
    beaten: bool | None = None
    begun: str = ""
    state: str = ""
    dead: bool = False


@dataclass(frozen=True)
class MadePicture:
    """One picture with its numbers, most of which `findings.COLUMNS` describe.

    Attributes:
        sign: 1 where the activation was driven up, -1 where down.
        member: (its number from 1, how many) in its group, or None if it was made alone.
        probability: the model's probability for its class; None where it has none.
        recognised: whether that class is the model's first choice; None where it makes none.
        activation: of the final image as it was measured on real images; None if it was not.
        curve: the activation at some of the steps.
        examples: real images that excite the unit most, or least where it was driven down.
    """

    title: str
    unit: Unit | None
    sign: int
    seed: int
    member: tuple[int, int] | None
    before: float
    after: float
    start_gain: float
    steps: int
    probability: float | None
    recognised: bool | None
    activation: float | None
    standing: Standing | None
    limits: Limits
    curve: tuple[float, ...]
    picture: Picture = field(default_factory=Picture)
    examples: tuple[Example, ...] = ()

    @property
    def numbered(self) -> str:
        """Its number in its group, if there are several."""
        return f"{self.member[0]} of {self.member[1]}" if self.member else ""

    @property
    def name(self) -> str:
        """Target, direction, seed and number."""
        number = f", picture {self.numbered}" if self.member else ""
        return f"{self.title}, {'' if self.sign > 0 else 'negative, '}seed {self.seed}{number}"

    @property
    def direction(self) -> str:
        """Where the activation was driven."""
        return "up" if self.sign > 0 else "down"

    @property
    def rise(self) -> float:
        """Difference in the direction asked for."""
        return self.sign * (self.after - self.before)

    @property
    def rose(self) -> bool:
        """Whether the activation moved in the direction asked for."""
        return self.rise > 0

    @property
    def weak(self) -> bool:
        """Whether most real images excite the unit more."""
        return self.standing is not None and self.standing.quantile < 0.5

    def drawn(self, pixels: Pixels) -> MadePicture:
        """Return it with its picture, uint8 [h, w, 3]; of a dead unit there is none."""
        place = "" if self.standing is None else f"; {self.standing.words}"
        alt = f"optimized picture: {self.name}{place}"
        if self.limits.dead:
            pixels, alt = np.full_like(pixels, 128), f"no picture of {self.title}, which is dead"
        return replace(self, picture=presentation.picture(pixels, alt))


def opaque(images: Images, domain: Domain, background: float | npt.NDArray[np.float64] = 0.5) -> Images:
    """Put images with opacity, one channel more than `domain` has, on a grey; others are returned as they are."""
    own, opacity = images[:, : domain.channels], images[:, domain.channels :]
    if not opacity.shape[1]:
        return images
    return np.asarray(own * opacity + background * (1.0 - opacity), np.float32)


def shown_pixels(images: Images, domain: Domain) -> Pixels:
    """Return images as they are shown, uint8 [N, h, w, 3]; transparent ones before a chequerboard."""
    if images.shape[1] == domain.channels:
        return to_pixels(images if domain.photographic else domain.show(images))
    height, width = images.shape[2:]
    square = max(2, min(height, width) // 16)
    odd = (np.arange(height)[:, None] // square + np.arange(width)[None] // square) % 2
    behind = np.where(odd == 1, *_CHECKER)
    return to_pixels(opaque(images, domain, behind))


def examples_of(
    goal: Goal, real: RealActivations, source: ImageSource, subject: Subject, count: int
) -> tuple[Example, ...]:
    """Return the real images that excite a unit most, or least where it is driven down."""
    found = []
    for index, value in real.best(count, goal.sign):
        image = load_batch(source, [index], subject.preprocessing, real.size)
        pixels = to_pixels(domain_of(subject.preprocessing).show(image))[0]
        name = source.names[index]
        found.append(Example(name, value, presentation.picture(pixels, f"real image {name}")))
    return tuple(found)


def numbers_of(name: str, made: Maximized, results: Sequence[MadePicture]) -> Array:
    """Return a job's pictures and figures as numbers, for other programs."""
    units = [result.unit for result in results]
    arrays = {
        "images": made.images,
        "curves": made.curves,
        "before": made.before,
        "after": made.after,
        "start_gain": made.start_gain,
        "taken": made.taken,
        "unit": np.asarray([-1 if unit is None else unit.index for unit in units], dtype=np.int64),
        "sign": np.asarray([result.sign for result in results], dtype=np.int64),
        "seed": np.asarray([result.seed for result in results], dtype=np.int64),
    }
    if made.importance.size:
        arrays["importance"] = made.importance
    return Array(f"images.{name}", f"Pictures of {name} as floats", arrays)


def standing(value: float, real: Images, sign: int) -> Standing:
    """Say where an activation stands among those on real images; a sign of 1 means more is wanted, -1 less."""
    wanted, others = sign * value, sign * real.astype(np.float64)
    below, same = float((others < wanted).mean()), float((others == wanted).mean())
    most, count = float(others.max()), len(others)
    side, extreme = ("above", "largest") if sign > 0 else ("below", "lowest")
    times = wanted / most if most > 0 and wanted > 0 else None
    if wanted > most:
        far = times is not None and times >= 1
        words = f"{side} all {count:,} images" + (f", {times:.3g} × the {extreme}" if far else "")
        return Standing(1.0, times, words, f"{side} all {count:,}" + (f", {times:.3g} ×" if far else ""))
    tie = f", as {'large as the largest' if sign > 0 else 'low as the lowest'}" if wanted == most else ""
    share = f"{math.floor(100 * below)} %" if below else "none"
    return Standing(below + same / 2, times, f"{side} {share} of {count:,} images{tie}", f"{side} {share} of {count:,}")


def exceeds(value: float, after: float, sign: int) -> bool:
    """Return whether an activation beats that of a made picture, in the direction asked for, by more than a trifle."""
    return sign * (value - after) > _BEATEN * abs(after)


def limits_of(
    goal: Goal,
    before: float,
    after: float,
    tried: SimpleActivations | None,
    real: RealActivations | None,
    begun: str,
    subject: Subject,
) -> Limits:
    """Return what limits a picture, from its activations and those on other images, where they were measured."""
    state = _bound(goal, after, subject) or _silence(after, real, goal.sign)
    if tried is None:
        return Limits(begun=begun, state=state)
    everything = np.concatenate([tried.values, [before, after], [] if real is None else real.values])
    if _constant(everything):
        also = "" if real is None else f" and {len(real.values):,} real images"
        state = (
            f"dead: its activation is {after:.3g} on everything that was tried, the start, the picture, "
            f"{len(tried.values)} plain colours and gratings{also}"
        )
        return Limits(float(after), beaten=False, begun=begun, state=state, dead=True)
    simple, value = tried.best(goal.sign)
    times = value / after if after * value > 0 and goal.sign * after > 0 else None
    return Limits(value, simple.words, times, exceeds(value, after, goal.sign), begun, state)


def _bound(goal: Goal, after: float, subject: Subject) -> str:
    """Say if a unit is where its operator holds it."""
    if goal.target is None or goal.target.unit is None:
        return ""
    bounds = range_of(subject.view.layer(goal.target.layer).value, subject.view.proto.graph)
    low, high = bounds.low, bounds.high
    seen = "cannot be seen; the picture is one of many"
    if goal.sign > 0 and math.isfinite(high) and after >= high - (1 - _AT) * abs(high):
        return f"at the unit's ceiling of {high:g}: more {seen}"
    if goal.sign < 0 and math.isfinite(low) and after <= low + (1 - _AT) * abs(low):
        return f"at the unit's floor of {low:g}: less {seen}"
    return ""


def _silence(after: float, real: RealActivations | None, sign: int) -> str:
    """Say if a unit does next to nothing on real images."""
    if real is None or not len(real.values):
        return ""
    count, most = len(real.values), float((sign * real.values).max())
    if _constant(real.values) and count > 1:
        value = float(real.values[0])
        alike = f"the same on all {count:,} real images: {value:.3g}"
        return alike if value else f"silent on real images: 0 on all {count:,}"
    if sign > 0 and float(real.values.min()) >= 0 and most < _SILENT * after:
        return f"almost silent on real images: at most {percent(most / after, 2)} of this on any of {count:,}"
    return ""


def _constant(values: npt.NDArray[np.floating]) -> bool:
    """Return whether values are one, but for rounding."""
    spread = float(values.max()) - float(values.min())
    return spread <= 1e-6 * max(1e-6, float(np.abs(values).max()))
