"""The images of XAI-TRIS, from seeds: tetrominoes in noise or in photographs, with the pixels that tell the classes.

Clark, Wilming and Haufe 2023, arXiv:2306.12816, section 3; numbers that the paper leaves open are those of its
repository (braindatalab/xai-tris: data/data_config.json and data/data_config_8by8.json).

With a the tetromino of a sample (1 where it is), b its background, N the number of samples, and both divided by the
Frobenius norm of all samples together, a sample is

* LIN, RIGID, XOR: alpha a + (1 - alpha) b
* MULT: (1 - alpha a) b, whose first factor is what is divided

and all samples are divided by the largest absolute value among them. LIN and MULT have a T at one place in class 0 and
an L at another in class 1; RIGID has them anywhere, turned by multiples of 90 degrees; XOR has both at their places,
with the same sign in class 0 and different ones in class 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from onnxviz.core.values import LUMA

Scenario = Literal["LIN", "MULT", "RIGID", "XOR"]
Background = Literal["WHITE", "CORR", "PHOTO"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
SIDES = (8, 64)
PARTS = (0.8, 0.1, 0.1)
"""Shares of the samples that networks learn from, that say when it is enough, and that they are tried on."""

_ALPHAS: dict[int, dict[Scenario, tuple[float, ...]]] = {
    8: {"LIN": (0.18, 0.0125), "MULT": (0.7, 0.1), "RIGID": (0.65, 0.2), "XOR": (0.35, 0.15)},
    64: {
        "LIN": (0.03, 0.02, 0.06),
        "MULT": (0.65, 0.05, 0.2),
        "RIGID": (0.575, 0.375, 0.03),
        "XOR": (0.075, 0.03, 0.13),
    },
}
"""By side and scenario alpha for WHITE, CORR and photographs; those of 8 pixels have none of these."""
_SHAPES = (np.array([[1, 0], [1, 1], [1, 0]]), np.array([[1, 0], [1, 0], [1, 1]]))
_PLACES = ((1, 1), (4, 5))
"""Upper left corners of T and L, of 8 rows and columns."""
_SIGNS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Of T and L in the four groups of XOR: the first two are class 0."""
_DEVIATION = 0.5
_SMOOTHED = {8: 3.0, 64: 10.0}
_SOFTENED, _VISIBLE = 1.5, 0.05
"""Standard deviation by which tetrominoes of 64 pixels are blurred, and from where on a pixel belongs to one."""
_LARGEST = 128

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """A scenario, what is behind its tetrominoes, and how many pixels each side has."""

    scenario: Scenario
    background: Background
    side: int = 8

    @property
    def alpha(self) -> float:
        """The weight of the tetromino, between 0 and 1."""
        return _ALPHAS[self.side][self.scenario][BACKGROUNDS.index(self.background)]

    @property
    def name(self) -> str:
        """What it is called in tables and files."""
        return f"{self.scenario} {self.background} {self.side}"

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def settings(side: int, scenarios: tuple[Scenario, ...], backgrounds: tuple[Background, ...]) -> list[Setting]:
    """Return those there are."""
    found = [Setting(scenario, background, side) for background in backgrounds for scenario in scenarios]
    return [one for one in found if one.side > 8 or one.background != "PHOTO"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a setting.

    Attributes:
        images: float32 [N, side, side] in -1..1.
        classes: int64 [N], 0 or 1.
        truth: bool [N, side, side], the pixels that tell the classes. Where both places are known beforehand it is both
            of them in every sample: that a place is empty tells as much as what is there.
    """

    images: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    truth: Masks

    def of(self, places: npt.NDArray[np.intp]) -> Samples:
        """Return some of them."""
        return Samples(self.images[places], self.classes[places], self.truth[places])


def parts(classes: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return which of `PARTS` each sample belongs to, [N]: of each class the same shares."""
    found = np.zeros(len(classes), np.int64)
    for number in np.unique(classes):
        places = generator.permutation(np.flatnonzero(classes == number))
        ends = np.rint(np.cumsum(PARTS) * len(places)).astype(int)[:-1]
        for part, group in enumerate(np.split(places, ends)):
            found[group] = part
    return found


def draw(setting: Setting, count: int, seed: int, photographs: list[Path] | None = None) -> tuple[Samples, ...]:
    """Draw samples of a setting.

    Args:
        setting: what they show.
        count: how many, a multiple of 40.
        seed: of the random numbers.
        photographs: files of the backgrounds of PHOTO; each is behind samples of one part only.

    Returns:
        Those to learn from, those that say when it is enough, those to try on.
    """
    generator = np.random.default_rng([seed, setting.side, SCENARIOS.index(setting.scenario)])
    signs, classes = tetrominoes(setting, count, generator)
    part = parts(classes, generator)
    if setting.background == "PHOTO":
        backgrounds = _photographs(part, photographs or [], generator, setting.side)
    else:
        backgrounds = noise(setting, count, generator)
    samples = Samples(mixed(setting, signs, backgrounds).astype(np.float32), classes, truth_of(setting, signs))
    # Samples come class by class, and the first ones of a part are to be of both.
    return tuple(samples.of(generator.permutation(np.flatnonzero(part == number))) for number in range(len(PARTS)))


def tetrominoes(setting: Setting, count: int, generator: np.random.Generator) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the tetrominoes of samples, [N, side, side] with 1, or -1 by the sign, and the classes [N]."""
    side, scale = setting.side, setting.side // 8
    classes = np.arange(count) * 2 // count
    if setting.scenario == "RIGID":
        shapes = [np.kron(shape, np.ones(2 * (max(scale // 2, 1),))) for shape in _SHAPES]
        signs = np.zeros((count, side, side))
        for canvas, number in zip(signs, classes, strict=True):
            turned = np.rot90(shapes[number], generator.integers(4))
            top, left = (generator.integers(side - length + 1) for length in turned.shape)
            canvas[top : top + turned.shape[0], left : left + turned.shape[1]] = turned
    else:
        fixed = np.zeros((2, side, side))
        for canvas, shape, place in zip(fixed, _SHAPES, _PLACES, strict=True):
            enlarged, (top, left) = np.kron(shape, np.ones((scale, scale))), (scale * each for each in place)
            canvas[top : top + enlarged.shape[0], left : left + enlarged.shape[1]] = enlarged
        if setting.scenario == "XOR":
            groups = np.arange(count) * 4 // count
            signs = np.tensordot(np.array(_SIGNS, np.float64)[groups], fixed, 1)
        else:
            signs = fixed[classes]
    return (blurred(signs, _SOFTENED) if scale > 1 else signs), classes


def truth_of(setting: Setting, signs: Floats) -> Masks:
    """Return the pixels that tell the classes, [N, side, side]."""
    shown = np.abs(signs) >= _VISIBLE
    if setting.scenario == "RIGID":
        return shown
    return np.broadcast_to(shown.any(axis=0), shown.shape)


def noise(setting: Setting, count: int, generator: np.random.Generator) -> Floats:
    """Return normal noise, for CORR smoothed, [N, side, side]."""
    values = generator.normal(0, _DEVIATION, (count, setting.side, setting.side))
    return blurred(values, _SMOOTHED[setting.side]) if setting.background == "CORR" else values


def smoothing(side: int, deviation: float) -> Floats:
    """Return the matrix that smooths a row of pixels by a Gaussian, [side, side].

    The kernel ends after four standard deviations, borders are mirrored with the last pixel repeated, as by SciPy's
    `gaussian_filter`. White noise of variance v that is smoothed in both directions by it has the covariance
    v (G Gᵀ)[row, row'] (G Gᵀ)[column, column'].
    """
    reach = int(4 * deviation + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-((offsets / deviation) ** 2) / 2)
    kernel /= kernel.sum()
    matrix = np.zeros((side, side))
    for row in range(side):
        places = (row + offsets) % (2 * side)
        np.add.at(matrix[row], np.minimum(places, 2 * side - 1 - places), kernel)
    return matrix


def blurred(values: Floats, deviation: float) -> Floats:
    """Return images [N, side, side] smoothed in both directions."""
    matrix = smoothing(values.shape[1], deviation)
    return np.asarray(matrix @ values @ matrix.T)


def mixed(setting: Setting, signs: Floats, backgrounds: Floats) -> Floats:
    """Return samples of tetrominoes and backgrounds, [N, side, side], of which the largest absolute value is 1."""
    backgrounds = backgrounds / np.linalg.norm(backgrounds)
    if setting.scenario == "MULT":
        factors = 1 - setting.alpha * signs
        samples = factors / np.linalg.norm(factors) * backgrounds
    else:
        samples = setting.alpha * signs / np.linalg.norm(signs) + (1 - setting.alpha) * backgrounds
    return np.asarray(samples / np.abs(samples).max())


def _photographs(part: npt.NDArray[np.int64], files: list[Path], generator: np.random.Generator, side: int) -> Floats:
    """Return grey pieces of photographs without their means, [N, side, side]; no two parts share a photograph.

    The paper has a photograph for each sample. Here there are fewer: each piece is cut out at random of one that is
    shrunk by a random factor, and mirrored or not.
    """
    if len(files) < 10 * len(PARTS):
        raise SystemExit(f"{len(files)} photographs are too few for backgrounds: give a folder with more by --zoo")
    order = generator.permutation(len(files))
    groups = np.split(order, np.rint(np.cumsum(PARTS) * len(files)).astype(int)[:-1])
    greys = [_grey(Image.open(file), _LARGEST) for file in files]
    found = np.empty((len(part), side, side))
    for canvas, number in zip(found, part, strict=True):
        grey = greys[generator.choice(groups[number])]
        shorter = int(generator.integers(side, _LARGEST + 1))
        size = [max(side, round(length * shorter / _LARGEST)) for length in grey.size]
        resized = np.asarray(grey.resize((size[0], size[1]), Image.Resampling.BILINEAR), np.float64)
        top, left = (generator.integers(length - side + 1) for length in resized.shape)
        piece = resized[top : top + side, left : left + side]
        canvas[:] = piece[:, :: 1 if generator.integers(2) else -1] - piece.mean()
    return found


def _grey(photograph: Image.Image, shorter: int) -> Image.Image:
    """Return a photograph in grey, whose shorter side has so many pixels."""
    factor = shorter / min(photograph.size)
    size = [max(shorter, round(length * factor)) for length in photograph.size]
    colours = photograph.convert("RGB").resize((size[0], size[1]), Image.Resampling.BILINEAR)
    return Image.fromarray((np.asarray(colours, np.float32) @ np.array(LUMA, np.float32)).astype(np.float32))
