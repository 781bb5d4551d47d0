"""How far two computations of one layer are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-3
"""Largest difference, relative to the layer's largest value, between two float32 computations of one layer."""
HALF_TOLERANCE = 3e-2
"""The same where the file computes in half precision: its own rounding, 2^-11 an operation, lies in the difference."""
KEPT = 0.999
"""Part of the values that counts behind a quantisation. Where float32 sums in another order fall to the other side of a
half, a value moves by a whole step. Such flips are rare, but the layers behind make more of them, until two right
computations have little in common. So each layer is computed from ONNX Runtime's own quantised values."""
_TINY = 1e-12
"""A layer whose largest value is below this is silent: its difference is judged as it is, not relative to nothing."""


@dataclass
class Difference:
    """Largest difference and largest reference value so far; NaN once either side has one that the other has not."""

    absolute: float = 0.0
    largest: float = 0.0
    part: float = 1.0
    """Which part of the values `relative` is the largest difference of."""
    counted: float = 0.0
    at: int = 0
    """The image at which they differed most, as told to `add`."""

    def add(self, ours: np.ndarray, theirs: np.ndarray, image: int = 0) -> None:
        """Compare some values with those of a reference."""
        before = self.absolute
        if ours.shape != theirs.shape:
            self.absolute = float("nan")
            self.at = image
            return
        ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
        with np.errstate(invalid="ignore"):
            # Equal infinities, and NaN in the same place, are agreement; an infinity on one side only is none.
            same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
            difference = np.where(same, 0.0, np.abs(ours - theirs))
        finite = np.abs(theirs[np.isfinite(theirs)])
        # np.maximum keeps a NaN, Python's max may lose it.
        self.absolute = float(np.maximum(self.absolute, difference.max(initial=0.0)))
        self.largest = max(self.largest, float(finite.max(initial=0.0)))
        if self.part < 1 and difference.size:
            index = int(self.part * (difference.size - 1))
            self.counted = float(np.maximum(self.counted, np.partition(difference, index, axis=None)[index]))
        if not self.absolute <= before:
            self.at = image

    @property
    def relative(self) -> float:
        """The largest difference that counts, by the largest value of the reference."""
        difference = self.absolute if self.part == 1 or np.isnan(self.absolute) else self.counted
        return difference / self.largest if self.largest > _TINY else difference


def difference(ours: np.ndarray, theirs: np.ndarray, part: float = 1.0) -> Difference:
    """Compare two arrays, of which `part` of the values counts, those of the largest differences left out."""
    found = Difference(part=part)
    found.add(ours, theirs)
    return found
