"""Images with the class of each pixel, to learn from and to judge by, for `attribution_pointing`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.measure import IMAGENET

SIDE = 224
"""Pixels on each side of an image for a classifier."""
LEAST = 0.01
"""The share of such an image from which a class counts as being in it."""
OBJECTS = ("pole", "sign_symbol", "fence", "car", "pedestrian", "bicyclist")
"""The classes of CamVid that are no part of the scenery."""
_CROPS, _HELD_OUT_CROPS = 12, 6
_GAP = 2
"""Frames between what is learned from and what is judged by: four seconds."""
_BLOCK = 8
"""Frames in a row that are validated with together: sixteen seconds."""


@dataclass(frozen=True, eq=False)
class Example:
    """An image and what is where in it.

    Attributes:
        image: RGB in 0..1, float32 [3, h, w].
        labels: the class of each pixel, [h, w]; numbers without a name are of no class.
        group: the frame or photograph that it is of.
        block: examples of a block are learned from, or validated with, together.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
    group: int
    block: int

    def shares(self, classes: int) -> npt.NDArray[np.float64]:
        """Return which share of the image each class covers."""
        return np.bincount(self.labels.ravel(), minlength=256)[:classes] / self.labels.size


@dataclass(frozen=True, eq=False)
class Split:
    """Images of a data set.

    Attributes:
        classes: names; the number of a class is its place.
        learned: to learn from.
        held_out: to judge by.
        asked: which of `held_out` the pointing game is on.
        least: the share of an image from which a class counts as being in it.
    """

    classes: tuple[str, ...]
    learned: list[Example]
    held_out: list[Example]
    asked: list[int]
    least: float = LEAST


def camvid_crops(zoo: Path, count: int) -> Split:
    """Cut crops out of CamVid's frames: the first half of each film to learn from, the second to judge by.

    A crop is a square of 160 to 320 of 360 x 480 pixels anywhere; the first one of held-out frames is asked about.
    """
    classes, films = _camvid(zoo)
    parts: tuple[list[Example], list[Example]] = [], []
    group = 0
    for files in films:
        for place, file in enumerate(files):
            group += 1
            held_out = place >= len(files) // 2
            if held_out and place < len(files) // 2 + _GAP:
                continue
            rng = np.random.default_rng([0, group])
            picture, labels = _opened(file)
            for _ in range(_HELD_OUT_CROPS if held_out else _CROPS):
                side = int(rng.integers(160, 321))
                left, top = int(rng.integers(0, 481 - side)), int(rng.integers(0, 361 - side))
                box = (left, top, left + side, top + side)
                parts[held_out].append(_cut(picture, labels, box, group, group // _BLOCK))
    return Split(classes, *parts, _some(range(0, len(parts[1]), _HELD_OUT_CROPS), count))


def camvid_frames(zoo: Path, count: int) -> Split:
    """Return whole frames of CamVid to judge by; a class is in one if it covers a thousandth of it."""
    classes, films = _camvid(zoo)
    files = [file for film in films for file in film]
    frames = []
    for group in _some(range(len(files)), count):
        picture, labels = _opened(files[group])
        image = np.asarray(picture, np.float32).transpose(2, 0, 1) / 255
        frames.append(Example(np.ascontiguousarray(image), np.asarray(labels), group, group))
    return Split(classes, [], frames, list(range(len(frames))), 0.001)


def _camvid(zoo: Path) -> tuple[tuple[str, ...], list[list[Path]]]:
    """Return the classes but the last, which is void, and the frames of each film in time."""
    folder = zoo / "data" / "camvid"
    films: dict[str, list[Path]] = {}
    for file in sorted((folder / "images").iterdir()):
        films.setdefault(file.name.split("_")[0], []).append(file)
    return tuple((folder / "classes.txt").read_text().split())[:-1], list(films.values())


def _opened(frame: Path) -> tuple[Image.Image, Image.Image]:
    return Image.open(frame).convert("RGB"), Image.open(frame.parent.parent / "labels" / f"{frame.stem}.png")


def photographs(zoo: Path, count: int) -> Split:
    """Let a segmenter say what is where in photographs: every other one to learn from, whole and in crops."""
    import onnxruntime

    names = (zoo / "zoo" / "labels" / "ade20k_31.txt").read_text().split()[1:]  # the first is none: other
    session = onnxruntime.InferenceSession(zoo / "zoo" / "onnx" / "deeplabv3_mnv2_ade20k_uint8.onnx")
    parts: tuple[list[Example], list[Example]] = [], []
    for group, file in enumerate(sorted((zoo / "data").glob(IMAGENET))):
        picture, held_out = Image.open(file).convert("RGB"), group % 2 == 1
        width, height = picture.size
        stretched = np.asarray(picture.resize((512, 512), Image.Resampling.BILINEAR))
        (found,) = session.run(None, {session.get_inputs()[0].name: stretched[None]})
        numbers = np.where(found[0] > 0, found[0] - 1, 255).astype(np.uint8)
        labels = Image.fromarray(numbers).resize(picture.size, Image.Resampling.NEAREST)
        parts[held_out].append(_cut(picture, labels, (0, 0, width, height), group, group))
        rng = np.random.default_rng([0, group])
        for _ in range(0 if held_out else 7):
            across, down = (int(rng.uniform(0.4, 0.9) * side) for side in (width, height))
            left, top = int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1))
            parts[0].append(_cut(picture, labels, (left, top, left + across, top + down), group, group))
    return Split(tuple(names), *parts, _some(range(len(parts[1])), count))


def _cut(picture: Image.Image, labels: Image.Image, box: tuple[int, int, int, int], group: int, block: int) -> Example:
    """Return a part of a picture, stretched to a square."""
    small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
    numbers = labels.resize((SIDE, SIDE), Image.Resampling.NEAREST, box=box)
    image = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
    return Example(np.ascontiguousarray(image), np.asarray(numbers), group, block)


def _some(places: Sequence[int], count: int) -> list[int]:
    """Return so many of some places, drawn without regard to what is there; all if there are fewer."""
    return [places[number] for number in np.random.default_rng(0).permutation(len(places))[:count]]
