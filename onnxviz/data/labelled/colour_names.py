"""The eleven basic colour names of pixels (Berlin and Kay 1969).

People's own names for colours decide: in 222,500 sessions of a survey people named colours on their screens, and the
most common names have the colour that they were given to (Munroe 2010, xkcd.com/color/rgb, CC0). Those whose last word
is a basic term ("dark green", "sky blue"), and which hold no other one ("blue green"), are prototypes of that term; but
not what lies within 10 of white or black in CIELAB and is called otherwise ("pale grey", "very light pink"). A pixel
has the name of the nearest prototype, by the Euclidean distance in CIELAB (CIE 1976, white D65, from sRGB).

Red, green and blue are looked up in 32 steps each, as in the table of van de Weijer, Schmid, Verbeek and Larlus 2009
that NetDissect has used.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources

import numpy as np
import numpy.typing as npt

from onnxviz.data.decode import Pixels

NAMES = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
CATEGORY = "colour"
STEPS = 32
"""Of each of red, green and blue."""
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""Linear sRGB to XYZ (IEC 61966-2-1)."""
_WHITE = np.array([0.95047, 1.0, 1.08883])
_AT_ONCE = 4096


class ColourNames:
    """Names the colours of pixels."""

    category = CATEGORY
    names = NAMES
    remark = (
        f"colours are computed from the pixels: each has the one of {len(NAMES)} basic names whose colours in a survey "
        "(Munroe 2010) are nearest in CIELAB"
    )

    @functools.cached_property
    def digest(self) -> str:
        """Changes with the names that colours have."""
        return hashlib.sha256(table().tobytes()).hexdigest()

    def label(self, pixels: Pixels) -> npt.NDArray[np.int32]:
        """Return for each pixel of an image [height, width, 3] the place of its name in `NAMES`, from 1."""
        red, green, blue = np.moveaxis(pixels // (256 // STEPS), 2, 0)
        found: npt.NDArray[np.int32] = table()[red, green, blue]
        return found


@functools.cache
def prototypes() -> dict[str, tuple[str, ...]]:
    """Return the colours of each name, as red, green and blue in hexadecimal digits."""
    text = resources.files(__package__).joinpath("colour_names.json").read_text("utf-8")
    return {name: tuple(colours) for name, colours in json.loads(text).items()}


@functools.cache
def table() -> npt.NDArray[np.int32]:
    """Return the name of each colour, int32 [32, 32, 32] for red, green and blue: its place in `NAMES`, from 1."""
    known = prototypes()
    colours = to_lab(np.array([list(bytes.fromhex(one)) for name in NAMES for one in known[name]]))
    names = np.array([place for place, name in enumerate(NAMES, 1) for _ in known[name]], np.int32)
    width = 256 // STEPS
    middles = np.arange(STEPS) * width + width / 2
    cells = to_lab(np.stack(np.meshgrid(middles, middles, middles, indexing="ij"), axis=3).reshape(-1, 3))
    nearest = [
        ((part[:, None] - colours) ** 2).sum(axis=2).argmin(axis=1)
        for part in np.split(cells, range(_AT_ONCE, len(cells), _AT_ONCE))
    ]
    found: npt.NDArray[np.int32] = names[np.concatenate(nearest)].reshape(STEPS, STEPS, STEPS)
    return found


def to_lab(colours: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Return CIELAB (CIE 1976) of sRGB colours [..., 3] in 0..255."""
    values = np.asarray(colours, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratios = linear @ _TO_XYZ.T / _WHITE
    bend = 6 / 29
    x, y, z = np.moveaxis(np.where(ratios > bend**3, np.cbrt(ratios), ratios / (3 * bend**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
