"""Plain colours and gratings: what a made picture has to excite its unit more than.

They are measured as the made pictures are: by the converted network, at the pictures' size, without random views. One
pass of a picture gives all units of a layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxviz.analyses import storage
from onnxviz.analyses.activation_maximization.goals import Goal, picture_of
from onnxviz.analyses.activation_maximization.real_activations import BATCH, Measurer, key_of_goal, measurable, together
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.core.findings import Array, Finding
from onnxviz.data.domains import domain_of

Values = npt.NDArray[np.float32]
Color = tuple[float, ...]

SIMPLE = "simple pictures"
"""What the jobs that measure them are called."""
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_PERIODS = (2.0 * math.sqrt(2.0), 4.0, 5.6, 8.0, 16.0)
"""Pixels; from the finest that a sine can have in every direction."""
_ANGLES = 8
_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_OPPOSITE: tuple[tuple[Color, Color], ...] = (
    (_BLACK, _WHITE),
    ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),
    ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0)),
    ((0.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
)
_NAMES: Mapping[Color, str] = {
    _BLACK: "black", _WHITE: "white", (0.5, 0.5, 0.5): "grey",
    (1.0, 0.0, 0.0): "red", (0.0, 1.0, 0.0): "green", (0.0, 0.0, 1.0): "blue",
    (1.0, 1.0, 0.0): "yellow", (1.0, 0.0, 1.0): "magenta", (0.0, 1.0, 1.0): "cyan",
}  # fmt: skip


@dataclass(frozen=True)
class SimplePicture:
    """A plain colour, or a sine between two colours.

    Attributes:
        color: RGB in 0..1, or a number for each channel as stored; of a grating's darkest or first line.
        other: of a grating's other line; None for a plain colour.
        angle: degrees by which a grating's lines are turned from upright, counterclockwise as it is seen.
        period: pixels from line to line.
        photographic: whether the channels are red, green and blue.
    """

    color: Color
    other: Color | None = None
    angle: float = 0.0
    period: float = 0.0
    photographic: bool = True

    @property
    def words(self) -> str:
        """What it is: "plain yellow", "black and white lines, 45° from upright, every 8 pixels"."""
        name = _name if self.photographic else _name_of_channels
        if self.other is None:
            return f"plain {name(self.color)}"
        turned = f"{self.angle:g}° from upright" if self.angle else "upright"
        return f"{name(self.color)} and {name(self.other)} lines, {turned}, every {self.period:.2g} pixels"

    def paint(self, size: tuple[int, int]) -> Values:
        """Return [channels, height, width] in 0..1; a grating's sine passes the picture's centre at its middle."""
        first = np.asarray(self.color, np.float32)[:, None, None]
        if self.other is None:
            return np.broadcast_to(first, (len(first), *size)).copy()
        down, right = (np.arange(length) - (length - 1) / 2 for length in size)
        along = math.cos(math.radians(self.angle)) * right[None] - math.sin(math.radians(self.angle)) * down[:, None]
        share = ((1 + np.sin(2 * np.pi * along / self.period)) / 2).astype(np.float32)
        return np.asarray(first * (1 - share) + np.asarray(self.other, np.float32)[:, None, None] * share, np.float32)


def _name(color: Color) -> str:
    return _NAMES.get(color) or "#" + "".join(f"{round(255 * level):02x}" for level in color)


def _name_of_channels(color: Color) -> str:
    """Name what all channels are, or the one that differs from all others."""
    for channel, level in enumerate(color):
        others = set(color[:channel] + color[channel + 1 :])
        if len(others) == 1 and level not in others and len(color) > 2:
            return f"channel {channel} at {level:g} and the others at {others.pop():g}"
    return "all channels at " + "/".join(f"{level:g}" for level in dict.fromkeys(color))


@cache
def simple_pictures(channels: int, photographic: bool = True) -> tuple[SimplePicture, ...]:
    """Return the pictures that are tried.

    Args:
        channels: how many the model sees: colours (3) or brightness (1) of photographs, or any number as stored.
        photographic: whether it sees photographs.
    """
    colors: list[Color] = [(v,) * (3 if photographic else channels) for v in _LEVELS]
    if photographic and channels == 3:
        colors = list(itertools.product(_LEVELS, _LEVELS, _LEVELS))
    elif channels > 1:
        own = [tuple(float(channel == which) for channel in range(channels)) for which in range(channels)]
        colors += [*own, *(tuple(1.0 - level for level in color) for color in own)]
    pairs = _OPPOSITE if photographic and channels == 3 else ((colors[0], colors[len(_LEVELS) - 1]),)
    turned = [180.0 * step / _ANGLES for step in range(_ANGLES)]
    gratings = itertools.product(turned, _PERIODS, pairs)
    return (
        *(SimplePicture(color, photographic=photographic) for color in colors),
        *(SimplePicture(first, other, angle, period, photographic) for angle, period, (first, other) in gratings),
    )


# --- jobs -----------------------------------------------------------------------------------------------------------


def simple_jobs(found: Sequence[Goal], size: tuple[int, int], subject: Subject) -> Iterator[tuple[Job, list[str]]]:
    """Yield the jobs that measure simple pictures, each with the keys of the goals that it measures.

    Args:
        found: what pictures are made for.
        size: height and width of the made pictures in pixels.
        subject: the model and its data.
    """
    view = subject.view
    own = subject.input_size
    count = len(_tried(subject))
    groups = together([goal for goal in found if measurable(goal)], lambda _: size, subject)
    for number, (_, group) in enumerate(groups):
        layers = tuple(dict.fromkeys(layer for goal in group for layer in goal.wanted.layers()))
        share = view.share_of_work([view.layer(layer) for layer in layers], own)
        sources = (picture_of(name, subject.data)[0] for goal in group for name in goal.pictures)
        job = Job(
            name=f"{SIMPLE} {number + 1}/{len(groups)}",
            parameters={"stage": SIMPLE, "size": list(size), "goals": [goal.to_data() for goal in group]},
            layers=layers,
            data=tuple(dict.fromkeys(sources)),
            cost=count * share * size[0] * size[1] / (own[0] * own[1]),
            images=count,
            intermediate=True,
            bytes=storage.RECORD + storage.dense(count * len(group)),
        )
        yield job, [key_of_goal(goal) for goal in group]


def measure_simple(job: Job, context: JobContext) -> list[Finding]:
    """Measure the goals of a job on the simple pictures."""
    found = [Goal.of(entry) for entry in job.parameters["goals"]]
    size = (int(job.parameters["size"][0]), int(job.parameters["size"][1]))
    measure = Measurer(context, found, size, converted=True)
    tried = _tried(context.subject)
    own = context.subject.input_size
    batch = max(1, min(BATCH, BATCH * own[0] * own[1] // (size[0] * size[1])))  # large pictures take more memory
    parts = []
    for start in range(0, len(tried), batch):
        parts.append(measure(np.stack([simple.paint(size) for simple in tried[start : start + batch]])))
        context.progress(min(start + batch, len(tried)), len(tried), SIMPLE)
    return [Array("simple", "Activations on plain colours and gratings", {"values": np.concatenate(parts)})]


def _tried(subject: Subject) -> tuple[SimplePicture, ...]:
    domain = domain_of(subject.preprocessing)
    return simple_pictures(domain.planes, domain.photographic)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SimpleActivations:
    """One goal's activations on the simple pictures.

    Attributes:
        values: float32 [pictures].
        tried: the pictures.
    """

    values: Values
    tried: tuple[SimplePicture, ...]

    def is_of_color(self, sign: int) -> bool:
        """Return whether a plain colour excites the unit more than every grating does, or less for a sign of -1."""
        plain = np.array([simple.other is None for simple in self.tried])
        wanted = sign * self.values
        return bool(wanted[plain].max() > wanted[~plain].max())

    def best(self, sign: int) -> tuple[SimplePicture, float]:
        """Return the picture of highest activation, or lowest for a sign of -1, and the activation."""
        place = int(np.argmax(sign * self.values))
        return self.tried[place], float(self.values[place])


def simple_activations(context: JobContext, places: Mapping[str, Sequence[Any]]) -> dict[str, SimpleActivations]:
    """Return what the jobs that this one needs have measured.

    Args:
        context: holds what they found.
        places: goal's key -> [name of the job, column in its array].
    """
    tried = _tried(context.subject)
    found = {}
    for key, (name, column) in places.items():
        (values,) = (finding.arrays["values"] for finding in context.found[name] if isinstance(finding, Array))
        found[key] = SimpleActivations(values[:, column], tried)
    return found
