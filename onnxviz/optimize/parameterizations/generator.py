"""An image as a generator makes it from a code: the prior is what the generator has learned.

Only images that the generator can make are found, so a digit looks like a digit. Source: Nguyen et al. 2016,
"Synthesizing the preferred inputs for neurons in neural networks via deep generator networks" (arXiv:1605.09304),
section 2: the code is optimized instead of the pixels, held by an L2 term and clipped to what codes are usually like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from onnxviz.core.errors import AnalysisError, nearest, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.optimize.generators import GeneratorNetwork
from onnxviz.optimize.parameterizations.base import Canvas, Painter, Parameterization
from onnxviz.optimize.parameterizations.planes import grey

_DRAWS = 64
"""How many codes the range of an unbounded generator is measured on."""
_OUTLIERS = 0.005
"""Share of numbers at either end that is not counted as range."""


class Generator(Parameterization):
    """The code of a generator is the parameter."""

    may_have_margin: ClassVar[bool] = False
    kind: Literal["generator"] = "generator"
    photographic: ClassVar[bool] = True
    model: str = Field(description="Name of the recipe's generator, an ONNX file that makes images from codes.")
    latent: Literal["normal", "uniform"] = Field(
        "normal", description="How codes were distributed in training: standard normal, or evenly within bounds."
    )
    minimum: float | tuple[float, ...] = Field(
        -1.0, description="Least numbers of a uniform code: one for all, or one for each."
    )
    maximum: float | tuple[float, ...] = Field(
        1.0, description="Largest numbers of a uniform code: one for all, or one for each; equal to the least: fixed."
    )
    fixed: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="Inputs that are no code, such as a class: their numbers, which stay."
    )
    range: Literal["auto", "unit", "signed"] | tuple[float, float] = Field(
        "auto",
        description=(
            "The generator's black and white: `unit` 0 and 1, `signed` -1 and 1, or two numbers. `auto` takes them "
            "from its last operators; if these bound nothing, from the images of 64 random codes."
        ),
    )
    held: Literal["length", "density"] = Field(
        "length",
        description=(
            "What makes a normal code unlikely: a `length` that random codes do not have, or little `density`, which "
            "holds it near the mean of all codes."
        ),
    )
    weight: float = Field(
        0.5, ge=0, description="How much a normal code's being unlikely counts against the activation."
    )
    clip: float | None = Field(
        2.5, gt=0, description="No number of a normal code leaves ± so many standard deviations; none is cut if null."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if isinstance(self.range, tuple) and not self.range[0] < self.range[1]:
            raise ValueError("the range's first number has to be the smaller")
        return self

    def painter(self, canvas: Canvas) -> GeneratorPainter:
        """Return what makes images of codes.

        Raises:
            AnalysisError: if there is no such generator, or its inputs and the fields do not go together.
        """
        network = canvas.generators.get(self.model)
        if network is None:
            raise AnalysisError(
                f"there is no generator {shorten(self.model)!r}",
                remedy=nearest(self.model, canvas.generators) or "name a generator of the recipe",
            )
        return GeneratorPainter(self, canvas, network)


class GeneratorPainter(Painter):
    """Images of codes: the generator's, brought to 0..1 and bilinearly to the canvas' size.

    Parameters are [N, elements], the numbers of all inputs but the fixed ones. A normal code is the parameter itself; a
    uniform one is middle + half the width · parameter, so that both are of the order of 1.
    """

    def __init__(self, form: Generator, canvas: Canvas, network: GeneratorNetwork) -> None:
        self.form, self.canvas, self.network = form, canvas, network
        fixed, free = _fixed(form, network)
        low, high = _box(form, network, len(free))
        self._middle = torch.tensor([(a + b) / 2 for a, b in zip(low, high, strict=True)], device=canvas.device)
        self._half = torch.tensor([(b - a) / 2 for a, b in zip(low, high, strict=True)], device=canvas.device)
        # Whole codes are a row of fixed numbers, with the free ones put in their places.
        self._fixed = torch.tensor(fixed, device=canvas.device)
        self._free = torch.tensor(free, device=canvas.device)
        self._rows = _resampling(network.size[0], canvas.size[0]).to(canvas.device)
        self._columns = _resampling(network.size[1], canvas.size[1]).to(canvas.device).T
        self._black, self._white = self._range()

    def start(self, draws: Sequence[torch.Generator], pictures: torch.Tensor | None) -> torch.Tensor:
        """Draw the codes as they were distributed in training; what code makes a given picture is not known."""
        if pictures is not None:
            raise AnalysisError(
                f"the generator {shorten(self.form.model)!r} cannot start from a picture: its code is not known",
                remedy="start from noise and without octaves, or choose another parameterization",
            )
        count = len(self._middle)
        if self.form.latent == "normal":
            drawn = torch.stack([torch.randn(count, generator=generator) for generator in draws])
        else:
            drawn = torch.stack([torch.rand(count, generator=generator) for generator in draws]) * 2.0 - 1.0
        return drawn.to(self.canvas.device)

    def paint(self, parameters: torch.Tensor) -> torch.Tensor:
        made = self.network(self._codes(parameters))
        images = ((made - self._black) / (self._white - self._black)).clamp(0.0, 1.0)
        if self.canvas.channels == 1 and images.shape[1] == 3:
            images = grey(images)
        if self.network.size != self.canvas.size:
            images = self._rows @ images @ self._columns
        return images.expand(-1, 3, -1, -1)

    def penalty(self, parameters: torch.Tensor) -> torch.Tensor | None:
        """Return [N], weight · (mean z² - 1)² or weight · mean z² / 2.

        The second is the negative logarithm of the density for each number of the code, the L2 term of Nguyen et al.
        2016, equation 2. Its least is the mean of all codes, whose image is a blur of all images. Random codes are not
        there: nearly all of many numbers have a mean square near 1, which is what the first holds them to.
        """
        square = parameters.square().mean(dim=1)
        if self.form.latent == "uniform" or not self.form.weight:
            return None
        return self.form.weight * (square / 2.0 if self.form.held == "density" else (square - 1.0).square())

    def keep(self, parameters: torch.Tensor) -> torch.Tensor:
        if self.form.latent == "uniform":
            return parameters.clamp(-1.0, 1.0)
        return parameters if self.form.clip is None else parameters.clamp(-self.form.clip, self.form.clip)

    def _codes(self, parameters: torch.Tensor) -> torch.Tensor:
        codes = self._fixed.expand(len(parameters), -1)
        return codes.index_copy(1, self._free, self._middle + self._half * parameters)

    def _range(self) -> tuple[float, float]:
        if isinstance(self.form.range, tuple):
            return self.form.range
        known = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0), "auto": self.network.bounds}[self.form.range]
        return self._measured_range() if known is None else known

    def _measured_range(self) -> tuple[float, float]:
        """Return between which numbers nearly all pixels of the images of random codes lie."""
        drawn = self.start([torch.Generator().manual_seed(seed) for seed in range(_DRAWS)], None)
        with torch.no_grad():
            pixels = self.network(self._codes(drawn)).flatten().sort().values
        ends = int(_OUTLIERS * len(pixels))
        low, high = pixels[[ends, len(pixels) - 1 - ends]].tolist()
        if not low < high:
            raise AnalysisError(
                f"the generator {shorten(self.form.model)!r} makes the same grey of all codes",
                where=self.network.file,
                remedy="give the `range` and the distribution of its codes",
            )
        return low, high


def _resampling(before: int, after: int) -> torch.Tensor:
    """Return the matrix [after, before] that resamples a line bilinearly, smoothed first where it gets shorter.

    Products with it give the same bits every time, which the gradient of PyTorch's own resampling does not on a GPU.
    """
    lines = torch.eye(before)[None, None]
    size = (after, before)
    return torch.nn.functional.interpolate(lines, size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0]


def _fixed(form: Generator, network: GeneratorNetwork) -> tuple[list[float], list[int]]:
    """Return a code with the fixed numbers in their places, and the places of the free ones."""
    unknown = sorted(set(form.fixed) - {entry.name for entry in network.inputs})
    if unknown:
        inputs = "its inputs are " + ", ".join(shorten(entry.name) for entry in network.inputs)
        raise AnalysisError(f"the generator has no input {shorten(unknown[0])!r}", where=network.file, remedy=inputs)
    numbers: list[float] = []
    free: list[int] = []
    for entry in network.inputs:
        given, name = form.fixed.get(entry.name), shorten(entry.name)
        if given is not None and len(given) != entry.elements:
            what = f"the generator's input {name!r} takes {entry.elements} numbers, not {len(given)}"
            raise AnalysisError(what, where=network.file, remedy="give as many in `fixed`")
        if given is None and entry.whole:
            what = f"the generator's input {name!r} takes whole numbers, which have no gradient"
            raise AnalysisError(what, where=network.file, remedy="give them in `fixed`")
        if given is None:
            free.extend(range(len(numbers), len(numbers) + entry.elements))
        numbers.extend(given or (0.0,) * entry.elements)
    if not free:
        raise AnalysisError(
            "all inputs of the generator are fixed", where=network.file, remedy="leave the code out of `fixed`"
        )
    return numbers, free


def _box(form: Generator, network: GeneratorNetwork, count: int) -> tuple[list[float], list[float]]:
    """Return the least and largest of each free number; -1 and 1, which change nothing, of a normal code."""
    if form.latent == "normal":
        return [-1.0] * count, [1.0] * count
    ends = []
    for name, given in (("minimum", form.minimum), ("maximum", form.maximum)):
        numbers = list(given) if isinstance(given, tuple) else [given] * count
        if len(numbers) != count:
            raise AnalysisError(
                f"`{name}` has {len(numbers)} numbers, the generator's code has {count}",
                where=network.file,
                remedy="give one for all, or one for each",
            )
        ends.append(numbers)
    if any(low > high for low, high in zip(*ends, strict=True)):
        raise AnalysisError("a `minimum` of the code is larger than its `maximum`", where=network.file)
    return ends[0], ends[1]
