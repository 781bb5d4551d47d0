"""The choices of the loop, each independent of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.optimize import transforms as views
from onnxviz.optimize.edits import Edit
from onnxviz.optimize.generators import GeneratorNetwork
from onnxviz.optimize.optimizers import Adam, Optimizer
from onnxviz.optimize.parameterizations import Fourier, ParameterizationChoice
from onnxviz.optimize.regularizers import FeatureStatistics, Regularizer, TotalVariation
from onnxviz.optimize.stopping import EarlyStopping

DEFAULT_TRANSFORMS = (
    views.Jitter(share=0.05),
    views.Scale(minimum=0.9, maximum=1.1),
    views.Rotate(degrees=10.0),
)
"""There is no margin: beyond the border views see the picture's mirror image."""
CLASS_TRANSFORMS = (
    views.Jitter(share=0.15),
    views.Scale(minimum=0.6, maximum=1.3),
    views.Rotate(degrees=25.0),
    views.Admix(minimum=0.0, maximum=0.3),
)
"""Much wider, and with scenes that shine through: class pictures made so are recognised by other networks too, which
those of narrow views often are not (benchmarks/RESULTS.md). A unit within the network often is about one direction or
size, and wide views hide it."""
CLASS_REGULARIZERS: tuple[Regularizer, ...] = (TotalVariation(weight=0.5), FeatureStatistics(weight=0.3))
"""Total variation takes out speckle that the network answers to and nobody sees; much more of it makes shapes disappear
as well. Features held to what scenes excite have to agree on a class, where else a few of them do; only maps of them
need it (benchmarks/RESULTS.md). Other units have neither: speckle may be what they look for, and what excites them
little would be held back."""
DEFAULT_OPTIMIZER = Adam(learning_rate=0.05, schedule="linear")
"""Steps that fall to 0 let a picture settle."""
CLASS_OPTIMIZER = Adam(learning_rate=0.05, average=0.5)
"""Wide views pull a picture to and fro, and what they agree on is in the mean. So steps may be larger than ones that
fall to 0, and get further: more contrast, and more of what other networks know the class by (benchmarks/RESULTS.md)."""
CLASS_FOCUS = 2.0
"""How much a class is to stand out among the others; a unit of another layer is excited whatever its neighbours do."""
CLASS_BLUR = 1.0
"""Pixels of the Gaussian that class pictures are written with: detail finer than photographs of this size have is what
one network answers to and another does not (benchmarks/RESULTS.md). Blurred views do the opposite of it: the picture
makes up for them. Units of other layers may look for fine detail."""
UNIT_MEAN_COLOR = 8.0
"""So the mean colour of other units' pictures gets to where a sigmoid is saturated, whatever the hue. It is for
those that a plain colour excites more than any grating: others would get a cast (benchmarks/RESULTS.md)."""
_SIDE = 224
"""From this side on, class pictures are blurred by all of `CLASS_BLUR`; a pixel of smaller ones shows more of the
scene."""


@dataclass(frozen=True)
class Usual:
    """What suits targets of one kind, if nobody says anything else; `blur` and `mean_color` are those of `Fourier`."""

    transforms: tuple[views.Transform, ...]
    regularizers: tuple[Regularizer, ...]
    optimizer: Optimizer
    blur: float
    mean_color: float

    def written(self, form: ParameterizationChoice) -> ParameterizationChoice:
        """Return a parameterization with what suits the targets, where it has the choice."""
        if form.kind != "fourier":
            return form
        return form.model_copy(update={"blur": self.blur, "mean_color": self.mean_color})


_STEPS = 256
_LARGEST_RATE = 0.12


def usual(size: tuple[int, int], steps: int, *, classes: bool, photographic: bool = True) -> Usual:
    """Return what suits the pictures of classes, or of other units, of a size in pixels.

    Fewer than 256 steps are larger, so that a picture gets as far as with 256, down to 64 of them for classes. If they
    are no photographs to the model, no scenes are mixed in, and features are not held to what scenes excite.
    """
    optimizer = CLASS_OPTIMIZER if classes else DEFAULT_OPTIMIZER
    rate = min(_LARGEST_RATE, optimizer.learning_rate * max(1.0, _STEPS / steps))
    optimizer = optimizer.model_copy(update={"learning_rate": rate})
    if classes:
        transforms = tuple(entry for entry in CLASS_TRANSFORMS if photographic or not entry.photographic)
        held = tuple(entry for entry in CLASS_REGULARIZERS if photographic or not isinstance(entry, FeatureStatistics))
        return Usual(transforms, held, optimizer, min(CLASS_BLUR, min(size) / _SIDE), 0.0)
    return Usual(DEFAULT_TRANSFORMS, (), optimizer, 0.0, UNIT_MEAN_COLOR)


Precision = Literal["float32", "bfloat16"]


class Octaves(BaseModel):
    """From small to large: the picture is made at a fraction of its size first, enlarged, and worked on again.

    Source: Mordvintsev, Olah and Tyka 2015 (DeepDream).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(3, ge=1, le=10, description="Number of sizes; each gets its share of the steps.")
    scale: float = Field(1.4, gt=1, le=4, description="Each size is so many times the one before.")


@dataclass(frozen=True)
class AscentSettings:
    """The choices of the loop.

    Attributes:
        steps: number of steps, over all octaves.
        size: height and width of the images in pixels.
        channels: planes of the images, see `parameterizations.Canvas`.
        group: how many images are made together for one target.
        begin: what the start image is where none is given.
        transforms: the random views, applied first to last.
        fill: what lies beyond the image's border.
        stopping: when to stop before the last step; never if None.
        octaves: sizes from small to large; one size if None.
        redirect: for how many steps gradients pass ReLUs that would stop them all; as many again for silent units.
        precision: in what the network computes; bfloat16 halves the time on a GPU.
        importance: whether to add up how much the objective cares about each pixel.
        colors: float32 [3, 3], the colours' matrix as measured; the published one if None.
        magnitude: float32 [3, h, w // 2 + 1], the spectrum's magnitudes as measured; a power law if None.
        generators: name -> generator, for learned priors.
        samples: channels of the images: 3 of photographs.
    """

    steps: int
    size: tuple[int, int]
    channels: int = 3
    group: int = 1
    parameterization: ParameterizationChoice = field(default_factory=Fourier)
    begin: Literal["noise", "grey"] = "noise"
    transforms: tuple[views.Transform, ...] = DEFAULT_TRANSFORMS
    fill: views.Fill = "reflect"
    regularizers: tuple[Regularizer, ...] = ()
    edits: tuple[Edit, ...] = ()
    optimizer: Optimizer = DEFAULT_OPTIMIZER
    stopping: EarlyStopping | None = None
    octaves: Octaves | None = None
    redirect: int = 16
    precision: Precision = "float32"
    importance: bool = False
    colors: np.ndarray | None = None
    magnitude: np.ndarray | None = None
    generators: Mapping[str, GeneratorNetwork] = field(default_factory=dict)
    samples: int = 3
